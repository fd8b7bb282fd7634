//! Looking inside, for tests.

use super::node::AnonVma;
use super::{AnonVmaSystem, ties};
use crate::base::sync::{RwSem, rank};
use crate::mm::{System, Vma};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

impl<S: System> AnonVma<S> {
    /// The VMAs of its tree, in the order of walks.
    pub(crate) fn vmas(&self) -> Vec<*const Vma<S>> {
        let _held = self.root().lock().read();
        // SAFETY: the root's lock is held shared.
        let guarded = unsafe { self.guarded() };
        guarded.tree.check_invariants();
        guarded.tree.iter(0, u64::MAX).map(|key| core::ptr::from_ref(key.vma())).collect()
    }

    /// `num_children` and `num_active_vmas`.
    pub(crate) fn counters(&self) -> (u32, u32) {
        let _held = self.root().lock().read();
        // SAFETY: the root's lock is held shared.
        let guarded = unsafe { self.guarded() };
        (guarded.num_children, guarded.num_active_vmas)
    }

    /// Its root.
    pub(crate) fn root_of(&self) -> &Self {
        self.root()
    }

    /// The lock of its tree, if it is a root.
    pub(crate) fn lock_for_test(&self) -> &RwSem<{ rank::ANON_VMA }> {
        self.lock()
    }

    /// That of the process that its process was forked from.
    fn parent(&self) -> *const Self {
        let _held = self.root().lock().read();
        // SAFETY: the root's lock is held shared.
        unsafe { self.guarded() }.parent
    }
}

impl<S: System> super::AnonVmaEngine<S> {
    /// Takes all slots that can be had without an allocation, for good.
    pub(crate) fn exhaust(&self) {
        self.nodes.exhaust();
    }
}

/// The mutant `fork_child_first`: a walk that visits later insertions first.
pub(super) fn for_each_reversed<S: System>(
    node: &AnonVma<S>,
    first: u64,
    last: u64,
    mut visit: impl FnMut(&Vma<S>, crate::base::types::VirtAddr) -> core::ops::ControlFlow<()>,
) -> core::ops::ControlFlow<()> {
    // SAFETY: the root's lock is held shared (by the anchor).
    let keys: Vec<_> = unsafe { node.guarded() }.tree.iter(first, last).collect();
    keys.into_iter().rev().try_for_each(|key| visit(key.vma(), key.address_of(first)))
}

/// The `anon_vma`s that a VMA is tied to, oldest first. Its VMA lock is held, and nobody prepares it.
pub(crate) fn chain_of<S: AnonVmaSystem>(vma: &Vma<S>) -> Vec<&AnonVma<S>> {
    // SAFETY: nobody changes the chain (this function's contract).
    unsafe { ties(vma).chain_mut() }.links().iter().map(|link| link.node()).collect()
}

/// Everything that the engine knows of one VMA, for comparison.
pub(crate) fn state_of<S: AnonVmaSystem>(vma: &Vma<S>) -> String {
    let mut out = String::new();
    let own = ties(vma).get().map_or(core::ptr::null(), core::ptr::from_ref);
    let _ = write!(out, "own {own:?}");
    for node in chain_of(vma) {
        let root = core::ptr::from_ref(node.root());
        let (counters, refs) = (node.counters(), node.refcount());
        let _ = write!(
            out,
            "\n    {:?} root {root:?} {counters:?} refs {refs}: {:?}",
            core::ptr::from_ref(node),
            node.vmas()
        );
    }
    out
}

/// Panics unless trees, chains and counters of a context agree with each other. `vmas` are all VMAs there are, whose
/// locks are held; nobody looks a page up.
pub(crate) fn check_all<S: AnonVmaSystem>(vmas: &[&Vma<S>]) {
    let mut nodes: BTreeMap<*const AnonVma<S>, &AnonVma<S>> = BTreeMap::new();
    let mut chains: BTreeMap<*const AnonVma<S>, Vec<*const AnonVma<S>>> = BTreeMap::new();
    for vma in vmas {
        let chain = chain_of(vma);
        let Some(own) = ties(vma).get().map(core::ptr::from_ref) else {
            assert!(chain.is_empty(), "{vma:?} has links and no anon_vma");
            continue;
        };
        assert_eq!(chain.len(), ties(vma).links());
        let names: Vec<_> = chain.iter().map(|node| core::ptr::from_ref(*node)).collect();
        assert!(names.contains(&own), "{vma:?} is not tied to its own anon_vma");
        // T2: equal anchor implies equal chains.
        assert_eq!(*chains.entry(own).or_insert_with(|| names.clone()), names, "{vma:?} differs from its sibling");
        for node in chain {
            assert!(core::ptr::eq(node.root(), chain_of(vma)[0].root()), "a chain of two families");
            let times = node.vmas().into_iter().filter(|v| core::ptr::eq(*v, *vma)).count();
            assert_eq!(times, 1, "{vma:?} is in the tree of each anon_vma of its chain, once");
            nodes.insert(node, node);
        }
    }
    for (name, node) in &nodes {
        let tied = vmas.iter().filter(|vma| chain_of(vma).iter().any(|n| core::ptr::eq(*n, *node))).count();
        assert_eq!(tied, node.vmas().len(), "a tree has VMAs that have no link to it");
        let children = nodes.values().filter(|other| other.parent() == *name).count();
        let active = vmas.iter().filter(|vma| ties(vma).get().is_some_and(|own| core::ptr::eq(own, *node))).count();
        assert_eq!(node.counters(), (children as u32, active as u32), "children and active VMAs of {name:?}");
        let rooted = nodes.values().filter(|other| core::ptr::eq(other.root(), *node)).count();
        assert_eq!(node.refcount() as usize, rooted.max(1), "references to {name:?}");
    }
}
