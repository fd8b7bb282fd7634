//! The look-up, by two threads at once: of one page, of two pages of one family, of two pages that have nothing in
//! common.

mod common;

use common::{Figures, Space, Unit, pair};
use rmap_core::engine::{Engine, Lookup, Wait};
use rmap_core::page::Page;
use std::hint::black_box;

/// Look-ups between two looks at the clock.
const BATCH: u64 = 256;

fn main() {
    let mut figures = Figures::new();
    let space = Space::new(4);
    let engine = space.engine();
    let look_up = |page: &Page| {
        for _ in 0..BATCH {
            let Lookup::Found(anchor) = engine.lock_anchor(black_box(page), Wait::Block) else {
                panic!("a mapped page has an anchor")
            };
            drop(black_box(anchor));
        }
    };
    let parent = space.process();
    let parents = space.page_of(0, parent);
    let childs = space.page_of(1, space.fork(parent));
    let strangers = space.page_of(2, space.process());
    for (name, left, right) in [
        ("look_up_pair/one_page", parents, parents),
        ("look_up_pair/one_root", parents, childs),
        ("look_up_pair/two_roots", parents, strangers),
    ] {
        figures.rates(name, [name], Unit::MillionsPerSecond, || {
            let (a, b) = pair::rates(BATCH, &mut || look_up(left), &mut || look_up(right));
            [a + b]
        });
    }
}
