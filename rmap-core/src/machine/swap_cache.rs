//! Pages leave the swap cache.
//!
//! The cache holds a reference on its page and one use of its slot ([`swap`](super::swap)). A page stays in it as long
//! as entries in page tables name the slot, so that all who share the page meet at one frame again; with the last entry
//! gone the slot is given back, and what the frame holds is the only copy.

use super::Machine;
use super::system::SoftSystem;
use crate::page::Page;
use crate::page::flags::PageFlags;

impl<S: SoftSystem> Machine<S> {
    /// An entry that named `slot` is gone: one use less. The page in the cache goes when no other entry is left. PTE
    /// lock held.
    pub(super) fn free_swap_entry(&self, slot: u64) {
        let Some(swap) = &self.swap else { return };
        let left = swap.free(slot);
        debug_assert!(left.is_ok(), "an entry names slot {slot}, which nobody uses: {left:?}");
        if left != Ok(1) {
            return;
        }
        let Some(page) = swap.cache_lookup(slot).and_then(|pfn| self.rmap.pages().page(pfn)) else { return };
        if page.try_get() {
            if swap.cache_lookup(slot) == Some(page.pfn()) {
                self.try_leave_swap_cache(page);
            }
            self.put_page(page);
        }
    }

    /// Takes a page out of the swap cache if its lock is free and no entry names its slot. The caller has a reference.
    /// Whoever holds the lock keeps it in: then [`trim_swap_cache`](Self::trim_swap_cache) finds it later.
    pub(super) fn try_leave_swap_cache(&self, page: &Page) {
        // Lock order: a try, allowed under PTE locks.
        if let Some(_locked) = page.try_lock() {
            self.leave_swap_cache(page);
        }
    }

    /// Takes a page out of the swap cache if no entry names its slot (the kernel's `folio_free_swap`). Returns whether
    /// it is out. Page lock held, and the caller has a reference.
    pub(super) fn leave_swap_cache(&self, page: &Page) -> bool {
        debug_assert!(page.is_locked());
        let Some(swap) = &self.swap else { return true };
        if !page.has(PageFlags::SWAP_CACHE) {
            return true;
        }
        // Entries are made from entries, or under the page lock: from 1, the cache's own, the count does not rise.
        if swap.count(page.private()) != 1 {
            return false;
        }
        self.remove_from_swap_cache(page);
        // The slot's contents are given up with it.
        page.set(PageFlags::DIRTY);
        true
    }

    /// Takes a page out of the swap cache, whoever names its slot. Page lock held, and the caller has a reference.
    pub(super) fn remove_from_swap_cache(&self, page: &Page) {
        let Some(swap) = &self.swap else { return };
        let removed = swap.cache_remove(page.private());
        debug_assert_eq!(removed, Some(page.pfn()), "the swap cache has another page at this slot");
        page.clear(PageFlags::SWAP_CACHE);
        page.set_private(0);
        let last = page.put();
        debug_assert!(!last, "the caller has a reference");
    }

    /// Lets go of pages in the swap cache whose slots no entry names. Their number is small: those whose page lock was
    /// held by another thread when their last entry went. Returns how many it found.
    pub fn trim_swap_cache(&self) -> u64 {
        let Some(swap) = &self.swap else { return 0 };
        let mut trimmed = 0;
        for slot in 0..swap.slots() {
            let Some(page) = swap.cache_lookup(slot).and_then(|pfn| self.rmap.pages().page(pfn)) else { continue };
            if swap.count(slot) != 1 || !page.try_get() {
                continue;
            }
            if let Some(_locked) = page.try_lock()
                && page.has(PageFlags::SWAP_CACHE)
                && page.private() == slot
            {
                trimmed += u64::from(self.leave_swap_cache(page));
            }
            self.put_page(page);
        }
        trimmed
    }
}
