//! `try_to_unmap`: take a page out of every page table.

use super::Rmap;
use super::account::Level;
use super::walk::{Sync, WalkControl};
use crate::base::types::{VirtAddr, VmFlags};
use crate::engine::Kernel;
use crate::mm::Vma;
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags, SwapEntry};
use bitflags::bitflags;
use core::ops::ControlFlow;

bitflags! {
    /// How [`Rmap::try_to_unmap`] goes about it (the kernel's `ttu_flags`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct TtuFlags: u32 {
        /// Take each PTE lock, so that an unmap under way elsewhere is waited for (T5).
        const SYNC = 1;
        /// Unmap from LOCKED VMAs too.
        const IGNORE_MLOCK = 1 << 1;
        /// Clear entries without a flush; one flush of each VMA's range when its entries are done.
        const BATCH_FLUSH = 1 << 2;
        /// The page's memory is broken: leave a poison marker, so that an access is an error and not a fresh page.
        const HWPOISON = 1 << 3;
    }
}

/// The marker that stands for broken memory.
pub const POISON_MARKER: u64 = 1;

/// What stands in the place of an unmapped entry, and who hears of it. A panic of either goes through
/// [`Rmap::try_to_unmap`] and leaves counts, entries and locks as they should be.
pub trait UnmapHooks<S: Kernel> {
    /// An anonymous page in the swap cache is about to be unmapped at `addr`: take one more use of the swap slot.
    /// `false`: it cannot be had, and the entry is put back. PTE lock held.
    fn swap_dup(&mut self, slot: u64) -> bool;
    /// `old` was replaced by `new`, and the count is about to drop: the place for counters of the address space. PTE
    /// lock held.
    fn unmapped(&mut self, vma: &Vma<S>, addr: VirtAddr, old: Pte, new: Pte);
}

impl<S: Kernel> Rmap<S> {
    /// Tries to take the page out of every page table. The page lock is held, and the caller has a reference. Returns
    /// whether nothing maps the page any more.
    ///
    /// A file's page leaves nothing behind. An anonymous page leaves its swap entry: it must be in the swap cache
    /// (`private` is the slot), or lazily freed and clean, in which case it leaves nothing. A page that is pinned, or
    /// mapped by a LOCKED VMA, stays mapped where it is; entries already replaced stay replaced, they fault back.
    pub fn try_to_unmap(&self, page: &Page, flags: TtuFlags, hooks: &mut dyn UnmapHooks<S>) -> bool {
        let sync = if flags.contains(TtuFlags::SYNC) { Sync::Yes } else { Sync::No };
        let rmap_one = |vma: &Vma<S>, addr: VirtAddr| {
            let flow = self.page_vma_mapped_walk(page, vma, addr, sync, |addr, table| {
                self.unmap_one(page, vma, addr, table, flags, hooks)
            });
            if flags.contains(TtuFlags::BATCH_FLUSH) {
                vma.mm().table().flush(addr, vma.end().min(addr.add_pages(page.head().nr_pages())));
            }
            flow
        };
        let unmapped = |page: &Page| !page.is_mapped();
        let mut control = WalkControl { done: Some(&unmapped), ..WalkControl::new(rmap_one) };
        self.rmap_walk(page, &mut control);
        !page.is_mapped()
    }

    fn unmap_one(
        &self,
        page: &Page,
        vma: &Vma<S>,
        addr: VirtAddr,
        table: &mut <S::Table as PageTable>::Locked<'_>,
        flags: TtuFlags,
        hooks: &mut dyn UnmapHooks<S>,
    ) -> ControlFlow<()> {
        let head = page.head();
        if vma.has(VmFlags::LOCKED) && !flags.contains(TtuFlags::IGNORE_MLOCK) {
            head.set(PageFlags::MLOCKED);
            return ControlFlow::Break(());
        }
        let old = if flags.contains(TtuFlags::BATCH_FLUSH) { table.clear(addr) } else { table.clear_flush(addr) };
        let cleared = Cleared { table, addr, old };
        let Pte::Present { pfn, flags: bits } = old else {
            debug_assert!(false, "page_vma_mapped_walk shows present entries");
            return ControlFlow::Continue(());
        };
        let Some(this) = self.pages.page(pfn) else { return ControlFlow::Break(()) };
        if bits.contains(PteFlags::DIRTY) {
            head.set(PageFlags::DIRTY);
        }
        let new = if flags.contains(TtuFlags::HWPOISON) {
            Pte::Marker(POISON_MARKER)
        } else if head.mapping().load().is_anon() {
            match Self::anon_replacement(this, hooks) {
                Some(new) => new,
                None => return ControlFlow::Break(()),
            }
        } else {
            Pte::None
        };
        cleared.replace(new);
        let level = if bits.contains(PteFlags::LARGE) { Level::Entire } else { Level::Single };
        let _counted = Counted { rmap: self, page: this, vma, addr, level };
        hooks.unmapped(vma, addr, old, new);
        ControlFlow::Continue(())
    }

    /// What an anonymous page's entry becomes. `None`: it must stay. The entry is cleared, so no write can slip in.
    fn anon_replacement(page: &Page, hooks: &mut dyn UnmapHooks<S>) -> Option<Pte> {
        let head = page.head();
        if head.has(PageFlags::LAZY_FREE) && !head.has(PageFlags::DIRTY) && !head.has(PageFlags::SWAP_CACHE) {
            return (head.pins() == 0).then_some(Pte::None);
        }
        if !head.has(PageFlags::SWAP_CACHE) {
            return None;
        }
        let slot = head.private() + (page.pfn().0 - head.pfn().0);
        let exclusive = page.has(PageFlags::ANON_EXCLUSIVE);
        if exclusive && !page.try_share() {
            return None;
        }
        let shared = Shared(page, exclusive);
        hooks.swap_dup(slot).then(|| {
            core::mem::forget(shared);
            Pte::Swap(SwapEntry { slot, exclusive })
        })
    }
}

// A hook may refuse, or panic. What was taken before it was asked is given back when these are dropped.

/// An entry that was cleared, and that nothing has replaced yet.
struct Cleared<'t, T: LockedTable> {
    table: &'t mut T,
    addr: VirtAddr,
    old: Pte,
}

impl<T: LockedTable> Cleared<'_, T> {
    fn replace(self, new: Pte) {
        let mut this = core::mem::ManuallyDrop::new(self);
        let addr = this.addr;
        if new != Pte::None {
            this.table.set(addr, new);
        }
    }
}

impl<T: LockedTable> Drop for Cleared<'_, T> {
    fn drop(&mut self) {
        self.table.set(self.addr, self.old);
    }
}

/// A page that was exclusive (if so) and has just been made not to be.
struct Shared<'p>(&'p Page, bool);

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.set(PageFlags::ANON_EXCLUSIVE);
        }
    }
}

/// A mapping whose entry was replaced and which is still counted.
struct Counted<'a, S: Kernel> {
    rmap: &'a Rmap<S>,
    page: &'a Page,
    vma: &'a Vma<S>,
    addr: VirtAddr,
    level: Level,
}

impl<S: Kernel> Drop for Counted<'_, S> {
    fn drop(&mut self) {
        self.rmap.page_remove_rmap(self.page, self.vma, self.addr, self.level);
        let last = self.page.put();
        debug_assert!(!last, "the caller of try_to_unmap holds a reference");
    }
}
