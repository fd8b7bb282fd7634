//! mprotect: other access bits for a range.

use super::Machine;
use super::layout::page_align;
use super::page_table::table_end;
use super::system::SoftSystem;
use crate::base::error::{Error, Result};
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::mm::address_space::MmLocked;
use crate::mm::{Mm, Vma};
use crate::page::pte::{LockedTable, MigrationEntry, PageTable, Pte, PteFlags};

/// How far a VMA's ACCESS bits are from the MAY bits that permit them.
const MAY_SHIFT: u32 = VmFlags::MAYREAD.bits().trailing_zeros() - VmFlags::READ.bits().trailing_zeros();

impl<S: SoftSystem> Machine<S> {
    /// The system call: gives every VMA in the range the access bits `prot`, VMA by VMA, and cuts and joins VMAs for
    /// it.
    ///
    /// Where WRITE goes, writing through existing entries is impossible when this returns. No entry is made writable:
    /// the next write faults, and decides.
    ///
    /// It ends at the first VMA that refuses, and at a hole; what lies below is done then, as in the kernel. A range of
    /// 0 bytes is no error.
    ///
    /// | error | when |
    /// |---|---|
    /// | [`Error::Invalid`] | `addr` is not on a page boundary, the range overflows, or `prot` has other bits |
    /// | [`Error::NotMapped`] | there is a hole |
    /// | [`Error::Access`] | a VMA may never have these access bits |
    /// | [`Error::NoMemory`] | no memory to cut a VMA; nothing has changed |
    pub fn mprotect(&self, mm: &Mm<S>, addr: VirtAddr, len: u64, prot: VmFlags) -> Result<()> {
        let end = page_align(len).and_then(|len| addr.0.checked_add(len)).map(VirtAddr).ok_or(Error::Invalid)?;
        if !addr.is_page_aligned() || !VmFlags::ACCESS.contains(prot) {
            return Err(Error::Invalid);
        }
        let locked = mm.write();
        let cut = self.cut_last(&locked, addr, end)?;
        let mut cow = None;
        let mut at = addr;
        let done = loop {
            if at >= end {
                break Ok(());
            }
            let Some(vma) = locked.find(at) else { break Err(Error::NotMapped) };
            let until = vma.end().min(end);
            let old = vma.flags();
            let new = (old - VmFlags::ACCESS) | prot;
            if !VmFlags::from_bits_retain(new.bits() >> MAY_SHIFT).contains(prot) {
                break Err(Error::Access);
            }
            let writable = new & (VmFlags::WRITE | VmFlags::SHARED) == VmFlags::WRITE;
            if let Err(error) = self.modify(&locked, vma, (at, until), new, locked.name_of(vma).cloned().as_ref()) {
                break Err(error);
            }
            if old.contains(VmFlags::WRITE)
                && !prot.contains(VmFlags::WRITE)
                && let Some(vma) = locked.find(at)
            {
                wrprotect_range(vma, at, until);
            }
            if writable && old & (VmFlags::LOCKED | VmFlags::LOCKONFAULT | VmFlags::WRITE) == VmFlags::LOCKED {
                let from = cow.map_or(at, |(from, _)| from);
                cow = Some((from, until));
            }
            at = until;
        };
        if cut {
            self.rejoin_at(&locked, end);
        }
        drop(locked);
        self.settle();
        if let Some((from, until)) = cow {
            // Locked pages that become writable are copied at once rather than by a fault later.
            self.populate(mm, from, until);
        }
        done
    }
}

/// Takes the write bit of every entry in the range. `mmap_lock` held exclusively.
fn wrprotect_range<S: SoftSystem>(vma: &Vma<S>, start: VirtAddr, end: VirtAddr) {
    let table = vma.mm().table();
    let mut any = false;
    let mut at = start;
    while let Some(from) = table.next_table(at, end) {
        at = table_end(from, end);
        let Some(mut locked) = table.lock(from, false) else { continue };
        for addr in (from.0..at.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
            match locked.get(addr) {
                Pte::Present { flags, .. } if flags.contains(PteFlags::WRITE) => {
                    locked.wrprotect(addr);
                    any = true;
                }
                Pte::Migration(entry) if entry.write => {
                    locked.set(addr, Pte::Migration(MigrationEntry { write: false, ..entry }));
                }
                _ => {}
            }
        }
    }
    if any {
        table.flush(start, end);
    }
}
