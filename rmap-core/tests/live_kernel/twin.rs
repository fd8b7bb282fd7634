//! The machine as the tree's twin: it does each step too.

use crate::kernel::address;
use crate::ops::{Candidate, Kind, OBJECT_PAGES, Op, PAGES, SLOTS, Step};
use crate::state::{Object, Seen, VmaLine};
use rmap_core::base::alloc::Heap;
use rmap_core::base::error::{Error, Result};
use rmap_core::base::types::{VirtAddr, VmFlags};
use rmap_core::engine::Engine;
use rmap_core::machine::advise::{Advice, GUARD_MARKER};
use rmap_core::machine::map::{MapFlags, MapRequest};
use rmap_core::machine::oracle::Broken;
use rmap_core::machine::remap::MremapFlags;
use rmap_core::machine::swap::Backing;
use rmap_core::machine::system::{Access, AnonVmaSystem, FileExt};
use rmap_core::machine::{Machine, MachineConfig};
use rmap_core::mm::address_space::MmLocked;
use rmap_core::mm::{FileRef, MmRef};
use rmap_core::page::pte::{PageTable, Pte};
use std::str::FromStr;

/// What a twin can get wrong on purpose: the comparison has to notice each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// fork copies what MADV_DONTFORK leaves out.
    DontForkIgnored,
    /// fork copies the pages that MADV_WIPEONFORK leaves out.
    WipeOnForkKept,
    /// MREMAP_DONTUNMAP copies the pages instead of moving them.
    DontUnmapKeepsSource,
    /// A write to a page that was shared by fork is seen by the relatives.
    CopyOnWriteSkipped,
    /// MADV_DONTNEED takes guard regions away.
    GuardsForgotten,
}

impl Wrong {
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("dontfork-ignored", Self::DontForkIgnored),
        ("wipeonfork-kept", Self::WipeOnForkKept),
        ("dontunmap-keeps-source", Self::DontUnmapKeepsSource),
        ("copy-on-write-skipped", Self::CopyOnWriteSkipped),
        ("guards-forgotten", Self::GuardsForgotten),
    ];
}

impl FromStr for Wrong {
    type Err = String;

    fn from_str(name: &str) -> core::result::Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, wrong)| *wrong).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("no wrong model {name}: there are {}", names.join(", "))
        })
    }
}

struct Twin {
    mm: MmRef<AnonVmaSystem>,
    depth: u32,
}

/// The machine, with an address space for each process of the tree.
pub(crate) struct Twins {
    machine: Machine<AnonVmaSystem>,
    slots: Vec<Option<Twin>>,
    file: FileRef<AnonVmaSystem>,
    memory: FileRef<AnonVmaSystem>,
    wrong: Option<Wrong>,
}

fn at(page: u64) -> VirtAddr {
    VirtAddr(address(page))
}

fn bytes(pages: u64) -> u64 {
    address(pages) - address(0)
}

fn prot_flags(prot: u32) -> VmFlags {
    VmFlags::from_bits_retain(u64::from(prot)) & VmFlags::ACCESS
}

impl Twins {
    /// One process.
    pub(crate) fn new(wrong: Option<Wrong>) -> Result<Self> {
        let heap = Heap::global()?;
        let frames = 4 * SLOTS as u64 * PAGES;
        let mut config = MachineConfig::new(&heap, frames);
        config.swap = Some((Backing::memory(&heap, frames)?, frames));
        let machine = Machine::new(config)?;
        let file = machine.new_file(OBJECT_PAGES, FileExt::default())?;
        let memory = machine.new_shmem(OBJECT_PAGES)?;
        let mut slots: Vec<_> = (0..SLOTS).map(|_| None).collect();
        slots[0] = Some(Twin { mm: machine.mm_new()?, depth: 0 });
        Ok(Self { machine, slots, file, memory, wrong })
    }

    fn mm(&self, slot: usize) -> &MmRef<AnonVmaSystem> {
        &self.slots[slot].as_ref().expect("the slot has a process").mm
    }

    /// The slots that have a process.
    pub(crate) fn slots(&self) -> Vec<usize> {
        (0..SLOTS).filter(|&slot| self.slots[slot].is_some()).collect()
    }

    /// What the drawing of a step has to know.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let of = |slot: usize| {
            let twin = self.slots[slot].as_ref()?;
            let vmas = self.vmas(slot).iter().map(|vma| (vma.first, vma.pages)).collect();
            Some(Candidate { slot, depth: twin.depth, vmas })
        };
        (0..SLOTS).filter_map(of).collect()
    }

    /// Does a step; the value is a load's word.
    pub(crate) fn apply(&mut self, Step { slot, op }: Step) -> Result<u64> {
        let mm = self.mm(slot).clone();
        let machine = &self.machine;
        match op {
            Op::Map { at, pages, prot, kind, pgoff } => self.map(&mm, (at, pages), prot, kind, pgoff)?,
            Op::Unmap { at: page, pages } => machine.munmap(&mm, at(page), bytes(pages))?,
            Op::Protect { at: page, pages, prot } => {
                machine.mprotect(&mm, at(page), bytes(pages), prot_flags(prot))?;
            }
            Op::Resize { at: page, old, new } => {
                machine.mremap(&mm, at(page), bytes(old), bytes(new), MremapFlags::empty(), None)?;
            }
            Op::Move { at: page, old, new, to } => {
                let flags = MremapFlags::MAYMOVE | MremapFlags::FIXED;
                let done = machine.mremap(&mm, at(page), bytes(old), bytes(new), flags, Some(at(to)));
                if done == Err(Error::Invalid) && old == 0 && to == page && Self::has(&mm, at(page), VmFlags::SHARED) {
                    // The kernel makes room for the second mapping before it finds that the first was there.
                    machine.munmap(&mm, at(to), bytes(new))?;
                }
                done?;
            }
            Op::MoveLeaving { at: page, pages, to } => {
                let flags = MremapFlags::MAYMOVE | MremapFlags::FIXED | MremapFlags::DONTUNMAP;
                machine.mremap(&mm, at(page), bytes(pages), bytes(pages), flags, Some(at(to)))?;
                if self.wrong == Some(Wrong::DontUnmapKeepsSource) {
                    self.copy(&mm, to, &mm, page, pages);
                }
            }
            Op::Advise { at: page, pages, advice } => {
                machine.madvise(&mm, at(page), bytes(pages), advice)?;
                if self.wrong == Some(Wrong::GuardsForgotten) && advice == Advice::DontNeed {
                    machine.madvise(&mm, at(page), bytes(pages), Advice::GuardRemove)?;
                }
            }
            Op::Load { at: page } => {
                let mut word = [0; 8];
                machine.read(&mm, at(page), &mut word)?;
                return Ok(u64::from_le_bytes(word));
            }
            Op::Store { at: page, value } => self.store(&mm, at(page), value)?,
            Op::Fork { child } => {
                let depth = self.slots[slot].as_ref().map_or(0, |twin| twin.depth) + 1;
                let forked = machine.fork(&mm)?;
                self.fork_wrongly(&mm, &forked)?;
                self.slots[child] = Some(Twin { mm: forked, depth });
            }
            Op::Exit => {
                self.slots[slot] = None;
                machine.exit(mm);
            }
            // What went to swap is the kernel's choice: `swap_out` follows it.
            Op::Reclaim => {}
        }
        Ok(0)
    }

    fn map(
        &self,
        mm: &MmRef<AnonVmaSystem>,
        (page, pages): (u64, u64),
        prot: u32,
        kind: Kind,
        pgoff: u64,
    ) -> Result<()> {
        let object = match kind {
            Kind::Anon | Kind::SharedAnon => None,
            Kind::FilePrivate | Kind::FileShared => Some(&self.file),
            Kind::MemPrivate | Kind::MemShared => Some(&self.memory),
        };
        let sharing = if kind.is_shared() { MapFlags::SHARED } else { MapFlags::PRIVATE };
        let request = MapRequest {
            addr: Some(at(page)),
            file: object.map(|file| (file.clone(), pgoff)),
            ..MapRequest::new(bytes(pages), prot_flags(prot), sharing | MapFlags::FIXED)
        };
        self.machine.mmap(mm, &request).map(drop)
    }

    fn store(&self, mm: &MmRef<AnonVmaSystem>, addr: VirtAddr, value: u64) -> Result<()> {
        if self.wrong == Some(Wrong::CopyOnWriteSkipped)
            && let Pte::Present { pfn, .. } = mm.table().load(addr)
            && Self::has(mm, addr, VmFlags::WRITE)
        {
            self.machine.frames().write(pfn, 0, &value.to_le_bytes());
            return Ok(());
        }
        let done = self.machine.write(mm, addr, &value.to_le_bytes());
        if done == Err(Error::Bus) {
            self.prepare_as_the_kernel(mm, addr)?;
        }
        done
    }

    /// A write to a private mapping beyond its file's end fails, but not before the kernel has given the VMA an
    /// anon_vma. Here a fault that fails leaves nothing (G4), and later the VMA would join neighbours that the kernel's
    /// does not.
    fn prepare_as_the_kernel(&self, mm: &MmRef<AnonVmaSystem>, addr: VirtAddr) -> Result<()> {
        let held = mm.read();
        match held.find(addr).filter(|vma| !vma.has(VmFlags::SHARED)) {
            Some(vma) => self.machine.rmap().engine().prepare(vma),
            None => Ok(()),
        }
    }

    /// Whether a VMA is there that has the flag.
    fn has(mm: &MmRef<AnonVmaSystem>, addr: VirtAddr, flag: VmFlags) -> bool {
        mm.read().find(addr).is_some_and(|vma| vma.has(flag))
    }

    /// Of the wrong models: what fork should have left out comes into the child after all.
    fn fork_wrongly(&self, parent: &MmRef<AnonVmaSystem>, child: &MmRef<AnonVmaSystem>) -> Result<()> {
        let wanted = match self.wrong {
            Some(Wrong::DontForkIgnored) => VmFlags::DONTFORK,
            Some(Wrong::WipeOnForkKept) => VmFlags::WIPEONFORK,
            _ => return Ok(()),
        };
        let held = parent.read();
        let left_out: Vec<_> =
            held.vmas().filter(|vma| vma.has(wanted)).map(|vma| (vma.bounds(), vma.flags())).collect();
        drop(held);
        for (bounds, flags) in left_out {
            let len = bounds.end.0 - bounds.start.0;
            if wanted == VmFlags::DONTFORK {
                let map = MapFlags::PRIVATE | MapFlags::FIXED;
                let request =
                    MapRequest { addr: Some(bounds.start), ..MapRequest::new(len, flags & VmFlags::ACCESS, map) };
                self.machine.mmap(child, &request)?;
            }
            let first = (bounds.start.0 - address(0)) >> 12;
            self.copy(parent, first, child, first, bounds.pages());
        }
        Ok(())
    }

    /// Writes what is present at `from` to `to`, where it can be written.
    fn copy(&self, from_mm: &MmRef<AnonVmaSystem>, from: u64, to_mm: &MmRef<AnonVmaSystem>, to: u64, pages: u64) {
        for page in 0..pages {
            let Some(pfn) = from_mm.table().load(at(from + page)).pfn() else { continue };
            let mut word = [0; 8];
            self.machine.frames().read(pfn, 0, &mut word);
            // A wrong model is as wrong as it can be: a page that may not be written stays as it is.
            let _ = self.machine.write(to_mm, at(to + page), &word);
        }
    }

    /// The page at an entry goes to swap, as the kernel's has gone.
    pub(crate) fn swap_out(&self, slot: usize, page: u64) -> Result<()> {
        if let Pte::Present { pfn, .. } = self.mm(slot).table().load(at(page)) {
            let page = self.machine.rmap().pages().page(pfn).ok_or(Error::Foreign)?;
            self.machine.swap_out(page)?;
        }
        Ok(())
    }

    /// The entries of the range.
    pub(crate) fn entries(&self, slot: usize) -> Vec<Seen> {
        let table = self.mm(slot).table();
        let seen = |page| match table.load(at(page)) {
            Pte::Present { pfn, .. } => {
                let page = self.machine.rmap().pages().page(pfn).expect("a frame of the machine's");
                if page.mapping().load().is_anon() { Seen::Anon(pfn.0) } else { Seen::File(pfn.0) }
            }
            Pte::Special { .. } => Seen::Zero,
            Pte::Swap(entry) => Seen::Swap(entry.slot),
            Pte::Marker(GUARD_MARKER) => Seen::Guard,
            _ => Seen::None,
        };
        (0..PAGES).map(seen).collect()
    }

    /// The VMAs of the range, in order.
    pub(crate) fn vmas(&self, slot: usize) -> Vec<VmaLine> {
        let held = self.mm(slot).read();
        let line = |vma: &rmap_core::mm::Vma<AnonVmaSystem>| VmaLine {
            first: (vma.start().0 - address(0)) >> 12,
            pages: vma.pages(),
            prot: (vma.flags() & VmFlags::ACCESS).bits() as u32,
            shared: vma.has(VmFlags::SHARED),
            object: vma.file().map_or(Object::None, |file| Object::File(file.id())),
            pgoff: vma.file().map_or(0, |_| vma.pgoff()),
        };
        held.vmas().map(line).collect()
    }

    /// The bytes of a page that is present.
    pub(crate) fn bytes(&self, slot: usize, page: u64) -> Option<[u8; 4096]> {
        let pfn = self.mm(slot).table().load(at(page)).pfn()?;
        let mut bytes = [0; 4096];
        self.machine.frames().read(pfn, 0, &mut bytes);
        Some(bytes)
    }

    /// A page is there for reading: from swap, or the zero page.
    pub(crate) fn fault_in(&self, slot: usize, page: u64) -> Result<()> {
        self.machine.fault(self.mm(slot), at(page), Access::Read)
    }

    /// The machine's own oracle: its reverse map against its page tables.
    pub(crate) fn check(&self) -> core::result::Result<(), Broken> {
        self.machine.check().map(drop)
    }
}
