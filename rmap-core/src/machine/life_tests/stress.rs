//! Threads that fault, fork, exit and swap out beside one another and beside walks; what each wrote is what it reads,
//! and the machine is consistent in the end.
//!
//! Each is a scene of some [`Scale`]: played here by threads of the system, in many rounds, and in `tests::shuttle` by
//! threads of a scheduler that replays what it did.

use super::*;
use crate::base::testing::{rounds, scope};
use crate::machine::system::Access;
use core::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

on_every_engine!(g6_threads_with_families_of_their_own, g6_threads_in_one_address_space, g1_walks_find_what_stays);

pub(super) const FIRST: u64 = 0x1f0;

/// How large a scene is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) frames: u64,
    /// Pages of each region.
    pub(crate) pages: u64,
    pub(crate) threads: u64,
    /// Operations of each thread.
    pub(crate) rounds: u64,
    /// What the operations are drawn from; not 0.
    pub(crate) seed: u64,
}

impl Scale {
    /// That of threads of the system.
    pub(super) fn of_system() -> Self {
        Self { frames: 400, pages: 24, threads: 4, rounds: rounds(3_000, 20) as u64, seed: 0x9e37_79b9 }
    }

    pub(super) fn random(&self, thread: u64) -> Random {
        Random(self.seed.wrapping_add(thread).max(1))
    }
}

pub(super) struct Random(u64);

impl Random {
    pub(super) fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % below
    }
}

/// A frame that may be anybody's goes out, or is looked up (G3) and walked to.
fn disturb<S: SoftSystem>(w: &World<S>, random: &mut Random) {
    let frames = w.machine.frames().total();
    let Some(page) = w.machine.rmap().pages().iter().nth(random.next(frames) as usize) else { return };
    if random.next(3) != 0 {
        let _ = w.machine.swap_out(page);
    } else if page.try_get() {
        {
            let _locked = page.lock();
            w.machine.rmap().for_each_mapping(page, |_, _, pte| {
                assert_eq!(pte.pfn(), Some(page.pfn()));
                ControlFlow::Continue(())
            });
            w.machine.rmap().page_referenced(page);
        }
        w.machine.put_page(page);
    }
}

fn g6_threads_with_families_of_their_own<S: SoftSystem>() {
    families::<S>(Scale::of_system());
}

fn g6_threads_in_one_address_space<S: SoftSystem>() {
    one_address_space::<S>(Scale::of_system());
}

fn g1_walks_find_what_stays<S: SoftSystem>() {
    walks_beside_forks::<S>(Scale { threads: 2, ..Scale::of_system() });
}

/// All start from one ancestor; each thread has processes of its own, forks them, writes in them and ends them.
pub(crate) fn families<S: SoftSystem>(scale: Scale) {
    let w = World::<S>::new(scale.frames);
    let pages = scale.pages;
    let ancestor = w.mm();
    let file = w.machine.new_file(pages, crate::machine::system::FileExt::default()).unwrap();
    w.map(&ancestor, FIRST, pages, RW);
    w.map_with(&ancestor, 0x400, pages, RW, Some((&file, 0)), VmaExt::default());
    for page in 0..pages {
        w.poke(&ancestor, FIRST + page, 1);
    }
    scope(|s| {
        for thread in 0..scale.threads {
            let (w, first) = (&w, w.machine.fork(&ancestor).unwrap());
            s.spawn(move || {
                let mut random = scale.random(thread);
                let mut family = vec![(first, vec![1_u8; pages as usize], vec![0_u8; pages as usize])];
                for round in 0..scale.rounds {
                    let at = random.next(family.len() as u64) as usize;
                    let page = random.next(pages);
                    let members = family.len();
                    let (mm, anon, copied) = &mut family[at];
                    match random.next(12) {
                        0 if members < 5 => {
                            let (mm, anon, copied) = (&family[at].0, family[at].1.clone(), family[at].2.clone());
                            if let Ok(child) = w.machine.fork(mm) {
                                family.push((child, anon, copied));
                            }
                        }
                        1 if members > 1 => w.machine.exit(family.swap_remove(at).0),
                        0..=4 => {
                            if w.machine.write(mm, VirtAddr(super::at(FIRST + page).0 + 7), &[round as u8]).is_ok() {
                                anon[page as usize] = round as u8;
                            }
                        }
                        5 => {
                            if w.machine.write(mm, VirtAddr(super::at(0x400 + page).0 + 7), &[round as u8]).is_ok() {
                                copied[page as usize] = round as u8;
                            }
                        }
                        6 | 7 => {
                            let mut byte = [0];
                            if w.machine.read(mm, VirtAddr(super::at(FIRST + page).0 + 7), &mut byte).is_ok() {
                                assert_eq!(byte[0], anon[page as usize]);
                            }
                            if w.machine.read(mm, VirtAddr(super::at(0x400 + page).0 + 7), &mut byte).is_ok() {
                                assert_eq!(byte[0], copied[page as usize]);
                            }
                        }
                        8 => {
                            if let Ok(pinned) = w.machine.pin(mm, super::at(FIRST + page), random.next(2) == 0) {
                                let mut byte = [0];
                                w.machine.frames().read(pinned.pfn(), 7, &mut byte);
                                assert_eq!(byte[0], anon[page as usize]);
                                w.machine.unpin(pinned);
                            }
                        }
                        _ => disturb(w, &mut random),
                    }
                }
                for (mm, anon, _) in family {
                    for (page, byte) in anon.into_iter().enumerate() {
                        let mut seen = [0];
                        if w.machine.read(&mm, VirtAddr(super::at(FIRST + page as u64).0 + 7), &mut seen).is_ok() {
                            assert_eq!(seen[0], byte);
                        }
                    }
                    w.machine.exit(mm);
                }
            });
        }
    });
    w.machine.trim_swap_cache();
    w.check();
    for page in 0..pages {
        assert_eq!(w.peek(&ancestor, FIRST + page), 1);
    }
    w.machine.exit(ancestor);
    drop(file);
    w.end();
}

/// Four threads in one address space, each with a byte of its own in every page; they fork it under one another, and a
/// child has the bytes that its maker wrote last.
pub(crate) fn one_address_space<S: SoftSystem>(scale: Scale) {
    let w = World::<S>::new(scale.frames);
    let pages = scale.pages;
    let mm = w.mm();
    let shmem = w.machine.new_shmem(pages).unwrap();
    w.map(&mm, FIRST, pages, RW);
    w.map_with(&mm, 0x400, pages, SHARED_RW, Some((&shmem, 0)), VmaExt::default());
    scope(|s| {
        for thread in 0..scale.threads {
            let (w, mm) = (&w, &mm);
            s.spawn(move || {
                let mut random = scale.random(thread);
                let mut mine = [vec![0_u8; pages as usize], vec![0_u8; pages as usize]];
                let place =
                    |region: usize, page: u64| VirtAddr(super::at([FIRST, 0x400][region] + page).0 + 100 + thread);
                let read = |mm: &Mm<S>, region, page| {
                    let mut byte = [0];
                    w.machine.read(mm, place(region, page), &mut byte).is_ok().then(|| byte[0])
                };
                for round in 0..scale.rounds {
                    let (page, region) = (random.next(pages), random.next(2) as usize);
                    match random.next(16) {
                        0 => {
                            if let Ok(child) = w.machine.fork(mm) {
                                for page in 0..pages {
                                    if let Some(byte) = read(&child, 0, page) {
                                        assert_eq!(byte, mine[0][page as usize]);
                                    }
                                }
                                let _ = w.machine.write(&child, place(0, page), &[0xff]);
                                w.machine.exit(child);
                            }
                        }
                        1..=8 => {
                            if w.machine.write(mm, place(region, page), &[round as u8]).is_ok() {
                                mine[region][page as usize] = round as u8;
                            }
                        }
                        9..=12 => {
                            if let Some(byte) = read(mm, region, page) {
                                assert_eq!(byte, mine[region][page as usize]);
                            }
                        }
                        13 => {
                            let _ = w.machine.fault(mm, place(region, page), Access::Write);
                        }
                        _ => disturb(w, &mut random),
                    }
                }
                for (region, bytes) in mine.iter().enumerate() {
                    for (page, expected) in bytes.iter().enumerate() {
                        if let Some(byte) = read(mm, region, page as u64) {
                            assert_eq!(byte, *expected);
                        }
                    }
                }
            });
        }
    });
    w.machine.trim_swap_cache();
    w.check();
    w.machine.exit(mm);
    drop(shmem);
    w.end();
}

/// Pages that nobody unmaps, with the ancestor and one relative, are found there by every walk, whatever the rest of
/// the family does.
pub(crate) fn walks_beside_forks<S: SoftSystem>(scale: Scale) {
    let w = World::<S>::new(scale.frames);
    let pages = scale.pages;
    let ancestor = w.mm();
    w.map(&ancestor, FIRST, pages, RW);
    for page in 0..pages {
        w.poke(&ancestor, FIRST + page, 1);
    }
    let relative = w.machine.fork(&ancestor).unwrap();
    let stop = AtomicBool::new(false);
    scope(|s| {
        for thread in 0..scale.threads {
            let (w, ancestor, relative, stop) = (&w, &ancestor, &relative, &stop);
            s.spawn(move || {
                let mut random = scale.random(thread);
                // Bounded, for a scheduler that prefers this thread to the one that stops it.
                for _ in 0..scale.rounds {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let parent = if random.next(2) == 0 { ancestor } else { relative };
                    let child = w.machine.fork(parent).unwrap();
                    let grandchild = w.machine.fork(&child).unwrap();
                    w.poke(&child, FIRST + random.next(pages), 2);
                    let (one, two) = if random.next(2) == 0 { (child, grandchild) } else { (grandchild, child) };
                    w.machine.exit(one);
                    w.poke(&two, FIRST + random.next(pages), 3);
                    w.machine.exit(two);
                }
            });
        }
        let stays = [(ancestor.id(), &ancestor), (relative.id(), &relative)];
        for round in 0..scale.rounds * 3 {
            let vpn = FIRST + round % pages;
            let page = w.page(&ancestor, vpn);
            let _locked = page.lock();
            let mut found = [0; 2];
            w.machine.rmap().for_each_mapping(page, |vma, addr, _| {
                assert_eq!(addr, super::at(vpn));
                for (n, (id, _)) in stays.iter().enumerate() {
                    found[n] += u32::from(vma.mm().id() == *id);
                }
                ControlFlow::Continue(())
            });
            assert_eq!(found, [1, 1]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    w.check();
    w.machine.exit(ancestor);
    w.machine.exit(relative);
    w.end();
}
