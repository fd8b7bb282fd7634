//! Stand-ins for models: loom explores who gets a lock, and reports a deadlock, in far fewer executions than the words
//! take. The word locks have models of their own.

use crate::base::mutant::mutant;
use core::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex, MutexGuard};

pub(super) struct RawMutex {
    /// The holder's guard; touched by the holder of `mutex` alone. Before `mutex`, so that it is dropped first.
    held: UnsafeCell<Option<MutexGuard<'static, ()>>>,
    mutex: Mutex<()>,
}

// SAFETY: `held` is touched only by the thread that holds `mutex`, see `lock` and `unlock`; `is_locked` reads it
// without, which is sound because loom runs its threads one at a time, on one thread of the system.
unsafe impl Send for RawMutex {}
// SAFETY: as for Send.
unsafe impl Sync for RawMutex {}

impl RawMutex {
    pub(super) fn new() -> Self {
        Self { held: UnsafeCell::new(None), mutex: Mutex::new(()) }
    }

    fn keep(&self, guard: MutexGuard<'_, ()>) {
        // SAFETY: only the lifetime changes. The guard refers to `self.mutex`, which outlives it: it is dropped in
        // `unlock`, or with `held`, which is dropped before `mutex`; a locked mutex is borrowed, so it does not move.
        let guard = unsafe { core::mem::transmute::<MutexGuard<'_, ()>, MutexGuard<'static, ()>>(guard) };
        // SAFETY: this thread holds `mutex`: nobody else touches `held`.
        unsafe { *self.held.get() = Some(guard) };
    }

    pub(super) fn lock(&self) {
        self.keep(self.mutex.lock().expect("loom's mutex has no poison"));
    }

    pub(super) fn try_lock(&self) -> bool {
        match self.mutex.try_lock() {
            Ok(guard) => {
                self.keep(guard);
                true
            }
            Err(_) => false,
        }
    }

    /// # Safety
    /// This thread holds the lock.
    pub(super) unsafe fn unlock(&self) {
        // SAFETY: this thread holds `mutex` (this function's contract): nobody else touches `held`.
        let guard = unsafe { (*self.held.get()).take() };
        drop(guard.expect("unlocked, but not locked"));
    }

    pub(super) fn is_locked(&self) -> bool {
        // SAFETY: threads of a model run one at a time, and none is switched away from inside `keep` and `unlock`'s
        // accesses.
        unsafe { (*self.held.get()).is_some() }
    }
}

struct State {
    readers: u32,
    writer: bool,
    waiting_readers: u32,
    waiting_writers: u32,
}

/// A waiting writer keeps new readers out, as in `parking_lot`: a recursive read shows up as a deadlock.
pub(super) struct RawRwSem {
    state: Mutex<State>,
    changed: Condvar,
}

impl RawRwSem {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State { readers: 0, writer: false, waiting_readers: 0, waiting_writers: 0 }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("loom's mutex has no poison")
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).expect("loom's mutex has no poison")
    }

    pub(super) fn read(&self) {
        let mut state = self.state();
        state.waiting_readers += 1;
        while state.writer || state.waiting_writers != 0 {
            state = self.wait(state);
        }
        state.waiting_readers -= 1;
        state.readers += 1;
    }

    pub(super) fn try_read(&self) -> bool {
        let mut state = self.state();
        if state.writer || state.waiting_writers != 0 {
            return false;
        }
        state.readers += 1;
        true
    }

    pub(super) fn write(&self) {
        let mut state = self.state();
        state.waiting_writers += 1;
        while state.writer || state.readers != 0 {
            state = self.wait(state);
        }
        state.waiting_writers -= 1;
        state.writer = true;
    }

    pub(super) fn try_write(&self) -> bool {
        let mut state = self.state();
        if state.writer || state.readers != 0 {
            return false;
        }
        state.writer = true;
        true
    }

    /// # Safety
    /// This thread holds the lock for reading.
    pub(super) unsafe fn unlock_read(&self) {
        let mut state = self.state();
        assert!(state.readers != 0, "unlocked, but not read-locked");
        state.readers -= 1;
        if state.readers == 0 {
            self.changed.notify_all();
        }
    }

    /// # Safety
    /// This thread holds the lock for writing.
    pub(super) unsafe fn unlock_write(&self) {
        let mut state = self.state();
        assert!(state.writer, "unlocked, but not write-locked");
        state.writer = false;
        self.changed.notify_all();
    }

    /// # Safety
    /// This thread holds the lock for writing.
    pub(super) unsafe fn downgrade(&self) {
        let mut state = self.state();
        assert!(state.writer, "downgraded, but not write-locked");
        state.writer = false;
        if mutant("rwsem_downgrade_gap") {
            self.changed.notify_all();
            drop(state);
            return self.read();
        }
        state.readers = 1;
        self.changed.notify_all();
    }

    pub(super) fn waiters(&self) -> u32 {
        let state = self.state();
        state.waiting_readers + state.waiting_writers
    }

    pub(super) fn is_locked(&self) -> bool {
        let state = self.state();
        state.writer || state.readers != 0
    }

    pub(super) fn is_write_locked(&self) -> bool {
        self.state().writer
    }
}
