//! Pages leave memory: anonymous ones for the swap store, clean ones of files for where they came from.
//!
//! ```text
//!   page lock ─ slot, swap cache ─ try_to_unmap: an entry of the slot for each mapping ─ write ─ out of the cache ─ frame free
//! ```
//!
//! The contents are written when nothing maps the page any more: from then on until the page lock is released nobody
//! can change them. A fault on one of the new entries finds the page in the swap cache and waits for its lock.

use super::Machine;
use super::swap::SwapStore;
use super::system::SoftSystem;
use crate::base::error::Result;
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::engine::{Kind, kind_of};
use crate::mm::Vma;
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::Pte;
use crate::rmap::unmap::{TtuFlags, UnmapHooks};
use core::ops::ControlFlow;

/// Figures and slots follow the entries that [`try_to_unmap`](crate::rmap::Rmap::try_to_unmap) replaces.
struct Hooks<'m, S: SoftSystem> {
    machine: &'m Machine<S>,
}

impl<S: SoftSystem> UnmapHooks<S> for Hooks<'_, S> {
    fn swap_dup(&mut self, slot: u64) -> bool {
        self.machine.swap.as_ref().is_some_and(|swap| swap.dup(slot).is_ok())
    }
    fn unmapped(&mut self, vma: &Vma<S>, _: VirtAddr, old: Pte, new: Pte) {
        self.machine.unaccount_page(vma, old);
        self.machine.account_page(vma, new);
    }
}

impl<S: SoftSystem> Machine<S> {
    /// Tries to get a page out of memory. Returns whether its frame is free now, or is as soon as the last reference to
    /// it is put.
    ///
    /// An anonymous page goes to swap. A page of a file goes if it is clean and can be had again. Pages that are
    /// pinned, that a VMA with LOCKED maps, that belong to KSM, dirty pages of files and shared memory, and pages of
    /// nobody stay, and so does every page without a swap store. A page of which some mappings had to stay is mapped
    /// there; where it was unmapped already it faults back.
    ///
    /// [`Error::NoSpace`](crate::base::error::Error::NoSpace): swap is full;
    /// [`Error::NoMemory`](crate::base::error::Error::NoMemory): memory is its backing, and there is none; or an error
    /// of a file as its backing, after which the page is where it was, and entries that were replaced fault back.
    ///
    /// Context: takes the page lock, and waits for it; no lock of this library held but mmap_locks.
    pub fn swap_out(&self, page: &Page) -> Result<bool> {
        let page = page.head();
        if page.is_compound() || page.has(PageFlags::RESERVED) || !page.try_get() {
            return Ok(false);
        }
        let out = {
            let _locked = page.lock();
            match page.mapping().load() {
                _ if !page.has(PageFlags::UPTODATE) || page.pins() != 0 || self.is_mlocked(page) => Ok(false),
                Mapping::Anon(_) => self.swap_out_anon(page),
                Mapping::File(_) => Ok(self.drop_clean(page)),
                Mapping::None | Mapping::Ksm(_) => Ok(false),
            }
        };
        self.put_page(page);
        out
    }

    /// Whether a VMA with LOCKED maps the page. The flag may be left over from one that is gone: then it is taken away.
    /// Page lock held.
    fn is_mlocked(&self, page: &Page) -> bool {
        if !page.has(PageFlags::MLOCKED) {
            return false;
        }
        let mut locked = false;
        self.rmap.for_each_mapping(page, |vma, _, _| {
            locked |= vma.has(VmFlags::LOCKED);
            if locked { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if !locked {
            page.clear(PageFlags::MLOCKED);
        }
        locked
    }

    /// Page lock held, and the caller has a reference; so for all below.
    fn swap_out_anon(&self, page: &Page) -> Result<bool> {
        let mut hooks = Hooks { machine: self };
        if page.has(PageFlags::LAZY_FREE)
            && !page.has(PageFlags::SWAP_CACHE)
            && self.rmap.try_to_unmap(page, TtuFlags::empty(), &mut hooks)
        {
            // Its contents are not wanted any more.
            return Ok(true);
        }
        let Some(swap) = &self.swap else { return Ok(false) };
        if !page.has(PageFlags::SWAP_CACHE) {
            if !page.is_mapped() {
                // Whoever holds the last reference puts it.
                return Ok(false);
            }
            self.add_to_swap(swap, page)?;
            // Before an entry changes: without memory nothing has.
            if let Err(error) = swap.make_room(page.private()) {
                self.remove_from_swap_cache(page);
                return Err(error);
            }
        }
        if !self.rmap.try_to_unmap(page, TtuFlags::empty(), &mut hooks) {
            // It stays in the cache only for entries that were replaced.
            self.leave_swap_cache(page);
            return Ok(false);
        }
        if page.has(PageFlags::DIRTY) {
            // Without contents there, the page stays in the cache, and entries find it.
            self.write_swap(swap, page)?;
        }
        self.remove_from_swap_cache(page);
        Ok(true)
    }

    fn add_to_swap(&self, swap: &SwapStore, page: &Page) -> Result<()> {
        let slot = swap.alloc(page.pfn())?;
        page.get();
        page.set_private(slot);
        // The slot has nothing of the page yet.
        page.set(PageFlags::SWAP_CACHE | PageFlags::DIRTY);
        Ok(())
    }

    fn write_swap(&self, swap: &SwapStore, page: &Page) -> Result<()> {
        let mut bytes = [0; PAGE_SIZE as usize];
        self.frames.read(page.pfn(), 0, &mut bytes);
        swap.write(page.private(), &bytes)?;
        page.clear(PageFlags::DIRTY);
        Ok(())
    }

    /// Unmaps a file's page and takes it out of the page cache, if nothing would be lost.
    fn drop_clean(&self, page: &Page) -> bool {
        let Kind::File(file) = kind_of::<S>(page) else { return false };
        if page.has(PageFlags::DIRTY) || file.is_anonymous() {
            return false;
        }
        let unmapped =
            !page.is_mapped() || self.rmap.try_to_unmap(page, TtuFlags::empty(), &mut Hooks { machine: self });
        // An entry may have said that it was written; and somebody may be about to use the page.
        unmapped && !page.has(PageFlags::DIRTY) && page.refcount() == 2 && self.remove_cached(file, page)
    }
}
