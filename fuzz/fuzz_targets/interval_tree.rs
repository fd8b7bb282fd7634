//! The interval tree beside a plain list: whatever the bytes say to insert, remove and ask for, both give the same
//! answer.
#![no_main]

use core::ops::ControlFlow;
use core::ptr::NonNull;
use libfuzzer_sys::fuzz_target;
use rmap_core::base::alloc::Heap;
use rmap_core::ds::interval_tree::{Indexed, IntervalTree, NodePool, Place};

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

fuzz_target!(|data: &[u8]| {
    let heap = Heap::global().expect("memory");
    let pool = NodePool::new(&heap);
    let mut tree = IntervalTree::<Item>::new();
    // In the order of insertion, as equal intervals must be visited.
    let mut model: Vec<(Box<Item>, Place)> = Vec::new();
    for (number, step) in data.chunks_exact(3).enumerate() {
        let (op, a, b) = (step[0], u64::from(step[1]), u64::from(step[2]));
        match op % 4 {
            0 | 1 => {
                let item = Box::new(Item { first: a, last: a + b % 16, number });
                pool.refill(1).expect("memory");
                // SAFETY: the box keeps the item in place until it is removed below.
                let place = unsafe { tree.insert(&pool, NonNull::from(&*item)) };
                model.push((item, place.ok().expect("the pool was refilled")));
            }
            2 if !model.is_empty() => {
                let (item, place) = model.remove(usize::from(step[1]) % model.len());
                // SAFETY: in the tree, at this place.
                unsafe { tree.remove(&pool, NonNull::from(&*item), place) };
            }
            _ => {
                let (first, last) = (a.min(b), a.max(b));
                let mut found = Vec::new();
                let _ = tree.for_each(first, last, |item| {
                    found.push((item.first, item.last, item.number));
                    ControlFlow::Continue(())
                });
                let meets = |item: &&(Box<Item>, Place)| item.0.first <= last && first <= item.0.last;
                let mut expected: Vec<_> =
                    model.iter().filter(meets).map(|(i, _)| (i.first, i.last, i.number)).collect();
                // Stable: equal intervals stay in the order of insertion.
                expected.sort_by_key(|&(first, last, _)| (first, last));
                assert_eq!(found, expected);
            }
        }
    }
    // SAFETY: the tree's own pool.
    unsafe { tree.clear(&pool) };
    assert_eq!(pool.live_bytes(), 0);
});
