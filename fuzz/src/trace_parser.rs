//! Any bytes as a trace, a compressed trace and a snapshot: either they are refused, with the line named, or what they
//! say can be said again, done and undone.

use core::fmt::Debug;
use rmap_core::base::alloc::Heap;
use rmap_core::engine::any::{AnyEngine, EngineKind};
use rmap_core::machine::system::AnySystem;
use rmap_core::machine::{Machine, MachineConfig};
use rmap_core::trace::compare::compare;
use rmap_core::trace::mmt::{Event, HEADER, Trace};
use rmap_core::trace::on_machine::{MachineReplay, OnMachine};
use rmap_core::trace::snapshot::Snapshot;
use rmap_core::trace::source::FileLines;
use rmap_core::trace::{Lines, TextLines, TraceError};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};

/// Pages of a call that is replayed. A trace may say more, and a machine would work through them.
const MOST_PAGES: u64 = 256;
/// Address spaces at a time, and events.
const MOST_MMS: u64 = 16;
const MOST_EVENTS: u64 = 2000;

/// What the bytes are taken for: the first says it. Letters, so that a text is a seed.
pub fn run(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    match kind {
        b'Z' => from_file(data),
        b'S' => with_text(data, |text, lines| drop(snapshot(TextLines::new("text", text), lines))),
        b'E' => with_text(data, replay),
        // Without the header, which no mutation finds.
        _ => with_text(data, |text, _| {
            let text = format!("{HEADER}\n{text}");
            events(TextLines::new("text", &text), text.lines().count() as u64);
            replay(&text, text.lines().count() as u64);
        }),
    }
}

fn with_text(data: &[u8], check: impl FnOnce(&str, u64)) {
    if let Ok(text) = core::str::from_utf8(data) {
        check(text, text.lines().count() as u64);
    }
}

/// An error names a line that there is, or the one after the last, and says what is wrong with it.
fn refused(error: &TraceError, name: &str, lines: u64) {
    assert_eq!(error.file, name);
    assert!((1..=lines + 1).contains(&error.line), "{error}: of {lines} lines");
    assert!(!error.reason.is_empty() && !error.reason.ends_with('.'), "{error}");
}

/// Reads all events. The line of an event is the event.
fn events(lines: impl Lines, count: u64) -> Vec<String> {
    let mut trace = Trace::new(lines);
    let name = trace.name().to_string();
    let mut all = Vec::new();
    loop {
        match trace.next_event() {
            Ok(Some(event)) => all.push(event.to_string()),
            Ok(None) => break,
            Err(error) => {
                refused(&error, &name, count);
                break;
            }
        }
    }
    let again = format!("{HEADER}\n{}", all.join("\n"));
    let mut trace = Trace::new(TextLines::new("again", &again));
    for line in &all {
        assert_eq!(trace.next_event().expect("was read before").map(|event| event.to_string()).as_ref(), Some(line));
    }
    assert!(matches!(trace.next_event(), Ok(None)));
    all
}

/// Does the events again on a machine, as far as they go.
fn replay(text: &str, lines: u64) {
    let heap = Heap::global().expect("memory");
    let mut config = MachineConfig::new(&heap, 512);
    config.contents = rmap_core::page::frames::Contents::MetadataOnly;
    let kind = EngineKind::ALL[text.len() % EngineKind::ALL.len()];
    let machine = Machine::<AnySystem>::with_engine(config, |arena| AnyEngine::of_kind(kind, arena)).expect("memory");
    let mut replay = MachineReplay::new(OnMachine::new(&machine));
    let mut trace = Trace::new(TextLines::new("text", text));
    loop {
        let done = match trace.next_event() {
            Ok(Some(event)) if is_small(&event) && replay.stats().events < MOST_EVENTS => replay.apply(&event),
            Ok(Some(Event::New { .. } | Event::Fork { .. }) | None) => break,
            Ok(Some(_)) => continue,
            Err(error) => {
                refused(&error, "text", lines);
                break;
            }
        };
        // A call that fails here may have succeeded where the trace is from.
        if done.is_err() || replay.stats().mms > MOST_MMS {
            break;
        }
    }
    let (figures, stats) = (replay.figures(), *replay.stats());
    assert!(figures.mms == stats.mms && figures.vmas == stats.vmas, "{figures:?}, {stats:?}");
    let states = replay.states();
    assert!(compare(&states, &states).is_exact());
    if let Err(broken) = machine.check() {
        panic!("{broken}");
    }
    drop(replay);
    assert_eq!(machine.check().map(|report| report.mms), Ok(0));
    drop(machine);
    assert_eq!(heap.in_use(), 0);
}

/// Whether an event is done in little time.
fn is_small(event: &Event<'_>) -> bool {
    match *event {
        Event::Map { span, pgoff, .. } => span.pages <= MOST_PAGES && pgoff < 1 << 40,
        Event::Unmap { .. } | Event::Protect { .. } => true,
        Event::Remap { old, new, .. } => old.pages <= MOST_PAGES && new.pages <= MOST_PAGES,
        Event::Advise { span, .. } | Event::Lock { span, .. } => span.pages <= MOST_PAGES,
        _ => true,
    }
}

/// A snapshot that is read agrees with itself.
fn snapshot(lines: impl Lines, count: u64) -> Option<Snapshot> {
    let name = lines.name().to_string();
    match Snapshot::read(lines) {
        Ok(snapshot) => {
            let state = snapshot.state();
            assert!(compare(&state, &state).is_exact());
            for process in &snapshot.processes {
                assert!(process.pages.iter().all(|page| process.vma_of(page.vpn).is_some()));
            }
            Some(snapshot)
        }
        Err(error) => {
            refused(&error, &name, count);
            None
        }
    }
}

/// The bytes as a file, which may be compressed: read as both kinds.
fn from_file(data: &[u8]) {
    let file = memory_file(data);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let open = || FileLines::open(&path).expect("a file");
    // What is decompressed has as many lines as it has; that it is endless, the readers' own limits have to notice.
    let count = u64::MAX - 1;
    events(open(), count);
    same(|| snapshot(open(), count));
}

/// Reading twice gives the same.
fn same<T: PartialEq + Debug>(read: impl Fn() -> T) {
    assert_eq!(read(), read());
}

/// A file that only this process knows.
fn memory_file(data: &[u8]) -> File {
    // SAFETY: the name is a C string; no flags.
    let fd = unsafe { libc::memfd_create(c"trace".as_ptr(), 0) };
    assert!(fd >= 0, "no memory for a file");
    // SAFETY: just opened, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(data).expect("memory for a file");
    file
}
