//! Where the object of a handle lives when the program may bring the memory: in one block with the functions that its
//! memory comes from, so that the functions outlive the heap that calls them.

use crate::context::rmap_allocator;
use crate::status::Outcome;
use crate::status::rmap_status::{RMAP_ERR_INVAL, RMAP_ERR_NOMEM};
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use rmap_core::base::alloc::{Heap, RawHeap};

/// The block. `repr(C)`: the handle is a pointer to its first member.
#[repr(C)]
pub(crate) struct Block<T> {
    object: MaybeUninit<T>,
    allocator: rmap_allocator,
}

impl<T> Block<T> {
    /// Makes an object in a block of its own. `make` is given a heap over the allocator, and the place where the object
    /// will be.
    pub(crate) fn build(
        allocator: rmap_allocator,
        make: impl FnOnce(Heap, NonNull<T>) -> Outcome<T>,
    ) -> Outcome<NonNull<T>> {
        if allocator.alloc.is_some() != allocator.free.is_some() {
            return Err(RMAP_ERR_INVAL);
        }
        let block = Self::take(&allocator).ok_or(RMAP_ERR_NOMEM)?;
        // SAFETY: fresh memory of the block's layout.
        unsafe { block.write(Self { object: MaybeUninit::uninit(), allocator }) };
        let place = block.cast::<T>();
        let made = Heap::new(Self::raw_heap(block, &allocator)).map_err(Into::into).and_then(|heap| make(heap, place));
        match made {
            Ok(object) => {
                // SAFETY: the block is ours, and the object is its first member.
                unsafe { place.write(object) };
                Ok(place)
            }
            Err(status) => {
                // SAFETY: taken above; the heap over it is gone.
                unsafe { Self::give(block, &allocator) };
                Err(status)
            }
        }
    }

    /// Drops an object, and gives its block back.
    ///
    /// # Safety
    /// The object was made by [`build`](Self::build), and nobody uses it any more.
    pub(crate) unsafe fn free(object: NonNull<T>) {
        let block = object.cast::<Self>();
        // SAFETY: (1) the object is its block's first member; (2) the caller's contract; (3) the allocator is copied
        // out before its place goes.
        unsafe {
            let allocator = (*block.as_ptr()).allocator;
            object.drop_in_place();
            Self::give(block, &allocator);
        }
    }

    /// The heap of a block with this allocator, at its final place.
    fn raw_heap(this: NonNull<Self>, allocator: &rmap_allocator) -> RawHeap {
        unsafe fn take(allocator: *mut (), size: usize, align: usize) -> *mut u8 {
            // SAFETY: `allocator` is that of a block, which outlives its heap.
            let allocator = unsafe { &*allocator.cast::<rmap_allocator>() };
            match allocator.alloc {
                // SAFETY: the embedder's function, called as its contract says.
                Some(alloc) => unsafe { alloc(allocator.arg, size, align) }.cast(),
                None => core::ptr::null_mut(),
            }
        }
        unsafe fn give(allocator: *mut (), memory: *mut u8, size: usize, align: usize) {
            // SAFETY: as above.
            let allocator = unsafe { &*allocator.cast::<rmap_allocator>() };
            if let Some(free) = allocator.free {
                // SAFETY: the embedder's function, called as its contract says.
                unsafe { free(allocator.arg, memory.cast(), size, align) };
            }
        }
        if allocator.alloc.is_none() {
            return RawHeap::global();
        }
        // SAFETY: the field lies in the block.
        let place = unsafe { &raw mut (*this.as_ptr()).allocator };
        // SAFETY: the embedder's functions keep the contract of `rmap_allocator`, which is `RawHeap`'s; `place` is
        // theirs as long as the block.
        unsafe { RawHeap::new(take, give, place.cast()) }
    }

    /// Memory for a block. The heap is over it, so it comes from beside the heap.
    fn take(allocator: &rmap_allocator) -> Option<NonNull<Self>> {
        let layout = Layout::new::<Self>();
        let memory = match allocator.alloc {
            // SAFETY: the embedder's function, called as its contract says.
            Some(alloc) => unsafe { alloc(allocator.arg, layout.size(), layout.align()) }.cast(),
            // SAFETY: the layout is not empty.
            None => unsafe { std::alloc::alloc(layout) },
        };
        NonNull::new(memory.cast())
    }

    /// # Safety
    /// The block came from `take` with this allocator, and nobody uses it any more.
    unsafe fn give(this: NonNull<Self>, allocator: &rmap_allocator) {
        let layout = Layout::new::<Self>();
        match allocator.free {
            // SAFETY: the embedder's function; memory, size and alignment as in `take`.
            Some(free) => unsafe { free(allocator.arg, this.as_ptr().cast(), layout.size(), layout.align()) },
            // SAFETY: as in `take`.
            None => unsafe { std::alloc::dealloc(this.as_ptr().cast(), layout) },
        }
    }
}
