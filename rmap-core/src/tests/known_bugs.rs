//! T1 to T15: the known ways to be wrong, as far as the component can be. What needs faults or threads of programs is
//! tested in the machine.
//!
//! T1, T2 and T14 are about anchors of single processes, which [`anon_vma`](crate::engine::anon_vma) alone has: tests
//! that name no other engine are its own.

use super::oracle::{check, walked};
use super::toy::{Anon, Chained, FullScan, Objrmap, PerSpace, RW, TestSystem, at, bounds, map_new};
use super::world::{FindFor, World};
use crate::base::types::{Pfn, VirtAddr, VmFlags};
use crate::engine::anon_vma::{AnonVma, inspect};
use crate::engine::{Engine, Lookup, Wait};
use crate::mm::address_space::MmLocked;
use crate::mm::{Vma, VmaBounds};
use crate::page::Page;
use crate::page::mapping::Mapping;
use crate::page::pte::{LockedTable, PageTable, Pte};
use crate::rmap::account::Level;
use crate::rmap::unmap::{TtuFlags, UnmapHooks};
use crate::rmap::walk::{WalkControl, WalkEnd};
use core::ops::ControlFlow;
use std::vec::Vec;

on_every_toy!(
    t3_a_moved_vma_merges_with_unfaulted_neighbours,
    t5_sync_waits_for_whoever_is_unmapping,
    t6_the_anchor_that_was_locked_is_unlocked,
    t12_the_page_lock_covers_walks_and_reanchoring,
    t15_an_anonymous_index_is_the_page_number_at_creation,
);

/// Engines whose walks visit in the order of regions. A chain has an order of its own: what fork and mremap copy
/// meanwhile comes last, or changes place under the walk's eyes (`loom_chain`).
mod in_order {
    use super::*;
    macro_rules! in_order {
        ($($engine:ident $toy:ident $system:ident;)*) => {
            $(on_one_toy!($engine $toy $system
                t13_parents_are_visited_before_children
                t13_the_source_of_a_move_is_visited_before_its_target
            );)*
        };
    }
    in_order! {
        anon_vma Anon AnonVmaSystem;
        objrmap Objrmap ObjrmapSystem;
        full_scan FullScan FullScanSystem;
        per_mm PerSpace PerMmSystem;
    }
}

/// The `anon_vma` of a page.
fn anchor_of<'a>(world: &'a World<Anon>, page: &Page) -> &'a AnonVma<Anon> {
    world.rmap.engine().get_anon_vma(page).expect("mapped").anon_vma()
}

/// The `anon_vma` that new pages at page `n` get.
fn own_of(world: &World<Anon>, mm: usize, n: u64) -> *const AnonVma<Anon> {
    let mm = world.mm(mm).read();
    mm.find(at(n)).and_then(|vma| vma.engine().get()).map_or(core::ptr::null(), core::ptr::from_ref)
}

/// The numbers of the address spaces that a walk visits, in its order.
fn visited<S: TestSystem>(world: &World<S>, page: &Page) -> Vec<u64> {
    let mut order = Vec::new();
    let _locked = page.lock();
    let mut rmap_one = |vma: &Vma<S>, _: VirtAddr| {
        order.push(vma.mm().id());
        ControlFlow::Continue(())
    };
    assert_eq!(world.rmap.rmap_walk(page, &mut WalkControl::new(&mut rmap_one)), WalkEnd::Complete);
    order
}

fn family<S: TestSystem>() -> World<S> {
    let mut world = World::<S>::with_one(32, 64);
    world.map(0, 0, 8, RW, None).unwrap();
    world.fault(0, 1, true).unwrap();
    world
}

/// A page that was swapped out while shared, and faulted first by the child, is everybody's: it belongs to the oldest
/// anchor.
#[test]
fn t1_a_shared_page_that_comes_back_binds_to_the_root() {
    let mut world = family::<Anon>();
    let child = world.fork(0).unwrap();
    world.fault(child, 2, true).unwrap();
    let pfn = world.page_at(0, 1).unwrap().pfn();
    assert!(world.reclaim(pfn, TtuFlags::empty(), false));
    world.fault(child, 1, false).unwrap();
    let page = world.page_at(child, 1).unwrap();
    assert!(core::ptr::eq(anchor_of(&world, page), own_of(&world, 0, 1)));
    assert!(!core::ptr::eq(anchor_of(&world, page), own_of(&world, child, 1)));
    world.fault(0, 1, false).unwrap();
    assert_eq!(walked(&world, world.page_at(0, 1).unwrap()).0.len(), 2);
    check(&world);
    world.end();
}

/// Only the child's, so it may be the child's alone.
#[test]
fn t1_an_exclusive_page_that_comes_back_binds_to_its_owner() {
    let mut world = family::<Anon>();
    let child = world.fork(0).unwrap();
    world.fault(child, 2, true).unwrap();
    let pfn = world.page_at(child, 2).unwrap().pfn();
    assert!(world.reclaim(pfn, TtuFlags::empty(), false));
    world.fault(child, 2, false).unwrap();
    assert!(core::ptr::eq(anchor_of(&world, world.page_at(child, 2).unwrap()), own_of(&world, child, 2)));
    check(&world);
    world.end();
}

/// Children and active VMAs are counted apart: a split and a merge do not make an anchor look reusable, nor a reuse
/// look like a sibling.
///
/// ```text
///   parent  [---- A ----)        split: [- A -)[- A -)     A: 2 active VMAs
///   child   [- A,B ---)   its child, after the child's VMA is gone: reuses B, with equal chains
/// ```
#[test]
fn t2_reuse_and_merge_do_not_confuse_counters() {
    let mut world = family::<Anon>();
    let counters = |world: &World<Anon>| {
        let mm = world.mm(0).read();
        mm.find(at(1)).unwrap().engine().get().unwrap().counters()
    };
    assert_eq!(counters(&world), (1, 1));
    world.protect(0, 4, 8, RW | VmFlags::EXEC).unwrap();
    assert_eq!(counters(&world), (1, 2), "a split adds an active VMA, not a child");
    let child = world.fork(0).unwrap();
    assert_eq!(counters(&world), (3, 2), "two VMAs of the child, each with an anchor of its own");
    check(&world);
    world.protect(0, 4, 8, RW).unwrap();
    assert_eq!(counters(&world), (3, 1), "a merge takes an active VMA away, not a child");
    let anchors = world.anchors();
    let grandchild = world.fork(child).unwrap();
    assert_eq!(world.anchors(), anchors + 2);
    world.exit(child);
    assert_eq!(world.anchors(), anchors + 2, "the dead child's anchors serve its child");
    let last = world.fork(grandchild).unwrap();
    assert_eq!(world.anchors(), anchors + 2, "and are reused");
    check(&world);
    for n in [1, 5] {
        let mm = world.mm(last).write();
        assert_eq!(inspect::chain_of(mm.find(at(n)).unwrap()).len(), 3);
    }
    world.end();
}

/// ```text
///   [-- source, faulted --)  .....  [- unfaulted -)   <here>   [- unfaulted -)
/// ```
/// The target of the move merges with both neighbours: they have its anchor before the source lets go of it.
fn t3<S: TestSystem>(keep: bool, forked: bool) -> usize {
    let mut world = World::<S>::with_one(32, 64);
    world.map(0, 0, 4, RW, None).unwrap();
    world.fault(0, 1, true).unwrap();
    let mm = if forked { world.fork(0).unwrap() } else { 0 };
    // Neighbours whose page offsets continue those of the source: they were moved while empty, or born so.
    for (first, end, pgoff) in [(16, 18, 16 - 2), (22, 24, 16 + 4)] {
        let limits = VmaBounds { pgoff, ..bounds(first, end) };
        world.rmap.vma_new(&world.mm(mm).write(), limits, RW, None, ()).unwrap();
    }
    world.remap(mm, 0, 4, 18, true, keep).unwrap();
    let around = world.mm(mm).read().vmas_in(at(16), at(24)).count();
    check(&world);
    assert_eq!(walked(&world, world.page_at(mm, 19).unwrap()).0.len(), 1 + usize::from(forked));
    world.end();
    around
}

fn t3_a_moved_vma_merges_with_unfaulted_neighbours<S: TestSystem>() {
    for keep in [false, true] {
        assert_eq!(t3::<S>(keep, false), 1);
    }
}

#[test]
fn t3_a_forked_source_merges_with_nobody() {
    for keep in [false, true] {
        assert_eq!(t3::<Anon>(keep, true), 3);
        // The family has one anchor, if any: a merge leaves none behind.
        assert_eq!(t3::<Objrmap>(keep, true), 1);
        assert_eq!(t3::<FullScan>(keep, true), 1);
        assert_eq!(t3::<PerSpace>(keep, true), 1);
        assert_eq!(t3::<Chained>(keep, true), 1);
    }
}

/// Pages of files leave nothing behind.
struct NoSwap;

impl<S: TestSystem> UnmapHooks<S> for NoSwap {
    fn swap_dup(&mut self, _: u64) -> bool {
        false
    }
    fn unmapped(&mut self, _: &Vma<S>, _: VirtAddr, _: Pte, _: Pte) {}
}

/// Another thread has cleared the entry and has not yet dropped the count. With SYNC the walk waits for its PTE lock;
/// without, the page still counts as mapped when the walk is over.
fn t5<S: TestSystem>(flags: TtuFlags) -> bool {
    let mut world = family::<S>();
    let file = world.new_file(1);
    world.map(0, 16, 17, RW | VmFlags::SHARED, Some((file, 0))).unwrap();
    world.fault(0, 16, false).unwrap();
    let page = world.page_at(0, 16).unwrap();
    page.get();
    let (cleared, clear_seen) = std::sync::mpsc::channel();
    let (tried, mut try_seen) = std::sync::mpsc::channel::<()>();
    let try_seen = &mut try_seen;
    let unmapped = crate::base::testing::scope(|s| {
        let (world, try_seen) = (&world, &mut *try_seen);
        s.spawn(move || {
            let mm = world.mm(0).read();
            let vma = mm.find(at(16)).unwrap();
            let mut table = mm.table().lock(at(16), false).unwrap();
            table.clear_flush(at(16));
            cleared.send(()).unwrap();
            // Long enough for the other to reach the lock, or all that it takes if it does not want it.
            let _ = try_seen.recv_timeout(std::time::Duration::from_millis(100));
            world.rmap.page_remove_rmap(page, vma, at(16), Level::Single);
            assert!(!page.put());
        });
        clear_seen.recv().unwrap();
        let _locked = page.lock();
        let unmapped = world.rmap.try_to_unmap(page, flags, &mut NoSwap);
        tried.send(()).unwrap();
        unmapped
    });
    let pfn = page.pfn();
    world.put(pfn);
    world.end();
    unmapped
}

fn t5_sync_waits_for_whoever_is_unmapping<S: TestSystem>() {
    assert!(t5::<S>(TtuFlags::SYNC));
    assert!(!t5::<S>(TtuFlags::empty()));
}

/// Look-ups of pages that are unmapped, and whose anchors are freed and reused as a root or as a child, unlock what
/// they locked: a debug build reports whoever unlocks what it does not hold, and at the end nobody holds anything.
fn t6_the_anchor_that_was_locked_is_unlocked<S: TestSystem>() {
    let mut world = World::<S>::with_one(8, 16);
    let pages: Vec<Pfn> = (0..2).map(|_| world.alloc().unwrap()).collect();
    for mm in [1, 2] {
        assert_eq!(world.spawn(), mm);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    crate::base::testing::scope(|s| {
        let (world, pages, stop) = (&world, &pages, &stop);
        for wait in [Wait::Try, Wait::Block] {
            s.spawn(move || {
                let mut found = 0_u32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for pfn in pages {
                        match world.rmap.engine().lock_anchor(world.page(*pfn), wait) {
                            Lookup::Found(anchor) => {
                                assert!(S::is_locked(&anchor));
                                found += 1;
                            }
                            Lookup::Unmapped | Lookup::Contended => {}
                        }
                    }
                }
                found
            });
        }
        for round in 0..4_000 {
            let (parent, child) = (world.mm(0).write(), world.mm(1).write_nested());
            let vma = world.rmap.vma_new(&parent, bounds(0, 4), RW, None, ()).unwrap();
            let page = world.page(pages[round % 2]);
            map_new(&world.rmap, vma, at(1), page).unwrap();
            // The second page's anchor was a root in this turn, and is a child's in the next.
            let forked = world.rmap.vma_fork(&child, &parent, vma).unwrap();
            let other = world.page(pages[(round + 1) % 2]);
            map_new(&world.rmap, forked, at(2), other).unwrap();
            for (vma, addr, page) in [(vma, at(1), page), (forked, at(2), other)] {
                let mut table = vma.mm().table().lock(addr, false).unwrap();
                table.clear_flush(addr);
                assert!(world.rmap.page_remove_rmap(page, vma, addr, Level::Single));
                page.mapping().store(Mapping::None);
            }
            world.rmap.vma_free(&parent, vma).unwrap();
            world.rmap.vma_free(&child, forked).unwrap();
            drop((child, parent));
            world.rmap.arena().rcu.reclaim();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for pfn in pages {
        world.put(pfn);
    }
    check(&world);
    world.end();
}

/// The page lock covers a walk and a re-anchoring: nobody re-anchors the page while a walk is on.
fn t12_the_page_lock_covers_walks_and_reanchoring<S: TestSystem>() {
    let mut world = family::<S>();
    let child = world.fork(0).unwrap();
    world.unmap(0, 0, 8).unwrap();
    let page = world.page_at(child, 1).unwrap();
    let seen = page.mapping().load();
    let locked = page.lock();
    let end = world.rmap.for_each_mapping(page, |_, _, _| {
        crate::base::testing::scope(|s| {
            let other = s.spawn(|| page.try_lock().is_none());
            assert!(other.join().unwrap(), "a walk holds the page lock");
        });
        ControlFlow::Continue(())
    });
    assert_eq!(end, WalkEnd::Complete);
    drop(locked);
    assert!(page.mapping().is_still(seen));
    world.fault(child, 1, true).unwrap();
    check(&world);
    world.end();
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "a walk holds the page lock")]
fn t12_a_walk_without_the_page_lock_is_a_bug() {
    let world = family::<Anon>();
    let page = world.page_at(0, 1).unwrap();
    world.rmap.for_each_mapping(page, |_, _, _| ControlFlow::Continue(()));
}

/// A child is visited after its parent, in any generation, also when its anchor is an old one reused.
fn t13_parents_are_visited_before_children<S: TestSystem>() {
    let mut world = family::<S>();
    let mut parent = 0;
    let mut ids = std::vec![world.mm(0).id()];
    for generation in 0..6 {
        let child = world.fork(parent).unwrap();
        if generation == 2 {
            // Its anchor is left without a VMA, for a descendant to reuse.
            let gone = parent;
            let sibling = world.fork(child).unwrap();
            ids.push(world.mm(child).id());
            ids.push(world.mm(sibling).id());
            ids.retain(|id| *id != world.mm(gone).id());
            world.exit(gone);
            parent = sibling;
            continue;
        }
        ids.push(world.mm(child).id());
        parent = child;
    }
    let page = world.page_at(0, 1).unwrap();
    assert_eq!(visited(&world, page), ids);
    check(&world);
    world.end();
}

/// The source of a move before its target, when their intervals are equal.
fn t13_the_source_of_a_move_is_visited_before_its_target<S: TestSystem>() {
    let world = family::<S>();
    let page = world.page_at(0, 1).unwrap();
    let mut addrs = Vec::new();
    {
        let mm = world.mm(0).write();
        let source = mm.mm_ref_find(at(1)).unwrap();
        let limits = VmaBounds { pgoff: source.pgoff(), ..bounds(16, 24) };
        world.rmap.vma_copy(&mm, source, limits).unwrap();
        let _locked = page.lock();
        let mut rmap_one = |_: &Vma<S>, addr: VirtAddr| {
            addrs.push(addr);
            ControlFlow::Continue(())
        };
        world.rmap.rmap_walk(page, &mut WalkControl::new(&mut rmap_one));
    }
    assert_eq!(addrs, [at(1), at(17)]);
    world.end();
}

/// A copy, or a mapping of a file, that is tied before what is in its place has gone: an entry there is found once, as
/// that VMA's (G1).
#[test]
fn g1_a_vma_that_is_coming_claims_no_entry() {
    let mut world = World::<Anon>::with_one(64, 64);
    let file = world.new_file(8);
    world.map(0, 0, 4, RW, None).unwrap();
    world.map(0, 8, 12, RW, Some((file, 2))).unwrap();
    world.fault(0, 1, true).unwrap();
    world.fault(0, 9, false).unwrap();
    {
        let mm = world.mm(0).write();
        for n in [1, 9] {
            let vma = mm.mm_ref_find(at(n)).unwrap();
            let page = world.page_at(0, n).unwrap();
            let copy = world.rmap.vma_copy_begin(&mm, vma, vma.bounds()).unwrap();
            assert!(copy.is_coming() && !vma.is_coming());
            let locked = page.lock();
            let (mut candidates, mut owners) = (0, Vec::new());
            let mut rmap_one = |_: &Vma<Anon>, _| {
                candidates += 1;
                ControlFlow::Continue(())
            };
            world.rmap.rmap_walk(page, &mut WalkControl::new(&mut rmap_one));
            world.rmap.for_each_mapping(page, |owner, _, _| {
                owners.push(core::ptr::from_ref(owner));
                ControlFlow::Continue(())
            });
            assert_eq!((candidates, owners), (2, vec![core::ptr::from_ref(vma)]));
            drop(locked);
            world.rmap.vma_copy_abort(copy);
        }
    }
    check(&world);
    world.end();
}

/// The last writer's page moves to its own anchor: walks visit it alone.
#[test]
fn t14_reuse_of_a_page_reanchors_it() {
    let mut world = family::<Anon>();
    let child = world.fork(0).unwrap();
    for _ in 0..10 {
        world.fork(0).unwrap();
    }
    for mm in world.living().into_iter().filter(|mm| *mm != child) {
        world.unmap(mm, 1, 2).unwrap();
    }
    let pfn = world.page_at(child, 1).unwrap().pfn();
    assert!(!core::ptr::eq(anchor_of(&world, world.page(pfn)), own_of(&world, child, 1)));
    world.fault(child, 1, true).unwrap();
    assert_eq!(world.page_at(child, 1).unwrap().pfn(), pfn, "reused, not copied");
    assert!(core::ptr::eq(anchor_of(&world, world.page(pfn)), own_of(&world, child, 1)));
    assert_eq!(visited(&world, world.page(pfn)), [world.mm(child).id()]);
    check(&world);
    world.end();
}

/// An anonymous page's index is the virtual page number at its VMA's creation, wherever the page moves.
fn t15_an_anonymous_index_is_the_page_number_at_creation<S: TestSystem>() {
    let mut world = family::<S>();
    let pfn = world.page_at(0, 1).unwrap().pfn();
    assert_eq!(world.page(pfn).index(), at(1).vpn());
    world.remap(0, 0, 8, 20, false, false).unwrap();
    let page = world.page_at(0, 21).unwrap();
    assert_eq!((page.pfn(), page.index()), (pfn, at(1).vpn()));
    assert_eq!(walked(&world, page).0, [(world.mm(0).id(), at(21))]);
    // A VMA without pages is at home where it goes.
    world.map(0, 0, 4, RW, None).unwrap();
    world.remap(0, 0, 4, 10, false, false).unwrap();
    world.fault(0, 11, true).unwrap();
    assert_eq!(world.page_at(0, 11).unwrap().index(), at(11).vpn());
    check(&world);
    world.end();
}
