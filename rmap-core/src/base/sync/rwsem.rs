//! The reader-writer lock.

use super::lockdep::{self, Kind, Order};
use super::{NotSend, const_unless_loom, raw};
use crate::base::mutant::mutant;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

/// A reader-writer lock that can tell whether somebody waits for it: the kernel's `rw_semaphore`.
///
/// Never taken recursively, for reading neither: a waiting writer keeps new readers out.
pub struct RwSem<const RANK: u8> {
    pub(super) raw: raw::RawRwSem,
}

#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<RwSem<0>>() <= 8, "a rwsem sits in every anchor and address space");

impl<const RANK: u8> RwSem<RANK> {
    const_unless_loom! {
        /// An unlocked one.
        pub fn new() -> Self {
            Self { raw: raw::RawRwSem::new() }
        }
    }

    #[inline]
    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Takes it for reading; waits for writers, waiting ones included.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn read(&self) -> ReadGuard<'_, RANK> {
        lockdep::check(RANK, self.address(), Kind::Read, Order::Ordered);
        self.raw.read();
        lockdep::acquired(RANK, self.address(), Kind::Read);
        ReadGuard { sem: self, not_send: PhantomData }
    }

    /// Takes it for reading, unless that would wait.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn try_read(&self) -> Option<ReadGuard<'_, RANK>> {
        lockdep::check(RANK, self.address(), Kind::Read, Order::Try);
        if !self.raw.try_read() && !mutant("rwsem_try_read_anyway") {
            return None;
        }
        lockdep::acquired(RANK, self.address(), Kind::Read);
        Some(ReadGuard { sem: self, not_send: PhantomData })
    }

    /// Takes it for writing; waits for everybody.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn write(&self) -> WriteGuard<'_, RANK> {
        self.write_in_order(Order::Ordered)
    }

    /// Takes it for writing while another of the same rank is held. The caller knows the order of the two.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn write_nested(&self) -> WriteGuard<'_, RANK> {
        self.write_in_order(Order::Nested)
    }

    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    fn write_in_order(&self, order: Order) -> WriteGuard<'_, RANK> {
        lockdep::check(RANK, self.address(), Kind::Write, order);
        self.raw.write();
        lockdep::acquired(RANK, self.address(), Kind::Write);
        WriteGuard { sem: self, not_send: PhantomData }
    }

    /// Takes it for writing, unless that would wait.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn try_write(&self) -> Option<WriteGuard<'_, RANK>> {
        lockdep::check(RANK, self.address(), Kind::Write, Order::Try);
        if !self.raw.try_write() {
            return None;
        }
        lockdep::acquired(RANK, self.address(), Kind::Write);
        Some(WriteGuard { sem: self, not_send: PhantomData })
    }

    /// Whether somebody waits. Of the past as soon as it is returned: a reason to be brief, never a reason to be right.
    #[inline]
    pub fn is_contended(&self) -> bool {
        self.raw.waiters() != 0
    }

    /// Whether anybody holds it. Certain only to be `true` for a holder.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    /// Whether a writer holds it. Certain only for that writer, and to be `false` for a reader.
    #[inline]
    pub fn is_write_locked(&self) -> bool {
        self.raw.is_write_locked()
    }

    /// Unlocks what [`ReadGuard::into_raw`] left locked.
    ///
    /// # Safety
    /// This thread took the lock for reading, gave up the guard with `into_raw`, and unlocks once for it.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn unlock_read_raw(&self) {
        lockdep::released(self.address(), Kind::Read);
        // SAFETY: held for reading by this thread (this function's contract).
        unsafe { self.raw.unlock_read() };
    }

    /// Unlocks what [`WriteGuard::into_raw`] left locked.
    ///
    /// # Safety
    /// This thread took the lock for writing, gave up the guard with `into_raw`, and unlocks once for it.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub unsafe fn unlock_write_raw(&self) {
        lockdep::released(self.address(), Kind::Write);
        // SAFETY: held for writing by this thread (this function's contract).
        unsafe { self.raw.unlock_write() };
    }
}

impl<const RANK: u8> Default for RwSem<RANK> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const RANK: u8> core::fmt::Debug for RwSem<RANK> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RwSem").field("rank", &RANK).finish_non_exhaustive()
    }
}

/// A [`RwSem`] held for reading.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct ReadGuard<'a, const RANK: u8> {
    sem: &'a RwSem<RANK>,
    not_send: NotSend,
}

impl<const RANK: u8> ReadGuard<'_, RANK> {
    /// Leaves it locked. [`RwSem::unlock_read_raw`] unlocks, on the same thread.
    #[inline]
    pub fn into_raw(self) {
        let _ = ManuallyDrop::new(self);
    }
}

impl<const RANK: u8> Drop for ReadGuard<'_, RANK> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a guard is made by whoever took the lock for reading, stays on that thread, and is dropped once.
        unsafe { self.sem.unlock_read_raw() };
    }
}

/// A [`RwSem`] held for writing.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct WriteGuard<'a, const RANK: u8> {
    sem: &'a RwSem<RANK>,
    not_send: NotSend,
}

impl<'a, const RANK: u8> WriteGuard<'a, RANK> {
    /// Leaves it locked. [`RwSem::unlock_write_raw`] unlocks, on the same thread.
    #[inline]
    pub fn into_raw(self) {
        let _ = ManuallyDrop::new(self);
    }

    /// Lets readers in. No writer gets in between.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn downgrade(self) -> ReadGuard<'a, RANK> {
        let sem = ManuallyDrop::new(self).sem;
        lockdep::downgraded(sem.address());
        // SAFETY: the guard, given up without unlocking, was made by this thread when it took the lock for writing.
        unsafe { sem.raw.downgrade() };
        ReadGuard { sem, not_send: PhantomData }
    }
}

impl<const RANK: u8> Drop for WriteGuard<'_, RANK> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a guard is made by whoever took the lock for writing, stays on that thread, and is dropped once.
        unsafe { self.sem.unlock_write_raw() };
    }
}
