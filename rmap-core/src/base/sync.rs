//! Atomics and locks. This file alone names `core::sync::atomic`, `parking_lot` and `loom`.
//!
//! | built | atomics and cells | locks |
//! |---|---|---|
//! | with `std` | core's | `parking_lot`'s raw locks |
//! | without | core's | small spin locks of our own: correct, fair enough, no more |
//! | with `--cfg loom` | loom's, each access explored | built on loom's mutex and condition variable |
//!
//! A lock carries its [`rank`] in its type, and a debug build checks the order of ranks ([`lockdep`]).
//! Nothing here allocates, and no thread-local here has a destructor. `parking_lot` does, when a thread first parks, and never on a fast
//! path: its table comes from the global allocator, and its thread-local has a destructor, whose registration makes glibc call
//! `calloc` once per thread.

use super::lockdep::{self, Kind, Order};
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
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

/// Atomics: core's, or loom's.
pub mod atomic {
    #[cfg(not(loom))]
    pub use core::hint::spin_loop;
    #[cfg(not(loom))]
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
}

use atomic::{AtomicU32, Ordering};

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

/// The order of locks: a thread takes a lock only while it holds none of the same or a higher rank. Two of one rank need a
/// `nested` acquisition, whose caller knows the order between the two.
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

/// Lets another thread run.
#[inline]
pub fn yield_now() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(all(not(loom), feature = "std"))]
    std::thread::yield_now();
    #[cfg(all(not(loom), not(feature = "std")))]
    core::hint::spin_loop();
}

/// Spins for a short while, then yields: for waits that parking is too heavy for.
pub(crate) struct Backoff(u32);

impl Backoff {
    /// Rounds of spinning before the first yield; round n spins 2^n times.
    const SPIN_ROUNDS: u32 = 6;

    pub(crate) const fn new() -> Self {
        // A model only yields: while it spins, nobody else runs.
        Self(if cfg!(loom) { Self::SPIN_ROUNDS } else { 0 })
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

/// How many ways per-thread state is split.
pub const STRIPES: usize = if cfg!(loom) { 2 } else { 16 };

/// The calling thread's stripe, below [`STRIPES`]; threads are dealt out round robin. Two threads may share one.
#[cfg(all(feature = "std", not(loom)))]
#[inline]
pub fn stripe() -> usize {
    use atomic::AtomicUsize;
    use core::cell::Cell;

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::thread_local! {
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
    // Compared with the bound and not with the marker, so that the compiler knows the bound when the result indexes an array.
    if stripe < STRIPES { stripe } else { deal() }
}

/// The calling thread's stripe: without threads of our own there is one.
#[cfg(all(not(feature = "std"), not(loom)))]
#[inline]
pub fn stripe() -> usize {
    0
}

/// The calling thread's stripe in the running model.
#[cfg(loom)]
pub fn stripe() -> usize {
    // A lazy static lives as long as one execution, so that each deals alike; std's atomic is invisible to loom, so that dealing
    // orders nothing. `Rcu::new` touches it first, before other threads run.
    loom::lazy_static! {
        static ref NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    }
    loom::thread_local! {
        static STRIPE: usize = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % STRIPES;
    }
    STRIPE.with(|stripe| *stripe)
}

/// The locks below this module's types: one backend for each way to build.
#[cfg(all(feature = "std", not(loom)))]
mod raw {
    use super::atomic::{AtomicU32, Ordering};
    use lock_api::{GuardNoSend, RawMutex as _, RawRwLock as _, RawRwLockDowngrade as _};

    pub(super) struct RawMutex(parking_lot::RawMutex);

    impl RawMutex {
        pub(super) const fn new() -> Self {
            Self(parking_lot::RawMutex::INIT)
        }

        #[inline]
        pub(super) fn lock(&self) {
            let _ = self.0.lock();
        }

        #[inline]
        pub(super) fn try_lock(&self) -> bool {
            self.0.try_lock().is_some()
        }

        /// # Safety
        /// This thread holds the lock.
        #[inline]
        pub(super) unsafe fn unlock(&self) {
            // SAFETY: this thread holds it (this function's contract); the token carries no state.
            unsafe { self.0.unlock(GuardNoSend::new()) };
        }

        #[inline]
        pub(super) fn is_locked(&self) -> bool {
            self.0.is_locked()
        }
    }

    pub(super) struct RawRwSem {
        lock: parking_lot::RawRwLock,
        /// Threads on the slow path. `parking_lot` keeps its own to itself. Relaxed: a hint.
        waiters: AtomicU32,
    }

    impl RawRwSem {
        pub(super) const fn new() -> Self {
            Self { lock: parking_lot::RawRwLock::INIT, waiters: AtomicU32::new(0) }
        }

        #[inline]
        pub(super) fn read(&self) {
            if self.lock.try_lock_shared().is_none() {
                self.read_slow();
            }
        }

        #[cold]
        fn read_slow(&self) {
            self.waiters.fetch_add(1, Ordering::Relaxed);
            let _ = self.lock.lock_shared();
            self.waiters.fetch_sub(1, Ordering::Relaxed);
        }

        #[inline]
        pub(super) fn try_read(&self) -> bool {
            self.lock.try_lock_shared().is_some()
        }

        #[inline]
        pub(super) fn write(&self) {
            if self.lock.try_lock_exclusive().is_none() {
                self.write_slow();
            }
        }

        #[cold]
        fn write_slow(&self) {
            self.waiters.fetch_add(1, Ordering::Relaxed);
            let _ = self.lock.lock_exclusive();
            self.waiters.fetch_sub(1, Ordering::Relaxed);
        }

        #[inline]
        pub(super) fn try_write(&self) -> bool {
            self.lock.try_lock_exclusive().is_some()
        }

        /// # Safety
        /// This thread holds the lock for reading.
        #[inline]
        pub(super) unsafe fn unlock_read(&self) {
            // SAFETY: this thread holds it for reading (this function's contract); the token carries no state.
            unsafe { self.lock.unlock_shared(GuardNoSend::new()) };
        }

        /// # Safety
        /// This thread holds the lock for writing.
        #[inline]
        pub(super) unsafe fn unlock_write(&self) {
            // SAFETY: this thread holds it for writing (this function's contract); the token carries no state.
            unsafe { self.lock.unlock_exclusive(GuardNoSend::new()) };
        }

        /// # Safety
        /// This thread holds the lock for writing.
        #[inline]
        pub(super) unsafe fn downgrade(&self) {
            // SAFETY: this thread holds it for writing (this function's contract); the token carries no state.
            let _ = unsafe { self.lock.downgrade(GuardNoSend::new()) };
        }

        #[inline]
        pub(super) fn waiters(&self) -> u32 {
            self.waiters.load(Ordering::Relaxed)
        }

        #[inline]
        pub(super) fn is_locked(&self) -> bool {
            self.lock.is_locked()
        }

        #[inline]
        pub(super) fn is_write_locked(&self) -> bool {
            self.lock.is_locked_exclusive()
        }
    }
}

/// Spin locks, for where there is nobody to park with.
#[cfg(all(not(feature = "std"), not(loom)))]
mod raw {
    use super::Backoff;
    use super::atomic::{AtomicBool, AtomicU32, Ordering};

    pub(super) struct RawMutex(AtomicBool);

    impl RawMutex {
        pub(super) const fn new() -> Self {
            Self(AtomicBool::new(false))
        }

        #[inline]
        pub(super) fn lock(&self) {
            let mut backoff = Backoff::new();
            while !self.try_lock() {
                backoff.wait();
            }
        }

        #[inline]
        pub(super) fn try_lock(&self) -> bool {
            // Acquire; pairs with the Release in `unlock`. The load keeps waiters from bouncing the line.
            !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Acquire)
        }

        /// # Safety
        /// This thread holds the lock.
        #[inline]
        pub(super) unsafe fn unlock(&self) {
            // Release; pairs with the Acquire in `try_lock`.
            self.0.store(false, Ordering::Release);
        }

        #[inline]
        pub(super) fn is_locked(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A writer has it. Set and cleared by that writer.
    const WRITER: u32 = 1 << 31;
    /// A writer spins, and new readers let it pass. Set by waiting writers, cleared by the one that gets in; the others set it
    /// again.
    const WRITER_WAITS: u32 = 1 << 30;

    /// | word | meaning |
    /// |---|---|
    /// | low 30 bits n | n readers |
    /// | `WRITER` | one writer, n is 0 |
    /// | `WRITER_WAITS` | readers stay out |
    pub(super) struct RawRwSem {
        word: AtomicU32,
        /// Threads that spin. Relaxed: a hint.
        waiters: AtomicU32,
    }

    impl RawRwSem {
        pub(super) const fn new() -> Self {
            Self { word: AtomicU32::new(0), waiters: AtomicU32::new(0) }
        }

        #[inline]
        pub(super) fn read(&self) {
            if !self.try_read() {
                self.wait_until(Self::try_read);
            }
        }

        #[cold]
        fn wait_until(&self, attempt: impl Fn(&Self) -> bool) {
            let mut backoff = Backoff::new();
            self.waiters.fetch_add(1, Ordering::Relaxed);
            while !attempt(self) {
                backoff.wait();
            }
            self.waiters.fetch_sub(1, Ordering::Relaxed);
        }

        #[inline]
        pub(super) fn try_read(&self) -> bool {
            // Acquire; pairs with the Release in `unlock_write` and `downgrade`.
            self.word
                .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
                    (word & (WRITER | WRITER_WAITS) == 0).then_some(word + 1)
                })
                .is_ok()
        }

        #[inline]
        pub(super) fn write(&self) {
            if !self.try_write() {
                self.wait_until(|sem| {
                    sem.word.fetch_or(WRITER_WAITS, Ordering::Relaxed);
                    sem.try_write()
                });
            }
        }

        #[inline]
        pub(super) fn try_write(&self) -> bool {
            // Acquire; pairs with the Release in `unlock_read` and `unlock_write`.
            self.word
                .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
                    (word & !WRITER_WAITS == 0).then_some(WRITER)
                })
                .is_ok()
        }

        /// # Safety
        /// This thread holds the lock for reading.
        #[inline]
        pub(super) unsafe fn unlock_read(&self) {
            // Release; pairs with the Acquire in `try_write`.
            self.word.fetch_sub(1, Ordering::Release);
        }

        /// # Safety
        /// This thread holds the lock for writing.
        #[inline]
        pub(super) unsafe fn unlock_write(&self) {
            // Release; pairs with the Acquire in `try_read` and `try_write`.
            self.word.fetch_and(!WRITER, Ordering::Release);
        }

        /// # Safety
        /// This thread holds the lock for writing.
        #[inline]
        pub(super) unsafe fn downgrade(&self) {
            // Release; pairs with the Acquire in `try_read`. `WRITER` goes and one reader comes in one step.
            self.word.fetch_sub(WRITER - 1, Ordering::Release);
        }

        #[inline]
        pub(super) fn waiters(&self) -> u32 {
            self.waiters.load(Ordering::Relaxed)
        }

        #[inline]
        pub(super) fn is_locked(&self) -> bool {
            self.word.load(Ordering::Relaxed) & !WRITER_WAITS != 0
        }

        #[inline]
        pub(super) fn is_write_locked(&self) -> bool {
            self.word.load(Ordering::Relaxed) & WRITER != 0
        }
    }
}

/// Locks for models: loom explores who gets them, and reports a deadlock.
#[cfg(loom)]
mod raw {
    use core::cell::UnsafeCell;
    use loom::sync::{Condvar, Mutex, MutexGuard};

    pub(super) struct RawMutex {
        /// The holder's guard; touched by the holder of `mutex` alone. Before `mutex`, so that it is dropped first.
        held: UnsafeCell<Option<MutexGuard<'static, ()>>>,
        mutex: Mutex<()>,
    }

    // SAFETY: `held` is touched only by the thread that holds `mutex`, see `lock` and `unlock`; `is_locked` reads it without,
    // which is sound because loom runs its threads one at a time, on one thread of the system.
    unsafe impl Send for RawMutex {}
    // SAFETY: as for Send.
    unsafe impl Sync for RawMutex {}

    impl RawMutex {
        pub(super) fn new() -> Self {
            Self { held: UnsafeCell::new(None), mutex: Mutex::new(()) }
        }

        fn keep(&self, guard: MutexGuard<'_, ()>) {
            // SAFETY: only the lifetime changes. The guard refers to `self.mutex`, which outlives it: it is dropped in `unlock`,
            // or with `held`, which is dropped before `mutex`; a locked mutex is borrowed, so it does not move.
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
            // SAFETY: threads of a model run one at a time, and none is switched away from inside `keep` and `unlock`'s accesses.
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
}

/// Makes a guard bound to its thread, as a lock that checks its order per thread needs it.
type NotSend = PhantomData<*mut ()>;

/// A reader-writer lock that can tell whether somebody waits for it: the kernel's `rw_semaphore`.
///
/// Never taken recursively, for reading neither: a waiting writer keeps new readers out.
pub struct RwSem<const RANK: u8> {
    raw: raw::RawRwSem,
}

#[cfg(all(feature = "std", not(loom)))]
const _: () = assert!(size_of::<RwSem<0>>() <= 16, "a rwsem sits in every anchor and address space");

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
        if !self.raw.try_read() {
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
        if !self.raw.try_lock() {
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

/// A lock without data, one byte: for page tables, whose entries it guards. Spins for a short while, then parks.
pub struct SpinLock<const RANK: u8> {
    raw: raw::RawMutex,
}

#[cfg(not(loom))]
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

/// Where waiters of a [`bit_lock`] sleep: queues by address.
#[cfg(all(feature = "std", not(loom)))]
mod parking {
    use parking_lot_core::{DEFAULT_PARK_TOKEN, DEFAULT_UNPARK_TOKEN};

    pub(super) struct Spin(parking_lot_core::SpinWait);

    impl Spin {
        pub(super) fn new() -> Self {
            Self(parking_lot_core::SpinWait::new())
        }

        /// Waits a little. Returns whether that is still worth it.
        pub(super) fn spin(&mut self) -> bool {
            self.0.spin()
        }

        pub(super) fn reset(&mut self) {
            self.0.reset();
        }
    }

    /// Sleeps in the queue of `key` until woken, if `validate`, called under the queue's lock, says so.
    ///
    /// # Safety
    /// The caller owns the address `key`; `validate` neither panics nor parks or unparks.
    pub(super) unsafe fn park(key: usize, validate: impl FnOnce() -> bool) {
        // SAFETY: this function's contract; the other closures are empty.
        unsafe { parking_lot_core::park(key, validate, || {}, |_, _| {}, DEFAULT_PARK_TOKEN, None) };
    }

    /// Wakes one thread in the queue of `key`; before that calls `woken` under the queue's lock, with whether more are left.
    ///
    /// # Safety
    /// The caller owns the address `key`; `woken` neither panics nor parks or unparks.
    pub(super) unsafe fn unpark_one(key: usize, woken: impl FnOnce(bool)) {
        let callback = |result: parking_lot_core::UnparkResult| {
            woken(result.have_more_threads);
            DEFAULT_UNPARK_TOKEN
        };
        // SAFETY: this function's contract.
        unsafe { parking_lot_core::unpark_one(key, callback) };
    }
}

/// The same queues in a model: one list under one lock, which models park in rather than spin: fewer executions, and a wake-up that is
/// lost is a deadlock that loom reports.
#[cfg(loom)]
mod parking {
    use loom::sync::{Condvar, Mutex};
    use std::vec::Vec;

    #[derive(Default)]
    struct Lot {
        /// Key and ticket of each sleeper, oldest first.
        queue: Vec<(usize, usize)>,
        tickets: usize,
    }

    loom::lazy_static! {
        static ref LOT: Mutex<Lot> = Mutex::new(Lot::default());
        static ref CHANGED: Condvar = Condvar::new();
    }

    /// A model gains nothing from spinning.
    pub(super) struct Spin;

    impl Spin {
        pub(super) fn new() -> Self {
            Self
        }

        #[allow(clippy::unused_self)]
        pub(super) fn spin(&mut self) -> bool {
            false
        }

        #[allow(clippy::unused_self)]
        pub(super) fn reset(&mut self) {}
    }

    /// # Safety
    /// None here; see `parking_lot`'s.
    pub(super) unsafe fn park(key: usize, validate: impl FnOnce() -> bool) {
        let mut lot = LOT.lock().expect("loom's mutex has no poison");
        if !validate() {
            return;
        }
        let ticket = lot.tickets;
        lot.tickets += 1;
        lot.queue.push((key, ticket));
        while lot.queue.contains(&(key, ticket)) {
            lot = CHANGED.wait(lot).expect("loom's mutex has no poison");
        }
    }

    /// # Safety
    /// None here; see `parking_lot`'s.
    pub(super) unsafe fn unpark_one(key: usize, woken: impl FnOnce(bool)) {
        let mut lot = LOT.lock().expect("loom's mutex has no poison");
        if let Some(first) = lot.queue.iter().position(|sleeper| sleeper.0 == key) {
            lot.queue.remove(first);
        }
        woken(lot.queue.iter().any(|sleeper| sleeper.0 == key));
        CHANGED.notify_all();
    }
}

/// A lock that is one bit of a word which has other uses, and a second bit for "somebody waits": the page lock (`PG_locked`,
/// `PG_waiters`). Bits are named by number, as in the kernel.
///
/// | lock bit | waiters bit | meaning | who changes it |
/// |---|---|---|---|
/// | 0 | 0 | free | |
/// | 1 | 0 | held, nobody parked | `lock` sets, `unlock` clears |
/// | 1 | 1 | held, threads parked or about to | a waiter sets the second bit, in the parking lot |
/// | 0 | 1 | free, a waiter is being woken, or more are parked | `unlock` clears the second bit when it wakes the last one |
///
/// The word must outlive every call: a waiter has a reference on the page, and so has the one that unlocks.
pub mod bit_lock {
    use super::{AtomicU32, Kind, Order, Ordering, lockdep};

    #[inline]
    fn address(word: &AtomicU32) -> usize {
        core::ptr::from_ref(word).addr()
    }

    /// The mask of bit number `bit`.
    #[inline]
    fn mask(bit: u32) -> u32 {
        debug_assert!(bit < u32::BITS, "bit_lock takes the number of a bit, not its mask");
        1 << bit
    }

    /// Takes the lock; waits for the holder.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock(word: &AtomicU32, bit: u32, waiters_bit: u32, rank: u8) {
        lock_in_order(word, bit, waiters_bit, rank, Order::Ordered);
    }

    /// Takes the lock while another of the same rank is held. The caller knows the order of the two.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock_nested(word: &AtomicU32, bit: u32, waiters_bit: u32, rank: u8) {
        lock_in_order(word, bit, waiters_bit, rank, Order::Nested);
    }

    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    fn lock_in_order(word: &AtomicU32, bit: u32, waiters_bit: u32, rank: u8, order: Order) {
        lockdep::check(rank, address(word), Kind::Write, order);
        if !take(word, bit) {
            lock_slow(word, bit, waiters_bit);
        }
        lockdep::acquired(rank, address(word), Kind::Write);
    }

    /// Takes the lock, unless that would wait. Returns whether it did.
    #[inline]
    #[must_use]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn try_lock(word: &AtomicU32, bit: u32, rank: u8) -> bool {
        lockdep::check(rank, address(word), Kind::Write, Order::Try);
        // The load spares a busy page's line from being taken away from its holder.
        let taken = !is_locked(word, bit) && take(word, bit);
        if taken {
            lockdep::acquired(rank, address(word), Kind::Write);
        }
        taken
    }

    /// Whether anybody holds it. Certain only to be `true` for the holder.
    #[inline]
    pub fn is_locked(word: &AtomicU32, bit: u32) -> bool {
        word.load(Ordering::Relaxed) & mask(bit) != 0
    }

    #[inline]
    fn take(word: &AtomicU32, bit: u32) -> bool {
        // Acquire; pairs with the Release in `unlock`.
        word.fetch_or(mask(bit), Ordering::Acquire) & mask(bit) == 0
    }

    /// Gives the lock back, and wakes one that waits.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn unlock(word: &AtomicU32, bit: u32, waiters_bit: u32) {
        lockdep::released(address(word), Kind::Write);
        // Release; pairs with the Acquire in `take`.
        let was = word.fetch_and(!mask(bit), Ordering::Release);
        debug_assert!(was & mask(bit) != 0, "unlocked, but not locked");
        if was & mask(waiters_bit) != 0 {
            wake(word, waiters_bit);
        }
    }

    #[cfg(any(feature = "std", loom))]
    #[cold]
    fn lock_slow(word: &AtomicU32, bit: u32, waiters_bit: u32) {
        let mut spin = super::parking::Spin::new();
        loop {
            if !is_locked(word, bit) && take(word, bit) {
                return;
            }
            // With others parked already, spinning would only overtake them.
            if word.load(Ordering::Relaxed) & mask(waiters_bit) == 0 && spin.spin() {
                continue;
            }
            // Under the queue's lock: either the lock bit is still set, then the waiters bit is set with it and whoever unlocks
            // comes to the queue, or it is free and there is nothing to wait for. Relaxed: the queue's lock orders this with
            // `wake`, and both are read-modify-writes of one word.
            let validate = || {
                word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| {
                    (value & mask(bit) != 0).then_some(value | mask(waiters_bit))
                })
                .is_ok()
            };
            // SAFETY: (1) the key is the address of a word that this lock owns while it is alive; (2) `validate` neither panics nor
            // comes back to the queue.
            unsafe { super::parking::park(address(word), validate) };
            spin.reset();
        }
    }

    #[cfg(any(feature = "std", loom))]
    #[cold]
    fn wake(word: &AtomicU32, waiters_bit: u32) {
        let woken = |more: bool| {
            if !more || cfg!(rmap_mutant = "bit_lock_lost_wakeup") {
                // Relaxed: under the queue's lock, as in `lock_slow`.
                word.fetch_and(!mask(waiters_bit), Ordering::Relaxed);
            }
        };
        // SAFETY: (1) the key is the address of a word that this lock owns while it is alive; (2) `woken` neither panics nor comes
        // back to the queue.
        unsafe { super::parking::unpark_one(address(word), woken) };
    }

    /// Without a queue to park in: waiters look again and again, and the waiters bit stays clear.
    #[cfg(not(any(feature = "std", loom)))]
    #[cold]
    fn lock_slow(word: &AtomicU32, bit: u32, _waiters_bit: u32) {
        let mut backoff = super::Backoff::new();
        while is_locked(word, bit) || !take(word, bit) {
            backoff.wait();
        }
    }

    /// Nobody is parked.
    #[cfg(not(any(feature = "std", loom)))]
    fn wake(_word: &AtomicU32, _waiters_bit: u32) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn sizes() {
        assert!(size_of::<RwSem<0>>() <= 16);
        assert_eq!(size_of::<SpinLock<0>>(), 1);
        assert_eq!(align_of::<CachePadded<u8>>(), 64);
    }

    #[test]
    fn waiters_are_counted() {
        static SEM: RwSem<{ rank::ANON_VMA }> = RwSem::new();
        let write = SEM.write();
        assert!(!SEM.is_contended());
        assert!(SEM.is_write_locked());
        let reader = thread::spawn(|| drop(SEM.read()));
        let writer = thread::spawn(|| drop(SEM.write()));
        while SEM.raw.waiters() != 2 {
            thread::yield_now();
        }
        assert!(SEM.is_contended());
        drop(write);
        reader.join().unwrap();
        writer.join().unwrap();
        assert!(!SEM.is_contended());
        assert!(!SEM.is_locked());
    }

    #[test]
    fn downgrade_lets_readers_in_and_keeps_writers_out() {
        let sem = RwSem::<{ rank::ANON_VMA }>::new();
        let write = sem.write();
        thread::scope(|scope| {
            scope.spawn(|| assert!(sem.try_read().is_none())).join().unwrap();
            let read = write.downgrade();
            scope
                .spawn(|| {
                    assert!(sem.try_write().is_none());
                    assert!(sem.try_read().is_some());
                })
                .join()
                .unwrap();
            drop(read);
        });
        assert!(sem.try_write().is_some());
    }

    #[test]
    fn mutex_and_spin_lock_exclude() {
        const ROUNDS: u32 = 20_000;
        struct Shared<'a>(&'a cell::UnsafeCell<u32>);
        // SAFETY: accessed under `spin`.
        unsafe impl Sync for Shared<'_> {}
        let mutex = Mutex::<u32, { rank::CACHE }>::new(0);
        let spin = SpinLock::<{ rank::LEAF }>::new();
        let cell = cell::UnsafeCell::new(0_u32);
        let shared = &Shared(&cell);
        let (mutex, spin) = (&mutex, &spin);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        *mutex.lock() += 1;
                        spin.lock().into_raw();
                        // SAFETY: under `spin`.
                        shared.0.with_mut(|value| unsafe { *value += 1 });
                        if round % 1_000 == 0 {
                            thread::yield_now();
                        }
                        // SAFETY: taken above, the guard was given up.
                        unsafe { spin.unlock_raw() };
                    }
                });
            }
        });
        assert_eq!(*mutex.lock(), 4 * ROUNDS);
        assert_eq!(cell.into_inner(), 4 * ROUNDS);
    }

    #[test]
    fn mutex_holds_unsized_data() {
        let mut mutex = Mutex::<[u32; 3], { rank::LEAF }>::new([1, 2, 3]);
        mutex.get_mut()[0] = 7;
        let slice: &Mutex<[u32], { rank::LEAF }> = &mutex;
        assert_eq!(*slice.lock(), [7, 2, 3]);
        assert!(slice.try_lock().is_some());
        assert_eq!(mutex.into_inner(), [7, 2, 3]);
    }

    #[test]
    fn bit_lock_under_contention() {
        const LOCKED: u32 = 0;
        const WAITERS: u32 = 7;
        const ROUNDS: u32 = 5_000;
        struct Page {
            flags: AtomicU32,
            value: cell::UnsafeCell<u32>,
        }
        // SAFETY: `value` is accessed under the page lock.
        unsafe impl Sync for Page {}
        let page = Page { flags: AtomicU32::new(1 << 3), value: cell::UnsafeCell::new(0) };
        let (shared, barrier) = (&page, &Barrier::new(4));
        thread::scope(|scope| {
            for id in 0..4_u32 {
                scope.spawn(move || {
                    barrier.wait();
                    for round in 0..ROUNDS {
                        bit_lock::lock(&shared.flags, LOCKED, WAITERS, rank::PAGE_LOCK);
                        // SAFETY: under the page lock.
                        shared.value.with_mut(|value| unsafe { *value += 1 });
                        if round % 64 == id {
                            // Long enough for the others to park.
                            thread::sleep(std::time::Duration::from_micros(50));
                        }
                        bit_lock::unlock(&shared.flags, LOCKED, WAITERS);
                        // Other flags change at any time.
                        shared.flags.fetch_xor(1 << (8 + id), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(page.value.into_inner(), 4 * ROUNDS);
        assert_eq!(page.flags.load(Ordering::Relaxed), 1 << 3, "nobody holds it and nobody waits");
    }

    #[test]
    fn bit_lock_try() {
        let flags = AtomicU32::new(0);
        assert!(bit_lock::try_lock(&flags, 4, rank::PAGE_LOCK));
        assert!(bit_lock::is_locked(&flags, 4));
        thread::scope(|scope| {
            scope.spawn(|| assert!(!bit_lock::try_lock(&flags, 4, rank::PAGE_LOCK)));
        });
        bit_lock::unlock(&flags, 4, 7);
        assert!(!bit_lock::is_locked(&flags, 4));
    }

    #[cfg(feature = "std")]
    #[test]
    fn stripes_are_dealt_once() {
        let first = stripe();
        assert!(first < STRIPES);
        assert_eq!(first, stripe());
        let others: std::collections::BTreeSet<usize> =
            (0..4 * STRIPES).map(|_| thread::spawn(stripe).join().unwrap()).collect();
        // Other tests deal meanwhile, so not exactly all.
        assert!(others.len() > STRIPES / 2, "{others:?}");
        assert!(others.iter().all(|&stripe| stripe < STRIPES));
    }
}
