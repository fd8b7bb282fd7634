//! The boundary: every reverse-mapping design lives behind [`Engine`].
//!
//! What differs between designs is how the *candidates* of a page are found: the pairs (VMA, address) at which it may
//! be mapped. The layer above checks each candidate against the page tables and so turns candidates into *mappings*. An
//! engine may yield a candidate that is no mapping; it must never leave out one that is (guarantee G1).
//!
//! | engine | idea | Linux |
//! |---|---|---|
//! | [`full_scan`] | no reverse map: look through every VMA of every address space | before 2.5 |
//! | [`pte_chain`] | each page carries the list of all its mappings, in nodes of a cache line | 2.5 |
//! | [`objrmap`] | an `anon_vma` per region, which its whole fork family shares: a list of VMAs | 2.6.7 to 2.6.33 |
//! | [`anon_vma`] | an `anon_vma` per process and region, linked to VMAs, one rwsem in the root | 2.6.34 to today |
//!
//! [`any`] is one of them, chosen at run time.
//!
//! **To add an engine**: one file with a type that implements [`EngineData`] (what it keeps in an address space and in
//! a VMA) and [`Engine`] (its verbs; [`Engine::draw`] shows it in pictures), and a [`System`] that names it. No engine
//! calls another, and none scans all address spaces as a fallback ([`full_scan`] alone does, and nothing else).
//! `tests/own_engine.rs` has one from outside the crate, whole.
//!
//! Who calls which verb under which locks is said at each verb; "VMA lock" there is the mmap_lock of the VMA's address
//! space.

pub mod anon_vma;
pub mod any;
pub mod full_scan;
pub mod objrmap;
#[cfg(test)]
pub(crate) mod per_mm;
pub mod pte_chain;
pub mod sketch;
mod vma_list;

use crate::base::error::Result;
use crate::base::mutant::mutant;
use crate::base::sync::{ReadGuard, RwSem, rank};
use crate::base::types::{PgOff, VirtAddr, VmFlags};
use crate::ds::interval_tree::NeedNodes;
use crate::mm::address_space::MmLocked;
use crate::mm::{Arena, EngineData, File, FileRef, Mm, System, Vma, VmaBounds};
use crate::page::Page;
use crate::page::mapping::Mapping;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use sketch::{Line, Sketch};

/// A [`System`] whose engine has its verbs. Implemented by itself.
pub trait Kernel: System<Engine = <Self as Kernel>::Design> {
    /// The engine.
    type Design: Engine<Self>;
}

impl<S> Kernel for S
where
    S: System,
    S::Engine: Engine<S>,
{
    type Design = S::Engine;
}

/// Data of an engine, or of several of which one is chosen at run time: where one engine finds its own.
pub trait Holds<T> {
    /// The engine's own.
    fn part(&self) -> &T;
}

impl<T> Holds<T> for T {
    #[inline]
    fn part(&self) -> &T {
        self
    }
}

/// A change of one VMA's bounds, and of what stands beside it, that walkers see as one step.
pub struct Relayout<'a, S: System> {
    /// The VMA that stays, with its new bounds. Its page offsets change at the ends only: an address that it keeps
    /// keeps its offset.
    pub vma: (&'a Vma<S>, VmaBounds),
    /// A VMA that appears beside it: the upper part of a split. Its bounds are set, its engine data empty.
    pub insert: Option<&'a Vma<S>>,
    /// A VMA that disappears into it: a merge. `may_merge` was asked.
    pub remove: Option<&'a Vma<S>>,
    /// A neighbour whose bounds change too: the boundary between two VMAs moves.
    pub shift: Option<(&'a Vma<S>, VmaBounds)>,
}

impl<'a, S: System> Relayout<'a, S> {
    /// The VMAs that are there before it.
    pub(crate) fn before(&self) -> impl Iterator<Item = &'a Vma<S>> {
        [Some(self.vma.0), self.remove, self.shift.map(|(other, _)| other)].into_iter().flatten()
    }

    /// For engines that list the VMAs of an anchor: who has to be `listed` after the change and is not. Whoever takes
    /// over pages of a listed VMA is. VMA lock held exclusively.
    pub(crate) fn joining(&self, listed: impl Fn(&Vma<S>) -> bool) -> [Option<&'a Vma<S>>; 2] {
        if self.before().any(&listed) { [Some(self.vma.0).filter(|vma| !listed(vma)), self.insert] } else { [None; 2] }
    }
}

/// How a look-up or a walk may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until the anchor's lock is free.
    Block,
    /// Not at all.
    Try,
}

/// What a look-up found.
pub enum Lookup<A> {
    /// The anchor, locked.
    Found(A),
    /// The page is not mapped any more, or never was.
    Unmapped,
    /// The anchor's lock is not free, and the caller did not want to wait.
    Contended,
}

impl<A> Lookup<A> {
    #[inline]
    pub(crate) fn map<B>(self, f: impl FnOnce(A) -> B) -> Lookup<B> {
        match self {
            Self::Found(anchor) => Lookup::Found(f(anchor)),
            Self::Unmapped => Lookup::Unmapped,
            Self::Contended => Lookup::Contended,
        }
    }
}

/// How much memory an engine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Objects that pages point to.
    pub anchors: u64,
    /// Ties between anchors and VMAs.
    pub links: u64,
    /// Bytes of all this, and of the engine's data in VMAs.
    pub bytes: u64,
}

impl core::ops::AddAssign for Footprint {
    fn add_assign(&mut self, other: Self) {
        self.anchors += other.anchors;
        self.links += other.links;
        self.bytes += other.bytes;
    }
}

/// A reverse-mapping design. See the [module](self).
///
/// Every verb that returns an error has changed nothing (G4). A verb with a body here is one that some engines have
/// nothing to do in.
pub trait Engine<S: System>: EngineData {
    /// Its name on every command line and in every table.
    const NAME: &'static str;

    /// The same, of one that was chosen at run time that of the choice.
    fn name(&self) -> &'static str {
        Self::NAME
    }

    /// The anchor of a page, locked shared: nothing that it leads to is unlinked while it lives. Dropping it unlocks.
    type Anchor<'a>
    where
        S: 'a,
        Self: 'a;

    /// The anchors of a VMA, locked exclusively: while it lives no walk visits the VMA.
    type MoveLock<'a>
    where
        S: 'a,
        Self: 'a;

    /// A change of layout with the memory that it needs.
    type Plan<'a>
    where
        S: 'a,
        Self: 'a;

    /// An engine without any state, for the objects of `arena`.
    fn new(arena: &Arena<S>) -> Result<Self>;

    // Address spaces.

    /// The engine's data of a new address space.
    fn mm_data(&self, arena: &Arena<S>) -> Result<Self::Mm>;
    /// An address space was made; it can be walked from now on.
    fn mm_made(&self, mm: &Mm<S>) -> Result<()> {
        let _ = mm;
        Ok(())
    }
    /// An address space is about to be freed. It has no VMAs.
    fn mm_gone(&self, mm: &Mm<S>) {
        let _ = mm;
    }
    /// Fork begins: `child` is empty. Both VMA locks held exclusively.
    fn fork_begin(&self, child: &Mm<S>, parent: &Mm<S>) -> Result<()> {
        let _ = (child, parent);
        Ok(())
    }
    /// Fork ended, with success or after everything was undone. Both VMA locks held exclusively.
    fn fork_end(&self, child: &Mm<S>, parent: &Mm<S>) {
        let _ = (child, parent);
    }

    // VMAs.

    /// Makes sure that anonymous pages may be mapped in `vma` (`anon_vma_prepare`). VMA lock held, shared suffices. May
    /// allocate.
    fn prepare(&self, vma: &Vma<S>) -> Result<()>;
    /// Whether [`prepare`](Self::prepare) was done, or inherited.
    fn is_prepared(&self, vma: &Vma<S>) -> bool;
    /// `child` is the copy of `parent` in a forked address space and has no engine data yet (`anon_vma_fork`). Both VMA
    /// locks held exclusively. On return walks visit `child` after `parent`.
    fn fork(&self, child: &Vma<S>, parent: &Vma<S>) -> Result<()>;
    /// `copy` will take over pages of `source`, both in one address space, and has no engine data yet
    /// (`anon_vma_clone`, as in mremap). VMA lock held exclusively. On return walks visit `copy`, after `source` if
    /// their intervals are equal.
    fn copy(&self, copy: &Vma<S>, source: &Vma<S>) -> Result<()>;
    /// Whether two adjacent VMAs may become one, as far as the engine is concerned. VMA lock held.
    fn may_merge(&self, a: &Vma<S>, b: &Vma<S>) -> bool;
    /// Whether a VMA may take in new memory beside it, as if it merged with a VMA that was never touched. VMA lock held.
    fn may_take_in_new(&self, vma: &Vma<S>) -> bool {
        let _ = vma;
        true
    }
    /// Gets the memory that `change` will need. VMA lock held exclusively, and no anchor's lock. Dropped unused,
    /// nothing has changed.
    fn plan_relayout<'a>(&self, change: &Relayout<'a, S>) -> Result<Self::Plan<'a>>;
    /// Does the planned change as one step for all walks, calling `apply` once in the middle of it to set the new
    /// bounds. VMA lock and, for VMAs of a file, `i_mmap_rwsem` held exclusively. Allocates nothing: when the pool of
    /// nodes is too empty nothing has changed, and the caller drops its locks, refills the pool, and tries again.
    fn commit_relayout(&self, plan: &mut Self::Plan<'_>, apply: &mut dyn FnMut()) -> Result<(), NeedNodes>;
    /// Lets go of `vma` (`unlink_anon_vmas`). No page is mapped in it. VMA lock held exclusively.
    fn unlink(&self, vma: &Vma<S>);
    /// Keeps walks that come by an anchor away from `vma` while its page-table entries are moved in an order that walks
    /// could miss. VMA lock and, for VMAs of a file, `i_mmap_rwsem` held exclusively
    /// ([`Rmap::lock_for_move`](crate::rmap::Rmap::lock_for_move) takes both).
    fn lock_for_move<'a>(&'a self, vma: &'a Vma<S>) -> Option<Self::MoveLock<'a>>;
    /// Unlocks what [`lock_for_move`](Self::lock_for_move) of the same VMA locked, if it returned a lock, for callers
    /// that cannot keep it: across a C boundary.
    ///
    /// # Safety
    /// This thread locked, forgot the lock without dropping it, has held the VMA lock exclusively since without
    /// changing the VMA's ties, and unlocks once for it.
    unsafe fn unlock_move(&self, vma: &Vma<S>);

    // Pages. PTE lock held.

    /// Engines that allocate per mapping get memory for `n` of them here, before PTE locks are taken: called by
    /// [`Rmap::reserve`](crate::rmap::Rmap::reserve), which says how to count. Nobody else can use it up.
    #[inline]
    fn reserve(&self, n: usize) -> Result<()> {
        let _ = n;
        Ok(())
    }
    /// What [`reserve`](Self::reserve) got for `n` mappings is not needed any more: they were made, or will not be.
    #[inline]
    fn unreserve(&self, n: usize) {
        let _ = n;
    }
    /// The first mapping of an anonymous page: sets its index and mapping word. `exclusive`: no other process can have
    /// it; else it belongs to the oldest anchor that `vma` knows (T1). The page is locked, or nobody else can reach it.
    fn anchor_page(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, exclusive: bool);
    /// Copy-on-write reuse found that `vma` is the last to map an anonymous page: it belongs to it alone from now on
    /// (T14). Page lock held.
    fn reanchor(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr);
    /// A mapping of `page` at `addr` in `vma` was made; its first or a further one.
    #[inline]
    fn page_mapped(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr) {
        let _ = (page, vma, addr);
    }
    /// A mapping of `page` at `addr` in `vma` is gone.
    #[inline]
    fn page_unmapped(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr) {
        let _ = (page, vma, addr);
    }
    /// As [`page_mapped`](Self::page_mapped), for one entry that maps the whole compound page of `head`. Each of its
    /// pages may be mapped by an entry of its own in its place at any time, with nothing reserved for that.
    #[inline]
    fn entire_mapped(&self, head: &Page, vma: &Vma<S>, addr: VirtAddr) {
        self.page_mapped(head, vma, addr);
    }
    /// The end of what [`entire_mapped`](Self::entire_mapped) began.
    #[inline]
    fn entire_unmapped(&self, head: &Page, vma: &Vma<S>, addr: VirtAddr) {
        self.page_unmapped(head, vma, addr);
    }
    /// A mapping moves from `old` in `source` to `new` in `copy`, of one address space (mremap): both entries are
    /// there, and the one at `old` goes when this returns. Both PTE locks held; nothing is reserved.
    #[inline]
    fn page_moved(&self, page: &Page, (source, old): (&Vma<S>, VirtAddr), (copy, new): (&Vma<S>, VirtAddr)) {
        self.page_mapped(page, copy, new);
        self.page_unmapped(page, source, old);
    }

    // Look-ups and walks.

    /// Whether the engine knows each page-table entry by itself: its walks offer every entry once, at its own address,
    /// of pages of files too, for which it is asked instead of their `i_mmap`. Always the same answer.
    #[inline]
    fn finds_entries(&self) -> bool {
        false
    }
    /// Page to anchor, read-locked. The caller holds a reference to the page, or knows by other means that its
    /// descriptor stays.
    fn lock_anchor(&self, page: &Page, wait: Wait) -> Lookup<Self::Anchor<'_>>;
    /// Visits the candidates for the page offsets `[first, last]` under a locked anchor: a VMA and the address at which
    /// the page may be mapped in it (for a range of pages: the first of them that lies in the VMA). Parents before
    /// children; or in any order in which a mapping that fork copies while its source waits to be visited is visited
    /// too (T13).
    fn walk_anchor(
        &self,
        anchor: &Self::Anchor<'_>,
        first: PgOff,
        last: PgOff,
        visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()>;
    /// Look-up, walk and unlocking in one.
    #[inline]
    fn walk_page(
        &self,
        page: &Page,
        wait: Wait,
        first: PgOff,
        last: PgOff,
        visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> Lookup<ControlFlow<()>> {
        self.lock_anchor(page, wait).map(|anchor| self.walk_anchor(&anchor, first, last, visit))
    }
    /// Whether somebody waits to change what the anchor protects.
    fn is_contended(&self, anchor: &Self::Anchor<'_>) -> bool;

    // Pictures and figures.

    /// Draws what stands between a page and the VMAs that a walk visits, which are in the sketch already, with their
    /// entries; and says what an anonymous page's mapping word leads to. Asked for anonymous pages, and for all where
    /// the engine [finds entries](Self::finds_entries). Allocates nothing: the anchor is locked, the page lock held.
    fn draw(&self, anchor: &Self::Anchor<'_>, sketch: &mut Sketch) {
        let node = sketch.anchor(anchor, &[Line::Text("anchor")]);
        sketch.word(node);
        sketch.lead_to_vmas(node, "");
    }

    /// Memory in use apart from the engine's data in address spaces and VMAs.
    fn footprint(&self) -> Footprint;
    /// Memory in use by the engine's data in one VMA. VMA lock held.
    fn vma_footprint(&self, vma: &Vma<S>) -> Footprint;
}

/// Kind of a page, as far as walks differ.
pub enum Kind<'a, S: System> {
    /// The engine finds its candidates.
    Anon,
    /// The file's `i_mmap` finds them.
    File(&'a File<S>),
    /// It belongs to nobody.
    None,
}

/// The kind of a page whose lock is held.
#[inline]
pub(crate) fn kind_of<S: System>(page: &Page) -> Kind<'_, S> {
    match page.head().mapping().load() {
        Mapping::None => Kind::None,
        // SAFETY: the page lock is held (contract of the walks that ask), so the page stays in its file.
        Mapping::File(word) => Kind::File(unsafe { File::of_page(word) }),
        Mapping::Anon(_) | Mapping::Ksm(_) => Kind::Anon,
    }
}

/// Whether two VMAs map the same file, or none.
pub(crate) fn same_file<S: System>(a: Option<&FileRef<S>>, b: Option<&FileRef<S>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => FileRef::same(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// The look-up of engines whose anchors have a lock each: `lock_of` finds it by the pointer in a page's word. What the
/// pointer leads to is type-stable, so the lock may be a dead anchor's, or another's by now; a second look finds out.
/// It is sufficient if an anchor dies, or loses what may map its pages, under this lock held exclusively, after the
/// last of them was unmapped.
///
/// Returns the pointer and the lock, held shared. Nothing is locked but that, and nothing allocated (G3).
pub(crate) fn lock_word<'a>(
    page: &Page,
    wait: Wait,
    lock_of: impl Fn(NonNull<()>) -> &'a RwSem<{ rank::ANON_VMA }>,
) -> Lookup<(NonNull<()>, ReadGuard<'a, { rank::ANON_VMA }>)> {
    let page = page.head();
    loop {
        let seen = page.mapping().load();
        let Mapping::Anon(word) = seen else { return Lookup::Unmapped };
        if !page.is_mapped() {
            return Lookup::Unmapped;
        }
        let lock = lock_of(word);
        let held = match wait {
            Wait::Block => lock.read(),
            Wait::Try => match lock.try_read() {
                Some(held) => held,
                None => return Lookup::Contended,
            },
        };
        let blind = mutant("word_no_second_look");
        let same = page.mapping().is_still(seen) || mutant("word_no_word_check");
        if blind || (page.is_mapped() && same) {
            return Lookup::Found((word, held));
        }
    }
}

/// What `of` says of a neighbour that could be one VMA with `vma` but for the access bits: mprotect alone may have
/// parted them, and with an anchor in common they can become one again (`find_mergeable_anon_vma`). The neighbour above
/// is asked first.
///
/// # Safety
/// The VMA lock is held.
pub(crate) unsafe fn of_mergeable_neighbour<S: System, T>(
    vma: &Vma<S>,
    of: impl Fn(&Vma<S>) -> Option<T>,
) -> Option<T> {
    let compatible = |low: &Vma<S>, high: &Vma<S>| {
        low.end() == high.start()
            && (low.flags() ^ high.flags()).difference(VmFlags::ACCESS).is_empty()
            && same_file(low.file(), high.file())
            && high.pgoff() == low.pgoff() + low.pages()
    };
    // SAFETY: the caller's contract.
    let mm = unsafe { vma.mm().assume_read() };
    let (prev, next) = mm.neighbours(vma.start(), vma.end());
    let next = next.filter(|next| compatible(vma, next)).and_then(&of);
    next.or_else(|| prev.filter(|prev| compatible(prev, vma)).and_then(of))
}

/// `EngineData` of a system's engine in a VMA.
pub type VmaDataOf<S> = <<S as System>::Engine as EngineData>::Vma;
