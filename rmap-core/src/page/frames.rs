//! A frame allocator with contents, for those who bring none.
//!
//! [`Frames`] owns a range of page frames: which are free, and what bytes each holds. A frame is handed out with one
//! reference, belonging to nobody, without flags, and zero (G7). Whoever puts the last reference gives it back.
//!
//! ```text
//!   free ── alloc: contents zeroed, refcount 1 ──> in use ── last put: refcount 0 ──> nobody's ── free: reset ──> free
//! ```
//!
//! With [`Contents::Real`] a frame gets its 4 KiB from the heap when it is first handed out, and keeps them through all
//! its later lives until the allocator is dropped (see [`contents`](super::contents) for why). With
//! [`Contents::MetadataOnly`] there are no bytes: reads give zero and writes vanish, for simulations larger than this
//! computer.
//!
//! One lock of leaf rank guards the free lists; it is held for the list operation only, never while zeroing or while
//! the heap is asked (G8).

use super::Page;
use super::buddy::Buddy;
use super::contents::PageStore;
use super::flags::PageFlags;
use super::map::PageMap;
use super::mapping::Mapping;
use crate::base::alloc::Heap;
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::{Mutex, rank};
use crate::base::types::{PMD_ORDER, Pfn};
use core::cmp;

/// Whether frames have bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// 4 KiB in every frame that was ever handed out.
    Real,
    /// None: reads give zero, writes vanish.
    MetadataOnly,
}

/// A range of page frames. See the [module](self).
pub struct Frames {
    first: u64,
    total: u64,
    buddy: Mutex<Buddy, { rank::LEAF }>,
    /// What the free lists hold. Written under their lock; Relaxed, a figure for watermarks.
    free: AtomicU64,
    store: Option<PageStore>,
}

impl Frames {
    /// The frames `[first, first + count)`, all free. Their descriptors are added to `pages`.
    pub fn new(heap: &Heap, pages: &PageMap, first: Pfn, count: u64, contents: Contents) -> Result<Self> {
        let buddy = Buddy::new(heap, first.0, count)?;
        let store = match contents {
            Contents::Real => Some(PageStore::new(heap, count)?),
            Contents::MetadataOnly => None,
        };
        // Last, since a range once added stays (G4).
        pages.add(first, count)?;
        Ok(Self { first: first.0, total: count, buddy: Mutex::new(buddy), free: AtomicU64::new(count), store })
    }

    /// A frame of the caller's own: refcount 1, belonging to nobody, no flags, contents zero. [`Error::NoMemory`] when
    /// no frame is free, or the heap has no memory for its contents.
    #[inline]
    pub fn alloc<'p>(&self, pages: &'p PageMap) -> Result<&'p Page> {
        self.alloc_order(pages, 0)
    }

    /// A compound page of `2^order` frames, the first a multiple of that; returns the head. Otherwise as
    /// [`alloc`](Self::alloc).
    pub fn alloc_order<'p>(&self, pages: &'p PageMap, order: u8) -> Result<&'p Page> {
        if order > PMD_ORDER {
            return Err(Error::Invalid);
        }
        let frame = {
            let mut buddy = self.buddy.lock();
            let frame = buddy.take(order).ok_or(Error::NoMemory)?;
            self.free.store(buddy.free(), Ordering::Relaxed);
            frame
        };
        self.prepare(pages, frame, order).inspect_err(|_| self.give(frame, order))
    }

    /// Makes frames that were just taken off the free lists fit for a new owner.
    fn prepare<'p>(&self, pages: &'p PageMap, frame: u32, order: u8) -> Result<&'p Page> {
        let pfn = Pfn(self.first + u64::from(frame));
        let page = pages.page(pfn).ok_or(Error::Foreign)?;
        if let Some(store) = &self.store {
            (0..1 << order).try_for_each(|i| store.make_zero(u64::from(frame) + i))?;
        }
        if order != 0 {
            pages.make_compound(pfn, order)?;
        }
        // Release, inside; pairs with the Acquire of a reference tried for by somebody with a stale frame number.
        page.set_refcount(1);
        Ok(page)
    }

    fn give(&self, frame: u32, order: u8) {
        let mut buddy = self.buddy.lock();
        buddy.give(frame, order);
        self.free.store(buddy.free(), Ordering::Relaxed);
    }

    /// Takes back a frame, or the head of a compound page, after its last reference was put: the caller owns it alone.
    /// It is not mapped, not pinned and not locked; if it belonged to an anchor, the anchor's reference is dropped
    /// after this.
    pub fn free(&self, pages: &PageMap, page: &Page) {
        debug_assert!(page.refcount() == 0 && page.pins() == 0 && !page.is_mapped() && !page.is_locked(), "{page:?}");
        debug_assert!(!page.is_tail(), "a compound page is freed by its head");
        let (pfn, order) = (page.pfn(), page.order());
        if order == 0 {
            reset(page);
        } else {
            let broken = pages.break_compound(pfn);
            debug_assert!(broken.is_ok());
            (0..1 << order).filter_map(|i| pages.page(Pfn(pfn.0 + i))).for_each(reset);
        }
        self.give(self.index(pfn) as u32, order);
    }

    /// Frames free now; of the past when other threads allocate and free.
    #[inline]
    pub fn free_frames(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Frames in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether frames have bytes.
    pub fn contents(&self) -> Contents {
        if self.store.is_some() { Contents::Real } else { Contents::MetadataOnly }
    }

    /// The frame's place in the range.
    fn index(&self, pfn: Pfn) -> u64 {
        let index = pfn.0.wrapping_sub(self.first);
        assert!(index < self.total, "frame {} is not of this range", pfn.0);
        index
    }

    /// Copies bytes `[offset, offset + out.len())` of a frame out. Other threads may write them meanwhile: each aligned
    /// word of eight bytes is of one moment.
    #[inline]
    pub fn read(&self, pfn: Pfn, offset: usize, out: &mut [u8]) {
        match &self.store {
            Some(store) => store.read(self.index(pfn), offset, out),
            None => out.fill(0),
        }
    }

    /// Copies `data` to bytes `[offset, offset + data.len())` of a frame that was handed out.
    #[inline]
    pub fn write(&self, pfn: Pfn, offset: usize, data: &[u8]) {
        if let Some(store) = &self.store {
            store.write(self.index(pfn), offset, data);
        }
    }

    /// Copies one frame's bytes to another.
    pub fn copy(&self, from: Pfn, to: Pfn) {
        if let Some(store) = &self.store {
            store.copy(self.index(from), self.index(to));
        }
    }

    /// Whether every byte is zero. While others write, the answer is of no one moment.
    pub fn is_zero(&self, pfn: Pfn) -> bool {
        self.store.as_ref().is_none_or(|store| store.is_zero(self.index(pfn)))
    }

    /// Compares two frames as strings of bytes. While others write, the answer is of no one moment: write-protect
    /// first, or compare again. Without contents all are equal.
    pub fn compare(&self, a: Pfn, b: Pfn) -> cmp::Ordering {
        let compare = |store: &PageStore| store.compare(self.index(a), self.index(b));
        self.store.as_ref().map_or(cmp::Ordering::Equal, compare)
    }
}

/// Makes a descriptor that of a free frame. The caller owns the frame alone.
fn reset(page: &Page) {
    page.mapping().store(Mapping::None);
    page.clear(PageFlags::all() - PageFlags::LOCKED - PageFlags::WAITERS);
    page.set_index(0);
    page.set_private(0);
}

impl core::fmt::Debug for Frames {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Frames")
            .field("first", &self.first)
            .field("total", &self.total)
            .field("free", &self.free_frames())
            .field("contents", &self.contents())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::alloc::testing::Countdown;

    struct Machine {
        heap: Heap,
        pages: PageMap,
        frames: Frames,
    }

    fn machine(count: u64, contents: Contents) -> Machine {
        let heap = Heap::global().unwrap();
        let pages = PageMap::new(&heap);
        let frames = Frames::new(&heap, &pages, Pfn(512), count, contents).unwrap();
        Machine { heap, pages, frames }
    }

    fn put(m: &Machine, page: &Page) {
        assert!(page.put());
        m.frames.free(&m.pages, page);
    }

    #[test]
    fn g7_a_frame_never_shows_old_bytes_to_a_new_owner() {
        let m = machine(4, Contents::Real);
        for round in 0..20_u8 {
            let held: Vec<&Page> = (0..4).map(|_| m.frames.alloc(&m.pages).unwrap()).collect();
            assert_eq!(m.frames.alloc(&m.pages).unwrap_err(), Error::NoMemory);
            for page in held {
                let fresh = (page.refcount(), page.mapping().load(), page.flags(), page.index(), page.private());
                assert_eq!(fresh, (1, Mapping::None, PageFlags::empty(), 0, 0));
                assert!(m.frames.is_zero(page.pfn()));
                m.frames.write(page.pfn(), 1_000, &[round + 1; 3_000]);
                page.set(PageFlags::DIRTY | PageFlags::SWAP_BACKED);
                page.set_index(7);
                page.set_private(9);
                page.mapping().store(Mapping::Anon(core::ptr::NonNull::from(&m.heap).cast()));
                put(&m, page);
            }
        }
        assert_eq!(m.frames.free_frames(), m.frames.total());
    }

    #[test]
    fn g7_all_memory_is_given_back() {
        let m = machine(600, Contents::Real);
        let page = m.frames.alloc_order(&m.pages, 3).unwrap();
        put(&m, page);
        let Machine { heap, pages, frames } = m;
        drop((pages, frames));
        assert_eq!(heap.in_use(), 0);
    }

    #[test]
    fn compound_pages_are_aligned_and_come_apart_when_freed() {
        let m = machine(1_024, Contents::Real);
        let single = m.frames.alloc(&m.pages).unwrap();
        for order in 1..=PMD_ORDER {
            let head = m.frames.alloc_order(&m.pages, order).unwrap();
            assert_eq!((head.pfn().0 % (1 << order), head.order(), head.refcount()), (0, order, 1));
            let last = m.pages.page(Pfn(head.pfn().0 + head.nr_pages() - 1)).unwrap();
            assert!(last.is_tail() && core::ptr::eq(last.head(), head));
            m.frames.write(last.pfn(), 0, &[1]);
            last.set(PageFlags::ANON_EXCLUSIVE);
            put(&m, head);
            assert!(!last.is_compound() && !head.is_compound() && last.flags().is_empty());
        }
        let head = m.frames.alloc_order(&m.pages, PMD_ORDER).unwrap();
        assert!((0..512).all(|i| m.frames.is_zero(Pfn(head.pfn().0 + i))));
        assert_eq!(m.frames.alloc_order(&m.pages, PMD_ORDER).unwrap_err(), Error::NoMemory);
        put(&m, single);
        assert!(m.frames.alloc_order(&m.pages, PMD_ORDER).is_ok());
        assert_eq!(m.frames.alloc_order(&m.pages, PMD_ORDER + 1).unwrap_err(), Error::Invalid);
    }

    #[test]
    fn g4_each_failing_allocation_leaves_the_frames_as_they_were() {
        let countdown = Countdown::leaked();
        let heap = countdown.heap();
        let pages = PageMap::new(&heap);
        for n in 0.. {
            countdown.fail_after(n);
            let made = Frames::new(&heap, &pages, Pfn(0), 64, Contents::Real);
            if !countdown.lift() {
                assert_eq!(Frames::new(&heap, &pages, Pfn(0), 64, Contents::Real).unwrap_err(), Error::Exists);
                let frames = made.unwrap();
                countdown.fail_after(3);
                assert_eq!(frames.alloc_order(&pages, 3).unwrap_err(), Error::NoMemory);
                assert!(countdown.lift());
                assert_eq!(frames.free_frames(), 64);
                assert!(!pages.page(Pfn(0)).unwrap().is_compound());
                assert!((0..8).all(|_| frames.alloc_order(&pages, 3).is_ok()));
                break;
            }
            assert_eq!(made.unwrap_err(), Error::NoMemory);
            assert!(pages.page(Pfn(0)).is_none());
        }
        drop(pages);
        assert_eq!(heap.in_use(), 0);
    }

    #[test]
    fn without_contents_all_is_zero_and_equal() {
        let m = machine(2, Contents::MetadataOnly);
        let (a, b) = (m.frames.alloc(&m.pages).unwrap().pfn(), m.frames.alloc(&m.pages).unwrap().pfn());
        m.frames.write(a, 0, &[1, 2, 3]);
        m.frames.copy(a, b);
        let mut back = [9; 3];
        m.frames.read(b, 0, &mut back);
        assert_eq!((back, m.frames.compare(a, b)), ([0; 3], cmp::Ordering::Equal));
        assert!(m.frames.is_zero(a));
    }

    #[test]
    fn another_maps_descriptors_are_refused() {
        let m = machine(2, Contents::Real);
        let other = PageMap::new(&m.heap);
        assert_eq!(m.frames.alloc(&other).unwrap_err(), Error::Foreign);
        assert_eq!(m.frames.free_frames(), 2);
    }

    #[test]
    fn no_frame_has_two_owners() {
        let m = machine(300, Contents::Real);
        crate::base::testing::scope(|s| {
            for thread in 1..5_u8 {
                let m = &m;
                s.spawn(move || {
                    let mut mine: Vec<&Page> = Vec::new();
                    for round in 0..4_000_u32 {
                        if round % 3 < 2 && mine.len() < 50 {
                            let order = if round % 7 == 0 { 2 } else { 0 };
                            if let Ok(page) = m.frames.alloc_order(&m.pages, order) {
                                assert!(m.frames.is_zero(page.pfn()));
                                m.frames.write(page.pfn(), 64, &[thread; 8]);
                                mine.push(page);
                            }
                        } else if let Some(page) = mine.pop() {
                            let mut back = [0; 8];
                            m.frames.read(page.pfn(), 64, &mut back);
                            assert_eq!(back, [thread; 8]);
                            put(m, page);
                        }
                    }
                    for page in mine {
                        put(m, page);
                    }
                });
            }
        });
        assert_eq!(m.frames.free_frames(), 300);
    }
}
