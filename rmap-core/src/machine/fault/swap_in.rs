//! Faults on pages in swap.
//!
//! All who share a page in swap meet at one frame through the swap cache: the first reads it in, the others find it
//! there. The entry that is mapped gives its use of the slot back; with the last one the page leaves the cache and the
//! slot is free.
//!
//! **Whose is it?** The page is this address space's alone if the entry says so (it was exclusive when it went out), or
//! if no other entry names the slot and nobody else holds the page. Otherwise relatives may have it too, and it belongs
//! to the oldest anchor (T1).

use super::super::account::Charge;
use super::super::swap::SwapStore;
use super::super::system::SoftSystem;
use super::{Fault, Machine, Outcome, WRITTEN};
use crate::base::error::{Error, Result};
use crate::base::mutant::mutant;
use crate::base::types::{PAGE_SIZE, VmFlags};
use crate::page::Page;
use crate::page::flags::{PageFlags, PageLock};
use crate::page::mapping::Mapping;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags, SwapEntry};
use crate::rmap::account::Level;

impl<S: SoftSystem> Machine<S> {
    /// The entry stands for a page in swap. A write that finds the page shared looks at the entry again, to copy it.
    pub(super) fn swap_in(&self, f: &Fault<'_, S>, entry: SwapEntry) -> Result<Outcome> {
        let swap = self.swap.as_ref().ok_or(Error::Bus)?;
        let charge = self.charge(f.mm, 1)?;
        let _reserved = self.prepare_anon(f)?;
        let Some((page, locked)) = self.swap_page(f, swap, entry)? else { return Ok(Outcome::Done) };
        let mapped = self.map_swapped(f, swap, entry, page, charge);
        // The last entry may have gone while this thread held the page lock, its own or another's.
        self.leave_swap_cache(page);
        drop(locked);
        if mapped != Ok(true) {
            self.put_page(page);
        }
        mapped.map(|mapped| if mapped && f.want.private() { Outcome::Again } else { Outcome::Done })
    }

    /// The page of the entry's slot, in the swap cache, with its contents, a reference and its lock. `None`: the entry
    /// is gone.
    fn swap_page<'m>(
        &'m self,
        f: &Fault<'_, S>,
        swap: &SwapStore,
        entry: SwapEntry,
    ) -> Result<Option<(&'m Page, PageLock<'m>)>> {
        while f.mm.table().load(f.addr) == Pte::Swap(entry) {
            let Some(pfn) = swap.cache_lookup(entry.slot) else {
                match self.read_swap(swap, entry.slot) {
                    Err(Error::Exists) => continue,
                    Err(Error::Stale) => return Ok(None),
                    done => return done.map(Some),
                }
            };
            let page = self.page(pfn)?;
            if !page.try_get() {
                continue;
            }
            // Looked up again: the reference may be to a frame that is another's by now.
            if swap.cache_lookup(entry.slot) == Some(pfn) {
                // Lock order: mmap_lock -> page lock.
                let locked = page.lock();
                if page.has(PageFlags::SWAP_CACHE) && page.private() == entry.slot {
                    return Ok(Some((page, locked)));
                }
            }
            self.put_page(page);
        }
        Ok(None)
    }

    /// Reads a slot into a new page in the swap cache. [`Error::Exists`]: there is one; [`Error::Stale`]: the slot is
    /// free.
    fn read_swap<'m>(&'m self, swap: &SwapStore, slot: u64) -> Result<(&'m Page, PageLock<'m>)> {
        let page = self.alloc_page()?;
        let locked = page.lock();
        page.set_private(slot);
        let read = swap.cache_insert(slot, page.pfn()).and_then(|()| {
            page.get();
            page.set(PageFlags::SWAP_CACHE | PageFlags::SWAP_BACKED);
            let mut bytes = [0; PAGE_SIZE as usize];
            swap.read(slot, &mut bytes).inspect_err(|_| self.remove_from_swap_cache(page))?;
            self.frames.write(page.pfn(), 0, &bytes);
            page.set(PageFlags::UPTODATE);
            Ok(())
        });
        match read {
            Ok(()) => Ok((page, locked)),
            Err(error) => {
                drop(locked);
                self.put_page(page);
                Err(error)
            }
        }
    }

    /// Maps the page in the place of its entry; the caller's reference becomes the mapping's. Returns whether the entry
    /// was still there. Page lock held.
    fn map_swapped(
        &self,
        f: &Fault<'_, S>,
        swap: &SwapStore,
        entry: SwapEntry,
        page: &Page,
        mut charge: Charge,
    ) -> Result<bool> {
        // Lock order: page lock -> PTE lock.
        let Some(mut table) = f.mm.table().lock(f.addr, false) else { return Ok(false) };
        if table.get(f.addr) != Pte::Swap(entry) {
            return Ok(false);
        }
        f.mm.data().check_stable()?;
        if page.has(PageFlags::HWPOISON) {
            return Err(Error::Bus);
        }
        let word = page.mapping().load();
        // Uses: the cache's and this entry's. References: the cache's and this fault's. Neither rises while both locks
        // are held: other uses come from other entries, and other references from mappings or from the cache under the
        // page lock.
        let alone = (swap.count(entry.slot) == 2 || mutant("swap_in_count_unasked")) && page.refcount() == 2;
        let exclusive = (entry.exclusive || alone) && !matches!(word, Mapping::Ksm(_));
        self.rmap.page_add_anon_rmap(page, f.vma, f.addr, exclusive, Level::Single)?;
        if exclusive && word.is_anon() {
            // It still has the anchor from before it went out, maybe an ancestor's (T14).
            let moved = self.rmap.page_move_anon_rmap(page, f.vma, f.addr);
            debug_assert!(moved.is_ok());
        }
        self.mark_new(f, page);
        let mut flags = PteFlags::YOUNG;
        if exclusive && f.vma.has(VmFlags::WRITE) {
            flags |= if f.want.writes() { WRITTEN } else { PteFlags::WRITE };
        }
        let pte = Pte::present(page.pfn(), flags);
        table.set(f.addr, pte);
        charge.spend(1);
        self.account_page(f.vma, pte);
        self.unaccount_page(f.vma, Pte::Swap(entry));
        let left = swap.free(entry.slot);
        debug_assert!(left.is_ok(), "the entry was a use of its slot: {left:?}");
        Ok(true)
    }
}
