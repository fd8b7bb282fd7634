//! The page descriptor: what the reverse map knows of a page frame, in 32 bytes, and what its owner keeps beside it.
//!
//! | file | what it is |
//! |---|---|
//! | [`mapping`] | the word that says to whom a page belongs |
//! | [`flags`] | the flag bits and the page lock |
//! | [`count`] | mapcount, references, pins, and the exclusive flag's ordering |
//! | [`map`] | from frame number to descriptor, sparse ranges allowed |
//! | [`pte`] | the explicit page-table entry, and the boundary to whoever keeps page tables |
//! | [`frames`], `buddy`, [`contents`] | a frame allocator with contents, for those who bring none |
//! | [`radix`] | the tree under the machine's page tables |

mod buddy;
pub mod contents;
pub mod count;
pub mod flags;
pub mod frames;
pub mod map;
pub mod mapping;
pub mod pte;
pub mod radix;

use crate::base::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::base::types::{Pfn, PgOff};
use core::hint::cold_path;
use mapping::MappingWord;

/// One page frame's descriptor: a cache line, so that two frames never share one.
///
/// The first 32 bytes are what the reverse map uses. A compound page is a head and its tails, each with a descriptor;
/// `mapping`, `index`, reference count and pins are the head's.
#[repr(C, align(64))]
pub struct Page {
    /// To whom the page belongs; states in [`mapping`]. Written under the page lock or before the page is mapped; read
    /// without a lock (Acquire).
    mapping: MappingWord,
    /// Offset in pages, in the file or as the engine counts it. Written before `mapping`, which publishes it.
    index: AtomicU64,
    /// Mappings of this very page by single entries. Changed under the PTE lock of the mapping that comes or goes.
    mapcount: AtomicU32,
    /// References; 0: the frame is free.
    refcount: AtomicU32,
    /// Long-term pins (direct I/O and the like); ordering against fork in [`count`].
    pins: AtomicU32,
    /// Bits of [`flags::PageFlags`].
    flags: AtomicU32,

    /// The frame's number. Never changes.
    pfn: Pfn,
    /// The owner's word: the swap entry while PG_swapcache is set (page lock).
    private: AtomicU64,
    /// A word with two uses; 0 while the frame is free.
    ///
    /// | of | what | who changes it |
    /// |---|---|---|
    /// | a head | mappings of the compound page, in two halves (see [`count`]) | the PTE lock of the mapping |
    /// | any other page | the engine's ([`Page::engine_word`]) | the engine's to say |
    word: AtomicU64,
    /// Of a head: 1 + order. Of a tail: `TAIL` and the distance to its head. 0: a page of its own. Set while the page
    /// is unreachable, before it is mapped.
    compound: AtomicU32,
    /// The tag of the map that it lies in; 0: in none. Never changes.
    owner: u32,
}

#[cfg(not(any(loom, shuttle)))]
const _: () = {
    assert!(core::mem::offset_of!(Page, pfn) == 32, "what the reverse map uses fits 32 bytes");
    assert!(size_of::<Page>() == 64);
};

const TAIL: u32 = 1 << 31;

impl Page {
    /// A descriptor of a free frame.
    pub fn new(pfn: Pfn) -> Self {
        Self {
            mapping: MappingWord::new(),
            index: AtomicU64::new(0),
            mapcount: AtomicU32::new(0),
            refcount: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            pfn,
            private: AtomicU64::new(0),
            word: AtomicU64::new(0),
            compound: AtomicU32::new(0),
            owner: 0,
        }
    }

    /// A descriptor of a free frame in the map that has this tag.
    pub(super) fn new_in(owner: u32, pfn: Pfn) -> Self {
        Self { owner, ..Self::new(pfn) }
    }

    /// The tag of the map that it lies in, the same as its heap's ([`Heap::tag`](crate::base::alloc::Heap::tag)).
    #[inline]
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// The frame's number.
    #[inline]
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The mapping word of this very descriptor; ask the [`head`](Self::head) for a compound page's.
    #[inline]
    pub fn mapping(&self) -> &MappingWord {
        &self.mapping
    }

    /// Offset in pages. For a tail: the head's plus the distance.
    #[inline]
    pub fn index(&self) -> PgOff {
        let head = self.head();
        head.index.load(Ordering::Relaxed) + (self.pfn.0 - head.pfn.0)
    }

    /// Sets the offset. Before the word that publishes it; page lock held, or the page not yet reachable.
    #[inline]
    pub fn set_index(&self, index: PgOff) {
        self.index.store(index, Ordering::Relaxed);
    }

    /// The owner's word (the swap entry of a page in the swap cache). Page lock.
    #[inline]
    pub fn private(&self) -> u64 {
        self.private.load(Ordering::Relaxed)
    }

    /// Sets the owner's word. Page lock.
    #[inline]
    pub fn set_private(&self, value: u64) {
        self.private.store(value, Ordering::Relaxed);
    }

    /// The head of the compound page that this page belongs to, or the page itself.
    #[inline]
    pub fn head(&self) -> &Page {
        let compound = self.compound.load(Ordering::Relaxed);
        if compound & TAIL == 0 {
            return self;
        }
        // A branch, so that what is asked of the head does not wait for the word.
        cold_path();
        let distance = (compound & !TAIL) as usize;
        // SAFETY: `make_compound` set this distance for a page that lies that many descriptors into one array
        // (`PageMap::compound` checks that the whole range lies in one).
        unsafe { &*core::ptr::from_ref(self).sub(distance) }
    }

    /// The `n`-th page of the compound page that this is the head of, or this page itself for 0.
    #[inline]
    pub(crate) fn nth(&self, n: u64) -> &Page {
        debug_assert!(n < self.nr_pages() && !self.is_tail());
        // SAFETY: a compound page's descriptors lie in one array, the head's first (`PageMap::make_compound` checks
        // it).
        unsafe { &*core::ptr::from_ref(self).add(n as usize) }
    }

    /// A word of the engine's for the mappings of this very page, 0 for a page that is nobody's. A head counts in its
    /// own, and shares that of its first tail.
    #[inline]
    pub fn engine_word(&self) -> &AtomicU64 {
        if self.is_compound() && !self.is_tail() { &self.nth(1).word } else { &self.word }
    }

    /// log2 of the pages in the compound page; 0 for a page of its own. Asked of a head.
    #[inline]
    pub fn order(&self) -> u8 {
        let compound = self.head().compound.load(Ordering::Relaxed);
        compound.saturating_sub(1) as u8
    }

    /// Pages in the compound page.
    #[inline]
    pub fn nr_pages(&self) -> u64 {
        1 << self.order()
    }

    /// Whether it is one of several pages with one head.
    #[inline]
    pub fn is_compound(&self) -> bool {
        self.compound.load(Ordering::Relaxed) != 0
    }

    /// Whether it is a tail.
    #[inline]
    pub fn is_tail(&self) -> bool {
        self.compound.load(Ordering::Relaxed) & TAIL != 0
    }

    fn set_compound_head(&self, order: u8) {
        self.compound.store(1 + u32::from(order), Ordering::Relaxed);
    }

    fn set_compound_tail(&self, distance: u32) {
        self.compound.store(TAIL | distance, Ordering::Relaxed);
    }

    fn clear_compound(&self) {
        self.compound.store(0, Ordering::Relaxed);
    }
}

impl core::fmt::Debug for Page {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Page")
            .field("pfn", &self.pfn.0)
            .field("mapping", &self.mapping.load())
            .field("index", &self.index.load(Ordering::Relaxed))
            .field("mapcount", &self.mapcount())
            .field("refcount", &self.refcount())
            .field("flags", &self.flags())
            .finish_non_exhaustive()
    }
}
