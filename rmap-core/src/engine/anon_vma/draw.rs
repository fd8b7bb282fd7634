//! A picture of what stands behind a page: the chains of the VMAs that may map it, and the anon_vmas in them.
//!
//! Every anon_vma of interest is in one of these chains: the page's own, for the VMAs are in its tree; its ancestors,
//! for whoever is tied to an anon_vma is tied to the parent of that too, and earlier. Of a VMA that is on its way out
//! no chain is seen any more; its anon_vmas still have their parents.

use super::lookup::Anchor;
use super::node::AnonVma;
use super::{AnonVmaSystem, ties};
use crate::engine::sketch::{Line, NodeId, Sketch, Tie};
use crate::mm::Vma;
use core::ops::ControlFlow;

/// Draws it all. The VMAs are in the sketch.
pub(super) fn draw<S: AnonVmaSystem>(anchor: &Anchor<'_, S>, sketch: &mut Sketch) {
    let (first, last) = sketch.pgoffs();
    let _ = anchor.for_each_vma(first, last, |vma, _| {
        // SAFETY: the root's lock is held (`anchor`), and the VMA is in one of its trees.
        unsafe { chain(vma, sketch) };
        ControlFlow::Continue(())
    });
    // SAFETY: the root's lock is held.
    if let Some(target) = unsafe { anon_vma(anchor.anon_vma(), sketch) } {
        sketch.word(target);
    }
}

/// The chain of a VMA, the oldest anon_vma first.
///
/// # Safety
/// The root's lock is held, and the VMA is in one of its trees.
unsafe fn chain<S: AnonVmaSystem>(vma: &Vma<S>, sketch: &mut Sketch) {
    let own = ties(vma).get();
    // SAFETY: the caller's contract.
    for link in unsafe { ties(vma).links_in_tree() } {
        let node = link.node();
        // SAFETY: of the same family, whose root's lock is held.
        let to = unsafe { anon_vma(node, sketch) };
        if let (Some(from), Some(to)) = (sketch.find(vma), to) {
            let is_own = own.is_some_and(|own| core::ptr::eq(own, node));
            let (tie, word) = if is_own { (Tie::Own, "anon_vma, chain") } else { (Tie::Chain, "chain") };
            sketch.tie(from, to, tie, word);
        }
    }
}

/// An anon_vma, which is drawn after its ancestors unless it is in; `None`: there is no room.
///
/// # Safety
/// The root's lock is held.
unsafe fn anon_vma<S: AnonVmaSystem>(node: &AnonVma<S>, sketch: &mut Sketch) -> Option<NodeId> {
    while sketch.find(node).is_none() && !sketch.is_short() {
        let mut oldest = node;
        loop {
            // SAFETY: the caller's contract; a parent is freed after its children.
            let parent = unsafe { &*oldest.guarded().parent };
            if core::ptr::eq(parent, oldest) || sketch.find(parent).is_some() {
                break;
            }
            oldest = parent;
        }
        // SAFETY: the caller's contract.
        unsafe { add(oldest, sketch) };
    }
    sketch.find(node)
}

/// A new anon_vma, with the ties to its parent, which is in, and to the VMAs of its tree.
///
/// # Safety
/// The root's lock is held.
unsafe fn add<S: AnonVmaSystem>(node: &AnonVma<S>, sketch: &mut Sketch) {
    // SAFETY: the caller's contract.
    let guarded = unsafe { node.guarded() };
    let is_root = core::ptr::eq(guarded.parent, node);
    let lines = [
        Line::Text(if is_root { "anon_vma, root" } else { "anon_vma" }),
        Line::Number("num_children", u64::from(guarded.num_children)),
        Line::Number("num_active_vmas", u64::from(guarded.num_active_vmas)),
        Line::Number("refcount", u64::from(node.refcount())),
        Line::Number("VMAs in its tree:", guarded.tree.len() as u64),
    ];
    let id = sketch.anchor(node, &lines);
    // SAFETY: a parent is freed after its children.
    if let Some(parent) = sketch.find(unsafe { &*guarded.parent }).filter(|_| !is_root) {
        sketch.tie(id, parent, Tie::Beside, "parent");
    }
    for key in guarded.tree.iter(0, u64::MAX) {
        if let Some(vma) = sketch.find(key.vma()) {
            sketch.tie(id, vma, Tie::Leads, "tree");
        }
    }
}
