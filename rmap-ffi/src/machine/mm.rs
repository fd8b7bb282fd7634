//! A machine's address spaces: they begin, fork, start other programs, end.

use super::handle::{Host, Space, enter, enter_machine, open_space, rmap_machine, rmap_machine_mm};
use crate::handle::{Slot, need, open, put};
use crate::held;
use crate::sized::{self, Growing};
use crate::status::rmap_status::RMAP_ERR_STALE;
use crate::status::{Outcome, boundary, boundary_or, rmap_status};

/// Figures of an address space, in pages: what the kernel keeps in `mm_struct` and shows in /proc/PID/status.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_machine_counters {
    /// The size of this struct, as the program knows it: set it before the call.
    pub size: usize,
    /// Pages of all regions.
    pub total_vm: u64,
    /// Pages of locked regions.
    pub locked_vm: u64,
    /// Pages pinned, each as often as it is.
    pub pinned_vm: u64,
    /// Pages of private writable regions that are no stacks.
    pub data_vm: u64,
    /// Pages of executable regions that are not writable.
    pub exec_vm: u64,
    /// Pages of stacks.
    pub stack_vm: u64,
    /// Pages of shared regions with a file.
    pub shared_vm: u64,
    /// The most that total_vm ever was.
    pub hiwater_vm: u64,
    /// The most pages that ever were present.
    pub hiwater_rss: u64,
    /// Anonymous pages present.
    pub rss_anon: u64,
    /// Pages of files present.
    pub rss_file: u64,
    /// Pages of shared memory present.
    pub rss_shmem: u64,
    /// Entries that stand for pages in swap.
    pub swap_ents: u64,
}

// SAFETY: `repr(C)` with its size first; integers follow.
unsafe impl Growing for rmap_machine_counters {
    const FIRST: usize = size_of::<Self>();
}

/// Makes an empty address space.
///
/// Parameters: machine; out, receives the address space.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: the address space is the program's, until rmap_machine_exit or rmap_machine_exec.
/// Context: any thread, no locks held. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_mm_new(
    machine: *mut rmap_machine,
    out: *mut *mut rmap_machine_mm,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living machine (Parameters).
        let host = unsafe { enter_machine(machine) }?;
        let handle = host.adopt(host.machine.mm_new()?)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, handle) };
        Ok(())
    })
}

/// Makes a copy of an address space, which shares every private page with it until either writes the page. Regions with
/// MADV_DONTFORK are left out, those with MADV_WIPEONFORK are empty in the copy; locked ones are not locked there.
/// Pinned pages are copied at once.
///
/// Parameters: mm; out, receives the copy.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM when memory or frames ran out, or the charge function refused; RMAP_ERR_LOCK from a
/// callback, or when this thread holds a lock of librmap's.
/// Ownership: the copy is the program's, until rmap_machine_exit or rmap_machine_exec.
/// Context: any thread, no locks held. Takes mmap_lock for writing. Calls the allocator, the charge functions, and
/// `open` of regions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_fork(mm: *mut rmap_machine_mm, out: *mut *mut rmap_machine_mm) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living address space (Parameters).
        let call = unsafe { enter(mm) }?;
        let handle = call.host().adopt(call.machine().fork(&call.mm)?)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, handle) };
        Ok(())
    })
}

/// Puts an empty address space in the place of one: the program starts another.
///
/// Parameters: mm; out, receives the new address space; it may point to mm.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: on success mm is gone, as by rmap_machine_exit, and the new one is the program's.
/// Context: no other thread uses mm, no locks held. Takes mmap_lock for writing. Calls the allocator, `uncharge`, and
/// `close` of regions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_exec(mm: *mut rmap_machine_mm, out: *mut *mut rmap_machine_mm) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living address space (Parameters).
        let (slot, host) = unsafe { slot_of(mm) }?;
        let fresh = host.adopt(host.machine.mm_new()?)?;
        end(slot, host)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, fresh) };
        Ok(())
    })
}

/// Ends an address space. Everything in it goes; pages that others map stay theirs.
///
/// Parameters: mm, or NULL, which is nothing to do.
/// Returns: RMAP_OK; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: on success mm is gone.
/// Context: no other thread uses mm, no locks held. Takes mmap_lock for writing. Calls the allocator's free,
/// `uncharge`, and `close` of regions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_exit(mm: *mut rmap_machine_mm) -> rmap_status {
    boundary(|| {
        if mm.is_null() {
            return Ok(());
        }
        // SAFETY: a living address space (Parameters).
        let (slot, host) = unsafe { slot_of(mm) }?;
        end(slot, host)
    })
}

/// # Safety
/// The handle is NULL or names a living address space.
unsafe fn slot_of<'a>(handle: *mut rmap_machine_mm) -> Outcome<(&'a Slot<Space>, &'a Host)> {
    // SAFETY: the caller's contract.
    let slot = unsafe { open::<Slot<Space>>(handle) }?;
    let host: *const Host = slot.get()?.host();
    held::none()?;
    // SAFETY: a machine outlives its address spaces.
    Ok((slot, unsafe { &*host }))
}

fn end(slot: &Slot<Space>, host: &Host) -> Outcome {
    let space = slot.vacate(&host.mms).ok_or(RMAP_ERR_STALE)?;
    let mm = space.mm.clone();
    drop(space);
    host.machine.exit(mm);
    Ok(())
}

/// Tells the number of an address space, which no other of its machine ever has: mappings and charges name it so.
///
/// Parameters: mm.
/// Returns: the number; 0 when mm is NULL, which is nobody's number.
/// Ownership: nothing.
/// Context: any thread, any locks held, callbacks too. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_mm_id(mm: *const rmap_machine_mm) -> u64 {
    // SAFETY: a living address space (Parameters).
    boundary_or(0, || Ok(unsafe { open_space(mm) }?.mm.id()))
}

/// Tells the figures of an address space, each of its own moment while other threads work.
///
/// Parameters: mm; counters, its size set, receives the figures.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when no version of the struct is so small.
/// Ownership: the struct is the program's.
/// Context: any thread, any locks held, callbacks too. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_counters(
    mm: *const rmap_machine_mm,
    counters: *mut rmap_machine_counters,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let space = unsafe { open_space(mm) }?;
        // SAFETY: NULL or valid for as many bytes as its size says (rmap_machine_counters).
        let size = unsafe { sized::size_of_output(counters) }?;
        let figures = &space.mm.data().counters;
        figures.note_peaks();
        let now = figures.snapshot();
        let now = rmap_machine_counters {
            size,
            total_vm: now.total_vm,
            locked_vm: now.locked_vm,
            pinned_vm: now.pinned_vm,
            data_vm: now.data_vm,
            exec_vm: now.exec_vm,
            stack_vm: now.stack_vm,
            shared_vm: now.shared_vm,
            hiwater_vm: now.hiwater_vm,
            hiwater_rss: now.hiwater_rss,
            rss_anon: now.rss_anon,
            rss_file: now.rss_file,
            rss_shmem: now.rss_shmem,
            swap_ents: now.swap_ents,
        };
        // SAFETY: as above.
        unsafe { sized::write(counters, size, now) };
        Ok(())
    })
}
