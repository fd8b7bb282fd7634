//! What a walk costs, and whether it is right: every mapped page of a machine, walked and held against its page tables.
//!
//! **The oracle** here reads all page tables of all address spaces and writes down who maps what. It uses no anchor, no
//! tree and no `page_vma_mapped_walk`: where it and a walk differ, the walk is wrong. The machine stands still
//! meanwhile.
//!
//! **A walk** is [`Rmap::for_each_mapping`](crate::rmap::Rmap::for_each_mapping) over one page, page lock held:
//! look-up, anchor lock, candidates, and each candidate checked against its page-table entry. Its time includes one
//! reading of the clock. Walks go through the pages in order of frame number, each page once, so what they find in
//! caches is what a scan by frame number finds there.

use crate::base::error::{Error, Result};
use crate::base::types::{Pfn, VirtAddr};
use crate::engine::Footprint;
use crate::machine::Machine;
use crate::machine::system::SoftSystem;
use crate::mm::MmRef;
use crate::page::Page;
use crate::page::pte::{Pte, PteFlags};
use crate::page::radix::ADDRESS_END;
use crate::rmap::walk::WalkControl;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::ControlFlow;

/// How many mismatches are kept as text.
const DIFFERENCES: usize = 10;

/// Walks over pages of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walks {
    /// Pages walked, each once; a compound page is one.
    pub pages: u64,
    /// Mappings that walks found.
    pub mappings: u64,
    /// Candidates that walks looked at.
    pub candidates: u64,
    /// Nanoseconds of the median walk.
    pub median_ns: u64,
    /// Nanoseconds that 99 of 100 walks stay below.
    pub p99_ns: u64,
    /// Nanoseconds of all walks.
    pub total_ns: u64,
}

impl Walks {
    /// What an engine asks to be looked at for each mapping that is there: 1 at best.
    pub fn candidates_per_mapping(&self) -> f64 {
        ratio(self.candidates, self.mappings)
    }

    fn time(&mut self, mut times: Vec<u64>) {
        times.sort_unstable();
        self.total_ns = times.iter().sum();
        if let Some(last) = times.len().checked_sub(1) {
            self.median_ns = times[last / 2];
            self.p99_ns = times[(times.len() * 99 / 100).min(last)];
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Walks over anonymous pages.
    pub anon: Walks,
    /// Walks over pages of files and shared memory.
    pub file: Walks,
    /// Both together.
    pub all: Walks,
    /// Present entries in page tables, by the oracle.
    pub entries: u64,
    /// Mappings that a walk missed, invented or visited twice.
    pub mismatches: u64,
    /// The first of them, in words.
    pub differences: Vec<String>,
    /// Address spaces.
    pub mms: u64,
    /// Their VMAs.
    pub vmas: u64,
    /// The reverse map's memory.
    pub footprint: Footprint,
}

impl Report {
    /// Bytes of reverse map for each VMA.
    pub fn bytes_per_vma(&self) -> f64 {
        ratio(self.footprint.bytes, self.vmas)
    }
    /// Bytes of reverse map for each page that is mapped, once or often.
    pub fn bytes_per_page(&self) -> f64 {
        ratio(self.footprint.bytes, self.all.pages)
    }
}

fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 0.0 } else { of as f64 / to as f64 }
}

/// One mapping: the head of the page, the address space's number, the address.
type Place = (Pfn, u64, VirtAddr);

fn reserve<T>(vec: &mut Vec<T>, n: usize) -> Result<()> {
    vec.try_reserve(n).map_err(|_| Error::NoMemory)
}

/// All mappings of all address spaces, by page.
fn oracle<S: SoftSystem>(machine: &Machine<S>, mms: &[MmRef<S>]) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let mut done = Ok(());
    for mm in mms {
        mm.table().for_each(VirtAddr(0), ADDRESS_END, |addr, pte| {
            let Pte::Present { pfn, flags } = pte else { return };
            let place = machine.rmap().pages().page(pfn).ok_or(Error::Foreign).map(|page| page.head().pfn());
            match place.and_then(|head| reserve(&mut places, 1).map(|()| head)) {
                // Of the 512 pages under a large entry, the first stands for it.
                Ok(head) if flags.contains(PteFlags::LARGE) && pfn != head => {}
                Ok(head) => places.push((head, mm.id(), addr)),
                Err(error) => done = Err(error),
            }
        });
    }
    places.sort_unstable();
    done.map(|()| places)
}

/// Walks every mapped page of `machine`, which stands still. `clock` tells nanoseconds.
pub fn measure<S: SoftSystem>(machine: &Machine<S>, clock: impl Fn() -> u64) -> Result<Report> {
    let mut mms: Vec<MmRef<S>> = Vec::new();
    let mut room = Ok(());
    machine.for_each_mm(|mm| match reserve(&mut mms, 1) {
        Ok(()) => mms.push(mm.clone()),
        Err(error) => room = Err(error),
    })?;
    room?;
    let places = oracle(machine, &mms)?;
    let mut report = Report {
        entries: places.len() as u64,
        mms: mms.len() as u64,
        vmas: mms.iter().map(|mm| mm.nr_regions() as u64).sum(),
        footprint: machine.footprint()?,
        ..Report::default()
    };
    let (mut anon_ns, mut file_ns, mut all_ns) = (Vec::new(), Vec::new(), Vec::new());
    let mut found: Vec<Place> = Vec::new();
    for group in places.chunk_by(|a, b| a.0 == b.0) {
        let page = machine.rmap().pages().page(group[0].0).ok_or(Error::Foreign)?;
        let anon = page.mapping().load().is_anon();
        let (walks, times) = if anon { (&mut report.anon, &mut anon_ns) } else { (&mut report.file, &mut file_ns) };
        found.clear();
        reserve(&mut found, group.len())?;
        reserve(times, 1)?;
        let (nanoseconds, candidates) = walk(machine, page, &clock, &mut found);
        times.push(nanoseconds);
        walks.pages += 1;
        walks.candidates += candidates;
        walks.mappings += found.len() as u64;
        found.sort_unstable();
        if found != group {
            hold_against(&found, group, &mut report);
        }
    }
    let Report { anon, file, .. } = report;
    report.all = Walks {
        pages: anon.pages + file.pages,
        mappings: anon.mappings + file.mappings,
        candidates: anon.candidates + file.candidates,
        ..Walks::default()
    };
    reserve(&mut all_ns, anon_ns.len() + file_ns.len())?;
    all_ns.extend(anon_ns.iter().chain(&file_ns));
    report.anon.time(anon_ns);
    report.file.time(file_ns);
    report.all.time(all_ns);
    Ok(report)
}

/// One walk: its time, its candidates, and the mappings that it found.
fn walk<S: SoftSystem>(
    machine: &Machine<S>,
    page: &Page,
    clock: &impl Fn() -> u64,
    found: &mut Vec<Place>,
) -> (u64, u64) {
    let _locked = page.lock();
    let start = clock();
    machine.rmap().for_each_mapping(page, |vma, addr, _| {
        found.push((page.pfn(), vma.mm().id(), addr));
        ControlFlow::Continue(())
    });
    let nanoseconds = clock() - start;
    let mut candidates = 0;
    let mut count = |_: &_, _| {
        candidates += 1;
        ControlFlow::Continue(())
    };
    machine.rmap().rmap_walk(page, &mut WalkControl::new(&mut count));
    (nanoseconds, candidates)
}

/// Counts what only one of the two sorted lists has, or has more often.
fn hold_against(mut found: &[Place], mut expected: &[Place], report: &mut Report) {
    loop {
        let (what, (pfn, mm, addr)) = match (found, expected) {
            ([a, found_on @ ..], [b, expected_on @ ..]) if a == b => {
                (found, expected) = (found_on, expected_on);
                continue;
            }
            ([a, on @ ..], _) if expected.first().is_none_or(|b| a < b) => {
                found = on;
                ("finds what is not there", a)
            }
            (_, [b, on @ ..]) => {
                expected = on;
                ("misses", b)
            }
            (_, []) => return,
        };
        report.mismatches += 1;
        if report.differences.len() < DIFFERENCES {
            report.differences.push(format!("the walk of frame {} {what}: mm {mm} at {:#x}", pfn.0, addr.0));
        }
    }
}
