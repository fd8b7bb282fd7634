//! From frame number to descriptor: ranges of frames, dense inside, sparse between.
//!
//! Ranges are only ever added. Readers see a sorted table through one pointer, without a lock; a larger table replaces
//! a smaller one, which is kept until the map goes (tables double, so all old ones together are smaller than the
//! current).

use super::Page;
use crate::base::alloc::{Heap, HeapVec};
use crate::base::error::{Error, Result};
use crate::base::room::{Roomy, lock_with_room};
use crate::base::sync::atomic::{AtomicPtr, Ordering};
use crate::base::sync::{Mutex, rank};
use crate::base::types::{PMD_ORDER, Pfn};
use core::alloc::Layout;
use core::ptr::NonNull;

#[derive(Clone, Copy)]
struct Range {
    first: u64,
    count: u64,
    pages: NonNull<Page>,
    /// Whether the descriptors are in our memory.
    ours: bool,
}

/// Immutable once published.
struct Table(HeapVec<Range>);

/// All page descriptors of a context. See the [module](self).
pub struct PageMap {
    heap: Heap,
    /// The current table. Release when replaced; pairs with the Acquire in `page`.
    current: AtomicPtr<Table>,
    /// Serialises additions; all tables ever current, so that readers of an old one are safe.
    tables: Mutex<HeapVec<NonNull<Table>>, { rank::LEAF }>,
}

// SAFETY: (1) `Page` is made of atomics and a constant; (2) tables are immutable once published and live as long as the
// map.
unsafe impl Send for PageMap {}
// SAFETY: as for Send.
unsafe impl Sync for PageMap {}

impl PageMap {
    /// A map without frames.
    pub fn new(heap: &Heap) -> Self {
        Self { heap: heap.clone(), current: AtomicPtr::new(core::ptr::null_mut()), tables: Mutex::new(heap.vec()) }
    }

    /// Adds frames `[first, first + count)` with descriptors in the library's memory.
    pub fn add(&self, first: Pfn, count: u64) -> Result<()> {
        let layout = Layout::array::<Page>(count as usize).map_err(|_| Error::NoMemory)?;
        self.check(first, count)?;
        let pages = self.heap.alloc(layout)?.cast::<Page>();
        self.add_range(first, count, pages, true).inspect_err(|_| {
            // SAFETY: allocated above with this layout; not published, since adding it failed.
            unsafe { self.heap.free(pages.cast(), layout) };
        })
    }

    /// Adds frames `[first, first + count)` with descriptors in the embedder's memory, which this call initialises.
    ///
    /// # Safety
    /// `memory` is valid for `count` descriptors, aligned to 64 bytes, used by nobody else, and stays so until the map
    /// is dropped.
    pub unsafe fn add_in(&self, first: Pfn, count: u64, memory: NonNull<Page>) -> Result<()> {
        self.add_range(first, count, memory, false)
    }

    fn check(&self, first: Pfn, count: u64) -> Result<()> {
        let end = first.0.checked_add(count).ok_or(Error::Invalid)?;
        if count == 0 || end > 1 << 52 {
            return Err(Error::Invalid);
        }
        let meets = |r: &Range| r.first < end && first.0 < r.first + r.count;
        if self.ranges().iter().any(meets) { Err(Error::Exists) } else { Ok(()) }
    }

    fn add_range(&self, first: Pfn, count: u64, pages: NonNull<Page>, ours: bool) -> Result<()> {
        self.check(first, count)?;
        for i in 0..count {
            // SAFETY: the memory holds `count` descriptors (`add`, `add_in`) that nobody reads before a table with them
            // is published.
            unsafe { pages.add(i as usize).write(Page::new_in(self.heap.tag(), Pfn(first.0 + i))) };
        }
        loop {
            let known = self.ranges().len();
            let mut table = self.heap.boxed(Table(HeapVec::with_room(&self.heap, known + 1)?))?;
            let mut tables = lock_with_room(&self.tables, &self.heap)?;
            self.check(first, count)?;
            if self.ranges().len() != known {
                continue;
            }
            table.0.extend_from_slice(self.ranges());
            let at = table.0.partition_point(|r: &Range| r.first < first.0);
            table.0.insert(at, Range { first: first.0, count, pages, ours });
            let (table, _) = allocator_api2::boxed::Box::into_raw_with_allocator(table);
            // SAFETY: a box is never null.
            tables.push(unsafe { NonNull::new_unchecked(table) });
            self.current.store(table, Ordering::Release);
            return Ok(());
        }
    }

    fn ranges(&self) -> &[Range] {
        // SAFETY: a published table lives as long as the map.
        match unsafe { self.current.load(Ordering::Acquire).as_ref() } {
            Some(table) => &table.0,
            None => &[],
        }
    }

    /// The descriptor of a frame.
    #[inline]
    pub fn page(&self, pfn: Pfn) -> Option<&Page> {
        let ranges = self.ranges();
        let range = match ranges {
            [only] => only,
            _ => ranges.get(ranges.partition_point(|r| r.first <= pfn.0).checked_sub(1)?)?,
        };
        let offset = pfn.0.wrapping_sub(range.first);
        // SAFETY: the range holds `count` descriptors, initialised before the table was published.
        (offset < range.count).then(|| unsafe { &*range.pages.as_ptr().add(offset as usize) })
    }

    /// Whether the descriptor lies in this map.
    pub fn owns(&self, page: NonNull<Page>) -> bool {
        self.ranges().iter().any(|r| {
            let start = r.pages.as_ptr().addr();
            let at = page.as_ptr().addr();
            at >= start
                && at < start + r.count as usize * size_of::<Page>()
                && (at - start).is_multiple_of(size_of::<Page>())
        })
    }

    /// All descriptors, in the order of their frames.
    pub fn iter(&self) -> impl Iterator<Item = &Page> {
        self.ranges().iter().flat_map(|r| {
            // SAFETY: as in `page`.
            unsafe { core::slice::from_raw_parts(r.pages.as_ptr(), r.count as usize) }
        })
    }

    /// Makes `2^order` frames from `head` one compound page. They are the caller's alone: not mapped, not reachable.
    pub fn make_compound(&self, head: Pfn, order: u8) -> Result<()> {
        if order == 0 || order > PMD_ORDER || head.0 & ((1 << order) - 1) != 0 {
            return Err(Error::Invalid);
        }
        let first = self.page(head).ok_or(Error::Invalid)?;
        let tail_of =
            |i| self.page(Pfn(head.0 + i)).filter(|p| core::ptr::eq(first.distance(i), *p)).ok_or(Error::Invalid);
        for i in 0..1 << order {
            let page = tail_of(i)?;
            if page.is_compound() || page.is_mapped() {
                return Err(Error::Busy);
            }
        }
        for i in 1..1 << order {
            tail_of(i)?.set_compound_tail(i as u32);
        }
        first.set_compound_head(order);
        Ok(())
    }

    /// Takes a compound page apart. It is the caller's alone: not mapped, not reachable.
    pub fn break_compound(&self, head: Pfn) -> Result<()> {
        let first = self.page(head).filter(|p| p.is_compound() && !p.is_tail()).ok_or(Error::Invalid)?;
        if first.is_mapped() {
            return Err(Error::Busy);
        }
        let pages = first.nr_pages();
        for i in 1..pages {
            self.page(Pfn(head.0 + i)).ok_or(Error::Invalid)?.clear_compound();
        }
        first.clear_compound();
        Ok(())
    }
}

impl Page {
    /// The address `n` descriptors on, for comparison only.
    fn distance(&self, n: u64) -> *const Page {
        core::ptr::from_ref(self).wrapping_add(n as usize)
    }
}

impl Drop for PageMap {
    fn drop(&mut self) {
        for range in self.ranges() {
            if range.ours
                && let Ok(layout) = Layout::array::<Page>(range.count as usize)
            {
                // SAFETY: (1) allocated in `add` with this layout; (2) `&mut self`: nobody holds a descriptor; (3)
                // `Page` needs no drop.
                unsafe { self.heap.free(range.pages.cast(), layout) };
            }
        }
        for table in self.tables.get_mut().drain(..) {
            // SAFETY: each came from a box of this heap in `add_range`, and readers are gone.
            drop(unsafe { allocator_api2::boxed::Box::from_raw_in(table.as_ptr(), self.heap.clone()) });
        }
    }
}
