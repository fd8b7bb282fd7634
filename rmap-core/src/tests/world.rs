//! A memory manager in small over the component: address spaces, files, faults, copy-on-write, fork, swap, mremap, of
//! one thread.

use super::exhaust::Exhaust;
use super::toy::*;
use super::trip::pass;
use crate::base::alloc::Heap;
use crate::base::error::{Error, Result};
use crate::base::types::{Pfn, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::mm::address_space::MmLocked;
use crate::mm::{FileRef, Mm, MmRef, MmWrite, System, Vma, VmaBounds};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags, SwapEntry};
use crate::rmap::Rmap;
use crate::rmap::account::Level;
use crate::rmap::unmap::{TtuFlags, UnmapHooks};
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::vec::Vec;

/// A slot of the swap store.
#[derive(Debug, Default)]
struct Slot {
    /// Page-table entries that name it.
    users: u32,
    /// The frame in the swap cache.
    cached: Option<Pfn>,
}

/// A value that is leaked when a test fails: destructors that check for leaks would panic again, and hide why.
pub(super) struct Kept<T>(ManuallyDrop<T>);

impl<T> Kept<T> {
    fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }
}
impl<T> Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.0) }
        }
    }
}

/// A memory manager in small, of one thread. See the [module](self).
pub(super) struct World<S: TestSystem> {
    pub(super) rmap: Rmap<S>,
    pub(super) heap: Heap,
    /// Address spaces; `None`: exited.
    pub(super) mms: Kept<Vec<Option<MmRef<S>>>>,
    pub(super) files: Kept<Vec<FileRef<S>>>,
    pages: u64,
    frames: u64,
    free: Vec<Pfn>,
    swap: BTreeMap<u64, Slot>,
    next_slot: u64,
    /// The most VMAs that were alive at once.
    pub(super) peak_vmas: u64,
    hoard: Hoard<S>,
}

/// What [`World::exhaust`] took.
struct Hoard<S: TestSystem> {
    vmas: Vec<NonNull<Vma<S>>>,
    anchors: u64,
    node_bytes: usize,
}

// SAFETY: the VMAs are vacant and nobody's; they are given back by one thread.
unsafe impl<S: TestSystem> Send for Hoard<S> {}
// SAFETY: as for Send.
unsafe impl<S: TestSystem> Sync for Hoard<S> {}

/// What becomes of swapped entries.
struct Dup<'a>(&'a mut Slot);

impl<S: TestSystem> UnmapHooks<S> for Dup<'_> {
    fn swap_dup(&mut self, _: u64) -> bool {
        pass("swap_dup");
        self.0.users += 1;
        true
    }
    fn unmapped(&mut self, _: &Vma<S>, _: VirtAddr, _: Pte, _: Pte) {
        pass("unmapped");
    }
}

impl<S: TestSystem> World<S> {
    /// Address spaces of `pages` pages over `frames` frames; no address space yet.
    pub(super) fn new(heap: &Heap, pages: u64, frames: u64) -> Self {
        let rmap = Rmap::new(heap).expect("memory");
        rmap.pages().add(Pfn(1), frames).expect("memory");
        Self {
            rmap,
            heap: heap.clone(),
            mms: Kept::new(Vec::new()),
            files: Kept::new(Vec::new()),
            pages,
            frames,
            free: (1..=frames).rev().map(Pfn).collect(),
            swap: BTreeMap::new(),
            next_slot: 1,
            peak_vmas: 0,
            hoard: Hoard { vmas: Vec::new(), anchors: 0, node_bytes: 0 },
        }
    }

    /// A world with one address space, over a heap that checks its callers' locks.
    pub(super) fn with_one(pages: u64, frames: u64) -> Self {
        let mut world = Self::new(&Heap::global().expect("memory"), pages, frames);
        world.spawn();
        world
    }

    /// One more address space; its number.
    pub(super) fn spawn(&mut self) -> usize {
        let mm = self.rmap.mm_new(Toy::new(self.pages), ()).expect("memory");
        self.mms.push(Some(mm));
        self.mms.len() - 1
    }
    /// One more file of `pages` pages; its number.
    pub(super) fn new_file(&mut self, pages: u64) -> usize {
        self.files.push(crate::mm::File::new(self.rmap.arena(), pages, false, ()).expect("memory"));
        self.files.len() - 1
    }
    pub(super) fn mm(&self, n: usize) -> &Mm<S> {
        self.mms[n].as_ref().expect("not exited")
    }
    pub(super) fn all_pages(&self) -> impl Iterator<Item = &Page> {
        (1..=self.frames).filter_map(|pfn| self.rmap.pages().page(Pfn(pfn)))
    }
    /// The page at page `n` of an address space.
    pub(super) fn page_at(&self, mm: usize, n: u64) -> Option<&Page> {
        self.rmap.pages().page(self.mm(mm).table().load(at(n)).pfn()?)
    }

    /// A frame of ours, with one reference.
    pub(super) fn alloc(&mut self) -> Result<Pfn> {
        let pfn = self.free.pop().ok_or(Error::NoMemory)?;
        self.page(pfn).set_refcount(1);
        Ok(pfn)
    }
    pub(super) fn page(&self, pfn: Pfn) -> &Page {
        self.rmap.pages().page(pfn).expect("a frame")
    }
    /// A reference less; the frame may be free then.
    pub(super) fn put(&mut self, pfn: Pfn) {
        if self.page(pfn).put() {
            self.release(pfn);
        }
    }
    /// A frame without references becomes free.
    fn release(&mut self, pfn: Pfn) {
        let page = self.page(pfn);
        assert!(!page.is_mapped() && page.refcount() == 0);
        page.mapping().store(Mapping::None);
        page.clear(PageFlags::all() - PageFlags::LOCKED - PageFlags::WAITERS);
        page.set_private(0);
        self.free.push(pfn);
    }

    /// A new VMA of the pages `[first, end)`; of a file from its page `offset` on.
    pub(super) fn map(
        &mut self,
        mm: usize,
        first: u64,
        end: u64,
        flags: VmFlags,
        file: Option<(usize, u64)>,
    ) -> Result<()> {
        let mut limits = bounds(first, end);
        let file = file.map(|(n, offset)| {
            limits.pgoff = offset;
            self.files[n].clone()
        });
        let mm = self.mms[mm].clone().expect("not exited");
        self.rmap.vma_new(&mm.write(), limits, flags, file, ())?;
        self.peak_vmas = self.peak_vmas.max(self.rmap.arena().live_vmas());
        Ok(())
    }

    /// A page fault at page `n`. Nothing happens outside of VMAs.
    pub(super) fn fault(&mut self, mm: usize, n: u64, write: bool) -> Result<()> {
        let (mm, addr) = (self.mms[mm].clone().expect("not exited"), at(n));
        let mm = mm.read();
        let Some(vma) = mm.find(addr) else { return Ok(()) };
        match mm.table().load(addr) {
            Pte::None => {
                let Some(file) = vma.file() else {
                    let pfn = self.alloc()?;
                    return map_new(&self.rmap, vma, addr, self.page(pfn)).inspect_err(|_| self.put(pfn));
                };
                self.fault_file(vma, file, addr)?;
                if write { self.fault_write(vma, addr) } else { Ok(()) }
            }
            Pte::Swap(entry) => {
                self.fault_swap(vma, addr, entry)?;
                if write { self.fault_write(vma, addr) } else { Ok(()) }
            }
            Pte::Present { .. } if write => self.fault_write(vma, addr),
            _ => Ok(()),
        }
    }

    fn fault_file(&mut self, vma: &Vma<S>, file: &FileRef<S>, addr: VirtAddr) -> Result<()> {
        let pgoff = vma.bounds().pgoff_of(addr);
        let cached = file.find_get_page(pgoff).map(Page::pfn);
        let pfn = if let Some(pfn) = cached {
            pfn
        } else {
            let pfn = self.alloc()?;
            let page = self.page(pfn);
            let locked = page.lock();
            let added = file.add_page(page, pgoff);
            drop(locked);
            added.inspect_err(|_| self.put(pfn))?;
            pfn
        };
        let Ok(_reserved) = self.rmap.reserve(1) else {
            self.put(pfn);
            return Err(Error::NoMemory);
        };
        let page = self.page(pfn);
        let mut table = vma.mm().table().lock(addr, false).expect("a table");
        self.rmap.page_add_file_rmap(page, vma, addr, Level::Single)?;
        table.set(addr, Pte::present(pfn, PteFlags::empty()));
        Ok(())
    }

    /// A write to what may not be written: reuse, or copy.
    fn fault_write(&mut self, vma: &Vma<S>, addr: VirtAddr) -> Result<()> {
        if vma.has(VmFlags::SHARED) {
            return Ok(());
        }
        let Some(pfn) = vma.mm().table().load(addr).pfn() else { return Ok(()) };
        let page = self.page(pfn);
        let anon = page.mapping().load().is_anon();
        if anon && (page.has(PageFlags::ANON_EXCLUSIVE) || page.refcount() == 1) {
            let _locked = page.lock();
            let mut table = vma.mm().table().lock(addr, false).expect("a table");
            if !page.has(PageFlags::ANON_EXCLUSIVE) {
                self.rmap.page_move_anon_rmap(page, vma, addr)?;
            }
            table.set(addr, Pte::present(pfn, PteFlags::WRITE | PteFlags::DIRTY));
            return Ok(());
        }
        self.rmap.engine().prepare(vma)?;
        let copy = self.alloc()?;
        if let Some(page) = unmap_one(&self.rmap, vma, addr) {
            let pfn = page.pfn();
            self.release(pfn);
        }
        map_new(&self.rmap, vma, addr, self.page(copy))
    }

    /// A swapped page comes back: from the swap cache, or a fresh one that goes there while others may want it.
    fn fault_swap(&mut self, vma: &Vma<S>, addr: VirtAddr, entry: SwapEntry) -> Result<()> {
        self.rmap.engine().prepare(vma)?;
        let cached = self.swap[&entry.slot].cached;
        let pfn = if let Some(pfn) = cached {
            self.page(pfn).get();
            pfn
        } else {
            let pfn = self.alloc()?;
            let page = self.page(pfn);
            page.get();
            page.set(PageFlags::SWAP_CACHE);
            page.set_private(entry.slot);
            self.swap.get_mut(&entry.slot).expect("a slot").cached = Some(pfn);
            pfn
        };
        {
            let page = self.page(pfn);
            let _locked = page.lock();
            let _reserved = self.rmap.reserve(1).expect("no memory runs out while pages come back");
            let mut table = vma.mm().table().lock(addr, false).expect("a table");
            self.rmap.page_add_anon_rmap(page, vma, addr, entry.exclusive, Level::Single)?;
            table.set(addr, Pte::None);
            table.set(addr, Pte::present(pfn, PteFlags::empty()));
        }
        self.swap_put(entry.slot);
        Ok(())
    }

    /// A page-table entry names the slot no more.
    fn swap_put(&mut self, slot: u64) {
        let entry = self.swap.get_mut(&slot).expect("a slot");
        entry.users -= 1;
        if entry.users == 0 {
            let cached = entry.cached;
            self.swap.remove(&slot);
            if let Some(pfn) = cached {
                self.page(pfn).clear(PageFlags::SWAP_CACHE);
                self.put(pfn);
            }
        }
    }

    /// Reclaim takes a page out of all page tables; of an anonymous page the swap entry stays. Returns whether nothing
    /// maps it any more. A panic of the embedder's functions goes through it, and its books are kept.
    pub(super) fn reclaim(&mut self, pfn: Pfn, flags: TtuFlags, keep_cached: bool) -> bool {
        let page = self.rmap.pages().page(pfn).expect("a frame");
        if !page.is_mapped() {
            return true;
        }
        page.get();
        let locked = page.lock();
        let mut slot = Slot::default();
        let anon = page.mapping().load().is_anon();
        let cached = anon && page.has(PageFlags::SWAP_CACHE);
        let number = if cached { page.private() } else { self.next_slot };
        if anon && number == self.next_slot {
            self.next_slot += 1;
            page.set_private(number);
            page.set(PageFlags::SWAP_CACHE);
            page.get();
            self.swap.insert(number, Slot { users: 0, cached: Some(pfn) });
        }
        let mut hooks = Dup(self.swap.get_mut(&number).unwrap_or(&mut slot));
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let _locked = locked;
            self.rmap.try_to_unmap(page, flags, &mut hooks)
        }));
        let unmapped = matches!(tried, Ok(true));
        if anon {
            let entry = self.swap.get_mut(&number).expect("a slot");
            if entry.users == 0 {
                self.swap.remove(&number);
            }
            if !self.swap.contains_key(&number) || unmapped && !keep_cached {
                self.swap.entry(number).and_modify(|entry| entry.cached = None);
                self.page(pfn).clear(PageFlags::SWAP_CACHE);
                self.put(pfn);
            }
        }
        self.put(pfn);
        tried.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Takes away what is mapped in `[start, end)` of a VMA.
    fn zap(&mut self, vma: &Vma<S>, start: VirtAddr, end: VirtAddr) {
        for addr in (start.vpn()..end.vpn()).map(VirtAddr::from_vpn) {
            if let Pte::Swap(entry) = vma.mm().table().load(addr) {
                vma.mm().table().lock(addr, false).expect("a table").set(addr, Pte::None);
                self.swap_put(entry.slot);
            } else if let Some(page) = unmap_one(&self.rmap, vma, addr) {
                let pfn = page.pfn();
                self.release(pfn);
            }
        }
    }

    /// Cuts VMAs so that none crosses page `first` or page `end`.
    fn isolate(&self, mm: &MmWrite<'_, S>, first: u64, end: u64) -> Result<()> {
        for edge in [at(first), at(end)] {
            if let Some(vma) = mm.mm_ref_find(edge)
                && vma.start() < edge
            {
                self.rmap.vma_split(mm, vma, edge)?;
            }
        }
        Ok(())
    }

    /// Merges a VMA with its neighbours where that is allowed; returns what it became.
    fn merge_around<'a>(&self, mm: &MmWrite<'a, S>, mut vma: &'a Vma<S>) -> Result<&'a Vma<S>> {
        let prev = mm.mm_ref_find(VirtAddr(vma.start().0 - 1));
        if let Some(prev) = prev.filter(|prev| self.rmap.can_merge(mm, prev, vma)) {
            self.rmap.vma_merge(mm, prev, vma)?;
            vma = prev;
        }
        if let Some(next) = mm.mm_ref_find(vma.end()).filter(|next| self.rmap.can_merge(mm, vma, next)) {
            self.rmap.vma_merge(mm, vma, next)?;
        }
        Ok(vma)
    }

    /// munmap of the pages `[first, end)`.
    pub(super) fn unmap(&mut self, mm: usize, first: u64, end: u64) -> Result<()> {
        let mm = self.mms[mm].clone().expect("not exited");
        let mm = mm.write();
        self.isolate(&mm, first, end)?;
        while let Some(vma) = mm.mm_ref_vma_in(at(first), at(end)) {
            self.zap(vma, vma.start(), vma.end());
            self.rmap.vma_free(&mm, vma)?;
        }
        Ok(())
    }

    /// mprotect of the pages `[first, end)`: cuts, changes flags, merges.
    pub(super) fn protect(&mut self, mm: usize, first: u64, end: u64, flags: VmFlags) -> Result<()> {
        let mm = self.mms[mm].clone().expect("not exited");
        let mm = mm.write();
        self.isolate(&mm, first, end)?;
        let mut from = at(first);
        while let Some(vma) = mm.mm_ref_vma_in(from, at(end)) {
            mm.set_flags(vma, flags | (vma.flags() & VmFlags::SHARED))?;
            from = self.merge_around(&mm, vma)?.end();
        }
        self.peak_vmas = self.peak_vmas.max(self.rmap.arena().live_vmas());
        Ok(())
    }

    /// mremap of the pages `[first, end)`, which lie in one VMA, to page `to`, which is free. `keep`: the source stays,
    /// empty (DONTUNMAP).
    pub(super) fn remap(
        &mut self,
        mm: usize,
        first: u64,
        end: u64,
        to: u64,
        merge_first: bool,
        keep: bool,
    ) -> Result<()> {
        let mm = self.mms[mm].clone().expect("not exited");
        let mm = mm.write();
        let target = (at(to), at(to + (end - first)));
        let inside = mm.find(at(first)).is_some_and(|vma| vma.end() >= at(end));
        if !inside || mm.mm_ref_vma_in(target.0, target.1).is_some() {
            return Ok(());
        }
        self.isolate(&mm, first, end)?;
        let source = mm.mm_ref_find(at(first)).expect("isolated");
        // A VMA without pages is at home where it lies (T15).
        let at_home = source.is_anonymous() && !self.rmap.engine().is_prepared(source);
        let pgoff = if at_home { target.0.vpn() } else { source.pgoff() };
        let mut copy = self.rmap.vma_copy(&mm, source, VmaBounds { start: target.0, end: target.1, pgoff })?;
        self.peak_vmas = self.peak_vmas.max(self.rmap.arena().live_vmas());
        let apart = source.end() != target.0 && source.start() != target.1;
        if merge_first && apart {
            // The neighbour may get its anchor before the source lets go (T3).
            copy = self.merge_around(&mm, copy)?;
        }
        {
            let away = (!Rmap::visits_in_order(source, copy)).then(|| self.rmap.lock_for_move(source));
            let mut table = mm.table().lock(at(first), false).expect("a table");
            for n in 0..end - first {
                self.rmap.move_pte((source, at(first + n)), (copy, at(to + n)), &mut table, None);
            }
            drop((table, away));
        }
        if keep {
            self.rmap.engine().unlink(source);
        } else {
            self.rmap.vma_free(&mm, source)?;
        }
        self.merge_around(&mm, copy)?;
        Ok(())
    }

    /// Moves the boundary between the VMA of page `n` and the one above it to page `to`, if the engine allows it.
    pub(super) fn shift(&mut self, mm: usize, n: u64, to: u64) -> Result<()> {
        let mm = self.mms[mm].clone().expect("not exited");
        let mm = mm.write();
        let Some(low) = mm.mm_ref_find(at(n)) else { return Ok(()) };
        let Some(high) = mm.mm_ref_find(low.end()) else { return Ok(()) };
        // Sharing is what may not differ between two neighbours whose boundary moves.
        if low.has(VmFlags::SHARED) != high.has(VmFlags::SHARED) {
            return Ok(());
        }
        match self.rmap.vma_shift(&mm, low, high, at(to)) {
            Err(Error::Invalid) => Ok(()),
            other => other,
        }
    }

    /// Gives the VMA of page `n` other ends; what it gives up is unmapped before.
    pub(super) fn adjust(&mut self, mm: usize, n: u64, first: u64, end: u64) -> Result<()> {
        let mm = self.mms[mm].clone().expect("not exited");
        let mm = mm.write();
        let Some(vma) = mm.mm_ref_find(at(n)) else { return Ok(()) };
        let old = vma.bounds();
        let new = VmaBounds { start: at(first), end: at(end), pgoff: old.pgoff_of(at(first)) };
        if new.pgoff > u64::MAX / 2 || first >= end {
            return Ok(());
        }
        let fits = new.start < old.end && new.end > old.start && mm.vmas_in(new.start, new.end).count() == 1;
        if fits {
            self.zap(vma, old.start, new.start.min(old.end));
            self.zap(vma, new.end.max(old.start), old.end);
        }
        match self.rmap.vma_adjust(&mm, vma, new) {
            Err(Error::Exists | Error::Invalid) if !fits => Ok(()),
            other => other,
        }
    }

    /// A child of an address space; its number. On failure there is none.
    pub(super) fn fork(&mut self, parent: usize) -> Result<usize> {
        let parent = self.mms[parent].clone().expect("not exited");
        let child = self.rmap.mm_new(Toy::new(self.pages), ())?;
        self.mms.push(Some(child.clone()));
        let number = self.mms.len() - 1;
        // Lock order: mmap_lock of the parent -> that of the child.
        let parent = parent.write();
        let written = child.write_nested();
        let done = self.fork_vmas(&written, &parent);
        drop(written);
        drop(parent);
        self.peak_vmas = self.peak_vmas.max(self.rmap.arena().live_vmas());
        if let Err(error) = done {
            self.exit(number);
            self.mms.pop();
            return Err(error);
        }
        Ok(number)
    }

    fn fork_vmas(&mut self, child: &MmWrite<'_, S>, parent: &MmWrite<'_, S>) -> Result<()> {
        self.rmap.engine().fork_begin(child, parent)?;
        let swap = &mut self.swap;
        let rmap = &self.rmap;
        let done = parent.vmas().try_for_each(|vma| {
            let copy = rmap.vma_fork(child, parent, vma)?;
            copy_entries(rmap, copy, vma, |slot| swap.get_mut(&slot).expect("a slot").users += 1)
        });
        rmap.engine().fork_end(child, parent);
        done
    }

    /// An address space goes.
    pub(super) fn exit(&mut self, mm: usize) {
        self.unmap(mm, 0, self.pages).expect("nothing is cut, so no memory is needed");
        let gone = self.mms[mm].take().expect("not exited");
        self.rmap.mm_gone(&gone);
    }

    /// Numbers of the living address spaces.
    pub(super) fn living(&self) -> Vec<usize> {
        (0..self.mms.len()).filter(|n| self.mms[*n].is_some()).collect()
    }

    /// Anchors in use.
    pub(super) fn anchors(&self) -> u64 {
        self.rmap.engine().footprint().anchors - self.hoard.anchors
    }

    /// Leaves all slabs without a free slot, so that whatever needs one has to ask the heap.
    pub(super) fn exhaust(&mut self) {
        let (anchors, nodes) =
            (|w: &Self| w.rmap.engine().footprint().anchors, |w: &Self| w.rmap.arena().nodes.live_bytes());
        let before = (anchors(self), nodes(self));
        self.rmap.arena().rcu.drain();
        self.rmap.arena().nodes.exhaust();
        self.rmap.engine().exhaust();
        let vmas = self.rmap.arena().exhaust();
        self.hoard = Hoard { vmas, anchors: anchors(self) - before.0, node_bytes: nodes(self) - before.1 };
    }

    /// Ends the world, and checks that all memory came back (G7).
    pub(super) fn end(mut self) {
        for mm in self.living() {
            self.exit(mm);
        }
        for file in core::mem::take(&mut *self.files) {
            let mut cached = Vec::new();
            file.for_each_page(|_, page| cached.push(page.pfn()));
            for pfn in cached {
                let page = self.page(pfn);
                let locked = page.lock();
                file.remove_page(page).expect("not mapped");
                drop(locked);
                self.put(pfn);
            }
        }
        assert!(self.swap.is_empty(), "slots in use: {:?}", self.swap);
        assert_eq!(self.free.len() as u64, self.frames, "frames came back");
        self.rmap.arena().rcu.drain();
        self.rmap.arena().restore(core::mem::take(&mut self.hoard.vmas));
        assert_eq!(self.rmap.engine().footprint().anchors, self.hoard.anchors, "anchors came back");
        assert_eq!(self.rmap.arena().live_vmas(), 0, "VMAs came back");
        assert_eq!(self.rmap.arena().nodes.live_bytes(), self.hoard.node_bytes, "tree nodes came back");
        assert_eq!((self.rmap.anon_mapped(), self.rmap.file_mapped()), (0, 0));
        let Self { rmap, heap, .. } = self;
        drop(rmap);
        assert_eq!(heap.in_use(), 0, "memory came back");
    }
}

/// Look-ups whose result outlives the borrow of the lock's guard, as long as the lock is held.
pub(super) trait FindFor<'a, S: System> {
    fn mm_ref_find(&self, addr: VirtAddr) -> Option<&'a Vma<S>>;
    fn mm_ref_vma_in(&self, start: VirtAddr, end: VirtAddr) -> Option<&'a Vma<S>>;
}

impl<'a, S: System> FindFor<'a, S> for MmWrite<'a, S> {
    fn mm_ref_find(&self, addr: VirtAddr) -> Option<&'a Vma<S>> {
        let vma = core::ptr::from_ref(self.find(addr)?);
        // SAFETY: a linked VMA is freed only under mmap_lock, held exclusively here, by the test itself.
        Some(unsafe { &*vma })
    }
    fn mm_ref_vma_in(&self, start: VirtAddr, end: VirtAddr) -> Option<&'a Vma<S>> {
        let vma = core::ptr::from_ref(self.vmas_in(start, end).next()?);
        // SAFETY: as above.
        Some(unsafe { &*vma })
    }
}
