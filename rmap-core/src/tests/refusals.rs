//! G4: what the component refuses changes nothing.

use super::oracle::{check, snapshot};
use super::toy::{RW, TestSystem, at, bounds};
use super::world::{FindFor, World};
use crate::base::error::{Error, Result};
use crate::base::types::{VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::mm::{MmWrite, Vma, VmaBounds};
use crate::page::Page;
use crate::rmap::account::Level;

on_every_toy!(
    g4_mappings_that_are_refused,
    g4_layouts_that_are_refused,
    g4_layouts_that_never_are,
    g4_a_pinned_page_is_not_shared,
    g4_a_new_page_belongs_to_nobody_yet,
);

/// ```text
///   page  0       4        8         12       16        20     24
///         [ anon )         [ anon    )[ anon  )[ file 0 )      [ file 1 )   file 0 from its page 2 on, file 1 from 0
///          0 1               not prepared       16              24          pages that are mapped
/// ```
fn world<S: TestSystem>() -> World<S> {
    let mut world = World::<S>::with_one(32, 16);
    world.new_file(8);
    world.new_file(8);
    world.map(0, 0, 4, RW, None).unwrap();
    world.map(0, 8, 12, RW, None).unwrap();
    world.map(0, 12, 16, RW | VmFlags::EXEC, None).unwrap();
    world.map(0, 16, 20, RW, Some((0, 2))).unwrap();
    world.map(0, 24, 28, RW, Some((1, 0))).unwrap();
    world.fault(0, 0, true).unwrap();
    world.fault(0, 1, true).unwrap();
    world.fault(0, 16, false).unwrap();
    world.fault(0, 24, false).unwrap();
    world
}

/// `act` is refused with `error`, and everything is as it was.
#[track_caller]
fn refused<S: TestSystem>(world: &World<S>, error: Error, act: impl FnOnce(&MmWrite<'_, S>) -> Result<()>) {
    let before = snapshot(world);
    let done = act(&world.mm(0).write());
    assert_eq!(done, Err(error));
    assert_eq!(snapshot(world), before);
}

fn vma<'a, S: TestSystem>(mm: &MmWrite<'a, S>, page: u64) -> &'a Vma<S> {
    mm.mm_ref_find(at(page)).expect("a VMA")
}

fn g4_mappings_that_are_refused<S: TestSystem>() {
    let mut world = world::<S>();
    let inside = |n| VirtAddr(at(n).0 + 8);
    let fresh = world.alloc().unwrap();
    {
        let new = |vma: &Vma<S>, addr| world.rmap.page_add_new_anon_rmap(world.page(fresh), vma, addr, Level::Single);
        refused(&world, Error::Invalid, |mm| new(vma(mm, 0), at(4)));
        refused(&world, Error::Invalid, |mm| new(vma(mm, 0), inside(2)));
        let unprepared = !world.rmap.engine().is_prepared(vma(&world.mm(0).write(), 8));
        if unprepared {
            refused(&world, Error::Invalid, |mm| new(vma(mm, 8), at(8)));
        }
    }
    world.put(fresh);
    let anon = world.page_at(0, 0).unwrap();
    let of_file = world.page_at(0, 16).unwrap();
    let map = |page: &Page, vma: &Vma<S>, addr| {
        let _locked = page.lock();
        world.rmap.page_add_anon_rmap(page, vma, addr, false, Level::Single)
    };
    refused(&world, Error::Invalid, |mm| map(anon, vma(mm, 0), at(4)));
    refused(&world, Error::Invalid, |mm| map(anon, vma(mm, 0), inside(2)));
    refused(&world, Error::Invalid, |mm| map(of_file, vma(mm, 0), at(2)));
    let keep = |page: &Page, vma: &Vma<S>, addr| {
        let _locked = page.lock();
        world.rmap.page_move_anon_rmap(page, vma, addr)
    };
    refused(&world, Error::Invalid, |mm| keep(anon, vma(mm, 0), at(4)));
    refused(&world, Error::Invalid, |mm| keep(of_file, vma(mm, 0), at(0)));
    let file = |page: &Page, vma: &Vma<S>, addr| world.rmap.page_add_file_rmap(page, vma, addr, Level::Single);
    refused(&world, Error::Invalid, |mm| file(of_file, vma(mm, 16), at(20)));
    refused(&world, Error::Invalid, |mm| file(of_file, vma(mm, 16), inside(16)));
    refused(&world, Error::Invalid, |mm| file(of_file, vma(mm, 16), at(17)));
    // Page 2 of the other file.
    refused(&world, Error::Invalid, |mm| file(of_file, vma(mm, 24), at(26)));
    refused(&world, Error::Invalid, |mm| file(of_file, vma(mm, 0), at(0)));
    check(&world);
    world.end();
}

fn g4_layouts_that_are_refused<S: TestSystem>() {
    let world = world::<S>();
    let rmap = &world.rmap;
    let split = |mm: &MmWrite<'_, S>, addr| rmap.vma_split(mm, vma(mm, 0), addr).map(drop);
    refused(&world, Error::Invalid, |mm| split(mm, at(0)));
    refused(&world, Error::Invalid, |mm| split(mm, at(4)));
    refused(&world, Error::Invalid, |mm| split(mm, VirtAddr(at(2).0 + 1)));
    // A hole between them; other flags; a file beside none.
    for (low, high) in [(0, 8), (8, 12), (12, 16)] {
        refused(&world, Error::Invalid, |mm| rmap.vma_merge(mm, vma(mm, low), vma(mm, high)));
    }
    let adjust = |mm: &MmWrite<'_, S>, bounds| rmap.vma_adjust(mm, vma(mm, 0), bounds);
    refused(&world, Error::Exists, |mm| adjust(mm, bounds(0, 9)));
    refused(&world, Error::Invalid, |mm| adjust(mm, VmaBounds { pgoff: 0, ..bounds(0, 3) }));
    refused(&world, Error::Invalid, |mm| adjust(mm, VmaBounds { end: at(0), ..bounds(0, 4) }));
    refused(&world, Error::Invalid, |mm| adjust(mm, bounds(5, 7)));
    let shift = |mm: &MmWrite<'_, S>, low, high, to| rmap.vma_shift(mm, vma(mm, low), vma(mm, high), to);
    refused(&world, Error::Invalid, |mm| shift(mm, 0, 8, at(2)));
    refused(&world, Error::Invalid, |mm| shift(mm, 8, 12, at(8)));
    refused(&world, Error::Invalid, |mm| shift(mm, 8, 12, at(16)));
    refused(&world, Error::Invalid, |mm| shift(mm, 12, 16, at(14)));
    refused(&world, Error::Exists, |mm| rmap.vma_new(mm, bounds(3, 5), RW, None, ()).map(drop));
    // The tree that the copy was in for a moment keeps its node.
    let copy = |mm: &MmWrite<'_, S>| {
        rmap.vma_copy(mm, vma(mm, 0), VmaBounds { pgoff: bounds(0, 4).pgoff, ..bounds(9, 13) }).map(drop)
    };
    assert_eq!(copy(&world.mm(0).write()), Err(Error::Exists));
    refused(&world, Error::Exists, copy);
    check(&world);
    world.end();
}

/// VMAs like those of devices join nobody, and a file ends where its offsets do.
fn g4_layouts_that_never_are<S: TestSystem>() {
    let mut world = world::<S>();
    world.map(0, 28, 30, RW | VmFlags::DONTEXPAND, None).unwrap();
    world.map(0, 30, 31, RW | VmFlags::DONTEXPAND, None).unwrap();
    world.map(0, 5, 6, RW, Some((0, u64::MAX - 1))).unwrap();
    refused(&world, Error::Invalid, |mm| world.rmap.vma_merge(mm, vma(mm, 28), vma(mm, 30)));
    let longer = VmaBounds { pgoff: u64::MAX - 1, ..bounds(5, 7) };
    refused(&world, Error::Invalid, |mm| world.rmap.vma_adjust(mm, vma(mm, 5), longer));
    check(&world);
    world.end();
}

/// Fork copies a pinned page itself: whoever has the pin goes on with the parent's.
fn g4_a_pinned_page_is_not_shared<S: TestSystem>() {
    let mut world = world::<S>();
    let child = world.spawn();
    world.map(child, 0, 4, RW, None).unwrap();
    world.fault(child, 3, true).unwrap();
    let page = world.page_at(0, 0).unwrap();
    page.get();
    assert!(page.try_pin());
    {
        let _reserved = world.rmap.reserve(1).unwrap();
        let mm = world.mm(child).write();
        let before = (page.mapcount(), page.flags());
        assert_eq!(world.rmap.page_dup_rmap(page, vma(&mm, 0), at(0), Level::Single), Err(Error::Busy));
        assert_eq!((page.mapcount(), page.flags()), before);
    }
    let pfn = page.pfn();
    assert!(!page.unpin());
    world.put(pfn);
    check(&world);
    world.end();
}

/// A page that is mapped, or was somebody's and has still its word, is not taken for a new one.
fn g4_a_new_page_belongs_to_nobody_yet<S: TestSystem>() {
    let world = world::<S>();
    for n in [0, 16] {
        let page = world.page_at(0, n).unwrap();
        refused(&world, Error::Busy, |mm| world.rmap.page_add_new_anon_rmap(page, vma(mm, 0), at(2), Level::Single));
    }
    check(&world);
    world.end();
}
