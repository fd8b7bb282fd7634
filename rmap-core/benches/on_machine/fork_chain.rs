//! Generations, each of which writes a page. `exiting`: each parent exits after its fork, without end. `nested`: all
//! generations fork first, then all but the last exit; its forks are timed.

use super::rig::{Rig, Space};
use crate::common::{Figures, cpu_time};
use rmap_core::base::types::VirtAddr;

const REGION: u64 = 16;

/// A machine with one process, and the address of its region.
fn beginning(frames: u64) -> (Rig, Space, VirtAddr) {
    let rig = Rig::new(frames, 0);
    let space = rig.space();
    let addr = rig.written(&space, REGION);
    (rig, space, addr)
}

fn next(rig: &Rig, addr: VirtAddr, parent: Space) -> Space {
    let child = rig.fork(&parent);
    rig.write(&child, addr);
    rig.exit(parent);
    child
}

pub(crate) fn run(figures: &mut Figures) {
    let (rig, first, addr) = beginning(3 * REGION);
    let mut last = Some((0..10_000).fold(first, |space, _| next(&rig, addr, space)));
    // G5: memory is bounded by regions, not by history.
    assert!(rig.machine.footprint().expect("memory").anchors <= 3);
    figures.time("fork_chain/10000_exiting", 1, |times| {
        cpu_time(|| (0..times).for_each(|_| last = last.take().map(|space| next(&rig, addr, space))))
    });
    last.into_iter().for_each(|space| rig.exit(space));

    let (rig, first, addr) = beginning(3 * REGION + 1_000);
    let mut line = vec![first];
    for _ in 0..1_000 {
        line.push(rig.fork(&line[line.len() - 1]));
        rig.write(&line[line.len() - 1], addr);
    }
    let last = line.pop().expect("the last generation");
    line.into_iter().for_each(|space| rig.exit(space));
    assert_eq!(rig.walk(rig.page(&last, addr.add_pages(1))), 1);
    figures.time("fork_chain/1000_nested", 1, |times| cpu_time(|| (0..times).for_each(|_| rig.exit(rig.fork(&last)))));
    rig.exit(last);
}
