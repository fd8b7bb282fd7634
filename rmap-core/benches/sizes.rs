//! Memory: bytes of the reverse map's objects, and of all of it that one VMA more takes. Counted, not measured.

mod common;

use common::{ADDR, Bench, Figures, Space, Unit};
use rmap_core::base::types::VirtAddr;
use rmap_core::engine::Engine;
use rmap_core::engine::anon_vma::AnonVma;
use rmap_core::mm::Vma;

/// VMAs to average over.
const VMAS: u64 = 1_000;

/// Bytes of everything that the engine has, apart from its data in `vmas`, and of those.
fn bytes(space: &Space, vmas: &[&Vma<Bench>]) -> u64 {
    let of = |vma: &&Vma<Bench>| {
        let _held = vma.mm().read();
        space.engine().vma_footprint(vma).bytes
    };
    space.engine().footprint().bytes + space.rmap.arena().nodes.live_bytes() as u64 + vmas.iter().map(of).sum::<u64>()
}

fn main() {
    let mut figures = Figures::new();
    figures.count("sizes/anon_vma", Unit::Bytes, size_of::<AnonVma<Bench>>() as f64);

    let space = Space::new(1);
    let mm = space.mm();
    let new = |i: u64| {
        let vma = space.region(mm, VirtAddr(ADDR.0 + (i << 20)));
        space.engine().prepare(vma).expect("memory");
        vma
    };
    let vmas: Vec<_> = (0..VMAS).map(new).collect();
    figures.count("sizes/vma_never_forked", Unit::Bytes, bytes(space, &vmas) as f64 / VMAS as f64);

    for depth in [1, 256] {
        let space = Space::new(1);
        let parent = space.line(depth);
        let before = bytes(space, &[]);
        let children: Vec<_> = (0..VMAS).map(|_| space.fork(parent)).collect();
        let more = bytes(space, &children) - before;
        figures.count(&format!("sizes/vma_depth_{depth}"), Unit::Bytes, more as f64 / VMAS as f64);
    }
}
