//! `page_referenced`: was the page used, and how do its VMAs want it treated?

use super::Rmap;
use super::walk::{Sync, WalkControl, WalkEnd};
use crate::base::types::{VirtAddr, VmFlags};
use crate::engine::Kernel;
use crate::mm::Vma;
use crate::page::Page;
use crate::page::pte::LockedTable;
use core::ops::ControlFlow;

/// What [`Rmap::page_referenced`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Referenced {
    /// Mappings whose young bit was set; it is cleared now.
    pub young: u32,
    /// The flags of the VMAs with such mappings, and of a LOCKED one.
    pub vm_flags: VmFlags,
    /// The anchor's lock was not free: nothing was looked at. Treat the page as used.
    pub contended: bool,
}

impl<S: Kernel> Rmap<S> {
    /// Tests and clears the young bit of every mapping. Ends early at a VMA that is LOCKED: its page is not to be
    /// evicted, whoever else maps it. Does not wait for the anchor's lock. The page lock is held.
    pub fn page_referenced(&self, page: &Page) -> Referenced {
        let mut found = Referenced::default();
        let rmap_one = |vma: &Vma<S>, addr: VirtAddr| {
            self.page_vma_mapped_walk(page, vma, addr, Sync::No, |addr, table| {
                if vma.has(VmFlags::LOCKED) {
                    found.vm_flags |= VmFlags::LOCKED;
                    return ControlFlow::Break(());
                }
                if table.test_and_clear_young(addr) {
                    found.young += 1;
                    found.vm_flags |= vma.flags();
                }
                ControlFlow::Continue(())
            })
        };
        let mut control = WalkControl { try_lock: true, ..WalkControl::new(rmap_one) };
        let end = self.rmap_walk(page, &mut control);
        found.contended = end == WalkEnd::Contended;
        found
    }
}
