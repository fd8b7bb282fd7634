//! mmap: a new range, or one in place of what was there.

use super::Machine;
use super::layout::{account, opened, page_align};
use super::stack::STACK_GUARD_GAP;
use super::system::{FileExt, SoftSystem, VmaExt};
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::Ordering;
use crate::base::types::{PAGE_SHIFT, PAGE_SIZE, VirtAddr, VmFlags};
use crate::engine::{Engine, same_file};
use crate::mm::address_space::MmLocked;
use crate::mm::{File, FileRef, Mm, MmWrite, NewVma, Vma, VmaBounds};
use bitflags::bitflags;

bitflags! {
    /// How a range is mapped.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct MapFlags: u32 {
        /// Changes are seen by every mapper. Exactly one of SHARED and PRIVATE is set.
        const SHARED = 1;
        /// Changes are the process's own.
        const PRIVATE = 1 << 1;
        /// At this address, in place of what is there.
        const FIXED = 1 << 2;
        /// At this address, if nothing is there.
        const FIXED_NOREPLACE = 1 << 3;
        /// Pages are faulted in at once.
        const POPULATE = 1 << 4;
        /// A stack.
        const GROWSDOWN = 1 << 5;
        /// As mlock.
        const LOCKED = 1 << 6;
        /// Device-like, or vdso: no pages to track.
        const SPECIAL = 1 << 7;
        /// Missing pages call the VMA's operations, from the beginning.
        const UFFD_MISSING = 1 << 8;
        /// The file is open for reading only: shared and writable is refused, and mprotect does not grant it later.
        const READ_ONLY_FILE = 1 << 9;
    }
}

/// What mmap is asked for. Use [`new`](Self::new), and change what differs.
pub struct MapRequest<S: SoftSystem> {
    /// Where; without FIXED a hint.
    pub addr: Option<VirtAddr>,
    /// Bytes, rounded up to pages.
    pub len: u64,
    /// READ, WRITE and EXEC.
    pub prot: VmFlags,
    /// How.
    pub flags: MapFlags,
    /// The file and the page of it where the range begins; `None`: anonymous memory.
    pub file: Option<(FileRef<S>, u64)>,
    /// The VMA's operations.
    pub ext: VmaExt,
}

impl<S: SoftSystem> Clone for MapRequest<S> {
    fn clone(&self) -> Self {
        Self { file: self.file.clone(), ..*self }
    }
}

impl<S: SoftSystem> MapRequest<S> {
    /// Anonymous memory anywhere.
    pub fn new(len: u64, prot: VmFlags, flags: MapFlags) -> Self {
        Self { addr: None, len, prot, flags, file: None, ext: VmaExt::default() }
    }
}

/// A new VMA as it is to be, apart from its place.
pub(super) struct Wanted<S: SoftSystem> {
    pub(super) flags: VmFlags,
    pub(super) file: Option<FileRef<S>>,
    pub(super) ext: VmaExt,
}

const MAY: VmFlags = VmFlags::MAYREAD.union(VmFlags::MAYWRITE).union(VmFlags::MAYEXEC);
const FIXED: MapFlags = MapFlags::FIXED.union(MapFlags::FIXED_NOREPLACE);

impl<S: SoftSystem> Machine<S> {
    /// The system call: maps a range and returns its address.
    ///
    /// On failure nothing has changed, with one exception: FIXED with a file, over existing VMAs, leaves the range
    /// empty if other threads use up the memory that was set aside. The kernel does so too.
    ///
    /// | error | when |
    /// |---|---|
    /// | [`Error::Invalid`] | `len` is 0 or overflows; flags contradict each other; a fixed address is not on a page boundary; the file's offsets overflow |
    /// | [`Error::NoSpace`] | no gap is large enough, or the fixed range leaves the address space |
    /// | [`Error::Access`] | a fixed range begins below the lowest address allowed; the file may not be written |
    /// | [`Error::Exists`] | NOREPLACE, and something is there |
    /// | [`Error::NoMemory`] | no memory |
    pub fn mmap(&self, mm: &Mm<S>, request: &MapRequest<S>) -> Result<VirtAddr> {
        let len = page_align(request.len).filter(|&len| len != 0).ok_or(Error::Invalid)?;
        let mut wanted = Self::wanted(request)?;
        let pages = len >> PAGE_SHIFT;
        if let Some((_, pgoff)) = request.file {
            pgoff.checked_add(pages).ok_or(Error::Invalid)?;
        } else if request.flags.contains(MapFlags::SHARED) {
            wanted.file = Some(self.new_transient(pages)?);
        }
        let transient = request.file.is_none() && wanted.file.is_some();
        let locked = mm.write();
        let mapped = self.map_wanted(&locked, request, wanted, len);
        drop(locked);
        self.settle();
        if mapped.is_err() && transient {
            // Shared memory that was made in vain is nobody's.
            self.sweep_files();
        }
        let (start, end, populate) = mapped?;
        if populate {
            self.populate(mm, start, end);
        }
        Ok(start)
    }

    /// Finds the place and maps. Returns its ends, and whether its pages are to be faulted in.
    fn map_wanted(
        &self,
        mm: &MmWrite<'_, S>,
        request: &MapRequest<S>,
        mut wanted: Wanted<S>,
        len: u64,
    ) -> Result<(VirtAddr, VirtAddr, bool)> {
        if !wanted.flags.contains(VmFlags::SPECIAL) {
            wanted.flags |= VmFlags::from_bits_retain(mm.data().def_flags.load(Ordering::Relaxed));
        }
        let start = self.place(mm, request, len)?;
        let end = VirtAddr(start.0 + len);
        let pgoff = match &request.file {
            Some((_, pgoff)) => *pgoff,
            None if wanted.file.is_some() => 0,
            // T15: the virtual page number, so that whatever is cut from it later keeps the offsets of its pages.
            None => start.vpn(),
        };
        let populate = request.flags.contains(MapFlags::POPULATE) || wanted.flags.contains(VmFlags::LOCKED);
        let populate = populate && !wanted.flags.contains(VmFlags::LOCKONFAULT);
        self.map_region(mm, VmaBounds { start, end, pgoff }, wanted)?;
        Ok((start, end, populate))
    }

    /// Shared anonymous memory that only its mappings know.
    fn new_transient(&self, pages: u64) -> Result<FileRef<S>> {
        let file = File::new(self.rmap.arena(), pages, true, FileExt { transient: true, ..FileExt::default() })?;
        self.remember_file(&file)?;
        Ok(file)
    }

    /// Flags of the VMA, after the rules of `do_mmap`.
    fn wanted(request: &MapRequest<S>) -> Result<Wanted<S>> {
        let has = |flag| request.flags.contains(flag);
        let shared = has(MapFlags::SHARED);
        let named = request.file.is_some();
        if shared == has(MapFlags::PRIVATE)
            || !VmFlags::ACCESS.contains(request.prot)
            || (has(MapFlags::GROWSDOWN) && (shared || named))
            || (request.flags.intersects(FIXED) && request.addr.is_none())
        {
            return Err(Error::Invalid);
        }
        let mut flags = request.prot | MAY;
        if has(MapFlags::READ_ONLY_FILE) && shared {
            if request.prot.contains(VmFlags::WRITE) {
                return Err(Error::Access);
            }
            flags -= VmFlags::MAYWRITE;
        }
        let pairs = [
            (MapFlags::SHARED, VmFlags::SHARED),
            (MapFlags::GROWSDOWN, VmFlags::GROWSDOWN),
            (MapFlags::LOCKED, VmFlags::LOCKED),
            (MapFlags::SPECIAL, VmFlags::SPECIAL),
            (MapFlags::UFFD_MISSING, VmFlags::UFFD_MISSING),
        ];
        for (_, flag) in pairs.into_iter().filter(|&(asked, _)| has(asked)) {
            flags |= flag;
        }
        if flags.contains(VmFlags::SPECIAL) {
            flags -= VmFlags::LOCKED;
        }
        let file = request.file.as_ref().map(|(file, _)| file.clone());
        Ok(Wanted { flags, file, ext: request.ext })
    }

    /// Where the range goes (the kernel's `get_unmapped_area`).
    fn place(&self, mm: &MmWrite<'_, S>, request: &MapRequest<S>, len: u64) -> Result<VirtAddr> {
        if let Some(addr) = request.addr.filter(|_| request.flags.intersects(FIXED)) {
            check_fixed(mm, addr, len)?;
            let noreplace = request.flags.contains(MapFlags::FIXED_NOREPLACE);
            if noreplace && mm.vmas_in(addr, VirtAddr(addr.0 + len)).next().is_some() {
                return Err(Error::Exists);
            }
            return Ok(addr);
        }
        self.unmapped_area(mm, request.addr, len)
    }

    /// A free range of `len` bytes: at the hint if it is free, else the highest below `mmap_base`, else the lowest
    /// above a third of the address space; bottom-up, the lowest from `mmap_base` on. A stack above it keeps its guard
    /// gap.
    pub(super) fn unmapped_area(&self, mm: &MmWrite<'_, S>, hint: Option<VirtAddr>, len: u64) -> Result<VirtAddr> {
        let state = mm.data();
        let (min, max) = (state.min_addr, state.task_size);
        let highest = max.0.checked_sub(len).ok_or(Error::NoSpace)?;
        if let Some(hint) = hint {
            let addr = hint.page_down().max(min);
            let end = VirtAddr(addr.0.saturating_add(len));
            let below = mm.prev_vma(VirtAddr(addr.0 + 1)).map_or(VirtAddr(0), Vma::end);
            let above = mm.next_vma(addr).map_or(max, Self::reserved_start);
            if addr.0 <= highest && below <= addr && end <= above {
                return Ok(addr);
            }
        }
        let base = VirtAddr(state.mmap_base.load(Ordering::Relaxed));
        if state.bottom_up.load(Ordering::Relaxed) {
            return lowest(mm, base.max(min), max, len);
        }
        let third = VirtAddr((max.0 / 3) & !(PAGE_SIZE - 1)).max(min);
        self.highest(mm, min, base.min(max), len).or_else(|_| lowest(mm, third, max, len))
    }

    fn highest(&self, mm: &MmWrite<'_, S>, low: VirtAddr, mut high: VirtAddr, len: u64) -> Result<VirtAddr> {
        loop {
            let at = mm.gap_below(low, high, len).ok_or(Error::NoSpace)?;
            let above = mm.next_vma(at).map_or(self.task_size, Self::reserved_start);
            if at.0 + len <= above.0 {
                return Ok(at);
            }
            high = above;
        }
    }

    /// Where a VMA begins, with the gap that a stack keeps below it.
    pub(super) fn reserved_start(vma: &Vma<S>) -> VirtAddr {
        let gap = if vma.has(VmFlags::GROWSDOWN) { STACK_GUARD_GAP } else { 0 };
        VirtAddr(vma.start().0.saturating_sub(gap))
    }

    /// Puts a VMA into `bounds`, in place of whatever is there, and joins it with its neighbours. The figures follow.
    pub(super) fn map_region(&self, mm: &MmWrite<'_, S>, bounds: VmaBounds, wanted: Wanted<S>) -> Result<()> {
        if mm.vmas_in(bounds.start, bounds.end).next().is_some() {
            return self.replace(mm, bounds, wanted);
        }
        let expanded = self.expand(mm, bounds, &wanted)?;
        let Wanted { flags, file, ext } = wanted;
        let has_file = file.is_some();
        if !expanded {
            self.rmap.vma_new(mm, bounds, flags, file, ext)?;
        }
        account(mm, flags, has_file, bounds.pages() as i64);
        if !expanded {
            opened(ext, bounds);
        }
        Ok(())
    }

    /// Memory first, then the old VMAs go, then the new one comes.
    fn replace(&self, mm: &MmWrite<'_, S>, bounds: VmaBounds, wanted: Wanted<S>) -> Result<()> {
        let Wanted { flags, file, ext } = wanted;
        let has_file = file.is_some();
        let new = NewVma::new(mm, bounds, flags, file, ext)?;
        // Two for the cuts.
        mm.reserve(3)?;
        let cuts = self.cut_edges(mm, bounds.start, bounds.end)?;
        mm.prepare_link(&new).inspect_err(|_| self.uncut(mm, cuts))?;
        self.detach(mm, bounds.start, bounds.end);
        let vma = mm.finish_link(new);
        account(mm, flags, has_file, bounds.pages() as i64);
        opened(ext, bounds);
        self.merge_around(mm, vma);
        Ok(())
    }

    /// Lets a neighbour grow over the free range, if one is as the new VMA would be; then the neighbours may join.
    ///
    /// ```text
    ///   [--- prev ---)        [--- next ---)     prev grows, and takes next in if that fits too
    ///                 [bounds)
    /// ```
    fn expand(&self, mm: &MmWrite<'_, S>, bounds: VmaBounds, wanted: &Wanted<S>) -> Result<bool> {
        if wanted.ext.ops.is_some() || wanted.flags.intersects(VmFlags::NO_MERGE) {
            return Ok(false);
        }
        let alike = |vma: &&Vma<S>| {
            vma.flags() == wanted.flags
                && same_file(vma.file(), wanted.file.as_ref())
                && mm.name_of(vma).is_none()
                && *mm.data_of(vma) == wanted.ext
                && self.rmap.engine().may_take_in_new(vma)
        };
        let prev = mm.prev_vma(bounds.start).filter(|prev| prev.end() == bounds.start).filter(alike);
        if let Some(prev) = prev.filter(|prev| prev.bounds().pgoff_of(bounds.start) == bounds.pgoff) {
            self.rmap.vma_adjust(mm, prev, VmaBounds { end: bounds.end, ..prev.bounds() })?;
            if let Some(next) = mm.find(bounds.end) {
                self.try_merge(mm, prev, next);
            }
            return Ok(true);
        }
        let next = mm.find(bounds.end).filter(alike);
        let Some(next) = next.filter(|next| bounds.pgoff.checked_add(bounds.pages()) == Some(next.pgoff())) else {
            return Ok(false);
        };
        self.rmap.vma_adjust(mm, next, VmaBounds { end: next.end(), ..bounds })?;
        Ok(true)
    }
}

fn lowest<S: SoftSystem>(mm: &MmWrite<'_, S>, mut low: VirtAddr, high: VirtAddr, len: u64) -> Result<VirtAddr> {
    loop {
        let at = mm.gap_above(low, high, len).ok_or(Error::NoSpace)?;
        match mm.next_vma(at).filter(|next| at.0 + len > Machine::reserved_start(next).0) {
            Some(stack) => low = stack.end(),
            None => return Ok(at),
        }
    }
}

/// Whether a fixed range may be mapped.
pub(super) fn check_fixed<S: SoftSystem>(mm: &Mm<S>, addr: VirtAddr, len: u64) -> Result<()> {
    let state = mm.data();
    if !addr.is_page_aligned() {
        return Err(Error::Invalid);
    }
    if state.task_size.0.checked_sub(len).is_none_or(|highest| addr.0 > highest) {
        return Err(Error::NoSpace);
    }
    if addr < state.min_addr { Err(Error::Access) } else { Ok(()) }
}
