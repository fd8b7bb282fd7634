//! A source of memory that runs out when it is told to, and knows what it has given.

use rmap_core::base::alloc::{Heap, RawHeap};
use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;

/// Memory from the global allocator, as long as it is granted.
#[derive(Default)]
pub(crate) struct Countdown {
    /// Allocations that are still granted, if they are counted.
    left: Cell<Option<u64>>,
    refused: Cell<bool>,
    /// Bytes given and not taken back.
    out: Cell<usize>,
}

impl Countdown {
    /// Grants `n` allocations and no more; `None`: all.
    pub(crate) fn arm(&self, n: Option<u64>) {
        self.left.set(n);
        self.refused.set(false);
    }

    /// Grants all again. Returns whether one was refused.
    pub(crate) fn lift(&self) -> bool {
        self.left.set(None);
        self.refused.get()
    }

    /// Bytes given and not taken back.
    pub(crate) fn out(&self) -> usize {
        self.out.get()
    }

    fn grant(&self) -> bool {
        match self.left.get() {
            Some(0) => {
                self.refused.set(true);
                false
            }
            left => {
                self.left.set(left.map(|n| n - 1));
                true
            }
        }
    }

    /// A heap over it.
    ///
    /// # Safety
    /// It stays where it is until the heap's last handle is gone, and only this thread uses the heap.
    pub(crate) unsafe fn heap(&self) -> Heap {
        unsafe fn take(ctx: *mut (), size: usize, align: usize) -> *mut u8 {
            // SAFETY: the counter that the heap was made over, by its contract.
            let this = unsafe { &*ctx.cast::<Countdown>() };
            let Ok(layout) = Layout::from_size_align(size, align) else { return core::ptr::null_mut() };
            if !this.grant() {
                return core::ptr::null_mut();
            }
            this.out.set(this.out.get() + size);
            // SAFETY: a heap never asks for zero bytes.
            unsafe { alloc(layout) }
        }
        unsafe fn give(ctx: *mut (), memory: *mut u8, size: usize, align: usize) {
            // SAFETY: as in `take`.
            let this = unsafe { &*ctx.cast::<Countdown>() };
            this.out.set(this.out.get() - size);
            // SAFETY: `take` gave the memory, of this layout.
            unsafe { dealloc(memory, Layout::from_size_align_unchecked(size, align)) }
        }
        let ctx = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: memory is the global allocator's; that one thread uses it is the caller's to see to.
        Heap::new(unsafe { RawHeap::new(take, give, ctx) }).expect("nothing is refused yet")
    }
}
