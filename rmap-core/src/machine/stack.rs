//! Stacks: VMAs that grow towards lower addresses.

use super::Machine;
use super::layout::{account_vm, pages_of};
use super::system::SoftSystem;
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::Ordering;
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::mm::address_space::MmLocked;
use crate::mm::{Mm, MmWrite, Vma, VmaBounds};

/// Bytes that stay free below a stack: what overflows it faults, and does not run into the mapping below.
pub const STACK_GUARD_GAP: u64 = 256 * PAGE_SIZE;

impl<S: SoftSystem> Machine<S> {
    /// The stack whose VMA ends at `end` begins at `start` now: as a trace tells. One that begins there or lower
    /// already stays.
    ///
    /// [`Error::NotMapped`]: no stack ends there; [`Error::Exists`]: another VMA is in the way; [`Error::Invalid`]:
    /// `start` is not on a page boundary, or not below `end`.
    pub fn grow_stack(&self, mm: &Mm<S>, start: VirtAddr, end: VirtAddr) -> Result<()> {
        if !start.is_page_aligned() || !end.is_page_aligned() || start >= end {
            return Err(Error::Invalid);
        }
        let locked = mm.write();
        let vma = locked.find(VirtAddr(end.0 - 1)).filter(|vma| vma.end() == end && vma.has(VmFlags::GROWSDOWN));
        self.grow_down(&locked, vma.ok_or(Error::NotMapped)?, start)
    }

    /// A fault at `addr`, which no VMA holds: if the next VMA is a stack, it grows down to there (the kernel's
    /// `expand_stack`). A VMA that has come to hold `addr` meanwhile is as good.
    ///
    /// | error | when |
    /// |---|---|
    /// | [`Error::NotMapped`] | the next VMA is no stack, or there is none, or `addr` is too low for any mapping |
    /// | [`Error::NoSpace`] | the stack would come within 256 pages of an accessible VMA below, or exceed its limit |
    /// | [`Error::NoMemory`] | no memory |
    pub(super) fn expand_stack(&self, mm: &MmWrite<'_, S>, addr: VirtAddr) -> Result<()> {
        let start = addr.page_down();
        let vma = mm.find_vma(addr).ok_or(Error::NotMapped)?;
        if vma.contains(addr) {
            return Ok(());
        }
        if !vma.has(VmFlags::GROWSDOWN) || start < mm.data().min_addr {
            return Err(Error::NotMapped);
        }
        let below = mm.prev_vma(vma.start()).filter(|prev| {
            prev.has(VmFlags::ACCESS) && !prev.has(VmFlags::GROWSDOWN) && start.0 - prev.end().0 < STACK_GUARD_GAP
        });
        if below.is_some() || vma.end().0 - start.0 > mm.data().stack_limit.load(Ordering::Relaxed) {
            return Err(Error::NoSpace);
        }
        self.grow_down(mm, vma, start)
    }

    fn grow_down(&self, mm: &MmWrite<'_, S>, vma: &Vma<S>, start: VirtAddr) -> Result<()> {
        let old = vma.bounds();
        if start >= old.start {
            return Ok(());
        }
        let grown = pages_of(start, old.start);
        let pgoff = old.pgoff.checked_sub(grown).ok_or(Error::NoSpace)?;
        self.rmap.vma_adjust(mm, vma, VmaBounds { start, end: old.end, pgoff })?;
        account_vm(vma, grown as i64);
        Ok(())
    }
}
