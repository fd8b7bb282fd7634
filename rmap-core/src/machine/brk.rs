//! brk: the heap, a range of anonymous memory that grows and shrinks at its end.

use super::Machine;
use super::layout::page_align;
use super::map::Wanted;
use super::system::{SoftSystem, VmaExt};
use crate::base::sync::atomic::Ordering;
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::mm::address_space::MmLocked;
use crate::mm::{Mm, MmWrite, VmaBounds};

/// What the heap is mapped with.
const HEAP: VmFlags =
    VmFlags::READ.union(VmFlags::WRITE).union(VmFlags::MAYREAD).union(VmFlags::MAYWRITE).union(VmFlags::MAYEXEC);

impl<S: SoftSystem> Machine<S> {
    /// An empty heap begins at `addr`. What was mapped for an earlier one stays.
    pub fn set_brk_start(&self, mm: &Mm<S>, addr: VirtAddr) {
        let _locked = mm.write();
        mm.data().start_brk.store(addr.0, Ordering::Relaxed);
        mm.data().brk.store(addr.0, Ordering::Relaxed);
    }

    /// The system call: the heap ends at `addr` from now on. Returns where it ends: as before, if `addr` lies below its
    /// start, something is in the way, or memory ran out.
    pub fn brk(&self, mm: &Mm<S>, addr: VirtAddr) -> VirtAddr {
        let locked = mm.write();
        let state = mm.data();
        let before = state.brk.load(Ordering::Relaxed);
        let grown = if addr.0 < state.start_brk.load(Ordering::Relaxed) { None } else { self.move_brk(&locked, addr) };
        if grown.is_some() {
            state.brk.store(addr.0, Ordering::Relaxed);
        }
        let flags = VmFlags::from_bits_retain(state.def_flags.load(Ordering::Relaxed));
        drop(locked);
        self.settle();
        let populate = flags.contains(VmFlags::LOCKED) && !flags.contains(VmFlags::LOCKONFAULT);
        match grown {
            None => VirtAddr(before),
            Some(None) => addr,
            Some(Some((start, end))) => {
                if populate {
                    self.populate(mm, start, end);
                }
                addr
            }
        }
    }

    /// Maps or unmaps what lies between the old and the new end. `None`: that failed, and nothing has changed. Else the
    /// range that is new.
    #[allow(clippy::option_option)]
    fn move_brk(&self, mm: &MmWrite<'_, S>, addr: VirtAddr) -> Option<Option<(VirtAddr, VirtAddr)>> {
        let state = mm.data();
        let end = VirtAddr(page_align(addr.0)?);
        let old = VirtAddr(page_align(state.brk.load(Ordering::Relaxed))?);
        if end == old {
            return Some(None);
        }
        if end < old {
            // A program may have unmapped its heap: then nothing is done, and nothing fails.
            return self.unmap_region(mm, end, old).ok().map(|()| None);
        }
        // One page more: a heap does not end where something else begins.
        let above = mm.find_vma(old).map_or(state.task_size.0, |next| Self::reserved_start(next).0);
        if end.0.checked_add(PAGE_SIZE)? > above || old < state.min_addr {
            return None;
        }
        let flags = HEAP | VmFlags::from_bits_retain(state.def_flags.load(Ordering::Relaxed));
        let bounds = VmaBounds { start: old, end, pgoff: old.vpn() };
        self.map_region(mm, bounds, Wanted { flags, file: None, ext: VmaExt::default() }).ok()?;
        Some(Some((old, end)))
    }
}
