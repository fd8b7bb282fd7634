//! The engine `anon_vma`: Linux 2.6.34 to today.
//!
//! ```text
//!   page ──mapping word──▶ anon_vma P (root) ──tree──▶ VMA of the parent
//!                              ▲   │
//!                       parent │   └──────────tree──▶ VMA of the child      (pages from before the fork)
//!                              │                         │ own
//!   page of the child ──────▶ anon_vma C ──tree──▶ VMA of the child        (pages written after it)
//! ```
//!
//! A region that is written gets an anon_vma; fork gives the child's region one of its own and ties it to all of the
//! parent's too. A page points to the anon_vma of the process that first wrote it, so a walk visits only those who can
//! have inherited it: the page of one child among a thousand siblings has one candidate.
//!
//! | file | what it is |
//! |---|---|
//! | `node` | one anon_vma: lock, root, reference count, tree |
//! | `chain` | the ties of one VMA |
//! | `topology` | prepare, fork, copy, unlink: how ties come and go |
//! | `relayout` | split, merge, adjust: how ties change while walks go on |
//! | `lookup` | page to anchor without a lock, page to locked anchor |
//! | `draw` | the tree and the chains behind a page, for a picture |
//!
//! **Locks.** One rwsem, the root's, for all trees of a family; lock order in the crate's documentation. `VMA lock` is
//! the mmap_lock of a VMA's address space.
//!
//! **Bound (G5).** A chain of forks in which every parent exits before the next fork has at most 3 anon_vmas, the root
//! never being reused: a fork takes an anon_vma of its ancestors that has no VMA of its own and at most one child. In
//! general a fork adds one only when each in its chain has a VMA of its own or another child besides, so a chain has at
//! most one link more than there were VMAs at the family's peak, plus one for the root. Most trees stay below twice the
//! peak in all; ancestors that exit after nested forks leave anon_vmas that only their descendants' forks reuse, and a
//! history made for it comes to about half the square of the peak.

mod chain;
mod draw;
#[cfg(test)]
pub(crate) mod inspect;
mod lookup;
mod node;
mod relayout;
mod topology;

pub use chain::VmaAnon;
pub use lookup::{Anchor, AnchorRef};
pub use node::AnonVma;
pub use relayout::Plan;

use super::sketch::Sketch;
use super::{Engine, Footprint, Holds, Lookup, Relayout, Wait};
use crate::base::error::Result;
use crate::base::mutant::mutant;
use crate::base::slab::Slab;
use crate::base::sync::{WriteGuard, rank};
use crate::base::types::{PgOff, VirtAddr};
use crate::ds::interval_tree::NeedNodes;
use crate::mm::{Arena, EngineData, System, Vma};
use crate::page::Page;
use crate::page::mapping::Mapping;
use core::ops::ControlFlow;

/// The engine. See the [module](self).
pub struct AnonVmaEngine<S: System> {
    nodes: Slab<AnonVma<S>>,
}

/// A system that has chosen this engine, or can at run time. Implemented by itself.
pub trait AnonVmaSystem: System<Engine: EngineData<Vma: Holds<VmaAnon<Self>>>> {}

impl<S: System<Engine: EngineData<Vma: Holds<VmaAnon<S>>>>> AnonVmaSystem for S {}

/// The engine's data in a VMA.
#[inline]
fn ties<S: AnonVmaSystem>(vma: &Vma<S>) -> &VmaAnon<S> {
    vma.engine().part()
}

impl<S: System> EngineData for AnonVmaEngine<S> {
    type Mm = ();
    type Vma = VmaAnon<S>;
}

impl<S: AnonVmaSystem> Engine<S> for AnonVmaEngine<S> {
    const NAME: &'static str = "anon_vma";

    type Anchor<'a>
        = Anchor<'a, S>
    where
        S: 'a;
    type MoveLock<'a>
        = WriteGuard<'a, { rank::ANON_VMA }>
    where
        S: 'a;
    type Plan<'a>
        = Plan<'a, S>
    where
        S: 'a;

    fn new(arena: &Arena<S>) -> Result<Self> {
        Ok(Self { nodes: Slab::new(&arena.heap) })
    }

    fn mm_data(&self, _: &Arena<S>) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn prepare(&self, vma: &Vma<S>) -> Result<()> {
        if ties(vma).get().is_some() { Ok(()) } else { self.prepare_slow(vma) }
    }
    #[inline]
    fn is_prepared(&self, vma: &Vma<S>) -> bool {
        ties(vma).get().is_some()
    }
    fn fork(&self, child: &Vma<S>, parent: &Vma<S>) -> Result<()> {
        self.fork_vma(child, parent)
    }
    fn copy(&self, copy: &Vma<S>, source: &Vma<S>) -> Result<()> {
        self.copy_vma(copy, source)
    }
    fn may_merge(&self, a: &Vma<S>, b: &Vma<S>) -> bool {
        match (ties(a).get(), ties(b).get()) {
            (Some(x), Some(y)) => core::ptr::eq(x, y),
            // One side was never written: it takes over the other's chain.
            (Some(_), None) => Engine::<S>::may_take_in_new(self, a),
            (None, Some(_)) => Engine::<S>::may_take_in_new(self, b),
            (None, None) => true,
        }
    }
    /// What is new must not be tied to other processes' pages.
    fn may_take_in_new(&self, vma: &Vma<S>) -> bool {
        ties(vma).links() <= 1 || mutant("merge_forked")
    }
    fn plan_relayout<'a>(&self, change: &Relayout<'a, S>) -> Result<Plan<'a, S>> {
        Plan::new(change)
    }
    fn commit_relayout(&self, plan: &mut Plan<'_, S>, apply: &mut dyn FnMut()) -> Result<(), NeedNodes> {
        plan.commit(apply)
    }
    fn unlink(&self, vma: &Vma<S>) {
        self.unlink_vma(vma);
    }
    fn lock_for_move<'a>(&self, vma: &'a Vma<S>) -> Option<Self::MoveLock<'a>> {
        Some(ties(vma).get()?.lock_root())
    }
    unsafe fn unlock_move(&self, vma: &Vma<S>) {
        if let Some(own) = ties(vma).get() {
            // SAFETY: the caller's contract; the root is the one that was locked, since the VMA is still linked to this
            // anon_vma.
            unsafe { own.root().lock().unlock_write_raw() }
        }
    }

    #[inline]
    fn anchor_page(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, exclusive: bool) {
        let Some(own) = ties(vma).get() else {
            debug_assert!(false, "an anonymous page is mapped in a VMA that was not prepared");
            return;
        };
        let anchor = if exclusive || mutant("anchor_own_always") { own } else { own.root() };
        page.set_index(vma.bounds().pgoff_of(addr));
        page.mapping().store(Mapping::Anon(anchor.word()));
    }
    fn reanchor(&self, page: &Page, vma: &Vma<S>, _: VirtAddr) {
        if let Some(own) = ties(vma).get() {
            page.mapping().store(Mapping::Anon(own.word()));
        }
    }

    #[inline]
    fn lock_anchor(&self, page: &Page, wait: Wait) -> Lookup<Anchor<'_, S>> {
        self.lock_anon_vma_read(page, wait)
    }
    #[inline]
    fn walk_anchor(
        &self,
        anchor: &Anchor<'_, S>,
        first: PgOff,
        last: PgOff,
        visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        anchor.for_each_vma(first, last, visit)
    }
    fn is_contended(&self, anchor: &Anchor<'_, S>) -> bool {
        anchor.is_contended()
    }

    fn draw(&self, anchor: &Anchor<'_, S>, sketch: &mut Sketch) {
        draw::draw(anchor, sketch);
    }

    fn footprint(&self) -> Footprint {
        let anchors = self.nodes.live();
        Footprint { anchors, links: 0, bytes: anchors * size_of::<AnonVma<S>>() as u64 }
    }
    fn vma_footprint(&self, vma: &Vma<S>) -> Footprint {
        Footprint { anchors: 0, links: ties(vma).links() as u64, bytes: ties(vma).bytes() as u64 }
    }
}
