//! The reader-writer lock under [`RwSem`](super::RwSem): one word, and a count of waiters beside it.
//!
//! | bits of the word | meaning | who changes them |
//! |---|---|---|
//! | 0..=27 | readers inside | readers come and go; a downgrade makes the writer one |
//! | `WRITER` | a writer is inside; no readers are | the writer |
//! | `WRITER_WAITS` | a writer wants in: new readers stay out, unless they are next | waiting writers set it; the one that gets in clears it, and others set it again |
//! | `READERS_NEXT` | a reader has waited long: writers let readers pass first | a waiting reader sets it while a writer is inside; the first reader that gets in clears it, or a writer that runs out of patience |
//! | `PARKED` | somebody sleeps in the queue of this word, or is about to | a waiter sets it, under the queue's lock; whoever empties the queue clears it |
//!
//! A wake-up wakes all: readers get in together, and of writers one does. A waiting writer keeps new readers out, so a
//! recursive read would deadlock; a debug build reports it before it happens.
//!
//! # Fairness
//!
//! Who comes back at once finds the word in its own cache and overtakes whoever waits. That is quick, and would starve
//! a walk beside a thread that forks and exits. So a reader that has spun for some microseconds claims the next turn. A
//! writer honours that as long as it would spin, and no longer: the reader may not be running, and nobody sleeps or
//! fails because of `READERS_NEXT` alone.

use super::atomic::{AtomicU32, Ordering};
use super::parking::{self, Spin};
use crate::base::mutant::mutant;

const WRITER: u32 = 1 << 31;
const PARKED: u32 = 1 << 30;
const WRITER_WAITS: u32 = 1 << 29;
const READERS_NEXT: u32 = 1 << 28;
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
        while word & WRITER == 0 && word & (WRITER_WAITS | READERS_NEXT) != WRITER_WAITS {
            // Acquire; pairs with the Release in `unlock_write` and `downgrade`.
            let used = if mutant("rwsem_turn_kept") { 0 } else { READERS_NEXT };
            let inside = (word & !used) + 1;
            let order = if mutant("rwsem_relaxed_read") { Ordering::Relaxed } else { Ordering::Acquire };
            match self.word.compare_exchange_weak(word, inside, order, Ordering::Relaxed) {
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
        self.write_unless(WRITER | READERS | READERS_NEXT)
    }

    /// Gets in unless one of `blockers` is set. Sleepers stay known.
    #[inline]
    fn write_unless(&self, blockers: u32) -> bool {
        // Acquire; pairs with the Release in `unlock_read` and `unlock_write`.
        self.word
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
                (word & blockers == 0).then_some(WRITER | (word & PARKED))
            })
            .is_ok()
    }

    #[cold]
    fn read_slow(&self) {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        let mut spin = Spin::new();
        while !self.try_read() {
            if spin.spin() {
                if spin.is_long() {
                    self.claim();
                }
                continue;
            }
            self.park_while(|word| {
                let stay = word & WRITER != 0 || word & (WRITER_WAITS | READERS_NEXT) == WRITER_WAITS;
                stay.then_some(Self::claimed(word) | PARKED)
            });
            spin.reset();
        }
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }

    /// Asks for the turn after the writer that is inside. Relaxed: a wish; getting in is an Acquire.
    fn claim(&self) {
        let word = self.word.load(Ordering::Relaxed);
        if Self::claimed(word) != word {
            let _ = self.word.compare_exchange(word, Self::claimed(word), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whoever claims gets in in the end, and clears it: so it is never left behind.
    fn claimed(word: u32) -> u32 {
        if word & WRITER != 0 { word | READERS_NEXT } else { word }
    }

    #[cold]
    fn write_slow(&self) {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        let mut spin = Spin::new();
        while !self.try_write() {
            if self.word.load(Ordering::Relaxed) & WRITER_WAITS == 0 {
                self.word.fetch_or(WRITER_WAITS, Ordering::Relaxed);
            }
            if spin.spin() {
                continue;
            }
            // Readers that were next have not come.
            if self.write_unless(WRITER | READERS) {
                break;
            }
            self.park_while(|word| (word & (WRITER | READERS) != 0).then_some(word | PARKED | WRITER_WAITS));
            spin.reset();
        }
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sleeps if `stay`, given the word, says what to make of it: `PARKED` set, and a blocker that is in the way.
    fn park_while(&self, stay: impl Fn(u32) -> Option<u32>) {
        // Under the queue's lock: while a blocker is set, whoever clears the last one sees `PARKED` and comes to the
        // queue. Relaxed: the queue's lock orders this with `wake`, and both are read-modify-writes of one word.
        parking::park(self.key(), || self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, stay).is_ok());
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
        if mutant("rwsem_downgrade_gap") {
            // SAFETY: the caller's contract.
            unsafe { self.unlock_write() };
            self.read();
            return;
        }
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
