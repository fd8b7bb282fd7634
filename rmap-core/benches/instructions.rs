//! Instructions of the ten hottest operations, counted by valgrind (gungraun): the same number in every run, on a busy
//! machine too. `.ci/instructions.py` holds them to `instructions.txt`.

#![allow(missing_docs, reason = "gungraun's macros make public items without")]
mod common;
#[path = "common/item.rs"]
mod item;

use common::{ADDR, Bench, Random, Space};
use gungraun::{LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use item::Items;
use rmap_core::engine::{Engine, Lookup, Wait};
use rmap_core::mm::Vma;
use rmap_core::page::Page;
use rmap_core::rmap::account::Level;
use std::hint::black_box;

/// A context, a region in it, and a page.
struct World {
    space: &'static Space,
    vma: &'static Vma<Bench>,
    page: &'static Page,
}

impl World {
    /// A page that was mapped once.
    fn of_one() -> Self {
        Self::of_family(0)
    }

    /// A page of the parent's.
    fn of_family(children: usize) -> Self {
        let space = Space::new(2);
        let (vma, _) = space.family(children);
        let page = space.page_of(0, vma);
        Self { space, vma, page }.warm()
    }

    /// A page that the last of the children wrote.
    fn of_child(children: usize) -> Self {
        let space = Space::new(2);
        let (_, all) = space.family(children);
        let vma = all[children - 1];
        let page = space.page_of(0, vma);
        Self { space, vma, page }.warm()
    }

    /// A region whose chain has that many links.
    fn of_line(depth: usize) -> Self {
        let space = Space::new(2);
        let vma = space.line(depth);
        let page = space.page_of(0, vma);
        Self { space, vma, page }.warm()
    }

    /// What comes once, when a thread first does something, is done.
    fn warm(self) -> Self {
        look_up(&self);
        fork_unlink(&self);
        self
    }

    fn locked(self) -> Self {
        core::mem::forget(self.page.lock());
        self
    }
}

fn look_up(world: &World) {
    let Lookup::Found(anchor) = world.space.engine().lock_anchor(black_box(world.page), Wait::Block) else {
        panic!("a mapped page has an anchor")
    };
    drop(black_box(anchor));
}

fn fork_unlink(world: &World) {
    let child = world.space.fork(world.vma);
    world.space.engine().unlink(black_box(child));
}

#[library_benchmark]
#[bench::one(World::of_one())]
fn look_up_and_unlock(world: World) {
    look_up(&world);
}

#[library_benchmark]
#[bench::one(World::of_one())]
fn get_and_put(world: World) {
    drop(black_box(world.space.engine().get_anon_vma(black_box(world.page))));
}

#[library_benchmark]
#[bench::one(World::of_one().locked())]
#[bench::thousand(World::of_family(999).locked())]
fn walk(world: World) -> u64 {
    world.space.walk(black_box(world.page))
}

#[library_benchmark]
#[bench::own_of_1000_siblings(World::of_child(1_000).locked())]
fn walk_mapped(world: World) -> u64 {
    world.space.walk_mappings(black_box(world.page))
}

/// A region that was never written.
fn fresh() -> (World, &'static Vma<Bench>) {
    let world = World::of_one();
    let vma = world.space.region(world.space.mm(), ADDR);
    (world, vma)
}

#[library_benchmark]
#[bench::one(fresh())]
fn prepare_and_unlink((world, vma): (World, &'static Vma<Bench>)) {
    world.space.engine().prepare(black_box(vma)).expect("memory");
    world.space.engine().unlink(black_box(vma));
}

/// The region's copy, and a place for another.
fn forked(depth: usize) -> (World, &'static Vma<Bench>, &'static Vma<Bench>) {
    let world = World::of_line(depth);
    let child = world.space.region(world.space.mm(), ADDR);
    let parent = world.vma;
    (world, child, parent)
}

#[library_benchmark]
#[bench::chain_1(forked(1))]
#[bench::chain_16(forked(16))]
fn fork_and_unlink((world, child, parent): (World, &'static Vma<Bench>, &'static Vma<Bench>)) {
    world.space.engine().fork(black_box(child), black_box(parent)).expect("memory");
    world.space.engine().unlink(black_box(child));
}

#[library_benchmark]
#[bench::one(World::of_one())]
fn map_and_unmap(world: World) {
    let page = world.space.rmap.pages().page(rmap_core::base::types::Pfn(1)).expect("a frame");
    world.space.rmap.page_add_new_anon_rmap(black_box(page), world.vma, ADDR, Level::Single).expect("fresh");
    world.space.rmap.page_remove_rmap(black_box(page), world.vma, ADDR, Level::Single);
}

/// A tree of 10,000 random intervals, without the last.
fn tree() -> Items {
    let mut random = Random(12_345);
    let mut items = Items::new((0..10_000).map(|_| {
        let first = random.below(1 << 20);
        (first, first + random.below(524))
    }));
    items.insert(&(0..9_999).collect::<Vec<_>>());
    items
}

#[library_benchmark]
#[bench::of_10000(tree())]
fn i_mmap_insert_and_remove(mut items: Items) {
    items.insert(&[9_999]);
    items.remove(&[9_999]);
}

library_benchmark_group!(
    name = hot;
    benchmarks = look_up_and_unlock, get_and_put, walk, walk_mapped, prepare_and_unlink, fork_and_unlink, map_and_unmap, i_mmap_insert_and_remove
);

// The C library's copying functions differ by processor, and so would counts: the plainest everywhere.
main!(
    config = LibraryBenchmarkConfig::default()
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM,-SSSE3");
    library_benchmark_groups = hot
);
