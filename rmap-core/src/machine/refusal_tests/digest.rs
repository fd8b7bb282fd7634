//! All that a program or an embedder can see of a machine, as text.

use crate::base::alloc::HeapVec;
use crate::base::sync::atomic::Ordering;
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::machine::Machine;
use crate::machine::system::SoftSystem;
use crate::mm::address_space::MmLocked;
use crate::mm::{FileRef, MmRef, Vma, VmaBounds};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::mapping::Mapping;
use crate::page::pte::{Pte, PteFlags, SwapEntry};
use crate::page::radix::ADDRESS_END;
use core::fmt::Write;
use std::string::String;
use std::vec::Vec;

/// What a failed operation may have changed, and is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Nothing.
    Nothing,
    /// What makes ready and cannot be seen: anchors of VMAs without pages, and empty page tables.
    Readiness,
    /// That too, and what a failed fork leaves: entries without write access, pages that are not exclusive, and what
    /// entries say of their pages (dirty) noted in the pages already.
    Fork,
    /// What a fault has done on its way: a stack has grown, a page that was in swap has come back. That there is memory
    /// is left, and not where it is, nor figures.
    Steps,
}

/// Names for addresses: the same object has the same, in the order in which they were asked for.
#[derive(Default)]
struct Names(Vec<usize>);

impl Names {
    fn of(&mut self, address: usize) -> usize {
        self.0.iter().position(|known| *known == address).unwrap_or_else(|| {
            self.0.push(address);
            self.0.len() - 1
        })
    }
}

/// A machine at rest: layouts, entries, counts, words by whose they are, contents, files, swap, figures, and what the
/// engine holds. VMAs that mean the same as one are shown as one.
pub(super) fn digest<S: SoftSystem>(machine: &Machine<S>, leave: Leave) -> String {
    machine.rmap().arena().rcu.drain();
    let mut out = String::new();
    let mms: HeapVec<MmRef<S>> = machine.snapshot_mms().unwrap();
    for mm in &mms {
        write_mm(&mut out, machine, mm, leave);
    }
    if leave == Leave::Steps {
        return out;
    }
    let mut names = Names::default();
    for page in machine.rmap().pages().iter().filter(|page| page.refcount() != 0) {
        write_page(&mut out, machine, page, &mut names, leave);
    }
    let files: Vec<FileRef<S>> = machine.files.lock().iter().cloned().collect();
    for file in &files {
        let mut cached = Vec::new();
        file.for_each_page(|pgoff, page| cached.push((pgoff, page.pfn().0)));
        cached.sort_unstable();
        let _ = writeln!(out, "file {} of {}, cached {cached:?}", file.id(), file.size());
    }
    if let Some(swap) = machine.swap_store() {
        let _ = writeln!(out, "swap: {} slots used", swap.used());
        for slot in (0..swap.slots()).filter(|slot| swap.count(*slot) != 0) {
            let _ = writeln!(out, "  {slot}: {} uses, cached {:?}", swap.count(slot), swap.cache_lookup(slot));
        }
    }
    let rmap = machine.rmap();
    let figures = (rmap.anon_mapped(), rmap.anon_large(), rmap.file_mapped(), machine.frames().free_frames());
    let _ = writeln!(out, "{figures:?} frames");
    if leave == Leave::Nothing {
        // Not the links: a cut VMA whose parts could not be joined again has one more.
        let _ = writeln!(out, "{} anchors", machine.footprint().unwrap().anchors);
    }
    out
}

fn write_mm<S: SoftSystem>(out: &mut String, machine: &Machine<S>, mm: &MmRef<S>, leave: Leave) {
    let held = mm.read();
    let state = mm.data();
    let settings = [&state.mmap_base, &state.start_brk, &state.brk, &state.stack_limit, &state.def_flags];
    let settings = settings.map(|word| word.load(Ordering::Relaxed));
    let _ = writeln!(out, "mm {} users {} {settings:x?}", mm.id(), mm.users());
    if leave != Leave::Steps {
        let _ = writeln!(out, "  {:?}", state.counters.snapshot());
    }
    let mut shown = None;
    for vma in held.vmas() {
        let end = vma.bounds().end;
        let kind = (
            vma.flags(),
            vma.file().map(|file| file.id()),
            held.name_of(vma).map(|name| name.to_vec()),
            *held.data_of(vma),
            (leave == Leave::Nothing).then(|| machine.rmap().engine().is_prepared(vma)),
        );
        shown = Some(match shown {
            Some((first, last, as_before)) if continues::<S>(first, last, vma) && as_before == kind => {
                (first, end, as_before)
            }
            before => {
                write_run(out, before);
                let grows = vma.has(VmFlags::GROWSDOWN) && leave == Leave::Steps;
                let bounds = if grows { VmaBounds { start: end, end, pgoff: 0 } } else { vma.bounds() };
                (bounds, end, kind)
            }
        });
    }
    write_run(out, shown);
    mm.table().for_each(VirtAddr(0), ADDRESS_END, |addr, pte| {
        let _ = match pte {
            Pte::Present { .. } | Pte::Swap(_) if leave == Leave::Steps => writeln!(out, "  {:#x}: a page", addr.0),
            _ => writeln!(out, "  {:#x}: {:?}", addr.0, shown_entry(pte, leave)),
        };
    });
    if leave == Leave::Nothing {
        let _ = writeln!(out, "  {} tables", mm.table().nr_tables());
    }
}

/// Whether a VMA goes on where a run of VMAs ends.
fn continues<S: SoftSystem>(first: VmaBounds, last: VirtAddr, vma: &Vma<S>) -> bool {
    vma.start() == last && vma.pgoff() == first.pgoff_of(last)
}

fn write_run<K: core::fmt::Debug>(out: &mut String, run: Option<(VmaBounds, VirtAddr, K)>) {
    if let Some((bounds, end, kind)) = run {
        let _ = writeln!(out, "  [{:#x}, {:#x}) pgoff {:#x} {kind:?}", bounds.start.0, end.0, bounds.pgoff);
    }
}

fn shown_entry(pte: Pte, leave: Leave) -> Pte {
    match pte {
        Pte::Present { pfn, flags } if leave == Leave::Fork => Pte::present(pfn, flags - PteFlags::WRITE),
        Pte::Swap(entry) if leave == Leave::Fork => Pte::Swap(SwapEntry { exclusive: false, ..entry }),
        other => other,
    }
}

fn write_page<S: SoftSystem>(out: &mut String, machine: &Machine<S>, page: &Page, names: &mut Names, leave: Leave) {
    let whose = match page.head().mapping().load() {
        Mapping::None => String::from("nobody"),
        Mapping::File(word) => std::format!("file {}", names.of(word.addr().get())),
        Mapping::Anon(word) | Mapping::Ksm(word) => std::format!("anchor {}", names.of(word.addr().get())),
    };
    let hidden = if leave == Leave::Fork { PageFlags::ANON_EXCLUSIVE | PageFlags::DIRTY } else { PageFlags::empty() };
    let mut bytes = [0; PAGE_SIZE as usize];
    machine.frames().read(page.pfn(), 0, &mut bytes);
    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let counts = (page.single_mapcount(), page.entire_mapcount(), page.refcount(), page.pins());
    let _ = writeln!(
        out,
        "frame {}: {counts:?} {:?} of {whose} at {:#x}, private {}, contents {sum:x}",
        page.pfn().0,
        page.flags() - hidden,
        page.index(),
        page.private(),
    );
}

/// The lines in which two digests differ.
pub(super) fn difference(before: &str, after: &str) -> String {
    let gone = before.lines().filter(|line| !after.lines().any(|other| other == *line)).map(|line| ("-", line));
    let come = after.lines().filter(|line| !before.lines().any(|other| other == *line)).map(|line| ("+", line));
    gone.chain(come).map(|(sign, line)| std::format!("\n{sign} {line}")).collect()
}
