//! Threads that move, split, protect, map and unmap beside one another and beside walks: a mapping that stays through a
//! walk is visited exactly once in its address space, wherever it moves to (G1), and pages keep their contents (G6).
//!
//! Scenes of some [`Scale`], like those of `stress`.

use super::stress::{FIRST, Random, Scale};
use super::*;
use crate::base::testing::scope;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::remap::MremapFlags;
use crate::machine::system::FileExt;
use core::ops::ControlFlow;

on_every_engine!(g1_walks_beside_moves, g1_walks_beside_files);

fn g1_walks_beside_moves<S: SoftSystem>() {
    moves::<S>(Scale { threads: 2, ..Scale::of_system() });
}

fn g1_walks_beside_files<S: SoftSystem>() {
    files::<S>(Scale { threads: 2, ..Scale::of_system() });
}

/// How often `page`, locked, is found in the address space of that number.
fn visits<S: SoftSystem>(w: &World<S>, page: &Page, mm: u64) -> u64 {
    let mut visits = 0;
    w.machine.rmap().for_each_mapping(page, |vma, _, pte| {
        assert_eq!(pte.pfn(), Some(page.pfn()));
        visits += u64::from(vma.mm().id() == mm);
        ControlFlow::Continue(())
    });
    visits
}

/// One system call on the thread's own window, `2 * pages` wide, in which page `n` lies at `places[n]`: nothing else is
/// there. Pages move one by one, so that VMAs split and merge.
fn rearrange<S: SoftSystem>(w: &World<S>, mm: &Mm<S>, window: u64, places: &mut [u64], random: &mut Random) {
    let n = random.next(places.len() as u64) as usize;
    match random.next(4) {
        0 => {
            let prot = if random.next(2) == 0 { VmFlags::READ } else { VmFlags::READ | VmFlags::WRITE };
            let _ = w.machine.mprotect(mm, super::at(places[n]), PAGE, prot);
        }
        _ => {
            let to = window + random.next(2 * places.len() as u64);
            if places.contains(&to) {
                return;
            }
            let flags = MremapFlags::MAYMOVE | MremapFlags::FIXED;
            if w.machine.mremap(mm, super::at(places[n]), PAGE, PAGE, flags, Some(super::at(to))).is_ok() {
                places[n] = to;
            }
        }
    }
}

/// Maps fresh memory, writes it, and unmaps it, or a page in the middle first.
fn come_and_go<S: SoftSystem>(w: &World<S>, mm: &Mm<S>, vpn: u64, random: &mut Random) {
    let mut request =
        MapRequest::<S>::new(3 * PAGE, VmFlags::READ | VmFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED);
    request.addr = Some(super::at(vpn));
    if w.machine.mmap(mm, &request).is_err() {
        return;
    }
    for page in 0..3 {
        let byte = random.next(256) as u8;
        if w.machine.write(mm, super::at(vpn + page), &[byte]).is_ok() {
            let mut seen = [0];
            w.machine.read(mm, super::at(vpn + page), &mut seen).unwrap();
            assert_eq!(seen, [byte]);
        }
    }
    if random.next(2) == 0 {
        w.machine.munmap(mm, super::at(vpn + 1), PAGE).unwrap();
    }
    w.machine.munmap(mm, super::at(vpn), 3 * PAGE).unwrap();
}

/// Threads move pages about in one address space, each in its window, and map and unmap others; the pages are shared
/// with a child, and walked to. (Nothing is swapped out: which frame is whose stays known.)
pub(crate) fn moves<S: SoftSystem>(scale: Scale) {
    let w = World::<S>::new(scale.frames);
    let mm = w.mm();
    let mut shared = Vec::new();
    let windows: Vec<u64> = (0..scale.threads).map(|thread| FIRST + 0x1000 * thread).collect();
    for (thread, &window) in windows.iter().enumerate() {
        w.map(&mm, window, scale.pages, RW);
        for page in 0..scale.pages {
            w.poke(&mm, window + page, (thread as u64 * scale.pages + page) as u8);
            shared.push(w.pte(&mm, window + page).pfn().unwrap());
        }
    }
    let child = w.machine.fork(&mm).unwrap();
    scope(|s| {
        for (thread, &window) in windows.iter().enumerate() {
            let (w, mm) = (&w, &mm);
            s.spawn(move || {
                let mut random = scale.random(thread as u64);
                let mut places: Vec<u64> = (window..window + scale.pages).collect();
                for _ in 0..scale.rounds {
                    match random.next(8) {
                        0 => come_and_go(w, mm, window + 2 * scale.pages + 1, &mut random),
                        1 => {
                            let n = random.next(scale.pages);
                            assert_eq!(w.peek(mm, places[n as usize]), (thread as u64 * scale.pages + n) as u8);
                        }
                        _ => rearrange(w, mm, window, &mut places, &mut random),
                    }
                }
            });
        }
        let mut random = scale.random(scale.threads);
        for _ in 0..scale.rounds {
            let pfn = shared[random.next(shared.len() as u64) as usize];
            let page = w.machine.rmap().pages().page(pfn).unwrap();
            let _locked = page.lock();
            assert!(visits(&w, page, mm.id()) >= 1, "a mapping that stays is not found");
            assert_eq!(visits(&w, page, child.id()), 1);
        }
    });
    w.check();
    w.machine.exit(mm);
    w.check();
    w.machine.exit(child);
    w.end();
}

/// Threads map a file, shared and privately, read it, copy it on write and unmap it, in an address space of their own
/// and a fork of that; another maps it all the while, and each page is found there once.
pub(crate) fn files<S: SoftSystem>(scale: Scale) {
    let w = World::<S>::new(scale.frames);
    let file = w.machine.new_file(scale.pages, FileExt::default()).unwrap();
    let stays = w.mm();
    w.map_with(&stays, FIRST, scale.pages, SHARED_RW, Some((&file, 0)), VmaExt::default());
    let pfns: Vec<_> = (0..scale.pages)
        .map(|page| {
            w.poke(&stays, FIRST + page, page as u8);
            w.pte(&stays, FIRST + page).pfn().unwrap()
        })
        .collect();
    scope(|s| {
        for thread in 0..scale.threads {
            let (w, file, mm) = (&w, &file, w.mm());
            s.spawn(move || {
                let mut random = scale.random(thread);
                for _ in 0..scale.rounds.div_ceil(4) {
                    let first = random.next(scale.pages);
                    let pages = 1 + random.next(scale.pages - first);
                    let shared = random.next(2) == 0;
                    let how = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
                    let prot = VmFlags::READ | VmFlags::WRITE;
                    let mut request = MapRequest::<S>::new(pages * PAGE, prot, how | MapFlags::FIXED);
                    request.addr = Some(super::at(0x800));
                    request.file = Some((file.clone(), first));
                    if w.machine.mmap(&mm, &request).is_err() {
                        continue;
                    }
                    let page = random.next(pages);
                    assert_eq!(w.peek(&mm, 0x800 + page), (first + page) as u8);
                    if !shared {
                        w.poke(&mm, 0x800 + page, 0xff);
                        assert_eq!(w.peek(&mm, 0x800 + page), 0xff);
                    }
                    let child = w.machine.fork(&mm).ok();
                    w.machine.munmap(&mm, super::at(0x800 + page), PAGE).unwrap();
                    if let Some(child) = child {
                        assert_eq!(w.peek(&child, 0x800 + page), if shared { (first + page) as u8 } else { 0xff });
                        w.machine.exit(child);
                    }
                    w.machine.munmap(&mm, super::at(0x800), pages * PAGE).unwrap();
                }
                w.machine.exit(mm);
            });
        }
        let mut random = scale.random(scale.threads);
        for _ in 0..scale.rounds {
            let page = w.machine.rmap().pages().page(pfns[random.next(scale.pages) as usize]).unwrap();
            let _locked = page.lock();
            assert_eq!(visits(&w, page, stays.id()), 1);
        }
    });
    w.check();
    w.machine.exit(stays);
    drop(file);
    w.end();
}
