//! Page to anchor: the look-up, and the walk over what it found.
//!
//! The look-up takes no lock until it has found one, waits for nobody and allocates nothing (G3):
//!
//! 1. load the mapping word, once; it must be anonymous;
//! 2. the page must be mapped: an unmapped page's word is a hint, and its anon_vma may be free;
//! 3. try the root's lock (fast), or take a reference to the anon_vma and then wait for the lock (slow);
//! 4. look again: the page is still mapped, its word unchanged, and the anon_vma's root is the one that was locked. Else give back and
//!    start over, or report that the page is unmapped.
//!
//! Step 3 may touch an anon_vma that was freed, or freed and given to another owner: slots are type-stable, the lock
//! and the count are always valid, and step 4 finds out. What makes step 4 sufficient: a page is unmapped before its
//! VMA is unlinked, and unlinking takes the root's lock. So whoever holds the lock and sees the page mapped with this
//! word has an anon_vma that is linked, and stays linked until the lock is released.

use super::AnonVmaEngine;
use super::node::AnonVma;
use crate::base::mutant::mutant;
use crate::base::types::{PgOff, VirtAddr};
use crate::engine::{Lookup, Wait};
use crate::mm::{System, Vma};
use crate::page::Page;
use crate::page::mapping::Mapping;
use core::ops::ControlFlow;

/// A page's anon_vma with its root's lock held shared. Dropping it unlocks the root that was locked.
#[must_use = "the anchor is unlocked at once when this is dropped"]
pub struct Anchor<'a, S: System> {
    node: &'a AnonVma<S>,
    root: &'a AnonVma<S>,
}

/// A page's anon_vma with a reference, not locked.
#[must_use = "the reference is dropped at once when this is dropped"]
pub struct AnchorRef<'a, S: System> {
    node: &'a AnonVma<S>,
    engine: &'a AnonVmaEngine<S>,
}

/// Why an anchor was not locked at once.
enum Missed {
    /// Its lock is not free.
    Contended,
    /// It is another's by now, or the page is.
    Changed,
}

/// Step 4 but for the root: whether the page is still mapped with the word that was seen.
#[inline]
fn still(page: &Page, seen: Mapping) -> bool {
    let mapped = mutant("lookup_no_second_look") || page.is_mapped();
    let blind = mutant("lookup_no_second_look") || mutant("lookup_no_word_check");
    mapped && (blind || page.mapping().is_still(seen))
}

impl<S: System> AnonVmaEngine<S> {
    /// Steps 1 and 2. The mapping that was read, and its anon_vma, of which nothing is known yet but that it is one.
    #[inline]
    fn peek(&self, page: &Page) -> Option<(Mapping, &AnonVma<S>)> {
        let seen = page.mapping().load();
        let Mapping::Anon(word) = seen else { return None };
        if !page.is_mapped() {
            return None;
        }
        // SAFETY: an anonymous word points to a slot of this engine (`anchor_page`, `reanchor`), and slots stay valid
        // as long as the engine.
        Some((seen, unsafe { word.cast::<AnonVma<S>>().as_ref() }))
    }

    /// The anon_vma of a page with its root locked shared (`folio_lock_anon_vma_read`).
    #[allow(clippy::inline_always, reason = "what it returns would go by memory, at twice the cost of the look-up")]
    #[inline(always)]
    pub fn lock_anon_vma_read(&self, page: &Page, wait: Wait) -> Lookup<Anchor<'_, S>> {
        let page = page.head();
        let Some((seen, node)) = self.peek(page) else { return Lookup::Unmapped };
        match self.try_anchor(page, seen, node) {
            Ok(anchor) => Lookup::Found(anchor),
            Err(_) => self.lock_anon_vma_read_slow(page, wait),
        }
    }

    /// Steps 3, the fast way, and 4.
    #[allow(clippy::inline_always, reason = "as above")]
    #[inline(always)]
    fn try_anchor<'a>(&self, page: &Page, seen: Mapping, node: &'a AnonVma<S>) -> Result<Anchor<'a, S>, Missed> {
        let root = node.root();
        let Some(held) = root.lock().try_read() else { return Err(Missed::Contended) };
        held.into_raw();
        let anchor = Anchor { node, root };
        if still(page, seen) && (node.has_root(root) || mutant("lookup_no_root_check")) {
            return Ok(anchor);
        }
        // Unlocked by the drop: the one that was locked, whatever the root is now (T6).
        drop(anchor);
        Err(Missed::Changed)
    }

    /// All steps, until the anchor is locked or there is none.
    #[cold]
    fn lock_anon_vma_read_slow(&self, page: &Page, wait: Wait) -> Lookup<Anchor<'_, S>> {
        loop {
            let Some((seen, node)) = self.peek(page) else { return Lookup::Unmapped };
            match self.try_anchor(page, seen, node) {
                Ok(anchor) => return Lookup::Found(anchor),
                Err(Missed::Changed) => {}
                Err(Missed::Contended) if wait == Wait::Try => return Lookup::Contended,
                Err(Missed::Contended) => {
                    if let Some(anchor) = self.wait_for_anchor(page, seen, node) {
                        return Lookup::Found(anchor);
                    }
                }
            }
        }
    }

    /// Step 3 the slow way. `None`: something changed, start over.
    fn wait_for_anchor<'a>(&'a self, page: &Page, seen: Mapping, node: &'a AnonVma<S>) -> Option<Anchor<'a, S>> {
        let held = self.get_checked(page, seen, node)?;
        // The reference keeps the anon_vma and its root from being freed, so the root cannot change.
        let root = node.root();
        root.lock().read().into_raw();
        let anchor = Anchor { node, root };
        // While it waited the last mapping may have gone, and the anon_vma with it but for the reference.
        if still(page, seen) {
            // Linked, so the reference is not the last.
            drop(held);
            return Some(anchor);
        }
        drop(anchor);
        drop(held);
        None
    }

    fn get_checked<'a>(&'a self, page: &Page, seen: Mapping, node: &'a AnonVma<S>) -> Option<AnchorRef<'a, S>> {
        if !node.try_get() {
            return None;
        }
        let held = AnchorRef { node, engine: self };
        // Dropped otherwise: the slot belongs to somebody else by now.
        still(page, seen).then_some(held)
    }

    /// The anon_vma of a page with a reference, not locked (`folio_get_anon_vma`). It stays an anon_vma of the page's
    /// family while the reference lives, even when the page is unmapped meanwhile.
    pub fn get_anon_vma(&self, page: &Page) -> Option<AnchorRef<'_, S>> {
        let page = page.head();
        loop {
            let (seen, node) = self.peek(page)?;
            if let Some(held) = self.get_checked(page, seen, node) {
                return Some(held);
            }
        }
    }

    /// Drops a reference, and frees the anon_vma, and its root, if that was the last.
    pub(super) fn put_anon_vma(&self, node: &AnonVma<S>) {
        if !node.put() {
            return;
        }
        let root = node.root();
        debug_assert!(
            // SAFETY: the count is 0, so nobody else changes it.
            unsafe { node.guarded() }.tree.is_empty(),
            "an anon_vma goes while VMAs are linked to it"
        );
        // SAFETY: (1) the count is 0, so this thread alone frees the slot; (2) it came from `nodes`; (3) its tree is
        // empty: a linked anon_vma has a reference.
        unsafe { self.nodes.give(core::ptr::NonNull::from(node)) };
        if !core::ptr::eq(root, node) && !mutant("root_not_held") {
            self.put_anon_vma(root);
        }
    }
}

impl<'a, S: System> Anchor<'a, S> {
    /// The VMAs that may map the page offsets `[first, last]`, and the address of the first of them in each; parents
    /// before children.
    #[inline]
    pub fn for_each_vma(
        &self,
        first: PgOff,
        last: PgOff,
        mut visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        #[cfg(test)]
        if mutant("fork_child_first") {
            return super::inspect::for_each_reversed(self.node, first, last, visit);
        }
        // SAFETY: the root's lock is held shared.
        unsafe { self.node.guarded() }.tree.for_each(first, last, |key| visit(key.vma(), key.address_of(first)))
    }

    /// Whether somebody waits for the root's lock.
    pub fn is_contended(&self) -> bool {
        self.root.lock().is_contended()
    }

    /// The anon_vma.
    pub fn anon_vma(&self) -> &'a AnonVma<S> {
        self.node
    }

    /// The anon_vma whose lock is held.
    pub fn root(&self) -> &'a AnonVma<S> {
        self.root
    }

    /// Keeps the root locked until [`from_raw`](Self::from_raw).
    pub fn into_raw(self) -> (&'a AnonVma<S>, &'a AnonVma<S>) {
        let parts = (self.node, self.root);
        core::mem::forget(self);
        parts
    }

    /// The anchor that `into_raw` took apart.
    ///
    /// # Safety
    /// The parts came from one `into_raw` on this thread, and are put together once.
    pub unsafe fn from_raw((node, root): (&'a AnonVma<S>, &'a AnonVma<S>)) -> Self {
        Self { node, root }
    }
}

impl<S: System> Drop for Anchor<'_, S> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this value stands for a shared lock of the root, taken on this thread.
        unsafe { self.root.lock().unlock_read_raw() }
    }
}

impl<'a, S: System> AnchorRef<'a, S> {
    /// The anon_vma.
    pub fn anon_vma(&self) -> &'a AnonVma<S> {
        self.node
    }

    /// Locks its root shared. The walk under it finds whoever is linked now.
    pub fn lock(&self) -> Anchor<'a, S> {
        let root = self.node.root();
        root.lock().read().into_raw();
        Anchor { node: self.node, root }
    }

    /// Gives the reference up without dropping it.
    pub fn into_raw(self) -> &'a AnonVma<S> {
        let node = self.node;
        core::mem::forget(self);
        node
    }

    /// The reference that `into_raw` gave up.
    ///
    /// # Safety
    /// `node` came from `into_raw` of a reference of this engine, and is taken back once.
    pub unsafe fn from_raw(engine: &'a AnonVmaEngine<S>, node: &'a AnonVma<S>) -> Self {
        Self { node, engine }
    }
}

impl<S: System> Drop for AnchorRef<'_, S> {
    fn drop(&mut self) {
        self.engine.put_anon_vma(self.node);
    }
}
