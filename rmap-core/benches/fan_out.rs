//! A walk of a page that one child of a thousand wrote after the fork: it alone is visited.

mod common;

use common::{Figures, Space, cpu_time};
use std::hint::black_box;

fn main() {
    let mut figures = Figures::new();
    let space = Space::new(1);
    let (_, children) = space.family(1_000);
    let page = space.page_of(0, children[500]);
    let _locked = page.lock();
    assert_eq!(space.walk(page), 1);
    figures.time("fan_out/one_child", 1, |times| {
        cpu_time(|| (0..times).for_each(|_| _ = black_box(space.walk(black_box(page)))))
    });
    figures.time("fan_out/one_child_pte", 1, |times| {
        cpu_time(|| (0..times).for_each(|_| _ = black_box(space.walk_mappings(black_box(page)))))
    });
}
