//! std's mutex and condition variable, and what they order told once more in an atomic.
//!
//! ThreadSanitizer knows of an order only from code that was compiled for it, and std was not: whoever gets a contended
//! mutex gets it in a function of std's, and whoever waits for a condition gives the mutex back and takes it again there.
//! What the mutex guards then looks like a race. Here each holder changes a counter before it gives the mutex up, and
//! reads it when it has it: the same order, and no other, for both happen under the mutex.

use super::atomic::{AtomicUsize, Ordering};
use core::ops::Deref;
use std::sync::{self, LockResult, PoisonError};

pub(super) struct Mutex<T> {
    /// Holders so far.
    held: AtomicUsize,
    real: sync::Mutex<T>,
}

pub(super) struct MutexGuard<'a, T> {
    held: &'a AtomicUsize,
    /// Taken out while its thread waits.
    real: Option<sync::MutexGuard<'a, T>>,
}

impl<'a, T> MutexGuard<'a, T> {
    fn new(held: &'a AtomicUsize, real: sync::MutexGuard<'a, T>) -> Self {
        // Acquire; pairs with the Release in `drop`.
        held.load(Ordering::Acquire);
        Self { held, real: Some(real) }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // Release; pairs with the Acquire in `new`.
        self.held.fetch_add(1, Ordering::Release);
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.real.as_ref().expect("held")
    }
}

impl<T> Mutex<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { held: AtomicUsize::new(0), real: sync::Mutex::new(value) }
    }

    pub(super) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let real = self.real.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard::new(&self.held, real))
    }
}

pub(super) struct Condvar(sync::Condvar);

impl Condvar {
    pub(super) const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    pub(super) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let (held, real) = (guard.held, guard.real.take().expect("held"));
        drop(guard);
        let real = self.0.wait(real).unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard::new(held, real))
    }

    pub(super) fn notify_one(&self) {
        self.0.notify_one();
    }
}
