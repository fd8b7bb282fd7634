//! The regions of one address space, found by address: what the kernel's maple tree is to its VMAs.
//!
//! # Shape
//!
//! Two levels. A *root* lists the leaves with the start of each one's first region; a *leaf* holds up to 64 regions:
//! starts, ends and pointers in three dense arrays. A look-up ranks the address among the root's keys, then among the
//! leaf's starts, and compares one end: with a hundred regions all of it is a handful of cache lines, and no step is a
//! data-dependent branch. 65,000 regions make a root of about 2,000 keys, which is moved only when a leaf splits or
//! empties.
//!
//! The starts and ends are copies of what the items say. They change only here ([`rekey`](RegionIndex::rekey)), and a
//! look-up reads no item that it does not return.
//!
//! # Who may read what
//!
//! | who | holds | guarded by |
//! |---|---|---|
//! | the writer | `mmap_lock` for write | no other writer, no reader but `find_racy` |
//! | readers | `mmap_lock` shared | no writer |
//! | [`find_racy`](RegionIndex::find_racy) | an RCU read section | the sequence counter |
//!
//! The sequence counter is odd while a writer changes nodes. A lock-free reader takes an answer only if the counter was
//! even and the same before and after:
//!
//! ```text
//! writer                                      lock-free reader
//!   sequence = odd      Relaxed                 s = sequence           Acquire, retry if odd    (b)
//!   fence               Release      (a)        load entries           Relaxed
//!   store entries       Relaxed                 fence                  Acquire                  (a)
//!   sequence = even     Release      (b)        sequence == s?         Relaxed, else retry
//! ```
//!
//! (a) A reader that saw an entry from inside a section also sees the section's odd number, or a later one, and
//! retries. (b) A reader that starts after a section sees all of it, and what the writer wrote into the items before.
//!
//! # Memory
//!
//! Leaves and roots never go away while the index lives: a lock-free reader in an outdated one reads rubbish, never
//! freed memory. An emptied leaf goes to the index's own list of spares. A full root is replaced by one at least twice
//! as large, and stays on a list behind it: all the old ones together are smaller than the newest. So a removal never
//! allocates and never fails; an insertion takes at most one leaf and one root, and [`reserve`](RegionIndex::reserve)
//! gets them beforehand.

mod gap;
mod node;

use crate::base::alloc::{Heap, HeapBox};
use crate::base::error::Result;
use crate::base::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use crate::base::sync::{Backoff, Mutex, rank};
use core::marker::PhantomData;
use core::ptr::{NonNull, null_mut};
use node::{HALF, Leaf, Place, Root, SLOTS};

/// Leaves that the first root has room for.
const FIRST_ROOT: usize = 8;

/// What a [`RegionIndex`] can hold: a half-open range of bytes.
pub trait Region {
    /// The first byte.
    fn start(&self) -> u64;
    /// The byte after the last one; above `start`.
    fn end(&self) -> u64;
}

/// What the next insertions may use.
struct Spares<T> {
    /// Empty leaves, through `next_spare`.
    leaves: Option<NonNull<Leaf<T>>>,
    /// How many they are.
    count: usize,
    /// An empty root, never published so far.
    root: Option<HeapBox<Root<T>>>,
}

/// Disjoint regions in order of address; it refers to them and does not own them. See the [module](self).
pub struct RegionIndex<T: Region> {
    /// Odd while a writer changes nodes. Stored by the writer alone, in `Section`.
    sequence: AtomicU64,
    /// Null until the first insertion. Stored by the writer alone, with Release; readers load it with Acquire.
    root: AtomicPtr<Root<T>>,
    /// Regions. Stored by the writer alone; Relaxed, of the past for whoever holds no `mmap_lock`.
    len: AtomicUsize,
    /// Bytes of all nodes. Statistics: Relaxed.
    held: AtomicUsize,
    spares: Mutex<Spares<T>, { rank::LEAF }>,
    heap: Heap,
    items: PhantomData<*const T>,
}

// SAFETY: (1) fields that change are atomic or under a lock; (2) nodes belong to the index and move with it; (3) the
// regions are only lent out by reference, which needs `T: Sync`, and `T: Send` since the last reference may come from
// any thread.
unsafe impl<T: Region + Send + Sync> Send for RegionIndex<T> {}
// SAFETY: as for Send.
unsafe impl<T: Region + Send + Sync> Sync for RegionIndex<T> {}

/// An open sequence section, unless it is inside one that was open before. Dropping closes it, after a panic too.
struct Section<'a>(Option<&'a AtomicU64>);

impl<'a> Section<'a> {
    fn open(sequence: &'a AtomicU64) -> Self {
        // Relaxed: only the writer stores.
        let now = sequence.load(Ordering::Relaxed);
        if now & 1 == 1 {
            return Self(None);
        }
        sequence.store(now + 1, Ordering::Relaxed);
        // Release: (a) of the module; pairs with the Acquire fence in `find_racy`.
        fence(Ordering::Release);
        Self(Some(sequence))
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        if let Some(sequence) = self.0 {
            let now = sequence.load(Ordering::Relaxed);
            // Release: (b) of the module; pairs with the Acquire load in `find_racy`.
            sequence.store(now + 1, Ordering::Release);
        }
    }
}

/// The regions from a place on that start below an address.
struct Regions<'a, T> {
    at: Option<Place<'a, T>>,
    end: u64,
}

impl<'a, T> Iterator for Regions<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        let at = self.at.filter(|at| at.start() < self.end)?;
        self.at = at.next();
        lend(at)
    }
}

/// A reference to an item that a look-up found.
#[inline]
fn lend_item<'a, T>(item: NonNull<T>) -> &'a T {
    // SAFETY: an indexed item is valid (contract of `insert`), and stays so while a reference from a look-up lives
    // (contract of `remove`).
    unsafe { item.as_ref() }
}

/// The region at a place.
#[inline]
fn lend<T>(at: Place<'_, T>) -> Option<&T> {
    at.item().map(lend_item)
}

impl<T: Region> RegionIndex<T> {
    /// An empty index; it takes its first memory when it is first asked to.
    pub fn new(heap: &Heap) -> Self {
        Self {
            sequence: AtomicU64::new(0),
            root: AtomicPtr::new(null_mut()),
            len: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            spares: Mutex::new(Spares { leaves: None, count: 0, root: None }),
            heap: heap.clone(),
            items: PhantomData,
        }
    }

    /// How many regions there are; of the past for a caller without `mmap_lock`.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there are none; of the past for a caller without `mmap_lock`.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held for the index itself.
    pub fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Gets memory so that the next `inserts` insertions do not fail, whatever is removed in between. The caller holds
    /// `mmap_lock` for write. May call the embedder's allocator. On [`NoMemory`](crate::base::error::Error::NoMemory)
    /// what was obtained so far is kept for later.
    pub fn reserve(&self, inserts: usize) -> Result<()> {
        if inserts == 0 {
            return Ok(());
        }
        let (leaves, capacity) = self.root().map_or((0, 0), |root| (root.len(), root.capacity()));
        // Each leaf there is may be full and split at once; a half that comes of a split takes HALF insertions to fill,
        // and the two ends, where an entry gets a leaf for itself, may do so once before that holds for them.
        let fresh = inserts.min(leaves + 2 + inserts / HALF);
        while self.spares.lock().count < fresh {
            let leaf = self.new_leaf()?;
            self.keep_leaf(leaf);
        }
        let wanted = leaves + fresh;
        let room = self.spares.lock().root.as_ref().map_or(capacity, |root| root.capacity());
        if room < wanted {
            let root = self.new_root(wanted.max(2 * capacity))?;
            let replaced = self.spares.lock().root.replace(root);
            if let Some(root) = replaced {
                self.held.fetch_sub(Root::<T>::bytes(root.capacity()), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Adds a region. [`NoMemory`](crate::base::error::Error::NoMemory) leaves the index as it was. May call the
    /// embedder's allocator unless [`reserve`](Self::reserve) was called for it.
    ///
    /// # Safety
    /// 1. The caller holds `mmap_lock` for write: no other thread is in any function of this index but `find_racy`, and
    ///    no iterator over it is alive.
    /// 2. `item` stays valid while it is in the index, and its bounds change only through [`rekey`](Self::rekey).
    /// 3. It is not in the index, its start is below its end, and it overlaps no region that is.
    pub unsafe fn insert(&self, item: NonNull<T>) -> Result<()> {
        // SAFETY: condition 2.
        let (start, end) = unsafe { (item.as_ref().start(), item.as_ref().end()) };
        debug_assert!(start < end && self.range(start, end).next().is_none(), "{start:#x}..{end:#x} overlaps");

        // The entry belongs behind the last one that starts below it, or at the very front.
        let spot = self.root().and_then(|root| match root.locate(start) {
            Some(at) => Some((root, at.index, at.slot + 1)),
            None => root.first().map(|at| (root, at.index, 0)),
        });
        if let Some((root, index, slot)) = spot
            && root.leaf(index).is_some_and(|leaf| leaf.len() < SLOTS)
        {
            let _section = Section::open(&self.sequence);
            self.enter(root, (index, slot), (start, end), item);
            return Ok(());
        }
        let fresh = self.take_leaf()?;
        let root = self.roomy_root().inspect_err(|_| self.keep_leaf(fresh))?;
        let _section = Section::open(&self.sequence);
        let place = if let Some((_, index, slot)) = spot {
            root.split(index, slot, start, fresh)
        } else {
            root.insert(0, start, fresh);
            (0, 0)
        };
        self.enter(root, place, (start, end), item);
        Ok(())
    }

    /// Takes a region out.
    ///
    /// # Safety
    /// 1. As for [`insert`](Self::insert).
    /// 2. `item` is in the index.
    /// 3. It stays a valid `T` until every reference to it that a look-up returned is gone and a grace period has
    ///    passed.
    pub unsafe fn remove(&self, item: NonNull<T>) {
        let Some(at) = self.place_of(item) else { return };
        let Place { root, leaf, index, slot } = at;
        let (before, next) = (at.prev(), at.next_start());
        let section = Section::open(&self.sequence);
        let (start, end) = (at.start(), at.end());
        leaf.remove(slot);
        self.len.store(self.len() - 1, Ordering::Relaxed);
        if let Some(before) = before {
            root.change_gap(before.index, start - before.end(), next - before.end());
        }
        let emptied = if leaf.len() == 0 {
            root.remove(index)
        } else {
            if slot == 0 {
                root.set_key(index, leaf.start(0));
                root.change_gap(index, next - end, 0);
            }
            let below = || index.checked_sub(1).and_then(|below| root.merge(below));
            if leaf.len() < HALF { root.merge(index).or_else(below) } else { None }
        };
        drop(section);
        if let Some(emptied) = emptied {
            self.keep_leaf(emptied);
        }
    }

    /// Changes a region's bounds to `[start, end)`. `apply` stores them in the item itself; lock-free readers wait
    /// meanwhile, so it should do no more than that.
    ///
    /// # Safety
    /// 1. As for [`insert`](Self::insert).
    /// 2. `item` is in the index.
    /// 3. `start` is below `end`, and the new range overlaps and passes no other region.
    /// 4. `apply` calls nothing of this index.
    pub unsafe fn rekey(&self, item: NonNull<T>, start: u64, end: u64, apply: impl FnOnce()) {
        let Some(at) = self.place_of(item) else { return };
        let (before, next) = (at.prev(), at.next_start());
        debug_assert!(start < end && end <= next, "{start:#x}..{end:#x} passes {next:#x}");
        debug_assert!(before.is_none_or(|before| before.end() <= start), "{start:#x}..{end:#x} reaches down");
        let (old_start, old_end) = (at.start(), at.end());
        let _section = Section::open(&self.sequence);
        // First, so that the index is as it was if it panics.
        apply();
        at.leaf.set_bounds(at.slot, start, end);
        if at.slot == 0 {
            at.root.set_key(at.index, start);
        }
        if let Some(before) = before {
            at.root.change_gap(before.index, old_start - before.end(), start - before.end());
        }
        at.root.change_gap(at.index, next - old_end, next - end);
    }

    /// Makes several changes one for lock-free readers: a split is a `rekey` and an `insert`, a merge a `remove` and a
    /// `rekey`, and between the two an address would be in no region. Lock-free readers wait until `changes` returns:
    /// reserve before, and do nothing else inside.
    ///
    /// # Safety
    /// 1. As for [`insert`](Self::insert).
    /// 2. `changes` does not call [`find_racy`](Self::find_racy), which would wait for itself.
    pub unsafe fn batch<R>(&self, changes: impl FnOnce() -> R) -> R {
        let _section = Section::open(&self.sequence);
        changes()
    }

    /// The region that contains `addr`. The caller holds `mmap_lock`.
    #[inline]
    pub fn find(&self, addr: u64) -> Option<&T> {
        self.root()?.holder(addr).map(lend_item)
    }

    /// The first region that ends above `addr`: the one that contains it, or else the next. The caller holds
    /// `mmap_lock`.
    #[inline]
    pub fn find_vma(&self, addr: u64) -> Option<&T> {
        self.place_above(addr).and_then(lend)
    }

    /// The region that contains `addr`, without a lock; waits while a writer is inside.
    ///
    /// The answer was true at one moment during the call and may be stale when it returns: the region may have been
    /// removed, shrunk or split since, and what was free may be mapped. The caller is in an RCU read section from
    /// before the call until it is done with the item (so that it is still *a* region), and after it has locked the
    /// region it must check that it is attached, belongs to the address space that was meant, and still contains
    /// `addr`; if not, or on `None`, it looks again under `mmap_lock`.
    #[inline]
    pub fn find_racy(&self, addr: u64) -> Option<NonNull<T>> {
        let mut backoff = Backoff::new();
        loop {
            // Acquire: (b) of the module; pairs with the Release store in `Section::drop`.
            let before = self.sequence.load(Ordering::Acquire);
            if before & 1 == 0 {
                let found = self.root().and_then(|root| root.holder(addr));
                // Acquire: (a) of the module; pairs with the Release fence in `Section::open`.
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == before {
                    return found;
                }
            }
            backoff.wait();
        }
    }

    /// The last region that starts below `addr`. The caller holds `mmap_lock`.
    pub fn prev(&self, addr: u64) -> Option<&T> {
        self.root()?.locate(addr.checked_sub(1)?).and_then(lend)
    }

    /// The region that ends at `start` and the one that begins at `end`: the neighbours of what lies between, if they
    /// touch it. Reads no region. The caller holds `mmap_lock`.
    #[inline]
    pub fn neighbours(&self, start: u64, end: u64) -> (Option<&T>, Option<&T>) {
        let Some(root) = self.root() else { return (None, None) };
        let (below, above) = match root.locate(start) {
            Some(at) if at.start() < start => (Some(at), at.next()),
            Some(at) => (at.prev(), at.next()),
            None => (None, root.first()),
        };
        let below = below.filter(|at| at.end() == start);
        let above = above.filter(|at| at.start() == end);
        (below.and_then(lend), above.and_then(lend))
    }

    /// The first region that starts at or above `addr`. The caller holds `mmap_lock`.
    pub fn next_after(&self, addr: u64) -> Option<&T> {
        let root = self.root()?;
        match addr.checked_sub(1).and_then(|below| root.locate(below)) {
            Some(at) => at.next(),
            None => root.first(),
        }
        .and_then(lend)
    }

    /// The lowest region. The caller holds `mmap_lock`.
    pub fn first(&self) -> Option<&T> {
        self.root()?.first().and_then(lend)
    }

    /// The highest region. The caller holds `mmap_lock`.
    pub fn last(&self) -> Option<&T> {
        self.root()?.locate(u64::MAX).and_then(lend)
    }

    /// All regions in order. The caller holds `mmap_lock` and changes nothing while the iterator lives; a loop that
    /// changes the index goes on with [`find_vma`](Self::find_vma).
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        Regions { at: self.root().and_then(Root::first), end: u64::MAX }
    }

    /// All regions that meet `[start, end)`, in order; as for [`iter`](Self::iter).
    pub fn range(&self, start: u64, end: u64) -> impl Iterator<Item = &T> {
        Regions { at: if start < end { self.place_above(start) } else { None }, end }
    }

    #[inline]
    fn root(&self) -> Option<&Root<T>> {
        // Acquire; pairs with the Release in `roomy_root`: the root's contents are seen.
        let root = self.root.load(Ordering::Acquire);
        // SAFETY: null or a root of ours; none is freed before the index is dropped.
        unsafe { root.as_ref() }
    }

    #[inline]
    fn place_above(&self, addr: u64) -> Option<Place<'_, T>> {
        let root = self.root()?;
        match root.locate(addr) {
            Some(at) if addr < at.end() => Some(at),
            Some(at) => at.next(),
            None => root.first(),
        }
    }

    /// Where `item` is. The caller is the writer, and `item` is in the index.
    fn place_of(&self, item: NonNull<T>) -> Option<Place<'_, T>> {
        // SAFETY: an indexed item is valid by the contract of `insert`; that it is indexed is in those of `remove` and
        // `rekey`.
        let start = unsafe { item.as_ref() }.start();
        let at = self.root()?.locate(start).filter(|at| at.item() == Some(item));
        debug_assert!(at.is_some(), "no such region at {start:#x}");
        at
    }

    /// Enters an item where there is room for it, inside a section.
    fn enter(&self, root: &Root<T>, (index, slot): (usize, usize), (start, end): (u64, u64), item: NonNull<T>) {
        let Some(leaf) = root.leaf(index) else { return };
        leaf.insert(slot, start, end, item);
        if slot == 0 {
            root.set_key(index, start);
        }
        let at = Place { root, leaf, index, slot };
        let next = at.next_start();
        root.change_gap(index, 0, next - end);
        if let Some(before) = at.prev() {
            root.change_gap(before.index, next - before.end(), start - before.end());
        }
        self.len.store(self.len() + 1, Ordering::Relaxed);
    }

    fn new_leaf(&self) -> Result<NonNull<Leaf<T>>> {
        let (leaf, _) = HeapBox::into_non_null(self.heap.boxed(Leaf::vacant())?);
        self.held.fetch_add(size_of::<Leaf<T>>(), Ordering::Relaxed);
        Ok(leaf)
    }

    fn new_root(&self, capacity: usize) -> Result<HeapBox<Root<T>>> {
        let root = Root::new(&self.heap, capacity)?;
        self.held.fetch_add(Root::<T>::bytes(capacity), Ordering::Relaxed);
        Ok(root)
    }

    fn take_leaf(&self) -> Result<NonNull<Leaf<T>>> {
        let mut spares = self.spares.lock();
        let Some(leaf) = spares.leaves else {
            // The lock is not held over the allocation, which may be the embedder's code (G8).
            drop(spares);
            return self.new_leaf();
        };
        // SAFETY: a leaf of ours; none is freed before the index is dropped.
        spares.leaves = NonNull::new(unsafe { leaf.as_ref() }.next_spare.load(Ordering::Relaxed));
        spares.count -= 1;
        Ok(leaf)
    }

    /// Puts an empty leaf that no root lists on the list of spares.
    fn keep_leaf(&self, leaf: NonNull<Leaf<T>>) {
        let mut spares = self.spares.lock();
        let next = spares.leaves.map_or(null_mut(), NonNull::as_ptr);
        // SAFETY: a leaf of ours; none is freed before the index is dropped.
        unsafe { leaf.as_ref() }.next_spare.store(next, Ordering::Relaxed);
        spares.leaves = Some(leaf);
        spares.count += 1;
    }

    /// The root, with room for one more leaf.
    fn roomy_root(&self) -> Result<&Root<T>> {
        let old = self.root();
        if let Some(root) = old.filter(|root| root.len() < root.capacity()) {
            return Ok(root);
        }
        let capacity = old.map_or(0, Root::capacity);
        let spare = self.spares.lock().root.take();
        let mut new = match spare {
            Some(root) => root,
            None => self.new_root(FIRST_ROOT.max(2 * capacity))?,
        };
        debug_assert!(new.capacity() > capacity);
        if let Some(old) = old {
            new.copy_all(old);
        }
        new.older = old.map(NonNull::from);
        let (new, _) = HeapBox::into_non_null(new);
        // Release; pairs with the Acquire in `root`. A reader that is still in the old root finds the same leaves there
        // until a section makes it retry.
        self.root.store(new.as_ptr(), Ordering::Release);
        // SAFETY: a root of ours; none is freed before the index is dropped.
        Ok(unsafe { new.as_ref() })
    }
}

impl<T: Region> Drop for RegionIndex<T> {
    fn drop(&mut self) {
        let free = |leaf: NonNull<Leaf<T>>| {
            // SAFETY: (1) from `new_leaf`, which boxed it in this heap; (2) a leaf is in the newest root or on the list
            // of spares, once, so it is freed once; (3) `&mut self`: nobody can reach it any more.
            drop(unsafe { HeapBox::from_raw_in(leaf.as_ptr(), self.heap.clone()) });
        };
        let mut root = NonNull::new(self.root.load(Ordering::Relaxed));
        // SAFETY: a root of ours, freed below.
        if let Some(root) = root.map(|root| unsafe { root.as_ref() }) {
            while let Some(leaf) = root.len().checked_sub(1).and_then(|last| root.remove(last)) {
                free(leaf);
            }
        }
        while let Some(old) = root {
            // SAFETY: (1) from `new_root`, which boxed it in this heap; (2) each root is the `older` of one other at
            // most; (3) as for the leaves.
            let old = unsafe { HeapBox::from_raw_in(old.as_ptr(), self.heap.clone()) };
            root = old.older;
        }
        let mut spare = self.spares.lock().leaves;
        while let Some(leaf) = spare {
            // SAFETY: a spare leaf of ours, not freed yet.
            spare = NonNull::new(unsafe { leaf.as_ref() }.next_spare.load(Ordering::Relaxed));
            free(leaf);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
