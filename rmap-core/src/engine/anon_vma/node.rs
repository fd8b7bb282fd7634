//! One `anon_vma`: the anchor that anonymous pages point to.
//!
//! An anon_vma lives in a type-stable slot. Its lock is constructed once and never again, its reference count falls to
//! 0 when it is freed, and a look-up that comes too late locks or counts some living anon_vma, finds that it is not the
//! one that it meant, and gives it back.

use crate::base::mutant::mutant;
use crate::base::slab::{SlabItem, SlabLink};
use crate::base::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use crate::base::sync::cell::UnsafeCell;
use crate::base::sync::{RwSem, WriteGuard, rank};
use crate::ds::interval_tree::IntervalTree;
use crate::mm::{System, VmaKey};
use core::ptr::NonNull;

/// A root's lock, held exclusively.
pub(super) type RootWrite<'a> = WriteGuard<'a, { rank::ANON_VMA }>;

/// What the root's lock guards in each anon_vma of its tree.
pub(super) struct Guarded<S: System> {
    /// The VMAs that may map this anon_vma's pages, by page offset.
    pub(super) tree: IntervalTree<VmaKey<S>>,
    /// The anon_vma of the process that this one's process was forked from; a root is its own parent.
    pub(super) parent: *const AnonVma<S>,
    /// anon_vmas whose parent is this one; a root counts itself.
    pub(super) num_children: u32,
    /// VMAs whose own anon_vma is this one. Counted apart from children, so that merges and reuse cannot confuse one
    /// with the other (T2).
    pub(super) num_active_vmas: u32,
}

/// An anchor: see the text at the top of this file, and the engine's.
#[repr(C, align(64))]
pub struct AnonVma<S: System> {
    /// Used in a root only, for the whole tree. Never re-initialised.
    lock: RwSem<{ rank::ANON_VMA }>,
    /// The root of its tree. Written when the slot gets a new owner, before the word of any page or VMA points to it; a
    /// look-up that holds neither lock nor reference may read another owner's.
    root: AtomicPtr<AnonVma<S>>,
    /// One while its tree has VMAs, one for each child that has it as root, one for each look-up that holds it. 0: the
    /// slot is free.
    refcount: AtomicU32,
    link: SlabLink,
    guarded: UnsafeCell<Guarded<S>>,
}

// SAFETY: (1) `guarded` is behind the root's lock, or its slot's owner's alone; (2) everything else is atomic.
unsafe impl<S: System> Send for AnonVma<S> {}
// SAFETY: as for Send.
unsafe impl<S: System> Sync for AnonVma<S> {}

impl<S: System> SlabItem for AnonVma<S> {
    fn vacant(link: SlabLink) -> Self {
        Self {
            lock: RwSem::new(),
            root: AtomicPtr::new(core::ptr::null_mut()),
            refcount: AtomicU32::new(0),
            link,
            guarded: UnsafeCell::new(Guarded {
                tree: IntervalTree::new(),
                parent: core::ptr::null(),
                num_children: 0,
                num_active_vmas: 0,
            }),
        }
    }
    fn link(&self) -> &SlabLink {
        &self.link
    }
}

impl<S: System> AnonVma<S> {
    /// Makes a slot that is ours alone a root without VMAs, with one reference and its own lock.
    pub(super) fn init_root(&self) {
        // SAFETY: the slot is ours alone until it is published.
        let guarded = unsafe { self.guarded_mut() };
        debug_assert!(guarded.tree.is_empty());
        if mutant("lock_new_on_reuse") && self.lock.is_locked() {
            // As a lock that is constructed again forgets who is inside.
            // SAFETY: only a late look-up holds it; that it will unlock it once more is what the model reports.
            unsafe { self.lock.unlock_read_raw() };
        }
        guarded.parent = self;
        guarded.num_children = 1;
        guarded.num_active_vmas = 1;
        self.root.store(core::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        self.refcount.store(1, Ordering::Release);
    }

    /// Makes a slot that is ours alone a child of `parent`. `parent` learns of it when it is linked. Takes a reference
    /// to the root.
    pub(super) fn init_child(&self, parent: &Self) {
        // SAFETY: the slot is ours alone until it is published.
        let guarded = unsafe { self.guarded_mut() };
        debug_assert!(guarded.tree.is_empty());
        guarded.parent = parent;
        guarded.num_children = 0;
        guarded.num_active_vmas = 1;
        let root = parent.root();
        if !mutant("root_not_held") {
            root.get();
        }
        self.root.store(core::ptr::from_ref(root).cast_mut(), Ordering::Relaxed);
        self.refcount.store(1, Ordering::Release);
    }

    /// The root of its tree. Constant while the caller has a reference, a lock of the tree, or a VMA that is linked to
    /// it.
    #[inline]
    pub(super) fn root(&self) -> &Self {
        // SAFETY: set before the slot was first published, to a slot of the same slab; slots stay valid.
        unsafe { &*self.root.load(Ordering::Acquire) }
    }

    /// Whether the root is still `root`.
    #[inline]
    pub(super) fn has_root(&self, root: &Self) -> bool {
        core::ptr::eq(self.root.load(Ordering::Relaxed), root)
    }

    /// The lock; a root's.
    #[inline]
    pub(super) fn lock(&self) -> &RwSem<{ rank::ANON_VMA }> {
        &self.lock
    }

    /// Locks the whole tree exclusively. Lock order: after mmap_lock, page lock and `i_mmap_rwsem`, before PTE locks.
    #[inline]
    pub(super) fn lock_root(&self) -> RootWrite<'_> {
        self.root().lock.write()
    }

    /// What the root's lock guards.
    ///
    /// # Safety
    /// The root's lock is held exclusively, or the slot is the caller's alone; and no other reference to it is alive.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn guarded_mut(&self) -> &mut Guarded<S> {
        // SAFETY: the caller's contract.
        self.guarded.with_mut(|guarded| unsafe { &mut *guarded })
    }

    /// What the root's lock guards.
    ///
    /// # Safety
    /// The root's lock is held.
    #[inline]
    pub(super) unsafe fn guarded(&self) -> &Guarded<S> {
        // SAFETY: the caller's contract.
        self.guarded.with(|guarded| unsafe { &*guarded })
    }

    /// One more reference; the caller knows that there is one.
    #[inline]
    pub(super) fn get(&self) {
        self.refcount.fetch_add(1, Ordering::Relaxed);
    }

    /// One more reference, unless the slot is free. Acquire: what its owner wrote is visible; pairs with the Release in
    /// `init_*`. Acquire on failure too: whoever freed the slot had unmapped its pages, so the caller, who looks again,
    /// sees that and does not spin.
    #[inline]
    pub(super) fn try_get(&self) -> bool {
        let wanted = |n| n != 0 || mutant("get_without_zero_check");
        let order = if mutant("get_relaxed") { Ordering::Relaxed } else { Ordering::Acquire };
        self.refcount.fetch_update(order, Ordering::Acquire, |n| wanted(n).then_some(n + 1)).is_ok()
    }

    /// One reference less. Returns whether the slot is free now: the caller gives it back. AcqRel: every former holder
    /// is done with it.
    #[inline]
    pub(super) fn put(&self) -> bool {
        let before = self.refcount.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before != 0, "an anon_vma loses a reference that it does not have");
        before == 1
    }

    /// References now, for tests and pictures.
    pub fn refcount(&self) -> u32 {
        self.refcount.load(Ordering::Relaxed)
    }

    /// Its address as pages point to it.
    pub(super) fn word(&self) -> NonNull<()> {
        NonNull::from(self).cast()
    }
}
