//! VMAs are made, split, merged, adjusted, copied, forked and freed: in the address space, its file and the engine, as
//! one step for walks.
//!
//! Every change of bounds goes one way (`Rmap::relayout`): memory first, then `i_mmap_rwsem`, then the anon_vma root,
//! then new ties before old ones go. So an error leaves everything as it was (G4), and a walk that runs beside it
//! visits each mapping once (G1).

use super::Rmap;
use crate::base::error::{Error, Result};
use crate::base::types::{VirtAddr, VmFlags};
use crate::ds::interval_tree::{NeedNodes, Place};
use crate::engine::{Engine, Kernel, Relayout, same_file};
use crate::mm::address_space::MmLocked;
use crate::mm::file::IMmapWrite;
use crate::mm::{FileRef, MmWrite, NewVma, Vma, VmaBounds, VmaKey};
use core::ptr::NonNull;

impl<S: Kernel> Rmap<S> {
    /// A new VMA in the address space. [`Error::Exists`]: the range is not free.
    pub fn vma_new<'a>(
        &self,
        mm: &MmWrite<'a, S>,
        bounds: VmaBounds,
        flags: VmFlags,
        file: Option<FileRef<S>>,
        data: S::VmaData,
    ) -> Result<&'a Vma<S>> {
        mm.link(NewVma::new(mm, bounds, flags, file, data)?)
    }

    /// Takes a VMA out of everything and frees it after a grace period. Nothing is mapped in it, and its page tables
    /// are freed only after this.
    pub fn vma_free<'a>(&self, mm: &MmWrite<'a, S>, vma: &'a Vma<S>) -> Result<()> {
        mm.check_own(vma)?;
        self.engine.unlink(vma);
        mm.unlink_and_free(vma);
        Ok(())
    }

    /// Cuts a VMA at `addr`; it keeps the part below. Returns the part from `addr`.
    ///
    /// ```text
    ///   [---------- vma ----------)          [---- vma ----)[-- new --)
    ///   start       addr        end          start       addr       end
    /// ```
    pub fn vma_split<'a>(&self, mm: &MmWrite<'a, S>, vma: &'a Vma<S>, addr: VirtAddr) -> Result<&'a Vma<S>> {
        mm.check_own(vma)?;
        if addr <= vma.start() || addr >= vma.end() {
            return Err(Error::Invalid);
        }
        let (low, high) = vma.bounds().cut(addr);
        // No VMA begins inside a page.
        let new = NewVma::copy(mm.mm(), vma, high)?;
        mm.reserve(1)?;
        self.relayout(mm, &Relayout { vma: (vma, low), insert: Some(&new), remove: None, shift: None })?;
        Ok(mm.adopt(new))
    }

    /// Whether `high`, which begins where `low` ends, may become part of it.
    pub fn can_merge(&self, mm: &MmWrite<'_, S>, low: &Vma<S>, high: &Vma<S>) -> bool {
        low.end() == high.start()
            && high.pgoff() == low.pgoff().wrapping_add(low.pages())
            && low.flags() == high.flags()
            && !low.has(VmFlags::NO_MERGE)
            && same_file(low.file(), high.file())
            && mm.data_of(low) == mm.data_of(high)
            && mm.name_of(low).map(|n| &n[..]) == mm.name_of(high).map(|n| &n[..])
            && self.engine.may_merge(low, high)
    }

    /// Makes `high` part of `low`. [`Error::Invalid`]: [`can_merge`](Self::can_merge) says no.
    pub fn vma_merge<'a>(&self, mm: &MmWrite<'a, S>, low: &'a Vma<S>, high: &'a Vma<S>) -> Result<()> {
        mm.check_own(low)?;
        mm.check_own(high)?;
        if !self.can_merge(mm, low, high) {
            return Err(Error::Invalid);
        }
        let bounds = VmaBounds { end: high.end(), ..low.bounds() };
        self.relayout(mm, &Relayout { vma: (low, bounds), insert: None, remove: Some(high), shift: None })?;
        mm.unlink_and_free(high);
        Ok(())
    }

    /// Changes the bounds of a VMA at either end: an address that it keeps keeps its page offset. Nothing is mapped in
    /// what it gives up.
    ///
    /// [`Error::Invalid`]: the offsets do not fit; [`Error::Exists`]: the new range overlaps another VMA.
    pub fn vma_adjust<'a>(&self, mm: &MmWrite<'a, S>, vma: &'a Vma<S>, bounds: VmaBounds) -> Result<()> {
        mm.check_own(vma)?;
        check_bounds(mm, vma, bounds)?;
        self.relayout(mm, &Relayout { vma: (vma, bounds), insert: None, remove: None, shift: None })
    }

    /// Moves the boundary between two adjacent VMAs to `boundary`, which lies inside the one that gives. `low` and
    /// `high` may be merged but for their flags.
    ///
    /// ```text
    ///   [---- low ----)[---- high ----)   boundary inside high:   [------- low -------)[- high -)
    /// ```
    pub fn vma_shift<'a>(
        &self,
        mm: &MmWrite<'a, S>,
        low: &'a Vma<S>,
        high: &'a Vma<S>,
        boundary: VirtAddr,
    ) -> Result<()> {
        mm.check_own(low)?;
        mm.check_own(high)?;
        let fits = low.end() == high.start()
            && high.pgoff() == low.pgoff().wrapping_add(low.pages())
            && same_file(low.file(), high.file())
            && self.engine.may_merge(low, high);
        if !fits || !boundary.is_page_aligned() || boundary <= low.start() || boundary >= high.end() {
            return Err(Error::Invalid);
        }
        let below = VmaBounds { end: boundary, ..low.bounds() };
        let above = VmaBounds { start: boundary, end: high.end(), pgoff: low.bounds().pgoff_of(boundary) };
        // The one that grows is the one that may have to inherit an anchor.
        let (vma, shift) =
            if boundary > low.end() { ((low, below), (high, above)) } else { ((high, above), (low, below)) };
        self.relayout(mm, &Relayout { vma, insert: None, remove: None, shift: Some(shift) })
    }

    /// A copy of `source` at other addresses of the same address space, for entries that are about to move there
    /// (mremap): the same pages' offsets, tied to the same anchors, visited after `source` if the intervals are equal;
    /// else [`lock_for_move`](Self::lock_for_move) keeps walks away while entries [move](super::moving) (T4).
    pub fn vma_copy<'a>(&self, mm: &MmWrite<'a, S>, source: &Vma<S>, bounds: VmaBounds) -> Result<&'a Vma<S>> {
        let copy = self.vma_copy_begin(mm, source, bounds)?;
        let copy = self.keep_if(mm.check_free(&copy), copy)?;
        Ok(mm.finish_link(copy))
    }

    /// All of [`vma_copy`](Self::vma_copy) that can fail: the copy has its ties, and is not in the address space yet,
    /// where something else may still be in its place. It is to be given to [`MmWrite::finish_link`] or
    /// [`vma_copy_abort`](Self::vma_copy_abort) under the same hold of `mmap_lock`.
    pub fn vma_copy_begin(&self, mm: &MmWrite<'_, S>, source: &Vma<S>, bounds: VmaBounds) -> Result<NewVma<S>> {
        mm.check_own(source)?;
        let new = NewVma::copy(mm.mm(), source, bounds)?;
        self.engine.copy(&new, source)?;
        self.keep_if(mm.prepare_link(&new), new)
    }

    /// Takes it back.
    #[allow(clippy::needless_pass_by_value, reason = "the copy ends here")]
    pub fn vma_copy_abort(&self, copy: NewVma<S>) {
        self.engine.unlink(&copy);
        drop(copy);
    }

    /// The copy of `parent` in a forked address space: same bounds, flags (without those that fork drops) and file;
    /// tied to all of the parent's anchors and to one of its own, unless it is wiped.
    pub fn vma_fork<'a>(&self, child: &MmWrite<'a, S>, parent: &MmWrite<'_, S>, vma: &Vma<S>) -> Result<&'a Vma<S>> {
        parent.check_own(vma)?;
        let new = NewVma::copy(child.mm(), vma, vma.bounds())?;
        new.set_flags(vma.flags() - (VmFlags::LOCKED | VmFlags::LOCKONFAULT | VmFlags::UFFD_MISSING));
        if !vma.has(VmFlags::WIPEONFORK) {
            self.engine.fork(&new, vma)?;
        }
        let copy = self.keep_if(child.prepare_link(&new), new)?;
        let copy = self.keep_if(child.check_free(&copy), copy)?;
        Ok(child.finish_link(copy))
    }

    /// A VMA whose engine data are in place, if a step of linking it was done; or they are taken away again.
    fn keep_if(&self, done: Result<()>, new: NewVma<S>) -> Result<NewVma<S>> {
        match done {
            Ok(()) => Ok(new),
            Err(error) => {
                self.vma_copy_abort(new);
                Err(error)
            }
        }
    }

    /// One change of layout. Room in the index was reserved, and VMAs are this address space's.
    fn relayout(&self, mm: &MmWrite<'_, S>, change: &Relayout<'_, S>) -> Result<()> {
        let mut plan = self.engine.plan_relayout(change)?;
        let mut ties = FileTies::new(change);
        let mut room = 1;
        loop {
            // Lock order: mmap_lock -> i_mmap_rwsem -> anon_vma root (in commit_relayout).
            let held = change.vma.0.file().map(|file| (file, file.i_mmap_write()));
            let done = ties.tie_new(held.as_ref()).and_then(|()| {
                let mut apply = || {
                    ties.untie_old(held.as_ref());
                    apply_bounds(mm, change);
                };
                let done = self.engine.commit_relayout(&mut plan, &mut apply);
                done.inspect_err(|_| ties.undo(held.as_ref(), ties.0.len()))
            });
            drop(held);
            match done {
                Ok(()) => return Ok(()),
                Err(NeedNodes) => self.arena.nodes.refill(room)?,
            }
            room *= 2;
        }
    }
}

/// Whether a VMA may get these bounds: the offsets fit, and nobody is in the way.
fn check_bounds<S: Kernel>(mm: &MmWrite<'_, S>, vma: &Vma<S>, bounds: VmaBounds) -> Result<()> {
    let old = vma.bounds();
    let VmaBounds { start, end, pgoff } = bounds;
    let fits = start.is_page_aligned()
        && end.is_page_aligned()
        && start < end
        && pgoff == old.pgoff_of(start)
        && pgoff.checked_add(bounds.pages()).is_some()
        && start < old.end
        && end > old.start;
    if !fits {
        return Err(Error::Invalid);
    }
    if mm.vmas_in(start, end).any(|v| !core::ptr::eq(v, vma)) { Err(Error::Exists) } else { Ok(()) }
}

/// New bounds, in the VMAs and in the index of regions: what goes or shrinks before what grows or comes.
fn apply_bounds<S: Kernel>(mm: &MmWrite<'_, S>, change: &Relayout<'_, S>) {
    mm.change_regions(|| {
        if let Some(gone) = change.remove {
            mm.unlink_region(gone);
        }
        if let Some((other, bounds)) = change.shift {
            mm.rekey(other, bounds);
        }
        mm.rekey(change.vma.0, change.vma.1);
        if let Some(new) = change.insert {
            mm.link_region(new);
        }
    });
}

/// What a relayout does to one VMA in the file's `i_mmap`, which its lock makes one step.
struct FileTie<'a, S: Kernel> {
    vma: &'a Vma<S>,
    /// What it will be known by; `None`: it disappears.
    key: Option<NonNull<VmaKey<S>>>,
    /// Whether it is in now.
    was: bool,
    /// Where the new key is.
    place: Place,
}

struct FileTies<'a, S: Kernel>([Option<FileTie<'a, S>>; 4]);

impl<'a, S: Kernel> FileTies<'a, S> {
    fn new(change: &Relayout<'a, S>) -> Self {
        let tie = |vma, key, was| FileTie { vma, key, was, place: Place::default() };
        let moved = |(vma, bounds): (&'a Vma<S>, VmaBounds)| tie(vma, Some(vma.next_key(bounds)), true);
        Self([
            Some(moved(change.vma)),
            change.insert.map(|vma| tie(vma, Some(vma.current_key()), false)),
            change.remove.map(|vma| tie(vma, None, true)),
            change.shift.map(moved),
        ])
    }

    /// Makes all new ties, or none.
    fn tie_new(&mut self, held: Held<'_, '_, S>) -> Result<(), NeedNodes> {
        let Some((file, lock)) = held else { return Ok(()) };
        for n in 0..self.0.len() {
            let Some(FileTie { key: Some(key), place, .. }) = &mut self.0[n] else { continue };
            match file.insert_key(lock, *key) {
                Ok(placed) => *place = placed,
                Err(NeedNodes) => {
                    self.undo(held, n);
                    return Err(NeedNodes);
                }
            }
        }
        Ok(())
    }

    /// Undoes the first `n` new ties.
    fn undo(&self, held: Held<'_, '_, S>, n: usize) {
        let Some((file, lock)) = held else { return };
        for tie in self.0[..n].iter().flatten() {
            if let Some(key) = tie.key {
                file.remove_key(lock, key, tie.place);
            }
        }
    }

    /// Undoes the ties that were; the old keys are still current.
    fn untie_old(&self, held: Held<'_, '_, S>) {
        let Some((file, lock)) = held else { return };
        for tie in self.0.iter().flatten() {
            file.retie(lock, tie.vma, tie.was, tie.key.map(|_| tie.place));
        }
    }
}

/// The file whose `i_mmap_rwsem` is held exclusively, if the VMAs map one.
type Held<'h, 'a, S> = Option<&'h (&'a FileRef<S>, IMmapWrite<'a>)>;
