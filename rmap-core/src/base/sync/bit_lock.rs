//! A lock in a word that has other uses: the page lock (`PG_locked`, `PG_waiters`). Bits are named by number, as in the
//! kernel; their states are those of `word_lock`.
//!
//! The word must outlive every call: a waiter has a reference on the page, and so has the one that unlocks.

use super::atomic::AtomicU32;
use super::lockdep::{self, Kind, Order};
use super::word_lock::{self, address};

/// Takes the lock; waits for the holder.
#[inline]
#[cfg_attr(debug_assertions, track_caller)]
pub fn lock(word: &AtomicU32, bit: u32, waiters_bit: u32, rank: u8) {
    lock_in_order(word, bit, waiters_bit, rank, Order::Ordered);
}

/// Takes the lock while another of the same rank is held. The caller knows the order of the two.
#[inline]
#[cfg_attr(debug_assertions, track_caller)]
pub fn lock_nested(word: &AtomicU32, bit: u32, waiters_bit: u32, rank: u8) {
    lock_in_order(word, bit, waiters_bit, rank, Order::Nested);
}

#[inline]
#[cfg_attr(debug_assertions, track_caller)]
fn lock_in_order(word: &AtomicU32, bit: u32, waiters_bit: u32, rank: u8, order: Order) {
    lockdep::check(rank, address(word), Kind::Write, order);
    word_lock::lock(word, bit, waiters_bit);
    lockdep::acquired(rank, address(word), Kind::Write);
}

/// Takes the lock, unless that would wait. Returns whether it did.
#[inline]
#[must_use]
#[cfg_attr(debug_assertions, track_caller)]
pub fn try_lock(word: &AtomicU32, bit: u32, rank: u8) -> bool {
    lockdep::check(rank, address(word), Kind::Write, Order::Try);
    let taken = word_lock::try_lock(word, bit);
    if taken {
        lockdep::acquired(rank, address(word), Kind::Write);
    }
    taken
}

/// Whether anybody holds it. Certain only to be `true` for the holder.
#[inline]
pub fn is_locked(word: &AtomicU32, bit: u32) -> bool {
    word_lock::is_locked(word, bit)
}

/// Gives the lock back, and wakes one that waits.
#[inline]
#[cfg_attr(debug_assertions, track_caller)]
pub fn unlock(word: &AtomicU32, bit: u32, waiters_bit: u32) {
    lockdep::released(address(word), Kind::Write);
    word_lock::unlock(word, bit, waiters_bit);
}
