//! The nodes of a [`RegionIndex`](super::RegionIndex): leaves of entries, and the root that lists the leaves.
//!
//! Everything in a published node is atomic, because a lock-free reader may read it while a writer shifts entries
//! about. What such a reader sees may be torn between entries; it is kept harmless by bounds alone: a node never goes
//! away while the index lives, a rank never exceeds the capacity of its node, and a pointer is either null or valid.
//! Whether the answer *means* anything is decided by the index's sequence counter.
//!
//! Loads and stores are Relaxed (published by the sequence counter, or by `mmap_lock`), except for the pointers to
//! leaves: these are followed before the counter is checked, so each is stored with Release and loaded with Acquire.

use crate::base::alloc::{Heap, HeapBox, HeapVec};
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use core::hint::select_unpredictable;
use core::ptr::{NonNull, null_mut};

/// Entries in a leaf. Small where schedules are explored, so that splits and merges are frequent.
pub(super) const SLOTS: usize = if cfg!(any(loom, miri)) { 8 } else { 64 };
/// A split leaves this many in each leaf, and two neighbours that have no more together become one.
pub(super) const HALF: usize = SLOTS / 2;
/// Starts of a leaf that are compared in one go.
const BLOCK: usize = 8;
/// Keys of the root that are counted rather than bisected.
const COUNTED: usize = 16;
/// The start of a vacant slot: above every address that is looked for.
const VACANT: u64 = u64::MAX;

/// A run of neighbouring regions. Slots from `len` on are vacant: start [`VACANT`], end 0, item null.
///
/// All fields: written by the writer alone (`mmap_lock` held for write) inside the sequence section.
#[repr(C, align(64))]
pub(super) struct Leaf<T> {
    starts: [AtomicU64; SLOTS],
    ends: [AtomicU64; SLOTS],
    items: [AtomicPtr<T>; SLOTS],
    len: AtomicUsize,
    /// The next leaf on the list of spares. Guarded by the lock of the spares.
    pub(super) next_spare: AtomicPtr<Leaf<T>>,
}

impl<T> Leaf<T> {
    pub(super) fn vacant() -> Self {
        Self {
            starts: core::array::from_fn(|_| AtomicU64::new(VACANT)),
            ends: core::array::from_fn(|_| AtomicU64::new(0)),
            items: core::array::from_fn(|_| AtomicPtr::new(null_mut())),
            len: AtomicUsize::new(0),
            next_spare: AtomicPtr::new(null_mut()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn start(&self, slot: usize) -> u64 {
        self.starts[slot].load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn end(&self, slot: usize) -> u64 {
        self.ends[slot].load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn item(&self, slot: usize) -> Option<NonNull<T>> {
        NonNull::new(self.items[slot].load(Ordering::Relaxed))
    }

    /// How many starts are not above `addr` (which is below [`VACANT`]): first which block, then where in it, both
    /// without a branch.
    #[inline]
    pub(super) fn rank(&self, addr: u64) -> usize {
        let upto = |start: &AtomicU64| usize::from(start.load(Ordering::Relaxed) <= addr);
        let base = BLOCK * (1..SLOTS / BLOCK).map(|block| upto(&self.starts[block * BLOCK])).sum::<usize>();
        base + self.starts[base..base + BLOCK].iter().map(upto).sum::<usize>()
    }

    pub(super) fn set_bounds(&self, slot: usize, start: u64, end: u64) {
        self.starts[slot].store(start, Ordering::Relaxed);
        self.ends[slot].store(end, Ordering::Relaxed);
    }

    fn set(&self, slot: usize, start: u64, end: u64, item: *mut T) {
        self.set_bounds(slot, start, end);
        self.items[slot].store(item, Ordering::Relaxed);
    }

    fn copy(&self, slot: usize, from: &Self, of: usize) {
        self.set(slot, from.start(of), from.end(of), from.items[of].load(Ordering::Relaxed));
    }

    /// A new entry at `slot`; those from there on move up. The leaf is not full.
    pub(super) fn insert(&self, slot: usize, start: u64, end: u64, item: NonNull<T>) {
        let len = self.len();
        for k in (slot..len).rev() {
            self.copy(k + 1, self, k);
        }
        self.set(slot, start, end, item.as_ptr());
        self.len.store(len + 1, Ordering::Relaxed);
    }

    /// The entry at `slot` goes; those above move down.
    pub(super) fn remove(&self, slot: usize) {
        let last = self.len() - 1;
        for k in slot..last {
            self.copy(k, self, k + 1);
        }
        self.set(last, VACANT, 0, null_mut());
        self.len.store(last, Ordering::Relaxed);
    }

    /// The entries of `other` from `slot` on move to the end of this leaf, which has room for them.
    pub(super) fn take_tail(&self, other: &Self, slot: usize) {
        let (len, end) = (self.len(), other.len());
        for k in slot..end {
            self.copy(len + k - slot, other, k);
            other.set(k, VACANT, 0, null_mut());
        }
        self.len.store(len + end - slot, Ordering::Relaxed);
        other.len.store(slot, Ordering::Relaxed);
    }
}

/// The list of leaves in order of address. Slots from `len` on are stale.
///
/// All fields: written by the writer alone (`mmap_lock` held for write) inside the sequence section.
pub(super) struct Root<T> {
    len: AtomicUsize,
    /// The start of each leaf's first entry.
    keys: HeapVec<AtomicU64>,
    /// The length of the largest gap behind an entry of each leaf. The gap behind a leaf's last entry reaches to the
    /// next leaf's key, the last of all to the highest address.
    gaps: HeapVec<AtomicU64>,
    leaves: HeapVec<AtomicPtr<Leaf<T>>>,
    /// The root that this one replaced: lock-free readers may still be in it. Fixed before this one is published.
    pub(super) older: Option<NonNull<Root<T>>>,
}

impl<T> Root<T> {
    /// An empty root for `capacity` leaves.
    pub(super) fn new(heap: &Heap, capacity: usize) -> Result<HeapBox<Self>> {
        let (mut keys, mut gaps, mut leaves) = (heap.vec(), heap.vec(), heap.vec());
        keys.try_reserve_exact(capacity).map_err(|_| Error::NoMemory)?;
        gaps.try_reserve_exact(capacity).map_err(|_| Error::NoMemory)?;
        leaves.try_reserve_exact(capacity).map_err(|_| Error::NoMemory)?;
        keys.resize_with(capacity, || AtomicU64::new(VACANT));
        gaps.resize_with(capacity, || AtomicU64::new(0));
        leaves.resize_with(capacity, || AtomicPtr::new(null_mut()));
        heap.boxed(Self { len: AtomicUsize::new(0), keys, gaps, leaves, older: None })
    }

    /// Bytes that a root of `capacity` takes.
    pub(super) const fn bytes(capacity: usize) -> usize {
        size_of::<Self>() + capacity * (2 * size_of::<AtomicU64>() + size_of::<AtomicPtr<Leaf<T>>>())
    }

    pub(super) fn capacity(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn key(&self, index: usize) -> u64 {
        self.keys[index].load(Ordering::Relaxed)
    }

    pub(super) fn set_key(&self, index: usize, key: u64) {
        self.keys[index].store(key, Ordering::Relaxed);
    }

    /// Where the gap behind the last entry of leaf `index` ends.
    #[inline]
    pub(super) fn key_after(&self, index: usize) -> u64 {
        if index + 1 < self.len() { self.key(index + 1) } else { u64::MAX }
    }

    #[inline]
    pub(super) fn gap(&self, index: usize) -> u64 {
        self.gaps[index].load(Ordering::Relaxed)
    }

    /// A gap behind an entry of leaf `index` had the length `was` and has the length `now`.
    pub(super) fn change_gap(&self, index: usize, was: u64, now: u64) {
        let largest = self.gap(index);
        if now >= largest {
            self.gaps[index].store(now, Ordering::Relaxed);
        } else if was == largest {
            self.measure_gap(index);
        }
    }

    fn measure_gap(&self, index: usize) {
        let Some(leaf) = self.leaf(index) else { return };
        let len = leaf.len();
        let Some(last) = len.checked_sub(1) else { return };
        let (starts, ends) = (&leaf.starts[1..len], &leaf.ends[..last]);
        let lengths =
            starts.iter().zip(ends).map(|(next, end)| next.load(Ordering::Relaxed) - end.load(Ordering::Relaxed));
        let largest = lengths.fold(self.key_after(index) - leaf.end(last), u64::max);
        self.gaps[index].store(largest, Ordering::Relaxed);
    }

    /// Leaf `index`; none where a lock-free reader runs ahead of the writer.
    #[inline]
    pub(super) fn leaf(&self, index: usize) -> Option<&Leaf<T>> {
        // Acquire; pairs with the Release in `put`: the leaf's first contents are seen.
        let leaf = self.leaves.get(index)?.load(Ordering::Acquire);
        // SAFETY: null or a leaf of the index, which frees none while it lives, and it outlives its roots' borrows.
        unsafe { leaf.as_ref() }
    }

    fn put(&self, index: usize, key: u64, gap: u64, leaf: *mut Leaf<T>) {
        self.set_key(index, key);
        self.gaps[index].store(gap, Ordering::Relaxed);
        // Release, wherever the pointer moves to; pairs with the Acquire in `leaf`.
        self.leaves[index].store(leaf, Ordering::Release);
    }

    fn copy(&self, index: usize, from: &Self, of: usize) {
        self.put(index, from.key(of), from.gap(of), from.leaves[of].load(Ordering::Relaxed));
    }

    /// Lists `leaf` at `index`; those from there on move up. The root is not full.
    pub(super) fn insert(&self, index: usize, key: u64, leaf: NonNull<Leaf<T>>) {
        let len = self.len();
        for k in (index..len).rev() {
            self.copy(k + 1, self, k);
        }
        self.put(index, key, 0, leaf.as_ptr());
        self.len.store(len + 1, Ordering::Relaxed);
    }

    /// Takes leaf `index` off the list.
    pub(super) fn remove(&self, index: usize) -> Option<NonNull<Leaf<T>>> {
        let last = self.len() - 1;
        let leaf = self.leaves[index].load(Ordering::Relaxed);
        for k in index..last {
            self.copy(k, self, k + 1);
        }
        self.len.store(last, Ordering::Relaxed);
        NonNull::new(leaf)
    }

    /// Lists what `from` lists. This root is empty, not published, and as large.
    pub(super) fn copy_all(&self, from: &Self) {
        for index in 0..from.len() {
            self.copy(index, from, index);
        }
        self.len.store(from.len(), Ordering::Relaxed);
    }

    /// Makes room for one more entry around `slot` of the full leaf `index`, with the leaf `fresh`. Returns where the
    /// entry, of key `start`, now belongs. At either end of the index the entry gets `fresh` for itself, so that
    /// regions that arrive in order fill their leaves.
    pub(super) fn split(&self, index: usize, slot: usize, start: u64, fresh: NonNull<Leaf<T>>) -> (usize, usize) {
        if slot == 0 && index == 0 {
            self.insert(0, start, fresh);
            return (0, 0);
        }
        let Some(leaf) = self.leaf(index) else { return (index, slot) };
        if slot == SLOTS && index + 1 == self.len() {
            self.insert(index + 1, start, fresh);
            return (index + 1, 0);
        }
        // SAFETY: a spare leaf of the index, which frees none while it lives.
        let upper = unsafe { fresh.as_ref() };
        upper.take_tail(leaf, HALF);
        self.insert(index + 1, upper.start(0), fresh);
        self.measure_gap(index);
        self.measure_gap(index + 1);
        if slot > HALF { (index + 1, slot - HALF) } else { (index, slot) }
    }

    /// Merges leaf `index + 1` into leaf `index` if both exist and fill no more than half a leaf. Returns the emptied
    /// one.
    pub(super) fn merge(&self, index: usize) -> Option<NonNull<Leaf<T>>> {
        if index + 1 >= self.len() {
            return None;
        }
        let (lower, upper) = (self.leaf(index)?, self.leaf(index + 1)?);
        if lower.len() + upper.len() > HALF {
            return None;
        }
        lower.take_tail(upper, 0);
        self.change_gap(index, 0, self.gap(index + 1));
        self.remove(index + 1)
    }

    /// The item whose bounds contain `addr`.
    #[inline]
    pub(super) fn holder(&self, addr: u64) -> Option<NonNull<T>> {
        let leaf = self.leaf(self.rank(addr).checked_sub(1)?)?;
        let slot = leaf.rank(addr).checked_sub(1)?;
        // A vacant slot, where the highest address leads, ends at 0.
        if addr < leaf.end(slot) { leaf.item(slot) } else { None }
    }

    /// The place of the last entry that starts at or below `addr`.
    #[inline]
    pub(super) fn locate(&self, addr: u64) -> Option<Place<'_, T>> {
        // No region starts at the highest address, where vacant slots are.
        let addr = addr.min(VACANT - 1);
        let index = self.rank(addr).checked_sub(1)?;
        let leaf = self.leaf(index)?;
        Some(Place { root: self, leaf, index, slot: leaf.rank(addr).checked_sub(1)? })
    }

    /// The place of the first entry.
    pub(super) fn first(&self) -> Option<Place<'_, T>> {
        self.place(0)
    }

    /// How many keys are not above `addr`.
    #[inline]
    fn rank(&self, addr: u64) -> usize {
        let keys = &self.keys[..self.len().min(self.keys.len())];
        let upto = |key: &AtomicU64| usize::from(key.load(Ordering::Relaxed) <= addr);
        let (mut base, mut left) = (0, keys.len());
        while left > COUNTED {
            let half = left / 2;
            base = select_unpredictable(upto(&keys[base + half - 1]) == 1, base + half, base);
            left -= half;
        }
        base + keys[base..base + left].iter().map(upto).sum::<usize>()
    }

    fn place(&self, index: usize) -> Option<Place<'_, T>> {
        if index >= self.len() {
            return None;
        }
        Some(Place { root: self, leaf: self.leaf(index)?, index, slot: 0 })
    }
}

/// An entry's place. It means what it says until a writer's next change; after that it is merely safe to use.
pub(super) struct Place<'a, T> {
    pub(super) root: &'a Root<T>,
    pub(super) leaf: &'a Leaf<T>,
    pub(super) index: usize,
    pub(super) slot: usize,
}

impl<T> Clone for Place<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Place<'_, T> {}

impl<'a, T> Place<'a, T> {
    #[inline]
    pub(super) fn start(self) -> u64 {
        self.leaf.start(self.slot)
    }

    #[inline]
    pub(super) fn end(self) -> u64 {
        self.leaf.end(self.slot)
    }

    #[inline]
    pub(super) fn item(self) -> Option<NonNull<T>> {
        self.leaf.item(self.slot)
    }

    #[inline]
    pub(super) fn next(self) -> Option<Place<'a, T>> {
        let slot = self.slot + 1;
        if slot < self.leaf.len() { Some(Place { slot, ..self }) } else { self.root.place(self.index + 1) }
    }

    pub(super) fn prev(self) -> Option<Place<'a, T>> {
        if let Some(slot) = self.slot.checked_sub(1) {
            return Some(Place { slot, ..self });
        }
        let index = self.index.checked_sub(1)?;
        let leaf = self.root.leaf(index)?;
        Some(Place { leaf, index, slot: leaf.len().checked_sub(1)?, ..self })
    }

    /// Where the gap behind this entry ends.
    pub(super) fn next_start(self) -> u64 {
        self.next().map_or(u64::MAX, Place::start)
    }
}
