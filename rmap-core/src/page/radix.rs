//! A tree of four levels over 48-bit addresses, whose leaves are found without a lock: the skeleton of page tables in
//! software.
//!
//! ```text
//!   address  47      39 38      30 29      21 20      12 11     0
//!            |  pgd   |    pud   |    pmd   | in leaf  | in page |
//! ```
//!
//! Three levels of 512 pointers lead to a leaf, which covers 2 MiB and whose contents are the owner's. The tree is here
//! and not beside its user in the machine because following shared pointers needs `unsafe`, which the machine forbids
//! itself.
//!
//! **Publication.** A slot goes from null to a node once, by compare-exchange; several threads may build the same path,
//! and the losers free what they made. Inner nodes stay until the tree is dropped: 4 KiB for each GiB of addresses ever
//! touched.
//!
//! **Leaves come and go, their memory does not.** [`detach`](Radix::detach) empties a slot and puts the leaf into a
//! pool of this tree, from which the next [`ensure`](Radix::ensure) takes it. Memory returns to the heap when the tree
//! is dropped. So a reference to a leaf is valid as long as the tree is borrowed, and a walker with a stale one meets a
//! living leaf that is detached, or serves another address by now. Whoever must know locks the leaf and asks
//! [`LeafSlot::holds`] again; a leaf is detached only under that lock, so the answer then stays true.

use crate::base::alloc::Heap;
use crate::base::error::{Error, Result};
use crate::base::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::base::sync::{Mutex, rank};
use crate::base::types::{PAGE_SHIFT, PTRS_PER_TABLE, VirtAddr};
use core::alloc::Layout;
use core::ptr::NonNull;

/// log2 of the slots in a node. Under loom a whole tree covers 16 pages, so that a model can afford it.
const BITS: u32 = if cfg!(loom) { 1 } else { PTRS_PER_TABLE.ilog2() };
/// Slots in a node, and pages under a leaf.
pub const SLOTS: usize = 1 << BITS;
/// The level of the root; that of leaves is 0.
const PGD: u32 = 3;

/// Where addresses end.
pub const ADDRESS_END: VirtAddr = VirtAddr(span(PGD + 1));
/// Bytes that one leaf covers.
pub const LEAF_SPAN: u64 = span(1);

/// Bytes that one slot of a node of `level` covers.
const fn span(level: u32) -> u64 {
    1 << (PAGE_SHIFT + BITS * level)
}

/// The slot of `addr` in a node of `level`, or its page in a leaf for level 0.
#[inline]
pub const fn slot_of(addr: VirtAddr, level: u32) -> usize {
    (addr.0 / span(level)) as usize % SLOTS
}

/// Pointers to nodes of the next level: null, then for good one that is initialised. Release when set; pairs with the
/// Acquire in `child`.
struct Node<C>([AtomicPtr<C>; SLOTS]);

type Pmd<L> = Node<Kept<L>>;
type Pud<L> = Node<Pmd<L>>;
type Pgd<L> = Node<Pud<L>>;

impl<C> Node<C> {
    fn empty() -> Self {
        Self(core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut())))
    }

    #[inline]
    fn slot(&self, addr: VirtAddr, level: u32) -> &AtomicPtr<C> {
        &self.0[slot_of(addr, level)]
    }

    #[inline]
    fn child(&self, addr: VirtAddr, level: u32) -> Option<&C> {
        // SAFETY: what a slot has ever pointed to is initialised, and its memory stays until the tree is dropped.
        unsafe { self.slot(addr, level).load(Ordering::Acquire).as_ref() }
    }
}

/// A leaf and its place in the pool.
struct Kept<L> {
    /// The next leaf in the pool. Pool lock.
    next: AtomicPtr<Kept<L>>,
    leaf: L,
}

/// The slot that leads to the leaf of some address.
pub struct LeafSlot<'a, L>(&'a AtomicPtr<Kept<L>>);

impl<'a, L> LeafSlot<'a, L> {
    /// The leaf that is attached. Without the leaf's lock it may be detached at once.
    #[inline]
    pub fn leaf(&self) -> Option<&'a L> {
        // Acquire; pairs with the Release in `ensure`.
        // SAFETY: as in `Node::child`.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }.map(|kept| &kept.leaf)
    }

    /// Whether the slot leads to `leaf`. Under the leaf's lock the answer stays true until the lock is released.
    #[inline]
    pub fn holds(&self, leaf: &L) -> bool {
        self.leaf().is_some_and(|attached| core::ptr::eq(attached, leaf))
    }
}

/// A tree of leaves `L`. See the [module](self).
pub struct Radix<L> {
    heap: Heap,
    root: NonNull<Pgd<L>>,
    /// Detached leaves, linked by `next`.
    pool: Mutex<*mut Kept<L>, { rank::LEAF }>,
    /// Leaves attached. Statistics: Relaxed.
    attached: AtomicU64,
}

// SAFETY: (1) the tree owns its nodes, and leaves are Send and Sync; (2) slots are atomic, the pool is under its lock.
unsafe impl<L: Send + Sync> Send for Radix<L> {}
// SAFETY: as for Send.
unsafe impl<L: Send + Sync> Sync for Radix<L> {}

impl<L: Default + Send + Sync> Radix<L> {
    /// A tree without leaves.
    pub fn new(heap: &Heap) -> Result<Self> {
        let root = make(heap, Node::empty)?;
        let pool = Mutex::new(core::ptr::null_mut());
        Ok(Self { heap: heap.clone(), root, pool, attached: AtomicU64::new(0) })
    }

    fn root(&self) -> &Pgd<L> {
        // SAFETY: made in `new`, freed by drop.
        unsafe { self.root.as_ref() }
    }

    /// The slot for the leaf of `addr`, if the path to it is there. A slot once found stays.
    #[inline]
    pub fn slot(&self, addr: VirtAddr) -> Option<LeafSlot<'_, L>> {
        if addr >= ADDRESS_END {
            return None;
        }
        let pmd = self.root().child(addr, PGD)?.child(addr, 2)?;
        Some(LeafSlot(pmd.slot(addr, 1)))
    }

    /// The leaf of `addr`, made and attached if there was none. Several threads may ask at once. A fresh leaf is
    /// `L::default()`, one from the pool is as its user left it. No lock of leaf rank held.
    pub fn ensure(&self, addr: VirtAddr) -> Result<&L> {
        if addr >= ADDRESS_END {
            return Err(Error::Invalid);
        }
        let pud = self.grow(self.root().slot(addr, PGD), Node::empty)?;
        let pmd = self.grow(pud.slot(addr, 2), Node::empty)?;
        let slot = pmd.slot(addr, 1);
        if let Some(leaf) = LeafSlot(slot).leaf() {
            return Ok(leaf);
        }
        let kept = match self.unpool() {
            Some(kept) => kept,
            None => make(&self.heap, || Kept { next: AtomicPtr::default(), leaf: L::default() })?,
        };
        // Release; pairs with the Acquire in `leaf`. Acquire on failure, to use the winner's.
        match slot.compare_exchange(core::ptr::null_mut(), kept.as_ptr(), Ordering::Release, Ordering::Acquire) {
            Ok(_) => {
                self.attached.fetch_add(1, Ordering::Relaxed);
                // SAFETY: initialised, and its memory stays until the tree is dropped.
                Ok(&unsafe { kept.as_ref() }.leaf)
            }
            Err(winner) => {
                self.pool(kept);
                // SAFETY: as in `Node::child`; the exchange failed because the slot is not null.
                Ok(&unsafe { &*winner }.leaf)
            }
        }
    }

    /// The node that `slot` leads to, made if there was none.
    fn grow<'a, C>(&self, slot: &'a AtomicPtr<C>, empty: impl FnOnce() -> C) -> Result<&'a C> {
        // SAFETY: as in `Node::child`.
        if let Some(child) = unsafe { slot.load(Ordering::Acquire).as_ref() } {
            return Ok(child);
        }
        let fresh = make(&self.heap, empty)?;
        // Release; pairs with the Acquire in `child`. Acquire on failure, to use the winner's.
        match slot.compare_exchange(core::ptr::null_mut(), fresh.as_ptr(), Ordering::Release, Ordering::Acquire) {
            // SAFETY: initialised by `make`; published now, so it stays until the tree is dropped.
            Ok(_) => Ok(unsafe { fresh.as_ref() }),
            Err(winner) => {
                // SAFETY: (1) made above and not published; (2) the winner as in `Node::child`.
                unsafe {
                    unmake(&self.heap, fresh);
                    Ok(&*winner)
                }
            }
        }
    }

    /// Empties a slot and keeps its leaf for later. The leaf's lock is held, and the caller has left it fit for its
    /// next use.
    pub fn detach(&self, slot: &LeafSlot<'_, L>) {
        // Acquire: the leaf's memory is read to link it. Release is not needed: the slot publishes nothing any more.
        if let Some(kept) = NonNull::new(slot.0.swap(core::ptr::null_mut(), Ordering::Acquire)) {
            self.attached.fetch_sub(1, Ordering::Relaxed);
            // Lock order: PTE lock -> pool.
            self.pool(kept);
        }
    }

    fn pool(&self, kept: NonNull<Kept<L>>) {
        let mut first = self.pool.lock();
        // SAFETY: its memory stays until the tree is dropped.
        unsafe { kept.as_ref() }.next.store(*first, Ordering::Relaxed);
        *first = kept.as_ptr();
    }

    fn unpool(&self) -> Option<NonNull<Kept<L>>> {
        let mut first = self.pool.lock();
        let kept = NonNull::new(*first)?;
        // SAFETY: as in `pool`.
        *first = unsafe { kept.as_ref() }.next.load(Ordering::Relaxed);
        Some(kept)
    }

    /// Leaves attached; of the past when other threads attach and detach.
    pub fn attached(&self) -> u64 {
        self.attached.load(Ordering::Relaxed)
    }

    /// The first address in `[start, end)` that has a leaf. Whole missing nodes are skipped at once.
    pub fn next(&self, start: VirtAddr, end: VirtAddr) -> Option<VirtAddr> {
        let end = end.min(ADDRESS_END);
        let mut at = start;
        while at < end {
            let missing = match self.root().child(at, PGD) {
                None => PGD,
                Some(pud) => match pud.child(at, 2) {
                    None => 2,
                    Some(pmd) if pmd.child(at, 1).is_none() => 1,
                    Some(_) => return Some(at),
                },
            };
            at = VirtAddr((at.0 / span(missing) + 1) * span(missing));
        }
        None
    }
}

/// A value in memory of the heap, to be freed by `unmake`.
fn make<T>(heap: &Heap, value: impl FnOnce() -> T) -> Result<NonNull<T>> {
    let place = heap.alloc(Layout::new::<T>())?.cast::<T>();
    // SAFETY: fresh memory of that layout, ours alone.
    unsafe { place.write(value()) };
    Ok(place)
}

/// Drops what `make` made.
///
/// # Safety
/// `place` came from `make` with this heap, is dropped once, and nobody uses it any more.
unsafe fn unmake<T>(heap: &Heap, place: NonNull<T>) {
    // SAFETY: this function's contract.
    unsafe {
        core::ptr::drop_in_place(place.as_ptr());
        heap.free(place.cast(), Layout::new::<T>());
    }
}

impl<L> Drop for Radix<L> {
    fn drop(&mut self) {
        fn children<C>(node: &Node<C>) -> impl Iterator<Item = NonNull<C>> {
            // Relaxed: `&mut self` came to this thread after all that others did here.
            node.0.iter().filter_map(|slot| NonNull::new(slot.load(Ordering::Relaxed)))
        }
        let heap = &self.heap;
        // SAFETY: (1) all came from `make` with this heap; (2) each node has one parent, and a leaf is either in one
        // slot or in the pool, so nothing is freed twice; (3) `&mut self`: nobody borrows the tree; (4) a node is freed
        // after its children.
        unsafe {
            for pud in children(self.root.as_ref()) {
                for pmd in children(pud.as_ref()) {
                    children(pmd.as_ref()).for_each(|kept| unmake(heap, kept));
                    unmake(heap, pmd);
                }
                unmake(heap, pud);
            }
            unmake(heap, self.root);
            let mut pooled = *self.pool.get_mut();
            while let Some(kept) = NonNull::new(pooled) {
                pooled = kept.as_ref().next.load(Ordering::Relaxed);
                unmake(heap, kept);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::alloc::testing::Countdown;

    type Tree = Radix<AtomicU64>;

    const GIB: u64 = 1 << 30;

    #[test]
    fn next_skips_what_is_missing_at_any_level() {
        let tree = Tree::new(&Heap::global().unwrap()).unwrap();
        let places = [0x20_0000, 3 * GIB, 700 * GIB, ADDRESS_END.0 - LEAF_SPAN].map(VirtAddr);
        assert!(places.iter().all(|addr| tree.ensure(*addr).is_ok()));
        let mut found = Vec::new();
        let mut at = VirtAddr(0);
        while let Some(addr) = tree.next(at, VirtAddr(u64::MAX)) {
            found.push(addr);
            at = VirtAddr(addr.0 + LEAF_SPAN);
        }
        assert_eq!(found, places);
        assert_eq!(tree.next(VirtAddr(3 * GIB + 0x5000), places[2]), Some(VirtAddr(3 * GIB + 0x5000)));
        assert_eq!(tree.next(VirtAddr(4 * GIB), places[2]), None);
    }

    #[test]
    fn addresses_beyond_the_tree_have_no_leaf() {
        let tree = Tree::new(&Heap::global().unwrap()).unwrap();
        assert!(tree.slot(ADDRESS_END).is_none());
        assert_eq!(tree.ensure(ADDRESS_END).unwrap_err(), Error::Invalid);
        assert_eq!(tree.next(ADDRESS_END, VirtAddr(u64::MAX)), None);
    }

    #[test]
    fn a_detached_leaf_serves_the_next_address_and_its_old_slot_knows() {
        let heap = Heap::global().unwrap();
        let tree = Tree::new(&heap).unwrap();
        let (a, b) = (VirtAddr(0), VirtAddr(LEAF_SPAN));
        let leaf = tree.ensure(a).unwrap();
        let slot = tree.slot(a).unwrap();
        assert!(slot.holds(leaf));
        tree.detach(&slot);
        tree.detach(&slot);
        let before = heap.in_use();
        assert!(core::ptr::eq(tree.ensure(b).unwrap(), leaf));
        assert!(!slot.holds(leaf) && tree.slot(b).unwrap().holds(leaf));
        assert_eq!((tree.attached(), heap.in_use()), (1, before));
    }

    #[test]
    fn one_leaf_is_attached_when_many_threads_build_the_same_path() {
        let heap = Heap::global().unwrap();
        for _ in 0..200 {
            let tree = Tree::new(&heap).unwrap();
            crate::base::testing::scope(|s| {
                for _ in 0..4 {
                    s.spawn(|| {
                        for leaf in 0..4 {
                            tree.ensure(VirtAddr(leaf * LEAF_SPAN)).unwrap().fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(tree.attached(), 4);
            assert!((0..4).all(|leaf| tree.ensure(VirtAddr(leaf * LEAF_SPAN)).unwrap().load(Ordering::Relaxed) == 4));
        }
        assert_eq!(heap.in_use(), 0);
    }

    #[test]
    fn g4_each_failing_allocation_leaves_no_leaf_and_no_leak() {
        let countdown = Countdown::leaked();
        let heap = countdown.heap();
        countdown.fail_after(0);
        assert_eq!(Tree::new(&heap).err(), Some(Error::NoMemory));
        for n in 0..3 {
            countdown.fail_after(1 + n);
            let tree = Tree::new(&heap).unwrap();
            assert_eq!(tree.ensure(VirtAddr(0)).unwrap_err(), Error::NoMemory);
            assert!(tree.slot(VirtAddr(0)).is_none_or(|slot| slot.leaf().is_none()));
            assert_eq!(tree.next(VirtAddr(0), ADDRESS_END), None);
            assert!(countdown.lift());
            assert!(tree.ensure(VirtAddr(0)).is_ok());
        }
        assert_eq!(heap.in_use(), 0);
    }
}
