//! VMAs: made, split, merged, adjusted, moved, forked, freed.

use crate::handle::{
    Component, Vma, ctx_of, need, open_file, open_mm, open_vma, put, rmap_file, rmap_mm, rmap_vma, seal,
};
use crate::handle::{Private, Rmap};
use crate::held;
use crate::mm::held_for_writing;
use crate::status::rmap_status::{RMAP_ERR_FOREIGN, RMAP_ERR_INVAL, RMAP_ERR_LOCK, RMAP_ERR_STALE};
use crate::status::{Outcome, boundary, boundary_or, rmap_status};
use core::ffi::c_void;
use rmap_core::base::types::{VirtAddr, VmFlags};
use rmap_core::engine::Engine;
use rmap_core::mm::{MmWrite, VmaBounds};
use rmap_core::rmap::moving::MoveLock;

/// VMA flag: may be read.
pub const RMAP_VM_READ: u64 = 0x1;
/// VMA flag: may be written.
pub const RMAP_VM_WRITE: u64 = 0x2;
/// VMA flag: may be executed.
pub const RMAP_VM_EXEC: u64 = 0x4;
/// VMA flag: changes are seen by every mapper. Needs a file; shared anonymous memory is a file without a name.
pub const RMAP_VM_SHARED: u64 = 0x8;
/// VMA flag: protection may be changed to READ.
pub const RMAP_VM_MAYREAD: u64 = 0x10;
/// VMA flag: protection may be changed to WRITE.
pub const RMAP_VM_MAYWRITE: u64 = 0x20;
/// VMA flag: protection may be changed to EXEC.
pub const RMAP_VM_MAYEXEC: u64 = 0x40;
/// VMA flag: pages are not to be unmapped by rmap_try_to_unmap.
pub const RMAP_VM_LOCKED: u64 = 0x2000;
/// VMA flag: never merged.
pub const RMAP_VM_SPECIAL: u64 = 0x4000;
/// VMA flag: not for the child of a fork; the program leaves the VMA out.
pub const RMAP_VM_DONTFORK: u64 = 0x2_0000;
/// VMA flag: never merged, never grown.
pub const RMAP_VM_DONTEXPAND: u64 = 0x4_0000;
/// VMA flag: the child of a fork gets the region empty.
pub const RMAP_VM_WIPEONFORK: u64 = 0x0200_0000;
/// VMA flag: equal pages may be merged.
pub const RMAP_VM_MERGEABLE: u64 = 0x8000_0000;

const _: () = {
    assert!(RMAP_VM_READ | RMAP_VM_WRITE | RMAP_VM_EXEC == VmFlags::ACCESS.bits());
    assert!(RMAP_VM_SHARED == VmFlags::SHARED.bits() && RMAP_VM_LOCKED == VmFlags::LOCKED.bits());
    assert!(RMAP_VM_MAYREAD == VmFlags::MAYREAD.bits() && RMAP_VM_MAYWRITE == VmFlags::MAYWRITE.bits());
    assert!(RMAP_VM_MAYEXEC == VmFlags::MAYEXEC.bits() && RMAP_VM_SPECIAL == VmFlags::SPECIAL.bits());
    assert!(RMAP_VM_DONTFORK == VmFlags::DONTFORK.bits() && RMAP_VM_DONTEXPAND == VmFlags::DONTEXPAND.bits());
    assert!(RMAP_VM_WIPEONFORK == VmFlags::WIPEONFORK.bits() && RMAP_VM_MERGEABLE == VmFlags::MERGEABLE.bits());
};

/// As `pgoff` of an anonymous VMA: its virtual page number, as the kernel has it.
pub const RMAP_PGOFF_VPN: u64 = 0xffff_ffff_ffff_ffff;

/// A VMA, looked at.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_vma_info {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// The page offset of its first page.
    pub pgoff: u64,
    /// Bits of `RMAP_VM_*`, and the program's own.
    pub flags: u64,
    /// Its address space.
    pub mm: *mut rmap_mm,
    /// The file that it maps; NULL: none.
    pub file: *mut rmap_file,
    /// The program's pointer.
    pub private_data: *mut c_void,
}

/// A VMA of the address space whose lock is held.
///
/// # Safety
/// The handle is NULL or a living one.
pub(crate) unsafe fn own<'a>(mm: &MmWrite<'a, Component>, vma: *const rmap_vma) -> Outcome<&'a Vma> {
    // SAFETY: the caller's contract.
    let vma = unsafe { open_vma(vma) }?;
    if !vma.is_linked() {
        return Err(RMAP_ERR_STALE);
    }
    if mm.owns(vma) { Ok(vma) } else { Err(RMAP_ERR_FOREIGN) }
}

/// The reverse map of an address space's context.
fn rmap<'a>(mm: &MmWrite<'a, Component>) -> &'a Rmap {
    &mm.mm_ref().data().ctx().rmap
}

/// The bounds for `[start, end)`; that they are aligned and in order is for the core to check.
fn bounds(start: u64, end: u64, pgoff: u64) -> VmaBounds {
    let start = VirtAddr(start);
    VmaBounds { start, end: VirtAddr(end), pgoff: if pgoff == RMAP_PGOFF_VPN { start.vpn() } else { pgoff } }
}

/// Makes a VMA. A VMA that anonymous pages are to be mapped in is prepared with rmap_anon_vma_prepare before the first.
///
/// Parameters: mm; start and end, page-aligned; flags, bits of RMAP_VM_*, others are kept for the program; file, or
/// NULL; pgoff, the page offset of start in the file, or RMAP_PGOFF_VPN without one; private_data, the program's,
/// inherited by splits, moves and forks; out, receives the VMA.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when it overlaps another; RMAP_ERR_INVAL for bad bounds, or
/// RMAP_VM_SHARED without a file; RMAP_ERR_FOREIGN for a file of another context; RMAP_ERR_LOCK when mmap_lock is not
/// held.
/// Ownership: the VMA is the address space's, until rmap_vma_free or a merge. It keeps the file's memory alive, not its
/// handle.
/// Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_new(
    mm: *mut rmap_mm,
    start: u64,
    end: u64,
    flags: u64,
    file: *mut rmap_file,
    pgoff: u64,
    private_data: *mut c_void,
    out: *mut *mut rmap_vma,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        let flags = VmFlags::from_bits_retain(flags);
        let file = if file.is_null() {
            None
        } else {
            // SAFETY: a living file (Parameters).
            Some(unsafe { open_file(file) }?)
        };
        if file.is_none() && flags.contains(VmFlags::SHARED) || file.is_some() && pgoff == RMAP_PGOFF_VPN {
            return Err(RMAP_ERR_INVAL);
        }
        if file.is_some_and(|file| file.data().ctx != mm.data().ctx) {
            return Err(RMAP_ERR_FOREIGN);
        }
        let file = file.map(|file| file.data().slot().reference()).transpose()?;
        let vma = rmap(&mm).vma_new(&mm, bounds(start, end, pgoff), flags, file, Private::new(private_data))?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal(vma)) };
        Ok(())
    })
}

/// Frees a VMA, after its grace period.
///
/// Parameters: mm; vma, one of its VMAs, with nothing mapped in it.
/// Returns: RMAP_OK; RMAP_ERR_FOREIGN for a VMA of another address space; RMAP_ERR_LOCK when mmap_lock is not held.
/// Ownership: vma is gone. Its page tables are freed only after this.
/// Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root, so that no walk
/// is in the VMA when it returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_free(mm: *mut rmap_mm, vma: *mut rmap_vma) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        let vma = unsafe { own(&mm, vma) }?;
        Ok(rmap(&mm).vma_free(&mm, vma)?)
    })
}

/// Cuts a VMA in two. It keeps the part below, a new one gets the part above.
///
/// Parameters: mm; vma, one of its VMAs; addr, page-aligned, inside it and not its start; out, receives the part above.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL for a bad address; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as
/// rmap_vma_free.
/// Ownership: as for rmap_vma_new.
/// Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
/// allocator, not under these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_split(
    mm: *mut rmap_mm,
    vma: *mut rmap_vma,
    addr: u64,
    out: *mut *mut rmap_vma,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        let vma = unsafe { own(&mm, vma) }?;
        let above = rmap(&mm).vma_split(&mm, vma, VirtAddr(addr))?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal(above)) };
        Ok(())
    })
}

/// Tells whether two VMAs may become one: adjacent in address and page offset, equal in flags, file, private pointer
/// and name, and not parted by a fork.
///
/// Parameters: mm; low and high, two of its VMAs.
/// Returns: true or false; false for any misuse.
/// Ownership: nothing.
/// Context: mmap_lock of mm held for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_can_merge(mm: *mut rmap_mm, low: *const rmap_vma, high: *const rmap_vma) -> bool {
    boundary_or(false, || {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: living VMAs (Parameters).
        let (low, high) = unsafe { (own(&mm, low)?, own(&mm, high)?) };
        Ok(rmap(&mm).can_merge(&mm, low, high))
    })
}

/// Makes one VMA of two.
///
/// Parameters: mm; low and high, two of its VMAs for which rmap_vma_can_merge says true.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL when they may not be merged; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as
/// rmap_vma_free.
/// Ownership: low is both; high is gone.
/// Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
/// allocator, not under these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_merge(mm: *mut rmap_mm, low: *mut rmap_vma, high: *mut rmap_vma) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: living VMAs (Parameters).
        let (low, high) = unsafe { (own(&mm, low)?, own(&mm, high)?) };
        Ok(rmap(&mm).vma_merge(&mm, low, high)?)
    })
}

/// Changes the bounds of a VMA at either end. An address that it keeps keeps its page offset.
///
/// Parameters: mm; vma, one of its VMAs, with nothing mapped in what it gives up; start and end, page-aligned, meeting
/// the old range.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL for bad bounds; RMAP_ERR_EXISTS when it would overlap another;
/// RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
/// Ownership: nothing.
/// Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
/// allocator, not under these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_adjust(mm: *mut rmap_mm, vma: *mut rmap_vma, start: u64, end: u64) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        let vma = unsafe { own(&mm, vma) }?;
        let pgoff = vma.bounds().pgoff_of(VirtAddr(start));
        let bounds = VmaBounds { start: VirtAddr(start), end: VirtAddr(end), pgoff };
        Ok(rmap(&mm).vma_adjust(&mm, vma, bounds)?)
    })
}

/// Moves the boundary between two adjacent VMAs. What is mapped there changes hands.
///
/// Parameters: mm; low and high, two of its VMAs that could be merged but for flags, private pointer and name;
/// boundary, page-aligned, inside the one that gives.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL for a bad boundary, or VMAs that do not fit; RMAP_ERR_FOREIGN and
/// RMAP_ERR_LOCK as rmap_vma_free.
/// Ownership: nothing.
/// Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
/// allocator, not under these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_shift(
    mm: *mut rmap_mm,
    low: *mut rmap_vma,
    high: *mut rmap_vma,
    boundary_addr: u64,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: living VMAs (Parameters).
        let (low, high) = unsafe { (own(&mm, low)?, own(&mm, high)?) };
        Ok(rmap(&mm).vma_shift(&mm, low, high, VirtAddr(boundary_addr))?)
    })
}

/// Makes the VMA that entries of another will move to (mremap): the same page offsets at other addresses, tied to the
/// same anon_vmas.
///
/// Then, between rmap_vma_move_lock and rmap_vma_move_unlock of source, move the entries: set each at its new address,
/// tell it if it maps a page (rmap_page_moved), clear the old one. Then rmap_vma_free the source, or what is left of
/// it.
///
/// Parameters: mm; source, one of its VMAs; from, the address in it whose page offset the copy begins with; start and
/// end, where the copy lies, page-aligned; out, receives the copy.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when it overlaps another; RMAP_ERR_INVAL for bad bounds, or from
/// outside source; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
/// Ownership: as for rmap_vma_new.
/// Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
/// allocator, not under these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_move(
    mm: *mut rmap_mm,
    source: *mut rmap_vma,
    from: u64,
    start: u64,
    end: u64,
    out: *mut *mut rmap_vma,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        let source = unsafe { own(&mm, source) }?;
        let from = VirtAddr(from);
        if !from.is_page_aligned() || !source.contains(from) {
            return Err(RMAP_ERR_INVAL);
        }
        let bounds = VmaBounds { start: VirtAddr(start), end: VirtAddr(end), pgoff: source.bounds().pgoff_of(from) };
        let copy = rmap(&mm).vma_copy(&mm, source, bounds)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal(copy)) };
        Ok(())
    })
}

/// Keeps walks away from a VMA and its copy while entries move from one to the other.
///
/// Parameters: mm; source, one of its VMAs.
/// Returns: RMAP_OK; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
/// Ownership: i_mmap_rwsem of its file and its anon_vma root, as far as it has them, are this thread's until
/// rmap_vma_move_unlock.
/// Context: mmap_lock of mm held for writing until after the unlock; no page lock. Waits. Until the unlock this thread
/// calls nothing that walks or changes a layout.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_move_lock(mm: *mut rmap_mm, source: *mut rmap_vma) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        let source = unsafe { own(&mm, source) }?;
        let MoveLock { file, anchors } = rmap(&mm).lock_for_move(source);
        if let Some(held) = file {
            held.into_raw();
        }
        core::mem::forget(anchors);
        held::took();
        Ok(())
    })
}

/// Lets walks in again.
///
/// Parameters: mm; source, as for rmap_vma_move_lock.
/// Returns: RMAP_OK; RMAP_ERR_FOREIGN; RMAP_ERR_LOCK when mmap_lock is not held, or the VMA's file is not locked for
/// moving.
/// Ownership: the locks are gone.
/// Context: the thread that called rmap_vma_move_lock; mmap_lock held for writing since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_move_unlock(mm: *mut rmap_mm, source: *mut rmap_vma) -> rmap_status {
    boundary(|| {
        // SAFETY: a living address space (Parameters).
        let mm = held_for_writing(unsafe { open_mm(mm) }?)?;
        // SAFETY: a living VMA (Parameters).
        let source = unsafe { own(&mm, source) }?;
        if source.file().is_some_and(|file| !file.i_mmap_rwsem().is_write_locked()) {
            return Err(RMAP_ERR_LOCK);
        }
        // SAFETY: locked by `rmap_vma_move_lock` on this thread, and mmap_lock held since (Context).
        unsafe { rmap(&mm).engine().unlock_move(source) };
        if let Some(file) = source.file() {
            // SAFETY: as above.
            unsafe { file.i_mmap_rwsem().unlock_write_raw() };
        }
        held::released();
        Ok(())
    })
}

/// Makes the child's copy of a parent's VMA in a fork: same bounds, file and private pointer, flags without
/// RMAP_VM_LOCKED. Walks visit it after the parent's.
///
/// Parameters: child, the address space that gets the copy; parent, the one that is forked; vma, one of the parent's;
/// out, receives the copy.
/// Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when the range is not free; RMAP_ERR_FOREIGN for a VMA of another
/// address space, or different contexts; RMAP_ERR_INVAL when both are one; RMAP_ERR_LOCK when a lock is not held.
/// Ownership: the copy is the child's, as for rmap_vma_new.
/// Context: between rmap_mm_fork_begin and rmap_mm_fork_end. Entries are copied only after this. Takes i_mmap_rwsem and
/// the anon_vma root. Calls the allocator, not under these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_vma_fork(
    child: *mut rmap_mm,
    parent: *mut rmap_mm,
    vma: *mut rmap_vma,
    out: *mut *mut rmap_vma,
) -> rmap_status {
    boundary(|| {
        need(out)?;
        // SAFETY: living address spaces (Parameters).
        let (child, parent) = unsafe { (open_mm(child)?, open_mm(parent)?) };
        if core::ptr::eq(child, parent) {
            return Err(RMAP_ERR_INVAL);
        }
        if child.data().ctx != parent.data().ctx {
            return Err(RMAP_ERR_FOREIGN);
        }
        let (child, parent) = (held_for_writing(child)?, held_for_writing(parent)?);
        // SAFETY: a living VMA (Parameters).
        let vma = unsafe { own(&parent, vma) }?;
        let copy = rmap(&parent).vma_fork(&child, &parent, vma)?;
        // SAFETY: `out` is not NULL, and valid (Parameters).
        unsafe { put(out, seal(copy)) };
        Ok(())
    })
}

/// Whether the lock that `vma`'s address space needs for looking is held.
pub(crate) fn need_mmap_lock(vma: &Vma) -> Outcome {
    if vma.mm().mmap_lock().is_locked() { Ok(()) } else { Err(RMAP_ERR_LOCK) }
}

/// `RMAP_ERR_FOREIGN` unless a page belongs to the context of a VMA.
#[inline]
pub(crate) fn need_same_context(vma: &Vma, page: &rmap_core::page::Page) -> Outcome {
    if ctx_of(vma).tag == page.owner() { Ok(()) } else { Err(RMAP_ERR_FOREIGN) }
}
