//! Slabs: objects that are handed out and taken back without a lock are one owner's at a time (G2), and what an owner
//! wrote the next one sees.
//!
//! | model | race |
//! |---|---|
//! | `slab_top_comes_back` | an object is taken, and given back, between another's look at it and its exchange (ABA) |
//! | `slab_first_memory` | two ask an empty slab: both grow it, or one uses what the other got |
#![cfg(all(test, loom))]

use super::run_model;
use crate::base::alloc::Heap;
use crate::base::slab::{Slab, SlabItem, SlabLink};
use crate::base::sync::cell::UnsafeCell;
use core::ptr::NonNull;
use loom::sync::Arc;
use loom::thread;

/// An object that knows whether it has an owner.
struct Item {
    link: SlabLink,
    owned: UnsafeCell<bool>,
}

// SAFETY: `owned` is its owner's; that there is one at a time is what the models check.
unsafe impl Send for Item {}
// SAFETY: as for Send.
unsafe impl Sync for Item {}

impl SlabItem for Item {
    fn vacant(link: SlabLink) -> Self {
        Self { link, owned: UnsafeCell::new(false) }
    }
    fn link(&self) -> &SlabLink {
        &self.link
    }
}

/// Marks an object that was handed out, and returns it.
fn own(item: NonNull<Item>) -> NonNull<Item> {
    // SAFETY: objects live as long as their slab.
    let owned = unsafe { &item.as_ref().owned };
    // SAFETY: handed out to this thread.
    let before = owned.with_mut(|owned| unsafe { core::mem::replace(&mut *owned, true) });
    assert!(!before, "one object has two owners");
    item
}

fn give(slab: &Slab<Item>, item: NonNull<Item>) {
    // SAFETY: objects live as long as their slab.
    let owned = unsafe { &item.as_ref().owned };
    // SAFETY: still this thread's.
    owned.with_mut(|owned| unsafe { *owned = false });
    // SAFETY: taken from this slab, and given back once.
    unsafe { slab.give(item) };
}

fn new() -> Arc<Slab<Item>> {
    Arc::new(Slab::new(&Heap::global().expect("memory")))
}

#[test]
fn loom_slab_top_comes_back() {
    run_model("slab_top_comes_back", None, || {
        let slab = new();
        // All that the first chunk has, so that the other thread takes from this one's stack.
        let first = [(); 4].map(|()| own(slab.take().expect("memory")));
        give(&slab, first[0]);
        give(&slab, first[1]);
        let other = thread::spawn({
            let slab = slab.clone();
            move || slab.try_take().map(own).into_iter().for_each(|item| give(&slab, item))
        });
        let (top, below) = (slab.try_take().map(own), slab.try_take().map(own));
        if let Some(top) = top {
            give(&slab, top);
        }
        other.join().unwrap();
        let rest = [slab.try_take().map(own), slab.try_take().map(own)];
        assert_eq!(slab.live(), 2 + [below, rest[0], rest[1]].iter().flatten().count() as u64);
        assert_eq!(slab.live(), 4, "an object was lost");
    });
}

#[test]
fn loom_slab_first_memory() {
    run_model("slab_first_memory", None, || {
        let slab = new();
        let other = thread::spawn({
            let slab = slab.clone();
            move || give(&slab, own(slab.take().expect("memory")))
        });
        let mine = own(slab.take().expect("memory"));
        other.join().unwrap();
        assert_eq!(slab.live(), 1);
        give(&slab, mine);
        assert_eq!(slab.live(), 0);
    });
}
