//! The lock without data.

use super::lockdep::{self, Kind, Order};
use super::{NotSend, const_unless_loom, raw};
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

/// A lock without data, one byte: for page tables, whose entries it guards. Spins for a short while, then parks.
pub struct SpinLock<const RANK: u8> {
    raw: raw::RawMutex,
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<SpinLock<0>>() <= 4, "a PTE lock sits in every page table");

impl<const RANK: u8> SpinLock<RANK> {
    const_unless_loom! {
        /// An unlocked one.
        pub fn new() -> Self {
            Self { raw: raw::RawMutex::new() }
        }
    }

    #[inline]
    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Takes it; waits for the holder.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock(&self) -> SpinGuard<'_, RANK> {
        self.lock_in_order(Order::Ordered)
    }

    /// Takes it while another of the same rank is held. The caller knows the order of the two.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock_nested(&self) -> SpinGuard<'_, RANK> {
        self.lock_in_order(Order::Nested)
    }

    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    fn lock_in_order(&self, order: Order) -> SpinGuard<'_, RANK> {
        lockdep::check(RANK, self.address(), Kind::Write, order);
        self.raw.lock();
        lockdep::acquired(RANK, self.address(), Kind::Write);
        SpinGuard { lock: self, not_send: PhantomData }
    }

    /// Takes it, unless that would wait.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, RANK>> {
        lockdep::check(RANK, self.address(), Kind::Write, Order::Try);
        if !self.raw.try_lock() {
            return None;
        }
        lockdep::acquired(RANK, self.address(), Kind::Write);
        Some(SpinGuard { lock: self, not_send: PhantomData })
    }

    /// Whether anybody holds it. Certain only to be `true` for the holder.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    /// Unlocks what [`SpinGuard::into_raw`] left locked.
    ///
    /// # Safety
    /// This thread took the lock, gave up the guard with `into_raw`, and unlocks once for it.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn unlock_raw(&self) {
        lockdep::released(self.address(), Kind::Write);
        // SAFETY: held by this thread (this function's contract).
        unsafe { self.raw.unlock() };
    }
}

impl<const RANK: u8> Default for SpinLock<RANK> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const RANK: u8> core::fmt::Debug for SpinLock<RANK> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SpinLock").field("rank", &RANK).finish_non_exhaustive()
    }
}

/// A [`SpinLock`] held.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct SpinGuard<'a, const RANK: u8> {
    lock: &'a SpinLock<RANK>,
    not_send: NotSend,
}

impl<const RANK: u8> SpinGuard<'_, RANK> {
    /// Leaves it locked. [`SpinLock::unlock_raw`] unlocks, on the same thread.
    #[inline]
    pub fn into_raw(self) {
        let _ = ManuallyDrop::new(self);
    }
}

impl<const RANK: u8> Drop for SpinGuard<'_, RANK> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a guard is made by whoever took the lock, stays on that thread, and is dropped once.
        unsafe { self.lock.unlock_raw() };
    }
}
