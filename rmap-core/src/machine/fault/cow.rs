//! Writes to pages that are present and write-protected: copy-on-write, its shortcuts, and shared pages that become
//! dirty.
//!
//! | VMA | page | what happens |
//! |---|---|---|
//! | shared | of a file | it is marked dirty, the entry becomes writable |
//! | private | exclusive | the entry becomes writable |
//! | private | anonymous, only this entry holds it | it becomes exclusive and this VMA's own (T14), the entry becomes writable |
//! | private | any other | copied |
//!
//! "Only this entry holds it" is asked of the reference count, not of the mapcount: each mapping, the swap cache, and
//! whoever is about to look at the page hold one, and a page that anybody else can reach must not change under them.

use super::super::system::SoftSystem;
use super::{Fault, Machine, Outcome, WRITTEN};
use crate::base::error::{Error, Result};
use crate::base::mutant::mutant;
use crate::base::types::{Pfn, VmFlags};
use crate::mm::System;
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use crate::rmap::account::Level;

type Locked<'a, S> = <<S as System>::Table as PageTable>::Locked<'a>;

impl<S: SoftSystem> Machine<S> {
    /// The entry maps `pfn` without write permission, and the fault wants to write, or to own the page. Its table is
    /// locked.
    pub(super) fn wp_page(
        &self,
        f: &Fault<'_, S>,
        mut table: Locked<'_, S>,
        pfn: Pfn,
        flags: PteFlags,
    ) -> Result<Outcome> {
        let page = self.page(pfn)?;
        let anon = page.head().mapping().load().is_anon();
        if f.vma.has(VmFlags::SHARED) || (!anon && !f.want.writes()) {
            if !f.want.writes() {
                return Ok(Outcome::Done);
            }
            // The entry's own reference keeps the page while the table is locked.
            page.get();
            let held = self.page_ref(page);
            drop(table);
            return Ok(self.wp_shared(f, held.page, Pte::present(pfn, flags)));
        }
        if anon && (page.has(PageFlags::ANON_EXCLUSIVE) || self.reuse_anon(f, page)) {
            let used = if f.want.writes() { WRITTEN } else { PteFlags::YOUNG };
            table.set(f.addr, Pte::present(pfn, flags | used));
            return Ok(Outcome::Done);
        }
        page.get();
        let held = self.page_ref(page);
        drop(table);
        self.wp_copy(f, Some(held.page))
    }

    /// A write to the zero page, which gives way to a page of zeros.
    pub(super) fn wp_special(&self, f: &Fault<'_, S>) -> Result<Outcome> {
        if f.mm.table().load(f.addr) == (Pte::Special { pfn: self.zero }) {
            return self.wp_copy(f, None);
        }
        // Memory that is not the machine's.
        Err(Error::Bus)
    }

    /// A page of a shared mapping is about to be written: it is dirty from now on (the kernel's `page_mkwrite`). The
    /// caller has a reference.
    fn wp_shared(&self, f: &Fault<'_, S>, page: &Page, seen: Pte) -> Outcome {
        // Lock order: mmap_lock -> page lock -> PTE lock.
        let _locked = page.lock();
        if page.head().mapping().load() == Mapping::None {
            return Outcome::Done;
        }
        let Some(mut table) = f.mm.table().lock(f.addr, false) else { return Outcome::Done };
        let Pte::Present { pfn, flags } = table.get(f.addr) else { return Outcome::Done };
        if Some(pfn) == seen.pfn() {
            page.set(PageFlags::DIRTY);
            table.set(f.addr, Pte::present(pfn, flags | WRITTEN));
        }
        Outcome::Done
    }

    /// Whether nobody but the locked entry holds an anonymous page; then it becomes exclusive, and its anchor this
    /// VMA's.
    fn reuse_anon(&self, f: &Fault<'_, S>, page: &Page) -> bool {
        let cached = || u32::from(page.has(PageFlags::SWAP_CACHE));
        let held_by = |most| page.refcount() <= most || mutant("cow_reuse_uncounted");
        if !matches!(page.mapping().load(), Mapping::Anon(_)) || !held_by(1 + cached()) {
            return false;
        }
        // A try: the page lock comes before the PTE lock. Whoever holds it has a reference.
        let Some(_locked) = page.try_lock() else { return false };
        self.leave_swap_cache(page) && held_by(1) && self.rmap.page_move_anon_rmap(page, f.vma, f.addr).is_ok()
    }

    /// Puts a copy in the place of `old` (of the zero page: `None`). The caller has a reference to it, and no lock
    /// below mmap_lock.
    fn wp_copy(&self, f: &Fault<'_, S>, old: Option<&Page>) -> Result<Outcome> {
        let mut charge = self.charge(f.mm, 1)?;
        let _reserved = self.prepare_anon(f)?;
        let new = self.alloc_page()?;
        if let Some(old) = old {
            // Nobody writes it meanwhile: entries of an anonymous page that is not exclusive are write-protected, and
            // the caller's reference forbids to reuse it. A file's page may change, as between any write and any copy.
            self.frames.copy(old.pfn(), new.pfn());
        }
        new.set(PageFlags::UPTODATE);
        self.mark_new(f, new);

        let replaced = (|| {
            let Some(mut table) = f.mm.table().lock(f.addr, false) else { return Ok(false) };
            let now = table.get(f.addr);
            let unchanged = match (now, old) {
                (Pte::Present { pfn, flags }, Some(old)) => pfn == old.pfn() && !flags.contains(PteFlags::WRITE),
                (Pte::Special { pfn }, None) => pfn == self.zero,
                _ => false,
            };
            if !unchanged {
                return Ok(false);
            }
            f.mm.data().check_stable()?;
            self.rmap.page_add_new_anon_rmap(new, f.vma, f.addr, Level::Single)?;
            // No write through the old translation is possible when the new page appears.
            let was = table.clear_flush(f.addr);
            let flags = if f.want.writes() { WRITTEN } else { PteFlags::YOUNG };
            let pte = Pte::present(new.pfn(), flags);
            table.set(f.addr, pte);
            charge.spend(1);
            self.account_page(f.vma, pte);
            self.drop_entry(f.vma, f.addr, was);
            Ok(true)
        })();
        if replaced != Ok(true) {
            self.put_page(new);
        }
        replaced.map(|_| Outcome::Done)
    }
}
