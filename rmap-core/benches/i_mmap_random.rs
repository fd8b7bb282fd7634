//! `i_mmap` of a file that is mapped 100,000 times, at random: the interval tree itself, as its lock's holder sees it.

mod common;
#[path = "common/item.rs"]
mod item;

use common::{Figures, Random, cpu_time};
use item::Items;
use std::hint::black_box;

const ITEMS: usize = 100_000;
/// Page offsets of the file, and pages of a mapping at most: a query meets 25 mappings on average.
const FILE: u64 = 1 << 20;
const LONGEST: u64 = 524;
/// Look-ups in one iteration.
const QUERIES: usize = 1_000;

fn main() {
    let mut figures = Figures::new();
    let mut random = Random(12_345);
    let mut items = Items::new((0..ITEMS).map(|_| {
        let first = random.below(FILE);
        (first, first + random.below(LONGEST))
    }));
    let in_order: Vec<usize> = (0..ITEMS).collect();
    let mut shuffled = in_order.clone();
    random.shuffle(&mut shuffled);

    items.time_changes(&mut figures, ["i_mmap_random/insert", "i_mmap_random/remove"], (&in_order, &shuffled));
    // What it costs to look at the items themselves in that order: no structure that finds an item by itself can remove
    // it for less.
    figures.time("i_mmap_random/remove_floor", ITEMS as u64, |times| {
        cpu_time(|| (0..times).for_each(|_| _ = black_box(items.touch(&shuffled))))
    });
    items.insert(&in_order);
    let queries: Vec<u64> = (0..QUERIES).map(|_| random.below(FILE)).collect();
    let hits: u64 = queries.iter().map(|at| items.count(*at, *at)).sum();
    println!("a query meets {:.1} mappings", hits as f64 / QUERIES as f64);
    figures.time("i_mmap_random/walk_25_hits", QUERIES as u64, |times| {
        let all = || queries.iter().map(|at| items.count(*at, *at)).sum::<u64>();
        cpu_time(|| (0..times).for_each(|_| _ = black_box(all())))
    });
}
