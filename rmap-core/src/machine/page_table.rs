//! Page tables in software: the machine's [`PageTable`].
//!
//! A [`RadixTable`] is a tree of four levels ([`radix`](crate::page::radix)) whose leaves are tables of 512 entries,
//! each with a lock of its own (the kernel's split PTE locks).
//!
//! **Who changes what.** Entries are changed under their table's lock and read by [`load`](PageTable::load) without it.
//! A table comes into being by [`alloc`](RadixTable::alloc) (the kernel's `pte_alloc`), which several faulting threads
//! may call at once; [`free_tables`](RadixTable::free_tables) takes tables away.
//!
//! **Contract of `free_tables`:** the caller holds the address space's `mmap_lock` for writing, has emptied the range,
//! and has unlinked its VMAs, so that no reverse walker can be on its way to an address in it. Then nobody looks at a
//! table while it goes. Whoever breaks the contract gets a wrong answer, never a dangling pointer: `lock` checks, once
//! it has the lock, that the table is still the one of its address, and the memory of tables stays with the address
//! space until that is dropped.
//!
//! **Large mappings.** An entry for 2 MiB stands in the head of the table that would hold its 512 small ones, under the
//! same lock: the kernel keeps a table in reserve behind each large entry (`pgtable_trans_huge_deposit`) so that
//! splitting cannot fail, and here that reserve is the table itself.
//!
//! | `large` | entries | meaning | who changes it |
//! |---|---|---|---|
//! | 0 | any | 512 single entries | the lock's holder |
//! | a present, LARGE word of the head frame | all none | one mapping of 512 pages | `set` with LARGE; the lock's holder |
//! | 0, was large | written before | split: each entry maps its own page of the 512 | `split_large`; the lock's holder |

use super::pte_word::{NONE, pack, unpack};
use crate::base::alloc::Heap;
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::{CachePadded, SpinGuard, SpinLock, rank};
use crate::base::types::{PAGE_SIZE, Pfn, VirtAddr};
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use crate::page::radix::{ADDRESS_END, LEAF_SPAN, Radix, SLOTS, slot_of};

/// The end of the table that holds `addr`, or `end` if that comes first (the kernel's `pmd_addr_end`).
#[inline]
pub fn table_end(addr: VirtAddr, end: VirtAddr) -> VirtAddr {
    VirtAddr((addr.0 | (LEAF_SPAN - 1)).saturating_add(1)).min(end)
}

/// The entry of one page under a large word.
fn unpack_large(word: u64, slot: usize) -> Pte {
    match unpack(word) {
        Pte::Present { pfn, flags } => Pte::Present { pfn: Pfn(pfn.0 + slot as u64), flags },
        other => other,
    }
}

/// A table of 512 entries.
struct Table {
    /// The PTE lock. Alone on its line: lock-free readers come by the next one.
    lock: CachePadded<SpinLock<{ rank::PAGE_TABLE }>>,
    /// See the table in the module. Changed under `lock`; Release, pairs with the Acquire in `get`: whoever sees that a
    /// large mapping is gone sees the entries that replaced it.
    large: CachePadded<AtomicU64>,
    /// Changed under `lock`; Release, pairs with the Acquire in `get`: whoever sees an entry sees the page as it was
    /// when it was mapped.
    entries: [AtomicU64; SLOTS],
}

impl Default for Table {
    fn default() -> Self {
        Self {
            lock: CachePadded(SpinLock::new()),
            large: CachePadded(AtomicU64::new(NONE)),
            entries: core::array::from_fn(|_| AtomicU64::new(NONE)),
        }
    }
}

impl Table {
    #[inline]
    fn get(&self, addr: VirtAddr) -> Pte {
        let slot = slot_of(addr, 0);
        match self.large.load(Ordering::Acquire) {
            NONE => unpack(self.entries[slot].load(Ordering::Acquire)),
            large => unpack_large(large, slot),
        }
    }

    /// Whether nothing is mapped. Lock held, else of no one moment.
    fn is_empty(&self) -> bool {
        self.large.load(Ordering::Relaxed) == NONE && self.entries.iter().all(|e| e.load(Ordering::Relaxed) == NONE)
    }

    /// Turns a large mapping into 512 small ones; returns whether there was one. Lock held.
    fn split_large(&self) -> bool {
        let large = self.large.load(Ordering::Relaxed);
        let Pte::Present { pfn, flags } = unpack(large) else { return false };
        for (i, entry) in self.entries.iter().enumerate() {
            // Relaxed: published by the store below.
            entry.store(pack(Pte::present(Pfn(pfn.0 + i as u64), flags - PteFlags::LARGE)), Ordering::Relaxed);
        }
        self.large.store(NONE, Ordering::Release);
        true
    }
}

/// The page tables of one address space. See the [module](self).
pub struct RadixTable {
    tree: Radix<Table>,
    /// Flushes asked for, and those that changes of single entries imply. Statistics: Relaxed.
    flushes: AtomicU64,
}

impl RadixTable {
    /// Tables for an address space where nothing is mapped.
    pub fn new(heap: &Heap) -> Result<Self> {
        Ok(Self { tree: Radix::new(heap)?, flushes: AtomicU64::new(0) })
    }

    /// Makes sure that there is a table for `addr` (the kernel's `pte_alloc`). No PTE lock and no lock of leaf rank
    /// held: it may call the heap. [`Error::Invalid`] beyond 48 bits.
    #[inline]
    pub fn alloc(&self, addr: VirtAddr) -> Result<()> {
        self.tree.ensure(addr).map(|_| ())
    }

    /// Frees the tables that lie wholly in `[start, end)`. They are empty; for what else the caller owes see the
    /// [module](self).
    pub fn free_tables(&self, start: VirtAddr, end: VirtAddr) {
        let end = end.min(ADDRESS_END);
        let mut at = VirtAddr(start.min(end).0.next_multiple_of(LEAF_SPAN));
        while let Some(addr) = self.tree.next(at, end) {
            at = VirtAddr(addr.0 + LEAF_SPAN);
            if at > end {
                return;
            }
            let Some(slot) = self.tree.slot(addr) else { continue };
            let Some(table) = slot.leaf() else { continue };
            let _guard = table.lock.lock();
            if slot.holds(table) {
                debug_assert!(table.is_empty(), "the table of {addr:?} is freed with entries");
                table.large.store(NONE, Ordering::Relaxed);
                table.entries.iter().for_each(|entry| entry.store(NONE, Ordering::Relaxed));
                self.tree.detach(&slot);
            }
        }
    }

    /// Tables of entries (the kernel's `nr_ptes`); of the past when other threads fault.
    pub fn nr_tables(&self) -> u64 {
        self.tree.attached()
    }

    /// The first address in `[start, end)` for which there is a table.
    #[inline]
    pub fn next_table(&self, start: VirtAddr, end: VirtAddr) -> Option<VirtAddr> {
        self.tree.next(start, end)
    }

    /// Calls `f` with each page address in `[start, end)` where something is, and its entry, in order. Without locks:
    /// each entry is what it was at some moment during the call. Both ends are page-aligned.
    pub fn for_each(&self, start: VirtAddr, end: VirtAddr, mut f: impl FnMut(VirtAddr, Pte)) {
        let mut at = start;
        while let Some(addr) = self.next_table(at, end) {
            at = table_end(addr, end);
            let Some(table) = self.tree.slot(addr).and_then(|slot| slot.leaf()) else { continue };
            for addr in (addr.0..at.0).step_by(PAGE_SIZE as usize).map(VirtAddr) {
                let pte = table.get(addr);
                if !pte.is_none() {
                    f(addr, pte);
                }
            }
        }
    }

    /// Maps the compound page of 512 frames from `pfn` on at `addr` by one entry, with the table made if there was
    /// none. Both are multiples of its size, else [`Error::Invalid`]; [`Error::Busy`] when something is mapped there.
    pub fn set_large(&self, addr: VirtAddr, pfn: Pfn, flags: PteFlags) -> Result<()> {
        if !addr.0.is_multiple_of(LEAF_SPAN) || !pfn.0.is_multiple_of(SLOTS as u64) {
            return Err(Error::Invalid);
        }
        self.alloc(addr)?;
        let mut locked = self.lock(addr, false).ok_or(Error::Again)?;
        if !locked.table.is_empty() {
            return Err(Error::Busy);
        }
        locked.set(addr, Pte::present(pfn, flags | PteFlags::LARGE));
        Ok(())
    }

    /// Turns the large mapping at `addr` into 512 small ones of the same bits; returns whether there was one. Whoever
    /// counts mappings does it with [`LockedEntries::split_large`], under the lock.
    pub fn split_large(&self, addr: VirtAddr) -> bool {
        self.lock(addr, false).is_some_and(|mut locked| locked.split_large())
    }

    /// Flushes so far: calls of [`flush`](PageTable::flush), and entries changed with a flush of their own. A batched
    /// unmapping adds one.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    fn count_flush(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }
}

impl PageTable for RadixTable {
    type Locked<'a> = LockedEntries<'a>;

    #[inline]
    fn load(&self, addr: VirtAddr) -> Pte {
        match self.tree.slot(addr).and_then(|slot| slot.leaf()) {
            Some(table) => table.get(addr),
            None => Pte::NoTable,
        }
    }

    #[inline]
    fn lock(&self, addr: VirtAddr, nested: bool) -> Option<LockedEntries<'_>> {
        let slot = self.tree.slot(addr)?;
        loop {
            let table = slot.leaf()?;
            // Lock order: PTE lock of the lower address, or of the parent -> this one, when nested.
            let guard = if nested { table.lock.lock_nested() } else { table.lock.lock() };
            if slot.holds(table) {
                return Some(LockedEntries { owner: self, table, base: addr.0 / LEAF_SPAN, _guard: guard });
            }
        }
    }

    /// Software has no translations to throw away: counted, so that tests see how often hardware would have to.
    #[inline]
    fn flush(&self, _start: VirtAddr, _end: VirtAddr) {
        self.count_flush();
    }
}

/// One table of a [`RadixTable`], locked until dropped.
#[must_use = "the table is unlocked at once when this is dropped"]
pub struct LockedEntries<'a> {
    owner: &'a RadixTable,
    table: &'a Table,
    /// Which table it is: addresses divided by [`LEAF_SPAN`].
    base: u64,
    _guard: SpinGuard<'a, { rank::PAGE_TABLE }>,
}

impl LockedEntries<'_> {
    fn slot(&self, addr: VirtAddr) -> usize {
        debug_assert!(addr.0 / LEAF_SPAN == self.base, "{addr:?} is not of the locked table");
        slot_of(addr, 0)
    }

    fn large(&self) -> u64 {
        self.table.large.load(Ordering::Relaxed)
    }

    /// Turns a large mapping into 512 small ones of the same bits; returns whether there was one. Count the small
    /// mappings before, and uncount the large one after, while the table stays locked.
    pub fn split_large(&mut self) -> bool {
        self.table.split_large()
    }
}

impl LockedTable for LockedEntries<'_> {
    #[inline]
    fn get(&self, addr: VirtAddr) -> Pte {
        debug_assert!(self.slot(addr) < SLOTS);
        self.table.get(addr)
    }

    /// A LARGE entry becomes, or replaces, the large mapping of the table, which otherwise is empty. Any other entry
    /// set under a large mapping splits that first.
    #[inline]
    fn set(&mut self, addr: VirtAddr, pte: Pte) {
        let slot = self.slot(addr);
        debug_assert!(
            self.get(addr).pfn().is_none_or(|old| pte.pfn() == Some(old)),
            "{:?} at {addr:?} is overwritten with {pte:?}",
            self.get(addr)
        );
        if let Pte::Present { pfn, flags } = pte
            && flags.contains(PteFlags::LARGE)
        {
            debug_assert!(self.large() != NONE || self.table.is_empty(), "a large entry over small ones at {addr:?}");
            let head = Pfn(pfn.0 - slot as u64);
            self.table.large.store(pack(Pte::present(head, flags)), Ordering::Release);
            return;
        }
        if self.large() != NONE {
            self.split_large();
        }
        self.table.entries[slot].store(pack(pte), Ordering::Release);
    }

    #[inline]
    fn clear_flush(&mut self, addr: VirtAddr) -> Pte {
        let old = self.clear(addr);
        if old.pfn().is_some() {
            self.owner.count_flush();
        }
        old
    }

    /// Of a large mapping, the whole: what is returned is the entry of `addr`.
    #[inline]
    fn clear(&mut self, addr: VirtAddr) -> Pte {
        let old = self.get(addr);
        let word = if self.large() == NONE { &self.table.entries[self.slot(addr)] } else { &*self.table.large };
        word.store(NONE, Ordering::Release);
        old
    }

    #[inline]
    fn mkclean(&mut self, addr: VirtAddr) -> bool {
        let taken = PteFlags::WRITE | PteFlags::DIRTY;
        match self.get(addr) {
            Pte::Present { pfn, flags } if flags.intersects(taken) => {
                self.set(addr, Pte::Present { pfn, flags: flags - taken });
                self.owner.count_flush();
                true
            }
            _ => false,
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "page_table_tests.rs"]
mod tests;
