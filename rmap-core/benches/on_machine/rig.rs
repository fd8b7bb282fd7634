//! A machine of frames without contents, so that no time goes into copying them: what `systems/machine.c` is to the C
//! suite.

use rmap_core::base::alloc::Heap;
use rmap_core::base::sync::atomic::{AtomicUsize, Ordering};
use rmap_core::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use rmap_core::machine::map::{MapFlags, MapRequest};
use rmap_core::machine::swap::Backing;
use rmap_core::machine::system::{Access, AnonVmaSystem, VmaExt};
use rmap_core::machine::{Machine, MachineConfig};
use rmap_core::mm::{FileRef, MmRef};
use rmap_core::page::Page;
use rmap_core::page::frames::Contents;
use rmap_core::page::pte::PageTable;
use std::ops::ControlFlow;

/// An address space.
pub(crate) type Space = MmRef<AnonVmaSystem>;
/// A file.
pub(crate) type File = FileRef<AnonVmaSystem>;

/// The machine.
pub(crate) struct Rig {
    pub(crate) machine: Machine<AnonVmaSystem>,
    /// Regions mapped so far.
    regions: AtomicUsize,
}

impl Rig {
    /// A machine of so many frames and, where pages are to leave them, swap slots.
    pub(crate) fn new(frames: u64, slots: u64) -> Self {
        let heap = Heap::global().expect("memory");
        let config = MachineConfig {
            contents: Contents::MetadataOnly,
            swap: (slots > 0).then_some((Backing::Nowhere, slots)),
            // One is the zero page.
            ..MachineConfig::new(&heap, frames + 1)
        };
        Self { machine: Machine::new(config).expect("memory"), regions: AtomicUsize::new(0) }
    }

    /// An empty address space.
    pub(crate) fn space(&self) -> Space {
        self.machine.mm_new().expect("memory")
    }

    /// A child.
    pub(crate) fn fork(&self, parent: &Space) -> Space {
        self.machine.fork(parent).expect("memory")
    }

    /// Private memory, or a file from its first page. Each region has a private word of its own: neighbours do not
    /// become one.
    pub(crate) fn map(&self, space: &Space, pages: u64, file: Option<&File>) -> VirtAddr {
        let prot = if file.is_some() { VmFlags::READ } else { VmFlags::READ | VmFlags::WRITE };
        let private = 1 + self.regions.fetch_add(1, Ordering::Relaxed);
        let request = MapRequest {
            file: file.map(|file| (file.clone(), 0)),
            ext: VmaExt { private, ..VmaExt::default() },
            ..MapRequest::new(pages * PAGE_SIZE, prot, MapFlags::PRIVATE)
        };
        self.machine.mmap(space, &request).expect("a free range")
    }

    /// The same with a page left free behind it, else neighbours share an anchor.
    pub(crate) fn map_apart(&self, space: &Space, pages: u64) -> VirtAddr {
        let addr = self.map(space, pages + 1, None);
        self.machine.munmap(space, addr.add_pages(pages), PAGE_SIZE).expect("memory");
        addr
    }

    /// Private memory whose pages are there.
    pub(crate) fn written(&self, space: &Space, pages: u64) -> VirtAddr {
        let addr = self.map(space, pages, None);
        (0..pages).for_each(|page| self.write(space, addr.add_pages(page)));
        addr
    }

    /// The whole of a region.
    pub(crate) fn unmap(&self, space: &Space, addr: VirtAddr, pages: u64) {
        self.machine.munmap(space, addr, pages * PAGE_SIZE).expect("memory");
    }

    /// A write: faults if it must.
    pub(crate) fn write(&self, space: &Space, addr: VirtAddr) {
        self.machine.fault(space, addr, Access::Write).expect("a mapping and a free frame");
    }

    /// A read: the same.
    pub(crate) fn read(&self, space: &Space, addr: VirtAddr) {
        self.machine.fault(space, addr, Access::Read).expect("a mapping and a free frame");
    }

    /// The page at an address.
    pub(crate) fn page(&self, space: &Space, addr: VirtAddr) -> &Page {
        let pfn = space.table().load(addr).pfn().expect("mapped");
        self.machine.rmap().pages().page(pfn).expect("one of the machine's")
    }

    /// All who map a page.
    pub(crate) fn walk(&self, page: &Page) -> u64 {
        let mut found = 0;
        let _locked = page.lock();
        self.machine.rmap().for_each_mapping(page, |_, _, _| {
            found += 1;
            ControlFlow::Continue(())
        });
        found
    }

    /// Ends an address space.
    pub(crate) fn exit(&self, space: Space) {
        self.machine.exit(space);
    }
}
