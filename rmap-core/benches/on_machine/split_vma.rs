//! mprotect of every second page cuts a region into 20,000 VMAs, which all stay with one anchor: a walk of one of its
//! pages; one more cut and merge.

use super::rig::Rig;
use crate::common::{Figures, Random, cpu_time};
use rmap_core::base::types::{PAGE_SIZE, VmFlags};

const VMAS: u64 = 20_000;

pub(crate) fn run(figures: &mut Figures) {
    let rig = Rig::new(VMAS, 0);
    let space = rig.space();
    let addr = rig.written(&space, VMAS);
    let protect = |page: u64, prot| {
        rig.machine.mprotect(&space, addr.add_pages(page), PAGE_SIZE, prot).expect("memory");
    };
    (1..VMAS).step_by(2).for_each(|page| protect(page, VmFlags::READ));
    assert_eq!(space.nr_regions() as u64, VMAS);
    let mut random = Random(1);
    figures.time("split_vma/walk", 1, |times| {
        cpu_time(|| {
            for _ in 0..times {
                let page = rig.page(&space, addr.add_pages(random.below(VMAS)));
                assert_eq!(rig.walk(page), 1);
            }
        })
    });
    // The page of a region within: both neighbours merge with it, and are cut off again.
    figures.time("split_vma/cut_and_merge", 1, |times| {
        cpu_time(|| {
            for _ in 0..times {
                let page = 1 + 2 * random.below(VMAS / 2 - 1);
                protect(page, VmFlags::READ | VmFlags::WRITE);
                protect(page, VmFlags::READ);
            }
        })
    });
    rig.exit(space);
}
