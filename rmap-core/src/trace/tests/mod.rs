//! The trace formats: bundled traces line by line, bad lines one by one, comparisons made by hand.

mod bundled;
mod compare;
mod lines;
mod machine;
mod measure;
mod model;
mod replay;

use super::mmt::Trace;
use super::snapshot::Snapshot;
use super::source::FileLines;
use super::{TextLines, TraceError};
use std::path::PathBuf;

/// The bundled traces, with the labels of their marks.
const BUNDLED: [(&str, &[&str]); 5] = [
    ("bash", &["bash.snap"]),
    ("redis", &["redis0.snap", "redis.snap"]),
    ("py", &["py.snap"]),
    ("make", &["make-compile.snap", "make-link.snap"]),
    ("web", &["web-program.snap", "web-late.snap"]),
];

/// A bundled file.
fn bundled(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../bench-c/traces").join(name)
}

fn trace(name: &str) -> Trace<FileLines> {
    Trace::new(FileLines::open(bundled(&format!("{name}.mmt.gz"))).unwrap())
}

fn snapshot(label: &str) -> Snapshot {
    let path = super::source::snapshot_beside(bundled("any.mmt.gz"), label).unwrap();
    Snapshot::read(FileLines::open(path).unwrap()).unwrap()
}

/// All events of a text, as their lines.
fn events(text: &str) -> Result<Vec<String>, TraceError> {
    let mut trace = Trace::new(TextLines::new("text", text));
    let mut all = Vec::new();
    while let Some(event) = trace.next_event()? {
        all.push(event.to_string());
    }
    Ok(all)
}
