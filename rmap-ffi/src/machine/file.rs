//! A machine's files, and shared memory.

use super::handle::{Backed, enter_machine, open_backed, rmap_machine, rmap_machine_file};
use super::ops::{ByReader, Reader, rmap_machine_read_page};
use crate::handle::{Slot, need, open, put};
use crate::held;
use crate::status::rmap_status::{RMAP_ERR_BUSY, RMAP_ERR_STALE};
use crate::status::{boundary, boundary_or, rmap_status};
use core::ffi::c_void;
use rmap_core::base::href::Href;
use rmap_core::machine::system::FileExt;

/// Makes a file. Its pages are read when they are first touched, and stay in memory until rmap_machine_swap_out takes
/// them or the file goes. Nothing is ever written back: a page that was written stays until the file goes.
///
/// Parameters: machine; pages, its size; read_page, or NULL, then pages begin as zero; arg, passed to read_page; out,
/// receives the file.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: the file is the program's, until rmap_machine_file_free; read_page stays callable until then.
/// Context: any thread, no locks held. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_file_new(
    machine: *mut rmap_machine,
    pages: u64,
    read_page: rmap_machine_read_page,
    arg: *mut c_void,
    out: *mut *mut rmap_machine_file,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living machine (Parameters).
        let host = unsafe { enter_machine(machine) }?;
        let reader = read_page.map(|read_page| Href::new(&host.heap, Reader::new(read_page, arg))).transpose()?;
        let data = match &reader {
            Some(reader) => FileExt {
                ops: Some(&ByReader),
                private: Href::as_ptr(reader).as_ptr().expose_provenance(),
                ..FileExt::default()
            },
            None => FileExt::default(),
        };
        let handle = host.adopt_file(host.machine.new_file(pages, data)?, reader)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, handle) };
        Ok(())
    })
}

/// Makes shared memory: a file without a name, whose pages begin as zero.
///
/// Parameters: machine; pages, its size; out, receives the file.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: the file is the program's, until rmap_machine_file_free.
/// Context: any thread, no locks held. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_shmem_new(
    machine: *mut rmap_machine,
    pages: u64,
    out: *mut *mut rmap_machine_file,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living machine (Parameters).
        let host = unsafe { enter_machine(machine) }?;
        let handle = host.adopt_file(host.machine.new_shmem(pages)?, None)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, handle) };
        Ok(())
    })
}

/// Frees a file, and what it has in memory.
///
/// Parameters: file, or NULL, which is nothing to do.
/// Returns: RMAP_OK; RMAP_ERR_BUSY when a region maps it; RMAP_ERR_LOCK from a callback, or when this thread holds a
/// lock of librmap's.
/// Ownership: on success file is gone.
/// Context: no other thread uses file, no locks held. Takes i_mmap_rwsem for reading. Calls the allocator's free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_file_free(file: *mut rmap_machine_file) -> rmap_status {
    boundary(|| {
        if file.is_null() {
            return Ok(());
        }
        // SAFETY: a living file (Parameters).
        let slot = unsafe { open::<Slot<Backed>>(file) }?;
        let backed = slot.get()?;
        held::none()?;
        if backed.file.mappings() != 0 {
            return Err(RMAP_ERR_BUSY);
        }
        let host: *const super::handle::Host = backed.host();
        // SAFETY: a machine outlives its files.
        let host = unsafe { &*host };
        // VMAs that wait for their grace period still refer to it.
        host.machine.rmap().arena().rcu.drain();
        drop(slot.vacate(&host.files).ok_or(RMAP_ERR_STALE)?);
        host.machine.sweep_files();
        Ok(())
    })
}

/// Tells the size of a file, in pages.
///
/// Parameters: file.
/// Returns: the size; 0 when file is NULL.
/// Ownership: nothing.
/// Context: any thread, any locks held, callbacks too. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_file_pages(file: *const rmap_machine_file) -> u64 {
    // SAFETY: a living file (Parameters).
    boundary_or(0, || Ok(unsafe { open_backed(file) }?.file.size()))
}
