//! Type-stable objects, handed out and taken back without a lock.
//!
//! A [`Slab`] constructs an object once, in memory that it keeps until it is dropped itself: an object that was taken
//! back is still a valid `T` and is handed out again at once. So a racing reader that holds a stale reference reads a
//! live object of the right type (perhaps somebody else's by now) and must check that it is still the one it meant: the
//! kernel's `SLAB_TYPESAFE_BY_RCU`, without the grace period.
//!
//! Free objects form one stack per stripe of threads, a Treiber stack whose head carries a tag against ABA. Chunks of
//! memory double in size, so that an index finds its object with one look at a directory of 26 pointers; slots of a
//! chunk are constructed when they are first handed out.
//!
//! | head word | meaning | who changes it |
//! |---|---|---|
//! | low 32 bits 0 | the stack is empty | whoever pops the last object |
//! | low 32 bits n > 0 | object n - 1 is on top | push and pop, by compare-exchange |
//! | high 32 bits | pushes so far, modulo 2^32 | push |
//!
//! The tag need not count pops: an object that a late pop found on top and that is on top again was pushed meanwhile.
//! So the tags count what was given back, and a take is all that has to be counted beside them.

use crate::base::alloc::Heap;
use crate::base::error::{Error, Result};
use crate::base::mutant::mutant;
use crate::base::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::base::sync::{CachePadded, Mutex, STRIPES, rank, stripe};
use core::alloc::Layout;
use core::ptr::NonNull;

/// Slots in the first chunk; chunk k has `FIRST << k`.
const FIRST: u32 = if cfg!(loom) { 4 } else { 64 };
/// Chunks at most: `FIRST * 2^26` slots, just under 2^32.
const CHUNKS: usize = if cfg!(loom) { 3 } else { 26 };

/// The place that a slab keeps in each object. It belongs to the slab alone.
#[derive(Debug)]
pub struct SlabLink {
    /// 1 + index of the next free object; meaningful only while this one is free. Relaxed: the head's compare-exchange
    /// publishes it, and its tag discards a value read too late.
    next: AtomicU32,
    /// This object's own index, from construction on.
    index: u32,
}

impl SlabLink {
    /// The object's number in its slab: [`Slab::get`] finds the object by it. It never changes.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// What a slab can hold.
pub trait SlabItem: Send + Sync {
    /// A vacant object around `link`.
    fn vacant(link: SlabLink) -> Self;
    /// The link given to `vacant`.
    fn link(&self) -> &SlabLink;
}

/// What the threads of one stripe write: on a cache line of its own.
struct Stack {
    /// See the table in the [module](self).
    head: AtomicU64,
    /// Objects that threads of this stripe took, modulo 2^32. Relaxed; `Slab::live` says what orders it.
    taken: AtomicU32,
}

/// The part of a head word that counts pushes.
const PUSHES: u64 = !0 << 32;

/// A source of type-stable objects. See the [module](self).
pub struct Slab<T: SlabItem> {
    stacks: [CachePadded<Stack>; STRIPES],
    /// Slots ever handed out; they are constructed. Relaxed: an index is claimed by one thread alone.
    constructed: AtomicU64,
    /// Slots for which there is memory. Release when a chunk is added; pairs with the Acquire in `take_fresh`.
    capacity: AtomicU64,
    chunks: [AtomicPtr<T>; CHUNKS],
    /// Serialises growth; the number of chunks.
    grow: Mutex<usize, { rank::LEAF }>,
    heap: Heap,
}

// SAFETY: (1) `T` is Send and Sync by `SlabItem`; (2) the slab's own fields are atomics or under a lock.
unsafe impl<T: SlabItem> Send for Slab<T> {}
// SAFETY: as for Send.
unsafe impl<T: SlabItem> Sync for Slab<T> {}

#[inline]
fn place(index: u32) -> (usize, usize) {
    let i = u64::from(index) + u64::from(FIRST);
    let chunk = i.ilog2() - FIRST.ilog2();
    (chunk as usize, (i - (u64::from(FIRST) << chunk)) as usize)
}

impl<T: SlabItem> Slab<T> {
    /// An empty slab; it takes its first memory when it is first asked.
    pub fn new(heap: &Heap) -> Self {
        Self {
            stacks: core::array::from_fn(|_| CachePadded(Stack { head: AtomicU64::new(0), taken: AtomicU32::new(0) })),
            constructed: AtomicU64::new(0),
            capacity: AtomicU64::new(0),
            chunks: core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut())),
            grow: Mutex::new(0),
            heap: heap.clone(),
        }
    }

    /// An object, from what is free or from fresh memory of the heap. May call the embedder's allocator: hold no lock
    /// that the allocator could want (T11).
    #[inline]
    pub fn take(&self) -> Result<NonNull<T>> {
        loop {
            if let Some(item) = self.try_take() {
                return Ok(item);
            }
            self.grow()?;
        }
    }

    /// An object, only if that needs no allocation.
    #[inline]
    pub fn try_take(&self) -> Option<NonNull<T>> {
        let own = stripe();
        let item = self.pop(own).or_else(|| self.take_elsewhere(own))?;
        self.stacks[own].taken.fetch_add(1, Ordering::Relaxed);
        Some(item)
    }

    /// Takes an object back.
    ///
    /// # Safety
    /// `item` came from `take` of this slab, and was not given since. Others may still look at it, as a `T` that is
    /// vacant or has a new owner.
    #[inline]
    pub unsafe fn give(&self, item: NonNull<T>) {
        let own = stripe();
        // SAFETY: the slab's objects stay constructed and in place until the slab is dropped.
        let link = unsafe { item.as_ref() }.link();
        let head = &self.stacks[own].head;
        let mut seen = head.load(Ordering::Relaxed);
        loop {
            link.next.store(seen as u32, Ordering::Relaxed);
            let pushes = (seen >> 32) + u64::from(!mutant("slab_without_tag"));
            let new = (pushes << 32) | u64::from(link.index + 1);
            // Release: what the last owner wrote is seen by the next; pairs with the Acquire in `pop`, and in `live`.
            let order = if mutant("slab_relaxed_give") { Ordering::Relaxed } else { Ordering::Release };
            match head.compare_exchange_weak(seen, new, order, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Makes sure that at least `n` objects can be taken without an allocation, as long as nobody else takes them.
    pub fn reserve(&self, n: u64) -> Result<()> {
        while self.capacity.load(Ordering::Relaxed) < self.live() + n {
            self.grow()?;
        }
        Ok(())
    }

    /// Objects handed out and not returned; of the past when other threads take and give.
    pub fn live(&self) -> u64 {
        // Acquire; pairs with the Release in `give`: whoever gives has seen the take, so each object that is counted as
        // given back here is counted as taken below, and the difference is never below zero.
        let given = self
            .stacks
            .iter()
            .fold(0_u32, |sum, stack| sum.wrapping_add((stack.head.load(Ordering::Acquire) >> 32) as u32));
        let taken = self.stacks.iter().fold(0_u32, |sum, stack| sum.wrapping_add(stack.taken.load(Ordering::Relaxed)));
        u64::from(taken.wrapping_sub(given))
    }

    /// Bytes of memory held for objects, free ones included.
    pub fn held_bytes(&self) -> usize {
        self.capacity.load(Ordering::Relaxed) as usize * size_of::<T>()
    }

    /// The object with this number ([`SlabLink::index`]), handed out or not; `None`: no object has it. It is
    /// constructed if the caller has its number from the object itself, or from who had it from there: whatever handed
    /// the number over hands over the construction too.
    #[inline]
    pub fn get(&self, index: u32) -> Option<NonNull<T>> {
        let (chunk, slot) = place(index);
        // Relaxed: whatever handed the number over has ordered the chunk's pointer before it.
        let base = self.chunks.get(chunk)?.load(Ordering::Relaxed);
        // SAFETY: a chunk that is there has `FIRST << chunk` slots, and `place` stays below that.
        (!base.is_null()).then(|| unsafe { NonNull::new_unchecked(base.add(slot)) })
    }

    /// Takes all that can be had without an allocation, so that whoever comes next allocates.
    #[cfg(test)]
    pub(crate) fn exhaust(&self) -> std::vec::Vec<NonNull<T>> {
        core::iter::from_fn(|| self.try_take()).collect()
    }

    #[inline]
    fn at(&self, index: u32) -> NonNull<T> {
        let (chunk, slot) = place(index);
        // Relaxed: whoever has an index has it from a head or from `capacity`, both read with Acquire after the
        // chunk's pointer was stored.
        let base = self.chunks[chunk].load(Ordering::Relaxed);
        debug_assert!(!base.is_null());
        // SAFETY: the chunk has `FIRST << chunk` slots and `place` stays below that; a chunk of a known index is not
        // null.
        unsafe { NonNull::new_unchecked(base.add(slot)) }
    }

    #[inline]
    fn pop(&self, stripe: usize) -> Option<NonNull<T>> {
        let head = &self.stacks[stripe].head;
        // Acquire; pairs with the Release in `give`, here and in the exchange below.
        let mut seen = head.load(Ordering::Acquire);
        loop {
            let top = (seen as u32).checked_sub(1)?;
            let item = self.at(top);
            // SAFETY: objects are never destroyed before the slab; one that was popped meanwhile gives a `next`
            // that the tag discards.
            let next = unsafe { item.as_ref() }.link().next.load(Ordering::Relaxed);
            let new = (seen & PUSHES) | u64::from(next);
            match head.compare_exchange_weak(seen, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(item),
                Err(now) => seen = now,
            }
        }
    }

    #[cold]
    fn take_elsewhere(&self, own: usize) -> Option<NonNull<T>> {
        self.take_fresh().or_else(|| (1..STRIPES).find_map(|i| self.pop((own + i) % STRIPES)))
    }

    fn take_fresh(&self) -> Option<NonNull<T>> {
        let mut index = self.constructed.load(Ordering::Relaxed);
        loop {
            // Acquire; pairs with the Release in `grow`: the chunk's pointer is visible.
            if index >= self.capacity.load(Ordering::Acquire) {
                return None;
            }
            match self.constructed.compare_exchange_weak(index, index + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => index = now,
            }
        }
        let item = self.at(index as u32);
        // SAFETY: the exchange gave this slot to us alone, nobody has a pointer to it, and its memory is there.
        unsafe { item.write(T::vacant(SlabLink { next: AtomicU32::new(0), index: index as u32 })) };
        Some(item)
    }

    #[cold]
    fn grow(&self) -> Result<()> {
        let before = self.capacity.load(Ordering::Relaxed);
        let chunk = *self.grow.lock();
        if chunk == CHUNKS {
            return Err(Error::NoMemory);
        }
        // The lock is not held over the allocation, which may be the embedder's code (G8): a race allocates twice and
        // frees the loser's.
        let layout = Layout::array::<T>((FIRST as usize) << chunk).map_err(|_| Error::NoMemory)?;
        let memory = self.heap.alloc(layout)?;
        let mut chunks = self.grow.lock();
        if *chunks == chunk {
            self.chunks[chunk].store(memory.cast().as_ptr(), Ordering::Relaxed);
            *chunks += 1;
            // Release; pairs with the Acquire in `take_fresh`.
            self.capacity.fetch_add(u64::from(FIRST) << chunk, Ordering::Release);
            return Ok(());
        }
        drop(chunks);
        debug_assert!(self.capacity.load(Ordering::Relaxed) >= before);
        // SAFETY: allocated above with this layout, and not published.
        unsafe { self.heap.free(memory, layout) };
        Ok(())
    }
}

impl<T: SlabItem> Drop for Slab<T> {
    fn drop(&mut self) {
        let chunks = *self.grow.lock();
        let mut left = self.constructed.load(Ordering::Relaxed) as usize;
        for (k, chunk) in self.chunks.iter().enumerate().take(chunks) {
            let slots = (FIRST as usize) << k;
            let base = chunk.load(Ordering::Relaxed);
            let live = left.min(slots);
            left -= live;
            let Ok(layout) = Layout::array::<T>(slots) else { continue };
            // SAFETY: (1) the first `live` slots are constructed and nobody can reach them any more (`&mut self`);
            // (2) the chunk came from `grow` with this layout and is not null.
            unsafe {
                core::ptr::drop_in_place(core::ptr::slice_from_raw_parts_mut(base, live));
                self.heap.free(NonNull::new_unchecked(base.cast()), layout);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::alloc::testing::Countdown;

    struct Item(SlabLink, AtomicU64);
    impl SlabItem for Item {
        fn vacant(link: SlabLink) -> Self {
            Self(link, AtomicU64::new(0))
        }
        fn link(&self) -> &SlabLink {
            &self.0
        }
    }

    #[test]
    fn an_index_finds_its_place() {
        assert_eq!(place(0), (0, 0));
        assert_eq!(place(63), (0, 63));
        assert_eq!(place(64), (1, 0));
        assert_eq!(place(64 + 128), (2, 0));
    }

    #[test]
    fn no_object_is_handed_out_twice_and_all_memory_returns() {
        let heap = Heap::global().unwrap();
        let slab = Slab::<Item>::new(&heap);
        crate::base::testing::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let mut mine = Vec::new();
                    for round in 0..20_000_u64 {
                        if round % 3 < 2 {
                            let item = slab.take().unwrap();
                            // SAFETY: ours until given back.
                            assert_eq!(unsafe { item.as_ref() }.1.swap(1, Ordering::Relaxed), 0);
                            mine.push(item);
                        } else if let Some(item) = mine.pop() {
                            // SAFETY: taken above.
                            unsafe {
                                item.as_ref().1.store(0, Ordering::Relaxed);
                                slab.give(item);
                            }
                        }
                    }
                    for item in mine {
                        // SAFETY: taken above.
                        unsafe {
                            item.as_ref().1.store(0, Ordering::Relaxed);
                            slab.give(item);
                        }
                    }
                });
            }
        });
        assert_eq!(slab.live(), 0);
        drop(slab);
        assert_eq!(heap.in_use(), 0);
    }

    #[test]
    fn running_out_is_an_error_and_leaves_the_slab_usable() {
        let countdown = Countdown::leaked();
        let slab = Slab::<Item>::new(&countdown.heap());
        countdown.fail_after(0);
        assert_eq!(slab.take().unwrap_err(), Error::NoMemory);
        assert!(slab.try_take().is_none());
        assert!(countdown.lift());
        assert!(slab.take().is_ok());
    }
}
