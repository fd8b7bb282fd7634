//! Machines: made, looked at, checked, freed.

use super::handle::{Host, Machine, enter_machine, open_machine, rmap_machine};
use crate::block::Block;
use crate::context::{engine_kind, rmap_allocator, rmap_engine};
use crate::handle::{need, put, slots};
use crate::held::Inside;
use crate::sized::{self, Growing};
use crate::status::rmap_status::{
    RMAP_ERR_BUSY, RMAP_ERR_INTERNAL, RMAP_ERR_INVAL, RMAP_ERR_NOT_SUPPORTED, RMAP_ERR_NULL,
};
use crate::status::{Outcome, boundary, rmap_status};
use core::ffi::{CStr, c_char, c_void};
use core::ptr::NonNull;
use rmap_core::base::alloc::Heap;
use rmap_core::base::file::FileStore;
use rmap_core::base::sync::Mutex;
use rmap_core::base::types::{PAGE_SIZE, Pfn, VirtAddr};
use rmap_core::engine::any::AnyEngine;
use rmap_core::machine::swap::{Backing, SwapStore};
use rmap_core::machine::{ChargeHook, MachineConfig};
use rmap_core::page::frames::Contents;

/// Contents of frames: each has RMAP_PAGE_SIZE bytes, taken from the allocator when it is first handed out.
pub const RMAP_CONTENTS_REAL: u32 = 0;
/// Contents of frames: none. Reads give zero and writes vanish; everything else is as with contents.
pub const RMAP_CONTENTS_METADATA: u32 = 1;

/// Where swapped pages go: to the file swap_path, or a temporary file.
pub const RMAP_SWAP_FILE: u32 = 0;
/// Where swapped pages go: to memory of the allocator.
pub const RMAP_SWAP_MEMORY: u32 = 1;
/// Where swapped pages go: nowhere, they have no contents. With RMAP_CONTENTS_METADATA only.
pub const RMAP_SWAP_NOWHERE: u32 = 2;

/// How a machine is made. Fill it with `rmap_machine_config_init`, then change what should be different.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_machine_config {
    /// The size of this struct, as the program knows it. Later versions append members; a program that knows fewer gets
    /// the defaults for the rest.
    pub size: usize,
    /// One of `enum rmap_engine`.
    pub engine: u32,
    /// Must be 0.
    pub flags: u32,
    /// Page frames; one of them is the zero page.
    pub frames: u64,
    /// The number of the first frame.
    pub first_pfn: u64,
    /// One of `RMAP_CONTENTS_*`.
    pub contents: u32,
    /// One of `RMAP_SWAP_*`, if there are slots.
    pub swap: u32,
    /// Slots for swapped pages, RMAP_PAGE_SIZE bytes each; 0: pages stay in memory.
    pub swap_slots: u64,
    /// The swap file, made if there is none, and overwritten; NULL: a temporary file. UTF-8.
    pub swap_path: *const c_char,
    /// Pages of a file that a read fault maps, and reads in, with the one that it is for: a power of two, 1 for it
    /// alone.
    pub fault_around: u64,
    /// Lowest address of a mapping: a multiple of RMAP_PAGE_SIZE.
    pub min_addr: u64,
    /// First address that no mapping may reach: a multiple of RMAP_PAGE_SIZE, at most 2^47.
    pub task_size: u64,
    /// Asked before pages are charged to an address space: one for each entry that maps a page other than the zero
    /// page. false refuses them, and what needed them fails with RMAP_ERR_NOMEM. Called with mmap_lock held.
    pub charge: Option<unsafe extern "C" fn(arg: *mut c_void, mm: u64, pages: u64) -> bool>,
    /// Told when charged pages go. Called with any lock held: it may not wait.
    ///
    /// Context of both, which come together or not at all: a function of the machine that is called there answers
    /// RMAP_ERR_LOCK. Neither may throw or jump out. `mm` is what rmap_machine_mm_id tells.
    pub uncharge: Option<unsafe extern "C" fn(arg: *mut c_void, mm: u64, pages: u64)>,
    /// Passed to both.
    pub charge_arg: *mut c_void,
    /// Both functions, or both NULL for librmap's own memory (mapped from the system, never malloc).
    pub allocator: rmap_allocator,
}

/// Figures of a machine, each of its own moment while other threads work.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_machine_stats {
    /// The size of this struct, as the program knows it: set it before the call.
    pub size: usize,
    /// Page frames.
    pub frames: u64,
    /// Page frames that are free.
    pub free_frames: u64,
    /// Address spaces.
    pub mms: u64,
    /// Regions of all address spaces.
    pub vmas: u64,
    /// Small pages mapped anonymously, each counted once (NR_ANON_MAPPED).
    pub anon_mapped: u64,
    /// Compound pages mapped by one entry, each counted once (NR_ANON_THPS).
    pub anon_large: u64,
    /// Small pages of files that are mapped (NR_FILE_MAPPED).
    pub file_mapped: u64,
    /// Swap slots.
    pub swap_slots: u64,
    /// Swap slots in use.
    pub swap_used: u64,
    /// What pages point to (anon_vmas).
    pub anchors: u64,
    /// Ties between these and regions (anon_vma_chains).
    pub links: u64,
    /// Bytes of the reverse map: anchors, links, trees, and the engine's part of regions.
    pub rmap_bytes: u64,
    /// Bytes taken from the allocator, contents of frames included.
    pub bytes: u64,
}

// SAFETY: `repr(C)` with its size first; integers and nullable pointers follow.
unsafe impl Growing for rmap_machine_config {
    const FIRST: usize = size_of::<Self>();
}
// SAFETY: as above.
unsafe impl Growing for rmap_machine_stats {
    const FIRST: usize = size_of::<Self>();
}

/// The program's charge functions.
#[derive(Clone, Copy)]
pub(crate) struct Hooks {
    charge: Option<unsafe extern "C" fn(*mut c_void, u64, u64) -> bool>,
    uncharge: Option<unsafe extern "C" fn(*mut c_void, u64, u64)>,
    arg: *mut c_void,
}

// SAFETY: the functions may be called on any thread, and `arg` is only passed to them.
unsafe impl Send for Hooks {}
// SAFETY: as for Send.
unsafe impl Sync for Hooks {}

impl Hooks {
    /// The core's hook, whose argument is the address of these.
    fn hook(&self, place: *const Self) -> Option<ChargeHook> {
        fn charge(hooks: usize, mm: u64, pages: u64) -> bool {
            // SAFETY: the address of the machine's hooks, which the machine outlives by nothing.
            let hooks = unsafe { &*core::ptr::with_exposed_provenance::<Hooks>(hooks) };
            let _inside = Inside::new();
            // SAFETY: the program's function, called as its contract says.
            hooks.charge.is_none_or(|charge| unsafe { charge(hooks.arg, mm, pages) })
        }
        fn uncharge(hooks: usize, mm: u64, pages: u64) {
            // SAFETY: as above.
            let hooks = unsafe { &*core::ptr::with_exposed_provenance::<Hooks>(hooks) };
            if let Some(uncharge) = hooks.uncharge {
                let _inside = Inside::new();
                // SAFETY: as above.
                unsafe { uncharge(hooks.arg, mm, pages) };
            }
        }
        self.charge.map(|_| ChargeHook { charge, uncharge, arg: place.expose_provenance() })
    }
}

impl rmap_machine_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        engine: rmap_engine::RMAP_ENGINE_ANON_VMA as u32,
        flags: 0,
        frames: 1 << 16,
        first_pfn: 1,
        contents: RMAP_CONTENTS_REAL,
        swap: RMAP_SWAP_FILE,
        swap_slots: 0,
        swap_path: core::ptr::null(),
        fault_around: 16,
        min_addr: 0x1_0000,
        task_size: 0x7fff_ffff_f000,
        charge: None,
        uncharge: None,
        charge_arg: core::ptr::null_mut(),
        allocator: rmap_allocator { alloc: None, free: None, arg: core::ptr::null_mut() },
    };

    fn hooks(&self) -> Outcome<Hooks> {
        if self.charge.is_some() != self.uncharge.is_some() {
            return Err(RMAP_ERR_INVAL);
        }
        Ok(Hooks { charge: self.charge, uncharge: self.uncharge, arg: self.charge_arg })
    }

    fn contents(&self) -> Outcome<Contents> {
        match self.contents {
            RMAP_CONTENTS_REAL => Ok(Contents::Real),
            RMAP_CONTENTS_METADATA => Ok(Contents::MetadataOnly),
            _ => Err(RMAP_ERR_NOT_SUPPORTED),
        }
    }

    /// # Safety
    /// `swap_path` is NULL or a string.
    unsafe fn backing(&self, heap: &Heap) -> Outcome<Option<(Backing, u64)>> {
        let slots = self.swap_slots;
        let backing = match self.swap {
            RMAP_SWAP_FILE | RMAP_SWAP_MEMORY | RMAP_SWAP_NOWHERE if slots == 0 => return Ok(None),
            RMAP_SWAP_FILE if self.swap_path.is_null() => Backing::temporary_file(slots)?,
            RMAP_SWAP_FILE => {
                // SAFETY: the caller's contract.
                let path = unsafe { CStr::from_ptr(self.swap_path) }.to_str().map_err(|_| RMAP_ERR_INVAL)?;
                let len = slots.checked_mul(PAGE_SIZE).ok_or(RMAP_ERR_INVAL)?;
                Backing::File(FileStore::open(path, len)?)
            }
            RMAP_SWAP_MEMORY => Backing::memory(heap, slots)?,
            RMAP_SWAP_NOWHERE if self.contents == RMAP_CONTENTS_METADATA => Backing::Nowhere,
            RMAP_SWAP_NOWHERE => return Err(RMAP_ERR_INVAL),
            _ => return Err(RMAP_ERR_NOT_SUPPORTED),
        };
        Ok(Some((backing, slots)))
    }

    /// The machine, which is going to be at `place`.
    ///
    /// # Safety
    /// As for `backing`.
    unsafe fn build(&self, heap: Heap, place: NonNull<Host>) -> Outcome<Host> {
        let hooks = self.hooks()?;
        // SAFETY: the field lies in the place.
        let hooks_place = unsafe { &raw const (*place.as_ptr()).hooks };
        let config = MachineConfig {
            heap: heap.clone(),
            first_pfn: Pfn(self.first_pfn),
            frames: self.frames,
            contents: self.contents()?,
            // SAFETY: the caller's contract.
            swap: unsafe { self.backing(&heap) }?,
            fault_around: self.fault_around,
            charge: hooks.hook(hooks_place),
            min_addr: VirtAddr(self.min_addr),
            task_size: VirtAddr(self.task_size),
        };
        let engine = engine_kind(self.engine)?;
        Ok(Host {
            machine: Machine::with_engine(config, |arena| AnyEngine::of_kind(engine, arena))?,
            mms: slots(&heap),
            files: slots(&heap),
            ops: Mutex::new(heap.vec()),
            hooks,
            heap,
        })
    }
}

/// Fills a configuration with the defaults: the engine anon_vma, 65,536 frames with contents, no swap, faults on files
/// map 16 pages, addresses from 64 KiB to 128 TiB, nothing charged, librmap's own memory.
///
/// Parameters: config, to be filled; size, sizeof(struct rmap_machine_config) in the program.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when no version of the struct is so small.
/// Ownership: the struct is the program's.
/// Context: any. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_config_init(config: *mut rmap_machine_config, size: usize) -> rmap_status {
    boundary(|| {
        need(config)?;
        if !config.is_aligned() || size < rmap_machine_config::FIRST {
            return Err(RMAP_ERR_INVAL);
        }
        // SAFETY: valid for `size` bytes (Parameters).
        unsafe { sized::write(config, size, rmap_machine_config::DEFAULT) };
        Ok(())
    })
}

/// Makes a machine.
///
/// Parameters: config, or NULL for the defaults; out, receives the machine.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_NOT_SUPPORTED for an unknown engine, flag, or kind of contents or swap;
/// RMAP_ERR_INVAL for a size that is too small, an allocator of one function, one charge function without the other,
/// addresses or frame numbers out of range, a fault_around that is no power of two, or RMAP_SWAP_NOWHERE with contents;
/// RMAP_ERR_IO when the swap file cannot be had.
/// Ownership: the machine is the program's, until rmap_machine_free. config is copied.
/// Context: any thread, no locks held. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_new(
    config: *const rmap_machine_config,
    out: *mut *mut rmap_machine,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        let config = if config.is_null() {
            rmap_machine_config::DEFAULT
        } else {
            // SAFETY: valid for as many bytes as its size says (rmap_machine_config).
            unsafe { sized::read(config, rmap_machine_config::DEFAULT) }?
        };
        if config.flags != 0 {
            return Err(RMAP_ERR_NOT_SUPPORTED);
        }
        // SAFETY: the path is NULL or a string (rmap_machine_config).
        let host = Block::build(config.allocator, |heap, place| unsafe { config.build(heap, place) })?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, host.as_ptr().cast()) };
        Ok(())
    })
}

/// Frees a machine and all its memory.
///
/// Parameters: machine, or NULL, which is nothing to do.
/// Returns: RMAP_OK; RMAP_ERR_BUSY when an address space or a file is left; RMAP_ERR_LOCK when this thread holds a lock
/// of librmap's.
/// Ownership: on success the machine is gone in any build: a later use is undefined behaviour. A swap file of the
/// program's stays.
/// Context: no other thread uses the machine, no locks held. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_free(machine: *mut rmap_machine) -> rmap_status {
    boundary(|| {
        if machine.is_null() {
            return Ok(());
        }
        // SAFETY: a living machine (Parameters).
        let host = unsafe { enter_machine(machine) }?;
        if host.mms.live() != 0 || host.files.live() != 0 {
            return Err(RMAP_ERR_BUSY);
        }
        // The handle, not the reference: it reaches the whole block.
        let block = NonNull::new(machine.cast::<Host>()).ok_or(RMAP_ERR_NULL)?;
        // SAFETY: made by `Block::build`; nobody uses it (Context), and no handle to anything in it is left.
        unsafe { Block::free(block) };
        Ok(())
    })
}

/// Tells the figures of a machine.
///
/// Parameters: machine; stats, its size set, receives the figures.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL when no version of the struct is so small; RMAP_ERR_LOCK from a
/// callback, or when this thread holds a lock of librmap's.
/// Ownership: the struct is the program's.
/// Context: any thread, no locks held. Takes each mmap_lock for reading. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_stats(
    machine: *const rmap_machine,
    stats: *mut rmap_machine_stats,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living machine (Parameters).
        let host = unsafe { enter_machine(machine) }?;
        // SAFETY: NULL or valid for as many bytes as its size says (rmap_machine_stats).
        let size = unsafe { sized::size_of_output(stats) }?;
        let now = figures(host)?;
        // SAFETY: as above.
        unsafe { sized::write(stats, size, now) };
        Ok(())
    })
}

fn figures(host: &Host) -> Outcome<rmap_machine_stats> {
    let machine = &host.machine;
    let (mut mms, mut vmas) = (0, 0);
    machine.for_each_mm(|mm| {
        mms += 1;
        vmas += mm.nr_regions() as u64;
    })?;
    let rmap = machine.rmap();
    let footprint = machine.footprint()?;
    let swap = machine.swap_store();
    Ok(rmap_machine_stats {
        size: size_of::<rmap_machine_stats>(),
        frames: machine.frames().total(),
        free_frames: machine.frames().free_frames(),
        mms,
        vmas,
        anon_mapped: rmap.anon_mapped(),
        anon_large: rmap.anon_large(),
        file_mapped: rmap.file_mapped(),
        swap_slots: swap.map_or(0, SwapStore::slots),
        swap_used: swap.map_or(0, SwapStore::used),
        anchors: footprint.anchors,
        links: footprint.links,
        rmap_bytes: footprint.bytes,
        bytes: host.heap.in_use() as u64,
    })
}

/// Checks everything that is true of a machine at rest: what the reverse map finds against a scan of all page tables,
/// counts of mappings and references, figures, swap slots.
///
/// Parameters: machine; reason, room for size bytes, or NULL, receives what is wrong as an English sentence, cut to
/// fit; size.
/// Returns: RMAP_OK; RMAP_ERR_INTERNAL when something is wrong, which is a bug in librmap, or the program has broken a
/// rule that is not checked: then alone the reason is written; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when
/// this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: no other thread uses the machine, no locks held. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_check(
    machine: *mut rmap_machine,
    reason: *mut c_char,
    size: usize,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living machine (Parameters).
        let host = unsafe { enter_machine(machine) }?;
        match host.machine.check() {
            Ok(_) => Ok(()),
            Err(broken) if broken.is_no_memory() => Err(rmap_status::RMAP_ERR_NOMEM),
            Err(broken) => {
                // SAFETY: NULL or valid for `size` bytes (Parameters).
                unsafe { sized::write_text(reason, size, format_args!("{broken}")) };
                Err(RMAP_ERR_INTERNAL)
            }
        }
    })
}

/// Tells how many frames of a machine are free: as the figure of rmap_machine_stats, without its cost.
///
/// Parameters: machine.
/// Returns: the number; 0 when machine is NULL.
/// Ownership: nothing.
/// Context: any thread, any locks held, callbacks too. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_free_frames(machine: *const rmap_machine) -> u64 {
    // SAFETY: a living machine (Parameters).
    crate::status::boundary_or(0, || Ok(unsafe { open_machine(machine) }?.machine.frames().free_frames()))
}
