//! `page_mkclean`: write-protect every shared mapping of a file's page, so that the next write is noticed.

use super::Rmap;
use super::walk::{Sync, WalkControl};
use crate::base::types::{VirtAddr, VmFlags};
use crate::engine::Kernel;
use crate::mm::Vma;
use crate::page::Page;
use crate::page::pte::LockedTable;
use core::ops::ControlFlow;

impl<S: Kernel> Rmap<S> {
    /// Takes the write and dirty bits of all mappings by shared VMAs. Returns how many had either: if any, the page is
    /// dirty. The page lock is held.
    pub fn page_mkclean(&self, page: &Page) -> u32 {
        let mut cleaned = 0;
        let rmap_one = |vma: &Vma<S>, addr: VirtAddr| {
            self.page_vma_mapped_walk(page, vma, addr, Sync::Yes, |addr, table| {
                cleaned += u32::from(table.mkclean(addr));
                ControlFlow::Continue(())
            })
        };
        let private = |vma: &Vma<S>| !vma.has(VmFlags::SHARED);
        let mut control = WalkControl { invalid_vma: Some(&private), ..WalkControl::new(rmap_one) };
        self.rmap_walk(page, &mut control);
        cleaned
    }
}
