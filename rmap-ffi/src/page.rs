//! Page descriptors: frames come and go, references, the page lock, pins, flags, compound pages.

use crate::handle::{need, open_ctx, open_page, open_page_of, put, rmap_ctx, rmap_page, seal_page};
use crate::held;
use crate::status::rmap_status::{RMAP_ERR_AGAIN, RMAP_ERR_BUSY, RMAP_ERR_INVAL, RMAP_ERR_LOCK, RMAP_ERR_STALE};
use crate::status::{Outcome, boundary, boundary_or, rmap_status};
use core::ffi::c_void;
use core::ptr::NonNull;
use rmap_core::base::types::Pfn;
use rmap_core::page::Page;
use rmap_core::page::flags::PageFlags;
use rmap_core::page::mapping::Mapping;

/// Bytes of a page descriptor.
pub const RMAP_PAGE_DESC_SIZE: usize = 64;
/// What page descriptors are aligned to.
pub const RMAP_PAGE_DESC_ALIGN: usize = 64;

/// Page flag: locked (rmap_page_lock).
pub const RMAP_PG_LOCKED: u32 = 1;
/// Page flag: somebody waits for the page lock.
pub const RMAP_PG_WAITERS: u32 = 2;
/// Page flag: mapped by one address space alone, which may write without a copy.
pub const RMAP_PG_ANON_EXCLUSIVE: u32 = 4;
/// Page flag: goes to swap, not to a file.
pub const RMAP_PG_SWAP_BACKED: u32 = 8;
/// Page flag: differs from what stands in swap or in the file.
pub const RMAP_PG_DIRTY: u32 = 16;
/// Page flag: was used.
pub const RMAP_PG_REFERENCED: u32 = 32;
/// Page flag: its contents are valid.
pub const RMAP_PG_UPTODATE: u32 = 64;
/// Page flag: a VMA with RMAP_VM_LOCKED maps it.
pub const RMAP_PG_MLOCKED: u32 = 128;
/// Page flag: in the swap cache, `private` is its slot.
pub const RMAP_PG_SWAP_CACHE: u32 = 2048;
/// Page flag: its memory is broken.
pub const RMAP_PG_HWPOISON: u32 = 4096;
/// Page flag: being written back.
pub const RMAP_PG_WRITEBACK: u32 = 8192;
/// Page flag: never freed, never counted.
pub const RMAP_PG_RESERVED: u32 = 16384;
/// Page flag: lazily freed, clean contents may be dropped.
pub const RMAP_PG_LAZY_FREE: u32 = 32768;

/// Why flags cannot be set or cleared by a program: they belong to the page lock.
const LOCK_FLAGS: PageFlags = PageFlags::LOCKED.union(PageFlags::WAITERS);

const _: () = {
    assert!(RMAP_PAGE_DESC_SIZE == size_of::<Page>() && RMAP_PAGE_DESC_ALIGN == align_of::<Page>());
    assert!(RMAP_PG_LOCKED | RMAP_PG_WAITERS == LOCK_FLAGS.bits());
    assert!(RMAP_PG_ANON_EXCLUSIVE == PageFlags::ANON_EXCLUSIVE.bits());
    assert!(RMAP_PG_SWAP_BACKED == PageFlags::SWAP_BACKED.bits());
    assert!(RMAP_PG_DIRTY == PageFlags::DIRTY.bits());
    assert!(RMAP_PG_REFERENCED == PageFlags::REFERENCED.bits());
    assert!(RMAP_PG_UPTODATE == PageFlags::UPTODATE.bits());
    assert!(RMAP_PG_MLOCKED == PageFlags::MLOCKED.bits());
    assert!(RMAP_PG_SWAP_CACHE == PageFlags::SWAP_CACHE.bits());
    assert!(RMAP_PG_HWPOISON == PageFlags::HWPOISON.bits());
    assert!(RMAP_PG_WRITEBACK == PageFlags::WRITEBACK.bits());
    assert!(RMAP_PG_RESERVED == PageFlags::RESERVED.bits());
    assert!(RMAP_PG_LAZY_FREE == PageFlags::LAZY_FREE.bits());
};

/// `RMAP_ERR_LOCK` unless somebody holds the page lock.
#[inline]
pub(crate) fn need_locked(page: &Page) -> Outcome {
    if page.is_locked() { Ok(()) } else { Err(RMAP_ERR_LOCK) }
}

/// Adds a range of page frames, all free. Ranges may be sparse, are never taken away, and may be added while others are
/// used.
///
/// Parameters: ctx; first, the first frame number; count, frames, above 0; memory, RMAP_PAGE_DESC_SIZE * count bytes
/// aligned to RMAP_PAGE_DESC_ALIGN for the descriptors, or NULL for the library's own.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when a frame is there already; RMAP_ERR_INVAL for an empty range,
/// one that ends above 2^52, or misaligned memory.
/// Ownership: memory is the context's until rmap_free, and the program does not touch it.
/// Context: any thread. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_pages_add(
    ctx: *mut rmap_ctx,
    first: u64,
    count: u64,
    memory: *mut c_void,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        let pages = context.rmap.pages();
        let Some(memory) = NonNull::new(memory.cast::<Page>()) else { return Ok(pages.add(Pfn(first), count)?) };
        if !memory.is_aligned() {
            return Err(RMAP_ERR_INVAL);
        }
        // SAFETY: valid for `count` descriptors and the context's until it is freed (Ownership).
        Ok(unsafe { pages.add_in(Pfn(first), count, memory) }?)
    })
}

/// Finds the descriptor of a frame.
///
/// Parameters: ctx; pfn, the frame number.
/// Returns: the descriptor; NULL when no range has the frame, or ctx is NULL.
/// Ownership: the context's, valid until rmap_free.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page(ctx: *const rmap_ctx, pfn: u64) -> *mut rmap_page {
    boundary_or(core::ptr::null_mut(), || {
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        Ok(context.rmap.pages().page(Pfn(pfn)).map_or(core::ptr::null_mut(), seal_page))
    })
}

/// Tells the frame number of a page.
///
/// Parameters: page.
/// Returns: the frame number; UINT64_MAX when page is NULL.
/// Ownership: nothing.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_pfn(page: *const rmap_page) -> u64 {
    // SAFETY: a descriptor of a living context (Parameters).
    boundary_or(u64::MAX, || Ok(unsafe { open_page(page) }?.pfn().0))
}

/// Tells how many page-table entries map a page: by itself, or as a part of its compound page.
///
/// Parameters: page.
/// Returns: the number; 0 when page is NULL. Of the past at once, unless the page-table locks of its mappings are held.
/// Ownership: nothing.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_mapcount(page: *const rmap_page) -> u32 {
    // SAFETY: a descriptor of a living context (Parameters).
    boundary_or(0, || Ok(unsafe { open_page(page) }?.mapcount()))
}

/// Tells whether anything maps a page, or any page of its compound page.
///
/// Parameters: page.
/// Returns: true or false; false when page is NULL. Of the past at once, as rmap_page_mapcount.
/// Ownership: nothing.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_is_mapped(page: *const rmap_page) -> bool {
    // SAFETY: a descriptor of a living context (Parameters).
    boundary_or(false, || Ok(unsafe { open_page(page) }?.is_mapped()))
}

/// Tells the page offset of a page: in its file, or as its anonymous VMA counted it when it was first mapped.
///
/// Parameters: page.
/// Returns: the offset, in pages; 0 when page is NULL. Certain only under the page lock.
/// Ownership: nothing.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_index(page: *const rmap_page) -> u64 {
    // SAFETY: a descriptor of a living context (Parameters).
    boundary_or(0, || Ok(unsafe { open_page(page) }?.index()))
}

/// Tells how many references a page has.
///
/// Parameters: page.
/// Returns: the number; 0 for a free frame, or when page is NULL. Of the past at once.
/// Ownership: nothing.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_refcount(page: *const rmap_page) -> u32 {
    // SAFETY: a descriptor of a living context (Parameters).
    boundary_or(0, || Ok(unsafe { open_page(page) }?.refcount()))
}

/// Makes the first reference to a free frame: the program's frame allocator hands it out.
///
/// Parameters: page, free, not a tail.
/// Returns: RMAP_OK; RMAP_ERR_BUSY when it has references or is mapped or belongs to somebody; RMAP_ERR_INVAL for a
/// tail.
/// Ownership: the caller owns one reference.
/// Context: the frame is the caller's alone. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_claim(page: *mut rmap_page) -> rmap_status {
    boundary(|| {
        // SAFETY: a descriptor of a living context (Parameters).
        let page = unsafe { open_page(page) }?;
        if page.is_tail() {
            return Err(RMAP_ERR_INVAL);
        }
        if page.refcount() != 0 || page.is_mapped() || page.mapping().load() != Mapping::None {
            return Err(RMAP_ERR_BUSY);
        }
        page.set_refcount(1);
        Ok(())
    })
}

/// Makes the descriptor of a page that nobody refers to any more that of a free frame: what it belonged to, its flags,
/// its private word. A compound page is taken apart.
///
/// The frame may be handed out again only after this, and an anon_vma that the page belonged to may be given up only
/// after this.
///
/// Parameters: ctx; page, of a compound page the head.
/// Returns: RMAP_OK; RMAP_ERR_BUSY when it has references, is mapped, pinned, locked, or in a file; RMAP_ERR_INVAL for
/// a tail; RMAP_ERR_FOREIGN for a page of another context.
/// Ownership: the frame is the caller's, free.
/// Context: the frame is the caller's alone, as after rmap_page_put said so. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_release(ctx: *mut rmap_ctx, page: *mut rmap_page) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context, and a descriptor of a living context (Parameters).
        let (context, page) = unsafe { open_pair(ctx, page) }?;
        if page.is_tail() {
            return Err(RMAP_ERR_INVAL);
        }
        let in_file = matches!(page.mapping().load(), Mapping::File(_));
        if page.refcount() != 0 || page.is_mapped() || page.pins() != 0 || page.is_locked() || in_file {
            return Err(RMAP_ERR_BUSY);
        }
        let pages = context.rmap.pages();
        let (pfn, count) = (page.pfn(), page.nr_pages());
        if page.is_compound() {
            pages.break_compound(pfn)?;
        }
        (0..count).filter_map(|i| pages.page(Pfn(pfn.0 + i))).for_each(reset);
        Ok(())
    })
}

/// Makes a descriptor that of a free frame.
fn reset(page: &Page) {
    page.mapping().store(Mapping::None);
    page.clear(PageFlags::all() - LOCK_FLAGS);
    page.set_index(0);
    page.set_private(0);
}

/// # Safety
/// Both handles are NULL or living ones.
unsafe fn open_pair<'a>(
    ctx: *const rmap_ctx,
    page: *const rmap_page,
) -> Outcome<(&'a crate::context::Context, &'a Page)> {
    // SAFETY: the caller's contract.
    let context = unsafe { open_ctx(ctx) }?;
    // SAFETY: as above.
    Ok((context, unsafe { open_page_of(context, page) }?))
}

/// Takes one more reference to a page, of a compound page to the whole.
///
/// Parameters: page.
/// Returns: RMAP_OK; RMAP_ERR_STALE when the frame is free.
/// Ownership: the caller owns the reference.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_get(page: *mut rmap_page) -> rmap_status {
    // SAFETY: a descriptor of a living context (Parameters).
    boundary(|| if unsafe { open_page(page) }?.try_get() { Ok(()) } else { Err(RMAP_ERR_STALE) })
}

/// Gives a reference back.
///
/// Parameters: page; last, receives whether it was the last.
/// Returns: RMAP_OK; RMAP_ERR_STALE when the frame is free already.
/// Ownership: the reference is gone. When it was the last, the caller owns the frame alone, and frees it with
/// rmap_page_release.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_put(page: *mut rmap_page, last: *mut bool) -> rmap_status {
    boundary(|| {
        need(last)?;
        // SAFETY: a descriptor of a living context (Parameters).
        let page = unsafe { open_page(page) }?;
        if page.refcount() == 0 {
            return Err(RMAP_ERR_STALE);
        }
        // SAFETY: `last` is not NULL, and valid (Parameters).
        unsafe { put(last, page.put()) };
        Ok(())
    })
}

/// Takes the page lock, waiting for it; of a compound page the head's.
///
/// Parameters: page.
/// Returns: RMAP_OK.
/// Ownership: the lock is this thread's, until rmap_page_unlock.
/// Context: lock order: after mmap_lock, before everything else; this thread holds no other page lock (else
/// rmap_page_lock_nested). Waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_lock(page: *mut rmap_page) -> rmap_status {
    boundary(|| {
        // SAFETY: a descriptor of a living context (Parameters).
        unsafe { open_page(page) }?.lock().into_raw();
        held::took();
        Ok(())
    })
}

/// Takes the second page lock of two, waiting for it.
///
/// Parameters: page, of a higher frame number than the first.
/// Returns: RMAP_OK.
/// Ownership: the lock is this thread's, until rmap_page_unlock.
/// Context: this thread holds the page lock of a lower frame number. Waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_lock_nested(page: *mut rmap_page) -> rmap_status {
    boundary(|| {
        // SAFETY: a descriptor of a living context (Parameters).
        unsafe { open_page(page) }?.lock_nested().into_raw();
        held::took();
        Ok(())
    })
}

/// Takes the page lock if nobody holds it.
///
/// Parameters: page.
/// Returns: RMAP_OK; RMAP_ERR_AGAIN when somebody holds it.
/// Ownership: on success the lock is this thread's, until rmap_page_unlock.
/// Context: any thread, any locks held. Does not wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_trylock(page: *mut rmap_page) -> rmap_status {
    boundary(|| {
        // SAFETY: a descriptor of a living context (Parameters).
        unsafe { open_page(page) }?.try_lock().ok_or(RMAP_ERR_AGAIN)?.into_raw();
        held::took();
        Ok(())
    })
}

/// Releases the page lock.
///
/// Parameters: page.
/// Returns: RMAP_OK; RMAP_ERR_LOCK when nobody holds the lock.
/// Ownership: the lock is gone.
/// Context: the thread that took it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_unlock(page: *mut rmap_page) -> rmap_status {
    boundary(|| {
        // SAFETY: a descriptor of a living context (Parameters).
        let page = unsafe { open_page(page) }?;
        need_locked(page)?;
        // SAFETY: this thread holds the lock (Context), and took it by `into_raw`, as all locks across this boundary.
        unsafe { page.unlock_raw() };
        held::released();
        Ok(())
    })
}

/// Pins a page for access that goes on while page tables change, as direct I/O does: takes a reference and a pin.
///
/// Parameters: page.
/// Returns: RMAP_OK; RMAP_ERR_STALE when the frame is free; RMAP_ERR_AGAIN when an anonymous page is shared, or on its
/// way there: fault it for writing, and try again.
/// Ownership: the caller owns the pin with its reference, until rmap_page_unpin. While pinned, fork copies the page
/// instead of sharing it.
/// Context: the caller holds a reference or the page-table lock of a mapping. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_pin(page: *mut rmap_page) -> rmap_status {
    boundary(|| {
        // SAFETY: a descriptor of a living context (Parameters).
        let page = unsafe { open_page(page) }?;
        if page.refcount() == 0 {
            return Err(RMAP_ERR_STALE);
        }
        if page.try_pin() { Ok(()) } else { Err(RMAP_ERR_AGAIN) }
    })
}

/// Gives a pin and its reference back.
///
/// Parameters: page; last, receives whether its reference was the last.
/// Returns: RMAP_OK; RMAP_ERR_STALE when the page is not pinned.
/// Ownership: as for rmap_page_put.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_unpin(page: *mut rmap_page, last: *mut bool) -> rmap_status {
    boundary(|| {
        need(last)?;
        // SAFETY: a descriptor of a living context (Parameters).
        let page = unsafe { open_page(page) }?;
        if page.pins() == 0 {
            return Err(RMAP_ERR_STALE);
        }
        // SAFETY: `last` is not NULL, and valid (Parameters).
        unsafe { put(last, page.unpin()) };
        Ok(())
    })
}

/// Tells the flags of a page, bits of RMAP_PG_*.
///
/// Parameters: page.
/// Returns: the flags of this moment; 0 when page is NULL.
/// Ownership: nothing.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_flags(page: *const rmap_page) -> u32 {
    // SAFETY: a descriptor of a living context (Parameters).
    boundary_or(0, || Ok(unsafe { open_page(page) }?.flags().bits()))
}

/// The flags that a program may change.
fn own_flags(bits: u32) -> Outcome<PageFlags> {
    let flags = PageFlags::from_bits(bits).ok_or(RMAP_ERR_INVAL)?;
    if flags.intersects(LOCK_FLAGS) { Err(RMAP_ERR_INVAL) } else { Ok(flags) }
}

/// Sets flags of a page in one step.
///
/// Parameters: page; flags, bits of RMAP_PG_* without LOCKED and WAITERS.
/// Returns: RMAP_OK; RMAP_ERR_INVAL for other bits.
/// Ownership: nothing.
/// Context: what each flag asks for: RMAP_PG_ANON_EXCLUSIVE the page-table lock, RMAP_PG_SWAP_CACHE the page lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_set_flags(page: *mut rmap_page, flags: u32) -> rmap_status {
    boundary(|| {
        // SAFETY: a descriptor of a living context (Parameters).
        unsafe { open_page(page) }?.set(own_flags(flags)?);
        Ok(())
    })
}

/// Clears flags of a page in one step.
///
/// Parameters: page; flags, bits of RMAP_PG_* without LOCKED and WAITERS.
/// Returns: RMAP_OK; RMAP_ERR_INVAL for other bits.
/// Ownership: nothing.
/// Context: as for rmap_page_set_flags.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_clear_flags(page: *mut rmap_page, flags: u32) -> rmap_status {
    boundary(|| {
        // SAFETY: a descriptor of a living context (Parameters).
        unsafe { open_page(page) }?.clear(own_flags(flags)?);
        Ok(())
    })
}

/// Tells the program's word of a page; the swap slot of a page in the swap cache.
///
/// Parameters: page.
/// Returns: the word; 0 when page is NULL.
/// Ownership: nothing.
/// Context: the page lock held, or the frame the caller's alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_private(page: *const rmap_page) -> u64 {
    // SAFETY: a descriptor of a living context (Parameters).
    boundary_or(0, || Ok(unsafe { open_page(page) }?.private()))
}

/// Sets the program's word of a page.
///
/// Parameters: page; value.
/// Returns: RMAP_OK.
/// Ownership: nothing.
/// Context: the page lock held, or the frame the caller's alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_set_private(page: *mut rmap_page, value: u64) -> rmap_status {
    boundary(|| {
        // SAFETY: a descriptor of a living context (Parameters).
        unsafe { open_page(page) }?.set_private(value);
        Ok(())
    })
}

/// Makes 2^order frames one compound page: the first is the head, the others are tails. References, pins, page lock and
/// what it belongs to are the head's.
///
/// Parameters: ctx; pfn, the head's frame number, a multiple of 2^order; order, 1 to 9.
/// Returns: RMAP_OK; RMAP_ERR_INVAL for a bad order, alignment, or frames that are not in one range; RMAP_ERR_BUSY when
/// one is mapped or compound already.
/// Ownership: nothing.
/// Context: the frames are the caller's alone and not reachable. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_make_compound(ctx: *mut rmap_ctx, pfn: u64, order: u32) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        let order = u8::try_from(order).map_err(|_| RMAP_ERR_INVAL)?;
        Ok(context.rmap.pages().make_compound(Pfn(pfn), order)?)
    })
}

/// Takes a compound page apart.
///
/// Parameters: ctx; pfn, the head's frame number.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when it is no head; RMAP_ERR_BUSY when it is mapped.
/// Ownership: nothing.
/// Context: the frames are the caller's alone and not reachable. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_break_compound(ctx: *mut rmap_ctx, pfn: u64) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        Ok(context.rmap.pages().break_compound(Pfn(pfn))?)
    })
}

/// Finds the head of the compound page that a page belongs to; the page itself if it belongs to none.
///
/// Parameters: page.
/// Returns: the head; NULL when page is NULL.
/// Ownership: the context's.
/// Context: any thread; a reference held, so that the page is not taken apart. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_head(page: *mut rmap_page) -> *mut rmap_page {
    // SAFETY: a descriptor of a living context (Parameters).
    boundary_or(core::ptr::null_mut(), || Ok(seal_page(unsafe { open_page(page) }?.head())))
}
