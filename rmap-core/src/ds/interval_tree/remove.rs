//! Removal.
//!
//! A member of a group leaves without a search, unless it is the last. A cell that goes is looked for, and on the way
//! back up maxima are computed anew where the interval that went had been the maximum, empty leaves go, sparse ones
//! join a neighbour, and inner nodes below their minimum join a neighbour or share with it. Nothing here takes a node.

use super::Indexed;
use super::inner::{FANOUT, Inner, MIN};
use super::interval::Interval;
use super::leaf::Leaf;
use super::word::{View, Word};
use crate::ds::group::{Group, Left, Place};
use crate::ds::pool::NodePool;
use core::ptr::NonNull;

const MOVED: &str = "an item's interval changed, or its place was lost, while it was in the set";

/// Removes `item`, which is not the root itself.
///
/// # Safety
/// As for `IntervalTree::remove`; `root` is the set's.
#[inline]
pub(super) unsafe fn item<T: Indexed>(pool: &NodePool, root: &mut Word, item: NonNull<()>, place: Place) {
    let place = if place == Place::NONE {
        // SAFETY: the root is the set's, which the caller has for itself.
        match unsafe { root.view() } {
            View::Group(group) => group.founder(item).expect(MOVED),
            // SAFETY: an item in the set is alive.
            _ => return cell::<T>(pool, root, unsafe { Interval::of::<T>(item) }, Word::item(item)),
        }
    } else {
        place
    };
    if cfg!(debug_assertions) {
        // SAFETY: the place is `item`'s, by the caller's contract or from `founder`.
        unsafe { compare_with_others::<T>(item, place) };
    }
    // SAFETY: the same.
    let Left::Nobody(head) = (unsafe { Group::remove(pool, place, item) }) else { return };
    if *root == Word::group(head) {
        *root = Word::EMPTY;
    } else {
        // SAFETY: an item that is being removed is still alive.
        cell::<T>(pool, root, unsafe { Interval::of::<T>(item) }, Word::group(head));
    }
}

/// Panics if `item`'s interval is not that of its group.
///
/// # Safety
/// `item` is in a group, at `place`.
unsafe fn compare_with_others<T: Indexed>(item: NonNull<()>, place: Place) {
    // SAFETY: the caller's contract.
    let mut members = unsafe { Group::of(place) }.expect(MOVED).cursor();
    while let Some(other) = members.next() {
        if other != item {
            // SAFETY: items in the set are alive.
            let same = unsafe { Interval::of::<T>(other) == Interval::of::<T>(item) };
            assert!(same, "{MOVED}");
            return;
        }
    }
}

/// Removes the cell `target`, an item or a group that is gone already, or the item `target` from the group that it
/// founded.
#[inline]
fn cell<T: Indexed>(pool: &NodePool, root: &mut Word, gone: Interval, target: Word) {
    // SAFETY: the root stands in the set, which the caller has for itself.
    match unsafe { root.view() } {
        View::Leaf(leaf) => {
            if from_leaf::<T>(pool, &leaf, gone, target) && leaf.count() == 1 {
                collapse(pool, root);
            }
        }
        View::Inner(node) => {
            below::<T>(pool, &node, gone, target);
            if node.count() == 1 {
                collapse(pool, root);
            }
        }
        View::Empty | View::Item(_) | View::Group(_) => panic!("{MOVED}"),
    }
}

/// Makes the only child the root, as often as there is only one.
#[cold]
fn collapse(pool: &NodePool, root: &mut Word) {
    loop {
        // SAFETY: the root stands in the set, which the caller has for itself.
        match unsafe { root.view() } {
            View::Leaf(leaf) if leaf.count() == 1 => {
                *root = leaf.cells()[0].get();
                // SAFETY: the root was the only word that led to it.
                return unsafe { leaf.give(pool) };
            }
            View::Inner(node) if node.count() == 1 => {
                *root = node.child(0).get();
                // SAFETY: the same.
                unsafe { node.give(pool) };
            }
            _ => return,
        }
    }
}

/// Does what [`cell`] says below `node`. Returns whether a cell went.
fn below<T: Indexed>(pool: &NodePool, node: &Inner, gone: Interval, target: Word) -> bool {
    let at = node.child_for(gone);
    // SAFETY: a child of a node that stands in the set, which the caller has for itself.
    match unsafe { node.child(at).get().view() } {
        View::Inner(child) => {
            if !below::<T>(pool, &child, gone, target) {
                return false;
            }
            if node.max(at).get() == gone.last {
                node.max(at).set(child.max_last());
            }
            if child.count() < MIN {
                balance(pool, node, at);
            }
        }
        View::Leaf(leaf) => {
            if !from_leaf::<T>(pool, &leaf, gone, target) {
                return false;
            }
            if leaf.count() == 0 {
                node.remove(at);
                // SAFETY: `node` was the only one that led to it.
                unsafe { leaf.give(pool) };
                return true;
            }
            if node.max(at).get() == gone.last {
                node.max(at).set(leaf.max_last::<T>());
            }
            if leaf.is_sparse() {
                merge(pool, node, at);
            }
        }
        View::Empty | View::Item(_) | View::Group(_) => unreachable!("not a node"),
    }
    true
}

/// Does what [`cell`] says in the leaf where the interval belongs. Returns whether a cell went.
#[inline]
fn from_leaf<T: Indexed>(pool: &NodePool, leaf: &Leaf, gone: Interval, target: Word) -> bool {
    if let Some(at) = leaf.position(gone, target) {
        leaf.remove(at);
        return true;
    }
    from_founded_group::<T>(pool, leaf, gone, target)
}

#[cold]
fn from_founded_group<T: Indexed>(pool: &NodePool, leaf: &Leaf, gone: Interval, target: Word) -> bool {
    let at = leaf.find::<T>(gone).expect(MOVED);
    // SAFETY: `find` found a cell; `target` is a word with the item's address.
    let (View::Group(group), View::Item(item)) = (unsafe { (leaf.cells()[at].get().view(), target.view()) }) else {
        panic!("{MOVED}")
    };
    let place = group.founder(item).expect(MOVED);
    // SAFETY: the founder's place; the caller has the set for itself.
    match unsafe { Group::remove(pool, place, item) } {
        Left::Members => false,
        Left::Nobody(_) => {
            leaf.remove(at);
            true
        }
    }
}

/// Joins the sparse leaf at `at` with a neighbour, if there is one with room that is near enough.
#[cold]
fn merge(pool: &NodePool, node: &Inner, at: usize) {
    if at + 1 == node.count() || !merge_pair(pool, node, at) {
        let _ = at > 0 && merge_pair(pool, node, at - 1);
    }
}

/// Joins the leaves at `at` and `at + 1`, if they fit into one.
fn merge_pair(pool: &NodePool, node: &Inner, at: usize) -> bool {
    // SAFETY: two children of a node that stands in the set, which the caller has for itself.
    let views = unsafe { (node.child(at).get().view(), node.child(at + 1).get().view()) };
    let (View::Leaf(left), View::Leaf(right)) = views else { unreachable!("leaves are all on one level") };
    let fits_left = left.has_room_for(right.count());
    let base = left.base().min(right.base());
    if !(fits_left || right.has_room_for(left.count())) || !(left.rebase(base) && right.rebase(base)) {
        return false;
    }
    let empty = if fits_left {
        left.splice(left.count(), &right, 0);
        right
    } else {
        right.splice(0, &left, 0);
        node.child(at).set(Word::leaf(&right));
        left
    };
    node.raise(at, node.max(at + 1).get());
    node.remove(at + 1);
    // SAFETY: the word that led to it is overwritten or removed.
    unsafe { empty.give(pool) };
    true
}

/// Joins the inner node at `at` with a neighbour, or shares with it.
#[cold]
fn balance(pool: &NodePool, node: &Inner, at: usize) {
    let at = if at + 1 < node.count() { at } else { at - 1 };
    // SAFETY: two children of a node that stands in the set, which the caller has for itself: a root has two, others
    // more.
    let views = unsafe { (node.child(at).get().view(), node.child(at + 1).get().view()) };
    let (View::Inner(left), View::Inner(right)) = views else { unreachable!("leaves are all on one level") };
    let total = left.count() + right.count();
    if total * 4 <= FANOUT * 3 {
        left.absorb(&right, node.bound(at + 1));
        node.raise(at, node.max(at + 1).get());
        node.remove(at + 1);
        // SAFETY: the word that led to it is removed.
        unsafe { right.give(pool) };
    } else {
        let bound = left.level(&right, node.bound(at + 1), total / 2);
        node.set_bound(at + 1, bound);
        node.max(at).set(left.max_last());
        node.max(at + 1).set(right.max_last());
    }
}

/// Gives back all nodes from `word` down.
///
/// # Safety
/// The word stood in a set that uses this pool, and no other word leads to its nodes.
pub(super) unsafe fn all(pool: &NodePool, word: Word) {
    // SAFETY: the caller's contract: each node is looked at, then given back.
    unsafe {
        match word.view() {
            View::Empty | View::Item(_) => {}
            View::Group(group) => group.clear(pool),
            View::Leaf(leaf) => {
                leaf.cells().iter().for_each(|cell| all(pool, cell.get()));
                leaf.give(pool);
            }
            View::Inner(node) => {
                (0..node.count()).for_each(|at| all(pool, node.child(at).get()));
                node.give(pool);
            }
        }
    }
}
