//! Fork against walks (G1).
//!
//! | model | race |
//! |---|---|
//! | `fork_against_unmap` | the walk unmaps whatever it finds (T13) |
//! | `fork_against_walk` | it only looks |
//! | `failed_fork_against_walk` | and the fork fails half-way (T7) |
#![cfg(all(test, loom))]

use super::run_model;
use super::toy::{Anon, RW, Toy, at, bounds, copy_entries, map_new, unmap_one};
use crate::base::alloc::Heap;
use crate::base::sync::atomic::{AtomicU32, Ordering};
use crate::base::types::{Pfn, VirtAddr};
use crate::engine::Engine;
use crate::mm::address_space::MmLocked;
use crate::mm::{MmRef, Vma};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::{PageTable, Pte};
use crate::rmap::Rmap;
use crate::rmap::unmap::{TtuFlags, UnmapHooks};
use crate::rmap::walk::WalkEnd;
use core::ops::ControlFlow;
use loom::sync::Arc;
use loom::thread;

/// A parent whose page is mapped and in the swap cache, and its child to be.
struct World {
    rmap: Rmap<Anon>,
    parent: MmRef<Anon>,
    child: MmRef<Anon>,
    /// Entries that name the slot.
    users: AtomicU32,
}

const SLOT: u64 = 7;

struct Dup<'a>(&'a AtomicU32);

impl UnmapHooks<Anon> for Dup<'_> {
    fn swap_dup(&mut self, slot: u64) -> bool {
        assert_eq!(slot, SLOT);
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
    fn unmapped(&mut self, _: &Vma<Anon>, _: VirtAddr, _: Pte, _: Pte) {}
}

impl World {
    fn new() -> Self {
        let rmap = Rmap::<Anon>::new(&Heap::global().expect("memory")).expect("memory");
        rmap.pages().add(Pfn(1), 1).expect("memory");
        let [parent, child] = [(); 2].map(|()| rmap.mm_new(Toy::new(1), ()).expect("memory"));
        let world = Self { rmap, parent, child, users: AtomicU32::new(0) };
        {
            let held = world.parent.write();
            let vma = world.rmap.vma_new(&held, bounds(0, 1), RW, None, ()).expect("memory");
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
    /// Fork, as far as one VMA goes; `undo`: it fails after the entry was copied, and takes everything back.
    fn fork(&self, undo: bool) {
        let (parent, child) = (self.parent.write(), self.child.write_nested());
        let vma = parent.find(at(0)).expect("a VMA");
        let copy = self.rmap.vma_fork(&child, &parent, vma).expect("memory");
        copy_entries(&self.rmap, copy, vma, |_| {
            self.users.fetch_add(1, Ordering::Relaxed);
        })
        .expect("memory");
        if undo {
            assert!(unmap_one(&self.rmap, copy, at(0)).is_none());
            self.rmap.vma_free(&child, copy).expect("its own");
        }
    }
    fn end(&self) {
        for mm in [&self.parent, &self.child] {
            let held = mm.write();
            let Some(vma) = held.find(at(0)).map(core::ptr::from_ref) else { continue };
            // SAFETY: freed below only.
            let vma = unsafe { &*vma };
            let _ = unmap_one(&self.rmap, vma, at(0));
            self.rmap.vma_free(&held, vma).expect("its own");
        }
        self.page().mapping().store(Mapping::None);
        assert_eq!(self.rmap.engine().footprint().anchors, 0);
        self.rmap.arena().rcu.drain();
    }
}

/// Whatever the order, the page is unmapped from both: the walk sees the child after the parent, and the child has
/// either the page by then, or will copy what has become of the parent's entry.
#[test]
fn loom_fork_against_unmap() {
    run_model("fork_against_unmap", None, || {
        let world = Arc::new(World::new());
        let forker = thread::spawn({
            let world = world.clone();
            move || world.fork(false)
        });
        {
            let page = world.page();
            let _locked = page.lock();
            let unmapped = world.rmap.try_to_unmap(page, TtuFlags::SYNC, &mut Dup(&world.users));
            assert!(unmapped, "the child was missed");
        }
        forker.join().unwrap();
        assert!(!world.page().is_mapped());
        assert_eq!(world.users.load(Ordering::Relaxed), 2, "both have the swap entry");
        for mm in [&world.parent, &world.child] {
            assert!(matches!(mm.table().load(at(0)), Pte::Swap(entry) if entry.slot == SLOT));
        }
        world.end();
    });
}

/// A fork, undone or not, beside a walk, which visits the parent's mapping once and the child's at most once.
fn fork_beside_walk(name: &str, undo: bool) {
    run_model(name, Some(4), move || {
        let world = Arc::new(World::new());
        let forker = thread::spawn({
            let world = world.clone();
            move || world.fork(undo)
        });
        {
            let page = world.page();
            let _locked = page.lock();
            let (mut parents, mut children) = (0, 0);
            let end = world.rmap.for_each_mapping(page, |vma, addr, pte| {
                assert!(vma.generation() % 2 == 1 && vma.contains(addr) && pte.pfn() == Some(Pfn(1)));
                let parent = core::ptr::eq(vma.mm(), &*world.parent);
                *if parent { &mut parents } else { &mut children } += 1;
                ControlFlow::Continue(())
            });
            assert_eq!((end, parents), (WalkEnd::Complete, 1));
            assert!(children <= 1);
        }
        forker.join().unwrap();
        assert_eq!(world.page().mapcount(), if undo { 1 } else { 2 });
        world.end();
    });
}

/// The parent's mapping is visited once, the child's when it has been made.
#[test]
fn loom_fork_against_walk() {
    fork_beside_walk("fork_against_walk", false);
}

/// A fork that fails after a walker can reach the child (G4): the parent's mapping is seen once by every walk, and the child
/// is whole whenever it is seen.
#[test]
fn loom_failed_fork_against_walk() {
    fork_beside_walk("failed_fork_against_walk", true);
}
