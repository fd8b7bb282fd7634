//! A machine's frames: who maps them, and out they go.

use super::handle::{Host, Machine, enter_machine, rmap_machine};
use crate::dot::{Caption, Output};
use crate::handle::{need, put};
use crate::held::Inside;
use crate::status::rmap_status;
use crate::status::rmap_status::RMAP_ERR_NOT_MAPPED;
use crate::status::{Outcome, boundary};
use core::ffi::c_char;
use core::ops::ControlFlow;
use rmap_core::base::types::{Pfn, VirtAddr};
use rmap_core::page::Page;
use rmap_core::page::pte::Pte;
use rmap_core::page::radix::ADDRESS_END;

/// One entry that maps a frame.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct rmap_machine_mapping {
    /// The number of the address space: rmap_machine_mm_id.
    pub mm: u64,
    /// The address.
    pub addr: u64,
}

/// The program's list of mappings.
struct List {
    out: *mut rmap_machine_mapping,
    cap: usize,
    count: usize,
}

impl List {
    /// # Safety
    /// `out` is NULL or valid for `cap` entries.
    unsafe fn new(out: *mut rmap_machine_mapping, cap: usize) -> Outcome<Self> {
        if cap != 0 {
            need(out)?;
        }
        Ok(Self { out, cap, count: 0 })
    }

    fn push(&mut self, mm: u64, addr: VirtAddr) {
        if self.count < self.cap {
            // SAFETY: `out` is valid for `cap` entries (`new`).
            unsafe { self.out.add(self.count).write(rmap_machine_mapping { mm, addr: addr.0 }) };
        }
        self.count += 1;
    }

    /// Sorts a list that is complete. Returns how many mappings there are.
    fn finish(self) -> usize {
        if self.count != 0 && self.count <= self.cap {
            // SAFETY: that many were written, to memory that nobody else uses.
            unsafe { core::slice::from_raw_parts_mut(self.out, self.count) }.sort_unstable();
        }
        self.count
    }
}

/// A reference to a page, by number.
struct Held<'a> {
    machine: &'a Machine,
    page: &'a Page,
}

impl<'a> Held<'a> {
    /// `None`: the frame is free.
    fn get(host: &'a Host, pfn: u64) -> Outcome<Option<Self>> {
        let page = host.page(pfn)?;
        Ok(page.head().try_get().then(|| Self { machine: &host.machine, page }))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.page.head().put() {
            self.machine.frames().free(self.machine.rmap().pages(), self.page.head());
        }
    }
}

/// Takes a page out of memory, if it may go: an anonymous one to swap, the clean one of a file for good. Who touches it
/// faults it back. Pages that are pinned or locked, dirty ones of files, and those of shared memory stay.
///
/// Parameters: machine; pfn, the frame; gone, receives whether it is free now, or as soon as nobody looks at it any
/// more.
/// Returns: RMAP_OK, also when the page stays; RMAP_ERR_FOREIGN when it is no frame of the machine; RMAP_ERR_NOSPACE
/// when swap is full; RMAP_ERR_IO when it could not be written, RMAP_ERR_NOMEM when swap in memory could not be had:
/// the page is where it was; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: any thread, no locks held. Takes the page lock, anon_vma or i_mmap locks for reading, and page-table locks.
/// Calls the allocator, and `uncharge`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_swap_out(machine: *mut rmap_machine, pfn: u64, gone: *mut bool) -> rmap_status {
    boundary(|| {
        need(gone)?;
        // SAFETY: a living machine (Parameters).
        let host = unsafe { enter_machine(machine) }?;
        let out = host.machine.swap_out(host.page(pfn)?)?;
        // SAFETY: `gone` is not NULL, and valid (Parameters).
        unsafe { put(gone, out) };
        Ok(())
    })
}

/// Lists the entries that map a frame, by a walk of the reverse map. The zero page has none.
///
/// Parameters: machine; pfn, the frame; out, room for cap entries, or NULL when cap is 0; cap; n, receives how many
/// there are, which may be more than cap. If they all fit they are in order of address space and address.
/// Returns: RMAP_OK; RMAP_ERR_FOREIGN when it is no frame of the machine; RMAP_ERR_LOCK from a callback, or when this
/// thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: any thread, no locks held. Takes the page lock, anon_vma or i_mmap locks for reading, and page-table locks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_page_mappings(
    machine: *mut rmap_machine,
    pfn: u64,
    out: *mut rmap_machine_mapping,
    cap: usize,
    n: *mut usize,
) -> rmap_status {
    boundary(|| {
        need(n)?;
        // SAFETY: a living machine, and an output valid for `cap` entries (Parameters).
        let (host, mut list) = unsafe { (enter_machine(machine)?, List::new(out, cap)?) };
        if let Some(held) = Held::get(host, pfn)? {
            let _locked = held.page.head().lock();
            let _inside = Inside::new();
            held.machine.rmap().for_each_mapping(held.page, |vma, addr, pte| {
                if maps(pte, Pfn(pfn)) {
                    list.push(vma.mm().id(), addr);
                }
                ControlFlow::Continue(())
            });
        }
        // SAFETY: `n` is not NULL, and valid (Parameters).
        unsafe { put(n, list.finish()) };
        Ok(())
    })
}

/// Lists the entries that map a frame, by reading all page tables: what rmap_machine_page_mappings must find.
///
/// Parameters: as for rmap_machine_page_mappings.
/// Returns: RMAP_OK; RMAP_ERR_FOREIGN when it is no frame of the machine; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a
/// callback, or when this thread holds a lock of librmap's.
/// Ownership: nothing.
/// Context: no locks held; while other threads change page tables the answer is of no one moment. Calls the allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_oracle_mappings(
    machine: *mut rmap_machine,
    pfn: u64,
    out: *mut rmap_machine_mapping,
    cap: usize,
    n: *mut usize,
) -> rmap_status {
    boundary(|| {
        need(n)?;
        // SAFETY: a living machine, and an output valid for `cap` entries (Parameters).
        let (host, mut list) = unsafe { (enter_machine(machine)?, List::new(out, cap)?) };
        host.page(pfn)?;
        host.machine.for_each_mm(|mm| {
            mm.table().for_each(VirtAddr(0), ADDRESS_END, |addr, pte| {
                if maps(pte, Pfn(pfn)) {
                    list.push(mm.id(), addr);
                }
            });
        })?;
        // SAFETY: `n` is not NULL, and valid (Parameters).
        unsafe { put(n, list.finish()) };
        Ok(())
    })
}

/// Draws the reverse map of a frame: as rmap_dump_dot does.
///
/// Parameters: machine; pfn, the frame; the rest as for rmap_dump_dot.
/// Returns: RMAP_OK, also when it was cut off; RMAP_ERR_NOT_MAPPED when the frame is free; RMAP_ERR_FOREIGN when it is
/// no frame of the machine; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of
/// librmap's.
/// Ownership: the buffer is the program's.
/// Context: any thread, no locks held. Takes the page lock, anon_vma or i_mmap locks for reading, and page-table locks.
/// Calls the allocator, under the page lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmap_machine_dump_dot(
    machine: *mut rmap_machine,
    pfn: u64,
    caption: *const c_char,
    out: *mut c_char,
    size: usize,
    length: *mut usize,
) -> rmap_status {
    boundary(|| {
        // SAFETY: a buffer of `size` bytes, an output, and a string or NULL (Parameters).
        let (mut output, caption) = unsafe { (Output::new(out, size, length)?, Caption::new(caption)) };
        // SAFETY: a living machine (Parameters).
        let host = unsafe { enter_machine(machine) }?;
        let held = Held::get(host, pfn)?.ok_or(RMAP_ERR_NOT_MAPPED)?;
        let locked = held.page.head().lock();
        let inside = Inside::new();
        held.machine.rmap().dump_dot(held.page, caption, &mut output.text)?;
        drop(inside);
        drop(locked);
        output.finish();
        Ok(())
    })
}

fn maps(pte: Pte, frame: Pfn) -> bool {
    matches!(pte, Pte::Present { pfn, .. } if pfn == frame)
}
