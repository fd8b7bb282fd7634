//! Short-lived forks of a shell of 100 regions and 400 pages: each faults ten pages and exits.

use super::rig::Rig;
use crate::common::{Figures, Random, cpu_time};

const REGIONS: u64 = 100;
const REGION: u64 = 4;
const FAULTS: u64 = 10;

pub(crate) fn run(figures: &mut Figures) {
    let rig = Rig::new(REGIONS * REGION + FAULTS, 0);
    let shell = rig.space();
    let addrs: Vec<_> = (0..REGIONS).map(|_| rig.map_apart(&shell, REGION)).collect();
    let page = |at: u64| addrs[(at / REGION) as usize].add_pages(at % REGION);
    (0..REGIONS * REGION).for_each(|at| rig.write(&shell, page(at)));
    let mut random = Random(1);
    figures.time("exec_shells", 1, |times| {
        cpu_time(|| {
            for _ in 0..times {
                let child = rig.fork(&shell);
                (0..FAULTS).for_each(|_| rig.write(&child, page(random.below(REGIONS * REGION))));
                rig.exit(child);
            }
        })
    });
    (0..REGIONS * REGION).for_each(|at| assert_eq!(rig.walk(rig.page(&shell, page(at))), 1));
    rig.exit(shell);
}
