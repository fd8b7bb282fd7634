//! Two threads that prepare at once: one VMA, and two neighbours that could share; there is never an anchor too many
//! (G5).
#![cfg(all(test, loom))]

use super::run_model;
use super::toy::{RW, TestSystem, Toy, at, bounds, map_new, unmap_one};
use crate::base::alloc::Heap;
use crate::base::types::{Pfn, VmFlags};
use crate::engine::Engine;
use crate::mm::MmRef;
use crate::mm::address_space::MmLocked;
use crate::page::mapping::Mapping;
use crate::rmap::Rmap;
use loom::sync::Arc;
use loom::thread;
use std::string::String;
use std::vec::Vec;

struct World<S: TestSystem> {
    rmap: Rmap<S>,
    mm: MmRef<S>,
}

impl<S: TestSystem> World<S> {
    fn new() -> Self {
        let rmap = Rmap::<S>::new(&Heap::global().expect("memory")).expect("memory");
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
    /// What the engine keeps agrees, there are `anchors`, and all goes away.
    fn end(&self, anchors: core::ops::RangeInclusive<u64>) {
        let held = self.mm.write();
        let vmas: Vec<_> = held.vmas().collect();
        S::check(self.rmap.engine(), &vmas);
        let made = self.rmap.engine().footprint().anchors;
        assert!(anchors.contains(&made), "{made} anchors");
        assert!(vmas.iter().all(|vma| self.rmap.engine().vma_footprint(vma).links == 1));
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

fn race<S: TestSystem>(world: World<S>, anchors: core::ops::RangeInclusive<u64>) {
    let world = Arc::new(world);
    let other = thread::spawn({
        let world = world.clone();
        move || world.fault(1)
    });
    world.fault(0);
    other.join().unwrap();
    world.end(anchors);
}

/// The model's name in the log.
fn name<S: TestSystem>(what: &str) -> String {
    std::format!("{what} of {}", <S::Engine as Engine<S>>::NAME)
}

/// As many anchors as `of_regions`, if the engine has any.
fn prepare_one_vma_twice<S: TestSystem>(of_regions: u64) {
    run_model(&name::<S>("prepare_one_vma_twice"), Some(4), move || {
        let world = World::<S>::new();
        world.map(0, 2, RW);
        race(world, of_regions..=of_regions);
    });
}

/// At least as many anchors as `of_regions`, and at most one for each.
fn prepare_two_neighbours<S: TestSystem>(of_regions: u64) {
    run_model(&name::<S>("prepare_two_neighbours"), Some(4), move || {
        let world = World::<S>::new();
        world.map(0, 1, RW);
        world.map(1, 2, RW | VmFlags::EXEC);
        race(world, of_regions..=2 * of_regions);
    });
}

/// Both for one engine, with the anchors that a region has.
macro_rules! prepare_on {
    ($engine:ident, $toy:ident, $anchors:expr) => {
        mod $engine {
            #[test]
            fn loom_prepare_one_vma_twice() {
                super::prepare_one_vma_twice::<crate::tests::toy::$toy>($anchors);
            }
            #[test]
            fn loom_prepare_two_neighbours() {
                super::prepare_two_neighbours::<crate::tests::toy::$toy>($anchors);
            }
        }
    };
}
prepare_on!(anon_vma, Anon, 1);
prepare_on!(objrmap, Objrmap, 1);
prepare_on!(full_scan, FullScan, 0);
