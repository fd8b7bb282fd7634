//! Lines that are accepted, and lines that are not, each with its reason.

use super::events;
use crate::trace::TextLines;
use crate::trace::mmt::HEADER;
use crate::trace::snapshot::Snapshot;

/// Line 5 of a trace with two objects and two address spaces, of which one is gone.
fn fifth(line: &str) -> Result<String, (u64, String)> {
    let text = format!("{HEADER}\nO 1 fe:00:7 a\nN 1\nN 2\n{line}\nD 2\n");
    match events(&text) {
        Ok(events) => Ok(events[3].clone()),
        Err(error) => Err((error.line, error.reason)),
    }
}

#[test]
fn every_kind_of_line_is_read_and_shown() {
    for line in [
        "O 2 00:1b:119 sem.x",
        "N 3",
        "F 1 3",
        "D 1",
        "M 1 10 4 3 p - 0",
        "M 1 10 4 3 pPL - 0",
        "M 1 10 4 0 s 1 fff",
        "M 1 10 4 5 k - 0",
        "M 1 10 4 7 pG - 0",
        "U 1 10 4",
        "U 1 10 0",
        "P 1 10 4 0",
        "R 1 10 4 20 8 1",
        "R 1 10 0 20 8 3",
        "A 1 10 4 4294967295",
        "L 1 10 4 mlock",
        "L 1 10 4 mlock2",
        "L 1 10 4 munlock",
        "G 1 10 4",
        "r 1 fffffffffffff",
        "w 1 10 k",
        "x 1 10 g",
        "I 4294967295 1",
        "= label.snap",
    ] {
        assert_eq!(fifth(line).as_deref(), Ok(line));
    }
    assert_eq!(fifth("# anything at  all"), Ok("D 2".to_string()), "a comment is no event");
    assert_eq!(fifth("M 1 0a 4 3 Lp 1 00").as_deref(), Ok("M 1 a 4 3 pL 1 0"));
}

#[test]
fn bad_lines_of_a_trace_are_named() {
    for (line, reason) in [
        ("", "the letter of the event is \"\": fields are separated by one space"),
        ("Y 1", "\"Y\" is no event"),
        ("NN 1", "\"NN\" is no event"),
        (" N 3", "the letter of the event is \"\": fields are separated by one space"),
        (HEADER, "a second header"),
        ("N", "mm is missing"),
        ("N 3 4", "\"4\" is more than the line has fields for"),
        ("N 3 ", "\"\" is more than the line has fields for"),
        ("N  3", "mm is \"\": fields are separated by one space"),
        ("N 3\t", "mm is \"3\\t\": fields are separated by one space"),
        ("N +3", "mm \"+3\" is no decimal number of 32 bits"),
        ("N 4294967296", "mm \"4294967296\" is no decimal number of 32 bits"),
        ("N 1", "mm 1 was announced before"),
        ("F 1 2", "mm 2 was announced before"),
        ("F 9 3", "mm 9 was never announced"),
        ("D 9", "mm 9 was never announced"),
        ("O 2 fe:00:7", "name is missing"),
        ("O 2 fe:00 a", "object \"fe:00\" is not major:minor:inode"),
        ("O 2 fe:00:x a", "object \"fe:00:x\" is not major:minor:inode"),
        ("O 1 fe:00:8 b", "object 1 was announced before"),
        ("O 2 fe:00:8 b c", "\"c\" is more than the line has fields for"),
        ("M 1 10 4 3 p -", "pgoff is missing"),
        ("M 1 10 0 3 p - 0", "n is 0"),
        ("M 1 xyz 4 3 p - 0", "vpn \"xyz\" is no hexadecimal number of 64 bits"),
        ("M 1 +10 4 3 p - 0", "vpn \"+10\" is no hexadecimal number of 64 bits"),
        ("M 1 0x10 4 3 p - 0", "vpn \"0x10\" is no hexadecimal number of 64 bits"),
        ("M 1 10000000000000 4 3 p - 0", "vpn 10000000000000 lies beyond 64 bits of address"),
        ("M 1 fffffffffffff 2 3 p - 0", "range fffffffffffff 2 lies beyond 64 bits of address"),
        ("M 1 1 ffffffffffffffff 3 p - 0", "range 1 ffffffffffffffff lies beyond 64 bits of address"),
        ("M 1 10 4 8 p - 0", "prot 8 is more than 1 read, 2 write, 4 execute"),
        ("M 1 10 4 3 q - 0", "'q' is no flag"),
        ("M 1 10 4 3 pp - 0", "flag 'p' stands there twice"),
        ("M 1 10 4 3 ps - 0", "flags \"ps\" have not exactly one of p, s and k"),
        ("M 1 10 4 3 G - 0", "flags \"G\" have not exactly one of p, s and k"),
        ("M 1 10 4 3 p 2 0", "object 2 was never announced"),
        ("M 1 10 4 3 p ? 0", "object \"?\" is no decimal number of 32 bits"),
        ("M 1 10 4 3 p 1 ffffffffffffffff", "pgoff ffffffffffffffff and 4 pages lie beyond 64 bits of offset"),
        ("M 9 10 4 3 p - 0", "mm 9 was never announced"),
        ("U 1 10", "n is missing"),
        ("P 1 10 0 3", "n is 0"),
        ("P 1 10 4 9", "prot 9 is more than 1 read, 2 write, 4 execute"),
        ("R 1 10 4 20 0 1", "n is 0"),
        ("R 1 10 4 20 4", "flags is missing"),
        ("A 1 10 0 4", "n is 0"),
        ("A 1 10 4 -1", "advice \"-1\" is no decimal number of 32 bits"),
        ("L 1 10 4 lock", "\"lock\" is neither mlock, mlock2 nor munlock"),
        ("G 1 10 0", "n is 0"),
        ("w 1", "vpn is missing"),
        ("w 1 10 q", "\"q\" is neither k nor g"),
        ("w 1 10 k g", "\"g\" is more than the line has fields for"),
        ("w 1 10 ", "k or g is \"\": fields are separated by one space"),
        ("I 7 9", "mm 9 was never announced"),
        ("=", "label is missing"),
        ("= ../x", "label \"../x\" is no name of a file beside the trace"),
        ("= x/y", "label \"x/y\" is no name of a file beside the trace"),
    ] {
        assert_eq!(fifth(line), Err((5, reason.to_string())), "{line:?}");
    }
}

#[test]
fn a_trace_makes_sense_as_a_whole() {
    let error = |text: &str| events(text).map_err(|error| error.to_string()).unwrap_err();
    let missing = format!("text:1: the first line is not the header {HEADER:?}");
    for text in ["", "N 1\n", "# H mmt 1 4096\n", "H mmt 2 4096\n", "H mmt 1 16384\n", "H mmt 1 4096 \n"] {
        assert_eq!(error(text), missing, "{text:?}");
    }
    let error = |text: &str| error(&format!("{HEADER}\n{text}"));
    assert_eq!(error("N 1\nD 1\nw 1 10\n"), "text:4: mm 1 was destroyed");
    assert_eq!(error("N 1\nD 1\nN 1\n"), "text:4: mm 1 was announced before");
    assert_eq!(error("N 1\nI 7 1\nI 7 1\n"), "text:4: pid 7 stands there twice");
    let again = format!("{HEADER}\nN 1\nI 7 1\n= a\nI 7 1\n= b\n");
    assert_eq!(events(&again).unwrap(), ["N 1", "I 7 1", "= a", "I 7 1", "= b"]);
    assert_eq!(events(HEADER).unwrap(), [""; 0]);
}

const SNAPSHOT: &str = "T 12.000000034
P 7 1 0 a name
V 7 10 4 rw-p 0 00:00 0 [heap]
@ 7 10 8100000000000100
@ 7 12 4000000000000002
V 7 20 2 r-xs 5 fe:00 9 lib (deleted)
V 7 30 1 r--p 0 00:00 0
K 100 1 1 5828
";

fn snapshot(text: &str) -> Result<Snapshot, String> {
    Snapshot::read(TextLines::new("text", text)).map_err(|error| error.to_string())
}

#[test]
fn a_snapshot_is_read() {
    let read = snapshot(SNAPSHOT).unwrap();
    assert_eq!((read.time, read.processes.len(), read.frames.len()), ((12, 34), 1, 1));
    let process = read.process(7).unwrap();
    assert_eq!((process.ppid, process.depth, &process.comm[..]), (1, 0, "a name"));
    let names: Vec<_> = process.vmas.iter().map(|vma| &vma.name[..]).collect();
    assert_eq!(names, ["[heap]", "lib (deleted)", ""]);
    assert_eq!(process.vmas[1].object.unwrap().to_string(), "fe:00:9");
    assert!(process.vmas[1].shared && !process.vmas[0].shared);
    assert_eq!((process.vma_of(0x21).unwrap().pgoff, process.vma_of(0x22)), (5, None));
    assert!(process.pages[1].entry.is_swapped() && !process.pages[1].entry.is_marker());
    assert_eq!(read.state()[0].swapped, [0x12]);
}

#[test]
fn bad_lines_of_a_snapshot_are_named() {
    for (line, with, reason) in [
        (1, "P 7 1 0 a", "T is the first line and no other, not \"P\""),
        (1, "T 12", "time \"12\" is not seconds.nanoseconds"),
        (1, "T 12.5", "time \"12.5\" is not seconds.nanoseconds"),
        (2, "T 12.000000034", "T is the first line and no other, not \"T\""),
        (2, "P 7 1", "depth is missing"),
        (2, "P x 1 0 a", "pid \"x\" is no decimal number of 32 bits"),
        (3, "X 7", "\"X\" is no line of a snapshot"),
        (3, "P 7 1 0 a", "pid 7 stands there twice"),
        (3, "V 8 10 4 rw-p 0 00:00 0", "pid 8 was never announced"),
        (3, "V 7 10 0 rw-p 0 00:00 0", "n is 0"),
        (3, "V 7 10 4 wr-p 0 00:00 0", "perms \"wr-p\" are not like rwxp"),
        (3, "V 7 10 4 rw- 0 00:00 0", "perms \"rw-\" are not like rwxp"),
        (3, "V 7 10 4 rw-p 0 0000 0", "dev \"0000\" is not major:minor"),
        (3, "V 7 10 4 rw-p 0 00:00", "ino is missing"),
        (4, "@ 7 10", "entry is missing"),
        (4, "@ 7 14 8100000000000100", "page 14 lies in no VMA"),
        (4, "@ 7 10 8100000000000000", "PFN 0: the kernel hid the frame numbers"),
        (4, "@ 7 10 0000000000000100", "entry 100 is neither present nor in swap"),
        (5, "@ 7 10 8100000000000100", "page 10 is not above the one before"),
        (5, "@ 7 12 8100000000000100 1", "\"1\" is more than the line has fields for"),
        (6, "V 7 13 2 r-xs 5 fe:00 9 lib", "VMA 13 2 is not above the one before"),
        (8, "K 100 1 2 5828", "pfn 100 is said to be mapped 2 times, and is 1 times"),
        (8, "K 101 1 1 5828", "pfn 101 is said to be mapped 1 times, and is 0 times"),
        (8, "V 7 31 1 r--p 0 00:00 0", "pfn 100 has no K line"),
    ] {
        let mut lines: Vec<_> = SNAPSHOT.lines().collect();
        lines[line - 1] = with;
        // What the file as a whole lacks is told at its end.
        let at = if reason.ends_with("no K line") { line + 1 } else { line };
        assert_eq!(snapshot(&lines.join("\n")), Err(format!("text:{at}: {reason}")), "{with:?}");
    }
    assert_eq!(snapshot(""), Err("text:1: the snapshot is empty".to_string()));
    let twice = format!("{SNAPSHOT}K 100 1 1 5828\n");
    assert_eq!(snapshot(&twice), Err("text:9: pfn 100 stands there twice".to_string()));
}
