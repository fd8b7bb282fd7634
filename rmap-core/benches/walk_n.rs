//! A walk of a page that was there before its owner forked: every child's VMA is visited.
//!
//! `walk_n/N` only counts. `walk_n/N_pte` looks at each page table and takes its lock (`page_vma_mapped_walk`).
//! `walk_n/N_floor` is what the answer itself costs: N pairs of VMA and address read from a dense array.

mod common;

use common::{Figures, Space, cpu_time};
use std::hint::black_box;

fn main() {
    let mut figures = Figures::new();
    for visited in [1_usize, 10, 1_000, 10_000] {
        let space = Space::new(1);
        let (parent, children) = space.family(visited - 1);
        let page = space.page_of(0, parent);
        for child in children {
            space.share(page, child);
        }
        let _locked = page.lock();
        assert_eq!((space.walk(page), space.walk_mappings(page)), (visited as u64, visited as u64));

        figures.time(&format!("walk_n/{visited}"), 1, |times| {
            cpu_time(|| (0..times).for_each(|_| _ = black_box(space.walk(black_box(page)))))
        });
        figures.time(&format!("walk_n/{visited}_pte"), 1, |times| {
            cpu_time(|| (0..times).for_each(|_| _ = black_box(space.walk_mappings(black_box(page)))))
        });
        let pairs: Vec<(usize, u64)> = (0..visited).map(|i| (64 * i, 4_096 * i as u64)).collect();
        figures.time(&format!("walk_n/{visited}_floor"), 1, |times| {
            let sum = || black_box(&pairs).iter().fold(0, |sum, (vma, addr)| sum ^ *vma as u64 ^ addr);
            cpu_time(|| (0..times).for_each(|_| _ = black_box(sum())))
        });
    }
}
