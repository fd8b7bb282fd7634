//! Faults on anonymous memory that was never touched.

use super::super::account::Charge;
use super::super::system::SoftSystem;
use super::{Fault, Machine, Outcome, WRITTEN};
use crate::base::error::Result;
use crate::base::sync::atomic::Ordering;
use crate::base::types::VmFlags;
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use crate::rmap::account::Level;

/// What became of a page that was to be mapped where nothing was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Installed {
    /// It is mapped.
    Yes,
    /// Somebody else was faster.
    Occupied,
    /// The place is the missing-page handler's.
    Missing,
}

impl<S: SoftSystem> Machine<S> {
    /// A read maps the zero page, unless the address space does not want it; a write maps a page of its own.
    pub(super) fn anon_page(&self, f: &Fault<'_, S>) -> Result<Outcome> {
        if !f.want.private() && !f.mm.data().no_zeropage.load(Ordering::Relaxed) {
            return self.zero_page(f).map(Self::outcome);
        }
        let charge = self.charge(f.mm, 1)?;
        let _reserved = self.prepare_anon(f)?;
        let page = self.alloc_page()?;
        self.install_anon(f, page, charge, true).map(Self::outcome)
    }

    pub(super) fn outcome(installed: Installed) -> Outcome {
        if installed == Installed::Missing { Outcome::Missing } else { Outcome::Done }
    }

    /// The missing-page handler fills this place itself: asked by faults, under the PTE lock.
    fn is_handlers(f: &Fault<'_, S>) -> bool {
        f.vma.has(VmFlags::UFFD_MISSING)
    }

    fn zero_page(&self, f: &Fault<'_, S>) -> Result<Installed> {
        f.mm.table().alloc(f.addr)?;
        self.install_zero(f, true)
    }

    /// Maps the zero page where nothing is. The table is there. `ask`: a missing-page handler comes first.
    pub(super) fn install_zero(&self, f: &Fault<'_, S>, ask: bool) -> Result<Installed> {
        let Some(mut table) = f.mm.table().lock(f.addr, false) else { return Ok(Installed::Occupied) };
        if !table.get(f.addr).is_none() {
            return Ok(Installed::Occupied);
        }
        f.mm.data().check_stable()?;
        if ask && Self::is_handlers(f) {
            return Ok(Installed::Missing);
        }
        table.set(f.addr, Pte::Special { pfn: self.zero });
        Ok(Installed::Yes)
    }

    /// Maps a page that nobody else knows where nothing is, or frees it again. The VMA is prepared, the table is there.
    /// `ask`: a missing-page handler comes first.
    pub(super) fn install_anon(
        &self,
        f: &Fault<'_, S>,
        page: &Page,
        mut charge: Charge,
        ask: bool,
    ) -> Result<Installed> {
        // Before the page is mapped: its contents are seen by whoever sees the entry.
        page.set(PageFlags::UPTODATE);
        self.mark_new(f, page);
        let installed = self.map_new_anon(f, page, &mut charge, ask);
        if installed != Ok(Installed::Yes) {
            self.put_page(page);
        }
        installed
    }

    fn map_new_anon(&self, f: &Fault<'_, S>, page: &Page, charge: &mut Charge, ask: bool) -> Result<Installed> {
        let Some(mut table) = f.mm.table().lock(f.addr, false) else { return Ok(Installed::Occupied) };
        if !table.get(f.addr).is_none() {
            return Ok(Installed::Occupied);
        }
        f.mm.data().check_stable()?;
        if ask && Self::is_handlers(f) {
            return Ok(Installed::Missing);
        }
        self.rmap.page_add_new_anon_rmap(page, f.vma, f.addr, Level::Single)?;
        let flags = if f.vma.has(VmFlags::WRITE) { WRITTEN } else { PteFlags::YOUNG };
        let pte = Pte::present(page.pfn(), flags);
        table.set(f.addr, pte);
        charge.spend(1);
        self.account_page(f.vma, pte);
        Ok(Installed::Yes)
    }
}
