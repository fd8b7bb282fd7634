//! Chains by themselves: what their nodes look like, and what a walk sees of changes.

use super::chain::{Chains, Entry, SLOTS};
use crate::base::alloc::Heap;
use crate::base::alloc::testing::Countdown;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::testing::{rounds, scope};
use crate::base::types::{Pfn, VirtAddr};
use crate::page::Page;
use core::ops::ControlFlow;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

fn entry(n: u64) -> Entry {
    Entry::new(n as u32 % 7, VirtAddr::from_vpn(n))
}

/// A page, and a promise for every entry that it will have.
struct Rig {
    chains: Chains,
    page: Page,
}

impl Rig {
    fn new() -> Self {
        let chains = Chains::new(&Heap::global().unwrap());
        chains.reserve(1_000).unwrap();
        Self { chains, page: Page::new(Pfn(1)) }
    }
    fn add(&self, n: u64) {
        self.chains.add(&self.page, entry(n));
    }
    fn remove(&self, n: u64) {
        self.chains.remove(&self.page, entry(n));
    }
    /// The numbers that a walk visits; `then` is called after each.
    fn walk(&self, mut then: impl FnMut(u64)) -> Vec<u64> {
        let mut seen = Vec::new();
        let flow = self.chains.walk(&self.page, &mut |entry| {
            seen.push(entry.addr().vpn());
            then(entry.addr().vpn());
            ControlFlow::Continue(())
        });
        assert!(flow.is_continue());
        seen
    }
    fn entries(&self) -> BTreeSet<u64> {
        let seen = self.walk(|_| ());
        let set: BTreeSet<u64> = seen.iter().copied().collect();
        assert_eq!(set.len(), seen.len(), "each once: {seen:?}");
        set
    }
    /// Two entries or more fill nodes but for the first; one needs none.
    #[track_caller]
    fn check(&self, entries: &BTreeSet<u64>) {
        assert_eq!(&self.entries(), entries);
        let len = entries.len();
        let (nodes, held) = if len < 2 { (0, 0) } else { (len.div_ceil(SLOTS), len) };
        assert_eq!(self.chains.in_use(), (nodes as u64, held as u64), "{entries:?}");
        assert_eq!(self.page.engine_word().load(Ordering::Relaxed) == 0, entries.is_empty());
    }
}

#[test]
fn an_entry_survives_packing() {
    for (seat, vpn) in [(0, 0), (1, 1), ((1 << 23) - 1, (1 << 40) - 1), (0x2a_aaaa, 0x55_5555_5555)] {
        let packed = Entry::new(seat, VirtAddr::from_vpn(vpn));
        assert_eq!((packed.seat(), packed.addr().vpn()), (seat, vpn));
    }
}

#[test]
fn one_mapping_needs_no_node_and_two_need_one() {
    let rig = Rig::new();
    rig.check(&BTreeSet::new());
    for (step, left) in [(1, &[1][..]), (2, &[1, 2]), (-1, &[2]), (3, &[2, 3]), (-2, &[3]), (-3, &[])] {
        if step > 0 {
            rig.add(step as u64);
        } else {
            rig.remove(-step as u64);
        }
        rig.check(&left.iter().copied().collect());
    }
}

#[test]
fn nodes_are_full_but_for_the_first() {
    for gone in 0..20 {
        let rig = Rig::new();
        let mut all: BTreeSet<u64> = (0..20).collect();
        all.iter().for_each(|n| rig.add(*n));
        rig.check(&all);
        // From the middle, both ends, and so on.
        for n in (gone..20).chain(0..gone) {
            rig.remove(n);
            all.remove(&n);
            rig.check(&all);
        }
    }
}

/// What comes behind the entry that is visited is seen; what goes is not; what stays is, once.
#[test]
fn a_walk_sees_what_is_copied_from_what_it_visits() {
    for count in 1..20 {
        for at in 0..count {
            let rig = Rig::new();
            (0..count).for_each(|n| rig.add(n));
            let mut seen = rig.walk(|n| {
                if n == at {
                    rig.add(100);
                    rig.add(101);
                    rig.remove(at);
                }
            });
            seen.sort_unstable();
            let all: Vec<u64> = (0..count).chain([100, 101]).collect();
            assert_eq!(seen, all, "{at} of {count}");
            rig.check(&all.into_iter().filter(|n| *n != at).collect());
        }
    }
}

/// Nothing is missed while others go, whatever their place.
#[test]
fn entries_stay_in_place_while_others_go() {
    for count in 2..20 {
        for at in 0..count {
            for gone in (0..count).filter(|gone| *gone != at) {
                let rig = Rig::new();
                (0..count).for_each(|n| rig.add(n));
                let seen = rig.walk(|n| {
                    if n == at {
                        rig.remove(gone);
                    }
                });
                let stays: BTreeSet<u64> = (0..count).filter(|n| *n != gone).collect();
                assert_eq!(seen.iter().copied().filter(|n| *n != gone).collect::<BTreeSet<_>>(), stays);
                assert!(seen.len() as u64 <= count);
                rig.check(&stays);
            }
        }
    }
}

/// An unmapping walk takes out what it visits, and gives nodes back as it goes.
#[test]
fn a_walk_that_takes_all_out_leaves_nothing() {
    let rig = Rig::new();
    (0..50).for_each(|n| rig.add(n));
    let seen = rig.walk(|n| {
        rig.remove(n);
        let (nodes, entries) = rig.chains.in_use();
        assert!(nodes <= entries / SLOTS as u64 + 2, "{nodes} nodes for {entries}");
    });
    assert_eq!(seen.len(), 50);
    rig.check(&BTreeSet::new());
}

/// What moves while it is visited is found at the new place too; what moved before, or moves later, at one.
#[test]
fn a_walk_finds_what_moves() {
    for count in 1..15 {
        for at in 0..count {
            for moved in 0..count {
                let rig = Rig::new();
                (0..count).for_each(|n| rig.add(n));
                let seen = rig.walk(|n| {
                    if n == at {
                        rig.chains.replace(&rig.page, entry(moved), entry(moved + 100));
                    }
                });
                assert!(seen.contains(&moved) || seen.contains(&(moved + 100)), "{moved} of {count}: {seen:?}");
                assert!(moved != at || seen.contains(&(moved + 100)), "{seen:?}");
                for n in (0..count).filter(|n| *n != moved) {
                    assert_eq!(seen.iter().filter(|s| **s == n).count(), 1);
                }
                rig.check(&(0..count).map(|n| if n == moved { n + 100 } else { n }).collect());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Random changes, some of them inside walks: after each walk the chain is what a set says, in as few nodes as can
    /// be.
    #[test]
    fn chains_are_sets(steps in prop::collection::vec((0..40_u64, 0..8_u8), 1..200)) {
        let rig = Rig::new();
        let set = std::cell::RefCell::new(BTreeSet::new());
        let flip = |n: u64| {
            if set.borrow_mut().insert(n) {
                rig.add(n);
            } else {
                set.borrow_mut().remove(&n);
                rig.remove(n);
            }
        };
        for chunk in steps.chunks(5) {
            if chunk[0].1 == 0 {
                let before = set.borrow().clone();
                let mut rest = chunk.iter();
                let seen = rig.walk(|_| rest.next().into_iter().for_each(|(n, _)| flip(*n)));
                rest.for_each(|(n, _)| flip(*n));
                let changed: BTreeSet<u64> = chunk.iter().map(|(n, _)| *n).collect();
                for n in before.difference(&changed) {
                    assert_eq!(seen.iter().filter(|s| *s == n).count(), 1, "{n} in {seen:?}");
                }
            } else {
                chunk.iter().for_each(|(n, _)| flip(*n));
            }
            rig.check(&set.borrow());
        }
    }
}

/// Tells threads to end, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One walks, two map and unmap: what stays is visited once by every walk.
#[test]
fn walks_beside_changes_are_complete() {
    let rounds = rounds(4_000, 30);
    let rig = Rig::new();
    let stays: BTreeSet<u64> = (0..9).collect();
    stays.iter().for_each(|n| rig.add(*n));
    let stop = AtomicBool::new(false);
    scope(|s| {
        let _stop = Stop(&stop);
        for thread in 1..3_u64 {
            let (rig, stop) = (&rig, &stop);
            s.spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mine = (0..=round % 11).map(|n| 100 * thread + n);
                    mine.clone().for_each(|n| rig.add(n));
                    mine.clone().for_each(|n| rig.chains.replace(&rig.page, entry(n), entry(n + 50)));
                    mine.for_each(|n| rig.remove(n + 50));
                    round += 1;
                }
            });
        }
        for _ in 0..rounds {
            let seen = rig.walk(|_| ());
            for n in &stays {
                assert_eq!(seen.iter().filter(|s| *s == n).count(), 1, "{n} in {seen:?}");
            }
        }
    });
    rig.check(&stays);
}

/// Threads that map as many as they have promises for never find a node missing, though each leaves the slab as empty
/// as it can.
#[test]
fn promises_are_kept() {
    let rounds = rounds(5_000, 20);
    let chains = Chains::new(&Heap::global().unwrap());
    scope(|s| {
        for thread in 0..3 {
            let chains = &chains;
            s.spawn(move || {
                let pages: Vec<Page> = (0..20).map(|n| Page::new(Pfn(n + 1))).collect();
                pages.iter().for_each(|page| chains.add(page, entry(1)));
                for round in 0..rounds {
                    let some = &pages[..=(round + thread) % 20];
                    chains.reserve(some.len() as u64).unwrap();
                    some.iter().for_each(|page| chains.add(page, entry(2)));
                    chains.unreserve(some.len() as u64);
                    some.iter().for_each(|page| chains.remove(page, entry(2)));
                }
            });
        }
    });
    assert_eq!(chains.in_use(), (0, 0));
}

#[test]
fn a_refused_promise_promises_nothing() {
    let countdown = Countdown::leaked();
    let chains = Chains::new(&countdown.heap());
    chains.reserve(10).unwrap();
    countdown.fail_after(0);
    assert!(chains.reserve(1 << 20).is_err());
    assert!(countdown.lift());
    countdown.fail_after(0);
    chains.reserve(54).unwrap();
    assert!(!countdown.lift(), "the first chunk has 64");
    chains.unreserve(64);
}

#[test]
#[should_panic(expected = "no memory was reserved")]
fn mapping_without_a_promise_is_a_bug() {
    let chains = Chains::new(&Heap::global().unwrap());
    let page = Page::new(Pfn(1));
    chains.add(&page, entry(1));
    chains.add(&page, entry(2));
}
