//! Mappings come and go.
//!
//! Each function is called with the PTE lock of the entry that is about to change, or has just changed, held; the
//! page's reference that a mapping holds is the caller's business, as in the kernel, and so is the engine's memory for
//! a new mapping ([`Rmap::reserve`]).

use super::Rmap;
use crate::base::error::{Error, Result};
use crate::base::mutant::mutant;
use crate::base::types::{Pfn, VirtAddr};
use crate::engine::{Engine, Kernel};
use crate::mm::Vma;
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;

/// What one page-table entry maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// One page.
    Single,
    /// A whole compound page.
    Entire,
}

/// The engine's memory for mappings that are about to be made. Dropped, what was not used is everybody's again.
#[must_use = "what is reserved is given back at once when this is dropped"]
pub struct Reserved<'a, S: Kernel> {
    engine: &'a S::Engine,
    mappings: usize,
}

impl<S: Kernel> Drop for Reserved<'_, S> {
    #[inline]
    fn drop(&mut self) {
        self.engine.unreserve(self.mappings);
    }
}

impl<S: Kernel> Rmap<S> {
    /// Gets the memory that the engine may need for `mappings` mappings. Whoever makes mappings does this before, and
    /// keeps the result until they are made. A mapping of a whole compound page counts as one, and one more for each of
    /// its pages, because it may be split where no memory can be got; the split itself needs nothing then, nor does a
    /// move.
    ///
    /// Context: no anchor and no PTE lock held. [`Error::NoMemory`]: there is none.
    #[inline]
    pub fn reserve(&self, mappings: usize) -> Result<Reserved<'_, S>> {
        self.engine.reserve(mappings)?;
        Ok(Reserved { engine: &self.engine, mappings })
    }

    fn tell_mapped(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, level: Level) {
        match level {
            Level::Single => self.engine.page_mapped(page, vma, addr),
            Level::Entire => self.engine.entire_mapped(page, vma, addr),
        }
    }

    fn check_anon(&self, vma: &Vma<S>, addr: VirtAddr) -> Result<()> {
        if !vma.contains(addr) || !addr.is_page_aligned() || !self.engine.is_prepared(vma) {
            return Err(Error::Invalid);
        }
        Ok(())
    }

    fn add(&self, page: &Page, level: Level, anon: bool) {
        let first = match level {
            Level::Single => page.add_mapping(),
            Level::Entire => {
                if page.add_entire_mapping() && anon {
                    self.anon_large.add(1);
                }
                false
            }
        };
        if first {
            if anon { &self.anon_mapped } else { &self.file_mapped }.add(1);
        }
    }

    /// The first mapping of a page that nobody else can reach: it belongs to `vma` alone, and is exclusive.
    ///
    /// `vma` is prepared. [`Error::Invalid`]: it is not, or `addr` does not lie in it; [`Error::Busy`]: the page is
    /// mapped or belongs to somebody.
    pub fn page_add_new_anon_rmap(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, level: Level) -> Result<()> {
        self.check_anon(vma, addr)?;
        let head = page.head();
        if head.is_mapped() || head.mapping().load() != Mapping::None {
            return Err(Error::Busy);
        }
        head.set(PageFlags::SWAP_BACKED);
        page.set(PageFlags::ANON_EXCLUSIVE);
        self.engine.anchor_page(head, vma, VirtAddr(addr.0 - ((page.pfn().0 - head.pfn().0) << 12)), true);
        self.add(page, level, true);
        self.tell_mapped(page, vma, addr, level);
        Ok(())
    }

    /// A mapping of a page that was anonymous before, or comes back from swap. The page is locked. A page without an
    /// anchor gets `vma`'s if `exclusive`, else the oldest that `vma` knows, so that no relative who may have it too is
    /// missed (T1).
    ///
    /// [`Error::Invalid`]: `vma` is not prepared, or `addr` does not lie in it, or the page belongs to a file.
    pub fn page_add_anon_rmap(
        &self,
        page: &Page,
        vma: &Vma<S>,
        addr: VirtAddr,
        exclusive: bool,
        level: Level,
    ) -> Result<()> {
        debug_assert!(page.is_locked());
        self.check_anon(vma, addr)?;
        let head = page.head();
        match head.mapping().load() {
            Mapping::File(_) => return Err(Error::Invalid),
            Mapping::None => {
                head.set(PageFlags::SWAP_BACKED);
                let start = VirtAddr(addr.0 - ((page.pfn().0 - head.pfn().0) << 12));
                self.engine.anchor_page(head, vma, start, exclusive);
            }
            Mapping::Anon(_) | Mapping::Ksm(_) => {}
        }
        if exclusive {
            page.set(PageFlags::ANON_EXCLUSIVE);
        }
        self.add(page, level, true);
        self.tell_mapped(page, vma, addr, level);
        Ok(())
    }

    /// Copy-on-write found that `vma` is the last to map an anonymous page: from now on the page belongs to it alone,
    /// and walks visit only it and its descendants (T14). The page is locked.
    pub fn page_move_anon_rmap(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr) -> Result<()> {
        debug_assert!(page.is_locked());
        self.check_anon(vma, addr)?;
        if !matches!(page.head().mapping().load(), Mapping::Anon(_)) {
            return Err(Error::Invalid);
        }
        if mutant("reanchor_clears_first") {
            page.head().mapping().store(Mapping::None);
        }
        self.engine.reanchor(page.head(), vma, addr);
        page.set(PageFlags::ANON_EXCLUSIVE);
        Ok(())
    }

    /// A mapping of a file's page.
    ///
    /// [`Error::Invalid`]: the page belongs to no file or to another than `vma` maps there.
    pub fn page_add_file_rmap(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, level: Level) -> Result<()> {
        if !vma.contains(addr) || !addr.is_page_aligned() {
            return Err(Error::Invalid);
        }
        let Some(file) = vma.file() else { return Err(Error::Invalid) };
        let word = core::ptr::NonNull::from(&**file).cast();
        if page.head().mapping().load() != Mapping::File(word) || page.index() != vma.bounds().pgoff_of(addr) {
            return Err(Error::Invalid);
        }
        self.add(page, level, false);
        self.tell_mapped(page, vma, addr, level);
        Ok(())
    }

    /// Fork copies an entry to `addr` in `child`. Both PTE locks are held. An exclusive page is exclusive no more,
    /// unless it is pinned: [`Error::Busy`], nothing is changed, and fork copies the page instead.
    pub fn page_dup_rmap(&self, page: &Page, child: &Vma<S>, addr: VirtAddr, level: Level) -> Result<()> {
        let anon = page.head().mapping().load().is_anon();
        if anon && page.has(PageFlags::ANON_EXCLUSIVE) && !page.try_share() {
            return Err(Error::Busy);
        }
        self.add(page, level, anon);
        self.tell_mapped(page, child, addr, level);
        Ok(())
    }

    /// One entry in `vma` that maps a whole compound page from `addr` on becomes one for each of its pages, each with a
    /// reference. All pages of an exclusive page are exclusive. The new mappings are counted before the old one goes,
    /// so that the page is never seen unmapped. PTE lock held.
    pub fn page_split_rmap(&self, head: &Page, vma: &Vma<S>, addr: VirtAddr) {
        let anon = head.mapping().load().is_anon();
        let exclusive = anon && head.has(PageFlags::ANON_EXCLUSIVE);
        for n in 0..head.nr_pages() {
            let Some(page) = self.pages.page(Pfn(head.pfn().0 + n)) else { continue };
            if n != 0 {
                // The first takes over the reference of the entry that goes.
                head.get();
            }
            if exclusive {
                page.set(PageFlags::ANON_EXCLUSIVE);
            }
            self.add(page, Level::Single, anon);
            self.engine.page_mapped(page, vma, addr.add_pages(n));
        }
        self.page_remove_rmap(head, vma, addr, Level::Entire);
    }

    /// A mapping is gone. Returns whether it was the last of the page (of the whole compound page). The mapping word
    /// stays as a hint until the frame is freed.
    pub fn page_remove_rmap(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, level: Level) -> bool {
        let anon = page.head().mapping().load().is_anon();
        let last = match level {
            Level::Single => {
                let gone = page.remove_mapping();
                if gone.this {
                    if anon { &self.anon_mapped } else { &self.file_mapped }.sub(1);
                }
                gone.all
            }
            Level::Entire => {
                let gone = page.remove_entire_mapping();
                if anon && gone.this {
                    self.anon_large.sub(1);
                }
                gone.all
            }
        };
        match level {
            Level::Single => self.engine.page_unmapped(page, vma, addr),
            Level::Entire => self.engine.entire_unmapped(page, vma, addr),
        }
        last
    }
}
