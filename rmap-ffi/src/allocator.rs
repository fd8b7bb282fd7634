//! The Rust global allocator of librmap: slabs over `mmap`.
//!
//! An allocator that links librmap must not be called by it, so nothing here calls malloc: memory comes from the system
//! by the page. No `parking_lot` (which allocates), no thread-local with a destructor (which makes the C library
//! allocate).
//!
//! ```text
//!   alloc ──▶ bin of (this thread's stripe, class) ──empty──▶ depot of the class ──empty──▶ extents ──▶ mmap
//!   free  ──▶ bin of (this thread's stripe, class) ──full───▶ depot of the class
//! ```
//!
//! - **Small blocks** are of one of 40 size classes: every 16 bytes to 128, then four per doubling to 32 KiB. Memory of
//!   a class stays of that class.
//! - A **bin** is a list of free blocks under a spin lock of its own that other stripes do not touch. A full one gives
//!   a batch to the depot, an empty one takes a batch, so that threads that only free feed threads that only allocate.
//! - **Big blocks** are mappings of their own and go back to the system when they are freed.
//! - When the system gives no more, a reserve in the library's own data serves what the standard library cannot do
//!   without.
//!
//! Lock order: bin -> depot -> extents.

// Blocks are aligned to 16 bytes at least.
#![allow(clippy::cast_ptr_alignment)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use rmap_core::base::sync::atomic::{AtomicBool, Ordering, spin_loop};
use rmap_core::base::sync::{CachePadded, STRIPES, stripe, yield_now};

/// What pages of memory are aligned to.
const PAGE: usize = 4096;
/// The largest small block.
const SMALL: usize = 32 << 10;
/// Classes of small blocks: 8 up to 128 bytes, then four for each of 8 doublings.
const CLASSES: usize = 8 + 4 * 8;
/// What the depot cuts up for a class at a time.
const SLAB: usize = 64 << 10;
/// What is asked of the system at a time.
const EXTENT: usize = 1 << 20;
/// What is left when the system gives no more.
const RESERVE: usize = 2 * SLAB;
/// Blocks in a batch between bin and depot, for the smallest classes.
const BATCH: usize = 64;

/// The class of blocks of at least `size` bytes; `size` is above 0 and not above [`SMALL`].
#[inline]
const fn class_of(size: usize) -> usize {
    if size <= 128 {
        return size.div_ceil(16) - 1;
    }
    let last = size - 1;
    let log = last.ilog2() as usize;
    8 + (log - 7) * 4 + ((last >> (log - 2)) & 3)
}

/// Bytes in a block of `class`.
#[inline]
const fn size_of_class(class: usize) -> usize {
    if class < 8 {
        return (class + 1) * 16;
    }
    let log = 7 + (class - 8) / 4;
    (1 << log) + ((class - 8) % 4 + 1) * (1 << (log - 2))
}

/// Blocks that move between bin and depot at a time.
const fn batch_of(class: usize) -> usize {
    let n = 16 * PAGE / size_of_class(class);
    if n < 2 {
        2
    } else if n > BATCH {
        BATCH
    } else {
        n
    }
}

/// The class that serves a layout; `None`: a mapping of its own.
///
/// Blocks of a slab are aligned to the largest power of two that divides their size, up to a page: so a layout that
/// wants more than 16 gets a power of two.
#[inline]
fn class_for(layout: Layout) -> Option<usize> {
    let size = if layout.align() <= 16 {
        layout.size()
    } else if layout.align() <= PAGE && layout.size() <= SMALL {
        layout.size().max(layout.align()).next_power_of_two()
    } else {
        return None;
    };
    (size <= SMALL).then(|| class_of(size.max(1)))
}

/// A spin lock: what it guards takes a few instructions, or a call of mmap once in a thousand times.
struct Spin(AtomicBool);

impl Spin {
    const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    #[inline]
    fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        let mut spins = 0;
        // Acquire; pairs with the Release below.
        while self.0.swap(true, Ordering::Acquire) {
            while self.0.load(Ordering::Relaxed) {
                spins += 1;
                if spins % 128 == 0 { yield_now() } else { spin_loop() }
            }
        }
        let result = f();
        self.0.store(false, Ordering::Release);
        result
    }
}

/// A free block. The smallest is 16 bytes, so both fit.
struct Free {
    /// The next block of the list.
    next: *mut Free,
    /// Of the first block of a batch: the next batch.
    next_batch: *mut Free,
}

/// A bin's free blocks.
struct List {
    first: *mut Free,
    len: usize,
}

struct Bin {
    lock: Spin,
    /// `lock`.
    list: UnsafeCell<List>,
}

impl Bin {
    const fn new() -> Self {
        Self { lock: Spin::new(), list: UnsafeCell::new(List { first: ptr::null_mut(), len: 0 }) }
    }
}

/// What a class has that is in no bin.
struct Stock {
    /// Full batches, linked by `next_batch`.
    batches: *mut Free,
    /// What is left of the slab that is being cut up.
    cut: *mut u8,
    left: usize,
}

struct Depot {
    lock: Spin,
    /// `lock`.
    stock: UnsafeCell<Stock>,
}

impl Depot {
    const fn new() -> Self {
        let stock = Stock { batches: ptr::null_mut(), cut: ptr::null_mut(), left: 0 };
        Self { lock: Spin::new(), stock: UnsafeCell::new(stock) }
    }
}

/// Where slabs come from.
struct Extents {
    lock: Spin,
    /// What is left of the current extent. `lock`.
    rest: UnsafeCell<(*mut u8, usize)>,
    /// Whether the reserve was used. `lock`.
    reserve_used: AtomicBool,
}

#[repr(align(4096))]
struct Reserve(UnsafeCell<[u8; RESERVE]>);

// SAFETY: handed out once, under the lock of `Extents`, and then its users'.
unsafe impl Sync for Reserve {}

static RESERVED: Reserve = Reserve(UnsafeCell::new([0; RESERVE]));

/// Fresh, zero memory of the system's, page-aligned.
fn map(bytes: usize) -> Option<NonNull<u8>> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at a place of the system's choice changes nothing that exists.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
    if at == libc::MAP_FAILED { None } else { NonNull::new(at.cast()) }
}

/// Gives whole pages back to the system.
///
/// # Safety
/// They came from `map`, and nobody uses them any more.
unsafe fn unmap(at: *mut u8, bytes: usize) {
    if bytes != 0 {
        // SAFETY: the caller's contract.
        let failed = unsafe { libc::munmap(at.cast(), bytes) };
        debug_assert_eq!(failed, 0);
    }
}

/// Pages that a big block takes.
fn big_bytes(layout: Layout) -> Option<usize> {
    layout.size().checked_next_multiple_of(PAGE)
}

/// The allocator. See the [module](self).
pub struct SlabAllocator {
    bins: [CachePadded<[Bin; CLASSES]>; STRIPES],
    depots: [Depot; CLASSES],
    extents: Extents,
}

// SAFETY: every cell is under the lock that its comment names; the blocks on the lists are the allocator's.
unsafe impl Sync for SlabAllocator {}

impl SlabAllocator {
    /// An allocator without memory.
    pub const fn new() -> Self {
        Self {
            bins: [const { CachePadded([const { Bin::new() }; CLASSES]) }; STRIPES],
            depots: [const { Depot::new() }; CLASSES],
            extents: Extents {
                lock: Spin::new(),
                rest: UnsafeCell::new((ptr::null_mut(), 0)),
                reserve_used: AtomicBool::new(false),
            },
        }
    }

    /// A slab, zero and page-aligned.
    fn slab(&self) -> Option<*mut u8> {
        self.extents.lock.with(|| {
            // SAFETY: the lock is held.
            let (at, left) = unsafe { &mut *self.extents.rest.get() };
            if *left < SLAB {
                (*at, *left) = match map(EXTENT) {
                    Some(fresh) => (fresh.as_ptr(), EXTENT),
                    None if !self.extents.reserve_used.swap(true, Ordering::Relaxed) => {
                        (RESERVED.0.get().cast(), RESERVE)
                    }
                    None => return None,
                };
            }
            let slab = *at;
            // SAFETY: at least `SLAB` bytes are left from `at` on.
            *at = unsafe { slab.add(SLAB) };
            *left -= SLAB;
            Some(slab)
        })
    }

    /// Up to a batch of blocks, linked.
    #[cold]
    fn restock(&self, class: usize) -> Option<List> {
        let depot = &self.depots[class];
        let size = size_of_class(class);
        depot.lock.with(|| {
            // SAFETY: the lock is held.
            let stock = unsafe { &mut *depot.stock.get() };
            if !stock.batches.is_null() {
                let first = stock.batches;
                // SAFETY: blocks on the list are free, valid, and the allocator's.
                stock.batches = unsafe { (*first).next_batch };
                return Some(List { first, len: batch_of(class) });
            }
            if stock.left < size {
                // Lock order: depot -> extents.
                stock.cut = self.slab()?;
                stock.left = SLAB;
            }
            let mut list = List { first: ptr::null_mut(), len: 0 };
            while list.len < batch_of(class) && stock.left >= size {
                let block = stock.cut.cast::<Free>();
                // SAFETY: at least `size` bytes are left, which nobody uses; a block has room for `Free` and its
                // alignment, 16.
                unsafe {
                    (*block).next = list.first;
                    stock.cut = stock.cut.add(size);
                }
                stock.left -= size;
                list = List { first: block, len: list.len + 1 };
            }
            Some(list)
        })
    }

    #[inline]
    fn take(&self, class: usize) -> *mut u8 {
        let bin = &self.bins[stripe()].0[class];
        bin.lock.with(|| {
            // SAFETY: the lock is held.
            let list = unsafe { &mut *bin.list.get() };
            if list.first.is_null() {
                // Lock order: bin -> depot.
                match self.restock(class) {
                    Some(fresh) => *list = fresh,
                    None => return ptr::null_mut(),
                }
            }
            let block = list.first;
            // SAFETY: blocks on the list are free, valid, and the allocator's.
            list.first = unsafe { (*block).next };
            list.len -= 1;
            block.cast()
        })
    }

    /// # Safety
    /// `block` came from `take` with this class, and nobody uses it any more.
    #[inline]
    unsafe fn give(&self, class: usize, block: *mut u8) {
        let bin = &self.bins[stripe()].0[class];
        bin.lock.with(|| {
            // SAFETY: the lock is held.
            let list = unsafe { &mut *bin.list.get() };
            let block = block.cast::<Free>();
            // SAFETY: the block is the allocator's again, and has room for `Free`.
            unsafe { (*block).next = list.first };
            *list = List { first: block, len: list.len + 1 };
            if list.len >= 2 * batch_of(class) {
                self.stow(class, list);
            }
        });
    }

    /// Moves a batch from a bin to the depot.
    #[cold]
    fn stow(&self, class: usize, list: &mut List) {
        let first = list.first;
        let mut last = first;
        for _ in 1..batch_of(class) {
            // SAFETY: the list is longer than a batch, and its blocks are valid.
            last = unsafe { (*last).next };
        }
        // SAFETY: as above.
        unsafe {
            list.first = (*last).next;
            (*last).next = ptr::null_mut();
        }
        list.len -= batch_of(class);
        let depot = &self.depots[class];
        // Lock order: bin -> depot.
        depot.lock.with(|| {
            // SAFETY: (1) the lock is held; (2) the batch is this thread's until it is on the list.
            unsafe {
                let stock = &mut *depot.stock.get();
                (*first).next_batch = stock.batches;
                stock.batches = first;
            }
        });
    }

    /// A mapping of its own.
    #[cold]
    fn take_big(layout: Layout) -> *mut u8 {
        let Some(bytes) = big_bytes(layout) else { return ptr::null_mut() };
        if layout.align() <= PAGE {
            return map(bytes).map_or(ptr::null_mut(), NonNull::as_ptr);
        }
        let Some(more) = bytes.checked_add(layout.align() - PAGE) else { return ptr::null_mut() };
        let Some(at) = map(more) else { return ptr::null_mut() };
        let at = at.as_ptr();
        let before = at.align_offset(layout.align());
        // SAFETY: (1) `before` and what lies behind the block are whole pages of the mapping just made; (2) nobody uses
        // them.
        unsafe {
            let block = at.add(before);
            unmap(at, before);
            unmap(block.add(bytes), more - bytes - before);
            block
        }
    }
}

impl Default for SlabAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: (1) blocks of a class are disjoint (cut from slabs once, on one list at a time) and at least as large and as
// aligned as what the class serves (`class_for`); (2) big blocks are mappings of their own; (3) nothing here panics or
// unwinds.
unsafe impl GlobalAlloc for SlabAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_for(layout) {
            Some(class) => self.take(class),
            None => Self::take_big(layout),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class_for(layout) {
            // SAFETY: allocated with this layout (contract of `dealloc`), so from this class.
            Some(class) => unsafe { self.give(class, block) },
            // SAFETY: allocated with this layout, so by `take_big`, with this many pages.
            None => unsafe { unmap(block, big_bytes(layout).unwrap_or(0)) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_for(layout) else { return Self::take_big(layout) };
        let block = self.take(class);
        if !block.is_null() {
            // SAFETY: a block of the class has at least this size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_size, layout.align()) else { return ptr::null_mut() };
        let (old_class, new_class) = (class_for(layout), class_for(new));
        if old_class.is_some() && old_class == new_class {
            return block;
        }
        if old_class.is_none() && new_class.is_none() && layout.align() <= PAGE {
            let (Some(old), Some(new)) = (big_bytes(layout), big_bytes(new)) else { return ptr::null_mut() };
            // SAFETY: the block is a mapping of `old` bytes (`take_big`), and the caller gives its old address up.
            let moved = unsafe { libc::mremap(block.cast(), old, new, libc::MREMAP_MAYMOVE) };
            return if moved == libc::MAP_FAILED { ptr::null_mut() } else { moved.cast() };
        }
        // SAFETY: `new_size` is not 0 (contract of `realloc`); the blocks are different ones, and both have the smaller
        // of the two sizes.
        unsafe {
            let fresh = self.alloc(new);
            if !fresh.is_null() {
                ptr::copy_nonoverlapping(block, fresh, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        let sizes: Vec<usize> = (0..CLASSES).map(size_of_class).collect();
        assert!(sizes.is_sorted() && sizes[CLASSES - 1] == SMALL && sizes[0] == 16);
        for size in 1..=SMALL {
            let class = class_of(size);
            assert!(sizes[class] >= size, "{size} in {}", sizes[class]);
            assert!(class == 0 || sizes[class - 1] < size, "{size} in {}", sizes[class]);
        }
    }

    #[test]
    fn blocks_are_aligned_writable_and_do_not_overlap() {
        let allocator = SlabAllocator::new();
        let mut held = Vec::new();
        for align in [1, 8, 16, 32, 64, 512, 4096, 8192, 1 << 20] {
            for size in [1, 15, 16, 17, 100, 129, 1000, 4096, 5000, 32 << 10, 33 << 10, 1 << 20] {
                // SAFETY: the size is not 0; the block is written within its size, and freed below.
                unsafe {
                    let block = allocator.alloc(layout(size, align));
                    assert!(!block.is_null() && block.align_offset(align) == 0, "{size} {align}");
                    block.write_bytes(held.len() as u8, size);
                    held.push((block, size, align));
                }
            }
        }
        for (n, (block, size, align)) in held.into_iter().enumerate() {
            // SAFETY: allocated and written above.
            unsafe {
                assert!(core::slice::from_raw_parts(block, size).iter().all(|byte| *byte == n as u8));
                allocator.dealloc(block, layout(size, align));
            }
        }
    }

    #[test]
    fn growing_and_shrinking_keep_the_bytes() {
        let allocator = SlabAllocator::new();
        let mut size = 1;
        // SAFETY: sizes are not 0, and each block is used with the size that it has.
        unsafe {
            let mut block = allocator.alloc(layout(size, 8));
            *block = 7;
            for next in [16, 17, 4000, 40_000, 400_000, 50_000, 100, 3] {
                block = allocator.realloc(block, layout(size, 8), next);
                assert_eq!(*block, 7);
                block.add(next - 1).write(9);
                *block = 7;
                size = next;
            }
            allocator.dealloc(block, layout(size, 8));
            let zero = allocator.alloc_zeroed(layout(100_000, 8));
            assert!(core::slice::from_raw_parts(zero, 100_000).iter().all(|byte| *byte == 0));
            allocator.dealloc(zero, layout(100_000, 8));
        }
    }

    #[test]
    fn threads_that_only_free_feed_threads_that_only_allocate() {
        static ALLOCATOR: SlabAllocator = SlabAllocator::new();
        const ROUNDS: usize = 20_000;
        let (send, receive) = std::sync::mpsc::sync_channel::<usize>(256);
        std::thread::scope(|s| {
            s.spawn(move || {
                for n in 0..ROUNDS {
                    // SAFETY: not of size 0; the other thread frees it.
                    let block = unsafe { ALLOCATOR.alloc(layout(1000, 8)) };
                    // SAFETY: a block of 1000 bytes.
                    unsafe { block.cast::<usize>().write(n) };
                    send.send(block.expose_provenance()).unwrap();
                }
            });
            s.spawn(move || {
                for n in 0..ROUNDS {
                    let block = core::ptr::with_exposed_provenance_mut::<u8>(receive.recv().unwrap());
                    // SAFETY: allocated and written by the other thread, which gave it up.
                    unsafe {
                        assert_eq!(block.cast::<usize>().read(), n);
                        ALLOCATOR.dealloc(block, layout(1000, 8));
                    }
                }
            });
        });
        // What was ever cut is bounded by what was alive at once, and not by what was ever allocated.
        // SAFETY: no other thread uses the allocator.
        let left = unsafe { (*ALLOCATOR.extents.rest.get()).1 };
        assert!(EXTENT - left <= 12 * SLAB, "{left}");
    }

    #[test]
    fn many_threads_get_disjoint_blocks() {
        static ALLOCATOR: SlabAllocator = SlabAllocator::new();
        std::thread::scope(|s| {
            for thread in 1..5_u64 {
                s.spawn(move || {
                    let mut held: Vec<(*mut u64, usize)> = Vec::new();
                    for round in 0..20_000_usize {
                        let size = 16 + (round * 37) % 900;
                        if round % 3 < 2 {
                            // SAFETY: not of size 0.
                            let block = unsafe { ALLOCATOR.alloc(layout(size, 8)) }.cast::<u64>();
                            // SAFETY: a block of at least 16 bytes.
                            unsafe { block.write(thread) };
                            held.push((block, size));
                        } else if let Some((block, size)) = held.pop() {
                            // SAFETY: allocated above with this size.
                            unsafe {
                                assert_eq!(block.read(), thread);
                                ALLOCATOR.dealloc(block.cast(), layout(size, 8));
                            }
                        }
                    }
                });
            }
        });
    }
}
