//! Entries move from a VMA to its copy (mremap), and no walk misses one (T4).
//!
//! An entry appears at the new place before it goes from the old one. A walk that visits the source before the copy
//! therefore finds it in one of them, and perhaps in both: it has moved meanwhile (G1). Walks do visit in this order
//! when both have the same interval of page offsets, since equal intervals are visited as they were inserted, or the
//! engine follows each entry. Otherwise the locks of the file and of the anchors keep walks away while entries move.

use super::Rmap;
use crate::base::mutant::mutant;
use crate::base::types::VirtAddr;
use crate::engine::{Engine, Kernel};
use crate::mm::file::IMmapWrite;
use crate::mm::{System, Vma};
use crate::page::pte::LockedTable;

/// The locks that keep walks away from a VMA and its copy. Dropping it lets them in.
pub struct MoveLock<'a, S: Kernel> {
    /// The engine's.
    pub anchors: Option<<<S as System>::Engine as Engine<S>>::MoveLock<'a>>,
    /// The file's `i_mmap_rwsem`, held exclusively.
    pub file: Option<IMmapWrite<'a>>,
}

impl<S: Kernel> Rmap<S> {
    /// Whether every walk visits `source` before its `copy`, so that entries may move without a lock. VMA lock held
    /// exclusively.
    pub fn visits_in_order(source: &Vma<S>, copy: &Vma<S>) -> bool {
        source.pgoff() == copy.pgoff() && source.pages() == copy.pages()
    }

    /// Keeps walks away from `source` and its copies. VMA lock held exclusively, no page lock; waits for walks.
    ///
    /// Lock order: mmap_lock -> i_mmap_rwsem -> anchor -> PTE locks.
    pub fn lock_for_move<'a>(&'a self, source: &'a Vma<S>) -> MoveLock<'a, S> {
        if mutant("move_without_lock") {
            return MoveLock { anchors: None, file: None };
        }
        let file = source.file().map(|file| file.i_mmap_write());
        MoveLock { anchors: self.engine.lock_for_move(source), file }
    }

    /// Moves the entry at `old` in `source` to `new` in `copy`, where there is none; returns whether there was one.
    /// `src` is the table of `old`, locked; `dst` that of `new`, if it is another. The caller flushes `old`.
    ///
    /// Either [`visits_in_order`](Self::visits_in_order), or [`lock_for_move`](Self::lock_for_move) is held.
    pub fn move_pte<T: LockedTable>(
        &self,
        (source, old): (&Vma<S>, VirtAddr),
        (copy, new): (&Vma<S>, VirtAddr),
        src: &mut T,
        dst: Option<&mut T>,
    ) -> bool {
        let pte = src.get(old);
        if pte.is_none() {
            return false;
        }
        if mutant("move_clear_first") {
            src.clear(old);
        }
        match dst {
            Some(dst) => dst.set(new, pte),
            None => src.set(new, pte),
        }
        if let Some(page) = pte.pfn().and_then(|pfn| self.pages.page(pfn)) {
            // Between the two: whoever finds the old place empty finds the new one.
            self.engine.page_moved(page, (source, old), (copy, new));
        }
        src.clear(old);
        true
    }
}
