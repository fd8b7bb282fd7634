//! Look-up: the recursion behind `for_each`, and the same as an iterator.

use super::Indexed;
use super::inner::{Inner, LEVELS};
use super::interval::Interval;
use super::leaf::Leaf;
use super::word::{View, Word};
use crate::ds::group::{Cursor, Group};
use core::marker::PhantomData;
use core::ops::ControlFlow;
use core::ptr::NonNull;

/// The positions of the bits of a mask, lowest first.
struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;
    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(bit as usize)
    }
}

/// Visits what meets `query` below the root of a set.
///
/// # Safety
/// `root` is the root of a set of `T`s, and the caller holds the set's lock, at least shared.
#[inline]
pub(super) unsafe fn cell_or_below<T: Indexed>(
    root: Word,
    query: Interval,
    visit: &mut impl FnMut(&T) -> ControlFlow<()>,
) -> ControlFlow<()> {
    // SAFETY: the caller's contract; a root that is a cell has an item, which is alive.
    unsafe {
        match root.view() {
            View::Empty => ControlFlow::Continue(()),
            View::Item(_) | View::Group(_) if !Interval::of_cell::<T>(root).meets(query) => ControlFlow::Continue(()),
            View::Item(item) => visit(item.cast().as_ref()),
            View::Group(group) => visit_group(group, visit),
            View::Leaf(leaf) => visit_leaf(&leaf, query, visit),
            View::Inner(node) => visit_inner(&node, query, visit),
        }
    }
}

/// Visits all members.
///
/// # Safety
/// The group is part of a set of `T`s, and the caller holds the set's lock, at least shared.
#[inline]
unsafe fn visit_group<T: Indexed>(group: Group, visit: &mut impl FnMut(&T) -> ControlFlow<()>) -> ControlFlow<()> {
    // SAFETY: a member is a `T` that is alive.
    group.for_each(|item| visit(unsafe { item.cast().as_ref() }))
}

/// Visits what meets `query` in a leaf.
///
/// # Safety
/// As for [`visit_group`].
unsafe fn visit_leaf<T: Indexed>(
    leaf: &Leaf,
    query: Interval,
    visit: &mut impl FnMut(&T) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for at in Bits(leaf.hits::<T>(query)) {
        // SAFETY: a cell of a leaf in the set; an item in the set is a `T` that is alive.
        unsafe {
            match leaf.cells()[at].get().view() {
                View::Item(item) => visit(item.cast().as_ref())?,
                View::Group(group) => visit_group(group, visit)?,
                View::Empty | View::Leaf(_) | View::Inner(_) => unreachable!("not a cell"),
            }
        }
    }
    ControlFlow::Continue(())
}

/// Visits what meets `query` below an inner node.
///
/// # Safety
/// As for [`visit_group`].
unsafe fn visit_inner<T: Indexed>(
    node: &Inner,
    query: Interval,
    visit: &mut impl FnMut(&T) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for at in Bits(node.hits(query)) {
        // SAFETY: a child of a node in the set, under the caller's contract.
        unsafe {
            match node.child(at).get().view() {
                View::Leaf(leaf) => visit_leaf(&leaf, query, visit)?,
                View::Inner(child) => visit_inner(&child, query, visit)?,
                View::Empty | View::Item(_) | View::Group(_) => unreachable!("not a node"),
            }
        }
    }
    ControlFlow::Continue(())
}

/// The items of a set that meet a query. Made by [`IntervalTree::iter`](super::IntervalTree::iter).
pub struct Iter<'a, T: Indexed> {
    query: Interval,
    /// Visited next, unless a group is being visited: the root, if it is a cell.
    cell: Word,
    group: Option<Cursor>,
    leaf: Option<(Leaf, Bits)>,
    /// The inner nodes above, with the children that are still to come.
    above: [Option<(Inner, Bits)>; LEVELS],
    depth: usize,
    set: PhantomData<&'a T>,
}

impl<T: Indexed> Iter<'_, T> {
    /// An iterator over the set whose root this is.
    ///
    /// # Safety
    /// `root` is the root of a set of `T`s, and the caller's borrow of the set, hence its lock, lasts as long as the
    /// result.
    pub(super) unsafe fn new(root: Word, query: Interval) -> Self {
        let mut iter = Self {
            query,
            cell: Word::EMPTY,
            group: None,
            leaf: None,
            above: [const { None }; LEVELS],
            depth: 0,
            set: PhantomData,
        };
        // SAFETY: the caller's contract; a root that is a cell has an item, which is alive.
        unsafe {
            match root.view() {
                View::Empty => {}
                View::Item(_) | View::Group(_) if !Interval::of_cell::<T>(root).meets(query) => {}
                View::Item(_) | View::Group(_) => iter.cell = root,
                View::Leaf(_) | View::Inner(_) => iter.enter(root),
            }
        }
        iter
    }

    /// Goes down into a node.
    ///
    /// # Safety
    /// The word is that of a leaf or an inner node of the set.
    unsafe fn enter(&mut self, node: Word) {
        // SAFETY: the caller's contract; the set is borrowed for the iterator's life.
        match unsafe { node.view() } {
            View::Leaf(leaf) => {
                let hits = leaf.hits::<T>(self.query);
                self.leaf = Some((leaf, Bits(hits)));
            }
            View::Inner(node) => {
                let hits = node.hits(self.query);
                self.above[self.depth] = Some((node, Bits(hits)));
                self.depth += 1;
            }
            View::Empty | View::Item(_) | View::Group(_) => unreachable!("not a node"),
        }
    }

    /// The next cell that meets the query, or an empty word.
    fn next_cell(&mut self) -> Word {
        loop {
            if !self.cell.is_empty() {
                return core::mem::replace(&mut self.cell, Word::EMPTY);
            }
            if let Some((leaf, hits)) = &mut self.leaf {
                if let Some(at) = hits.next() {
                    return leaf.cells()[at].get();
                }
                self.leaf = None;
            }
            let Some(top) = self.depth.checked_sub(1) else { return Word::EMPTY };
            let Some((node, hits)) = &mut self.above[top] else { return Word::EMPTY };
            match hits.next() {
                Some(at) => {
                    let child = node.child(at).get();
                    // SAFETY: a child of a node in the set.
                    unsafe { self.enter(child) };
                }
                None => self.depth = top,
            }
        }
    }

    /// The next item that is not in the group being visited.
    fn next_elsewhere(&mut self) -> Option<NonNull<()>> {
        self.group = None;
        // SAFETY: a cell of the set, which is borrowed for the iterator's life.
        match unsafe { self.next_cell().view() } {
            View::Empty => None,
            View::Item(item) => Some(item),
            View::Group(group) => self.group.insert(group.cursor()).next(),
            View::Leaf(_) | View::Inner(_) => unreachable!("not a cell"),
        }
    }
}

impl<'a, T: Indexed> Iterator for Iter<'a, T> {
    type Item = &'a T;
    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        let item = match self.group.as_mut().and_then(Cursor::next) {
            Some(member) => member,
            None => self.next_elsewhere()?,
        };
        // SAFETY: an item in the set is a `T` that is alive, and stays in the set while the set is borrowed.
        Some(unsafe { item.cast().as_ref() })
    }
}

/// Panics if the structure below `root` contradicts itself or the items.
///
/// # Safety
/// As for [`cell_or_below`].
#[cfg(any(test, debug_assertions))]
pub(super) unsafe fn check<T: Indexed>(root: Word) {
    // SAFETY: the caller's contract.
    unsafe {
        match root.view() {
            View::Empty | View::Item(_) => {}
            View::Group(group) => check_group::<T>(group),
            View::Leaf(leaf) => {
                assert!(leaf.count() >= 2, "a root leaf with one cell");
                check_leaf::<T>(&leaf);
            }
            View::Inner(node) => {
                assert!(node.count() >= 2, "a root with one child");
                let everything = (Interval::LEAST, Interval::GREATEST);
                check_inner::<T>(&node, everything);
            }
        }
    }
}

#[cfg(any(test, debug_assertions))]
unsafe fn check_group<T: Indexed>(group: Group) {
    group.check_invariants();
    // SAFETY: members are alive.
    let interval = unsafe { Interval::of::<T>(group.any()) };
    let mut members = group.cursor();
    while let Some(item) = members.next() {
        // SAFETY: the same.
        assert_eq!(unsafe { Interval::of::<T>(item) }, interval, "a group of intervals that differ");
    }
}

#[cfg(any(test, debug_assertions))]
unsafe fn check_leaf<T: Indexed>(leaf: &Leaf) {
    leaf.check_invariants::<T>();
    for cell in leaf.cells() {
        // SAFETY: a cell of a leaf in the set.
        unsafe {
            match cell.get().view() {
                View::Item(_) => {}
                View::Group(group) => check_group::<T>(group),
                View::Empty | View::Leaf(_) | View::Inner(_) => panic!("not a cell"),
            }
        }
    }
}

/// Checks what is below `node`, whose intervals are between the two, and returns the number of levels.
#[cfg(any(test, debug_assertions))]
unsafe fn check_inner<T: Indexed>(node: &Inner, (low, high): (Interval, Interval)) -> usize {
    assert_eq!(node.bound(0), Interval::LEAST);
    let mut levels = None;
    for at in 0..node.count() {
        let low = if at == 0 { low } else { node.bound(at) };
        let end = if at + 1 == node.count() { high } else { node.bound(at + 1) };
        assert!(low <= end, "bounds out of order");
        // SAFETY: a child of a node in the set.
        let (below, max) = unsafe {
            match node.child(at).get().view() {
                View::Leaf(leaf) => {
                    check_leaf::<T>(&leaf);
                    assert!(low <= leaf.interval::<T>(0), "an interval below its bound");
                    let largest = leaf.interval::<T>(leaf.count() - 1);
                    assert!(largest < end || end == Interval::GREATEST, "an interval above its bound");
                    (0, leaf.max_last::<T>())
                }
                View::Inner(child) => {
                    assert!(child.count() >= super::inner::MIN, "too few children");
                    (check_inner::<T>(&child, (low, end)), child.max_last())
                }
                View::Empty | View::Item(_) | View::Group(_) => panic!("not a node"),
            }
        };
        assert_eq!(node.max(at).get(), max, "a maximum that is wrong");
        assert_eq!(*levels.get_or_insert(below), below, "leaves on two levels");
    }
    let levels = levels.unwrap_or(0) + 1;
    assert!(levels <= LEVELS, "too deep");
    levels
}
