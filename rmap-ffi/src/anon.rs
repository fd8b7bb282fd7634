//! Anonymous pages: mapped, inherited, reused, unmapped.

use crate::handle::{Vma, ctx_of, open_linked, open_page, open_vma, put, rmap_page, rmap_vma};
use crate::page::need_locked;
use crate::reserve::spend;
use crate::status::rmap_status::{RMAP_ERR_INVAL, RMAP_ERR_NOT_MAPPED};
use crate::status::{Outcome, boundary, rmap_status};
use crate::vma::{need_mmap_lock, need_same_context};
use rmap_core::base::types::{PAGE_SHIFT, VirtAddr};
use rmap_core::engine::Engine;
use rmap_core::page::Page;
use rmap_core::rmap::account::Level;

/// What one page-table entry maps: `level` of the functions that count mappings.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum rmap_level {
    /// One page.
    RMAP_LEVEL_PAGE = 0,
    /// A whole compound page, by one entry at its head's address.
    RMAP_LEVEL_ENTIRE = 1,
}

/// Checks what is about to be mapped, or unmapped, against the VMA.
#[inline]
pub(crate) fn check(vma: &Vma, page: &Page, addr: u64, level: u32) -> Outcome<(VirtAddr, Level)> {
    need_same_context(vma, page)?;
    let addr = VirtAddr(addr);
    if !addr.is_page_aligned() || !vma.contains(addr) {
        return Err(RMAP_ERR_INVAL);
    }
    match level {
        0 if !page.is_tail() => Ok((addr, Level::Single)),
        0 => {
            // The head's address may lie below the VMA, but not below 0.
            let before = (page.pfn().0 - page.head().pfn().0) << PAGE_SHIFT;
            if addr.0 < before { Err(RMAP_ERR_INVAL) } else { Ok((addr, Level::Single)) }
        }
        1 => {
            let fits = page.is_compound() && !page.is_tail() && vma.end().0 - addr.0 >= page.nr_pages() << PAGE_SHIFT;
            if fits { Ok((addr, Level::Entire)) } else { Err(RMAP_ERR_INVAL) }
        }
        _ => Err(RMAP_ERR_INVAL),
    }
}

/// Makes sure that anonymous pages may be mapped in a VMA. Called before the page-table lock is taken.
///
/// Parameters: vma.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK when mmap_lock is not held.
/// Ownership: nothing.
/// Context: mmap_lock of its address space held, for reading suffices; no page-table lock. May take the anon_vma root
/// of a neighbour. Calls the allocator, not under it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_anon_vma_prepare(vma: *mut rmap_vma) -> rmap_status {
    boundary(|| {
        // SAFETY: a living VMA (Parameters).
        let vma = unsafe { open_linked(vma) }?;
        need_mmap_lock(vma)?;
        Ok(ctx_of(vma).rmap.engine().prepare(vma)?)
    })
}

/// Counts the first mapping of a page that nobody else can reach: it is this VMA's alone, and exclusive.
///
/// Parameters: page, that belongs to nobody; vma, prepared; addr, of the entry, page-aligned, in vma; level, one of
/// enum rmap_level.
/// Returns: RMAP_OK; RMAP_ERR_INVAL for a bad address or level, or a VMA that is not prepared; RMAP_ERR_BUSY when the
/// page is mapped or belongs to somebody; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: the mapping owns a reference to the page, which the caller gives it (rmap_page_claim's, or one more).
/// Context: the page-table lock of the entry held, mmap_lock held. Allocates nothing:
/// memory is reserved before (rmap_reserve; RMAP_ERR_NOMEM when the engine needs it and it was not).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_add_new_anon(
    page: *mut rmap_page,
    vma: *mut rmap_vma,
    addr: u64,
    level: u32,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living VMA, and a descriptor of a living context (Parameters).
        let (vma, page) = unsafe { (open_linked(vma)?, open_page(page)?) };
        let (addr, level) = check(vma, page, addr, level)?;
        spend(ctx_of(vma), page, level)?;
        Ok(ctx_of(vma).rmap.page_add_new_anon_rmap(page, vma, addr, level)?)
    })
}

/// Counts a mapping of a page that was anonymous before, or comes back from swap. A page that belongs to nobody gets
/// the anchor of the VMA if it is exclusive, else the oldest that the VMA knows, so that no relative who may have it
/// too is missed.
///
/// Parameters: page; vma, prepared, of the family that the page belongs to; addr and level as for
/// rmap_page_add_new_anon; exclusive, whether no other address space can have the page.
/// Returns: RMAP_OK; RMAP_ERR_INVAL as rmap_page_add_new_anon, or for a page of a file; RMAP_ERR_LOCK when the page is
/// not locked; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: the mapping owns a reference to the page, which the caller gives it.
/// Context: the page lock and the page-table lock of the entry held, mmap_lock held. Allocates nothing:
/// memory is reserved before (rmap_reserve; RMAP_ERR_NOMEM when the engine needs it and it was not).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_add_anon(
    page: *mut rmap_page,
    vma: *mut rmap_vma,
    addr: u64,
    exclusive: bool,
    level: u32,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living VMA, and a descriptor of a living context (Parameters).
        let (vma, page) = unsafe { (open_linked(vma)?, open_page(page)?) };
        let (addr, level) = check(vma, page, addr, level)?;
        need_locked(page)?;
        spend(ctx_of(vma), page, level)?;
        Ok(ctx_of(vma).rmap.page_add_anon_rmap(page, vma, addr, exclusive, level)?)
    })
}

/// Makes a page the VMA's alone: copy-on-write found that no other address space maps it. From now on walks visit only
/// this VMA and what it is forked into.
///
/// Parameters: page, anonymous; vma, prepared, the last to map it; addr, where it maps it.
/// Returns: RMAP_OK; RMAP_ERR_INVAL for a bad address, a VMA that is not prepared, or a page that is not anonymous;
/// RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: nothing.
/// Context: the page lock and the page-table lock of the entry held, mmap_lock held. Allocates nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_move_anon(page: *mut rmap_page, vma: *mut rmap_vma, addr: u64) -> rmap_status {
    boundary(|| {
        // SAFETY: a living VMA, and a descriptor of a living context (Parameters).
        let (vma, page) = unsafe { (open_linked(vma)?, open_page(page)?) };
        let (addr, _) = check(vma, page, addr, rmap_level::RMAP_LEVEL_PAGE as u32)?;
        need_locked(page)?;
        Ok(ctx_of(vma).rmap.page_move_anon_rmap(page, vma, addr)?)
    })
}

/// Counts the mapping that fork copies. An exclusive anonymous page is exclusive no more: write-protect both entries.
///
/// Parameters: page, mapped by the parent; child, the child's VMA; addr, of the entry in it; level, one of enum
/// rmap_level.
/// Returns: RMAP_OK; RMAP_ERR_BUSY when the page is pinned and exclusive: copy it for the child instead;
/// RMAP_ERR_NOT_MAPPED when nothing maps the page; RMAP_ERR_INVAL for a bad address or level; RMAP_ERR_FOREIGN for a
/// page of another context.
/// Ownership: the mapping owns a reference to the page, which the caller gives it (rmap_page_get).
/// Context: the page-table locks of both entries held, the parent's first. Allocates nothing:
/// memory is reserved before (rmap_reserve; RMAP_ERR_NOMEM when the engine needs it and it was not).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_dup(
    page: *mut rmap_page,
    child: *mut rmap_vma,
    addr: u64,
    level: u32,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living VMA, and a descriptor of a living context (Parameters).
        let (child, page) = unsafe { (open_linked(child)?, open_page(page)?) };
        let (addr, level) = check(child, page, addr, level)?;
        if !page.is_mapped() {
            return Err(RMAP_ERR_NOT_MAPPED);
        }
        spend(ctx_of(child), page, level)?;
        Ok(ctx_of(child).rmap.page_dup_rmap(page, child, addr, level)?)
    })
}

/// Tells that an entry moves from one VMA to its copy (rmap_vma_move): it is set at the new address, and still there at
/// the old one. No count changes.
///
/// Parameters: page, that both entries map; source and old, where it comes from; copy and new_addr, where it goes. Both
/// VMAs of one address space.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when nothing maps the page; RMAP_ERR_INVAL for a bad address, or VMAs of
/// different address spaces; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: the mapping keeps its reference to the page.
/// Context: the page-table locks of both entries and rmap_vma_move_lock of source held. Allocates nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_moved(
    page: *mut rmap_page,
    source: *mut rmap_vma,
    old: u64,
    copy: *mut rmap_vma,
    new_addr: u64,
) -> rmap_status {
    boundary(|| {
        // SAFETY: living VMAs, and a descriptor of a living context (Parameters).
        let (source, copy, page) = unsafe { (open_linked(source)?, open_linked(copy)?, open_page(page)?) };
        let level = rmap_level::RMAP_LEVEL_PAGE as u32;
        let ((old, _), (new, _)) = (check(source, page, old, level)?, check(copy, page, new_addr, level)?);
        if !core::ptr::eq(source.mm(), copy.mm()) {
            return Err(RMAP_ERR_INVAL);
        }
        if !page.is_mapped() {
            return Err(RMAP_ERR_NOT_MAPPED);
        }
        ctx_of(source).rmap.engine().page_moved(page, (source, old), (copy, new));
        Ok(())
    })
}

/// Uncounts a mapping whose entry was cleared. What the page belongs to stays, as a hint, until rmap_page_release.
///
/// Parameters: page; vma; addr and level, as they were counted; last, or NULL, receives whether nothing maps the page
/// (any page of its compound page) any more.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when no such mapping is counted; RMAP_ERR_INVAL for a bad address or level;
/// RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: the mapping's reference is the caller's again; rmap_page_put gives it back.
/// Context: the page-table lock of the entry held. Allocates nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_remove(
    page: *mut rmap_page,
    vma: *mut rmap_vma,
    addr: u64,
    level: u32,
    last: *mut bool,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living VMA, and a descriptor of a living context (Parameters).
        let (vma, page) = unsafe { (open_vma(vma)?, open_page(page)?) };
        let (addr, level) = check(vma, page, addr, level)?;
        let counted = if level == Level::Single { page.single_mapcount() } else { page.entire_mapcount() };
        if counted == 0 {
            return Err(RMAP_ERR_NOT_MAPPED);
        }
        let was_last = ctx_of(vma).rmap.page_remove_rmap(page, vma, addr, level);
        // SAFETY: `last` is NULL or valid (Parameters).
        unsafe { put(last, was_last) };
        Ok(())
    })
}
