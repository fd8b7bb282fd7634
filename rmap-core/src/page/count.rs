//! How often a page is mapped, held and pinned.
//!
//! **mapcount** is 0 for a page that is not mapped (the kernel's `_mapcount` starts at -1). A compound page counts
//! mappings by one large entry, and all mappings, in the two halves of one word of its head's: the one atomic that
//! answers "mapped?". It never reads 0 while a large mapping becomes small ones, because the new ones are counted
//! before the old one is dropped.
//!
//! | half of the head's word | what it counts |
//! |---|---|
//! | low | all mappings, entire and single, of head and tails |
//! | high | mappings of the whole compound page by one entry |
//!
//! **exclusive against pins.** A page that is anon-exclusive may be written in place. Fork takes the flag away
//! ([`Page::try_share`]); a pin taken without locks relies on it ([`Page::try_pin`]). Both follow one pattern, write
//! mine, full fence, read yours, so at least one of them sees the other: either the pin finds the flag gone and gives
//! up, or fork finds the pin and copies the page.

use super::Page;
use super::flags::PageFlags;
use crate::base::mutant::mutant;
use crate::base::sync::atomic::{AtomicU32, Ordering, fence};
use core::hint::cold_path;

/// One mapping of any sort, in a head's word.
const ONE: u64 = 1;
/// One mapping of the whole compound page, in a head's word.
const ONE_ENTIRE: u64 = (1 << 32) | ONE;

/// All mappings that a head's word counts.
const fn total(word: u64) -> u32 {
    word as u32
}

/// Mappings of the whole compound page that a head's word counts.
const fn entire(word: u64) -> u32 {
    (word >> 32) as u32
}

/// What the end of a mapping was the end of. Each answer is exact, whoever else maps and unmaps the page meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmapped {
    /// No mapping of that sort is left: by a single entry of this very page, or by one entry of the whole compound
    /// page.
    pub this: bool,
    /// Nothing maps the page, or any page of its compound page.
    pub all: bool,
}

/// Adds one unless the count is zero.
fn inc_not_zero(count: &AtomicU32) -> bool {
    // Acquire: whoever gets a reference sees what was written before the object could be reached.
    count.fetch_update(Ordering::Acquire, Ordering::Relaxed, |n| (n != 0).then_some(n + 1)).is_ok()
}

impl Page {
    /// Mappings of this very page by single entries.
    #[inline]
    pub fn single_mapcount(&self) -> u32 {
        self.mapcount.load(Ordering::Acquire)
    }

    /// Mappings of the whole compound page by one entry.
    #[inline]
    pub fn entire_mapcount(&self) -> u32 {
        let head = self.head();
        if head.is_compound() { entire(head.word.load(Ordering::Acquire)) } else { 0 }
    }

    /// Mappings of this page, by its own entries and by entries for the whole compound page.
    #[inline]
    pub fn mapcount(&self) -> u32 {
        if self.is_compound() { self.single_mapcount() + self.entire_mapcount() } else { self.single_mapcount() }
    }

    /// Whether anything maps the page, or any page of its compound page. Acquire; pairs with the AcqRel of the changes.
    /// Without a PTE lock the answer may be old at once.
    #[inline]
    pub fn is_mapped(&self) -> bool {
        let head = self.head();
        if head.is_compound() {
            cold_path();
            total(head.word.load(Ordering::Acquire)) != 0
        } else {
            head.mapcount.load(Ordering::Acquire) != 0
        }
    }

    /// One more mapping by a single entry. PTE lock held. Returns whether it is the first of this very page.
    #[inline]
    pub fn add_mapping(&self) -> bool {
        if self.is_compound() {
            self.head().word.fetch_add(ONE, Ordering::AcqRel);
        }
        self.mapcount.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// One mapping by a single entry less. PTE lock held.
    #[inline]
    pub fn remove_mapping(&self) -> Unmapped {
        let before = if mutant("count_in_two_steps") {
            let before = self.mapcount.load(Ordering::Acquire);
            self.mapcount.store(before - 1, Ordering::Release);
            before
        } else {
            self.mapcount.fetch_sub(1, Ordering::AcqRel)
        };
        debug_assert!(before != 0, "mapcount of pfn {} falls below zero", self.pfn.0);
        let this = before == 1;
        let all = if self.is_compound() { total(self.head().word.fetch_sub(ONE, Ordering::AcqRel)) == 1 } else { this };
        Unmapped { this, all }
    }

    /// One more mapping of the whole compound page. PTE lock held; asked of the head. Returns whether it is the first
    /// of its sort.
    pub fn add_entire_mapping(&self) -> bool {
        debug_assert!(!self.is_tail() && self.is_compound());
        entire(self.word.fetch_add(ONE_ENTIRE, Ordering::AcqRel)) == 0
    }

    /// One mapping of the whole compound page less. PTE lock held.
    pub fn remove_entire_mapping(&self) -> Unmapped {
        debug_assert!(!self.is_tail() && self.is_compound());
        let before = self.word.fetch_sub(ONE_ENTIRE, Ordering::AcqRel);
        debug_assert!(entire(before) != 0);
        Unmapped { this: entire(before) == 1, all: total(before) == 1 }
    }

    /// References to the page.
    #[inline]
    pub fn refcount(&self) -> u32 {
        self.head().refcount.load(Ordering::Acquire)
    }

    /// The first reference, by the owner of a free frame.
    pub fn set_refcount(&self, refs: u32) {
        self.head().refcount.store(refs, Ordering::Release);
    }

    /// One more reference; the caller has one already.
    #[inline]
    pub fn get(&self) {
        let before = self.head().refcount.fetch_add(1, Ordering::Relaxed);
        debug_assert!(before != 0, "a reference to the free frame {}", self.pfn.0);
    }

    /// A reference, unless the frame is free.
    #[inline]
    pub fn try_get(&self) -> bool {
        inc_not_zero(&self.head().refcount)
    }

    /// One reference less. Returns whether it was the last: the caller then owns the frame and frees it. AcqRel: what
    /// every former holder did is done before the frame is freed.
    #[inline]
    #[must_use]
    pub fn put(&self) -> bool {
        let before = self.head().refcount.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before != 0, "refcount of pfn {} falls below zero", self.pfn.0);
        before == 1
    }

    /// Long-term pins.
    #[inline]
    pub fn pins(&self) -> u32 {
        self.head().pins.load(Ordering::Acquire)
    }

    /// Pins a page for access that goes on while page tables change. Takes a reference and a pin, and checks that an
    /// anonymous page is exclusive, after a full fence that pairs with the one in [`try_share`](Self::try_share).
    /// False: the page is shared, or on its way there; fault it for writing and try again. The caller holds a reference
    /// or the PTE lock.
    pub fn try_pin(&self) -> bool {
        let head = self.head();
        head.get();
        head.pins.fetch_add(1, Ordering::SeqCst);
        if !mutant("pin_without_fence") {
            fence(Ordering::SeqCst);
        }
        if head.mapping.load().is_anon() && !self.has(PageFlags::ANON_EXCLUSIVE) {
            let last = self.unpin();
            debug_assert!(!last, "the caller holds a reference");
            return false;
        }
        true
    }

    /// Gives a pin and its reference back. Returns whether that was the last reference: the caller then owns the frame
    /// and frees it.
    #[must_use]
    pub fn unpin(&self) -> bool {
        let head = self.head();
        let before = head.pins.fetch_sub(1, Ordering::Release);
        debug_assert!(before != 0, "pins of pfn {} fall below zero", self.pfn.0);
        head.put()
    }

    /// Takes the exclusive flag away so that fork may share the page. Refused, with the flag back in place, when the
    /// page is pinned: fork then copies it. PTE lock held. The fence pairs with the one in [`try_pin`](Self::try_pin).
    pub fn try_share(&self) -> bool {
        if self.pins() != 0 {
            return false;
        }
        self.clear(PageFlags::ANON_EXCLUSIVE);
        fence(Ordering::SeqCst);
        if self.head().pins.load(Ordering::SeqCst) != 0 {
            self.set(PageFlags::ANON_EXCLUSIVE);
            return false;
        }
        true
    }
}
