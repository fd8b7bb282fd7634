//! Atomics and locks. This folder alone names `core::sync::atomic`, `loom` and `shuttle`.
//!
//! | file | what it is |
//! |---|---|
//! | `rwsem`, `mutex`, `spin` | the locks that carry their [`rank`] in their type |
//! | [`bit_lock`] | a lock in a word that has other uses: the page lock |
//! | `word_rwsem`, `word_lock` | the words under them |
//! | `parking` | where waiters sleep |
//! | `told` | std's locks under `parking`, for ThreadSanitizer |
//! | `model` | what stands for the words in loom's models of other things |
//!
//! | built | atomics | locks | explored |
//! |---|---|---|---|
//! | as usual | core's | words | nothing: threads of the system run as they do |
//! | with `--cfg loom` | loom's | stand-ins; the words in models of their own | all executions of a small model, weak memory included |
//! | with `--cfg shuttle` | shuttle's | words, over shuttle's atomics | random interleavings of a whole machine, sequentially consistent |
//!
//! A debug build checks the order of ranks ([`lockdep`]). Nothing here allocates, in the slow path neither, and no
//! thread-local has a destructor: so a library that an allocator links never calls `malloc` behind its back, which
//! `parking_lot` does for each thread that sleeps (the C library registers its thread-local's destructor with
//! `calloc`).

use super::lockdep;

pub mod bit_lock;
#[cfg(loom)]
mod model;
mod mutex;
mod parking;
mod rwsem;
mod spin;
#[cfg(rmap_tsan)]
mod told;
mod word_lock;
pub(crate) mod word_rwsem;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

pub use mutex::{Mutex, MutexGuard};
pub use rwsem::{ReadGuard, RwSem, WriteGuard};
pub use spin::{SpinGuard, SpinLock};

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

#[cfg(all(debug_assertions, feature = "std", not(loom)))]
pub use super::lockdep::audit;

/// A function that is `const` except under loom, whose objects register with the running model.
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:tt)*) -> $ret:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$meta])* $vis const fn $name($($arg)*) -> $ret $body
        #[cfg(loom)]
        $(#[$meta])* $vis fn $name($($arg)*) -> $ret $body
    };
}
pub(crate) use const_unless_loom;

/// Atomics: core's, loom's or shuttle's.
pub mod atomic {
    #[cfg(not(any(loom, shuttle)))]
    pub use core::hint::spin_loop;
    #[cfg(not(any(loom, shuttle)))]
    pub use core::sync::atomic::{
        AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
        compiler_fence, fence,
    };
    #[cfg(loom)]
    pub use loom::hint::spin_loop;
    #[cfg(loom)]
    pub use loom::sync::atomic::{
        AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    #[cfg(shuttle)]
    pub use shuttle::hint::spin_loop;
    #[cfg(shuttle)]
    pub use shuttle::sync::atomic::{
        AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
        compiler_fence, fence,
    };
}

/// Interior mutability with loom's interface: accesses are closures, so that loom can see where they begin and end.
pub mod cell {
    #[cfg(loom)]
    pub use loom::cell::UnsafeCell;

    /// A cell whose accesses loom checks; otherwise core's.
    #[cfg(not(loom))]
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct UnsafeCell<T: ?Sized>(core::cell::UnsafeCell<T>);

    #[cfg(not(loom))]
    impl<T> UnsafeCell<T> {
        /// A cell that holds `value`.
        #[inline]
        pub const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        /// The value, taken out.
        #[inline]
        pub fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }

    #[cfg(not(loom))]
    impl<T: ?Sized> UnsafeCell<T> {
        /// Calls `f` with a pointer for reading.
        #[inline]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Calls `f` with a pointer for writing.
        #[inline]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

/// The order of locks: a thread takes a lock only while it holds none of the same or a higher rank. Two of one rank
/// need a `nested` acquisition, whose caller knows the order between the two.
pub mod rank {
    /// `mm.mmap_lock`. Two: parent before child in fork.
    pub const MMAP_LOCK: u8 = 1;
    /// The page lock. Two: lower page frame number first, or a try-lock; KSM: the merged page last.
    pub const PAGE_LOCK: u8 = 2;
    /// KSM's lock.
    pub const KSM: u8 = 3;
    /// Page cache and swap cache.
    pub const CACHE: u8 = 4;
    /// `address_space.i_mmap_rwsem`.
    pub const I_MMAP: u8 = 5;
    /// The root `anon_vma`'s rwsem.
    pub const ANON_VMA: u8 = 6;
    /// `mm.page_table_lock` and PTE locks. Two: address order.
    pub const PAGE_TABLE: u8 = 7;
    /// LRU, swap slots, buddy, mmlist, slabs.
    pub const LEAF: u8 = 8;
    /// The locks of `pte_chain`'s chains: nothing is taken inside.
    pub const CHAIN: u8 = 9;
}

/// `T` on a cache line of its own, so that threads that write neighbours do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct CachePadded<T>(pub T);

impl<T> Deref for CachePadded<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for CachePadded<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// The value of a word that nobody else changes now, for whoever is about to change it under a lock that readers do not
/// take.
///
/// A model counts it as a change. Between a reader's look and the change that follows, a load would stand for the last
/// access, and loom, which compares an access with the last one only, would not try them the other way round.
#[inline]
pub(crate) fn load_to_change(word: &atomic::AtomicU64) -> u64 {
    #[cfg(not(loom))]
    return word.load(atomic::Ordering::Relaxed);
    #[cfg(loom)]
    word.fetch_or(0, atomic::Ordering::Relaxed)
}

/// For whoever found that the share of `count` that it gave back, with Release like all others, was the last: Acquire;
/// pairs with the Release of each.
#[inline]
pub(crate) fn acquire_shares(count: &atomic::AtomicUsize) {
    // ThreadSanitizer does not see fences.
    #[cfg(rmap_tsan)]
    count.load(atomic::Ordering::Acquire);
    #[cfg(not(rmap_tsan))]
    {
        let _ = count;
        atomic::fence(atomic::Ordering::Acquire);
    }
}

/// Lets another thread run.
#[inline]
pub fn yield_now() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
    #[cfg(all(not(any(loom, shuttle)), feature = "std"))]
    std::thread::yield_now();
    #[cfg(all(not(any(loom, shuttle)), not(feature = "std")))]
    core::hint::spin_loop();
}

/// Spins for a short while, then yields: for waits that parking is too heavy for.
pub(crate) struct Backoff(u32);

impl Backoff {
    /// Rounds of spinning before the first yield; round n spins 2^n times.
    const SPIN_ROUNDS: u32 = 6;

    pub(crate) const fn new() -> Self {
        // A model only yields: while it spins, nobody else runs.
        Self(if cfg!(any(loom, shuttle)) { Self::SPIN_ROUNDS } else { 0 })
    }

    /// One wait.
    pub(crate) fn wait(&mut self) {
        if self.0 < Self::SPIN_ROUNDS {
            for _ in 0..1 << self.0 {
                core::hint::spin_loop();
            }
            self.0 += 1;
            return;
        }
        yield_now();
    }
}

#[cfg(loom)]
use loom::{lazy_static, thread_local};
#[cfg(shuttle)]
use shuttle::lazy_static;
/// Declares what each thread has its own of: under shuttle, whose threads are all one thread of the system, each of its
/// threads.
#[cfg(shuttle)]
pub(crate) use shuttle::thread_local;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub(crate) use std::thread_local;

/// How many ways per-thread state is split.
pub const STRIPES: usize = if cfg!(any(loom, shuttle)) { 2 } else { 16 };

/// The calling thread's stripe, below [`STRIPES`]; threads are dealt out round robin. Two threads may share one.
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
#[inline]
pub fn stripe() -> usize {
    use atomic::{AtomicUsize, Ordering};
    use core::cell::Cell;

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        // Without a destructor, so that first use does not register one (which makes the C library allocate).
        static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    #[cold]
    fn deal() -> usize {
        // Relaxed: any distribution is correct.
        let stripe = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
        STRIPE.set(stripe);
        stripe
    }

    let stripe = STRIPE.get();
    // Compared with the bound and not with the marker, so that the compiler knows the bound when the result indexes an
    // array.
    if stripe < STRIPES { stripe } else { deal() }
}

/// The calling thread's stripe: without threads of our own there is one.
#[cfg(all(not(feature = "std"), not(any(loom, shuttle))))]
#[inline]
pub fn stripe() -> usize {
    0
}

/// The calling thread's stripe in the running model.
#[cfg(any(loom, shuttle))]
pub fn stripe() -> usize {
    // A lazy static lives as long as one execution, so that each deals alike; std's atomic is invisible to the model,
    // so that dealing orders nothing. `Rcu::new` touches it first, before other threads run.
    lazy_static! {
        static ref NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    }
    thread_local! {
        static STRIPE: usize = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % STRIPES;
    }
    STRIPE.with(|stripe| *stripe)
}

/// The lock under [`Mutex`] and [`SpinLock`]: a word of its own.
#[cfg(not(loom))]
mod raw {
    use super::atomic::AtomicU32;
    use super::word_lock;
    pub(super) use super::word_rwsem::WordRwSem as RawRwSem;

    const LOCKED: u32 = 0;
    const WAITERS: u32 = 1;

    pub(super) struct RawMutex(AtomicU32);

    impl RawMutex {
        pub(super) const fn new() -> Self {
            Self(AtomicU32::new(0))
        }
        #[inline]
        pub(super) fn lock(&self) {
            word_lock::lock(&self.0, LOCKED, WAITERS);
        }
        #[inline]
        pub(super) fn try_lock(&self) -> bool {
            word_lock::try_lock(&self.0, LOCKED)
        }
        /// # Safety
        /// This thread holds the lock.
        #[inline]
        pub(super) unsafe fn unlock(&self) {
            word_lock::unlock(&self.0, LOCKED, WAITERS);
        }
        #[inline]
        pub(super) fn is_locked(&self) -> bool {
            word_lock::is_locked(&self.0, LOCKED)
        }
    }
}
#[cfg(loom)]
use model as raw;

/// Makes a guard bound to its thread, as a lock that checks its order per thread needs it.
type NotSend = PhantomData<*mut ()>;
