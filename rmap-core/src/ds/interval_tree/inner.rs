//! Inner nodes: up to 31 children, each with a lower bound of its intervals and the largest last offset below it.
//!
//! ```text
//!            child 0          child 1          child 2
//!  first     0                100              260          all intervals below child 1 are (100, 120) or above,
//!  last      0                120              261          and below (260, 261)
//!  max       150              300              270          some interval below child 1 ends at 300, none later
//! ```
//!
//! The bound of child 0 is always the least interval: the node's own bound stands in its parent. A bound need not be
//! that of an interval that is there; a maximum always is.

use super::interval::Interval;
use super::word::Word;
use crate::ds::pool::{Block, NeedNodes, NodePool, Size};
use core::cell::Cell;

/// Children at most.
pub(super) const FANOUT: usize = 31;
/// Children at least, except in a root, which has two.
pub(super) const MIN: usize = 8;
/// Levels of inner nodes at most: with `MIN` children each there would be more leaves than a slab has slots.
pub(super) const LEVELS: usize = 12;

const _: () =
    assert!(2 * MIN.pow(LEVELS as u32 - 1) as u128 > 1 << 32 && LEVELS as u64 + 2 == NodePool::LARGEST_PER_INSERT);

/// The body of an inner node. The first `count` of each array mean something. A search reads `first` and one of
/// `below`; `last` decides only between intervals that begin together.
#[repr(C)]
struct Body {
    count: Cell<usize>,
    first: [Cell<u64>; FANOUT],
    last: [Cell<u64>; FANOUT],
    below: [Below; FANOUT],
}

/// A child and the largest last offset below it.
#[repr(C)]
struct Below {
    max: Cell<u64>,
    child: Cell<Word>,
}

const _: () = assert!(size_of::<Body>() <= Size::B1024.words() * 8 && FANOUT <= u64::BITS as usize);

/// An inner node that is part of a set.
pub(super) struct Inner(Block);

impl Inner {
    /// The inner node in `block`.
    ///
    /// # Safety
    /// `new` made a node of the block, which is not given back while the result is used, and the caller holds the set's
    /// lock: exclusively for what changes the node.
    #[inline]
    pub(super) unsafe fn at(block: Block) -> Self {
        Self(block)
    }

    /// A node without children.
    pub(super) fn new(pool: &NodePool) -> Result<Self, NeedNodes> {
        let node = Self(pool.take(Size::B1024)?);
        node.body().count.set(0);
        Ok(node)
    }

    /// Gives the node back.
    ///
    /// # Safety
    /// It came from this pool, and no word leads to it.
    pub(super) unsafe fn give(self, pool: &NodePool) {
        // SAFETY: the caller's contract.
        unsafe { pool.give(self.0, Size::B1024) };
    }

    /// The block that the node is in.
    pub(super) fn block(&self) -> Block {
        self.0
    }

    #[inline]
    fn body(&self) -> &Body {
        // SAFETY: (1) an `Inner` is made by `new` from a block of that size, or by `at`, whose contract names such a
        // block; (2) a block is constructed with all words written, and any word is a valid `u64`, `usize` or `Word`.
        unsafe { self.0.body().cast().as_ref() }
    }

    /// How many children there are.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.body().count.get().min(FANOUT)
    }

    /// The place of the child at `at`.
    #[inline]
    pub(super) fn child(&self, at: usize) -> &Cell<Word> {
        &self.body().below[at].child
    }

    /// The largest last offset below the child at `at`.
    #[inline]
    pub(super) fn max(&self, at: usize) -> &Cell<u64> {
        &self.body().below[at].max
    }

    /// The lower bound of the child at `at`.
    pub(super) fn bound(&self, at: usize) -> Interval {
        Interval { first: self.body().first[at].get(), last: self.body().last[at].get() }
    }

    /// Sets the lower bound of the child at `at`.
    pub(super) fn set_bound(&self, at: usize, bound: Interval) {
        self.body().first[at].set(bound.first);
        self.body().last[at].set(bound.last);
    }

    /// Raises the maximum of the child at `at`.
    #[inline]
    pub(super) fn raise(&self, at: usize, last: u64) {
        let max = self.max(at);
        if max.get() < last {
            max.set(last);
        }
    }

    /// The largest last offset below the node.
    pub(super) fn max_last(&self) -> u64 {
        self.body().below[..self.count()].iter().map(|below| below.max.get()).max().unwrap_or(0)
    }

    /// The child below which `interval` is, or has to be.
    #[inline]
    pub(super) fn child_for(&self, interval: Interval) -> usize {
        let firsts = &self.body().first[..self.count()];
        let mut above: usize = firsts.iter().map(|first| usize::from(first.get() <= interval.first)).sum();
        // The first bound is the least interval, so this ends there.
        while self.bound(above - 1) > interval {
            above -= 1;
        }
        above - 1
    }

    /// The children below which something may meet `query`, one bit each.
    #[inline]
    pub(super) fn hits(&self, query: Interval) -> u64 {
        let body = self.body();
        let mut hits = 0;
        for at in 0..self.count() {
            let hit = u64::from(body.first[at].get() <= query.last) & u64::from(self.max(at).get() >= query.first);
            hits |= hit << at;
        }
        hits
    }

    /// Inserts a child at `at`. The node is not full.
    pub(super) fn insert(&self, at: usize, bound: Interval, max: u64, child: Word) {
        let body = self.body();
        let count = self.count();
        for to in (at + 1..=count).rev() {
            self.copy(to, self, to - 1);
        }
        self.set_bound(at, bound);
        self.max(at).set(max);
        self.child(at).set(child);
        body.count.set(count + 1);
    }

    /// Removes the child at `at`.
    pub(super) fn remove(&self, at: usize) {
        self.close(at, 1);
        self.set_bound(0, Interval::LEAST);
    }

    /// Moves the `n` children of `from` that begin at `skip` to `at`. The two are neighbours, with true bounds.
    fn splice(&self, at: usize, from: &Self, skip: usize, n: usize) {
        let count = self.count();
        for to in (at..count).rev() {
            self.copy(to + n, self, to);
        }
        for i in 0..n {
            self.copy(at + i, from, skip + i);
        }
        self.body().count.set(count + n);
        from.close(skip, n);
    }

    fn close(&self, at: usize, n: usize) {
        let count = self.count() - n;
        for to in at..count {
            self.copy(to, self, to + n);
        }
        self.body().count.set(count);
    }

    fn copy(&self, to: usize, from: &Self, at: usize) {
        self.set_bound(to, from.bound(at));
        self.max(to).set(from.max(at).get());
        self.child(to).set(from.child(at).get());
    }

    /// Moves children between two neighbours so that the left one has `keep`; `bound` is the right one's lower bound.
    /// Returns the new one.
    pub(super) fn level(&self, right: &Self, bound: Interval, keep: usize) -> Interval {
        right.set_bound(0, bound);
        match self.count() {
            count if count < keep => self.splice(count, right, 0, keep - count),
            count => right.splice(0, self, keep, count - keep),
        }
        let bound = right.bound(0);
        right.set_bound(0, Interval::LEAST);
        bound
    }

    /// Moves all children of the right neighbour, whose lower bound is `bound`, behind this one's.
    pub(super) fn absorb(&self, right: &Self, bound: Interval) {
        right.set_bound(0, bound);
        self.splice(self.count(), right, 0, right.count());
    }
}
