//! The comparison of the tree with its twin.
//!
//! | what | how |
//! |---|---|
//! | VMAs | boundaries, protection, sharing, file offset exactly; no neighbours are merged first. Two VMAs have one inode if and only if they have one file |
//! | anonymous pages | the same entries; two have one frame if and only if they have one in the machine; /proc/kpagecount is the number of them |
//! | the zero page, guard regions | the same entries |
//! | pages in swap | the same entries, in the same partition into slots |
//! | bytes | each word that is loaded; now and then all pages that are present and readable |
//!
//! **What is left to the kernel.**
//!
//! - Which pages of files and shared memory are mapped beside those touched (it maps around a fault what is cached, and may
//!   drop what nobody uses): a page that was just touched must be there; of the others those that both sides have are
//!   compared, in one partition.
//! - What goes to swap, and when. A page that is in swap in the kernel goes to swap in the machine, by way of the
//!   reverse map, and all who share it must find it so.
//! - That a failed write to a private mapping, beyond the end of its file, gives the VMA an anon_vma: the machine is
//!   given one too, for neighbours join according to it.
//! - That a range which is to be mapped a second time in its own place is unmapped, and the call fails: the machine
//!   changes nothing, and the range is unmapped in it then.
//! - Whether the child of a fork has entries of the zero page.
//! - Which frame it is. A page may be moved between two looks: a look counts when two in a row agree.

use crate::kernel::{self, Frames};
use crate::ops::PAGES;
use crate::state::{Object, Seen, VmaLine};
use crate::twin::Twins;
use crate::worker::Tree;
use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::Duration;

/// Why a comparison ends the run.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The sides differ.
    Differ(String),
    /// Something else than the comparison went wrong.
    Broken(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// What a successful comparison saw.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) comparisons: u64,
    pub(crate) anon_entries: u64,
    pub(crate) shared_frames: u64,
    pub(crate) file_entries: u64,
    pub(crate) swap_entries: u64,
    pub(crate) guard_entries: u64,
    pub(crate) vmas: u64,
    pub(crate) pages_of_bytes: u64,
}

/// Looks at entries until two in a row agree.
const LOOKS: u32 = 200;
/// Looks that differ from the machine before it is a difference: counts follow entries with a delay.
const TRIES: u32 = 20;

/// A one-to-one relation between the kernel's numbers and the machine's.
struct Pairs<K, M> {
    there: BTreeMap<K, M>,
    back: BTreeMap<M, K>,
}

impl<K: Ord + Copy, M: Ord + Copy> Pairs<K, M> {
    fn new() -> Self {
        Self { there: BTreeMap::new(), back: BTreeMap::new() }
    }

    /// Whether the two can belong together.
    fn join(&mut self, kernel: K, machine: M) -> bool {
        *self.there.entry(kernel).or_insert(machine) == machine && *self.back.entry(machine).or_insert(kernel) == kernel
    }
}

type Entries = Vec<(usize, Vec<Seen>)>;

fn look(tree: &Tree, frames: &Frames, slots: &[usize]) -> io::Result<Option<Entries>> {
    slots
        .iter()
        .map(|&slot| Ok(frames.entries(tree.process(slot))?.map(|entries| (slot, entries))))
        .collect::<io::Result<Option<_>>>()
}

fn steady_look(tree: &Tree, frames: &Frames, slots: &[usize]) -> Result<Entries, Failure> {
    let mut last = None;
    for _ in 0..LOOKS {
        let now = look(tree, frames, slots)?;
        match now {
            Some(entries) if last.as_ref() == Some(&entries) => return Ok(entries),
            None => thread::sleep(Duration::from_millis(1)),
            Some(_) => {}
        }
        last = now;
    }
    Err(Failure::Broken("the tree's page tables do not come to rest".into()))
}

/// Compares everything but the bytes. `touched`: slot and page that must be there.
pub(crate) fn compare(
    tree: &Tree,
    frames: &Frames,
    twins: &Twins,
    touched: Option<(usize, u64)>,
    totals: &mut Totals,
) -> Result<(), Failure> {
    let slots = twins.slots();
    compare_vmas(tree, twins, &slots, totals)?;
    let mut tries = 0;
    loop {
        let seen = steady_look(tree, frames, &slots)?;
        follow_swap(twins, &seen)?;
        let mut now = *totals;
        match compare_entries(twins, frames, &seen, touched, &mut now) {
            Err(Failure::Differ(_)) if tries < TRIES => {
                tries += 1;
                thread::sleep(Duration::from_millis(1));
            }
            done => {
                *totals = now;
                totals.comparisons += 1;
                return done;
            }
        }
    }
}

fn compare_vmas(tree: &Tree, twins: &Twins, slots: &[usize], totals: &mut Totals) -> Result<(), Failure> {
    let mut objects = Pairs::new();
    for &slot in slots {
        let (theirs, ours) = (kernel::vmas(tree.process(slot))?, twins.vmas(slot));
        let anyhow = |vma: &VmaLine| VmaLine { object: Object::None, ..*vma };
        let alike = theirs.len() == ours.len()
            && theirs.iter().zip(&ours).all(|(k, m)| anyhow(k) == anyhow(m) && objects.join(k.object, m.object));
        if !alike {
            let lines = |all: &[VmaLine]| all.iter().map(|vma| format!("\n    {vma:?}")).collect::<String>();
            let (theirs, ours) = (lines(&theirs), lines(&ours));
            return Err(Failure::Differ(format!("VMAs of process {slot}:\n  kernel{theirs}\n  machine{ours}")));
        }
        totals.vmas += ours.len() as u64;
    }
    Ok(())
}

/// What the kernel has swapped out goes to swap in the machine too. Of a page that goes, an entry may have stayed in the
/// kernel, or come back: it faults back.
fn follow_swap(twins: &Twins, seen: &Entries) -> Result<(), Failure> {
    let broken = |error| Failure::Broken(format!("swap in the machine: {error:?}"));
    let mut went = false;
    for (slot, theirs) in seen {
        let ours = twins.entries(*slot);
        for page in 0..PAGES {
            if let (Seen::Swap(_), Seen::Anon(_)) = (theirs[page as usize], ours[page as usize]) {
                // Entries may be gone even where the frame is not free yet.
                twins.swap_out(*slot, page).map_err(broken)?;
                went = true;
            }
        }
    }
    if !went {
        return Ok(());
    }
    for (slot, theirs) in seen {
        let ours = twins.entries(*slot);
        for page in 0..PAGES {
            if let (Seen::Anon(_), Seen::Swap(_)) = (theirs[page as usize], ours[page as usize]) {
                twins.fault_in(*slot, page).map_err(broken)?;
            }
        }
    }
    Ok(())
}

/// What the child of a fork has of the zero page, the kernel decides: it copies entries of a VMA that has no anon_vma, if
/// a guard region was ever in it (6.18). No program can tell.
pub(crate) fn follow_fork(tree: &Tree, frames: &Frames, twins: &Twins, child: usize) -> Result<(), Failure> {
    for (slot, theirs) in steady_look(tree, frames, &[child])? {
        let ours = twins.entries(slot);
        for page in 0..PAGES {
            if let (Seen::Zero, Seen::None) = (theirs[page as usize], ours[page as usize]) {
                twins.fault_in(slot, page).map_err(|error| Failure::Broken(format!("the zero page: {error:?}")))?;
            }
        }
    }
    Ok(())
}

fn compare_entries(
    twins: &Twins,
    frames: &Frames,
    seen: &Entries,
    touched: Option<(usize, u64)>,
    totals: &mut Totals,
) -> Result<(), Failure> {
    let mut anon = Pairs::new();
    let mut file = Pairs::new();
    let mut swap = Pairs::new();
    let mut sharers = BTreeMap::<u64, u64>::new();
    for (slot, theirs) in seen {
        let ours = twins.entries(*slot);
        for (page, (&kernel, &machine)) in theirs.iter().zip(&ours).enumerate() {
            let alike = match (kernel, machine) {
                (Seen::Anon(k), Seen::Anon(m)) => {
                    *sharers.entry(k).or_default() += 1;
                    anon.join(k, m)
                }
                (Seen::File(k), Seen::File(m)) => {
                    totals.file_entries += 1;
                    file.join(k, m)
                }
                (Seen::Swap(k), Seen::Swap(m)) => {
                    totals.swap_entries += 1;
                    swap.join(k, m)
                }
                // The kernel's freedom, but not where the program has just been.
                (Seen::File(_), Seen::None) | (Seen::None, Seen::File(_)) => touched != Some((*slot, page as u64)),
                (Seen::Guard, Seen::Guard) => {
                    totals.guard_entries += 1;
                    true
                }
                (Seen::Zero, Seen::Zero) | (Seen::None, Seen::None) => true,
                _ => false,
            };
            if !alike {
                let text = format!("page {page} of process {slot}: kernel {kernel:x?}, machine {machine:x?}");
                return Err(Failure::Differ(text));
            }
        }
    }
    for (&pfn, &mappers) in &sharers {
        let count = frames.count(pfn)?;
        if count != mappers {
            return Err(Failure::Differ(format!("frame {pfn:x}: kpagecount {count}, machine {mappers} mappings")));
        }
        totals.anon_entries += mappers;
        totals.shared_frames += u64::from(mappers > 1);
    }
    Ok(())
}

/// Compares the bytes of all pages that are present on both sides and can be read, and asks the machine's own oracle.
pub(crate) fn compare_bytes(tree: &Tree, frames: &Frames, twins: &Twins, totals: &mut Totals) -> Result<(), Failure> {
    let slots = twins.slots();
    for (slot, theirs) in steady_look(tree, frames, &slots)? {
        let ours = twins.entries(slot);
        for vma in twins.vmas(slot).iter().filter(|vma| vma.prot != 0) {
            for page in vma.first..vma.first + vma.pages {
                let (kernel, machine) = (theirs[page as usize], ours[page as usize]);
                if !matches!((kernel, machine), (Seen::Anon(_), Seen::Anon(_)) | (Seen::File(_), Seen::File(_))) {
                    continue;
                }
                totals.pages_of_bytes += 1;
                let theirs = kernel::bytes(tree.process(slot), page)?;
                if twins.bytes(slot, page) != Some(theirs) {
                    return Err(Failure::Differ(format!("bytes of page {page} of process {slot}")));
                }
            }
        }
    }
    twins.check().map_err(|broken| Failure::Broken(format!("the machine's oracle: {broken:?}")))
}
