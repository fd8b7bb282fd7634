//! Leaves: up to 62 cells in the order of their intervals.
//!
//! ```text
//!           0        1               2 ..                 2 + capacity ..
//!          +--------+---------------+--------------------+--------------------+
//!  body    | base   | count, size   | keys, ascending    | cells: item, group |
//!          +--------+---------------+--------------------+--------------------+
//! ```
//!
//! | bits of a key | meaning |
//! |---|---|
//! | 32 ..= 63 | `first - base`, exact: a leaf covers the 2^32 page offsets from its base on |
//! | 0 ..= 31, below `u32::MAX` | `last - base`, exact |
//! | 0 ..= 31, `u32::MAX` | `last - base` is that or more: the items know |
//!
//! So one comparison of integers orders two intervals, and an entry costs 16 bytes. Intervals further apart than 2^32
//! pages (16 TiB) are in different leaves, however few there are.
//!
//! | block | 64 | 128 | 256 | 512 | 1,024 |
//! |---|---|---|---|---|---|
//! | cells | 2 | 6 | 14 | 30 | 62 |
//!
//! A leaf begins in the smallest block and moves to the next size when it is full; a leaf of the largest splits.

use super::Indexed;
use super::interval::Interval;
use super::word::Word;
use crate::ds::pool::{Block, NeedNodes, NodePool, Size};
use core::cell::Cell;
use core::ptr::NonNull;

/// The first words of a leaf's body.
#[repr(C)]
struct Header {
    base: Cell<u64>,
    count: Cell<u32>,
    size: Size,
}

const HEADER_WORDS: usize = size_of::<Header>() / 8;
/// A saturated `last`.
const FAR: u32 = u32::MAX;

const fn capacity(size: Size) -> usize {
    (size.words() - HEADER_WORDS) / 2
}

const _: () = assert!(HEADER_WORDS == 2 && capacity(Size::B64) == 2 && capacity(Leaf::LARGEST) <= u64::BITS as usize);

/// A leaf that is part of a set.
pub(super) struct Leaf(Block);

impl Leaf {
    /// The size of the largest leaves.
    pub(super) const LARGEST: Size = Size::B1024;

    /// The leaf in `block`.
    ///
    /// # Safety
    /// `new` made a leaf of the block, which is not given back while the result is used, and the caller holds the set's
    /// lock: exclusively for what changes the leaf.
    #[inline]
    pub(super) unsafe fn at(block: Block) -> Self {
        Self(block)
    }

    /// An empty leaf.
    pub(super) fn new(pool: &NodePool, size: Size, base: u64) -> Result<Self, NeedNodes> {
        let block = pool.take(size)?;
        let header = Header { base: Cell::new(base), count: Cell::new(0), size };
        // SAFETY: the block is fresh from the pool, at least 64 bytes, and nobody else knows it.
        unsafe { block.body().cast().write(header) };
        Ok(Self(block))
    }

    /// A leaf of the smallest size with one entry.
    pub(super) fn with(pool: &NodePool, base: u64, interval: Interval, cell: Word) -> Result<Self, NeedNodes> {
        let leaf = Self::new(pool, Size::B64, base)?;
        leaf.insert(0, interval, cell);
        Ok(leaf)
    }

    /// The base of a leaf in whose middle `first` lies.
    pub(super) const fn base_around(first: u64) -> u64 {
        first.saturating_sub(1 << 31)
    }

    /// Gives the leaf back.
    ///
    /// # Safety
    /// It came from this pool, and no word leads to it.
    pub(super) unsafe fn give(self, pool: &NodePool) {
        // SAFETY: the caller's contract.
        unsafe { pool.give(self.0, self.header().size) };
    }

    /// The block that the leaf is in.
    pub(super) fn block(&self) -> Block {
        self.0
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: a `Leaf` is made by `new`, which writes the header, or by `at`, whose contract names that leaf.
        unsafe { self.0.body().cast().as_ref() }
    }

    #[inline]
    fn key_ptr(&self, at: usize) -> NonNull<u64> {
        debug_assert!(at <= self.capacity());
        // SAFETY: the body has `HEADER_WORDS + 2 * capacity` words or one more.
        unsafe { self.0.body().add(HEADER_WORDS + at) }
    }

    #[inline]
    fn cell_ptr(&self, at: usize) -> NonNull<Word> {
        debug_assert!(at <= self.capacity());
        // SAFETY: as in `key_ptr`.
        unsafe { self.0.body().add(HEADER_WORDS + self.capacity() + at).cast() }
    }

    #[inline]
    fn keys(&self) -> &[Cell<u64>] {
        // SAFETY: the first `count` keys are written; they change under the set's exclusive lock only, through cells or
        // while no slice is in use.
        unsafe { core::slice::from_raw_parts(self.key_ptr(0).cast().as_ptr(), self.count()) }
    }

    /// The cells, in the order of their intervals.
    #[inline]
    pub(super) fn cells(&self) -> &[Cell<Word>] {
        // SAFETY: as in `keys`.
        unsafe { core::slice::from_raw_parts(self.cell_ptr(0).cast().as_ptr(), self.count()) }
    }

    /// How many cells there are.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.header().count.get() as usize
    }

    fn set_count(&self, count: usize) {
        self.header().count.set(count as u32);
    }

    #[inline]
    fn capacity(&self) -> usize {
        capacity(self.header().size)
    }

    /// The offset from which the leaf counts.
    #[inline]
    pub(super) fn base(&self) -> u64 {
        self.header().base.get()
    }

    /// Whether an interval that begins at `first` can be written in this leaf's keys.
    #[inline]
    pub(super) fn covers(&self, first: u64) -> bool {
        first.checked_sub(self.base()).is_some_and(|first| u32::try_from(first).is_ok())
    }

    /// Whether one more fits without a larger block.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.count() == self.capacity()
    }

    /// Whether most of the block is unused.
    #[inline]
    pub(super) fn is_sparse(&self) -> bool {
        self.count() * 4 < self.capacity()
    }

    #[inline]
    fn pack(&self, interval: Interval) -> u64 {
        debug_assert!(self.covers(interval.first));
        let first = interval.first - self.base();
        let last = (interval.last - self.base()).min(u64::from(FAR));
        (first << 32) | last
    }

    /// The interval of the cell at `at`.
    #[inline]
    pub(super) fn interval<T: Indexed>(&self, at: usize) -> Interval {
        let key = self.keys()[at].get();
        let exact = Interval { first: self.base() + (key >> 32), last: self.base() + (key & u64::from(FAR)) };
        if key as u32 == FAR { self.interval_far::<T>(at) } else { exact }
    }

    #[cold]
    fn interval_far<T: Indexed>(&self, at: usize) -> Interval {
        // SAFETY: a cell of a leaf in the set is an item or a group that has a member.
        unsafe { Interval::of_cell::<T>(self.cells()[at].get()) }
    }

    /// How many keys are below `key`. Counted, not bisected: every eighth first, which touches all lines of a leaf that
    /// is not in the cache at once, then the seven between two of these.
    #[inline]
    fn lower_bound(&self, key: u64) -> usize {
        const STRIDE: usize = 8;
        let keys = self.keys();
        let below = |keys: &[Cell<u64>]| keys.iter().map(|k| usize::from(k.get() < key)).sum::<usize>();
        let strides: usize = keys.iter().step_by(STRIDE).map(|k| usize::from(k.get() < key)).sum();
        let Some(before) = strides.checked_sub(1) else { return 0 };
        let first = before * STRIDE + 1;
        first + below(&keys[first..keys.len().min(first + STRIDE - 1)])
    }

    /// Where the cell of this interval is, or else where it would have to be.
    #[inline]
    pub(super) fn find<T: Indexed>(&self, interval: Interval) -> Result<usize, usize> {
        if !self.covers(interval.first) {
            return Err(if interval.first < self.base() { 0 } else { self.count() });
        }
        let key = self.pack(interval);
        let at = self.lower_bound(key);
        if key as u32 == FAR {
            return self.find_far::<T>(interval, at);
        }
        if self.keys().get(at).is_some_and(|k| k.get() == key) { Ok(at) } else { Err(at) }
    }

    #[cold]
    fn find_far<T: Indexed>(&self, interval: Interval, mut at: usize) -> Result<usize, usize> {
        while at < self.count() {
            let found = self.interval::<T>(at);
            if found >= interval {
                return if found == interval { Ok(at) } else { Err(at) };
            }
            at += 1;
        }
        Err(at)
    }

    /// Where `cell` is, whose interval is `interval`. No item is read.
    #[inline]
    pub(super) fn position(&self, interval: Interval, cell: Word) -> Option<usize> {
        if !self.covers(interval.first) {
            return None;
        }
        let key = self.pack(interval);
        let at = self.lower_bound(key);
        // Several lasts can be too far for a key.
        (at..self.count()).take_while(|&at| self.keys()[at].get() == key).find(|&at| self.cells()[at].get() == cell)
    }

    /// Inserts a cell at `at`, where [`find`](Self::find) said. The leaf is not full and covers it.
    #[inline]
    pub(super) fn insert(&self, at: usize, interval: Interval, cell: Word) {
        let key = self.pack(interval);
        let behind = self.count() - at;
        debug_assert!(!self.is_full());
        // SAFETY: `at + behind + 1` is at most the capacity, so both copies stay inside their arrays; no slice is in
        // use.
        unsafe {
            self.key_ptr(at).copy_to(self.key_ptr(at).add(1), behind);
            self.cell_ptr(at).copy_to(self.cell_ptr(at).add(1), behind);
            self.key_ptr(at).write(key);
            self.cell_ptr(at).write(cell);
        }
        self.set_count(self.count() + 1);
    }

    /// Removes the cell at `at`.
    #[inline]
    pub(super) fn remove(&self, at: usize) {
        let behind = self.count() - at - 1;
        // SAFETY: `at + 1 + behind` is the count, so both copies stay inside their arrays; no slice is in use.
        unsafe {
            self.key_ptr(at).copy_from(self.key_ptr(at).add(1), behind);
            self.cell_ptr(at).copy_from(self.cell_ptr(at).add(1), behind);
        }
        self.set_count(self.count() - 1);
    }

    /// The largest last offset.
    pub(super) fn max_last<T: Indexed>(&self) -> u64 {
        let max = self.keys().iter().map(|k| k.get() as u32).max().unwrap_or(0);
        if max == FAR { self.max_far::<T>() } else { self.base() + u64::from(max) }
    }

    #[cold]
    fn max_far<T: Indexed>(&self) -> u64 {
        (0..self.count()).map(|at| self.interval::<T>(at).last).max().unwrap_or(0)
    }

    /// The cells whose intervals meet `query`, one bit each.
    #[inline]
    pub(super) fn hits<T: Indexed>(&self, query: Interval) -> u64 {
        let Some(last) = query.last.checked_sub(self.base()) else { return 0 };
        let last = last.min(u64::from(u32::MAX)) as u32;
        let first = query.first.saturating_sub(self.base()).min(u64::from(FAR)) as u32;
        let mut hits = 0;
        for (at, key) in self.keys().iter().enumerate() {
            let key = key.get();
            // Both conditions are computed for each key: a branch would be mispredicted at every other one.
            let hit = u64::from((key >> 32) as u32 <= last) & u64::from(key as u32 >= first);
            hits |= hit << at;
        }
        if first == FAR && hits != 0 { self.hits_far::<T>(query, hits) } else { hits }
    }

    #[cold]
    fn hits_far<T: Indexed>(&self, query: Interval, hits: u64) -> u64 {
        let meets = |at: &u32| hits >> at & 1 != 0 && self.interval::<T>(*at as usize).meets(query);
        (0..u64::BITS).filter(meets).fold(0, |hits, at| hits | 1 << at)
    }

    /// Counts from `base`, which is not above the leaf's. `false`, and nothing changed, if an interval begins too far
    /// from it.
    pub(super) fn rebase(&self, base: u64) -> bool {
        let up = self.base() - base;
        let end = self.keys().last().map_or(0, |key| key.get() >> 32);
        if up > u64::from(u32::MAX) - end {
            return false;
        }
        for key in self.keys() {
            let (first, last) = (key.get() >> 32, key.get() & u64::from(FAR));
            key.set(((first + up) << 32) | (last + up).min(u64::from(FAR)));
        }
        self.header().base.set(base);
        true
    }

    /// Moves the cells of `from`, from the `skip`-th on, to `at`. The two have one base, and there is room.
    pub(super) fn splice(&self, at: usize, from: &Self, skip: usize) {
        let moved = from.count() - skip;
        let behind = self.count() - at;
        debug_assert!(self.base() == from.base() && self.count() + moved <= self.capacity());
        // SAFETY: (1) `at + moved + behind` is at most the capacity, `skip + moved` the other's count; (2) two leaves
        // do not overlap; (3) no slice is in use.
        unsafe {
            self.key_ptr(at).copy_to(self.key_ptr(at).add(moved), behind);
            self.cell_ptr(at).copy_to(self.cell_ptr(at).add(moved), behind);
            from.key_ptr(skip).copy_to_nonoverlapping(self.key_ptr(at), moved);
            from.cell_ptr(skip).copy_to_nonoverlapping(self.cell_ptr(at), moved);
        }
        self.set_count(self.count() + moved);
        from.set_count(skip);
    }

    /// The next size, if there is one.
    pub(super) fn larger(&self) -> Option<Size> {
        self.header().size.larger(Self::LARGEST)
    }

    /// Whether this leaf can take in `more` cells and have room left.
    pub(super) fn has_room_for(&self, more: usize) -> bool {
        (self.count() + more) * 4 <= self.capacity() * 3
    }

    /// Panics if the leaf contradicts itself or its items.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants<T: Indexed>(&self) {
        assert!(self.count() > 0 && self.count() <= self.capacity());
        for at in 0..self.count() {
            // SAFETY: as in `interval_far`.
            let real = unsafe { Interval::of_cell::<T>(self.cells()[at].get()) };
            assert_eq!(self.interval::<T>(at), real, "a key is not its item's");
            assert!(at == 0 || self.interval::<T>(at - 1) < real, "cells out of order");
        }
    }
}
