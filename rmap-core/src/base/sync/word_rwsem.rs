//! The reader-writer lock under [`RwSem`](super::RwSem): one word, and a count of waiters beside it.
//!
//! | bits of the word | meaning | who changes them |
//! |---|---|---|
//! | 0..=27 | readers inside | readers come and go; a downgrade makes the writer one |
//! | `WRITER` | a writer is inside; no readers are | the writer |
//! | `WRITER_WAITS` | a writer wants in: new readers stay out | waiting writers set it; the one that gets in clears it, and others set it again |
//! | `PARKED` | somebody sleeps in the queue of this word, or is about to | a waiter sets it, under the queue's lock; whoever empties the queue clears it |
//!
//! A wake-up wakes all: readers get in together, and of writers one does. A waiting writer keeps new readers out, so a recursive
//! read would deadlock; a debug build reports it before it happens.

use super::atomic::{AtomicU32, Ordering};
use super::parking::{self, Spin};
use crate::base::mutant::mutant;

const WRITER: u32 = 1 << 31;
const PARKED: u32 = 1 << 30;
const WRITER_WAITS: u32 = 1 << 29;
const READERS: u32 = (1 << 28) - 1;

pub(crate) struct WordRwSem {
    word: AtomicU32,
    /// Threads on the slow path. Relaxed: a hint.
    waiters: AtomicU32,
}

impl WordRwSem {
    super::const_unless_loom! {
        pub(crate) fn new() -> Self {
            Self { word: AtomicU32::new(0), waiters: AtomicU32::new(0) }
        }
    }

    #[inline]
    pub(crate) fn read(&self) {
        if !self.try_read() {
            self.read_slow();
        }
    }

    #[inline]
    pub(crate) fn try_read(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & (WRITER | WRITER_WAITS) == 0 {
            // Acquire; pairs with the Release in `unlock_write` and `downgrade`.
            match self.word.compare_exchange_weak(word, word + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    #[inline]
    pub(crate) fn write(&self) {
        // Acquire; pairs with the Release in `unlock_read` and `unlock_write`.
        if self.word.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.write_slow();
        }
    }

    #[inline]
    pub(crate) fn try_write(&self) -> bool {
        // Acquire; pairs with the Release in `unlock_read` and `unlock_write`. Sleepers stay known.
        self.word
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
                (word & (WRITER | READERS) == 0).then_some(WRITER | (word & PARKED))
            })
            .is_ok()
    }

    #[cold]
    fn read_slow(&self) {
        self.wait(WRITER | WRITER_WAITS, 0, Self::try_read);
    }

    #[cold]
    fn write_slow(&self) {
        self.wait(WRITER | READERS, WRITER_WAITS, Self::try_write);
    }

    /// Tries until it succeeds; sleeps while any bit of `blockers` is set. `wish` is set while waiting.
    fn wait(&self, blockers: u32, wish: u32, attempt: fn(&Self) -> bool) {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        let mut spin = Spin::new();
        while !attempt(self) {
            if wish != 0 {
                self.word.fetch_or(wish, Ordering::Relaxed);
            }
            if spin.spin() {
                continue;
            }
            // Under the queue's lock: while a blocker is set, whoever clears the last one sees `PARKED` and comes to the queue.
            // Relaxed: the queue's lock orders this with `wake`, and both are read-modify-writes of one word.
            parking::park(self.key(), || {
                self.word
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                        (word & blockers != 0).then_some(word | PARKED | wish)
                    })
                    .is_ok()
            });
            spin.reset();
        }
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }

    fn key(&self) -> usize {
        core::ptr::from_ref(&self.word).addr()
    }

    #[cold]
    fn wake(&self) {
        parking::unpark_all(self.key(), || {
            // Relaxed: under the queue's lock, as in `wait`.
            self.word.fetch_and(!PARKED, Ordering::Relaxed);
        });
    }

    /// # Safety
    /// This thread holds the lock for reading.
    #[inline]
    pub(crate) unsafe fn unlock_read(&self) {
        // Release; pairs with the Acquire in `try_write`.
        let was = self.word.fetch_sub(1, Ordering::Release);
        debug_assert!(was & READERS != 0, "unlocked, but not read-locked");
        let last = was & READERS == 1 && !mutant("rwsem_lost_wakeup");
        if was & PARKED != 0 && last {
            self.wake();
        }
    }

    /// # Safety
    /// This thread holds the lock for writing.
    #[inline]
    pub(crate) unsafe fn unlock_write(&self) {
        // Release; pairs with the Acquire in `try_read` and `try_write`.
        let was = self.word.fetch_and(!WRITER, Ordering::Release);
        debug_assert!(was & WRITER != 0, "unlocked, but not write-locked");
        if was & PARKED != 0 {
            self.wake();
        }
    }

    /// # Safety
    /// This thread holds the lock for writing.
    #[inline]
    pub(crate) unsafe fn downgrade(&self) {
        // Release; pairs with the Acquire in `try_read`. The writer goes and one reader comes in one step.
        let was = self.word.fetch_sub(WRITER - 1, Ordering::Release);
        debug_assert!(was & WRITER != 0, "downgraded, but not write-locked");
        if was & PARKED != 0 {
            self.wake();
        }
    }

    #[inline]
    pub(crate) fn waiters(&self) -> u32 {
        self.waiters.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & (WRITER | READERS) != 0
    }

    #[inline]
    pub(crate) fn is_write_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WRITER != 0
    }
}
