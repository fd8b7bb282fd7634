//! Two states of the same processes against each other: the snapshot's and the replay's.
//!
//! Nothing here knows how either came about. A state is a list of [`ProcessState`]; [`Snapshot::state`] makes the
//! kernel's, whoever replays makes their own. What is held against a replay and what is only counted is in the [module
//! above](super).

use super::snapshot::Snapshot;
use super::{Object, Span, perms};
use crate::base::types::VmFlags;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A run of pages with the same attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmaRun {
    /// Where.
    pub span: Span,
    /// READ, WRITE and EXEC; others are ignored.
    pub prot: VmFlags,
    /// Whether writes are seen by all who map it.
    pub shared: bool,
    /// `None`: anonymous memory.
    pub object: Option<Object>,
    /// Offset of the first page into the object; of no meaning without one.
    pub pgoff: u64,
    /// The kernel's own pages (vdso, vvar).
    pub special: bool,
}

impl VmaRun {
    /// As it is compared: without what has no meaning.
    fn normal(self) -> Self {
        let pgoff = if self.object.is_some() { self.pgoff } else { 0 };
        Self { prot: self.prot & VmFlags::ACCESS, pgoff, ..self }
    }

    /// Whether `next` could be part of it.
    fn goes_on_with(&self, next: &Self) -> bool {
        let pgoff = if self.object.is_some() { self.pgoff + self.span.pages } else { 0 };
        self.span.end() == next.span.vpn
            && (self.prot, self.shared, self.object, self.special)
                == (next.prot, next.shared, next.object, next.special)
            && pgoff == next.pgoff
    }
}

impl fmt::Display for VmaRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span { vpn, .. } = self.span;
        write!(f, "{vpn:x}-{:x} ", self.span.end())?;
        perms(self.prot, self.shared).iter().try_for_each(|letter| write!(f, "{letter}"))?;
        match self.object {
            Some(object) => write!(f, " {object} from {:x}", self.pgoff)?,
            None => f.write_str(" anonymous")?,
        }
        f.write_str(if self.special { " special" } else { "" })
    }
}

/// A page that is present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentPage {
    /// Which page.
    pub vpn: u64,
    /// The frame that it is on: any number that no other frame has.
    pub frame: u64,
    /// The process's own or inherited; not of a file or of shared memory.
    pub anonymous: bool,
}

/// What a process has. Neither zero pages nor the pages of special VMAs are in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessState {
    /// Its number.
    pub pid: u32,
    /// By address, cut in whatever way.
    pub vmas: Vec<VmaRun>,
    /// By address.
    pub pages: Vec<PresentPage>,
    /// Anonymous pages in swap, by address.
    pub swapped: Vec<u64>,
}

impl ProcessState {
    fn anonymous(&self) -> impl Iterator<Item = &PresentPage> {
        self.pages.iter().filter(|page| page.anonymous)
    }

    fn page(&self, vpn: u64) -> Option<&PresentPage> {
        self.pages.binary_search_by_key(&vpn, |page| page.vpn).ok().map(|at| &self.pages[at])
    }

    fn has_swapped(&self, vpn: u64) -> bool {
        self.swapped.binary_search(&vpn).is_ok()
    }

    /// VMAs with neighbours of equal attributes made one.
    fn runs(&self) -> Vec<VmaRun> {
        let mut runs: Vec<VmaRun> = Vec::new();
        for vma in self.vmas.iter().copied().map(VmaRun::normal) {
            match runs.last_mut() {
                Some(last) if last.goes_on_with(&vma) => last.span.pages += vma.span.pages,
                _ => runs.push(vma),
            }
        }
        runs
    }
}

impl Snapshot {
    /// The snapshot as a state to compare with: without zero pages, special VMAs' pages and markers.
    pub fn state(&self) -> Vec<ProcessState> {
        self.processes
            .iter()
            .map(|process| {
                let mut state = ProcessState { pid: process.pid, ..ProcessState::default() };
                state.vmas.extend(process.vmas.iter().map(|vma| VmaRun {
                    span: vma.span,
                    prot: vma.prot,
                    shared: vma.shared,
                    object: vma.object,
                    pgoff: vma.pgoff,
                    special: vma.special,
                }));
                for page in &process.pages {
                    let (vpn, entry) = (page.vpn, page.entry);
                    match entry.pfn() {
                        Some(pfn) if self.is_zero_page(pfn) && !entry.is_file() => {}
                        Some(_) if process.vma_of(vpn).is_some_and(|vma| vma.special) => {}
                        Some(frame) => state.pages.push(PresentPage { vpn, frame, anonymous: !entry.is_file() }),
                        None if entry.is_swapped() && !entry.is_file() => state.swapped.push(vpn),
                        None => {}
                    }
                }
                state
            })
            .collect()
    }
}

/// How many differences are kept as text.
pub const DIFFERENCES: usize = 20;

/// What a comparison found. *There* is the snapshot, *here* the replay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Processes there.
    pub processes: u64,
    /// Of these, with equal VMA runs.
    pub vmas_equal: u64,
    /// VMA runs there, after merging.
    pub runs: u64,
    /// Anonymous pages there.
    pub anon: u64,
    /// Of these, anonymous pages here too.
    pub anon_present: u64,
    /// Of these, in swap here.
    pub anon_swapped: u64,
    /// Frames there under the anonymous pages that both have.
    pub frames: u64,
    /// Of these, with the same sharers here.
    pub frames_exact: u64,
    /// Anonymous pages here that are neither anonymous nor in swap there.
    pub anon_extra: u64,
    /// Pages of files that both have.
    pub file_both: u64,
    /// Pages of files that are only here.
    pub file_only_here: u64,
    /// Pages of files that are only there.
    pub file_only_there: u64,
    /// The first differences, at most [`DIFFERENCES`], in words.
    pub differences: Vec<String>,
}

impl Comparison {
    /// Two pages that both have share a frame there if and only if they do here.
    pub fn partition_exact(&self) -> bool {
        self.frames_exact == self.frames
    }

    /// VMAs equal, all anonymous pages present, partition exact. Extra pages and pages of files are not held against a
    /// replay.
    pub fn is_exact(&self) -> bool {
        self.vmas_equal == self.processes && self.anon_present == self.anon && self.partition_exact()
    }

    fn differs(&mut self, text: impl FnOnce() -> String) {
        if self.differences.len() < DIFFERENCES {
            self.differences.push(text());
        }
    }

    fn compare_runs(&mut self, there: &ProcessState, here: &ProcessState) {
        let (theirs, ours) = (there.runs(), here.runs());
        self.runs += theirs.len() as u64;
        if theirs == ours {
            self.vmas_equal += 1;
            return;
        }
        for (side, runs, others) in [("snapshot", &theirs, &ours), ("replay", &ours, &theirs)] {
            for run in runs.iter().filter(|run| !others.contains(run)) {
                self.differs(|| format!("pid {}: only in the {side}: {run}", there.pid));
            }
        }
    }

    fn compare_pages(&mut self, there: &ProcessState, here: &ProcessState, partition: &mut Partition) {
        let pid = there.pid;
        for page in there.anonymous() {
            let vpn = page.vpn;
            self.anon += 1;
            match here.page(vpn) {
                Some(ours) if ours.anonymous => {
                    self.anon_present += 1;
                    partition.add(self, (pid, vpn), page.frame, ours.frame);
                }
                _ if here.has_swapped(vpn) => self.anon_swapped += 1,
                Some(_) => self.differs(|| format!("pid {pid}: page {vpn:x} is anonymous, and a file's in the replay")),
                None => self.differs(|| format!("pid {pid}: anonymous page {vpn:x} is missing in the replay")),
            }
        }
        for PresentPage { vpn, .. } in here.anonymous() {
            if !there.page(*vpn).is_some_and(|page| page.anonymous) && !there.has_swapped(*vpn) {
                self.anon_extra += 1;
                self.differs(|| format!("pid {pid}: anonymous page {vpn:x} is only in the replay"));
            }
        }
        let files = |state: &ProcessState| state.pages.iter().filter(|page| !page.anonymous).count() as u64;
        let both = there.pages.iter().filter(|page| !page.anonymous);
        let both = both.filter(|page| here.page(page.vpn).is_some_and(|ours| !ours.anonymous)).count() as u64;
        self.file_both += both;
        self.file_only_here += files(here) - both;
        self.file_only_there += files(there) - both;
    }
}

type Place = (u32, u64);

/// Which frame there goes with which here, each with the page that showed it first.
#[derive(Default)]
struct Partition {
    there: BTreeMap<u64, (u64, Place)>,
    here: BTreeMap<u64, (u64, Place)>,
    /// PFNs whose sharers are others here.
    torn: BTreeSet<u64>,
}

impl Partition {
    fn add(&mut self, found: &mut Comparison, place: Place, pfn: u64, frame: u64) {
        let name = |(pid, vpn): Place| format!("pid {pid} page {vpn:x}");
        let (known, first) = *self.there.entry(pfn).or_insert((frame, place));
        if known != frame {
            self.torn.insert(pfn);
            found.differs(|| {
                format!("{} and {} share PFN {pfn:x}, and no frame in the replay", name(first), name(place))
            });
        }
        let (known, first) = *self.here.entry(frame).or_insert((pfn, place));
        if known != pfn {
            self.torn.extend([known, pfn]);
            found.differs(|| format!("{} and {} share a frame in the replay, and no PFN", name(first), name(place)));
        }
    }
}

/// Compares the snapshot's state with the replay's. Processes that are only here are not looked at: threads have pids
/// too.
pub fn compare(there: &[ProcessState], here: &[ProcessState]) -> Comparison {
    let mut found = Comparison { processes: there.len() as u64, ..Comparison::default() };
    let mut partition = Partition::default();
    let nothing = ProcessState::default();
    for process in there {
        let ours = here.iter().find(|ours| ours.pid == process.pid).unwrap_or_else(|| {
            found.differs(|| format!("pid {} is not in the replay", process.pid));
            &nothing
        });
        found.compare_runs(process, ours);
        found.compare_pages(process, ours, &mut partition);
    }
    found.frames = partition.there.len() as u64;
    found.frames_exact = found.frames - partition.torn.len() as u64;
    found
}
