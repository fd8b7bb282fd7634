//! Grace periods against readers: what is freed is out of every reader's reach (G2).
#![cfg(all(test, loom))]

use super::run_model;
use crate::base::rcu::{Rcu, RetireHead};
use crate::base::sync::atomic::{AtomicPtr, Ordering};
use crate::base::sync::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use loom::sync::Arc;
use loom::thread;
use std::boxed::Box;

/// An object that readers look at. Freeing it writes `value`: a reader still inside is a causality violation.
#[repr(C)]
struct Object {
    head: RetireHead,
    value: UnsafeCell<u32>,
}

/// What `value` says once the object is freed.
const POISON: u32 = !0;

/// What readers find objects by, and the domain that protects them.
struct World {
    rcu: Rcu,
    published: AtomicPtr<Object>,
}

impl World {
    fn new(first: &'static Object) -> Self {
        Self { rcu: Rcu::new(), published: AtomicPtr::new(ptr::from_ref(first).cast_mut()) }
    }

    /// The reader's side: enter, find, look, leave.
    fn look(&self) {
        let guard = self.rcu.read_lock();
        // Acquire; pairs with the Release in `replace`.
        let found = self.published.load(Ordering::Acquire);
        if !found.is_null() {
            // SAFETY: objects of a model live to the end of it; whether this one is freed is what the cell checks.
            let value = unsafe { (*found).value.with(|value| *value) };
            assert_ne!(value, POISON, "a reader found a freed object");
        }
        drop(guard);
    }

    /// The writer's side: publishes `next` and retires what was there.
    fn replace(&self, next: *mut Object) {
        let old = self.published.swap(next, Ordering::AcqRel);
        // SAFETY: (1) `swap` unlinked it; (2) it was linked once, so it is retired once, and it lives to the end of the
        // model; (3) `poison` may run anywhere.
        unsafe { self.rcu.retire(NonNull::new_unchecked(old).cast()) };
    }
}

/// Frees an object: its memory is somebody else's now.
unsafe fn poison(head: NonNull<RetireHead>, _ctx: *const ()) {
    // SAFETY: `head` is the first field of an `Object`, which lives to the end of the model.
    let object = unsafe { head.cast::<Object>().as_ref() };
    // SAFETY: that nobody looks meanwhile is what the model checks.
    object.value.with_mut(|value| unsafe { *value = POISON });
}

/// The memory of an object stays until the model is over, so that a wrong access is reported and not undefined.
struct Memory(*mut Object);

// SAFETY: `Object`s are shared between threads by `World`; this only frees the memory at the end.
unsafe impl Send for Memory {}
// SAFETY: as for Send.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Self {
        Self(Box::into_raw(Box::new(Object { head: RetireHead::new(poison, ptr::null()), value: UnsafeCell::new(0) })))
    }

    fn object(&self) -> &'static Object {
        // SAFETY: alive until this is dropped, after all threads of the model have been joined.
        unsafe { &*self.0 }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `new`; dropped at the end of the model.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// One reader, one writer that unlinks, retires and reclaims until the object is freed.
#[test]
fn loom_rcu_unlink_retire_reclaim() {
    run_model("rcu_unlink_retire_reclaim", None, || {
        let memory = Memory::new();
        let world = Arc::new(World::new(memory.object()));
        let reader = thread::spawn({
            let world = world.clone();
            move || world.look()
        });
        world.replace(ptr::null_mut());
        while world.rcu.reclaim() == 0 {
            thread::yield_now();
        }
        reader.join().unwrap();
        drop(world);
    });
}

/// Two grace periods, and a reader that read `index` before the first and enters during the second. The mutant
/// `rcu_single_flip` does not wait for it.
#[test]
fn loom_rcu_stale_index() {
    run_model("rcu_stale_index", None, || {
        let memory = [Memory::new(), Memory::new()];
        let world = Arc::new(World::new(memory[0].object()));
        let reader = thread::spawn({
            let world = world.clone();
            move || world.look()
        });
        for next in [memory[1].0, ptr::null_mut()] {
            world.replace(next);
            while world.rcu.reclaim() == 0 {
                thread::yield_now();
            }
        }
        reader.join().unwrap();
        drop(world);
    });
}

/// Readers of two stripes, and a writer that waits: each stripe's zero test speaks for its own readers.
#[test]
fn loom_rcu_synchronize_two_readers() {
    run_model("rcu_synchronize_two_readers", None, || {
        let memory = Memory::new();
        let world = Arc::new(World::new(memory.object()));
        let readers = [(); 2].map(|()| {
            let world = world.clone();
            thread::spawn(move || world.look())
        });
        let old = world.published.swap(ptr::null_mut(), Ordering::AcqRel);
        world.rcu.synchronize();
        // SAFETY: unlinked above, and a grace period has passed.
        unsafe { poison(NonNull::new_unchecked(old).cast(), ptr::null()) };
        for reader in readers {
            reader.join().unwrap();
        }
        drop(world);
    });
}

/// Two writers retire and reclaim at once: each object is freed exactly once, none is forgotten.
#[test]
fn loom_rcu_two_reclaimers() {
    run_model("rcu_two_reclaimers", None, || {
        let memory = [Memory::new(), Memory::new()];
        let world = Arc::new(World::new(memory[0].object()));
        let other = thread::spawn({
            let world = world.clone();
            let second = NonNull::new(memory[1].0).unwrap().cast();
            let second = SendHead(second);
            move || {
                let SendHead(second) = second;
                // SAFETY: nobody has ever found this object; it is retired once; `poison` may run anywhere.
                unsafe { world.rcu.retire(second) };
                world.rcu.reclaim()
            }
        });
        world.replace(ptr::null_mut());
        let mut freed = world.rcu.reclaim();
        freed += other.join().unwrap();
        // What is left was pushed while the other one held the state: a later call sees it, without a drain.
        while freed < 2 {
            freed += world.rcu.reclaim();
            thread::yield_now();
        }
        assert_eq!(freed, 2);
        assert!(world.rcu.is_empty());
        drop(world);
    });
}

struct SendHead(NonNull<RetireHead>);
// SAFETY: an object's head goes where the object goes.
unsafe impl Send for SendHead {}
