//! Where threads sleep that wait for a lock: queues by the address of the lock's word.
//!
//! A lock is one word; the rest of what waiting needs lives here, for as long as somebody waits. A sleeper is a node on
//! its own stack, so nothing is allocated, and no thread-local has a destructor (which would make the C library call
//! `calloc`).
//!
//! | built | a waiter |
//! |---|---|
//! | with `std` | spins for some microseconds, then sleeps in one of 64 queues |
//! | without | spins on: there is nobody to sleep with |
//! | with `--cfg loom` or `--cfg shuttle` | sleeps at once, in a modelled queue: a wake-up that is lost is a deadlock that the model reports |

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub(super) use queues::{Spin, park, unpark_all, unpark_one};

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod queues {
    use crate::base::sync::CachePadded;
    use core::cell::Cell;
    use core::ptr;
    use std::sync::PoisonError;
    #[cfg(not(rmap_tsan))]
    use std::sync::{Condvar, Mutex, MutexGuard};

    #[cfg(rmap_tsan)]
    use crate::base::sync::told::{Condvar, Mutex, MutexGuard};

    /// A waiter's patience before it sleeps: about as long as to sleep and wake.
    pub(in super::super) struct Spin(u32);

    impl Spin {
        /// Round n pauses 2^n times, up to 2^5: then a look at the word takes nothing from who works under the lock,
        /// and finds out soon enough.
        const LONGEST: u32 = 5;
        const ROUNDS: u32 = 36;
        /// Rounds that take about as long as a walk of a thousand mappings.
        const LONG: u32 = 12;

        pub(in super::super) fn new() -> Self {
            Self(0)
        }

        /// Waits a little. Returns whether that is still worth it.
        pub(in super::super) fn spin(&mut self) -> bool {
            if self.0 >= Self::ROUNDS {
                return false;
            }
            for _ in 0..1 << self.0.min(Self::LONGEST) {
                core::hint::spin_loop();
            }
            self.0 += 1;
            true
        }

        /// Whether it has waited for some microseconds.
        pub(in super::super) fn is_long(&self) -> bool {
            self.0 >= Self::LONG
        }

        pub(in super::super) fn reset(&mut self) {
            self.0 = 0;
        }
    }

    /// A thread that sleeps, on that thread's stack. All of it is used under the queue's lock.
    struct Sleeper {
        key: usize,
        next: Cell<*const Sleeper>,
        woken: Cell<bool>,
        wake: Condvar,
    }

    /// Sleepers, oldest first.
    struct Queue(Cell<*const Sleeper>);

    // SAFETY: the sleepers are used under the queue's lock, and stay on their stacks until they were taken out under
    // it.
    unsafe impl Send for Queue {}

    const QUEUES: usize = 64;
    static LOT: [CachePadded<Mutex<Queue>>; QUEUES] =
        [const { CachePadded(Mutex::new(Queue(Cell::new(ptr::null())))) }; QUEUES];

    fn queue(key: usize) -> MutexGuard<'static, Queue> {
        // Fibonacci hashing: the high bits of the product mix all bits of the address.
        let mixed = (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        LOT[mixed as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps in the queue of `key` until woken, if `validate`, called under the queue's lock, says so.
    pub(in super::super) fn park(key: usize, validate: impl FnOnce() -> bool) {
        let mut queue = queue(key);
        if !validate() {
            return;
        }
        let sleeper = Sleeper { key, next: Cell::new(ptr::null()), woken: Cell::new(false), wake: Condvar::new() };
        let mut last = &queue.0;
        // SAFETY: every node of the queue is alive: its thread sleeps until it was taken out.
        while let Some(node) = unsafe { last.get().as_ref() } {
            last = &node.next;
        }
        last.set(&raw const sleeper);
        while !sleeper.woken.get() {
            queue = sleeper.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes up to `most` sleepers of `key` out, wakes them, and calls `woken` under the queue's lock with whether more
    /// are left.
    fn unpark(key: usize, most: usize, woken: impl FnOnce(bool)) {
        let queue = queue(key);
        let (mut left, mut more) = (most, false);
        let mut link = &queue.0;
        // SAFETY: every node of the queue is alive, as in `park`. One that was taken out is not touched again after
        // `notify_one`: it can go on only when this queue's lock is free.
        while let Some(node) = unsafe { link.get().as_ref() } {
            if node.key != key {
                link = &node.next;
            } else if left == 0 {
                more = true;
                break;
            } else {
                link.set(node.next.get());
                node.woken.set(true);
                node.wake.notify_one();
                left -= 1;
            }
        }
        woken(more);
    }

    /// Wakes the oldest sleeper of `key`; calls `woken` under the queue's lock, with whether more are left.
    pub(in super::super) fn unpark_one(key: usize, woken: impl FnOnce(bool)) {
        unpark(key, 1, woken);
    }

    /// Wakes all sleepers of `key`; calls `woken` under the queue's lock.
    pub(in super::super) fn unpark_all(key: usize, woken: impl FnOnce()) {
        unpark(key, usize::MAX, |_| woken());
    }
}

#[cfg(all(not(feature = "std"), not(any(loom, shuttle))))]
pub(super) use spinning::{Spin, park, unpark_all, unpark_one};

#[cfg(all(not(feature = "std"), not(any(loom, shuttle))))]
mod spinning {
    use crate::base::sync::Backoff;

    pub(in super::super) struct Spin {
        backoff: Backoff,
        rounds: u32,
    }

    impl Spin {
        const ROUNDS: u32 = 36;
        const LONG: u32 = 12;

        pub(in super::super) fn new() -> Self {
            Self { backoff: Backoff::new(), rounds: 0 }
        }

        /// Waits a little. Returns whether its patience lasts: without anybody to sleep with, a new one begins.
        pub(in super::super) fn spin(&mut self) -> bool {
            self.backoff.wait();
            self.rounds += 1;
            self.rounds < Self::ROUNDS
        }

        pub(in super::super) fn is_long(&self) -> bool {
            self.rounds >= Self::LONG
        }

        pub(in super::super) fn reset(&mut self) {
            self.rounds = 0;
        }
    }

    /// Comes back at once.
    pub(in super::super) fn park(_key: usize, _validate: impl FnOnce() -> bool) {}

    pub(in super::super) fn unpark_one(_key: usize, _woken: impl FnOnce(bool)) {}

    pub(in super::super) fn unpark_all(_key: usize, _woken: impl FnOnce()) {}
}

#[cfg(any(loom, shuttle))]
pub(super) use modelled::{Spin, park, unpark_all, unpark_one};

#[cfg(any(loom, shuttle))]
mod modelled {
    #[cfg(loom)]
    use loom::{
        lazy_static,
        sync::{Condvar, Mutex},
    };
    #[cfg(shuttle)]
    use shuttle::{
        lazy_static,
        sync::{Condvar, Mutex},
    };
    use std::vec::Vec;

    #[derive(Default)]
    struct Lot {
        /// Key and ticket of each sleeper, oldest first.
        queue: Vec<(usize, usize)>,
        tickets: usize,
    }

    lazy_static! {
        static ref LOT: Mutex<Lot> = Mutex::new(Lot::default());
        static ref CHANGED: Condvar = Condvar::new();
    }

    /// A model gains nothing from spinning.
    pub(in super::super) struct Spin;

    impl Spin {
        pub(in super::super) fn new() -> Self {
            Self
        }

        #[allow(clippy::unused_self)]
        pub(in super::super) fn spin(&mut self) -> bool {
            false
        }

        #[allow(clippy::unused_self)]
        pub(in super::super) fn is_long(&self) -> bool {
            false
        }

        #[allow(clippy::unused_self)]
        pub(in super::super) fn reset(&mut self) {}
    }

    pub(in super::super) fn park(key: usize, validate: impl FnOnce() -> bool) {
        let mut lot = LOT.lock().expect("a model's mutex has no poison");
        if !validate() {
            return;
        }
        let ticket = lot.tickets;
        lot.tickets += 1;
        lot.queue.push((key, ticket));
        while lot.queue.contains(&(key, ticket)) {
            lot = CHANGED.wait(lot).expect("a model's mutex has no poison");
        }
    }

    pub(in super::super) fn unpark_one(key: usize, woken: impl FnOnce(bool)) {
        let mut lot = LOT.lock().expect("a model's mutex has no poison");
        if let Some(first) = lot.queue.iter().position(|sleeper| sleeper.0 == key) {
            lot.queue.remove(first);
        }
        woken(lot.queue.iter().any(|sleeper| sleeper.0 == key));
        CHANGED.notify_all();
    }

    pub(in super::super) fn unpark_all(key: usize, woken: impl FnOnce()) {
        let mut lot = LOT.lock().expect("a model's mutex has no poison");
        lot.queue.retain(|sleeper| sleeper.0 != key);
        woken();
        CHANGED.notify_all();
    }
}
