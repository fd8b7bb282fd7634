//! Address spaces go.
//!
//! The last user tears everything down under mmap_lock, in the order that reverse walks rely on: entries first, so that
//! no page is mapped when its VMA's ties go; the ties of all VMAs next; then page tables, to which no walk can be on
//! its way any more. Whoever still looks at the address space finds it empty.

use super::Machine;
use super::system::SoftSystem;
use crate::base::error::Result;
use crate::base::sync::atomic::Ordering;
use crate::base::types::VirtAddr;
use crate::mm::address_space::MmLocked;
use crate::mm::{MmRef, MmWrite};
use crate::page::radix::ADDRESS_END;

impl<S: SoftSystem> Machine<S> {
    /// A program that ran in the address space ends (`mmput`). With the last one everything in it goes; pages that
    /// others map stay theirs.
    ///
    /// Context: no lock of this library held.
    pub fn exit(&self, mm: MmRef<S>) {
        if mm.put_user() {
            self.end(&mm);
            drop(mm);
            self.tidy();
        }
    }

    /// A program starts another in its place: an empty address space, and the old one loses this user. On failure it
    /// stays.
    pub fn exec(&self, mm: &MmRef<S>) -> Result<MmRef<S>> {
        let fresh = self.mm_new()?;
        self.exit(mm.clone());
        Ok(fresh)
    }

    /// Tears an address space without users down, and forgets it.
    pub(super) fn end(&self, mm: &MmRef<S>) {
        mm.data().unstable.store(true, Ordering::Release);
        self.tear_down(&mm.write());
        self.forget(mm);
        self.rmap.mm_gone(mm);
    }

    /// Empties an address space. It is marked unstable.
    pub(super) fn tear_down(&self, mm: &MmWrite<'_, S>) {
        for vma in mm.vmas() {
            self.zap_range(vma, vma.start(), vma.end());
        }
        while let Some(vma) = mm.find_vma(VirtAddr(0)) {
            self.remove_vma(mm, vma);
        }
        mm.table().free_tables(VirtAddr(0), ADDRESS_END);
    }

    /// Frees what waits: VMAs whose grace period is over, files that nobody uses. No lock held.
    pub(super) fn tidy(&self) {
        self.rmap.arena().rcu.reclaim();
        self.sweep_files();
    }
}

impl<S: SoftSystem> Drop for Machine<S> {
    /// Address spaces that have not exited end now, whoever has users in them: their handles find them empty.
    fn drop(&mut self) {
        // The list's lock is let go before an address space ends.
        let last = || self.mms.lock().last().cloned();
        while let Some(mm) = last() {
            self.end(&mm);
        }
        self.rmap.arena().rcu.drain();
        self.drop_files();
        self.trim_swap_cache();
        debug_assert_eq!(
            self.rmap.anon_mapped() + self.rmap.file_mapped(),
            0,
            "pages stay mapped when all address spaces are gone"
        );
    }
}
