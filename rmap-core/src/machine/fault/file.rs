//! Faults on pages of files, shared memory included.
//!
//! **Fault-around.** A read maps the pages around it too, up to `fault_around` in a window that begins at a multiple of
//! it or at the VMA's start, and ends with the VMA or the page table. The kernel maps only what its readahead has
//! brought into the page cache; files here have no readahead, so the pages of the window that lie inside the file are
//! brought in by the fault itself. Of shared anonymous memory, which has no readahead in the kernel either, only pages
//! that exist are mapped. Neighbours are mapped old and never for writing; whatever hinders one of them leaves it out.

use super::super::PageRef;
use super::super::account::Charge;
use super::super::page_table::table_end;
use super::super::system::SoftSystem;
use super::anon::Installed;
use super::{Fault, Machine, Outcome, WRITTEN};
use crate::base::error::{Error, Result};
use crate::base::types::{PAGE_SIZE, PTRS_PER_TABLE, PgOff, VirtAddr, VmFlags};
use crate::mm::{File, FileRef};
use crate::page::Page;
use crate::page::flags::{PageFlags, PageLock};
use crate::page::mapping::Mapping;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use crate::rmap::account::Level;
use core::ptr::NonNull;

/// Neighbours mapped under one PTE lock.
const BATCH: usize = 16;

/// Whether the page is still the file's, at this offset and with contents. Page lock held.
fn is_still<S: SoftSystem>(page: &Page, file: &File<S>, pgoff: PgOff) -> bool {
    page.mapping().load() == Mapping::File(NonNull::from(file).cast())
        && page.index() == pgoff
        && page.has(PageFlags::UPTODATE)
}

impl<S: SoftSystem> Machine<S> {
    /// Nothing is mapped in a VMA with a file.
    pub(super) fn file_page(&self, f: &Fault<'_, S>, file: &FileRef<S>) -> Result<Outcome> {
        let pgoff = f.vma.bounds().pgoff_of(f.addr);
        if pgoff >= file.size() {
            return Err(Error::Bus);
        }
        if f.vma.has(VmFlags::UFFD_MISSING) && file.is_anonymous() {
            match file.find_get_page(pgoff) {
                Some(page) => self.put_page(page),
                None => return self.handler_or_gone(f),
            }
        }
        let charge = self.charge(f.mm, 1)?;
        if f.want.writes() && !f.vma.has(VmFlags::SHARED) {
            return self.copy_file_page(f, file, pgoff, charge);
        }
        let _reserved = self.rmap.reserve(1)?;
        f.mm.table().alloc(f.addr)?;
        let (page, locked) = self.cached_page(file, pgoff)?;
        let flags = if f.want.writes() {
            // As by the kernel's page_mkwrite: the page lock is held.
            page.set(PageFlags::DIRTY);
            WRITTEN
        } else {
            PteFlags::YOUNG
        };
        self.mark_new(f, page);
        let mapped = self.map_file_page(f, page, flags, charge);
        drop(locked);
        if mapped != Ok(Installed::Yes) {
            self.put_page(page);
        }
        if mapped == Ok(Installed::Yes) && !f.want.writes() {
            self.fault_around(f, file);
        }
        mapped.map(|_| Outcome::Done)
    }

    /// The page of shared memory is missing and its VMA has a handler: unless another thread has just filled the place.
    fn handler_or_gone(&self, f: &Fault<'_, S>) -> Result<Outcome> {
        f.mm.table().alloc(f.addr)?;
        let Some(table) = f.mm.table().lock(f.addr, false) else { return Ok(Outcome::Again) };
        Ok(if table.get(f.addr).is_none() { Outcome::Missing } else { Outcome::Done })
    }

    /// A write to a private mapping: the copy is mapped, the file's page never was.
    fn copy_file_page(&self, f: &Fault<'_, S>, file: &FileRef<S>, pgoff: PgOff, charge: Charge) -> Result<Outcome> {
        let _reserved = self.prepare_anon(f)?;
        let new = self.page_ref(self.alloc_page()?);
        let (page, locked) = self.cached_page(file, pgoff)?;
        self.frames.copy(page.pfn(), new.page.pfn());
        drop(locked);
        self.put_page(page);
        self.install_anon(f, new.into_page(), charge, false).map(Self::outcome)
    }

    /// The page at an offset of a file, with its contents, a reference, and its lock; made and read in if there was
    /// none. mmap_lock held at most. [`Error::Bus`]: the file ends before it; or the error of the file's operations.
    pub(super) fn cached_page<'m>(&'m self, file: &'m File<S>, pgoff: PgOff) -> Result<(&'m Page, PageLock<'m>)> {
        loop {
            if pgoff >= file.size() {
                return Err(Error::Bus);
            }
            let Some(page) = file.find_get_page(pgoff) else {
                match self.read_in(file, pgoff) {
                    Err(Error::Exists) => continue,
                    done => return done,
                }
            };
            let locked = page.lock();
            if page.has(PageFlags::HWPOISON) {
                drop(locked);
                self.put_page(page);
                return Err(Error::Bus);
            }
            if is_still(page, file, pgoff) {
                return Ok((page, locked));
            }
            drop(locked);
            self.put_page(page);
        }
    }

    /// A new page in a file's page cache. [`Error::Exists`]: there is one.
    fn read_in<'m>(&'m self, file: &'m File<S>, pgoff: PgOff) -> Result<(&'m Page, PageLock<'m>)> {
        let held = self.page_ref(self.alloc_page()?);
        let page = held.page;
        let data = *file.data();
        let fill = || {
            if let Some(ops) = data.ops {
                let mut bytes = [0; PAGE_SIZE as usize];
                ops.read_page(data.private, pgoff, &mut bytes)?;
                self.frames.write(page.pfn(), 0, &bytes);
            }
            Ok(())
        };
        let locked = self.add_to_cache(file, page, pgoff, fill)?;
        Ok((held.into_page(), locked))
    }

    /// Puts a page that nobody else knows into a file's page cache and has it filled, locked throughout. On failure it
    /// is in no cache.
    pub(super) fn add_to_cache<'p>(
        &self,
        file: &File<S>,
        page: &'p Page,
        pgoff: PgOff,
        fill: impl FnOnce() -> Result<()>,
    ) -> Result<PageLock<'p>> {
        let locked = page.lock();
        if file.is_anonymous() {
            page.set(PageFlags::SWAP_BACKED);
        }
        file.add_page(page, pgoff)?;
        let added = Added { machine: self, file, page };
        fill()?;
        core::mem::forget(added);
        page.set(PageFlags::UPTODATE);
        Ok(locked)
    }

    /// Maps a page of the VMA's file where nothing is; its reference becomes the mapping's. Page lock held, the table
    /// is there.
    pub(super) fn map_file_page(
        &self,
        f: &Fault<'_, S>,
        page: &Page,
        flags: PteFlags,
        mut charge: Charge,
    ) -> Result<Installed> {
        // Lock order: page lock -> PTE lock.
        let Some(mut table) = f.mm.table().lock(f.addr, false) else { return Ok(Installed::Occupied) };
        if !table.get(f.addr).is_none() {
            return Ok(Installed::Occupied);
        }
        f.mm.data().check_stable()?;
        self.rmap.page_add_file_rmap(page, f.vma, f.addr, Level::Single)?;
        let pte = Pte::present(page.pfn(), flags);
        table.set(f.addr, pte);
        charge.spend(1);
        self.account_page(f.vma, pte);
        Ok(Installed::Yes)
    }

    /// Maps the neighbours of a page that was just mapped for reading.
    fn fault_around(&self, f: &Fault<'_, S>, file: &FileRef<S>) {
        if self.fault_around == 1 || f.vma.has(VmFlags::UFFD_MISSING) {
            return;
        }
        // [table ... [from ... addr ... to) ...)   from: a multiple of the window, or the VMA's start
        let pages = self.fault_around.min(PTRS_PER_TABLE);
        let bounds = f.vma.bounds();
        let from = VirtAddr(f.addr.0 & !(pages * PAGE_SIZE - 1)).max(bounds.start);
        let to = table_end(f.addr, from.add_pages(pages).min(bounds.end));
        let mut at = from;
        while at < to {
            let end = at.add_pages(BATCH as u64).min(to);
            if self.map_neighbours(f, file, at, end).is_err() {
                return;
            }
            at = end;
        }
    }

    /// Maps the file's pages at `[at, end)` where nothing is mapped.
    fn map_neighbours(&self, f: &Fault<'_, S>, file: &FileRef<S>, at: VirtAddr, end: VirtAddr) -> Result<()> {
        let bounds = f.vma.bounds();
        // Dropped, those that were not mapped are put.
        let mut found: [Option<PageRef<'_, S>>; BATCH] = [const { None }; BATCH];
        let mut pages = 0;
        for (i, place) in found.iter_mut().enumerate() {
            let addr = at.add_pages(i as u64);
            if addr >= end {
                break;
            }
            if f.mm.table().load(addr).is_none() {
                *place = self.neighbour(file, bounds.pgoff_of(addr)).map(|page| self.page_ref(page));
                pages += u64::from(place.is_some());
            }
        }
        let _reserved = self.rmap.reserve(pages as usize)?;
        let charge = self.charge(f.mm, pages)?;
        self.map_found(f, file, at, &mut found, charge);
        Ok(())
    }

    /// A neighbour's page with a reference, if there is one or can be.
    fn neighbour<'m>(&'m self, file: &'m File<S>, pgoff: PgOff) -> Option<&'m Page> {
        if file.is_anonymous() {
            return file.find_get_page(pgoff);
        }
        Some(self.cached_page(file, pgoff).ok()?.0)
    }

    /// Maps what of `found` is free and still the file's, and takes it out of `found`.
    fn map_found(
        &self,
        f: &Fault<'_, S>,
        file: &FileRef<S>,
        at: VirtAddr,
        found: &mut [Option<PageRef<'_, S>>; BATCH],
        mut charge: Charge,
    ) {
        let Some(mut table) = f.mm.table().lock(at, false) else { return };
        if f.mm.data().check_stable().is_err() {
            return;
        }
        for (i, place) in found.iter_mut().enumerate() {
            let addr = at.add_pages(i as u64);
            let Some(PageRef { page, .. }) = *place else { continue };
            // A try: the page lock comes before the PTE lock.
            let Some(_locked) = page.try_lock() else { continue };
            let free = table.get(addr).is_none() && is_still(page, file, f.vma.bounds().pgoff_of(addr));
            if free && self.rmap.page_add_file_rmap(page, f.vma, addr, Level::Single).is_ok() {
                self.mark_new(f, page);
                let pte = Pte::present(page.pfn(), PteFlags::empty());
                table.set(addr, pte);
                charge.spend(1);
                self.account_page(f.vma, pte);
                place.take().map(PageRef::into_page);
            }
        }
    }
}

/// A page in a file's page cache that may have no contents yet: dropped, it is in the cache no more. Page lock held, and
/// the caller has a reference.
struct Added<'a, S: SoftSystem> {
    machine: &'a Machine<S>,
    file: &'a File<S>,
    page: &'a Page,
}

impl<S: SoftSystem> Drop for Added<'_, S> {
    fn drop(&mut self) {
        self.machine.remove_cached(self.file, self.page);
    }
}
