//! What an entry costs: the figures of its address space, the charge hook, and all that goes when an entry goes.
//!
//! **One rule for charges: an address space pays for each present entry that is counted** (and for each migration
//! entry, which stands for one). So what is charged to it equals `rss_anon + rss_file + rss_shmem` once nobody changes
//! it. A page that two address spaces map is paid for by both, the zero page and pages in swap by nobody.
//!
//! Whoever installs an entry charges before the PTE lock ([`Machine::charge`]) and calls [`Machine::account_page`]
//! under it; whoever clears one calls [`Machine::drop_entry`], or [`Machine::unaccount_page`] if the rest is done
//! elsewhere.

use super::counters::{self, Counters};
use super::system::SoftSystem;
use super::{ChargeHook, Machine};
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::AtomicU64;
use crate::base::types::{VirtAddr, VmFlags};
use crate::mm::{Mm, Vma};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::pte::{Pte, PteFlags};
use crate::rmap::account::Level;

/// Pages charged and not yet mapped; uncharged when dropped.
#[must_use = "what is charged is given back at once when this is dropped"]
pub(super) struct Charge {
    hook: Option<ChargeHook>,
    mm: u64,
    pages: u64,
}

impl Charge {
    /// `n` of the pages were mapped: they stay charged until their entries go.
    pub(super) fn spend(&mut self, n: u64) {
        debug_assert!(n <= self.pages);
        self.pages -= n;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(hook) = self.hook
            && self.pages != 0
        {
            (hook.uncharge)(hook.arg, self.mm, self.pages);
        }
    }
}

/// Whether figures rise or fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// They rise.
    Add,
    /// They fall.
    Sub,
}

impl Change {
    fn apply(self, counter: &AtomicU64, n: u64) {
        match self {
            Self::Add => counters::add(counter, n),
            Self::Sub => counters::sub(counter, n),
        }
    }
}

/// Counts `pages` of a VMA with `flags` in or out (the kernel's `vm_stat_account`). `file`: it maps a file. mmap_lock
/// held exclusively.
pub(super) fn account_vma(figures: &Counters, flags: VmFlags, file: bool, pages: u64, change: Change) {
    change.apply(&figures.total_vm, pages);
    if flags.contains(VmFlags::LOCKED) {
        change.apply(&figures.locked_vm, pages);
    }
    if file && flags.contains(VmFlags::SHARED) {
        change.apply(&figures.shared_vm, pages);
    }
    if flags.contains(VmFlags::GROWSDOWN) {
        change.apply(&figures.stack_vm, pages);
    } else if flags.contains(VmFlags::EXEC) && !flags.contains(VmFlags::WRITE) {
        change.apply(&figures.exec_vm, pages);
    } else if flags.contains(VmFlags::WRITE) && !flags.contains(VmFlags::SHARED) {
        change.apply(&figures.data_vm, pages);
    }
}

/// The figure in which an entry for `page` is counted. The page was mapped by that entry until now, so its word says
/// what it is.
fn rss_of<'c>(figures: &'c Counters, page: &Page) -> &'c AtomicU64 {
    let head = page.head();
    if head.mapping().load().is_anon() {
        &figures.rss_anon
    } else if head.has(PageFlags::SWAP_BACKED) {
        &figures.rss_shmem
    } else {
        &figures.rss_file
    }
}

impl<S: SoftSystem> Machine<S> {
    /// Asks the charge hook for `pages`. mmap_lock held, shared or exclusively, and no lock below it.
    /// [`Error::NoMemory`]: refused.
    pub(super) fn charge(&self, mm: &Mm<S>, pages: u64) -> Result<Charge> {
        if let Some(hook) = self.charge
            && pages != 0
            && !(hook.charge)(hook.arg, mm.id(), pages)
        {
            return Err(Error::NoMemory);
        }
        Ok(Charge { hook: self.charge, mm: mm.id(), pages })
    }

    /// Counts an entry that was just installed in `vma`. The page has its mapping word. PTE lock held.
    pub(super) fn account_page(&self, vma: &Vma<S>, pte: Pte) {
        self.account(vma.mm(), pte, Change::Add);
    }

    /// Takes an entry of `vma` that was cleared out of the figures, and uncharges its page. PTE lock held.
    pub(super) fn unaccount_page(&self, vma: &Vma<S>, pte: Pte) {
        let pages = self.account(vma.mm(), pte, Change::Sub);
        self.uncharge(vma.mm(), pages);
    }

    fn uncharge(&self, mm: &Mm<S>, pages: u64) {
        if let Some(hook) = self.charge
            && pages != 0
        {
            (hook.uncharge)(hook.arg, mm.id(), pages);
        }
    }

    /// Counts an entry in or out. Returns the pages that are charged for it.
    fn account(&self, mm: &Mm<S>, pte: Pte, change: Change) -> u64 {
        let figures = &mm.data().counters;
        let (pfn, large) = match pte {
            Pte::Present { pfn, flags } => (pfn, flags.contains(PteFlags::LARGE)),
            Pte::Migration(entry) => (entry.pfn, false),
            Pte::Swap(_) => {
                change.apply(&figures.swap_ents, 1);
                return 0;
            }
            Pte::None | Pte::NoTable | Pte::Special { .. } | Pte::Marker(_) => return 0,
        };
        let Some(page) = self.rmap.pages().page(pfn) else {
            debug_assert!(false, "an entry names frame {}, which nobody has", pfn.0);
            return 0;
        };
        let pages = if large { page.head().nr_pages() } else { 1 };
        change.apply(rss_of(figures, page), pages);
        pages
    }

    /// An entry of `vma` at `addr` was cleared for good: takes what it stood for out of the figures and the reverse
    /// map, and drops the mapping's reference, or the use of a swap slot. Whatever it was, present or not. PTE lock
    /// held; the flush is the caller's.
    pub(super) fn drop_entry(&self, vma: &Vma<S>, addr: VirtAddr, old: Pte) {
        match old {
            Pte::Present { pfn, flags } => {
                let Some(page) = self.rmap.pages().page(pfn) else { return };
                if flags.contains(PteFlags::DIRTY) {
                    page.head().set(PageFlags::DIRTY);
                }
                let pages = self.account(vma.mm(), old, Change::Sub);
                let level = if flags.contains(PteFlags::LARGE) { Level::Entire } else { Level::Single };
                let unmapped = self.rmap.page_remove_rmap(page, vma, addr, level);
                if unmapped && page.head().has(PageFlags::SWAP_CACHE) {
                    self.try_leave_swap_cache(page);
                }
                self.put_page(page);
                self.uncharge(vma.mm(), pages);
            }
            Pte::Swap(entry) => {
                self.unaccount_page(vma, old);
                self.free_swap_entry(entry.slot);
            }
            // The page's mapping and reference went when the entry was made.
            Pte::Migration(_) => self.unaccount_page(vma, old),
            Pte::None | Pte::NoTable | Pte::Special { .. } | Pte::Marker(_) => {}
        }
    }
}
