//! Traces of real programs' memory management: read, replayed, and held against the kernel's own truth.
//!
//! A **trace** says what a tree of processes did to its memory. A **snapshot**, taken by the kernel while the tree was
//! stopped, says where every page of it then was. Whoever replays the trace can be asked: same regions, and the same
//! pages shared by the same processes?
//!
//! | file | what it is |
//! |---|---|
//! | [`mmt`] | the trace: lines to [`Event`](mmt::Event)s |
//! | [`snapshot`] | the snapshot: lines to processes, VMAs, page-table entries, frames |
//! | [`compare`] | two [`ProcessState`](compare::ProcessState) lists against each other, however each was made |
//! | [`replay`] | events, done again in a memory manager |
//! | [`on_machine`] | the machine as that memory manager |
//! | [`measure`] | what walks over the replayed state cost, and whether they are right |
//! | [`source`] | files, compressed or not: the only place here that needs an operating system |
//!
//! # The trace
//!
//! One event a line, fields separated by one space, pages (not bytes) in hexadecimal, everything else decimal. `mm` is
//! the number of an address space, announced by `N` or `F` and never given twice; threads and vfork share one.
//!
//! ```text
//! H mmt 1 4096                      header, the first line: version, page size
//! O obj dev:ino name                an object: a file, shared memory
//! N mm                              an empty address space; exec is a D and an N
//! F mm child                        fork: child is a copy of mm
//! D mm                              an address space is destroyed
//! M mm vpn n prot flags obj pgoff   map, over what was there; obj - is anonymous memory
//! U mm vpn n                        unmap; n = 0: the whole VMA at vpn
//! P mm vpn n prot                   mprotect
//! R mm old oldn new newn flags      mremap, flags as in the system call; oldn = 0 maps shared memory once more
//! A mm vpn n advice                 madvise, numbers as in the system call
//! L mm vpn n mlock|mlock2|munlock   lock now, lock on fault, unlock
//! G mm vpn n                        the stack is now [vpn, vpn + n)
//! r|w|x mm vpn [k|g]                a page fault; k: taken in the kernel, g: a page touched without a fault
//! I pid mm                          a process and its address space, before a mark
//! = label                           a mark: the state now is the snapshot label.gz (or label.snap.gz) beside the trace
//! # anything                        comment
//! ```
//!
//! `prot` adds up 1 read, 2 write, 4 execute. `flags` are letters: one of `p` private, `s` shared, `k` special (the
//! kernel's own pages: vdso, vvar), and any of `G` stack, `P` populate, `L` locked.
//!
//! Reading is strict. A line that is not exactly one of these, that names what was never announced, or that contradicts
//! a line before it, is an error with file, line and reason ([`TraceError`]); nothing is guessed or skipped.
//!
//! # The snapshot
//!
//! ```text
//! T seconds.nanoseconds             when, on the clock of the trace's recorder
//! P pid ppid depth comm             a process
//! V pid vpn n perms pgoff dev ino name    a VMA, as in /proc/PID/maps
//! @ pid vpn entry                   a word of /proc/PID/pagemap, if present or swapped
//! K pfn count in-tree flags         a frame: the kernel's count of its mappings, the number of its @ lines, /proc/kpageflags
//! ```
//!
//! # What a replay is held to
//!
//! - The **VMAs** of every process cover the same pages with the same protection, sharing, object and offset, after neighbours of equal attributes are
//!   merged: where the kernel cuts a VMA in two is its own business, what is mapped is not.
//! - Every **anonymous page** of the snapshot is there.
//! - The **partition** is exact: two (process, page) pairs have one PFN in the snapshot if and only if they have one frame in the replay. Sets of sharers are
//!   compared, never PFNs over time: a freed frame returns at once, and who keeps the frame at copy-on-write is a matter of who writes last.
//!
//! Not held against a replay, only counted: **file pages**, since the kernel maps up to 16 around a fault and fork
//! leaves them out where they can be faulted again, so that what the trace touched is a lower bound; **extra anonymous
//! pages**, since `g` lines stand for what exec wrote without a fault and may name a page too many.
//!
//! What looks like a page and is none: the **zero page** (one frame in all processes, kpagecount 0), the **vdso** (one
//! frame too, with the bit of files set; and vvar shows nothing), **markers** (swap entries of type 31), and the
//! **vsyscall** page, which is no VMA of the process.
#![forbid(unsafe_code)]

pub mod compare;
mod fields;
pub mod measure;
pub mod mmt;
pub mod on_machine;
pub mod replay;
pub mod snapshot;
#[cfg(feature = "std")]
pub mod source;

#[cfg(all(test, feature = "std", not(loom)))]
mod tests;

use crate::base::types::VmFlags;
use alloc::string::String;
use core::fmt;

/// Why a trace or a snapshot was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceError {
    /// The file, as the reader was told its name.
    pub file: String,
    /// The line, from 1; 0 when the file could not be opened.
    pub line: u64,
    /// One English sentence without a full stop.
    pub reason: String,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

impl core::error::Error for TraceError {}

/// Where lines come from: a file ([`source::FileLines`]) or a text in memory ([`TextLines`]).
pub trait Lines {
    /// The name for error messages.
    fn name(&self) -> &str;
    /// Replaces `line` by the next line, without its end; false after the last. An error is a reason.
    fn next_line(&mut self, line: &mut String) -> Result<bool, String>;
}

/// The lines of a text in memory.
#[derive(Debug)]
pub struct TextLines<'a> {
    name: &'a str,
    lines: core::str::Lines<'a>,
}

impl<'a> TextLines<'a> {
    /// The lines of `text`, called `name` in error messages.
    pub fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, lines: text.lines() }
    }
}

impl Lines for TextLines<'_> {
    fn name(&self) -> &str {
        self.name
    }
    fn next_line(&mut self, line: &mut String) -> Result<bool, String> {
        let Some(next) = self.lines.next() else { return Ok(false) };
        line.clear();
        line.push_str(next);
        Ok(true)
    }
}

/// What a VMA may map: device and inode. Two objects of a trace may be one file whose inode number is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Object {
    /// Major number of the device; 0 for file systems without one (tmpfs, overlays).
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Inode number.
    pub ino: u64,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}:{}", self.major, self.minor, self.ino)
    }
}

/// A range of virtual pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first page.
    pub vpn: u64,
    /// How many.
    pub pages: u64,
}

impl Span {
    /// The first page after it.
    pub const fn end(self) -> u64 {
        self.vpn + self.pages
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x} {:x}", self.vpn, self.pages)
    }
}

/// `rwxp` as /proc/PID/maps shows it.
fn perms(prot: VmFlags, shared: bool) -> [char; 4] {
    let mut flags = prot;
    flags.set(VmFlags::SHARED, shared);
    flags.perms()
}
