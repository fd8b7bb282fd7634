//! A region of pages moves to and fro, alone or with a child that shares it.

use super::rig::Rig;
use crate::common::{Figures, cpu_time};
use rmap_core::base::types::{PAGE_SIZE, VirtAddr};
use rmap_core::machine::remap::MremapFlags;

/// Two places, 64 GiB apart.
const PLACES: [VirtAddr; 2] = [VirtAddr(1 << 40), VirtAddr((1 << 40) + (64 << 30))];

pub(crate) fn run(figures: &mut Figures) {
    for (pages, shared) in [(1, false), (1, true), (512, false), (512, true)] {
        let rig = Rig::new(pages, 0);
        let space = rig.space();
        let mut addr = rig.written(&space, pages);
        let page = rig.page(&space, addr);
        let child = shared.then(|| rig.fork(&space));
        let mut step = 0;
        let mut go = || {
            let how = MremapFlags::MAYMOVE | MremapFlags::FIXED;
            let (len, to) = (pages * PAGE_SIZE, PLACES[step % 2]);
            addr = rig.machine.mremap(&space, addr, len, len, how, Some(to)).expect("memory");
            step += 1;
        };
        let name = format!("mremap_move/{pages}{}", if shared { "_shared" } else { "" });
        figures.time(&name, 1, |times| cpu_time(|| (0..times).for_each(|_| go())));
        // After all these moves everybody is still found.
        assert_eq!(rig.walk(page), 1 + u64::from(shared));
        rig.exit(space);
        child.into_iter().for_each(|child| rig.exit(child));
    }
}
