//! How much memory, how many candidates, which locks. Bounds are an engine's own: tests that name no other are of
//! [`anon_vma`](crate::engine::anon_vma).

use super::oracle::check;
use super::toy::{Anon, FullScan, Objrmap, RW, TestSystem, at, bounds, copy_entries};
use super::world::World;
use crate::base::sync::audit;
use crate::base::types::{VirtAddr, VmFlags};
use crate::engine::{Engine, Lookup, Wait};
use crate::mm::Vma;
use crate::mm::address_space::MmLocked;
use crate::page::Page;
use crate::rmap::walk::WalkControl;
use core::ops::ControlFlow;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

fn candidates<S: TestSystem>(world: &World<S>, page: &Page) -> usize {
    let mut count = 0;
    let _locked = page.lock();
    let mut rmap_one = |_: &Vma<S>, _: VirtAddr| {
        count += 1;
        ControlFlow::Continue(())
    };
    world.rmap.rmap_walk(page, &mut WalkControl::new(&mut rmap_one));
    count
}

const SIBLINGS: usize = 1_000;

/// An address space of two pages, the first of which was written.
fn written<S: TestSystem>() -> World<S> {
    let mut world = World::<S>::with_one(4, 8);
    world.map(0, 0, 2, RW, None).unwrap();
    world.fault(0, 0, true).unwrap();
    world
}

/// The same, with its children.
fn with_siblings<S: TestSystem>() -> World<S> {
    let mut world = written::<S>();
    for _ in 0..SIBLINGS {
        world.fork(0).unwrap();
    }
    world
}

/// A chain of 10,000 forks, each parent gone before the next; returns the most anchors at any time between two forks.
fn most_anchors_of_a_chain<S: TestSystem>() -> u64 {
    let mut world = written::<S>();
    let mut parent = 0;
    let mut most = 0;
    for _ in 0..10_000 {
        let child = world.fork(parent).unwrap();
        world.exit(parent);
        world.fault(child, 0, true).unwrap();
        most = most.max(world.anchors());
        world.rmap.arena().rcu.reclaim();
        parent = child;
    }
    check(&world);
    world.end();
    most
}

#[test]
fn g5_an_endless_chain_of_forks_needs_three_anchors() {
    let most = most_anchors_of_a_chain::<Anon>();
    assert!(most <= 3, "{most} anchors");
}

#[test]
fn g5_an_endless_chain_of_forks_needs_one_anchor_of_objrmap() {
    assert_eq!(most_anchors_of_a_chain::<Objrmap>(), 1);
}

/// A tree of processes with one VMA each; returns the most anchors there were, and the most VMAs.
fn grow_tree(steps: impl Iterator<Item = (usize, bool)>, most: usize) -> (u64, u64) {
    let mut world = World::<Anon>::with_one(2, 4);
    world.map(0, 0, 1, RW, None).unwrap();
    world.fault(0, 0, true).unwrap();
    let mut anchors = 0;
    for (which, fork) in steps {
        let living = world.living();
        let mm = living[which % living.len()];
        if fork && living.len() < most {
            world.fork(mm).unwrap();
        } else if living.len() > 1 {
            world.exit(mm);
            world.rmap.arena().rcu.drain();
        }
        anchors = anchors.max(world.anchors());
    }
    check(&world);
    let peak = world.peak_vmas;
    world.end();
    (anchors, peak)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Random trees of processes: chains are bounded by the peak of VMAs (`check`), and anchors stay near twice that.
    #[test]
    fn g5_anchors_stay_near_twice_the_peak_of_vmas(steps in prop::collection::vec((0..24_usize, (0..5_u8).prop_map(|n| n < 3)), 1..300)) {
        let (anchors, peak) = grow_tree(steps.into_iter(), 24);
        assert!(anchors <= 3 * peak, "{anchors} anchors, {peak} VMAs");
    }
}

/// Nested forks whose ancestors exit later, again and again: each round leaves a chain of dead anchors that its one
/// living descendant keeps. This is the worst that is known, and it is not twice the peak: about half its square, as
/// the chains' bound allows.
///
/// ```text
///   root ── 1 ── 2 ── .. ── K-1      all but the root and the last exit
///     └──── 1 ── 2 ── .. ── K-2      and so on
/// ```
#[test]
fn g5_the_worst_history_known_is_bounded_by_the_square_of_the_peak() {
    const PEAK: usize = 24;
    let mut steps = Vec::new();
    for kept in 0..PEAK - 2 {
        // The living are the root, those kept, then this round's: the last of them forks the next.
        steps.push((0, true));
        steps.extend((kept + 2..PEAK).map(|last| (last - 1, true)));
        steps.extend((kept + 2..PEAK).map(|_| (kept + 1, false)));
    }
    let (anchors, peak) = grow_tree(steps.into_iter(), PEAK);
    std::println!("{anchors} anchors, at most {peak} VMAs at once");
    assert_eq!(peak, PEAK as u64);
    assert!(anchors > 4 * peak && anchors <= peak * (peak + 2) / 2, "{anchors} anchors, {peak} VMAs");
}

/// An anon_vma whose process is gone is taken again only while it has one child: with two, a page of the one would have
/// candidates among the other's.
///
/// ```text
///   root ── 1 ──┬── 2 ── 4     1 exits, then 2 forks 4
///               └── 3
/// ```
#[test]
fn g5_an_anchor_with_two_children_is_not_reused() {
    let mut world = written::<Anon>();
    let one = world.fork(0).unwrap();
    let two = world.fork(one).unwrap();
    world.fork(one).unwrap();
    world.exit(one);
    assert_eq!(world.anchors(), 4);
    let four = world.fork(two).unwrap();
    assert_eq!(world.anchors(), 5);
    world.fault(four, 0, true).unwrap();
    assert_eq!(candidates(&world, world.page_at(four, 0).unwrap()), 1);
    check(&world);
    world.end();
}

/// Two links lie in the VMA; more in an array whose capacity is a power of two.
#[test]
fn a_chain_costs_what_its_array_takes() {
    let mut world = written::<Anon>();
    let mut bytes = Vec::new();
    for depth in 0..6 {
        let mm = world.mm(depth).read();
        bytes.push(world.rmap.engine().vma_footprint(mm.find(at(0)).unwrap()).bytes);
        drop(mm);
        world.fork(depth).unwrap();
    }
    let outside: Vec<_> = bytes.iter().map(|n| n - bytes[0]).collect();
    assert_eq!(outside, [0, 0, 4 * 16, 4 * 16, 8 * 16, 8 * 16], "of chains of 1 to 6 links");
    world.end();
}

/// A VMA that fork wipes has none of its parent's pages, and no walk looks for them there.
#[test]
fn what_fork_wipes_is_tied_to_nothing() {
    let mut world = World::<Anon>::with_one(4, 8);
    world.map(0, 0, 2, RW | VmFlags::WIPEONFORK, None).unwrap();
    world.fault(0, 0, true).unwrap();
    let child = world.spawn();
    {
        let (parent, child) = (world.mm(0).write(), world.mm(child).write_nested());
        let copy = world.rmap.vma_fork(&child, &parent, parent.find(at(0)).unwrap()).unwrap();
        assert!(!world.rmap.engine().is_prepared(copy));
    }
    assert_eq!(candidates(&world, world.page_at(0, 0).unwrap()), 1);
    world.end();
}

/// The page of one child among 1,000 siblings is looked for in one VMA, the parent's in all.
#[test]
fn a_childs_page_has_one_candidate_among_a_thousand_siblings() {
    let mut world = with_siblings::<Anon>();
    world.fault(SIBLINGS / 2, 1, true).unwrap();
    assert_eq!(candidates(&world, world.page_at(SIBLINGS / 2, 1).unwrap()), 1);
    assert_eq!(candidates(&world, world.page_at(0, 0).unwrap()), 1 + SIBLINGS);
    world.fault(SIBLINGS / 2, 0, true).unwrap();
    assert_eq!(candidates(&world, world.page_at(SIBLINGS / 2, 0).unwrap()), 1, "a copy is the writer's alone");
    world.end();
}

/// What objrmap is known for: the page belongs to the anon_vma of the whole family, whoever wrote it. Exits shorten its
/// list, and the last one gives it back.
#[test]
fn a_childs_page_has_all_its_siblings_as_candidates_of_objrmap() {
    let mut world = with_siblings::<Objrmap>();
    assert_eq!(world.anchors(), 1);
    let child = SIBLINGS / 2;
    world.fault(child, 1, true).unwrap();
    assert_eq!(candidates(&world, world.page_at(child, 1).unwrap()), 1 + SIBLINGS);
    world.fault(child, 0, true).unwrap();
    assert_eq!(candidates(&world, world.page_at(child, 0).unwrap()), 1 + SIBLINGS, "a copy is the family's too");
    for mm in (0..=SIBLINGS).filter(|mm| *mm != child) {
        world.exit(mm);
    }
    assert_eq!((world.anchors(), candidates(&world, world.page_at(child, 0).unwrap())), (1, 1));
    world.exit(child);
    assert_eq!(world.anchors(), 0);
    world.end();
}

/// Processes that have nothing in common but the offsets that they map.
#[test]
fn strangers_are_candidates_of_full_scan_alone() {
    const STRANGERS: usize = 50;
    fn among_strangers<S: TestSystem>() -> usize {
        let mut world = World::<S>::with_one(4, 2 + STRANGERS as u64);
        for mm in 0..=STRANGERS {
            assert_eq!(if mm == 0 { 0 } else { world.spawn() }, mm);
            world.map(mm, 0, 2, RW, None).unwrap();
            world.fault(mm, 0, true).unwrap();
        }
        let found = candidates(&world, world.page_at(STRANGERS / 2, 0).unwrap());
        check(&world);
        world.end();
        found
    }
    assert_eq!((among_strangers::<Anon>(), among_strangers::<Objrmap>()), (1, 1));
    assert_eq!(among_strangers::<FullScan>(), 1 + STRANGERS);
}

/// G3: a look-up takes the anchor's lock and no other, and one that may not wait does not.
fn g3_a_look_up_takes_one_lock<S: TestSystem>() {
    let world = written::<S>();
    let page = world.page_at(0, 0).unwrap();
    for wait in [Wait::Block, Wait::Try] {
        let locks = audit::record(|| {
            let found = world.rmap.engine().lock_anchor(page, wait);
            assert!(matches!(found, Lookup::Found(anchor) if S::is_locked(&anchor)));
        });
        assert_eq!(locks.len(), 1, "{locks:?}");
    }
    {
        let mm = world.mm(0).write();
        let away = world.rmap.engine().lock_for_move(mm.find(at(0)).unwrap());
        // An engine that finds entries keeps nobody away from a move.
        assert!(away.is_some() != world.rmap.engine().finds_entries());
        crate::base::testing::scope(|s| {
            let look_up = || matches!(world.rmap.engine().lock_anchor(page, Wait::Try), Lookup::Contended);
            assert_eq!(s.spawn(look_up).join().unwrap(), away.is_some());
        });
    }
    world.end();
}
on_every_toy!(g3_a_look_up_takes_one_lock);

/// G3: while another thread holds the root for writing, a reference is had at once, and a try says so.
#[test]
fn g3_a_look_up_waits_for_nobody() {
    let world = written::<Anon>();
    let page = world.page_at(0, 0).unwrap();
    let (held, hold) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    crate::base::testing::scope(|s| {
        s.spawn(|| {
            let mm = world.mm(0).write();
            let _root = world.rmap.engine().lock_for_move(mm.find(at(0)).unwrap()).unwrap();
            held.wait();
            hold.wait();
        });
        held.wait();
        assert!(matches!(world.rmap.engine().lock_anchor(page, Wait::Try), Lookup::Contended));
        let locks = audit::record(|| {
            let found = world.rmap.engine().get_anon_vma(page).expect("mapped");
            assert_eq!(found.anon_vma().refcount(), 2);
        });
        assert!(locks.is_empty(), "a look-up takes no lock: {locks:?}");
        hold.wait();
    });
    world.end();
}

/// What a program does in its own address space takes no lock that another address space uses: faults, copy-on-write,
/// splits, merges, walks, fork.
#[test]
fn unrelated_address_spaces_share_no_lock() {
    assert_eq!(locks_of_two_strangers::<Anon>(), 0);
    assert_eq!(locks_of_two_strangers::<Objrmap>(), 0);
    assert_eq!(locks_of_two_strangers::<FullScan>(), 1, "there is one");
}

/// Two address spaces do the same, one after the other; returns how many locks both take.
fn locks_of_two_strangers<S: TestSystem>() -> usize {
    let mut world = World::<S>::with_one(32, 64);
    assert_eq!(world.spawn(), 1);
    // Slabs take their first chunks under a lock of their own, once for all.
    for mm in [0, 1] {
        world.map(mm, 16, 20, RW, None).unwrap();
        world.fault(mm, 16, true).unwrap();
        world.protect(mm, 17, 18, RW | VmFlags::EXEC).unwrap();
        let child = world.fork(mm).unwrap();
        world.exit(child);
    }
    // What one gives up the other may get: memory, and the locks in it. So all that is given up is given up by both at
    // the end.
    let lives = |world: &mut World<S>, mm: usize| {
        world.map(mm, 0, 8, RW, None).unwrap();
        world.fault(mm, 1, true).unwrap();
        world.fault(mm, 5, true).unwrap();
        world.protect(mm, 2, 4, RW | VmFlags::EXEC).unwrap();
        world.protect(mm, 2, 4, RW).unwrap();
        world.remap(mm, 0, 8, 8, false, false).unwrap();
        let child = world.fork(mm).unwrap();
        world.fault(child, 9, true).unwrap();
        assert!(candidates(world, world.page_at(mm, 9).unwrap()) >= 2);
    };
    let unmaps = |world: &mut World<S>, mm: usize| world.unmap(mm, 8, 16).unwrap();
    let mut shared = BTreeSet::<usize>::new();
    for step in [&lives as &dyn Fn(&mut World<S>, usize), &unmaps] {
        let [one, other] = [0, 1].map(|mm| {
            let taken = audit::record(|| step(&mut world, mm));
            taken.iter().map(|a| a.address).collect::<BTreeSet<_>>()
        });
        assert!(!one.is_empty());
        shared.extend(one.intersection(&other));
    }
    world.end();
    shared.len()
}

/// T7 and T13 with threads. `per_mm` is told of no fork here, which it needs.
mod beside_forks {
    use super::walks_beside_forks_are_complete;
    on_one_toy!(anon_vma Anon AnonVmaSystem walks_beside_forks_are_complete);
    on_one_toy!(objrmap Objrmap ObjrmapSystem walks_beside_forks_are_complete);
    on_one_toy!(full_scan FullScan FullScanSystem walks_beside_forks_are_complete);
}

/// Walks beside forks and exits. A mapping that was there before the walk and stays is seen once, and an unmapped page
/// is
/// unmapped everywhere.
fn walks_beside_forks_are_complete<S: TestSystem>() {
    let mut world = World::<S>::with_one(8, 16);
    world.map(0, 0, 4, RW, None).unwrap();
    world.fault(0, 1, true).unwrap();
    assert_eq!(world.spawn(), 1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    crate::base::testing::scope(|s| {
        let (world, stop) = (&world, &stop);
        s.spawn(move || {
            let page = world.page_at(0, 1).unwrap();
            loop {
                let _locked = page.lock();
                let mut parents = 0;
                world.rmap.for_each_mapping(page, |vma, addr, _| {
                    parents += u32::from(core::ptr::eq(vma.mm(), world.mm(0)) && addr == at(1));
                    ControlFlow::Continue(())
                });
                assert_eq!(parents, 1, "the parent's mapping stays, and is seen once");
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        });
        for round in 0..2_000 {
            let (parent, child) = (world.mm(0).write(), world.mm(1).write_nested());
            let vma = parent.find(at(1)).unwrap();
            let copy = world.rmap.vma_fork(&child, &parent, vma).unwrap();
            copy_entries(&world.rmap, copy, vma, |_| ()).unwrap();
            assert_eq!(copy.bounds(), bounds(0, 4));
            drop(parent);
            assert!(super::toy::unmap_one(&world.rmap, copy, at(1)).is_none());
            world.rmap.vma_free(&child, copy).unwrap();
            drop(child);
            if round % 16 == 0 {
                world.rmap.arena().rcu.reclaim();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    check(&world);
    world.end();
}
