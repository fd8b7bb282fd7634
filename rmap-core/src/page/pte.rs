//! The explicit page-table entry, and the boundary to whoever keeps page tables.
//!
//! librmap never touches a page table itself: it asks a [`PageTable`]. The machine's is a radix tree in software; a C
//! embedder's stands behind `struct rmap_pte_ops`. Entries cross this boundary decoded ([`Pte`]); how an embedder
//! encodes swap entries, migration entries or markers in its own words is its own business.

use crate::base::types::{Pfn, VirtAddr};
use bitflags::bitflags;

bitflags! {
    /// Bits of a present entry.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct PteFlags: u8 {
        /// Writes do not fault.
        const WRITE = 1;
        /// Was accessed since the bit was last cleared.
        const YOUNG = 1 << 1;
        /// Was written since the bit was last cleared.
        const DIRTY = 1 << 2;
        /// Soft-dirty: carried over moves and swap.
        const SOFT_DIRTY = 1 << 3;
        /// One entry maps a whole compound page (a PMD).
        const LARGE = 1 << 4;
    }
}

/// A place in swap: the number of a slot, and what the entry remembers of the page that it stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SwapEntry {
    /// The slot.
    pub slot: u64,
    /// The page was anon-exclusive when it was unmapped.
    pub exclusive: bool,
}

/// Stands for a page that is being moved; whoever faults on it waits for the page lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "the bits of an entry, decoded")]
pub struct MigrationEntry {
    /// The frame being moved.
    pub pfn: Pfn,
    /// The mapping was writable.
    pub write: bool,
    /// The page was anon-exclusive.
    pub exclusive: bool,
    /// The mapping was young.
    pub young: bool,
    /// The mapping was dirty.
    pub dirty: bool,
}

/// One page-table entry, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pte {
    /// There is no page table that could hold an entry for the address.
    NoTable,
    /// Nothing is mapped.
    #[default]
    None,
    /// A page is mapped and counted.
    Present {
        /// The frame; of a LARGE entry, the frame at this very address.
        pfn: Pfn,
        /// Its bits.
        flags: PteFlags,
    },
    /// A frame that is not counted and has no reverse map: the zero page, device memory.
    Special {
        /// The frame.
        pfn: Pfn,
    },
    /// The page is in swap.
    Swap(SwapEntry),
    /// The page is being moved.
    Migration(MigrationEntry),
    /// Neither mapped nor empty: poison, userfault write-protection and the like. The value is the page table owner's.
    Marker(u64),
}

impl Pte {
    /// A present entry of one page.
    pub const fn present(pfn: Pfn, flags: PteFlags) -> Self {
        Self::Present { pfn, flags }
    }

    /// The frame of a present (counted) entry.
    #[inline]
    pub const fn pfn(self) -> Option<Pfn> {
        if let Self::Present { pfn, .. } = self { Some(pfn) } else { None }
    }

    /// Whether a fault may fill it: nothing there.
    #[inline]
    pub const fn is_none(self) -> bool {
        matches!(self, Self::None | Self::NoTable)
    }
}

/// The page tables of one address space.
///
/// Locks: an implementation's PTE locks are the innermost of all but the leaf locks (see the crate's lock order); no
/// method may call back into librmap, and none may take a lock of librmap's (G8). [`lock`](Self::lock) locks the table
/// that holds the entry of an address; tables of different 2 MiB ranges may share a lock or have their own.
pub trait PageTable: Send + Sync {
    /// A locked table.
    type Locked<'a>: LockedTable
    where
        Self: 'a;

    /// The entry of `addr` at this moment, without a lock: it may be old at once, and whoever acts on it looks again
    /// under the lock.
    fn load(&self, addr: VirtAddr) -> Pte;

    /// Locks the table with the entry of `addr`; `None` when there is no such table. `nested` says that a PTE lock is
    /// held already: of two, the caller takes the lower address (or the parent's, in fork) first.
    fn lock(&self, addr: VirtAddr, nested: bool) -> Option<Self::Locked<'_>>;

    /// Makes stale translations of `[start, end)` impossible, for entries cleared without a flush.
    fn flush(&self, start: VirtAddr, end: VirtAddr);
}

/// One table under its lock. Addresses lie in the same table as the one that it was locked for.
pub trait LockedTable {
    /// The entry of `addr`.
    fn get(&self, addr: VirtAddr) -> Pte;

    /// Installs an entry. A present entry is replaced only by one of the same frame, else it is cleared before.
    fn set(&mut self, addr: VirtAddr, pte: Pte);

    /// Empties the entry and returns what it was, dirty and young bits included. No translation of the old entry is in
    /// use any more when this returns.
    fn clear_flush(&mut self, addr: VirtAddr) -> Pte;

    /// Empties the entry; translations may linger until [`PageTable::flush`].
    fn clear(&mut self, addr: VirtAddr) -> Pte {
        self.clear_flush(addr)
    }

    /// Clears the young bit of a present entry; returns whether it was set.
    fn test_and_clear_young(&mut self, addr: VirtAddr) -> bool {
        match self.get(addr) {
            Pte::Present { pfn, flags } if flags.contains(PteFlags::YOUNG) => {
                self.set(addr, Pte::Present { pfn, flags: flags - PteFlags::YOUNG });
                true
            }
            _ => false,
        }
    }

    /// Takes the write and dirty bits of a present entry; returns whether either was set. No write through the old
    /// entry is possible when this returns.
    fn mkclean(&mut self, addr: VirtAddr) -> bool {
        match self.get(addr) {
            Pte::Present { pfn, flags } if flags.intersects(PteFlags::WRITE | PteFlags::DIRTY) => {
                self.set(addr, Pte::Present { pfn, flags: flags - (PteFlags::WRITE | PteFlags::DIRTY) });
                true
            }
            _ => false,
        }
    }

    /// Takes the write bit of a present entry.
    fn wrprotect(&mut self, addr: VirtAddr) {
        if let Pte::Present { pfn, flags } = self.get(addr) {
            self.set(addr, Pte::Present { pfn, flags: flags - PteFlags::WRITE });
        }
    }
}
