//! A list of VMAs under a rwsem: what an anchor is made of in the engines that keep no tree.
//!
//! **Order.** A walk visits VMAs in the order in which they were put in, whatever became of their bounds since: a
//! parent's VMA before its child's, the source of a move before its copy.

use crate::base::sync::cell::UnsafeCell;
use crate::base::sync::{RwSem, WriteGuard, rank};
use crate::base::types::{PgOff, VirtAddr};
use crate::ds::list::{Linked, List};
use crate::mm::{System, Vma};
use core::ops::ControlFlow;
use core::ptr::NonNull;

/// The rwsem of a list, held exclusively.
pub(super) type ListWrite<'a> = WriteGuard<'a, { rank::ANON_VMA }>;

/// The list, by the links that `L` names. See the [module](self).
pub(super) struct VmaList<S: System, L> {
    /// In a type-stable object constructed once, and never again.
    pub(super) lock: RwSem<{ rank::ANON_VMA }>,
    /// `lock`. So are the bounds of the VMAs in it, for walks.
    vmas: UnsafeCell<List<Vma<S>, L>>,
}

// SAFETY: `vmas` is behind `lock`; VMAs are Send and Sync.
unsafe impl<S: System, L> Send for VmaList<S, L> {}
// SAFETY: as for Send.
unsafe impl<S: System, L> Sync for VmaList<S, L> {}

impl<S: System, L> VmaList<S, L> {
    pub(super) fn new() -> Self {
        Self { lock: RwSem::new(), vmas: UnsafeCell::new(List::new()) }
    }
}

impl<S: System, L: Linked<Vma<S>>> VmaList<S, L> {
    /// Puts `vma` in; it is visited last.
    ///
    /// # Safety
    /// `lock` is held exclusively; `vma` is in no list by this link, and taken out before it is freed.
    pub(super) unsafe fn push(&self, vma: &Vma<S>) {
        // SAFETY: the caller's contract, for both.
        self.vmas.with_mut(|vmas| unsafe { (*vmas).push_back(NonNull::from(vma)) });
    }

    /// Takes `vma` out. Returns whether it was the last.
    ///
    /// # Safety
    /// `lock` is held exclusively, and `vma` is in this list.
    pub(super) unsafe fn remove(&self, vma: &Vma<S>) -> bool {
        self.vmas.with_mut(|vmas| {
            // SAFETY: the caller's contract, for both.
            let vmas = unsafe { &mut *vmas };
            // SAFETY: as above.
            unsafe { vmas.remove(NonNull::from(vma)) };
            vmas.is_empty()
        })
    }

    /// The VMAs, in the order of walks.
    ///
    /// # Safety
    /// `lock` is held for as long as the result is used.
    pub(super) unsafe fn iter(&self) -> impl Iterator<Item = &Vma<S>> {
        // SAFETY: the caller's contract.
        self.vmas.with(|vmas| unsafe { &*vmas }).iter()
    }

    /// Visits each VMA that one of the page offsets `[first, last]` lies in. Looks at all of them.
    ///
    /// # Safety
    /// `lock` is held.
    pub(super) unsafe fn walk(
        &self,
        first: PgOff,
        last: PgOff,
        mut visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // SAFETY: the caller's contract.
        for vma in unsafe { self.iter() } {
            if let Some(addr) = vma.bounds().first_of(first, last) {
                visit(vma, addr)?;
            }
        }
        ControlFlow::Continue(())
    }
}
