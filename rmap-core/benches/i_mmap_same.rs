//! `i_mmap` of a file that is mapped 100,000 times at the same offsets, as a library is: the interval tree itself.

mod common;
#[path = "common/item.rs"]
mod item;

use common::{Figures, Random, cpu_time};
use item::Items;
use std::hint::black_box;

const ITEMS: usize = 100_000;

fn main() {
    let mut figures = Figures::new();
    let mut items = Items::new((0..ITEMS).map(|_| (0, 99)));
    let in_order: Vec<usize> = (0..ITEMS).collect();
    let mut shuffled = in_order.clone();
    Random(12_345).shuffle(&mut shuffled);

    items.time_changes(&mut figures, ["i_mmap_same/insert", "i_mmap_same/remove_random"], (&in_order, &shuffled));
    items.insert(&in_order);
    figures.time("i_mmap_same/visit", ITEMS as u64, |times| {
        cpu_time(|| (0..times).for_each(|_| _ = black_box(items.count(50, 50))))
    });
}
