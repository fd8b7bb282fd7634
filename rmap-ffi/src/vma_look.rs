//! VMAs found and looked at, and what the program says of them: flags, its pointer, a name.

use crate::handle::{Component, Private, Vma, need, open_linked, open_mm, open_vma, put, rmap_mm, rmap_vma, seal};
use crate::mm::{held_for_reading, held_for_writing};
use crate::status::rmap_status::{RMAP_ERR_FOREIGN, RMAP_ERR_INVAL, RMAP_ERR_NOT_MAPPED, RMAP_ERR_NULL};
use crate::status::{Outcome, boundary, boundary_or, rmap_status};
use crate::vma::{own, rmap_vma_info};
use core::ffi::{CStr, c_char, c_void};
use rmap_core::base::href::Href;
use rmap_core::base::types::{VirtAddr, VmFlags};
use rmap_core::mm::address_space::MmLocked;
use rmap_core::mm::vma::VmaName;
use rmap_core::mm::{MmWrite, VmaBounds};

/// Finds the VMA that an address lies in.
///
/// Parameters: mm; addr; out, receives the VMA.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when there is none; RMAP_ERR_LOCK when mmap_lock is not held.
/// Ownership: the VMA is the address space's; the handle is good while mmap_lock is held.
/// Context: mmap_lock of mm held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_find(mm: *mut rmap_mm, addr: u64, out: *mut *mut rmap_vma) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living address space (Parameters).
        let mm = held_for_reading(unsafe { open_mm(mm) }?)?;
        let vma = mm.find(VirtAddr(addr)).ok_or(RMAP_ERR_NOT_MAPPED)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal(vma)) };
        Ok(())
    })
}

/// Finds the first VMA that ends after an address (the kernel's find_vma). Asked with the end of each VMA found,
/// beginning with 0, it finds all.
///
/// Parameters: mm; addr; out, receives the VMA.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when there is none; RMAP_ERR_LOCK when mmap_lock is not held.
/// Ownership: as for rmap_vma_find.
/// Context: mmap_lock of mm held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_find_next(mm: *mut rmap_mm, addr: u64, out: *mut *mut rmap_vma) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living address space (Parameters).
        let mm = held_for_reading(unsafe { open_mm(mm) }?)?;
        let vma = mm.find_vma(VirtAddr(addr)).ok_or(RMAP_ERR_NOT_MAPPED)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal(vma)) };
        Ok(())
    })
}

/// The program's pointer in a VMA.
#[inline]
fn private(vma: &Vma) -> &Private {
    // SAFETY: this boundary never replaces the data of a linked VMA, only the atomic in it; and a VMA whose handle may
    // be used is alive.
    unsafe { vma.data_unlocked() }
}

/// Tells all of a VMA at once.
///
/// Parameters: vma; out, receives the figures.
/// Returns: RMAP_OK.
/// Ownership: mm and file in it are not new references.
/// Context: a lock that keeps the VMA in place: its mmap_lock, or an anon_vma or file lock that leads to it, as in
/// callbacks of walks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_get_info(vma: *const rmap_vma, out: *mut rmap_vma_info) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living VMA (Parameters).
        let vma = unsafe { open_vma(vma) }?;
        let VmaBounds { start, end, pgoff } = vma.bounds();
        let info = rmap_vma_info {
            start: start.0,
            end: end.0,
            pgoff,
            flags: vma.flags().bits(),
            mm: seal(vma.mm().data().slot()),
            file: vma.file().map_or(core::ptr::null_mut(), |file| seal(file.data().slot())),
            private_data: private(vma).get(),
        };
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, info) };
        Ok(())
    })
}

/// Tells the first byte of a VMA.
///
/// Parameters: vma.
/// Returns: the address; 0 when vma is NULL.
/// Ownership: nothing.
/// Context: as for rmap_vma_get_info.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_start(vma: *const rmap_vma) -> u64 {
    // SAFETY: a living VMA (Parameters).
    boundary_or(0, || Ok(unsafe { open_vma(vma) }?.start().0))
}

/// Tells the first byte after a VMA.
///
/// Parameters: vma.
/// Returns: the address; 0 when vma is NULL.
/// Ownership: nothing.
/// Context: as for rmap_vma_get_info.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_end(vma: *const rmap_vma) -> u64 {
    // SAFETY: a living VMA (Parameters).
    boundary_or(0, || Ok(unsafe { open_vma(vma) }?.end().0))
}

/// Tells the flags of a VMA.
///
/// Parameters: vma.
/// Returns: bits of RMAP_VM_*, and the program's own; 0 when vma is NULL.
/// Ownership: nothing.
/// Context: as for rmap_vma_get_info; under an anon_vma or file lock only, of the past at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_flags(vma: *const rmap_vma) -> u64 {
    // SAFETY: a living VMA (Parameters).
    boundary_or(0, || Ok(unsafe { open_vma(vma) }?.flags().bits()))
}

/// Tells the address space of a VMA.
///
/// Parameters: vma.
/// Returns: the address space; NULL when vma is NULL.
/// Ownership: not a new reference.
/// Context: as for rmap_vma_get_info.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_mm(vma: *const rmap_vma) -> *mut rmap_mm {
    // SAFETY: a living VMA (Parameters).
    boundary_or(core::ptr::null_mut(), || Ok(seal(unsafe { open_vma(vma) }?.mm().data().slot())))
}

/// Tells the program's pointer of a VMA.
///
/// Parameters: vma.
/// Returns: the pointer; NULL when vma is NULL.
/// Ownership: the program's.
/// Context: as for rmap_vma_get_info; under an anon_vma or file lock only, of the past at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_private(vma: *const rmap_vma) -> *mut c_void {
    // SAFETY: a living VMA (Parameters).
    boundary_or(core::ptr::null_mut(), || Ok(private(unsafe { open_vma(vma) }?).get()))
}

/// Changes the program's pointer of a VMA.
///
/// Parameters: mm; vma, one of its VMAs; private_data, the pointer.
/// Returns: RMAP_OK; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
/// Ownership: the old pointer is the program's; callbacks of walks may still have read it.
/// Context: mmap_lock of mm held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_set_private(
    mm: *mut rmap_mm,
    vma: *mut rmap_vma,
    private_data: *mut c_void,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        private(unsafe { own(&mm, vma) }?).set(private_data);
        Ok(())
    })
}

/// Changes the flags of a VMA.
///
/// Parameters: mm; vma, one of its VMAs; flags, bits of RMAP_VM_*, others are kept for the program.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when RMAP_VM_SHARED would change; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as
/// rmap_vma_free.
/// Ownership: nothing.
/// Context: mmap_lock of mm held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_set_flags(mm: *mut rmap_mm, vma: *mut rmap_vma, flags: u64) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        let vma = unsafe { own(&mm, vma) }?;
        let flags = VmFlags::from_bits_retain(flags);
        if (flags ^ vma.flags()).contains(VmFlags::SHARED) {
            return Err(RMAP_ERR_INVAL);
        }
        Ok(mm.set_flags(vma, flags)?)
    })
}

/// Names a VMA (PR_SET_VMA_ANON_NAME). VMAs of different names are not merged.
///
/// Parameters: mm; vma, one of its VMAs; name, or NULL for none.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
/// Ownership: name is copied.
/// Context: mmap_lock of mm held for writing. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_set_name(mm: *mut rmap_mm, vma: *mut rmap_vma, name: *const c_char) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        let vma = unsafe { own(&mm, vma) }?;
        let name = if name.is_null() {
            None
        } else {
            // SAFETY: a string (Parameters).
            Some(copy_name(&mm, unsafe { CStr::from_ptr(name) })?)
        };
        Ok(mm.set_name(vma, name)?)
    })
}

fn copy_name(mm: &MmWrite<'_, Component>, name: &CStr) -> Outcome<VmaName> {
    let heap = &mm.arena().heap;
    let mut bytes = heap.vec();
    let name = name.to_bytes();
    bytes.try_reserve_exact(name.len()).map_err(|_| rmap_status::RMAP_ERR_NOMEM)?;
    bytes.extend_from_slice(name);
    Ok(Href::new(heap, bytes)?)
}

/// Tells the name of a VMA.
///
/// Parameters: mm; vma, one of its VMAs; buffer and size, where it is written to, cut off if need be, with a
/// terminating NUL, when size is above 0; length, receives its length.
/// Returns: RMAP_OK, with length 0 for a VMA without a name; RMAP_ERR_FOREIGN for a VMA of another address space;
/// RMAP_ERR_LOCK when mmap_lock is not held.
/// Ownership: the buffer is the program's.
/// Context: mmap_lock of mm held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_name(
    mm: *mut rmap_mm,
    vma: *const rmap_vma,
    buffer: *mut c_char,
    size: usize,
    length: *mut usize,
) -> rmap_status {
    boundary(|| {
        need(length)?;
        if buffer.is_null() && size != 0 {
            return Err(RMAP_ERR_NULL);
        }
        // SAFETY: a living address space (Parameters).
        let mm = held_for_reading(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        let vma = unsafe { open_linked(vma) }?;
        if !core::ptr::eq(vma.mm(), mm.mm()) {
            return Err(RMAP_ERR_FOREIGN);
        }
        let name = mm.name_of(vma).map_or(&[][..], |name| &name[..]);
        // SAFETY: `length` is not NULL, and valid; `buffer` is valid for `size` bytes (Parameters), and less than that
        // is written.
        unsafe {
            put(length, name.len());
            if let Some(room) = size.checked_sub(1) {
                let shown = name.len().min(room);
                core::ptr::copy_nonoverlapping(name.as_ptr().cast(), buffer, shown);
                buffer.add(shown).write(0);
            }
        }
        Ok(())
    })
}
