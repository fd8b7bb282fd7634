//! Blocks of memory for the interval sets of a context.
//!
//! A block has one of five sizes and is whatever its user writes into it; all sets of a context share one [`NodePool`],
//! in type-stable slabs. Taking a block never allocates: who finds the pool empty backs out, drops its locks, calls
//! [`refill`](NodePool::refill) and tries again. So no allocator of the embedder's runs under a lock of librmap (G8).
//!
//! ```text
//!          +-----------+--------------------------------------------+
//!  block   | SlabLink  | body: 7, 15, 31, 63 or 127 words           |    aligned to 64 bytes
//!          +-----------+--------------------------------------------+
//!          ^ Block       ^ Block::body(): plain memory of whoever took it, zeroed when first constructed
//! ```
//!
//! The slab's link stays the slab's: a thread that pops a block late may still read it. No reference made here covers
//! it.

use crate::base::alloc::Heap;
use crate::base::error::Result;
use crate::base::slab::{Slab, SlabItem, SlabLink};
use core::cell::UnsafeCell;
use core::ptr::NonNull;

/// The size of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Size {
    /// 64 bytes.
    B64,
    /// 128 bytes.
    B128,
    /// 256 bytes.
    B256,
    /// 512 bytes.
    B512,
    /// 1,024 bytes.
    B1024,
}

impl Size {
    /// Words in the body of such a block.
    pub(super) const fn words(self) -> usize {
        (8 << self as usize) - 1
    }

    /// The next size, below `limit` or equal to it.
    pub(super) fn larger(self, limit: Self) -> Option<Self> {
        let next = match self {
            Self::B64 => Self::B128,
            Self::B128 => Self::B256,
            Self::B256 => Self::B512,
            Self::B512 => Self::B1024,
            Self::B1024 => return None,
        };
        (next <= limit).then_some(next)
    }
}

/// Memory of one size, with the slab's link in front.
#[repr(C, align(64))]
struct Memory<const WORDS: usize> {
    link: SlabLink,
    body: UnsafeCell<[u64; WORDS]>,
}

// SAFETY: a slab shares only `link`, which is made for it; whoever took a block is the only one to touch the body.
unsafe impl<const WORDS: usize> Sync for Memory<WORDS> {}

impl<const WORDS: usize> SlabItem for Memory<WORDS> {
    fn vacant(link: SlabLink) -> Self {
        Self { link, body: UnsafeCell::new([0; WORDS]) }
    }
    fn link(&self) -> &SlabLink {
        &self.link
    }
}

/// A block whose size its user knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block(NonNull<()>);

impl Block {
    /// The block at `ptr`.
    pub(super) const fn at(ptr: NonNull<()>) -> Self {
        Self(ptr)
    }
    /// The block's address, aligned to 64 bytes.
    pub(super) const fn ptr(self) -> NonNull<()> {
        self.0
    }
    /// The first word of the body.
    #[inline]
    pub(super) fn body(self) -> NonNull<u64> {
        // All sizes have their body at the same place: `repr(C)`, and the alignment of the body is that of a word.
        const BODY: usize = core::mem::offset_of!(Memory<7>, body);
        // SAFETY: a block is a `Memory`, which is larger than that.
        unsafe { self.0.cast::<u8>().add(BODY).cast() }
    }
}

/// Where the nodes of interval sets come from. See the [module](self).
pub struct NodePool {
    b64: Slab<Memory<7>>,
    b128: Slab<Memory<15>>,
    b256: Slab<Memory<31>>,
    b512: Slab<Memory<63>>,
    b1024: Slab<Memory<127>>,
}

/// An insertion needs a block and the pool has none. Nothing has changed: drop the lock, call [`NodePool::refill`],
/// retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedNodes;

impl NodePool {
    /// Blocks of 1,024 bytes that one insertion may take: one for each level of a tree, one for a new root, one for a
    /// leaf.
    pub(super) const LARGEST_PER_INSERT: u64 = 14;

    /// An empty pool over `heap`; it takes its first memory when it is first refilled.
    pub fn new(heap: &Heap) -> Self {
        Self {
            b64: Slab::new(heap),
            b128: Slab::new(heap),
            b256: Slab::new(heap),
            b512: Slab::new(heap),
            b1024: Slab::new(heap),
        }
    }

    /// Makes sure that any `insertions` can succeed, as long as nobody else takes the blocks first. May call the
    /// embedder's allocator: hold no lock.
    ///
    /// Whoever inserts into several sets at once backs out of all of them, and so gives back what the first took: it
    /// asks for twice as many each time it comes back, or would come back for ever.
    pub fn refill(&self, insertions: u64) -> Result<()> {
        self.b64.reserve(insertions)?;
        self.b128.reserve(insertions)?;
        self.b256.reserve(insertions)?;
        self.b512.reserve(insertions)?;
        self.b1024.reserve(Self::LARGEST_PER_INSERT * insertions)
    }

    /// Bytes of the blocks in use; of the past when other threads insert and remove.
    pub fn live_bytes(&self) -> usize {
        let bytes = self.b64.live() * size_of::<Memory<7>>() as u64
            + self.b128.live() * size_of::<Memory<15>>() as u64
            + self.b256.live() * size_of::<Memory<31>>() as u64
            + self.b512.live() * size_of::<Memory<63>>() as u64
            + self.b1024.live() * size_of::<Memory<127>>() as u64;
        bytes as usize
    }

    /// Bytes held from the heap, free blocks included.
    pub fn held_bytes(&self) -> usize {
        self.b64.held_bytes()
            + self.b128.held_bytes()
            + self.b256.held_bytes()
            + self.b512.held_bytes()
            + self.b1024.held_bytes()
    }

    /// Takes all blocks that can be had without an allocation, for good.
    #[cfg(test)]
    pub(crate) fn exhaust(&self) {
        let _ =
            (self.b64.exhaust(), self.b128.exhaust(), self.b256.exhaust(), self.b512.exhaust(), self.b1024.exhaust());
    }

    /// A block, if one can be had without an allocation.
    #[inline]
    pub(super) fn take(&self, size: Size) -> Result<Block, NeedNodes> {
        let block = match size {
            Size::B64 => self.b64.try_take().map(NonNull::cast),
            Size::B128 => self.b128.try_take().map(NonNull::cast),
            Size::B256 => self.b256.try_take().map(NonNull::cast),
            Size::B512 => self.b512.try_take().map(NonNull::cast),
            Size::B1024 => self.b1024.try_take().map(NonNull::cast),
        };
        block.map(Block).ok_or(NeedNodes)
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// `block` came from `take(size)` of this pool, and nobody uses it any more.
    #[inline]
    pub(super) unsafe fn give(&self, block: Block, size: Size) {
        // SAFETY: the caller's contract is the slab's; the size says which slab it was.
        unsafe {
            match size {
                Size::B64 => self.b64.give(block.0.cast()),
                Size::B128 => self.b128.give(block.0.cast()),
                Size::B256 => self.b256.give(block.0.cast()),
                Size::B512 => self.b512.give(block.0.cast()),
                Size::B1024 => self.b1024.give(block.0.cast()),
            }
        }
    }
}

#[cfg(not(any(loom, shuttle)))]
const _: () = {
    assert!(size_of::<Memory<7>>() == 64 && size_of::<Memory<127>>() == 1024);
    assert!(Size::B64.words() == 7 && Size::B1024.words() == 127);
};
