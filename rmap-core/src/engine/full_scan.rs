//! The engine `full_scan`: Linux before 2.5, which had no reverse map.
//!
//! ```text
//!   every anonymous page ──mapping word──▶ the engine ──list──▶ VMA ──▶ VMA ──▶ VMA ──▶ ...
//!                                                        of all address spaces, in order of preparation
//! ```
//!
//! Those kernels could not ask who maps a page: reclaim went through the address spaces, one after the other, and
//! unmapped what it met. This is that search as an answer to the question: a walk looks at every VMA there is, and
//! yields the address at which the page's offset would lie in it. Nothing is kept for a page or a family, a word says
//! no more than "anonymous", and unrelated processes, which often map the same offsets, are candidates for one
//! another's pages. It is what every other engine is measured against.
//!
//! **Which VMAs.** The prepared ones of every address space. Others have no anonymous page, so leaving them out loses
//! nothing; and the boundary tells an engine of a VMA's bounds and end from its preparation on. Prepared means here:
//! listed.
//!
//! **Index.** The page offset as the VMA counts it, the same in all VMAs that can map the page.
//!
//! **Complete (G1).** One rwsem for all. A walk holds it shared; the list and the bounds of the VMAs in it change under
//! it held exclusively. A VMA is listed before a page is mapped in it, and leaves after the last was unmapped. Who is
//! listed later is visited later, so children come after parents and copies after sources.
//!
//! **Memory (T11).** The links lie in the VMAs: nothing here allocates once the engine was made.

use super::sketch::{Line, Sketch};
use super::vma_list::{ListWrite, VmaList};
use super::{Engine, Footprint, Holds, Lookup, Relayout, Wait, lock_word};
use crate::base::error::Result;
use crate::base::href::Href;
use crate::base::mutant::mutant;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{ReadGuard, rank};
use crate::base::types::{PgOff, VirtAddr};
use crate::ds::interval_tree::NeedNodes;
use crate::ds::list::{Link, Linked};
use crate::mm::{Arena, EngineData, System, Vma};
use crate::page::Page;
use crate::page::mapping::Mapping;
use core::ops::ControlFlow;

/// The engine's data in a VMA.
pub struct VmaScan<S: System> {
    /// Whether it is in the list. Written under the list's lock, Release; pairs with the Acquire in `is_prepared`,
    /// which may be asked without it.
    listed: AtomicBool,
    /// The list's lock.
    node: Link<Vma<S>>,
}

impl<S: System> Default for VmaScan<S> {
    fn default() -> Self {
        Self { listed: AtomicBool::new(false), node: Link::default() }
    }
}

/// The links of the list of all VMAs.
struct ByScan;

impl<S: FullScanSystem> Linked<Vma<S>> for ByScan {
    #[inline]
    fn link(vma: &Vma<S>) -> &Link<Vma<S>> {
        &scan(vma).node
    }
}

/// The engine. See the [module](self).
pub struct FullScanEngine<S: System> {
    /// In a block of its own, for pages point to it.
    all: Href<VmaList<S, ByScan>>,
}

/// A system that has chosen this engine, or can at run time. Implemented by itself.
pub trait FullScanSystem: System<Engine: EngineData<Vma: Holds<VmaScan<Self>>>> {}

impl<S: System<Engine: EngineData<Vma: Holds<VmaScan<S>>>>> FullScanSystem for S {}

/// The engine's data in a VMA.
#[inline]
fn scan<S: FullScanSystem>(vma: &Vma<S>) -> &VmaScan<S> {
    vma.engine().part()
}

impl<S: System> EngineData for FullScanEngine<S> {
    type Mm = ();
    type Vma = VmaScan<S>;
}

/// What a change of layout does to the list.
pub struct Plan<'a, S: System> {
    /// Whether one of the VMAs involved is listed. Of others walks know nothing.
    listed: bool,
    join: [Option<&'a Vma<S>>; 2],
    leave: Option<&'a Vma<S>>,
}

impl<S: FullScanSystem> FullScanEngine<S> {
    /// The lock of everything. Lock order: after mmap_lock, page lock and `i_mmap_rwsem`, before PTE locks.
    fn lock(&self) -> ListWrite<'_> {
        self.all.lock.write()
    }

    /// Lists a VMA, last, unless it is listed.
    fn list(&self, _held: &ListWrite<'_>, vma: &Vma<S>) {
        if !scan(vma).listed.load(Ordering::Relaxed) {
            // SAFETY: the lock is held exclusively; not listed, and VMAs are unlinked before they are freed.
            unsafe { self.all.push(vma) };
            scan(vma).listed.store(true, Ordering::Release);
        }
    }

    /// Takes a VMA from the list if it is there.
    fn strike(&self, _held: &ListWrite<'_>, vma: &Vma<S>) {
        if scan(vma).listed.load(Ordering::Relaxed) {
            // SAFETY: the lock is held exclusively; listed.
            unsafe { self.all.remove(vma) };
            scan(vma).listed.store(false, Ordering::Release);
        }
    }

    /// Lists `vma` if `source` is listed, and therefore after it.
    fn list_like(&self, vma: &Vma<S>, source: &Vma<S>) {
        if self.is_prepared(source) {
            self.list(&self.lock(), vma);
        }
    }
}

impl<S: FullScanSystem> Engine<S> for FullScanEngine<S> {
    const NAME: &'static str = "full_scan";

    type Anchor<'a>
        = ReadGuard<'a, { rank::ANON_VMA }>
    where
        S: 'a;
    type MoveLock<'a>
        = ListWrite<'a>
    where
        S: 'a;
    type Plan<'a>
        = Plan<'a, S>
    where
        S: 'a;

    fn new(arena: &Arena<S>) -> Result<Self> {
        Ok(Self { all: Href::new(&arena.heap, VmaList::new())? })
    }

    fn mm_data(&self, _: &Arena<S>) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn prepare(&self, vma: &Vma<S>) -> Result<()> {
        if !self.is_prepared(vma) {
            self.list(&self.lock(), vma);
        }
        Ok(())
    }
    #[inline]
    fn is_prepared(&self, vma: &Vma<S>) -> bool {
        scan(vma).listed.load(Ordering::Acquire)
    }
    fn fork(&self, child: &Vma<S>, parent: &Vma<S>) -> Result<()> {
        self.list_like(child, parent);
        Ok(())
    }
    fn copy(&self, copy: &Vma<S>, source: &Vma<S>) -> Result<()> {
        self.list_like(copy, source);
        Ok(())
    }
    fn may_merge(&self, _: &Vma<S>, _: &Vma<S>) -> bool {
        true
    }
    /// A merge ties nobody to anything that it was not tied to before.
    fn plan_relayout<'a>(&self, change: &Relayout<'a, S>) -> Result<Plan<'a, S>> {
        let listed = |vma: &Vma<S>| self.is_prepared(vma);
        Ok(Plan { listed: change.before().any(listed), join: change.joining(listed), leave: change.remove })
    }
    fn commit_relayout(&self, plan: &mut Plan<'_, S>, apply: &mut dyn FnMut()) -> Result<(), NeedNodes> {
        if !plan.listed {
            apply();
            return Ok(());
        }
        // Lock order: mmap_lock -> i_mmap_rwsem -> the list.
        let held = self.lock();
        apply();
        for vma in plan.join.iter().flatten().filter(|_| !mutant("full_scan_split_unlisted")) {
            self.list(&held, vma);
        }
        if let Some(gone) = plan.leave {
            self.strike(&held, gone);
        }
        Ok(())
    }
    fn unlink(&self, vma: &Vma<S>) {
        if self.is_prepared(vma) {
            self.strike(&self.lock(), vma);
        }
    }
    fn lock_for_move<'a>(&'a self, vma: &'a Vma<S>) -> Option<ListWrite<'a>> {
        self.is_prepared(vma).then(|| self.lock())
    }
    unsafe fn unlock_move(&self, vma: &Vma<S>) {
        if self.is_prepared(vma) {
            // SAFETY: the caller's contract.
            unsafe { self.all.lock.unlock_write_raw() }
        }
    }

    #[inline]
    fn anchor_page(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, _exclusive: bool) {
        page.set_index(vma.bounds().pgoff_of(addr));
        page.mapping().store(Mapping::Anon(Href::as_ptr(&self.all).cast()));
    }
    fn reanchor(&self, _: &Page, _: &Vma<S>, _: VirtAddr) {}

    fn lock_anchor(&self, page: &Page, wait: Wait) -> Lookup<Self::Anchor<'_>> {
        lock_word(page, wait, |_| &self.all.lock).map(|(_, held)| held)
    }
    fn walk_anchor(
        &self,
        _held: &Self::Anchor<'_>,
        first: PgOff,
        last: PgOff,
        visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // SAFETY: the anchor holds the lock.
        unsafe { self.all.walk(first, last, visit) }
    }
    fn is_contended(&self, _: &Self::Anchor<'_>) -> bool {
        self.all.lock.is_contended()
    }

    fn draw(&self, _held: &Self::Anchor<'_>, sketch: &mut Sketch) {
        // SAFETY: the anchor holds the lock.
        let listed = unsafe { self.all.iter() }.count();
        let lines = [Line::Text("no reverse map"), Line::Number("VMAs of all address spaces:", listed as u64)];
        let node = sketch.anchor(&*self.all, &lines);
        sketch.word(node);
        sketch.lead_to_vmas(node, "scan");
    }

    /// What all pages point to is the engine's own, and comes and goes with it: it is no anchor that anybody pays for.
    fn footprint(&self) -> Footprint {
        Footprint { anchors: 0, links: 0, bytes: size_of::<VmaList<S, ByScan>>() as u64 }
    }
    fn vma_footprint(&self, vma: &Vma<S>) -> Footprint {
        let links = u64::from(self.is_prepared(vma));
        Footprint { anchors: 0, links, bytes: size_of::<VmaScan<S>>() as u64 }
    }
}

#[cfg(test)]
impl<S: FullScanSystem> FullScanEngine<S> {
    /// The VMAs that a walk looks at, in its order. Their locks are held.
    pub(crate) fn listed(&self) -> alloc::vec::Vec<&Vma<S>> {
        let _held = self.all.lock.read();
        // SAFETY: the lock is held shared; listed VMAs outlive what tests do with them.
        unsafe { self.all.iter() }.collect()
    }

    /// Panics unless the list has each prepared VMA once, and nobody else. `vmas` are all there are, and their locks
    /// are held.
    pub(crate) fn check(&self, vmas: &[&Vma<S>]) {
        let listed = self.listed();
        for vma in vmas {
            let times = listed.iter().filter(|other| core::ptr::eq(**other, *vma)).count();
            assert_eq!(times, usize::from(self.is_prepared(vma)), "{vma:?} is listed if it is prepared, once");
        }
        let prepared = vmas.iter().filter(|vma| self.is_prepared(vma)).count();
        assert_eq!(prepared, listed.len(), "who is listed is alive");
    }
}
