//! Grace periods on real threads; the races are modelled in `crate::tests`.

extern crate std;

use super::*;
use crate::base::testing::{rounds, scope};
use std::boxed::Box;
use std::sync::atomic::{AtomicUsize as Count, Ordering::SeqCst};
use std::vec::Vec;

/// An object whose freed state can be recognised, in memory that is reused only by the test.
#[repr(C)]
struct Object {
    head: RetireHead,
    value: Count,
}

const POISON: usize = !0;

impl Object {
    fn new(freed: &Count) -> NonNull<Self> {
        let object = Object { head: RetireHead::new(poison, ptr::from_ref(freed).cast()), value: Count::new(0) };
        NonNull::from(Box::leak(Box::new(object)))
    }
}

/// Marks the object, and gives its memory back.
unsafe fn poison(head: NonNull<RetireHead>, ctx: *const ()) {
    // SAFETY: (1) `head` is the first field of an object of `Object::new`, called once for it; (2) `ctx` is a
    // counter that outlives the domain.
    let (object, freed) = unsafe { (Box::from_raw(head.cast::<Object>().as_ptr()), &*ctx.cast::<Count>()) };
    assert_ne!(object.value.swap(POISON, SeqCst), POISON, "freed twice");
    freed.fetch_add(1, SeqCst);
}

fn retire(rcu: &Rcu, object: NonNull<Object>) {
    // SAFETY: each test unlinks an object, or never links it, and retires it once.
    unsafe { rcu.retire(object.cast()) };
}

#[test]
fn readers_delay_reclaim() {
    let freed = Count::new(0);
    let rcu = Rcu::new();
    retire(&rcu, Object::new(&freed));
    let outer = rcu.read_lock();
    let inner = rcu.read_lock();
    for _ in 0..10 {
        assert_eq!(rcu.reclaim(), 0);
    }
    drop(outer);
    assert_eq!(rcu.reclaim(), 0);
    // Entered after the retirement: may go on for ever.
    let late = rcu.read_lock();
    drop(inner);
    assert_eq!(rcu.reclaim(), 1);
    assert_eq!(rcu.reclaim(), 0);
    drop(late);
    assert_eq!(freed.load(SeqCst), 1);
    assert!(rcu.is_empty());
}

#[test]
fn batches_follow_each_other() {
    let freed = Count::new(0);
    let rcu = Rcu::new();
    let guard = rcu.read_lock();
    for _ in 0..3 {
        retire(&rcu, Object::new(&freed));
    }
    assert_eq!(rcu.reclaim(), 0);
    // After the first batch was closed.
    retire(&rcu, Object::new(&freed));
    drop(guard);
    assert_eq!(rcu.reclaim(), 3);
    assert_eq!(rcu.reclaim(), 1);
    assert!(rcu.is_empty());
}

#[test]
fn domains_do_not_delay_each_other() {
    let freed = Count::new(0);
    let (rcu, other) = (Rcu::new(), Rcu::new());
    let _guard = other.read_lock();
    retire(&rcu, Object::new(&freed));
    rcu.synchronize();
    assert_eq!(rcu.reclaim(), 1);
}

#[test]
fn drain_and_drop_free_what_is_left() {
    let freed = Count::new(0);
    let rcu = Rcu::new();
    let guard = rcu.read_lock();
    retire(&rcu, Object::new(&freed));
    rcu.reclaim();
    retire(&rcu, Object::new(&freed));
    drop(guard);
    assert_eq!(rcu.drain(), 2);
    retire(&rcu, Object::new(&freed));
    drop(rcu);
    assert_eq!(freed.load(SeqCst), 3);
}

#[test]
fn free_functions_may_retire() {
    unsafe fn twice(head: NonNull<RetireHead>, ctx: *const ()) {
        // SAFETY: as in `poison`; `ctx` is the domain, which outlives its objects.
        let (first, rcu) = unsafe { (head.cast::<Object>().as_ref(), &*ctx.cast::<Rcu>()) };
        if first.value.fetch_add(1, SeqCst) == 0 {
            // SAFETY: nobody else knows the object; it was taken off the domain before this call.
            unsafe { rcu.retire(head) };
        } else {
            // SAFETY: made by `Box::leak` below, and not retired again.
            drop(unsafe { Box::from_raw(head.cast::<Object>().as_ptr()) });
        }
    }
    let rcu = Rcu::new();
    let object = Object { head: RetireHead::new(twice, ptr::from_ref(&rcu).cast()), value: Count::new(0) };
    retire(&rcu, NonNull::from(Box::leak(Box::new(object))));
    assert_eq!(rcu.reclaim(), 1);
    assert_eq!(rcu.reclaim(), 1);
    assert!(rcu.is_empty());
}

#[test]
fn stress() {
    readers_and_writers(rounds(20_000, 100));
}

/// Two writers replace published objects, two readers look at them; a freed one would show its poison, or trip a
/// sanitizer.
pub(crate) fn readers_and_writers(rounds: usize) {
    const SLOTS: usize = 4;
    let freed = Count::new(0);
    let rcu = Rcu::new();
    let slots: [AtomicPtr<Object>; SLOTS] = core::array::from_fn(|_| AtomicPtr::new(Object::new(&freed).as_ptr()));
    let writing = Count::new(2);
    scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..rounds {
                    let new = Object::new(&freed);
                    let old = slots[round % SLOTS].swap(new.as_ptr(), Ordering::AcqRel);
                    retire(&rcu, NonNull::new(old).unwrap());
                    rcu.reclaim();
                    if round % 1_000 == 0 {
                        rcu.synchronize();
                    }
                }
                writing.fetch_sub(1, SeqCst);
            });
            scope.spawn(|| {
                while writing.load(SeqCst) != 0 {
                    let guard = rcu.read_lock();
                    for slot in &slots {
                        // SAFETY: published, and this thread is a reader: not freed before it leaves.
                        let object = unsafe { &*slot.load(Ordering::Acquire) };
                        assert_ne!(object.value.load(SeqCst), POISON);
                    }
                    drop(guard);
                }
            });
        }
    });
    for slot in &slots {
        retire(&rcu, NonNull::new(slot.load(Ordering::Acquire)).unwrap());
    }
    rcu.drain();
    assert!(rcu.is_empty());
    assert_eq!(freed.load(SeqCst), 2 * rounds + SLOTS);
}

#[test]
fn many_threads_come_and_go() {
    let freed = Count::new(0);
    let rcu = Rcu::new();
    let threads: Vec<usize> = (0..50).collect();
    scope(|scope| {
        for _ in &threads {
            scope.spawn(|| {
                let _guard = rcu.read_lock();
                retire(&rcu, Object::new(&freed));
            });
        }
    });
    while !rcu.is_empty() {
        rcu.reclaim();
    }
    assert_eq!(freed.load(SeqCst), threads.len());
}
