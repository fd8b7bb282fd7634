//! The engine `objrmap`: Linux 2.6.7 to 2.6.33, the object-based reverse map.
//!
//! ```text
//!   page ──mapping word──▶ anon_vma ──list──▶ VMA of the parent ──▶ of child 1 ──▶ of child 2 ──▶ ...
//!                             ▲                      │ anon_vma         │               │
//!                             └──────────────────────┴──────────────────┴───────────────┘
//! ```
//!
//! A region that is written gets an anon_vma, and keeps it: fork links the child's VMA to the parent's, and so do split
//! and mremap. A page points to the anon_vma of the VMA that it was first mapped in, whichever process that was, so a
//! walk looks at the whole fork family: the page that one child among a thousand siblings wrote has a thousand
//! candidates, one of which maps it. That is the design's known weakness, and what [`anon_vma`](super::anon_vma) was
//! made for; what it has for it is that fork costs one link, and a page never has to change its anchor.
//!
//! **Index.** The page offset as the VMA counts it, the same in all VMAs that can map the page.
//!
//! **Complete (G1).** All VMAs that map a page, or hold its swap entry, have the same anon_vma, since mappings spread
//! by fork, split, copy and merge alone: the first three hand the anon_vma on, and only VMAs with the same one, or one
//! that has none and therefore no anonymous page, are merged. A walk holds the anon_vma's rwsem shared; the list and
//! the bounds of the VMAs in it change under the same lock held exclusively. A VMA is linked before a page is mapped in
//! it, and unlinked after the last was unmapped. Who is linked later is visited later, so children come after parents
//! and copies after sources.
//!
//! **Memory (T11).** The links lie in the VMAs, so whoever forks, splits, merges or moves allocates nothing here;
//! `prepare` alone needs memory, for an anon_vma, and gets it before any lock.
//!
//! **Life (T6).** An anon_vma dies with its last VMA, and its type-stable slot may be another's at once. A look-up that
//! locked a dead one, or another in its slot, finds the page unmapped or its word changed, for a VMA is unlinked under
//! the lock, after its pages were unmapped.

use super::sketch::{Line, Sketch, Tie};
use super::vma_list::{ListWrite, VmaList};
use super::{Engine, Footprint, Holds, Lookup, Relayout, Wait, lock_word, of_mergeable_neighbour};
use crate::base::error::Result;
use crate::base::mutant::mutant;
use crate::base::slab::{Slab, SlabItem, SlabLink};
use crate::base::sync::atomic::{AtomicPtr, Ordering};
use crate::base::sync::{ReadGuard, rank};
use crate::base::types::{PgOff, VirtAddr};
use crate::ds::interval_tree::NeedNodes;
use crate::ds::list::{Link, Linked};
use crate::mm::{Arena, EngineData, System, Vma};
use crate::page::Page;
use crate::page::mapping::Mapping;
use core::ops::ControlFlow;
use core::ptr::NonNull;

/// The anchor that the anonymous pages of a fork family's region point to. Alive while VMAs are linked to it.
pub struct AnonVma<S: System> {
    vmas: VmaList<S, ByTie>,
    link: SlabLink,
}

impl<S: System> SlabItem for AnonVma<S> {
    fn vacant(link: SlabLink) -> Self {
        Self { vmas: VmaList::new(), link }
    }
    fn link(&self) -> &SlabLink {
        &self.link
    }
}

/// The engine's data in a VMA.
pub struct VmaAnon<S: System> {
    /// Null: no anonymous page was ever mapped. Set once under mmap_lock (shared suffices: a compare-exchange decides
    /// between threads), Release; pairs with the Acquire in `get`. Cleared and changed under mmap_lock (write).
    anon_vma: AtomicPtr<AnonVma<S>>,
    /// In the list of `anon_vma`, whose lock guards it (`anon_vma_node`).
    node: Link<Vma<S>>,
}

impl<S: System> Default for VmaAnon<S> {
    fn default() -> Self {
        Self { anon_vma: AtomicPtr::new(core::ptr::null_mut()), node: Link::default() }
    }
}

impl<S: System> VmaAnon<S> {
    /// The VMA's anon_vma. VMA lock held, so that it stays.
    #[inline]
    pub fn get(&self) -> Option<&AnonVma<S>> {
        // SAFETY: a VMA is linked to its anon_vma, which is therefore alive; slots stay valid in any case.
        unsafe { self.anon_vma.load(Ordering::Acquire).as_ref() }
    }

    /// Makes `node` the VMA's anon_vma, unless it has one.
    fn win(&self, node: &AnonVma<S>) -> bool {
        let node = core::ptr::from_ref(node).cast_mut();
        self.anon_vma.compare_exchange(core::ptr::null_mut(), node, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// The links of an anon_vma's list.
struct ByTie;

impl<S: ObjrmapSystem> Linked<Vma<S>> for ByTie {
    #[inline]
    fn link(vma: &Vma<S>) -> &Link<Vma<S>> {
        &tie(vma).node
    }
}

/// The engine. See the [module](self).
pub struct ObjrmapEngine<S: System> {
    nodes: Slab<AnonVma<S>>,
}

/// A system that has chosen this engine, or can at run time. Implemented by itself.
pub trait ObjrmapSystem: System<Engine: EngineData<Vma: Holds<VmaAnon<Self>>>> {}

impl<S: System<Engine: EngineData<Vma: Holds<VmaAnon<S>>>>> ObjrmapSystem for S {}

/// The engine's data in a VMA.
#[inline]
fn tie<S: ObjrmapSystem>(vma: &Vma<S>) -> &VmaAnon<S> {
    vma.engine().part()
}

impl<S: System> EngineData for ObjrmapEngine<S> {
    type Mm = ();
    type Vma = VmaAnon<S>;
}

/// An anon_vma with its lock held shared.
pub struct Anchor<'a, S: System> {
    node: &'a AnonVma<S>,
    _held: ReadGuard<'a, { rank::ANON_VMA }>,
}

/// What a change of layout does to the list of one anon_vma.
pub struct Plan<'a, S: System> {
    /// The anon_vma that all prepared VMAs involved share; `None`: none is prepared.
    node: Option<&'a AnonVma<S>>,
    join: [Option<&'a Vma<S>>; 2],
    leave: Option<&'a Vma<S>>,
}

impl<S: ObjrmapSystem> AnonVma<S> {
    /// The lock of the list. Lock order: after mmap_lock, page lock and `i_mmap_rwsem`, before PTE locks.
    fn lock(&self) -> ListWrite<'_> {
        self.vmas.lock.write()
    }

    /// Links a VMA that has no anon_vma to this one. `_held` is its lock.
    ///
    /// # Safety
    /// The VMA stays alive until it is unlinked.
    unsafe fn link(&self, _held: &ListWrite<'_>, vma: &Vma<S>) {
        if tie(vma).win(self) {
            // SAFETY: the lock is held exclusively; a VMA without anon_vma is in no list, and who wins the exchange
            // puts it into one.
            unsafe { self.vmas.push(vma) };
        }
    }

    /// Unlinks one of its VMAs. `_held` is its lock. Returns whether it was the last: the anon_vma is dead then.
    ///
    /// # Safety
    /// The VMA is linked to it.
    unsafe fn unlink(&self, _held: &ListWrite<'_>, vma: &Vma<S>) -> bool {
        tie(vma).anon_vma.store(core::ptr::null_mut(), Ordering::Release);
        // SAFETY: the lock is held exclusively, and the VMA linked (contract).
        unsafe { self.vmas.remove(vma) }
    }
}

impl<S: ObjrmapSystem> ObjrmapEngine<S> {
    /// Takes the anon_vma of a neighbour or a fresh one. Several threads may come here for one VMA, and several for
    /// neighbours.
    #[cold]
    fn prepare_slow(&self, vma: &Vma<S>) -> Result<()> {
        // SAFETY: the VMA lock is held (contract of `prepare`).
        let shared = unsafe { of_mergeable_neighbour(vma, |near| tie(near).get().map(NonNull::from)) };
        let slot = match shared {
            Some(slot) => slot,
            None => self.nodes.take()?,
        };
        // SAFETY: a neighbour stays linked to its anon_vma while the VMA lock is held; slots stay valid in any case.
        let node = unsafe { slot.as_ref() };
        // Before the exchange: who sees the VMA prepared, maps a page and looks it up waits here until the VMA is in
        // the list.
        let held = node.lock();
        // SAFETY: VMAs are unlinked before they are freed.
        unsafe { node.link(&held, vma) };
        drop(held);
        let lost = tie(vma).get().is_none_or(|own| !core::ptr::eq(own, node));
        if lost && shared.is_none() {
            self.free(node);
        }
        Ok(())
    }

    /// `vma` gets the anon_vma of `source`, and is visited after it.
    fn link_like(vma: &Vma<S>, source: &Vma<S>) {
        if let Some(node) = tie(source).get() {
            // SAFETY: VMAs are unlinked before they are freed.
            unsafe { node.link(&node.lock(), vma) };
        }
    }

    /// Gives back an anon_vma without VMAs. Nobody can link one any more: for that the caller's VMA lock, or a VMA that
    /// is linked, would be needed.
    fn free(&self, node: &AnonVma<S>) {
        // SAFETY: taken from `nodes`; given once, by whoever unlinked the last VMA, or by whoever took it in vain.
        unsafe { self.nodes.give(NonNull::from(node)) };
    }
}

impl<S: ObjrmapSystem> Engine<S> for ObjrmapEngine<S> {
    const NAME: &'static str = "objrmap";

    type Anchor<'a>
        = Anchor<'a, S>
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
        Ok(Self { nodes: Slab::new(&arena.heap) })
    }

    fn mm_data(&self, _: &Arena<S>) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn prepare(&self, vma: &Vma<S>) -> Result<()> {
        if self.is_prepared(vma) { Ok(()) } else { self.prepare_slow(vma) }
    }
    #[inline]
    fn is_prepared(&self, vma: &Vma<S>) -> bool {
        tie(vma).get().is_some()
    }
    fn fork(&self, child: &Vma<S>, parent: &Vma<S>) -> Result<()> {
        if !mutant("objrmap_fork_unlinked") {
            Self::link_like(child, parent);
        }
        Ok(())
    }
    fn copy(&self, copy: &Vma<S>, source: &Vma<S>) -> Result<()> {
        Self::link_like(copy, source);
        Ok(())
    }
    fn may_merge(&self, a: &Vma<S>, b: &Vma<S>) -> bool {
        match (tie(a).get(), tie(b).get()) {
            (Some(x), Some(y)) => core::ptr::eq(x, y) || mutant("objrmap_merge_any"),
            // Who was never written has nothing to lose; that it joins a whole family shows in walks alone.
            _ => true,
        }
    }
    fn plan_relayout<'a>(&self, change: &Relayout<'a, S>) -> Result<Plan<'a, S>> {
        let node = change.before().find_map(|vma| tie(vma).get());
        let leave = change.remove.filter(|vma| self.is_prepared(vma));
        Ok(Plan { node, join: change.joining(|vma| self.is_prepared(vma)), leave })
    }
    fn commit_relayout(&self, plan: &mut Plan<'_, S>, apply: &mut dyn FnMut()) -> Result<(), NeedNodes> {
        let Some(node) = plan.node else {
            apply();
            return Ok(());
        };
        // Lock order: mmap_lock -> i_mmap_rwsem -> anon_vma.
        let held = node.lock();
        apply();
        for vma in plan.join.iter().flatten() {
            // SAFETY: VMAs are unlinked before they are freed.
            unsafe { node.link(&held, vma) };
        }
        if let Some(gone) = plan.leave {
            // SAFETY: prepared, and `may_merge` said that its anon_vma is this one.
            let last = unsafe { node.unlink(&held, gone) };
            debug_assert!(!last, "the VMA that it became part of is linked");
        }
        Ok(())
    }
    fn unlink(&self, vma: &Vma<S>) {
        let Some(node) = tie(vma).get() else { return };
        let held = node.lock();
        // SAFETY: a VMA is linked to its anon_vma.
        let last = unsafe { node.unlink(&held, vma) };
        drop(held);
        if last {
            self.free(node);
        }
    }
    fn lock_for_move<'a>(&self, vma: &'a Vma<S>) -> Option<ListWrite<'a>> {
        Some(tie(vma).get()?.lock())
    }
    unsafe fn unlock_move(&self, vma: &Vma<S>) {
        if let Some(node) = tie(vma).get() {
            // SAFETY: the caller's contract; the VMA is still on this list.
            unsafe { node.vmas.lock.unlock_write_raw() }
        }
    }

    /// Exclusive or not, the page is the family's (T1).
    #[inline]
    fn anchor_page(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, _exclusive: bool) {
        let Some(node) = tie(vma).get() else {
            debug_assert!(false, "an anonymous page is mapped in a VMA that was not prepared");
            return;
        };
        page.set_index(vma.bounds().pgoff_of(addr));
        page.mapping().store(Mapping::Anon(NonNull::from(node).cast()));
    }
    /// The page stays with the family, whoever is left of it (T14 is this design's to pay).
    fn reanchor(&self, _: &Page, _: &Vma<S>, _: VirtAddr) {}

    fn lock_anchor(&self, page: &Page, wait: Wait) -> Lookup<Anchor<'_, S>> {
        // SAFETY: an anonymous word points to a slot of this engine (`anchor_page`), and slots stay valid as long as
        // the engine.
        let node = |word: NonNull<()>| unsafe { word.cast::<AnonVma<S>>().as_ref() };
        lock_word(page, wait, |word| &node(word).vmas.lock).map(|(word, held)| Anchor { node: node(word), _held: held })
    }
    fn walk_anchor(
        &self,
        anchor: &Anchor<'_, S>,
        first: PgOff,
        last: PgOff,
        visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // SAFETY: the anchor holds the lock.
        unsafe { anchor.node.vmas.walk(first, last, visit) }
    }
    fn is_contended(&self, anchor: &Anchor<'_, S>) -> bool {
        anchor.node.vmas.lock.is_contended()
    }

    fn draw(&self, anchor: &Anchor<'_, S>, sketch: &mut Sketch) {
        // SAFETY: the anchor holds the lock.
        let vmas = || unsafe { anchor.node.vmas.iter() };
        let lines = [Line::Text("anon_vma"), Line::Number("VMAs in its list:", vmas().count() as u64)];
        let node = sketch.anchor(anchor.node, &lines);
        sketch.word(node);
        sketch.lead_to_vmas(node, "list");
        for vma in vmas() {
            if let Some(vma) = sketch.find(vma) {
                sketch.tie(vma, node, Tie::Own, "anon_vma");
            }
        }
    }

    fn footprint(&self) -> Footprint {
        let anchors = self.nodes.live();
        Footprint { anchors, links: 0, bytes: anchors * size_of::<AnonVma<S>>() as u64 }
    }
    fn vma_footprint(&self, vma: &Vma<S>) -> Footprint {
        let links = u64::from(self.is_prepared(vma));
        Footprint { anchors: 0, links, bytes: size_of::<VmaAnon<S>>() as u64 }
    }
}

#[cfg(test)]
impl<S: ObjrmapSystem> Anchor<'_, S> {
    /// Whether its lock is held.
    pub(crate) fn is_locked(&self) -> bool {
        self.node.vmas.lock.is_locked()
    }
}

#[cfg(test)]
impl<S: ObjrmapSystem> ObjrmapEngine<S> {
    /// Takes all slots that can be had without an allocation, for good.
    pub(crate) fn exhaust(&self) {
        self.nodes.exhaust();
    }

    /// The anon_vma of a VMA, and the VMAs of that. The VMA lock is held.
    pub(crate) fn family_of<'a>(&self, vma: &'a Vma<S>) -> (*const AnonVma<S>, alloc::vec::Vec<&'a Vma<S>>) {
        let Some(node) = tie(vma).get() else { return (core::ptr::null(), alloc::vec::Vec::new()) };
        let _held = node.vmas.lock.read();
        // SAFETY: the lock is held shared; VMAs that are linked beside this one outlive what tests do with them.
        (node, unsafe { node.vmas.iter() }.collect())
    }

    /// Panics unless each VMA is in the list of its anon_vma once, and nobody else is. `vmas` are all there are, and
    /// their locks are held.
    pub(crate) fn check(&self, vmas: &[&Vma<S>]) {
        for vma in vmas {
            let (node, family) = self.family_of(vma);
            let same = vmas.iter().filter(|other| !node.is_null() && core::ptr::eq(self.family_of(other).0, node));
            assert_eq!(same.count(), family.len(), "the list of {vma:?} has VMAs of another anon_vma, or some twice");
            let times = family.iter().filter(|other| core::ptr::eq(**other, *vma)).count();
            assert_eq!(times, usize::from(!node.is_null()), "{vma:?} is in the list of its anon_vma, once");
        }
    }
}
