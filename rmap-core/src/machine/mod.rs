//! The machine: a small, complete memory manager on top of the component, for those who bring none.
//!
//! It has regions, page tables in software, faults, fork, copy-on-write and swap, with real 4 KiB contents in every
//! frame or metadata only. It calls nothing that an embedder could not call. Each process runs on threads of its own:
//! faults hold mmap_lock shared, changes of layout exclusively.
//!
//! | file | what it does |
//! |---|---|
//! | [`system`] | what the machine keeps in address spaces, VMAs and files; how an engine is chosen |
//! | [`counters`], `account` | an address space's figures; what an entry costs, and all that goes when it goes |
//! | [`map`], [`unmap`], [`protect`], [`remap`], [`brk`], [`stack`], [`advise`], [`mlock`] | one system call each, and what it needs |
//! | `layout` | what all changes of layout share |
//! | [`fork`], [`exit`] | address spaces come and go |
//! | [`fault`], `file_cache` | page faults; what files leave in memory |
//! | [`access`] | a program's reads and writes |
//! | [`swap_out`], [`swap`], `swap_cache` | pages go to the swap store and are found again |
//! | [`page_table`] | four levels of tables with PTE locks |
//! | [`oracle`] | who maps a page, by reading all page tables and nothing else |
//!
//! Out of scope: regions without an MMU (the kernel's `vm_region`), and non-linear VMAs (`remap_file_pages`), which the
//! kernel gave up too.
#![forbid(unsafe_code)]

pub mod access;
mod account;
pub mod advise;
pub mod brk;
pub mod counters;
pub mod exit;
pub mod fault;
mod file_cache;
pub mod fork;
mod layout;
pub mod map;
pub mod mlock;
pub mod oracle;
pub mod page_table;
pub mod protect;
mod pte_word;
pub mod remap;
pub mod stack;
pub mod swap;
mod swap_cache;
pub mod swap_out;
pub mod system;
pub mod unmap;

use crate::base::alloc::{Heap, HeapVec};
use crate::base::error::{Error, Result};
use crate::base::room::lock_with_room;
use crate::base::sync::{Mutex, rank};
use crate::base::types::{Pfn, VirtAddr};
use crate::engine::{Engine, Footprint};
use crate::mm::{Arena, FileRef, Mm, MmRef};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::frames::{Contents, Frames};
use crate::rmap::Rmap;
use page_table::RadixTable;
use swap::{Backing, SwapStore};
use system::{FileExt, MmState, SoftSystem};

/// How a machine is made.
#[derive(Debug)]
pub struct MachineConfig {
    /// Where all memory comes from.
    pub heap: Heap,
    /// The number of the first frame.
    pub first_pfn: Pfn,
    /// Frames, the zero page included.
    pub frames: u64,
    /// Whether frames have bytes.
    pub contents: Contents,
    /// The swap store and its slots; `None`: pages stay in memory.
    pub swap: Option<(Backing, u64)>,
    /// Pages that a file fault maps around the one it is for: a power of two, 1 for none. The kernel's is 16.
    pub fault_around: u64,
    /// Asked before a page is charged to an address space; `false` refuses it (ENOMEM). Called with mmap_lock held and
    /// no lock below it.
    pub charge: Option<ChargeHook>,
    /// Ends of address spaces: mappings lie in `[min, task_size)`.
    pub min_addr: VirtAddr,
    /// First address that no mapping may reach.
    pub task_size: VirtAddr,
}

/// A function that may refuse a page, and its argument. An address space is charged for each entry that maps a counted
/// page.
#[derive(Debug, Clone, Copy)]
pub struct ChargeHook {
    /// Called with `arg`, the address space's number and the pages to charge.
    pub charge: fn(arg: usize, mm: u64, pages: u64) -> bool,
    /// Called when charged pages go. It may be called under page and PTE locks: it neither waits nor calls back, nor
    /// panics.
    pub uncharge: fn(arg: usize, mm: u64, pages: u64),
    /// Handed to both.
    pub arg: usize,
}

impl MachineConfig {
    /// A machine of `frames` frames with contents over `heap`, without swap.
    pub fn new(heap: &Heap, frames: u64) -> Self {
        Self {
            heap: heap.clone(),
            first_pfn: Pfn(1),
            frames,
            contents: Contents::Real,
            swap: None,
            fault_around: 16,
            charge: None,
            min_addr: VirtAddr(0x1_0000),
            task_size: VirtAddr(0x7fff_ffff_f000),
        }
    }
}

/// A memory manager with its address spaces. See the [module](self).
pub struct Machine<S: SoftSystem> {
    rmap: Rmap<S>,
    frames: Frames,
    swap: Option<SwapStore>,
    /// The page that reads of untouched anonymous memory see.
    zero: Pfn,
    fault_around: u64,
    charge: Option<ChargeHook>,
    min_addr: VirtAddr,
    task_size: VirtAddr,
    /// All address spaces that have not exited.
    mms: Mutex<HeapVec<MmRef<S>>, { rank::LEAF }>,
    /// All files made here that are not known to be unused.
    files: Mutex<HeapVec<FileRef<S>>, { rank::LEAF }>,
}

impl<S: SoftSystem> Machine<S> {
    /// A machine without address spaces.
    pub fn new(config: MachineConfig) -> Result<Self> {
        Self::with_engine(config, <S::Design as Engine<S>>::new)
    }

    /// The same, with an engine that `make` makes.
    pub fn with_engine(config: MachineConfig, make: impl FnOnce(&Arena<S>) -> Result<S::Design>) -> Result<Self> {
        if !config.fault_around.is_power_of_two()
            || !config.min_addr.is_page_aligned()
            || !config.task_size.is_page_aligned()
            || config.min_addr >= config.task_size
            || config.task_size.0 > 1 << 47
        {
            return Err(Error::Invalid);
        }
        let heap = &config.heap;
        let rmap = Rmap::with_engine(heap, make)?;
        let frames = Frames::new(heap, rmap.pages(), config.first_pfn, config.frames, config.contents)?;
        let swap = match config.swap {
            Some((backing, slots)) => Some(SwapStore::new(heap, backing, slots)?),
            None => None,
        };
        let zero = frames.alloc(rmap.pages())?;
        zero.set(PageFlags::RESERVED | PageFlags::UPTODATE);
        let zero = zero.pfn();
        Ok(Self {
            rmap,
            frames,
            swap,
            zero,
            fault_around: config.fault_around,
            charge: config.charge,
            min_addr: config.min_addr,
            task_size: config.task_size,
            mms: Mutex::new(heap.vec()),
            files: Mutex::new(heap.vec()),
        })
    }

    /// The reverse map that it stands on.
    pub fn rmap(&self) -> &Rmap<S> {
        &self.rmap
    }
    /// The frames.
    pub fn frames(&self) -> &Frames {
        &self.frames
    }
    /// The swap store.
    pub fn swap_store(&self) -> Option<&SwapStore> {
        self.swap.as_ref()
    }
    /// The zero page's frame.
    pub fn zero_pfn(&self) -> Pfn {
        self.zero
    }

    /// An empty address space, with one user.
    pub fn mm_new(&self) -> Result<MmRef<S>> {
        let heap = &self.rmap.arena().heap;
        let state = MmState::new(self.min_addr, self.task_size);
        let mm = self.rmap.mm_new(RadixTable::new(heap)?, state)?;
        self.remember(&mm).inspect_err(|_| self.rmap.mm_gone(&mm))?;
        Ok(mm)
    }

    /// A file of `size` pages.
    pub fn new_file(&self, size: u64, data: FileExt) -> Result<FileRef<S>> {
        let file = crate::mm::File::new(self.rmap.arena(), size, false, data)?;
        self.remember_file(&file)?;
        Ok(file)
    }

    /// Shared anonymous memory of `size` pages (shmem).
    pub fn new_shmem(&self, size: u64) -> Result<FileRef<S>> {
        let file = crate::mm::File::new(self.rmap.arena(), size, true, FileExt::default())?;
        self.remember_file(&file)?;
        Ok(file)
    }

    /// Calls `f` with every address space that has not exited.
    pub fn for_each_mm(&self, mut f: impl FnMut(&MmRef<S>)) -> Result<()> {
        for mm in &self.snapshot_mms()? {
            f(mm);
        }
        Ok(())
    }

    /// The reverse map's memory: the engine's own, its tree nodes', and that in all VMAs.
    pub fn footprint(&self) -> Result<Footprint> {
        let mms = self.snapshot_mms()?;
        Ok(self.rmap.footprint(mms.iter().map(|mm| &**mm)))
    }

    fn snapshot_mms(&self) -> Result<HeapVec<MmRef<S>>> {
        let mut all = self.rmap.arena().heap.vec();
        loop {
            let wanted = self.mms.lock().len();
            all.try_reserve(wanted).map_err(|_| Error::NoMemory)?;
            let mms = self.mms.lock();
            if mms.len() <= all.capacity() {
                all.extend(mms.iter().cloned());
                return Ok(all);
            }
        }
    }

    fn remember(&self, mm: &MmRef<S>) -> Result<()> {
        lock_with_room(&self.mms, &self.rmap.arena().heap)?.push(mm.clone());
        Ok(())
    }

    fn forget(&self, mm: &Mm<S>) {
        let gone = {
            let mut mms = self.mms.lock();
            mms.iter().position(|m| core::ptr::eq::<Mm<S>>(&raw const **m, mm)).map(|at| mms.swap_remove(at))
        };
        drop(gone);
    }

    /// The descriptor of a frame that a page table names.
    fn page(&self, pfn: Pfn) -> Result<&Page> {
        self.rmap.pages().page(pfn).ok_or(Error::Foreign)
    }

    /// The caller's reference to a page, put at the end of a scope.
    fn page_ref<'m>(&'m self, page: &'m Page) -> PageRef<'m, S> {
        PageRef { machine: self, page }
    }

    /// Drops a reference to a page, and frees its frame if that was the last.
    fn put_page(&self, page: &Page) {
        if page.put() {
            self.frames.free(self.rmap.pages(), page.head());
        }
    }
}

/// A reference to a page, put when this is dropped: also when a function of the embedder's panics.
struct PageRef<'m, S: SoftSystem> {
    machine: &'m Machine<S>,
    page: &'m Page,
}

impl<'m, S: SoftSystem> PageRef<'m, S> {
    /// The reference is somebody else's from now on.
    fn into_page(self) -> &'m Page {
        core::mem::ManuallyDrop::new(self).page
    }
}

impl<S: SoftSystem> Drop for PageRef<'_, S> {
    fn drop(&mut self) {
        self.machine.put_page(self.page);
    }
}

impl<S: SoftSystem> core::fmt::Debug for Machine<S> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Machine")
            .field("frames", &self.frames.total())
            .field("free", &self.frames.free_frames())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod layout_tests;
#[cfg(all(test, not(loom)))]
pub(crate) mod life_tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod refusal_tests;
