//! The swap store: slots for pages that are out of memory, and the cache of pages that are on their way out or in.
//!
//! A slot is 4 KiB on the backing. Swap entries in page tables name it, and so does the page in its **swap cache**, if
//! any: the frame that holds the slot's contents while they are written or after they were read. All that is known of a
//! slot is one word:
//!
//! | frame + 1 (bits 63..24) | uses (bits 23..0) | state | who leaves it, and how |
//! |---|---|---|---|
//! | 0 | 0 | free | `alloc`: to cached, 1 use |
//! | f > 0 | 1 | cached only: no entry names it, or none yet | whoever has the page lock: `dup` per entry made, or `cache_remove`, which frees it |
//! | f > 0 | n > 1 | cached, and named by n - 1 entries | `dup` and `free` per entry; `cache_remove` when the page has gone out, or was taken over |
//! | 0 | n > 0 | on the backing only, named by n entries | `cache_insert`, to read it in; `free` per entry, the last frees the slot |
//!
//! The cache is itself one use, taken and given back in the same step that enters and removes the frame. So there is no
//! moment at which a slot is in use and could be entered by somebody who still believes in an earlier life of it: a new
//! slot is born in the cache, and a slot whose last use is gone refuses to be entered.
//!
//! ```text
//!   out:  alloc ─ try_to_unmap: dup per entry ─ write ─ cache_remove                    (page lock held throughout)
//!   in:   cache_lookup, else a new locked page: cache_insert ─ read ─ map: free per entry ─ cache_remove when it pays
//! ```
//!
//! **Locks.** The words need none. The stack of free slots has one of leaf rank. The owner of the cache's page lock
//! alone writes and reads the contents of a slot.
//!
//! **Looking up races.** [`cache_lookup`](SwapStore::cache_lookup) answers of the past. The cache holds a reference on
//! its page, so: try for a reference on the frame's page, then look up **again**, and give the reference back if the
//! answer changed. After locking the page, check once more that it is still of this slot.

use crate::base::alloc::{Heap, HeapVec};
use crate::base::error::{Error, Result};
#[cfg(feature = "std")]
use crate::base::file::FileStore;
use crate::base::mutant::mutant;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::{Mutex, rank};
use crate::base::types::{PAGE_SIZE, Pfn};
use crate::page::contents::PageStore;

/// One page of bytes.
pub type PageBytes = [u8; PAGE_SIZE as usize];

/// Bits of the count of uses in a slot's word.
const USES_BITS: u32 = 24;
const USES: u64 = (1 << USES_BITS) - 1;
/// Frames from here on do not fit the word.
const MAX_FRAME: u64 = (1 << (u64::BITS - USES_BITS)) - 1;

/// Where slots have their contents.
#[derive(Debug)]
pub enum Backing {
    /// In a file.
    #[cfg(feature = "std")]
    File(FileStore),
    /// In memory of the heap, which a slot keeps once it was written.
    Memory(PageStore),
    /// Nowhere: writes vanish, reads give zero. For frames without contents.
    Nowhere,
}

impl Backing {
    /// A temporary file for `slots` slots.
    #[cfg(feature = "std")]
    pub fn temporary_file(slots: u64) -> Result<Self> {
        FileStore::temporary(slots.checked_mul(PAGE_SIZE).ok_or(Error::Invalid)?).map(Self::File)
    }

    /// Memory of the heap for `slots` slots.
    pub fn memory(heap: &Heap, slots: u64) -> Result<Self> {
        PageStore::new(heap, slots).map(Self::Memory)
    }

    /// Slots for which there is room.
    fn room(&self) -> u64 {
        match self {
            #[cfg(feature = "std")]
            Self::File(file) => file.len() / PAGE_SIZE,
            Self::Memory(pages) => pages.count(),
            Self::Nowhere => u64::MAX,
        }
    }
}

/// Slots not in use: those given back, then those never used.
struct FreeSlots {
    /// Room for all slots from the beginning.
    returned: HeapVec<u32>,
    /// Slots from here on were never used.
    fresh: u32,
}

/// The swap store. See the [module](self).
pub struct SwapStore {
    /// One word per slot; states in the [module](self). Changed by compare-exchange, `AcqRel`: what the former users of
    /// a slot did comes before what the next ones do. Acquire in `cache_lookup`: the page is as it was when it was
    /// entered.
    words: HeapVec<AtomicU64>,
    free: Mutex<FreeSlots, { rank::LEAF }>,
    /// Slots in use. Statistics: Relaxed.
    used: AtomicU64,
    backing: Backing,
}

fn word(cached: Option<Pfn>, uses: u64) -> u64 {
    cached.map_or(0, |pfn| pfn.0 + 1) << USES_BITS | uses
}

fn parts(word: u64) -> (Option<Pfn>, u64) {
    ((word >> USES_BITS).checked_sub(1).map(Pfn), word & USES)
}

impl SwapStore {
    /// `slots` slots, all free. A backing with room for fewer is refused ([`Error::Invalid`]).
    pub fn new(heap: &Heap, backing: Backing, slots: u64) -> Result<Self> {
        let count = u32::try_from(slots).map_err(|_| Error::Invalid)? as usize;
        if backing.room() < slots {
            return Err(Error::Invalid);
        }
        let (mut words, mut returned) = (heap.vec(), heap.vec());
        words.try_reserve_exact(count).map_err(|_| Error::NoMemory)?;
        returned.try_reserve_exact(count).map_err(|_| Error::NoMemory)?;
        words.extend((0..count).map(|_| AtomicU64::new(0)));
        Ok(Self { words, free: Mutex::new(FreeSlots { returned, fresh: 0 }), used: AtomicU64::new(0), backing })
    }

    fn word(&self, slot: u64) -> Result<&AtomicU64> {
        self.words.get(usize::try_from(slot).map_err(|_| Error::Invalid)?).ok_or(Error::Invalid)
    }

    /// Moves a slot from one state to another; `next` says to which, or why not. Returns the state before and the one
    /// after.
    #[inline]
    fn step<N>(&self, slot: u64, next: N) -> Result<(u64, u64)>
    where
        N: Fn(Option<Pfn>, u64) -> Result<(Option<Pfn>, u64)>,
    {
        let place = self.word(slot)?;
        let mut seen = place.load(Ordering::Acquire);
        loop {
            let (cached, uses) = parts(seen);
            let (cached, uses) = next(cached, uses)?;
            let new = word(cached, uses);
            match place.compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    if new == 0 {
                        self.give(slot as u32);
                    }
                    return Ok((seen, new));
                }
                Err(now) => seen = now,
            }
        }
    }

    fn give(&self, slot: u32) {
        self.used.fetch_sub(1, Ordering::Relaxed);
        // Lock order: page lock, PTE lock -> slots.
        // Within what was reserved: each slot is in use or here once.
        self.free.lock().returned.push(slot);
    }

    /// A free slot, now in the cache with `page` and one use, the cache's. Page lock held; the cache's reference on the
    /// page is the caller's to take. [`Error::NoSpace`] when swap is full.
    pub fn alloc(&self, page: Pfn) -> Result<u64> {
        if page.0 >= MAX_FRAME {
            return Err(Error::Invalid);
        }
        let slot = {
            let mut free = self.free.lock();
            if let Some(slot) = free.returned.pop() {
                slot
            } else if (free.fresh as usize) < self.words.len() {
                free.fresh += 1;
                free.fresh - 1
            } else {
                return Err(Error::NoSpace);
            }
        };
        self.used.fetch_add(1, Ordering::Relaxed);
        // Release; pairs with the Acquire in `cache_lookup` and `step`. The slot is ours alone: nobody leaves the state
        // free but here.
        self.words[slot as usize].store(word(Some(page), 1), Ordering::Release);
        Ok(u64::from(slot))
    }

    /// One more use, for an entry that is made or copied. The page or PTE lock under which that happens keeps the slot
    /// in use. [`Error::Stale`] for a free slot, [`Error::NoSpace`] when no more uses can be counted.
    pub fn dup(&self, slot: u64) -> Result<()> {
        self.step(slot, |cached, uses| match uses {
            0 => Err(Error::Stale),
            USES => Err(Error::NoSpace),
            _ => Ok((cached, uses + 1)),
        })?;
        Ok(())
    }

    /// One use less, for an entry that is gone; the last one frees the slot. Returns the uses left. The cache's own use
    /// is given back by [`cache_remove`](Self::cache_remove) alone.
    pub fn free(&self, slot: u64) -> Result<u64> {
        let (_, new) = self.step(slot, |cached, uses| match (cached, uses) {
            (None, 0) => Err(Error::Stale),
            (Some(_), 1) => Err(Error::Busy),
            _ => Ok((cached, uses - 1)),
        })?;
        Ok(parts(new).1)
    }

    /// Uses of a slot, the cache's included; 0 when it is free. Without the lock of a page or a table that keeps it in
    /// use, of the past.
    pub fn count(&self, slot: u64) -> u64 {
        self.word(slot).map_or(0, |place| parts(place.load(Ordering::Acquire)).1)
    }

    /// Enters a page that is to be read in, with one use. Its page lock is held until it has been read.
    /// [`Error::Exists`] when another page is there already: look it up. [`Error::Stale`] when the slot is free by now:
    /// the entry that led here is gone.
    pub fn cache_insert(&self, slot: u64, page: Pfn) -> Result<()> {
        if page.0 >= MAX_FRAME {
            return Err(Error::Invalid);
        }
        self.step(slot, |cached, uses| match (cached, uses) {
            (None, 0) => Err(Error::Stale),
            (Some(_), _) if !mutant("swap_enter_twice") => Err(Error::Exists),
            (None, USES) => Err(Error::NoSpace),
            (_, _) => Ok((Some(page), uses + 1)),
        })?;
        Ok(())
    }

    /// The page of a slot. Of the past at once: see the [module](self) for what the caller checks again.
    #[inline]
    pub fn cache_lookup(&self, slot: u64) -> Option<Pfn> {
        parts(self.word(slot).ok()?.load(Ordering::Acquire)).0
    }

    /// Puts `new` in the place of `old`, when a cached page is moved. Both page locks held. [`Error::Stale`] when the
    /// cache has not `old`.
    pub fn cache_replace(&self, slot: u64, old: Pfn, new: Pfn) -> Result<()> {
        if new.0 >= MAX_FRAME {
            return Err(Error::Invalid);
        }
        let replace = |cached, uses| if cached == Some(old) { Ok((Some(new), uses)) } else { Err(Error::Stale) };
        self.step(slot, replace)?;
        Ok(())
    }

    /// Takes the page of a slot out, with the cache's use; frees the slot if that was the last. Page lock held. The
    /// cache's reference on the page is the caller's to put.
    pub fn cache_remove(&self, slot: u64) -> Option<Pfn> {
        let remove = |cached: Option<Pfn>, uses| cached.map(|_| (None, uses - 1)).ok_or(Error::Stale);
        let (old, _) = self.step(slot, remove).ok()?;
        parts(old).0
    }

    /// Makes sure that [`write`](Self::write) of a slot finds memory, where memory is the backing.
    pub fn make_room(&self, slot: u64) -> Result<()> {
        self.word(slot)?;
        match &self.backing {
            #[cfg(feature = "std")]
            Backing::File(_) => Ok(()),
            Backing::Memory(pages) => pages.ensure(slot),
            Backing::Nowhere => Ok(()),
        }
    }

    /// Writes the contents of a slot. The lock of its cached page is held. Memory as a backing may run out.
    pub fn write(&self, slot: u64, data: &PageBytes) -> Result<()> {
        debug_assert!(self.count(slot) != 0, "slot {slot} is free");
        self.word(slot)?;
        match &self.backing {
            #[cfg(feature = "std")]
            Backing::File(file) => file.write_at(slot * PAGE_SIZE, data),
            Backing::Memory(pages) => {
                pages.ensure(slot)?;
                pages.write(slot, 0, data);
                Ok(())
            }
            Backing::Nowhere => Ok(()),
        }
    }

    /// Reads the contents of a slot, as they were last written. The lock of its cached page is held. What was never
    /// written in this life of the slot is not to be read (G7).
    pub fn read(&self, slot: u64, out: &mut PageBytes) -> Result<()> {
        debug_assert!(self.count(slot) != 0, "slot {slot} is free");
        self.word(slot)?;
        match &self.backing {
            #[cfg(feature = "std")]
            Backing::File(file) => return file.read_at(slot * PAGE_SIZE, out),
            Backing::Memory(pages) => pages.read(slot, 0, out),
            Backing::Nowhere => out.fill(0),
        }
        Ok(())
    }

    /// Slots in use; of the past when other threads swap.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Slots in all.
    pub fn slots(&self) -> u64 {
        self.words.len() as u64
    }
}

impl core::fmt::Debug for SwapStore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SwapStore").field("slots", &self.slots()).field("used", &self.used()).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;
    use crate::base::alloc::testing::Countdown;
    use crate::base::sync::atomic::AtomicU32;

    fn store(backing: Backing, slots: u64) -> SwapStore {
        SwapStore::new(&Heap::global().unwrap(), backing, slots).unwrap()
    }

    fn backings(slots: u64) -> [Backing; 2] {
        [Backing::memory(&Heap::global().unwrap(), slots).unwrap(), Backing::temporary_file(slots).unwrap()]
    }

    #[test]
    fn a_slot_lives_as_the_table_says() {
        let swap = store(Backing::Nowhere, 4);
        let slot = swap.alloc(Pfn(7)).unwrap();
        assert_eq!((swap.count(slot), swap.cache_lookup(slot), swap.used()), (1, Some(Pfn(7)), 1));
        assert_eq!(swap.free(slot), Err(Error::Busy), "the one use is the cache's");
        swap.dup(slot).unwrap();
        swap.dup(slot).unwrap();
        assert_eq!(swap.cache_insert(slot, Pfn(8)), Err(Error::Exists));
        assert_eq!(swap.cache_replace(slot, Pfn(6), Pfn(8)), Err(Error::Stale));
        swap.cache_replace(slot, Pfn(7), Pfn(8)).unwrap();
        assert_eq!(swap.cache_remove(slot), Some(Pfn(8)));
        assert_eq!((swap.cache_remove(slot), swap.count(slot)), (None, 2));
        swap.cache_insert(slot, Pfn(0)).unwrap();
        assert_eq!((swap.count(slot), swap.cache_lookup(slot)), (3, Some(Pfn(0))));
        assert_eq!((swap.free(slot), swap.free(slot)), (Ok(2), Ok(1)));
        assert_eq!((swap.cache_remove(slot), swap.used()), (Some(Pfn(0)), 0));

        let again = swap.alloc(Pfn(1)).unwrap();
        swap.dup(again).unwrap();
        assert_eq!((swap.cache_remove(again), swap.free(again)), (Some(Pfn(1)), Ok(0)));
        assert_eq!((swap.dup(again), swap.free(again)), (Err(Error::Stale), Err(Error::Stale)));
        assert_eq!(swap.cache_insert(again, Pfn(1)), Err(Error::Stale));
        assert_eq!((swap.count(again), swap.used()), (0, 0));
    }

    #[test]
    fn a_full_store_and_slots_beyond_it_are_refused() {
        let swap = store(Backing::Nowhere, 3);
        let slots: Vec<u64> = (0..3).map(|i| swap.alloc(Pfn(i)).unwrap()).collect();
        assert_eq!(slots, [0, 1, 2]);
        assert_eq!(swap.alloc(Pfn(9)), Err(Error::NoSpace));
        assert_eq!((swap.dup(3), swap.count(u64::MAX), swap.cache_lookup(3)), (Err(Error::Invalid), 0, None));
        assert_eq!(swap.cache_remove(1), Some(Pfn(1)));
        assert_eq!(swap.alloc(Pfn(MAX_FRAME)), Err(Error::Invalid));
        assert_eq!(swap.alloc(Pfn(9)), Ok(1));
    }

    #[test]
    fn uses_beyond_the_count_are_refused() {
        let swap = store(Backing::Nowhere, 1);
        let slot = swap.alloc(Pfn(0)).unwrap();
        swap.words[0].store(word(Some(Pfn(0)), USES), Ordering::Relaxed);
        assert_eq!(swap.dup(slot), Err(Error::NoSpace));
        swap.words[0].store(word(None, USES), Ordering::Relaxed);
        assert_eq!(swap.cache_insert(slot, Pfn(0)), Err(Error::NoSpace));
    }

    #[test]
    fn g6_contents_come_back_from_every_backing() {
        for backing in backings(16) {
            let swap = store(backing, 16);
            let page = |slot: u64| -> PageBytes { core::array::from_fn(|i| (i as u64 * 31 + slot * 7) as u8) };
            let slots: Vec<u64> = (0..16).map(|i| swap.alloc(Pfn(i)).unwrap()).collect();
            for slot in &slots {
                swap.write(*slot, &page(*slot)).unwrap();
            }
            for slot in slots {
                let mut back = [0; PAGE_SIZE as usize];
                swap.read(slot, &mut back).unwrap();
                assert_eq!(back, page(slot));
            }
        }
        let swap = store(Backing::Nowhere, 1);
        let slot = swap.alloc(Pfn(0)).unwrap();
        swap.write(slot, &[1; PAGE_SIZE as usize]).unwrap();
        let mut back = [2; PAGE_SIZE as usize];
        swap.read(slot, &mut back).unwrap();
        assert_eq!(back, [0; PAGE_SIZE as usize]);
    }

    #[test]
    fn a_backing_with_too_little_room_is_refused() {
        for backing in backings(3) {
            assert_eq!(SwapStore::new(&Heap::global().unwrap(), backing, 4).unwrap_err(), Error::Invalid);
        }
        assert_eq!(Backing::temporary_file(u64::MAX).unwrap_err(), Error::Invalid);
    }

    #[test]
    fn g4_each_failing_allocation_is_an_error_and_all_memory_returns() {
        let countdown = Countdown::leaked();
        let heap = countdown.heap();
        let make = || SwapStore::new(&heap, Backing::memory(&heap, 8)?, 8);
        for n in 0..3 {
            countdown.fail_after(n);
            assert_eq!(make().unwrap_err(), Error::NoMemory);
        }
        countdown.fail_after(3);
        let swap = make().unwrap();
        let slot = swap.alloc(Pfn(0)).unwrap();
        assert_eq!(swap.write(slot, &[1; PAGE_SIZE as usize]), Err(Error::NoMemory));
        assert!(countdown.lift());
        assert_eq!(swap.count(slot), 1);
        swap.write(slot, &[1; PAGE_SIZE as usize]).unwrap();
        drop(swap);
        assert_eq!(heap.in_use(), 0);
    }

    #[test]
    fn one_of_many_enters_the_cache_and_no_slot_has_two_owners() {
        const SLOTS: u64 = 8;
        let swap = store(Backing::Nowhere, SLOTS);
        let owners: Vec<AtomicU32> = (0..SLOTS).map(|_| AtomicU32::new(0)).collect();
        let shared = swap.alloc(Pfn(0)).unwrap();
        swap.dup(shared).unwrap();
        swap.cache_remove(shared);
        crate::base::testing::scope(|s| {
            for thread in 1..5 {
                let (swap, owners) = (&swap, &owners);
                s.spawn(move || {
                    for _ in 0..5_000 {
                        let slot = swap.alloc(Pfn(thread)).unwrap();
                        assert_eq!(owners[slot as usize].swap(1, Ordering::Relaxed), 0);
                        swap.dup(slot).unwrap();
                        assert_eq!(swap.cache_remove(slot), Some(Pfn(thread)));
                        owners[slot as usize].store(0, Ordering::Relaxed);
                        assert_eq!(swap.free(slot), Ok(0));

                        if swap.cache_insert(shared, Pfn(thread)) == Ok(()) {
                            assert_eq!(swap.cache_lookup(shared), Some(Pfn(thread)));
                            assert_eq!(swap.cache_remove(shared), Some(Pfn(thread)));
                        }
                    }
                });
            }
        });
        assert_eq!((swap.free(shared), swap.used()), (Ok(0), 0));
    }
}
