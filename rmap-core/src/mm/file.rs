//! A file: its page cache, and the VMAs that map it (the kernel's `struct address_space` with `i_page` and `i_mmap`).
//!
//! A shared anonymous mapping is a file too, one without a name whose pages are swap-backed (the kernel's shmem).
//!
//! | state | lock |
//! |---|---|
//! | `i_mmap`, and the bounds of VMAs in it | `i_mmap_rwsem` |
//! | page cache | its own lock; a page's mapping word and index: that page's lock |

use super::arena::Arena;
use super::vma::{LINKED_FILE, Vma, VmaKey};
use super::{Mm, System};
use crate::base::alloc::HeapMap;
use crate::base::error::{Error, Result};
use crate::base::href::Href;
use crate::base::room::lock_with_room;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::{Mutex, ReadGuard, RwSem, WriteGuard, rank};
use crate::base::types::{PgOff, VirtAddr};
use crate::ds::interval_tree::{IntervalTree, NeedNodes, Place};
use crate::page::Page;
use crate::page::mapping::Mapping;
use core::cell::UnsafeCell;
use core::ops::ControlFlow;
use core::ptr::NonNull;

/// A counted reference to a file.
pub type FileRef<S> = Href<File<S>>;

/// A held `i_mmap_rwsem`, shared.
pub type IMmapRead<'a> = ReadGuard<'a, { rank::I_MMAP }>;
/// A held `i_mmap_rwsem`, exclusive.
pub type IMmapWrite<'a> = WriteGuard<'a, { rank::I_MMAP }>;

/// A file as memory management sees it. See the [module](self).
pub struct File<S: System> {
    arena: Href<Arena<S>>,
    id: u64,
    i_mmap_rwsem: RwSem<{ rank::I_MMAP }>,
    /// VMAs by the page offsets that they map. `i_mmap_rwsem`.
    i_mmap: UnsafeCell<IntervalTree<VmaKey<S>>>,
    /// Frames by page offset; each entry holds a reference to its page.
    cache: Mutex<HeapMap<PgOff, NonNull<Page>>, { rank::CACHE }>,
    /// Pages from offset 0 to the end of the file. Relaxed: faults look at it again under the page lock.
    size: AtomicU64,
    /// Without a name, and swap-backed: shared anonymous memory.
    anonymous: bool,
    data: S::FileData,
}

// SAFETY: (1) `i_mmap` is guarded by `i_mmap_rwsem`; (2) descriptors in the cache are made of atomics and outlive the
// file (they are the context's); (3) the data are Send and Sync.
unsafe impl<S: System> Send for File<S> {}
// SAFETY: as for Send.
unsafe impl<S: System> Sync for File<S> {}

impl<S: System> File<S> {
    /// A file of `size` pages with an empty page cache.
    pub fn new(arena: &Href<Arena<S>>, size: u64, anonymous: bool, data: S::FileData) -> Result<FileRef<S>> {
        let file = Self {
            arena: arena.clone(),
            id: arena.next_id(),
            i_mmap_rwsem: RwSem::new(),
            i_mmap: UnsafeCell::new(IntervalTree::new()),
            cache: Mutex::new(arena.heap.map()),
            size: AtomicU64::new(size),
            anonymous,
            data,
        };
        Href::new(&arena.heap, file)
    }

    /// A number that no other address space or file of the context has.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// The context's memory.
    pub fn arena(&self) -> &Href<Arena<S>> {
        &self.arena
    }
    /// Pages up to the end of the file.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }
    /// Sets the end of the file, in pages. Pages beyond it are the caller's to unmap and drop.
    pub fn set_size(&self, pages: u64) {
        self.size.store(pages, Ordering::Relaxed);
    }
    /// Shared anonymous memory: no name, swap-backed.
    pub fn is_anonymous(&self) -> bool {
        self.anonymous
    }
    /// The embedder's data.
    pub fn data(&self) -> &S::FileData {
        &self.data
    }

    /// Takes `i_mmap_rwsem` shared. Lock order: after page lock and page cache, before anon_vma roots.
    pub fn i_mmap_read(&self) -> IMmapRead<'_> {
        self.i_mmap_rwsem.read()
    }
    /// Takes `i_mmap_rwsem` shared if nobody holds or awaits it exclusively.
    pub fn try_i_mmap_read(&self) -> Option<IMmapRead<'_>> {
        self.i_mmap_rwsem.try_read()
    }
    /// Takes `i_mmap_rwsem` exclusively.
    pub fn i_mmap_write(&self) -> IMmapWrite<'_> {
        self.i_mmap_rwsem.write()
    }
    /// The lock itself, for callers that hold it across a C boundary or watch contention.
    pub fn i_mmap_rwsem(&self) -> &RwSem<{ rank::I_MMAP }> {
        &self.i_mmap_rwsem
    }

    /// Visits the VMAs that map any of the page offsets `[first, last]`, with the address of the first of them in each
    /// VMA. `i_mmap_rwsem` is held (`_held`).
    pub fn for_each_vma(
        &self,
        _held: &IMmapRead<'_>,
        first: PgOff,
        last: PgOff,
        mut visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // SAFETY: the lock is held shared, so the tree does not change.
        unsafe { &*self.i_mmap.get() }.for_each(first, last, |key| visit(key.vma(), key.address_of(first)))
    }

    /// VMAs that map the file.
    pub fn mappings(&self) -> usize {
        let _held = self.i_mmap_read();
        // SAFETY: the lock is held shared.
        unsafe { &*self.i_mmap.get() }.len()
    }

    /// Puts a VMA into `i_mmap`, after all VMAs of equal interval: behind the parent that it was forked from, behind
    /// the source that it moves from. Allocates only while the lock is not held.
    pub(super) fn link(&self, vma: NonNull<Vma<S>>) -> Result<()> {
        // SAFETY: the caller's VMA, alive.
        let v = unsafe { vma.as_ref() };
        loop {
            let held = self.i_mmap_write();
            // SAFETY: the lock is held exclusively; the VMA stays until it is unlinked.
            match unsafe { (*self.i_mmap.get()).insert(&self.arena.nodes, v.current_key()) } {
                Ok(place) => {
                    // SAFETY: `i_mmap_rwsem` guards the VMA's place.
                    unsafe { *v.i_mmap.get() = place };
                    v.set_linked(LINKED_FILE, true);
                    return Ok(());
                }
                Err(NeedNodes) => {
                    drop(held);
                    self.arena.nodes.refill(1)?;
                }
            }
        }
    }

    /// Takes a VMA out of `i_mmap`.
    pub(super) fn unlink(&self, vma: NonNull<Vma<S>>) {
        let _held = self.i_mmap_write();
        // SAFETY: (1) the lock is held exclusively; (2) the VMA was put there by `link`, with this place.
        unsafe {
            let v = vma.as_ref();
            (*self.i_mmap.get()).remove(&self.arena.nodes, v.current_key(), *v.i_mmap.get());
            v.set_linked(LINKED_FILE, false);
        }
    }

    /// Puts in a key of a VMA that is linked, or about to be. The lock is held exclusively.
    pub(crate) fn insert_key(&self, _held: &IMmapWrite<'_>, key: NonNull<VmaKey<S>>) -> Result<Place, NeedNodes> {
        // SAFETY: the lock is held exclusively; callers take the key out before its VMA goes or its interval changes.
        unsafe { (*self.i_mmap.get()).insert(&self.arena.nodes, key) }
    }

    /// Takes out a key that [`insert_key`](Self::insert_key) has put at `place`. The lock has been held exclusively
    /// since.
    pub(crate) fn remove_key(&self, _held: &IMmapWrite<'_>, key: NonNull<VmaKey<S>>, place: Place) {
        // SAFETY: the lock is held exclusively; put there by `insert_key`.
        unsafe { (*self.i_mmap.get()).remove(&self.arena.nodes, key, place) };
    }

    /// Takes out the current key of a VMA, if `was` says that it is in, and notes where its next one is, if there is
    /// one. The lock is held exclusively.
    pub(crate) fn retie(&self, _held: &IMmapWrite<'_>, vma: &Vma<S>, was: bool, place: Option<Place>) {
        // SAFETY: (1) the lock is held exclusively; (2) the VMA's place is where its current key was put.
        unsafe {
            let at = &mut *vma.i_mmap.get();
            if was {
                (*self.i_mmap.get()).remove(&self.arena.nodes, vma.current_key(), *at);
            }
            *at = place.unwrap_or_default();
        }
        vma.set_linked(LINKED_FILE, place.is_some());
    }

    /// The page at an offset, with a reference for the caller. Its place is certain only under the page lock: look at
    /// its mapping word again.
    pub fn find_get_page(&self, pgoff: PgOff) -> Option<&Page> {
        let cache = self.cache.lock();
        // SAFETY: descriptors outlive the file.
        let page = unsafe { cache.get(&pgoff)?.as_ref() };
        page.get();
        Some(page)
    }

    /// Puts a page into the cache: sets its index and mapping word, takes a reference. The page lock is held.
    ///
    /// [`Error::Exists`]: another page stands there already; [`Error::Busy`]: the page belongs to somebody.
    pub fn add_page(&self, page: &Page, pgoff: PgOff) -> Result<()> {
        if page.mapping().load() != Mapping::None {
            return Err(Error::Busy);
        }
        let mut cache = lock_with_room(&self.cache, &self.arena.heap)?;
        if cache.contains_key(&pgoff) {
            return Err(Error::Exists);
        }
        cache.insert(pgoff, NonNull::from(page));
        page.get();
        page.set_index(pgoff);
        page.mapping().store(Mapping::File(NonNull::from(self).cast()));
        Ok(())
    }

    /// Takes a page out of the cache and resets its word. The page lock is held and nothing maps the page. The cache's
    /// reference becomes the caller's.
    pub fn remove_page(&self, page: &Page) -> Result<()> {
        if page.mapping().load() != Mapping::File(NonNull::from(self).cast()) {
            return Err(Error::Foreign);
        }
        if page.is_mapped() {
            return Err(Error::Busy);
        }
        self.cache.lock().remove(&page.index());
        page.mapping().store(Mapping::None);
        Ok(())
    }

    /// Pages in the cache.
    pub fn cached_pages(&self) -> usize {
        self.cache.lock().len()
    }

    /// Calls `visit` with every cached page, in no order.
    pub fn for_each_page(&self, mut visit: impl FnMut(PgOff, &Page)) {
        for (pgoff, page) in self.cache.lock().iter() {
            // SAFETY: descriptors outlive the file.
            visit(*pgoff, unsafe { page.as_ref() });
        }
    }

    /// The file that a mapping word points to.
    ///
    /// # Safety
    /// The word belongs to a page of this kind of system, and the page's lock is held, so the page cannot leave the
    /// file and the file cannot go.
    pub unsafe fn of_page<'a>(word: NonNull<()>) -> &'a Self {
        // SAFETY: the caller's contract.
        unsafe { word.cast::<Self>().as_ref() }
    }
}

impl<S: System> Drop for File<S> {
    fn drop(&mut self) {
        debug_assert!(self.i_mmap.get_mut().is_empty(), "a file goes while VMAs map it");
        debug_assert!(self.cache.get_mut().is_empty(), "a file goes while pages belong to it");
    }
}

impl<S: System> Mm<S> {
    /// A file of this address space's context.
    pub fn new_file(&self, size: u64, anonymous: bool, data: S::FileData) -> Result<FileRef<S>> {
        File::new(self.arena(), size, anonymous, data)
    }
}
