//! mremap: a range becomes smaller, larger, or moves with its pages.
//!
//! **A move** is done by a copy of the VMA at the new place, tied to the same anchors before the first entry moves and
//! visited by walks after its source. All that can fail comes first: cuts, page tables, the copy and its ties. Then
//! what is in the way goes, entries move one by one, the source goes, and the copy joins its new neighbours, if it may.
//!
//! ```text
//!        old                             to
//!   [----|=====|------)            [-----.......-----)     cut both, tie the copy
//!   [---)[=====)[-----)            [----)[=====)[----)     the target is replaced, entries move
//!   [---)       [-----)            [----)[=====)[----)     the source lets go
//! ```
//!
//! **No walk misses a moving entry (T4):** see [`rmap::moving`](crate::rmap::moving).
//!
//! **Merges (T3).** A copy with pages that joins an untouched neighbour gives it its anchor, in one step, while it
//! still has it itself; that the source lets go later, or has before, changes nothing. With ties to other processes'
//! pages it stays alone.

use super::Machine;
use super::layout::{Cut, Finally, account, account_vm, opened, page_align, pages_of};
use super::map::check_fixed;
use super::page_table::{LockedEntries, table_end};
use super::system::SoftSystem;
use super::unmap::free_tables;
use crate::base::error::{Error, Result};
use crate::base::types::{PAGE_SHIFT, PAGE_SIZE, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::mm::address_space::MmLocked;
use crate::mm::{Mm, MmWrite, NewVma, Vma, VmaBounds};
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use crate::page::radix::LEAF_SPAN;
use crate::rmap::Rmap;
use bitflags::bitflags;

bitflags! {
    /// How mremap goes about it; the system call's bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct MremapFlags: u32 {
        /// The range may move.
        const MAYMOVE = 1;
        /// It moves to `new_addr`, in place of what is there.
        const FIXED = 1 << 1;
        /// It moves, and what it leaves behind is an empty range of the same kind.
        const DONTUNMAP = 1 << 2;
    }
}

/// A checked request, in bytes.
#[derive(Clone, Copy)]
struct Request {
    old: VirtAddr,
    old_len: u64,
    new_len: u64,
    flags: MremapFlags,
    to: Option<VirtAddr>,
}

impl Request {
    fn has(&self, flag: MremapFlags) -> bool {
        self.flags.contains(flag)
    }
    /// Pages are moved, whatever the lengths are.
    fn is_move(&self) -> bool {
        self.flags.intersects(MremapFlags::FIXED | MremapFlags::DONTUNMAP)
    }
    fn end(&self) -> VirtAddr {
        VirtAddr(self.old.0 + self.old_len)
    }
    /// What is left of the source.
    fn kept(&self) -> u64 {
        self.old_len.min(self.new_len)
    }
}

/// What moves where. `old..old + len` lies in the source, and is all of it unless the source stays.
struct Move {
    old: VirtAddr,
    to: VirtAddr,
    len: u64,
}

impl<S: SoftSystem> Machine<S> {
    /// The system call: makes the range of `old_len` bytes at `old` one of `new_len` bytes, and returns its address,
    /// which is another if it may move and has to, or is told to.
    ///
    /// `old_len` 0 maps the pages of a shared VMA a second time. With FIXED and equal lengths the range may span
    /// several VMAs, which move one after the other; an error leaves those moved that came first. What is cut off from
    /// a range that becomes smaller may span several too. Otherwise an error has changed nothing. (The kernel, asked to map
    /// pages a second time in their own place, has unmapped them when it finds them gone.)
    ///
    /// | error | when |
    /// |---|---|
    /// | [`Error::Invalid`] | addresses not on a page boundary, `new_len` 0, an overflow, contradicting flags, ranges that overlap, a private range mapped a second time |
    /// | [`Error::NotMapped`] | nothing is at `old`, or the VMA ends within what is kept of the range, or it may not grow |
    /// | [`Error::NoSpace`] | it cannot grow in place and may not move, or no gap is large enough |
    /// | [`Error::Access`] | `new_addr` lies below the lowest address allowed |
    /// | [`Error::NoMemory`] | no memory |
    pub fn mremap(
        &self,
        mm: &Mm<S>,
        old: VirtAddr,
        old_len: u64,
        new_len: u64,
        flags: MremapFlags,
        new_addr: Option<VirtAddr>,
    ) -> Result<VirtAddr> {
        let request = check(mm, old, old_len, new_len, flags, new_addr)?;
        if request.has(MremapFlags::FIXED)
            && let Some(to) = request.to
        {
            check_fixed(mm, to, request.new_len).map_err(|error| match error {
                Error::NoSpace => Error::Invalid,
                other => other,
            })?;
        }
        let locked = mm.write();
        let several = request.has(MremapFlags::FIXED)
            && request.old_len == request.new_len
            && locked.find(old).is_some_and(|vma| request.end() > vma.end());
        let done = if several { self.remap_several(&locked, request) } else { self.remap(&locked, request) };
        // New pages of a locked range are there at once.
        let grown = done.ok().filter(|_| request.new_len > request.old_len).map(|addr| {
            (VirtAddr(addr.0 + request.old_len), VirtAddr(addr.0 + request.new_len), locked.find(addr).map(Vma::flags))
        });
        drop(locked);
        self.settle();
        if let Some((from, until, Some(flags))) = grown
            && flags.contains(VmFlags::LOCKED)
            && !flags.contains(VmFlags::LOCKONFAULT)
        {
            self.populate(mm, from, until);
        }
        done
    }

    /// Moves VMA after VMA; gaps between them stay gaps.
    fn remap_several(&self, mm: &MmWrite<'_, S>, request: Request) -> Result<VirtAddr> {
        let to = request.to.ok_or(Error::Invalid)?;
        let mut at = request.old;
        // What stays is not cut: the last VMA may reach beyond the range.
        while let Some(vma) = mm.find_vma(at).filter(|vma| vma.start().max(at) < request.end()) {
            let old = vma.start().max(at);
            at = vma.end().min(request.end());
            let len = at.0 - old.0;
            let to = VirtAddr(to.0 + (old.0 - request.old.0));
            self.remap(mm, Request { old, old_len: len, new_len: len, to: Some(to), ..request })?;
        }
        Ok(to)
    }

    fn remap(&self, mm: &MmWrite<'_, S>, request: Request) -> Result<VirtAddr> {
        let Request { old, old_len, new_len, .. } = request;
        let vma = mm.find(old).ok_or(Error::NotMapped)?;
        if old_len == 0 && !vma.has(VmFlags::SHARED) {
            return Err(Error::Invalid);
        }
        if !request.is_move() && old_len >= new_len {
            if old_len > new_len {
                self.unmap_region(mm, VirtAddr(old.0 + new_len), request.end())?;
            }
            return Ok(old);
        }
        if request.has(MremapFlags::DONTUNMAP) && vma.has(VmFlags::NO_MERGE) {
            return Err(Error::Invalid);
        }
        // What a move that shrinks cuts off may lie in other VMAs, as in munmap.
        if VirtAddr(old.0 + request.kept()) > vma.end() || (new_len > old_len && vma.has(VmFlags::NO_MERGE)) {
            return Err(Error::NotMapped);
        }
        vma.bounds().pgoff_of(old).checked_add(new_len >> PAGE_SHIFT).ok_or(Error::Invalid)?;
        if !request.is_move() && old_len != 0 && request.end() == vma.end() && self.grow_in_place(mm, vma, request)? {
            return Ok(old);
        }
        if !request.has(MremapFlags::MAYMOVE) {
            return Err(Error::NoSpace);
        }
        let to = match request.to {
            Some(to) if request.has(MremapFlags::FIXED) => to,
            hint => self.unmapped_area(mm, hint, new_len)?,
        };
        self.move_vma(mm, request, to)?;
        Ok(to)
    }

    /// Lets the VMA, which ends where the range does, grow over the gap behind it; `false` if that is too small.
    fn grow_in_place(&self, mm: &MmWrite<'_, S>, vma: &Vma<S>, request: Request) -> Result<bool> {
        let end = request.old.0.checked_add(request.new_len).map(VirtAddr);
        let Some(end) = end.filter(|&end| end <= mm.data().task_size) else { return Ok(false) };
        if mm.vmas_in(vma.end(), end).next().is_some() {
            return Ok(false);
        }
        let grown = pages_of(vma.end(), end);
        self.rmap.vma_adjust(mm, vma, VmaBounds { end, ..vma.bounds() })?;
        account_vm(vma, grown as i64);
        if let Some(next) = mm.find(end) {
            self.try_merge(mm, vma, next);
        }
        Ok(true)
    }

    /// Moves the range to `to`, where something may still be.
    fn move_vma(&self, mm: &MmWrite<'_, S>, request: Request, to: VirtAddr) -> Result<()> {
        let stays = request.has(MremapFlags::DONTUNMAP) || request.old_len == 0;
        let to_end = VirtAddr(to.0 + request.new_len);
        let mut cuts = Cuts([None; 5], 0);
        let prepared = (|| {
            if !stays {
                for at in [request.old, VirtAddr(request.old.0 + request.kept()), request.end()] {
                    cuts.add(self.cut_at(mm, at)?);
                }
            }
            for at in [to, to_end] {
                cuts.add(self.cut_at(mm, at)?);
            }
            let source = mm.find(request.old).ok_or(Error::NotMapped)?;
            let step = Move { old: request.old, to, len: request.kept() };
            self.prepare_move(mm, source, &step, request.new_len).map(|copy| (source, step, copy))
        })();
        let (source, step, copy) = prepared.inspect_err(|_| {
            cuts.undo(self, mm, cuts.1);
            free_unused_tables(mm, to, to_end);
        })?;

        // The embedder is told of what goes and comes, and may panic: the copy and the figures are as the layout is.
        let mut coming = Coming { machine: self, copy: Some(copy) };
        self.detach_vmas(mm, to, to_end);
        let Some(copy) = coming.copy.take() else { return Err(Error::Invalid) };
        let copy = mm.finish_link(copy);
        {
            let _counted = Finally(|| account_vm(copy, copy.pages() as i64));
            opened(*mm.data_of(copy), copy.bounds());
            self.move_entries(source, copy, &step);
            if stays {
                self.leave_behind(mm, source, request);
            } else {
                self.remove_vma(mm, source);
                self.detach(mm, request.old, request.end());
            }
        }
        self.merge_around(mm, copy);
        Ok(())
    }

    /// Gets all that a move needs: tables, room in the index, and the copy with its ties. On failure only empty tables
    /// are left.
    fn prepare_move(&self, mm: &MmWrite<'_, S>, source: &Vma<S>, step: &Move, new_len: u64) -> Result<NewVma<S>> {
        let Move { old, to, len } = *step;
        let table = mm.table();
        let mut made = None;
        let mut allocated = Ok(());
        table.for_each(old, VirtAddr(old.0 + len), |addr, _| {
            let target = (to.0 + (addr.0 - old.0)) / LEAF_SPAN;
            if made != Some(target) && allocated.is_ok() {
                allocated = table.alloc(VirtAddr(target * LEAF_SPAN));
                made = Some(target);
            }
        });
        allocated?;
        mm.reserve(1)?;
        // What was never touched has no page whose offset it must keep, and is more likely to join its new neighbours
        // (T15).
        let fresh = source.is_anonymous() && !self.rmap.engine().is_prepared(source);
        let pgoff = if fresh { to.vpn() } else { source.bounds().pgoff_of(old) };
        let bounds = VmaBounds { start: to, end: VirtAddr(to.0 + new_len), pgoff };
        self.rmap.vma_copy_begin(mm, source, bounds)
    }

    /// The source stays, without the pages that have moved: as a second mapping of them, or (DONTUNMAP) empty, not
    /// locked, and without ties if none of its pages is left.
    fn leave_behind(&self, mm: &MmWrite<'_, S>, source: &Vma<S>, request: Request) {
        if !request.has(MremapFlags::DONTUNMAP) || request.old_len == 0 {
            return;
        }
        let flags = source.flags() - (VmFlags::LOCKED | VmFlags::LOCKONFAULT);
        if flags != source.flags() {
            account_vm(source, -(source.pages() as i64));
            let set = mm.set_flags(source, flags);
            debug_assert!(set.is_ok(), "found under mmap_lock");
            account(mm, flags, source.file().is_some(), source.pages() as i64);
        }
        if source.start() == request.old && source.end() == request.end() {
            self.rmap.engine().unlink(source);
        }
    }

    /// Moves the entries of a range from `source` to `copy`. Their tables are there.
    fn move_entries(&self, source: &Vma<S>, copy: &Vma<S>, step: &Move) {
        let Move { old, to, len } = *step;
        let (end, to_end) = (VirtAddr(old.0 + len), VirtAddr(to.0 + len));
        let ordered = Rmap::visits_in_order(source, copy);
        let table = source.mm().table();
        let mut at = old;
        let mut any = false;
        while let Some(from) = table.next_table(at, end) {
            let target = VirtAddr(to.0 + (from.0 - old.0));
            // Up to the end of the table that ends first.
            let bytes = (table_end(from, end).0 - from.0).min(table_end(target, to_end).0 - target.0);
            at = VirtAddr(from.0 + bytes);
            // Lock order: mmap_lock -> i_mmap_rwsem -> anon_vma root -> PTE locks, the lower address first.
            let _away = if ordered { None } else { Some(self.rmap.lock_for_move(source)) };
            any |= self.move_extent(source, copy, from, target, bytes);
        }
        if any {
            table.flush(old, end);
        }
    }

    /// As [`move_entries`](Self::move_entries), for a range in one table of each. Returns whether there was anything.
    fn move_extent(&self, source: &Vma<S>, copy: &Vma<S>, from: VirtAddr, to: VirtAddr, bytes: u64) -> bool {
        let table = source.mm().table();
        if from.0 / LEAF_SPAN == to.0 / LEAF_SPAN {
            let Some(mut both) = table.lock(from, false) else { return false };
            return self.move_ptes(source, copy, (&mut both, None), from, to, bytes);
        }
        let (low, high) = (from.min(to), from.max(to));
        let Some(mut first) = table.lock(low, false) else { return false };
        let Some(mut second) = table.lock(high, true) else { return false };
        let tables = if from < to { (&mut first, Some(&mut second)) } else { (&mut second, Some(&mut first)) };
        self.move_ptes(source, copy, tables, from, to, bytes)
    }

    /// `tables`: that of the source, and that of the target if it is another.
    fn move_ptes<'t>(
        &self,
        source: &Vma<S>,
        copy: &Vma<S>,
        (src, mut dst): (&mut LockedEntries<'t>, Option<&mut LockedEntries<'t>>),
        from: VirtAddr,
        to: VirtAddr,
        bytes: u64,
    ) -> bool {
        let mut any = false;
        for offset in (0..bytes).step_by(PAGE_SIZE as usize) {
            let (old, new) = (VirtAddr(from.0 + offset), VirtAddr(to.0 + offset));
            if let Pte::Present { flags, .. } = src.get(old)
                && flags.contains(PteFlags::LARGE)
                && (bytes != LEAF_SPAN || dst.is_none())
            {
                self.split_mapping(source, src, old);
            }
            any |= self.rmap.move_pte((source, old), (copy, new), src, dst.as_deref_mut());
        }
        any
    }
}

/// A copy with its ties that is not in the address space yet; dropped with it, its ties go.
struct Coming<'m, S: SoftSystem> {
    machine: &'m Machine<S>,
    copy: Option<NewVma<S>>,
}

impl<S: SoftSystem> Drop for Coming<'_, S> {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.take() {
            self.machine.rmap.vma_copy_abort(copy);
        }
    }
}

/// VMAs cut for a move, in the order in which they were cut.
struct Cuts<'a, S: SoftSystem>([Cut<'a, S>; 5], usize);

impl<'a, S: SoftSystem> Cuts<'a, S> {
    fn add(&mut self, cut: Cut<'a, S>) {
        self.0[self.1] = cut;
        self.1 += 1;
    }

    /// Takes the first `n` back, the latest first.
    fn undo(&self, machine: &Machine<S>, mm: &'a MmWrite<'_, S>, n: usize) {
        for (low, high) in self.0[..n].iter().rev().flatten() {
            machine.unsplit(mm, low, high);
        }
    }
}

/// The rules that need no look at the layout.
fn check<S: SoftSystem>(
    mm: &Mm<S>,
    old: VirtAddr,
    old_len: u64,
    new_len: u64,
    flags: MremapFlags,
    new_addr: Option<VirtAddr>,
) -> Result<Request> {
    use MremapFlags as F;
    let old_len = page_align(old_len).ok_or(Error::Invalid)?;
    let new_len = page_align(new_len).filter(|&len| len != 0).ok_or(Error::Invalid)?;
    let to = new_addr.filter(|_| flags.intersects(F::FIXED | F::DONTUNMAP));
    let end = old.0.checked_add(old_len).map(VirtAddr).ok_or(Error::Invalid)?;
    let wrong = !old.is_page_aligned()
        || (flags.intersects(F::FIXED | F::DONTUNMAP) && !flags.contains(F::MAYMOVE))
        || (flags.contains(F::FIXED) && to.is_none())
        || (flags.contains(F::DONTUNMAP) && old_len != new_len);
    if wrong {
        return Err(Error::Invalid);
    }
    if let Some(to) = to {
        let to_end = to.0.checked_add(new_len).map(VirtAddr).filter(|&end| end <= mm.data().task_size);
        // A range that is mapped a second time must not go before it is.
        let source_end = end.max(VirtAddr(old.0.saturating_add(PAGE_SIZE)));
        if !to.is_page_aligned() || to_end.is_none_or(|to_end| old < to_end && to < source_end) {
            return Err(Error::Invalid);
        }
    }
    Ok(Request { old, old_len, new_len, flags, to })
}

/// Frees the tables that were made for a move which did not happen.
fn free_unused_tables<S: SoftSystem>(mm: &MmWrite<'_, S>, start: VirtAddr, end: VirtAddr) {
    let mut at = start;
    for vma in mm.vmas_in(start, end) {
        if vma.start() > at {
            free_tables(mm, at, vma.start());
        }
        at = vma.end();
    }
    if at < end {
        free_tables(mm, at, end);
    }
}
