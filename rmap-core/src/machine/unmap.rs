//! munmap: entries go, then the ties of VMAs, then VMAs, then page tables, in this order, so that no walk is ever on
//! its way to a table that goes.

use super::Machine;
use super::advise::GUARD_MARKER;
use super::layout::{account_vm, closed, page_align};
use super::page_table::{LockedEntries, table_end};
use super::system::SoftSystem;
use crate::base::error::{Error, Result};
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::mm::address_space::MmLocked;
use crate::mm::{Mm, MmWrite, Vma};
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use crate::page::radix::{ADDRESS_END, LEAF_SPAN};

impl<S: SoftSystem> Machine<S> {
    /// The system call: nothing is mapped in the range any more. A hole in it is no error.
    ///
    /// [`Error::Invalid`]: `addr` is not on a page boundary, or the range is empty or leaves the address space.
    pub fn munmap(&self, mm: &Mm<S>, addr: VirtAddr, len: u64) -> Result<()> {
        let end = range_end(mm, addr, len)?;
        let done = self.unmap_region(&mm.write(), addr, end);
        self.settle();
        done
    }

    /// Frees VMAs whose grace period is over. At the end of each system call that takes VMAs out; no lock of this
    /// library held.
    pub(super) fn settle(&self) {
        self.rmap.arena().rcu.reclaim();
    }

    /// munmap under `mmap_lock`. VMAs that reach across an end are cut first, which alone can fail; then nothing has
    /// changed.
    pub(super) fn unmap_region(&self, mm: &MmWrite<'_, S>, start: VirtAddr, end: VirtAddr) -> Result<()> {
        self.cut_edges(mm, start, end)?;
        self.detach(mm, start, end);
        Ok(())
    }

    /// Takes out the VMAs in the range, none of which reaches across an end, and their page tables.
    pub(super) fn detach(&self, mm: &MmWrite<'_, S>, start: VirtAddr, end: VirtAddr) {
        self.detach_vmas(mm, start, end);
        free_tables(mm, start, end);
    }

    /// As [`detach`](Self::detach), but the page tables stay.
    pub(super) fn detach_vmas(&self, mm: &MmWrite<'_, S>, start: VirtAddr, end: VirtAddr) {
        for vma in mm.vmas_in(start, end) {
            self.zap_range(vma, vma.start(), vma.end());
        }
        while let Some(vma) = mm.find_vma(start).filter(|vma| vma.start() < end) {
            self.remove_vma(mm, vma);
        }
    }

    /// Takes a VMA, in which nothing is mapped any more, out of everything, the figures included. Its page tables stay:
    /// [`free_tables`].
    pub(super) fn remove_vma<'a>(&self, mm: &'a MmWrite<'_, S>, vma: &'a Vma<S>) {
        let (ext, bounds) = (*mm.data_of(vma), vma.bounds());
        let dying = vma.file().filter(|file| file.data().transient).cloned();
        account_vm(vma, -(bounds.pages() as i64));
        let freed = self.rmap.vma_free(mm, vma);
        debug_assert!(freed.is_ok(), "a VMA found under mmap_lock is the address space's own");
        closed(ext, bounds);
        if let Some(file) = dying
            && file.mappings() == 0
        {
            self.empty_cache(&file);
        }
    }

    /// Empties `[start, end)` of a VMA: pages are unmapped and put, swap entries freed, markers forgotten. Figures and
    /// charges follow. One flush.
    ///
    /// `mmap_lock` is held, shared suffices.
    pub(super) fn zap_range(&self, vma: &Vma<S>, start: VirtAddr, end: VirtAddr) {
        self.zap(vma, (start, end), |_| false);
    }

    /// As [`zap_range`](Self::zap_range), but guard regions stay.
    pub(super) fn zap_pages(&self, vma: &Vma<S>, start: VirtAddr, end: VirtAddr) {
        self.zap(vma, (start, end), |pte| pte == Pte::Marker(GUARD_MARKER));
    }

    fn zap(&self, vma: &Vma<S>, (start, end): (VirtAddr, VirtAddr), stays: impl Fn(Pte) -> bool) {
        let mm = vma.mm();
        let table = mm.table();
        let mut any = false;
        mm.data().counters.note_peaks();
        let mut at = start;
        while let Some(from) = table.next_table(at, end) {
            at = table_end(from, end);
            let Some(mut locked) = table.lock(from, false) else { continue };
            for addr in (from.0..at.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
                let pte = locked.get(addr);
                if !pte.is_none() && !stays(pte) {
                    any = true;
                    self.zap_entry(vma, &mut locked, addr, pte, end);
                }
            }
        }
        if any {
            table.flush(start, end);
        }
    }

    fn zap_entry(&self, vma: &Vma<S>, locked: &mut LockedEntries<'_>, addr: VirtAddr, pte: Pte, end: VirtAddr) {
        if let Pte::Present { pfn, flags } = pte
            && let Ok(page) = self.page(pfn)
        {
            if flags.contains(PteFlags::LARGE) && (!addr.0.is_multiple_of(LEAF_SPAN) || end.0 - addr.0 < LEAF_SPAN) {
                self.split_mapping(vma, locked, addr);
            }
            if flags.contains(PteFlags::YOUNG) {
                page.head().set(PageFlags::REFERENCED);
            }
            if vma.has(VmFlags::LOCKED) && page.mapcount() == 1 {
                page.head().clear(PageFlags::MLOCKED);
            }
        }
        let old = locked.clear(addr);
        self.drop_entry(vma, addr, old);
    }

    /// One entry for a whole compound page, which covers `addr`, becomes 512, under the PTE lock.
    pub(super) fn split_mapping(&self, vma: &Vma<S>, locked: &mut LockedEntries<'_>, addr: VirtAddr) {
        let base = VirtAddr(addr.0 & !(LEAF_SPAN - 1));
        if let Pte::Present { pfn, .. } = locked.get(base)
            && let Ok(head) = self.page(pfn)
        {
            self.rmap.page_split_rmap(head, vma, base);
            locked.split_large();
        }
    }
}

/// The end of a range that a system call named: not empty, and within the address space.
fn range_end<S: SoftSystem>(mm: &Mm<S>, addr: VirtAddr, len: u64) -> Result<VirtAddr> {
    let end = page_align(len).and_then(|len| addr.0.checked_add(len)).map(VirtAddr);
    end.filter(|&end| addr.is_page_aligned() && end > addr && end <= mm.data().task_size).ok_or(Error::Invalid)
}

/// Frees the page tables of `[start, end)`, where no VMA is any more, and those at its ends that no neighbour needs
/// (the kernel's `free_pgtables`).
pub(super) fn free_tables<S: SoftSystem>(mm: &MmWrite<'_, S>, start: VirtAddr, end: VirtAddr) {
    let floor = mm.prev_vma(start).map_or(VirtAddr(0), Vma::end);
    let ceiling = mm.next_vma(end).map_or(ADDRESS_END, Vma::start);
    let start = VirtAddr(start.0 & !(LEAF_SPAN - 1)).max(floor);
    let end = VirtAddr(end.0.next_multiple_of(LEAF_SPAN)).min(ceiling);
    mm.table().free_tables(start, end);
}
