//! The measurement of walks, on address spaces put together by hand.

use crate::base::alloc::Heap;
use crate::base::clock::Clock;
use crate::base::types::{VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::machine::system::{AnonVmaSystem, VmaExt};
use crate::machine::{Machine, MachineConfig};
use crate::mm::address_space::MmLocked;
use crate::mm::{MmRef, VmaBounds};
use crate::page::Page;
use crate::page::frames::Contents;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use crate::rmap::account::Level;
use crate::trace::measure::measure;
use std::cell::Cell;

const START: VirtAddr = VirtAddr(0x10_0000);
const PAGES: u64 = 8;

fn page(n: u64) -> VirtAddr {
    START.add_pages(n)
}

fn set(mm: &MmRef<AnonVmaSystem>, addr: VirtAddr, frame: &Page) {
    mm.table().alloc(addr).unwrap();
    mm.table().lock(addr, false).unwrap().set(addr, Pte::present(frame.pfn(), PteFlags::empty()));
}

/// A parent with one VMA of eight pages, of which four have frames, and a child that shares two of them.
///
/// ```text
///   parent  [abcd....)
///   child   [ab......)
/// ```
fn family() -> (Machine<AnonVmaSystem>, [MmRef<AnonVmaSystem>; 2]) {
    let heap = Heap::global().unwrap();
    let machine = Machine::new(MachineConfig { contents: Contents::MetadataOnly, ..MachineConfig::new(&heap, 64) });
    let machine: Machine<AnonVmaSystem> = machine.unwrap();
    let (parent, child) = (machine.mm_new().unwrap(), machine.mm_new().unwrap());
    let rmap = machine.rmap();
    {
        let (of_parent, of_child) = (parent.write(), child.write_nested());
        let bounds = VmaBounds { start: START, end: page(PAGES), pgoff: START.vpn() };
        let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::MAYWRITE;
        let vma = rmap.vma_new(&of_parent, bounds, flags, None, VmaExt::default()).unwrap();
        rmap.engine().prepare(vma).unwrap();
        let frames: Vec<&Page> = (0..4).map(|_| machine.frames().alloc(rmap.pages()).unwrap()).collect();
        for (n, frame) in (0..).zip(&frames) {
            rmap.page_add_new_anon_rmap(frame, vma, page(n), Level::Single).unwrap();
            set(&parent, page(n), frame);
        }
        let copy = rmap.vma_fork(&of_child, &of_parent, vma).unwrap();
        for (n, frame) in (0..2).zip(&frames) {
            frame.get();
            rmap.page_dup_rmap(frame, copy, page(n), Level::Single).unwrap();
            set(&child, page(n), frame);
        }
    }
    (machine, [parent, child])
}

fn take_apart(machine: &Machine<AnonVmaSystem>, mms: &[MmRef<AnonVmaSystem>]) {
    let rmap = machine.rmap();
    for mm in mms {
        let locked = mm.write();
        let vma = locked.find(START).unwrap();
        for addr in (0..PAGES).map(page) {
            let old = mm.table().lock(addr, false).and_then(|mut table| table.clear_flush(addr).pfn());
            let Some(frame) = old.and_then(|pfn| rmap.pages().page(pfn)) else { continue };
            rmap.page_remove_rmap(frame, vma, addr, Level::Single);
            if frame.put() {
                machine.frames().free(rmap.pages(), frame);
            }
        }
        rmap.vma_free(&locked, vma).unwrap();
    }
}

#[test]
fn walks_of_a_family_find_what_its_page_tables_say() {
    let (machine, mms) = family();
    let clock = Clock::start();
    let report = measure(&machine, || clock.ns()).unwrap();
    assert_eq!((report.mismatches, report.differences.len()), (0, 0));
    assert_eq!((report.entries, report.mms, report.vmas), (6, 2, 2));
    // The anchor of the parent's pages leads to both VMAs, whichever of them have the page.
    assert_eq!((report.anon.pages, report.anon.mappings, report.anon.candidates), (4, 6, 8));
    assert!((report.anon.candidates_per_mapping() - 8.0 / 6.0).abs() < 1e-9);
    assert_eq!((report.file.pages, report.file.mappings, report.file.candidates_per_mapping()), (0, 0, 0.0));
    assert_eq!((report.footprint.anchors, report.footprint.links), (2, 3));
    assert!(report.bytes_per_vma() > 0.0 && report.bytes_per_page() > 0.0);
    assert!((report.bytes_per_vma() * 2.0 - report.bytes_per_page() * 4.0).abs() < 1e-6);
    take_apart(&machine, &mms);
    let nothing = measure(&machine, || 0).unwrap();
    assert_eq!((nothing.entries, nothing.anon.pages, nothing.footprint.anchors), (0, 0, 0));
    assert!(nothing.bytes_per_vma().abs() < 1e-9);
}

#[test]
fn a_mapping_that_no_walk_finds_is_counted() {
    let (machine, mms) = family();
    let stray = page(PAGES + 5);
    let frame = mms[0].table().load(page(3)).pfn().and_then(|pfn| machine.rmap().pages().page(pfn)).unwrap();
    set(&mms[1], stray, frame);
    let report = measure(&machine, || 0).unwrap();
    assert_eq!((report.entries, report.anon.mappings, report.mismatches), (7, 6, 1));
    let expected = format!("the walk of frame {} misses: mm {} at {:#x}", frame.pfn().0, mms[1].id(), stray.0);
    assert_eq!(report.differences, [expected]);
    mms[1].table().lock(stray, false).unwrap().clear(stray);
    take_apart(&machine, &mms);
}

#[test]
fn times_are_those_of_the_clock() {
    let (machine, mms) = family();
    // Two readings a walk: 1, 2, 3 and 100 apart.
    let (readings, now) = (Cell::new(0), Cell::new(0));
    let clock = || {
        let reading = readings.replace(readings.get() + 1);
        if reading % 2 == 1 {
            now.set(now.get() + [1, 2, 3, 100][reading / 2]);
        }
        now.get()
    };
    let report = measure(&machine, clock).unwrap();
    assert_eq!((report.anon.median_ns, report.anon.p99_ns, report.anon.total_ns), (2, 100, 106));
    take_apart(&machine, &mms);
}
