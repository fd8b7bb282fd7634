//! A second engine, for tests: naive, small, and unlike [`anon_vma`](super::anon_vma), to keep the boundary honest.
//!
//! State per address space, none per VMA. Address spaces that were forked from one another are a *family*, and an
//! anonymous page's word points to it. A walk looks through every member for VMAs that contain the page's index.
//!
//! ```text
//!   page ──mapping word──▶ family ──members, parent before child──▶ mm: prepared VMAs, in order of preparation
//!                             ▲                                     mm
//!                             └──────────── mm.family ───────────── mm
//! ```
//!
//! **Index.** The page offset as the VMA counts it. A page that mremap moves keeps it, for the copy of the VMA begins
//! with the source's; so it is found by page offset wherever it lies, at an address that has nothing to do with its
//! index.
//!
//! **Complete (G1).** A walk holds the family's rwsem shared. Membership, the lists of VMAs, and the bounds of listed
//! VMAs change under the same lock held exclusively, so a walk sees one state of all of them, which contains every VMA
//! that maps the page: an address space is a member before a page is mapped in it, a VMA is listed before that, and
//! each leaves the list after its last page is unmapped. A child that forks during the walk waits for the walk's end,
//! to become a member or to list its next VMA: its entries are copied after that. It stands behind its parent, and VMAs
//! of one address space stand in order of preparation, copies behind their sources.
//!
//! **Life.** A family is founded when the first VMA of an address space without one is prepared, is joined by fork, and
//! left by [`mm_gone`](Engine::mm_gone), the founder like everybody else. Whoever leaves last gives it back. Its slot
//! is type-stable, the lock never re-initialised: a look-up may lock a dead family, or another in its slot, and then
//! finds the page unmapped or its word changed. Sufficient, because an address space leaves under the lock, after its
//! pages were unmapped: whoever has the lock and sees the page mapped with this word has a family with a member.

use super::{Engine, Footprint, Lookup, Relayout, Wait, lock_word};
use crate::base::alloc::{Heap, HeapVec};
use crate::base::error::{Error, Result};
use crate::base::slab::{Slab, SlabItem, SlabLink};
use crate::base::sync::atomic::{AtomicPtr, Ordering};
use crate::base::sync::{ReadGuard, RwSem, SpinLock, WriteGuard, rank};
use crate::base::types::{PgOff, VirtAddr};
use crate::ds::interval_tree::NeedNodes;
use crate::mm::{Arena, EngineData, Mm, System, Vma};
use crate::page::Page;
use crate::page::mapping::Mapping;
use core::cell::UnsafeCell;
use core::ops::ControlFlow;
use core::ptr::NonNull;

/// A list that grows by swapping in an array with more room, which was got without a lock.
struct List<T>(Option<HeapVec<NonNull<T>>>);

impl<T> List<T> {
    fn with_room(heap: &Heap, n: usize) -> Result<Self> {
        let mut items = heap.vec();
        items.try_reserve_exact(n).map_err(|_| Error::NoMemory)?;
        Ok(Self(Some(items)))
    }
    fn items(&self) -> &[NonNull<T>] {
        self.0.as_deref().unwrap_or_default()
    }
    fn room(&self) -> usize {
        self.0.as_ref().map_or(0, |items| items.capacity() - items.len())
    }
    fn has(&self, item: &T) -> bool {
        self.items().contains(&NonNull::from(item))
    }
    /// Appends, with the array of `spare` if its own is full; `spare` then has the old one. False: neither has room.
    fn push(&mut self, item: &T, spare: &mut Self) -> bool {
        if self.room() == 0 {
            if spare.room() <= self.items().len() {
                return false;
            }
            core::mem::swap(self, spare);
            self.0.iter_mut().for_each(|items| items.extend_from_slice(spare.items()));
        }
        self.0.iter_mut().for_each(|items| items.push(NonNull::from(item)));
        true
    }
    fn remove(&mut self, item: &T) {
        self.0.iter_mut().for_each(|items| items.retain(|i| *i != NonNull::from(item)));
    }
}

/// Address spaces that were forked from one another. Alive while it has members.
#[repr(align(8))]
pub(crate) struct Family<S: System> {
    lock: RwSem<{ rank::ANON_VMA }>,
    /// Parents before children. `lock`.
    members: UnsafeCell<List<Mm<S>>>,
    link: SlabLink,
}

// SAFETY: `members` is behind `lock`; address spaces are Send and Sync.
unsafe impl<S: System> Send for Family<S> {}
// SAFETY: as for Send.
unsafe impl<S: System> Sync for Family<S> {}

impl<S: System> SlabItem for Family<S> {
    fn vacant(link: SlabLink) -> Self {
        Self { lock: RwSem::new(), members: UnsafeCell::new(List(None)), link }
    }
    fn link(&self) -> &SlabLink {
        &self.link
    }
}

type FamilyWrite<'a> = WriteGuard<'a, { rank::ANON_VMA }>;

impl<S: System> Family<S> {
    fn members(&self, _held: &ReadGuard<'_, { rank::ANON_VMA }>) -> &[NonNull<Mm<S>>] {
        // SAFETY: the lock is held shared.
        unsafe { &*self.members.get() }.items()
    }
    #[allow(clippy::mut_from_ref)]
    fn members_mut<'a>(&'a self, _held: &'a mut FamilyWrite<'_>) -> &'a mut List<Mm<S>> {
        // SAFETY: the lock is held exclusively.
        unsafe { &mut *self.members.get() }
    }
}

/// The engine's data in an address space.
pub(crate) struct Member<S: System> {
    /// Null until a VMA is prepared, or the address space forked from one that has a family; then constant until
    /// `mm_gone`. Release; pairs with the Acquire in `family`.
    family: AtomicPtr<Family<S>>,
    /// Innermost of all, so that `is_prepared` may be asked under a PTE lock.
    guard: SpinLock<{ rank::LEAF }>,
    /// Prepared VMAs. Written under the family's lock and `guard`, read under either.
    vmas: UnsafeCell<List<Vma<S>>>,
}

// SAFETY: `vmas` is behind locks, as its comment says; the rest is atomic.
unsafe impl<S: System> Send for Member<S> {}
// SAFETY: as for Send.
unsafe impl<S: System> Sync for Member<S> {}

impl<S: System> Member<S> {
    fn family(&self) -> Option<&Family<S>> {
        // SAFETY: a member keeps its family; slots stay valid in any case.
        unsafe { self.family.load(Ordering::Acquire).as_ref() }
    }
    fn lists(&self, vma: &Vma<S>) -> bool {
        let _guard = self.guard.lock();
        // SAFETY: `guard` is held.
        unsafe { &*self.vmas.get() }.has(vma)
    }
    fn vmas(&self, _held: &ReadGuard<'_, { rank::ANON_VMA }>) -> &[NonNull<Vma<S>>] {
        // SAFETY: the family's lock is held shared (by its anchor).
        unsafe { &*self.vmas.get() }.items()
    }
    fn change<R>(&self, _held: &mut FamilyWrite<'_>, f: impl FnOnce(&mut List<Vma<S>>) -> R) -> R {
        // Lock order: family -> guard.
        let _guard = self.guard.lock();
        // SAFETY: both locks are held exclusively.
        f(unsafe { &mut *self.vmas.get() })
    }
}

/// The engine. See the [module](self).
pub(crate) struct PerMm<S: System> {
    families: Slab<Family<S>>,
}

/// A system that has chosen this engine. Implemented by itself.
pub(crate) trait PerMmSystem: System<Engine = PerMm<Self>> {}
impl<S: System<Engine = PerMm<S>>> PerMmSystem for S {}

impl<S: System> EngineData for PerMm<S> {
    type Mm = Member<S>;
    type Vma = ();
}

/// A family with its lock held shared.
pub(crate) struct Anchor<'a, S: System> {
    family: &'a Family<S>,
    held: ReadGuard<'a, { rank::ANON_VMA }>,
}

/// What a change of layout does to the list of its address space.
pub(crate) struct Plan<'a, S: System> {
    mm: &'a Mm<S>,
    /// VMAs to be listed.
    add: [Option<&'a Vma<S>>; 2],
    remove: Option<&'a Vma<S>>,
    spare: List<Vma<S>>,
}

fn member<S: PerMmSystem>(vma: &Vma<S>) -> &Member<S> {
    vma.mm().engine()
}

impl<S: PerMmSystem> PerMm<S> {
    /// The family of an address space, founded if there is none. Several threads may ask at once.
    fn family_of<'a>(&self, mm: &'a Mm<S>) -> Result<&'a Family<S>> {
        if let Some(family) = mm.engine().family() {
            return Ok(family);
        }
        let mut members = List::with_room(&mm.arena().heap, 1)?;
        members.push(mm, &mut List(None));
        let slot = self.families.take()?;
        // SAFETY: slots stay valid as long as the engine.
        let family = unsafe { slot.as_ref() };
        *family.members_mut(&mut family.lock.write()) = members;
        let none = core::ptr::null_mut();
        let won = &mm.engine().family;
        if won.compare_exchange(none, slot.as_ptr(), Ordering::AcqRel, Ordering::Acquire).is_err() {
            self.give_back(family);
        }
        mm.engine().family().ok_or(Error::Stale)
    }

    /// A family without members, or one that nobody has seen.
    fn give_back(&self, family: &Family<S>) {
        let members = core::mem::replace(family.members_mut(&mut family.lock.write()), List(None));
        drop(members);
        // SAFETY: taken from `families`; given once, by whoever left last.
        unsafe { self.families.give(NonNull::from(family)) };
    }

    /// Lists a VMA unless it is listed. Memory is got while no lock is held.
    fn list(&self, vma: &Vma<S>) -> Result<()> {
        let family = self.family_of(vma.mm())?;
        let mut spare = List(None);
        loop {
            let mut held = family.lock.write();
            let (done, len) =
                member(vma).change(&mut held, |vmas| (vmas.has(vma) || vmas.push(vma, &mut spare), vmas.items().len()));
            drop(held);
            if done {
                return Ok(());
            }
            spare = List::with_room(&vma.mm().arena().heap, len + 1)?;
        }
    }
}

impl<S: PerMmSystem> Engine<S> for PerMm<S> {
    const NAME: &'static str = "per_mm";

    type Anchor<'a>
        = Anchor<'a, S>
    where
        S: 'a;
    type MoveLock<'a>
        = FamilyWrite<'a>
    where
        S: 'a;
    type Plan<'a>
        = Plan<'a, S>
    where
        S: 'a;

    fn new(arena: &Arena<S>) -> Result<Self> {
        Ok(Self { families: Slab::new(&arena.heap) })
    }

    fn mm_data(&self, _: &Arena<S>) -> Result<Member<S>> {
        let vmas = UnsafeCell::new(List(None));
        Ok(Member { family: AtomicPtr::new(core::ptr::null_mut()), guard: SpinLock::new(), vmas })
    }
    fn mm_gone(&self, mm: &Mm<S>) {
        let Some(family) = mm.engine().family() else { return };
        let mut held = family.lock.write();
        debug_assert!(mm.engine().change(&mut held, |vmas| vmas.items().is_empty()), "a VMA was not unlinked");
        let members = family.members_mut(&mut held);
        members.remove(mm);
        let last = members.items().is_empty();
        drop(held);
        mm.engine().family.store(core::ptr::null_mut(), Ordering::Release);
        if last {
            self.give_back(family);
        }
    }
    fn fork_begin(&self, child: &Mm<S>, parent: &Mm<S>) -> Result<()> {
        let Some(family) = parent.engine().family() else { return Ok(()) };
        let mut spare = List(None);
        loop {
            let mut held = family.lock.write();
            let members = family.members_mut(&mut held);
            if members.push(child, &mut spare) {
                child.engine().family.store(core::ptr::from_ref(family).cast_mut(), Ordering::Release);
                return Ok(());
            }
            let len = members.items().len();
            drop(held);
            spare = List::with_room(&child.arena().heap, len + 1)?;
        }
    }

    fn prepare(&self, vma: &Vma<S>) -> Result<()> {
        if self.is_prepared(vma) { Ok(()) } else { self.list(vma) }
    }
    fn is_prepared(&self, vma: &Vma<S>) -> bool {
        member(vma).lists(vma)
    }
    fn fork(&self, child: &Vma<S>, parent: &Vma<S>) -> Result<()> {
        if self.is_prepared(parent) { self.list(child) } else { Ok(()) }
    }
    fn copy(&self, copy: &Vma<S>, source: &Vma<S>) -> Result<()> {
        if self.is_prepared(source) { self.list(copy) } else { Ok(()) }
    }
    fn may_merge(&self, _: &Vma<S>, _: &Vma<S>) -> bool {
        true
    }
    fn plan_relayout<'a>(&self, change: &Relayout<'a, S>) -> Result<Plan<'a, S>> {
        let (vma, _) = change.vma;
        let add = change.joining(|vma| self.is_prepared(vma));
        // SAFETY: mmap_lock is held exclusively (contract), so nobody prepares a VMA of this address space.
        let len = unsafe { &*vma.mm().engine().vmas.get() }.items().len();
        let spare = List::with_room(&vma.mm().arena().heap, len + 2)?;
        Ok(Plan { mm: vma.mm(), add, remove: change.remove, spare })
    }
    fn commit_relayout(&self, plan: &mut Plan<'_, S>, apply: &mut dyn FnMut()) -> Result<(), NeedNodes> {
        let Plan { mm, add, remove, spare } = plan;
        // Lock order: mmap_lock -> i_mmap_rwsem -> family.
        let mut held = mm.engine().family().map(|family| family.lock.write());
        apply();
        if let Some(held) = &mut held {
            mm.engine().change(held, |vmas| {
                if let Some(vma) = remove {
                    vmas.remove(vma);
                }
                for vma in add.iter().flatten() {
                    let listed = vmas.push(vma, spare);
                    debug_assert!(listed, "the plan has room for two");
                }
            });
        }
        Ok(())
    }
    fn unlink(&self, vma: &Vma<S>) {
        if let Some(family) = member(vma).family() {
            member(vma).change(&mut family.lock.write(), |vmas| vmas.remove(vma));
        }
    }
    fn lock_for_move<'a>(&self, vma: &'a Vma<S>) -> Option<FamilyWrite<'a>> {
        Some(member(vma).family()?.lock.write())
    }
    unsafe fn unlock_move(&self, vma: &Vma<S>) {
        if let Some(family) = member(vma).family() {
            // SAFETY: the caller's contract.
            unsafe { family.lock.unlock_write_raw() }
        }
    }

    fn anchor_page(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, _exclusive: bool) {
        let Some(family) = member(vma).family() else {
            debug_assert!(false, "an anonymous page is mapped in a VMA that was not prepared");
            return;
        };
        page.set_index(vma.bounds().pgoff_of(addr));
        page.mapping().store(Mapping::Anon(NonNull::from(family).cast()));
    }
    fn reanchor(&self, _: &Page, _: &Vma<S>, _: VirtAddr) {}

    fn lock_anchor(&self, page: &Page, wait: Wait) -> Lookup<Anchor<'_, S>> {
        // SAFETY: an anonymous word points to a slot of this engine, and slots stay valid as long as the engine.
        let family = |word: NonNull<()>| unsafe { word.cast::<Family<S>>().as_ref() };
        lock_word(page, wait, |word| &family(word).lock).map(|(word, held)| Anchor { family: family(word), held })
    }
    fn walk_anchor(
        &self,
        anchor: &Anchor<'_, S>,
        first: PgOff,
        last: PgOff,
        mut visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for mm in anchor.family.members(&anchor.held) {
            // SAFETY: members leave under the lock, which is held shared, before they are freed.
            for vma in unsafe { mm.as_ref() }.engine().vmas(&anchor.held) {
                // SAFETY: as above, for VMAs.
                let vma = unsafe { vma.as_ref() };
                if let Some(addr) = vma.bounds().first_of(first, last) {
                    visit(vma, addr)?;
                }
            }
        }
        ControlFlow::Continue(())
    }
    fn is_contended(&self, anchor: &Anchor<'_, S>) -> bool {
        anchor.family.lock.is_contended()
    }

    fn footprint(&self) -> Footprint {
        let anchors = self.families.live();
        Footprint { anchors, links: 0, bytes: anchors * size_of::<Family<S>>() as u64 }
    }
    fn vma_footprint(&self, vma: &Vma<S>) -> Footprint {
        let listed = u64::from(self.is_prepared(vma));
        Footprint { anchors: 0, links: listed, bytes: listed * size_of::<NonNull<Vma<S>>>() as u64 }
    }
}

impl<S: PerMmSystem> PerMm<S> {
    /// Takes all slots that can be had without an allocation, for good.
    pub(crate) fn exhaust(&self) {
        self.families.exhaust();
    }

    /// Everything that the engine knows of the address spaces of `vmas`, for comparison.
    pub(crate) fn state(&self, vmas: &[&Vma<S>]) -> alloc::string::String {
        use core::fmt::Write;
        let mut out = alloc::format!("{} families\n", self.families.live());
        for vma in vmas {
            let Some(family) = member(vma).family() else { continue };
            let held = family.lock.read();
            let _ = writeln!(out, "{vma:?}: {:?} {:?}", family.members(&held), member(vma).vmas(&held));
        }
        out
    }
}
