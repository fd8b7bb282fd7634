//! Every process maps the C library: one thread maps, touches and unmaps a file that 6,000 regions map, alone and while
//! another walks its page.

use super::rig::Rig;
use crate::common::{Figures, Unit, cpu_time, pair};
use rmap_core::machine::system::FileExt;

const SPACES: u64 = 60;
const VMAS: u64 = 6_000;
const FILE: u64 = 4;

pub(crate) fn run(figures: &mut Figures) {
    let rig = Rig::new(64, 0);
    let file = rig.machine.new_file(FILE, FileExt::default()).expect("memory");
    let spaces: Vec<_> = (0..SPACES).map(|_| rig.space()).collect();
    let mut addr = None;
    for space in &spaces {
        for _ in 0..VMAS / SPACES {
            let at = rig.map(space, FILE, Some(&file));
            rig.read(space, at);
            addr = Some(at);
        }
    }
    let page = rig.page(&spaces[spaces.len() - 1], addr.expect("mapped"));
    assert_eq!(rig.walk(page), VMAS);
    let own = rig.space();
    let map = || {
        let at = rig.map(&own, FILE, Some(&file));
        rig.read(&own, at);
        rig.unmap(&own, at, FILE);
    };
    figures.time("libc_map/alone", 1, |times| cpu_time(|| (0..times).for_each(|_| map())));
    figures.rates("libc_map", ["libc_map/map", "libc_map/walk"], Unit::PerSecond, || {
        let mut walk = || assert!(rig.walk(page) >= VMAS);
        let (maps, walks) = pair::rates(1, &mut || map(), &mut walk);
        [maps, walks]
    });
    rig.exit(own);
    spaces.into_iter().for_each(|space| rig.exit(space));
}
