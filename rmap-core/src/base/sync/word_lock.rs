//! A lock that is one bit of a word, with a second bit for "somebody waits".
//!
//! | lock bit | waiters bit | meaning | who changes it |
//! |---|---|---|---|
//! | 0 | 0 | free | |
//! | 1 | 0 | held, nobody sleeps | `lock` sets, `unlock` clears |
//! | 1 | 1 | held, threads sleep or are about to | a waiter sets the second bit, under its queue's lock |
//! | 0 | 1 | free, a waiter is being woken, or more sleep | `unlock` clears the second bit when it wakes the last one |
//!
//! Other bits of the word are its owner's. The word must outlive every call.

use super::atomic::{AtomicU32, Ordering};
use super::parking::{self, Spin};
use crate::base::mutant::mutant;

/// The mask of bit number `bit`.
#[inline]
fn mask(bit: u32) -> u32 {
    debug_assert!(bit < u32::BITS, "the number of a bit, not its mask");
    1 << bit
}

#[inline]
pub(super) fn address(word: &AtomicU32) -> usize {
    core::ptr::from_ref(word).addr()
}

#[inline]
pub(super) fn is_locked(word: &AtomicU32, bit: u32) -> bool {
    word.load(Ordering::Relaxed) & mask(bit) != 0
}

#[inline]
fn take(word: &AtomicU32, bit: u32) -> bool {
    // Acquire; pairs with the Release in `unlock`.
    word.fetch_or(mask(bit), Ordering::Acquire) & mask(bit) == 0
}

/// The load spares a busy word's line from being taken away from its holder.
#[inline]
pub(super) fn try_lock(word: &AtomicU32, bit: u32) -> bool {
    !is_locked(word, bit) && take(word, bit)
}

#[inline]
pub(super) fn lock(word: &AtomicU32, bit: u32, waiters_bit: u32) {
    if !take(word, bit) {
        lock_slow(word, bit, waiters_bit);
    }
}

#[inline]
pub(super) fn unlock(word: &AtomicU32, bit: u32, waiters_bit: u32) {
    // Release; pairs with the Acquire in `take`.
    let was = word.fetch_and(!mask(bit), Ordering::Release);
    debug_assert!(was & mask(bit) != 0, "unlocked, but not locked");
    if was & mask(waiters_bit) != 0 {
        wake(word, waiters_bit);
    }
}

#[cold]
fn lock_slow(word: &AtomicU32, bit: u32, waiters_bit: u32) {
    let mut spin = Spin::new();
    while !try_lock(word, bit) {
        // With others asleep already, spinning would only overtake them.
        if word.load(Ordering::Relaxed) & mask(waiters_bit) == 0 && spin.spin() {
            continue;
        }
        // Under the queue's lock: either the lock bit is still set, then the waiters bit is set with it and whoever
        // unlocks comes to the queue, or it is free and there is nothing to wait for. Relaxed: the queue's lock orders
        // this with `wake`, and both are read-modify-writes of one word.
        parking::park(address(word), || {
            word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| {
                (value & mask(bit) != 0).then_some(value | mask(waiters_bit))
            })
            .is_ok()
        });
        spin.reset();
    }
}

#[cold]
fn wake(word: &AtomicU32, waiters_bit: u32) {
    parking::unpark_one(address(word), |more| {
        if !more || mutant("bit_lock_lost_wakeup") {
            // Relaxed: under the queue's lock, as in `lock_slow`.
            word.fetch_and(!mask(waiters_bit), Ordering::Relaxed);
        }
    });
}
