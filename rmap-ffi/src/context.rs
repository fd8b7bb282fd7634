//! The library and its contexts.

use crate::block::Block;
use crate::handle::{CHECKED, File, Mm, Rmap, Slot, need, open_ctx, put, rmap_ctx, slots};
use crate::held;
use crate::sized::{self, Growing};
use crate::status::rmap_status::{RMAP_ERR_BUSY, RMAP_ERR_INVAL, RMAP_ERR_NOT_SUPPORTED, RMAP_ERR_NULL};
use crate::status::{Outcome, boundary, rmap_status};
use core::ffi::{c_char, c_void};
use core::ptr::NonNull;
use rmap_core::base::alloc::Heap;
use rmap_core::base::slab::Slab;
use rmap_core::engine::Engine;
use rmap_core::engine::any::{AnyEngine, EngineKind};

/// The version of this header: major.
pub const RMAP_VERSION_MAJOR: u32 = 0;
/// The version of this header: minor. Before 1.0, a change of it may break programs.
pub const RMAP_VERSION_MINOR: u32 = 1;
/// The version of this header: patch.
pub const RMAP_VERSION_PATCH: u32 = 0;

/// Bytes in a page.
pub const RMAP_PAGE_SIZE: u64 = 4096;
/// log2 of `RMAP_PAGE_SIZE`.
pub const RMAP_PAGE_SHIFT: u32 = 12;

const _: () = {
    assert!(RMAP_PAGE_SIZE == rmap_core::base::types::PAGE_SIZE);
    assert!(RMAP_PAGE_SHIFT == rmap_core::base::types::PAGE_SHIFT);
};

/// How the candidates of a page are found: `rmap_config.engine`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum rmap_engine {
    /// An anon_vma per process and region, tied to VMAs by interval trees: Linux 2.6.34 to today.
    RMAP_ENGINE_ANON_VMA = 1,
    /// An anon_vma per region, which its whole fork family shares, with a list of VMAs: Linux 2.6.7 to 2.6.33.
    RMAP_ENGINE_OBJRMAP = 2,
    /// Each page carries the list of all its mappings, pages of files too: Linux 2.5. Whoever maps pages with it
    /// reserves before (rmap_reserve).
    RMAP_ENGINE_PTE_CHAIN = 3,
    /// No reverse map: every VMA of every address space is looked at. Linux before 2.5.
    RMAP_ENGINE_FULL_SCAN = 4,
}

/// The engine of that number.
pub(crate) fn engine_kind(engine: u32) -> Outcome<EngineKind> {
    match engine {
        1 => Ok(EngineKind::AnonVma),
        2 => Ok(EngineKind::Objrmap),
        3 => Ok(EngineKind::PteChain),
        4 => Ok(EngineKind::FullScan),
        _ => Err(RMAP_ERR_NOT_SUPPORTED),
    }
}

/// Names an engine.
///
/// Parameters: engine, one of enum rmap_engine.
/// Returns: its name on every command line and in every table, such as "anon_vma"; NULL for a number that is no engine.
/// Ownership: static; never freed.
/// Context: any. Takes no lock.
#[unsafe(no_mangle)]
pub extern "C" fn rmap_engine_name(engine: u32) -> *const c_char {
    let name = match engine_kind(engine) {
        Ok(EngineKind::AnonVma) => c"anon_vma",
        Ok(EngineKind::Objrmap) => c"objrmap",
        Ok(EngineKind::PteChain) => c"pte_chain",
        Ok(EngineKind::FullScan) => c"full_scan",
        Err(_) => return core::ptr::null(),
    };
    name.as_ptr()
}

/// Where a context gets its metadata from. Both functions are called from any thread, at once, and stay callable until
/// `rmap_free` has returned `RMAP_OK`.
///
/// Context of both: mmap_lock may be held, and in `alloc` the locks that the calling function was given; never a
/// page-table lock, an anon_vma root or an i_mmap_rwsem that librmap took (G8). They may not call back into librmap,
/// throw, or jump out.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_allocator {
    /// Returns `size` bytes aligned to `align` (a power of two), or NULL.
    pub alloc: Option<unsafe extern "C" fn(arg: *mut c_void, size: usize, align: usize) -> *mut c_void>,
    /// Takes back what `alloc` returned for this size and alignment.
    pub free: Option<unsafe extern "C" fn(arg: *mut c_void, memory: *mut c_void, size: usize, align: usize)>,
    /// Passed to both.
    pub arg: *mut c_void,
}

/// How a context is made. Fill it with `rmap_config_init`, then change what should be different.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_config {
    /// The size of this struct, as the program knows it. Later versions append members; a program that knows fewer gets
    /// the defaults for the rest.
    pub size: usize,
    /// One of `enum rmap_engine`.
    pub engine: u32,
    /// Must be 0.
    pub flags: u32,
    /// Both functions, or both NULL for librmap's own memory (mapped from the system, never malloc).
    pub allocator: rmap_allocator,
}

/// Figures of a context, each of its own moment while other threads work.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_stats {
    /// The size of this struct, as the program knows it: set it before the call.
    pub size: usize,
    /// Address spaces.
    pub mms: u64,
    /// Files.
    pub files: u64,
    /// VMAs, those that wait for a grace period included.
    pub vmas: u64,
    /// anon_vmas.
    pub anon_vmas: u64,
    /// Small pages mapped anonymously, each counted once (NR_ANON_MAPPED).
    pub anon_mapped: u64,
    /// Compound pages mapped by one entry, each counted once (NR_ANON_THPS).
    pub anon_large: u64,
    /// Small pages of files that are mapped (NR_FILE_MAPPED).
    pub file_mapped: u64,
    /// Bytes of metadata taken from the allocator.
    pub bytes: u64,
    /// Of these, bytes of anon_vmas and interval-tree nodes in use.
    pub engine_bytes: u64,
}

// SAFETY: `repr(C)`, the size first, and plain numbers and pointers; NULL functions are `None`.
unsafe impl Growing for rmap_config {
    const FIRST: usize = size_of::<Self>();
}
// SAFETY: `repr(C)`, the size first, and plain numbers.
unsafe impl Growing for rmap_stats {
    const FIRST: usize = size_of::<Self>();
}

impl rmap_config {
    const DEFAULT: Self = Self {
        size: size_of::<Self>(),
        engine: rmap_engine::RMAP_ENGINE_ANON_VMA as u32,
        flags: 0,
        allocator: rmap_allocator { alloc: None, free: None, arg: core::ptr::null_mut() },
    };
}

/// What a context handle points to.
pub(crate) struct Context {
    pub(crate) rmap: Rmap,
    pub(crate) mms: Slab<Slot<Mm>>,
    pub(crate) files: Slab<Slot<File>>,
    pub(crate) heap: Heap,
    /// The owner of this context's page descriptors.
    pub(crate) tag: u32,
}

impl Context {
    fn new(heap: Heap, engine: EngineKind) -> Outcome<Self> {
        let rmap = Rmap::with_engine(&heap, |arena| AnyEngine::of_kind(engine, arena))?;
        Ok(Self { rmap, mms: slots(&heap), files: slots(&heap), tag: heap.tag(), heap })
    }

    /// Frees VMAs whose grace period is over, if this thread holds no lock under which that is forbidden. Does not
    /// wait.
    #[inline]
    pub(crate) fn reclaim(&self) {
        if held::none().is_ok() {
            self.rmap.arena().rcu.reclaim();
        }
    }
}

/// Tells the version of the library that is running. Compare it with `RMAP_VERSION`, the version of the header.
///
/// Parameters: none.
/// Returns: major * 65536 + minor * 256 + patch.
/// Ownership: nothing.
/// Context: any. Takes no lock.
#[unsafe(no_mangle)]
pub extern "C" fn rmap_version() -> u32 {
    RMAP_VERSION_MAJOR << 16 | RMAP_VERSION_MINOR << 8 | RMAP_VERSION_PATCH
}

/// Tells the version as text, and whether handles are checked: "0.1.0" or "0.1.0 checked".
///
/// Parameters: none.
/// Returns: a string, never NULL.
/// Ownership: static; never freed.
/// Context: any. Takes no lock.
#[unsafe(no_mangle)]
pub extern "C" fn rmap_version_string() -> *const c_char {
    const PLAIN: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    const WITH_CHECKS: &str = concat!(env!("CARGO_PKG_VERSION"), " checked\0");
    if CHECKED { WITH_CHECKS } else { PLAIN }.as_ptr().cast()
}

/// Fills a configuration with the defaults: the engine anon_vma, librmap's own memory.
///
/// Parameters: config, to be filled; size, sizeof(struct rmap_config) in the program.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when no version of the struct is so small.
/// Ownership: the struct is the program's.
/// Context: any. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_config_init(config: *mut rmap_config, size: usize) -> rmap_status {
    boundary(|| {
        need(config)?;
        if size < rmap_config::FIRST {
            return Err(RMAP_ERR_INVAL);
        }
        // SAFETY: valid for `size` bytes (Parameters).
        unsafe { sized::write(config, size, rmap_config::DEFAULT) };
        Ok(())
    })
}

/// Makes a context.
///
/// Parameters: config, or NULL for the defaults; out, receives the context.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_NOT_SUPPORTED for an unknown engine or flag; RMAP_ERR_INVAL for a size
/// that is too small or an allocator of one function.
/// Ownership: the context is the program's, until rmap_free. config is copied.
/// Context: any thread, no locks held. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_new(config: *const rmap_config, out: *mut *mut rmap_ctx) -> rmap_status {
    boundary(|| {
        need(out)?;
        let config = if config.is_null() {
            rmap_config::DEFAULT
        } else {
            // SAFETY: valid for as many bytes as its size says (rmap_config).
            unsafe { sized::read(config, rmap_config::DEFAULT) }?
        };
        let engine = engine_kind(config.engine)?;
        if config.flags != 0 {
            return Err(RMAP_ERR_NOT_SUPPORTED);
        }
        let context = Block::build(config.allocator, |heap, _| Context::new(heap, engine))?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, context.as_ptr().cast()) };
        Ok(())
    })
}

/// Frees a context and all its memory.
///
/// Parameters: ctx, or NULL, which is nothing to do.
/// Returns: RMAP_OK; RMAP_ERR_BUSY when an address space, a file or a reference to an anon_vma is left; RMAP_ERR_LOCK
/// when this thread holds a lock of librmap's.
/// Ownership: on success ctx and its pages are gone in any build: a later use is undefined behaviour. Descriptors in
/// the program's memory are the program's again.
/// Context: no other thread uses the context, no locks held. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_free(ctx: *mut rmap_ctx) -> rmap_status {
    boundary(|| {
        if ctx.is_null() {
            return Ok(());
        }
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        held::none()?;
        if context.mms.live() != 0 || context.files.live() != 0 {
            return Err(RMAP_ERR_BUSY);
        }
        drain(context);
        if context.rmap.arena().live_vmas() != 0 || context.rmap.engine().footprint().anchors != 0 {
            return Err(RMAP_ERR_BUSY);
        }
        // The handle, not the reference: it may reach the whole block.
        let context = NonNull::new(ctx.cast::<Context>()).ok_or(RMAP_ERR_NULL)?;
        // SAFETY: the context was made by `Block::build` (`rmap_new`); nobody uses it (Context), and nothing in it is
        // left.
        unsafe { Block::free(context) };
        Ok(())
    })
}

/// Frees everything that waits for a grace period, what that lets go of included.
fn drain(context: &Context) {
    let rcu = &context.rmap.arena().rcu;
    while !rcu.is_empty() {
        rcu.drain();
    }
}

/// Waits until every look-up that is under way has ended, and frees the VMAs that were freed before.
///
/// Parameters: ctx.
/// Returns: RMAP_OK; RMAP_ERR_LOCK when this thread holds a lock of librmap's.
/// Ownership: nothing. When it returns, no thread inside librmap uses what was unlinked before the call, descriptors
/// given up by the program included.
/// Context: any thread, no locks held, not from a callback. Waits. Calls the allocator's free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_synchronize(ctx: *mut rmap_ctx) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        held::none()?;
        context.rmap.arena().rcu.drain();
        Ok(())
    })
}

/// Tells the figures of a context.
///
/// Parameters: ctx; stats, its size set, receives the figures.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when no version of the struct is so small.
/// Ownership: the struct is the program's.
/// Context: any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_stats(ctx: *const rmap_ctx, stats: *mut rmap_stats) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        // SAFETY: NULL or valid for as many bytes as its size says (rmap_stats).
        let size = unsafe { sized::size_of_output(stats) }?;
        let Context { rmap, mms, files, heap, .. } = context;
        let engine = rmap.engine().footprint();
        let now = rmap_stats {
            size,
            mms: mms.live(),
            files: files.live(),
            vmas: rmap.arena().live_vmas(),
            anon_vmas: engine.anchors,
            anon_mapped: rmap.anon_mapped(),
            anon_large: rmap.anon_large(),
            file_mapped: rmap.file_mapped(),
            bytes: heap.in_use() as u64,
            engine_bytes: engine.bytes + rmap.arena().nodes.live_bytes() as u64,
        };
        // SAFETY: as above.
        unsafe { sized::write(stats, size, now) };
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_has_a_number_and_its_name() {
        for kind in EngineKind::ALL {
            let number = (0..9).find(|n| engine_kind(*n) == Ok(*kind)).expect("a number");
            // SAFETY: a static string.
            let name = unsafe { core::ffi::CStr::from_ptr(rmap_engine_name(number)) };
            assert_eq!(name.to_str(), Ok(kind.name()));
        }
        assert!(rmap_engine_name(0).is_null() && rmap_engine_name(9).is_null());
    }

    #[test]
    fn the_header_has_the_version_of_the_package() {
        let version = format!("{RMAP_VERSION_MAJOR}.{RMAP_VERSION_MINOR}.{RMAP_VERSION_PATCH}");
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
    }
}
