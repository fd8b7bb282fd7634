//! Small versions of what the layout calls bring.

use super::Machine;
use super::account::{Change, account_vma};
use super::page_table::table_end;
use super::system::{SoftSystem, VmaExt};
use crate::base::error::{Error, Result};
use crate::base::types::{PAGE_SIZE, VirtAddr};
use crate::mm::address_space::MmLocked;
use crate::mm::{MmWrite, Vma, VmaBounds};
use crate::page::pte::{LockedTable, PageTable};

pub(super) fn closed(ext: VmaExt, bounds: VmaBounds) {
    if let Some(ops) = ext.ops {
        ops.close(ext.private, bounds);
    }
}

pub(super) fn opened(ext: VmaExt, bounds: VmaBounds) {
    if let Some(ops) = ext.ops {
        ops.open(ext.private, bounds);
    }
}

impl<S: SoftSystem> Machine<S> {
    pub(super) fn zap_range(&self, vma: &Vma<S>, start: VirtAddr, end: VirtAddr) {
        let table = vma.mm().table();
        let mut at = start;
        while let Some(from) = table.next_table(at, end) {
            at = table_end(from, end);
            let Some(mut locked) = table.lock(from, false) else { continue };
            for addr in (from.0..at.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
                let pte = locked.clear(addr);
                if !pte.is_none() {
                    self.drop_entry(vma, addr, pte);
                }
            }
        }
    }

    pub(super) fn remove_vma<'a>(&self, mm: &'a MmWrite<'_, S>, vma: &'a Vma<S>) {
        let (ext, bounds) = (*mm.data_of(vma), vma.bounds());
        account_vma(&mm.data().counters, vma.flags(), vma.file().is_some(), bounds.pages(), Change::Sub);
        let freed = self.rmap.vma_free(mm, vma);
        debug_assert!(freed.is_ok());
        closed(ext, bounds);
    }

    pub(super) fn expand_stack(&self, _: &MmWrite<'_, S>, _: VirtAddr) -> Result<()> {
        Err(Error::NotMapped)
    }
}
