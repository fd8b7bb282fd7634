//! A fresh VMA gets its `anon_vma` and loses it: `anon_vma_prepare` and `unlink_anon_vmas`, objects taken and given
//! back.

mod common;

use common::{ADDR, Figures, Space, cpu_time};
use rmap_core::base::types::VirtAddr;
use rmap_core::engine::Engine;
use std::time::Duration;

/// VMAs that are alive in the second case, and address spaces that they are spread over.
const LIVE: usize = 100_000;
const SPACES: usize = 1_000;

fn main() {
    let mut figures = Figures::new();
    let space = Space::new(1);
    let engine = space.engine();
    let vma = space.region(space.mm(), ADDR);
    figures.time("prepare_unlink/hot", 1, |times| {
        cpu_time(|| {
            for _ in 0..times {
                engine.prepare(vma).expect("memory");
                engine.unlink(vma);
            }
        })
    });

    // All are prepared, then all are unlinked, going round the address spaces, so that each VMA's memory has been
    // forgotten by the caches. Gaps between them: neighbours would share an anon_vma.
    let mms: Vec<_> = (0..SPACES).map(|_| space.mm()).collect();
    let at = |i: usize| VirtAddr(ADDR.0 + ((i / SPACES) << 20) as u64);
    let vmas: Vec<_> = (0..LIVE).map(|i| space.region(mms[i % SPACES], at(i))).collect();
    figures.time("prepare_unlink/100000_live", LIVE as u64, |times| {
        let mut took = Duration::ZERO;
        for _ in 0..times {
            took += cpu_time(|| vmas.iter().for_each(|vma| engine.prepare(vma).expect("memory")));
            took += cpu_time(|| vmas.iter().for_each(|vma| engine.unlink(vma)));
        }
        took
    });
}
