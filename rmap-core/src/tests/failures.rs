//! G4: every allocation of an operation is made to fail in turn. The error is returned, nothing that anybody can see
//! has changed, the operation then works, and nothing leaks.
//!
//! Slabs grow by whole chunks, so an operation would rarely allocate: the worlds here have no free slot in any slab.

use super::oracle::{check, snapshot};
use super::toy::{Anon, Chained, PerSpace, RW, TestSystem, at, bounds};
use super::world::{FindFor, World};
use crate::base::alloc::Heap;
use crate::base::alloc::testing::Countdown;
use crate::base::error::{Error, Result};
use crate::base::types::VmFlags;
use crate::engine::Engine;
use crate::mm::VmaBounds;
use crate::mm::address_space::MmLocked;

/// ```text
///   page  0        4        8       12       16       20       24       28
///   child [- anon -)        [- anon, EXEC -)[ - anon -)        [- private file -)
///          0 1                8 9             12                 24 25             pages that are mapped
/// ```
/// The child of a child; before the last fork all pages are shared, so that a failed fork has nothing left to protect.
/// Address spaces 0 to 2.
fn family<S: TestSystem>(world: &mut World<S>) {
    world.spawn();
    world.new_file(8);
    let map = |world: &mut World<S>, first, end, flags, file| world.map(0, first, end, flags, file).unwrap();
    map(world, 0, 4, RW, None);
    map(world, 8, 16, RW, None);
    map(world, 24, 28, RW, Some((0, 2)));
    for page in [0, 1, 8, 9, 12, 24] {
        world.fault(0, page, true).unwrap();
    }
    world.fault(0, 25, false).unwrap();
    world.protect(0, 8, 12, RW | VmFlags::EXEC).unwrap();
    world.fork(0).unwrap();
    world.fork(1).unwrap();
    world.fault(2, 1, true).unwrap();
    let last = world.fork(2).unwrap();
    world.exit(last);
    world.mms.pop();
}

/// Returns how many allocations were made to fail.
fn every_failure<S: TestSystem>(
    build: fn(&mut World<S>),
    operation: fn(&mut World<S>) -> Result<()>,
    undo: fn(&mut World<S>),
) -> usize {
    let mut failures = 0;
    for n in 0.. {
        let countdown = Countdown::leaked();
        let mut world = World::<S>::new(&countdown.heap(), 32, 60);
        family(&mut world);
        build(&mut world);
        world.exhaust();
        let before = snapshot(&world);
        countdown.fail_after(n);
        let done = operation(&mut world);
        let refused = countdown.lift();
        if refused {
            failures += 1;
            assert_eq!(done, Err(Error::NoMemory), "allocation {n}");
            assert_eq!(snapshot(&world), before, "allocation {n}");
            assert_eq!(operation(&mut world), Ok(()));
        } else {
            assert_eq!(done, Ok(()));
        }
        check(&world);
        undo(&mut world);
        world.end();
        if !refused {
            break;
        }
    }
    failures
}

fn nothing<S: TestSystem>(_: &mut World<S>) {}

/// A test for each operation and engine. An operation needs no memory with the engines that stand behind it.
macro_rules! each_fails_in_turn {
    ($($name:ident($build:ident, $operation:ident, $undo:ident) $([$($frugal:ident)*])?;)*) => {
        $(mod $name {
            use super::*;
            crate::tests::each_engine!(fails_in_turn, ($build, $operation, $undo) $($($frugal)*)?);
        })*
    };
}

/// One of these tests.
macro_rules! fails_in_turn {
    ($engine:ident $toy:ident $system:ident ($build:ident, $operation:ident, $undo:ident) $($frugal:ident)*) => {
        #[test]
        fn $engine() {
            let frugal: &[&str] = &[$(stringify!($frugal)),*];
            let failures = every_failure::<super::super::toy::$toy>($build, $operation, $undo);
            assert_eq!(failures == 0, frugal.contains(&stringify!($engine)), "{failures} allocations failed in turn");
        }
    };
}

each_fails_in_turn! {
    vma_new(nothing, vma_new_op, nothing);
    vma_new_of_a_file(nothing, vma_new_of_a_file_op, nothing);
    prepare(unprepared, prepare_op, nothing) [pte_chain full_scan];
    prepare_beside_a_neighbour(protected, prepare_op, nothing) [objrmap pte_chain full_scan];
    copy(nothing, copy_op, free_copy);
    copy_of_a_file(nothing, copy_of_a_file_op, free_copy);
    fork_of_a_vma(begun, fork_of_a_vma_op, free_fork);
    fork_of_all(nothing, fork_op, nothing);
    split(nothing, split_op, nothing);
    split_of_a_file(nothing, split_of_a_file_op, nothing);
    merge(halved, merge_op, nothing) [objrmap pte_chain full_scan];
    merge_into_unprepared(half_prepared, merge_op, nothing) [objrmap pte_chain full_scan];
    adjust(nothing, adjust_op, nothing) [objrmap pte_chain full_scan];
    adjust_of_a_file(nothing, adjust_of_a_file_op, nothing);
    shift(halved, shift_op, nothing) [objrmap pte_chain full_scan];
}

/// No other engine allocates where a fork begins.
#[test]
fn fork_begin_of_per_mm() {
    assert!(every_failure::<PerSpace>(crowded, fork_begin_op, nothing) > 0);
}

/// Only the chains allocate where a page is mapped.
#[test]
fn mapping_of_pte_chain() {
    assert!(every_failure::<Chained>(nothing, fault_op, nothing) > 0);
    assert!(every_failure::<Chained>(a_cached_page, fault_of_a_file_op, nothing) > 0);
}

fn vma_new_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    world.map(2, 20, 22, RW, None)
}

fn vma_new_of_a_file_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    world.map(2, 20, 22, RW, Some((0, 1)))
}

fn fault_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    world.fault(2, 2, true)
}

/// What is at page 25 already.
fn a_cached_page<S: TestSystem>(world: &mut World<S>) {
    world.map(2, 20, 22, RW, Some((0, 3))).unwrap();
}

fn fault_of_a_file_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    world.fault(2, 20, false)
}

fn unprepared<S: TestSystem>(world: &mut World<S>) {
    world.map(2, 20, 22, RW, None).unwrap();
}

/// An unprepared VMA that only its flags keep apart from a prepared one, of an address space without relatives.
fn protected<S: TestSystem>(world: &mut World<S>) {
    world.exit(2);
    world.mms.pop();
    world.spawn();
    world.map(2, 16, 20, RW, None).unwrap();
    world.fault(2, 17, true).unwrap();
    world.map(2, 20, 22, RW | VmFlags::EXEC, None).unwrap();
}

fn prepare_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    let mm = world.mm(2).read();
    let vma = mm.find(at(20)).unwrap();
    let was = world.rmap.engine().is_prepared(vma);
    let done = world.rmap.engine().prepare(vma);
    assert_eq!(world.rmap.engine().is_prepared(vma), was || done.is_ok());
    done
}

fn copy_of<S: TestSystem>(world: &mut World<S>, source: u64) -> Result<()> {
    let mm = world.mm(2).write();
    let vma = mm.find(at(source)).unwrap();
    let limits = VmaBounds { pgoff: vma.pgoff(), ..bounds(20, 20 + vma.pages()) };
    world.rmap.vma_copy(&mm, vma, limits).map(drop)
}

fn copy_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    copy_of(world, 0)
}

fn copy_of_a_file_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    copy_of(world, 24)
}

fn free_copy<S: TestSystem>(world: &mut World<S>) {
    world.unmap(2, 20, 24).unwrap();
}

fn with_child<S: TestSystem>(world: &mut World<S>) {
    world.spawn();
}

/// The family's list of members is full.
fn crowded<S: TestSystem>(world: &mut World<S>) {
    with_child(world);
    world.fork(0).unwrap();
}

fn fork_begin_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    let parent = world.mm(2).write();
    let child = world.mm(3).write_nested();
    world.rmap.engine().fork_begin(&child, &parent)
}

fn begun<S: TestSystem>(world: &mut World<S>) {
    with_child(world);
    fork_begin_op(world).unwrap();
}

fn fork_of_a_vma_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    let parent = world.mm(2).write();
    let child = world.mm(3).write_nested();
    let vma = parent.find(at(24)).unwrap();
    world.rmap.vma_fork(&child, &parent, vma).map(drop)
}

fn free_fork<S: TestSystem>(world: &mut World<S>) {
    world.exit(3);
    world.mms.pop();
}

fn fork_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    world.fork(1).map(drop)
}

fn split_at<S: TestSystem>(world: &mut World<S>, page: u64) -> Result<()> {
    let mm = world.mm(2).write();
    let vma = mm.mm_ref_find(at(page)).unwrap();
    world.rmap.vma_split(&mm, vma, at(page)).map(drop)
}

fn split_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    split_at(world, 1)
}

fn split_of_a_file_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    split_at(world, 25)
}

fn halved<S: TestSystem>(world: &mut World<S>) {
    split_at(world, 1).unwrap();
}

/// An unprepared VMA at page 0, and a prepared one above it; no relatives.
fn half_prepared<S: TestSystem>(world: &mut World<S>) {
    world.exit(2);
    world.mms.pop();
    world.spawn();
    world.map(2, 0, 1, RW, None).unwrap();
    world.map(2, 1, 4, RW, None).unwrap();
    world.fault(2, 2, true).unwrap();
}

fn merge_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    let mm = world.mm(2).write();
    let (low, high) = (mm.mm_ref_find(at(0)).unwrap(), mm.mm_ref_find(at(1)).unwrap());
    world.rmap.vma_merge(&mm, low, high)
}

fn adjust_to<S: TestSystem>(world: &mut World<S>, page: u64, first: u64, end: u64) -> Result<()> {
    let mm = world.mm(2).write();
    let vma = mm.mm_ref_find(at(page)).unwrap();
    let limits = VmaBounds { start: at(first), end: at(end), pgoff: vma.bounds().pgoff_of(at(first)) };
    world.rmap.vma_adjust(&mm, vma, limits)
}

fn adjust_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    adjust_to(world, 0, 0, 6)
}

fn adjust_of_a_file_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    adjust_to(world, 24, 23, 28)
}

fn shift_op<S: TestSystem>(world: &mut World<S>) -> Result<()> {
    let mm = world.mm(2).write();
    let (low, high) = (mm.mm_ref_find(at(0)).unwrap(), mm.mm_ref_find(at(1)).unwrap());
    world.rmap.vma_shift(&mm, low, high, at(2))
}

/// Trees of one chain need a node each when the pool has fewer: it is refilled for all of them, not for one again and
/// again.
#[test]
fn a_pool_that_is_nearly_empty_is_refilled_for_the_whole_operation() {
    let (done, all_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Two nodes of 64 bytes each; the first chunk has 64.
        for filler in 20..33 {
            let mut world = World::<Anon>::new(&Heap::global().expect("memory"), 32 + 4 * filler, 80 + 2 * filler);
            family(&mut world);
            for n in 0..filler {
                let first = 30 + 4 * n;
                world.map(0, first, first + 1, RW, None).unwrap();
                world.map(0, first + 2, first + 3, RW, None).unwrap();
                world.fault(0, first, true).unwrap();
                world.fault(0, first + 2, true).unwrap();
            }
            let last = world.fork(0).unwrap();
            copy_op(&mut world).unwrap();
            split_op(&mut world).unwrap();
            check(&world);
            world.exit(last);
            world.end();
        }
        done.send(()).unwrap();
    });
    let waited = all_done.recv_timeout(std::time::Duration::from_mins(1));
    assert!(waited.is_ok(), "the pool is asked for ever");
}
