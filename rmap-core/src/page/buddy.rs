//! Which frames of a range are free: a buddy allocator of orders 0 to 9, with a stack of single frames in front.
//!
//! A free block of order k is `2^k` frames whose first frame number is a multiple of `2^k`. Two blocks that together
//! are such a block of the next order are buddies and are joined when both are free. Single frames, nearly all that is
//! ever asked for, come from and go to a small stack first: the frame freed last is used next, and joining and
//! splitting are for what overflows it. A request for more than one frame that finds no block empties the stack into
//! the lists and looks again, so the stack never causes a refusal.
//!
//! Frames are named here by their distance from the first. Nothing here locks: the owner does.

use crate::base::alloc::{Heap, HeapVec};
use crate::base::error::{Error, Result};
use crate::base::types::PMD_ORDER;

const ORDERS: usize = PMD_ORDER as usize + 1;
/// Single frames that the stack holds at most. Half of them go to the lists when it overflows.
const HOT: usize = 128;
/// No frame.
const NIL: u32 = u32::MAX;

/// Values of `Buddy::state` above the orders:
///
/// | value | meaning |
/// |---|---|
/// | 0 to 9 | first frame of a free block of that order, on that order's list |
/// | `ON_STACK` | a free single frame on the stack |
/// | `USED` | in use, or inside a block |
const ON_STACK: u8 = 0xfe;
const USED: u8 = 0xff;

/// Neighbours on a list of free blocks; meaningful only for a frame whose state is an order.
#[derive(Clone, Copy)]
struct Link {
    next: u32,
    prev: u32,
}

/// The free frames of a range. See the [module](self).
pub(super) struct Buddy {
    /// The frame number of frame 0: blocks are aligned by frame numbers.
    first: u64,
    heads: [u32; ORDERS],
    links: HeapVec<Link>,
    state: HeapVec<u8>,
    /// Single frames; never more than `HOT`, for which there is room from the beginning.
    stack: HeapVec<u32>,
    free: u64,
}

impl Buddy {
    /// All of `[first, first + count)` free.
    pub(super) fn new(heap: &Heap, first: u64, count: u64) -> Result<Self> {
        let end = first.checked_add(count).ok_or(Error::Invalid)?;
        let frames = u32::try_from(count).ok().filter(|n| *n != NIL).ok_or(Error::Invalid)? as usize;
        let mut buddy =
            Self { first, heads: [NIL; ORDERS], links: heap.vec(), state: heap.vec(), stack: heap.vec(), free: count };
        buddy.links.try_reserve_exact(frames).map_err(|_| Error::NoMemory)?;
        buddy.state.try_reserve_exact(frames).map_err(|_| Error::NoMemory)?;
        buddy.stack.try_reserve_exact(HOT).map_err(|_| Error::NoMemory)?;
        buddy.links.resize(frames, Link { next: NIL, prev: NIL });
        buddy.state.resize(frames, USED);
        // From the end, so that the lists begin with the lowest frames.
        let mut end = end;
        while end > first {
            let order = end.trailing_zeros().min((end - first).ilog2()).min(u32::from(PMD_ORDER)) as u8;
            end -= 1 << order;
            buddy.insert((end - first) as u32, order);
        }
        Ok(buddy)
    }

    /// Frames free now.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// The first of `2^order` frames that are free no longer.
    pub(super) fn take(&mut self, order: u8) -> Option<u32> {
        debug_assert!(order <= PMD_ORDER);
        let frame = match self.stack.pop() {
            Some(frame) if order == 0 => frame,
            Some(frame) => {
                self.stack.push(frame);
                self.take_block(order).or_else(|| {
                    self.shrink_stack(self.stack.len());
                    self.take_block(order)
                })?
            }
            None => self.take_block(order)?,
        };
        self.state[frame as usize] = USED;
        self.free -= 1 << order;
        Some(frame)
    }

    /// Frees `2^order` frames from `frame` on.
    pub(super) fn give(&mut self, frame: u32, order: u8) {
        debug_assert!(self.state[frame as usize] == USED, "frame {} is free already", self.first + u64::from(frame));
        self.free += 1 << order;
        if order != 0 {
            self.join(frame, order);
            return;
        }
        if self.stack.len() == HOT {
            self.shrink_stack(HOT / 2);
        }
        self.state[frame as usize] = ON_STACK;
        self.stack.push(frame);
    }

    /// Moves the `n` oldest frames of the stack to the lists.
    fn shrink_stack(&mut self, n: usize) {
        for i in 0..n {
            self.join(self.stack[i], 0);
        }
        self.stack.drain(..n);
    }

    /// Takes a block off the smallest list that has one large enough, and puts what is left of it back.
    fn take_block(&mut self, order: u8) -> Option<u32> {
        let found = (order..=PMD_ORDER).find(|k| self.heads[usize::from(*k)] != NIL)?;
        let frame = self.heads[usize::from(found)];
        self.remove(frame, found);
        for k in (order..found).rev() {
            self.insert(frame + (1 << k), k);
        }
        Some(frame)
    }

    /// Puts a block on its list, joined with its buddy as long as that is free too.
    fn join(&mut self, frame: u32, order: u8) {
        let (mut frame, mut order) = (frame, order);
        while order < PMD_ORDER
            && let Some(buddy) = self.buddy_of(frame, order)
            && self.state[buddy as usize] == order
        {
            self.remove(buddy, order);
            frame = frame.min(buddy);
            order += 1;
        }
        self.insert(frame, order);
    }

    /// The frame whose block of `order` would make one of the next order, if it lies in the range.
    fn buddy_of(&self, frame: u32, order: u8) -> Option<u32> {
        let buddy = ((self.first + u64::from(frame)) ^ (1 << order)).checked_sub(self.first)?;
        (buddy < self.state.len() as u64).then_some(buddy as u32)
    }

    fn insert(&mut self, frame: u32, order: u8) {
        let next = core::mem::replace(&mut self.heads[usize::from(order)], frame);
        if next != NIL {
            self.links[next as usize].prev = frame;
        }
        self.links[frame as usize] = Link { next, prev: NIL };
        self.state[frame as usize] = order;
    }

    fn remove(&mut self, frame: u32, order: u8) {
        let Link { next, prev } = self.links[frame as usize];
        match prev {
            NIL => self.heads[usize::from(order)] = next,
            prev => self.links[prev as usize].next = next,
        }
        if next != NIL {
            self.links[next as usize].prev = prev;
        }
        self.state[frame as usize] = USED;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn blocks(buddy: &Buddy) -> Vec<(u32, u8)> {
        let orders = buddy.state.iter().enumerate().filter(|(_, order)| **order <= PMD_ORDER);
        orders.map(|(frame, order)| (frame as u32, *order)).collect()
    }

    #[test]
    fn a_range_is_cut_at_multiples_of_the_block_size() {
        // frames   3 4       8                16      20 21
        //          |0|   2   |       3        |   2   |0|
        let buddy = Buddy::new(&Heap::global().unwrap(), 3, 18).unwrap();
        assert_eq!(blocks(&buddy), [(0, 0), (1, 2), (5, 3), (13, 2), (17, 0)]);
    }

    #[test]
    fn the_range_is_whole_again_when_all_is_given_back() {
        let mut buddy = Buddy::new(&Heap::global().unwrap(), 0, 2_048).unwrap();
        let whole = blocks(&buddy);
        let mut taken: Vec<u32> = std::iter::from_fn(|| buddy.take(0)).collect();
        assert_eq!((taken.len(), buddy.free()), (2_048, 0));
        taken.sort_unstable_by_key(|frame| frame.wrapping_mul(2_654_435_761));
        for frame in taken {
            buddy.give(frame, 0);
        }
        assert_eq!(buddy.stack.len(), HOT);
        let block = buddy.take(PMD_ORDER).unwrap();
        buddy.shrink_stack(buddy.stack.len());
        buddy.give(block, PMD_ORDER);
        assert_eq!(blocks(&buddy), whole);
    }

    #[test]
    fn an_empty_range_has_nothing_and_an_endless_one_is_refused() {
        let heap = Heap::global().unwrap();
        assert_eq!(Buddy::new(&heap, 5, 0).unwrap().take(0), None);
        assert!(Buddy::new(&heap, u64::MAX, 2).is_err());
        assert!(Buddy::new(&heap, 0, u64::from(NIL)).is_err());
    }

    proptest! {
        #[test]
        fn blocks_are_aligned_and_never_overlap(
            first in 0..600_u64, count in 1..1_500_u64, steps in prop::collection::vec((any::<bool>(), 0..=PMD_ORDER, any::<usize>()), 0..300)
        ) {
            let mut buddy = Buddy::new(&Heap::global().unwrap(), first, count).unwrap();
            let mut taken: BTreeMap<u32, u8> = BTreeMap::new();
            let mut free = count;
            for (take, order, pick) in steps {
                if take || taken.is_empty() {
                    // Small orders more often than large ones.
                    let order = order.min((pick % 11) as u8);
                    let Some(frame) = buddy.take(order) else {
                        prop_assert!(order > 0 || free == 0, "refused a frame with {} free", free);
                        continue;
                    };
                    prop_assert_eq!((first + u64::from(frame)) % (1 << order), 0);
                    let below = taken.range(..frame + (1 << order)).next_back();
                    prop_assert!(below.is_none_or(|(at, k)| at + (1 << k) <= frame), "{:?} overlaps {}", below, frame);
                    prop_assert!(u64::from(frame) + (1 << order) <= count);
                    taken.insert(frame, order);
                    free -= 1 << order;
                } else {
                    let (&frame, &order) = taken.iter().nth(pick % taken.len()).unwrap();
                    taken.remove(&frame);
                    buddy.give(frame, order);
                    free += 1 << order;
                }
                prop_assert_eq!(buddy.free(), free);
            }
        }
    }
}
