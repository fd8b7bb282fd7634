//! The embedder's page tables: `struct rmap_pte_ops`, and the core's view of them.

use crate::sized::{self, Growing};
use crate::status::Outcome;
use crate::status::rmap_status::RMAP_ERR_NULL;
use core::ffi::c_void;
use rmap_core::base::types::{Pfn, VirtAddr};
use rmap_core::page::pte::{LockedTable, MigrationEntry, PageTable, Pte, PteFlags, SwapEntry};

/// Kinds of page-table entries: `rmap_pte.kind`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum rmap_pte_kind {
    /// Nothing is mapped.
    RMAP_PTE_NONE = 0,
    /// A page is mapped and counted: `pfn`, and `flags` of WRITE, YOUNG, DIRTY, SOFT_DIRTY, LARGE.
    RMAP_PTE_PRESENT = 1,
    /// A frame that is not counted and has no reverse map, such as the zero page: `pfn`.
    RMAP_PTE_SPECIAL = 2,
    /// The page is in swap: `value` is the slot, `flags` may have EXCLUSIVE.
    RMAP_PTE_SWAP = 3,
    /// The page is being moved: `pfn`, and `flags` of WRITE, YOUNG, DIRTY, EXCLUSIVE.
    RMAP_PTE_MIGRATION = 4,
    /// Neither mapped nor empty: `value` is the table owner's; 1 stands for broken memory.
    RMAP_PTE_MARKER = 5,
    /// There is no table that could hold an entry for the address.
    RMAP_PTE_NO_TABLE = 6,
}

/// Writes do not fault.
pub const RMAP_PTE_WRITE: u32 = 1;
/// Was accessed since the bit was last cleared.
pub const RMAP_PTE_YOUNG: u32 = 2;
/// Was written since the bit was last cleared.
pub const RMAP_PTE_DIRTY: u32 = 4;
/// Soft-dirty.
pub const RMAP_PTE_SOFT_DIRTY: u32 = 8;
/// One entry maps a whole compound page; `pfn` is the frame at the very address that was asked for.
pub const RMAP_PTE_LARGE: u32 = 16;
/// Of a swap or migration entry: the page was anon-exclusive.
pub const RMAP_PTE_EXCLUSIVE: u32 = 256;

const _: () = {
    assert!(RMAP_PTE_WRITE == PteFlags::WRITE.bits() as u32 && RMAP_PTE_YOUNG == PteFlags::YOUNG.bits() as u32);
    assert!(RMAP_PTE_DIRTY == PteFlags::DIRTY.bits() as u32 && RMAP_PTE_LARGE == PteFlags::LARGE.bits() as u32);
    assert!(RMAP_PTE_SOFT_DIRTY == PteFlags::SOFT_DIRTY.bits() as u32);
};

/// A page-table entry, decoded. How entries are encoded is the business of whoever owns the tables.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct rmap_pte {
    /// One of `enum rmap_pte_kind`.
    pub kind: u32,
    /// Bits of `RMAP_PTE_*`, as the kind says.
    pub flags: u32,
    /// The frame, as the kind says; else 0.
    pub pfn: u64,
    /// The swap slot or marker, as the kind says; else 0.
    pub value: u64,
}

/// An embedder's page tables. `table` is what was given to `rmap_mm_new`.
///
/// Context of every function: any thread, with any of librmap's locks held; `load` and `flush` with or without the
/// table's lock, the others under it. They are the innermost locks: no function may call back into librmap, wait for a
/// thread that does, throw, or jump out (G8). Set `size` to the size of the struct. Functions marked optional may be
/// NULL.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct rmap_pte_ops {
    /// The size of this struct, as the program knows it.
    pub size: usize,
    /// Stores the entry of `addr` at this moment into `pte`. Called without the lock too: one entry must not tear.
    pub load: Option<unsafe extern "C" fn(table: *mut c_void, addr: u64, pte: *mut rmap_pte)>,
    /// Locks the table with the entry of `addr` and returns true; returns false when there is no such table. Stores a
    /// `cookie` for `unlock`. `nested`: a table is locked by this thread already, of a lower address or of the parent
    /// in fork.
    pub lock:
        Option<unsafe extern "C" fn(table: *mut c_void, addr: u64, nested: bool, cookie: *mut *mut c_void) -> bool>,
    /// Unlocks what `lock` locked.
    pub unlock: Option<unsafe extern "C" fn(table: *mut c_void, cookie: *mut c_void)>,
    /// Installs an entry. Lock held.
    pub set: Option<unsafe extern "C" fn(table: *mut c_void, addr: u64, pte: *const rmap_pte)>,
    /// Empties the entry and stores what it was, dirty and young bits included, into `old`. No translation of it is in
    /// use any more when this returns. Lock held.
    pub clear_flush: Option<unsafe extern "C" fn(table: *mut c_void, addr: u64, old: *mut rmap_pte)>,
    /// Optional. As `clear_flush`, but translations may linger until `flush`. Lock held. Without it: `clear_flush`.
    pub clear: Option<unsafe extern "C" fn(table: *mut c_void, addr: u64, old: *mut rmap_pte)>,
    /// Optional, needed by `clear`. Makes stale translations of the range impossible.
    pub flush: Option<unsafe extern "C" fn(table: *mut c_void, start: u64, end: u64)>,
    /// Optional. Clears the young bit of a present entry and returns whether it was set. Lock held. Without it: `load`
    /// and `set`.
    pub test_and_clear_young: Option<unsafe extern "C" fn(table: *mut c_void, addr: u64) -> bool>,
    /// Optional. Takes the write and dirty bits of a present entry and returns whether either was set. Lock held.
    /// Without it: `load` and `set`.
    pub mkclean: Option<unsafe extern "C" fn(table: *mut c_void, addr: u64) -> bool>,
    /// Optional. Takes the write bit of a present entry. Lock held. Without it: `load` and `set`.
    pub wrprotect: Option<unsafe extern "C" fn(table: *mut c_void, addr: u64)>,
}

impl rmap_pte {
    const EMPTY: Self = Self { kind: 0, flags: 0, pfn: 0, value: 0 };
}

/// An entry for the program.
pub(crate) fn encode(pte: Pte) -> rmap_pte {
    let entry = |kind: rmap_pte_kind, flags, pfn, value| rmap_pte { kind: kind as u32, flags, pfn, value };
    let bit = |set: bool, bit| if set { bit } else { 0 };
    match pte {
        Pte::None => rmap_pte::EMPTY,
        Pte::Present { pfn, flags } => entry(rmap_pte_kind::RMAP_PTE_PRESENT, u32::from(flags.bits()), pfn.0, 0),
        Pte::Special { pfn } => entry(rmap_pte_kind::RMAP_PTE_SPECIAL, 0, pfn.0, 0),
        Pte::Swap(SwapEntry { slot, exclusive }) => {
            entry(rmap_pte_kind::RMAP_PTE_SWAP, bit(exclusive, RMAP_PTE_EXCLUSIVE), 0, slot)
        }
        Pte::Migration(m) => {
            let flags = bit(m.write, RMAP_PTE_WRITE)
                | bit(m.exclusive, RMAP_PTE_EXCLUSIVE)
                | bit(m.young, RMAP_PTE_YOUNG)
                | bit(m.dirty, RMAP_PTE_DIRTY);
            entry(rmap_pte_kind::RMAP_PTE_MIGRATION, flags, m.pfn.0, 0)
        }
        Pte::Marker(value) => entry(rmap_pte_kind::RMAP_PTE_MARKER, 0, 0, value),
        Pte::NoTable => entry(rmap_pte_kind::RMAP_PTE_NO_TABLE, 0, 0, 0),
    }
}

/// An entry of the program's. A kind that is none is taken for a missing table: nothing is mapped, and nothing may be.
#[inline]
pub(crate) fn decode(pte: rmap_pte) -> Pte {
    let pfn = Pfn(pte.pfn);
    let has = |bit| pte.flags & bit != 0;
    match pte.kind {
        0 => Pte::None,
        1 => Pte::Present { pfn, flags: PteFlags::from_bits_truncate(pte.flags as u8) },
        2 => Pte::Special { pfn },
        3 => Pte::Swap(SwapEntry { slot: pte.value, exclusive: has(RMAP_PTE_EXCLUSIVE) }),
        4 => Pte::Migration(MigrationEntry {
            pfn,
            write: has(RMAP_PTE_WRITE),
            exclusive: has(RMAP_PTE_EXCLUSIVE),
            young: has(RMAP_PTE_YOUNG),
            dirty: has(RMAP_PTE_DIRTY),
        }),
        5 => Pte::Marker(pte.value),
        _ => Pte::NoTable,
    }
}

type Load = unsafe extern "C" fn(*mut c_void, u64, *mut rmap_pte);

/// The functions of `rmap_pte_ops`, those that must be there known to be.
struct Ops {
    load: Load,
    lock: unsafe extern "C" fn(*mut c_void, u64, bool, *mut *mut c_void) -> bool,
    unlock: unsafe extern "C" fn(*mut c_void, *mut c_void),
    set: unsafe extern "C" fn(*mut c_void, u64, *const rmap_pte),
    clear_flush: Load,
    clear: Load,
    flush: Option<unsafe extern "C" fn(*mut c_void, u64, u64)>,
    young: Option<unsafe extern "C" fn(*mut c_void, u64) -> bool>,
    mkclean: Option<unsafe extern "C" fn(*mut c_void, u64) -> bool>,
    wrprotect: Option<unsafe extern "C" fn(*mut c_void, u64)>,
}

/// The page tables of one address space, behind the embedder's functions.
pub(crate) struct Table {
    ops: Ops,
    table: *mut c_void,
}

// SAFETY: the embedder's functions may be called on any thread (contract of `rmap_pte_ops`), and `table` is only passed
// to them.
unsafe impl Send for Table {}
// SAFETY: as for Send.
unsafe impl Sync for Table {}

// SAFETY: `repr(C)`, the size first, and functions, of which NULL ones are `None`.
unsafe impl Growing for rmap_pte_ops {
    const FIRST: usize = size_of::<Self>();
}

impl rmap_pte_ops {
    const NONE: Self = Self {
        size: size_of::<Self>(),
        load: None,
        lock: None,
        unlock: None,
        set: None,
        clear_flush: None,
        clear: None,
        flush: None,
        test_and_clear_young: None,
        mkclean: None,
        wrprotect: None,
    };
}

impl Table {
    /// # Safety
    /// `ops` is NULL or valid for as many bytes as its `size` says, and its functions keep the contract of
    /// `rmap_pte_ops`.
    pub(crate) unsafe fn new(ops: *const rmap_pte_ops, table: *mut c_void) -> Outcome<Self> {
        // SAFETY: the caller's contract.
        let ops = unsafe { sized::read(ops, rmap_pte_ops::NONE) }?;
        let (Some(load), Some(lock), Some(unlock), Some(set), Some(clear_flush)) =
            (ops.load, ops.lock, ops.unlock, ops.set, ops.clear_flush)
        else {
            return Err(RMAP_ERR_NULL);
        };
        if ops.clear.is_some() && ops.flush.is_none() {
            return Err(RMAP_ERR_NULL);
        }
        let ops = Ops {
            load,
            lock,
            unlock,
            set,
            clear_flush,
            clear: ops.clear.unwrap_or(clear_flush),
            flush: ops.flush,
            young: ops.test_and_clear_young,
            mkclean: ops.mkclean,
            wrprotect: ops.wrprotect,
        };
        Ok(Self { ops, table })
    }

    #[inline]
    fn ask(&self, function: Load, addr: VirtAddr) -> Pte {
        let mut pte = rmap_pte::EMPTY;
        // SAFETY: the embedder's function, called as its contract says; `pte` is valid for the call.
        unsafe { function(self.table, addr.0, &raw mut pte) };
        decode(pte)
    }
}

impl PageTable for Table {
    type Locked<'a> = Locked<'a>;

    #[inline]
    fn load(&self, addr: VirtAddr) -> Pte {
        self.ask(self.ops.load, addr)
    }

    #[inline]
    fn lock(&self, addr: VirtAddr, nested: bool) -> Option<Locked<'_>> {
        let mut cookie = core::ptr::null_mut();
        // SAFETY: the embedder's function, called as its contract says; `cookie` is valid for the call.
        let locked = unsafe { (self.ops.lock)(self.table, addr.0, nested, &raw mut cookie) };
        locked.then(|| Locked { owner: self, cookie })
    }

    fn flush(&self, start: VirtAddr, end: VirtAddr) {
        if let Some(flush) = self.ops.flush {
            // SAFETY: the embedder's function, called as its contract says.
            unsafe { flush(self.table, start.0, end.0) };
        }
    }
}

/// A locked table of the embedder's; dropped, it is unlocked.
pub(crate) struct Locked<'a> {
    owner: &'a Table,
    cookie: *mut c_void,
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: locked by `lock`, which gave this cookie; unlocked once.
        unsafe { (self.owner.ops.unlock)(self.owner.table, self.cookie) };
    }
}

impl Locked<'_> {
    /// Takes bits of a present entry the plain way; returns whether any was set.
    fn take_bits(&mut self, addr: VirtAddr, bits: PteFlags) -> bool {
        match self.get(addr) {
            Pte::Present { pfn, flags } if flags.intersects(bits) => {
                self.set(addr, Pte::Present { pfn, flags: flags - bits });
                true
            }
            _ => false,
        }
    }
}

impl LockedTable for Locked<'_> {
    #[inline]
    fn get(&self, addr: VirtAddr) -> Pte {
        self.owner.ask(self.owner.ops.load, addr)
    }

    #[inline]
    fn set(&mut self, addr: VirtAddr, pte: Pte) {
        let pte = encode(pte);
        // SAFETY: the embedder's function, called as its contract says: the lock is held.
        unsafe { (self.owner.ops.set)(self.owner.table, addr.0, &raw const pte) };
    }

    #[inline]
    fn clear_flush(&mut self, addr: VirtAddr) -> Pte {
        self.owner.ask(self.owner.ops.clear_flush, addr)
    }

    #[inline]
    fn clear(&mut self, addr: VirtAddr) -> Pte {
        self.owner.ask(self.owner.ops.clear, addr)
    }

    fn test_and_clear_young(&mut self, addr: VirtAddr) -> bool {
        match self.owner.ops.young {
            // SAFETY: the embedder's function, called as its contract says: the lock is held.
            Some(young) => unsafe { young(self.owner.table, addr.0) },
            None => self.take_bits(addr, PteFlags::YOUNG),
        }
    }

    fn mkclean(&mut self, addr: VirtAddr) -> bool {
        match self.owner.ops.mkclean {
            // SAFETY: as above.
            Some(mkclean) => unsafe { mkclean(self.owner.table, addr.0) },
            None => self.take_bits(addr, PteFlags::WRITE | PteFlags::DIRTY),
        }
    }

    fn wrprotect(&mut self, addr: VirtAddr) {
        match self.owner.ops.wrprotect {
            // SAFETY: as above.
            Some(wrprotect) => unsafe { wrprotect(self.owner.table, addr.0) },
            None => {
                self.take_bits(addr, PteFlags::WRITE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_survives_the_boundary() {
        let pfn = Pfn(0x12_3456);
        let flags = PteFlags::WRITE | PteFlags::DIRTY | PteFlags::SOFT_DIRTY | PteFlags::LARGE;
        let swap = |exclusive| Pte::Swap(SwapEntry { slot: 77, exclusive });
        let migration = MigrationEntry { pfn, write: true, exclusive: false, young: true, dirty: false };
        for pte in [
            Pte::None,
            Pte::NoTable,
            Pte::present(pfn, flags),
            Pte::Special { pfn },
            swap(false),
            swap(true),
            Pte::Migration(migration),
            Pte::Migration(MigrationEntry { write: false, exclusive: true, dirty: true, ..migration }),
            Pte::Marker(1),
        ] {
            assert_eq!(decode(encode(pte)), pte);
        }
        assert_eq!(decode(rmap_pte { kind: 99, ..rmap_pte::EMPTY }), Pte::NoTable);
    }
}
