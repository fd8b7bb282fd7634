//! Counted references to objects in a [`Heap`]: `Arc`, but creation can fail and the count can be looked at.

use crate::base::alloc::Heap;
use crate::base::error::Result;
use crate::base::sync::acquire_shares;
use crate::base::sync::atomic::{AtomicUsize, Ordering};
use core::alloc::Layout;
use core::ops::Deref;
use core::ptr::NonNull;

struct Counted<T> {
    /// References alive. Relaxed up, Release down with an Acquire before the value goes.
    refs: AtomicUsize,
    heap: Heap,
    value: T,
}

/// A counted reference. See the [module](self).
pub struct Href<T>(NonNull<Counted<T>>);

// SAFETY: as for `Arc`: the count is atomic, and `T` is Send and Sync.
unsafe impl<T: Send + Sync> Send for Href<T> {}
// SAFETY: as for Send.
unsafe impl<T: Send + Sync> Sync for Href<T> {}

impl<T> Href<T> {
    /// A value in memory of `heap` with one reference. On failure the value is dropped.
    pub fn new(heap: &Heap, value: T) -> Result<Self> {
        let place = heap.alloc(Layout::new::<Counted<T>>())?.cast::<Counted<T>>();
        // SAFETY: fresh memory of that layout, ours alone.
        unsafe { place.write(Counted { refs: AtomicUsize::new(1), heap: heap.clone(), value }) };
        Ok(Self(place))
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: a reference keeps the object alive (`refs`).
        unsafe { self.0.as_ref() }
    }

    /// References alive now; of the past when other threads clone and drop.
    pub fn count(this: &Self) -> usize {
        this.counted().refs.load(Ordering::Relaxed)
    }

    /// Whether both name the same object.
    pub fn same(a: &Self, b: &Self) -> bool {
        a.0 == b.0
    }

    /// The value's address; it stays valid while a reference lives.
    pub fn as_ptr(this: &Self) -> NonNull<T> {
        NonNull::from(&this.counted().value)
    }

    /// Gives the reference up without dropping it; [`from_raw`](Self::from_raw) takes it back.
    pub fn into_raw(this: Self) -> NonNull<T> {
        let value = Self::as_ptr(&this);
        core::mem::forget(this);
        value
    }

    fn whole(value: NonNull<T>) -> NonNull<Counted<T>> {
        let offset = core::mem::offset_of!(Counted<T>, value);
        // SAFETY: (callers pass only addresses from `as_ptr`) the value lies `offset` bytes into its `Counted`.
        unsafe { value.byte_sub(offset).cast() }
    }

    /// The reference that `into_raw` gave up.
    ///
    /// # Safety
    /// `value` came from `into_raw`, and is taken back once.
    pub unsafe fn from_raw(value: NonNull<T>) -> Self {
        Self(Self::whole(value))
    }

    /// One more reference to the object that `value` lies in.
    ///
    /// # Safety
    /// `value` came from `as_ptr` or `into_raw`, and a reference is alive.
    pub unsafe fn from_borrowed(value: NonNull<T>) -> Self {
        let borrowed = core::mem::ManuallyDrop::new(Self(Self::whole(value)));
        Self::clone(&borrowed)
    }
}

impl<T> Clone for Href<T> {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: a reference is cloned from a reference, which keeps the count above zero.
        self.counted().refs.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl<T> Deref for Href<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for Href<T> {
    #[inline]
    fn drop(&mut self) {
        // Release; pairs with the Acquire below in whichever thread drops the last reference.
        if self.counted().refs.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        acquire_shares(&self.counted().refs);
        let heap = self.counted().heap.clone();
        // SAFETY: (1) the last reference is going, nobody else can reach the object; (2) its memory came from `heap` in
        // `new` with this layout.
        unsafe {
            core::ptr::drop_in_place(self.0.as_ptr());
            heap.free(self.0.cast(), Layout::new::<Counted<T>>());
        }
    }
}

impl<T: core::fmt::Debug> core::fmt::Debug for Href<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(f)
    }
}
