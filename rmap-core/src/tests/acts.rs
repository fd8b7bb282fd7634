//! What is done by way of the reverse map, on every engine: a page is unmapped, aged, cleaned, and what a walk's controls
//! promise while that happens.

use super::oracle::check;
use super::toy::{RW, TestSystem, at};
use super::trip::tripped_at;
use super::world::World;
use crate::base::types::{Pfn, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::mm::Vma;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags, SwapEntry};
use crate::rmap::unmap::{POISON_MARKER, TtuFlags, UnmapHooks};
use crate::rmap::walk::{WalkControl, WalkEnd};
use core::ops::ControlFlow;
use std::vec;
use std::vec::Vec;

on_every_toy!(
    young_bits_are_counted_and_taken,
    one_locked_vma_is_enough,
    ageing_waits_for_nobody,
    cleaning_is_for_shared_mappings,
    broken_memory_leaves_a_marker,
    a_pinned_page_that_may_go_lazily_stays,
    a_page_without_a_slot_stays_as_it_was,
    what_is_reserved_is_given_back,
);

/// Hooks that keep a record, and find a use of the slot or none.
struct Record {
    slot: bool,
    asked: Vec<u64>,
    replaced: Vec<(VirtAddr, Pte, Pte)>,
}

impl Record {
    fn new(slot: bool) -> Self {
        Self { slot, asked: Vec::new(), replaced: Vec::new() }
    }
}

impl<S: TestSystem> UnmapHooks<S> for Record {
    fn swap_dup(&mut self, slot: u64) -> bool {
        self.asked.push(slot);
        self.slot
    }
    fn unmapped(&mut self, _: &Vma<S>, addr: VirtAddr, old: Pte, new: Pte) {
        self.replaced.push((addr, old, new));
    }
}

/// ```text
///   page       0        4        8
///   parent     [ anon   )[ file  )     anonymous page 1, page 1 of the file at 5
///   child      [ anon   )[ file  )     the same pages
/// ```
fn family<S: TestSystem>(file_flags: VmFlags) -> (World<S>, usize) {
    let mut world = World::<S>::with_one(8, 16);
    world.new_file(4);
    world.map(0, 0, 4, RW, None).unwrap();
    world.map(0, 4, 8, file_flags, Some((0, 0))).unwrap();
    world.fault(0, 1, true).unwrap();
    world.fault(0, 5, false).unwrap();
    let child = world.fork(0).unwrap();
    world.fault(child, 5, false).unwrap();
    (world, child)
}

/// Two address spaces that map page 1 of a file at 5, with flags of their own; the second one's number, and the frame.
fn strangers<S: TestSystem>(flags: [VmFlags; 2]) -> (World<S>, usize, Pfn) {
    let mut world = World::<S>::with_one(8, 16);
    let other = world.spawn();
    world.new_file(4);
    for (mm, flags) in [0, other].into_iter().zip(flags) {
        world.map(mm, 4, 8, flags, Some((0, 0))).unwrap();
        world.fault(mm, 5, false).unwrap();
    }
    let pfn = pfn_at(&world, 0, 5);
    (world, other, pfn)
}

/// One address space with one anonymous page, at 1; its frame and its entry.
fn alone<S: TestSystem>() -> (World<S>, Pfn, Pte) {
    let mut world = World::<S>::with_one(8, 16);
    world.map(0, 0, 4, RW, None).unwrap();
    world.fault(0, 1, true).unwrap();
    let (pfn, old) = (pfn_at(&world, 0, 1), entry(&world, 0, 1));
    (world, pfn, old)
}

fn pfn_at<S: TestSystem>(world: &World<S>, mm: usize, n: u64) -> Pfn {
    world.page_at(mm, n).expect("a page").pfn()
}

fn set_entry<S: TestSystem>(world: &World<S>, mm: usize, n: u64, pte: Pte) {
    world.mm(mm).table().lock(at(n), false).expect("a table").set(at(n), pte);
}

fn entry<S: TestSystem>(world: &World<S>, mm: usize, n: u64) -> Pte {
    world.mm(mm).table().load(at(n))
}

/// Tries to unmap, with the page lock and a reference, which are given back.
fn unmap<S: TestSystem>(world: &World<S>, pfn: Pfn, flags: TtuFlags, hooks: &mut Record) -> bool {
    let page = world.page(pfn);
    page.get();
    let locked = page.lock();
    let done = world.rmap.try_to_unmap(page, flags, hooks);
    drop(locked);
    assert!(!page.put());
    done
}

fn young_bits_are_counted_and_taken<S: TestSystem>() {
    let (world, child) = family::<S>(RW);
    for n in [1, 5] {
        let pfn = pfn_at(&world, 0, n);
        for mm in [0, child] {
            set_entry(&world, mm, n, Pte::present(pfn, PteFlags::YOUNG));
        }
        let page = world.page(pfn);
        let locked = page.lock();
        let found = world.rmap.page_referenced(page);
        assert_eq!((found.young, found.vm_flags, found.contended), (2, RW, false));
        let again = world.rmap.page_referenced(page);
        assert_eq!((again.young, again.vm_flags, again.contended), (0, VmFlags::empty(), false));
        drop(locked);
        assert_eq!(entry(&world, child, n), Pte::present(pfn, PteFlags::empty()));
    }
    check(&world);
    world.end();
}

fn one_locked_vma_is_enough<S: TestSystem>() {
    let (world, other, pfn) = strangers::<S>([RW, RW | VmFlags::LOCKED]);
    set_entry(&world, other, 5, Pte::present(pfn, PteFlags::YOUNG));
    let page = world.page(pfn);
    let locked = page.lock();
    assert!(world.rmap.page_referenced(page).vm_flags.contains(VmFlags::LOCKED));
    drop(locked);
    assert_eq!(entry(&world, other, 5), Pte::present(pfn, PteFlags::YOUNG), "nobody asks how young it is");
    check(&world);
    world.end();
}

/// A file's lock is held by somebody who changes its layout. (An engine that finds entries does not take it.)
fn ageing_waits_for_nobody<S: TestSystem>() {
    let (world, _) = family::<S>(RW);
    let (rmap, page) = (&world.rmap, world.page_at(0, 5).unwrap());
    let held = world.files[0].i_mmap_write();
    std::thread::scope(|scope| {
        let look = || {
            let _locked = page.lock();
            rmap.page_referenced(page).contended
        };
        // A look that waits waits for ever.
        assert_eq!(scope.spawn(look).join().unwrap(), !rmap.engine().finds_entries());
    });
    drop(held);
    world.end();
}

fn cleaning_is_for_shared_mappings<S: TestSystem>() {
    let (world, other, pfn) = strangers::<S>([RW | VmFlags::SHARED, RW]);
    let dirty = Pte::present(pfn, PteFlags::WRITE | PteFlags::DIRTY);
    [0, other].iter().for_each(|&mm| set_entry(&world, mm, 5, dirty));
    let page = world.page(pfn);
    let locked = page.lock();
    assert_eq!((world.rmap.page_mkclean(page), world.rmap.page_mkclean(page)), (1, 0));
    drop(locked);
    assert_eq!((entry(&world, 0, 5), entry(&world, other, 5)), (Pte::present(pfn, PteFlags::empty()), dirty));
    world.end();
}

fn broken_memory_leaves_a_marker<S: TestSystem>() {
    let (mut world, child) = family::<S>(RW);
    let [anon, cached] = [1, 5].map(|n| pfn_at(&world, 0, n));
    for (n, pfn) in [(1, anon), (5, cached)] {
        let mut hooks = Record::new(true);
        // The last mapping's reference is not the last one.
        world.page(pfn).get();
        assert!(unmap(&world, pfn, TtuFlags::HWPOISON, &mut hooks));
        assert_eq!((hooks.asked.len(), hooks.replaced.len()), (0, 2), "no slot is needed");
        for mm in [0, child] {
            assert_eq!(entry(&world, mm, n), Pte::Marker(POISON_MARKER));
            set_entry(&world, mm, n, Pte::None);
        }
        check(&world);
    }
    world.put(anon);
    assert!(!world.page(cached).put(), "the page cache has it");
    world.end();
}

fn a_pinned_page_that_may_go_lazily_stays<S: TestSystem>() {
    let (mut world, pfn, old) = alone::<S>();
    let page = world.page(pfn);
    page.set(PageFlags::LAZY_FREE);
    page.get();
    assert!(page.try_pin());
    let mut hooks = Record::new(true);
    assert!(!unmap(&world, pfn, TtuFlags::empty(), &mut hooks));
    assert_eq!((entry(&world, 0, 1), hooks.replaced.len()), (old, 0));
    check(&world);
    assert!(!page.unpin());
    assert!(unmap(&world, pfn, TtuFlags::empty(), &mut hooks));
    assert_eq!((entry(&world, 0, 1), hooks.replaced), (Pte::None, vec![(at(1), old, Pte::None)]));
    page.clear(PageFlags::LAZY_FREE);
    world.put(pfn);
    check(&world);
    world.end();
}

fn a_page_without_a_slot_stays_as_it_was<S: TestSystem>() {
    let (mut world, pfn, old) = alone::<S>();
    let page = world.page(pfn);
    page.set(PageFlags::SWAP_CACHE);
    page.set_private(7);
    let mut hooks = Record::new(false);
    assert!(!unmap(&world, pfn, TtuFlags::empty(), &mut hooks));
    assert_eq!((hooks.asked, hooks.replaced), (vec![7], vec![]));
    assert_eq!(entry(&world, 0, 1), old);
    assert!(page.has(PageFlags::ANON_EXCLUSIVE));
    let mut hooks = Record::new(true);
    page.get();
    assert!(unmap(&world, pfn, TtuFlags::empty(), &mut hooks));
    assert_eq!(entry(&world, 0, 1), Pte::Swap(SwapEntry { slot: 7, exclusive: true }));
    set_entry(&world, 0, 1, Pte::None);
    page.clear(PageFlags::SWAP_CACHE);
    world.put(pfn);
    world.end();
}

fn what_is_reserved_is_given_back<S: TestSystem>() {
    let world = World::<S>::with_one(8, 16);
    let after = || {
        drop(world.rmap.reserve(1000).unwrap());
        world.heap.in_use()
    };
    let first = after();
    assert!((0..3).all(|_| after() == first));
    world.end();
}

/// Parents come first: of a page that only the parent maps, the child is not asked.
#[test]
fn unmapping_ends_with_the_last_mapping() {
    let (mut world, pfn, _) = alone::<super::toy::Anon>();
    let child = world.fork(0).unwrap();
    world.fault(child, 1, true).unwrap();
    assert_eq!(
        tripped_at("load", 1, || world.reclaim(pfn, TtuFlags::empty(), false)),
        Some(true),
        "one look is enough"
    );
    check(&world);
    world.end();
}

/// Whoever has locked the anchor already walks under that lock; a reference keeps the anchor for a lock to come.
#[test]
fn a_walk_under_an_anchor_that_is_held() {
    let (world, child) = family::<super::toy::Anon>(RW);
    let (rmap, page) = (&world.rmap, world.page_at(0, 1).unwrap());
    let held = rmap.engine().get_anon_vma(page).expect("it is mapped");
    let mut seen = Vec::new();
    let locked = page.lock();
    let anchor = held.lock();
    assert!(core::ptr::eq(anchor.anon_vma(), held.anon_vma()));
    let one = |vma: &Vma<_>, addr| {
        seen.push((vma.mm().id(), addr));
        ControlFlow::Continue(())
    };
    assert_eq!(rmap.rmap_walk_locked(page, &anchor, &mut WalkControl::new(one)), WalkEnd::Complete);
    assert!(!anchor.is_contended());
    drop((anchor, locked, held));
    assert_eq!(seen, [(world.mm(0).id(), at(1)), (world.mm(child).id(), at(1))], "parents first");
    check(&world);
    world.end();
}
