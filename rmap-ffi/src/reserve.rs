//! Memory for mappings that are about to be made, for engines that keep something for each.
//!
//! A thread's reservations are counted here: what it maps without one is refused, and nothing is lost.

use crate::context::Context;
use crate::handle::{open_ctx, rmap_ctx};
use crate::status::rmap_status::{RMAP_ERR_INVAL, RMAP_ERR_NOMEM};
use crate::status::{Outcome, boundary, rmap_status};
use core::cell::Cell;
use rmap_core::engine::Engine;
use rmap_core::page::Page;
use rmap_core::rmap::account::Level;

std::thread_local! {
    // Without destructors, so that first use does not register one (which makes the C library allocate).
    /// Mappings that this thread has reserved for.
    static PROMISED: Cell<usize> = const { Cell::new(0) };
    /// Of these, mappings that it has not made yet.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Counts a mapping that this thread is about to make. [`RMAP_ERR_NOMEM`]: it has not reserved for it, and the engine
/// needs that.
#[inline]
pub(crate) fn spend(ctx: &Context, page: &Page, level: Level) -> Outcome {
    if !ctx.rmap.engine().finds_entries() {
        return Ok(());
    }
    let cost = if level == Level::Single { 1 } else { 1 + page.nr_pages() as usize };
    LEFT.set(LEFT.get().checked_sub(cost).ok_or(RMAP_ERR_NOMEM)?);
    Ok(())
}

/// Gets the memory that the engine may need for mappings of this thread's. Only RMAP_ENGINE_PTE_CHAIN needs any: with
/// the others this does nothing, at the cost of a call.
///
/// Parameters: ctx; mappings, how many entries this thread is about to count (rmap_page_add_new_anon,
/// rmap_page_add_anon, rmap_page_add_file, rmap_page_dup). One of RMAP_LEVEL_ENTIRE counts as one, and one more for
/// each page.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM.
/// Ownership: the memory is this thread's until it has called rmap_unreserve for as many mappings.
/// Context: no page-table, anon_vma or i_mmap lock held; mmap_lock and page locks may be. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_reserve(ctx: *mut rmap_ctx, mappings: usize) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        let all = PROMISED.get().checked_add(mappings).ok_or(RMAP_ERR_NOMEM)?;
        context.rmap.engine().reserve(mappings)?;
        PROMISED.set(all);
        LEFT.set(LEFT.get() + mappings);
        Ok(())
    })
}

/// Gives back what rmap_reserve got for mappings that were made meanwhile, or will not be.
///
/// Parameters: ctx, as for rmap_reserve; mappings, as many as were reserved, or some of them.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when this thread has not reserved for so many.
/// Ownership: what was not used is everybody's.
/// Context: the thread that reserved; any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_unreserve(ctx: *mut rmap_ctx, mappings: usize) -> rmap_status {
    boundary(|| {
        // SAFETY: a living context (Parameters).
        let context = unsafe { open_ctx(ctx) }?;
        let rest = PROMISED.get().checked_sub(mappings).ok_or(RMAP_ERR_INVAL)?;
        context.rmap.engine().unreserve(mappings);
        PROMISED.set(rest);
        LEFT.set(LEFT.get().min(rest));
        Ok(())
    })
}
