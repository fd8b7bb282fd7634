//! A fork and the exit of the child, by how many forks led to the parent.

use super::rig::Rig;
use crate::common::{Figures, cpu_time};

const REGION: u64 = 16;

pub(crate) fn run(figures: &mut Figures) {
    for depth in [1, 4, 16, 64, 256] {
        let rig = Rig::new(depth + 2 * REGION, 0);
        let mut line = vec![rig.space()];
        let addr = rig.written(&line[0], REGION);
        for _ in 1..depth {
            line.push(rig.fork(&line[line.len() - 1]));
            rig.write(&line[line.len() - 1], addr);
        }
        let last = line.last().expect("one");
        assert_eq!(rig.walk(rig.page(last, addr.add_pages(1))), depth);
        figures
            .time(&format!("fork/{depth}"), 1, |times| cpu_time(|| (0..times).for_each(|_| rig.exit(rig.fork(last)))));
        line.into_iter().rev().for_each(|space| rig.exit(space));
    }
}
