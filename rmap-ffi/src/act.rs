//! Acting on all mappings of a page: unmap, age, clean.

use crate::context::Context;
use crate::handle::{Component, Vma, need, open_ctx, open_page_of, put, rmap_ctx, rmap_page, rmap_vma, seal};
use crate::held::Inside;
use crate::page::need_locked;
use crate::pte_ops::{encode, rmap_pte};
use crate::status::rmap_status::{RMAP_ERR_BUSY, RMAP_ERR_INVAL, RMAP_ERR_NOT_SUPPORTED};
use crate::status::{Outcome, boundary, rmap_status};
use core::ffi::c_void;
use rmap_core::base::types::VirtAddr;
use rmap_core::page::Page;
use rmap_core::page::pte::Pte;
use rmap_core::rmap::unmap::{TtuFlags, UnmapHooks};

/// Unmap flag: take each page-table lock, so that an unmapping under way elsewhere is waited for.
pub const RMAP_TTU_SYNC: u32 = 1;
/// Unmap flag: unmap from VMAs with RMAP_VM_LOCKED too.
pub const RMAP_TTU_IGNORE_MLOCK: u32 = 2;
/// Unmap flag: clear entries without a flush, then flush each VMA's range once.
pub const RMAP_TTU_BATCH_FLUSH: u32 = 4;
/// Unmap flag: the page's memory is broken; leave a marker of value 1.
pub const RMAP_TTU_HWPOISON: u32 = 8;

const _: () = {
    assert!(RMAP_TTU_SYNC == TtuFlags::SYNC.bits() && RMAP_TTU_IGNORE_MLOCK == TtuFlags::IGNORE_MLOCK.bits());
    assert!(RMAP_TTU_BATCH_FLUSH == TtuFlags::BATCH_FLUSH.bits() && RMAP_TTU_HWPOISON == TtuFlags::HWPOISON.bits());
};

/// What the program hears of an unmapping. Set `size`; functions may be NULL.
///
/// Context of both: as for `rmap_one`, with the page-table lock of the entry held too.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_unmap_hooks {
    /// The size of this struct, as the program knows it.
    pub size: usize,
    /// An anonymous page in the swap cache is about to be unmapped: take one more use of the slot, and return whether
    /// it was had; else the entry stays. NULL: it is never had.
    pub swap_dup: Option<unsafe extern "C" fn(slot: u64, arg: *mut c_void) -> bool>,
    /// The entry `old` was replaced by `new_pte`, and the count is about to drop.
    pub unmapped: Option<
        unsafe extern "C" fn(
            vma: *mut rmap_vma,
            addr: u64,
            old: *const rmap_pte,
            new_pte: *const rmap_pte,
            arg: *mut c_void,
        ),
    >,
    /// Passed to both.
    pub arg: *mut c_void,
}

/// What rmap_page_referenced found.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_referenced {
    /// Mappings whose young bit was set; it is cleared now.
    pub young: u32,
    /// The lock was not free: nothing was looked at. Treat the page as used.
    pub contended: bool,
    /// The flags of the VMAs with such mappings, and of one with RMAP_VM_LOCKED.
    pub vm_flags: u64,
}

/// The program's hooks, as the core calls them.
struct Hooks(Option<rmap_unmap_hooks>);

impl UnmapHooks<Component> for Hooks {
    fn swap_dup(&mut self, slot: u64) -> bool {
        let Some(hooks) = &self.0 else { return false };
        // SAFETY: the program's function, called as its contract says.
        hooks.swap_dup.is_some_and(|swap_dup| unsafe { swap_dup(slot, hooks.arg) })
    }

    fn unmapped(&mut self, vma: &Vma, addr: VirtAddr, old: Pte, new: Pte) {
        let Some(hooks) = &self.0 else { return };
        let Some(unmapped) = hooks.unmapped else { return };
        let (old, new) = (encode(old), encode(new));
        // SAFETY: as above; the entries are valid for the call.
        unsafe { unmapped(seal(vma), addr.0, &raw const old, &raw const new, hooks.arg) };
    }
}

/// # Safety
/// Both handles are NULL or living ones.
unsafe fn open_locked<'a>(ctx: *mut rmap_ctx, page: *mut rmap_page) -> Outcome<(&'a Context, &'a Page)> {
    // SAFETY: the caller's contract.
    let (context, page) = unsafe {
        let context = open_ctx(ctx)?;
        (context, open_page_of(context, page)?)
    };
    need_locked(page)?;
    Ok((context, page))
}

/// Tries to take a page out of every page table, putting the references of its mappings.
///
/// A file's page leaves nothing behind. An anonymous page leaves its swap entry, and must therefore be in the swap
/// cache (RMAP_PG_SWAP_CACHE, and its slot in rmap_page_private), or be lazily freed and clean. A page that is pinned,
/// or mapped by a VMA with RMAP_VM_LOCKED, stays mapped there; entries replaced until then stay replaced, they fault
/// back.
///
/// Parameters: ctx; page, of a compound page any; flags, bits of RMAP_TTU_*; hooks, or NULL; unmapped, receives whether
/// nothing maps the page any more.
/// Returns: RMAP_OK, also when the page stays mapped; RMAP_ERR_LOCK when it is not locked; RMAP_ERR_BUSY when it has no
/// reference beside its mappings'; RMAP_ERR_NOT_SUPPORTED for an unknown flag; RMAP_ERR_INVAL when the size of hooks is
/// too small; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: each mapping that goes gives its reference back. The caller's own stays.
/// Context: the page lock held, a reference to the page; no anon_vma, i_mmap or page-table lock. Waits, takes
/// page-table locks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_try_to_unmap(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    flags: u32,
    hooks: *const rmap_unmap_hooks,
    unmapped: *mut bool,
) -> rmap_status {
    boundary(|| {
        need(unmapped)?;
        // SAFETY: a living context, and a descriptor (Parameters).
        let (context, page) = unsafe { open_locked(ctx, page) }?;
        let flags = TtuFlags::from_bits(flags).ok_or(RMAP_ERR_NOT_SUPPORTED)?;
        if !hooks.is_aligned() {
            return Err(RMAP_ERR_INVAL);
        }
        // SAFETY: NULL or valid for its size (Parameters), of which the first member is always there.
        let hooks = match unsafe { hooks.as_ref() } {
            Some(hooks) if hooks.size < size_of::<rmap_unmap_hooks>() => return Err(RMAP_ERR_INVAL),
            hooks => hooks.copied(),
        };
        if page.refcount() == 0 || !page.is_compound() && page.refcount() <= page.mapcount() {
            return Err(RMAP_ERR_BUSY);
        }
        let inside = Inside::new();
        let gone = context.rmap.try_to_unmap(page, flags, &mut Hooks(hooks));
        drop(inside);
        // SAFETY: `unmapped` is not NULL, and valid (Parameters).
        unsafe { put(unmapped, gone) };
        Ok(())
    })
}

/// Tests and clears the young bit of every mapping of a page. Ends early at a VMA with RMAP_VM_LOCKED.
///
/// Parameters: ctx; page, of a compound page any; out, receives what was found.
/// Returns: RMAP_OK; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: nothing.
/// Context: the page lock held, a reference to the page. Does not wait for the anon_vma's or the file's lock; takes
/// page-table locks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_referenced(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    out: *mut rmap_referenced,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living context, and a descriptor (Parameters).
        let (context, page) = unsafe { open_locked(ctx, page) }?;
        let inside = Inside::new();
        let found = context.rmap.page_referenced(page);
        drop(inside);
        let found = rmap_referenced { young: found.young, contended: found.contended, vm_flags: found.vm_flags.bits() };
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, found) };
        Ok(())
    })
}

/// Takes the write and dirty bits of every mapping of a page by a VMA with RMAP_VM_SHARED, so that the next write is
/// noticed.
///
/// Parameters: ctx; page, of a compound page any; cleaned, or NULL, receives how many mappings had either: if any, the
/// page is dirty.
/// Returns: RMAP_OK; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: nothing.
/// Context: the page lock held, a reference to the page; no anon_vma, i_mmap or page-table lock. Waits, takes
/// page-table locks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_mkclean(ctx: *mut rmap_ctx, page: *mut rmap_page, cleaned: *mut u32) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context, and a descriptor (Parameters).
        let (context, page) = unsafe { open_locked(ctx, page) }?;
        let inside = Inside::new();
        let count = context.rmap.page_mkclean(page);
        drop(inside);
        // SAFETY: `cleaned` is NULL or valid (Parameters).
        unsafe { put(cleaned, count) };
        Ok(())
    })
}
