//! Page faults.
//!
//! ```text
//!   fault ── no VMA ──▶ stack growth (mmap_lock exclusively), again
//!     │
//!     ├─ nothing there ──▶ anon: zero page, or a page of its own          file: from the page cache, with its neighbours
//!     │                    missing: the embedder's handler, and pages that the VMA's operations fill
//!     ├─ present, zero page ──▶ cow: reuse, or copy
//!     ├─ swap ──▶ swap_in, then cow if a write needs it
//!     └─ migration ──▶ wait for the page lock, again
//! ```
//!
//! **Locks.** mmap_lock is held shared throughout. All that may allocate or ask the embedder (charge, anchor, page
//! table, frame, contents) comes before the PTE lock; under it the fault looks again. The *second looks*: the entry
//! must be what the fault was decided on, the address space stable, and a VMA with a missing-page handler is that
//! handler's. When the entry has changed everything is given back and the fault has succeeded: whoever changed it made
//! progress, and the program tries again.
//!
//! | file | fault |
//! |---|---|
//! | `anon` | on anonymous memory never touched |
//! | `file` | on a file's page |
//! | `cow` | a write to a present page that is write-protected |
//! | `swap_in` | on a page in swap |
//! | `missing` | for the embedder: userfault-style VMAs, and VMAs with operations but no file |

mod anon;
mod cow;
mod file;
mod missing;
mod swap_in;

use super::Machine;
use super::system::{Access, SoftSystem};
use crate::base::error::{Error, Result};
use crate::base::types::{VirtAddr, VmFlags};
use crate::mm::address_space::{MmLocked, MmRead};
use crate::mm::{Mm, Vma};
use crate::page::Page;
use crate::page::flags::PageFlags;
use crate::page::pte::{LockedTable, MigrationEntry, PageTable, Pte, PteFlags};
use crate::rmap::account::Reserved;
use crate::rmap::unmap::POISON_MARKER;

/// What a fault is to bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// That the program's access works.
    Access(Access),
    /// That an anonymous page belongs to this address space alone, without write access (the kernel's
    /// `FAULT_FLAG_UNSHARE`): a pin for reading.
    Own,
}

impl Want {
    /// For a write.
    fn writes(self) -> bool {
        self == Self::Access(Access::Write)
    }
    /// A page that others may see too does not do.
    fn private(self) -> bool {
        self.writes() || self == Self::Own
    }
    /// What a handler is told of it.
    fn access(self) -> Access {
        match self {
            Self::Access(access) => access,
            Self::Own => Access::Read,
        }
    }
    /// Whether a VMA with these flags permits it. What can be written or executed can be read, as on x86.
    pub(super) fn permitted(self, flags: VmFlags) -> Result<()> {
        let needed = match self.access() {
            Access::Read => VmFlags::ACCESS,
            access => access.needs(),
        };
        if flags.intersects(needed) { Ok(()) } else { Err(Error::Access) }
    }
}

/// How far one attempt got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Resolved, or somebody else changed the entry meanwhile.
    Done,
    /// A step was made; the entry is to be looked at again.
    Again,
    /// The embedder's handler is to fill the page.
    Missing,
}

/// One fault. mmap_lock is held shared.
struct Fault<'a, S: SoftSystem> {
    mm: &'a MmRead<'a, S>,
    vma: &'a Vma<S>,
    /// Page-aligned.
    addr: VirtAddr,
    want: Want,
}

/// A present entry that may be written and was.
const WRITTEN: PteFlags = PteFlags::WRITE.union(PteFlags::YOUNG).union(PteFlags::DIRTY).union(PteFlags::SOFT_DIRTY);

impl<S: SoftSystem> Machine<S> {
    /// A program's access at `addr` faulted. On success the access works, or would have to be tried again because
    /// another thread changed the page's entry meanwhile.
    ///
    /// [`Error::NotMapped`]: no VMA is there; [`Error::Access`]: its protection forbids the access; [`Error::Bus`]:
    /// nothing stands behind the address; [`Error::NoMemory`]: memory ran out or the charge hook refused the page;
    /// [`Error::Unstable`]: the address space is being torn down; or an error of the embedder's operations. An error
    /// has changed nothing, but that a shared page may have come back from swap which could not be copied then, and a
    /// stack may have grown to the address.
    pub fn fault(&self, mm: &Mm<S>, addr: VirtAddr, access: Access) -> Result<()> {
        self.fault_for(mm, addr, Want::Access(access))
    }

    /// As [`fault`](Self::fault), for whatever is wanted.
    pub(super) fn fault_for(&self, mm: &Mm<S>, addr: VirtAddr, want: Want) -> Result<()> {
        let addr = addr.page_down();
        loop {
            let held = mm.read();
            let Some(vma) = held.find(addr) else {
                let stack = held.find_vma(addr).is_some_and(|above| above.has(VmFlags::GROWSDOWN));
                drop(held);
                if !stack {
                    return Err(Error::NotMapped);
                }
                // The layout changes: mmap_lock exclusively, and a new look at it.
                self.expand_stack(&mm.write(), addr)?;
                continue;
            };
            want.permitted(vma.flags())?;
            let fault = Fault { mm: &held, vma, addr, want };
            if self.handle_mm_fault(&fault)? != Outcome::Missing {
                return Ok(());
            }
            let ext = *held.data_of(vma);
            drop(held);
            // No lock is held: the handler may fill the page, or take its time.
            ext.ops.ok_or(Error::Bus)?.missing(ext.private, mm.id(), addr, want.access())?;
        }
    }

    fn handle_mm_fault(&self, f: &Fault<'_, S>) -> Result<Outcome> {
        loop {
            let outcome = match f.mm.table().load(f.addr) {
                Pte::None | Pte::NoTable => self.missing_entry(f)?,
                Pte::Present { .. } => self.present_entry(f)?,
                Pte::Special { .. } if f.want.private() => self.wp_special(f)?,
                Pte::Special { .. } => Outcome::Done,
                Pte::Swap(entry) => self.swap_in(f, entry)?,
                Pte::Migration(entry) => {
                    self.wait_for_migration(f, entry);
                    Outcome::Again
                }
                Pte::Marker(POISON_MARKER) => return Err(Error::Bus),
                Pte::Marker(_) => return Err(Error::Access),
            };
            if outcome != Outcome::Again {
                return Ok(outcome);
            }
        }
    }

    /// Nothing is mapped.
    fn missing_entry(&self, f: &Fault<'_, S>) -> Result<Outcome> {
        if let Some(file) = f.vma.file() {
            return self.file_page(f, file);
        }
        let ext = *f.mm.data_of(f.vma);
        let shared = f.vma.has(VmFlags::SHARED);
        match ext.ops {
            None if shared => Err(Error::Bus),
            Some(ops) if !f.vma.has(VmFlags::UFFD_MISSING) => match self.ops_page(f, ops, ext.private) {
                Err(Error::NotSupported) if shared => Err(Error::Bus),
                // Operations without contents of their own: anonymous memory.
                Err(Error::NotSupported) => self.anon_page(f),
                other => other,
            },
            _ => self.anon_page(f),
        }
    }

    /// A page is mapped: the fault is spurious, or for a write that is not allowed yet.
    fn present_entry(&self, f: &Fault<'_, S>) -> Result<Outcome> {
        let Some(mut table) = f.mm.table().lock(f.addr, false) else { return Ok(Outcome::Again) };
        let Pte::Present { pfn, flags } = table.get(f.addr) else { return Ok(Outcome::Again) };
        if f.want.private() && !flags.contains(PteFlags::WRITE) {
            return self.wp_page(f, table, pfn, flags);
        }
        let used = if f.want.writes() { WRITTEN } else { PteFlags::YOUNG };
        table.set(f.addr, Pte::present(pfn, flags | used));
        Ok(Outcome::Done)
    }

    /// Waits until the page that is being moved has arrived: whoever moves it holds its lock.
    fn wait_for_migration(&self, f: &Fault<'_, S>, entry: MigrationEntry) {
        let Ok(page) = self.page(entry.pfn) else { return };
        {
            // Under the PTE lock the entry stays, and with it the frame.
            let Some(table) = f.mm.table().lock(f.addr, false) else { return };
            if table.get(f.addr) != Pte::Migration(entry) || !page.try_get() {
                return;
            }
        }
        // Lock order: mmap_lock -> page lock.
        drop(page.lock());
        self.put_page(page);
    }

    /// What must be ready before a page may be mapped anonymously: an anchor, the engine's memory, which the result
    /// keeps, the table.
    fn prepare_anon(&self, f: &Fault<'_, S>) -> Result<Reserved<'_, S>> {
        use crate::engine::Engine;
        self.rmap.engine().prepare(f.vma)?;
        let reserved = self.rmap.reserve(1)?;
        f.mm.table().alloc(f.addr)?;
        Ok(reserved)
    }

    /// A frame of the fault's own, zero. When none is free, what nobody needs any more is looked for once.
    pub(super) fn alloc_page(&self) -> Result<&Page> {
        let first = self.frames.alloc(self.rmap.pages());
        if first.is_err() && self.trim_swap_cache() + self.sweep_files() != 0 {
            return self.frames.alloc(self.rmap.pages());
        }
        first
    }

    /// What a page that is about to be mapped in the fault's VMA takes over from it.
    fn mark_new(&self, f: &Fault<'_, S>, page: &Page) {
        if f.vma.has(VmFlags::LOCKED) {
            page.set(PageFlags::MLOCKED);
        }
    }
}
