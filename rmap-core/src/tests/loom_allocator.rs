//! The embedder's allocator has a lock of its own, which another thread holds while it walks (T11): memory is asked for
//! and given back under no lock that a walk takes (G8), or the two wait for each other.
#![cfg(all(test, loom))]

use super::run_model;
use super::toy::{Anon, RW, Toy, at, bounds, map_new, unmap_one};
use crate::base::alloc::{Heap, RawHeap};
use crate::base::types::Pfn;
use crate::engine::Engine;
use crate::mm::MmRef;
use crate::mm::address_space::MmLocked;
use crate::page::mapping::Mapping;
use crate::rmap::Rmap;
use core::alloc::Layout;
use core::ops::ControlFlow;
use loom::sync::{Arc, Mutex};
use loom::thread;

/// The lock, and functions that hold it around the global allocator's.
struct Embedder(Mutex<()>);

impl Embedder {
    unsafe fn take(ctx: *mut (), size: usize, align: usize) -> *mut u8 {
        // SAFETY: `heap`'s: the embedder outlives it.
        let _held = unsafe { &*ctx.cast::<Self>() }.0.lock().expect("loom's mutex has no poison");
        // SAFETY: never asked for zero bytes (`RawHeap`).
        unsafe { std::alloc::alloc(Layout::from_size_align(size, align).expect("a layout")) }
    }
    unsafe fn give(ctx: *mut (), ptr: *mut u8, size: usize, align: usize) {
        // SAFETY: as in `take`.
        let _held = unsafe { &*ctx.cast::<Self>() }.0.lock().expect("loom's mutex has no poison");
        // SAFETY: from `take`, with the same size and alignment (`RawHeap`).
        unsafe { std::alloc::dealloc(ptr, Layout::from_size_align(size, align).expect("a layout")) }
    }
    /// A heap over it. It is to be gone before the embedder.
    fn heap(&self) -> Heap {
        let ctx = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: (1) memory of the asked layout, until it is given back; (2) a mutex makes it fit for all threads.
        Heap::new(unsafe { RawHeap::new(Self::take, Self::give, ctx) }).expect("memory")
    }
}

/// A parent with a page, and its child to be.
struct World {
    rmap: Rmap<Anon>,
    parent: MmRef<Anon>,
    child: MmRef<Anon>,
    // Last: memory goes back to it.
    embedder: Arc<Embedder>,
}

impl World {
    fn new() -> Self {
        let embedder = Arc::new(Embedder(Mutex::new(())));
        let rmap = Rmap::<Anon>::new(&embedder.heap()).expect("memory");
        rmap.pages().add(Pfn(1), 1).expect("memory");
        let [parent, child] = [(); 2].map(|()| rmap.mm_new(Toy::new(1), ()).expect("memory"));
        let world = Self { rmap, parent, child, embedder };
        {
            let held = world.parent.write();
            let vma = world.rmap.vma_new(&held, bounds(0, 1), RW, None, ()).expect("memory");
            let page = world.rmap.pages().page(Pfn(1)).expect("a frame");
            page.set_refcount(2);
            map_new(&world.rmap, vma, at(0), page).expect("memory");
        }
        world
    }
    /// The tree of the parent's anchor gets its first node.
    fn fork(&self) {
        let (parent, child) = (self.parent.write(), self.child.write_nested());
        self.rmap.vma_fork(&child, &parent, parent.find(at(0)).expect("a VMA")).expect("memory");
    }
    fn end(&self) {
        for mm in [&self.child, &self.parent] {
            let held = mm.write();
            let vma = core::ptr::from_ref(held.find(at(0)).expect("a VMA"));
            // SAFETY: freed below only.
            let vma = unsafe { &*vma };
            let _ = unmap_one(&self.rmap, vma, at(0));
            self.rmap.vma_free(&held, vma).expect("its own");
        }
        self.rmap.pages().page(Pfn(1)).expect("a frame").mapping().store(Mapping::None);
        assert_eq!(self.rmap.engine().footprint().anchors, 0);
        self.rmap.arena().rcu.drain();
    }
}

#[test]
fn loom_allocator_lock_against_walk() {
    run_model("allocator_lock_against_walk", Some(3), || {
        let world = Arc::new(World::new());
        let forker = thread::spawn({
            let world = world.clone();
            move || world.fork()
        });
        {
            let _busy = world.embedder.0.lock().expect("loom's mutex has no poison");
            let page = world.rmap.pages().page(Pfn(1)).expect("a frame");
            let _locked = page.lock();
            let mut mappings = 0;
            world.rmap.for_each_mapping(page, |_, _, _| {
                mappings += 1;
                ControlFlow::Continue(())
            });
            assert_eq!(mappings, 1, "the child has no entry");
        }
        forker.join().unwrap();
        world.end();
    });
}
