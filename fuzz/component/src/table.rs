//! An address space's page tables: four tables of sixteen entries, made when they are needed.

use core::cell::{Cell, RefCell};
use core::ffi::c_void;
use rmap::pte_ops::{rmap_pte, rmap_pte_kind, rmap_pte_ops};

pub(crate) const PAGE: u64 = 4096;
/// Where address spaces begin.
pub(crate) const BASE: u64 = 0x7000_0000;
/// Pages of an address space.
pub(crate) const PAGES: u64 = 64;
const LEAF: usize = 16;

pub(crate) const NONE: rmap_pte = rmap_pte { kind: rmap_pte_kind::RMAP_PTE_NONE as u32, flags: 0, pfn: 0, value: 0 };
const NO_TABLE: rmap_pte = rmap_pte { kind: rmap_pte_kind::RMAP_PTE_NO_TABLE as u32, ..NONE };

/// The address of a page.
pub(crate) fn addr_of(page: u64) -> u64 {
    BASE + page * PAGE
}

/// The page of an address.
pub(crate) fn page_of(addr: u64) -> u64 {
    (addr - BASE) / PAGE
}

struct Leaf {
    locked: Cell<bool>,
    entries: [Cell<rmap_pte>; LEAF],
}

/// Page tables. Leaves are boxes, so that a locked one is a cookie.
#[derive(Default)]
pub(crate) struct Table {
    leaves: [RefCell<Option<Box<Leaf>>>; PAGES as usize / LEAF],
}

impl Table {
    fn with<T>(&self, addr: u64, act: impl FnOnce(&Leaf, usize) -> T) -> Option<T> {
        let page = addr.checked_sub(BASE).map(|offset| (offset / PAGE) as usize)?;
        let leaf = self.leaves.get(page / LEAF)?.borrow();
        leaf.as_ref().map(|leaf| act(leaf, page % LEAF))
    }

    /// Makes the table of a page, if there is none.
    pub(crate) fn make(&self, page: u64) {
        let mut leaf = self.leaves[page as usize / LEAF].borrow_mut();
        leaf.get_or_insert_with(|| {
            Box::new(Leaf { locked: Cell::new(false), entries: core::array::from_fn(|_| Cell::new(NONE)) })
        });
    }

    pub(crate) fn load(&self, addr: u64) -> rmap_pte {
        self.with(addr, |leaf, n| leaf.entries[n].get()).unwrap_or(NO_TABLE)
    }

    pub(crate) fn entry(&self, page: u64) -> rmap_pte {
        self.load(addr_of(page))
    }

    /// The embedder's own change of an entry; its table is there.
    pub(crate) fn set(&self, page: u64, pte: rmap_pte) {
        self.with(addr_of(page), |leaf, n| leaf.entries[n].set(pte)).expect("a table");
    }

    /// The pages with entries that are not empty.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, rmap_pte)> {
        let there = (0..PAGES).map(|page| (page, self.entry(page)));
        there.filter(|(_, pte)| pte.kind != NONE.kind && pte.kind != NO_TABLE.kind)
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.leaves.iter().any(|leaf| leaf.borrow().as_ref().is_some_and(|leaf| leaf.locked.get()))
    }
}

/// The table of a call.
fn this<'a>(table: *mut c_void) -> &'a Table {
    // SAFETY: a space's table, which is in a box and outlives its address space.
    unsafe { &*table.cast::<Table>() }
}

unsafe extern "C" fn load(table: *mut c_void, addr: u64, pte: *mut rmap_pte) {
    // SAFETY: librmap's own, valid for the call; so below.
    unsafe { pte.write(this(table).load(addr)) };
}

unsafe extern "C" fn lock(table: *mut c_void, addr: u64, _: bool, cookie: *mut *mut c_void) -> bool {
    let locked = this(table).with(addr, |leaf, _| {
        assert!(!leaf.locked.replace(true), "a table is locked twice");
        core::ptr::from_ref(leaf).cast_mut().cast::<c_void>()
    });
    if let Some(leaf) = locked {
        // SAFETY: valid for the call.
        unsafe { cookie.write(leaf) };
    }
    locked.is_some()
}

unsafe extern "C" fn unlock(_: *mut c_void, cookie: *mut c_void) {
    // SAFETY: `lock` gave it; tables stay until their address space goes.
    let leaf = unsafe { &*cookie.cast::<Leaf>() };
    assert!(leaf.locked.replace(false), "a table is unlocked that is not locked");
}

/// Calls `act` with an entry of a locked table.
fn locked<T>(table: *mut c_void, addr: u64, act: impl FnOnce(&Cell<rmap_pte>) -> T) -> T {
    let done = this(table).with(addr, |leaf, n| {
        assert!(leaf.locked.get(), "an entry is changed without its lock");
        act(&leaf.entries[n])
    });
    done.expect("a locked table is there")
}

unsafe extern "C" fn set(table: *mut c_void, addr: u64, pte: *const rmap_pte) {
    // SAFETY: valid for the call.
    locked(table, addr, |entry| entry.set(unsafe { *pte }));
}

unsafe extern "C" fn clear_flush(table: *mut c_void, addr: u64, old: *mut rmap_pte) {
    let was = locked(table, addr, |entry| entry.replace(NONE));
    // SAFETY: valid for the call.
    unsafe { old.write(was) };
}

/// The functions of the tables.
pub(crate) fn ops() -> rmap_pte_ops {
    rmap_pte_ops {
        size: size_of::<rmap_pte_ops>(),
        load: Some(load),
        lock: Some(lock),
        unlock: Some(unlock),
        set: Some(set),
        clear_flush: Some(clear_flush),
        clear: None,
        flush: None,
        test_and_clear_young: None,
        mkclean: None,
        wrprotect: None,
    }
}
