//! How ties between VMAs and anon_vmas come and go.
//!
//! Everything that must not fail half-way follows one pattern: memory first (slots, arrays), then the root's lock, then
//! the trees. A tree that needs a node which its pool cannot give without asking the heap says so and is unchanged: the
//! lock is dropped, the pool refilled, the lock taken again. So the embedder's allocator is never called under an
//! anchor's lock (T11).

use super::chain::{Chain, Link};
use super::node::AnonVma;
use super::{AnonVmaEngine, AnonVmaSystem, ties};
use crate::base::error::Result;
use crate::base::mutant::mutant;
use crate::ds::interval_tree::NeedNodes;
use crate::engine::of_mergeable_neighbour;
use crate::mm::{Arena, Vma, VmaKey};
use core::ptr::NonNull;

/// Ties the VMA of `key` to the anon_vmas of `chain`, and stores the places there.
///
/// On failure nothing is tied.
///
/// # Safety
/// The root's lock is held exclusively; the VMA stays alive, and the key's interval the same, until it is untied.
pub(super) unsafe fn tie_all<S: AnonVmaSystem>(
    arena: &Arena<S>,
    chain: &mut Chain<S>,
    key: NonNull<VmaKey<S>>,
) -> Result<(), NeedNodes> {
    let links = chain.links_mut();
    for i in 0..links.len() {
        // SAFETY: the caller's contract.
        match unsafe { links[i].node().guarded_mut().tree.insert(&arena.nodes, key) } {
            Ok(place) => links[i].place = place,
            Err(NeedNodes) => {
                // SAFETY: the first `i` were just tied.
                unsafe { untie(arena, &links[..i], key) };
                return Err(NeedNodes);
            }
        }
    }
    Ok(())
}

/// Unties the VMA of `key` from the anon_vmas of `links`.
///
/// # Safety
/// It is tied to them by this key, with these places, and the root's lock is held exclusively.
pub(super) unsafe fn untie<S: AnonVmaSystem>(arena: &Arena<S>, links: &[Link<S>], key: NonNull<VmaKey<S>>) {
    for link in links {
        // SAFETY: the caller's contract.
        unsafe { link.node().guarded_mut().tree.remove(&arena.nodes, key, link.place) };
    }
}

/// A chain to the same anon_vmas as `source`, tied to nothing yet.
pub(super) fn same_anchors<S: AnonVmaSystem>(arena: &Arena<S>, source: &Chain<S>) -> Result<Chain<S>> {
    let mut chain = Chain::new();
    chain.copy_anchors(&arena.heap, source, 0)?;
    Ok(chain)
}

impl<S: AnonVmaSystem> AnonVmaEngine<S> {
    /// The anon_vma of a neighbour, if this VMA may share it: adjacent, compatible, and with a chain of one link, so
    /// that no page of another process comes into view.
    fn find_mergeable<'a>(&self, vma: &'a Vma<S>) -> Option<&'a AnonVma<S>> {
        let singular = |near: &Vma<S>| {
            ties(near).get().filter(|_| ties(near).links() <= 1 || mutant("share_forked")).map(NonNull::from)
        };
        // SAFETY: the VMA lock is held (contract of `prepare`).
        let found = unsafe { of_mergeable_neighbour(vma, singular) }?;
        // SAFETY: the neighbour is linked to it, and stays so while the VMA lock is held.
        Some(unsafe { found.as_ref() })
    }

    #[cold]
    pub(super) fn prepare_slow(&self, vma: &Vma<S>) -> Result<()> {
        match self.find_mergeable(vma) {
            Some(shared) => self.prepare_shared(vma, shared),
            None => self.prepare_own(vma),
        }
    }

    /// A fresh anon_vma. It is nobody else's until the compare-exchange publishes it, so its lock is not taken: a stale
    /// look-up that locks this slot finds that its page's word is another, or that the page is unmapped, and never
    /// looks at the tree.
    fn prepare_own(&self, vma: &Vma<S>) -> Result<()> {
        let arena = vma.mm().arena();
        let slot = self.nodes.take()?;
        // SAFETY: slots stay valid as long as the engine.
        let node = unsafe { slot.as_ref() };
        node.init_root();
        // SAFETY: ours alone; the VMA stays alive until it is untied.
        let placed = unsafe { node.guarded_mut().tree.insert(&arena.nodes, vma.current_key()) };
        let Ok(place) = placed else { unreachable!("the first item needs no node") };
        if ties(vma).win(node) {
            // SAFETY: just won.
            unsafe { ties(vma).set_only_link(Link { anon_vma: slot, place }) };
        } else {
            // SAFETY: not published, still ours alone.
            unsafe { node.guarded_mut().tree.remove(&arena.nodes, vma.current_key(), place) };
            self.put_anon_vma(node);
        }
        Ok(())
    }

    /// A neighbour's anon_vma.
    fn prepare_shared(&self, vma: &Vma<S>, node: &AnonVma<S>) -> Result<()> {
        let arena = vma.mm().arena();
        loop {
            let held = node.lock_root();
            if ties(vma).get().is_some() {
                return Ok(());
            }
            // SAFETY: (1) the lock is held exclusively; (2) the VMA stays alive until it is untied.
            let guarded = unsafe { node.guarded_mut() };
            // SAFETY: as above.
            let Ok(place) = (unsafe { guarded.tree.insert(&arena.nodes, vma.current_key()) }) else {
                drop(held);
                arena.nodes.refill(1)?;
                continue;
            };
            if ties(vma).win(node) {
                guarded.num_active_vmas += 1;
                // SAFETY: just won.
                unsafe { ties(vma).set_only_link(Link { anon_vma: NonNull::from(node), place }) };
            } else {
                // SAFETY: inserted above, under the same lock.
                unsafe { guarded.tree.remove(&arena.nodes, vma.current_key(), place) };
            }
            return Ok(());
        }
    }

    /// `copy` gets the ties of `source` and shares its anon_vma.
    pub(super) fn copy_vma(&self, copy: &Vma<S>, source: &Vma<S>) -> Result<()> {
        let Some(own) = ties(source).get() else { return Ok(()) };
        let arena = copy.mm().arena();
        // The copy's chain is built in place: a chain that is moved has to wait until its narrow stores can be read by
        // wide loads.
        // SAFETY: the VMA lock is held exclusively, and the two are different VMAs.
        let (chain, sources) = unsafe { (ties(copy).chain_mut(), ties(source).chain()) };
        chain.copy_anchors(&arena.heap, sources, 0)?;
        let mut room = 1;
        loop {
            let held = own.lock_root();
            // SAFETY: the lock is held; `copy` stays alive until it is untied.
            match unsafe { tie_all(arena, chain, copy.current_key()) } {
                Ok(()) => {
                    // SAFETY: the lock is held exclusively.
                    unsafe { own.guarded_mut() }.num_active_vmas += 1;
                    ties(copy).set(Some(own));
                    ties(copy).set_links(chain.links().len());
                    drop(held);
                    return Ok(());
                }
                Err(NeedNodes) => {
                    drop(held);
                    arena.nodes.refill(room).inspect_err(|_| chain.free(&arena.heap))?;
                    room *= 2;
                }
            }
        }
    }

    /// `child` gets the ties of `parent`, and an anon_vma of its own: an old one of the family that has no VMA of its
    /// own and at most one child (so that a chain of forks does not grow for ever, G5), else a new one.
    pub(super) fn fork_vma(&self, child: &Vma<S>, parent: &Vma<S>) -> Result<()> {
        let Some(parents) = ties(parent).get() else { return Ok(()) };
        let arena = child.mm().arena();
        // In place, as in `copy_vma`.
        // SAFETY: both VMA locks are held exclusively, and the two are different VMAs.
        let (chain, sources) = unsafe { (ties(child).chain_mut(), ties(parent).chain()) };
        chain.copy_anchors(&arena.heap, sources, 1)?;
        let fresh = self.nodes.take().inspect_err(|_| chain.free(&arena.heap))?;
        // SAFETY: slots stay valid as long as the engine.
        let fresh = unsafe { fresh.as_ref() };
        fresh.init_child(parents);
        let key = child.current_key();
        let mut room = 1;
        loop {
            let held = (!mutant("fork_without_lock")).then(|| parents.lock_root());
            // SAFETY: the lock is held; `child` stays alive until it is untied.
            if unsafe { tie_all(arena, chain, key) }.is_ok() {
                let reusable = chain.links().iter().map(|link| link.node()).find(|node| {
                    // SAFETY: the lock is held.
                    let guarded = unsafe { node.guarded() };
                    guarded.num_children < 2 && (guarded.num_active_vmas == 0 || mutant("reuse_active"))
                });
                // SAFETY (all three): the lock is held exclusively, and the references do not overlap.
                if let Some(node) = reusable {
                    // SAFETY: see above.
                    unsafe { node.guarded_mut() }.num_active_vmas += 1;
                    ties(child).set(Some(node));
                } else {
                    // SAFETY: see above.
                    unsafe { parents.guarded_mut() }.num_children += 1;
                    // SAFETY: see above.
                    let placed = unsafe { fresh.guarded_mut().tree.insert(&arena.nodes, key) };
                    let Ok(place) = placed else { unreachable!("the first item needs no node") };
                    chain.push(Link { anon_vma: NonNull::from(fresh), place });
                    ties(child).set(Some(fresh));
                }
                ties(child).set_links(chain.links().len());
                drop(held);
                if reusable.is_some() {
                    self.put_anon_vma(fresh);
                }
                return Ok(());
            }
            // Unlocked here, but by the mutant.
            let _held = held.filter(|_| mutant("fork_refills_locked"));
            if let Err(error) = arena.nodes.refill(room) {
                chain.free(&arena.heap);
                self.put_anon_vma(fresh);
                return Err(error);
            }
            room *= 2;
        }
    }

    /// Lets go of `vma`. An anon_vma whose tree becomes empty loses the reference that being linked gave it; its
    /// children, if there were any, are gone, for their VMAs were in its tree too.
    pub(super) fn unlink_vma(&self, vma: &Vma<S>) {
        let Some(own) = ties(vma).get() else { return };
        let arena = vma.mm().arena();
        let early = mutant("put_before_unlink") && ties(vma).links() == 1;
        ties(vma).set(None);
        ties(vma).set_links(0);
        if early {
            self.put_anon_vma(own);
        }
        let held = (!mutant("unlink_without_lock")).then(|| own.lock_root());
        // SAFETY: the VMA lock and the root's are held exclusively; below the latter the VMA is in no tree any more.
        let chain = unsafe { ties(vma).chain_mut() };
        // SAFETY: (1) tied with these places since its bounds last changed; (2) the lock is held exclusively.
        unsafe { untie(arena, chain.links(), vma.current_key()) };
        // SAFETY: the lock is held exclusively, here and in the loop.
        unsafe { own.guarded_mut() }.num_active_vmas -= 1;
        let mut emptied = 0;
        for i in 0..chain.links().len() {
            let link = chain.links()[i];
            // SAFETY: as above.
            let guarded = unsafe { link.node().guarded_mut() };
            if guarded.tree.is_empty() {
                let parent = guarded.parent;
                // SAFETY: (1) a parent is freed after its children: its tree held their VMAs, and it is put below,
                // after the lock; (2) as above. A root is its own parent, which is why `guarded` is not used after
                // this.
                unsafe { (*parent).guarded_mut() }.num_children -= 1;
                chain.links_mut().swap(emptied, i);
                emptied += 1;
            }
        }
        drop(held);
        for link in chain.links()[..emptied].iter().filter(|_| !early) {
            self.put_anon_vma(link.node());
        }
        chain.free(&arena.heap);
    }
}
