//! One thread forks and exits a child (`anon_vma_fork` and `unlink_anon_vmas` of its VMA), another walks the parent's
//! page, which a thousand siblings may have: both want the root's lock.

mod common;

use common::{ADDR, Bench, Figures, Space, Unit, bounds_at, pair};
use rmap_core::engine::Engine;
use rmap_core::mm::{NewVma, Vma};

fn main() {
    let mut figures = Figures::new();
    let space = Space::new(1);
    let engine = space.engine();
    let (parent, siblings) = space.family(1_000);
    let page = space.page_of(0, parent);
    for sibling in siblings {
        space.share(page, sibling);
    }
    let held = parent.mm().write();
    let child = NewVma::copy(space.mm(), parent, bounds_at(ADDR)).expect("memory");
    let child: &Vma<Bench> = &child;
    drop(held);
    let names = ["walk_vs_fork/forks", "walk_vs_fork/walks"];
    figures.rates("walk_vs_fork", names, Unit::PerSecond, || {
        let mut fork = || {
            engine.fork(child, parent).expect("memory");
            engine.unlink(child);
        };
        let mut walk = || {
            let _locked = page.lock();
            let visited = space.walk(page);
            assert!(visited == 1_001 || visited == 1_002, "{visited} visited");
        };
        let (forks, walks) = pair::rates(1, &mut fork, &mut walk);
        [forks, walks]
    });
}
