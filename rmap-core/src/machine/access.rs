//! A program's loads and stores, and pins.
//!
//! Bytes are copied under the PTE lock of their page: whoever takes a mapping away (unmap, copy-on-write, migration,
//! write-protection) holds that lock, so a store either comes before, and what takes over has it, or faults. mmap_lock
//! is held shared meanwhile, because an entry does not say whether its VMA can be read at all (`PROT_NONE` leaves
//! entries present).

use super::Machine;
use super::counters;
use super::fault::Want;
use super::system::{Access, SoftSystem};
use crate::base::error::{Error, Result};
use crate::base::types::{PAGE_SIZE, Pfn, VirtAddr, VmFlags};
use crate::mm::Mm;
use crate::mm::address_space::MmLocked;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};

/// A page that stays where it is, and is what the program sees at its address, until it is unpinned. See
/// [`Machine::pin`].
#[must_use = "a page stays pinned until it is given to `unpin`"]
#[derive(Debug)]
pub struct PinnedPage {
    pfn: Pfn,
    mm: u64,
    write: bool,
}

impl PinnedPage {
    /// The frame: its bytes are the pin's holder's to read, and to write if it was pinned for that.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Frame, number of the address space, and whether it is for writing: for who cannot keep a value of this type.
    /// [`from_parts`](Self::from_parts) makes it again.
    pub fn into_parts(self) -> (Pfn, u64, bool) {
        (self.pfn, self.mm, self.write)
    }

    /// The pin that was taken apart into these; once.
    pub fn from_parts(pfn: Pfn, mm: u64, write: bool) -> Self {
        Self { pfn, mm, write }
    }
}

/// The pieces of `[addr, addr + len)` that lie in one page each: address, and range in the buffer.
fn pieces(addr: VirtAddr, len: usize) -> Result<impl Iterator<Item = (VirtAddr, core::ops::Range<usize>)>> {
    addr.0.checked_add(len as u64).ok_or(Error::NotMapped)?;
    let mut done = 0;
    Ok(core::iter::from_fn(move || {
        let at = VirtAddr(addr.0 + done as u64);
        let piece = (len - done).min((PAGE_SIZE - at.page_offset()) as usize);
        let range = done..done + piece;
        done += piece;
        (piece != 0).then_some((at, range))
    }))
}

impl<S: SoftSystem> Machine<S> {
    /// The program loads `out.len()` bytes at `addr`, faulting as needed. On failure the bytes before the page that
    /// failed are in `out`. Errors as for [`fault`](Self::fault).
    pub fn read(&self, mm: &Mm<S>, addr: VirtAddr, out: &mut [u8]) -> Result<()> {
        for (at, range) in pieces(addr, out.len())? {
            self.with_entry(mm, at, Access::Read, |pfn| {
                self.frames.read(pfn, at.page_offset() as usize, &mut out[range.clone()]);
            })?;
        }
        Ok(())
    }

    /// The program stores `data` at `addr`, faulting as needed. On failure the bytes before the page that failed are
    /// stored. Errors as for [`fault`](Self::fault).
    pub fn write(&self, mm: &Mm<S>, addr: VirtAddr, data: &[u8]) -> Result<()> {
        for (at, range) in pieces(addr, data.len())? {
            self.with_entry(mm, at, Access::Write, |pfn| {
                self.frames.write(pfn, at.page_offset() as usize, &data[range.clone()]);
            })?;
        }
        Ok(())
    }

    /// Calls `copy` with the frame at `addr`, under its PTE lock, once the access is allowed; marks the entry as
    /// hardware does.
    fn with_entry(&self, mm: &Mm<S>, addr: VirtAddr, access: Access, mut copy: impl FnMut(Pfn)) -> Result<()> {
        let page_addr = addr.page_down();
        loop {
            let reached = self.try_entry(mm, page_addr, access, |pfn| {
                copy(pfn);
                true
            })?;
            if reached.is_some() {
                return Ok(());
            }
            self.fault(mm, page_addr, access)?;
        }
    }

    /// Calls `act` with the frame that the entry of `addr` allows to access so, under the PTE lock, and marks the entry
    /// if it says so. `None`: a fault has to come first.
    fn try_entry(
        &self,
        mm: &Mm<S>,
        addr: VirtAddr,
        access: Access,
        act: impl FnOnce(Pfn) -> bool,
    ) -> Result<Option<bool>> {
        let held = mm.read();
        let Some(vma) = held.find(addr) else { return Ok(None) };
        Want::Access(access).permitted(vma.flags())?;
        // Lock order: mmap_lock -> PTE lock.
        let Some(mut table) = held.table().lock(addr, false) else { return Ok(None) };
        match table.get(addr) {
            Pte::Present { pfn, flags } if access != Access::Write || flags.contains(PteFlags::WRITE) => {
                let done = act(pfn);
                let used = if access == Access::Write { PteFlags::YOUNG | PteFlags::DIRTY } else { PteFlags::YOUNG };
                if done && !flags.contains(used) {
                    table.set(addr, Pte::present(pfn, flags | used));
                }
                Ok(Some(done))
            }
            Pte::Special { pfn } if access != Access::Write => Ok(Some(act(pfn))),
            _ => Ok(None),
        }
    }

    /// Pins the page at `addr`, faulting it in as needed (the kernel's `pin_user_pages`): fork copies it for the child
    /// instead of sharing it, and it is neither swapped out nor moved. Pinned for reading, an anonymous page is made
    /// the address space's own first, so that the pin goes on to see what the program writes; of a file's page in a
    /// private mapping it sees the file. The zero page gives way to a page of zeros.
    ///
    /// [`Error::NotSupported`]: an anonymous page that a shared mapping without a file has in common with relatives;
    /// else as for [`fault`](Self::fault).
    pub fn pin(&self, mm: &Mm<S>, addr: VirtAddr, write: bool) -> Result<PinnedPage> {
        let addr = addr.page_down();
        let (access, want) =
            if write { (Access::Write, Want::Access(Access::Write)) } else { (Access::Read, Want::Own) };
        loop {
            let mut pinned = None;
            self.try_entry(mm, addr, access, |pfn| {
                pinned = self.page(pfn).ok().filter(|page| !page.has(PageFlags::RESERVED) && page.try_pin());
                pinned.is_some()
            })?;
            if let Some(page) = pinned {
                counters::add(&mm.data().counters.pinned_vm, 1);
                return Ok(PinnedPage { pfn: page.pfn(), mm: mm.id(), write });
            }
            self.fault_for(mm, addr, want)?;
            let held = mm.read();
            let shared = held.find(addr).is_some_and(|vma| vma.has(VmFlags::SHARED));
            if shared
                && let Pte::Present { pfn, .. } = held.table().load(addr)
                && let page = self.page(pfn)?
                && page.mapping().load().is_anon()
                && !page.has(PageFlags::ANON_EXCLUSIVE)
            {
                return Err(Error::NotSupported);
            }
        }
    }

    /// Ends a pin. What was written through it is what the program sees, and goes to swap with the page.
    #[allow(clippy::needless_pass_by_value, reason = "a pin ends once")]
    pub fn unpin(&self, pinned: PinnedPage) {
        let PinnedPage { pfn, mm, write } = pinned;
        let owner = self.mms.lock().iter().find(|m| m.id() == mm).cloned();
        if let Some(owner) = owner {
            counters::sub(&owner.data().counters.pinned_vm, 1);
        }
        let Ok(page) = self.page(pfn) else { return };
        if write {
            page.head().set(PageFlags::DIRTY);
        }
        if page.unpin() {
            self.frames.free(self.rmap.pages(), page.head());
        }
    }
}
