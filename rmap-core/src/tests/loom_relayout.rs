//! Changes of layout against walks (G1): each mapping is visited once, whichever VMA it belongs to by then.
//!
//! ```text
//!   page        0   1   2
//!   split       [------)    ->  [-- ---)      at 1
//!   merge       [--)[--)    ->  [------)
//!   shift       [--)[------)    ->  [------)[--)
//! ```
#![cfg(all(test, loom))]

use super::run_model;
use super::toy::{RW, TestSystem, Toy, at, bounds, map_new, unmap_one};
use crate::base::alloc::Heap;
use crate::base::types::Pfn;
use crate::engine::Engine;
use crate::mm::address_space::MmLocked;
use crate::mm::{MmRef, Vma};
use crate::page::Page;
use crate::page::mapping::Mapping;
use crate::rmap::Rmap;
use core::ops::ControlFlow;
use loom::sync::Arc;
use loom::thread;
use std::vec::Vec;

on_one_toy!(anon_vma Anon AnonVmaSystem loom_split loom_merge loom_shift);
on_one_toy!(objrmap Objrmap ObjrmapSystem loom_split loom_merge loom_shift);

/// An address space whose page 1 is mapped.
struct World<S: TestSystem> {
    rmap: Rmap<S>,
    mm: MmRef<S>,
}

impl<S: TestSystem> World<S> {
    /// One VMA of `pages` pages, cut in two at page 1 if `cut`.
    fn new(pages: u64, cut: bool) -> Self {
        let rmap = Rmap::<S>::new(&Heap::global().expect("memory")).expect("memory");
        rmap.pages().add(Pfn(1), 1).expect("memory");
        let mm = rmap.mm_new(Toy::new(pages), ()).expect("memory");
        let world = Self { rmap, mm };
        {
            let held = world.mm.write();
            let vma = world.rmap.vma_new(&held, bounds(0, pages), RW, None, ()).expect("memory");
            world.page().set_refcount(1);
            map_new(&world.rmap, vma, at(1), world.page()).expect("memory");
        }
        if cut {
            world.split();
        }
        world
    }
    fn page(&self) -> &Page {
        self.rmap.pages().page(Pfn(1)).expect("a frame")
    }
    fn split(&self) {
        let held = self.mm.write();
        self.rmap.vma_split(&held, held.find(at(0)).expect("a VMA"), at(1)).expect("memory");
    }
    fn merge(&self) {
        let held = self.mm.write();
        let [low, high] = [0, 1].map(|n| held.find(at(n)).expect("a VMA"));
        self.rmap.vma_merge(&held, low, high).expect("memory");
    }
    /// The low one takes page 1 over.
    fn shift(&self) {
        let held = self.mm.write();
        let [low, high] = [0, 1].map(|n| held.find(at(n)).expect("a VMA"));
        self.rmap.vma_shift(&held, low, high, at(2)).expect("memory");
    }
    fn walk(&self) {
        let page = self.page();
        let _locked = page.lock();
        let mut places = Vec::new();
        self.rmap.for_each_mapping(page, |vma, addr, _| {
            assert!(vma.generation() % 2 == 1 && vma.contains(addr));
            places.push(addr);
            ControlFlow::Continue(())
        });
        assert_eq!(places, [at(1)], "a mapping was missed, or visited twice");
    }
    fn end(&self) {
        let held = self.mm.write();
        assert!(unmap_one(&self.rmap, held.find(at(1)).expect("a VMA"), at(1)).is_some());
        self.page().mapping().store(Mapping::None);
        let vmas: Vec<*const Vma<S>> = held.vmas().map(core::ptr::from_ref).collect();
        for vma in vmas {
            // SAFETY: freed here, once.
            self.rmap.vma_free(&held, unsafe { &*vma }).expect("its own");
        }
        drop(held);
        assert_eq!(self.rmap.engine().footprint().anchors, 0);
        self.rmap.arena().rcu.drain();
    }
}

/// Runs `change` beside a walk.
fn race<S: TestSystem>(what: &str, pages: u64, cut: bool, change: fn(&World<S>)) {
    run_model(&std::format!("{what} of {}", <S::Engine as Engine<S>>::NAME), None, move || {
        let world = Arc::new(World::<S>::new(pages, cut));
        let changer = thread::spawn({
            let world = world.clone();
            move || change(&world)
        });
        world.walk();
        changer.join().unwrap();
        world.end();
    });
}

fn loom_split<S: TestSystem>() {
    race::<S>("split_against_walk", 2, false, World::split);
}

fn loom_merge<S: TestSystem>() {
    race::<S>("merge_against_walk", 2, true, World::merge);
}

fn loom_shift<S: TestSystem>() {
    race::<S>("shift_against_walk", 3, true, World::shift);
}
