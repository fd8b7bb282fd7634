//! Collections under a lock that grow while it is not held, so that no allocator is called under it (G8).

use super::alloc::{Heap, HeapMap, HeapVec};
use super::error::{Error, Result};
use super::sync::{Mutex, MutexGuard};
use core::hash::Hash;

/// A collection whose memory can be got apart from filling it.
pub trait Roomy: Sized {
    /// Whether one more item fits without memory.
    fn has_room(&self) -> bool;
    /// Items in it.
    fn items(&self) -> usize;
    /// An empty one with room for `items`.
    fn with_room(heap: &Heap, items: usize) -> Result<Self>;
    /// Takes all items of `other`, for which there is room.
    fn take(&mut self, other: &mut Self);
}

impl<T> Roomy for HeapVec<T> {
    fn has_room(&self) -> bool {
        self.len() < self.capacity()
    }
    fn items(&self) -> usize {
        self.len()
    }
    fn with_room(heap: &Heap, items: usize) -> Result<Self> {
        let mut vec = heap.vec();
        vec.try_reserve_exact(items).map_err(|_| Error::NoMemory)?;
        Ok(vec)
    }
    fn take(&mut self, other: &mut Self) {
        self.extend(other.drain(..));
    }
}

impl<K: Eq + Hash, V> Roomy for HeapMap<K, V> {
    fn has_room(&self) -> bool {
        self.len() < self.capacity()
    }
    fn items(&self) -> usize {
        self.len()
    }
    fn with_room(heap: &Heap, items: usize) -> Result<Self> {
        let mut map = heap.map();
        map.try_reserve(items).map_err(|_| Error::NoMemory)?;
        Ok(map)
    }
    fn take(&mut self, other: &mut Self) {
        self.extend(other.drain());
    }
}

/// Locks a collection that has room for one more item. The heap is called without the lock only; on failure nothing has
/// changed.
pub fn lock_with_room<'a, C: Roomy, const RANK: u8>(
    lock: &'a Mutex<C, RANK>,
    heap: &Heap,
) -> Result<MutexGuard<'a, C, RANK>> {
    loop {
        let held = lock.lock();
        if held.has_room() {
            return Ok(held);
        }
        let items = held.items();
        drop(held);
        let mut larger = C::with_room(heap, (items * 2).max(8))?;
        let mut held = lock.lock();
        // Another thread may have been faster.
        if !held.has_room() && held.items() == items {
            larger.take(&mut held);
            core::mem::swap(&mut *held, &mut larger);
        }
        drop(held);
        // The smaller one is given back without the lock.
        drop(larger);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::alloc::testing::Countdown;
    use crate::base::sync::rank;

    #[test]
    fn g4_a_list_and_a_map_grow_or_stay_as_they_are() {
        let countdown = Countdown::leaked();
        let heap = countdown.heap();
        {
            let list: Mutex<_, { rank::LEAF }> = Mutex::new(heap.vec());
            let map: Mutex<_, { rank::LEAF }> = Mutex::new(heap.map());
            for n in 0..1_000_u32 {
                countdown.fail_after(0);
                let list_refused = lock_with_room(&list, &heap).is_err();
                let map_refused = lock_with_room(&map, &heap).is_err();
                countdown.lift();
                assert_eq!(list_refused, !list.lock().has_room());
                assert_eq!(map_refused, !map.lock().has_room());
                lock_with_room(&list, &heap).unwrap().push(n);
                lock_with_room(&map, &heap).unwrap().insert(n, 2 * n);
            }
            assert!(list.lock().iter().copied().eq(0..1_000));
            let map = map.lock();
            assert!((0..1_000).all(|n| map.get(&n) == Some(&(2 * n))));
            assert_eq!(map.len(), 1_000);
        }
        assert_eq!(heap.in_use(), 0);
    }

    #[test]
    fn many_threads_lose_nothing() {
        let heap = Heap::global().unwrap();
        let list: Mutex<HeapVec<u32>, { rank::LEAF }> = Mutex::new(heap.vec());
        crate::base::testing::scope(|s| {
            for thread in 0..4 {
                let (list, heap) = (&list, &heap);
                s.spawn(move || {
                    for n in 0..500 {
                        lock_with_room(list, heap).unwrap().push(thread * 500 + n);
                    }
                });
            }
        });
        let mut found = list.lock().to_vec();
        found.sort_unstable();
        assert!(found.into_iter().eq(0..2_000));
    }
}
