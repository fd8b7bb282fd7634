//! A group: the members of an interval set whose intervals are equal, in the order of their insertion.
//!
//! After a fork without exec most intervals of a family are equal, so this is the structure that large walks spend
//! their time in. A group is a list of chunks that are never copied: a member stays in the slot where it was put, so
//! its owner can keep the [`Place`] and removal needs neither a search nor a neighbour.
//!
//! ```text
//!  word in the set --> head chunk               chunk                      tail chunk
//!                     +----+------+--+----+    +----+------+--+----+      +----+------+--+----+
//!          head.prev  |prev| next-+->|live| -> |prev| next-+->|live| ->   |prev| next |  |live|   next = none
//!          = the tail +----+------+--+----+    +----+------+--+----+      +----+------+--+----+
//!                     | slot 0: founder   |    | slots in order    |      | appended here     |
//!                     +-------------------+    +-------------------+      +-------------------+
//! ```
//!
//! - A chunk knows its head, so that `insert_after` finds the tail from any member.
//! - The *founder* was in the set alone before there was a group. Its owner was told no place, so it is always found in
//!   slot 0 of the head. For its sake the head stays as long as the group does; every other chunk goes with its last member.
//! - A chunk that filled up without losing a member is followed by one of the next size, a chunk with holes by one that fits
//!   what was left in it: a group through which members pass stays small.
//!
//! The word `live` of a chunk (changed by whoever holds the set for writing):
//!
//! | bits | meaning |
//! |---|---|
//! | 0 ..= 58, set | the slot holds a member |
//! | 0 ..= 58, clear | the slot is free; above the highest set bit of the tail it may be filled, elsewhere it stays empty |
//! | 59 ..= 61 | zero |
//! | 62, 63 | size of the chunk: 64, 128, 256 or 512 bytes, with 3, 11, 27 or 59 slots |
//!
//! The packed [`Place`]:
//!
//! | value | meaning |
//! |---|---|
//! | 0 | not in a group, or a group's founder |
//! | low 6 bits | slot |
//! | the rest | address of the chunk |

use super::pool::{Block, NeedNodes, NodePool, Size};
use core::cell::Cell;
use core::ops::ControlFlow;
use core::ptr::NonNull;

/// Where the set keeps a member. The owner stores it beside the item and hands it to `remove`; it means nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(*mut ());

// SAFETY: a place is a number to everyone but the set, which follows it only under the set's own lock.
unsafe impl Send for Place {}
// SAFETY: as for Send.
unsafe impl Sync for Place {}

impl Default for Place {
    fn default() -> Self {
        Self::NONE
    }
}

impl Place {
    const SLOT: usize = 0x3f;
    /// The place of an item that is in no group, or founded one.
    pub(super) const NONE: Self = Self(core::ptr::null_mut());

    fn new(chunk: Chunk, slot: u32) -> Self {
        Self(chunk.0.ptr().as_ptr().map_addr(|addr| addr | slot as usize))
    }
    fn chunk(self) -> Option<Block> {
        NonNull::new(self.0.map_addr(|addr| addr & !Self::SLOT)).map(Block::at)
    }
    fn slot(self) -> u32 {
        (self.0.addr() & Self::SLOT) as u32
    }
}

/// The first words of a chunk's body; the slots follow.
#[repr(C)]
struct Header {
    /// The first chunk of the group; of the head, itself.
    head: Cell<Block>,
    next: Cell<Option<Block>>,
    /// The chunk before; of the head, the tail.
    prev: Cell<Block>,
    /// Which slots hold a member, and the size. See the table in the [module](self).
    live: Cell<u64>,
}

const HEADER_WORDS: usize = size_of::<Header>() / 8;
const SLOTS_MAX: usize = Size::B512.words() - HEADER_WORDS;
const LIVE: u64 = (1 << SLOTS_MAX) - 1;
const SIZE_SHIFT: u32 = 62;

const _: () = assert!(HEADER_WORDS == 4 && SLOTS_MAX < Place::SLOT && SLOTS_MAX < SIZE_SHIFT as usize);

/// A chunk that is part of a group.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Chunk(Block);

impl Chunk {
    /// Makes `block` a chunk without members and without neighbours. `head` is none for the first of a group.
    fn build(block: Block, size: Size, head: Option<Block>) -> Self {
        let header = Header {
            head: Cell::new(head.unwrap_or(block)),
            next: Cell::new(None),
            prev: Cell::new(block),
            live: Cell::new((size as u64) << SIZE_SHIFT),
        };
        // SAFETY: the block is fresh from the pool, at least 64 bytes, and nobody else knows it.
        unsafe { block.body().cast().write(header) };
        Self(block)
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: a `Chunk` is made by `build`, or read from a place, a word or a neighbour, and all of these name a
        // chunk that `build` has made and that was not given back; `give` is the last use. The cells are changed under
        // the set's exclusive lock only.
        unsafe { self.0.body().cast().as_ref() }
    }

    /// A slot; what stands in one that is not live means nothing.
    #[inline]
    fn slot(self, slot: u32) -> NonNull<NonNull<()>> {
        debug_assert!((slot as usize) < self.capacity());
        // SAFETY: the body has `HEADER_WORDS + capacity` words.
        unsafe { self.0.body().add(HEADER_WORDS + slot as usize).cast() }
    }

    #[inline]
    fn live(self) -> u64 {
        self.header().live.get() & LIVE
    }

    #[inline]
    fn size(self) -> Size {
        match self.header().live.get() >> SIZE_SHIFT {
            0 => Size::B64,
            1 => Size::B128,
            2 => Size::B256,
            _ => Size::B512,
        }
    }

    #[inline]
    fn capacity(self) -> usize {
        self.size().words() - HEADER_WORDS
    }

    #[inline]
    fn next(self) -> Option<Self> {
        self.header().next.get().map(Self)
    }

    /// The member in a live slot.
    #[inline]
    fn member(self, slot: u32) -> NonNull<()> {
        debug_assert!(self.live() & (1 << slot) != 0);
        // SAFETY: a live slot was written by `put`.
        unsafe { self.slot(slot).read() }
    }

    /// The slot after the last live one, if the chunk has one more.
    #[inline]
    fn free_slot(self) -> Option<u32> {
        let used = u64::BITS - self.live().leading_zeros();
        ((used as usize) < self.capacity()).then_some(used)
    }

    #[inline]
    fn put(self, slot: u32, item: NonNull<()>) {
        // SAFETY: inside the block, which the set's exclusive lock gives to us.
        unsafe { self.slot(slot).write(item) };
        let live = &self.header().live;
        live.set(live.get() | (1 << slot));
    }

    /// The size of the chunk to follow this one.
    fn size_after(self) -> Size {
        let wanted = 2 * self.live().count_ones() as usize;
        let fits = |size: &Size| size.words() - HEADER_WORDS >= wanted;
        [Size::B64, Size::B128, Size::B256].into_iter().find(fits).unwrap_or(Size::B512)
    }
}

/// A group, named by its head chunk. It has at least one member.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Group(Chunk);

/// What [`Group::remove`] leaves behind.
pub(super) enum Left {
    /// There are other members.
    Members,
    /// That was the last one: the group whose head was this block is gone.
    Nobody(Block),
}

impl Group {
    /// The group whose head is `block`.
    ///
    /// # Safety
    /// `block` is the [`head`](Self::head) of a group that is not gone, and the caller holds the set's lock as long as
    /// it uses the result: exclusively for what changes the group.
    #[inline]
    pub(super) unsafe fn at(block: Block) -> Self {
        Self(Chunk(block))
    }

    /// The block that names the group.
    pub(super) fn head(self) -> Block {
        self.0.0
    }

    /// The group that the member in `place` belongs to.
    ///
    /// # Safety
    /// As for [`at`](Self::at), and the member is still in its group.
    #[inline]
    pub(super) unsafe fn of(place: Place) -> Option<Self> {
        let chunk = Chunk(place.chunk()?);
        Some(Self(Chunk(chunk.header().head.get())))
    }

    /// A group of two. `founder` gets no place, `second` the one returned.
    pub(super) fn found(
        pool: &NodePool,
        founder: NonNull<()>,
        second: NonNull<()>,
    ) -> Result<(Self, Place), NeedNodes> {
        let head = Chunk::build(pool.take(Size::B64)?, Size::B64, None);
        head.put(0, founder);
        head.put(1, second);
        Ok((Self(head), Place::new(head, 1)))
    }

    /// The place of `item`, which has none, if it is the founder.
    #[inline]
    pub(super) fn founder(self, item: NonNull<()>) -> Option<Place> {
        (self.0.live() & 1 != 0 && self.0.member(0) == item).then(|| Place::new(self.0, 0))
    }

    /// Appends a member.
    #[inline]
    pub(super) fn append(self, pool: &NodePool, item: NonNull<()>) -> Result<Place, NeedNodes> {
        let head = self.0.header();
        let tail = Chunk(head.prev.get());
        if let Some(slot) = tail.free_slot() {
            tail.put(slot, item);
            return Ok(Place::new(tail, slot));
        }
        let size = tail.size_after();
        let new = Chunk::build(pool.take(size)?, size, Some(self.head()));
        new.put(0, item);
        new.header().prev.set(tail.0);
        tail.header().next.set(Some(new.0));
        head.prev.set(new.0);
        Ok(Place::new(new, 0))
    }

    /// Removes `item` from `place`.
    ///
    /// # Safety
    /// The group of `place` came from this pool, the set's lock is held exclusively, and `place` is `item`'s: the one
    /// that `found`, `append` or `founder` returned.
    #[inline]
    pub(super) unsafe fn remove(pool: &NodePool, place: Place, item: NonNull<()>) -> Left {
        let Some(block) = place.chunk() else { return Left::Members };
        let chunk = Chunk(block);
        debug_assert!(chunk.member(place.slot()) == item, "the place is another item's");
        let live = &chunk.header().live;
        live.set(live.get() & !(1 << place.slot()));
        if chunk.live() != 0 {
            return Left::Members;
        }
        Self::drop_chunk(pool, chunk)
    }

    /// Gives back an empty chunk that is not the head, and the head if it is empty and alone.
    fn drop_chunk(pool: &NodePool, chunk: Chunk) -> Left {
        let head = Chunk(chunk.header().head.get());
        if chunk != head {
            let prev = Chunk(chunk.header().prev.get());
            let next = chunk.next();
            prev.header().next.set(next.map(|next| next.0));
            next.unwrap_or(head).header().prev.set(prev.0);
            // SAFETY: the chunk has no members and no neighbour leads to it.
            unsafe { pool.give(chunk.0, chunk.size()) };
        }
        if head.live() != 0 || head.next().is_some() {
            return Left::Members;
        }
        // SAFETY: no member names the group any more, and the set forgets its head when it reads `Left::Nobody`.
        unsafe { pool.give(head.0, head.size()) };
        Left::Nobody(head.0)
    }

    /// Some member.
    #[inline]
    pub(super) fn any(self) -> NonNull<()> {
        // Only the head may be empty, and never when it is alone.
        let chunk = if self.0.live() == 0 { self.0.next().unwrap_or(self.0) } else { self.0 };
        chunk.member(chunk.live().trailing_zeros())
    }

    /// Calls `visit` with each member, in the order of insertion.
    #[inline]
    pub(super) fn for_each(self, mut visit: impl FnMut(NonNull<()>) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut chunk = self.0;
        loop {
            let mut live = chunk.live();
            while live != 0 {
                visit(chunk.member(live.trailing_zeros()))?;
                live &= live - 1;
            }
            match chunk.next() {
                Some(next) => chunk = next,
                None => return ControlFlow::Continue(()),
            }
        }
    }

    /// A cursor before the first member.
    #[inline]
    pub(super) fn cursor(self) -> Cursor {
        Cursor { chunk: self.0, live: self.0.live() }
    }

    /// Gives back all chunks.
    ///
    /// # Safety
    /// As for [`remove`](Self::remove); the group is not used again, and no place of its members.
    pub(super) unsafe fn clear(self, pool: &NodePool) {
        let mut chunk = Some(self.0);
        while let Some(this) = chunk {
            chunk = this.next();
            // SAFETY: the caller's contract.
            unsafe { pool.give(this.0, this.size()) };
        }
    }

    /// Panics if the chunks contradict each other.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check_invariants(self) {
        let head = self.0;
        let mut chunk = head;
        loop {
            assert!(chunk.header().head.get() == head.0, "a chunk names another head");
            assert_eq!(chunk.live() >> chunk.capacity(), 0, "a member beyond the last slot");
            assert!(chunk == head || chunk.live() != 0, "an empty chunk that is not the head");
            let Some(next) = chunk.next() else { break };
            assert!(next.header().prev.get() == chunk.0, "neighbours disagree");
            chunk = next;
        }
        assert!(head.header().prev.get() == chunk.0, "the head does not know the tail");
        assert!(head.live() != 0 || chunk != head, "an empty group");
    }
}

/// A position in a group.
#[derive(Clone)]
pub(super) struct Cursor {
    chunk: Chunk,
    /// The members of the chunk that are still to come.
    live: u64,
}

impl Cursor {
    /// The next member.
    #[inline]
    pub(super) fn next(&mut self) -> Option<NonNull<()>> {
        while self.live == 0 {
            self.chunk = self.chunk.next()?;
            self.live = self.chunk.live();
        }
        let slot = self.live.trailing_zeros();
        self.live &= self.live - 1;
        Some(self.chunk.member(slot))
    }
}
