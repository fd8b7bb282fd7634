//! madvise, and the names of anonymous VMAs.

use super::Machine;
use super::layout::page_align;
use super::page_table::{LockedEntries, table_end};
use super::system::{Access, SoftSystem};
use crate::base::error::{Error, Result};
use crate::base::href::Href;
use crate::base::types::{PAGE_SIZE, VirtAddr, VmFlags};
use crate::engine::Engine;
use crate::mm::address_space::MmLocked;
use crate::mm::vma::VmaName;
use crate::mm::{Mm, MmWrite, Vma};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};

/// What a guard region ([`Advice::GuardInstall`]) has in place of pages: every access fails.
pub const GUARD_MARKER: u64 = 2;

/// Bytes that a name may have.
const NAME_MAX: usize = 79;

macro_rules! advice {
    ($($(#[$doc:meta])* $name:ident = $number:literal)*) => {
        /// What a program says of its memory, by the numbers of the system call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Advice { $($(#[$doc])* $name = $number,)* }

        impl Advice {
            /// The advice of a number.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

advice! {
    /// Nothing special; a hint without effect here, as are all that are called so.
    Normal = 0
    /// A hint.
    Random = 1
    /// A hint.
    Sequential = 2
    /// A hint.
    WillNeed = 3
    /// Pages go; what is read next is zero, or the file's. Refused for LOCKED VMAs.
    DontNeed = 4
    /// Anonymous pages may go instead of being swapped out, until they are written again. Refused for LOCKED VMAs and
    /// for files.
    Free = 8
    /// fork leaves the VMA out.
    DontFork = 10
    /// fork copies the VMA.
    DoFork = 11
    /// KSM may merge its pages.
    Mergeable = 12
    /// KSM merges no more of its pages. Those merged stay so until they are written.
    Unmergeable = 13
    /// May use large pages.
    HugePage = 14
    /// Must not use large pages.
    NoHugePage = 15
    /// Not dumped.
    DontDump = 16
    /// Dumped.
    DoDump = 17
    /// A child of a fork finds the VMA empty. For private anonymous memory only.
    WipeOnFork = 18
    /// A child of a fork finds what the parent had.
    KeepOnFork = 19
    /// A hint.
    Cold = 20
    /// A hint.
    PageOut = 21
    /// Pages are faulted in for reading; the first fault that fails ends it.
    PopulateRead = 22
    /// Pages are faulted in for writing; the first fault that fails ends it.
    PopulateWrite = 23
    /// As [`DontNeed`](Self::DontNeed), for LOCKED VMAs too.
    DontNeedLocked = 24
    /// Pages go, and every access fails from now on, also after [`DontNeed`](Self::DontNeed) and in the children of a
    /// fork, until the pages are unmapped or [`GuardRemove`](Self::GuardRemove) is called. Refused for LOCKED and
    /// SPECIAL VMAs. (Linux 6.13; of files 6.15.)
    GuardInstall = 102
    /// Accesses work again.
    GuardRemove = 103
}

impl<S: SoftSystem> Machine<S> {
    /// The system call: does with each VMA in the range what is advised, and cuts and joins VMAs where their flags
    /// change. A hole is passed over, and reported when the rest is done, as in the kernel. A range of 0 bytes is no
    /// error.
    ///
    /// | error | when |
    /// |---|---|
    /// | [`Error::Invalid`] | `addr` is not on a page boundary, the range overflows, or a VMA is not of the kind that the advice is for: what lies below it is done |
    /// | [`Error::NotMapped`] | there is a hole |
    /// | [`Error::NoMemory`] | no memory to cut a VMA, or for the tables of markers; nothing has changed |
    /// | others | of the fault that ended PopulateRead or PopulateWrite |
    pub fn madvise(&self, mm: &Mm<S>, addr: VirtAddr, len: u64, advice: Advice) -> Result<()> {
        let end = page_align(len).and_then(|len| addr.0.checked_add(len)).map(VirtAddr).ok_or(Error::Invalid)?;
        if !addr.is_page_aligned() {
            return Err(Error::Invalid);
        }
        let populate = match advice {
            Advice::PopulateRead => Some(Access::Read),
            Advice::PopulateWrite => Some(Access::Write),
            _ => None,
        };
        if let Some(access) = populate {
            // What is there is faulted too: whether the VMA permits the access, no entry says.
            let mut pages = (addr.0..end.0).step_by(PAGE_SIZE as usize);
            return pages.try_for_each(|page| self.fault(mm, VirtAddr(page), access));
        }
        if matches!(advice, Advice::DontNeed | Advice::DontNeedLocked | Advice::Free) {
            // Entries change and VMAs do not: faults may go on beside it.
            return for_range(&mm.read(), addr, end, |vma, range| self.discard(vma, range, advice));
        }
        let locked = mm.write();
        let done = if advice == Advice::GuardInstall {
            self.install_guards(&locked, addr, end)
        } else {
            self.change_range(&locked, (addr, end), |vma, range| self.advise(&locked, vma, range, advice))
        };
        drop(locked);
        self.settle();
        done
    }

    /// The system call (`PR_SET_VMA_ANON_NAME`): names the anonymous VMAs in the range, or takes their names away. VMAs
    /// of different names do not join. Holes as in [`madvise`](Self::madvise).
    ///
    /// [`Error::Invalid`]: also a name of more than 79 bytes, or with other than printable ones, or with any of
    /// ``\`$[]``; [`Error::NotSupported`]: a VMA of a file.
    pub fn set_name(&self, mm: &Mm<S>, addr: VirtAddr, len: u64, name: Option<&[u8]>) -> Result<()> {
        let end = page_align(len).and_then(|len| addr.0.checked_add(len)).map(VirtAddr).ok_or(Error::Invalid)?;
        let printable = |byte: &u8| (0x20..0x7f).contains(byte) && !b"\\`$[]".contains(byte);
        if !addr.is_page_aligned() || name.is_some_and(|name| name.len() > NAME_MAX || !name.iter().all(printable)) {
            return Err(Error::Invalid);
        }
        let name = name.map(|name| self.new_name(name)).transpose()?;
        let locked = mm.write();
        let done = self.change_range(&locked, (addr, end), |vma, range| {
            if vma.file().is_some_and(|file| !file.is_anonymous()) {
                return Err(Error::NotSupported);
            }
            self.modify(&locked, vma, range, vma.flags(), name.as_ref())
        });
        drop(locked);
        self.settle();
        done
    }

    /// Changes all VMAs in the range, one after the other, with holes passed over. Without memory nothing has changed.
    fn change_range(
        &self,
        locked: &MmWrite<'_, S>,
        (start, end): (VirtAddr, VirtAddr),
        change: impl Fn(&Vma<S>, (VirtAddr, VirtAddr)) -> Result<()>,
    ) -> Result<()> {
        let cut = self.cut_last(locked, start, end)?;
        let done = for_range(locked, start, end, change);
        if cut {
            self.rejoin_at(locked, end);
        }
        done
    }

    fn new_name(&self, name: &[u8]) -> Result<VmaName> {
        let heap = &self.rmap.arena().heap;
        let mut bytes = heap.vec();
        bytes.try_reserve_exact(name.len()).map_err(|_| Error::NoMemory)?;
        bytes.extend_from_slice(name);
        Href::new(heap, bytes)
    }

    /// Lets pages go. `mmap_lock` held, shared suffices.
    fn discard(&self, vma: &Vma<S>, (start, end): (VirtAddr, VirtAddr), advice: Advice) -> Result<()> {
        if advice != Advice::DontNeedLocked && vma.has(VmFlags::LOCKED) {
            return Err(Error::Invalid);
        }
        if advice == Advice::Free {
            if !is_private_anonymous(vma) {
                return Err(Error::Invalid);
            }
            self.free_range(vma, start, end);
        } else {
            self.zap_pages(vma, start, end);
        }
        Ok(())
    }

    fn advise(
        &self,
        mm: &MmWrite<'_, S>,
        vma: &Vma<S>,
        (start, end): (VirtAddr, VirtAddr),
        advice: Advice,
    ) -> Result<()> {
        let old = vma.flags();
        let allowed = |condition: bool| if condition { Ok(()) } else { Err(Error::Invalid) };
        let flags = match advice {
            Advice::Normal
            | Advice::Random
            | Advice::Sequential
            | Advice::WillNeed
            | Advice::Cold
            | Advice::PageOut
            // Not through here.
            | Advice::PopulateRead
            | Advice::PopulateWrite
            | Advice::DontNeed
            | Advice::DontNeedLocked
            | Advice::Free
            | Advice::GuardInstall => old,
            Advice::GuardRemove => {
                allowed(!old.intersects(VmFlags::NO_MERGE))?;
                remove_guard(vma, start, end);
                return Ok(());
            }
            Advice::DontFork => old | VmFlags::DONTFORK,
            Advice::DoFork => {
                allowed(!old.contains(VmFlags::SPECIAL))?;
                old - VmFlags::DONTFORK
            }
            Advice::WipeOnFork => {
                allowed(is_private_anonymous(vma))?;
                old | VmFlags::WIPEONFORK
            }
            Advice::KeepOnFork => old - VmFlags::WIPEONFORK,
            Advice::DontDump => old | VmFlags::DONTDUMP,
            Advice::DoDump => {
                allowed(!old.intersects(VmFlags::NO_MERGE))?;
                old - VmFlags::DONTDUMP
            }
            Advice::Mergeable => {
                // Shared and device-like memory is passed over, as in the kernel.
                let private = !old.intersects(VmFlags::SHARED | VmFlags::NO_MERGE);
                if private { old | VmFlags::MERGEABLE } else { old }
            }
            Advice::Unmergeable => old - VmFlags::MERGEABLE,
            Advice::HugePage => (old - VmFlags::NOHUGEPAGE) | VmFlags::HUGEPAGE,
            Advice::NoHugePage => (old - VmFlags::HUGEPAGE) | VmFlags::NOHUGEPAGE,
        };
        self.modify(mm, vma, (start, end), flags, mm.name_of(vma).cloned().as_ref())
    }

    /// Empties the range and puts markers there, VMA by VMA. Tables come first, and anchors, without which fork would
    /// not copy them: without memory nothing has changed.
    fn install_guards(&self, locked: &MmWrite<'_, S>, start: VirtAddr, end: VirtAddr) -> Result<()> {
        let table = locked.table();
        let refused = |vma: &Vma<S>| vma.has(VmFlags::LOCKED | VmFlags::NO_MERGE);
        for vma in locked.vmas_in(start, end).take_while(|vma| !refused(vma)) {
            self.rmap.engine().prepare(vma)?;
            for_tables(vma.start().max(start), vma.end().min(end), |from, _| table.alloc(from))?;
        }
        for_range(locked, start, end, |vma, (start, end)| {
            if refused(vma) {
                return Err(Error::Invalid);
            }
            self.zap_pages(vma, start, end);
            for_tables(start, end, |from, to| {
                // mmap_lock is held exclusively: what was emptied stays empty, and tables stay.
                if let Some(mut locked) = table.lock(from, false) {
                    for addr in (from.0..to.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
                        locked.set(addr, Pte::Marker(GUARD_MARKER));
                    }
                }
                Ok(())
            })
        })
    }

    /// `MADV_FREE`: pages that nobody else has may go while they are clean, and are clean from now on. Pages in swap go
    /// at once.
    fn free_range(&self, vma: &Vma<S>, start: VirtAddr, end: VirtAddr) {
        let table = vma.mm().table();
        let mut any = false;
        let mut at = start;
        while let Some(from) = table.next_table(at, end) {
            at = table_end(from, end);
            let Some(mut locked) = table.lock(from, false) else { continue };
            for addr in (from.0..at.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
                match locked.get(addr) {
                    pte @ Pte::Swap(_) => {
                        locked.clear(addr);
                        self.drop_entry(vma, addr, pte);
                    }
                    Pte::Present { pfn, flags } if !flags.contains(PteFlags::LARGE) => {
                        if let Ok(page) = self.page(pfn)
                            && self.free_lazily(&mut locked, addr, page)
                        {
                            any = true;
                        }
                    }
                    _ => {}
                }
            }
        }
        if any {
            table.flush(start, end);
        }
    }

    /// Whether the page may go while it is clean; then it is clean. PTE lock held.
    fn free_lazily(&self, locked: &mut LockedEntries<'_>, addr: VirtAddr, page: &Page) -> bool {
        let Pte::Present { pfn, flags } = locked.get(addr) else { return false };
        if !page.mapping().load().is_anon() || page.is_compound() || page.mapcount() != 1 {
            return false;
        }
        // A try, allowed under the PTE lock: whoever holds the page has plans for it.
        let Some(_lock) = page.try_lock() else { return false };
        // Entries of relatives that name the page's slot keep it.
        if page.mapcount() != 1 || !self.leave_swap_cache(page) {
            return false;
        }
        page.clear(PageFlags::DIRTY);
        locked.set(addr, Pte::present(pfn, flags - (PteFlags::DIRTY | PteFlags::YOUNG)));
        page.set(PageFlags::LAZY_FREE);
        true
    }
}

fn is_private_anonymous<S: SoftSystem>(vma: &Vma<S>) -> bool {
    vma.is_anonymous() && !vma.has(VmFlags::SHARED)
}

/// Calls `visit` with each part of a VMA that lies in the range; `visit` may cut and join VMAs, if the lock is held so.
/// Its error ends it; a hole does not, and is reported at the end.
fn for_range<S: SoftSystem>(
    locked: &impl MmLocked<S>,
    start: VirtAddr,
    end: VirtAddr,
    visit: impl Fn(&Vma<S>, (VirtAddr, VirtAddr)) -> Result<()>,
) -> Result<()> {
    let mut at = start;
    let mut done = Ok(());
    while at < end {
        let Some(vma) = locked.find_vma(at).filter(|vma| vma.start() < end) else { return Err(Error::NotMapped) };
        if vma.start() > at {
            done = Err(Error::NotMapped);
            at = vma.start();
        }
        let until = vma.end().min(end);
        visit(vma, (at, until))?;
        at = until;
    }
    done
}

/// Takes the markers of [`Advice::GuardInstall`] out of the range.
fn remove_guard<S: SoftSystem>(vma: &Vma<S>, start: VirtAddr, end: VirtAddr) {
    let table = vma.mm().table();
    let mut at = start;
    while let Some(from) = table.next_table(at, end) {
        at = table_end(from, end);
        let Some(mut locked) = table.lock(from, false) else { continue };
        for addr in (from.0..at.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
            if locked.get(addr) == Pte::Marker(GUARD_MARKER) {
                locked.clear(addr);
            }
        }
    }
}

/// Calls `visit` with each part of the range that lies in one table.
fn for_tables(start: VirtAddr, end: VirtAddr, visit: impl Fn(VirtAddr, VirtAddr) -> Result<()>) -> Result<()> {
    let mut at = start;
    while at < end {
        let until = table_end(at, end);
        visit(at, until)?;
        at = until;
    }
    Ok(())
}
