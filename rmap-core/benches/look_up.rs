//! The look-up: from a page to its anchor, locked for reading, and unlocked again (`folio_lock_anon_vma_read`). One
//! thread.

mod common;

use common::{Figures, Space, cpu_time};
use rmap_core::engine::{Engine, Lookup, Wait};
use std::hint::black_box;

fn main() {
    let mut figures = Figures::new();
    let space = Space::new(1);
    let page = space.page_of(0, space.process());
    let engine = space.engine();
    figures.time("look_up/1_thread", 1, |times| {
        cpu_time(|| {
            for _ in 0..times {
                let Lookup::Found(anchor) = engine.lock_anchor(black_box(page), Wait::Block) else {
                    panic!("a mapped page has an anchor")
                };
                drop(black_box(anchor));
            }
        })
    });
}
