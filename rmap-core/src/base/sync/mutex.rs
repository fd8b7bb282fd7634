//! The lock around data.

use super::lockdep::{self, Kind, Order};
use super::{NotSend, cell, const_unless_loom, raw};
use crate::base::mutant::mutant;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

/// A lock around the data that it guards.
pub struct Mutex<T: ?Sized, const RANK: u8> {
    raw: raw::RawMutex,
    data: cell::UnsafeCell<T>,
}

// SAFETY: the data moves with the mutex.
unsafe impl<T: ?Sized + Send, const RANK: u8> Send for Mutex<T, RANK> {}
// SAFETY: one thread at a time reaches the data, through a guard.
unsafe impl<T: ?Sized + Send, const RANK: u8> Sync for Mutex<T, RANK> {}

impl<T, const RANK: u8> Mutex<T, RANK> {
    const_unless_loom! {
        /// An unlocked one around `value`.
        pub fn new(value: T) -> Self {
            Self { raw: raw::RawMutex::new(), data: cell::UnsafeCell::new(value) }
        }
    }

    /// The data, taken out.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: ?Sized, const RANK: u8> Mutex<T, RANK> {
    #[inline]
    fn address(&self) -> usize {
        core::ptr::from_ref(&self.raw).addr()
    }

    /// Takes it; waits for the holder.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock(&self) -> MutexGuard<'_, T, RANK> {
        self.lock_in_order(Order::Ordered)
    }

    /// Takes it while another of the same rank is held. The caller knows the order of the two.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock_nested(&self) -> MutexGuard<'_, T, RANK> {
        self.lock_in_order(Order::Nested)
    }

    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    fn lock_in_order(&self, order: Order) -> MutexGuard<'_, T, RANK> {
        lockdep::check(RANK, self.address(), Kind::Write, order);
        self.raw.lock();
        lockdep::acquired(RANK, self.address(), Kind::Write);
        MutexGuard { mutex: self, not_send: PhantomData }
    }

    /// Takes it, unless that would wait.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T, RANK>> {
        lockdep::check(RANK, self.address(), Kind::Write, Order::Try);
        if !self.raw.try_lock() && !mutant("mutex_try_lock_anyway") {
            return None;
        }
        lockdep::acquired(RANK, self.address(), Kind::Write);
        Some(MutexGuard { mutex: self, not_send: PhantomData })
    }

    /// Whether anybody holds it. Certain only to be `true` for the holder.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    /// The data; nobody else can hold the lock.
    #[inline]
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: `self` is borrowed exclusively, for as long as the result lives.
        self.data.with_mut(|data| unsafe { &mut *data })
    }
}

impl<T: Default, const RANK: u8> Default for Mutex<T, RANK> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized, const RANK: u8> core::fmt::Debug for Mutex<T, RANK> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Mutex").field("rank", &RANK).finish_non_exhaustive()
    }
}

/// A [`Mutex`] held.
#[must_use = "the lock is released when the guard is dropped"]
pub struct MutexGuard<'a, T: ?Sized, const RANK: u8> {
    mutex: &'a Mutex<T, RANK>,
    not_send: NotSend,
}

// SAFETY: a shared guard gives a shared reference to the data and nothing else.
unsafe impl<T: ?Sized + Sync, const RANK: u8> Sync for MutexGuard<'_, T, RANK> {}

impl<T: ?Sized, const RANK: u8> Deref for MutexGuard<'_, T, RANK> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock: whoever else reads does so through this guard, and nobody writes.
        self.mutex.data.with(|data| unsafe { &*data })
    }
}

impl<T: ?Sized, const RANK: u8> DerefMut for MutexGuard<'_, T, RANK> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock and is borrowed exclusively.
        self.mutex.data.with_mut(|data| unsafe { &mut *data })
    }
}

impl<T: ?Sized, const RANK: u8> Drop for MutexGuard<'_, T, RANK> {
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    fn drop(&mut self) {
        lockdep::released(self.mutex.address(), Kind::Write);
        // SAFETY: a guard is made by whoever took the lock, stays on that thread, and is dropped once.
        unsafe { self.mutex.raw.unlock() };
    }
}

impl<T: ?Sized + core::fmt::Debug, const RANK: u8> core::fmt::Debug for MutexGuard<'_, T, RANK> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(f)
    }
}
