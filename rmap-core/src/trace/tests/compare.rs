//! Comparisons of states made by hand. The ranges are pages 0x10 and on.

use super::snapshot;
use crate::base::types::VmFlags;
use crate::trace::compare::{Comparison, DIFFERENCES, PresentPage, ProcessState, VmaRun, compare};
use crate::trace::snapshot::Snapshot;
use crate::trace::{Object, Span, TextLines};

const FILE: Object = Object { major: 0xfe, minor: 0, ino: 7 };

fn anonymous(vpn: u64, pages: u64) -> VmaRun {
    let prot = VmFlags::READ | VmFlags::WRITE;
    VmaRun { span: Span { vpn, pages }, prot, shared: false, object: None, pgoff: vpn, special: false }
}

fn file(vpn: u64, pages: u64, pgoff: u64) -> VmaRun {
    VmaRun { object: Some(FILE), pgoff, ..anonymous(vpn, pages) }
}

/// A process with anonymous pages (vpn, frame).
fn process(pid: u32, vmas: &[VmaRun], pages: &[(u64, u64)]) -> ProcessState {
    let pages = pages.iter().map(|(vpn, frame)| PresentPage { vpn: *vpn, frame: *frame, anonymous: true }).collect();
    ProcessState { pid, vmas: vmas.to_vec(), pages, swapped: Vec::new() }
}

fn vmas(there: &[VmaRun], here: &[VmaRun]) -> Comparison {
    compare(&[process(1, there, &[])], &[process(1, here, &[])])
}

/// Pages (pid, vpn, frame) on both sides, of processes 1 to 3 without VMAs.
fn pages(there: &[(u32, u64, u64)], here: &[(u32, u64, u64)]) -> Comparison {
    let state = |list: &[(u32, u64, u64)]| {
        [1, 2, 3].map(|pid| {
            let own = list.iter().filter(|page| page.0 == pid).map(|(_, vpn, frame)| (*vpn, *frame));
            process(pid, &[], &own.collect::<Vec<_>>())
        })
    };
    compare(&state(there), &state(here))
}

#[test]
fn neighbours_of_equal_attributes_are_one() {
    // there [10 anonymous ......18)      here [10 ..14)[14 ..18)
    assert!(vmas(&[anonymous(0x10, 8)], &[anonymous(0x10, 4), anonymous(0x14, 4)]).is_exact());
    // The offset of anonymous memory means nothing, that of a file goes on or is another run.
    let moved = VmaRun { pgoff: 0x99, ..anonymous(0x14, 4) };
    assert!(vmas(&[anonymous(0x10, 4), moved], &[anonymous(0x10, 8)]).is_exact());
    assert!(vmas(&[file(0x10, 8, 5)], &[file(0x10, 4, 5), file(0x14, 4, 9)]).is_exact());
    assert!(!vmas(&[file(0x10, 8, 5)], &[file(0x10, 4, 5), file(0x14, 4, 5)]).is_exact());
    // Flags beyond the protection are not looked at.
    let stack = VmaRun { prot: anonymous(0x10, 4).prot | VmFlags::GROWSDOWN, ..anonymous(0x10, 4) };
    assert!(vmas(&[stack], &[anonymous(0x10, 4)]).is_exact());
}

#[test]
fn each_attribute_of_a_vma_counts() {
    let one = file(0x10, 4, 5);
    for other in [
        file(0x10, 5, 5),
        file(0x11, 4, 5),
        file(0x10, 4, 6),
        VmaRun { prot: VmFlags::READ, ..one },
        VmaRun { shared: true, ..one },
        VmaRun { special: true, ..one },
        VmaRun { object: None, ..one },
        VmaRun { object: Some(Object { ino: 8, ..FILE }), ..one },
        VmaRun { object: Some(Object { minor: 1, ..FILE }), ..one },
    ] {
        let found = vmas(&[one], &[other]);
        assert_eq!((found.processes, found.vmas_equal, found.is_exact()), (1, 0, false), "{other}");
        assert_eq!(
            found.differences,
            [
                "pid 1: only in the snapshot: 10-14 rw-p fe:00:7 from 5".to_string(),
                format!("pid 1: only in the replay: {other}")
            ]
        );
    }
}

#[test]
fn a_partition_is_the_same_whatever_the_frames_are_called() {
    // Frames a and b are called 1 and 2 there, 2 and 1 here.
    let found = pages(&[(1, 0x10, 1), (1, 0x11, 2), (2, 0x10, 1)], &[(1, 0x10, 2), (1, 0x11, 1), (2, 0x10, 2)]);
    assert!(found.is_exact());
    assert_eq!((found.anon, found.anon_present, found.frames, found.frames_exact), (3, 3, 2, 2));
}

#[test]
fn pages_that_share_there_and_not_here_are_found_and_the_reverse() {
    let (shared, apart) = (&[(1, 0x10, 1), (2, 0x10, 1)], &[(1, 0x10, 1), (2, 0x10, 2)]);
    let found = pages(shared, apart);
    assert_eq!((found.anon_present, found.frames, found.frames_exact), (2, 1, 0));
    assert_eq!(found.differences, ["pid 1 page 10 and pid 2 page 10 share PFN 1, and no frame in the replay"]);
    let found = pages(apart, shared);
    assert_eq!((found.anon_present, found.frames, found.frames_exact), (2, 2, 0));
    assert_eq!(found.differences, ["pid 1 page 10 and pid 2 page 10 share a frame in the replay, and no PFN"]);
    assert!(!found.is_exact() && pages(shared, shared).is_exact() && pages(apart, apart).is_exact());
}

#[test]
fn three_sharers_of_which_one_went_are_one_torn_frame() {
    let found = pages(
        &[(1, 0x10, 1), (2, 0x10, 1), (3, 0x10, 1), (3, 0x11, 5)],
        &[(1, 0x10, 7), (2, 0x10, 8), (3, 0x10, 7), (3, 0x11, 9)],
    );
    assert_eq!((found.frames, found.frames_exact), (2, 1));
}

#[test]
fn missing_and_extra_pages_are_told_apart() {
    let found = pages(&[(1, 0x10, 1), (1, 0x11, 2)], &[(1, 0x11, 2), (1, 0x12, 3), (1, 0x13, 4)]);
    assert_eq!((found.anon, found.anon_present, found.anon_extra), (2, 1, 2));
    assert!(!found.is_exact() && found.partition_exact());
    assert_eq!(
        found.differences,
        [
            "pid 1: anonymous page 10 is missing in the replay",
            "pid 1: anonymous page 12 is only in the replay",
            "pid 1: anonymous page 13 is only in the replay"
        ]
    );
    // Extra pages alone are not held against a replay.
    assert!(pages(&[], &[(1, 0x10, 1)]).is_exact());
}

#[test]
fn swap_on_either_side_is_no_difference_of_contents() {
    let (present, nothing) = (process(1, &[], &[(0x10, 1)]), process(1, &[], &[]));
    let swapped = ProcessState { swapped: vec![0x10], ..nothing.clone() };
    let found = compare(std::slice::from_ref(&swapped), std::slice::from_ref(&present));
    assert_eq!((found.anon, found.anon_extra), (0, 0));
    let found = compare(std::slice::from_ref(&present), std::slice::from_ref(&swapped));
    assert_eq!((found.anon, found.anon_present, found.anon_swapped), (1, 0, 1));
    let found = compare(&[swapped], &[nothing]);
    assert!(found.is_exact());
}

#[test]
fn pages_of_files_are_counted_and_no_more() {
    let with = |list: &[(u64, bool)]| {
        let pages = list.iter().map(|(vpn, anonymous)| PresentPage { vpn: *vpn, frame: *vpn, anonymous: *anonymous });
        [ProcessState { pid: 1, pages: pages.collect(), ..ProcessState::default() }]
    };
    let found =
        compare(&with(&[(1, false), (2, false), (3, false)]), &with(&[(2, false), (3, false), (4, false), (5, false)]));
    assert_eq!((found.file_both, found.file_only_here, found.file_only_there), (2, 2, 1));
    assert!(found.is_exact());
    // A copy on one side, the file's page on the other.
    let found = compare(&with(&[(1, true), (2, false)]), &with(&[(1, false), (2, true)]));
    assert_eq!((found.anon_present, found.anon_extra, found.file_both), (0, 1, 0));
    assert_eq!(found.differences[0], "pid 1: page 1 is anonymous, and a file's in the replay");
}

#[test]
fn a_process_that_is_not_here_is_a_difference_and_one_too_many_is_none() {
    let one = process(1, &[anonymous(0x10, 4)], &[(0x10, 1)]);
    let found = compare(std::slice::from_ref(&one), &[]);
    assert_eq!((found.processes, found.vmas_equal, found.anon, found.anon_present), (1, 0, 1, 0));
    assert_eq!(found.differences[0], "pid 1 is not in the replay");
    let two = ProcessState { pid: 2, ..one.clone() };
    assert!(compare(std::slice::from_ref(&one), &[two, one.clone()]).is_exact());
}

#[test]
fn text_ends_where_it_no_longer_helps() {
    let many: Vec<_> = (0..100).map(|i| (1, 0x10 + i, i + 1)).collect();
    let found = pages(&many, &[]);
    assert_eq!((found.anon, found.anon_present, found.differences.len()), (100, 0, DIFFERENCES));
}

#[test]
fn what_looks_like_a_page_and_is_none_stays_out_of_a_snapshots_state() {
    // 10 anonymous, 11 zero page, 12 marker, 13 swap; 20 file; 30 vdso.
    let text = "T 1.000000000
P 1 0 0 a
V 1 10 4 rw-p 0 00:00 0
@ 1 10 8000000000000100
@ 1 11 8000000000000101
@ 1 12 400000000000001f
@ 1 13 4000000000000020
V 1 20 1 r--p 3 fe:00 7 lib
@ 1 20 a000000000000102
V 1 30 1 r-xp 0 00:00 0 [vdso]
@ 1 30 a000000000000103
V 1 ffffffffff600 1 --xp 0 00:00 0 [vsyscall]
K 100 1 1 5828
K 101 0 1 0
K 102 9 1 2c
K 103 1 1 1000
";
    let state = Snapshot::read(TextLines::new("text", text)).unwrap().state();
    let [state] = &state[..] else { panic!("one process") };
    let pages = [(0x10, 0x100, true), (0x20, 0x102, false)].map(|(vpn, frame, anonymous)| PresentPage {
        vpn,
        frame,
        anonymous,
    });
    assert_eq!((&state.pages[..], &state.swapped[..]), (&pages[..], &[0x13][..]));
    assert_eq!(
        state.vmas.iter().map(|vma| (vma.span.vpn, vma.special)).collect::<Vec<_>>(),
        [(0x10, false), (0x20, false), (0x30, true)]
    );
}

#[test]
fn sharing_in_the_bundled_snapshots_is_what_it_is_known_to_be() {
    // A pool of workers shares most of its pages, redis and its saving child what was not written since.
    for (label, frames) in [("py.snap", 38_000..48_000), ("redis.snap", 8_000..12_500)] {
        let state = snapshot(label).state();
        let found = compare(&state, &state);
        assert!(frames.contains(&found.frames), "{label}: {} frames under {} pages", found.frames, found.anon);
    }
}
