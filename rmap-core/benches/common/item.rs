//! VMAs as an interval tree sees them.

use crate::common::{Figures, cpu_time};
use rmap_core::base::alloc::Heap;
use rmap_core::ds::interval_tree::{Indexed, IntervalTree, NeedNodes, NodePool, Place};
use std::ops::ControlFlow;
use std::ptr::NonNull;

/// As large as a VMA, with the interval and what a walk reads of it in its first line.
#[repr(C, align(64))]
struct Item {
    first: u64,
    last: u64,
    start: u64,
    place: Place,
    _rest: [u64; 28],
}

impl Indexed for Item {
    #[inline]
    fn first(&self) -> u64 {
        self.first
    }
    #[inline]
    fn last(&self) -> u64 {
        self.last
    }
}

/// A tree, and items that may be in it.
pub(crate) struct Items {
    all: Vec<NonNull<Item>>,
    tree: IntervalTree<Item>,
    pool: NodePool,
}

impl Items {
    /// An empty tree, and items of these intervals.
    pub(crate) fn new(intervals: impl Iterator<Item = (u64, u64)>) -> Self {
        let heap = Heap::global().expect("memory");
        let item = |(first, last)| Item { first, last, start: first << 12, place: Place::default(), _rest: [0; 28] };
        let items: Vec<Item> = intervals.map(item).collect();
        Self {
            all: items.leak().iter_mut().map(NonNull::from).collect(),
            tree: IntervalTree::new(),
            pool: NodePool::new(&heap),
        }
    }

    /// Times the insertion of all items in order, and their removal in another; `names` are the figures'.
    #[allow(dead_code, reason = "not all programs that share this ask")]
    pub(crate) fn time_changes(
        &mut self,
        figures: &mut Figures,
        names: [&str; 2],
        (in_order, shuffled): (&[usize], &[usize]),
    ) {
        figures.time(names[0], in_order.len() as u64, |times| {
            let one = |_| {
                let took = cpu_time(|| self.insert(in_order));
                self.remove(in_order);
                took
            };
            (0..times).map(one).sum()
        });
        figures.time(names[1], in_order.len() as u64, |times| {
            let one = |_| {
                self.insert(in_order);
                cpu_time(|| self.remove(shuffled))
            };
            (0..times).map(one).sum()
        });
    }

    /// Looks at items, one after the other.
    #[allow(dead_code, reason = "not all programs that share this ask")]
    pub(crate) fn touch(&self, order: &[usize]) -> u64 {
        // SAFETY: items are leaked. What is read decides where to read next, as in a removal: no two misses at a time.
        order.iter().fold(0, |sum, i| unsafe { sum ^ (*self.all[i ^ (sum as usize & 1 << 63)].as_ptr()).first })
    }

    /// Inserts items; none of them is in the tree.
    pub(crate) fn insert(&mut self, order: &[usize]) {
        for i in order {
            let item = self.all[*i];
            loop {
                // SAFETY: (1) items are leaked; (2) their intervals never change; (3) this one is not in the tree,
                // which has one pool.
                match unsafe { self.tree.insert(&self.pool, item) } {
                    Ok(place) => {
                        // SAFETY: the place is no part of the interval, and nobody else looks at the item.
                        unsafe { (&raw mut (*item.as_ptr()).place).write(place) };
                        break;
                    }
                    Err(NeedNodes) => self.pool.refill(1).expect("memory"),
                }
            }
        }
    }

    /// Removes items; all of them are in the tree.
    pub(crate) fn remove(&mut self, order: &[usize]) {
        for i in order {
            let item = self.all[*i];
            // SAFETY: in the tree, at the place that the insertion returned.
            unsafe { self.tree.remove(&self.pool, item, item.as_ref().place) };
        }
    }

    /// Visits what meets `first ..= last` and reads where it lies, as a walk does: how many there are.
    pub(crate) fn count(&self, first: u64, last: u64) -> u64 {
        let (mut visited, mut sum) = (0, 0_u64);
        let _ = self.tree.for_each(first, last, |item| {
            visited += 1;
            sum = sum.wrapping_add(item.start);
            ControlFlow::Continue(())
        });
        std::hint::black_box(sum);
        visited
    }
}
