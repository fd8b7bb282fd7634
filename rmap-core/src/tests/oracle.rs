//! Who maps a page, by reading page tables and nothing else, and what must be true between any two operations.
//!
//! It shares no code with the engines and with `page_vma_mapped_walk`: it loads every entry of every address space.

use super::toy::{TestSystem, at};
use super::world::World;
use crate::base::types::{Pfn, VirtAddr};
use crate::engine::Engine;
use crate::mm::MmWrite;
use crate::mm::address_space::MmLocked;
use crate::page::Page;
use crate::page::pte::{PageTable, Pte};
use crate::rmap::walk::WalkEnd;
use core::ops::ControlFlow;
use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

/// A mapping: the number of the address space, and the address.
pub(super) type Place = (u64, VirtAddr);

/// All mappings of all pages.
pub(super) fn all_mappings<S: TestSystem>(world: &World<S>) -> BTreeMap<Pfn, Vec<Place>> {
    let mut found: BTreeMap<Pfn, Vec<Place>> = BTreeMap::new();
    for mm in world.mms.iter().flatten() {
        for addr in (0..mm.table().pages()).map(at) {
            if let Pte::Present { pfn, .. } = mm.table().load(addr) {
                found.entry(pfn).or_default().push((mm.id(), addr));
            }
        }
    }
    for places in found.values_mut() {
        places.sort_unstable();
    }
    found
}

/// What a walk shows of a page, sorted.
pub(super) fn walked<S: TestSystem>(world: &World<S>, page: &Page) -> (Vec<Place>, WalkEnd) {
    let mut found = Vec::new();
    let _locked = page.lock();
    let end = world.rmap.for_each_mapping(page, |vma, addr, _| {
        assert!(vma.contains(addr), "{vma:?} does not contain {addr:?}");
        found.push((vma.mm().id(), addr));
        ControlFlow::Continue(())
    });
    found.sort_unstable();
    (found, end)
}

/// Asserts, for every page, that a walk shows the oracle's mappings, each once (G1), and that they are counted; then
/// what engines promise of VMAs, and that no chain is longer than there were VMAs at once, the new one and the root
/// apart (G5).
pub(super) fn check<S: TestSystem>(world: &World<S>) {
    let mappings = all_mappings(world);
    for page in world.all_pages() {
        let truth = mappings.get(&page.pfn()).map_or(&[][..], |places| places);
        let (seen, end) = walked(world, page);
        assert_eq!(seen, truth, "walk of {page:?}");
        assert_eq!(page.mapcount() as usize, truth.len(), "mapcount of {page:?}");
        assert!(!page.is_mapped() || end == WalkEnd::Complete);
    }
    let held: Vec<MmWrite<'_, S>> = world.mms.iter().flatten().map(|mm| mm.write_nested()).collect();
    for mm in &held {
        let ends = mm.vmas().zip(mm.vmas().skip(1));
        ends.for_each(|(low, high)| assert!(low.end() <= high.start(), "{low:?} and {high:?} overlap"));
    }
    S::check(world.rmap.engine(), &held.iter().flat_map(MmLocked::vmas).collect::<Vec<_>>());
    for vma in held.iter().flat_map(MmLocked::vmas) {
        let links = world.rmap.engine().vma_footprint(vma).links;
        assert!(links <= world.peak_vmas + 2, "{links} links with at most {} VMAs (G5)", world.peak_vmas);
    }
}

/// Everything that a failed operation may not have changed: layouts, entries, counts, what walks show, what the engine
/// knows.
pub(super) fn snapshot<S: TestSystem>(world: &World<S>) -> String {
    use core::fmt::Write;
    let mut out = String::new();
    world.rmap.arena().rcu.drain();
    for mm in world.mms.iter().flatten() {
        let _ = writeln!(out, "address space {}", mm.id());
        let held: MmWrite<'_, S> = mm.write();
        for vma in held.vmas() {
            let _ = writeln!(out, "  {vma:?}");
        }
        out += &S::state(&world.rmap, &held);
        for addr in (0..mm.table().pages()).map(at) {
            let pte = mm.table().load(addr);
            if !pte.is_none() {
                let _ = writeln!(out, "  {addr:?}: {pte:?}");
            }
        }
    }
    for page in world.all_pages().filter(|page| page.refcount() != 0) {
        let _ = writeln!(out, "{page:?} {:?}", walked(world, page));
    }
    for file in world.files.iter() {
        let _ = writeln!(out, "file {} mapped by {}", file.id(), file.mappings());
    }
    let figures = (world.rmap.arena().live_vmas(), world.rmap.arena().nodes.live_bytes());
    let _ = writeln!(out, "{figures:?} {:?}", world.rmap.engine().footprint());
    out
}
