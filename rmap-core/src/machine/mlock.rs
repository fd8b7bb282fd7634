//! mlock and its kin, and what they share with `MAP_POPULATE`.

use super::Machine;
use super::layout::page_align;
use super::page_table::table_end;
use super::system::{Access, SoftSystem};
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::Ordering;
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::mm::address_space::MmLocked;
use crate::mm::{Mm, MmWrite, Vma};
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};

/// What mlock sets.
const LOCKS: VmFlags = VmFlags::LOCKED.union(VmFlags::LOCKONFAULT);

fn locks(on: bool, onfault: bool) -> VmFlags {
    match (on, onfault) {
        (false, _) => VmFlags::empty(),
        (true, false) => VmFlags::LOCKED,
        (true, true) => LOCKS,
    }
}

impl<S: SoftSystem> Machine<S> {
    /// The system calls mlock and, with `onfault`, mlock2: pages of the range are not evicted. They are faulted in,
    /// with `onfault` later, as the program needs them.
    ///
    /// [`Error::NotMapped`]: there is a hole, and what lies below it is locked; [`Error::Invalid`]: the range
    /// overflows; [`Error::NoMemory`]: no memory to cut a VMA, or a page could not be had, and the range is locked
    /// nevertheless.
    pub fn mlock(&self, mm: &Mm<S>, addr: VirtAddr, len: u64, onfault: bool) -> Result<()> {
        let (start, end) = self.lock_range(mm, addr, len, locks(true, onfault))?;
        if onfault { Ok(()) } else { self.try_populate(mm, start, end).map_err(|_| Error::NoMemory) }
    }

    /// The system call: pages may be evicted again. Errors as for [`mlock`](Self::mlock).
    pub fn munlock(&self, mm: &Mm<S>, addr: VirtAddr, len: u64) -> Result<()> {
        self.lock_range(mm, addr, len, VmFlags::empty()).map(|_| ())
    }

    /// The system call: locks all VMAs there are (`current`), and all to come (`future`). What cannot be locked for
    /// want of memory is left as it is.
    ///
    /// [`Error::Invalid`]: neither is asked for.
    pub fn mlockall(&self, mm: &Mm<S>, current: bool, future: bool, onfault: bool) -> Result<()> {
        if !current && !future {
            return Err(Error::Invalid);
        }
        self.lock_all(mm, current.then_some(locks(true, onfault)), locks(future, onfault));
        if current && !onfault {
            self.populate(mm, VirtAddr(0), mm.data().task_size);
        }
        Ok(())
    }

    /// The system call: no VMA is locked, and none to come.
    pub fn munlockall(&self, mm: &Mm<S>) -> Result<()> {
        self.lock_all(mm, Some(VmFlags::empty()), VmFlags::empty());
        Ok(())
    }

    /// `now`: what all VMAs get, if anything; `later`: what new ones get.
    fn lock_all(&self, mm: &Mm<S>, now: Option<VmFlags>, later: VmFlags) {
        let locked = mm.write();
        mm.data().def_flags.store(later.bits(), Ordering::Relaxed);
        if let Some(flags) = now {
            let mut at = VirtAddr(0);
            while let Some(vma) = locked.find_vma(at) {
                at = vma.end();
                // Without memory it stays as it was.
                let _ = self.mlock_fixup(&locked, vma, (vma.start(), vma.end()), flags);
            }
        }
        drop(locked);
        self.settle();
    }

    /// Sets or clears the lock of a range. Returns its ends.
    fn lock_range(&self, mm: &Mm<S>, addr: VirtAddr, len: u64, flags: VmFlags) -> Result<(VirtAddr, VirtAddr)> {
        let start = addr.page_down();
        let len = len.checked_add(addr.page_offset()).and_then(page_align);
        let end = len.and_then(|len| start.0.checked_add(len)).map(VirtAddr).ok_or(Error::Invalid)?;
        let locked = mm.write();
        let cut = self.cut_last(&locked, start, end)?;
        let mut at = start;
        let done = loop {
            if at >= end {
                break Ok((start, end));
            }
            let Some(vma) = locked.find(at) else { break Err(Error::NotMapped) };
            let until = vma.end().min(end);
            if let Err(error) = self.mlock_fixup(&locked, vma, (at, until), flags) {
                break Err(error);
            }
            at = until;
        };
        if cut {
            self.rejoin_at(&locked, end);
        }
        drop(locked);
        self.settle();
        done
    }

    fn mlock_fixup(
        &self,
        mm: &MmWrite<'_, S>,
        vma: &Vma<S>,
        (start, end): (VirtAddr, VirtAddr),
        locks: VmFlags,
    ) -> Result<()> {
        let old = vma.flags();
        // Device-like memory is there anyway.
        if old.intersects(VmFlags::NO_MERGE) {
            return Ok(());
        }
        self.modify(mm, vma, (start, end), (old - LOCKS) | locks, mm.name_of(vma).cloned().as_ref())?;
        let (was, is) = (old.contains(VmFlags::LOCKED), locks.contains(VmFlags::LOCKED));
        if was != is {
            self.mark_pages(mm, start, end, is);
        }
        Ok(())
    }

    /// Marks the pages present in the range as locked, or not.
    fn mark_pages(&self, mm: &Mm<S>, start: VirtAddr, end: VirtAddr, locked: bool) {
        let table = mm.table();
        let mut at = start;
        while let Some(from) = table.next_table(at, end) {
            at = table_end(from, end);
            // The lock keeps the pages from being freed under our hands.
            let Some(entries) = table.lock(from, false) else { continue };
            for addr in (from.0..at.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
                let Some(Ok(page)) = entries.get(addr).pfn().map(|pfn| self.page(pfn)) else { continue };
                if locked {
                    page.head().set(PageFlags::MLOCKED);
                } else {
                    page.head().clear(PageFlags::MLOCKED);
                }
            }
        }
    }

    /// Faults pages in, as mlock and `MAP_POPULATE` do: private writable memory is written, other memory read. Holes
    /// are passed over, and the rest of a VMA after a fault that fails: silently, as in the kernel.
    ///
    /// Context: no lock of this library held.
    pub(super) fn populate(&self, mm: &Mm<S>, start: VirtAddr, end: VirtAddr) {
        let mut at = start;
        while let Some((from, until, access)) = next_to_populate(mm, at, end) {
            let _ = access.map(|access| self.populate_range(mm, from, until, access));
            at = until;
        }
    }

    /// As [`populate`](Self::populate), but the first error ends it. [`Error::NotMapped`]: a hole.
    pub(super) fn try_populate(&self, mm: &Mm<S>, start: VirtAddr, end: VirtAddr) -> Result<()> {
        let mut at = start;
        while at < end {
            let (from, until, access) = next_to_populate(mm, at, end).ok_or(Error::NotMapped)?;
            if from != at {
                return Err(Error::NotMapped);
            }
            self.populate_range(mm, from, until, access?)?;
            at = until;
        }
        Ok(())
    }

    /// Faults in the pages of a range that are not there yet.
    pub(super) fn populate_range(&self, mm: &Mm<S>, start: VirtAddr, end: VirtAddr, access: Access) -> Result<()> {
        for addr in (start.0..end.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
            let there = match mm.table().load(addr) {
                Pte::Present { flags, .. } => access != Access::Write || flags.contains(PteFlags::WRITE),
                Pte::Special { .. } => access != Access::Write,
                _ => false,
            };
            if !there {
                self.fault(mm, addr, access)?;
            }
        }
        Ok(())
    }
}

/// The part of the next VMA from `at` on that lies in the range, and how its pages are faulted in; no access at all is
/// an error.
fn next_to_populate<S: SoftSystem>(
    mm: &Mm<S>,
    at: VirtAddr,
    end: VirtAddr,
) -> Option<(VirtAddr, VirtAddr, Result<Access>)> {
    let held = mm.read();
    let vma = held.find_vma(at).filter(|vma| at < end && vma.start() < end)?;
    let flags = vma.flags();
    let access = if flags & (VmFlags::WRITE | VmFlags::SHARED) == VmFlags::WRITE {
        Ok(Access::Write)
    } else if flags.intersects(VmFlags::ACCESS) {
        Ok(Access::Read)
    } else {
        Err(Error::Access)
    };
    Some((vma.start().max(at), vma.end().min(end), access))
}
