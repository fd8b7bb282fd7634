//! A compound page: mapped by one entry, split into an entry for each of its pages, shared, unmapped.

use super::oracle::check;
use super::toy::{RW, TestSystem, at};
use super::world::{FindFor, World};
use crate::base::types::{Pfn, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::mm::Vma;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags, SwapEntry};
use crate::rmap::account::Level;
use crate::rmap::unmap::{TtuFlags, UnmapHooks};
use core::ops::ControlFlow;
use std::vec::Vec;

on_every_toy!(
    a_large_mapping_is_one_until_it_is_split,
    a_walk_ends_with_each_vma,
    each_page_of_a_compound_page_has_a_slot,
);

const ORDER: u8 = 2;
const PAGES: u64 = 1 << ORDER;

/// ```text
///   page    0    4    8     16
///           [----anon-------)
///                  L            one large entry at page 4, which becomes four
/// ```
struct Large<S: TestSystem> {
    world: World<S>,
    frames: Vec<Pfn>,
    first: Pfn,
}

impl<S: TestSystem> Large<S> {
    /// Nothing maps the page yet.
    fn new() -> Self {
        let mut world = World::<S>::with_one(16, 16);
        world.map(0, 0, 8, RW, None).unwrap();
        let mut frames: Vec<Pfn> = (0..8).map(|_| world.alloc().unwrap()).collect();
        frames.sort_unstable();
        let first = frames[frames.iter().position(|pfn| pfn.0.is_multiple_of(PAGES)).unwrap()];
        world.rmap.pages().make_compound(first, ORDER).unwrap();
        Self { world, frames, first }
    }

    fn tails(&self) -> impl Iterator<Item = Pfn> {
        let first = self.first.0;
        (1..PAGES).map(move |n| Pfn(first + n))
    }

    /// Maps it by one entry; then `look`; then by an entry for each page.
    fn map_and_split(&self, look: impl FnOnce()) {
        let (world, first) = (&self.world, self.first);
        let head = world.page(first);
        let mm = world.mm(0).write();
        let vma = mm.mm_ref_find(at(4)).unwrap();
        world.rmap.engine().prepare(vma).unwrap();
        let reserved = world.rmap.reserve(1 + PAGES as usize).unwrap();
        let mut table = mm.table().lock(at(4), false).unwrap();
        world.rmap.page_add_new_anon_rmap(head, vma, at(4), Level::Entire).unwrap();
        table.set(at(4), Pte::present(first, PteFlags::WRITE | PteFlags::LARGE));
        drop(table);
        look();
        let mut table = mm.table().lock(at(4), false).unwrap();
        world.rmap.page_split_rmap(head, vma, at(4));
        for n in 0..PAGES {
            table.set(at(4 + n), Pte::present(Pfn(first.0 + n), PteFlags::WRITE));
        }
        drop((table, reserved));
    }

    /// Takes the entries away, and everything else.
    fn end(mut self) {
        let head = self.world.page(self.first);
        for n in 0..PAGES {
            let page = self.world.page(Pfn(self.first.0 + n));
            let mm = self.world.mm(0).write();
            let Pte::Present { .. } = mm.table().load(at(4 + n)) else { continue };
            let vma = mm.mm_ref_find(at(4 + n)).unwrap();
            let mut table = mm.table().lock(at(4 + n), false).unwrap();
            table.clear_flush(at(4 + n));
            let last = self.world.rmap.page_remove_rmap(page, vma, at(4 + n), Level::Single);
            drop(table);
            assert_eq!((last, head.is_mapped(), page.put()), (n == PAGES - 1, n != PAGES - 1, n == PAGES - 1));
        }
        assert_eq!(self.world.rmap.anon_mapped(), 0);
        self.world.rmap.pages().break_compound(self.first).unwrap();
        for tail in self.tails() {
            self.world.page(tail).clear(PageFlags::ANON_EXCLUSIVE);
        }
        head.set_refcount(1);
        self.frames.into_iter().for_each(|pfn| self.world.put(pfn));
        check(&self.world);
        self.world.end();
    }

    /// The pages at which a walk sees it mapped, and whether by a large entry.
    fn seen(&self) -> Vec<(u64, bool)> {
        let page = self.world.page(self.first);
        let _locked = page.lock();
        let mut seen = Vec::new();
        self.world.rmap.for_each_mapping(page, |_, addr, pte| {
            let large = matches!(pte, Pte::Present { flags, .. } if flags.contains(PteFlags::LARGE));
            seen.push((addr.vpn() - at(0).vpn(), large));
            ControlFlow::Continue(())
        });
        seen
    }
}

fn a_large_mapping_is_one_until_it_is_split<S: TestSystem>() {
    let large = Large::<S>::new();
    let rmap = &large.world.rmap;
    let head = large.world.page(large.first);
    large.tails().for_each(|tail| assert!(core::ptr::eq(large.world.page(tail).head(), head)));
    large.map_and_split(|| {
        assert_eq!((rmap.anon_large(), rmap.anon_mapped(), head.entire_mapcount()), (1, 0, 1));
        assert_eq!(large.seen(), [(4, true)]);
    });
    assert_eq!((rmap.anon_large(), rmap.anon_mapped(), head.entire_mapcount()), (0, PAGES, 0));
    assert_eq!(u64::from(head.refcount()), PAGES, "each entry has a reference");
    for n in 0..PAGES {
        let page = large.world.page(Pfn(large.first.0 + n));
        assert_eq!(page.mapcount(), 1);
        assert!(page.has(PageFlags::ANON_EXCLUSIVE), "all pages of an exclusive page are exclusive");
    }
    assert_eq!(large.seen(), [(4, false), (5, false), (6, false), (7, false)]);
    large.end();
}

/// ```text
///   page    0         6    8
///           [---------)[---)       entries of the page in both: 4, 5 in one, 6, 7 in the other
/// ```
fn a_walk_ends_with_each_vma<S: TestSystem>() {
    let mut large = Large::<S>::new();
    large.map_and_split(|| {});
    large.world.protect(0, 6, 8, RW | VmFlags::EXEC).unwrap();
    let mut seen = large.seen();
    seen.sort_unstable();
    assert_eq!(seen, [(4, false), (5, false), (6, false), (7, false)]);
    large.end();
}

/// Gives every page its slot.
struct Slots(Vec<u64>);

impl<S: TestSystem> UnmapHooks<S> for Slots {
    fn swap_dup(&mut self, slot: u64) -> bool {
        self.0.push(slot);
        true
    }
    fn unmapped(&mut self, _: &Vma<S>, _: VirtAddr, _: Pte, _: Pte) {}
}

fn each_page_of_a_compound_page_has_a_slot<S: TestSystem>() {
    const SLOT: u64 = 100;
    let large = Large::<S>::new();
    large.map_and_split(|| {});
    let head = large.world.page(large.first);
    head.set(PageFlags::SWAP_CACHE);
    head.set_private(SLOT);
    head.get();
    let mut hooks = Slots(Vec::new());
    let locked = head.lock();
    assert!(large.world.rmap.try_to_unmap(head, TtuFlags::empty(), &mut hooks));
    drop(locked);
    assert!(head.put());
    hooks.0.sort_unstable();
    assert!(hooks.0.iter().copied().eq(SLOT..SLOT + PAGES));
    let table = large.world.mm(0).table();
    for n in 0..PAGES {
        assert_eq!(table.load(at(4 + n)), Pte::Swap(SwapEntry { slot: SLOT + n, exclusive: true }));
        table.lock(at(4 + n), false).unwrap().set(at(4 + n), Pte::None);
    }
    head.clear(PageFlags::SWAP_CACHE);
    large.end();
}
