//! Insertion.
//!
//! Going down, a full inner node is split before it is entered, so that a leaf that splits finds room above it. A split
//! alone changes nothing that a reader can see: when nodes run out half-way, the set is as it was. Maxima rise on the
//! way back up, when the item is in.

use super::Indexed;
use super::inner::{FANOUT, Inner, MIN};
use super::interval::Interval;
use super::leaf::Leaf;
use super::word::{View, Word};
use crate::ds::group::{Group, Place};
use crate::ds::pool::{NeedNodes, NodePool};
use core::cell::Cell;
use core::ptr::NonNull;

/// Adds `item` to the cell in `slot`, which has the same interval and stands in the set.
#[inline]
pub(super) fn join(pool: &NodePool, slot: &Cell<Word>, item: NonNull<()>) -> Result<Place, NeedNodes> {
    // SAFETY: the cell stands in the set, which the caller has for itself.
    match unsafe { slot.get().view() } {
        View::Group(group) => group.append(pool, item),
        View::Item(founder) => {
            let (group, place) = Group::found(pool, founder, item)?;
            slot.set(Word::group(group.head()));
            Ok(place)
        }
        View::Empty | View::Leaf(_) | View::Inner(_) => unreachable!("not a cell"),
    }
}

/// Makes a tree of a root that is a cell of interval `old`, and inserts `item`.
#[cold]
pub(super) fn plant<T: Indexed>(
    pool: &NodePool,
    root: &mut Word,
    old: Interval,
    new: Interval,
    item: NonNull<()>,
) -> Result<Place, NeedNodes> {
    let cell = *root;
    let leaf = Leaf::with(pool, Leaf::base_around(old.first), old, cell)?;
    *root = Word::leaf(&leaf);
    into_tree::<T>(pool, root, new, item).inspect_err(|NeedNodes| {
        *root = cell;
        // SAFETY: made above; the root leads elsewhere now.
        unsafe { leaf.give(pool) };
    })
}

/// Inserts `item` below a root that is a leaf or an inner node.
pub(super) fn into_tree<T: Indexed>(
    pool: &NodePool,
    root: &mut Word,
    new: Interval,
    item: NonNull<()>,
) -> Result<Place, NeedNodes> {
    // SAFETY: the root stands in the set, which the caller has for itself.
    match unsafe { root.view() } {
        View::Inner(node) if node.count() < FANOUT => below::<T>(pool, &node, new, item),
        View::Inner(node) => below_new_root::<T>(pool, root, node.max_last(), new, item),
        View::Leaf(leaf) => match leaf.find::<T>(new) {
            Ok(at) => join(pool, &leaf.cells()[at], item),
            Err(at) if fit(pool, Cell::from_mut(root), &leaf, at, new, item)? => Ok(Place::NONE),
            Err(_) => below_new_root::<T>(pool, root, leaf.max_last::<T>(), new, item),
        },
        View::Empty | View::Item(_) | View::Group(_) => unreachable!("not a tree"),
    }
}

/// Puts a new root above the old one, whose largest last offset is `max`, and inserts `item`.
#[cold]
fn below_new_root<T: Indexed>(
    pool: &NodePool,
    root: &mut Word,
    max: u64,
    new: Interval,
    item: NonNull<()>,
) -> Result<Place, NeedNodes> {
    let node = Inner::new(pool)?;
    node.insert(0, Interval::LEAST, max, *root);
    let done = below::<T>(pool, &node, new, item);
    if node.count() > 1 {
        *root = Word::inner(&node);
    } else {
        // Out of nodes before anything was split.
        // SAFETY: made above, and no word was set to it.
        unsafe { node.give(pool) };
    }
    done
}

/// Inserts `item` below `node`, which is not full.
fn below<T: Indexed>(pool: &NodePool, node: &Inner, new: Interval, item: NonNull<()>) -> Result<Place, NeedNodes> {
    let mut at = node.child_for(new);
    // SAFETY: a child of a node that stands in the set, which the caller has for itself.
    match unsafe { node.child(at).get().view() } {
        View::Inner(mut child) => {
            if child.count() == FANOUT {
                let right = split_inner(pool, node, at, &child, child.child_for(new))?;
                if node.bound(at + 1) <= new {
                    (at, child) = (at + 1, right);
                }
            }
            let place = below::<T>(pool, &child, new, item)?;
            node.raise(at, new.last);
            Ok(place)
        }
        View::Leaf(leaf) => match leaf.find::<T>(new) {
            Ok(cell) => join(pool, &leaf.cells()[cell], item),
            Err(cell) => {
                if fit(pool, node.child(at), &leaf, cell, new, item)? {
                    node.raise(at, new.last);
                } else {
                    split_leaf::<T>(pool, node, at, &leaf, cell, new, item)?;
                }
                Ok(Place::NONE)
            }
        },
        View::Empty | View::Item(_) | View::Group(_) => unreachable!("not a node"),
    }
}

/// Inserts a cell at `at` into the leaf that stands in `slot`, if a leaf has room for it: this one or a larger one.
#[inline]
fn fit(
    pool: &NodePool,
    slot: &Cell<Word>,
    leaf: &Leaf,
    at: usize,
    new: Interval,
    item: NonNull<()>,
) -> Result<bool, NeedNodes> {
    if !leaf.covers(new.first) {
        return Ok(false);
    }
    if !leaf.is_full() {
        leaf.insert(at, new, Word::item(item));
        return Ok(true);
    }
    grow(pool, slot, leaf, at, new, item)
}

#[cold]
fn grow(
    pool: &NodePool,
    slot: &Cell<Word>,
    leaf: &Leaf,
    at: usize,
    new: Interval,
    item: NonNull<()>,
) -> Result<bool, NeedNodes> {
    let Some(size) = leaf.larger() else { return Ok(false) };
    let larger = Leaf::new(pool, size, leaf.base())?;
    larger.splice(0, leaf, 0);
    larger.insert(at, new, Word::item(item));
    slot.set(Word::leaf(&larger));
    // SAFETY: the word that led to the old leaf leads to the new one.
    unsafe { Leaf::at(leaf.block()).give(pool) };
    Ok(true)
}

/// Splits the full child at `at`, into which the insertion goes at its child `towards`. Returns the new right half.
#[cold]
fn split_inner(pool: &NodePool, node: &Inner, at: usize, child: &Inner, towards: usize) -> Result<Inner, NeedNodes> {
    let right = Inner::new(pool)?;
    // Those who insert in ascending or descending order get full nodes behind them.
    let keep = match towards {
        0 => MIN,
        last if last == FANOUT - 1 => FANOUT - MIN,
        _ => FANOUT.div_ceil(2),
    };
    let bound = child.level(&right, Interval::LEAST, keep);
    node.max(at).set(child.max_last());
    node.insert(at + 1, bound, right.max_last(), Word::inner(&right));
    Ok(right)
}

/// Inserts a cell at `cell` of the leaf that is `node`'s child at `at`, by a second leaf: one for this cell alone if it
/// is the first or the last, else one with half of the cells.
#[cold]
fn split_leaf<T: Indexed>(
    pool: &NodePool,
    node: &Inner,
    at: usize,
    leaf: &Leaf,
    cell: usize,
    new: Interval,
    item: NonNull<()>,
) -> Result<(), NeedNodes> {
    let base = if leaf.covers(new.first) { leaf.base() } else { Leaf::base_around(new.first) };
    if cell == leaf.count() {
        let right = Leaf::with(pool, base, new, Word::item(item))?;
        node.insert(at + 1, new, new.last, Word::leaf(&right));
    } else if cell == 0 {
        let left = Leaf::with(pool, base, new, Word::item(item))?;
        node.insert(at + 1, leaf.interval::<T>(0), node.max(at).get(), node.child(at).get());
        node.child(at).set(Word::leaf(&left));
        node.max(at).set(new.last);
    } else {
        let right = Leaf::new(pool, Leaf::LARGEST, leaf.base())?;
        let half = leaf.count() / 2;
        right.splice(0, leaf, half);
        if cell <= half {
            leaf.insert(cell, new, Word::item(item));
        } else {
            right.insert(cell - half, new, Word::item(item));
        }
        node.max(at).set(leaf.max_last::<T>());
        node.insert(at + 1, right.interval::<T>(0), right.max_last::<T>(), Word::leaf(&right));
    }
    Ok(())
}
