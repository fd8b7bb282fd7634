//! Random histories of several address spaces and files, for each engine, checked against the oracle after every step
//! (G1), the locks under which memory is asked for and given back among it (G8).
//!
//! ```text
//!   page   0                                              23
//!          [- anon -)   [---- file, shared ----)[- file, private -)      address space 0
//!          [- anon -)   [---- file, shared ----)[- file, private -)      its child
//! ```
//!
//! A failing history is printed shrunk, as a list of steps; [`replay`] runs such a list.

use super::oracle::check;
use super::toy::{RW, TestSystem};
use super::world::World;
use crate::base::types::VmFlags;
use crate::page::Page;
use crate::rmap::unmap::TtuFlags;
use proptest::prelude::*;
use std::vec::Vec;

/// Pages of an address space.
const PAGES: u64 = 24;
/// Frames of the world: enough for all that these histories map.
const FRAMES: u64 = 300;
/// Address spaces at most.
const MMS: usize = 5;
/// Pages of a file.
const FILE: u64 = 16;

/// What a new VMA maps.
#[derive(Debug, Clone, Copy)]
enum What {
    Anon,
    /// A file from this page on.
    Private(u64),
    Shared(u64),
}

/// One step. Numbers of address spaces count the living ones, modulo how many there are; pages are those of the drawing
/// above.
#[derive(Debug, Clone, Copy)]
enum Step {
    Map { mm: usize, first: u64, len: u64, what: What },
    Fault { mm: usize, page: u64, write: bool },
    Fork { mm: usize },
    Exit { mm: usize },
    Unmap { mm: usize, first: u64, len: u64 },
    Protect { mm: usize, first: u64, len: u64, exec: bool },
    Remap { mm: usize, first: u64, len: u64, to: u64, merge_first: bool, keep: bool },
    Shift { mm: usize, page: u64, to: u64 },
    Adjust { mm: usize, page: u64, first: u64, len: u64 },
    Reclaim { mm: usize, page: u64, flags: u32, keep_cached: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let mm = 0..MMS;
    // Most steps meet at a few pages: histories of one page are what goes wrong.
    let page = prop_oneof![3 => 4..7_u64, 1 => 0..PAGES].boxed();
    let (reclaimed_mm, reclaimed_page) = (mm.clone(), page.clone());
    let len = 1..9_u64;
    let what = prop_oneof![
        4 => Just(What::Anon),
        1 => (0..FILE - 8).prop_map(What::Private),
        1 => (0..FILE - 8).prop_map(What::Shared),
    ];
    prop_oneof![
        3 => (mm.clone(), page.clone(), len.clone(), what)
            .prop_map(|(mm, first, len, what)| Step::Map { mm, first, len, what }),
        14 => (mm.clone(), page.clone(), any::<bool>()).prop_map(|(mm, page, write)| Step::Fault { mm, page, write }),
        3 => mm.clone().prop_map(|mm| Step::Fork { mm }),
        1 => mm.clone().prop_map(|mm| Step::Exit { mm }),
        1 => (mm.clone(), page.clone(), len.clone()).prop_map(|(mm, first, len)| Step::Unmap { mm, first, len }),
        3 => (mm.clone(), page.clone(), len.clone(), any::<bool>())
            .prop_map(|(mm, first, len, exec)| Step::Protect { mm, first, len, exec }),
        4 => (mm.clone(), page.clone(), len.clone(), page.clone(), any::<bool>(), any::<bool>()).prop_map(
            |(mm, first, len, to, merge_first, keep)| Step::Remap { mm, first, len, to, merge_first, keep }
        ),
        2 => (mm.clone(), page.clone(), page.clone()).prop_map(|(mm, page, to)| Step::Shift { mm, page, to }),
        2 => (mm, page.clone(), page, len).prop_map(|(mm, page, first, len)| Step::Adjust { mm, page, first, len }),
        4 => (reclaimed_mm, reclaimed_page, 0..8_u32, any::<bool>())
            .prop_map(|(mm, page, flags, keep_cached)| Step::Reclaim { mm, page, flags, keep_cached }),
    ]
}

fn run<S: TestSystem>(world: &mut World<S>, step: Step) {
    let living = world.living();
    let pick = |mm: usize| living[mm % living.len()];
    let end = |first: u64, len: u64| (first + len).min(PAGES);
    let done = match step {
        Step::Map { mm, first, len, what } => {
            let (flags, file) = match what {
                What::Anon => (RW, None),
                What::Private(offset) => (RW, Some((0, offset))),
                What::Shared(offset) => (RW | VmFlags::SHARED, Some((0, offset))),
            };
            // Occupied ranges are refused.
            let _ = world.map(pick(mm), first, end(first, len), flags, file);
            Ok(())
        }
        Step::Fault { mm, page, write } => world.fault(pick(mm), page, write),
        Step::Fork { .. } if living.len() == MMS => Ok(()),
        Step::Fork { mm } => world.fork(pick(mm)).map(drop),
        Step::Exit { .. } if living.len() == 1 => Ok(()),
        Step::Exit { mm } => {
            world.exit(pick(mm));
            Ok(())
        }
        Step::Unmap { mm, first, len } => world.unmap(pick(mm), first, end(first, len)),
        Step::Protect { mm, first, len, exec } => {
            let flags = if exec { RW | VmFlags::EXEC } else { RW };
            world.protect(pick(mm), first, end(first, len), flags)
        }
        Step::Remap { mm, first, len, to, merge_first, keep } => {
            let len = len.min(PAGES - first).min(PAGES - to);
            world.remap(pick(mm), first, first + len, to, merge_first, keep)
        }
        Step::Shift { mm, page, to } => world.shift(pick(mm), page, to),
        Step::Adjust { mm, page, first, len } => world.adjust(pick(mm), page, first, end(first, len)),
        Step::Reclaim { mm, page, flags, keep_cached } => {
            let flags = TtuFlags::from_bits_truncate(flags) - TtuFlags::HWPOISON;
            if let Some(pfn) = world.page_at(pick(mm), page).map(Page::pfn) {
                world.reclaim(pfn, flags, keep_cached);
            }
            Ok(())
        }
    };
    done.unwrap_or_else(|error| panic!("{step:?}: {error}"));
}

/// Runs a history from an address space with one mapped page and a file on, checking after every step, and ends the
/// world.
fn replay<S: TestSystem>(steps: &[Step]) {
    let mut world = World::<S>::with_one(PAGES, FRAMES);
    world.new_file(FILE);
    world.map(0, 2, 10, RW, None).unwrap();
    world.fault(0, 5, true).unwrap();
    for step in steps {
        run(&mut world, *step);
        check(&world);
    }
    world.end();
}

fn histories() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..160)
}

fn cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// G1, G5 and G7 for one engine.
macro_rules! agrees_with_the_page_tables {
    ($engine:ident $toy:ident $system:ident) => {
        proptest! {
            #![proptest_config(cases())]

            #[test]
            fn $engine(steps in histories()) {
                replay::<super::super::toy::$toy>(&steps);
            }
        }
    };
}

mod agree_with_the_page_tables {
    use super::*;
    crate::tests::each_engine!(agrees_with_the_page_tables);
}
