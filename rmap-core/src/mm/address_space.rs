//! One address space (the kernel's `mm_struct`): regions in order of address, and the lock over them.
//!
//! `mmap_lock` is held shared by faults and exclusively by changes of layout; [`MmRead`] and [`MmWrite`] stand for it.
//! Reverse walks hold neither: they find VMAs through anchors, or by address without a lock ([`Mm::find_racy`]).
//!
//! `mm_users` counts those who run in it; at 0 its regions are torn down. `mm_count` counts those who look at it (the
//! [`MmRef`]s); at 0 it is freed.

use super::arena::Arena;
use super::vma::{self, COMING, LINKED_MM, NewVma, Vma, VmaBounds, VmaName};
use super::{EngineData, System};
use crate::base::error::{Error, Result};
use crate::base::href::Href;
use crate::base::rcu::RcuGuard;
use crate::base::sync::atomic::{AtomicU32, Ordering};
use crate::base::sync::{ReadGuard, RwSem, SpinLock, WriteGuard, rank};
use crate::base::types::{VirtAddr, VmFlags};
use crate::ds::region_index::RegionIndex;
use core::ops::Deref;
use core::ptr::NonNull;

/// A counted reference to an address space: `mm_count`.
pub type MmRef<S> = Href<Mm<S>>;

/// An address space. See the [module](self).
pub struct Mm<S: System> {
    arena: Href<Arena<S>>,
    id: u64,
    mmap_lock: RwSem<{ rank::MMAP_LOCK }>,
    /// `mm_users`. AcqRel: the last user tears down what all others did.
    users: AtomicU32,
    /// Regions by address. Writers: mmap_lock (write); readers: mmap_lock, or a read section of the arena's `rcu`.
    regions: RegionIndex<Vma<S>>,
    /// Guards what faults of several threads make together and no finer lock guards.
    page_table_lock: SpinLock<{ rank::PAGE_TABLE }>,
    engine: <S::Engine as EngineData>::Mm,
    table: S::Table,
    data: S::MmData,
}

impl<S: System> Mm<S> {
    /// An empty address space with one user.
    pub fn new(
        arena: &Href<Arena<S>>,
        engine: <S::Engine as EngineData>::Mm,
        table: S::Table,
        data: S::MmData,
    ) -> Result<MmRef<S>> {
        let mm = Self {
            arena: arena.clone(),
            id: arena.next_id(),
            mmap_lock: RwSem::new(),
            users: AtomicU32::new(1),
            regions: RegionIndex::new(&arena.heap),
            page_table_lock: SpinLock::new(),
            engine,
            table,
            data,
        };
        Href::new(&arena.heap, mm)
    }

    /// A number that no other address space or file of the context has.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// The context's memory.
    pub fn arena(&self) -> &Href<Arena<S>> {
        &self.arena
    }
    /// The page tables.
    #[inline]
    pub fn table(&self) -> &S::Table {
        &self.table
    }
    /// The engine's data.
    #[inline]
    pub fn engine(&self) -> &<S::Engine as EngineData>::Mm {
        &self.engine
    }
    /// The embedder's data.
    #[inline]
    pub fn data(&self) -> &S::MmData {
        &self.data
    }
    /// Guards what faults of several threads make together.
    pub fn page_table_lock(&self) -> &SpinLock<{ rank::PAGE_TABLE }> {
        &self.page_table_lock
    }
    /// The lock itself, for callers that hold it across a C boundary or watch contention.
    pub fn mmap_lock(&self) -> &RwSem<{ rank::MMAP_LOCK }> {
        &self.mmap_lock
    }

    /// Takes mmap_lock shared. Lock order: before everything else.
    pub fn read(&self) -> MmRead<'_, S> {
        MmRead { mm: self, _guard: Some(self.mmap_lock.read()) }
    }
    /// Takes mmap_lock shared if nobody holds or awaits it exclusively.
    pub fn try_read(&self) -> Option<MmRead<'_, S>> {
        Some(MmRead { mm: self, _guard: Some(self.mmap_lock.try_read()?) })
    }
    /// Takes mmap_lock exclusively.
    pub fn write(&self) -> MmWrite<'_, S> {
        MmWrite { mm: self, guard: Some(self.mmap_lock.write()) }
    }
    /// The second mmap_lock of two: the child's, in fork.
    pub fn write_nested(&self) -> MmWrite<'_, S> {
        MmWrite { mm: self, guard: Some(self.mmap_lock.write_nested()) }
    }
    /// Stands for an mmap_lock that is held exclusively by other means.
    ///
    /// # Safety
    /// This thread holds mmap_lock exclusively for as long as the result lives.
    pub unsafe fn assume_write(&self) -> MmWrite<'_, S> {
        debug_assert!(self.mmap_lock.is_write_locked());
        MmWrite { mm: self, guard: None }
    }
    /// Stands for an mmap_lock that is held by other means.
    ///
    /// # Safety
    /// This thread holds mmap_lock, shared or exclusively, for as long as the result lives.
    pub unsafe fn assume_read(&self) -> MmRead<'_, S> {
        debug_assert!(self.mmap_lock.is_locked());
        MmRead { mm: self, _guard: None }
    }

    /// One more user, unless the address space is being torn down already (`mmget_not_zero`).
    pub fn try_get_user(&self) -> bool {
        self.users.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n != 0).then_some(n + 1)).is_ok()
    }
    /// One user less (`mmput`). Returns whether it was the last: the caller then tears the regions down.
    #[must_use]
    pub fn put_user(&self) -> bool {
        let before = self.users.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before != 0);
        before == 1
    }
    /// `mm_users`.
    pub fn users(&self) -> u32 {
        self.users.load(Ordering::Acquire)
    }

    /// The VMA with `addr`, without mmap_lock. The read section (`_section`, of this context's arena) keeps the VMA
    /// from being freed, nothing keeps it in place: by the time the caller looks, it may have been split, moved or
    /// unlinked. Check its bounds again under a lock, or against the PTE.
    pub fn find_racy<'a>(&'a self, _section: &'a RcuGuard<'_>, addr: VirtAddr) -> Option<&'a Vma<S>> {
        let vma = self.regions.find_racy(addr.0)?;
        // SAFETY: the VMA was linked after the section began or is freed only after the section ends.
        Some(unsafe { vma.as_ref() })
    }

    /// Regions, without a lock: of the past when others change the layout.
    pub fn nr_regions(&self) -> usize {
        self.regions.len()
    }

    /// Bytes of the region index.
    pub fn index_bytes(&self) -> usize {
        self.regions.held_bytes()
    }
}

impl<S: System> Drop for Mm<S> {
    fn drop(&mut self) {
        debug_assert!(self.regions.is_empty(), "an address space goes while it has regions");
    }
}

/// mmap_lock held shared.
#[must_use = "mmap_lock is released at once when this is dropped"]
pub struct MmRead<'a, S: System> {
    mm: &'a Mm<S>,
    /// Absent when the lock is held by other means.
    _guard: Option<ReadGuard<'a, { rank::MMAP_LOCK }>>,
}

/// mmap_lock held exclusively.
#[must_use = "mmap_lock is released at once when this is dropped"]
pub struct MmWrite<'a, S: System> {
    mm: &'a Mm<S>,
    guard: Option<WriteGuard<'a, { rank::MMAP_LOCK }>>,
}

impl<S: System> Deref for MmRead<'_, S> {
    type Target = Mm<S>;
    fn deref(&self) -> &Mm<S> {
        self.mm
    }
}

impl<S: System> Deref for MmWrite<'_, S> {
    type Target = Mm<S>;
    fn deref(&self) -> &Mm<S> {
        self.mm
    }
}

/// What may be asked while mmap_lock is held, shared or exclusively.
pub trait MmLocked<S: System> {
    /// The address space whose lock is held.
    fn mm(&self) -> &Mm<S>;

    /// The VMA with `addr`.
    #[inline]
    fn find(&self, addr: VirtAddr) -> Option<&Vma<S>> {
        self.mm().regions.find(addr.0)
    }
    /// The first VMA that ends after `addr` (the kernel's `find_vma`).
    #[inline]
    fn find_vma(&self, addr: VirtAddr) -> Option<&Vma<S>> {
        self.mm().regions.find_vma(addr.0)
    }
    /// The last VMA that starts before `addr`.
    #[inline]
    fn prev_vma(&self, addr: VirtAddr) -> Option<&Vma<S>> {
        self.mm().regions.prev(addr.0)
    }
    /// The VMA that ends at `start` and the one that begins at `end`: the neighbours, if they touch.
    #[inline]
    fn neighbours(&self, start: VirtAddr, end: VirtAddr) -> (Option<&Vma<S>>, Option<&Vma<S>>) {
        self.mm().regions.neighbours(start.0, end.0)
    }
    /// The first VMA that starts at or after `addr`.
    #[inline]
    fn next_vma(&self, addr: VirtAddr) -> Option<&Vma<S>> {
        self.mm().regions.next_after(addr.0)
    }
    /// All VMAs, by address.
    fn vmas<'a>(&'a self) -> impl Iterator<Item = &'a Vma<S>>
    where
        S: 'a,
    {
        self.mm().regions.iter()
    }
    /// The VMAs that meet `[start, end)`, by address.
    fn vmas_in<'a>(&'a self, start: VirtAddr, end: VirtAddr) -> impl Iterator<Item = &'a Vma<S>>
    where
        S: 'a,
    {
        self.mm().regions.range(start.0, end.0)
    }
    /// The lowest gap of `bytes` in `[low, high)`.
    fn gap_above(&self, low: VirtAddr, high: VirtAddr, bytes: u64) -> Option<VirtAddr> {
        self.mm().regions.gap_above(low.0, high.0, bytes).map(VirtAddr)
    }
    /// The highest gap of `bytes` in `[low, high)`.
    fn gap_below(&self, low: VirtAddr, high: VirtAddr, bytes: u64) -> Option<VirtAddr> {
        self.mm().regions.gap_below(low.0, high.0, bytes).map(VirtAddr)
    }
    /// The embedder's data in a VMA of this address space.
    fn data_of<'a>(&'a self, vma: &'a Vma<S>) -> &'a S::VmaData {
        debug_assert!(core::ptr::eq(vma.mm(), self.mm()));
        // SAFETY: mmap_lock is held.
        unsafe { vma.data_unlocked() }
    }
    /// The name of a VMA of this address space.
    fn name_of<'a>(&'a self, vma: &'a Vma<S>) -> Option<&'a VmaName> {
        debug_assert!(core::ptr::eq(vma.mm(), self.mm()));
        // SAFETY: mmap_lock is held.
        unsafe { vma.name_unlocked() }
    }
}

impl<S: System> MmLocked<S> for MmRead<'_, S> {
    #[inline]
    fn mm(&self) -> &Mm<S> {
        self.mm
    }
}

impl<S: System> MmLocked<S> for MmWrite<'_, S> {
    #[inline]
    fn mm(&self) -> &Mm<S> {
        self.mm
    }
}

impl<'a, S: System> MmWrite<'a, S> {
    /// The address space, for as long as it lives.
    pub fn mm_ref(&self) -> &'a Mm<S> {
        self.mm
    }

    /// Exclusive becomes shared without letting a writer in between.
    pub fn downgrade(self) -> MmRead<'a, S> {
        MmRead { mm: self.mm, _guard: self.guard.map(WriteGuard::downgrade) }
    }

    /// Makes sure that `n` links will not fail for want of memory in the index of regions.
    pub fn reserve(&self, n: usize) -> Result<()> {
        self.mm.regions.reserve(n)
    }

    /// Whether `vma` is one of this address space's, linked.
    pub fn owns(&self, vma: &Vma<S>) -> bool {
        core::ptr::eq(vma.mm(), self.mm) && vma.is_linked()
    }

    /// Puts a new VMA into the address space and into its file. [`Error::Exists`]: it overlaps another. On failure it
    /// is freed.
    pub fn link(&self, new: NewVma<S>) -> Result<&'a Vma<S>> {
        self.check_free(&new)?;
        self.prepare_link(&new)?;
        Ok(self.finish_link(new))
    }

    /// Whether the place of a new VMA is free: [`Error::Exists`] if not.
    pub(crate) fn check_free(&self, new: &NewVma<S>) -> Result<()> {
        let VmaBounds { start, end, .. } = new.bounds();
        if self.vmas_in(start, end).next().is_some() { Err(Error::Exists) } else { Ok(()) }
    }

    /// The part of linking that can fail: on success the VMA is in its file, and there is room in the index of regions.
    /// Something else may still be in its place: walks that meet the VMA find nothing in it until it is linked.
    pub fn prepare_link(&self, new: &NewVma<S>) -> Result<()> {
        if !core::ptr::eq(new.mm(), self.mm) {
            return Err(Error::Foreign);
        }
        self.mm.regions.reserve(1)?;
        new.file().map_or(Ok(()), |file| file.link(NonNull::from(&**new)))
    }

    /// The part that cannot, if [`prepare_link`](Self::prepare_link) was done under the same hold of `mmap_lock`, the
    /// room is still there ([`reserve`](Self::reserve)), and the place is free.
    pub fn finish_link(&self, new: NewVma<S>) -> &'a Vma<S> {
        debug_assert!(self.check_free(&new).is_ok() && new.file().is_some() == new.is_linked_to_file());
        self.link_region(&new);
        self.adopt(new)
    }

    /// Takes a VMA over from its maker: it is in the index.
    pub(crate) fn adopt(&self, new: NewVma<S>) -> &'a Vma<S> {
        debug_assert!(self.owns(&new));
        // SAFETY: alive until it is unlinked, which takes mmap_lock exclusively.
        unsafe { new.into_raw().as_ref() }
    }

    /// Makes several changes of the index one for readers without a lock. Room was reserved.
    pub(crate) fn change_regions(&self, changes: impl FnOnce()) {
        // SAFETY: mmap_lock is held exclusively.
        unsafe { self.mm.regions.batch(changes) };
    }

    /// Puts a VMA into the index of regions only. Room was reserved.
    pub(crate) fn link_region(&self, vma: &Vma<S>) {
        vma.set_linked(LINKED_MM, true);
        vma.set_linked(COMING, false);
        // SAFETY: (1) mmap_lock is held exclusively; (2) the VMA stays alive until `unlink_region`.
        let linked = unsafe { self.mm.regions.insert(NonNull::from(vma)) };
        debug_assert!(linked.is_ok(), "room was reserved");
    }

    /// Takes a VMA out of the index of regions only.
    pub(crate) fn unlink_region(&self, vma: &Vma<S>) {
        debug_assert!(self.owns(vma));
        // SAFETY: (1) mmap_lock is held exclusively; (2) the VMA is in the index.
        unsafe { self.mm.regions.remove(NonNull::from(vma)) };
        vma.set_linked(LINKED_MM, false);
    }

    /// Changes the bounds of a VMA in the index of regions. The locks of its anchors are held.
    pub(crate) fn rekey(&self, vma: &Vma<S>, bounds: VmaBounds) {
        // SAFETY: (1) mmap_lock is held exclusively; (2) the VMA is in the index; (3) callers keep it clear of its
        // neighbours.
        unsafe {
            self.mm.regions.rekey(NonNull::from(vma), bounds.start.0, bounds.end.0, || vma.set_bounds(bounds));
        }
    }

    /// Takes a VMA out of the address space and its file, and frees it after a grace period. The engine has let go of
    /// it before, and nothing is mapped in it.
    pub(crate) fn unlink_and_free(&self, vma: &'a Vma<S>) {
        if vma.is_linked() {
            self.unlink_region(vma);
        }
        if vma.is_linked_to_file()
            && let Some(file) = vma.file()
        {
            file.unlink(NonNull::from(vma));
        }
        // SAFETY: (1) linked nowhere any more; (2) the arena is its own; (3) freed once: it was linked until now, and
        // callers give up their reference.
        unsafe { vma::free_later(&self.mm.arena, NonNull::from(vma)) };
    }

    /// Changes the flags of a VMA.
    pub fn set_flags(&self, vma: &Vma<S>, flags: VmFlags) -> Result<()> {
        self.check_own(vma)?;
        vma.set_flags(flags);
        Ok(())
    }

    /// Changes the embedder's data of a VMA.
    pub fn set_data(&self, vma: &Vma<S>, data: S::VmaData) -> Result<()> {
        self.check_own(vma)?;
        // SAFETY: mmap_lock is held exclusively.
        unsafe { vma.set_data(data) };
        Ok(())
    }

    /// Changes the name of a VMA.
    pub fn set_name(&self, vma: &Vma<S>, name: Option<VmaName>) -> Result<()> {
        self.check_own(vma)?;
        // SAFETY: mmap_lock is held exclusively.
        unsafe { vma.set_name(name) };
        Ok(())
    }

    /// [`Error::Foreign`] unless the VMA is one of this address space's.
    pub fn check_own(&self, vma: &Vma<S>) -> Result<()> {
        if self.owns(vma) { Ok(()) } else { Err(Error::Foreign) }
    }
}
