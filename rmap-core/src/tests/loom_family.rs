//! A parent, its child, and a page of the parent's that both map.
//!
//! | model | race |
//! |---|---|
//! | `remove_against_unmap` | the child unmaps its part while `try_to_unmap` unmaps all: counts agree (T5, G1) |
//! | `pin_against_share` | a pin without locks against fork's sharing: one of them gives way (G6) |
//! | `reanchor_against_walk` | the page becomes the child's own: walks under the page lock (T12) and look-ups without it find its mapping (G1, T14) |
//! | `unlink_last_vma` | the family ends while a walk has its root (G2) |
//! | `root_goes_last` | the same, and all that the walk has is a reference to the child's anchor (T6); nothing is left in the end (G7) |
#![cfg(all(test, loom))]

use super::run_model;
use super::toy::{Anon, RW, Toy, at, bounds, copy_entries, map_new, unmap_one};
use crate::base::alloc::Heap;
use crate::base::types::{Pfn, VirtAddr};
use crate::engine::{Engine, Lookup, Wait};
use crate::mm::address_space::MmLocked;
use crate::mm::{MmRef, Vma};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::Pte;
use crate::rmap::Rmap;
use crate::rmap::unmap::{TtuFlags, UnmapHooks};
use core::ops::ControlFlow;
use loom::sync::Arc;
use loom::thread;

const SLOT: u64 = 7;

/// There is a slot for whoever asks.
struct Swap;

impl UnmapHooks<Anon> for Swap {
    fn swap_dup(&mut self, slot: u64) -> bool {
        slot == SLOT
    }
    fn unmapped(&mut self, _: &Vma<Anon>, _: VirtAddr, _: Pte, _: Pte) {}
}

/// A parent and its child.
struct Family {
    rmap: Rmap<Anon>,
    parent: MmRef<Anon>,
    child: MmRef<Anon>,
}

impl Family {
    /// The parent's page is mapped in both.
    fn new() -> Self {
        let rmap = Rmap::<Anon>::new(&Heap::global().expect("memory")).expect("memory");
        rmap.pages().add(Pfn(1), 1).expect("memory");
        let [parent, child] = [(); 2].map(|()| rmap.mm_new(Toy::new(1), ()).expect("memory"));
        let family = Self { rmap, parent, child };
        {
            let (from, to) = (family.parent.write(), family.child.write_nested());
            let vma = family.rmap.vma_new(&from, bounds(0, 1), RW, None, ()).expect("memory");
            let page = family.page();
            // The mapping's, and the model's.
            page.set_refcount(2);
            page.set_private(SLOT);
            page.set(PageFlags::SWAP_CACHE);
            map_new(&family.rmap, vma, at(0), page).expect("memory");
            let copy = family.rmap.vma_fork(&to, &from, vma).expect("memory");
            copy_entries(&family.rmap, copy, vma, |_| ()).expect("memory");
        }
        family
    }
    fn page(&self) -> &Page {
        self.rmap.pages().page(Pfn(1)).expect("a frame")
    }
    /// One of the two unmaps its part.
    fn unmap(&self, mm: &MmRef<Anon>) {
        let held = mm.read();
        assert!(unmap_one(&self.rmap, held.find(at(0)).expect("a VMA"), at(0)).is_none(), "the model has a reference");
    }
    /// And its region goes.
    fn exit(&self, mm: &MmRef<Anon>) {
        let held = mm.write();
        let Some(vma) = held.find(at(0)).map(core::ptr::from_ref) else { return };
        // SAFETY: freed below only.
        let vma = unsafe { &*vma };
        let _ = unmap_one(&self.rmap, vma, at(0));
        self.rmap.vma_free(&held, vma).expect("its own");
    }
    /// The page becomes the child's own.
    fn reanchor(&self) {
        let held = self.child.read();
        // Lock order: mmap_lock -> page lock.
        let _locked = self.page().lock();
        self.rmap.page_move_anon_rmap(self.page(), held.find(at(0)).expect("a VMA"), at(0)).expect("anonymous");
    }
    fn end(&self) {
        self.exit(&self.child);
        self.exit(&self.parent);
        assert!(!self.page().is_mapped());
        assert_eq!((self.page().refcount(), self.rmap.anon_mapped()), (1, 0), "counts do not agree");
        self.page().mapping().store(Mapping::None);
        assert_eq!(self.rmap.engine().footprint().anchors, 0);
        self.rmap.arena().rcu.drain();
    }
}

/// Runs `other` beside `this`, and ends the family.
fn race(family: Family, this: impl FnOnce(&Family), other: impl FnOnce(&Family) + Send + 'static) {
    let family = Arc::new(family);
    let thread = thread::spawn({
        let family = family.clone();
        move || other(&family)
    });
    this(&family);
    thread.join().unwrap();
    family.end();
}

/// Whoever unmaps waits for the one that has cleared its entry and not yet counted.
#[test]
fn loom_remove_against_unmap() {
    run_model("remove_against_unmap", None, || {
        let unmap_all = |family: &Family| {
            let page = family.page();
            let _locked = page.lock();
            assert!(family.rmap.try_to_unmap(page, TtuFlags::SYNC, &mut Swap), "a mapping was missed");
        };
        race(Family::new(), unmap_all, |family| {
            let held = family.child.read();
            // Nothing, if the other one was here before.
            let _ = unmap_one(&family.rmap, held.find(at(0)).expect("a VMA"), at(0));
        });
    });
}

#[test]
fn loom_pin_against_share() {
    run_model("pin_against_share", None, || {
        let family = Family::new();
        family.unmap(&family.child);
        family.page().set(PageFlags::ANON_EXCLUSIVE);
        let family = Arc::new(family);
        let pinner = thread::spawn({
            let family = family.clone();
            move || family.page().try_pin()
        });
        let shared = family.page().try_share();
        let pinned = pinner.join().unwrap();
        assert!(!(pinned && shared), "a pinned page is shared");
        assert!(shared || family.page().has(PageFlags::ANON_EXCLUSIVE));
        if pinned {
            assert!(!family.page().unpin(), "the model has a reference");
        }
        family.end();
    });
}

/// The one that re-anchors runs first: it loads the word before it changes it, and loom, which compares an access with
/// the last one only, would not try a look-up the other way round.
#[test]
fn loom_reanchor_against_walk() {
    let family = || {
        let family = Family::new();
        family.unmap(&family.parent);
        family
    };
    run_model("reanchor_against_walk", None, move || {
        let walk = |family: &Family| {
            let page = family.page();
            let _locked = page.lock();
            let mut found = 0;
            family.rmap.for_each_mapping(page, |vma, _, _| {
                assert!(core::ptr::eq(vma.mm(), &*family.child));
                found += 1;
                ControlFlow::Continue(())
            });
            assert_eq!(found, 1);
        };
        race(family(), Family::reanchor, walk);
    });
    run_model("reanchor_against_lookup", None, move || {
        let look = |family: &Family| {
            let Lookup::Found(anchor) = family.rmap.engine().lock_anchor(family.page(), Wait::Block) else {
                panic!("a mapped page has an anchor");
            };
            let mut found = 0;
            let _ = anchor.for_each_vma(0, u64::MAX, |vma, _| {
                found += u32::from(core::ptr::eq(vma.mm(), &*family.child));
                ControlFlow::Continue(())
            });
            assert_eq!(found, 1);
        };
        race(family(), Family::reanchor, look);
    });
}

#[test]
fn loom_unlink_last_vma() {
    run_model("unlink_last_vma", None, || {
        let family = Family::new();
        family.exit(&family.child);
        let walk = |family: &Family| {
            if let Lookup::Found(anchor) = family.rmap.engine().lock_anchor(family.page(), Wait::Block) {
                for _ in 0..2 {
                    let mut found = 0;
                    let _ = anchor.for_each_vma(0, u64::MAX, |vma, _| {
                        assert!(vma.generation() % 2 == 1, "a freed VMA is found");
                        found += 1;
                        ControlFlow::Continue(())
                    });
                    assert_eq!(found, 1, "the VMA left while the root was locked");
                }
            }
        };
        race(family, walk, |family| family.exit(&family.parent));
    });
}

#[test]
fn loom_root_goes_last() {
    run_model("root_goes_last", Some(4), || {
        let family = Family::new();
        family.unmap(&family.parent);
        family.reanchor();
        let walk = |family: &Family| {
            let Some(found) = family.rmap.engine().get_anon_vma(family.page()) else { return };
            let anchor = found.lock();
            assert!(!core::ptr::eq(anchor.root(), anchor.anon_vma()), "the page is the child's");
            assert!(anchor.root().refcount() > 0, "the root went before its tree");
            let _ = anchor.for_each_vma(0, u64::MAX, |vma, _| {
                assert!(vma.generation() % 2 == 1, "a freed VMA is found");
                ControlFlow::Continue(())
            });
            drop(anchor);
            assert!(found.anon_vma().root_of().refcount() > 0, "the root went before its tree");
        };
        race(family, walk, |family| {
            family.exit(&family.child);
            family.exit(&family.parent);
        });
    });
}
