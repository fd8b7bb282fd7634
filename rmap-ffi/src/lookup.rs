//! From an anonymous page to its `anon_vma`: by a reference, or locked.

use crate::context::Context;
use crate::handle::{AnonVma, Component, need, open_ctx, open_page_of, put, rmap_anon_vma, rmap_ctx, rmap_page};
use crate::held;
use crate::status::rmap_status::{
    RMAP_ERR_AGAIN, RMAP_ERR_INVAL, RMAP_ERR_LOCK, RMAP_ERR_NOT_MAPPED, RMAP_ERR_NOT_SUPPORTED, RMAP_ERR_NULL,
    RMAP_ERR_STALE,
};
use crate::status::{Outcome, boundary, rmap_status};
use rmap_core::engine::anon_vma::{Anchor, AnchorRef, AnonVmaEngine};
use rmap_core::engine::any::AnyEngine;
use rmap_core::engine::{Lookup, Wait};

/// A locked anon_vma. The program gives the memory; the members are librmap's.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_anon_vma_lock {
    /// What the page points to; NULL: nothing is locked.
    pub anon_vma: *mut rmap_anon_vma,
    /// The root whose lock is held.
    pub root: *mut rmap_anon_vma,
}

/// The engine whose anchors are anon_vmas. [`RMAP_ERR_NOT_SUPPORTED`]: the context has another.
#[inline]
pub(crate) fn anon_vmas(context: &Context) -> Outcome<&AnonVmaEngine<Component>> {
    match context.rmap.engine() {
        AnyEngine::AnonVma(engine) => Ok(engine),
        _ => Err(RMAP_ERR_NOT_SUPPORTED),
    }
}

fn seal_anon(anon_vma: &AnonVma) -> *mut rmap_anon_vma {
    core::ptr::from_ref(anon_vma).cast_mut().cast()
}

/// # Safety
/// The handle is NULL or an anon_vma's, and its context lives; slots of anon_vmas are type-stable.
unsafe fn open_anon<'a>(handle: *const rmap_anon_vma) -> Outcome<&'a AnonVma> {
    let pointer = handle.cast::<AnonVma>();
    if !pointer.is_aligned() {
        return Err(RMAP_ERR_INVAL);
    }
    // SAFETY: the caller's contract.
    unsafe { pointer.as_ref() }.ok_or(RMAP_ERR_NULL)
}

/// Leaves an anchor locked, for the program.
pub(crate) fn seal_anchor(anchor: Anchor<'_, Component>) -> rmap_anon_vma_lock {
    let (node, root) = anchor.into_raw();
    rmap_anon_vma_lock { anon_vma: seal_anon(node), root: seal_anon(root) }
}

/// The anchor that `seal_anchor` left locked.
///
/// # Safety
/// The parts came from `seal_anchor` on this thread, are put together once, and their context lives.
pub(crate) unsafe fn open_anchor<'a>(lock: &rmap_anon_vma_lock) -> Outcome<Anchor<'a, Component>> {
    if lock.anon_vma.is_null() {
        return Err(RMAP_ERR_LOCK);
    }
    // SAFETY: the caller's contract.
    unsafe { Ok(Anchor::from_raw((open_anon(lock.anon_vma)?, open_anon(lock.root)?))) }
}

/// Finds the anon_vma of a page and takes a reference to it, without a lock. It stays the page's, or of its family,
/// while the reference lives.
///
/// Parameters: ctx; page; out, receives the anon_vma.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when the page is not mapped, or not anonymous; RMAP_ERR_FOREIGN for a page of
/// another context; RMAP_ERR_NOT_SUPPORTED when the context's engine is not anon_vma.
/// Ownership: the caller owns the reference, until rmap_anon_vma_put.
/// Context: any thread, any locks held; a reference to the page. Waits for nobody, allocates nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_get_anon_vma(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    out: *mut *mut rmap_anon_vma,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        // SAFETY: a descriptor of a living context (Parameters).
        let page = unsafe { open_page_of(context, page) }?;
        let found = anon_vmas(context)?.get_anon_vma(page).ok_or(RMAP_ERR_NOT_MAPPED)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal_anon(found.into_raw())) };
        Ok(())
    })
}

/// Gives a reference to an anon_vma back.
///
/// Parameters: ctx; anon_vma.
/// Returns: RMAP_OK; RMAP_ERR_STALE when nobody refers to it any more.
/// Ownership: the reference is gone.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_anon_vma_put(ctx: *mut rmap_ctx, anon_vma: *mut rmap_anon_vma) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context, and an anon_vma of it (Parameters).
        let (context, node) = unsafe { (open_ctx(ctx)?, open_anon(anon_vma)?) };
        if node.refcount() == 0 {
            return Err(RMAP_ERR_STALE);
        }
        // SAFETY: the reference that the program owns (Ownership), from `into_raw` in `rmap_page_get_anon_vma`.
        drop(unsafe { AnchorRef::from_raw(anon_vmas(context)?, node) });
        Ok(())
    })
}

/// Locks the tree of an anon_vma for reading, waiting for it.
///
/// Parameters: ctx; anon_vma, referred to by the caller; lock, receives what rmap_anon_vma_unlock_read needs.
/// Returns: RMAP_OK; RMAP_ERR_STALE when nobody refers to it any more.
/// Ownership: the lock is this thread's, until rmap_anon_vma_unlock_read. The reference stays the caller's, and is
/// needed until then.
/// Context: lock order: after mmap_lock, page lock and i_mmap_rwsem, before page-table locks; not held by this thread
/// already. Waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_anon_vma_lock_read(
    ctx: *mut rmap_ctx,
    anon_vma: *mut rmap_anon_vma,
    lock: *mut rmap_anon_vma_lock,
) -> rmap_status {
    boundary(|| {
        need(lock)?;
        // SAFETY: a living context, and an anon_vma of it (Parameters).
        let (context, node) = unsafe { (open_ctx(ctx)?, open_anon(anon_vma)?) };
        if node.refcount() == 0 {
            return Err(RMAP_ERR_STALE);
        }
        // SAFETY: the reference that the program owns (Parameters), and goes on owning: given up again below.
        let reference = core::mem::ManuallyDrop::new(unsafe { AnchorRef::from_raw(anon_vmas(context)?, node) });
        let anchor = reference.lock();
        held::took();
        // SAFETY: `lock` is not NULL, and valid (Parameters).
        unsafe { put(lock, seal_anchor(anchor)) };
        Ok(())
    })
}

/// Looks a page up and leaves its anon_vma locked.
fn lock_page(context: &Context, page: *mut rmap_page, wait: Wait) -> Outcome<rmap_anon_vma_lock> {
    // SAFETY: a descriptor of a living context (Parameters of both callers).
    let page = unsafe { open_page_of(context, page) }?;
    match anon_vmas(context)?.lock_anon_vma_read(page, wait) {
        Lookup::Found(anchor) => {
            held::took();
            Ok(seal_anchor(anchor))
        }
        Lookup::Unmapped => Err(RMAP_ERR_NOT_MAPPED),
        Lookup::Contended => Err(RMAP_ERR_AGAIN),
    }
}

/// Finds the anon_vma of a page and locks its tree for reading, waiting for it. While it is locked, no VMA that maps
/// the page is unlinked.
///
/// Parameters: ctx; page; lock, receives what rmap_walk_locked and rmap_anon_vma_unlock_read need.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when the page is not mapped, or not anonymous; RMAP_ERR_FOREIGN for a page of
/// another context; RMAP_ERR_NOT_SUPPORTED when the context's engine is not anon_vma.
/// Ownership: the lock is this thread's, until rmap_anon_vma_unlock_read.
/// Context: a reference to the page; lock order as for rmap_anon_vma_lock_read. Waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_lock_anon_vma_read(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    lock: *mut rmap_anon_vma_lock,
) -> rmap_status {
    boundary(|| {
        need(lock)?;
        // SAFETY: a living context (Parameters).
        let locked = lock_page(unsafe { open_ctx(ctx) }?, page, Wait::Block)?;
        // SAFETY: `lock` is not NULL, and valid (Parameters).
        unsafe { put(lock, locked) };
        Ok(())
    })
}

/// As rmap_page_lock_anon_vma_read, without waiting.
///
/// Parameters: ctx; page; lock, as there.
/// Returns: RMAP_OK; RMAP_ERR_AGAIN when it would have to wait; RMAP_ERR_NOT_MAPPED and RMAP_ERR_FOREIGN as there.
/// Ownership: as there.
/// Context: a reference to the page; not held by this thread already. Does not wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_page_trylock_anon_vma_read(
    ctx: *mut rmap_ctx,
    page: *mut rmap_page,
    lock: *mut rmap_anon_vma_lock,
) -> rmap_status {
    boundary(|| {
        need(lock)?;
        // SAFETY: a living context (Parameters).
        let locked = lock_page(unsafe { open_ctx(ctx) }?, page, Wait::Try)?;
        // SAFETY: `lock` is not NULL, and valid (Parameters).
        unsafe { put(lock, locked) };
        Ok(())
    })
}

/// Unlocks the tree of an anon_vma.
///
/// Parameters: lock, as one of the locking functions filled it.
/// Returns: RMAP_OK; RMAP_ERR_LOCK when it says that nothing is locked.
/// Ownership: the lock is gone, and lock says so.
/// Context: the thread that locked it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_anon_vma_unlock_read(lock: *mut rmap_anon_vma_lock) -> rmap_status {
    boundary(|| {
        need(lock)?;
        // SAFETY: `lock` is valid, and was filled by `seal_anchor` on this thread (Parameters, Context); once, since it
        // is emptied below.
        let anchor = unsafe { open_anchor(&*lock) }?;
        drop(anchor);
        held::released();
        let nothing = rmap_anon_vma_lock { anon_vma: core::ptr::null_mut(), root: core::ptr::null_mut() };
        // SAFETY: as above.
        unsafe { put(lock, nothing) };
        Ok(())
    })
}
