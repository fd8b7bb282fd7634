//! A small memory manager: address spaces with one anonymous region at one address, page tables of one entry.

use rmap_core::base::alloc::Heap;
use rmap_core::base::sync::{SpinGuard, SpinLock, atomic::AtomicU64, atomic::Ordering, rank};
use rmap_core::base::types::{Pfn, VirtAddr, VmFlags};
use rmap_core::engine::Engine;
use rmap_core::engine::anon_vma::AnonVmaEngine;
use rmap_core::mm::{Mm, System, Vma, VmaBounds};
use rmap_core::page::Page;
use rmap_core::page::pte::{LockedTable, PageTable, Pte, PteFlags};
use rmap_core::rmap::Rmap;
use rmap_core::rmap::account::Level;
use rmap_core::rmap::walk::WalkControl;
use std::ops::ControlFlow;

/// Where every region lies.
pub(crate) const ADDR: VirtAddr = VirtAddr(1 << 30);
/// Pages of a region.
const PAGES: u64 = 16;

/// The system that is measured: the engine `anon_vma` over the smallest page table.
#[derive(Debug)]
pub(crate) struct Bench;

impl System for Bench {
    type Engine = AnonVmaEngine<Self>;
    type Table = OneEntry;
    type MmData = ();
    type VmaData = ();
    type FileData = ();
}

/// A page table that can map one page, at [`ADDR`].
#[derive(Debug, Default)]
pub(crate) struct OneEntry {
    lock: SpinLock<{ rank::PAGE_TABLE }>,
    /// 1 + the frame's number, or 0.
    entry: AtomicU64,
}

impl OneEntry {
    fn get(&self, addr: VirtAddr) -> Pte {
        match self.entry.load(Ordering::Relaxed) {
            n if n > 0 && addr == ADDR => Pte::present(Pfn(n - 1), PteFlags::empty()),
            _ => Pte::None,
        }
    }
}

/// The entry under its lock.
pub(crate) struct Locked<'a> {
    table: &'a OneEntry,
    _held: SpinGuard<'a, { rank::PAGE_TABLE }>,
}

impl PageTable for OneEntry {
    type Locked<'a> = Locked<'a>;

    #[inline]
    fn load(&self, addr: VirtAddr) -> Pte {
        self.get(addr)
    }
    #[inline]
    fn lock(&self, _: VirtAddr, nested: bool) -> Option<Locked<'_>> {
        let held = if nested { self.lock.lock_nested() } else { self.lock.lock() };
        Some(Locked { table: self, _held: held })
    }
    fn flush(&self, _: VirtAddr, _: VirtAddr) {}
}

impl LockedTable for Locked<'_> {
    #[inline]
    fn get(&self, addr: VirtAddr) -> Pte {
        self.table.get(addr)
    }
    fn set(&mut self, _: VirtAddr, pte: Pte) {
        self.table.entry.store(pte.pfn().map_or(0, |pfn| pfn.0 + 1), Ordering::Relaxed);
    }
    fn clear_flush(&mut self, addr: VirtAddr) -> Pte {
        let old = self.get(addr);
        self.table.entry.store(0, Ordering::Relaxed);
        old
    }
}

/// Bounds of an anonymous region at an address.
pub(crate) fn bounds_at(start: VirtAddr) -> VmaBounds {
    VmaBounds { start, end: start.add_pages(PAGES), pgoff: start.vpn() }
}

/// A context. It lives as long as the program, and so do its address spaces and regions.
pub(crate) struct Space {
    pub(crate) rmap: Rmap<Bench>,
}

impl Space {
    /// A context with `pages` frames.
    pub(crate) fn new(pages: u64) -> &'static Self {
        let rmap = Rmap::new(&Heap::global().expect("memory")).expect("memory");
        rmap.pages().add(Pfn(0), pages).expect("memory");
        Box::leak(Box::new(Self { rmap }))
    }

    /// The engine.
    pub(crate) fn engine(&self) -> &AnonVmaEngine<Bench> {
        self.rmap.engine()
    }

    /// An empty address space.
    pub(crate) fn mm(&self) -> &'static Mm<Bench> {
        Box::leak(Box::new(self.rmap.mm_new(OneEntry::default(), ()).expect("memory")))
    }

    /// A region that was never written.
    pub(crate) fn region(&self, mm: &'static Mm<Bench>, start: VirtAddr) -> &'static Vma<Bench> {
        let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::MAYREAD | VmFlags::MAYWRITE;
        self.rmap.vma_new(&mm.write(), bounds_at(start), flags, None, ()).expect("a free range")
    }

    /// An address space with a region at [`ADDR`] that was written.
    pub(crate) fn process(&self) -> &'static Vma<Bench> {
        let vma = self.region(self.mm(), ADDR);
        self.engine().prepare(vma).expect("memory");
        vma
    }

    /// The copy of a region in a new address space.
    pub(crate) fn fork(&self, parent: &'static Vma<Bench>) -> &'static Vma<Bench> {
        let (child, parent_mm) = (self.mm(), parent.mm().write());
        self.rmap.vma_fork(&child.write_nested(), &parent_mm, parent).expect("memory")
    }

    /// A region whose chain has `depth` links: a line of forks in which everybody lives.
    pub(crate) fn line(&self, depth: usize) -> &'static Vma<Bench> {
        (1..depth).fold(self.process(), |vma, _| self.fork(vma))
    }

    /// A page that `vma` was the first to map.
    pub(crate) fn page_of(&self, pfn: u64, vma: &Vma<Bench>) -> &Page {
        let page = self.rmap.pages().page(Pfn(pfn)).expect("a frame of the context");
        let mut table = vma.mm().table().lock(ADDR, false).expect("a table");
        table.set(ADDR, Pte::present(page.pfn(), PteFlags::empty()));
        self.rmap.page_add_new_anon_rmap(page, vma, ADDR, Level::Single).expect("a fresh page");
        page
    }

    /// Maps the page in a child too.
    pub(crate) fn share(&self, page: &Page, child: &Vma<Bench>) {
        let mut table = child.mm().table().lock(ADDR, false).expect("a table");
        table.set(ADDR, Pte::present(page.pfn(), PteFlags::empty()));
        self.rmap.page_dup_rmap(page, child, ADDR, Level::Single).expect("not pinned");
    }

    /// A region and `children` copies of it in processes forked from its own.
    pub(crate) fn family(&self, children: usize) -> (&'static Vma<Bench>, Vec<&'static Vma<Bench>>) {
        let parent = self.process();
        (parent, (0..children).map(|_| self.fork(parent)).collect())
    }

    /// Walks a page, whose lock the caller holds: how many were visited.
    #[inline]
    pub(crate) fn walk(&self, page: &Page) -> u64 {
        let mut visited = 0;
        let mut rmap_one = |_: &Vma<Bench>, _: VirtAddr| {
            visited += 1;
            ControlFlow::Continue(())
        };
        self.rmap.rmap_walk(page, &mut WalkControl::new(&mut rmap_one));
        visited
    }

    /// The same with a look at each page table: how many map the page.
    #[inline]
    pub(crate) fn walk_mappings(&self, page: &Page) -> u64 {
        let mut found = 0;
        self.rmap.for_each_mapping(page, |_, _, _| {
            found += 1;
            ControlFlow::Continue(())
        });
        found
    }
}

/// Numbers that look random, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }
    /// Puts `items` in another order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
