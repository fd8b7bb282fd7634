//! Page flags and the page lock (PG_locked, with PG_waiters as the kernel has it).

use super::Page;
use crate::base::sync::{atomic::Ordering, bit_lock, rank};
use bitflags::bitflags;

bitflags! {
    /// The flag bits of a page. LOCKED and WAITERS belong to the page lock; the others are set and cleared by atomic
    /// operations, under the lock that each names.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct PageFlags: u32 {
        /// Held by whoever acts on the page (the page lock).
        const LOCKED = 1;
        /// Somebody waits for the page lock.
        const WAITERS = 1 << 1;
        /// Mapped by one address space alone, which may write without a copy. Set and cleared under the PTE lock; see
        /// [`super::count`].
        const ANON_EXCLUSIVE = 1 << 2;
        /// Goes to swap, not to a file. Set before the page is first mapped.
        const SWAP_BACKED = 1 << 3;
        /// Differs from what stands in swap or in the file.
        const DIRTY = 1 << 4;
        /// Was used, by the LRU's account.
        const REFERENCED = 1 << 5;
        /// Its contents are valid.
        const UPTODATE = 1 << 6;
        /// A VMA with LOCKED maps it: not to be evicted.
        const MLOCKED = 1 << 7;
        /// On an LRU list (LRU lock).
        const LRU = 1 << 8;
        /// On an active list (LRU lock).
        const ACTIVE = 1 << 9;
        /// On the unevictable list (LRU lock).
        const UNEVICTABLE = 1 << 10;
        /// In the swap cache: `private` is its swap entry (page lock).
        const SWAP_CACHE = 1 << 11;
        /// Its memory is broken; it is never mapped again.
        const HWPOISON = 1 << 12;
        /// Being written to swap or to a file.
        const WRITEBACK = 1 << 13;
        /// Never freed, never counted: the zero page.
        const RESERVED = 1 << 14;
        /// Freed lazily by MADV_FREE: clean contents may be dropped instead of swapped.
        const LAZY_FREE = 1 << 15;
    }
}

const LOCK_BIT: u32 = PageFlags::LOCKED.bits().trailing_zeros();
const WAITERS_BIT: u32 = PageFlags::WAITERS.bits().trailing_zeros();

impl Page {
    /// All flags at this moment.
    #[inline]
    pub fn flags(&self) -> PageFlags {
        PageFlags::from_bits_retain(self.flags.load(Ordering::Acquire))
    }

    /// Whether all of `flags` are set.
    #[inline]
    pub fn has(&self, flags: PageFlags) -> bool {
        self.flags().contains(flags)
    }

    /// Sets flags; returns whether all were set before. Release: what was written before (contents, for UPTODATE) is
    /// seen by whoever sees the flag; pairs with the Acquire in [`flags`](Self::flags).
    #[inline]
    pub fn set(&self, flags: PageFlags) -> bool {
        debug_assert!(!flags.intersects(PageFlags::LOCKED | PageFlags::WAITERS));
        self.flags.fetch_or(flags.bits(), Ordering::AcqRel) & flags.bits() == flags.bits()
    }

    /// Clears flags; returns whether any was set before.
    #[inline]
    pub fn clear(&self, flags: PageFlags) -> bool {
        debug_assert!(!flags.intersects(PageFlags::LOCKED | PageFlags::WAITERS));
        self.flags.fetch_and(!flags.bits(), Ordering::AcqRel) & flags.bits() != 0
    }

    /// Takes the page lock, waiting for it. Lock order: after mmap_lock, before everything else; two pages: lower frame
    /// number first, the second by [`lock_nested`](Self::lock_nested).
    pub fn lock(&self) -> PageLock<'_> {
        let head = self.head();
        bit_lock::lock(&head.flags, LOCK_BIT, WAITERS_BIT, rank::PAGE_LOCK);
        PageLock(head)
    }

    /// The second page lock of two.
    pub fn lock_nested(&self) -> PageLock<'_> {
        let head = self.head();
        bit_lock::lock_nested(&head.flags, LOCK_BIT, WAITERS_BIT, rank::PAGE_LOCK);
        PageLock(head)
    }

    /// Takes the page lock if nobody holds it.
    pub fn try_lock(&self) -> Option<PageLock<'_>> {
        let head = self.head();
        // Not `then_some`: a `PageLock` made in vain would release the holder's lock when it is dropped.
        bit_lock::try_lock(&head.flags, LOCK_BIT, rank::PAGE_LOCK).then(|| PageLock(head))
    }

    /// Whether somebody holds the page lock.
    #[inline]
    pub fn is_locked(&self) -> bool {
        bit_lock::is_locked(&self.head().flags, LOCK_BIT)
    }

    /// Releases a page lock whose [`PageLock`] was given up by [`PageLock::into_raw`].
    ///
    /// # Safety
    /// The caller holds the page lock, and no `PageLock` stands for it.
    pub unsafe fn unlock_raw(&self) {
        bit_lock::unlock(&self.head().flags, LOCK_BIT, WAITERS_BIT);
    }
}

/// The page lock, held until dropped.
#[must_use = "the page is unlocked at once when this is dropped"]
#[derive(Debug)]
pub struct PageLock<'a>(&'a Page);

impl<'a> PageLock<'a> {
    /// The locked page (the head of a compound page).
    pub fn page(&self) -> &'a Page {
        self.0
    }

    /// Keeps the page locked until [`Page::unlock_raw`].
    pub fn into_raw(self) {
        core::mem::forget(self);
    }
}

impl Drop for PageLock<'_> {
    fn drop(&mut self) {
        // SAFETY: this value stands for the held lock.
        unsafe { self.0.unlock_raw() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::types::Pfn;

    #[test]
    fn a_try_in_vain_leaves_the_lock_with_its_holder() {
        let page = Page::new(Pfn(1));
        let held = page.lock();
        crate::base::testing::scope(|s| {
            s.spawn(|| assert!(page.try_lock().is_none()));
        });
        assert!(page.is_locked());
        drop(held);
        assert!(page.try_lock().is_some() && !page.is_locked());
    }
}
