//! The search for free address space: `mmap`'s bottom-up and top-down.
//!
//! Every gap but the lowest lies behind an entry, and the root knows the largest gap behind the entries of each leaf.
//! So a search looks into the leaf where it begins, passes over the leaves that have no such gap at one load each, and
//! ends in the first that has one.

use super::node::{Leaf, Root};
use super::{Region, RegionIndex};

impl<T: Region> RegionIndex<T> {
    /// Bottom-up: the lowest start of a free range of `size` bytes inside `[low, high)`; none for a size of 0. The
    /// caller holds `mmap_lock`.
    pub fn gap_above(&self, low: u64, high: u64, size: u64) -> Option<u64> {
        let highest = high.checked_sub(size)?;
        if size == 0 || low > highest {
            return None;
        }
        self.lowest_gap(low, highest, size).filter(|&start| start <= highest)
    }

    /// Top-down: the highest start of a free range of `size` bytes inside `[low, high)`; none for a size of 0. The
    /// caller holds `mmap_lock`.
    pub fn gap_below(&self, low: u64, high: u64, size: u64) -> Option<u64> {
        if size == 0 || high.checked_sub(size)? < low {
            return None;
        }
        let Some(last) = self.root().and_then(|root| root.locate(high - 1)) else { return Some(high - size) };
        let root = last.root;
        if let Some(found) = highest_in(root, last.index, last.leaf, last.slot, (low, high), size) {
            return Some(found);
        }
        for index in (0..last.index).rev() {
            // All gaps from here down end at or below the next leaf's key. One that fits may still reach below `low`.
            if root.key(index + 1).saturating_sub(low) < size {
                return None;
            }
            if root.gap(index) < size {
                continue;
            }
            let leaf = root.leaf(index)?;
            if let Some(found) = highest_in(root, index, leaf, leaf.len() - 1, (low, high), size) {
                return Some(found);
            }
        }
        let first = root.key(0);
        (first.saturating_sub(low) >= size).then(|| first - size)
    }

    /// The lowest start of a gap of `size`, not below `low`; above `highest` it may be anything.
    fn lowest_gap(&self, low: u64, highest: u64, size: u64) -> Option<u64> {
        let Some(root) = self.root().filter(|root| root.len() != 0) else { return Some(low) };
        let first = root.key(0);
        let (from, slot) = match root.locate(low) {
            Some(at) => (at.index, at.slot),
            None if first - low >= size => return Some(low),
            None => (0, 0),
        };
        if let Some(found) = lowest_in(root, from, root.leaf(from)?, slot, low, size) {
            return Some(found);
        }
        for index in from + 1..root.len() {
            if root.key(index) > highest {
                return None;
            }
            if root.gap(index) < size {
                continue;
            }
            if let Some(found) = lowest_in(root, index, root.leaf(index)?, 0, low, size) {
                return Some(found);
            }
        }
        None
    }
}

/// The lowest start, not below `low`, of a gap behind an entry of leaf `index` from `slot` on.
fn lowest_in<T>(root: &Root<T>, index: usize, leaf: &Leaf<T>, slot: usize, low: u64, size: u64) -> Option<u64> {
    let last = leaf.len() - 1;
    let fits = |slot, next: u64| {
        let start = leaf.end(slot).max(low);
        (next.saturating_sub(start) >= size).then_some(start)
    };
    (slot..last).find_map(|slot| fits(slot, leaf.start(slot + 1))).or_else(|| fits(last, root.key_after(index)))
}

/// The highest start of a gap inside `[low, high)` behind an entry of leaf `index` from `slot` down.
fn highest_in<T>(
    root: &Root<T>,
    index: usize,
    leaf: &Leaf<T>,
    slot: usize,
    (low, high): (u64, u64),
    size: u64,
) -> Option<u64> {
    let mut next = if slot + 1 < leaf.len() { leaf.start(slot + 1) } else { root.key_after(index) };
    for slot in (0..=slot).rev() {
        let top = next.min(high);
        if top.saturating_sub(leaf.end(slot).max(low)) >= size {
            return Some(top - size);
        }
        next = leaf.start(slot);
    }
    None
}
