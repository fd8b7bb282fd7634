//! What the program does for a machine's regions and files.

use super::handle::{Host, called_for, rmap_machine_mm};
use crate::held::Inside;
use crate::sized::{self, Growing};
use crate::status::{Outcome, rmap_status};
use core::ffi::c_void;
use rmap_core::base::error::Error;
use rmap_core::base::href::Href;
use rmap_core::base::room::lock_with_room;
use rmap_core::base::types::{PAGE_SIZE, VirtAddr};
use rmap_core::machine::system::{Access, FileOps, VmaOps};
use rmap_core::mm::VmaBounds;

/// An access: a load.
pub const RMAP_ACCESS_READ: u32 = 0;
/// An access: a store.
pub const RMAP_ACCESS_WRITE: u32 = 1;
/// An access: the fetch of an instruction.
pub const RMAP_ACCESS_EXEC: u32 = 2;

/// What the program does for a region (the kernel's `vm_ops`, and userfaultfd's monitor). Set `size`; functions may be
/// NULL. Functions that answer a status answer one of `enum rmap_status`; what is no error of the machine counts as
/// RMAP_ERR_IO.
///
/// Context of each but `missing`: mmap_lock is held, exclusively in `open` and `close`. A function of the machine that
/// is called there answers RMAP_ERR_LOCK. None may throw or jump out.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_machine_vma_ops {
    /// The size of this struct, as the program knows it.
    pub size: usize,
    /// The region came into being: mapped, split off, copied, or forked.
    pub open: Option<unsafe extern "C" fn(private_data: *mut c_void, start: u64, end: u64, pgoff: u64)>,
    /// The region is gone.
    pub close: Option<unsafe extern "C" fn(private_data: *mut c_void, start: u64, end: u64, pgoff: u64)>,
    /// Fills the page at pgoff of a region without a file: RMAP_PAGE_SIZE bytes at `page`, zero until then.
    /// RMAP_ERR_BUS: there is nothing. NULL: pages begin as zero.
    pub fault: Option<unsafe extern "C" fn(private_data: *mut c_void, pgoff: u64, page: *mut c_void) -> i32>,
    /// A page of a region with RMAP_MAP_UFFD_MISSING is missing at addr. No lock is held: the function may fill it with
    /// rmap_machine_uffd_copy. RMAP_OK: the access is tried again; else it fails with the status. NULL: it fails with
    /// RMAP_ERR_NOT_SUPPORTED.
    pub missing: Option<
        unsafe extern "C" fn(private_data: *mut c_void, mm: *mut rmap_machine_mm, addr: u64, access: u32) -> i32,
    >,
}

// SAFETY: `repr(C)` with its size first; nothing but nullable pointers follows.
unsafe impl Growing for rmap_machine_vma_ops {
    const FIRST: usize = size_of::<Self>();
}

/// A page of a file for `rmap_machine_file_new`: fills RMAP_PAGE_SIZE bytes at `page`, zero until then, with the
/// contents of page pgoff. Answers as the functions of `rmap_machine_vma_ops` do.
///
/// Context: the page lock and mmap_lock are held, the latter shared. A function of the machine that is called there
/// answers RMAP_ERR_LOCK. It may not throw or jump out.
pub type rmap_machine_read_page = Option<unsafe extern "C" fn(arg: *mut c_void, pgoff: u64, page: *mut c_void) -> i32>;

impl rmap_machine_vma_ops {
    const NONE: Self = Self { size: size_of::<Self>(), open: None, close: None, fault: None, missing: None };

    /// Whether both have the same functions.
    fn same(&self, other: &Self) -> bool {
        let region = |function: Option<unsafe extern "C" fn(*mut c_void, u64, u64, u64)>| function.map(|f| f as usize);
        region(self.open) == region(other.open)
            && region(self.close) == region(other.close)
            && self.fault.map(|f| f as usize) == other.fault.map(|f| f as usize)
            && self.missing.map(|f| f as usize) == other.missing.map(|f| f as usize)
    }
}

/// An access by its number.
pub(super) fn access_of(number: u32) -> Outcome<Access> {
    match number {
        RMAP_ACCESS_READ => Ok(Access::Read),
        RMAP_ACCESS_WRITE => Ok(Access::Write),
        RMAP_ACCESS_EXEC => Ok(Access::Exec),
        _ => Err(rmap_status::RMAP_ERR_INVAL),
    }
}

/// A status of the program's, which may be any number, as the core's error.
fn answered(status: i32) -> Result<(), Error> {
    let known = [
        Error::NoMemory,
        Error::Invalid,
        Error::NotMapped,
        Error::Exists,
        Error::Access,
        Error::Bus,
        Error::Busy,
        Error::Foreign,
        Error::Unstable,
        Error::NoSpace,
        Error::Io,
        Error::Stale,
        Error::Again,
        Error::NotSupported,
    ];
    if status == 0 {
        return Ok(());
    }
    Err(known.into_iter().find(|&error| rmap_status::from(error) as i32 == status).unwrap_or(Error::Io))
}

fn pointer(private: usize) -> *mut c_void {
    core::ptr::with_exposed_provenance_mut(private)
}

impl VmaOps for rmap_machine_vma_ops {
    fn open(&self, private: usize, bounds: VmaBounds) {
        if let Some(open) = self.open {
            let _inside = Inside::new();
            // SAFETY: the program's function, called as its contract says; so for all below.
            unsafe { open(pointer(private), bounds.start.0, bounds.end.0, bounds.pgoff) };
        }
    }

    fn close(&self, private: usize, bounds: VmaBounds) {
        if let Some(close) = self.close {
            let _inside = Inside::new();
            // SAFETY: as for `open`.
            unsafe { close(pointer(private), bounds.start.0, bounds.end.0, bounds.pgoff) };
        }
    }

    fn fault(&self, private: usize, pgoff: u64, out: &mut [u8; PAGE_SIZE as usize]) -> Result<(), Error> {
        let fault = self.fault.ok_or(Error::NotSupported)?;
        let _inside = Inside::new();
        // SAFETY: as for `open`; `out` is a page.
        answered(unsafe { fault(pointer(private), pgoff, out.as_mut_ptr().cast()) })
    }

    fn missing(&self, private: usize, _: u64, addr: VirtAddr, access: Access) -> Result<(), Error> {
        let missing = self.missing.ok_or(Error::NotSupported)?;
        let access = match access {
            Access::Read => RMAP_ACCESS_READ,
            Access::Write => RMAP_ACCESS_WRITE,
            Access::Exec => RMAP_ACCESS_EXEC,
        };
        // SAFETY: as for `open`. Faults are handled on the thread that called for the address space.
        answered(unsafe { missing(pointer(private), called_for(), addr.0, access) })
    }
}

/// The program's function that reads a file.
pub(crate) struct Reader {
    read_page: unsafe extern "C" fn(*mut c_void, u64, *mut c_void) -> i32,
    arg: *mut c_void,
}

// SAFETY: the program's function may be called on any thread, and `arg` is only passed to it.
unsafe impl Send for Reader {}
// SAFETY: as for Send.
unsafe impl Sync for Reader {}

impl Reader {
    pub(super) fn new(read_page: unsafe extern "C" fn(*mut c_void, u64, *mut c_void) -> i32, arg: *mut c_void) -> Self {
        Self { read_page, arg }
    }
}

/// Files that a [`Reader`] fills: its address is the file's `private`.
pub(super) struct ByReader;

impl FileOps for ByReader {
    fn read_page(&self, private: usize, pgoff: u64, out: &mut [u8; PAGE_SIZE as usize]) -> Result<(), Error> {
        // SAFETY: the reader is kept with the handle of the file, which stays as long as a VMA maps it
        // (`rmap_machine_file_free`), and who has no VMA does not read.
        let reader = unsafe { &*core::ptr::with_exposed_provenance::<Reader>(private) };
        let _inside = Inside::new();
        // SAFETY: the program's function, called as its contract says; `out` is a page.
        answered(unsafe { (reader.read_page)(reader.arg, pgoff, out.as_mut_ptr().cast()) })
    }
}

impl Host {
    /// The functions of a region, copied: they stay as long as the machine. NULL: none.
    ///
    /// # Safety
    /// `ops` is NULL or valid for as many bytes as its size says, and its functions keep their contract.
    pub(super) unsafe fn intern(&self, ops: *const rmap_machine_vma_ops) -> Outcome<Option<&'static dyn VmaOps>> {
        if ops.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's contract.
        let ops = unsafe { sized::read(ops, rmap_machine_vma_ops::NONE) }?;
        // Before the lock, like the room for it: the allocator is not called under the lock.
        let copy = Href::new(&self.heap, ops)?;
        let mut known = lock_with_room(&self.ops, &self.heap)?;
        let same = known.iter().find(|known| known.same(&ops)).map(Href::as_ptr);
        let place = same.unwrap_or_else(|| Href::as_ptr(&copy));
        if same.is_none() {
            known.push(copy);
        }
        // SAFETY: what is in the list stays there until the machine, and all regions with it, is gone.
        Ok(Some(unsafe { place.as_ref() }))
    }
}
