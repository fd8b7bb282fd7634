//! A region of an address space (the kernel's `vm_area_struct`).
//!
//! A VMA is made by [`NewVma`], which its maker alone knows; it becomes reachable when it is linked into its address
//! space, its file and its engine's trees, and is freed after it was unlinked from all three and a grace period has
//! passed. Whoever reaches a VMA through an anchor (anon_vma root, `i_mmap_rwsem`) finds it alive and with constant
//! bounds while that lock is held.

use super::arena::Arena;
use super::file::FileRef;
use super::{EngineData, Mm, System};
use crate::base::error::{Error, Result};
use crate::base::href::Href;
use crate::base::rcu::RetireHead;
use crate::base::slab::{SlabItem, SlabLink};
use crate::base::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::base::types::{PAGE_SHIFT, PgOff, VirtAddr, VmFlags};
use crate::ds::interval_tree::{Indexed, Place};
use crate::ds::region_index::Region;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// A VMA's name (`PR_SET_VMA_ANON_NAME`), shared by the pieces it is split into.
pub type VmaName = Href<crate::base::alloc::HeapVec<u8>>;

/// Where a VMA lies, in its address space and in what it maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmaBounds {
    /// First byte.
    pub start: VirtAddr,
    /// First byte after it.
    pub end: VirtAddr,
    /// The page offset of `start`: in the file, or for an anonymous VMA its virtual page number when it was made (T15).
    pub pgoff: PgOff,
}

impl VmaBounds {
    /// Pages from start to end.
    pub const fn pages(&self) -> u64 {
        (self.end.0 - self.start.0) >> PAGE_SHIFT
    }
    /// The last page offset.
    pub const fn last_pgoff(&self) -> PgOff {
        self.pgoff + self.pages() - 1
    }
    /// The page offset of an address in it (or near it: the head of a compound page may lie below a VMA that maps its
    /// tails).
    pub const fn pgoff_of(&self, addr: VirtAddr) -> PgOff {
        self.pgoff.wrapping_add_signed((addr.0.wrapping_sub(self.start.0) as i64) >> PAGE_SHIFT)
    }
    /// The address of the first of the page offsets `[first, last]` that lies in it.
    pub const fn first_of(&self, first: PgOff, last: PgOff) -> Option<VirtAddr> {
        if self.pgoff <= last && first <= self.last_pgoff() {
            Some(self.start.add_pages(first.saturating_sub(self.pgoff)))
        } else {
            None
        }
    }
    /// The part below and the part from `addr`, which lies inside on a page boundary.
    #[must_use]
    pub const fn cut(self, addr: VirtAddr) -> (Self, Self) {
        (Self { end: addr, ..self }, Self { start: addr, end: self.end, pgoff: self.pgoff_of(addr) })
    }
}

/// What a VMA is indexed by in the trees of files and anchors: the page offsets that it maps.
///
/// A VMA has two. The current one is in the trees and never changes while it is; a change of bounds fills the other,
/// puts it in beside the first, takes the first out, and makes the other current, so that it can be undone until its
/// last step and no walk ever meets a changing interval.
#[repr(C)]
pub struct VmaKey<S: System> {
    first: AtomicU64,
    last: AtomicU64,
    vma: PhantomData<fn() -> Vma<S>>,
}

impl<S: System> VmaKey<S> {
    fn new() -> Self {
        Self { first: AtomicU64::new(0), last: AtomicU64::new(0), vma: PhantomData }
    }

    /// The VMA that it is a key of.
    #[inline]
    pub fn vma(&self) -> &Vma<S> {
        const { assert!(2 * size_of::<Self>() < VMA_ALIGN && align_of::<Vma<S>>() == VMA_ALIGN) };
        let key = core::ptr::from_ref(self);
        let vma = core::ptr::with_exposed_provenance::<Vma<S>>(key.addr() & !(VMA_ALIGN - 1));
        // SAFETY: (1) keys exist only as the first field of a VMA, which is aligned to more than their size; (2) the
        // VMA's provenance was exposed by `Vma::current_key` or `Vma::next_key`, which alone give out keys.
        unsafe { &*vma }
    }

    /// The address of page offset `pgoff`, or the VMA's start if it maps only later ones. The key is current and the
    /// VMA reaches `pgoff`.
    #[inline]
    pub fn address_of(&self, pgoff: PgOff) -> VirtAddr {
        let first = self.first.load(Ordering::Relaxed);
        self.vma().start().add_pages(pgoff.saturating_sub(first))
    }
}

impl<S: System> Indexed for VmaKey<S> {
    #[inline]
    fn first(&self) -> u64 {
        self.first.load(Ordering::Relaxed)
    }
    #[inline]
    fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}

/// More than the size of two keys, whose atomics are larger where a model looks at them.
const VMA_ALIGN: usize = if cfg!(shuttle) { 1024 } else { 64 };

/// A region. See the [module](self).
///
/// What a walk reads of it fills its first cache line.
#[cfg_attr(not(shuttle), repr(C, align(64)))]
#[cfg_attr(shuttle, repr(C, align(1024)))]
pub struct Vma<S: System> {
    /// Page offsets. The spare one is written under mmap_lock (write); the current one is constant.
    keys: [VmaKey<S>; 2],
    /// Bounds in bytes. Written, with `current`, under mmap_lock (write) plus, once linked there, the locks of its
    /// anchors; read under any of these. Relaxed: those locks order them.
    start: AtomicU64,
    end: AtomicU64,
    /// [`VmFlags`]. Written under mmap_lock (write); readers that hold only an anchor see the old or the new value.
    flags: AtomicU64,
    /// Its address space. Constant while it is somebody's.
    mm: AtomicPtr<Mm<S>>,

    /// Which key is current: 0 or 1.
    current: AtomicU32,
    /// Even: vacant. Odd: somebody's. Changes when it is made and when it is freed.
    generation: AtomicU32,
    /// Bits of `LINKED_*`. Written under mmap_lock (write).
    linked: AtomicU32,
    /// The file that it maps. Set before the VMA is reachable, constant until it is freed.
    file: UnsafeCell<Option<FileRef<S>>>,
    /// Its place in the file's `i_mmap`. `i_mmap_rwsem` (write).
    pub(super) i_mmap: UnsafeCell<Place>,
    /// mmap_lock (write to change, read to look).
    name: UnsafeCell<Option<VmaName>>,
    /// The engine's own; its locks are the engine's to say.
    engine: <S::Engine as EngineData>::Vma,
    /// The embedder's own. mmap_lock (write to change, read to look).
    data: UnsafeCell<S::VmaData>,
    /// For its grace period; used by whoever frees it.
    retire: UnsafeCell<MaybeUninit<RetireHead>>,
    link: SlabLink,
}

/// In its address space's index.
pub(super) const LINKED_MM: u32 = 1;
/// In its file's `i_mmap`.
pub(super) const LINKED_FILE: u32 = 2;
/// Not in its address space's index yet: what is mapped at its addresses is another VMA's.
pub(super) const COMING: u32 = 4;

// SAFETY: (1) atomics; (2) the cells are guarded by the locks that their comments name, which the methods that touch
// them take or demand; (3) `S::VmaData` and the engine's data are Send and Sync.
unsafe impl<S: System> Send for Vma<S> {}
// SAFETY: as for Send.
unsafe impl<S: System> Sync for Vma<S> {}

impl<S: System> SlabItem for Vma<S> {
    fn vacant(link: SlabLink) -> Self {
        Self {
            keys: [VmaKey::new(), VmaKey::new()],
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            flags: AtomicU64::new(0),
            mm: AtomicPtr::new(core::ptr::null_mut()),
            current: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            linked: AtomicU32::new(0),
            file: UnsafeCell::new(None),
            i_mmap: UnsafeCell::new(Place::default()),
            name: UnsafeCell::new(None),
            engine: Default::default(),
            data: UnsafeCell::new(S::VmaData::default()),
            retire: UnsafeCell::new(MaybeUninit::uninit()),
            link,
        }
    }
    fn link(&self) -> &SlabLink {
        &self.link
    }
}

impl<S: System> Region for Vma<S> {
    #[inline]
    fn start(&self) -> u64 {
        self.start.load(Ordering::Relaxed)
    }
    #[inline]
    fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }
}

impl<S: System> Vma<S> {
    /// First byte.
    #[inline]
    pub fn start(&self) -> VirtAddr {
        VirtAddr(self.start.load(Ordering::Relaxed))
    }
    /// First byte after it.
    #[inline]
    pub fn end(&self) -> VirtAddr {
        VirtAddr(self.end.load(Ordering::Relaxed))
    }
    /// Page offset of its first page.
    #[inline]
    pub fn pgoff(&self) -> PgOff {
        self.keys[self.current.load(Ordering::Relaxed) as usize & 1].first()
    }
    /// All three.
    #[inline]
    pub fn bounds(&self) -> VmaBounds {
        VmaBounds { start: self.start(), end: self.end(), pgoff: self.pgoff() }
    }
    /// Pages.
    #[inline]
    pub fn pages(&self) -> u64 {
        self.bounds().pages()
    }
    /// Whether `addr` lies in it.
    #[inline]
    pub fn contains(&self, addr: VirtAddr) -> bool {
        self.start() <= addr && addr < self.end()
    }
    /// Its flags.
    #[inline]
    pub fn flags(&self) -> VmFlags {
        VmFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }
    /// Whether it has any of `flags`.
    #[inline]
    pub fn has(&self, flags: VmFlags) -> bool {
        self.flags().intersects(flags)
    }
    /// Its address space.
    #[inline]
    pub fn mm(&self) -> &Mm<S> {
        // SAFETY: an Mm outlives its VMAs: `Mm::drop` runs after all were freed and their grace period is over; a
        // reference to a VMA exists only inside a lock or a read section that keeps it from being freed.
        unsafe { &*self.mm.load(Ordering::Relaxed) }
    }
    /// The file that it maps.
    #[inline]
    pub fn file(&self) -> Option<&FileRef<S>> {
        // SAFETY: constant while the VMA is somebody's, and a reference to it exists only then.
        unsafe { (*self.file.get()).as_ref() }
    }
    /// Private and without a file.
    #[inline]
    pub fn is_anonymous(&self) -> bool {
        self.file().is_none()
    }
    /// The engine's data.
    #[inline]
    pub fn engine(&self) -> &<S::Engine as EngineData>::Vma {
        &self.engine
    }
    /// Which owner of this memory it is: odd while alive. A handle that remembers it can tell a stale VMA from a living
    /// one.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }
    /// Whether it is in its address space's index.
    pub fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Relaxed) & LINKED_MM != 0
    }
    /// Whether it is about to come into its address space, where another VMA may still be in its place: walks may meet
    /// it by its anchors and its file, and find nothing of its own. Under a PTE lock the answer is certain for the
    /// entries of that table: entries come after the VMA.
    #[inline]
    pub fn is_coming(&self) -> bool {
        self.linked.load(Ordering::Relaxed) & COMING != 0
    }
    pub(super) fn is_linked_to_file(&self) -> bool {
        self.linked.load(Ordering::Relaxed) & LINKED_FILE != 0
    }
    pub(super) fn set_linked(&self, bit: u32, on: bool) {
        let now = self.linked.load(Ordering::Relaxed);
        self.linked.store(if on { now | bit } else { now & !bit }, Ordering::Relaxed);
    }

    /// The embedder's data.
    ///
    /// # Safety
    /// mmap_lock is held, or the VMA is its maker's alone.
    #[inline]
    pub unsafe fn data_unlocked(&self) -> &S::VmaData {
        // SAFETY: written only under mmap_lock (write).
        unsafe { &*self.data.get() }
    }

    /// Its name.
    ///
    /// # Safety
    /// As for [`data_unlocked`](Self::data_unlocked).
    pub unsafe fn name_unlocked(&self) -> Option<&VmaName> {
        // SAFETY: as above.
        unsafe { (*self.name.get()).as_ref() }
    }

    pub(super) unsafe fn set_data(&self, data: S::VmaData) {
        // SAFETY: mmap_lock is held for write (callers).
        unsafe { *self.data.get() = data }
    }

    pub(super) unsafe fn set_name(&self, name: Option<VmaName>) {
        // SAFETY: mmap_lock is held for write (callers).
        unsafe { *self.name.get() = name }
    }

    /// Changes the flags. mmap_lock held for write.
    pub(crate) fn set_flags(&self, flags: VmFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Changes the bounds. mmap_lock held for write, and the locks of all trees that it is in.
    pub(crate) fn set_bounds(&self, bounds: VmaBounds) {
        let next = self.next_key(bounds);
        self.start.store(bounds.start.0, Ordering::Relaxed);
        self.end.store(bounds.end.0, Ordering::Relaxed);
        self.current.fetch_xor(1, Ordering::Relaxed);
        debug_assert_eq!(self.current_key(), next);
    }

    fn key(&self, which: u32) -> NonNull<VmaKey<S>> {
        let base = core::ptr::from_ref(self);
        base.expose_provenance();
        // SAFETY: a VMA begins with its two keys; `which` is 0 or 1.
        unsafe { NonNull::new_unchecked(base.cast_mut().cast::<VmaKey<S>>().add(which as usize & 1)) }
    }

    /// The key that the trees know it by.
    pub(crate) fn current_key(&self) -> NonNull<VmaKey<S>> {
        self.key(self.current.load(Ordering::Relaxed))
    }

    /// The key that the trees will know it by when it has `bounds`. mmap_lock held for write.
    pub(crate) fn next_key(&self, bounds: VmaBounds) -> NonNull<VmaKey<S>> {
        let next = self.key(self.current.load(Ordering::Relaxed) ^ 1);
        // SAFETY: a key of this VMA.
        let key = unsafe { next.as_ref() };
        key.first.store(bounds.pgoff, Ordering::Relaxed);
        key.last.store(bounds.last_pgoff(), Ordering::Relaxed);
        next
    }

    /// The address of page offset `pgoff` in it, if it lies inside.
    #[inline]
    pub fn address_of(&self, pgoff: PgOff) -> Option<VirtAddr> {
        let VmaBounds { start, end, pgoff: first } = self.bounds();
        let addr = VirtAddr(start.0.wrapping_add(pgoff.wrapping_sub(first) << PAGE_SHIFT));
        (pgoff >= first && addr >= start && addr < end).then_some(addr)
    }
}

impl<S: System> core::fmt::Debug for Vma<S> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let b = self.bounds();
        write!(f, "Vma[{:#x}, {:#x}) pgoff {:#x} {:?}", b.start.0, b.end.0, b.pgoff, self.flags())
    }
}

/// A VMA that its maker alone knows. Dropped, it is freed; linked, it is the address space's.
pub struct NewVma<S: System> {
    vma: NonNull<Vma<S>>,
    arena: Href<Arena<S>>,
}

impl<S: System> NewVma<S> {
    /// A VMA of `mm`, linked nowhere.
    pub fn new(
        mm: &Mm<S>,
        bounds: VmaBounds,
        flags: VmFlags,
        file: Option<FileRef<S>>,
        data: S::VmaData,
    ) -> Result<Self> {
        let VmaBounds { start, end, pgoff } = bounds;
        if !start.is_page_aligned()
            || !end.is_page_aligned()
            || start >= end
            || pgoff.checked_add(bounds.pages()).is_none()
        {
            return Err(Error::Invalid);
        }
        let arena = mm.arena().clone();
        let vma = arena.vmas.take()?;
        // SAFETY: fresh from the slab: nobody else uses it. Stale readers may still load its atomics.
        let v = unsafe { vma.as_ref() };
        v.set_bounds(bounds);
        v.set_flags(flags);
        v.mm.store(core::ptr::from_ref(mm).cast_mut(), Ordering::Relaxed);
        v.linked.store(COMING, Ordering::Relaxed);
        // SAFETY: as above; a grace period has passed since the last owner's readers.
        unsafe {
            *v.file.get() = file;
            *v.i_mmap.get() = Place::default();
            *v.data.get() = data;
        }
        // Release; pairs with the Acquire in `generation`: whoever sees the odd number sees the fields above.
        v.generation.fetch_add(1, Ordering::Release);
        Ok(Self { vma, arena })
    }

    /// A copy of `from` with other bounds, in `mm`: same flags, file, name and data. The engine's data start empty.
    ///
    /// The mmap_lock of `from`'s address space is held for write.
    pub fn copy(mm: &Mm<S>, from: &Vma<S>, bounds: VmaBounds) -> Result<Self> {
        // SAFETY: mmap_lock is held.
        let (data, name) = unsafe { (from.data_unlocked().clone(), from.name_unlocked().cloned()) };
        let new = Self::new(mm, bounds, from.flags(), from.file().cloned(), data)?;
        // SAFETY: ours alone.
        unsafe { new.set_name(name) };
        Ok(new)
    }

    /// Gives the VMA up to whoever links it.
    pub fn into_raw(self) -> NonNull<Vma<S>> {
        let vma = self.vma;
        // The arena's reference is dropped: from here on the address space keeps it.
        // SAFETY: `self` is forgotten below, so the reference is dropped once.
        drop(unsafe { core::ptr::read(&raw const self.arena) });
        core::mem::forget(self);
        vma
    }
}

impl<S: System> core::ops::Deref for NewVma<S> {
    type Target = Vma<S>;
    fn deref(&self) -> &Vma<S> {
        // SAFETY: ours until dropped.
        unsafe { self.vma.as_ref() }
    }
}

impl<S: System> Drop for NewVma<S> {
    fn drop(&mut self) {
        if self.is_linked_to_file()
            && let Some(file) = self.file()
        {
            file.unlink(self.vma);
        }
        self.set_linked(COMING, false);
        // SAFETY: never in an index (that goes through `into_raw`), and in no tree any more: walks that met it held the
        // tree's lock.
        unsafe {
            vacate(self.vma);
            self.arena.vmas.give(self.vma);
        }
    }
}

/// Drops what a VMA owns and marks it vacant.
///
/// # Safety
/// Nobody uses the VMA any more, and it is linked nowhere.
unsafe fn vacate<S: System>(vma: NonNull<Vma<S>>) {
    // SAFETY: slab memory stays a VMA.
    let v = unsafe { vma.as_ref() };
    debug_assert_eq!(v.linked.load(Ordering::Relaxed), 0);
    v.generation.fetch_add(1, Ordering::Release);
    // SAFETY: the caller's contract.
    unsafe {
        *v.file.get() = None;
        *v.name.get() = None;
        *v.data.get() = S::VmaData::default();
    }
}

/// Frees a VMA after a grace period. It is unlinked from its address space, its file and its engine's trees.
///
/// # Safety
/// The VMA is linked nowhere, is freed once, and `arena` is its own; readers without a lock may still hold it until the
/// grace period ends.
pub(super) unsafe fn free_later<S: System>(arena: &Arena<S>, vma: NonNull<Vma<S>>) {
    unsafe fn free<S: System>(head: NonNull<RetireHead>, arena: *const ()) {
        // SAFETY: the head lies this far into its VMA.
        let vma = unsafe { head.byte_sub(core::mem::offset_of!(Vma<S>, retire)).cast::<Vma<S>>() };
        // SAFETY: (1) slab memory stays a VMA; (2) the grace period is over and the VMA was unlinked before it began;
        // (3) the arena drains its grace periods before it is dropped.
        unsafe {
            vacate(vma);
            (*arena.cast::<Arena<S>>()).vmas.give(vma);
        }
    }
    // SAFETY: the field is the freeing thread's alone; the pointer keeps the provenance of the whole VMA.
    unsafe {
        let head = vma.byte_add(core::mem::offset_of!(Vma<S>, retire)).cast::<RetireHead>();
        head.write(RetireHead::new(free::<S>, core::ptr::from_ref(arena).cast()));
        arena.rcu.retire(head);
    }
}
