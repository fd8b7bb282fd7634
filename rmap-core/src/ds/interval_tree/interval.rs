//! The key of the set.

use super::Indexed;
use super::word::Word;
use core::ptr::NonNull;

/// The page offsets `first ..= last`. Ordered by `first`, then by `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interval {
    /// The first page offset.
    pub(super) first: u64,
    /// The last page offset.
    pub(super) last: u64,
}

impl Interval {
    /// None is below it.
    pub(super) const LEAST: Self = Self { first: 0, last: 0 };
    /// None is above it.
    #[cfg(any(test, debug_assertions))]
    pub(super) const GREATEST: Self = Self { first: u64::MAX, last: u64::MAX };

    /// The interval of an item.
    ///
    /// # Safety
    /// `item` is a `T` that is alive, with no `&mut` to it.
    #[inline]
    pub(super) unsafe fn of<T: Indexed>(item: NonNull<()>) -> Self {
        // SAFETY: the caller's contract.
        let item = unsafe { item.cast::<T>().as_ref() };
        Self { first: item.first(), last: item.last() }
    }

    /// The interval of the items of a cell.
    ///
    /// # Safety
    /// As for [`Word::any_item`], and the set is one of `T`s.
    #[inline]
    pub(super) unsafe fn of_cell<T: Indexed>(cell: Word) -> Self {
        // SAFETY: the caller's contract; an item in the set is alive (contract of `IntervalTree::insert`).
        unsafe { Self::of::<T>(cell.any_item()) }
    }

    /// Whether the two have a page in common.
    #[inline]
    pub(super) fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}
