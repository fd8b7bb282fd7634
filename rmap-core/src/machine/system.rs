//! What the machine keeps in address spaces, VMAs and files; and how an engine is chosen for it.

use super::counters::Counters;
use super::page_table::RadixTable;
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::base::types::{PAGE_SIZE, PgOff, VirtAddr, VmFlags};
use crate::engine::Kernel;
use crate::engine::anon_vma::AnonVmaEngine;
use crate::engine::any::AnyEngine;
use crate::engine::full_scan::FullScanEngine;
use crate::engine::objrmap::ObjrmapEngine;
#[cfg(test)]
use crate::engine::per_mm::PerMm;
use crate::engine::pte_chain::PteChain;
use crate::mm::{System, VmaBounds};

/// A system whose page tables and data are the machine's. Implemented by itself;
/// [`machine_system!`](crate::machine_system) makes one from an engine.
pub trait SoftSystem:
    Kernel + System<Table = RadixTable, MmData = MmState, VmaData = VmaExt, FileData = FileExt>
{
}

impl<S> SoftSystem for S where
    S: Kernel + System<Table = RadixTable, MmData = MmState, VmaData = VmaExt, FileData = FileExt>
{
}

/// Declares a type that is a machine with the given engine: `machine_system!(/** docs */ pub MySystem, MyEngine)`,
/// where `MyEngine<S>` implements [`Engine<S>`](crate::engine::Engine).
#[macro_export]
macro_rules! machine_system {
    ($(#[$doc:meta])* $vis:vis $name:ident, $engine:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        $vis struct $name;

        impl $crate::mm::System for $name {
            type Engine = $engine<Self>;
            type Table = $crate::machine::page_table::RadixTable;
            type MmData = $crate::machine::system::MmState;
            type VmaData = $crate::machine::system::VmaExt;
            type FileData = $crate::machine::system::FileExt;
        }
    };
}

machine_system!(
    /// A machine with the engine `anon_vma`.
    pub AnonVmaSystem,
    AnonVmaEngine
);
machine_system!(
    /// A machine with the engine `objrmap`.
    pub ObjrmapSystem,
    ObjrmapEngine
);
machine_system!(
    /// A machine with the engine `full_scan`.
    pub FullScanSystem,
    FullScanEngine
);
machine_system!(
    /// A machine whose engine is chosen at run time.
    pub AnySystem,
    AnyEngine
);
#[cfg(test)]
machine_system!(
    /// A machine with the engine that keeps state per address space.
    pub(crate) PerMmSystem,
    PerMm
);

machine_system!(
    /// A machine with the engine `pte_chain`.
    pub PteChainSystem,
    PteChain
);

/// The machine's data in an address space.
#[derive(Debug)]
pub struct MmState {
    /// Its figures.
    pub counters: Counters,
    /// Lowest address of a mapping.
    pub min_addr: VirtAddr,
    /// First address that no mapping may reach.
    pub task_size: VirtAddr,
    /// Where searches for a free range begin: downwards from here, or upwards if `bottom_up`. mmap_lock (write);
    /// Relaxed.
    pub mmap_base: AtomicU64,
    /// Searches go upwards. As `mmap_base`.
    pub bottom_up: AtomicBool,
    /// First byte of the heap. As `mmap_base`.
    pub start_brk: AtomicU64,
    /// First byte after the heap. As `mmap_base`.
    pub brk: AtomicU64,
    /// Bytes that a stack may grow to by faults (`RLIMIT_STACK`). As `mmap_base`.
    pub stack_limit: AtomicU64,
    /// Flags that every new VMA gets (mlockall with MCL_FUTURE). As `mmap_base`.
    pub def_flags: AtomicU64,
    /// Reads of untouched anonymous memory get a page of their own instead of the zero page.
    pub no_zeropage: AtomicBool,
    /// The layout is not to be trusted any more: set when fork failed half-way or the address space is being torn down.
    /// Read under the PTE lock by faults that are about to install an entry.
    pub unstable: AtomicBool,
}

impl MmState {
    /// That of an empty address space.
    pub fn new(min_addr: VirtAddr, task_size: VirtAddr) -> Self {
        Self {
            counters: Counters::default(),
            min_addr,
            task_size,
            // Below the stack, whose growth needs room: the kernel's gap of at least 128 MiB.
            mmap_base: AtomicU64::new(task_size.0 - (task_size.0 / 6).min(128 << 20) / PAGE_SIZE * PAGE_SIZE),
            bottom_up: AtomicBool::new(false),
            start_brk: AtomicU64::new(0),
            brk: AtomicU64::new(0),
            stack_limit: AtomicU64::new(8 << 20),
            def_flags: AtomicU64::new(0),
            no_zeropage: AtomicBool::new(false),
            unstable: AtomicBool::new(false),
        }
    }

    /// The settings that fork hands on, with counters at zero.
    #[must_use]
    pub fn forked(&self) -> Self {
        let copy = |a: &AtomicU64| AtomicU64::new(a.load(Ordering::Relaxed));
        let flag = |a: &AtomicBool| AtomicBool::new(a.load(Ordering::Relaxed));
        Self {
            counters: Counters::default(),
            min_addr: self.min_addr,
            task_size: self.task_size,
            mmap_base: copy(&self.mmap_base),
            bottom_up: flag(&self.bottom_up),
            start_brk: copy(&self.start_brk),
            brk: copy(&self.brk),
            stack_limit: copy(&self.stack_limit),
            // mlockall is not inherited.
            def_flags: AtomicU64::new(0),
            no_zeropage: flag(&self.no_zeropage),
            unstable: AtomicBool::new(false),
        }
    }

    /// [`Error::Unstable`] while the layout is not to be trusted.
    pub fn check_stable(&self) -> Result<()> {
        if self.unstable.load(Ordering::Acquire) { Err(Error::Unstable) } else { Ok(()) }
    }
}

/// What a program did that faulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Fetch an instruction.
    Exec,
}

impl Access {
    /// The permission that it needs.
    pub const fn needs(self) -> VmFlags {
        match self {
            Self::Read => VmFlags::READ,
            Self::Write => VmFlags::WRITE,
            Self::Exec => VmFlags::EXEC,
        }
    }
}

/// What the embedder does for a VMA (the kernel's `vm_ops`, and userfaultfd's monitor). A method that panics does so
/// through the call that asked it: locks are free and figures right, a fork or a fault has not been, and a VMA of which
/// `open` or `close` was to hear has come or gone; an address space whose exit was cut short goes with the machine. No method is called with a lock
/// held but those that it names, and none may call back into the address space that it is called for, `missing`
/// excepted.
pub trait VmaOps: Sync {
    /// The VMA came into being: mapped, split off, copied, or forked. mmap_lock held exclusively.
    fn open(&self, private: usize, bounds: VmaBounds) {
        let _ = (private, bounds);
    }
    /// The VMA is gone. mmap_lock held exclusively.
    fn close(&self, private: usize, bounds: VmaBounds) {
        let _ = (private, bounds);
    }
    /// Contents for the page at `pgoff` of a VMA that has no page cache behind it. mmap_lock held shared.
    /// [`Error::Bus`]: there is nothing.
    fn fault(&self, private: usize, pgoff: PgOff, out: &mut [u8; PAGE_SIZE as usize]) -> Result<()> {
        let _ = (private, pgoff, out);
        Err(Error::NotSupported)
    }
    /// A page of a UFFD_MISSING VMA is missing at `addr`. Called with no lock held: it may fill the page
    /// ([`Machine::uffd_copy`](super::Machine::uffd_copy)). The fault is tried again when it returns `Ok`, and fails
    /// with its error else.
    fn missing(&self, private: usize, mm: u64, addr: VirtAddr, access: Access) -> Result<()> {
        let _ = (private, mm, addr, access);
        Err(Error::NotSupported)
    }
}

/// The machine's data in a VMA.
#[derive(Clone, Copy, Default)]
pub struct VmaExt {
    /// What the embedder does for it.
    pub ops: Option<&'static dyn VmaOps>,
    /// Handed to each of `ops`.
    pub private: usize,
}

impl PartialEq for VmaExt {
    fn eq(&self, other: &Self) -> bool {
        let same = match (self.ops, other.ops) {
            (Some(a), Some(b)) => core::ptr::addr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same && self.private == other.private
    }
}

impl core::fmt::Debug for VmaExt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("VmaExt").field("ops", &self.ops.is_some()).field("private", &self.private).finish()
    }
}

/// Where a file's pages come from and go to.
pub trait FileOps: Sync {
    /// Fills the page at `pgoff`. Page lock held.
    fn read_page(&self, private: usize, pgoff: PgOff, out: &mut [u8; PAGE_SIZE as usize]) -> Result<()>;
}

/// The machine's data in a file.
#[derive(Clone, Copy, Default)]
pub struct FileExt {
    /// Where its contents come from; `None`: pages begin as zero.
    pub ops: Option<&'static dyn FileOps>,
    /// Handed to `ops`.
    pub private: usize,
    /// Shared anonymous memory that mmap made: nobody can open it again, so its pages go with the last VMA that maps
    /// it.
    pub transient: bool,
}

impl core::fmt::Debug for FileExt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FileExt")
            .field("ops", &self.ops.is_some())
            .field("private", &self.private)
            .field("transient", &self.transient)
            .finish()
    }
}
