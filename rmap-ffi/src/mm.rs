//! Address spaces, their lock, and fork.

use crate::context::Context;
use crate::handle::{Component, Mm, Owner, Private, Slot, need, open, open_ctx, open_mm, put, rmap_ctx, rmap_mm, seal};
use crate::held;
use crate::pte_ops::{Table, rmap_pte_ops};
use crate::status::rmap_status::{
    RMAP_ERR_AGAIN, RMAP_ERR_BUSY, RMAP_ERR_FOREIGN, RMAP_ERR_INVAL, RMAP_ERR_LOCK, RMAP_ERR_NOSPACE, RMAP_ERR_STALE,
};
use crate::status::{Outcome, boundary, boundary_or, rmap_status};
use core::ffi::c_void;
use core::ptr::NonNull;
use rmap_core::base::types::{PAGE_SIZE, VirtAddr};
use rmap_core::engine::Engine;
use rmap_core::mm::MmWrite;
use rmap_core::mm::address_space::{MmLocked, MmRead};

/// An address space whose `mmap_lock` the program holds for writing; `RMAP_ERR_LOCK` when nobody does.
#[inline]
pub(crate) fn held_for_writing(mm: &Mm) -> Outcome<MmWrite<'_, Component>> {
    if !mm.mmap_lock().is_write_locked() {
        return Err(RMAP_ERR_LOCK);
    }
    // SAFETY: held for writing, and by this thread: that is the Context of every function that comes here.
    Ok(unsafe { mm.assume_write() })
}

/// An address space whose `mmap_lock` the program holds; `RMAP_ERR_LOCK` when nobody does.
#[inline]
pub(crate) fn held_for_reading(mm: &Mm) -> Outcome<MmRead<'_, Component>> {
    if !mm.mmap_lock().is_locked() {
        return Err(RMAP_ERR_LOCK);
    }
    // SAFETY: held, and by this thread: that is the Context of every function that comes here.
    Ok(unsafe { mm.assume_read() })
}

/// Makes an empty address space.
///
/// Parameters: ctx; ops, its page-table functions, which are copied; table, passed to each of them; private_data, the
/// program's; out, receives the address space.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL when the size of ops is too small; RMAP_ERR_NULL also when a
/// function that is not optional is missing.
/// Ownership: the address space is the program's, until rmap_mm_free; table stays valid until then.
/// Context: any thread. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_new(
    ctx: *mut rmap_ctx,
    ops: *const rmap_pte_ops,
    table: *mut c_void,
    private_data: *mut c_void,
    out: *mut *mut rmap_mm,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        // SAFETY: `ops` is valid for its size, and keeps its contract (Parameters).
        let table = unsafe { Table::new(ops, table) }?;
        let slot = Slot::take(&context.mms)?;
        let data = Owner { ctx: NonNull::from(context), slot, private: Private::new(private_data) };
        // SAFETY: slots are type-stable.
        let place = unsafe { slot.as_ref() };
        match context.rmap.mm_new(table, data) {
            Ok(mm) => place.fill(mm),
            Err(error) => {
                // SAFETY: taken above, and nobody knows it.
                unsafe { context.mms.give(slot) };
                return Err(error.into());
            }
        }
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal(place)) };
        Ok(())
    })
}

/// Frees an address space. It has no VMAs, and its mmap_lock is free.
///
/// Parameters: mm, or NULL, which is nothing to do.
/// Returns: RMAP_OK; RMAP_ERR_BUSY when it has VMAs or its mmap_lock is held; RMAP_ERR_LOCK when this thread holds a
/// lock of librmap's.
/// Ownership: on success mm is gone, and its page tables are the program's alone.
/// Context: no other thread uses mm, no locks held. Calls the allocator's free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_free(mm: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        if mm.is_null() {
            return Ok(());
        }
        // SAFETY: a living address space (Parameters).
        let slot = unsafe { open::<Slot<Mm>>(mm) }?;
        let mm = slot.get()?;
        if mm.nr_regions() != 0 || mm.mmap_lock().is_locked() {
            return Err(RMAP_ERR_BUSY);
        }
        held::none()?;
        let context: *const Context = mm.data().ctx();
        // SAFETY: a context outlives its address spaces.
        let context = unsafe { &*context };
        // VMAs that wait for their grace period still point here.
        context.rmap.arena().rcu.drain();
        context.rmap.mm_gone(mm);
        slot.vacate(&context.mms).ok_or(RMAP_ERR_STALE)?;
        Ok(())
    })
}

/// Tells the program's pointer of an address space.
///
/// Parameters: mm.
/// Returns: the pointer; NULL when mm is NULL.
/// Ownership: the program's.
/// Context: any thread, any locks held, callbacks too. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_private(mm: *const rmap_mm) -> *mut c_void {
    // SAFETY: a living address space (Parameters).
    boundary_or(core::ptr::null_mut(), || Ok(unsafe { open_mm(mm) }?.data().private.get()))
}

/// Tells how many VMAs an address space has.
///
/// Parameters: mm.
/// Returns: the number; 0 when mm is NULL. Of the past at once, unless mmap_lock is held.
/// Ownership: nothing.
/// Context: any thread, any locks held. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_nr_vmas(mm: *const rmap_mm) -> usize {
    // SAFETY: a living address space (Parameters).
    boundary_or(0, || Ok(unsafe { open_mm(mm) }?.nr_regions()))
}

/// Takes mmap_lock for reading, waiting for it.
///
/// Parameters: mm.
/// Returns: RMAP_OK.
/// Ownership: the lock is this thread's, until rmap_mm_read_unlock.
/// Context: lock order: the outermost lock; not held by this thread already, for reading neither. Waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_read_lock(mm: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        unsafe { open_mm(mm) }?.mmap_lock().read().into_raw();
        held::took();
        Ok(())
    })
}

/// Takes mmap_lock for reading if nobody holds or awaits it for writing.
///
/// Parameters: mm.
/// Returns: RMAP_OK; RMAP_ERR_AGAIN when it would have to wait.
/// Ownership: on success the lock is this thread's, until rmap_mm_read_unlock.
/// Context: any locks held but this one. Does not wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_read_trylock(mm: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        unsafe { open_mm(mm) }?.mmap_lock().try_read().ok_or(RMAP_ERR_AGAIN)?.into_raw();
        held::took();
        Ok(())
    })
}

/// Releases mmap_lock held for reading.
///
/// Parameters: mm.
/// Returns: RMAP_OK; RMAP_ERR_LOCK when nobody holds it for reading.
/// Ownership: the lock is gone.
/// Context: the thread that took it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_read_unlock(mm: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = unsafe { open_mm(mm) }?;
        if !mm.mmap_lock().is_locked() || mm.mmap_lock().is_write_locked() {
            return Err(RMAP_ERR_LOCK);
        }
        // SAFETY: this thread holds it (Context), and took it by `into_raw`, as all locks across this boundary.
        unsafe { mm.mmap_lock().unlock_read_raw() };
        held::released();
        Ok(())
    })
}

/// Takes mmap_lock for writing, waiting for it.
///
/// Parameters: mm.
/// Returns: RMAP_OK.
/// Ownership: the lock is this thread's, until rmap_mm_write_unlock.
/// Context: lock order: the outermost lock; this thread holds no other mmap_lock (else rmap_mm_write_lock_nested).
/// Waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_write_lock(mm: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        unsafe { open_mm(mm) }?.mmap_lock().write().into_raw();
        held::took();
        Ok(())
    })
}

/// Takes the second mmap_lock of two for writing: the child's in fork.
///
/// Parameters: mm, the child.
/// Returns: RMAP_OK.
/// Ownership: the lock is this thread's, until rmap_mm_write_unlock.
/// Context: this thread holds the parent's mmap_lock. Waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_write_lock_nested(mm: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        unsafe { open_mm(mm) }?.mmap_lock().write_nested().into_raw();
        held::took();
        Ok(())
    })
}

/// Takes mmap_lock for writing if nobody holds it.
///
/// Parameters: mm.
/// Returns: RMAP_OK; RMAP_ERR_AGAIN when it would have to wait.
/// Ownership: on success the lock is this thread's, until rmap_mm_write_unlock.
/// Context: any locks held. Does not wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_write_trylock(mm: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        unsafe { open_mm(mm) }?.mmap_lock().try_write().ok_or(RMAP_ERR_AGAIN)?.into_raw();
        held::took();
        Ok(())
    })
}

/// Releases mmap_lock held for writing. When that was the last lock of librmap's that this thread holds, frees VMAs
/// whose grace period is over.
///
/// Parameters: mm.
/// Returns: RMAP_OK; RMAP_ERR_LOCK when nobody holds it for writing.
/// Ownership: the lock is gone.
/// Context: the thread that took it. May call the allocator's free, after the lock is released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_write_unlock(mm: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = unsafe { open_mm(mm) }?;
        if !mm.mmap_lock().is_write_locked() {
            return Err(RMAP_ERR_LOCK);
        }
        let context: *const Context = mm.data().ctx();
        // SAFETY: this thread holds it (Context), and took it by `into_raw`, as all locks across this boundary.
        unsafe { mm.mmap_lock().unlock_write_raw() };
        held::released();
        // SAFETY: a context outlives its address spaces, and the program frees no context while a call into it is under
        // way.
        unsafe { &*context }.reclaim();
        Ok(())
    })
}

/// The two address spaces of a fork, both locks held for writing.
///
/// # Safety
/// Both handles are NULL or living ones.
unsafe fn fork_pair<'a>(child: *mut rmap_mm, parent: *mut rmap_mm) -> Outcome<(&'a Mm, &'a Mm)> {
    // SAFETY: the caller's contract.
    let (child, parent) = unsafe { (open_mm(child)?, open_mm(parent)?) };
    if core::ptr::eq(child, parent) {
        return Err(RMAP_ERR_INVAL);
    }
    if child.data().ctx != parent.data().ctx {
        return Err(RMAP_ERR_FOREIGN);
    }
    let _ = (held_for_writing(child)?, held_for_writing(parent)?);
    Ok((child, parent))
}

/// Begins a fork. Then, for each VMA of the parent that the child gets: rmap_vma_fork, and for each of its entries,
/// under both page-table locks, rmap_page_dup.
///
/// Parameters: child, empty; parent.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_BUSY when the child has VMAs; RMAP_ERR_INVAL when both are one;
/// RMAP_ERR_FOREIGN for different contexts; RMAP_ERR_LOCK when a lock is not held.
/// Ownership: nothing.
/// Context: mmap_lock of the parent held for writing (rmap_mm_write_lock), then the child's
/// (rmap_mm_write_lock_nested).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_fork_begin(child: *mut rmap_mm, parent: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        // SAFETY: living address spaces (Parameters).
        let (child, parent) = unsafe { fork_pair(child, parent) }?;
        if child.nr_regions() != 0 {
            return Err(RMAP_ERR_BUSY);
        }
        Ok(child.data().ctx().rmap.engine().fork_begin(child, parent)?)
    })
}

/// Ends a fork that rmap_mm_fork_begin began: with success, or after the program has unmapped and freed what the child
/// had got.
///
/// Parameters: child; parent.
/// Returns: RMAP_OK; RMAP_ERR_INVAL, RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_mm_fork_begin.
/// Ownership: nothing.
/// Context: as for rmap_mm_fork_begin; both locks held since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_fork_end(child: *mut rmap_mm, parent: *mut rmap_mm) -> rmap_status {
    boundary(|| {
        // SAFETY: living address spaces (Parameters).
        let (child, parent) = unsafe { fork_pair(child, parent) }?;
        child.data().ctx().rmap.engine().fork_end(child, parent);
        Ok(())
    })
}

/// Finds a free range.
///
/// Parameters: mm; low and high, the bounds, page-aligned; bytes, a multiple of RMAP_PAGE_SIZE above 0; topdown,
/// whether to take the highest; addr, receives the start.
/// Returns: RMAP_OK; RMAP_ERR_NOSPACE when there is none; RMAP_ERR_INVAL for unaligned arguments; RMAP_ERR_LOCK when
/// mmap_lock is not held.
/// Ownership: nothing.
/// Context: mmap_lock of mm held; for writing, if the answer is to stay true.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_mm_find_gap(
    mm: *mut rmap_mm,
    low: u64,
    high: u64,
    bytes: u64,
    topdown: bool,
    addr: *mut u64,
) -> rmap_status {
    boundary(|| {
        need(addr)?;
        // SAFETY: a living address space (Parameters).
        let mm = held_for_reading(unsafe { open_mm(mm) }?)?;
        let aligned = [low, high, bytes].iter().all(|n| n % PAGE_SIZE == 0);
        if !aligned || bytes == 0 || low > high {
            return Err(RMAP_ERR_INVAL);
        }
        let (low, high) = (VirtAddr(low), VirtAddr(high));
        let found = if topdown { mm.gap_below(low, high, bytes) } else { mm.gap_above(low, high, bytes) };
        let found = found.ok_or(RMAP_ERR_NOSPACE)?;
        // SAFETY: `addr` is not NULL, and valid (Parameters).
        unsafe { put(addr, found.0) };
        Ok(())
    })
}
