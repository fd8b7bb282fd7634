//! The memory and the grace periods that address spaces, VMAs and files of one context share.

use super::{System, Vma};
use crate::base::alloc::Heap;
use crate::base::error::Result;
use crate::base::href::Href;
use crate::base::rcu::Rcu;
use crate::base::slab::Slab;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::ds::interval_tree::NodePool;

/// Shared by everything of one context. Dropped with the last object that refers to it.
pub struct Arena<S: System> {
    /// Where all metadata comes from.
    pub heap: Heap,
    /// Protects VMAs that readers reach without a lock.
    pub rcu: Rcu,
    /// Nodes of interval trees, of files and engines.
    pub nodes: NodePool,
    /// All VMAs. A VMA's memory stays a VMA; its generation tells one owner from the next.
    pub(super) vmas: Slab<Vma<S>>,
    next_id: AtomicU64,
}

impl<S: System> Arena<S> {
    /// An empty arena over `heap`.
    pub fn new(heap: &Heap) -> Result<Href<Self>> {
        Href::new(
            heap,
            Self {
                heap: heap.clone(),
                rcu: Rcu::new(),
                nodes: NodePool::new(heap),
                vmas: Slab::new(heap),
                next_id: AtomicU64::new(1),
            },
        )
    }

    /// VMAs alive, those that wait for a grace period included.
    pub fn live_vmas(&self) -> u64 {
        self.vmas.live()
    }

    /// Makes sure that `n` VMAs can be made without an allocation, as long as nobody else makes any.
    pub fn reserve_vmas(&self, n: u64) -> Result<()> {
        self.vmas.reserve(n)
    }

    /// Takes all VMAs that can be had without an allocation; [`restore`](Self::restore) gives them back.
    #[cfg(test)]
    pub(crate) fn exhaust(&self) -> alloc::vec::Vec<core::ptr::NonNull<Vma<S>>> {
        self.vmas.exhaust()
    }

    /// Gives back what `exhaust` took.
    #[cfg(test)]
    pub(crate) fn restore(&self, vmas: alloc::vec::Vec<core::ptr::NonNull<Vma<S>>>) {
        for vma in vmas {
            // SAFETY: taken by `exhaust`, from this slab, and given back once.
            unsafe { self.vmas.give(vma) };
        }
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

impl<S: System> Drop for Arena<S> {
    fn drop(&mut self) {
        // VMAs that still wait go back to their slab, which is dropped after.
        self.rcu.drain();
        debug_assert_eq!(self.vmas.live(), 0, "VMAs outlive their context");
    }
}
