//! The engine `pte_chain`: Linux 2.5.
//!
//! Each page carries the list of all its mappings: of files' pages too, whose lists were most of the memory. One that
//! is mapped once, as most are, has the mapping in its descriptor; others have a chain of nodes, a cache line each. A
//! walk offers what maps the page and nothing else.
//!
//! ```text
//!   page ─▶ (mm, address)                                         one mapping: no node
//!   page ─▶ node [ (mm, a)  (mm, b)  -  -  -  - ] ─▶ node [ ... ]  several
//!
//!   (mm, address) ──seat──▶ mm ──by address, without a lock──▶ VMA
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `chain` | the chains: entries, nodes, the walk over one, and the promise that there is a node for who needs one |
//! | here | what entries name, and the engine's verbs |
//!
//! An entry names the address space by its *seat* and the virtual page. Splits, merges and moved boundaries leave that
//! as it is: no entry knows of VMAs. A compound page has a chain for each of its pages; head and first tail share one,
//! since the head's word counts mappings, and it has the entries for the whole page as well.
//!
//! # Locks
//!
//! | lock | rank | what it guards |
//! |---|---|---|
//! | the engine's rwsem | anchor | seats and VMAs stay, and bounds (G2) |
//! | the chain's spin lock, one of a few | leaf | word, slots and `next` of a chain are written under it |
//!
//! Walks hold the rwsem shared; whoever changes bounds, unlinks a VMA or ends an address space holds it exclusively. It
//! is the same for all pages: a visitor starts no other walk. Nobody waits for anything while holding a chain's lock.
//!
//! Mappings come, go and move under their PTE locks, and take the chain's lock inside. A walk's visitor takes PTE
//! locks, so a walk holds no chain's lock while it visits: it reads the chain without. Linux 2.5 held it, and tried for
//! the page-table lock of each mapping; a try can fail, and a walk that leaves out a mapping is not complete. What
//! makes the walk complete instead (G1):
//!
//! 1. **One walk of a page at a time**: the page lock. While it goes on, the chain is marked as walked.
//! 2. **Entries stay where they are** while the chain is walked. An entry that is taken out leaves a blank; nothing is
//!    moved into it, nodes stay linked. So every entry that stays is come by, once. The walk puts the chain in order
//!    when it ends.
//! 3. **New entries come behind all others** while the chain is walked. Fork copies a mapping under the PTE lock of its
//!    source; if it does before the walk visits the source, then the walk comes by the copy after that (T13, T7); if it
//!    does later, it copies what the walk made of the source.
//! 4. **A mapping that moves stays in its slot** (T4): mremap sets the entry at the new place, then the slot, then
//!    clears the entry at the old place. A walk looks at a slot again after the visit: if it found the old place empty,
//!    it sees the new one in the slot. So no move needs a lock that keeps walks away.
//!
//! Where no walk is, the last entry fills each hole, so that only the first node has blanks; an entry that is left
//! alone goes to the page. An only entry is visited without any mark: whatever took its place is in the page's word,
//! which is looked at again.
//!
//! **Life.** A mapping's entry is in the chain before its PTE is set, and leaves it after the PTE was cleared. A page
//! is unmapped before its VMA is unlinked, and that waits for walks: whoever holds the rwsem and sees an entry finds
//! seat, address space and VMA alive and in place. No grace period takes part but the one that the look-up of a VMA by
//! address asks for.
//!
//! # Memory
//!
//! Nodes are type-stable and go back to their slab, never to the heap, while the engine lives. A mapping needs one at
//! most, and is made under a PTE lock, where nothing can be allocated (G8): so whoever makes mappings has them promised
//! before ([`reserve`](Engine::reserve)), and a promise is kept (`Chains::reserve`). One entry for a whole compound
//! page keeps a promise for each of its pages, as Linux deposits a page table: its split cannot fail. There is at most
//! a node for each mapping (G5).

mod chain;
#[cfg(all(test, not(loom)))]
mod tests;

use super::sketch::{Line, Sketch, Tie};
use super::{Engine, Footprint, Holds, Lookup, Relayout, Wait};
use crate::base::error::{Error, Result};
use crate::base::rcu::RcuGuard;
use crate::base::slab::{Slab, SlabItem, SlabLink};
use crate::base::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use crate::base::sync::{ReadGuard, RwSem, rank};
use crate::base::types::{PgOff, VirtAddr};
use crate::ds::interval_tree::NeedNodes;
use crate::mm::{Arena, EngineData, Mm, System, Vma};
use crate::page::Page;
use crate::page::mapping::Mapping;
use chain::{Chains, Entry, Part};
use core::convert::Infallible;
use core::ops::ControlFlow;
use core::ptr::NonNull;

/// What an anonymous page's mapping word points to: it says that the page is anonymous, and nothing more.
static ANONYMOUS: u64 = 0;

/// What an address space is known by in entries.
struct Seat<S: System> {
    /// Who sits here, or null. Written before the address space has mappings, and under the engine's rwsem when it
    /// goes; read under that.
    mm: AtomicPtr<Mm<S>>,
    link: SlabLink,
}

impl<S: System> SlabItem for Seat<S> {
    fn vacant(link: SlabLink) -> Self {
        Self { mm: AtomicPtr::new(core::ptr::null_mut()), link }
    }
    fn link(&self) -> &SlabLink {
        &self.link
    }
}

/// The engine's data in an address space: the number of its seat.
#[derive(Debug)]
pub struct MmSeat(AtomicU32);

/// The number of an address space that has no seat.
const NO_SEAT: u32 = u32::MAX;

/// The engine's data in a VMA: whether anonymous pages may be mapped in it. Relaxed: set under mmap_lock, whoever asks
/// holds it or comes from there.
#[derive(Debug, Default)]
pub struct VmaPrepared(AtomicBool);

/// The engine. See the [module](self).
pub struct PteChain<S: System> {
    /// See the [module](self).
    rwsem: RwSem<{ rank::ANON_VMA }>,
    seats: Slab<Seat<S>>,
    chains: Chains,
}

/// A system that has chosen this engine, or can at run time. Implemented by itself.
pub trait PteChainSystem: System<Engine: EngineData<Mm: Holds<MmSeat>, Vma: Holds<VmaPrepared>>> {}

impl<S: System<Engine: EngineData<Mm: Holds<MmSeat>, Vma: Holds<VmaPrepared>>>> PteChainSystem for S {}

impl<S: System> EngineData for PteChain<S> {
    type Mm = MmSeat;
    type Vma = VmaPrepared;
}

/// A page, and the engine's rwsem held shared.
#[must_use = "the rwsem is released at once when this is dropped"]
pub struct Anchor<'a> {
    /// A head, or a page of its own.
    page: NonNull<Page>,
    rwsem: &'a RwSem<{ rank::ANON_VMA }>,
    _held: ReadGuard<'a, { rank::ANON_VMA }>,
}

/// What a change of layout does to VMAs' preparedness.
pub struct Plan<'a, S: System> {
    /// The VMAs that inherit it.
    heirs: [Option<&'a Vma<S>>; 2],
    gone: Option<&'a Vma<S>>,
    prepared: bool,
}

#[inline]
fn prepared<S: PteChainSystem>(vma: &Vma<S>) -> &AtomicBool {
    &vma.engine().part().0
}

/// What a mapping at `addr` in `vma` is called.
#[inline]
fn entry<S: PteChainSystem>(vma: &Vma<S>, addr: VirtAddr) -> Entry {
    // Relaxed: constant while the address space has VMAs.
    Entry::new(vma.mm().engine().part().0.load(Ordering::Relaxed), addr)
}

impl<S: PteChainSystem> PteChain<S> {
    /// The address space of an entry that was seen in a chain. The rwsem is held (`_anchor`), by which it stays.
    #[inline]
    fn mm_of<'a>(&self, entry: Entry, _anchor: &'a Anchor<'_>) -> Option<&'a Mm<S>> {
        let seat = self.seats.get(entry.seat())?;
        // SAFETY: (1) a seat with a number in an entry is constructed, and stays a seat as long as the engine lives;
        // (2) the address space of a mapping goes only under the rwsem held exclusively (`mm_gone`), after it had no
        // mappings.
        unsafe { seat.as_ref().mm.load(Ordering::Acquire).as_ref() }
    }

    /// Calls `chain` with a page for each chain of the anchor's.
    #[inline]
    fn each_chain(anchor: &Anchor<'_>, mut chain: impl FnMut(&Page) -> ControlFlow<()>) -> ControlFlow<()> {
        // SAFETY: descriptors stay (contract of `lock_anchor`).
        let head = unsafe { anchor.page.as_ref() };
        if !head.is_compound() {
            return chain(head);
        }
        // The first tail's chain is the head's too.
        (1..head.nr_pages()).try_for_each(|n| chain(head.nth(n)))
    }

    fn inherit(&self, heir: &Vma<S>, from: &Vma<S>) {
        prepared(heir).store(self.is_prepared(from), Ordering::Relaxed);
    }
}

impl<S: PteChainSystem> Engine<S> for PteChain<S> {
    const NAME: &'static str = "pte_chain";

    type Anchor<'a>
        = Anchor<'a>
    where
        S: 'a;
    type MoveLock<'a>
        = Infallible
    where
        S: 'a;
    type Plan<'a>
        = Plan<'a, S>
    where
        S: 'a;

    fn new(arena: &Arena<S>) -> Result<Self> {
        let (seats, chains) = (Slab::new(&arena.heap), Chains::new(&arena.heap));
        Ok(Self { rwsem: RwSem::new(), seats, chains })
    }

    fn mm_data(&self, _: &Arena<S>) -> Result<MmSeat> {
        Ok(MmSeat(AtomicU32::new(NO_SEAT)))
    }
    fn mm_made(&self, mm: &Mm<S>) -> Result<()> {
        let taken = self.seats.take()?;
        // SAFETY: seats stay seats as long as the engine.
        let seat = unsafe { taken.as_ref() };
        let number = seat.link.index();
        if number >> Entry::SEAT_BITS != 0 {
            // SAFETY: taken above; nobody knows it.
            unsafe { self.seats.give(taken) };
            return Err(Error::NoMemory);
        }
        seat.mm.store(core::ptr::from_ref(mm).cast_mut(), Ordering::Release);
        mm.engine().part().0.store(number, Ordering::Relaxed);
        Ok(())
    }
    fn mm_gone(&self, mm: &Mm<S>) {
        let number = mm.engine().part().0.swap(NO_SEAT, Ordering::Relaxed);
        let Some(taken) = self.seats.get(number) else { return };
        // A walk that has seen one of its last entries may be on its way to it.
        let held = self.rwsem.write();
        // SAFETY: seats stay seats as long as the engine.
        unsafe { taken.as_ref() }.mm.store(core::ptr::null_mut(), Ordering::Release);
        drop(held);
        // SAFETY: taken in `mm_made`, and given once: the address space has forgotten it.
        unsafe { self.seats.give(taken) };
    }

    #[inline]
    fn prepare(&self, vma: &Vma<S>) -> Result<()> {
        prepared(vma).store(true, Ordering::Relaxed);
        Ok(())
    }
    #[inline]
    fn is_prepared(&self, vma: &Vma<S>) -> bool {
        prepared(vma).load(Ordering::Relaxed)
    }
    fn fork(&self, child: &Vma<S>, parent: &Vma<S>) -> Result<()> {
        self.inherit(child, parent);
        Ok(())
    }
    fn copy(&self, copy: &Vma<S>, source: &Vma<S>) -> Result<()> {
        self.inherit(copy, source);
        Ok(())
    }
    fn may_merge(&self, _: &Vma<S>, _: &Vma<S>) -> bool {
        true
    }
    fn plan_relayout<'a>(&self, change: &Relayout<'a, S>) -> Result<Plan<'a, S>> {
        let (vma, _) = change.vma;
        let involved = [Some(vma), change.remove, change.shift.map(|(other, _)| other)];
        let prepared = involved.into_iter().flatten().any(|v| self.is_prepared(v));
        Ok(Plan { heirs: [Some(vma), change.insert], gone: change.remove, prepared })
    }
    fn commit_relayout(&self, plan: &mut Plan<'_, S>, apply: &mut dyn FnMut()) -> Result<(), NeedNodes> {
        // Lock order: mmap_lock -> i_mmap_rwsem -> the engine's rwsem.
        let held = self.rwsem.write();
        apply();
        drop(held);
        for heir in plan.heirs.into_iter().flatten() {
            prepared(heir).store(plan.prepared, Ordering::Relaxed);
        }
        if let Some(gone) = plan.gone {
            prepared(gone).store(false, Ordering::Relaxed);
        }
        Ok(())
    }
    fn unlink(&self, vma: &Vma<S>) {
        // Walks that have seen one of its last entries are done with it when this returns.
        drop(self.rwsem.write());
        prepared(vma).store(false, Ordering::Relaxed);
    }
    fn lock_for_move(&self, _: &Vma<S>) -> Option<Infallible> {
        None
    }
    unsafe fn unlock_move(&self, _: &Vma<S>) {}

    fn reserve(&self, n: usize) -> Result<()> {
        self.chains.reserve(n as u64)
    }
    fn unreserve(&self, n: usize) {
        self.chains.unreserve(n as u64);
    }
    fn anchor_page(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, _exclusive: bool) {
        page.set_index(vma.bounds().pgoff_of(addr));
        page.mapping().store(Mapping::Anon(NonNull::from(&ANONYMOUS).cast()));
    }
    fn reanchor(&self, _: &Page, _: &Vma<S>, _: VirtAddr) {}
    fn page_mapped(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr) {
        self.chains.add(page, entry(vma, addr));
    }
    fn page_unmapped(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr) {
        self.chains.remove(page, entry(vma, addr));
    }
    fn entire_mapped(&self, head: &Page, vma: &Vma<S>, addr: VirtAddr) {
        self.page_mapped(head, vma, addr);
        self.chains.deposit(head.nr_pages());
    }
    fn entire_unmapped(&self, head: &Page, vma: &Vma<S>, addr: VirtAddr) {
        self.page_unmapped(head, vma, addr);
        self.chains.unreserve(head.nr_pages());
    }
    fn page_moved(&self, page: &Page, (source, old): (&Vma<S>, VirtAddr), (copy, new): (&Vma<S>, VirtAddr)) {
        self.chains.replace(page, entry(source, old), entry(copy, new));
    }

    fn finds_entries(&self) -> bool {
        true
    }
    fn lock_anchor(&self, page: &Page, wait: Wait) -> Lookup<Anchor<'_>> {
        let page = page.head();
        if !page.is_mapped() {
            return Lookup::Unmapped;
        }
        let held = match wait {
            Wait::Block => self.rwsem.read(),
            Wait::Try => match self.rwsem.try_read() {
                Some(held) => held,
                None => return Lookup::Contended,
            },
        };
        if !page.is_mapped() {
            return Lookup::Unmapped;
        }
        Lookup::Found(Anchor { page: NonNull::from(page), rwsem: &self.rwsem, _held: held })
    }
    /// All pages of a compound page are looked at, whatever the offsets. The page lock is held.
    fn walk_anchor(
        &self,
        anchor: &Anchor<'_>,
        _: PgOff,
        _: PgOff,
        mut visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut section: Option<RcuGuard<'_>> = None;
        let mut one = |entry: Entry| {
            let Some(mm) = self.mm_of(entry, anchor) else { return ControlFlow::Continue(()) };
            let section = section.get_or_insert_with(|| mm.arena().rcu.read_lock());
            match mm.find_racy(section, entry.addr()) {
                Some(vma) => visit(vma, entry.addr()),
                // It was unmapped meanwhile.
                None => ControlFlow::Continue(()),
            }
        };
        Self::each_chain(anchor, |page| self.chains.walk(page, &mut one))
    }
    fn is_contended(&self, anchor: &Anchor<'_>) -> bool {
        anchor.rwsem.is_contended()
    }

    /// Nodes, and which of the page's entries each holds. Such as came or went since the walk are left out.
    fn draw(&self, anchor: &Anchor<'_>, sketch: &mut Sketch) {
        let _ = Self::each_chain(anchor, |page| {
            let mut from = sketch.page();
            self.chains.show(page, |part| match part {
                Part::Node(node, used) => {
                    let tie = if from == sketch.page() { Tie::Leads } else { Tie::Beside };
                    let lines = [Line::Text("node of a chain"), Line::Number("entries, of six:", used as u64)];
                    let to = sketch.anchor(node, &lines);
                    sketch.tie(from, to, tie, if tie == Tie::Leads { "chain" } else { "next" });
                    from = to;
                }
                Part::Entry(entry) => {
                    let mm = self.mm_of(entry, anchor).map(Mm::id);
                    if let Some(to) = mm.and_then(|mm| sketch.find_entry(mm, entry.addr())) {
                        sketch.tie(from, to, Tie::Leads, if from == sketch.page() { "only mapping" } else { "" });
                    }
                }
            });
            ControlFlow::Continue(())
        });
    }

    /// Anchors are nodes, links the entries in them.
    fn footprint(&self) -> Footprint {
        let (nodes, entries) = self.chains.in_use();
        let seats = self.seats.live() * size_of::<Seat<S>>() as u64;
        Footprint { anchors: nodes, links: entries, bytes: nodes * size_of::<chain::Node>() as u64 + seats }
    }
    fn vma_footprint(&self, _: &Vma<S>) -> Footprint {
        Footprint { bytes: size_of::<VmaPrepared>() as u64, ..Footprint::default() }
    }
}

#[cfg(test)]
impl<S: System> PteChain<S> {
    /// Takes all slots that can be had without an allocation, for good.
    pub(crate) fn exhaust(&self) {
        self.chains.exhaust();
        self.seats.exhaust();
    }
}
