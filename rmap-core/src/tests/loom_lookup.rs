//! Look-ups against whoever takes the anchor away (G2, G3, T6): the second look, the reference that is not had, the
//! root that was locked.
//!
//! | model | race |
//! |---|---|
//! | `lookup_unlink` | the page is unmapped and its VMA freed |
//! | `get_unlink` | the same, by a reference, which `anon_vma` alone has |
//! | `lookup_reuse` | and the slot becomes the anchor of another family, with another page or this one |
//! | `get_reuse` | the same, by a reference |
//! | `lookup_reuse_as_child` | (`anon_vma`) and the slot becomes another family's child: same word, another root |
//! | `lookup_moved` | and the page belongs to another family that was there before |
#![cfg(all(test, loom))]

use super::run_model;
use super::toy::{Anon, RW, TestSystem, Toy, at, bounds, map_new, unmap_one};
use crate::base::alloc::Heap;
use crate::base::types::Pfn;
use crate::engine::{Engine, Lookup, Wait};
use crate::mm::address_space::MmLocked;
use crate::mm::{MmRef, Vma};
use crate::page::Page;
use crate::page::mapping::Mapping;
use crate::page::pte::{PageTable, Pte};
use crate::rmap::Rmap;
use crate::rmap::walk::AnchorOf;
use core::ops::ControlFlow;
use loom::sync::Arc;
use loom::thread;
use std::vec::Vec;

on_one_toy!(anon_vma Anon AnonVmaSystem loom_lookup_unlink loom_lookup_reuse loom_lookup_moved);
on_one_toy!(objrmap Objrmap ObjrmapSystem loom_lookup_unlink loom_lookup_reuse loom_lookup_moved);

/// Address spaces of one page, and two frames.
struct World<S: TestSystem> {
    rmap: Rmap<S>,
    mms: Vec<MmRef<S>>,
}

impl<S: TestSystem> World<S> {
    fn new(mms: usize) -> Self {
        let rmap = Rmap::<S>::new(&Heap::global().expect("memory")).expect("memory");
        rmap.pages().add(Pfn(1), 2).expect("memory");
        let mms = (0..mms).map(|_| rmap.mm_new(Toy::new(1), ()).expect("memory")).collect();
        Self { rmap, mms }
    }
    fn page(&self, pfn: u64) -> &Page {
        self.rmap.pages().page(Pfn(pfn)).expect("a frame")
    }
    fn with_vma<R>(&self, mm: usize, f: impl FnOnce(&Vma<S>) -> R) -> R {
        let held = self.mms[mm].read();
        f(held.find(at(0)).expect("a VMA"))
    }
    fn map(&self, mm: usize) {
        self.rmap.vma_new(&self.mms[mm].write(), bounds(0, 1), RW, None, ()).expect("memory");
    }
    /// The mapping has a reference, and the model another: a look-up's caller has one.
    fn touch(&self, mm: usize, pfn: u64) {
        self.page(pfn).set_refcount(2);
        self.with_vma(mm, |vma| map_new(&self.rmap, vma, at(0), self.page(pfn)).expect("memory"));
    }
    /// Takes the page and the VMA away. The word stays, as a hint, unless the frame is to have a new owner.
    fn unmap(&self, mm: usize, reset: bool) {
        let held = self.mms[mm].write();
        let vma = core::ptr::from_ref(held.find(at(0)).expect("a VMA"));
        // SAFETY: freed below only.
        let vma = unsafe { &*vma };
        let page = vma.mm().table().load(at(0)).pfn().and_then(|pfn| self.rmap.pages().page(pfn));
        assert!(unmap_one(&self.rmap, vma, at(0)).is_none(), "the model has a reference");
        if let Some(page) = page.filter(|_| reset) {
            page.mapping().store(Mapping::None);
        }
        self.rmap.vma_free(&held, vma).expect("its own");
    }
    fn fork(&self, parent: usize, child: usize) {
        let from = self.mms[parent].write();
        let to = self.mms[child].write_nested();
        self.rmap.vma_fork(&to, &from, from.find(at(0)).expect("a VMA")).expect("memory");
    }
    /// Looks a page up and, when it is found, checks what that means: the lock that is held is the anchor's, and a VMA
    /// that maps the page, or is about to be unlinked when the lock is released, is found under it (G1, G2).
    fn look(&self, pfn: u64, wait: Wait) -> bool {
        match self.rmap.engine().lock_anchor(self.page(pfn), wait) {
            Lookup::Found(anchor) => {
                self.check(&anchor, pfn);
                true
            }
            Lookup::Unmapped | Lookup::Contended => false,
        }
    }
    fn check(&self, anchor: &AnchorOf<'_, S>, pfn: u64) {
        assert!(S::is_locked(anchor), "the lock that is held is another's");
        let mut vmas = 0;
        let _ = self.rmap.engine().walk_anchor(anchor, 0, u64::MAX, |vma, _| {
            assert!(vma.generation() % 2 == 1, "a freed VMA is found");
            let pte = vma.mm().table().load(at(0));
            assert!(pte == Pte::None || pte.pfn() == Some(Pfn(pfn)), "the anchor is another page's: {pte:?}");
            vmas += 1;
            ControlFlow::Continue(())
        });
        assert!(vmas > 0, "an anchor without VMAs was found");
    }
    /// Nothing is mapped; no anchor is left, none was given back twice.
    fn end(&self) {
        for mm in 0..self.mms.len() {
            if self.mms[mm].nr_regions() != 0 {
                self.unmap(mm, true);
            }
        }
        assert_eq!(self.rmap.engine().footprint().anchors, 0);
        self.rmap.arena().rcu.drain();
    }
}

/// Runs `other` beside `this`.
fn race<S: TestSystem>(world: World<S>, this: impl FnOnce(&World<S>), other: impl FnOnce(&World<S>) + Send + 'static) {
    let world = Arc::new(world);
    let thread = thread::spawn({
        let world = world.clone();
        move || other(&world)
    });
    this(&world);
    thread.join().unwrap();
    world.end();
}

fn loom_lookup_unlink<S: TestSystem>() {
    for wait in [Wait::Try, Wait::Block] {
        run_model(&std::format!("lookup_unlink of {}, {wait:?}", <S::Engine as Engine<S>>::NAME), None, move || {
            let world = World::<S>::new(1);
            world.map(0);
            world.touch(0, 1);
            race(
                world,
                |world| world.unmap(0, false),
                move |world| {
                    world.look(1, wait);
                },
            );
        });
    }
}

#[test]
fn loom_get_unlink() {
    run_model("get_unlink", None, || {
        let world = World::<Anon>::new(1);
        world.map(0);
        world.touch(0, 1);
        race(
            world,
            |world| world.unmap(0, false),
            |world| {
                if let Some(found) = world.rmap.engine().get_anon_vma(world.page(1)) {
                    assert!(found.anon_vma().refcount() > 0);
                    // Whoever is linked now, nobody perhaps.
                    let _ = found.lock().for_each_vma(0, u64::MAX, |vma, _| {
                        assert!(vma.generation() % 2 == 1);
                        ControlFlow::Continue(())
                    });
                }
            },
        );
    });
}

/// The slot belongs to another family by the time that the reference is tried for: it is given back, or the family is
/// still the page's.
#[test]
fn loom_get_reuse() {
    run_model("get_reuse", None, || {
        let world = World::<Anon>::new(2);
        world.map(0);
        world.map(1);
        world.touch(0, 1);
        race(
            world,
            |world| {
                world.unmap(0, false);
                world.touch(1, 2);
            },
            |world| {
                if let Some(found) = world.rmap.engine().get_anon_vma(world.page(1)) {
                    let _ = found.lock().for_each_vma(0, u64::MAX, |vma, _| {
                        assert!(core::ptr::eq(vma.mm(), &*world.mms[0]), "a reference to another family's anchor");
                        ControlFlow::Continue(())
                    });
                }
            },
        );
    });
}

fn loom_lookup_reuse<S: TestSystem>() {
    for (wait, next) in [(Wait::Try, 2), (Wait::Block, 2), (Wait::Try, 1)] {
        run_model(
            &std::format!("lookup_reuse of {}, {wait:?}, frame {next}", <S::Engine as Engine<S>>::NAME),
            None,
            move || {
                let world = World::<S>::new(2);
                world.map(0);
                world.map(1);
                world.touch(0, 1);
                race(
                    world,
                    move |world| {
                        world.unmap(0, next == 1);
                        world.touch(1, next);
                    },
                    move |world| {
                        world.look(1, wait);
                    },
                );
            },
        );
    }
}

#[test]
fn loom_lookup_reuse_as_child() {
    run_model("lookup_reuse_as_child", None, || {
        let world = World::<Anon>::new(3);
        world.map(0);
        world.touch(0, 1);
        world.map(1);
        world.with_vma(1, |vma| world.rmap.engine().prepare(vma).expect("memory"));
        race(
            world,
            |world| {
                world.unmap(0, true);
                world.fork(1, 2);
                world.touch(2, 1);
            },
            |world| {
                world.look(1, Wait::Try);
            },
        );
    });
}

fn loom_lookup_moved<S: TestSystem>() {
    run_model(&std::format!("lookup_moved of {}", <S::Engine as Engine<S>>::NAME), None, || {
        let world = World::<S>::new(2);
        world.map(0);
        world.touch(0, 1);
        world.map(1);
        world.with_vma(1, |vma| world.rmap.engine().prepare(vma).expect("memory"));
        race(
            world,
            |world| {
                world.unmap(0, true);
                world.touch(1, 1);
            },
            |world| {
                world.look(1, Wait::Try);
            },
        );
    });
}
