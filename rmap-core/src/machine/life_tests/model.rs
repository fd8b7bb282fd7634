//! Random programs against a model of bytes: what a program wrote is what it reads (G6), whatever forks, swaps, pins
//! and unmaps go on, and the machine is consistent after each step.

use super::*;
use crate::base::error::{Error, Result};
use crate::base::types::PgOff;
use crate::machine::access::PinnedPage;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::system::{FileExt, FileOps};
use crate::mm::address_space::MmLocked;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;

on_every_engine!(g6_random_programs_agree_with_a_model_of_bytes);

const FILES: usize = 2;
const FILE_PAGES: u64 = 24;

fn file_page(private: usize, pgoff: PgOff) -> [u8; 4096] {
    core::array::from_fn(|i| (i as u64 / 8 + pgoff * 3 + private as u64) as u8)
}

struct Pattern;

impl FileOps for Pattern {
    fn read_page(&self, private: usize, pgoff: PgOff, out: &mut [u8; 4096]) -> Result<()> {
        *out = file_page(private, pgoff);
        Ok(())
    }
}

/// Numbers are taken modulo what there is. Pages are those of [`vpn`].
#[derive(Debug, Clone)]
enum Op {
    Map { mm: usize, page: u64, pages: u64, kind: u8 },
    Unmap { mm: usize, page: u64, pages: u64 },
    Protect { mm: usize, page: u64, pages: u64, write: bool },
    DontNeed { mm: usize, page: u64, pages: u64 },
    Write { mm: usize, page: u64, offset: usize, byte: u8, len: usize },
    Read { mm: usize, page: u64 },
    Fork { mm: usize },
    Exit { mm: usize },
    SwapOut { nth: usize },
    Pin { mm: usize, page: u64, write: bool },
    PinWrite { nth: usize, byte: u8 },
    Unpin { nth: usize },
}

/// 64 pages in two ranges, the first across the end of a page table.
fn vpn(page: u64) -> u64 {
    let page = page % 64;
    if page < 32 { 0x1f0 + page } else { 0x400 + page - 32 }
}

fn op() -> impl Strategy<Value = Op> {
    let (mm, page, pages) = (0..8_usize, 0..64_u64, 1..12_u64);
    let nth = 0..1000_usize;
    prop_oneof![
        3 => (mm.clone(), page.clone(), pages.clone(), any::<u8>())
            .prop_map(|(mm, page, pages, kind)| Op::Map { mm, page, pages, kind }),
        1 => (mm.clone(), page.clone(), pages.clone()).prop_map(|(mm, page, pages)| Op::Unmap { mm, page, pages }),
        1 => (mm.clone(), page.clone(), pages.clone(), any::<bool>())
            .prop_map(|(mm, page, pages, write)| Op::Protect { mm, page, pages, write }),
        1 => (mm.clone(), page.clone(), pages).prop_map(|(mm, page, pages)| Op::DontNeed { mm, page, pages }),
        12 => (mm.clone(), page.clone(), 0..4096_usize, any::<u8>(), 1..64_usize)
            .prop_map(|(mm, page, offset, byte, len)| Op::Write { mm, page, offset, byte, len }),
        5 => (mm.clone(), page.clone()).prop_map(|(mm, page)| Op::Read { mm, page }),
        2 => mm.clone().prop_map(|mm| Op::Fork { mm }),
        1 => mm.clone().prop_map(|mm| Op::Exit { mm }),
        6 => nth.clone().prop_map(|nth| Op::SwapOut { nth }),
        1 => (mm, page, any::<bool>()).prop_map(|(mm, page, write)| Op::Pin { mm, page, write }),
        1 => (nth.clone(), any::<u8>()).prop_map(|(nth, byte)| Op::PinWrite { nth, byte }),
        1 => nth.prop_map(|nth| Op::Unpin { nth }),
    ]
}

/// The contents of a page that a process has for itself, and which page it is: it keeps its number until it is gone.
#[derive(Clone)]
struct Own {
    id: u64,
    bytes: Box<[u8; 4096]>,
}

/// What a process has at one page.
#[derive(Clone)]
struct Place {
    /// The object and the page of it; `None`: anonymous memory.
    object: Option<(usize, u64)>,
    shared: bool,
    write: bool,
    own: Option<Own>,
}

/// A file's or shared memory's bytes: pages that exist.
type Object = Vec<Box<[u8; 4096]>>;

/// A pin, and where what it sees is modelled.
struct Pin {
    pinned: PinnedPage,
    write: bool,
    /// The number of a page of a process's own, or an object's page.
    sees: std::result::Result<u64, (usize, u64)>,
}

struct Process<S: SoftSystem> {
    mm: MmRef<S>,
    places: BTreeMap<u64, Place>,
}

struct Program<S: SoftSystem> {
    w: World<S>,
    files: Vec<FileRef<S>>,
    objects: Vec<Object>,
    processes: Vec<Process<S>>,
    pins: Vec<Pin>,
    last_id: u64,
}

fn may_run_out<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::NoMemory | Error::NoSpace) => None,
        Err(other) => panic!("{other}"),
    }
}

impl<S: SoftSystem> Program<S> {
    fn new() -> Self {
        let heap = Heap::global().unwrap();
        let w = World::with(heap.clone(), 96, |config| {
            config.fault_around = 4;
            config.swap = Some((Backing::memory(&heap, 64).unwrap(), 64));
        });
        let file =
            |private| w.machine.new_file(FILE_PAGES, FileExt { ops: Some(&Pattern), private, ..FileExt::default() });
        let files = (0..FILES).map(|i| file(i).unwrap()).collect();
        let object = |i| (0..FILE_PAGES).map(|pgoff| Box::new(file_page(i, pgoff))).collect();
        let objects = (0..FILES).map(object).collect();
        let processes = vec![Process { mm: w.mm(), places: BTreeMap::new() }];
        Self { w, files, objects, processes, pins: Vec::new(), last_id: 0 }
    }

    fn fresh(&mut self, bytes: Box<[u8; 4096]>) -> Own {
        self.last_id += 1;
        Own { id: self.last_id, bytes }
    }

    /// What is read at a place. `Err`: there is nothing.
    fn bytes(&self, place: &Place) -> Result<Box<[u8; 4096]>> {
        if let Some(own) = &place.own {
            return Ok(own.bytes.clone());
        }
        let Some((object, pgoff)) = place.object else { return Ok(Box::new([0; 4096])) };
        self.objects[object].get(pgoff as usize).cloned().ok_or(Error::Bus)
    }

    fn map(&mut self, mm: usize, page: u64, pages: u64, kind: u8) {
        let start = vpn(page);
        let mut request = MapRequest::new(pages * PAGE, VmFlags::READ | VmFlags::WRITE, MapFlags::FIXED);
        request.addr = Some(at(start));
        let (object, shared) = match kind % 6 {
            0..=2 => (None, false),
            3 => {
                self.objects.push((0..pages).map(|_| Box::new([0; 4096])).collect());
                (Some((self.objects.len() - 1, 0)), true)
            }
            n => {
                let file = kind as usize % FILES;
                let pgoff = u64::from(kind) % FILE_PAGES;
                request.file = Some((self.files[file].clone(), pgoff));
                (Some((file, pgoff)), n == 5)
            }
        };
        request.flags |= if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        let process = &mut self.processes[mm];
        if may_run_out(self.w.machine.mmap(&process.mm, &request)).is_some() {
            for i in 0..pages {
                let object = object.map(|(object, pgoff)| (object, pgoff + i));
                process.places.insert(start + i, Place { object, shared, write: true, own: None });
            }
        }
    }

    fn write(&mut self, mm: usize, page: u64, offset: usize, data: &[u8]) {
        let process = &self.processes[mm];
        let addr = VirtAddr(at(vpn(page)).0 + offset as u64);
        let done = self.w.machine.write(&process.mm, addr, data);
        let Some(place) = process.places.get(&vpn(page)).cloned() else {
            return assert_eq!(done, Err(Error::NotMapped));
        };
        if !place.write {
            return assert_eq!(done, Err(Error::Access));
        }
        let mut bytes = match self.bytes(&place) {
            Ok(bytes) => bytes,
            Err(error) => return assert!(done == Err(error) || may_run_out(done).is_none()),
        };
        if may_run_out(done).is_none() {
            return;
        }
        bytes[offset..offset + data.len()].copy_from_slice(data);
        match place.object {
            Some((object, pgoff)) if place.shared => self.objects[object][pgoff as usize] = bytes,
            _ => self.set_own(mm, page, bytes),
        }
    }

    /// The process's own page has these bytes now.
    fn set_own(&mut self, mm: usize, page: u64, bytes: Box<[u8; 4096]>) {
        let fresh = self.fresh(bytes);
        let place = self.processes[mm].places.get_mut(&vpn(page)).unwrap();
        match &mut place.own {
            Some(own) => own.bytes = fresh.bytes,
            none => *none = Some(fresh),
        }
    }

    fn read(&self, mm: usize, page: u64) {
        let process = &self.processes[mm];
        let mut seen = [0xee; 4096];
        let done = self.w.machine.read(&process.mm, at(vpn(page)), &mut seen);
        let Some(place) = process.places.get(&vpn(page)) else {
            return assert_eq!(done, Err(Error::NotMapped));
        };
        match self.bytes(place) {
            Ok(bytes) => {
                if may_run_out(done).is_some() {
                    let wrong = (0..4096).find(|i| seen[*i] != bytes[*i]);
                    assert_eq!(wrong, None, "process {mm}, page {:#x}: read {:?}", vpn(page), &seen[..16]);
                }
            }
            Err(error) => assert!(done == Err(error) || may_run_out(done).is_none()),
        }
    }

    fn pin(&mut self, mm: usize, page: u64, write: bool) {
        let process = &self.processes[mm];
        let pinned = self.w.machine.pin(&process.mm, at(vpn(page)), write);
        let Some(place) = process.places.get(&vpn(page)).cloned() else {
            return assert_eq!(pinned.err(), Some(Error::NotMapped));
        };
        if write && !place.write {
            return assert_eq!(pinned.err(), Some(Error::Access));
        }
        let bytes = match self.bytes(&place) {
            Ok(bytes) => bytes,
            Err(error) => return assert!(pinned.as_ref().err() == Some(&error) || may_run_out(pinned).is_none()),
        };
        let Some(pinned) = may_run_out(pinned) else { return };
        let sees = match place.object {
            // Of a file's page that was not copied, a pin for reading sees the file.
            Some(object) if place.shared || (!write && place.own.is_none()) => Err(object),
            _ => {
                self.set_own(mm, page, bytes);
                Ok(self.processes[mm].places[&vpn(page)].own.as_ref().unwrap().id)
            }
        };
        self.pins.push(Pin { pinned, write, sees });
    }

    /// The bytes that a pin sees, as long as they are modelled.
    fn seen_by(&mut self, nth: usize) -> Option<&mut [u8; 4096]> {
        match self.pins[nth].sees {
            Ok(id) => self
                .processes
                .iter_mut()
                .flat_map(|process| process.places.values_mut())
                .find_map(|place| place.own.as_mut().filter(|own| own.id == id))
                .map(|own| &mut *own.bytes),
            Err((object, pgoff)) => Some(&mut *self.objects[object][pgoff as usize]),
        }
    }

    fn pin_write(&mut self, nth: usize, byte: u8) {
        let (pfn, write) = (self.pins[nth].pinned.pfn(), self.pins[nth].write);
        if write {
            self.w.machine.frames().write(pfn, 100, &[byte]);
        }
        let mut now = [0; 4096];
        self.w.machine.frames().read(pfn, 0, &mut now);
        if let Some(bytes) = self.seen_by(nth) {
            if write {
                bytes[100] = byte;
            }
            assert!(now == *bytes, "a pin sees something else than the program");
        }
    }

    fn fork(&mut self, mm: usize) {
        if self.processes.len() == 5 {
            return;
        }
        let Some(child) = may_run_out(self.w.machine.fork(&self.processes[mm].mm)) else { return };
        let mut places = self.processes[mm].places.clone();
        for own in places.values_mut().filter_map(|place| place.own.as_mut()) {
            self.last_id += 1;
            own.id = self.last_id;
        }
        self.processes.push(Process { mm: child, places });
    }

    fn swap_out(&mut self, nth: usize) {
        let pages = self.w.machine.rmap().pages();
        let mapped: Vec<_> = pages.iter().filter(|page| page.is_mapped()).collect();
        if let Some(page) = mapped.get(nth % mapped.len().max(1)) {
            let pinned = page.pins() != 0;
            let out = may_run_out(self.w.machine.swap_out(page));
            assert!(!(pinned && out == Some(true)), "a pinned page went out");
        }
    }

    fn step(&mut self, op: &Op) {
        let count = self.processes.len();
        match *op {
            Op::Map { mm, page, pages, kind } => self.map(mm % count, page, pages, kind),
            Op::Unmap { mm, page, pages } => {
                let process = &mut self.processes[mm % count];
                self.w.machine.munmap(&process.mm, at(vpn(page)), pages * PAGE).unwrap();
                process.places.retain(|place, _| !(vpn(page)..vpn(page) + pages).contains(place));
            }
            Op::Protect { mm, page, pages, write } => {
                let process = &mut self.processes[mm % count];
                let prot = if write { VmFlags::READ | VmFlags::WRITE } else { VmFlags::READ };
                let range = vpn(page)..vpn(page) + pages;
                let done = self.w.machine.mprotect(&process.mm, at(vpn(page)), pages * PAGE, prot);
                // As far as the first hole.
                let hole = range.clone().find(|place| !process.places.contains_key(place));
                assert_eq!(done.is_ok(), hole.is_none());
                for place in range.start..hole.unwrap_or(range.end) {
                    process.places.get_mut(&place).unwrap().write = write;
                }
            }
            Op::DontNeed { mm, page, pages } => {
                let process = &mut self.processes[mm % count];
                let (start, end) = (at(vpn(page)), at(vpn(page) + pages));
                let held = process.mm.read();
                for vma in held.vmas_in(start, end) {
                    self.w.machine.zap_range(vma, start.max(vma.start()), end.min(vma.end()));
                }
                drop(held);
                process.places.range_mut(start.vpn()..end.vpn()).for_each(|(_, place)| place.own = None);
            }
            Op::Write { mm, page, offset, byte, len } => {
                self.write(mm % count, page, offset, &vec![byte; len.min(4096 - offset)]);
            }
            Op::Read { mm, page } => self.read(mm % count, page),
            Op::Fork { mm } => self.fork(mm % count),
            Op::Exit { mm } => {
                if count > 1 {
                    let gone = self.processes.remove(mm % count);
                    self.w.machine.exit(gone.mm);
                }
            }
            Op::SwapOut { nth } => self.swap_out(nth),
            Op::Pin { mm, page, write } => self.pin(mm % count, page, write),
            Op::PinWrite { nth, byte } => {
                if !self.pins.is_empty() {
                    self.pin_write(nth % self.pins.len(), byte);
                }
            }
            Op::Unpin { nth } => {
                if !self.pins.is_empty() {
                    let pin = self.pins.swap_remove(nth % self.pins.len());
                    self.w.machine.unpin(pin.pinned);
                }
            }
        }
        self.w.check();
    }

    fn finish(mut self) {
        for pin in self.pins.drain(..) {
            self.w.machine.unpin(pin.pinned);
        }
        for mm in 0..self.processes.len() {
            (0..64).for_each(|page| self.read(mm, page));
            self.w.check();
        }
        self.processes.drain(..).for_each(|process| self.w.machine.exit(process.mm));
        self.files.clear();
        self.w.end();
    }
}

fn g6_random_programs_agree_with_a_model_of_bytes<S: SoftSystem>() {
    let cases = crate::base::testing::rounds(96, 2) as u32;
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 4_000, ..Config::default() });
    let programs = prop::collection::vec(op(), 20..400);
    let run = runner.run(&programs, |ops| {
        let mut program = Program::<S>::new();
        ops.iter().for_each(|op| program.step(op));
        program.finish();
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
}
