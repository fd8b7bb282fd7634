//! The machine's handles, and what they name.
//!
//! | handle | names | given back by |
//! |---|---|---|
//! | `rmap_machine` | a `Host` | `rmap_machine_free` |
//! | `rmap_machine_mm` | a slot with a `Space` | `rmap_machine_exit`, `rmap_machine_exec` |
//! | `rmap_machine_file` | a slot with a `Backed` | `rmap_machine_file_free` |
//!
//! They are checked as those of the component are (see [`handle`](crate::handle)), with the number of the address space
//! or file as generation: no two of a machine have the same.

use super::config::Hooks;
use super::ops::{Reader, rmap_machine_vma_ops};
use crate::handle::{Named, Slot, open, seal};
use crate::held;
use crate::status::rmap_status::{RMAP_ERR_FOREIGN, RMAP_ERR_INVAL, RMAP_ERR_NULL};
use crate::status::{Outcome, rmap_status};
use core::cell::Cell;
use core::ops::Deref;
use core::ptr::NonNull;
use rmap_core::base::alloc::{Heap, HeapVec};
use rmap_core::base::href::Href;
use rmap_core::base::slab::Slab;
use rmap_core::base::sync::{Mutex, rank};
use rmap_core::base::types::Pfn;
// Renamed, since cbindgen looks at the last segment of a path only.
use rmap_core::machine::Machine as CoreMachine;
use rmap_core::machine::system::AnySystem;
use rmap_core::mm::{FileRef, MmRef};
use rmap_core::page::Page;

/// A machine: page frames, and a memory manager with its address spaces over them. Machines share nothing.
pub struct rmap_machine {
    _opaque: [u8; 0],
}
/// An address space of a machine.
pub struct rmap_machine_mm {
    _opaque: [u8; 0],
}
/// A file, or shared memory, of a machine.
pub struct rmap_machine_file {
    _opaque: [u8; 0],
}

pub(crate) type Machine = CoreMachine<AnySystem>;

/// What a machine's handle points to.
pub(crate) struct Host {
    /// First: it goes first, and while it goes it calls what is below.
    pub(crate) machine: Machine,
    pub(crate) mms: Slab<Slot<Space>>,
    pub(crate) files: Slab<Slot<Backed>>,
    /// The functions that the program gave VMAs, each kind once.
    pub(crate) ops: Mutex<HeapVec<Href<rmap_machine_vma_ops>>, { rank::LEAF }>,
    pub(crate) hooks: Hooks,
    pub(crate) heap: Heap,
}

/// What the handle of an address space names.
pub(crate) struct Space {
    host: NonNull<Host>,
    pub(crate) mm: MmRef<AnySystem>,
}

/// What the handle of a file names.
pub(crate) struct Backed {
    host: NonNull<Host>,
    pub(crate) file: FileRef<AnySystem>,
    /// Kept for the file, which calls it as long as VMAs map it.
    _reader: Option<Href<Reader>>,
}

// SAFETY: a host is Sync (below), and outlives its address spaces (`rmap_machine_free` refuses while any is left).
unsafe impl Send for Space {}
// SAFETY: as for Send.
unsafe impl Sync for Space {}
// SAFETY: as for a Space.
unsafe impl Send for Backed {}
// SAFETY: as for Send.
unsafe impl Sync for Backed {}

const _: () = {
    const fn shared_by_threads<T: Send + Sync>() {}
    shared_by_threads::<Host>();
};

impl Space {
    pub(crate) fn host(&self) -> &Host {
        // SAFETY: a machine outlives its address spaces (`rmap_machine_free` refuses while any is left).
        unsafe { self.host.as_ref() }
    }
}

impl Backed {
    pub(crate) fn host(&self) -> &Host {
        // SAFETY: as for a Space.
        unsafe { self.host.as_ref() }
    }
}

impl Named for Slot<Space> {
    type Handle = rmap_machine_mm;
    fn generation(&self) -> u32 {
        // Of a vacant slot 0: `get` refuses it in any case.
        self.get().map_or(0, |space| space.mm.id() as u32)
    }
}

impl Named for Slot<Backed> {
    type Handle = rmap_machine_file;
    fn generation(&self) -> u32 {
        // As above.
        self.get().map_or(0, |backed| backed.file.id() as u32)
    }
}

impl Host {
    /// The handle of a new address space. Without memory for one the address space exits.
    pub(crate) fn adopt(&self, mm: MmRef<AnySystem>) -> Outcome<*mut rmap_machine_mm> {
        let space = Href::new(&self.heap, Space { host: NonNull::from(self), mm: mm.clone() });
        let named = space.map_err(rmap_status::from).and_then(|space| name(&self.mms, space));
        named.inspect_err(|_| self.machine.exit(mm))
    }

    /// The handle of a new file.
    pub(crate) fn adopt_file(
        &self,
        file: FileRef<AnySystem>,
        reader: Option<Href<Reader>>,
    ) -> Outcome<*mut rmap_machine_file> {
        let backed = Href::new(&self.heap, Backed { host: NonNull::from(self), file, _reader: reader })?;
        name(&self.files, backed)
    }

    /// The descriptor of a frame; `RMAP_ERR_FOREIGN` when it is no frame of this machine.
    pub(crate) fn page(&self, pfn: u64) -> Outcome<&Page> {
        self.machine.rmap().pages().page(Pfn(pfn)).ok_or(RMAP_ERR_FOREIGN)
    }
}

/// Puts an object into a slot of its own.
fn name<T: Send + Sync>(slots: &Slab<Slot<T>>, object: Href<T>) -> Outcome<*mut <Slot<T> as Named>::Handle>
where
    Slot<T>: Named,
{
    let slot = Slot::take(slots)?;
    // SAFETY: slots are type-stable.
    let slot = unsafe { slot.as_ref() };
    slot.fill(object);
    Ok(seal(slot))
}

/// The machine of a handle, for a function that takes locks: `RMAP_ERR_LOCK` when this thread holds one, or is inside a
/// callback that is called under one.
///
/// # Safety
/// The handle is NULL or names a living machine.
pub(crate) unsafe fn enter_machine<'a>(handle: *const rmap_machine) -> Outcome<&'a Host> {
    // SAFETY: the caller's contract.
    let host = unsafe { open_machine(handle) }?;
    held::none()?;
    Ok(host)
}

/// The machine of a handle.
///
/// # Safety
/// As for [`enter_machine`].
pub(crate) unsafe fn open_machine<'a>(handle: *const rmap_machine) -> Outcome<&'a Host> {
    let pointer = handle.cast::<Host>();
    if !pointer.is_aligned() {
        return Err(RMAP_ERR_INVAL);
    }
    // SAFETY: the caller's contract.
    unsafe { pointer.as_ref() }.ok_or(RMAP_ERR_NULL)
}

/// The address space of a handle.
///
/// # Safety
/// As for [`open`].
pub(crate) unsafe fn open_space<'a>(handle: *const rmap_machine_mm) -> Outcome<&'a Space> {
    // SAFETY: the caller's contract.
    unsafe { open::<Slot<Space>>(handle) }?.get()
}

/// The file of a handle.
///
/// # Safety
/// As for [`open`].
pub(crate) unsafe fn open_backed<'a>(handle: *const rmap_machine_file) -> Outcome<&'a Backed> {
    // SAFETY: the caller's contract.
    unsafe { open::<Slot<Backed>>(handle) }?.get()
}

std::thread_local! {
    /// The address space that this thread's innermost call is for. Without a destructor, as in `held`.
    static CALLED_FOR: Cell<*mut rmap_machine_mm> = const { Cell::new(core::ptr::null_mut()) };
}

/// The address space that this thread's innermost call is for: handlers are told.
pub(crate) fn called_for() -> *mut rmap_machine_mm {
    CALLED_FOR.get()
}

/// A call for an address space.
pub(crate) struct Call<'a> {
    space: &'a Space,
    outer: *mut rmap_machine_mm,
}

impl Call<'_> {
    pub(crate) fn machine(&self) -> &Machine {
        &self.space.host().machine
    }
}

impl Deref for Call<'_> {
    type Target = Space;
    fn deref(&self) -> &Space {
        self.space
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        CALLED_FOR.set(self.outer);
    }
}

/// The address space of a handle, for a function that takes locks and may call the program: as [`enter_machine`].
///
/// # Safety
/// As for [`open`].
pub(crate) unsafe fn enter<'a>(handle: *mut rmap_machine_mm) -> Outcome<Call<'a>> {
    // SAFETY: the caller's contract.
    let space = unsafe { open_space(handle) }?;
    held::none()?;
    Ok(Call { space, outer: CALLED_FOR.replace(handle) })
}
