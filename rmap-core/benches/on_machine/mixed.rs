//! A tree of 24 processes of 150 regions, as a database has: 84 of 100 frames have one mapper, the others nearly all are
//! shared by the whole tree. Of 100 operations 80 walk a frame, 15 map, touch and unmap a region, 5 are the life of a
//! child that writes ten pages; as in the C suite these weights are chosen, not measured.

use super::rig::{Rig, Space};
use crate::common::{Figures, Random, Unit, cpu_time, pair};
use rmap_core::base::types::VirtAddr;
use rmap_core::page::Page;

const PROCESSES: usize = 24;
const REGIONS: u64 = 150;
const REGION: u64 = 8;
const PAGES: u64 = REGIONS * REGION;
const SINGLE: f64 = 0.84;
/// Operations between two looks at the clock.
const BATCH: u64 = 16;

struct Tree<'a> {
    rig: &'a Rig,
    spaces: Vec<Space>,
    addrs: Vec<VirtAddr>,
    /// Of the tree, each once: nothing in it is written any more.
    pages: Vec<&'a Page>,
}

impl<'a> Tree<'a> {
    /// The tree is binary, so the forks are up to four deep.
    fn grow(rig: &'a Rig) -> Self {
        let root = rig.space();
        let addrs = (0..REGIONS).map(|_| rig.map_apart(&root, REGION)).collect();
        let mut tree = Self { rig, spaces: vec![root], addrs, pages: Vec::new() };
        (0..PAGES).for_each(|at| rig.write(&tree.spaces[0], tree.addr(at)));
        (1..PROCESSES).for_each(|i| tree.spaces.push(rig.fork(&tree.spaces[(i - 1) / 2])));
        // The part of the pages that every process writes, so that SINGLE of all frames have one mapper.
        let processes = PROCESSES as f64;
        let copied = (SINGLE / (processes - SINGLE * (processes - 1.0)) * 1_000.0) as u64;
        let mut random = Random(1);
        for at in (0..PAGES).filter(|_| random.below(1_000) < copied) {
            tree.spaces.iter().for_each(|space| rig.write(space, tree.addr(at)));
        }
        let of_space = |space| (0..PAGES).map(|at| rig.page(space, tree.addr(at))).collect::<Vec<_>>();
        let mut pages: Vec<&Page> = tree.spaces.iter().flat_map(of_space).collect();
        pages.sort_by_key(|page| page.pfn());
        pages.dedup_by_key(|page| page.pfn());
        tree.pages = pages;
        tree
    }

    fn addr(&self, at: u64) -> VirtAddr {
        self.addrs[(at / REGION) as usize].add_pages(at % REGION)
    }

    fn one(&self, random: &mut Random) {
        let dice = random.below(100);
        let space = &self.spaces[random.below(PROCESSES as u64) as usize];
        if dice < 80 {
            assert!(self.rig.walk(self.pages[random.below(self.pages.len() as u64) as usize]) >= 1);
        } else if dice < 95 {
            let addr = self.rig.map(space, REGION, None);
            self.rig.write(space, addr);
            self.rig.unmap(space, addr, REGION);
        } else {
            let child = self.rig.fork(space);
            (0..10).for_each(|_| self.rig.write(&child, self.addr(random.below(PAGES))));
            self.rig.exit(child);
        }
    }
}

pub(crate) fn run(figures: &mut Figures) {
    let rig = Rig::new(PAGES * (PROCESSES as u64 + 1) + 128, 0);
    let tree = Tree::grow(&rig);
    let single = tree.pages.iter().filter(|page| rig.walk(page) == 1).count();
    println!("{:.3} of the frames have one mapper", single as f64 / tree.pages.len() as f64);
    let (mut one, mut other) = (Random(1), Random(2));
    figures.time("mixed/1_thread", 1, |times| cpu_time(|| (0..times).for_each(|_| tree.one(&mut one))));
    figures.rates("mixed/2_threads", ["mixed/2_threads"], Unit::MillionsPerSecond, || {
        let mut left = || (0..BATCH).for_each(|_| tree.one(&mut one));
        let mut right = || (0..BATCH).for_each(|_| tree.one(&mut other));
        let (a, b) = pair::rates(BATCH, &mut left, &mut right);
        [a + b]
    });
    let Tree { spaces, .. } = tree;
    spaces.into_iter().for_each(|space| rig.exit(space));
}
