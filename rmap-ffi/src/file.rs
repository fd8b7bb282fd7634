//! Files: their page caches, and the VMAs that map them.

use crate::anon::check;
use crate::context::Context;
use crate::handle::{
    File, Owner, Private, Slot, ctx_of, need, open, open_ctx, open_file, open_linked, open_page, open_page_of, put,
    rmap_ctx, rmap_file, rmap_page, rmap_vma, seal, seal_page,
};
use crate::held;
use crate::page::need_locked;
use crate::reserve::spend;
use crate::status::rmap_status::{RMAP_ERR_BUSY, RMAP_ERR_INVAL, RMAP_ERR_NOT_MAPPED, RMAP_ERR_STALE};
use crate::status::{boundary, boundary_or, rmap_status};
use core::ffi::c_void;
use core::ptr::NonNull;

/// Makes a file. Shared anonymous memory is a file without a name.
///
/// Parameters: ctx; pages, its size; anonymous, whether it is shared anonymous memory, whose pages go to swap;
/// private_data, the program's; out, receives the file.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM.
/// Ownership: the file is the program's, until rmap_file_free.
/// Context: any thread. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_file_new(
    ctx: *mut rmap_ctx,
    pages: u64,
    anonymous: bool,
    private_data: *mut c_void,
    out: *mut *mut rmap_file,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        let slot = Slot::take(&context.files)?;
        let data = Owner { ctx: NonNull::from(context), slot, private: Private::new(private_data) };
        // SAFETY: slots are type-stable.
        let place = unsafe { slot.as_ref() };
        match File::new(context.rmap.arena(), pages, anonymous, data) {
            Ok(file) => place.fill(file),
            Err(error) => {
                // SAFETY: taken above, and nobody knows it.
                unsafe { context.files.give(slot) };
                return Err(error.into());
            }
        }
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal(place)) };
        Ok(())
    })
}

/// Frees a file.
///
/// Parameters: file, or NULL, which is nothing to do.
/// Returns: RMAP_OK; RMAP_ERR_BUSY when a VMA maps it or a page belongs to it; RMAP_ERR_LOCK when this thread holds a
/// lock of librmap's.
/// Ownership: on success file is gone.
/// Context: no other thread uses file, no locks held. Takes i_mmap_rwsem for reading. Calls the allocator's free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_file_free(file: *mut rmap_file) -> rmap_status {
    boundary(|| {
        if file.is_null() {
            return Ok(());
        }
        // SAFETY: a living file (Parameters).
        let slot = unsafe { open::<Slot<File>>(file) }?;
        let file = slot.get()?;
        held::none()?;
        if file.mappings() != 0 || file.cached_pages() != 0 {
            return Err(RMAP_ERR_BUSY);
        }
        let context: *const Context = file.data().ctx();
        // SAFETY: a context outlives its files.
        let context = unsafe { &*context };
        // VMAs that wait for their grace period still refer to it.
        context.rmap.arena().rcu.drain();
        slot.vacate(&context.files).ok_or(RMAP_ERR_STALE)?;
        Ok(())
    })
}

/// Tells the program's pointer of a file.
///
/// Parameters: file.
/// Returns: the pointer; NULL when file is NULL.
/// Ownership: the program's.
/// Context: any thread, any locks held, callbacks too. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_file_private(file: *const rmap_file) -> *mut c_void {
    // SAFETY: a living file (Parameters).
    boundary_or(core::ptr::null_mut(), || Ok(unsafe { open_file(file) }?.data().private.get()))
}

/// Tells the size of a file, in pages.
///
/// Parameters: file.
/// Returns: the size; 0 when file is NULL.
/// Ownership: nothing.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_file_pages(file: *const rmap_file) -> u64 {
    // SAFETY: a living file (Parameters).
    boundary_or(0, || Ok(unsafe { open_file(file) }?.size()))
}

/// Sets the size of a file. Pages beyond it are the program's to unmap and remove.
///
/// Parameters: file; pages, its new size.
/// Returns: RMAP_OK.
/// Ownership: nothing.
/// Context: any thread. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_file_set_pages(file: *mut rmap_file, pages: u64) -> rmap_status {
    boundary(|| {
        // SAFETY: a living file (Parameters).
        unsafe { open_file(file) }?.set_size(pages);
        Ok(())
    })
}

/// Puts a page into a file.
///
/// Parameters: file; page, that belongs to nobody, referred to by the caller; pgoff, its page offset.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when the file has a page there; RMAP_ERR_BUSY when the page
/// belongs to somebody; RMAP_ERR_LOCK when it is not locked; RMAP_ERR_STALE when its frame is free; RMAP_ERR_FOREIGN
/// for a page of another context; RMAP_ERR_INVAL for a tail.
/// Ownership: the file takes a reference of its own.
/// Context: the page lock held. Takes the lock of the page cache. Calls the allocator, not under it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_file_add_page(file: *mut rmap_file, page: *mut rmap_page, pgoff: u64) -> rmap_status {
    boundary(|| {
        // SAFETY: a living file (Parameters).
        let file = unsafe { open_file(file) }?;
        // SAFETY: a descriptor of a living context (Parameters).
        let page = unsafe { open_page_of(file.data().ctx(), page) }?;
        if page.is_tail() {
            return Err(RMAP_ERR_INVAL);
        }
        need_locked(page)?;
        if page.refcount() == 0 {
            return Err(RMAP_ERR_STALE);
        }
        Ok(file.add_page(page, pgoff)?)
    })
}

/// Takes a page out of a file.
///
/// Parameters: file; page, one of its pages.
/// Returns: RMAP_OK; RMAP_ERR_FOREIGN when it is not; RMAP_ERR_BUSY when it is mapped; RMAP_ERR_LOCK when it is not
/// locked.
/// Ownership: the file's reference is the caller's; rmap_page_put gives it back.
/// Context: the page lock held. May call the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_file_remove_page(file: *mut rmap_file, page: *mut rmap_page) -> rmap_status {
    boundary(|| {
        // SAFETY: a living file (Parameters).
        let file = unsafe { open_file(file) }?;
        // SAFETY: a descriptor of a living context (Parameters).
        let page = unsafe { open_page_of(file.data().ctx(), page) }?;
        need_locked(page)?;
        Ok(file.remove_page(page)?)
    })
}

/// Finds the page at an offset of a file.
///
/// Parameters: file; pgoff; out, receives the page.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when the file has no page there.
/// Ownership: the caller owns a new reference. That the page is still there is certain only under its lock: compare
/// rmap_page_index again.
/// Context: lock order: after the page lock. Takes the lock of the file's page cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_file_find_page(
    file: *mut rmap_file,
    pgoff: u64,
    out: *mut *mut rmap_page,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living file (Parameters).
        let page = unsafe { open_file(file) }?.find_get_page(pgoff).ok_or(RMAP_ERR_NOT_MAPPED)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal_page(page)) };
        Ok(())
    })
}

/// Counts a mapping of a file's page.
///
/// Parameters: page, of the file that vma maps, at the offset that it maps at addr; vma; addr and level as for
/// rmap_page_add_new_anon.
/// Returns: RMAP_OK; RMAP_ERR_INVAL for a bad address or level, or another page than vma maps there; RMAP_ERR_FOREIGN
/// for a page of another context.
/// Ownership: the mapping owns a reference to the page, which the caller gives it.
/// Context: the page-table lock of the entry held, mmap_lock held; the page lock, or another way to know that the page
/// stays in its file. Allocates nothing: memory is reserved before (rmap_reserve; RMAP_ERR_NOMEM when the engine needs
/// it and it was not).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_add_file(
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
        Ok(ctx_of(vma).rmap.page_add_file_rmap(page, vma, addr, level)?)
    })
}
