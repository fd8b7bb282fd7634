//! What programs do with a machine's memory: read, write, fault; and pins.

use super::handle::{enter, enter_machine, open_space, rmap_machine, rmap_machine_mm};
use super::ops::access_of;
use crate::handle::{need, put};
use crate::status::rmap_status::{RMAP_ERR_INVAL, RMAP_ERR_NOT_MAPPED, RMAP_ERR_STALE};
use crate::status::{boundary, rmap_status};
use core::ffi::c_void;
use rmap_core::base::types::{PAGE_SIZE, Pfn, VirtAddr};
use rmap_core::machine::access::PinnedPage as CorePinnedPage;
use rmap_core::page::pte::{PageTable, Pte};

/// A pinned page. The program gives the memory; the members are librmap's, to be read.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_machine_pinned {
    /// Its frame.
    pub pfn: u64,
    /// The number of the address space that pinned it; 0: none, nothing is pinned.
    pub mm: u64,
    /// Whether it was pinned for writing.
    pub write: bool,
}

/// Does what an access does that the page tables do not allow: a page fault.
///
/// Parameters: mm; addr; access, one of RMAP_ACCESS_*.
/// Returns: RMAP_OK: the access works, or is to be tried again, because another thread changed the entry meanwhile;
/// RMAP_ERR_NOT_MAPPED when no region is there; RMAP_ERR_ACCESS when it does not permit the access; RMAP_ERR_BUS when
/// nothing stands behind the address; RMAP_ERR_NOSPACE when a stack may not grow so far; RMAP_ERR_NOMEM when memory or
/// frames ran out, or the charge function refused; RMAP_ERR_UNSTABLE when the address space is being torn down;
/// RMAP_ERR_IO when swap could not be read; RMAP_ERR_INVAL for an unknown access; what the program's functions answer;
/// RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: any thread, no locks held; the function `missing` may call it. Takes mmap_lock for reading, for writing
/// when a stack grows, and page locks. Calls the allocator, the charge functions, and functions of regions and files.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_fault(mm: *mut rmap_machine_mm, addr: u64, access: u32) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let call = unsafe { enter(mm) }?;
        Ok(call.machine().fault(&call.mm, VirtAddr(addr), access_of(access)?)?)
    })
}

/// Reads memory of an address space as its program does, faulting as needed.
///
/// Parameters: mm; addr; buf, receives len bytes; it may be NULL when len is 0; len.
/// Returns: RMAP_OK; else as rmap_machine_fault, and what lies before the page that failed is in buf.
/// Ownership: nothing.
/// Context: as for rmap_machine_fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_read(
    mm: *mut rmap_machine_mm,
    addr: u64,
    buf: *mut c_void,
    len: usize,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let call = unsafe { enter(mm) }?;
        if len == 0 {
            return Ok(());
        }
        need(buf)?;
        // SAFETY: valid for `len` bytes, and nobody else's during the call (Parameters).
        let out = unsafe { core::slice::from_raw_parts_mut(buf.cast::<u8>(), len) };
        Ok(call.machine().read(&call.mm, VirtAddr(addr), out)?)
    })
}

/// Writes memory of an address space as its program does, faulting as needed.
///
/// Parameters: mm; addr; buf, len bytes; it may be NULL when len is 0; len.
/// Returns: RMAP_OK; else as rmap_machine_fault, and what lies before the page that failed is written.
/// Ownership: nothing.
/// Context: as for rmap_machine_fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_write(
    mm: *mut rmap_machine_mm,
    addr: u64,
    buf: *const c_void,
    len: usize,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let call = unsafe { enter(mm) }?;
        if len == 0 {
            return Ok(());
        }
        need(buf)?;
        // SAFETY: valid for `len` bytes, which nobody changes during the call (Parameters).
        let data = unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), len) };
        Ok(call.machine().write(&call.mm, VirtAddr(addr), data)?)
    })
}

/// Fills a missing page of a region with RMAP_MAP_UFFD_MISSING: UFFDIO_COPY.
///
/// Parameters: mm; addr, on a page boundary; page, RMAP_PAGE_SIZE bytes.
/// Returns: RMAP_OK; RMAP_ERR_EXISTS when something is there; RMAP_ERR_INVAL when addr is within a page, or the region
/// is not of the kind; RMAP_ERR_NOT_SUPPORTED when it maps a file that is not shared memory; else as
/// rmap_machine_fault.
/// Ownership: the bytes are copied.
/// Context: as for rmap_machine_fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_uffd_copy(
    mm: *mut rmap_machine_mm,
    addr: u64,
    page: *const c_void,
) -> rmap_status {
    boundary(|| {
        need(page)?;
        // SAFETY: a living address space (Parameters).
        let call = unsafe { enter(mm) }?;
        // SAFETY: valid for a page, which nobody changes during the call (Parameters); bytes need no alignment.
        let bytes = unsafe { &*page.cast::<[u8; PAGE_SIZE as usize]>() };
        Ok(call.machine().uffd_copy(&call.mm, VirtAddr(addr), bytes)?)
    })
}

/// Fills a missing page of a region with RMAP_MAP_UFFD_MISSING with zeros: UFFDIO_ZEROPAGE.
///
/// Parameters: mm; addr, on a page boundary.
/// Returns: RMAP_OK; else as rmap_machine_uffd_copy; RMAP_ERR_NOT_SUPPORTED for every region with a file.
/// Ownership: nothing.
/// Context: as for rmap_machine_fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_uffd_zeropage(mm: *mut rmap_machine_mm, addr: u64) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let call = unsafe { enter(mm) }?;
        Ok(call.machine().uffd_zeropage(&call.mm, VirtAddr(addr))?)
    })
}

/// Pins the page at an address, faulting it in as needed: until it is unpinned it stays in its frame and is what the
/// program sees there. A fork copies it at once.
///
/// Parameters: mm; addr; write, whether its holder writes it; out, receives the pin.
/// Returns: RMAP_OK; RMAP_ERR_NOT_SUPPORTED for an anonymous page that a shared region without a file has in common
/// with relatives; else as rmap_machine_fault.
/// Ownership: the pin is the program's, until rmap_machine_unpin.
/// Context: as for rmap_machine_fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_pin(
    mm: *mut rmap_machine_mm,
    addr: u64,
    write: bool,
    out: *mut rmap_machine_pinned,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living address space (Parameters).
        let call = unsafe { enter(mm) }?;
        let (pfn, mm, write) = call.machine().pin(&call.mm, VirtAddr(addr), write)?.into_parts();
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, rmap_machine_pinned { pfn: pfn.0, mm, write }) };
        Ok(())
    })
}

/// Ends a pin. The address space may be gone.
///
/// Parameters: machine; pinned, filled by rmap_machine_pin on this machine.
/// Returns: RMAP_OK; RMAP_ERR_STALE when nothing is pinned; RMAP_ERR_FOREIGN for a frame of another machine;
/// RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: on success the pin is gone, and its members say so; a copy of it is not to be used.
/// Context: any thread, no locks held. May call the allocator's free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_unpin(
    machine: *mut rmap_machine,
    pinned: *mut rmap_machine_pinned,
) -> rmap_status {
    boundary(|| {
        need(pinned)?;
        if !pinned.is_aligned() {
            return Err(RMAP_ERR_INVAL);
        }
        // SAFETY: a living machine (Parameters).
        let host = unsafe { enter_machine(machine) }?;
        // SAFETY: `pinned` is not NULL, and valid (Parameters).
        let pin = unsafe { &mut *pinned };
        if pin.mm == 0 {
            return Err(RMAP_ERR_STALE);
        }
        if host.page(pin.pfn)?.head().pins() == 0 {
            return Err(RMAP_ERR_STALE);
        }
        host.machine.unpin(CorePinnedPage::from_parts(Pfn(pin.pfn), pin.mm, pin.write));
        *pin = rmap_machine_pinned { pfn: 0, mm: 0, write: false };
        Ok(())
    })
}

/// Tells which frame is mapped at an address.
///
/// Parameters: mm; addr; pfn, receives the frame, the zero page's for memory that was only read.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when none is: nothing was touched there, or the page is in swap.
/// Ownership: nothing: the frame stays there only as long as nobody changes the address space, or swaps out.
/// Context: any thread, any locks held, callbacks too. Takes no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_pfn(mm: *const rmap_machine_mm, addr: u64, pfn: *mut u64) -> rmap_status {
    boundary(|| {
        need(pfn)?;
        // SAFETY: a living address space (Parameters).
        let space = unsafe { open_space(mm) }?;
        let (Pte::Present { pfn: frame, .. } | Pte::Special { pfn: frame }) =
            space.mm.table().load(VirtAddr(addr).page_down())
        else {
            return Err(RMAP_ERR_NOT_MAPPED);
        };
        // SAFETY: `pfn` is not NULL, and valid (Parameters).
        unsafe { put(pfn, frame.0) };
        Ok(())
    })
}
