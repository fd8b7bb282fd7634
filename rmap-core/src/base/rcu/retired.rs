//! What is retired: the place in an object that its domain keeps it by, and the lists that these make.

#[cfg(doc)]
use super::Rcu;
use crate::base::sync::{cell, const_unless_loom};
use core::ptr::{self, NonNull};

/// Frees an object, given its head and its `ctx`.
///
/// Called once, on any thread that calls [`Rcu::reclaim`] or [`Rcu::drain`] or drops the domain, with no lock of this
/// library held. It may retire other objects, except when the domain is being dropped.
pub type FreeFn = unsafe fn(NonNull<RetireHead>, *const ());

/// The place in an object that a grace-period domain keeps it by once it is retired: the kernel's `rcu_head`.
#[repr(C)]
#[derive(Debug)]
pub struct RetireHead {
    /// The next object of the list. Written by whoever retires the object, then read by whoever frees it; in a cell
    /// because readers may still hold references to the object around it.
    pub(super) next: cell::UnsafeCell<*mut RetireHead>,
    /// Frees the object. Constant while it is shared.
    pub free: FreeFn,
    /// Handed to `free`. Constant while it is shared.
    pub ctx: *const (),
}

// SAFETY: `next` is used by one thread at a time (see there), `free` is a function, and `ctx` is only passed on: that
// `free` may be called on any thread is a condition of `Rcu::retire`.
unsafe impl Send for RetireHead {}
// SAFETY: as for Send.
unsafe impl Sync for RetireHead {}

impl RetireHead {
    const_unless_loom! {
        /// The head of an object that `free` frees.
        pub fn new(free: FreeFn, ctx: *const ()) -> Self {
            Self { next: cell::UnsafeCell::new(ptr::null_mut()), free, ctx }
        }
    }
}

/// `rest` behind `list`, both lists that the caller has taken off a domain.
pub(super) fn join(list: *mut RetireHead, rest: *mut RetireHead) -> *mut RetireHead {
    let Some(first) = NonNull::new(list) else {
        return rest;
    };
    if rest.is_null() {
        return list;
    }
    let mut last = first;
    // SAFETY: (1) the objects of a list taken are valid, they belong to the domain until freed; (2) the list is
    // this thread's, the swap in `close` took it.
    while let Some(next) = NonNull::new(unsafe { last.as_ref().next.with(|next| *next) }) {
        last = next;
    }
    // SAFETY: as above.
    unsafe { last.as_ref().next.with_mut(|next| *next = rest) };
    list
}

/// Frees the objects of a list. Returns how many.
///
/// # Safety
/// The list is the caller's, and a grace period has passed since the last of it was retired.
pub(super) unsafe fn free(list: *mut RetireHead) -> usize {
    let mut freed = 0;
    let mut rest = list;
    while let Some(head) = NonNull::new(rest) {
        // SAFETY: (1) the object is valid until `free` is called, and readers have left: both are this function's
        // contract, with the conditions of `Rcu::retire`; (2) `next` is read before the object goes.
        unsafe {
            let RetireHead { next, free, ctx } = head.as_ref();
            rest = next.with(|next| *next);
            free(head, *ctx);
        }
        freed += 1;
    }
    freed
}
