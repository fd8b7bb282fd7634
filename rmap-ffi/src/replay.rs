//! Replays: a trace of real programs' memory management, done again in a machine and held against the kernel's own
//! truth.

use crate::context::{engine_kind, rmap_engine};
use crate::dot::Output;
use crate::handle::{need, put};
use crate::held;
use crate::machine::handle::Machine;
use crate::sized::{self, Growing, Text};
use crate::status::rmap_status::{RMAP_ERR_INTERNAL, RMAP_ERR_INVAL, RMAP_ERR_NOT_SUPPORTED, RMAP_OK};
use crate::status::{Outcome, boundary, rmap_status, rmap_strerror};
use core::ffi::{CStr, c_char, c_void};
use rmap_core::base::alloc::Heap;
use rmap_core::base::clock::Clock as CoreClock;
use rmap_core::base::lock_count::{self, LockCount};
use rmap_core::base::types::VirtAddr;
use rmap_core::engine::any::AnyEngine;
use rmap_core::machine::MachineConfig;
use rmap_core::machine::system::AnySystem;
use rmap_core::page::frames::Contents;
use rmap_core::trace::TraceError as CoreTraceError;
use rmap_core::trace::compare::{Comparison, compare};
use rmap_core::trace::measure::{Report, measure};
use rmap_core::trace::mmt::Trace;
use rmap_core::trace::on_machine::{MachineReplay, OnMachine};
use rmap_core::trace::replay::{Observer, Stats};
use rmap_core::trace::snapshot::Snapshot;
use rmap_core::trace::source::{FileLines, snapshot_beside};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is to be replayed. Fill it with `rmap_replay_config_init`, then set `trace`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_replay_config {
    /// The size of this struct, as the program knows it. Later versions append members; a program that knows fewer gets
    /// the defaults for the rest.
    pub size: usize,
    /// The trace: a file, compressed by gzip or not.
    pub trace: *const c_char,
    /// The directory of the marks' snapshots; NULL: that of the trace.
    pub snapshots: *const c_char,
    /// One of `enum rmap_engine`.
    pub engine: u32,
    /// Must be 0.
    pub flags: u32,
    /// Page frames, without contents; 0: as many as make 4 GiB.
    pub frames: u64,
    /// Called now and then with the events so far and the pages mapped now, each counted once; NULL: nobody is told.
    pub progress: Option<unsafe extern "C" fn(arg: *mut c_void, events: u64, pages: u64)>,
    /// Called at each mark of the trace; NULL: marks are passed over.
    pub mark: Option<unsafe extern "C" fn(arg: *mut c_void, mark: *const rmap_replay_mark)>,
    /// Passed to both. Neither may throw or jump out.
    pub arg: *mut c_void,
}

/// What happened in a replay.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_replay_stats {
    /// The size of this struct, as the program knows it: set it before the call.
    pub size: usize,
    /// Events, marks included.
    pub events: u64,
    /// Address spaces that there ever were.
    pub address_spaces: u64,
    /// Of these, copies.
    pub forks: u64,
    /// The most VMAs there ever were at once.
    pub peak_vmas: u64,
    /// Page faults, pages that exec touches included.
    pub faults: u64,
    /// Of these, refused: a signal, or EFAULT, for the program.
    pub failed_faults: u64,
    /// The most pages that ever were mapped at once, each counted once.
    pub peak_pages: u64,
    /// The most bytes that the reverse map ever had: anchors, links, trees, and the engine's part of VMAs. Looked at
    /// every 1,024 events.
    pub peak_rmap_bytes: u64,
    /// Nanoseconds, those for marks, `progress` and looks at figures not counted. Reading the trace is.
    pub replay_ns: u64,
    /// Whether this library counts locks: built with the feature `count-locks`, and slower for it. If not, the members
    /// that follow are 0.
    pub counts_locks: bool,
    /// Locks taken, each time one was: those for marks, `progress` and looks at figures not counted.
    pub locks: u64,
    /// Of these, locks of the reverse map: i_mmap_rwsem, anchors, and the chains of pte_chain.
    pub rmap_locks: u64,
}

/// The state at a mark: against the kernel's snapshot, and every page walked. Later versions append members.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_replay_mark {
    /// Its name. Good until the function returns.
    pub label: *const c_char,
    /// Whether there is a snapshot of it. If not, the members up to `file_only_there` are 0.
    pub has_snapshot: bool,
    /// Processes in the snapshot.
    pub processes: u64,
    /// Of these, with equal VMAs, after neighbours of equal attributes are merged.
    pub vmas_equal: u64,
    /// VMAs in the snapshot, so merged.
    pub runs: u64,
    /// Anonymous pages present in the snapshot, each as often as it is mapped.
    pub anon_entries: u64,
    /// Of these, present here.
    pub anon_present: u64,
    /// Anonymous pages present here and not in the snapshot.
    pub anon_extra: u64,
    /// Frames in the snapshot under the anonymous pages that both have: each stands for the set of its sharers.
    pub sets: u64,
    /// Of these, with the same sharers here.
    pub sets_exact: u64,
    /// Pages of files that both have.
    pub file_both: u64,
    /// Pages of files that are only here.
    pub file_only_here: u64,
    /// Pages of files that are only in the snapshot.
    pub file_only_there: u64,
    /// Pages walked: all that are mapped, each once.
    pub pages_walked: u64,
    /// Mappings that the walks found.
    pub mappings: u64,
    /// Candidates that the walks looked at.
    pub candidates: u64,
    /// Mappings that a walk missed, invented or visited twice, by a scan of all page tables.
    pub mismatches: u64,
    /// Nanoseconds of the median walk.
    pub walk_median_ns: u64,
    /// Nanoseconds that 99 of 100 walks stay below.
    pub walk_p99_ns: u64,
    /// Bytes of the reverse map: anchors, links, trees, and the engine's part of VMAs.
    pub rmap_bytes: u64,
    /// VMAs.
    pub vmas: u64,
    /// What pages point to (anon_vmas).
    pub anchors: u64,
    /// Ties between these and VMAs (anon_vma_chains).
    pub links: u64,
    /// The first difference from the scan, else from the snapshot, in words; "" when there is none. A page more than
    /// the snapshot has is one too. Good until the function returns.
    pub difference: *const c_char,
    /// Of the pages walked, anonymous ones.
    pub anon_pages: u64,
    /// Of the pages walked, those of files and shared memory.
    pub file_pages: u64,
    /// Nanoseconds of the median walk of an anonymous page.
    pub anon_median_ns: u64,
    /// Nanoseconds of the median walk of a file's page.
    pub file_median_ns: u64,
    /// Address spaces.
    pub mms: u64,
    /// All of it, for rmap_replay_dump_dot. Good until the function returns.
    pub state: *const rmap_replay_state,
}

/// A replay that stands still at a mark.
pub struct rmap_replay_state {
    _opaque: [u8; 0],
}

/// What its handle points to: draws the page of a process at an address.
struct State<'a>(&'a dyn Fn(u32, VirtAddr, &mut Text) -> Outcome);

// SAFETY: `repr(C)` with its size first; integers and nullable pointers follow.
unsafe impl Growing for rmap_replay_config {
    const FIRST: usize = size_of::<Self>();
}

// SAFETY: `repr(C)` with its size first. It is only written.
unsafe impl Growing for rmap_replay_stats {
    const FIRST: usize = size_of::<Self>();
}

impl rmap_replay_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        trace: core::ptr::null(),
        snapshots: core::ptr::null(),
        engine: rmap_engine::RMAP_ENGINE_ANON_VMA as u32,
        flags: 0,
        frames: 0,
        progress: None,
        mark: None,
        arg: core::ptr::null_mut(),
    };
}

/// Frames, if the program does not say.
const FRAMES: u64 = 1 << 20;

/// Why a replay ended early.
struct Failure {
    status: rmap_status,
    /// What `rmap_strerror` does not say.
    reason: Option<CoreTraceError>,
}

impl From<rmap_status> for Failure {
    fn from(status: rmap_status) -> Self {
        Self { status, reason: None }
    }
}

impl From<CoreTraceError> for Failure {
    fn from(error: CoreTraceError) -> Self {
        Self { status: RMAP_ERR_INVAL, reason: Some(error) }
    }
}

impl Failure {
    /// # Safety
    /// `error` is NULL or valid for `size` bytes.
    unsafe fn write(&self, error: *mut c_char, size: usize) {
        // SAFETY: a static string.
        let general = unsafe { CStr::from_ptr(rmap_strerror(self.status as i32)) };
        // SAFETY: the caller's contract.
        unsafe {
            match &self.reason {
                // A file that cannot be opened has no line.
                Some(CoreTraceError { file, line: 0, reason }) => {
                    sized::write_text(error, size, format_args!("{file}: {reason}"));
                }
                Some(reason) => sized::write_text(error, size, format_args!("{reason}")),
                None => sized::write_text(error, size, format_args!("{}", general.to_str().unwrap_or_default())),
            }
        }
    }
}

/// A file of the program's.
///
/// # Safety
/// `path` is a string that lives as long as the answer.
unsafe fn path_of<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: the caller's contract.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

/// A text for C. Lines of a trace may have any character.
fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "?")).unwrap_or_default()
}

/// Who tells the program.
struct Watcher<'a> {
    config: &'a rmap_replay_config,
    machine: &'a Machine,
    trace: &'a Path,
    clock: CoreClock,
    events: u64,
    peak_pages: u64,
    peak_rmap_bytes: u64,
    /// Spent on marks, on looks at figures, and in the program's functions; and the locks taken there.
    aside_ns: u64,
    aside_locks: LockCount,
}

/// Events between two looks at the reverse map's memory.
const LOOK: u64 = 1 << 10;

impl Watcher<'_> {
    fn mapped(&self) -> u64 {
        self.machine.rmap().anon_mapped() + self.machine.rmap().file_mapped()
    }

    /// Does what is no part of the replay.
    fn aside<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let (start, locks) = (self.clock.ns(), lock_count::taken());
        let done = work(self);
        self.aside_ns += self.clock.ns() - start;
        self.aside_locks = self.aside_locks.plus(&lock_count::taken().since(&locks));
        done
    }

    /// Looks at how much memory the reverse map has. Without memory for the look there is none.
    fn look(&mut self) {
        self.aside(|this| {
            if let Ok(footprint) = this.machine.footprint() {
                this.peak_rmap_bytes = this.peak_rmap_bytes.max(footprint.bytes);
            }
        });
    }

    /// The snapshot of a mark. Only in a directory that the program named it has to be there.
    fn snapshot(&self, label: &str) -> Result<Option<Snapshot>, CoreTraceError> {
        let found = if self.config.snapshots.is_null() {
            snapshot_beside(self.trace, label).ok()
        } else {
            // SAFETY: a string that lives as long as the call (rmap_replay_config).
            let directory = unsafe { path_of(self.config.snapshots) };
            Some(snapshot_beside(directory.join("trace"), label)?)
        };
        found.map(|path| Snapshot::read(FileLines::open(path)?)).transpose()
    }
}

impl<'m> Observer<OnMachine<'m, AnySystem>> for Watcher<'_> {
    fn applied(&mut self, _: &OnMachine<'m, AnySystem>) {
        self.peak_pages = self.peak_pages.max(self.mapped());
        self.events += 1;
        if self.events.is_multiple_of(LOOK) {
            self.look();
        }
    }

    fn progress(&mut self, stats: &Stats) {
        let Some(progress) = self.config.progress else { return };
        self.aside(|this| {
            // SAFETY: the program's function, called as its contract says.
            unsafe { progress(this.config.arg, stats.events, this.mapped()) }
        });
    }

    fn mark(&mut self, replay: &MachineReplay<'m, AnySystem>, label: &str) -> Result<(), String> {
        self.look();
        let Some(mark) = self.config.mark else { return Ok(()) };
        self.aside(|this| {
            let there = this.snapshot(label).map_err(|error| error.to_string())?;
            let found = there.map(|snapshot| compare(&snapshot.state(), &replay.states()));
            let walks = measure(this.machine, || this.clock.ns()).map_err(|error| format!("mark {label}: {error}"))?;
            let (label, difference) = (c_text(label), c_text(first_difference(&walks, found.as_ref())));
            let draw = |pid, addr, out: &mut Text| {
                let trace = this.trace.file_name().unwrap_or_default().display();
                Ok(replay.dump_dot(pid, addr, format_args!("{trace}, {}", label.to_string_lossy()), out)?)
            };
            let state = State(&draw);
            let state = (&raw const state).cast();
            let told = rmap_replay_mark { state, ..told(&label, &difference, found.as_ref(), &walks) };
            // SAFETY: as above; `told` is valid for the call.
            unsafe { mark(this.config.arg, &raw const told) };
            Ok(())
        })
    }
}

fn first_difference<'a>(walks: &'a Report, found: Option<&'a Comparison>) -> &'a str {
    let compared = found.and_then(|found| found.differences.first());
    walks.differences.first().or(compared).map_or("", |text| text)
}

fn told(label: &CStr, difference: &CStr, found: Option<&Comparison>, walks: &Report) -> rmap_replay_mark {
    let nothing = Comparison::default();
    let there = found.unwrap_or(&nothing);
    let Report { anon, file, all, footprint, .. } = walks;
    rmap_replay_mark {
        label: label.as_ptr(),
        has_snapshot: found.is_some(),
        processes: there.processes,
        vmas_equal: there.vmas_equal,
        runs: there.runs,
        anon_entries: there.anon,
        anon_present: there.anon_present,
        anon_extra: there.anon_extra,
        sets: there.frames,
        sets_exact: there.frames_exact,
        file_both: there.file_both,
        file_only_here: there.file_only_here,
        file_only_there: there.file_only_there,
        pages_walked: all.pages,
        mappings: all.mappings,
        candidates: all.candidates,
        mismatches: walks.mismatches,
        walk_median_ns: all.median_ns,
        walk_p99_ns: all.p99_ns,
        rmap_bytes: footprint.bytes,
        vmas: walks.vmas,
        anchors: footprint.anchors,
        links: footprint.links,
        difference: difference.as_ptr(),
        anon_pages: anon.pages,
        file_pages: file.pages,
        anon_median_ns: anon.median_ns,
        file_median_ns: file.median_ns,
        mms: walks.mms,
        state: core::ptr::null(),
    }
}

/// Fills the configuration of a replay with the defaults: snapshots beside the trace, the engine anon_vma, frames for 4
/// GiB, nobody told. Members that later versions append are not touched: who knows them sets them, and `size`.
///
/// Parameters: config, to be filled.
/// Returns: RMAP_OK.
/// Ownership: the struct is the program's.
/// Context: any. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_replay_config_init(config: *mut rmap_replay_config) -> rmap_status {
    boundary(|| {
        need(config)?;
        if !config.is_aligned() {
            return Err(RMAP_ERR_INVAL);
        }
        // SAFETY: not NULL, and valid (Parameters).
        unsafe { put(config, rmap_replay_config::DEFAULT) };
        Ok(())
    })
}

/// Replays a trace in a machine of its own, from its first event to its last. At each mark the state is compared with
/// the kernel's snapshot label.gz, or label.snap.gz, if there is one, and every mapped page is walked and held against
/// all page tables.
///
/// Parameters: config, what; stats, its size set, or NULL, receives what happened; error, room for error_size bytes, or NULL,
/// receives why it failed, "file:line: reason" for a line of the trace or of a snapshot, cut to fit; error_size.
/// Returns: RMAP_OK, also when a mark does not hold; RMAP_ERR_INVAL for a trace or snapshot that cannot be read, a line
/// in it that is wrong or cannot be done, a snapshot that is missing in the directory named, or a size that is too
/// small; RMAP_ERR_NOT_SUPPORTED for an unknown engine or flag; RMAP_ERR_NOMEM; RMAP_ERR_NULL without a trace;
/// RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's. In each of these cases the error is
/// written.
/// Ownership: nothing.
/// Context: any thread, no locks held. Reads files. Takes librmap's own memory, and ends the process when there is none
/// for what it remembers of the trace: the one exception to the rule.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_replay(
    config: *const rmap_replay_config,
    stats: *mut rmap_replay_stats,
    error: *mut c_char,
    error_size: usize,
) -> rmap_status {
    let mut failure = None;
    let status = boundary(|| {
        // SAFETY: as documented (Parameters).
        unsafe { replay_into(config, stats) }.map_err(|why| {
            let status = why.status;
            failure = Some(why);
            status
        })
    });
    if status != RMAP_OK {
        let why = failure.unwrap_or(Failure::from(RMAP_ERR_INTERNAL));
        // SAFETY: NULL or valid for `error_size` bytes (Parameters).
        unsafe { why.write(error, error_size) };
    }
    status
}

/// Draws the reverse map of the page that a process has at an address: as rmap_dump_dot does, with a caption that names
/// trace, mark, address and process.
///
/// Parameters: state, of the mark; pid, a process or thread of the mark; addr, anywhere in the page; out, size and
/// length as for rmap_dump_dot.
/// Returns: RMAP_OK, also when it was cut off; RMAP_ERR_INVAL when the mark has no such process; RMAP_ERR_NOT_MAPPED
/// when it has no page of its own or of a file in memory there; RMAP_ERR_NOMEM; RMAP_ERR_LOCK when this thread holds a
/// lock of librmap's.
/// Ownership: the buffer is the program's.
/// Context: inside the mark function that was handed the state, on its thread, no locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_replay_dump_dot(
    state: *const rmap_replay_state,
    pid: u32,
    addr: u64,
    out: *mut c_char,
    size: usize,
    length: *mut usize,
) -> rmap_status {
    boundary(|| {
        need(state)?;
        // SAFETY: a buffer of `size` bytes, and an output (Parameters).
        let mut output = unsafe { Output::new(out, size, length) }?;
        let state = state.cast::<State<'_>>();
        if !state.is_aligned() {
            return Err(RMAP_ERR_INVAL);
        }
        held::none()?;
        // SAFETY: not NULL, and alive while the mark function runs (Context).
        let State(draw) = unsafe { &*state };
        draw(pid, VirtAddr(addr), &mut output.text)?;
        output.finish();
        Ok(())
    })
}

/// # Safety
/// Both are NULL or valid for as many bytes as their size says; strings and functions of `config` as for [`replay`].
unsafe fn replay_into(config: *const rmap_replay_config, stats: *mut rmap_replay_stats) -> Result<(), Failure> {
    // SAFETY: the caller's contract.
    let config = unsafe { sized::read(config, rmap_replay_config::DEFAULT) }?;
    if stats.is_null() {
        // SAFETY: the caller's contract.
        return unsafe { replay(&config) }.map(drop);
    }
    // SAFETY: not NULL, so valid for as many bytes as its size says.
    let size = unsafe { sized::size_of_output(stats) }?;
    // SAFETY: the caller's contract.
    let done = unsafe { replay(&config) }?;
    // SAFETY: aligned, and valid for its size.
    unsafe { sized::write(stats, size, done) };
    Ok(())
}

/// # Safety
/// Strings of `config` are NULL or strings, its functions keep their contract.
unsafe fn replay(config: &rmap_replay_config) -> Result<rmap_replay_stats, Failure> {
    check(config)?;
    // SAFETY: the caller's contract.
    let trace = unsafe { path_of(config.trace) };
    let mut events = Trace::new(FileLines::open(trace)?);
    let machine = machine(config)?;
    let (clock, before) = (CoreClock::start(), lock_count::taken());
    let mut watcher = Watcher {
        config,
        machine: &machine,
        trace,
        clock,
        events: 0,
        peak_pages: 0,
        peak_rmap_bytes: 0,
        aside_ns: 0,
        aside_locks: LockCount::default(),
    };
    let mut replay = MachineReplay::new(OnMachine::new(&machine));
    replay.run(&mut events, &mut watcher)?;
    let replay_ns = clock.ns() - watcher.aside_ns;
    let locks = lock_count::taken().since(&before).since(&watcher.aside_locks);
    let done = replay.stats();
    Ok(rmap_replay_stats {
        size: size_of::<rmap_replay_stats>(),
        events: done.events,
        address_spaces: done.processes(),
        forks: done.forks,
        peak_vmas: done.peak_vmas,
        faults: done.faults(),
        failed_faults: done.failed_faults,
        peak_pages: watcher.peak_pages,
        peak_rmap_bytes: watcher.peak_rmap_bytes,
        replay_ns,
        counts_locks: lock_count::COUNTS,
        locks: locks.all(),
        rmap_locks: locks.reverse_map(),
    })
}

fn check(config: &rmap_replay_config) -> Outcome {
    need(config.trace)?;
    held::none()?;
    engine_kind(config.engine)?;
    if config.flags != 0 { Err(RMAP_ERR_NOT_SUPPORTED) } else { Ok(()) }
}

fn machine(config: &rmap_replay_config) -> Outcome<Machine> {
    let heap = Heap::global()?;
    let frames = if config.frames == 0 { FRAMES } else { config.frames };
    let engine = engine_kind(config.engine)?;
    let machine = MachineConfig { contents: Contents::MetadataOnly, ..MachineConfig::new(&heap, frames) };
    Ok(Machine::with_engine(machine, |arena| AnyEngine::of_kind(engine, arena))?)
}
