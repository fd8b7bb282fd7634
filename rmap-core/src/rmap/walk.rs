//! `rmap_walk`: every candidate of a page, and `page_vma_mapped_walk`: from candidates to mappings.
//!
//! A walk holds the page lock and the anchor's lock shared, and calls its visitor for each VMA that may map the page,
//! parents before children or so that it does not matter (G1), or for each entry that does, if the engine knows them; a
//! VMA stays alive and in place while the visitor runs (G2). A visitor must not start another walk of the same family:
//! the anchor's lock is not recursive.

use super::Rmap;
use crate::base::mutant::mutant;
use crate::base::types::VirtAddr;
use crate::engine::{Engine, Kernel, Kind, Lookup, Wait, kind_of};
use crate::mm::Vma;
use crate::page::Page;
use crate::page::pte::{LockedTable, PageTable, Pte};
use core::ops::ControlFlow;

/// The anchor's lock, as a walk holds it.
pub type AnchorOf<'a, S> = <<S as crate::mm::System>::Engine as Engine<S>>::Anchor<'a>;

/// Takes the anchor's lock of an anonymous page.
pub type AnonLock<'c, S> = dyn for<'a> Fn(&'a Rmap<S>, &Page) -> Lookup<AnchorOf<'a, S>> + 'c;

/// Whether to pass over a VMA.
pub type InvalidVma<'c, S> = dyn Fn(&Vma<S>) -> bool + 'c;

/// How a walk goes: the kernel's `rmap_walk_control`. Only `rmap_one` is needed.
pub struct WalkControl<'c, S: Kernel, F> {
    /// Called for each candidate: the VMA, and the address of the page in it (of a compound page: of its first page
    /// that lies in the VMA, or of each that is mapped there if the engine [finds entries](Engine::finds_entries)).
    /// `Break` ends the walk.
    pub rmap_one: F,
    /// Asked after each candidate: whether the walk has done what it was for.
    pub done: Option<&'c dyn Fn(&Page) -> bool>,
    /// Asked before each candidate: whether to pass over the VMA.
    pub invalid_vma: Option<&'c InvalidVma<'c, S>>,
    /// Takes the anchor's lock of an anonymous page instead of the engine's look-up.
    pub anon_lock: Option<&'c AnonLock<'c, S>>,
    /// Does not wait for the anchor's lock.
    pub try_lock: bool,
    /// Called between candidates, under the anchor's lock: a point to give way. It may not wait for a walk or a change
    /// of layout.
    pub resched: Option<&'c dyn Fn()>,
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkEnd {
    /// Every candidate was visited.
    Complete,
    /// `rmap_one` or `done` ended it.
    Stopped,
    /// The page is not mapped, or belongs to nobody.
    Unmapped,
    /// `try_lock`, and the lock was not free: nobody was visited.
    Contended,
}

impl<S: Kernel, F: FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>> WalkControl<'_, S, F> {
    /// A walk that visits all candidates.
    pub fn new(rmap_one: F) -> Self {
        Self { rmap_one, done: None, invalid_vma: None, anon_lock: None, try_lock: false, resched: None }
    }

    #[inline]
    fn one(&mut self, page: &Page, vma: &Vma<S>, addr: VirtAddr) -> ControlFlow<()> {
        if let Some(resched) = self.resched {
            resched();
        }
        if self.invalid_vma.is_some_and(|invalid| invalid(vma)) {
            return ControlFlow::Continue(());
        }
        (self.rmap_one)(vma, addr)?;
        if self.done.is_some_and(|done| done(page)) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl<S: Kernel> Rmap<S> {
    /// Visits every candidate of a page (of all pages of a compound page). The page lock is held; no anchor's lock is.
    pub fn rmap_walk<F>(&self, page: &Page, control: &mut WalkControl<'_, S, F>) -> WalkEnd
    where
        F: FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    {
        let page = page.head();
        debug_assert!(page.is_locked(), "a walk holds the page lock");
        let (first, last) = pgoffs(page);
        let flow = match kind_of::<S>(page) {
            Kind::None => return WalkEnd::Unmapped,
            Kind::File(file) if !self.engine.finds_entries() => {
                let held = if control.try_lock { file.try_i_mmap_read() } else { Some(file.i_mmap_read()) };
                let Some(held) = held else { return WalkEnd::Contended };
                file.for_each_vma(&held, first, last, |vma, addr| control.one(page, vma, addr))
            }
            kind => {
                let wait = if control.try_lock { Wait::Try } else { Wait::Block };
                let found = match control.anon_lock {
                    Some(lock) if matches!(kind, Kind::Anon) => lock(self, page).map(|anchor| {
                        self.engine.walk_anchor(&anchor, first, last, |vma, addr| control.one(page, vma, addr))
                    }),
                    _ => self.engine.walk_page(page, wait, first, last, |vma, addr| control.one(page, vma, addr)),
                };
                match found {
                    Lookup::Unmapped => return WalkEnd::Unmapped,
                    Lookup::Contended => return WalkEnd::Contended,
                    Lookup::Found(flow) => flow,
                }
            }
        };
        if flow.is_break() { WalkEnd::Stopped } else { WalkEnd::Complete }
    }

    /// As [`rmap_walk`](Self::rmap_walk), for a caller that has locked the anchor of an anonymous page already. The
    /// page lock is held.
    pub fn rmap_walk_locked<F>(
        &self,
        page: &Page,
        anchor: &AnchorOf<'_, S>,
        control: &mut WalkControl<'_, S, F>,
    ) -> WalkEnd
    where
        F: FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    {
        let page = page.head();
        debug_assert!(page.is_locked(), "a walk holds the page lock");
        let (first, last) = pgoffs(page);
        let flow = self.engine.walk_anchor(anchor, first, last, |vma, addr| control.one(page, vma, addr));
        if flow.is_break() { WalkEnd::Stopped } else { WalkEnd::Complete }
    }

    /// Calls `mapping` for every page-table entry that maps the page (any page of a compound page), with its table
    /// locked. The page lock is held.
    pub fn for_each_mapping(
        &self,
        page: &Page,
        mut mapping: impl FnMut(&Vma<S>, VirtAddr, Pte) -> ControlFlow<()>,
    ) -> WalkEnd {
        let rmap_one = |vma: &Vma<S>, addr: VirtAddr| {
            self.page_vma_mapped_walk(page, vma, addr, Sync::No, |addr, table| mapping(vma, addr, table.get(addr)))
        };
        self.rmap_walk(page, &mut WalkControl::new(rmap_one))
    }

    /// From a candidate to mappings: calls `mapped` for every entry of `vma` from `addr` on that maps `page` (any page
    /// of its compound page), with its table locked. A large entry is shown once, at its first address in the VMA.
    /// Where the engine [finds entries](Engine::finds_entries), the candidate is for the entry at `addr` alone.
    ///
    /// Lock order: anchor -> PTE lock.
    pub fn page_vma_mapped_walk(
        &self,
        page: &Page,
        vma: &Vma<S>,
        addr: VirtAddr,
        sync: Sync,
        mut mapped: impl FnMut(VirtAddr, &mut <S::Table as PageTable>::Locked<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let head = page.head();
        let table = vma.mm().table();
        let bounds = vma.bounds();
        let first = bounds.pgoff_of(addr);
        let last = if self.engine.finds_entries() {
            first
        } else {
            (head.index() + head.nr_pages() - 1).min(bounds.last_pgoff())
        };
        let mut pgoff = first;
        while pgoff <= last {
            let at = bounds.start.add_pages(pgoff - bounds.pgoff);
            pgoff += 1;
            if (sync == Sync::No || mutant("walk_never_waits")) && !maps(table.load(at), head) {
                continue;
            }
            let Some(mut locked) = table.lock(at, false) else { continue };
            let pte = locked.get(at);
            if !maps(pte, head) || vma.is_coming() {
                continue;
            }
            mapped(at, &mut locked)?;
            if let Pte::Present { flags, .. } = pte
                && flags.contains(crate::page::pte::PteFlags::LARGE)
            {
                pgoff = last + 1;
            }
        }
        ControlFlow::Continue(())
    }
}

/// The page offsets of a page, first and last.
#[inline]
fn pgoffs(head: &Page) -> (u64, u64) {
    let first = head.index();
    (first, first + head.nr_pages() - 1)
}

/// Whether to trust an entry read without its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// An entry that does not look like the page's is passed over without taking the PTE lock.
    No,
    /// The PTE lock is taken for each: whoever has cleared the entry and holds the lock has not yet dropped the count,
    /// and is waited for (T5).
    Yes,
}

/// Whether an entry maps one of the pages of `head`'s compound page.
fn maps(pte: Pte, head: &Page) -> bool {
    pte.pfn().is_some_and(|pfn| pfn.0.wrapping_sub(head.pfn().0) < head.nr_pages())
}
