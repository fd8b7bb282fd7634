//! The snapshot: the kernel's own truth about a stopped tree of processes. The format is in the [module above](super).
//!
//! What is read is checked as a whole too: VMAs of a process lie in order and apart, pages lie in them and come in
//! order, and each frame has one `K` line that counts as many pages as there are. A snapshot that was cut off or put
//! together from two does not pass.

use super::fields::{Fields, object_of};
use super::{Lines, Object, Span, TraceError, perms};
use crate::base::types::VmFlags;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A word of /proc/PID/pagemap.
///
/// | bits | meaning |
/// |---|---|
/// | 63 | present: bits 0-54 are the PFN |
/// | 62 | in swap, or a marker: bits 0-4 are the swap type, 31 for markers |
/// | 61 | the page of a file, or shared anonymous memory |
/// | 56 | mapped once |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagemapEntry(pub u64);

impl PagemapEntry {
    const PFN: u64 = (1 << 55) - 1;
    const SWAP_TYPE: u64 = 31;

    /// The frame, if one is present.
    pub const fn pfn(self) -> Option<u64> {
        if self.0 >> 63 == 1 { Some(self.0 & Self::PFN) } else { None }
    }
    /// Not present, with the bit of swap: in swap or a marker.
    const fn has_swap_bit(self) -> bool {
        self.0 >> 62 == 0b01
    }
    /// In swap.
    pub const fn is_swapped(self) -> bool {
        self.has_swap_bit() && self.0 & Self::SWAP_TYPE != Self::SWAP_TYPE
    }
    /// Neither present nor in swap, and yet not empty.
    pub const fn is_marker(self) -> bool {
        self.has_swap_bit() && self.0 & Self::SWAP_TYPE == Self::SWAP_TYPE
    }
    /// Of a file, or of shared anonymous memory.
    pub const fn is_file(self) -> bool {
        self.0 >> 61 & 1 == 1
    }
}

/// A VMA, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotVma {
    /// Where.
    pub span: Span,
    /// READ, WRITE, EXEC.
    pub prot: VmFlags,
    /// Whether writes are seen by all who map it.
    pub shared: bool,
    /// Offset into the object.
    pub pgoff: u64,
    /// `None`: anonymous memory.
    pub object: Option<Object>,
    /// Whether its pages are the kernel's own (vdso, vvar).
    pub special: bool,
    /// The last part of the path, or a name in brackets, or `-`; empty for some.
    pub name: String,
}

/// A page of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPage {
    /// Which page.
    pub vpn: u64,
    /// Where it is.
    pub entry: PagemapEntry,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotProcess {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// How many forks below the first process of the tree.
    pub depth: u32,
    /// What it calls itself.
    pub comm: String,
    /// By address. Without the vsyscall page, which the kernel shows and no process has.
    pub vmas: Vec<SnapshotVma>,
    /// By address: those present, in swap, or markers.
    pub pages: Vec<SnapshotPage>,
}

/// A frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotFrame {
    /// The kernel's count of its mappings.
    pub mapcount: u64,
    /// How many of the tree's pages are on it.
    pub in_tree: u64,
    /// Bits of /proc/kpageflags.
    pub flags: u64,
}

impl SnapshotFrame {
    const KPF_ZERO_PAGE: u64 = 1 << 24;

    /// Whether it is the zero page: flagged so, or mapped and yet not counted.
    pub const fn is_zero_page(self) -> bool {
        self.flags & Self::KPF_ZERO_PAGE != 0 || self.mapcount == 0
    }
}

/// A snapshot. See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// When it was taken: seconds and nanoseconds of the recorder's clock.
    pub time: (u64, u32),
    /// The tree, in the order of the snapshot.
    pub processes: Vec<SnapshotProcess>,
    /// By PFN: every frame that a page is on.
    pub frames: BTreeMap<u64, SnapshotFrame>,
}

impl Snapshot {
    /// Reads a whole snapshot.
    pub fn read(mut lines: impl Lines) -> Result<Self, TraceError> {
        let mut reader = Reader::default();
        let mut text = String::new();
        let mut number = 0;
        let mut read = || {
            loop {
                number += 1;
                if !lines.next_line(&mut text)? {
                    return core::mem::take(&mut reader).finish();
                }
                reader.line(&text)?;
            }
        };
        let done = read();
        done.map_err(|reason| TraceError { file: lines.name().to_string(), line: number, reason })
    }

    /// Whether a page on this frame is no page: the zero page.
    pub fn is_zero_page(&self, pfn: u64) -> bool {
        self.frames.get(&pfn).is_some_and(|frame| frame.is_zero_page())
    }

    /// The process of that number.
    pub fn process(&self, pid: u32) -> Option<&SnapshotProcess> {
        self.processes.iter().find(|process| process.pid == pid)
    }
}

impl SnapshotProcess {
    /// The VMA with a page.
    pub fn vma_of(&self, vpn: u64) -> Option<&SnapshotVma> {
        let after = self.vmas.partition_point(|vma| vma.span.vpn <= vpn);
        self.vmas[..after].last().filter(|vma| vpn < vma.span.end())
    }
}

#[derive(Default)]
struct Reader {
    time: Option<(u64, u32)>,
    processes: Vec<SnapshotProcess>,
    /// Where in `processes` each pid is.
    places: BTreeMap<u32, usize>,
    frames: BTreeMap<u64, SnapshotFrame>,
    /// How many pages are on each frame, as counted here.
    counted: BTreeMap<u64, u64>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let mut f = Fields::new(line);
        let letter = f.next("the letter of the line")?;
        if (letter == "T") != self.time.is_none() {
            return Err(format!("T is the first line and no other, not {letter:?}"));
        }
        match letter {
            "T" => self.time = Some(time(&mut f)?),
            "P" => return self.process(f),
            "V" => self.vma(&mut f)?,
            "@" => self.page(&mut f)?,
            "K" => self.frame(&mut f)?,
            other => return Err(format!("{other:?} is no line of a snapshot")),
        }
        f.end()
    }

    fn process(&mut self, mut f: Fields<'_>) -> Result<(), String> {
        let (pid, ppid, depth) = (f.id("pid")?, f.id("ppid")?, f.id("depth")?);
        if self.places.insert(pid, self.processes.len()).is_some() {
            return Err(format!("pid {pid} stands there twice"));
        }
        let comm = f.remainder().to_string();
        self.processes.push(SnapshotProcess { pid, ppid, depth, comm, vmas: Vec::new(), pages: Vec::new() });
        Ok(())
    }

    fn of_pid(&mut self, f: &mut Fields<'_>) -> Result<&mut SnapshotProcess, String> {
        let pid = f.id("pid")?;
        let place = self.places.get(&pid).ok_or_else(|| format!("pid {pid} was never announced"))?;
        Ok(&mut self.processes[*place])
    }

    fn vma(&mut self, f: &mut Fields<'_>) -> Result<(), String> {
        let process = self.of_pid(f)?;
        let span = f.span()?;
        let (prot, shared) = permissions(f.next("perms")?)?;
        let pgoff = f.pgoff(span.pages)?;
        let object = object_of(f.next("dev")?, f.dec("ino")?)?;
        let name = f.remainder().to_string();
        if process.vmas.last().is_some_and(|last| last.span.end() > span.vpn) {
            return Err(format!("VMA {span} is not above the one before"));
        }
        if name == "[vsyscall]" {
            return Ok(());
        }
        let special = name == "[vdso]" || name.starts_with("[vvar");
        process.vmas.push(SnapshotVma { span, prot, shared, pgoff, object, special, name });
        Ok(())
    }

    fn page(&mut self, f: &mut Fields<'_>) -> Result<(), String> {
        let process = self.of_pid(f)?;
        let page = SnapshotPage { vpn: f.vpn("vpn")?, entry: PagemapEntry(f.hex("entry")?) };
        let SnapshotPage { vpn, entry } = page;
        if process.pages.last().is_some_and(|last| last.vpn >= vpn) {
            return Err(format!("page {vpn:x} is not above the one before"));
        }
        if process.vma_of(vpn).is_none() {
            return Err(format!("page {vpn:x} lies in no VMA"));
        }
        process.pages.push(page);
        match entry.pfn() {
            Some(0) => Err("PFN 0: the kernel hid the frame numbers".to_string()),
            Some(pfn) => {
                *self.counted.entry(pfn).or_default() += 1;
                Ok(())
            }
            None if entry.has_swap_bit() => Ok(()),
            None => Err(format!("entry {:x} is neither present nor in swap", entry.0)),
        }
    }

    fn frame(&mut self, f: &mut Fields<'_>) -> Result<(), String> {
        let pfn = f.hex("pfn")?;
        let (mapcount, in_tree, flags) = (f.dec("kpagecount")?, f.dec("count")?, f.hex("flags")?);
        let counted = self.counted.get(&pfn).copied().unwrap_or_default();
        if counted != in_tree {
            return Err(format!("pfn {pfn:x} is said to be mapped {in_tree} times, and is {counted} times"));
        }
        match self.frames.insert(pfn, SnapshotFrame { mapcount, in_tree, flags }) {
            Some(_) => Err(format!("pfn {pfn:x} stands there twice")),
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<Snapshot, String> {
        let time = self.time.ok_or("the snapshot is empty")?;
        if let Some((pfn, _)) = self.counted.iter().find(|(pfn, _)| !self.frames.contains_key(pfn)) {
            return Err(format!("pfn {pfn:x} has no K line"));
        }
        Ok(Snapshot { time, processes: self.processes, frames: self.frames })
    }
}

/// `seconds.nanoseconds`, the latter in nine digits.
fn time(f: &mut Fields<'_>) -> Result<(u64, u32), String> {
    let text = f.next("time")?;
    let parts = text.split_once('.').filter(|(_, nanos)| nanos.len() == 9);
    let (seconds, nanos) = parts.ok_or_else(|| format!("time {text:?} is not seconds.nanoseconds"))?;
    Ok((Fields::new(seconds).dec("seconds")?, Fields::new(nanos).id("nanoseconds")?))
}

/// `rwxp` to flags, and whether it is shared.
fn permissions(text: &str) -> Result<(VmFlags, bool), String> {
    for prot in (0..8).map(VmFlags::from_bits_retain) {
        for shared in [false, true] {
            if text.chars().eq(perms(prot, shared)) {
                return Ok((prot, shared));
            }
        }
    }
    Err(format!("perms {text:?} are not like rwxp"))
}
