//! Replays in a model without an engine: small traces by hand, and the bundled ones against the kernel's snapshots.

use super::model::Model;
use super::{snapshot, trace};
use crate::trace::compare::{Comparison, compare};
use crate::trace::mmt::{HEADER, MmId, Trace};
use crate::trace::replay::{Observer, PROGRESS, Replay, Stats};
use crate::trace::{TextLines, TraceError};

type Marks = Vec<(String, Comparison)>;

/// The comparisons of a bundled trace's marks.
fn replayed(name: &str) -> (Marks, Stats) {
    let mut marks = Marks::new();
    let mut replay = Replay::new(Model::default());
    let mut at_mark = |replay: &Replay<Model>, label: &str| {
        marks.push((label.to_string(), compare(&snapshot(label).state(), &replay.states())));
        Ok(())
    };
    replay.run(&mut trace(name), &mut at_mark).unwrap();
    let stats = *replay.stats();
    (marks, stats)
}

/// A replay of some lines after an object and an address space 1.
fn after(lines: &[&str]) -> Result<Replay<Model>, TraceError> {
    let text = format!("{HEADER}\nO 1 fe:00:7 file\nN 1\n{}\n", lines.join("\n"));
    let mut replay = Replay::new(Model::default());
    let mut nothing = |_: &Replay<Model>, _: &str| Ok(());
    replay.run(&mut Trace::new(TextLines::new("text", &text)), &mut nothing)?;
    Ok(replay)
}

fn pages(replay: &Replay<Model>, mm: u32) -> Vec<(u64, u64)> {
    let (_, mm) = replay.mms().find(|(id, _)| *id == MmId(mm)).unwrap();
    replay.target().pages(*mm).iter().map(|(vpn, frame)| (*vpn, *frame)).collect()
}

fn vpns(replay: &Replay<Model>, mm: u32) -> Vec<u64> {
    pages(replay, mm).into_iter().map(|(vpn, _)| vpn).collect()
}

fn shape(replay: &Replay<Model>, mm: u32) -> Vec<(u64, u64, u64)> {
    let (_, mm) = replay.mms().find(|(id, _)| *id == MmId(mm)).unwrap();
    replay.target().shape(*mm)
}

#[test]
fn bundled_traces_replay_to_the_kernels_state() {
    for (name, expected, extra) in [
        ("bash", &[(10, 1_021)][..], 1),
        ("redis", &[(1, 6_362), (2, 13_132)], 0),
        ("py", &[(7, 103_292)], 0),
        ("make", &[(13, 3_901), (20, 12_450)], 0),
        ("web", &[(13, 29_015), (10, 28_946)], 0),
    ] {
        let (marks, stats) = replayed(name);
        let found: Vec<_> = marks.iter().map(|(_, found)| (found.processes, found.anon)).collect();
        assert_eq!(found, expected, "{name}");
        for (label, found) in &marks {
            assert!(found.is_exact(), "{label}: {found:#?}");
            assert_eq!((found.anon_extra, found.frames), (extra, found.frames_exact), "{label}");
        }
        assert_eq!((stats.failed_faults, stats.marks), (0, marks.len() as u64));
    }
}

#[test]
fn a_replay_counts_what_happens() {
    let (_, stats) = replayed("bash");
    assert_eq!((stats.execs, stats.forks, stats.exits, stats.processes()), (129, 495, 624, 624));
    assert_eq!((stats.maps, stats.unmaps, stats.protects), (4_987, 175, 508));
    assert_eq!((stats.reads, stats.writes, stats.fetches, stats.faults()), (6_235, 27_952, 13_368, 47_555));
    assert_eq!((stats.mms, stats.vmas), (0, 0));
    assert!(stats.peak_mms >= 10 && stats.peak_vmas >= 400, "{stats:?}");
    assert_eq!(replayed("py").1.remaps, 3);
}

#[test]
fn a_wrong_trace_is_found() {
    use crate::trace::Lines;
    use crate::trace::source::FileLines;
    let mut lines = FileLines::open(super::bundled("bash.mmt.gz")).unwrap();
    let (mut all, mut line) = (Vec::new(), String::new());
    while lines.next_line(&mut line).unwrap() {
        all.push(line.clone());
        if line.starts_with('=') {
            break;
        }
    }
    let last = all.iter().rfind(|line| line.starts_with('I')).unwrap().split(' ').next_back().unwrap().to_string();
    // Without one kind of event of the last process.
    for without in ["w", "M", "P", "I"] {
        let kept = all.iter().filter(|line| !(line.starts_with(without) && line.split(' ').any(|field| field == last)));
        let text = kept.map(String::as_str).collect::<Vec<_>>().join("\n");
        let mut exact = true;
        let mut at_mark = |replay: &Replay<Model>, label: &str| {
            exact = compare(&snapshot(label).state(), &replay.states()).is_exact();
            Ok(())
        };
        let run = Replay::new(Model::default()).run(&mut Trace::new(TextLines::new("text", &text)), &mut at_mark);
        assert!(run.is_err() || !exact, "unnoticed: no {without} of mm {last}");
    }
}

#[test]
fn fork_shares_until_a_write_and_the_last_writer_keeps_the_frame() {
    // parent 1 [ab..]   child 2 [aB..]   B: the child wrote
    let replay = after(&["M 1 10 4 3 p - 0", "w 1 10", "w 1 11", "F 1 2", "w 2 11", "r 2 12"]).unwrap();
    let (parent, child) = (pages(&replay, 1), pages(&replay, 2));
    assert_eq!((parent[0] == child[0], parent[1] == child[1], child.len()), (true, false, 2));
    let before = after(&["M 1 10 1 3 p - 0", "w 1 10", "F 1 2", "D 2"]).unwrap();
    let behind = after(&["M 1 10 1 3 p - 0", "w 1 10", "F 1 2", "D 2", "w 1 10"]).unwrap();
    assert_eq!(pages(&before, 1), pages(&behind, 1));
}

#[test]
fn a_mapping_replaces_what_it_overlaps() {
    // [..............)  10-20
    //      [....)       14-18 new, its page gone
    let replay = after(&["M 1 10 10 3 p - 0", "w 1 13", "w 1 14", "M 1 14 4 1 p 1 7"]).unwrap();
    assert_eq!(shape(&replay, 1), [(0x10, 0x14, 3), (0x14, 0x18, 1), (0x18, 0x20, 3)]);
    assert_eq!(vpns(&replay, 1), [0x13]);
    let whole = after(&["M 1 10 4 3 p - 0", "M 1 14 4 3 s 1 0", "U 1 14 0"]).unwrap();
    assert_eq!(shape(&whole, 1), [(0x10, 0x14, 3)]);
}

#[test]
fn mremap_moves_pages_with_their_vma() {
    let moved = after(&["M 1 10 4 3 p - 0", "w 1 10", "w 1 13", "R 1 10 4 40 6 1"]).unwrap();
    assert_eq!((shape(&moved, 1), vpns(&moved, 1)), (vec![(0x40, 0x46, 3)], vec![0x40, 0x43]));
    let left = after(&["M 1 10 4 3 p - 0", "w 1 10", "R 1 10 4 40 4 5"]).unwrap();
    assert_eq!((shape(&left, 1), vpns(&left, 1)), (vec![(0x10, 0x14, 3), (0x40, 0x44, 3)], vec![0x40]));
    let shrunk = after(&["M 1 10 4 3 p - 0", "w 1 10", "w 1 13", "R 1 10 4 10 2 0"]).unwrap();
    assert_eq!((shape(&shrunk, 1), vpns(&shrunk, 1)), (vec![(0x10, 0x12, 3)], vec![0x10]));
}

#[test]
fn advice_that_fork_heeds_is_heeded_and_unknown_advice_counted() {
    // [abcd)  b: not for children, c: empty for them
    let advice = ["M 1 10 4 3 p - 0", "w 1 10", "w 1 11", "w 1 12", "w 1 13", "A 1 11 1 10", "A 1 12 1 18", "F 1 2"];
    let replay = after(&advice).unwrap();
    assert_eq!(shape(&replay, 2), [(0x10, 0x11, 3), (0x12, 0x13, 3), (0x13, 0x14, 3)]);
    assert_eq!(vpns(&replay, 2), [0x10, 0x13]);
    let replay = after(&["M 1 10 4 3 p - 0", "w 1 10", "A 1 10 4 999", "A 1 10 4 4"]).unwrap();
    assert_eq!((replay.stats().advices, replay.stats().unknown_advices, vpns(&replay, 1).len()), (2, 1, 0));
}

#[test]
fn population_locks_and_stacks() {
    let lines = ["M 1 10 2 3 pP - 0", "M 1 20 2 1 pP - 0", "M 1 30 4 3 p - 0", "L 1 31 1 mlock", "L 1 33 1 mlock2"];
    assert_eq!(vpns(&after(&lines).unwrap(), 1), [0x10, 0x11, 0x31]);
    let grown = after(&["M 1 100 10 3 pG - 0", "w 1 fe", "G 1 f0 20"]).unwrap();
    assert_eq!(shape(&grown, 1), [(0xf0, 0x110, 3)]);
}

#[test]
fn faults_that_fail_are_counted_and_calls_that_fail_end_the_replay() {
    let replay = after(&["M 1 10 4 3 p - 0", "P 1 11 1 1", "w 1 11", "w 1 99", "w 1 12 g", "r 1 11 k"]).unwrap();
    let stats = replay.stats();
    assert_eq!((stats.failed_faults, stats.touches, stats.kernel_faults, stats.faults()), (2, 1, 1, 4));
    assert_eq!(vpns(&replay, 1), [0x12]);
    let error = after(&["M 1 10 4 3 p - 0", "R 1 90 1 91 1 1"]).err().unwrap();
    assert_eq!(error.to_string(), "text:5: R 1 90 1 91 1 1: address or range is not mapped");
}

#[test]
fn an_observer_sees_progress_and_marks_and_may_end_the_replay() {
    #[derive(Default)]
    struct Watch(Vec<u64>, Vec<(String, Vec<u32>)>);
    impl Observer<Model> for Watch {
        fn progress(&mut self, stats: &Stats) {
            self.0.push(stats.events);
        }
        fn mark(&mut self, replay: &Replay<Model>, label: &str) -> Result<(), String> {
            self.1.push((label.to_string(), replay.pids().map(|(pid, ..)| pid).collect()));
            if label == "stop" { Err("enough".to_string()) } else { Ok(()) }
        }
    }
    let mut text = format!("{HEADER}\nN 1\nM 1 10 4 3 p - 0\nI 7 1\nI 8 1\n= first\n");
    (0..PROGRESS).for_each(|_| text.push_str("w 1 11\n"));
    text.push_str("I 9 1\n= stop\nD 1\n");
    let (mut watch, mut replay) = (Watch::default(), Replay::new(Model::default()));
    let error = replay.run(&mut Trace::new(TextLines::new("text", &text)), &mut watch).unwrap_err();
    assert_eq!((error.line, &error.reason[..]), (6 + PROGRESS + 2, "enough"));
    assert_eq!(watch.0, [PROGRESS]);
    assert_eq!(watch.1, [("first".to_string(), vec![7, 8]), ("stop".to_string(), vec![9])]);
    let figures = replay.figures();
    assert_eq!((figures.mms, figures.vmas, figures.anon_pages, figures.frames), (1, 1, 1, 1));
    assert_eq!(replay.target().frames_in_use(), 1);
}
