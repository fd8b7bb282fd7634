//! Test systems: engines over toy page tables, and the steps of a memory manager.

use super::exhaust::Exhaust;
use super::trip::pass;
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::{SpinGuard, SpinLock, load_to_change, rank};
use crate::base::types::{Pfn, VirtAddr, VmFlags};
use crate::engine::anon_vma::{AnonVmaEngine, inspect};
use crate::engine::full_scan::FullScanEngine;
use crate::engine::objrmap::ObjrmapEngine;
use crate::engine::per_mm::PerMm;
use crate::engine::pte_chain::PteChain;
use crate::engine::{Engine, Kernel};
use crate::mm::address_space::MmLocked;
use crate::mm::{MmWrite, System, Vma, VmaBounds};
use crate::page::Page;
use crate::page::pte::{LockedTable, PageTable, Pte, PteFlags, SwapEntry};
use crate::rmap::Rmap;
use crate::rmap::account::Level;
use crate::rmap::walk::AnchorOf;
use std::string::String;
use std::vec::Vec;

/// The first virtual page of every test address space.
pub(super) const BASE: u64 = 16;

/// The address of the n-th page of an address space.
pub(super) fn at(n: u64) -> VirtAddr {
    VirtAddr::from_vpn(BASE + n)
}

/// Bounds of the pages `[first, end)`, with page offsets as an anonymous VMA is born with.
pub(super) fn bounds(first: u64, end: u64) -> VmaBounds {
    VmaBounds { start: at(first), end: at(end), pgoff: BASE + first }
}

/// Readable and writable, private.
pub(super) const RW: VmFlags = VmFlags::READ.union(VmFlags::WRITE).union(VmFlags::MAYWRITE);

// Page tables.

/// One table of a few entries under one lock; entries are read without it.
///
/// | low bits | entry |
/// |---|---|
/// | 000 | nothing |
/// | 001 | present: frame from bit 16, flags from bit 8 |
/// | 010 | swapped: slot from bit 16, bit 8: exclusive |
/// | 011 | a marker, from bit 16 |
pub(super) struct Toy {
    lock: SpinLock<{ rank::PAGE_TABLE }>,
    /// Changed under `lock`; Release, pairs with the Acquire in `entry`.
    entries: Vec<AtomicU64>,
}

/// The [`Toy`], locked.
pub(super) struct LockedToy<'a> {
    table: &'a Toy,
    _guard: SpinGuard<'a, { rank::PAGE_TABLE }>,
}

fn pack(pte: Pte) -> u64 {
    match pte {
        Pte::None => 0,
        Pte::Present { pfn, flags } => pfn.0 << 16 | u64::from(flags.bits()) << 8 | 1,
        Pte::Swap(SwapEntry { slot, exclusive }) => slot << 16 | u64::from(exclusive) << 8 | 2,
        Pte::Marker(value) => value << 16 | 3,
        other => unreachable!("{other:?} is not tested here"),
    }
}

fn unpack(word: u64) -> Pte {
    match word & 7 {
        0 => Pte::None,
        1 => Pte::present(Pfn(word >> 16), PteFlags::from_bits_retain((word >> 8) as u8)),
        2 => Pte::Swap(SwapEntry { slot: word >> 16, exclusive: word & 1 << 8 != 0 }),
        _ => Pte::Marker(word >> 16),
    }
}

impl Toy {
    pub(super) fn new(pages: u64) -> Self {
        Self { lock: SpinLock::new(), entries: (0..pages).map(|_| AtomicU64::new(0)).collect() }
    }
    pub(super) fn pages(&self) -> u64 {
        self.entries.len() as u64
    }
    fn entry(&self, addr: VirtAddr) -> Option<&AtomicU64> {
        self.entries.get(usize::try_from(addr.vpn().checked_sub(BASE)?).ok()?)
    }
}

impl PageTable for Toy {
    type Locked<'a> = LockedToy<'a>;

    fn load(&self, addr: VirtAddr) -> Pte {
        pass("load");
        self.entry(addr).map_or(Pte::NoTable, |entry| unpack(entry.load(Ordering::Acquire)))
    }
    fn lock(&self, addr: VirtAddr, nested: bool) -> Option<LockedToy<'_>> {
        pass("lock");
        self.entry(addr)?;
        let guard = if nested { self.lock.lock_nested() } else { self.lock.lock() };
        Some(LockedToy { table: self, _guard: guard })
    }
    fn flush(&self, _: VirtAddr, _: VirtAddr) {
        pass("flush");
    }
}

impl LockedTable for LockedToy<'_> {
    fn get(&self, addr: VirtAddr) -> Pte {
        pass("get");
        self.table.entry(addr).map_or(Pte::NoTable, |entry| unpack(load_to_change(entry)))
    }
    fn set(&mut self, addr: VirtAddr, pte: Pte) {
        self.table.entry(addr).expect("in the table").store(pack(pte), Ordering::Release);
    }
    fn clear_flush(&mut self, addr: VirtAddr) -> Pte {
        let old = self.table.entry(addr).map_or(Pte::NoTable, |entry| unpack(load_to_change(entry)));
        self.set(addr, Pte::None);
        old
    }
}

// Systems.

/// What tests need of a system, whatever its engine.
pub(super) trait TestSystem:
    Kernel<Design: Exhaust> + System<Table = Toy, MmData = (), VmaData = (), FileData = ()>
{
    /// What the engine knows of an address space, in words that are equal when it is the same.
    fn state(rmap: &Rmap<Self>, mm: &MmWrite<'_, Self>) -> String;
    /// Panics when the engine contradicts itself. `vmas` are all there are; their locks are held.
    fn check(engine: &Self::Engine, vmas: &[&Vma<Self>]);
    /// Whether the lock of an anchor is held, and is that of the anchor. Where the anchor is the lock's guard it cannot
    /// be another.
    fn is_locked(_: &AnchorOf<'_, Self>) -> bool {
        true
    }
}

/// A system over toy page tables with the given engine.
macro_rules! toy_system {
    ($(#[$doc:meta])* $name:ident, $engine:ident) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl System for $name {
            type Engine = $engine<Self>;
            type Table = Toy;
            type MmData = ();
            type VmaData = ();
            type FileData = ();
        }
    };
}

toy_system!(
    /// The engine `anon_vma`.
    Anon,
    AnonVmaEngine
);
toy_system!(
    /// The engine `objrmap`.
    Objrmap,
    ObjrmapEngine
);
toy_system!(
    /// The engine `pte_chain`.
    Chained,
    PteChain
);
toy_system!(
    /// The engine `full_scan`.
    FullScan,
    FullScanEngine
);
toy_system!(
    /// The engine `per_mm`.
    PerSpace,
    PerMm
);

/// A line for each VMA.
fn lines<S: System>(mm: &MmWrite<'_, S>, of: impl Fn(&Vma<S>) -> String) -> String {
    mm.vmas().map(|vma| std::format!("  {vma:?}: {}\n", of(vma))).collect()
}

impl TestSystem for Anon {
    fn state(_: &Rmap<Self>, mm: &MmWrite<'_, Self>) -> String {
        lines(mm, inspect::state_of)
    }
    fn check(_: &Self::Engine, vmas: &[&Vma<Self>]) {
        inspect::check_all(vmas);
    }
    fn is_locked(anchor: &AnchorOf<'_, Self>) -> bool {
        core::ptr::eq(anchor.anon_vma().root_of(), anchor.root()) && anchor.root().lock_for_test().is_locked()
    }
}

impl TestSystem for Objrmap {
    fn state(rmap: &Rmap<Self>, mm: &MmWrite<'_, Self>) -> String {
        lines(mm, |vma| std::format!("{:?}", rmap.engine().family_of(vma)))
    }
    fn check(engine: &Self::Engine, vmas: &[&Vma<Self>]) {
        engine.check(vmas);
    }
    fn is_locked(anchor: &AnchorOf<'_, Self>) -> bool {
        anchor.is_locked()
    }
}

impl TestSystem for FullScan {
    fn state(rmap: &Rmap<Self>, _: &MmWrite<'_, Self>) -> String {
        std::format!("{:?}\n", rmap.engine().listed())
    }
    fn check(engine: &Self::Engine, vmas: &[&Vma<Self>]) {
        engine.check(vmas);
    }
}

impl TestSystem for PerSpace {
    fn state(rmap: &Rmap<Self>, mm: &MmWrite<'_, Self>) -> String {
        rmap.engine().state(&mm.vmas().collect::<Vec<_>>())
    }
    fn check(_: &Self::Engine, _: &[&Vma<Self>]) {}
}

impl TestSystem for Chained {
    fn state(rmap: &Rmap<Self>, mm: &MmWrite<'_, Self>) -> String {
        let prepared: Vec<bool> = mm.vmas().map(|vma| rmap.engine().is_prepared(vma)).collect();
        std::format!("prepared {prepared:?}\n")
    }
    fn check(_: &Self::Engine, _: &[&Vma<Self>]) {}
}

// Steps of a memory manager. Memory of frames is counted, not kept.

/// A fresh anonymous page at `addr`; its one reference becomes the mapping's.
pub(super) fn map_new<S: TestSystem>(rmap: &Rmap<S>, vma: &Vma<S>, addr: VirtAddr, page: &Page) -> Result<()> {
    rmap.engine().prepare(vma)?;
    let _reserved = rmap.reserve(1)?;
    let mut table = vma.mm().table().lock(addr, false).expect("a table");
    if !table.get(addr).is_none() {
        return Err(Error::Exists);
    }
    rmap.page_add_new_anon_rmap(page, vma, addr, Level::Single)?;
    table.set(addr, Pte::present(page.pfn(), PteFlags::WRITE | PteFlags::YOUNG));
    Ok(())
}

/// Takes the mapping at `addr` away; returns the page if that was its last reference.
pub(super) fn unmap_one<'r, S: TestSystem>(rmap: &'r Rmap<S>, vma: &Vma<S>, addr: VirtAddr) -> Option<&'r Page> {
    let mut table = vma.mm().table().lock(addr, false)?;
    let pfn = table.get(addr).pfn()?;
    table.clear_flush(addr);
    let page = rmap.pages().page(pfn).expect("a frame");
    rmap.page_remove_rmap(page, vma, addr, Level::Single);
    page.put().then_some(page)
}

/// Copies the entries of `parent` to `child`: the second half of a fork. `swap_dup` hears of each swap entry.
pub(super) fn copy_entries<S: TestSystem>(
    rmap: &Rmap<S>,
    child: &Vma<S>,
    parent: &Vma<S>,
    mut swap_dup: impl FnMut(u64),
) -> Result<()> {
    let _reserved = rmap.reserve(parent.pages() as usize)?;
    for vpn in parent.start().vpn()..parent.end().vpn() {
        let addr = VirtAddr::from_vpn(vpn);
        // Lock order: PTE lock of the parent -> that of the child.
        let Some(mut from) = parent.mm().table().lock(addr, false) else { continue };
        let Some(mut to) = child.mm().table().lock(addr, true) else { continue };
        match from.get(addr) {
            Pte::Present { pfn, .. } => {
                let page = rmap.pages().page(pfn).expect("a frame");
                from.wrprotect(addr);
                page.get();
                rmap.page_dup_rmap(page, child, addr, Level::Single).expect("no page is pinned");
                to.set(addr, from.get(addr));
            }
            Pte::Swap(SwapEntry { slot, .. }) => {
                let shared = Pte::Swap(SwapEntry { slot, exclusive: false });
                swap_dup(slot);
                from.set(addr, shared);
                to.set(addr, shared);
            }
            other => to.set(addr, other),
        }
    }
    Ok(())
}
