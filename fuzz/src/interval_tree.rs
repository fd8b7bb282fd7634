//! The interval tree beside a plain list: whatever is inserted, removed and asked for, both give the same answer.

use arbitrary::Arbitrary;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use rmap_core::base::alloc::Heap;
use rmap_core::ds::interval_tree::{Indexed, IntervalTree, NodePool, Place};

/// What is done to the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Step {
    /// An interval comes.
    Insert { first: Point, span: u8 },
    /// The same interval comes as often.
    InsertMany { first: Point, span: u8, times: u8 },
    /// One that is there goes.
    Remove { nth: u16 },
    /// Several go, from one on.
    RemoveMany { nth: u16, count: u8 },
    /// All that meet an interval are asked for.
    Find { first: Point, span: u8 },
    /// As many of them as wanted.
    FindSome { first: Point, span: u8, most: u8 },
}

/// Where an interval begins: among few numbers, so that they meet, or far from all others, where no difference fits 32
/// bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Point {
    Near(u8),
    Farther(u16),
    Far { region: u8, within: u8 },
}

impl Point {
    fn number(self) -> u64 {
        match self {
            Self::Near(n) => u64::from(n),
            Self::Farther(n) => u64::from(n) << 8,
            // Up to 2^56, so that the last number of an interval is one.
            Self::Far { region, within } => u64::from(region) << 48 | u64::from(within),
        }
    }
}

struct Item {
    first: u64,
    last: u64,
    number: usize,
}

impl Indexed for Item {
    fn first(&self) -> u64 {
        self.first
    }
    fn last(&self) -> u64 {
        self.last
    }
}

/// What is in the tree; in the order of insertion, as equal intervals must be visited.
struct Both {
    pool: NodePool,
    tree: IntervalTree<Item>,
    list: Vec<(Box<Item>, Place)>,
    inserted: usize,
}

impl Both {
    fn insert(&mut self, first: u64, span: u8) {
        let item = Box::new(Item { first, last: first + u64::from(span), number: self.inserted });
        self.inserted += 1;
        self.pool.refill(1).expect("memory");
        // SAFETY: the box keeps the item in place until it is removed below.
        let place = unsafe { self.tree.insert(&self.pool, NonNull::from(&*item)) };
        let Ok(place) = place else { panic!("the pool was refilled") };
        self.list.push((item, place));
    }

    fn remove(&mut self, nth: usize) {
        if !self.list.is_empty() {
            let (item, place) = self.list.remove(nth % self.list.len());
            // SAFETY: in the tree, at this place.
            unsafe { self.tree.remove(&self.pool, NonNull::from(&*item), place) };
        }
    }

    fn find(&self, first: u64, span: u8, most: usize) {
        let last = first + u64::from(span);
        let mut found = Vec::new();
        let end = self.tree.for_each(first, last, |item| {
            found.push((item.first, item.last, item.number));
            if found.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let meets = |item: &&(Box<Item>, Place)| item.0.first <= last && first <= item.0.last;
        let mut expected: Vec<_> =
            self.list.iter().filter(meets).map(|(item, _)| (item.first, item.last, item.number)).collect();
        // Stable: equal intervals stay in the order of insertion.
        expected.sort_by_key(|&(first, last, _)| (first, last));
        assert_eq!(end.is_break(), expected.len() >= most, "the walk ends where it is told to");
        expected.truncate(most);
        assert_eq!(found, expected);
    }
}

/// Steps that are run, and intervals that there may be.
const MOST: usize = 600;

/// Runs the steps.
pub fn run(steps: &[Step]) {
    let heap = Heap::global().expect("memory");
    let mut both = Both { pool: NodePool::new(&heap), tree: IntervalTree::new(), list: Vec::new(), inserted: 0 };
    for step in &steps[..steps.len().min(MOST)] {
        match *step {
            Step::Insert { first, span } => both.insert(first.number(), span),
            Step::InsertMany { first, span, times } => {
                let room = MOST.saturating_sub(both.list.len());
                (0..room.min(usize::from(times))).for_each(|_| both.insert(first.number(), span));
            }
            Step::Remove { nth } => both.remove(usize::from(nth)),
            Step::RemoveMany { nth, count } => (0..count).for_each(|_| both.remove(usize::from(nth))),
            Step::Find { first, span } => both.find(first.number(), span, usize::MAX),
            Step::FindSome { first, span, most } => both.find(first.number(), span, usize::from(most) + 1),
        }
    }
    let Both { pool, mut tree, list, .. } = both;
    // SAFETY: the tree's own pool.
    unsafe { tree.clear(&pool) };
    drop(list);
    assert_eq!(pool.live_bytes(), 0);
    drop((tree, pool));
    assert_eq!(heap.in_use(), 0);
}
