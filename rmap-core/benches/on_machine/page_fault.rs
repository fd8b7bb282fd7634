//! Threads fault fresh pages one by one, and unmap them when the region is full: in one address space, and in two.

use super::rig::{Rig, Space};
use crate::common::{Figures, Unit, cpu_time, pair};
use rmap_core::base::types::VirtAddr;

const REGION: u64 = 512;
/// Faults between two looks at the clock.
const BATCH: u64 = 64;

/// Where one thread faults.
struct Lane<'a> {
    rig: &'a Rig,
    space: &'a Space,
    addr: VirtAddr,
    next: u64,
}

impl<'a> Lane<'a> {
    fn new(rig: &'a Rig, space: &'a Space) -> Self {
        Self { rig, space, addr: rig.map(space, REGION, None), next: 0 }
    }

    fn fault(&mut self) {
        if self.next == REGION {
            self.rig.unmap(self.space, self.addr, REGION);
            self.addr = self.rig.map(self.space, REGION, None);
            self.next = 0;
        }
        self.rig.write(self.space, self.addr.add_pages(self.next));
        self.next += 1;
    }
}

pub(crate) fn run(figures: &mut Figures) {
    // Shards of free frames may hold some back from another thread.
    let rig = Rig::new(6 * REGION, 0);
    let spaces = [rig.space(), rig.space()];
    let mut alone = Lane::new(&rig, &spaces[0]);
    figures.time("page_fault/1_thread", 1, |times| cpu_time(|| (0..times).for_each(|_| alone.fault())));
    rig.unmap(&spaces[0], alone.addr, REGION);
    for (name, second) in [("page_fault/2_threads_one_mm", 0), ("page_fault/2_threads_many", 1)] {
        let (mut left, mut right) = (Lane::new(&rig, &spaces[0]), Lane::new(&rig, &spaces[second]));
        figures.rates(name, [name], Unit::MillionsPerSecond, || {
            let mut one = || (0..BATCH).for_each(|_| left.fault());
            let mut other = || (0..BATCH).for_each(|_| right.fault());
            let (a, b) = pair::rates(BATCH, &mut one, &mut other);
            [a + b]
        });
        rig.unmap(&spaces[0], left.addr, REGION);
        rig.unmap(&spaces[second], right.addr, REGION);
    }
    spaces.into_iter().for_each(|space| rig.exit(space));
}
