//! The machine as a [`Target`]: each event is one of its calls.
//!
//! An object's size is not in a trace: a file here reaches as far as it was ever mapped. Its pages begin as zero, since
//! a trace holds no contents.

use super::compare::{PresentPage, ProcessState, VmaRun};
use super::mmt::{LockCall, MapKind, Want};
use super::replay::{Mapping, Replay, Target};
use super::{Object, Span};
use crate::base::error::{Error, Result};
use crate::base::types::{PAGE_SHIFT, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::machine::Machine;
use crate::machine::advise::Advice;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::remap::MremapFlags;
use crate::machine::system::{Access, FileExt, SoftSystem};
use crate::mm::address_space::MmLocked;
use crate::mm::{FileRef, MmRef, Vma};
use crate::page::pte::{PageTable, Pte};
use alloc::collections::BTreeMap;
use core::fmt;

/// The system call's flag: the old VMA stays where it was, empty.
const MREMAP_DONTUNMAP: u32 = 4;

/// A machine to replay in.
pub struct OnMachine<'m, S: SoftSystem> {
    machine: &'m Machine<S>,
    /// What each file stands for, by the file's number.
    objects: BTreeMap<u64, Object>,
}

/// A replay in a machine.
pub type MachineReplay<'m, S> = Replay<OnMachine<'m, S>>;

impl<'m, S: SoftSystem> OnMachine<'m, S> {
    /// A target over `machine`. Address spaces that it has already are left alone.
    pub fn new(machine: &'m Machine<S>) -> Self {
        Self { machine, objects: BTreeMap::new() }
    }

    /// The machine.
    pub fn machine(&self) -> &'m Machine<S> {
        self.machine
    }

    fn run_of(&self, vma: &Vma<S>) -> VmaRun {
        let bounds = vma.bounds();
        VmaRun {
            span: Span { vpn: bounds.start.vpn(), pages: bounds.pages() },
            prot: vma.flags() & VmFlags::ACCESS,
            shared: vma.has(VmFlags::SHARED),
            object: vma.file().and_then(|file| self.objects.get(&file.id()).copied()),
            pgoff: bounds.pgoff,
            special: vma.has(VmFlags::SPECIAL),
        }
    }
}

impl<S: SoftSystem> MachineReplay<'_, S> {
    /// Draws the reverse map of the page that a process of the mark has at `addr`, under a caption that says so:
    /// [`Rmap::dump_dot`](crate::rmap::Rmap::dump_dot).
    ///
    /// [`Error::Invalid`]: the mark has no such process; [`Error::NotMapped`]: it has no page there, in memory; else as
    /// that.
    pub fn dump_dot(
        &self,
        pid: u32,
        addr: VirtAddr,
        caption: impl fmt::Display,
        out: &mut impl fmt::Write,
    ) -> Result<()> {
        let addr = addr.page_down();
        let (_, _, mm) = self.pids().find(|(other, ..)| *other == pid).ok_or(Error::Invalid)?;
        let rmap = self.target().machine().rmap();
        let pfn = mm.table().load(addr).pfn().ok_or(Error::NotMapped)?;
        let page = rmap.pages().page(pfn).ok_or(Error::Foreign)?;
        let (id, engine) = (mm.id(), rmap.engine().name());
        let caption = format_args!("{caption}: {:#x} of process {pid} (mm {id}), engine {engine}", addr.0);
        let _locked = page.lock();
        rmap.dump_dot(page, caption, out)
    }
}

/// First byte and bytes.
fn bytes(span: Span) -> (VirtAddr, u64) {
    (VirtAddr::from_vpn(span.vpn), span.pages << PAGE_SHIFT)
}

impl<S: SoftSystem> Target for OnMachine<'_, S> {
    type Mm = MmRef<S>;
    type Object = FileRef<S>;

    fn new_mm(&mut self) -> Result<MmRef<S>> {
        self.machine.mm_new()
    }

    fn fork(&mut self, parent: &MmRef<S>) -> Result<MmRef<S>> {
        self.machine.fork(parent)
    }

    fn destroy(&mut self, mm: MmRef<S>) {
        self.machine.exit(mm);
    }

    fn new_object(&mut self, object: Object, memory: bool) -> Result<FileRef<S>> {
        let file = if memory { self.machine.new_shmem(0)? } else { self.machine.new_file(0, FileExt::default())? };
        self.objects.insert(file.id(), object);
        Ok(file)
    }

    fn map(&mut self, mm: &MmRef<S>, mapping: &Mapping<'_, FileRef<S>>) -> Result<()> {
        let &Mapping { span, prot, kind, object } = mapping;
        let (addr, len) = bytes(span);
        let shared = if kind.contains(MapKind::SHARED) { MapFlags::SHARED } else { MapFlags::PRIVATE };
        let mut flags = MapFlags::FIXED | shared;
        for (letter, flag) in [
            (MapKind::SPECIAL, MapFlags::SPECIAL),
            (MapKind::STACK, MapFlags::GROWSDOWN),
            (MapKind::POPULATE, MapFlags::POPULATE),
            (MapKind::LOCKED, MapFlags::LOCKED),
        ] {
            flags.set(flag, kind.contains(letter));
        }
        if let Some((file, pgoff)) = object {
            file.set_size(file.size().max(pgoff + span.pages));
        }
        let file = object.map(|(file, pgoff)| (file.clone(), pgoff));
        let request = MapRequest { addr: Some(addr), file, ..MapRequest::new(len, prot, flags) };
        self.machine.mmap(mm, &request).map(|_| ())
    }

    fn unmap(&mut self, mm: &MmRef<S>, span: Span) -> Result<()> {
        let (mut addr, mut len) = bytes(span);
        if len == 0 {
            let held = mm.read();
            let whole = held.find(addr).ok_or(Error::NotMapped)?.bounds();
            (addr, len) = (whole.start, whole.end.0 - whole.start.0);
        }
        self.machine.munmap(mm, addr, len)
    }

    fn protect(&mut self, mm: &MmRef<S>, span: Span, prot: VmFlags) -> Result<()> {
        let (addr, len) = bytes(span);
        self.machine.mprotect(mm, addr, len, prot)
    }

    fn remap(&mut self, mm: &MmRef<S>, old: Span, new: Span, flags: u32) -> Result<()> {
        let ((from, old_len), (to, new_len)) = (bytes(old), bytes(new));
        let mut how = MremapFlags::empty();
        if from != to {
            // Where it came to lie is known, however the kernel chose it.
            how |= MremapFlags::MAYMOVE | MremapFlags::FIXED;
        }
        how.set(MremapFlags::DONTUNMAP, flags & MREMAP_DONTUNMAP != 0);
        self.machine.mremap(mm, from, old_len, new_len, how, (from != to).then_some(to)).map(|_| ())
    }

    fn advise(&mut self, mm: &MmRef<S>, span: Span, advice: u32) -> Result<()> {
        let (addr, len) = bytes(span);
        self.machine.madvise(mm, addr, len, Advice::from_number(advice).ok_or(Error::NotSupported)?)
    }

    fn lock(&mut self, mm: &MmRef<S>, span: Span, call: LockCall) -> Result<()> {
        let (addr, len) = bytes(span);
        match call {
            LockCall::Lock => self.machine.mlock(mm, addr, len, false),
            LockCall::LockOnFault => self.machine.mlock(mm, addr, len, true),
            LockCall::Unlock => self.machine.munlock(mm, addr, len),
        }
    }

    fn grow(&mut self, mm: &MmRef<S>, span: Span) -> Result<()> {
        self.machine.grow_stack(mm, VirtAddr::from_vpn(span.vpn), VirtAddr::from_vpn(span.end()))
    }

    fn fault(&mut self, mm: &MmRef<S>, vpn: u64, want: Want) -> Result<()> {
        let access = match want {
            Want::Read => Access::Read,
            Want::Write => Access::Write,
            Want::Exec => Access::Exec,
        };
        self.machine.fault(mm, VirtAddr::from_vpn(vpn), access)
    }

    fn vmas(&self, mm: &MmRef<S>) -> u64 {
        mm.nr_regions() as u64
    }

    fn state(&self, mm: &MmRef<S>, pid: u32) -> ProcessState {
        let mut state = ProcessState { pid, ..ProcessState::default() };
        for vma in mm.read().vmas() {
            let run = self.run_of(vma);
            state.vmas.push(run);
            if run.special {
                continue;
            }
            mm.table().for_each(vma.start(), vma.end(), |addr, pte| match pte {
                Pte::Present { pfn, .. } => {
                    let page = self.machine.rmap().pages().page(pfn);
                    let anonymous = page.is_some_and(|page| page.head().mapping().load().is_anon());
                    state.pages.push(PresentPage { vpn: addr.vpn(), frame: pfn.0, anonymous });
                }
                Pte::Swap(_) => state.swapped.push(addr.vpn()),
                // The zero page, and what stands for no page.
                _ => {}
            });
        }
        state
    }
}
