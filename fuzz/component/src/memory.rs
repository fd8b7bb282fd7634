//! The embedder's allocator: the system's, which a sanitizer watches, and it counts.

use core::cell::Cell;
use core::ffi::c_void;
use rmap::context::rmap_allocator;
use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes that librmap has.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) out: Cell<usize>,
}

impl Memory {
    /// The allocator for a context, which goes before this does.
    pub(crate) fn allocator(&self) -> rmap_allocator {
        unsafe extern "C" fn take(arg: *mut c_void, size: usize, align: usize) -> *mut c_void {
            let layout = Layout::from_size_align(size, align).expect("a size and a power of two");
            // SAFETY: the memory of `allocator`.
            let out = unsafe { &(*arg.cast::<Memory>()).out };
            out.set(out.get() + size);
            // SAFETY: librmap asks for no empty memory.
            unsafe { System.alloc(layout) }.cast()
        }
        unsafe extern "C" fn give(arg: *mut c_void, memory: *mut c_void, size: usize, align: usize) {
            let layout = Layout::from_size_align(size, align).expect("as it was taken");
            // SAFETY: as above.
            let out = unsafe { &(*arg.cast::<Memory>()).out };
            out.set(out.get() - size);
            // SAFETY: `take` gave it, with this layout.
            unsafe { System.dealloc(memory.cast(), layout) }
        }
        rmap_allocator { alloc: Some(take), free: Some(give), arg: core::ptr::from_ref(self).cast_mut().cast() }
    }
}
