//! fork: a copy of an address space that shares every private page until either writes it (the kernel's `dup_mmap` and
//! `copy_page_range`).
//!
//! **Which entries are copied?** Those that the child could not find again by faulting: of VMAs that may have anonymous
//! pages (they are prepared), and special ones. Pages of files and the zero page in VMAs that nobody has written are
//! left to fault. A large entry is split first, and its page shared by small ones.
//!
//! **Order (T13, T7).** A VMA of the child is visited by walks, after its parent's, before its first entry is copied;
//! an entry is copied under both PTE locks. So a walk that has passed the parent's entry before it was copied has
//! changed it, and the child gets the changed one; a walk that comes later finds the child's. What a walk sees of a
//! child that is half made is a complete VMA with a part of its entries.
//!
//! **Failure.** Whatever runs out, the child is torn down as an exiting address space is, and the parent is as before,
//! but for entries that stay write-protected and pages that are not exclusive any more: they fault back (G4).

use super::Machine;
use super::account::{Change, Charge, account_vma};
use super::layout::opened;
use super::page_table::{LockedEntries, RadixTable, table_end};
use super::swap::SwapStore;
use super::system::{MmState, SoftSystem};
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::Ordering;
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::mm::address_space::MmLocked;
use crate::mm::{MmRef, MmWrite, Vma};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, MigrationEntry, PageTable, Pte, PteFlags, SwapEntry};
use crate::rmap::account::Level;

/// The VMA and the locked table of one side.
struct Side<'a, 't, S: SoftSystem> {
    vma: &'a Vma<S>,
    table: &'a mut LockedEntries<'t>,
}

/// Why copying entries stopped.
enum Stop {
    /// At this address a page is pinned: the child needs a page of its own.
    NeedsPage(VirtAddr),
    /// It cannot go on.
    Failed(Error),
}

/// A child that is not the caller's yet: dropped, it is gone. Its mmap_lock and its parent's are free, and it is empty.
struct Unfinished<'m, S: SoftSystem> {
    machine: &'m Machine<S>,
    child: Option<MmRef<S>>,
}

impl<S: SoftSystem> Drop for Unfinished<'_, S> {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        // Nobody but those who list address spaces has a handle.
        self.machine.forget(&child);
        child.data().unstable.store(true, Ordering::Release);
        let last = child.put_user();
        debug_assert!(last);
        self.machine.rmap.mm_gone(&child);
    }
}

/// A fork that has begun; dropped, it ends. What was copied goes unless it is done: also when the embedder panics.
struct Copying<'a, S: SoftSystem> {
    machine: &'a Machine<S>,
    to: &'a MmWrite<'a, S>,
    from: &'a MmWrite<'a, S>,
    done: bool,
}

impl<S: SoftSystem> Drop for Copying<'_, S> {
    fn drop(&mut self) {
        let Self { machine, to, from, done } = *self;
        if !done {
            to.data().unstable.store(true, Ordering::Release);
            machine.tear_down(to);
        }
        machine.rmap.engine().fork_end(to, from);
        // Writable translations of the parent's may be in use until here.
        from.table().flush(VirtAddr(0), from.data().task_size);
    }
}

impl<S: SoftSystem> Machine<S> {
    /// A copy of an address space, with one user.
    ///
    /// VMAs with DONTFORK are left out, those with WIPEONFORK come without their pages. Locked VMAs are not locked in
    /// the child. Pinned pages are copied at once.
    ///
    /// [`Error::NoMemory`]: memory, frames, or uses of a swap slot ran out, or the charge hook refused a page.
    pub fn fork(&self, parent: &MmRef<S>) -> Result<MmRef<S>> {
        let mut unfinished = Unfinished { machine: self, child: None };
        // Lock order: the parent's mmap_lock -> the child's.
        let from = parent.write();
        let table = RadixTable::new(&self.rmap.arena().heap)?;
        let child = self.rmap.mm_new(table, MmState::forked(parent.data()))?;
        unfinished.child = Some(child.clone());
        let made = self.remember(&child).and_then(|()| self.dup_mmap(&child, &from));
        drop(from);
        if made.is_ok() {
            unfinished.child = None;
        }
        drop(unfinished);
        let result = made.map(|()| child);
        self.tidy();
        result
    }

    fn dup_mmap(&self, child: &MmRef<S>, from: &MmWrite<'_, S>) -> Result<()> {
        let to = child.write_nested();
        self.rmap.engine().fork_begin(&to, from)?;
        let mut copying = Copying { machine: self, to: &to, from, done: false };
        from.vmas().filter(|vma| !vma.has(VmFlags::DONTFORK)).try_for_each(|vma| self.dup_vma(&to, from, vma))?;
        copying.done = true;
        Ok(())
    }

    fn dup_vma(&self, to: &MmWrite<'_, S>, from: &MmWrite<'_, S>, vma: &Vma<S>) -> Result<()> {
        let copy = self.rmap.vma_fork(to, from, vma)?;
        account_vma(&to.data().counters, copy.flags(), copy.file().is_some(), copy.pages(), Change::Add);
        opened(*to.data_of(copy), copy.bounds());
        let engine = self.rmap.engine();
        let needed = engine.is_prepared(vma) || vma.has(VmFlags::SPECIAL | VmFlags::UFFD_MISSING);
        if vma.has(VmFlags::WIPEONFORK) || !needed {
            return Ok(());
        }
        self.copy_page_range(copy, vma)
    }

    /// Copies the entries of `vma` to its copy in the child. Both mmap_locks held exclusively.
    fn copy_page_range(&self, copy: &Vma<S>, vma: &Vma<S>) -> Result<()> {
        let mut at = vma.start();
        while let Some(start) = vma.mm().table().next_table(at, vma.end()) {
            at = table_end(start, vma.end());
            self.copy_pte_range(copy, vma, start, at)?;
        }
        Ok(())
    }

    /// As [`copy_page_range`](Self::copy_page_range), for a range in one table.
    fn copy_pte_range(&self, copy: &Vma<S>, vma: &Vma<S>, start: VirtAddr, end: VirtAddr) -> Result<()> {
        // No fault adds entries while mmap_lock is held exclusively; walks replace entries one for one. So these are
        // bounds.
        let (mut entries, mut counted) = (0, 0);
        vma.mm().table().for_each(start, end, |_, pte| {
            entries += 1;
            counted += u64::from(matches!(pte, Pte::Present { .. } | Pte::Migration(_)));
        });
        if entries == 0 {
            return Ok(());
        }
        let mut charge = self.charge(copy.mm(), counted)?;
        let _reserved = self.rmap.reserve(entries)?;
        copy.mm().table().alloc(start)?;
        let mut spare = None;
        let mut at = start;
        let copied = loop {
            match self.copy_entries(copy, vma, (at, end), &mut charge, &mut spare) {
                Ok(()) => break Ok(()),
                Err(Stop::Failed(error)) => break Err(error),
                Err(Stop::NeedsPage(addr)) => match self.alloc_page() {
                    Ok(page) => {
                        spare = Some(page);
                        at = addr;
                    }
                    Err(error) => break Err(error),
                },
            }
        };
        if let Some(page) = spare {
            self.put_page(page);
        }
        copied
    }

    fn copy_entries(
        &self,
        copy: &Vma<S>,
        vma: &Vma<S>,
        (start, end): (VirtAddr, VirtAddr),
        charge: &mut Charge,
        spare: &mut Option<&Page>,
    ) -> Result<(), Stop> {
        let gone = || Stop::Failed(Error::Unstable);
        // Lock order: the parent's PTE lock -> the child's.
        let mut parents = vma.mm().table().lock(start, false).ok_or_else(gone)?;
        let mut childs = copy.mm().table().lock(start, true).ok_or_else(gone)?;
        let mut from = Side { vma, table: &mut parents };
        let to = Side { vma: copy, table: &mut childs };
        for addr in (start.0..end.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
            if matches!(from.table.get(addr), Pte::Present { flags, .. } if flags.contains(PteFlags::LARGE)) {
                self.split_mapping(vma, from.table, addr);
            }
            let pte = from.table.get(addr);
            let new = match pte {
                Pte::None | Pte::NoTable => continue,
                Pte::Special { .. } | Pte::Marker(_) => pte,
                Pte::Swap(entry) => self.copy_swap(&mut from, addr, entry).map_err(Stop::Failed)?,
                Pte::Migration(entry) => Self::copy_migration(&mut from, addr, entry),
                Pte::Present { .. } => self.copy_present(&mut from, &to, addr, pte, spare)?,
            };
            to.table.set(addr, new);
            charge.spend(u64::from(matches!(new, Pte::Present { .. } | Pte::Migration(_))));
            self.account_page(copy, new);
        }
        Ok(())
    }

    /// A page in swap has one more entry, and is nobody's alone.
    fn copy_swap(&self, from: &mut Side<'_, '_, S>, addr: VirtAddr, entry: SwapEntry) -> Result<Pte> {
        let dup = self.swap.as_ref().map_or(Err(Error::NoMemory), |swap: &SwapStore| swap.dup(entry.slot));
        dup.map_err(|_| Error::NoMemory)?;
        let shared = Pte::Swap(SwapEntry { exclusive: false, ..entry });
        from.table.set(addr, shared);
        Ok(shared)
    }

    /// A page that is being moved arrives in both, write-protected in private VMAs. Whoever moves it visits the child
    /// after the parent.
    fn copy_migration(from: &mut Side<'_, '_, S>, addr: VirtAddr, entry: MigrationEntry) -> Pte {
        if from.vma.has(VmFlags::SHARED) {
            return Pte::Migration(MigrationEntry { dirty: false, young: false, ..entry });
        }
        let shared = MigrationEntry { write: false, exclusive: false, ..entry };
        from.table.set(addr, Pte::Migration(shared));
        Pte::Migration(shared)
    }

    /// The child's entry for a page that the parent maps: the same page, or a copy if it is pinned.
    fn copy_present(
        &self,
        from: &mut Side<'_, '_, S>,
        to: &Side<'_, '_, S>,
        addr: VirtAddr,
        pte: Pte,
        spare: &mut Option<&Page>,
    ) -> Result<Pte, Stop> {
        let Pte::Present { pfn, flags } = pte else { return Ok(pte) };
        let page = self.page(pfn).map_err(Stop::Failed)?;
        page.get();
        if self.rmap.page_dup_rmap(page, to.vma, addr, Level::Single).is_err() {
            let last = page.put();
            debug_assert!(!last, "the parent's entry has a reference");
            return self.copy_pinned(to, addr, page, spare);
        }
        if from.vma.has(VmFlags::SHARED) {
            return Ok(Pte::present(pfn, flags - (PteFlags::DIRTY | PteFlags::YOUNG)));
        }
        if flags.contains(PteFlags::WRITE) {
            from.table.wrprotect(addr);
        }
        Ok(Pte::present(pfn, flags - (PteFlags::WRITE | PteFlags::YOUNG)))
    }

    /// The parent's page is pinned: whoever has pinned it and the parent go on to see one another's writes, and the
    /// child gets a copy of its own.
    fn copy_pinned(
        &self,
        to: &Side<'_, '_, S>,
        addr: VirtAddr,
        page: &Page,
        spare: &mut Option<&Page>,
    ) -> Result<Pte, Stop> {
        let Some(new) = spare.take() else { return Err(Stop::NeedsPage(addr)) };
        self.frames.copy(page.pfn(), new.pfn());
        new.set(PageFlags::UPTODATE);
        if let Err(error) = self.rmap.page_add_new_anon_rmap(new, to.vma, addr, Level::Single) {
            *spare = Some(new);
            return Err(Stop::Failed(error));
        }
        let written = PteFlags::DIRTY | PteFlags::YOUNG | PteFlags::SOFT_DIRTY;
        let write = if to.vma.has(VmFlags::WRITE) { PteFlags::WRITE } else { PteFlags::empty() };
        Ok(Pte::present(new.pfn(), written | write))
    }
}
