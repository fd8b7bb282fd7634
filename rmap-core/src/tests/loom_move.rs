//! Moves of entries against walks and unmapping (G1, T4): a walk that visits source and copy in this order, and one
//! that is kept away because it would not.
#![cfg(all(test, loom))]

use super::run_model;
use super::toy::{Anon, RW, Toy, at, bounds, map_new, unmap_one};
use crate::base::alloc::Heap;
use crate::base::types::{Pfn, VirtAddr};
use crate::engine::Engine;
use crate::mm::address_space::MmLocked;
use crate::mm::{MmRef, Vma, VmaBounds};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::{PageTable, Pte};
use crate::rmap::Rmap;
use crate::rmap::unmap::{TtuFlags, UnmapHooks};
use core::ops::ControlFlow;
use loom::sync::Arc;
use loom::thread;
use std::vec::Vec;

const SLOT: u64 = 7;
/// Where page 0 moves to.
const TARGET: u64 = 3;

/// An address space with one page mapped at page 0 of a VMA, and in the swap cache.
struct World {
    rmap: Rmap<Anon>,
    mm: MmRef<Anon>,
}

/// There is a slot for whoever asks.
struct Swap;

impl UnmapHooks<Anon> for Swap {
    fn swap_dup(&mut self, slot: u64) -> bool {
        slot == SLOT
    }
    fn unmapped(&mut self, _: &Vma<Anon>, _: VirtAddr, _: Pte, _: Pte) {}
}

impl World {
    /// The VMA has `pages` pages.
    fn new(pages: u64) -> Self {
        let rmap = Rmap::<Anon>::new(&Heap::global().expect("memory")).expect("memory");
        rmap.pages().add(Pfn(1), 1).expect("memory");
        let mm = rmap.mm_new(Toy::new(TARGET + 1), ()).expect("memory");
        let world = Self { rmap, mm };
        {
            let held = world.mm.write();
            let vma = world.rmap.vma_new(&held, bounds(0, pages), RW, None, ()).expect("memory");
            let page = world.page();
            page.set_refcount(2);
            page.set_private(SLOT);
            page.set(PageFlags::SWAP_CACHE);
            map_new(&world.rmap, vma, at(0), page).expect("memory");
        }
        world
    }
    fn page(&self) -> &Page {
        self.rmap.pages().page(Pfn(1)).expect("a frame")
    }
    /// mremap with DONTUNMAP, of one page: the source stays.
    fn move_page(&self) {
        let held = self.mm.write();
        let source = held.find(at(0)).expect("a VMA");
        let bounds = VmaBounds { start: at(TARGET), end: at(TARGET + 1), pgoff: source.pgoff() };
        let copy = self.rmap.vma_copy(&held, source, bounds).expect("memory");
        let away = (!Rmap::visits_in_order(source, copy)).then(|| self.rmap.lock_for_move(source));
        let mut table = held.table().lock(at(0), false).expect("a table");
        self.rmap.move_pte((source, at(0)), (copy, at(TARGET)), &mut table, None);
        drop((table, away));
    }
    fn end(&self) {
        let held = self.mm.write();
        for place in [0, TARGET] {
            let Some(vma) = held.find(at(place)).map(core::ptr::from_ref) else { continue };
            // SAFETY: freed below only.
            let vma = unsafe { &*vma };
            let _ = unmap_one(&self.rmap, vma, at(place));
            self.rmap.vma_free(&held, vma).expect("its own");
        }
        drop(held);
        self.page().mapping().store(Mapping::None);
        assert_eq!(self.rmap.engine().footprint().anchors, 0);
        self.rmap.arena().rcu.drain();
    }
}

/// Runs `walk`, with the page locked, beside a move.
fn race(pages: u64, walk: impl FnOnce(&World)) {
    let world = Arc::new(World::new(pages));
    let mover = thread::spawn({
        let world = world.clone();
        move || world.move_page()
    });
    {
        let _locked = world.page().lock();
        walk(&world);
    }
    mover.join().unwrap();
    assert_eq!(world.mm.table().load(at(0)), Pte::None, "the entry has moved");
    world.end();
}

/// The mapping is found, at the old place, or the new, or, since it moved meanwhile, at both.
fn finds(world: &World) {
    let mut places = Vec::new();
    world.rmap.for_each_mapping(world.page(), |_, addr, _| {
        places.push(addr);
        ControlFlow::Continue(())
    });
    assert!([&[at(0)][..], &[at(TARGET)], &[at(0), at(TARGET)]].contains(&&places[..]), "found at {places:?}");
}

/// Whoever unmaps leaves no mapping behind; the entry that took its place moves on.
fn unmaps(world: &World) {
    assert!(world.rmap.try_to_unmap(world.page(), TtuFlags::SYNC, &mut Swap), "the mapping was missed");
    assert!(!world.page().is_mapped());
}

#[test]
fn loom_move_in_order() {
    run_model("move_in_order", None, || race(1, finds));
    run_model("move_in_order, unmap", None, || race(1, unmaps));
}

/// The copy is shorter than its source, and walks visit it first.
#[test]
fn loom_move_out_of_order() {
    run_model("move_out_of_order", None, || race(2, finds));
    run_model("move_out_of_order, unmap", None, || race(2, unmaps));
}
