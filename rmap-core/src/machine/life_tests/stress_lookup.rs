//! Look-ups beside the end of what they look for. An anchor is found only while a VMA is linked to it, with the lock
//! held that is its own (G1, G2); and a page that moves is found at the old place or the new (T4).
//!
//! Scenes of some [`Scale`], like those of `stress`. Pages are looked up by frame number, without a reference: a
//! descriptor outlives its owners, so the frame, and the anchor's slot, may be another's by the time of the second look.

use super::stress::{FIRST, Random, Scale};
use super::*;
use crate::base::testing::scope;
use crate::engine::{Engine, Lookup, Wait};
use crate::machine::remap::MremapFlags;
use crate::machine::system::{AnonVmaSystem, ObjrmapSystem};
use crate::rmap::walk::AnchorOf;
use core::ops::ControlFlow;

/// An engine that finds pages by anchors.
pub(crate) trait Anchored: SoftSystem {
    /// Whether the lock that is held is the anchor's.
    fn is_locked(anchor: &AnchorOf<'_, Self>) -> bool;
    /// Takes a reference to a page's anchor and drops it, if such references can be had.
    fn refer(_engine: &Self::Engine, _page: &Page) {}
}

impl Anchored for AnonVmaSystem {
    fn is_locked(anchor: &AnchorOf<'_, Self>) -> bool {
        core::ptr::eq(anchor.anon_vma().root_of(), anchor.root()) && anchor.root().lock_for_test().is_locked()
    }
    fn refer(engine: &Self::Engine, page: &Page) {
        if let Some(held) = engine.get_anon_vma(page) {
            assert!(held.anon_vma().refcount() > 0);
        }
    }
}

impl Anchored for ObjrmapSystem {
    fn is_locked(anchor: &AnchorOf<'_, Self>) -> bool {
        anchor.is_locked()
    }
}

#[test]
fn g2_anchors_are_found_while_they_are_linked() {
    lookups::<AnonVmaSystem>(Scale::of_system());
    lookups::<ObjrmapSystem>(Scale::of_system());
}

on_every_engine!(t4_a_page_that_moves_is_found);

fn t4_a_page_that_moves_is_found<S: SoftSystem>() {
    for _ in 0..if cfg!(miri) { 2 } else { 200 } {
        one_move::<S>(Scale { rounds: 20, ..Scale::of_system() });
        one_move_away::<S>(Scale { rounds: 20, ..Scale::of_system() });
    }
}

/// Looks a frame's page up.
fn look<S: Anchored>(w: &World<S>, random: &mut Random) {
    let frames = w.machine.frames().total();
    let Some(page) = w.machine.rmap().pages().iter().nth(random.next(frames) as usize) else { return };
    let engine = w.machine.rmap().engine();
    if random.next(3) == 0 {
        S::refer(engine, page);
        return;
    }
    let wait = if random.next(2) == 0 { Wait::Try } else { Wait::Block };
    if let Lookup::Found(anchor) = engine.lock_anchor(page, wait) {
        assert!(S::is_locked(&anchor), "the lock that is held is another's");
        let mut vmas = 0;
        let _ = engine.walk_anchor(&anchor, 0, u64::MAX, |vma, _| {
            assert!(vma.generation() % 2 == 1, "a freed VMA is found");
            vmas += 1;
            ControlFlow::Continue(())
        });
        assert!(vmas > 0, "an anchor without VMAs is found");
    }
}

/// Threads make families of a page and end them, frames and anchors going from one to the other; one looks pages up.
pub(crate) fn lookups<S: Anchored>(scale: Scale) {
    let w = World::<S>::new(scale.frames);
    scope(|s| {
        for thread in 1..scale.threads {
            let w = &w;
            s.spawn(move || {
                let mut random = scale.random(thread);
                let mm = w.mm();
                for _ in 0..scale.rounds {
                    w.map(&mm, FIRST, 1, RW);
                    let touched = random.next(3) != 0;
                    if touched {
                        w.poke(&mm, FIRST, 1);
                    }
                    if random.next(2) == 0 {
                        let child = w.machine.fork(&mm).unwrap();
                        w.poke(&child, FIRST, 2);
                        assert_eq!(w.peek(&mm, FIRST), u8::from(touched));
                        w.machine.exit(child);
                    }
                    w.machine.munmap(&mm, super::at(FIRST), PAGE).unwrap();
                }
                w.machine.exit(mm);
            });
        }
        let mut random = scale.random(0);
        for _ in 0..scale.rounds * 3 {
            look(&w, &mut random);
        }
    });
    w.end();
}

/// A VMA of one page moves as a whole: walks visit it before its copy, and no lock keeps them away.
pub(crate) fn one_move<S: SoftSystem>(scale: Scale) {
    a_move::<S>(scale, 1, MremapFlags::empty());
}

/// One of two pages moves, and its VMA stays: walks may visit the copy first, and wait.
pub(crate) fn one_move_away<S: SoftSystem>(scale: Scale) {
    a_move::<S>(scale, 2, MremapFlags::DONTUNMAP);
}

fn a_move<S: SoftSystem>(scale: Scale, pages: u64, how: MremapFlags) {
    let w = World::<S>::new(scale.frames);
    let mm = w.mm();
    w.map(&mm, FIRST, pages, RW);
    w.poke(&mm, FIRST, 1);
    let page = w.page(&mm, FIRST);
    scope(|s| {
        s.spawn(|| {
            let flags = MremapFlags::MAYMOVE | MremapFlags::FIXED | how;
            w.machine.mremap(&mm, super::at(FIRST), PAGE, PAGE, flags, Some(super::at(FIRST + 8))).unwrap();
        });
        for _ in 0..scale.rounds {
            let _locked = page.lock();
            let mut found = 0;
            w.machine.rmap().for_each_mapping(page, |_, _, _| {
                found += 1;
                ControlFlow::Continue(())
            });
            assert!(found == 1 || found == 2, "found at {found} places");
        }
    });
    assert_eq!(w.peek(&mm, FIRST + 8), 1);
    w.machine.exit(mm);
    w.end();
}
