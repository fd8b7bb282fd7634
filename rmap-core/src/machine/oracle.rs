//! The oracle: what is true of a machine at rest, found by reading its page tables and nothing else.
//!
//! It asks no engine, uses no walk of the rmap layer, and trusts no count: it scans all entries of all address spaces,
//! counts for itself, and then compares what others claim with that. It is for tests: a scan costs as much as all page
//! tables, and only a machine in which nothing runs can be checked.

use super::Machine;
use super::system::SoftSystem;
use crate::base::alloc::HeapVec;
use crate::base::types::{Pfn, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::mm::address_space::MmLocked;
use crate::mm::{MmRef, Vma};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::{Pte, PteFlags};
use crate::page::radix::ADDRESS_END;
use core::fmt;
use core::ops::ControlFlow;
use core::ptr::NonNull;

/// What a check that found nothing wrong has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Address spaces.
    pub mms: u64,
    /// VMAs.
    pub vmas: u64,
    /// Entries that map counted pages.
    pub mappings: u64,
    /// Frames that are mapped anonymously by entries of their own.
    pub anon: u64,
    /// Frames of files and shared memory that are mapped.
    pub file: u64,
    /// Entries that map frames which are not counted: the zero page.
    pub special: u64,
    /// Entries that stand for pages in swap.
    pub swap_entries: u64,
    /// Frames in the swap cache.
    pub swap_cached: u64,
    /// Frames free.
    pub free: u64,
    /// Candidates that the reverse map offered for all mapped frames.
    pub candidates: u64,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// The rule that does not hold.
    pub rule: &'static str,
    /// The address space, or 0.
    pub mm: u64,
    /// The address, or 0.
    pub addr: VirtAddr,
    /// The frame or the slot, or 0.
    pub number: u64,
    /// What the oracle counted.
    pub counted: u64,
    /// What the machine claims.
    pub claimed: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, mm, addr, number, counted, claimed } = self;
        write!(
            f,
            "{rule}: counted {counted}, claimed {claimed} (address space {mm}, address {:#x}, frame or slot {number})",
            addr.0
        )
    }
}

impl core::error::Error for Broken {}

/// The rule of a check that could not be made.
const NO_MEMORY: &str = "the check itself ran out of memory";

impl Broken {
    /// Nothing is known to be wrong: there was no memory to check.
    pub fn is_no_memory(&self) -> bool {
        self.rule == NO_MEMORY
    }
    fn new(rule: &'static str) -> Self {
        Self { rule, mm: 0, addr: VirtAddr(0), number: 0, counted: 0, claimed: 0 }
    }
    fn at(self, mm: u64, addr: VirtAddr) -> Self {
        Self { mm, addr, ..self }
    }
    fn number(self, number: u64) -> Self {
        Self { number, ..self }
    }
}

/// `rule` holds if both are equal.
fn equal(rule: &'static str, counted: u64, claimed: u64) -> Result<(), Broken> {
    if counted == claimed { Ok(()) } else { Err(Broken { counted, claimed, ..Broken::new(rule) }) }
}

/// `rule` holds if `yes`.
fn holds(rule: &'static str, yes: bool) -> Result<(), Broken> {
    if yes { Ok(()) } else { Err(Broken::new(rule)) }
}

/// An entry that maps a counted frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    pfn: Pfn,
    mm: u64,
    addr: VirtAddr,
}

/// One address space's entries, counted.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    anon: u64,
    file: u64,
    shmem: u64,
    swap: u64,
}

/// All that the scan has seen.
struct Scan {
    found: HeapVec<Found>,
    /// Entries that name each slot.
    slots: HeapVec<u64>,
    report: Report,
}

fn no_memory<E>(_: E) -> Broken {
    Broken::new(NO_MEMORY)
}

impl<S: SoftSystem> Machine<S> {
    /// Who maps a frame: every address space's number and address, in order, as its page tables say. Of a machine in
    /// which nothing runs; for tests: the answer comes from the global allocator.
    pub fn oracle_mappings(&self, pfn: Pfn) -> alloc::vec::Vec<(u64, VirtAddr)> {
        let mut all = alloc::vec::Vec::new();
        let listed = self.for_each_mm(|mm| {
            mm.table().for_each(VirtAddr(0), ADDRESS_END, |addr, pte| {
                if pte.pfn() == Some(pfn) {
                    all.push((mm.id(), addr));
                }
            });
        });
        debug_assert!(listed.is_ok(), "no memory to list the address spaces");
        all.sort_unstable();
        all
    }

    /// Checks everything that is true of a machine at rest. Nothing else may run. Page locks must be free.
    ///
    /// | of | what |
    /// |---|---|
    /// | each mapped frame | the reverse map finds the entries that map it, no more and no less (G1); its mapcount is their number |
    /// | each frame | its references are its mappings, pins, and its places in the swap cache and in a file's; free frames have none |
    /// | each entry | a VMA holds it; anonymous pages are in prepared VMAs, pages of files at their offset; a page that several map is nobody's alone; a private entry that may be written is |
    /// | each slot | its uses are the entries that name it, and the cache |
    /// | each address space | its figures of present pages and swap entries; the pages of its VMAs |
    /// | the machine | pages mapped anonymously and of files; frames free |
    pub fn check(&self) -> Result<Report, Broken> {
        let heap = &self.rmap.arena().heap;
        let mut scan = Scan { found: heap.vec(), slots: heap.vec(), report: Report::default() };
        if let Some(swap) = &self.swap {
            let slots = swap.slots() as usize;
            scan.slots.try_reserve_exact(slots).map_err(no_memory)?;
            scan.slots.resize(slots, 0);
        }
        for mm in &self.snapshot_mms().map_err(no_memory)? {
            self.check_mm(mm, &mut scan)?;
        }
        scan.found.sort_unstable();
        self.check_frames(&mut scan)?;
        self.check_slots(&mut scan)?;
        let Report { anon, file, free, .. } = scan.report;
        equal("frames mapped anonymously", anon, self.rmap.anon_mapped())?;
        equal("frames of files mapped", file, self.rmap.file_mapped())?;
        equal("free frames", free, self.frames.free_frames())?;
        Ok(scan.report)
    }

    fn check_mm(&self, mm: &MmRef<S>, scan: &mut Scan) -> Result<(), Broken> {
        let held = mm.read();
        let mut tally = Tally::default();
        let mut wrong = Ok(());
        mm.table().for_each(VirtAddr(0), ADDRESS_END, |addr, pte| {
            if wrong.is_ok() {
                let vma = held.find(addr).ok_or(Broken::new("a VMA holds each entry"));
                let entry = vma.and_then(|vma| self.check_entry(mm.id(), vma, addr, pte, &mut tally, scan));
                wrong = entry.map_err(|broken| broken.at(mm.id(), addr));
            }
        });
        wrong?;
        let of_mm = |broken: Broken| broken.at(mm.id(), VirtAddr(0));
        let figures = mm.data().counters.snapshot();
        equal("rss_anon", tally.anon, figures.rss_anon).map_err(of_mm)?;
        equal("rss_file", tally.file, figures.rss_file).map_err(of_mm)?;
        equal("rss_shmem", tally.shmem, figures.rss_shmem).map_err(of_mm)?;
        equal("swap_ents", tally.swap, figures.swap_ents).map_err(of_mm)?;
        let (mut vmas, mut pages, mut locked) = (0, 0, 0);
        for vma in held.vmas() {
            vmas += 1;
            pages += vma.pages();
            locked += if vma.has(VmFlags::LOCKED) { vma.pages() } else { 0 };
        }
        equal("total_vm", pages, figures.total_vm).map_err(of_mm)?;
        equal("locked_vm", locked, figures.locked_vm).map_err(of_mm)?;
        let mut tables = 0;
        let mut at = VirtAddr(0);
        while let Some(addr) = mm.table().next_table(at, ADDRESS_END) {
            tables += 1;
            at = super::page_table::table_end(addr, ADDRESS_END);
        }
        equal("page tables", tables, mm.table().nr_tables()).map_err(of_mm)?;
        holds("page tables without VMAs", tables == 0 || vmas != 0).map_err(of_mm)?;
        scan.report.mms += 1;
        scan.report.vmas += vmas;
        Ok(())
    }

    fn check_entry(
        &self,
        mm: u64,
        vma: &Vma<S>,
        addr: VirtAddr,
        pte: Pte,
        tally: &mut Tally,
        scan: &mut Scan,
    ) -> Result<(), Broken> {
        let count = |page: &Page, tally: &mut Tally| match page.head().mapping().load() {
            Mapping::Anon(_) | Mapping::Ksm(_) => tally.anon += 1,
            _ if page.head().has(PageFlags::SWAP_BACKED) => tally.shmem += 1,
            _ => tally.file += 1,
        };
        match pte {
            Pte::Present { pfn, flags } => {
                let page = self.page(pfn).map_err(|_| Broken::new("an entry names a frame that exists"))?;
                count(page, tally);
                crate::base::alloc::try_push(&mut scan.found, Found { pfn, mm, addr }).map_err(no_memory)?;
                self.check_present(vma, addr, page, flags).map_err(|broken| broken.number(pfn.0))
            }
            Pte::Migration(entry) => {
                count(self.page(entry.pfn).map_err(|_| Broken::new("an entry names a frame that exists"))?, tally);
                Ok(())
            }
            Pte::Swap(entry) => {
                tally.swap += 1;
                scan.report.swap_entries += 1;
                let uses = scan.slots.get_mut(entry.slot as usize);
                *uses.ok_or(Broken::new("an entry names a slot that exists").number(entry.slot))? += 1;
                holds("an anonymous entry is in a prepared VMA", self.rmap.engine().is_prepared(vma))
            }
            Pte::Special { .. } => {
                scan.report.special += 1;
                Ok(())
            }
            Pte::None | Pte::NoTable | Pte::Marker(_) => Ok(()),
        }
    }

    fn check_present(&self, vma: &Vma<S>, addr: VirtAddr, page: &Page, flags: PteFlags) -> Result<(), Broken> {
        let private = !vma.has(VmFlags::SHARED);
        let write = flags.contains(PteFlags::WRITE);
        holds("a mapped frame is not free", page.refcount() != 0)?;
        holds("the zero page is not counted", !page.has(PageFlags::RESERVED))?;
        holds("a mapped page has contents", page.head().has(PageFlags::UPTODATE))?;
        holds("a writable entry is in a writable VMA", !write || vma.has(VmFlags::WRITE))?;
        match page.head().mapping().load() {
            Mapping::None => holds("a mapped page belongs to somebody", false),
            Mapping::Anon(_) | Mapping::Ksm(_) => {
                // One entry for a whole page: its head says so for all.
                let whole = if flags.contains(PteFlags::LARGE) { page.head() } else { page };
                let exclusive = whole.has(PageFlags::ANON_EXCLUSIVE);
                holds("an anonymous page is in a prepared VMA", self.rmap.engine().is_prepared(vma))?;
                holds("a private writable entry is for an exclusive page", !write || !private || exclusive)
            }
            Mapping::File(word) => {
                let file = vma.file().ok_or(Broken::new("a file's page is in a VMA of that file"))?;
                holds("a file's page is in a VMA of that file", word == NonNull::from(&**file).cast())?;
                holds("a file's page is at its offset", page.index() == vma.bounds().pgoff_of(addr))?;
                holds("a file's page is not writable in a private mapping", !write || !private)?;
                holds(
                    "a page that may be written through a shared mapping is dirty",
                    !write || page.has(PageFlags::DIRTY),
                )
            }
        }
    }

    fn check_frames(&self, scan: &mut Scan) -> Result<(), Broken> {
        let mut rest = &scan.found[..];
        let report = &mut scan.report;
        for page in self.rmap.pages().iter() {
            let mapped = rest.iter().take_while(|found| found.pfn == page.pfn()).count();
            let (mine, others) = rest.split_at(mapped);
            rest = others;
            self.check_frame(page, mine, report).map_err(|broken| broken.number(page.pfn().0))?;
        }
        Ok(())
    }

    fn check_frame(&self, page: &Page, mappings: &[Found], report: &mut Report) -> Result<(), Broken> {
        let mapped = mappings.len() as u64;
        report.mappings += mapped;
        let large = u64::from(page.entire_mapcount());
        equal("mapcount", mapped, u64::from(page.single_mapcount()) + large)?;
        holds("no page is locked", !page.is_locked())?;
        holds("a page that several map is not exclusive", mapped < 2 || !page.has(PageFlags::ANON_EXCLUSIVE))?;
        let word = page.head().mapping().load();
        if !page.is_compound() {
            let zero = u64::from(page.pfn() == self.zero);
            let swap = u64::from(page.has(PageFlags::SWAP_CACHE));
            let cached = u64::from(matches!(word, Mapping::File(_)));
            let pins = u64::from(page.pins());
            equal("references", mapped + zero + swap + cached + pins, u64::from(page.refcount()))?;
            report.swap_cached += swap;
        }
        if page.refcount() == 0 {
            report.free += 1;
            return holds("a free frame belongs to nobody", word == Mapping::None && page.flags().is_empty());
        }
        if mapped == 0 {
            return Ok(());
        }
        if page.single_mapcount() != 0 {
            *if word.is_anon() { &mut report.anon } else { &mut report.file } += 1;
        }
        self.check_walk(page, mappings, report)
    }

    /// The reverse map against the scan.
    fn check_walk(&self, page: &Page, mappings: &[Found], report: &mut Report) -> Result<(), Broken> {
        let mut walked = self.rmap.arena().heap.vec();
        walked.try_reserve(mappings.len() + 1).map_err(no_memory)?;
        let locked = page.lock();
        let mut beyond = 0;
        self.rmap.for_each_mapping(page, |vma, addr, pte| {
            let found = match pte {
                // Shown once, at its first address.
                Pte::Present { pfn, flags } if flags.contains(PteFlags::LARGE) => {
                    Some(addr.add_pages(page.pfn().0 - pfn.0))
                }
                _ => (pte.pfn() == Some(page.pfn())).then_some(addr),
            };
            if let Some(addr) = found {
                if walked.len() < walked.capacity() {
                    walked.push(Found { pfn: page.pfn(), mm: vma.mm().id(), addr });
                } else {
                    beyond += 1;
                }
            }
            ControlFlow::Continue(())
        });
        let mut candidates = 0;
        let mut visit = |_: &Vma<S>, _| {
            candidates += 1;
            ControlFlow::Continue(())
        };
        self.rmap.rmap_walk(page, &mut crate::rmap::walk::WalkControl::new(&mut visit));
        drop(locked);
        report.candidates += candidates;
        equal("mappings that the reverse map finds", mappings.len() as u64, (walked.len() + beyond) as u64)?;
        walked.sort_unstable();
        for (found, scanned) in walked.iter().zip(mappings) {
            let rule = "the reverse map finds each mapping once";
            holds(rule, found == scanned).map_err(|broken| broken.at(scanned.mm, scanned.addr))?;
        }
        Ok(())
    }

    fn check_slots(&self, scan: &mut Scan) -> Result<(), Broken> {
        let Some(swap) = &self.swap else { return Ok(()) };
        let mut cached = 0;
        for (slot, entries) in scan.slots.iter().enumerate() {
            let slot = slot as u64;
            let page = swap.cache_lookup(slot);
            equal("uses of a slot", entries + u64::from(page.is_some()), swap.count(slot))
                .map_err(|broken| broken.number(slot))?;
            if let Some(pfn) = page {
                cached += 1;
                let page = self.page(pfn).map_err(|_| Broken::new("the swap cache names frames").number(slot))?;
                let knows = page.has(PageFlags::SWAP_CACHE) && page.private() == slot;
                holds("a page in the swap cache knows its slot", knows).map_err(|broken| broken.number(slot))?;
            }
        }
        equal("frames in the swap cache", scan.report.swap_cached, cached)
    }
}
