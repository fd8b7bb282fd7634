//! Callbacks that stop what called them, and callbacks that panic: wherever that is, locks are free afterwards, counts
//! and entries are as the oracle says, and what was cut short can be done again.

use super::oracle::check;
use super::toy::{RW, TestSystem};
use super::trip::{pass, tripped_at};
use super::world::World;
use crate::base::lockdep;
use crate::base::types::{Pfn, VmFlags};
use crate::engine::{Engine, Lookup, Wait};
use crate::page::Page;
use crate::rmap::Rmap;
use crate::rmap::unmap::TtuFlags;
use crate::rmap::walk::{AnchorOf, WalkControl, WalkEnd};
use core::ops::ControlFlow;
use std::vec::Vec;

on_every_toy!(
    a_callback_that_stops_a_walk,
    a_callback_that_panics_in_a_walk,
    a_panic_while_a_page_is_unmapped,
    a_panic_while_a_page_is_looked_at,
    a_panic_under_a_files_locks,
);

/// ```text
///   page   0      4      8     12
///   3 x    |- RW -)      | file )      of one family; page 0 and page 8 are mapped by all three
/// ```
fn family<S: TestSystem>() -> World<S> {
    let mut world = World::<S>::with_one(16, 24);
    world.new_file(4);
    world.map(0, 0, 4, RW, None).unwrap();
    world.map(0, 8, 12, RW | VmFlags::SHARED, Some((0, 0))).unwrap();
    world.fault(0, 0, true).unwrap();
    world.fault(0, 8, false).unwrap();
    for parent in 0..2 {
        let child = world.fork(parent).unwrap();
        world.fault(child, 8, false).unwrap();
    }
    world
}

/// Frames of the anonymous page, and of the file's.
fn pages<S: TestSystem>(world: &World<S>) -> [Pfn; 2] {
    [0, 8].map(|n| world.page_at(0, n).unwrap().pfn())
}

/// No lock is held, and all is as it should be. What takes a lock would wait for one that somebody left.
fn sound<S: TestSystem>(world: &World<S>) {
    lockdep::assert_no_locks("a callback has stopped or panicked");
    assert!(world.all_pages().all(|page| !page.is_locked()));
    check(world);
}

const PLACES: [&str; 5] = ["rmap_one", "done", "invalid_vma", "resched", "anon_lock"];

fn anon_lock<'a, S: TestSystem>(rmap: &'a Rmap<S>, page: &Page) -> Lookup<AnchorOf<'a, S>> {
    pass("anon_lock");
    rmap.engine().lock_anchor(page, Wait::Block)
}

/// A walk that passes all places. `stop`: the place that ends it, after so many candidates.
fn walk<S: TestSystem>(world: &World<S>, page: &Page, stop: Option<(&str, usize)>) -> (WalkEnd, usize) {
    let mut visited = 0;
    let seen = core::cell::Cell::new(0);
    let ends = |place| stop == Some((place, seen.get()));
    let rmap_one = |_: &crate::mm::Vma<S>, _| {
        pass("rmap_one");
        visited += 1;
        seen.set(visited);
        if ends("rmap_one") { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let done = |_: &Page| {
        pass("done");
        ends("done")
    };
    let invalid_vma = |_: &crate::mm::Vma<S>| {
        pass("invalid_vma");
        false
    };
    let mut control = WalkControl::new(rmap_one);
    control.done = Some(&done);
    control.invalid_vma = Some(&invalid_vma);
    control.resched = Some(&|| pass("resched"));
    control.anon_lock = Some(&anon_lock::<S>);
    let _locked = page.lock();
    (world.rmap.rmap_walk(page, &mut control), visited)
}

fn a_callback_that_stops_a_walk<S: TestSystem>() {
    let world = family::<S>();
    for pfn in pages(&world) {
        let page = world.page(pfn);
        let all = walk(&world, page, None).1;
        assert!(all >= 3);
        for place in ["rmap_one", "done"] {
            for n in 1..=all {
                assert_eq!(walk(&world, page, Some((place, n))), (WalkEnd::Stopped, n));
                sound(&world);
            }
        }
        let mut shown = 0;
        let locked = page.lock();
        let end = world.rmap.for_each_mapping(page, |_, _, _| {
            shown += 1;
            if shown == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        drop(locked);
        assert_eq!((end, shown), (WalkEnd::Stopped, 2));
        sound(&world);
    }
    world.end();
}

fn a_callback_that_panics_in_a_walk<S: TestSystem>() {
    let world = family::<S>();
    for pfn in pages(&world) {
        let page = world.page(pfn);
        for place in PLACES {
            let mut panics = 0;
            while tripped_at(place, panics, || walk(&world, page, None)).is_none() {
                sound(&world);
                panics += 1;
            }
            let expected = if place == "anon_lock" { u32::from(pfn == pages(&world)[0]) } else { 3 };
            assert!(panics >= expected, "{place} was passed {panics} times");
        }
        for n in 0..3 {
            let walked = tripped_at("mapping", n, || {
                let _locked = page.lock();
                world.rmap.for_each_mapping(page, |_, _, _| {
                    pass("mapping");
                    ControlFlow::Continue(())
                })
            });
            assert!(walked.is_none());
            sound(&world);
        }
    }
    world.end();
}

/// The embedder's hooks, and its page tables' functions that change nothing.
fn a_panic_while_a_page_is_unmapped<S: TestSystem>() {
    let all = [TtuFlags::empty(), TtuFlags::SYNC, TtuFlags::BATCH_FLUSH, TtuFlags::SYNC | TtuFlags::BATCH_FLUSH];
    let mut fired = Vec::new();
    for place in ["swap_dup", "unmapped", "load", "lock", "get", "flush"] {
        for flags in all {
            for which in 0..2 {
                for n in 0.. {
                    let mut world = family::<S>();
                    let pfn = pages(&world)[which];
                    let out = tripped_at(place, n, || world.reclaim(pfn, flags, false));
                    sound(&world);
                    // The next attempt gets it out.
                    assert!(out.unwrap_or_else(|| world.reclaim(pfn, flags, false)));
                    sound(&world);
                    for mm in world.living() {
                        world.fault(mm, 0, true).unwrap();
                    }
                    sound(&world);
                    world.end();
                    if out.is_some() {
                        break;
                    }
                    fired.push(place);
                }
            }
        }
    }
    for place in ["swap_dup", "unmapped", "lock", "get", "flush"] {
        assert!(fired.contains(&place), "{place} has not panicked");
    }
}

fn a_panic_while_a_page_is_looked_at<S: TestSystem>() {
    let world = family::<S>();
    let mut panics = 0;
    for pfn in pages(&world) {
        let page = world.page(pfn);
        for place in ["load", "lock", "get"] {
            for clean in [false, true] {
                let looked = |n| {
                    tripped_at(place, n, || {
                        let _locked = page.lock();
                        if clean {
                            world.rmap.page_mkclean(page);
                        } else {
                            world.rmap.page_referenced(page);
                        }
                    })
                };
                for n in 0.. {
                    let done = looked(n).is_some();
                    sound(&world);
                    if done {
                        break;
                    }
                    panics += 1;
                }
            }
        }
    }
    assert!(panics > 10, "{panics}");
    world.end();
}

fn a_panic_under_a_files_locks<S: TestSystem>() {
    let world = family::<S>();
    let file = &world.files[0];
    let visited = tripped_at("page", 0, || file.for_each_page(|_, _| pass("page")));
    assert!(visited.is_none());
    for n in 0..3 {
        let visited = tripped_at("vma", n, || {
            let held = file.i_mmap_read();
            file.for_each_vma(&held, 0, 3, |_, _| {
                pass("vma");
                ControlFlow::Continue(())
            })
        });
        // An engine with chains for pages of files ties no VMA to them.
        assert_eq!(visited.is_none(), file.mappings() == 3);
    }
    sound(&world);
    assert!(file.find_get_page(0).is_some_and(|page| !page.put()));
    world.end();
}
