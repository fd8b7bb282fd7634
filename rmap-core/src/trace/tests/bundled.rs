//! The bundled traces and snapshots are read whole.

use super::{BUNDLED, bundled, snapshot, trace};
use crate::trace::Lines;
use crate::trace::compare::compare;
use crate::trace::mmt::Event;
use crate::trace::source::{FileLines, snapshot_beside};

#[test]
fn every_line_of_the_bundled_traces_is_an_event_and_back() {
    for (name, labels) in BUNDLED {
        let mut events = trace(name);
        let mut text = FileLines::open(bundled(&format!("{name}.mmt.gz"))).unwrap();
        let (mut line, mut number, mut marks) = (String::new(), 0, Vec::new());
        while let Some(event) = events.next_event().unwrap() {
            let shown = event.to_string();
            if let Event::Mark { label } = event {
                marks.push(label.to_string());
            }
            while number < events.line() {
                assert!(text.next_line(&mut line).unwrap());
                number += 1;
            }
            assert_eq!(line, shown, "{name}:{number}");
        }
        assert_eq!(marks, labels);
    }
}

#[test]
fn bundled_snapshots_are_whole_and_equal_to_themselves() {
    // Label, processes, anonymous pages: counted by another program over the same files.
    for (label, processes, anon) in [
        ("bash.snap", 10, 1_021),
        ("redis0.snap", 1, 6_362),
        ("redis.snap", 2, 13_132),
        ("py.snap", 7, 103_292),
        ("make-compile.snap", 13, 3_901),
        ("make-link.snap", 20, 12_450),
        ("web-program.snap", 13, 29_015),
        ("web-late.snap", 10, 28_946),
    ] {
        let state = snapshot(label).state();
        let found = compare(&state, &state);
        assert_eq!(
            (found.processes, found.vmas_equal, found.anon, found.anon_present),
            (processes, processes, anon, anon)
        );
        assert!(found.is_exact() && found.frames > 0 && found.anon_extra == 0, "{label}: {found:?}");
        assert_eq!((found.file_only_here, found.file_only_there), (0, 0));
        assert!(found.file_both > 0 && found.differences.is_empty());
    }
}

#[test]
fn the_zero_page_is_no_page_of_a_state() {
    for (label, expected) in [("bash.snap", &[][..]), ("py.snap", &[0x3b34]), ("redis.snap", &[0x3b34])] {
        let snapshot = snapshot(label);
        let zero = snapshot.frames.iter().filter(|(_, frame)| frame.is_zero_page()).map(|(pfn, _)| *pfn);
        assert_eq!(zero.collect::<Vec<_>>(), expected, "{label}");
        let mapped = snapshot.processes.iter().flat_map(|p| &p.pages).filter(|p| p.entry.pfn() == Some(0x3b34)).count();
        assert_eq!(mapped == 0, expected.is_empty());
        assert!(snapshot.state().iter().flat_map(|p| &p.pages).all(|page| page.frame != 0x3b34));
    }
}

#[test]
fn special_vmas_show_no_pages_and_vsyscall_is_no_vma() {
    let snapshot = snapshot("redis.snap");
    for (process, state) in snapshot.processes.iter().zip(snapshot.state()) {
        let special: Vec<_> = process.vmas.iter().filter(|vma| vma.special).collect();
        assert_eq!(special.iter().map(|vma| &vma.name[..]).collect::<Vec<_>>(), ["[vvar]", "[vvar_vclock]", "[vdso]"]);
        for vma in special {
            assert!(!state.pages.iter().any(|page| (vma.span.vpn..vma.span.end()).contains(&page.vpn)));
        }
        assert!(process.vmas.iter().all(|vma| vma.name != "[vsyscall]"));
    }
}

#[test]
fn a_wrong_state_is_told_from_the_bundled_one() {
    let there = snapshot("py.snap").state();
    let shared = |state: &[crate::trace::compare::ProcessState]| {
        let (a, b) = (&state[0], &state[1]);
        let both = |vpn| b.pages.iter().find(|page| page.vpn == vpn);
        a.pages.iter().find(|p| p.anonymous && both(p.vpn).is_some_and(|q| q.frame == p.frame)).unwrap().vpn
    };
    let mut here = there.clone();
    let vpn = shared(&here);
    // One process has written a page that it shares with all others.
    here[1].pages.iter_mut().find(|page| page.vpn == vpn).unwrap().frame = u64::MAX;
    let found = compare(&there, &here);
    assert_eq!((found.anon_present, found.frames - found.frames_exact), (found.anon, 1));
    assert!(!found.is_exact() && found.differences.len() == 1, "{:?}", found.differences);
}

#[test]
fn files_that_are_not_there_are_named() {
    let error = snapshot_beside("nowhere/x.mmt.gz", "label").unwrap_err();
    assert_eq!((&error.file[..], error.line), ("nowhere/label.gz", 0));
    let error = FileLines::open("nowhere/x.mmt.gz").err().unwrap();
    assert!(error.to_string().starts_with("nowhere/x.mmt.gz:0: cannot be opened: "), "{error}");
}

#[test]
fn files_are_read_plain_or_compressed_and_damage_is_seen() {
    let path = std::env::temp_dir().join(format!("rmap-lines-{}", std::process::id()));
    let lines = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let mut lines = FileLines::open(&path)?;
        let (mut all, mut line) = (Vec::new(), String::new());
        loop {
            match lines.next_line(&mut line) {
                Ok(true) => all.push(line.clone()),
                Ok(false) => return Ok(all),
                Err(reason) => {
                    return Err(crate::trace::TraceError { file: String::new(), line: all.len() as u64 + 1, reason });
                }
            }
        }
    };
    let reason = |bytes: &[u8]| lines(bytes).map_err(|error| (error.line, error.reason)).unwrap_err();
    let gzip = |text: &str| {
        use std::io::Write;
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    };
    assert_eq!(lines(b"a\nb c\n").unwrap(), ["a", "b c"]);
    assert_eq!(lines(b"").unwrap(), [""; 0]);
    assert_eq!(lines(&gzip("a\n\nb\n")).unwrap(), ["a", "", "b"]);
    assert_eq!(lines(&[gzip("a\n"), gzip("b\n")].concat()).unwrap(), ["a", "b"]);
    assert_eq!(reason(b"a\nb"), (2, "the line has no end".to_string()));
    assert_eq!(reason(b"a\n\xff\n"), (2, "the line is not UTF-8".to_string()));
    assert_eq!(reason(&vec![b'x'; 1 << 20]), (1, "the line has no end".to_string()));
    let whole = gzip("a\nb\n");
    let (line, text) = reason(&whole[..whole.len() - 4]);
    assert!(line == 3 && text.starts_with("cannot be read: "), "{line} {text}");
    std::fs::remove_file(&path).unwrap();
}
