//! Pages that the embedder fills: in userfault-style VMAs by its handler, in VMAs with operations but no file by those.
//!
//! Pages of a VMA with operations and no file are anonymous memory of the address space with contents of the
//! embedder's. In a shared VMA a child of fork has those that its parent touched before; what either touches first
//! after the fork, the operations are asked for again. Whoever wants more gives the VMA a file.

use super::super::system::{Access, SoftSystem, VmaOps};
use super::anon::Installed;
use super::{Fault, Machine, Outcome, WRITTEN, Want};
use crate::base::error::{Error, Result};
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::mm::Mm;
use crate::mm::address_space::MmLocked;
use crate::page::pte::PteFlags;

impl<S: SoftSystem> Machine<S> {
    /// Maps a page that the VMA's operations fill. [`Error::NotSupported`]: they do not.
    pub(super) fn ops_page(&self, f: &Fault<'_, S>, ops: &dyn VmaOps, private: usize) -> Result<Outcome> {
        let mut bytes = [0; PAGE_SIZE as usize];
        ops.fault(private, f.vma.bounds().pgoff_of(f.addr), &mut bytes)?;
        self.filled_page(f, &bytes, true).map(Self::outcome)
    }

    /// Maps an anonymous page with these contents where nothing is.
    fn filled_page(&self, f: &Fault<'_, S>, bytes: &[u8; PAGE_SIZE as usize], ask: bool) -> Result<Installed> {
        let charge = self.charge(f.mm, 1)?;
        let _reserved = self.prepare_anon(f)?;
        let page = self.alloc_page()?;
        self.frames.write(page.pfn(), 0, bytes);
        self.install_anon(f, page, charge, ask)
    }

    /// Fills the missing page at `addr` of a UFFD_MISSING VMA (`UFFDIO_COPY`). For the handler, or ahead of any fault.
    ///
    /// [`Error::Exists`]: something is there; [`Error::Invalid`]: `addr` is not page-aligned, or the VMA has no
    /// UFFD_MISSING; [`Error::NotSupported`]: the VMA maps a file that is not shared memory; else as for
    /// [`fault`](Machine::fault).
    pub fn uffd_copy(&self, mm: &Mm<S>, addr: VirtAddr, bytes: &[u8; PAGE_SIZE as usize]) -> Result<()> {
        self.uffd_fill(mm, addr, |f| match f.vma.file() {
            None => self.filled_page(f, bytes, false),
            Some(file) if file.is_anonymous() => {
                let pgoff = f.vma.bounds().pgoff_of(f.addr);
                if pgoff >= file.size() {
                    return Err(Error::Bus);
                }
                let charge = self.charge(f.mm, 1)?;
                let _reserved = self.rmap.reserve(1)?;
                f.mm.table().alloc(f.addr)?;
                let page = self.alloc_page()?;
                self.frames.write(page.pfn(), 0, bytes);
                let added = self.add_to_cache(file, page, pgoff, || Ok(()));
                let shared = f.vma.has(VmFlags::SHARED);
                let mapped = added.and_then(|_locked| {
                    page.set(crate::page::flags::PageFlags::DIRTY);
                    let flags = if shared && f.vma.has(VmFlags::WRITE) { WRITTEN } else { PteFlags::YOUNG };
                    self.map_file_page(f, page, flags, charge)
                });
                if mapped != Ok(Installed::Yes) {
                    self.put_page(page);
                }
                mapped
            }
            Some(_) => Err(Error::NotSupported),
        })
    }

    /// Fills the missing page at `addr` of a UFFD_MISSING VMA with zeros (`UFFDIO_ZEROPAGE`). Errors as for
    /// [`uffd_copy`](Self::uffd_copy); of VMAs with a file none is supported.
    pub fn uffd_zeropage(&self, mm: &Mm<S>, addr: VirtAddr) -> Result<()> {
        self.uffd_fill(mm, addr, |f| {
            if f.vma.file().is_some() {
                return Err(Error::NotSupported);
            }
            f.mm.table().alloc(f.addr)?;
            self.install_zero(f, false)
        })
    }

    fn uffd_fill(
        &self,
        mm: &Mm<S>,
        addr: VirtAddr,
        fill: impl FnOnce(&Fault<'_, S>) -> Result<Installed>,
    ) -> Result<()> {
        if !addr.is_page_aligned() {
            return Err(Error::Invalid);
        }
        let held = mm.read();
        let vma = held.find(addr).ok_or(Error::NotMapped)?;
        if !vma.has(VmFlags::UFFD_MISSING) {
            return Err(Error::Invalid);
        }
        let fault = Fault { mm: &held, vma, addr, want: Want::Access(Access::Write) };
        match fill(&fault)? {
            Installed::Yes => Ok(()),
            Installed::Occupied | Installed::Missing => Err(Error::Exists),
        }
    }
}
