//! Replay: a trace's events, done again in a memory manager.
//!
//! The memory manager stands behind [`Target`], which has one method an event
//! ([`OnMachine`](super::on_machine::OnMachine) is the machine). [`Replay`] keeps what the trace names by number
//! (address spaces, objects, the pid table of the coming mark), counts, and hands each mark to an [`Observer`].
//!
//! **What may fail.** A trace holds calls that succeeded, so one that fails here ends the replay with the line's
//! number. Exceptions, as they are no contradictions: a fault that the kernel answered with a signal is in the trace as
//! well, and changes nothing ([`Stats::failed_faults`]); madvise goes on past holes and then reports them.

use super::compare::ProcessState;
use super::mmt::{Event, LockCall, MapKind, MmId, ObjectId, Touch, Trace, Want};
use super::{Lines, Object, Span, TraceError};
use crate::base::error::{Error, Result};
use crate::base::types::VmFlags;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What an `M` line maps.
#[derive(Debug)]
pub struct Mapping<'a, O> {
    /// Where; what is there goes.
    pub span: Span,
    /// READ, WRITE, EXEC.
    pub prot: VmFlags,
    /// How.
    pub kind: MapKind,
    /// The object and the offset of its first page; `None`: anonymous memory.
    pub object: Option<(&'a O, u64)>,
}

/// A memory manager to replay in. Its errors are those of [`crate::base::error`].
pub trait Target {
    /// An address space.
    type Mm;
    /// A file or shared memory.
    type Object;

    /// An empty address space.
    fn new_mm(&mut self) -> Result<Self::Mm>;
    /// A copy of one.
    fn fork(&mut self, parent: &Self::Mm) -> Result<Self::Mm>;
    /// The end of one.
    fn destroy(&mut self, mm: Self::Mm);
    /// An object. `memory`: it is shared memory, as far as a trace can tell; else a file.
    fn new_object(&mut self, object: Object, memory: bool) -> Result<Self::Object>;

    /// Maps, over what is there.
    fn map(&mut self, mm: &Self::Mm, mapping: &Mapping<'_, Self::Object>) -> Result<()>;
    /// Unmaps; without pages: the whole VMA at `vpn`.
    fn unmap(&mut self, mm: &Self::Mm, span: Span) -> Result<()>;
    /// mprotect.
    fn protect(&mut self, mm: &Self::Mm, span: Span, prot: VmFlags) -> Result<()>;
    /// mremap, with the system call's flags; `new` is where the range came to lie.
    fn remap(&mut self, mm: &Self::Mm, old: Span, new: Span, flags: u32) -> Result<()>;
    /// madvise, with the system call's number. [`Error::NotSupported`]: an advice that it does not know, and that
    /// changes nothing then.
    fn advise(&mut self, mm: &Self::Mm, span: Span, advice: u32) -> Result<()>;
    /// mlock, mlock2, munlock.
    fn lock(&mut self, mm: &Self::Mm, span: Span, call: LockCall) -> Result<()>;
    /// The stack that ends where `span` does now begins where `span` does.
    fn grow(&mut self, mm: &Self::Mm, span: Span) -> Result<()>;
    /// A page fault.
    fn fault(&mut self, mm: &Self::Mm, vpn: u64, want: Want) -> Result<()>;

    /// VMAs of an address space.
    fn vmas(&self, mm: &Self::Mm) -> u64;
    /// What an address space has, as the state of process `pid`.
    fn state(&self, mm: &Self::Mm, pid: u32) -> ProcessState;
}

/// What happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Events, marks included.
    pub events: u64,
    /// Address spaces that began empty: by exec, and the first.
    pub execs: u64,
    /// Address spaces that began as copies.
    pub forks: u64,
    /// Address spaces that ended.
    pub exits: u64,
    /// `M` lines.
    pub maps: u64,
    /// `U` lines.
    pub unmaps: u64,
    /// `P` lines.
    pub protects: u64,
    /// `R` lines.
    pub remaps: u64,
    /// `A` lines.
    pub advices: u64,
    /// Of these, with an advice that the target does not know.
    pub unknown_advices: u64,
    /// `L` lines.
    pub locks: u64,
    /// `G` lines.
    pub growths: u64,
    /// Faults that wanted to read.
    pub reads: u64,
    /// Faults that wanted to write, pages touched by exec included.
    pub writes: u64,
    /// Faults that wanted to execute.
    pub fetches: u64,
    /// Of all faults, those taken in the kernel.
    pub kernel_faults: u64,
    /// Of all, pages touched without a fault.
    pub touches: u64,
    /// Of all, those that failed: a signal, or EFAULT.
    pub failed_faults: u64,
    /// Marks.
    pub marks: u64,
    /// Address spaces now.
    pub mms: u64,
    /// The most there ever were at once.
    pub peak_mms: u64,
    /// VMAs of all address spaces now.
    pub vmas: u64,
    /// The most there ever were at once.
    pub peak_vmas: u64,
}

impl Stats {
    /// Faults of all kinds.
    pub fn faults(&self) -> u64 {
        self.reads + self.writes + self.fetches
    }
    /// Address spaces that there ever were.
    pub fn processes(&self) -> u64 {
        self.execs + self.forks
    }
}

/// What address spaces hold at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Address spaces.
    pub mms: u64,
    /// VMAs of all of them.
    pub vmas: u64,
    /// Anonymous pages present, each counted as often as it is mapped.
    pub anon_pages: u64,
    /// Pages of files and shared memory present, counted alike.
    pub file_pages: u64,
    /// Frames under all of these.
    pub frames: u64,
    /// Anonymous pages in swap.
    pub swapped: u64,
}

/// Who watches a replay.
pub trait Observer<T: Target> {
    /// An event was applied.
    fn applied(&mut self, target: &T) {
        let _ = target;
    }
    /// Every [`PROGRESS`] events.
    fn progress(&mut self, stats: &Stats) {
        let _ = stats;
    }
    /// A mark: the pid table is complete, the next event has not happened. An error is a reason, and ends the replay.
    fn mark(&mut self, replay: &Replay<T>, label: &str) -> Result<(), String>;
}

impl<T: Target, F: FnMut(&Replay<T>, &str) -> Result<(), String>> Observer<T> for F {
    fn mark(&mut self, replay: &Replay<T>, label: &str) -> Result<(), String> {
        self(replay, label)
    }
}

/// Events between two calls of [`Observer::progress`].
pub const PROGRESS: u64 = 1 << 14;

struct Space<M> {
    mm: M,
    vmas: u64,
}

struct Announced<O> {
    object: Object,
    /// Made when it is first mapped.
    made: Option<O>,
}

/// A replay under way. Dropped, it destroys the address spaces that are left.
pub struct Replay<T: Target> {
    target: T,
    mms: BTreeMap<MmId, Space<T::Mm>>,
    objects: BTreeMap<ObjectId, Announced<T::Object>>,
    pids: Vec<(u32, MmId)>,
    stats: Stats,
}

impl<T: Target> Replay<T> {
    /// Nothing has happened yet.
    pub fn new(target: T) -> Self {
        Self { target, mms: BTreeMap::new(), objects: BTreeMap::new(), pids: Vec::new(), stats: Stats::default() }
    }

    /// The memory manager.
    pub fn target(&self) -> &T {
        &self.target
    }

    /// What happened so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Address spaces, by number.
    pub fn mms(&self) -> impl Iterator<Item = (MmId, &T::Mm)> {
        self.mms.iter().map(|(id, space)| (*id, &space.mm))
    }

    /// The pid table of the mark: processes and threads, each with its address space.
    pub fn pids(&self) -> impl Iterator<Item = (u32, MmId, &T::Mm)> {
        self.pids.iter().filter_map(|(pid, id)| Some((*pid, *id, &self.mms.get(id)?.mm)))
    }

    /// The state of all processes and threads of the pid table, to compare with a snapshot.
    pub fn states(&self) -> Vec<ProcessState> {
        self.pids().map(|(pid, _, mm)| self.target.state(mm, pid)).collect()
    }

    /// What all address spaces hold now, found by looking at each entry.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures { mms: self.stats.mms, vmas: self.stats.vmas, ..Figures::default() };
        let mut frames = Vec::new();
        for (_, mm) in self.mms() {
            let state = self.target.state(mm, 0);
            let anon = state.pages.iter().filter(|page| page.anonymous).count() as u64;
            figures.anon_pages += anon;
            figures.file_pages += state.pages.len() as u64 - anon;
            figures.swapped += state.swapped.len() as u64;
            frames.extend(state.pages.iter().map(|page| page.frame));
        }
        frames.sort_unstable();
        frames.dedup();
        figures.frames = frames.len() as u64;
        figures
    }

    /// All events that are left in `trace`.
    pub fn run<L: Lines>(&mut self, trace: &mut Trace<L>, observer: &mut impl Observer<T>) -> Result<(), TraceError> {
        while let Some(event) = trace.next_event()? {
            let mut done = self.apply(&event).map_err(|error| format!("{event}: {error}"));
            observer.applied(&self.target);
            if let (Event::Mark { label }, Ok(())) = (event, &done) {
                done = observer.mark(self, label);
                self.pids.clear();
            }
            done.map_err(|reason| trace.error(reason))?;
            if self.stats.events.is_multiple_of(PROGRESS) {
                observer.progress(&self.stats);
            }
        }
        Ok(())
    }

    /// One event. A mark does nothing here.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<()> {
        let count = |counter: &mut u64| *counter += 1;
        count(&mut self.stats.events);
        match *event {
            Event::Object { id, object, .. } => {
                self.objects.insert(id, Announced { object, made: None });
            }
            Event::New { mm } => {
                count(&mut self.stats.execs);
                let new = self.target.new_mm()?;
                self.enter(mm, new);
            }
            Event::Fork { parent, child } => {
                count(&mut self.stats.forks);
                let new = self.target.fork(&self.mms.get(&parent).ok_or(Error::Stale)?.mm)?;
                self.enter(child, new);
            }
            Event::Destroy { mm } => {
                count(&mut self.stats.exits);
                let space = self.mms.remove(&mm).ok_or(Error::Stale)?;
                self.leave(space);
            }
            Event::Map { mm, span, prot, kind, object, pgoff } => {
                count(&mut self.stats.maps);
                self.map(mm, span, (prot, kind), object.map(|id| (id, pgoff)))?;
            }
            Event::Unmap { mm, span } => {
                count(&mut self.stats.unmaps);
                self.layout(mm, |target, mm| target.unmap(mm, span))?;
            }
            Event::Protect { mm, span, prot } => {
                count(&mut self.stats.protects);
                self.layout(mm, |target, mm| target.protect(mm, span, prot))?;
            }
            Event::Remap { mm, old, new, flags } => {
                count(&mut self.stats.remaps);
                self.layout(mm, |target, mm| target.remap(mm, old, new, flags))?;
            }
            Event::Advise { mm, span, advice } => {
                count(&mut self.stats.advices);
                match self.layout(mm, |target, mm| target.advise(mm, span, advice)) {
                    Err(Error::NotSupported) => count(&mut self.stats.unknown_advices),
                    Err(Error::NotMapped) => {}
                    other => other?,
                }
            }
            Event::Lock { mm, span, call } => {
                count(&mut self.stats.locks);
                self.layout(mm, |target, mm| target.lock(mm, span, call))?;
            }
            Event::Grow { mm, span } => {
                count(&mut self.stats.growths);
                self.layout(mm, |target, mm| target.grow(mm, span))?;
            }
            Event::Fault { mm, vpn, want, touch } => self.fault(mm, vpn, want, touch)?,
            Event::Pid { pid, mm } => self.pids.push((pid, mm)),
            Event::Mark { .. } => count(&mut self.stats.marks),
        }
        Ok(())
    }

    fn enter(&mut self, id: MmId, mm: T::Mm) {
        let vmas = self.target.vmas(&mm);
        self.mms.insert(id, Space { mm, vmas });
        self.stats.mms += 1;
        self.stats.peak_mms = self.stats.peak_mms.max(self.stats.mms);
        self.count_vmas(0, vmas);
    }

    fn leave(&mut self, space: Space<T::Mm>) {
        self.stats.mms -= 1;
        self.count_vmas(space.vmas, 0);
        self.target.destroy(space.mm);
    }

    fn count_vmas(&mut self, before: u64, now: u64) {
        self.stats.vmas = self.stats.vmas + now - before;
        self.stats.peak_vmas = self.stats.peak_vmas.max(self.stats.vmas);
    }

    /// A change of an address space's VMAs.
    fn layout(&mut self, id: MmId, change: impl FnOnce(&mut T, &T::Mm) -> Result<()>) -> Result<()> {
        let space = self.mms.get_mut(&id).ok_or(Error::Stale)?;
        let done = change(&mut self.target, &space.mm);
        let before = space.vmas;
        space.vmas = self.target.vmas(&space.mm);
        let now = space.vmas;
        self.count_vmas(before, now);
        done
    }

    fn map(
        &mut self,
        mm: MmId,
        span: Span,
        (prot, kind): (VmFlags, MapKind),
        object: Option<(ObjectId, u64)>,
    ) -> Result<()> {
        if let Some((id, _)) = object {
            let announced = self.objects.get_mut(&id).ok_or(Error::Stale)?;
            if announced.made.is_none() {
                // No block device behind it, and the first who maps it writes for others to see: shared memory. Files
                // of file systems without a device are mapped private or read-only first.
                let memory =
                    announced.object.major == 0 && kind.contains(MapKind::SHARED) && prot.contains(VmFlags::WRITE);
                announced.made = Some(self.target.new_object(announced.object, memory)?);
            }
        }
        let objects = core::mem::take(&mut self.objects);
        let made = object.and_then(|(id, pgoff)| Some((objects.get(&id)?.made.as_ref()?, pgoff)));
        let done = self.layout(mm, |target, mm| target.map(mm, &Mapping { span, prot, kind, object: made }));
        self.objects = objects;
        done
    }

    fn fault(&mut self, mm: MmId, vpn: u64, want: Want, touch: Touch) -> Result<()> {
        let stats = &mut self.stats;
        *match want {
            Want::Read => &mut stats.reads,
            Want::Write => &mut stats.writes,
            Want::Exec => &mut stats.fetches,
        } += 1;
        match touch {
            Touch::User => {}
            Touch::Kernel => stats.kernel_faults += 1,
            Touch::NoFault => stats.touches += 1,
        }
        let space = self.mms.get(&mm).ok_or(Error::Stale)?;
        match self.target.fault(&space.mm, vpn, want) {
            Err(Error::NotMapped | Error::Access | Error::Bus | Error::NoSpace) => {
                self.stats.failed_faults += 1;
                Ok(())
            }
            other => other,
        }
    }
}

impl<T: Target> Drop for Replay<T> {
    fn drop(&mut self) {
        while let Some((_, space)) = self.mms.pop_first() {
            self.leave(space);
        }
    }
}
