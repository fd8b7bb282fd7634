//! The layout of a machine's address spaces: the system calls of memory management.

use super::handle::{Call, Host, enter, open_backed, rmap_machine_file, rmap_machine_mm};
use super::ops::rmap_machine_vma_ops;
use crate::handle::{need, put};
use crate::sized::{self, Growing};
use crate::status::rmap_status::{RMAP_ERR_FOREIGN, RMAP_ERR_INVAL, RMAP_ERR_NOT_SUPPORTED};
use crate::status::{Outcome, boundary, rmap_status};
use core::ffi::{CStr, c_char, c_void};
use rmap_core::base::types::{VirtAddr, VmFlags};
// Renamed, since cbindgen looks at the last segment of a path only.
use rmap_core::machine::advise::Advice as CoreAdvice;
use rmap_core::machine::map::{MapFlags, MapRequest};
use rmap_core::machine::remap::MremapFlags;
use rmap_core::machine::system::{AnySystem, VmaExt};

/// Map flag: changes are seen by every mapper. Exactly one of SHARED and PRIVATE is set.
pub const RMAP_MAP_SHARED: u64 = 0x1;
/// Map flag: changes are the address space's own.
pub const RMAP_MAP_PRIVATE: u64 = 0x2;
/// Map flag: at this address, in place of what is there.
pub const RMAP_MAP_FIXED: u64 = 0x4;
/// Map flag: at this address, if nothing is there.
pub const RMAP_MAP_FIXED_NOREPLACE: u64 = 0x8;
/// Map flag: pages are faulted in at once.
pub const RMAP_MAP_POPULATE: u64 = 0x10;
/// Map flag: a stack, which grows down when it is touched below. Private memory without a file only.
pub const RMAP_MAP_GROWSDOWN: u64 = 0x20;
/// Map flag: as rmap_machine_mlock.
pub const RMAP_MAP_LOCKED: u64 = 0x40;
/// Map flag: device-like, never merged, never locked.
pub const RMAP_MAP_SPECIAL: u64 = 0x80;
/// Map flag: missing pages call the region's function `missing`.
pub const RMAP_MAP_UFFD_MISSING: u64 = 0x100;
/// Map flag: the file is open for reading only: shared and writable is refused, now and later.
pub const RMAP_MAP_READ_ONLY_FILE: u64 = 0x200;

/// Mremap flag: the range may move. Linux's number, as are all of these.
pub const RMAP_MREMAP_MAYMOVE: u32 = 1;
/// Mremap flag: it moves to new_addr, in place of what is there. With MAYMOVE only.
pub const RMAP_MREMAP_FIXED: u32 = 2;
/// Mremap flag: it moves, and leaves an empty range of the same kind. With MAYMOVE only.
pub const RMAP_MREMAP_DONTUNMAP: u32 = 4;

const _: () = {
    const fn is(number: u64, flag: MapFlags) -> bool {
        number == flag.bits() as u64
    }
    assert!(is(RMAP_MAP_SHARED, MapFlags::SHARED) && is(RMAP_MAP_PRIVATE, MapFlags::PRIVATE));
    assert!(is(RMAP_MAP_FIXED, MapFlags::FIXED) && is(RMAP_MAP_FIXED_NOREPLACE, MapFlags::FIXED_NOREPLACE));
    assert!(is(RMAP_MAP_POPULATE, MapFlags::POPULATE) && is(RMAP_MAP_GROWSDOWN, MapFlags::GROWSDOWN));
    assert!(is(RMAP_MAP_LOCKED, MapFlags::LOCKED) && is(RMAP_MAP_SPECIAL, MapFlags::SPECIAL));
    assert!(is(RMAP_MAP_UFFD_MISSING, MapFlags::UFFD_MISSING));
    assert!(is(RMAP_MAP_READ_ONLY_FILE, MapFlags::READ_ONLY_FILE));
    assert!(RMAP_MREMAP_MAYMOVE == MremapFlags::MAYMOVE.bits() && RMAP_MREMAP_FIXED == MremapFlags::FIXED.bits());
    assert!(RMAP_MREMAP_DONTUNMAP == MremapFlags::DONTUNMAP.bits());
};

/// What is to be mapped. Fill it with 0, set `size`, then the rest.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_map_request {
    /// The size of this struct, as the program knows it.
    pub size: usize,
    /// Where: with FIXED or FIXED_NOREPLACE exactly here, else a hint; 0 is none.
    pub addr: u64,
    /// Bytes, rounded up to pages.
    pub len: u64,
    /// RMAP_VM_READ, RMAP_VM_WRITE, RMAP_VM_EXEC.
    pub prot: u64,
    /// Bits of `RMAP_MAP_*`.
    pub flags: u64,
    /// The file; NULL: anonymous memory.
    pub file: *mut rmap_machine_file,
    /// The page of the file where the range begins.
    pub pgoff: u64,
    /// What the program does for the region, copied; NULL: nothing.
    pub ops: *const rmap_machine_vma_ops,
    /// Passed to each function of `ops`.
    pub private_data: *mut c_void,
}

// SAFETY: `repr(C)` with its size first; integers and nullable pointers follow.
unsafe impl Growing for rmap_map_request {
    const FIRST: usize = size_of::<Self>();
}

impl rmap_map_request {
    const EMPTY: Self = Self {
        size: size_of::<Self>(),
        addr: 0,
        len: 0,
        prot: 0,
        flags: 0,
        file: core::ptr::null_mut(),
        pgoff: 0,
        ops: core::ptr::null(),
        private_data: core::ptr::null_mut(),
    };

    /// The core's view of it.
    ///
    /// # Safety
    /// `file` is NULL or a living file, `ops` as for [`Host::intern`].
    unsafe fn of(&self, host: &Host) -> Outcome<MapRequest<AnySystem>> {
        let flags = u32::try_from(self.flags).ok().and_then(MapFlags::from_bits).ok_or(RMAP_ERR_NOT_SUPPORTED)?;
        let mut request = MapRequest::new(self.len, prot_of(self.prot)?, flags);
        let fixed = flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
        request.addr = (fixed || self.addr != 0).then_some(VirtAddr(self.addr));
        if !self.file.is_null() {
            // SAFETY: the caller's contract.
            let backed = unsafe { open_backed(self.file) }?;
            if !core::ptr::eq(backed.host(), host) {
                return Err(RMAP_ERR_FOREIGN);
            }
            request.file = Some((backed.file.clone(), self.pgoff));
        }
        // SAFETY: the caller's contract.
        let ops = unsafe { host.intern(self.ops) }?;
        request.ext = VmaExt { ops, private: self.private_data.expose_provenance() };
        Ok(request)
    }
}

fn prot_of(prot: u64) -> Outcome<VmFlags> {
    VmFlags::from_bits(prot).filter(|&prot| VmFlags::ACCESS.contains(prot)).ok_or(RMAP_ERR_INVAL)
}

/// Runs a system call that answers nothing.
///
/// # Safety
/// The handle is NULL or names a living address space.
unsafe fn system_call(mm: *mut rmap_machine_mm, call: impl FnOnce(&Call<'_>) -> Outcome) -> rmap_status {
    // SAFETY: the caller's contract.
    boundary(|| call(&unsafe { enter(mm) }?))
}

/// Maps a range: mmap.
///
/// Parameters: mm; request, what and where; addr, receives where it begins.
/// Returns: RMAP_OK; RMAP_ERR_INVAL for a length of 0, an overflow, bad prot, contradicting flags, a fixed address
/// within a page, or a size of the request or its ops that is too small; RMAP_ERR_NOT_SUPPORTED for an unknown flag;
/// RMAP_ERR_NOSPACE when no gap is large enough, or the fixed range leaves the address space; RMAP_ERR_ACCESS when it
/// begins too low, or the file may not be written; RMAP_ERR_EXISTS with FIXED_NOREPLACE, when something is there;
/// RMAP_ERR_FOREIGN for a file of another machine; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread
/// holds a lock of librmap's. FIXED with a file over regions leaves the range empty if other threads use up the memory
/// that was set aside. Pages that cannot be faulted in at once are no error.
/// Ownership: request is copied. The region keeps file in use.
/// Context: any thread, no locks held. Takes mmap_lock for writing. Calls the allocator, the charge functions, and
/// functions of regions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_mmap(
    mm: *mut rmap_machine_mm,
    request: *const rmap_map_request,
    addr: *mut u64,
) -> rmap_status {
    boundary(|| {
        need(addr)?;
        // SAFETY: a living address space, and a request valid for as many bytes as its size says (Parameters).
        let (call, request) = unsafe { (enter(mm)?, sized::read(request, rmap_map_request::EMPTY)?) };
        // SAFETY: its file is NULL or living, its ops are valid and keep their contract (Parameters).
        let request = unsafe { request.of(call.host()) }?;
        let start = call.machine().mmap(&call.mm, &request)?;
        // SAFETY: `addr` is not NULL, and valid (Parameters).
        unsafe { put(addr, start.0) };
        Ok(())
    })
}

/// Unmaps a range: munmap. Holes are no error.
///
/// Parameters: mm; addr and len, the range; len is rounded up to pages.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when addr is within a page, or the range is empty or leaves the address space;
/// RMAP_ERR_NOMEM when there is no memory to cut a region; RMAP_ERR_LOCK from a callback, or when this thread holds a
/// lock of librmap's.
/// Ownership: nothing.
/// Context: any thread, no locks held. Takes mmap_lock for writing. Calls the allocator, `uncharge`, and functions of
/// regions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_munmap(mm: *mut rmap_machine_mm, addr: u64, len: u64) -> rmap_status {
    // SAFETY: a living address space (Parameters).
    unsafe { system_call(mm, |call| Ok(call.machine().munmap(&call.mm, VirtAddr(addr), len)?)) }
}

/// Changes what a range permits: mprotect. It ends at the first region that refuses, and at a hole; what lies below is
/// done then.
///
/// Parameters: mm; addr and len, the range; prot, bits of RMAP_VM_READ, RMAP_VM_WRITE, RMAP_VM_EXEC.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when addr is within a page, the range overflows, or prot has other bits;
/// RMAP_ERR_NOT_MAPPED at a hole; RMAP_ERR_ACCESS when a region may never permit it; RMAP_ERR_NOMEM when there is no
/// memory to cut a region; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: as for rmap_machine_mmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_mprotect(
    mm: *mut rmap_machine_mm,
    addr: u64,
    len: u64,
    prot: u64,
) -> rmap_status {
    // SAFETY: a living address space (Parameters).
    unsafe { system_call(mm, |call| Ok(call.machine().mprotect(&call.mm, VirtAddr(addr), len, prot_of(prot)?)?)) }
}

/// Makes a range smaller, larger, or moves it with its pages: mremap.
///
/// Parameters: mm; old and old_len, the range; old_len 0 maps the pages of a shared region a second time; new_len;
/// flags, bits of RMAP_MREMAP_*; new_addr, where to with FIXED, and with DONTUNMAP a hint, of which 0 is none; addr,
/// receives where it is.
/// Returns: RMAP_OK; RMAP_ERR_INVAL for addresses within a page, a new_len of 0, an overflow, contradicting flags,
/// ranges that overlap, or a private range mapped a second time; RMAP_ERR_NOT_SUPPORTED for an unknown flag;
/// RMAP_ERR_NOT_MAPPED when nothing is at old, its region ends within the range, or may not grow; RMAP_ERR_NOSPACE when
/// it cannot grow in place and may not move, or no gap is large enough; RMAP_ERR_ACCESS when new_addr is too low;
/// RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's. With FIXED and equal
/// lengths the range may span several regions, and an error leaves those moved that came first.
/// Ownership: nothing.
/// Context: as for rmap_machine_mmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_mremap(
    mm: *mut rmap_machine_mm,
    old: u64,
    old_len: u64,
    new_len: u64,
    flags: u32,
    new_addr: u64,
    addr: *mut u64,
) -> rmap_status {
    boundary(|| {
        need(addr)?;
        // SAFETY: a living address space (Parameters).
        let call = unsafe { enter(mm) }?;
        let flags = MremapFlags::from_bits(flags).ok_or(RMAP_ERR_NOT_SUPPORTED)?;
        let to = (flags.contains(MremapFlags::FIXED) || new_addr != 0).then_some(VirtAddr(new_addr));
        let now = call.machine().mremap(&call.mm, VirtAddr(old), old_len, new_len, flags, to)?;
        // SAFETY: `addr` is not NULL, and valid (Parameters).
        unsafe { put(addr, now.0) };
        Ok(())
    })
}

/// Says where the heap begins, and that it is empty. What was mapped for an earlier one stays.
///
/// Parameters: mm; addr, its first byte.
/// Returns: RMAP_OK; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: any thread, no locks held. Takes mmap_lock for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_set_brk_start(mm: *mut rmap_machine_mm, addr: u64) -> rmap_status {
    // SAFETY: a living address space (Parameters).
    unsafe {
        system_call(mm, |call| {
            call.machine().set_brk_start(&call.mm, VirtAddr(addr));
            Ok(())
        })
    }
}

/// Moves the end of the heap: brk.
///
/// Parameters: mm; addr, the first byte after it; end, receives where it ends: as before, if addr lies below its start,
/// something is in the way, or memory ran out.
/// Returns: RMAP_OK; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: as for rmap_machine_mmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_brk(mm: *mut rmap_machine_mm, addr: u64, end: *mut u64) -> rmap_status {
    boundary(|| {
        need(end)?;
        // SAFETY: a living address space (Parameters).
        let call = unsafe { enter(mm) }?;
        let now = call.machine().brk(&call.mm, VirtAddr(addr));
        // SAFETY: `end` is not NULL, and valid (Parameters).
        unsafe { put(end, now.0) };
        Ok(())
    })
}

/// Says what is to become of a range: madvise. A hole is passed over, and reported when the rest is done.
///
/// Parameters: mm; addr and len, the range; advice, Linux's number: MADV_DONTNEED 4 and MADV_FREE 8 let pages go,
/// DONTFORK 10, DOFORK 11, WIPEONFORK 18 and KEEPONFORK 19 say what a fork copies, POPULATE_READ 22 and POPULATE_WRITE
/// 23 fault pages in, DONTNEED_LOCKED 24 is as DONTNEED, GUARD_INSTALL 102 and GUARD_REMOVE 103 make and end ranges
/// where every access fails, MERGEABLE 12, UNMERGEABLE 13, HUGEPAGE 14, NOHUGEPAGE 15, DONTDUMP 16 and DODUMP 17 set a
/// region's flag; NORMAL 0, RANDOM 1, SEQUENTIAL 2, WILLNEED 3, COLD 20 and PAGEOUT 21 do nothing.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when addr is within a page, the range overflows, or a region is not of the kind
/// that the advice is for: what lies below it is done; RMAP_ERR_NOT_MAPPED when there is a hole; RMAP_ERR_NOT_SUPPORTED
/// for an unknown advice; RMAP_ERR_NOMEM when there is no memory to cut a region; of the POPULATEs, as
/// rmap_machine_fault; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: as for rmap_machine_mmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_madvise(
    mm: *mut rmap_machine_mm,
    addr: u64,
    len: u64,
    advice: u32,
) -> rmap_status {
    // SAFETY: a living address space (Parameters).
    unsafe {
        system_call(mm, |call| {
            let advice = CoreAdvice::from_number(advice).ok_or(RMAP_ERR_NOT_SUPPORTED)?;
            Ok(call.machine().madvise(&call.mm, VirtAddr(addr), len, advice)?)
        })
    }
}

/// Keeps the pages of a range in memory: mlock, or mlock2 with MLOCK_ONFAULT.
///
/// Parameters: mm; addr and len, the range, widened to pages; onfault, whether pages are faulted in only as they are
/// needed, else at once.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED at a hole, and what lies below it is locked; RMAP_ERR_INVAL when the range
/// overflows; RMAP_ERR_NOMEM when there is no memory to cut a region, or a page could not be had: then the range is
/// locked nevertheless; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: as for rmap_machine_mmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_mlock(
    mm: *mut rmap_machine_mm,
    addr: u64,
    len: u64,
    onfault: bool,
) -> rmap_status {
    // SAFETY: a living address space (Parameters).
    unsafe { system_call(mm, |call| Ok(call.machine().mlock(&call.mm, VirtAddr(addr), len, onfault)?)) }
}

/// Ends what rmap_machine_mlock began: munlock.
///
/// Parameters: mm; addr and len, the range, widened to pages.
/// Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED at a hole, and what lies below it is done; RMAP_ERR_INVAL when the range
/// overflows; RMAP_ERR_NOMEM when there is no memory to cut a region; RMAP_ERR_LOCK from a callback, or when this
/// thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: as for rmap_machine_mmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_munlock(mm: *mut rmap_machine_mm, addr: u64, len: u64) -> rmap_status {
    // SAFETY: a living address space (Parameters).
    unsafe { system_call(mm, |call| Ok(call.machine().munlock(&call.mm, VirtAddr(addr), len)?)) }
}

/// Keeps the pages of all regions in memory: mlockall. What cannot be locked for want of memory stays as it is.
///
/// Parameters: mm; current, whether the regions there are; future, whether those to come; onfault, as for
/// rmap_machine_mlock.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when neither is asked for; RMAP_ERR_LOCK from a callback, or when this thread holds
/// a lock of librmap's.
/// Ownership: nothing.
/// Context: as for rmap_machine_mmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_mlockall(
    mm: *mut rmap_machine_mm,
    current: bool,
    future: bool,
    onfault: bool,
) -> rmap_status {
    // SAFETY: a living address space (Parameters).
    unsafe { system_call(mm, |call| Ok(call.machine().mlockall(&call.mm, current, future, onfault)?)) }
}

/// Ends what rmap_machine_mlock and rmap_machine_mlockall began, for the regions there are and those to come:
/// munlockall.
///
/// Parameters: mm.
/// Returns: RMAP_OK; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: as for rmap_machine_mmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_munlockall(mm: *mut rmap_machine_mm) -> rmap_status {
    // SAFETY: a living address space (Parameters).
    unsafe { system_call(mm, |call| Ok(call.machine().munlockall(&call.mm)?)) }
}

/// Names the anonymous regions of a range: PR_SET_VMA_ANON_NAME. Regions of different names do not merge. Holes are as
/// for rmap_machine_madvise.
///
/// Parameters: mm; addr and len, the range; name, at most 79 bytes, printable and without any of \ ` $ [ ]; NULL takes
/// the names away.
/// Returns: RMAP_OK; RMAP_ERR_INVAL when addr is within a page, the range overflows, or the name is bad;
/// RMAP_ERR_NOT_MAPPED when there is a hole; RMAP_ERR_NOT_SUPPORTED at a region of a file, and what lies below it is
/// done; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: name is copied.
/// Context: as for rmap_machine_mmap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_set_name(
    mm: *mut rmap_machine_mm,
    addr: u64,
    len: u64,
    name: *const c_char,
) -> rmap_status {
    // SAFETY: a living address space (Parameters).
    unsafe {
        system_call(mm, |call| {
            // A string (Parameters).
            let name = if name.is_null() { None } else { Some(CStr::from_ptr(name).to_bytes()) };
            Ok(call.machine().set_name(&call.mm, VirtAddr(addr), len, name)?)
        })
    }
}
