//! Memory that can run out without an abort.
//!
//! All metadata of a context comes from one [`Heap`]: the Rust global allocator by default, or a pair of functions that
//! the embedder brings. A `Heap` counts the bytes in use, so that a test (and an embedder) can see that all of it was
//! given back (G7). Nothing here panics or aborts when memory is short: every call returns [`Error::NoMemory`].
//!
//! `Heap` is an [`allocator_api2`] allocator; [`HeapVec`] and [`HeapMap`] are that crate's and hashbrown's containers
//! over it. Use their `try_reserve`, then push: the infallible methods abort on failure.

use crate::base::error::{Error, Result};
use crate::base::lockdep;
use crate::base::mutant::mutant;
use crate::base::sync::atomic::{AtomicUsize, Ordering};
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::Layout;
use core::ptr::NonNull;

/// A growable array in a [`Heap`].
pub type HeapVec<T> = allocator_api2::vec::Vec<T, Heap>;
/// A boxed value in a [`Heap`]; make one with [`Heap::boxed`].
pub type HeapBox<T> = allocator_api2::boxed::Box<T, Heap>;
/// A hash map in a [`Heap`].
pub type HeapMap<K, V> = hashbrown::HashMap<K, V, hashbrown::DefaultHashBuilder, Heap>;

/// Where a [`Heap`] gets its memory: two functions and their context.
///
/// # Safety
/// `alloc(ctx, size, align)` returns null or memory of that size and alignment that nobody else uses until `free(ctx,
/// ptr, size, align)`. Both may be called from any thread at once, so `ctx` must be fit for that, and both must stay
/// callable until the last object of the context is gone.
#[derive(Clone, Copy, Debug)]
pub struct RawHeap {
    alloc: unsafe fn(*mut (), usize, usize) -> *mut u8,
    free: unsafe fn(*mut (), *mut u8, usize, usize),
    ctx: *mut (),
}

impl RawHeap {
    /// A heap of the embedder's.
    ///
    /// # Safety
    /// The contract in the type's own documentation holds.
    pub const unsafe fn new(
        alloc: unsafe fn(*mut (), usize, usize) -> *mut u8,
        free: unsafe fn(*mut (), *mut u8, usize, usize),
        ctx: *mut (),
    ) -> Self {
        Self { alloc, free, ctx }
    }

    /// The Rust global allocator.
    pub const fn global() -> Self {
        unsafe fn take(_: *mut (), size: usize, align: usize) -> *mut u8 {
            match Layout::from_size_align(size, align) {
                // SAFETY: `Heap::alloc` never asks for zero bytes.
                Ok(layout) => unsafe { alloc::alloc::alloc(layout) },
                Err(_) => core::ptr::null_mut(),
            }
        }
        unsafe fn give(_: *mut (), ptr: *mut u8, size: usize, align: usize) {
            // SAFETY: size and align are those of the `take` that returned `ptr`, so the layout was valid then.
            unsafe { alloc::alloc::dealloc(ptr, Layout::from_size_align_unchecked(size, align)) }
        }
        Self { alloc: take, free: give, ctx: core::ptr::null_mut() }
    }
}

struct HeapInner {
    raw: RawHeap,
    /// Handles alive. Relaxed up, Release down with an Acquire before the memory goes, as in `Arc`.
    handles: AtomicUsize,
    /// Bytes handed out. Statistics: Relaxed.
    in_use: AtomicUsize,
}

/// A counted handle to a source of memory. See the [module](self).
pub struct Heap(NonNull<HeapInner>);

// SAFETY: (1) the counters are atomic; (2) `RawHeap`'s contract says that its functions may be called from any thread.
unsafe impl Send for Heap {}
// SAFETY: as for Send.
unsafe impl Sync for Heap {}

impl Heap {
    /// A heap over `raw`; its own few words come from there too.
    pub fn new(raw: RawHeap) -> Result<Self> {
        let layout = Layout::new::<HeapInner>();
        // SAFETY: `RawHeap`'s contract; the layout is not empty.
        let ptr = unsafe { (raw.alloc)(raw.ctx, layout.size(), layout.align()) };
        let inner = NonNull::new(ptr).ok_or(Error::NoMemory)?.cast::<HeapInner>();
        // SAFETY: fresh memory of that layout, ours alone.
        unsafe { inner.write(HeapInner { raw, handles: AtomicUsize::new(1), in_use: AtomicUsize::new(0) }) };
        Ok(Self(inner))
    }

    /// A heap over the Rust global allocator.
    pub fn global() -> Result<Self> {
        Self::new(RawHeap::global())
    }

    fn inner(&self) -> &HeapInner {
        // SAFETY: a handle keeps the inner part alive (`handles`).
        unsafe { self.0.as_ref() }
    }

    /// Memory of `layout`; zero-sized layouts are refused as [`Error::Invalid`].
    pub fn alloc(&self, layout: Layout) -> Result<NonNull<u8>> {
        if layout.size() == 0 {
            return Err(Error::Invalid);
        }
        lockdep::assert_may_allocate();
        let inner = self.inner();
        // SAFETY: `RawHeap`'s contract; the layout is not empty.
        let ptr = unsafe { (inner.raw.alloc)(inner.raw.ctx, layout.size(), layout.align()) };
        let ptr = NonNull::new(ptr).ok_or(Error::NoMemory)?;
        inner.in_use.fetch_add(layout.size(), Ordering::Relaxed);
        Ok(ptr)
    }

    /// Gives back what [`alloc`](Self::alloc) returned.
    ///
    /// # Safety
    /// `ptr` came from `alloc` of this heap with the same `layout`, and nobody uses it any more.
    pub unsafe fn free(&self, ptr: NonNull<u8>, layout: Layout) {
        lockdep::assert_may_allocate();
        let inner = self.inner();
        inner.in_use.fetch_sub(layout.size(), Ordering::Relaxed);
        if mutant("heap_keeps") {
            return;
        }
        if mutant("heap_frees_twice") {
            // SAFETY: none: it is what AddressSanitizer must report.
            unsafe { (inner.raw.free)(inner.raw.ctx, ptr.as_ptr(), layout.size(), layout.align()) }
        }
        // SAFETY: the caller's contract is `RawHeap`'s.
        unsafe { (inner.raw.free)(inner.raw.ctx, ptr.as_ptr(), layout.size(), layout.align()) }
    }

    /// A number that tells this heap from most others that are alive, and that clones share. Never 0.
    pub fn tag(&self) -> u32 {
        ((self.0.as_ptr().addr() >> 3) as u32).max(1)
    }

    /// Bytes handed out and not yet given back. The answer is of the past when other threads allocate.
    pub fn in_use(&self) -> usize {
        self.inner().in_use.load(Ordering::Relaxed)
    }

    /// A boxed value, or [`Error::NoMemory`] with the value dropped.
    pub fn boxed<T>(&self, value: T) -> Result<HeapBox<T>> {
        HeapBox::try_new_in(value, self.clone()).map_err(|_| Error::NoMemory)
    }

    /// An empty array; it allocates when something is reserved.
    pub fn vec<T>(&self) -> HeapVec<T> {
        HeapVec::new_in(self.clone())
    }

    /// An empty map; it allocates when something is reserved.
    pub fn map<K, V>(&self) -> HeapMap<K, V> {
        HeapMap::with_hasher_in(hashbrown::DefaultHashBuilder::default(), self.clone())
    }
}

/// Appends, or fails with the array unchanged.
pub fn try_push<T>(vec: &mut HeapVec<T>, value: T) -> Result<()> {
    vec.try_reserve(1).map_err(|_| Error::NoMemory)?;
    vec.push(value);
    Ok(())
}

impl Clone for Heap {
    fn clone(&self) -> Self {
        // Relaxed: a handle is cloned from a handle, which keeps the count above zero.
        self.inner().handles.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // Release; pairs with the Acquire below in whichever thread drops the last handle.
        if self.inner().handles.fetch_sub(1, Ordering::Release) == 1 {
            crate::base::sync::acquire_shares(&self.inner().handles);
            let raw = self.inner().raw;
            let layout = Layout::new::<HeapInner>();
            // SAFETY: the last handle is going, nobody else can reach the inner part; it came from `raw` in `new`.
            unsafe {
                core::ptr::drop_in_place(self.0.as_ptr());
                (raw.free)(raw.ctx, self.0.as_ptr().cast(), layout.size(), layout.align());
            }
        }
    }
}

impl core::fmt::Debug for Heap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Heap").field("in_use", &self.in_use()).finish()
    }
}

// SAFETY: (1) memory stays valid until `deallocate`, by `RawHeap`'s contract; (2) clones are handles to the same
// source; (3) moving a handle moves nothing.
unsafe impl Allocator for Heap {
    fn allocate(&self, layout: Layout) -> core::result::Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            let dangling = NonNull::new(layout.align() as *mut u8).ok_or(AllocError)?;
            return Ok(NonNull::slice_from_raw_parts(dangling, 0));
        }
        let ptr = self.alloc(layout).map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(ptr, layout.size()))
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the caller's contract is that of `free`.
            unsafe { self.free(ptr, layout) }
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    //! Heaps for tests: one that fails at the n-th allocation.

    use super::*;
    use crate::base::testing::forever;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering as O};

    /// Lets a set number of allocations succeed and refuses the rest.
    pub(crate) struct Countdown {
        /// Allocations still to succeed; negative: no limit.
        left: AtomicI64,
        refused: AtomicBool,
    }

    impl Countdown {
        /// A counter without a limit until [`fail_after`](Self::fail_after).
        pub(crate) fn leaked() -> &'static Self {
            forever(Self { left: AtomicI64::new(-1), refused: AtomicBool::new(false) })
        }
        /// Lets `n` allocations succeed and refuses all later ones.
        pub(crate) fn fail_after(&self, n: i64) {
            self.refused.store(false, O::SeqCst);
            self.left.store(n, O::SeqCst);
        }
        /// No limit from now on. Returns whether an allocation was refused since `fail_after`.
        pub(crate) fn lift(&self) -> bool {
            self.left.store(-1, O::SeqCst);
            self.refused.swap(false, O::SeqCst)
        }
        fn grant(&self) -> bool {
            let granted = self.left.fetch_update(O::SeqCst, O::SeqCst, |n| match n {
                0 => None,
                n if n < 0 => Some(n),
                n => Some(n - 1),
            });
            if granted.is_err() {
                self.refused.store(true, O::SeqCst);
            }
            granted.is_ok()
        }
        /// A heap that asks this counter.
        pub(crate) fn heap(&'static self) -> Heap {
            unsafe fn take(ctx: *mut (), size: usize, align: usize) -> *mut u8 {
                // SAFETY: `ctx` is the leaked counter.
                if unsafe { &*ctx.cast::<Countdown>() }.grant() {
                    let raw = RawHeap::global();
                    // SAFETY: the global heap's own contract.
                    unsafe { (raw.alloc)(raw.ctx, size, align) }
                } else {
                    core::ptr::null_mut()
                }
            }
            unsafe fn give(_: *mut (), ptr: *mut u8, size: usize, align: usize) {
                let raw = RawHeap::global();
                // SAFETY: `ptr` came from the global heap in `take`.
                unsafe { (raw.free)(raw.ctx, ptr, size, align) }
            }
            // SAFETY: the two functions above keep the contract; the counter is leaked and atomic.
            Heap::new(unsafe { RawHeap::new(take, give, core::ptr::from_ref(self).cast_mut().cast()) }).expect("global")
        }
    }
}
