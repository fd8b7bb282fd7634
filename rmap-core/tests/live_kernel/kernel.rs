//! What the running kernel says of the tree, from /proc: entries, counts, VMAs and bytes.

use crate::ops::PAGES;
use crate::state::{Object, Seen, VmaLine};
use crate::worker::Process;
use rmap_core::machine::advise::Advice;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where the compared range lies: below everything that a position-independent program maps, so that its lines are the
/// first in /proc/PID/maps.
pub(crate) const BASE: u64 = 0x1000_0000;
const PAGE: u64 = 4096;

/// The address of a page of the range.
pub(crate) fn address(page: u64) -> u64 {
    BASE + page * PAGE
}

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE: u64 = 1 << 61;
/// Part of a guard region (Linux 6.15).
const GUARD: u64 = 1 << 58;
const PFN: u64 = (1 << 55) - 1;
const SWAP_TYPE: u64 = 0x1f;
/// Swap types from here on are no swap areas, but entries of pages that are moving, and markers.
const NO_SWAP_AREA: u64 = 24;

/// The kernel's tables of frames.
pub(crate) struct Frames {
    counts: File,
    zero: u64,
}

impl Frames {
    /// An error where this program may not see frames.
    pub(crate) fn open() -> io::Result<Self> {
        let counts = File::open("/proc/kpagecount")?;
        let zero = zero_frame()?;
        Ok(Self { counts, zero })
    }

    /// Mappings of a frame in the whole system.
    pub(crate) fn count(&self, pfn: u64) -> io::Result<u64> {
        let mut word = [0; 8];
        self.counts.read_exact_at(&mut word, pfn * 8)?;
        Ok(u64::from_ne_bytes(word))
    }

    /// The entries of the range. `None`: a page is being moved right now.
    pub(crate) fn entries(&self, process: &Process) -> io::Result<Option<Vec<Seen>>> {
        let mut bytes = [0; PAGES as usize * 8];
        process.pagemap.read_exact_at(&mut bytes, BASE / PAGE * 8)?;
        let words = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
        Ok(words
            .map(|word| match word {
                _ if word & PRESENT != 0 => {
                    let pfn = word & PFN;
                    Some(if pfn == self.zero {
                        Seen::Zero
                    } else if word & FILE != 0 {
                        Seen::File(pfn)
                    } else {
                        Seen::Anon(pfn)
                    })
                }
                _ if word & GUARD != 0 => Some(Seen::Guard),
                _ if word & SWAPPED != 0 && word & SWAP_TYPE >= NO_SWAP_AREA => None,
                _ if word & SWAPPED != 0 => Some(Seen::Swap(word & PFN)),
                _ => Some(Seen::None),
            })
            .collect())
    }
}

/// The frame of the zero page: what a read of untouched memory of this program's own shows.
fn zero_frame() -> io::Result<u64> {
    let word = entry_after(|page| {
        // SAFETY: the page was just mapped, readable.
        unsafe { page.cast::<u8>().read_volatile() };
    })?;
    match word & PFN {
        // Without the right to see them, all frames are 0.
        0 => Err(io::ErrorKind::PermissionDenied.into()),
        pfn => Ok(pfn),
    }
}

/// Whether this kernel has guard regions, and shows them.
pub(crate) fn has_guard_regions() -> io::Result<bool> {
    let word = entry_after(|page| {
        // SAFETY: nobody looks into the page. Where the kernel knows no such advice, the entry says so.
        unsafe { libc::madvise(page, PAGE as usize, Advice::GuardInstall as i32) };
    })?;
    Ok(word & GUARD != 0)
}

/// The entry of a new page of this program's, readable, after `act`.
fn entry_after(act: impl FnOnce(*mut libc::c_void)) -> io::Result<u64> {
    let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new page, at an address of the kernel's choice.
    let page = unsafe { libc::mmap(core::ptr::null_mut(), PAGE as usize, prot, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    act(page);
    let mut word = [0; 8];
    let read = File::open("/proc/self/pagemap")?.read_exact_at(&mut word, page as u64 / PAGE * 8);
    // SAFETY: it is this function's, and nobody has a reference into it.
    unsafe { libc::munmap(page, PAGE as usize) };
    read.map(|()| u64::from_ne_bytes(word))
}

/// The VMAs of the range, in order.
pub(crate) fn vmas(process: &Process) -> io::Result<Vec<VmaLine>> {
    let mut text = Vec::new();
    let mut all = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let got = process.maps.read_at(&mut piece, text.len() as u64)?;
        text.extend_from_slice(&piece[..got]);
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let lines = String::from_utf8_lossy(&text[..whole]);
        all.clear();
        for line in lines.lines() {
            let vma = parse(line).ok_or_else(|| io::Error::other(format!("not a line of maps: {line}")))?;
            if vma.first >= PAGES {
                return Ok(all);
            }
            all.push(vma);
        }
        if got == 0 {
            return Ok(all);
        }
    }
}

/// `start-end perms offset major:minor inode name`
fn parse(line: &str) -> Option<VmaLine> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = (hex(start)?.checked_sub(BASE)?, hex(end)?.checked_sub(BASE)?);
    let perms = fields.next()?;
    let pgoff = hex(fields.next()?)? / PAGE;
    let _device = fields.next()?;
    let inode = fields.next()?.parse().ok()?;
    let object = if inode == 0 { Object::None } else { Object::Inode(inode) };
    let letters = [("r", 1), ("w", 2), ("x", 4)];
    let prot = letters.iter().filter(|(letter, _)| perms.contains(letter)).map(|(_, bit)| bit).sum();
    let pgoff = if inode == 0 { 0 } else { pgoff };
    Some(VmaLine {
        first: start / PAGE,
        pages: (end - start) / PAGE,
        prot,
        shared: perms.ends_with('s'),
        object,
        pgoff,
    })
}

/// The bytes of a page that is present in a VMA that can be read: it takes no fault.
pub(crate) fn bytes(process: &Process, page: u64) -> io::Result<[u8; PAGE as usize]> {
    let mut bytes = [0; PAGE as usize];
    process.memory.read_exact_at(&mut bytes, address(page))?;
    Ok(bytes)
}
