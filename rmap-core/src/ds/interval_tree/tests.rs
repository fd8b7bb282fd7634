//! Properties against a naive model, and the cases that ranges drawn at random seldom meet.
//!
//! ```text
//!  query        |-----|
//!  meets     |--|     |--|      one page in common is enough
//!  misses  |-|           |-|    adjacent is not
//! ```

use super::{Indexed, IntervalTree, NeedNodes, NodePool, Place};
use crate::base::alloc::Heap;
use crate::base::alloc::testing::Countdown;
use crate::ds::pool::Size;
use core::cell::Cell;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use proptest::prelude::*;
use std::rc::Rc;

/// An item whose address does not change.
struct Item {
    id: usize,
    first: Cell<u64>,
    last: Cell<u64>,
    place: Cell<Place>,
}

impl Indexed for Item {
    fn first(&self) -> u64 {
        self.first.get()
    }
    fn last(&self) -> u64 {
        self.last.get()
    }
}

/// A set, its pool, and a list that says what the set must say.
struct Both {
    set: IntervalTree<Item>,
    pool: NodePool,
    /// In the order that the set promises: by first, by last, by insertion.
    model: Vec<Rc<Item>>,
    made: usize,
}

impl Both {
    fn new(heap: &Heap) -> Self {
        Self { set: IntervalTree::new(), pool: NodePool::new(heap), model: Vec::new(), made: 0 }
    }

    fn global() -> Self {
        Self::new(&Heap::global().unwrap())
    }

    fn place_in_model(&self, first: u64, last: u64) -> usize {
        self.model.partition_point(|item| (item.first(), item.last()) <= (first, last))
    }

    /// One attempt, after which set and model agree whatever came of it.
    fn try_insert(&mut self, first: u64, last: u64, after: Option<usize>) -> Result<(), NeedNodes> {
        let item = Rc::new(Item {
            id: self.made,
            first: Cell::new(first),
            last: Cell::new(last),
            place: Cell::new(Place::default()),
        });
        let ptr = NonNull::from(&*item);
        // SAFETY: counted, and removed from the set before the count drops (`remove`, `Drop`).
        let place = unsafe {
            match after.map(|at| &self.model[at]) {
                None => self.set.insert(&self.pool, ptr),
                Some(prev) => self.set.insert_after(&self.pool, ptr, NonNull::from(&**prev), prev.place.get()),
            }
        }?;
        item.place.set(place);
        self.made += 1;
        self.model.insert(self.place_in_model(first, last), item);
        Ok(())
    }

    fn insert(&mut self, first: u64, last: u64) {
        while self.try_insert(first, last, None) == Err(NeedNodes) {
            self.pool.refill(1).unwrap();
        }
    }

    fn insert_after(&mut self, at: usize) {
        let (first, last) = (self.model[at].first(), self.model[at].last());
        while self.try_insert(first, last, Some(at)) == Err(NeedNodes) {
            self.pool.refill(1).unwrap();
        }
    }

    fn remove(&mut self, at: usize) {
        let item = self.model.remove(at);
        // SAFETY: it was in the set, at this place.
        unsafe { self.set.remove(&self.pool, NonNull::from(&*item), item.place.get()) };
    }

    fn check_query(&self, first: u64, last: u64) {
        let wanted: Vec<_> =
            self.model.iter().filter(|i| i.first() <= last && i.last() >= first).map(|i| i.id).collect();
        let mut found = Vec::new();
        let flow = self.set.for_each(first, last, |item| {
            found.push(item.id);
            ControlFlow::Continue(())
        });
        assert_eq!(flow, ControlFlow::Continue(()));
        assert_eq!(found, wanted, "for_each {first}..={last}");
        let found: Vec<_> = self.set.iter(first, last).map(|item| item.id).collect();
        assert_eq!(found, wanted, "iter {first}..={last}");
    }

    fn check(&self) {
        self.set.check_invariants();
        assert_eq!(self.set.is_empty(), self.model.is_empty());
        self.check_query(0, u64::MAX);
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            while !self.model.is_empty() {
                self.remove(self.made % self.model.len());
            }
            assert!(self.set.is_empty());
            assert_eq!(self.pool.live_bytes(), 0, "nodes were lost");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u64, u64),
    /// After the n-th item, modulo their number.
    After(usize),
    Remove(usize),
    Query(u64, u64),
}

/// Intervals in a space of `width` offsets from `base` on, some of them reaching the end of the world.
fn interval(base: u64, width: u64, length: u64) -> impl Strategy<Value = (u64, u64)> {
    let end = prop_oneof![8 => 0..length, 1 => Just(u64::MAX)];
    (0..width, end).prop_map(move |(first, length)| (base + first, (base + first).saturating_add(length)))
}

fn steps(
    interval: impl Strategy<Value = (u64, u64)> + Clone + 'static,
    removals: u32,
    n: usize,
) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => interval.clone().prop_map(|(first, last)| Step::Insert(first, last)),
        3 => any::<usize>().prop_map(Step::After),
        removals => any::<usize>().prop_map(Step::Remove),
        2 => interval.prop_map(|(first, last)| Step::Query(first, last)),
    ];
    proptest::collection::vec(step, 0..n)
}

fn run(steps: &[Step]) {
    let mut both = Both::global();
    for &step in steps {
        let n = both.model.len();
        match step {
            Step::Insert(first, last) => both.insert(first, last),
            Step::After(at) if n > 0 => both.insert_after(at % n),
            Step::Remove(at) if n > 0 => both.remove(at % n),
            Step::Query(first, last) => both.check_query(first, last),
            Step::After(_) | Step::Remove(_) => {}
        }
        both.set.check_invariants();
    }
    both.check();
}

/// Whole words of offsets, so that keys saturate and bases differ.
fn anywhere() -> impl Strategy<Value = (u64, u64)> + Clone {
    let offset = (0_u64..6, 0_u64..4).prop_map(|(far, near)| (far << 31) + near);
    let high = (0_u64..3, 0_u64..3).prop_map(|(far, near)| (far << 62) + (far << 34) + near);
    let offset = prop_oneof![3 => offset, 1 => high, 1 => (0_u64..3).prop_map(|n| u64::MAX - n)];
    (offset.clone(), offset).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 512 }))]

    #[test]
    fn few_distinct_intervals(steps in steps(interval(0, 3, 3).boxed(), 8, 400)) {
        run(&steps);
    }

    #[test]
    fn many_with_the_same_first(steps in steps(interval(7, 2, 300).boxed(), 5, 500)) {
        run(&steps);
    }

    #[test]
    fn many_distinct_intervals(steps in steps(interval(1 << 40, 10_000, 300).boxed(), 4, 1500)) {
        run(&steps);
    }

    #[test]
    fn offsets_far_apart(steps in steps(anywhere().boxed(), 6, 500)) {
        run(&steps);
    }
}

fn shuffled(n: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..n).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..n).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}

/// Grows and shrinks a tree of several levels, in order and out of order.
#[test]
fn several_levels_in_every_order() {
    let n = if cfg!(debug_assertions) { 5_000 } else { 50_000 };
    let ascending: Vec<_> = (0..n).collect();
    let descending: Vec<_> = (0..n).rev().collect();
    for order in [&ascending, &descending, &shuffled(n)] {
        for removal in [&ascending, &descending, &shuffled(n)] {
            let mut both = Both::global();
            let mut items: Vec<_> =
                order.iter().map(|&i| new_item(i, 3 * i as u64, 3 * i as u64 + (i as u64 * 7) % 50)).collect();
            for item in &items {
                insert_raw(&mut both, item);
            }
            both.set.check_invariants();
            items.sort_by_key(|item| item.id);
            for (done, &at) in removal.iter().enumerate() {
                // SAFETY: inserted above.
                unsafe { both.set.remove(&both.pool, NonNull::from(&*items[at]), items[at].place.get()) };
                if done % (n / 50) == 0 {
                    both.set.check_invariants();
                }
            }
            assert!(both.set.is_empty());
        }
    }
}

fn new_item(id: usize, first: u64, last: u64) -> Rc<Item> {
    Rc::new(Item { id, first: Cell::new(first), last: Cell::new(last), place: Cell::new(Place::default()) })
}

fn insert_raw(both: &mut Both, item: &Item) {
    let place = loop {
        // SAFETY: the caller removes the item, or clears the set, before it goes.
        match unsafe { both.set.insert(&both.pool, NonNull::from(item)) } {
            Ok(place) => break place,
            Err(NeedNodes) => both.pool.refill(1).unwrap(),
        }
    };
    item.place.set(place);
}

/// A full root splits on the way to each of its leaves; the interval on the bound of the new half joins its equal.
#[test]
fn an_interval_on_a_bound_joins_its_equal() {
    // 30 full leaves, and one with a cell.
    let (leaf, n) = (62, 30 * 62 + 1);
    for at in (0..n).step_by(leaf) {
        let mut both = Both::global();
        for i in 0..n {
            both.insert(i as u64, i as u64);
        }
        both.insert(at as u64, at as u64);
        both.check();
    }
}

#[test]
fn a_walk_stops_where_it_is_told() {
    let mut both = Both::global();
    for i in 0..200_u64 {
        both.insert(i / 3, i / 3 + 5);
    }
    for stop in [0, 1, 100, 199] {
        let mut seen = 0;
        let flow = both.set.for_each(0, u64::MAX, |_| {
            seen += 1;
            if seen > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((flow, seen), (ControlFlow::Break(()), stop + 1));
    }
}

/// ```text
///  offsets   0   10      19 20      29 30       MAX
///  set           |--------| |--------|  |--------|
/// ```
#[test]
fn adjacent_is_not_overlapping() {
    let mut both = Both::global();
    for (first, last) in [(10, 19), (20, 29), (30, u64::MAX)] {
        both.insert(first, last);
        for query in
            [(0, 9), (0, 10), (19, 19), (19, 20), (20, 20), (29, 30), (30, 30), (u64::MAX, u64::MAX), (0, u64::MAX)]
        {
            both.check_query(query.0, query.1);
        }
    }
    assert_eq!(both.set.len(), 3);
}

#[test]
fn a_parent_is_visited_before_its_children() {
    let mut both = Both::global();
    both.insert(5, 9);
    for _ in 0..300 {
        both.insert_after(0);
    }
    let ids: Vec<_> = both.set.iter(7, 7).map(|item| item.id).collect();
    assert!(ids.is_sorted());
    // The parent exits; the youngest has children.
    both.remove(0);
    both.insert_after(299);
    both.check();
}

/// A chain of forks, each parent gone before the next fork: what is in use is bounded by who lives (G5).
#[test]
fn members_that_pass_through_leave_nothing() {
    let mut both = Both::global();
    both.insert(1, 1);
    both.insert(1, 1);
    for _ in 0..10_000 {
        both.insert_after(1);
        both.remove(0);
        assert!(both.pool.live_bytes() <= 3 * 128);
    }
    both.check();
}

/// Intervals that make groups, leaves of all sizes, and leaves of one cell because it is far from all others.
fn of_all_shapes(i: usize, at: u64) -> (u64, u64) {
    match i % 4 {
        0 => (7, 7),
        1 => (at << 33, (at << 33) + 5),
        _ => (at * 2, at * 2 + 9),
    }
}

/// Each refill fails once at each of its allocations; the set stays as it was (G4).
#[test]
fn a_refill_that_fails_changes_nothing() {
    let countdown = Countdown::leaked();
    let mut both = Both::new(&countdown.heap());
    let mut refusals = 0;
    for (i, at) in shuffled(6_000).into_iter().enumerate() {
        let (first, last) = of_all_shapes(i, at as u64);
        let mut allowed = 0;
        while both.try_insert(first, last, None) == Err(NeedNodes) {
            both.check();
            countdown.fail_after(allowed);
            let refilled = both.pool.refill(1);
            assert_eq!(countdown.lift(), refilled.is_err());
            allowed += i64::from(refilled.is_err());
            refusals += usize::from(refilled.is_err());
        }
    }
    assert!(refusals >= 8, "{refusals}");
    both.check();
}

/// Each insertion gets its blocks one by one, so that it fails at each point where it can; the set stays as it was
/// (G4).
#[test]
fn an_insertion_that_runs_out_of_nodes_changes_nothing() {
    const SIZES: [Size; 5] = [Size::B64, Size::B128, Size::B256, Size::B512, Size::B1024];
    let mut both = Both::global();
    let mut most = 0;
    for (i, at) in shuffled(3_000).into_iter().enumerate() {
        let (first, last) = of_all_shapes(i, at as u64);
        both.pool.refill(1).unwrap();
        let mut kept: Vec<_> = SIZES
            .iter()
            .flat_map(|&size| {
                std::iter::from_fn(|| both.pool.take(size).ok()).map(move |b| (b, size)).collect::<Vec<_>>()
            })
            .collect();
        let mut failed = 0;
        for wanted in SIZES.into_iter().cycle() {
            if both.try_insert(first, last, None).is_ok() {
                break;
            }
            failed += 1;
            both.set.check_invariants();
            both.check_query(first, last);
            // One block of a size more than last time.
            if let Some(at) = kept.iter().position(|&(_, size)| size == wanted) {
                let (block, size) = kept.swap_remove(at);
                // SAFETY: taken above.
                unsafe { both.pool.give(block, size) };
            }
        }
        most = most.max(failed);
        for (block, size) in kept {
            // SAFETY: taken above.
            unsafe { both.pool.give(block, size) };
        }
    }
    assert!(most > SIZES.len(), "no insertion needed two blocks of a size");
    both.check();
}

#[test]
fn clearing_gives_everything_back() {
    let mut both = Both::global();
    let items: Vec<_> = (0..3_000_u64).map(|i| new_item(i as usize, i % 1_000, i % 1_000 + 7)).collect();
    for item in &items {
        insert_raw(&mut both, item);
    }
    assert!(both.pool.live_bytes() > 0);
    // SAFETY: the set's own pool.
    unsafe { both.set.clear(&both.pool) };
    assert!(both.set.is_empty());
    assert_eq!(both.pool.live_bytes(), 0);
}

#[test]
fn equal_items_cost_nine_bytes_each() {
    let mut both = Both::global();
    for _ in 0..10_000 {
        both.insert(3, 4);
    }
    assert!(both.pool.live_bytes() <= 90_000, "{}", both.pool.live_bytes());
}

/// An item that is changed while it is in the set, in a set of this many distinct and this many equal others.
fn change_while_indexed(distinct: u64, equal: usize) {
    let mut both = Both::global();
    for i in 0..distinct {
        both.insert(100 + i, 200 + i);
    }
    for _ in 0..=equal {
        both.insert(50, 60);
    }
    both.model[equal].last.set(61);
    both.remove(equal);
}

#[test]
#[should_panic(expected = "interval changed")]
fn a_changed_item_among_others_is_noticed() {
    change_while_indexed(100, 0);
}

#[test]
#[should_panic(expected = "interval changed")]
#[cfg(debug_assertions)]
fn a_changed_item_among_its_equals_is_noticed() {
    change_while_indexed(0, 5);
}

#[test]
#[should_panic(expected = "interval changed")]
#[cfg(debug_assertions)]
fn a_changed_item_in_a_group_in_a_tree_is_noticed() {
    change_while_indexed(100, 5);
}
