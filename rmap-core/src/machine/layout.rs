//! What all changes of layout share: figures, cuts, joins, and a change of flags or names that cuts and joins as it
//! goes.
//!
//! Everything here is called with `mmap_lock` held exclusively. A VMA with operations
//! ([`VmaExt::ops`](super::system::VmaExt)) is cut like any other, and is never joined: its `close` would be called for
//! a range that stays mapped.

use super::Machine;
use super::account::{Change, account_vma};
use super::system::{SoftSystem, VmaExt};
use crate::base::error::Result;
use crate::base::sync::atomic::Ordering;
use crate::base::types::{PAGE_SHIFT, PAGE_SIZE, VirtAddr, VmFlags};
use crate::engine::{Engine, same_file};
use crate::mm::address_space::MmLocked;
use crate::mm::vma::VmaName;
use crate::mm::{Mm, MmWrite, Vma, VmaBounds};

/// `bytes` rounded up to whole pages, unless that overflows.
pub(super) fn page_align(bytes: u64) -> Option<u64> {
    Some(bytes.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1))
}

/// Pages of `[start, end)`.
pub(super) fn pages_of(start: VirtAddr, end: VirtAddr) -> u64 {
    (end.0 - start.0) >> PAGE_SHIFT
}

/// Counts `pages` pages of VMAs with these flags in (positive) or out (negative), and keeps the high-water mark. A
/// change of flags counts out before it counts in, so that the mark is never too high.
pub(super) fn account<S: SoftSystem>(mm: &Mm<S>, flags: VmFlags, has_file: bool, pages: i64) {
    let counters = &mm.data().counters;
    let change = if pages < 0 { Change::Sub } else { Change::Add };
    account_vma(counters, flags, has_file, pages.unsigned_abs(), change);
    counters.hiwater_vm.fetch_max(counters.total_vm.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// [`account`] for pages of one VMA.
pub(super) fn account_vm<S: SoftSystem>(vma: &Vma<S>, pages: i64) {
    account(vma.mm(), vma.flags(), vma.file().is_some(), pages);
}

/// Tells the VMA's operations that it has come into being.
pub(super) fn opened(ext: VmaExt, bounds: VmaBounds) {
    if let Some(ops) = ext.ops {
        ops.open(ext.private, bounds);
    }
}

/// Tells the VMA's operations that it is gone.
pub(super) fn closed(ext: VmaExt, bounds: VmaBounds) {
    if let Some(ops) = ext.ops {
        ops.close(ext.private, bounds);
    }
}

/// Does something at the end of a scope, also when the embedder panics in it.
pub(super) struct Finally<F: FnMut()>(pub(super) F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn same_name(a: Option<&VmaName>, b: Option<&VmaName>) -> bool {
    a.map(|name| &name[..]) == b.map(|name| &name[..])
}

/// The parts of a VMA that was cut, if it was.
pub(super) type Cut<'a, S> = Option<(&'a Vma<S>, &'a Vma<S>)>;

impl<S: SoftSystem> Machine<S> {
    /// Whether two neighbours could be one VMA but for their flags and names.
    fn joinable(&self, mm: &MmWrite<'_, S>, low: &Vma<S>, high: &Vma<S>) -> bool {
        low.end() == high.start()
            && high.pgoff() == low.pgoff().wrapping_add(low.pages())
            && same_file(low.file(), high.file())
            && mm.data_of(low) == mm.data_of(high)
            && mm.data_of(low).ops.is_none()
            && self.rmap.engine().may_merge(low, high)
    }

    /// Makes two neighbours one if nothing speaks against it. That is never necessary: without memory they stay two.
    pub(super) fn try_merge<'a>(&self, mm: &'a MmWrite<'_, S>, low: &'a Vma<S>, high: &'a Vma<S>) -> bool {
        mm.data_of(low).ops.is_none()
            && self.rmap.can_merge(mm, low, high)
            && self.rmap.vma_merge(mm, low, high).is_ok()
    }

    /// Joins a VMA with its neighbours where that is possible; returns the one that covers it now.
    pub(super) fn merge_around<'a>(&self, mm: &'a MmWrite<'_, S>, vma: &'a Vma<S>) -> &'a Vma<S> {
        let low = mm.prev_vma(vma.start()).filter(|prev| self.try_merge(mm, prev, vma)).unwrap_or(vma);
        if let Some(high) = mm.find(low.end()) {
            self.try_merge(mm, low, high);
        }
        low
    }

    /// Cuts a VMA at `addr`, which lies inside; returns the upper part.
    pub(super) fn split<'a>(&self, mm: &'a MmWrite<'_, S>, vma: &'a Vma<S>, addr: VirtAddr) -> Result<&'a Vma<S>> {
        let high = self.rmap.vma_split(mm, vma, addr)?;
        opened(*mm.data_of(high), high.bounds());
        Ok(high)
    }

    /// Takes a [`split`](Self::split) back. Should there be no memory for it, or should the VMA be of a kind that is
    /// never merged, its parts stay: they mean the same.
    pub(super) fn unsplit<'a>(&self, mm: &'a MmWrite<'_, S>, low: &'a Vma<S>, high: &'a Vma<S>) {
        let (ext, bounds) = (*mm.data_of(high), high.bounds());
        if self.rmap.can_merge(mm, low, high) && self.rmap.vma_merge(mm, low, high).is_ok() {
            closed(ext, bounds);
        }
    }

    /// Makes sure that no VMA reaches across `addr`.
    pub(super) fn cut_at<'a>(&self, mm: &'a MmWrite<'_, S>, addr: VirtAddr) -> Result<Cut<'a, S>> {
        match mm.find(addr).filter(|vma| vma.start() < addr) {
            Some(low) => Ok(Some((low, self.split(mm, low, addr)?))),
            None => Ok(None),
        }
    }

    /// Makes sure that no VMA reaches across either end of `[start, end)`. On failure nothing has changed;
    /// [`uncut`](Self::uncut) takes it back.
    ///
    /// ```text
    ///   [------ a ------)[--- b ---)              [- a -)[-------)[-- b --)[-)
    ///           start          end                       start            end
    /// ```
    pub(super) fn cut_edges<'a>(
        &self,
        mm: &'a MmWrite<'_, S>,
        start: VirtAddr,
        end: VirtAddr,
    ) -> Result<[Cut<'a, S>; 2]> {
        let below = self.cut_at(mm, start)?;
        match self.cut_at(mm, end) {
            Ok(above) => Ok([below, above]),
            Err(error) => {
                self.uncut(mm, [below, None]);
                Err(error)
            }
        }
    }

    /// Takes [`cut_edges`](Self::cut_edges) back.
    pub(super) fn uncut<'a>(&self, mm: &'a MmWrite<'_, S>, cuts: [Cut<'a, S>; 2]) {
        // The upper cut first: its lower part may be the upper part of the other.
        for (low, high) in cuts.into_iter().rev().flatten() {
            self.unsplit(mm, low, high);
        }
    }

    /// Before all VMAs in a range are [modified](Self::modify), one after the other: cuts the last at `end`, unless it
    /// is the first too. Whole VMAs need no memory, so that what fails for want of it is this or the first, when
    /// nothing has changed yet. Returns whether it cut: then [`rejoin_at`](Self::rejoin_at) ends the change, whatever
    /// became of it.
    ///
    /// ```text
    ///   [------ a ------)[--- b ---)[------ c ------)      [------ a ------)[--- b ---)[- c -)[---)
    ///           start                        end                   start                      end
    /// ```
    pub(super) fn cut_last(&self, mm: &MmWrite<'_, S>, start: VirtAddr, end: VirtAddr) -> Result<bool> {
        match mm.find(end).filter(|vma| start < vma.start() && vma.start() < end) {
            Some(last) => self.split(mm, last, end).map(|_| true),
            None => Ok(false),
        }
    }

    /// Takes the cut of [`cut_last`](Self::cut_last) back if both parts are still alike.
    pub(super) fn rejoin_at(&self, mm: &MmWrite<'_, S>, end: VirtAddr) {
        if let (Some(low), Some(high)) = (mm.prev_vma(end), mm.find(end)) {
            self.unsplit(mm, low, high);
        }
    }

    /// Gives the part `[start, end)` of a VMA other flags and another name: joins it with neighbours that have them,
    /// moves a boundary, or cuts (the kernel's `vma_modify`). On failure nothing has changed.
    ///
    /// ```text
    ///   [- prev, new -)[---- vma ----)         the boundary moves:  [---- prev, new ----)[ vma )
    ///                  start     end
    ///   [-------- vma --------)                it is cut:           [ vma )[-- new --)[--------)
    ///          start     end
    /// ```
    pub(super) fn modify(
        &self,
        mm: &MmWrite<'_, S>,
        vma: &Vma<S>,
        (start, end): (VirtAddr, VirtAddr),
        flags: VmFlags,
        name: Option<&VmaName>,
    ) -> Result<()> {
        let old = vma.flags();
        if old == flags && same_name(mm.name_of(vma), name) {
            return Ok(());
        }
        let has_file = vma.file().is_some();
        let alike = |other: &&Vma<S>| {
            other.flags() == flags && !flags.intersects(VmFlags::NO_MERGE) && same_name(mm.name_of(other), name)
        };
        let (at_start, at_end) = (start == vma.start(), end == vma.end());
        let prev = if at_start { mm.prev_vma(start).filter(alike) } else { None };
        let next = if at_end { mm.find(end).filter(alike) } else { None };
        let prev = prev.filter(|prev| self.joinable(mm, prev, vma));
        let next = next.filter(|next| self.joinable(mm, vma, next));
        match (prev, next) {
            _ if at_start && at_end => {
                mm.set_name(vma, name.cloned())?;
                mm.set_flags(vma, flags)?;
                self.merge_around(mm, vma);
            }
            (Some(prev), _) => self.rmap.vma_shift(mm, prev, vma, end)?,
            (_, Some(next)) => self.rmap.vma_shift(mm, vma, next, start)?,
            (None, None) => {
                let middle = if at_start { vma } else { self.split(mm, vma, start)? };
                if end < middle.end() {
                    self.split(mm, middle, end).inspect_err(|_| {
                        if !at_start {
                            self.unsplit(mm, vma, middle);
                        }
                    })?;
                }
                mm.set_name(middle, name.cloned())?;
                mm.set_flags(middle, flags)?;
            }
        }
        if old != flags {
            let pages = pages_of(start, end) as i64;
            account(mm, old, has_file, -pages);
            account(mm, flags, has_file, pages);
        }
        Ok(())
    }
}
