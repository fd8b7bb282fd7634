//! Grace periods: what readers may still see is freed only after they have left.
//!
//! A reader brackets its reads with [`Rcu::read_lock`], which is wait-free: one load and one addition. A writer unlinks
//! an object, so that no new reader finds it, and [retires](Rcu::retire) it; a named function, [`Rcu::reclaim`], frees
//! it once all readers that might have found it have left. Nothing is freed inside `read_lock` or `retire`, no thread
//! registers, nothing is allocated, and the only thread-local is the [`stripe`], which has no destructor: an allocator
//! can link this.
//!
//! # The counters
//!
//! Readers inside are counted in `readers[i][s]`: `i` is what the reader read from `index` when it came, `s` its
//! thread's stripe. The guard remembers both, so a reader leaves the counter that it entered, wherever it is dropped:
//! **each counter by itself is the number of readers inside that entered through it**, never a part of a sum.
//!
//! # Why a zero test of each counter is enough
//!
//! A **zero test** is an atomic read-modify-write of a counter that adds 0 and finds 0. All changes of a counter are
//! read-modify-writes, so a zero test has a place among them, and a reader through that counter is on one side of it:
//!
//! - It entered *before* the test. It has left before it too, or the test would not have found 0. Leaving is a Release, the test an
//!   Acquire, and only read-modify-writes lie between, so what the reader did happens before what follows the test.
//! - It entered *after* the test. The test is a Release, entering an Acquire, and only read-modify-writes lie between, so what
//!   came before the test happens before what the reader does: it sees the object unlinked.
//!
//! So an object unlinked before a zero test of every one of the 2 * [`STRIPES`] counters is out of reach after the last
//! of them. The tests need not happen at one moment: each speaks for the readers of its counter alone, and every reader
//! has exactly one. No fence and no sequentially consistent access takes part; what `index` says does not matter
//! either.
//!
//! # Why two phases
//!
//! `index` is about progress. With one counter per stripe, readers that overlap could keep it above 0 for ever. So
//! readers are sent to `readers[index]`, the other half drains (the first phase), then `index` is **flipped** and the
//! half that readers came through so far drains (the second phase). At most one flip per grace period, none when nobody
//! reads.
//!
//! Waiting for the second phase alone is wrong, and it is tempting, because after a flip "everybody before the flip is
//! in the old half". But a reader can load `index`, pause while a whole grace period flips it and finds the half empty,
//! and then enter the half that is by now the other one. It is inside, sees whatever is linked at that time, and the
//! next grace period, waiting only for the half that its own flip made old, does not wait for it. The first phase does.
//! The mutant `rcu_single_flip` leaves it out; the model `rcu_stale_index` is this story, and fails. (Others fail too,
//! because the untested half gives its readers nothing to acquire; with an ordered `index` this one alone does.)
//!
//! # Progress
//!
//! `read_lock` and dropping its guard are wait-free, `retire` is lock-free. `reclaim` does not wait: it tests counters
//! that have not yet been found 0 since the batch was closed, and comes back with what it could free. `synchronize` and
//! `drain` wait for readers.

mod retired;
#[cfg(all(test, not(loom)))]
pub(crate) mod tests;

pub use retired::{FreeFn, RetireHead};

use super::lockdep;
use super::mutant::mutant;
use super::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use super::sync::{Backoff, CachePadded, Mutex, STRIPES, rank, stripe};
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

/// What threads of one stripe write: on a cache line of its own.
struct Stripe {
    /// Readers inside, by the index that they entered with.
    readers: [AtomicUsize; 2],
    /// Objects retired since the last batch was closed: a stack.
    retired: AtomicPtr<RetireHead>,
}

/// The state of the grace period in progress.
struct Grace {
    /// Objects retired before the period began; null when there are none.
    closed: *mut RetireHead,
    /// For each half a bit per stripe whose counter has not been found 0 since the period began.
    pending: [u32; 2],
}

// SAFETY: the objects on `closed` belong to the domain; that they may be freed on any thread is a condition of
// `Rcu::retire`.
unsafe impl Send for Grace {}

/// Every stripe.
const ALL: u32 = (1 << STRIPES) - 1;

/// A grace-period domain: readers of one never delay another.
pub struct Rcu {
    /// The half that readers enter, 0 or 1. Written under `grace`. Relaxed: any value is safe, see the module.
    index: CachePadded<AtomicUsize>,
    /// Whether there may be objects that are not yet freed. Mostly read.
    backlog: CachePadded<AtomicBool>,
    stripes: [CachePadded<Stripe>; STRIPES],
    /// Held while a grace period is begun, advanced and ended, not while objects are freed.
    grace: Mutex<Grace, { rank::LEAF }>,
}

impl Rcu {
    /// A domain with nobody inside and nothing retired.
    pub fn new() -> Self {
        #[cfg(any(loom, shuttle))]
        stripe();
        Self {
            index: CachePadded(AtomicUsize::new(0)),
            backlog: CachePadded(AtomicBool::new(false)),
            stripes: core::array::from_fn(|_| {
                CachePadded(Stripe {
                    readers: [AtomicUsize::new(0), AtomicUsize::new(0)],
                    retired: AtomicPtr::new(ptr::null_mut()),
                })
            }),
            grace: Mutex::new(Grace { closed: ptr::null_mut(), pending: [0; 2] }),
        }
    }

    #[inline]
    fn address(&self) -> usize {
        ptr::from_ref(self).addr()
    }

    /// Enters: what is linked now, or later, is not freed before the guard is dropped. Wait-free. May be nested.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn read_lock(&self) -> RcuGuard<'_> {
        lockdep::reader_enters(self.address());
        // Relaxed: any value is safe, see the module. The mask tells the compiler the bound.
        let index = self.index.load(Ordering::Relaxed) & 1;
        let readers = &self.stripes[stripe()].readers[index];
        let entering = if mutant("rcu_relaxed_entry") { Ordering::Relaxed } else { Ordering::Acquire };
        // Acquire; pairs with the Release of an earlier zero test in `Rcu::test`: what was unlinked before is seen
        // unlinked.
        readers.fetch_add(1, entering);
        RcuGuard { rcu: self, readers, not_send: PhantomData }
    }

    /// Hands over an object to be freed when the readers inside have left. Lock-free; frees nothing itself, so somebody
    /// must call [`reclaim`](Self::reclaim) from time to time.
    ///
    /// # Safety
    /// 1. The object around `head` is unlinked: readers that enter from now on do not find it.
    /// 2. It is retired once, and stays valid until `head.free` is called.
    /// 3. `head.free` may be called with `head` and `head.ctx` on any thread.
    pub unsafe fn retire(&self, head: NonNull<RetireHead>) {
        let list = &self.stripes[stripe()].retired;
        let mut first = list.load(Ordering::Relaxed);
        loop {
            // SAFETY: (1) the object is valid until it is freed; (2) its `next` is this thread's until the
            // compare-exchange publishes it, as it is retired once. Both are conditions of this function.
            unsafe { head.as_ref().next.with_mut(|next| *next = first) };
            // Release; pairs with the Acquire in `close`: what this thread did to the object, unlinking it included,
            // comes before the grace period. Acquire; pairs with the Release in `close`: see `backlog` below.
            match list.compare_exchange_weak(first, head.as_ptr(), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => first = now,
            }
        }
        // `close` clears `backlog` and then takes the lists. If it took this one before the object was on it, then the
        // compare-exchange above acquired its swap, and this load sees `false` or what another `retire` has set since.
        // Relaxed: as said.
        if !self.backlog.load(Ordering::Relaxed) {
            self.backlog.swap(true, Ordering::Relaxed);
        }
    }

    /// Frees a batch of retired objects if all readers that might see them have left, and closes the next batch. Does
    /// not wait: for readers that have not left, somebody has to call it again. Returns how many objects it freed.
    ///
    /// Context: no lock of this library held, because objects' free functions are called.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn reclaim(&self) -> usize {
        lockdep::assert_no_locks("reclaim");
        // Relaxed: a hint; whoever retires sets it, and a later call sees it.
        if !self.backlog.load(Ordering::Relaxed) {
            return 0;
        }
        let Some(mut grace) = self.grace.try_lock() else {
            return 0;
        };
        if grace.closed.is_null() && !self.close(&mut grace) {
            return 0;
        }
        if !self.advance(&mut grace) {
            return 0;
        }
        let batch = core::mem::replace(&mut grace.closed, ptr::null_mut());
        self.close(&mut grace);
        drop(grace);
        // SAFETY: the batch was closed before the grace period that `advance` ended, and was taken out by this thread.
        unsafe { retired::free(batch) }
    }

    /// Waits until every reader that is inside now has left. Readers that enter meanwhile do not delay it.
    ///
    /// Context: may sleep; not inside a reader of this domain, nor under a lock that a reader may wait for.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn synchronize(&self) {
        lockdep::assert_no_reader(self.address(), "synchronize");
        let mut grace = self.grace.lock();
        // A batch closed before loses the zero tests made for it so far, and gains those made now: it is freed by the
        // next `reclaim`.
        self.begin(&mut grace);
        self.wait(&mut grace);
    }

    /// Waits as [`synchronize`](Self::synchronize) does, and frees everything retired before the call. What the free
    /// functions retire in turn is left for the next call. Returns how many objects it freed.
    ///
    /// Context: as for `synchronize`, and no lock of this library held.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn drain(&self) -> usize {
        lockdep::assert_no_locks("drain");
        lockdep::assert_no_reader(self.address(), "drain");
        let mut grace = self.grace.lock();
        let earlier = core::mem::replace(&mut grace.closed, ptr::null_mut());
        self.close(&mut grace);
        self.begin(&mut grace);
        self.wait(&mut grace);
        let batch = core::mem::replace(&mut grace.closed, ptr::null_mut());
        drop(grace);
        // SAFETY: both lists were closed before the grace period that `begin` began and `wait` saw the end of, and were
        // taken out by this thread.
        unsafe { retired::free(earlier) + retired::free(batch) }
    }

    /// Takes what was retired so far as the batch of a new grace period. Returns whether there was any.
    fn close(&self, grace: &mut Grace) -> bool {
        debug_assert!(grace.closed.is_null());
        // Cleared before the lists are taken; see `retire`. Relaxed: the swaps below publish it. All writes of
        // `backlog` are read-modify-writes, so that they have one order, under loom too.
        self.backlog.swap(false, Ordering::Relaxed);
        for stripe in &self.stripes {
            // Acquire; pairs with the Release in `retire`: the objects are unlinked before the period begins. Release;
            // pairs with the Acquire in `retire`: whoever retires after this sees `backlog` cleared.
            let list = if mutant("rcu_close_in_two_steps") {
                let list = stripe.retired.load(Ordering::Acquire);
                stripe.retired.store(ptr::null_mut(), Ordering::Release);
                list
            } else {
                stripe.retired.swap(ptr::null_mut(), Ordering::AcqRel)
            };
            grace.closed = retired::join(list, grace.closed);
        }
        if grace.closed.is_null() {
            return false;
        }
        self.backlog.swap(true, Ordering::Relaxed);
        self.begin(grace);
        true
    }

    /// Begins a grace period: every counter has yet to be found 0.
    fn begin(&self, grace: &mut Grace) {
        grace.pending = [ALL; 2];
        if mutant("rcu_single_flip") {
            // Waits only for the half that readers came through so far.
            let active = self.index.load(Ordering::Relaxed);
            grace.pending[active ^ 1] = 0;
            self.index.store(active ^ 1, Ordering::Relaxed);
        }
    }

    /// Tests the counters that have not yet been found 0 in this grace period. Returns whether it is over.
    fn advance(&self, grace: &mut Grace) -> bool {
        if mutant("rcu_no_grace_period") {
            return true;
        }
        // Relaxed: written under `grace`, which this thread holds.
        let active = self.index.load(Ordering::Relaxed);
        let idle = active ^ 1;
        self.test(idle, &mut grace.pending[idle]);
        self.test(active, &mut grace.pending[active]);
        if grace.pending[active] == 0 {
            return grace.pending[idle] == 0;
        }
        if grace.pending[idle] == 0 {
            // The first phase is over: send new readers to the half that is drained, so that the other one drains too.
            // Relaxed: a reader that still sees the old value is waited for, or sees the unlinking, like any other.
            self.index.store(idle, Ordering::Relaxed);
        }
        false
    }

    /// Zero tests of the half `index`; clears the bits of the stripes that passed.
    fn test(&self, index: usize, pending: &mut u32) {
        for (s, stripe) in self.stripes.iter().enumerate() {
            if *pending & (1 << s) == 0 {
                continue;
            }
            let readers = &stripe.readers[index];
            // Acquire; pairs with the Release in the guard's drop: readers that have left, have finished reading.
            // Release; pairs with the Acquire in `read_lock`: readers that enter later see what was unlinked before. A
            // plain load would give no later reader anything to acquire; the mutant shows it.
            let inside = if mutant("rcu_load_test") {
                readers.load(Ordering::Acquire)
            } else {
                readers.fetch_add(0, Ordering::AcqRel)
            };
            if inside == 0 || mutant("rcu_no_wait") {
                *pending &= !(1 << s);
            }
        }
    }

    /// Waits for the grace period in progress to end.
    fn wait(&self, grace: &mut Grace) {
        let mut backoff = Backoff::new();
        while !self.advance(grace) {
            backoff.wait();
        }
    }

    /// Whether no object waits to be freed. Of the past when other threads retire.
    pub fn is_empty(&self) -> bool {
        self.grace.lock().closed.is_null()
            // Relaxed: a hint.
            && self.stripes.iter().all(|stripe| stripe.retired.load(Ordering::Relaxed).is_null())
    }
}

impl Default for Rcu {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Rcu {
    /// Frees what is retired. Guards borrow the domain, so nobody is inside; a guard that was forgotten instead of
    /// dropped still is, and is waited for, for ever. Free functions that retire again come too late here: an owner
    /// whose objects do that calls [`drain`](Rcu::drain) until [`is_empty`](Rcu::is_empty) first.
    fn drop(&mut self) {
        self.drain();
        debug_assert!(self.is_empty(), "retired by a free function while the domain is dropped");
    }
}

impl core::fmt::Debug for Rcu {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Rcu").finish_non_exhaustive()
    }
}

/// A reader inside a domain. Dropping it leaves.
#[must_use = "the reader leaves when the guard is dropped"]
pub struct RcuGuard<'a> {
    rcu: &'a Rcu,
    /// The counter that it entered through.
    readers: &'a AtomicUsize,
    /// Debug builds record readers per thread.
    not_send: PhantomData<*mut ()>,
}

impl<'a> RcuGuard<'a> {
    /// The domain that it is inside.
    #[inline]
    pub fn rcu(&self) -> &'a Rcu {
        self.rcu
    }
}

impl Drop for RcuGuard<'_> {
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    fn drop(&mut self) {
        lockdep::reader_leaves(self.rcu.address());
        // Release; pairs with the Acquire of a later zero test in `Rcu::test`: what this reader read, it has read by
        // then.
        self.readers.fetch_sub(1, Ordering::Release);
    }
}

impl core::fmt::Debug for RcuGuard<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RcuGuard").finish_non_exhaustive()
    }
}
