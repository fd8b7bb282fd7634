//! Walks over a chain against mappings that come, go and move: what stays is visited once, what moves at one of its
//! places, what is unmapped everywhere is unmapped.
//!
//! ```text
//!   page   0     1     2     3
//!          [f0)  [f0)  [f0)  [f0)     a file's first page, in four VMAs of one address space
//! ```
#![cfg(all(test, loom))]

use super::run_model;
use super::toy::{Chained, RW, Toy, at, bounds, copy_entries, map_new, unmap_one};
use crate::base::alloc::Heap;
use crate::base::types::{Pfn, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::mm::address_space::MmLocked;
use crate::mm::{File, FileRef, MmRef, Vma, VmaBounds};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use crate::rmap::Rmap;
use crate::rmap::account::{Level, Reserved};
use crate::rmap::unmap::{TtuFlags, UnmapHooks};
use core::ops::ControlFlow;
use loom::sync::Arc;
use loom::thread;
use std::vec::Vec;

/// Places for the page.
const PLACES: u64 = 4;

struct World {
    rmap: Rmap<Chained>,
    mm: MmRef<Chained>,
    file: FileRef<Chained>,
}

impl World {
    /// The page is mapped at `places`, in this order.
    fn new(places: &[u64]) -> Self {
        let rmap = Rmap::<Chained>::new(&Heap::global().expect("memory")).expect("memory");
        rmap.pages().add(Pfn(1), 1).expect("memory");
        let mm = rmap.mm_new(Toy::new(PLACES), ()).expect("memory");
        let file = File::new(rmap.arena(), 1, false, ()).expect("memory");
        let world = Self { rmap, mm, file };
        {
            let held = world.mm.write();
            for n in 0..PLACES {
                let limits = VmaBounds { pgoff: 0, ..bounds(n, n + 1) };
                let file = Some(world.file.clone());
                world.rmap.vma_new(&held, limits, RW | VmFlags::SHARED, file, ()).expect("memory");
            }
        }
        let page = world.page();
        page.set_refcount(1);
        {
            let _locked = page.lock();
            world.file.add_page(page, 0).expect("a free page");
        }
        let reserved = world.reserve(places.len());
        places.iter().for_each(|n| world.map(*n));
        drop(reserved);
        world
    }
    fn page(&self) -> &Page {
        self.rmap.pages().page(Pfn(1)).expect("a frame")
    }
    fn reserve(&self, n: usize) -> Reserved<'_, Chained> {
        self.rmap.reserve(n).expect("memory")
    }
    /// Maps the page at place `n`; memory was reserved.
    fn map(&self, n: u64) {
        let held = self.mm.read();
        let vma = held.find(at(n)).expect("a VMA");
        self.page().get();
        let mut table = held.table().lock(at(n), false).expect("a table");
        self.rmap.page_add_file_rmap(self.page(), vma, at(n), Level::Single).expect("its place");
        table.set(at(n), Pte::present(Pfn(1), PteFlags::empty()));
    }
    fn unmap(&self, n: u64) {
        let held = self.mm.read();
        let vma = held.find(at(n)).expect("a VMA");
        assert!(unmap_one(&self.rmap, vma, at(n)).is_none());
    }
    /// mremap of the entry at `from`, both of whose VMAs are there.
    fn move_entry(&self, from: u64, to: u64) {
        let held = self.mm.read();
        let (source, copy) = (held.find(at(from)).expect("a VMA"), held.find(at(to)).expect("a VMA"));
        let mut table = held.table().lock(at(from), false).expect("a table");
        assert!(self.rmap.move_pte((source, at(from)), (copy, at(to)), &mut table, None));
    }
    /// The places that a walk shows.
    fn walk(&self) -> Vec<u64> {
        let mut places = Vec::new();
        let page = self.page();
        let _locked = page.lock();
        self.rmap.for_each_mapping(page, |vma, addr, _| {
            assert!(vma.contains(addr));
            places.push(addr.vpn() - at(0).vpn());
            ControlFlow::Continue(())
        });
        places
    }
    /// Everything is unmapped, and nothing is left.
    fn end(&self) {
        let held = self.mm.write();
        for n in 0..PLACES {
            let vma = core::ptr::from_ref(held.find(at(n)).expect("a VMA"));
            // SAFETY: freed below only.
            let vma = unsafe { &*vma };
            assert!(unmap_one(&self.rmap, vma, at(n)).is_none());
            self.rmap.vma_free(&held, vma).expect("its own");
        }
        drop(held);
        assert_eq!(self.rmap.engine().footprint().anchors, 0);
        let page = self.page();
        assert!(!page.is_mapped());
        {
            let _locked = page.lock();
            self.file.remove_page(page).expect("not mapped");
        }
        self.rmap.mm_gone(&self.mm);
        self.rmap.arena().rcu.drain();
    }
}

fn times(places: &[u64], place: u64) -> usize {
    places.iter().filter(|n| **n == place).count()
}

/// Runs `change` beside a walk over what is mapped at `places`, and hands what the walk showed to `verify`.
fn race(places: &'static [u64], change: fn(&World), verify: fn(&[u64])) {
    let world = Arc::new(World::new(places));
    let changer = thread::spawn({
        let world = world.clone();
        move || change(&world)
    });
    verify(&world.walk());
    changer.join().unwrap();
    world.end();
}

/// The entry that the walk has passed goes: nothing may come in its place.
#[test]
fn loom_chain_remove() {
    run_model("chain_remove", None, || {
        race(
            &[0, 1, 2],
            |world| world.unmap(0),
            |seen| assert_eq!((times(seen, 1), times(seen, 2)), (1, 1), "{seen:?}"),
        );
    });
}

/// From the page's word to a node, and back.
#[test]
fn loom_chain_add_and_remove() {
    run_model("chain_add_and_remove", Some(4), || {
        let change = |world: &World| {
            let _reserved = world.reserve(1);
            world.map(1);
            world.unmap(1);
        };
        race(&[0], change, |seen| assert_eq!(times(seen, 0), 1, "{seen:?}"));
    });
}

/// The page becomes another's: the one who comes before the other goes is seen, or the one who goes.
#[test]
fn loom_chain_hand_over() {
    run_model("chain_hand_over", Some(4), || {
        let change = |world: &World| {
            let _reserved = world.reserve(1);
            world.map(1);
            world.unmap(0);
        };
        race(&[0], change, |seen| assert!(times(seen, 0) <= 1 && times(seen, 1) <= 1, "{seen:?}"));
    });
}

/// A mapping that moves is found at its old place, its new one, or both (T4); the others once.
#[test]
fn loom_chain_move() {
    let moves = |world: &World| world.move_entry(0, 3);
    let finds = |seen: &[u64]| {
        assert!(times(seen, 0) + times(seen, 3) > 0, "missed: {seen:?}");
        assert!(times(seen, 0) <= 1 && times(seen, 3) <= 1, "{seen:?}");
    };
    run_model("chain_move, alone", None, move || race(&[0], moves, finds));
    run_model("chain_move", None, move || race(&[0, 1], moves, finds));
    run_model("chain_move, the last", None, move || race(&[1, 0], moves, finds));
}

/// Nobody in swap: pages of files leave nothing behind.
struct NoSwap;

impl UnmapHooks<Chained> for NoSwap {
    fn swap_dup(&mut self, _: u64) -> bool {
        true
    }
    fn unmapped(&mut self, _: &Vma<Chained>, _: VirtAddr, _: Pte, _: Pte) {}
}

const SLOT: u64 = 7;

/// Fork against a walk that unmaps (T13): the child has the page by the time the walk is at its parent, and is come by
/// after, or copies what became of the parent's entry. `others`: the page is mapped by that many relatives more, whose
/// entries come first.
fn fork_against_unmap(others: usize) {
    let rmap = Rmap::<Chained>::new(&Heap::global().expect("memory")).expect("memory");
    rmap.pages().add(Pfn(1), 1).expect("memory");
    let mms: Vec<_> = (0..others + 2).map(|_| rmap.mm_new(Toy::new(1), ()).expect("memory")).collect();
    let page = rmap.pages().page(Pfn(1)).expect("a frame");
    {
        let held = mms[0].write();
        let vma = rmap.vma_new(&held, bounds(0, 1), RW, None, ()).expect("memory");
        page.set_refcount(2);
        page.set_private(SLOT);
        page.set(PageFlags::SWAP_CACHE);
        map_new(&rmap, vma, at(0), page).expect("memory");
    }
    let fork = |rmap: &Rmap<Chained>, parent: &MmRef<Chained>, child: &MmRef<Chained>| {
        let (parent, child) = (parent.write(), child.write_nested());
        let vma = parent.find(at(0)).expect("a VMA");
        let copy = rmap.vma_fork(&child, &parent, vma).expect("memory");
        copy_entries(rmap, copy, vma, |_| ()).expect("memory");
    };
    (1..=others).for_each(|n| fork(&rmap, &mms[n - 1], &mms[n]));
    let world = Arc::new((rmap, mms));
    let forker = thread::spawn({
        let world = world.clone();
        move || {
            let (rmap, mms) = &*world;
            fork(rmap, &mms[others], &mms[others + 1]);
        }
    });
    let (rmap, mms) = &*world;
    let page = rmap.pages().page(Pfn(1)).expect("a frame");
    {
        let _locked = page.lock();
        assert!(rmap.try_to_unmap(page, TtuFlags::SYNC, &mut NoSwap), "the child was missed");
    }
    forker.join().unwrap();
    assert!(!page.is_mapped());
    for mm in mms {
        assert!(matches!(mm.table().load(at(0)), Pte::Swap(entry) if entry.slot == SLOT));
        let held = mm.write();
        let vma = core::ptr::from_ref(held.find(at(0)).expect("a VMA"));
        held.table().lock(at(0), false).expect("a table").set(at(0), Pte::None);
        // SAFETY: freed here only.
        rmap.vma_free(&held, unsafe { &*vma }).expect("its own");
        drop(held);
        rmap.mm_gone(mm);
    }
    assert_eq!(rmap.engine().footprint().anchors, 0);
    page.mapping().store(Mapping::None);
    rmap.arena().rcu.drain();
}

#[test]
fn loom_chain_fork_against_unmap() {
    run_model("chain_fork_against_unmap, alone", Some(4), || fork_against_unmap(0));
    run_model("chain_fork_against_unmap", Some(4), || fork_against_unmap(1));
}
