//! A machine for tests of layout: touches pages by hand, recomputes every figure, and sees that nothing is left at the
//! end.

use crate::base::alloc::Heap;
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::machine::counters::Snapshot;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::system::{FileExt, SoftSystem};
use crate::machine::{Machine, MachineConfig};
use crate::mm::address_space::MmLocked;
use crate::mm::{FileRef, Mm, MmRef};
use crate::page::flags::PageFlags;
use crate::page::pte::{PageTable, Pte, PteFlags};
use crate::rmap::walk::WalkEnd;
use core::ops::ControlFlow;

pub(super) const RW: VmFlags = VmFlags::READ.union(VmFlags::WRITE);
pub(super) const R: VmFlags = VmFlags::READ;
/// First page of the pictures: 8 pages below the end of a page table, so that ranges reach across it.
pub(super) const BASE: u64 = 1016;
pub(super) const TASK_PAGES: u64 = 4096;

pub(super) const fn at(page: u64) -> VirtAddr {
    VirtAddr::from_vpn(page)
}

pub(super) const fn bytes(pages: u64) -> u64 {
    pages * PAGE_SIZE
}

pub(super) struct Rig<S: SoftSystem> {
    heap: Heap,
    pub(super) machine: Option<Machine<S>>,
    mm: Option<MmRef<S>>,
    pub(super) files: Vec<FileRef<S>>,
}

/// What a page of an address space is, as a program could find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attr {
    pub(super) flags: VmFlags,
    /// The file's number and the page of it.
    pub(super) file: Option<(u64, u64)>,
    pub(super) name: Option<Vec<u8>>,
    /// The first byte of its contents, if it was touched.
    pub(super) tag: Option<u8>,
}

impl<S: SoftSystem> Rig<S> {
    pub(super) fn new() -> Self {
        Self::over(Heap::global().unwrap())
    }

    pub(super) fn over(heap: Heap) -> Self {
        let config = MachineConfig { task_size: at(TASK_PAGES), ..MachineConfig::new(&heap, 1024) };
        let machine = Machine::new(config).unwrap();
        let files = (0..2).map(|_| machine.new_file(64, FileExt::default()).unwrap()).collect();
        let mm = machine.mm_new().unwrap();
        Self { heap, machine: Some(machine), mm: Some(mm), files }
    }

    pub(super) fn m(&self) -> &Machine<S> {
        self.machine.as_ref().unwrap()
    }

    pub(super) fn mm(&self) -> &Mm<S> {
        self.mm.as_ref().unwrap()
    }

    pub(super) fn mm_ref(&self) -> &MmRef<S> {
        self.mm.as_ref().unwrap()
    }

    /// Maps private anonymous memory at a fixed place of the picture.
    pub(super) fn map(&self, page: u64, pages: u64, prot: VmFlags) -> VirtAddr {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let request = MapRequest { addr: Some(at(page)), ..MapRequest::new(bytes(pages), prot, flags) };
        self.m().mmap(self.mm(), &request).unwrap()
    }

    /// The VMAs as `(first page, pages, flags of access)`.
    pub(super) fn picture(&self) -> Vec<(u64, u64, VmFlags)> {
        let held = self.mm().read();
        held.vmas().map(|vma| (vma.start().vpn(), vma.pages(), vma.flags() & VmFlags::ACCESS)).collect()
    }

    /// The engine's name.
    pub(super) const ENGINE: &str = <S::Engine as Engine<S>>::NAME;
    /// Whether regions that were touched apart from one another have an anchor each, and so stay apart.
    pub(super) const ANCHORS: bool = matches!(Self::ENGINE.as_bytes(), b"anon_vma" | b"objrmap");

    /// Whether as many anchors are in use, if regions have any.
    pub(super) fn has_anchors(&self, n: u64) -> bool {
        !Self::ANCHORS || self.m().rmap().engine().footprint().anchors == n
    }

    /// Writes `tag` to a page, if a program may.
    pub(super) fn touch(&self, page: u64, tag: u8) -> bool {
        self.m().write(self.mm(), at(page), &[tag]).is_ok()
    }

    /// The first byte of a page, if one is present.
    pub(super) fn tag(&self, page: u64) -> Option<u8> {
        let pfn = self.mm().table().load(at(page)).pfn()?;
        let mut tag = [0];
        self.m().frames().read(pfn, 0, &mut tag);
        Some(tag[0])
    }

    /// All pages that are mapped.
    pub(super) fn pages(&self) -> Vec<(u64, Attr)> {
        let held = self.mm().read();
        let mut all = Vec::new();
        for vma in held.vmas() {
            for n in 0..vma.pages() {
                let page = vma.start().vpn() + n;
                let file = vma.file().map(|file| (file.id(), vma.pgoff() + n));
                let name = held.name_of(vma).map(|name| name.to_vec());
                all.push((page, Attr { flags: vma.flags(), file, name, tag: self.tag(page) }));
            }
        }
        all
    }

    /// Everything that a failed operation must not have changed.
    pub(super) fn state(&self) -> (Vec<(u64, Attr)>, Snapshot, u64) {
        (self.pages(), self.mm().data().counters.snapshot(), self.m().frames().free_frames())
    }

    /// VMAs are in order, figures agree with VMAs and entries, and every page that is mapped is found, at its place and
    /// nowhere else (G1).
    pub(super) fn check(&self) {
        let mm = self.mm();
        self.m().check().unwrap();
        let held = mm.read();
        let mut sum = Snapshot::default();
        let mut end = VirtAddr(0);
        for vma in held.vmas() {
            assert!(vma.start() >= end && vma.end() > vma.start(), "{vma:?} overlaps");
            end = vma.end();
            let (flags, pages) = (vma.flags(), vma.pages());
            let has = |flag| flags.contains(flag);
            sum.total_vm += pages;
            sum.locked_vm += if has(VmFlags::LOCKED) { pages } else { 0 };
            sum.shared_vm += if has(VmFlags::SHARED) && vma.file().is_some() { pages } else { 0 };
            match (has(VmFlags::GROWSDOWN), has(VmFlags::WRITE), has(VmFlags::EXEC), has(VmFlags::SHARED)) {
                (true, ..) => sum.stack_vm += pages,
                (_, false, true, _) => sum.exec_vm += pages,
                (_, true, _, false) => sum.data_vm += pages,
                _ => {}
            }
        }
        assert!(end <= at(TASK_PAGES));
        let mut entries = 0;
        mm.table().for_each(VirtAddr(0), at(1 << 30), |addr, pte| {
            entries += 1;
            let vma = held.find(addr).unwrap_or_else(|| panic!("{pte:?} at {addr:?} is in no VMA"));
            let Pte::Present { pfn, flags } = pte else { return };
            assert!(vma.has(VmFlags::WRITE) || !flags.contains(PteFlags::WRITE), "{addr:?} may be written in {vma:?}");
            let page = self.m().rmap().pages().page(pfn).unwrap();
            match page.mapping().load().is_anon() {
                true => sum.rss_anon += 1,
                false if page.has(PageFlags::SWAP_BACKED) => sum.rss_shmem += 1,
                false => sum.rss_file += 1,
            }
            let _lock = page.lock();
            let mut found = Vec::new();
            let walk = self.m().rmap().for_each_mapping(page, |vma, addr, _| {
                found.push((vma.mm().id(), addr));
                ControlFlow::Continue(())
            });
            assert_eq!(walk, WalkEnd::Complete);
            assert_eq!(found.iter().filter(|&&place| place == (mm.id(), addr)).count(), 1, "{addr:?} in {found:?}");
            assert_eq!(found.len(), page.mapcount() as usize, "{found:?}");
        });
        let now = mm.data().counters.snapshot();
        assert!(now.hiwater_vm >= now.total_vm);
        (sum.hiwater_vm, sum.hiwater_rss) = (now.hiwater_vm, now.hiwater_rss);
        assert_eq!(now, sum);
        assert!(entries != 0 || held.vmas().next().is_some() || mm.table().nr_tables() == 0, "tables are left");
    }
}

impl<S: SoftSystem> Drop for Rig<S> {
    /// Unmaps everything: no page, no table, no byte is left.
    fn drop(&mut self) {
        if std::thread::panicking() {
            core::mem::forget((self.machine.take(), self.mm.take(), core::mem::take(&mut self.files)));
            return;
        }
        let (machine, mm) = (self.machine.take().unwrap(), self.mm.take().unwrap());
        machine.munmap(&mm, VirtAddr(0), bytes(TASK_PAGES)).unwrap();
        assert_eq!(mm.table().nr_tables(), 0);
        let left = mm.data().counters.snapshot();
        let peaks = Snapshot { hiwater_vm: left.hiwater_vm, hiwater_rss: left.hiwater_rss, ..Snapshot::default() };
        assert_eq!(left, peaks);
        machine.exit(mm);
        self.files.clear();
        machine.rmap().arena().rcu.drain();
        machine.sweep_files();
        assert_eq!(machine.frames().free_frames(), machine.frames().total() - 1, "all but the zero page");
        assert_eq!(machine.rmap().engine().footprint().anchors, 0);
        drop(machine);
        assert_eq!(self.heap.in_use(), 0);
    }
}
