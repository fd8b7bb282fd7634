//! Two threads that prepare at once: one VMA, and two neighbours that could share.
#![cfg(all(test, loom))]

use super::run_model;
use super::toy::{Anon, RW, Toy, at, bounds, map_new, unmap_one};
use crate::base::alloc::Heap;
use crate::base::types::{Pfn, VmFlags};
use crate::engine::Engine;
use crate::engine::anon_vma::inspect;
use crate::mm::MmRef;
use crate::mm::address_space::MmLocked;
use crate::page::mapping::Mapping;
use crate::rmap::Rmap;
use loom::sync::Arc;
use loom::thread;
use std::vec::Vec;

struct World {
    rmap: Rmap<Anon>,
    mm: MmRef<Anon>,
}

impl World {
    fn new() -> Self {
        let rmap = Rmap::<Anon>::new(&Heap::global().expect("memory")).expect("memory");
        rmap.pages().add(Pfn(1), 2).expect("memory");
        let mm = rmap.mm_new(Toy::new(2), ()).expect("memory");
        Self { rmap, mm }
    }
    fn map(&self, first: u64, end: u64, flags: VmFlags) {
        self.rmap.vma_new(&self.mm.write(), bounds(first, end), flags, None, ()).expect("memory");
    }
    /// A fault of page `n`, under mmap_lock held shared.
    fn fault(&self, n: u64) {
        let held = self.mm.read();
        let page = self.rmap.pages().page(Pfn(1 + n)).expect("a frame");
        page.set_refcount(1);
        map_new(&self.rmap, held.find(at(n)).expect("a VMA"), at(n), page).expect("memory");
    }
    /// Chains, trees and counters agree, there are `anchors` of them at most, and all goes away.
    fn end(&self, anchors: core::ops::RangeInclusive<u64>) {
        let held = self.mm.write();
        let vmas: Vec<_> = held.vmas().collect();
        inspect::check_all(&vmas);
        let made = self.rmap.engine().footprint().anchors;
        assert!(anchors.contains(&made), "{made} anchors");
        assert!(vmas.iter().all(|vma| vma.engine().links() == 1));
        for n in 0..2 {
            let page = unmap_one(&self.rmap, held.find(at(n)).expect("a VMA"), at(n)).expect("the last reference");
            page.mapping().store(Mapping::None);
        }
        for vma in vmas.into_iter().map(core::ptr::from_ref).collect::<Vec<_>>() {
            // SAFETY: freed here, once.
            self.rmap.vma_free(&held, unsafe { &*vma }).expect("its own");
        }
        drop(held);
        assert_eq!(self.rmap.engine().footprint().anchors, 0);
        self.rmap.arena().rcu.drain();
    }
}

fn race(world: World, anchors: core::ops::RangeInclusive<u64>) {
    let world = Arc::new(world);
    let other = thread::spawn({
        let world = world.clone();
        move || world.fault(1)
    });
    world.fault(0);
    other.join().unwrap();
    world.end(anchors);
}

#[test]
fn loom_prepare_one_vma_twice() {
    run_model("prepare_one_vma_twice", Some(4), || {
        let world = World::new();
        world.map(0, 2, RW);
        race(world, 1..=1);
    });
}

#[test]
fn loom_prepare_two_neighbours() {
    run_model("prepare_two_neighbours", Some(4), || {
        let world = World::new();
        world.map(0, 1, RW);
        world.map(1, 2, RW | VmFlags::EXEC);
        race(world, 1..=2);
    });
}
