//! A VMA is copied into a child and goes again: `anon_vma_fork` and `unlink_anon_vmas` of one VMA whose parent has a
//! chain of a given depth.

mod common;

use common::{ADDR, Figures, Space, bounds_at, cpu_time};
use rmap_core::engine::Engine;
use rmap_core::mm::NewVma;

fn main() {
    let mut figures = Figures::new();
    for depth in [1, 4, 16, 64, 256] {
        let space = Space::new(1);
        let engine = space.engine();
        let parent = space.line(depth);
        assert_eq!(parent.engine().links(), depth);
        let held = parent.mm().write();
        let child = NewVma::copy(space.mm(), parent, bounds_at(ADDR)).expect("memory");
        drop(held);
        figures.time(&format!("fork_unlink/{depth}"), 1, |times| {
            cpu_time(|| {
                for _ in 0..times {
                    engine.fork(&child, parent).expect("memory");
                    engine.unlink(&child);
                }
            })
        });
    }
}
