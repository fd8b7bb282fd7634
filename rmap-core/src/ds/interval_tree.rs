//! A set of intervals of page offsets: who maps offset x, in order?
//!
//! The kernel keeps one such tree in each file (`i_mmap`) and each `anon_vma`; most of them hold one VMA, many hold the
//! equal VMAs of a fork family, few hold intervals that differ. So the set takes one of five shapes, and is one word in
//! each:
//!
//! ```text
//!  empty            0
//!  one item         root --> item                                          no memory beyond the word
//!  equal items      root --> group: chunk -> chunk -> chunk                 about 9 bytes an item
//!  2 .. 62 cells    root --> leaf
//!  more             root --> inner node --+--> inner node --+--> leaf       about 25 bytes an item
//!                                         |                 +--> leaf --> cells
//!                                         +--> inner node   :
//!
//!       inner node:  | lower bound, largest last, child | ... up to 31
//!       leaf:        | first, last, cell | ... up to 62, ascending
//!       cell:        an item, or a group of items whose intervals are equal
//! ```
//!
//! It is a B+tree over the *distinct* intervals; equal ones share a cell, a [`group`](crate::ds::group) that keeps the
//! order of insertion and forgets a member without a search. A look-up prunes with the largest last offset below each
//! child.
//!
//! # Order
//!
//! A walk visits smaller `first` before larger, and equal intervals in the order of their insertion: a parent's VMA
//! before its child's, the source of a move before its target. Callers rely on that and no more. (Intervals that begin
//! together and end apart are visited in the order of their `last`.)
//!
//! # Locking and memory
//!
//! The set has no lock: its owner's reader-writer lock is held shared for what takes `&self`, exclusively for what
//! takes `&mut self`. Neither insertion nor removal calls an allocator. An insertion that finds the [`NodePool`] empty
//! changes nothing and returns [`NeedNodes`]; removal never needs memory.
//!
//! # Depth
//!
//! An inner node other than the root has at least 8 children, so twelve levels of them lead to more leaves than the
//! pool can hold. A leaf may be nearly empty only where its neighbours are too full, or too far away, to take its
//! cells.

mod inner;
mod insert;
mod interval;
mod leaf;
mod remove;
#[cfg(all(test, not(loom)))]
mod tests;
mod walk;
mod word;

pub use crate::ds::group::Place;
pub use crate::ds::pool::{NeedNodes, NodePool};
pub use walk::Iter;

use core::marker::PhantomData;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use interval::Interval;
use word::{View, Word};

/// What a set can hold: something that knows its interval of page offsets.
pub trait Indexed {
    /// The first page offset.
    fn first(&self) -> u64;
    /// The last page offset, at least [`first`](Self::first).
    fn last(&self) -> u64;
}

/// A set of items, by their intervals. See the [module](self).
///
/// Dropping a set that is not empty leaves its nodes in the pool, counted as live.
pub struct IntervalTree<T: Indexed> {
    /// The whole set. Guarded by the owner's lock.
    root: Word,
    items: PhantomData<*const T>,
}

const _: () = assert!(size_of::<IntervalTree<AnItem>>() == 8);

/// For the assertion above: a set is one word whatever it holds.
struct AnItem;
impl Indexed for AnItem {
    fn first(&self) -> u64 {
        0
    }
    fn last(&self) -> u64 {
        0
    }
}

// SAFETY: a set gives out `&T` and nothing else of `T`; its nodes are reached through it alone.
unsafe impl<T: Indexed + Sync> Send for IntervalTree<T> {}
// SAFETY: as for Send; what takes `&self` changes nothing.
unsafe impl<T: Indexed + Sync> Sync for IntervalTree<T> {}

impl<T: Indexed> Default for IntervalTree<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Indexed> IntervalTree<T> {
    /// An empty set.
    pub const fn new() -> Self {
        const { assert!(align_of::<T>() >= 4, "two low bits of an item's address are a tag") };
        Self { root: Word::EMPTY, items: PhantomData }
    }

    /// Whether the set holds nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// How many items there are. Counts them.
    pub fn len(&self) -> usize {
        self.iter(0, u64::MAX).count()
    }

    /// Inserts `item`. Items of equal intervals are visited in the order of their insertion.
    ///
    /// # Safety
    /// 1. `item` is alive and stays so, in place, until it was removed or the set cleared; nobody has a `&mut` to it meanwhile.
    /// 2. Its interval does not change meanwhile, and `first() <= last()`.
    /// 3. It is not in the set yet, and the set has no other pool than `pool`.
    #[inline]
    pub unsafe fn insert(&mut self, pool: &NodePool, item: NonNull<T>) -> Result<Place, NeedNodes> {
        let item = item.cast::<()>();
        // SAFETY: (1) of the contract.
        let new = unsafe { Interval::of::<T>(item) };
        debug_assert!(new.first <= new.last, "an interval that ends before it begins");
        if self.root.is_empty() {
            self.root = Word::item(item);
            return Ok(Place::NONE);
        }
        // SAFETY: the root is the set's; `&mut self` is the exclusive lock.
        match unsafe { self.root.view() } {
            View::Item(_) | View::Group(_) => {
                // SAFETY: the root is a cell; items in the set are alive by (1).
                let old = unsafe { Interval::of_cell::<T>(self.root) };
                if old == new {
                    insert::join(pool, core::cell::Cell::from_mut(&mut self.root), item)
                } else {
                    insert::plant::<T>(pool, &mut self.root, old, new, item)
                }
            }
            _ => insert::into_tree::<T>(pool, &mut self.root, new, item),
        }
    }

    /// Inserts `item`, whose interval equals that of `prev`, to be visited after it (and after all that are there
    /// already). When `prev` has a place this takes no search.
    ///
    /// # Safety
    /// As for [`insert`](Self::insert), and `prev` is in the set, at `prev_place`.
    #[inline]
    pub unsafe fn insert_after(
        &mut self,
        pool: &NodePool,
        item: NonNull<T>,
        prev: NonNull<T>,
        prev_place: Place,
    ) -> Result<Place, NeedNodes> {
        debug_assert!(
            // SAFETY: both are alive, by the contract.
            unsafe { Interval::of::<T>(item.cast()) == Interval::of::<T>(prev.cast()) },
            "insert_after: the intervals differ"
        );
        // SAFETY: the place is that of an item in the set; `&mut self` is the exclusive lock.
        match unsafe { crate::ds::group::Group::of(prev_place) } {
            Some(group) => group.append(pool, item.cast()),
            // SAFETY: the contract of this function.
            None => unsafe { self.insert(pool, item) },
        }
    }

    /// Removes `item`. Never fails, never allocates.
    ///
    /// # Panics
    /// If the item's interval has changed since its insertion: always where the set looks for it, and in debug builds
    /// also where it would not have to.
    ///
    /// # Safety
    /// `item` is in the set, at `place`, which the insertion returned; `pool` is the set's.
    #[inline]
    pub unsafe fn remove(&mut self, pool: &NodePool, item: NonNull<T>, place: Place) {
        let item = item.cast::<()>();
        if self.root == Word::item(item) {
            self.root = Word::EMPTY;
            return;
        }
        // SAFETY: the contract of this function; `&mut self` is the exclusive lock.
        unsafe { remove::item::<T>(pool, &mut self.root, item, place) }
    }

    /// Calls `visit` with each item whose interval meets `first ..= last`, in the set's [order](self#order), until it
    /// breaks.
    #[inline]
    pub fn for_each(&self, first: u64, last: u64, mut visit: impl FnMut(&T) -> ControlFlow<()>) -> ControlFlow<()> {
        // SAFETY: the root is the set's; `&self` is the lock, at least shared.
        unsafe { walk::cell_or_below::<T>(self.root, Interval { first, last }, &mut visit) }
    }

    /// The items whose intervals meet `first ..= last`, in the [order](self#order) of the set.
    pub fn iter(&self, first: u64, last: u64) -> Iter<'_, T> {
        // SAFETY: the root is the set's, and the result borrows the set.
        unsafe { Iter::new(self.root, Interval { first, last }) }
    }

    /// Forgets all items and gives all nodes back.
    ///
    /// # Safety
    /// `pool` is the set's.
    pub unsafe fn clear(&mut self, pool: &NodePool) {
        let root = core::mem::replace(&mut self.root, Word::EMPTY);
        // SAFETY: the contract of this function; no word leads to the nodes any more.
        unsafe { remove::all(pool, root) }
    }

    /// Panics if the structure contradicts itself or the items.
    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self) {
        // SAFETY: the root is the set's; `&self` is the lock, at least shared.
        unsafe { walk::check::<T>(self.root) }
    }
}
