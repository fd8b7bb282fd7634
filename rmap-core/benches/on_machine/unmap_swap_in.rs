//! A shared page is taken out of all page tables (`try_to_unmap`), then each sharer touches it and has it back.

use super::rig::Rig;
use crate::common::{Figures, cpu_time};

pub(crate) fn run(figures: &mut Figures) {
    for sharers in [1, 4, 16, 64] {
        let rig = Rig::new(sharers + 8, 64);
        let mut spaces = vec![rig.space()];
        let addr = rig.written(&spaces[0], 1);
        (1..sharers).for_each(|_| spaces.push(rig.fork(&spaces[0])));
        figures.time(&format!("unmap_swap_in/{sharers}"), 1, |times| {
            cpu_time(|| {
                for _ in 0..times {
                    assert!(rig.machine.swap_out(rig.page(&spaces[0], addr)).expect("a slot"));
                    spaces.iter().for_each(|space| rig.read(space, addr));
                }
            })
        });
        // The sharers share it again.
        assert_eq!(rig.walk(rig.page(&spaces[0], addr)), sharers);
        spaces.into_iter().for_each(|space| rig.exit(space));
    }
}
