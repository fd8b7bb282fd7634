//! How many locks a thread has taken: in builds that count (feature `count-locks`), for measurements.
//!
//! Every lock of this library tells [`lockdep`](super::lockdep) that it was taken, in release builds too, where that
//! compiles to nothing; a counting build adds one to a number of the thread's there. So what is counted, and what is
//! timed, are two builds of one source.

use super::sync::rank;

/// Ranks, with that of grace-period readers.
const RANKS: usize = rank::CHAIN as usize + 1;

/// Locks taken, try-locks that succeeded included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LockCount([u64; RANKS]);

impl LockCount {
    /// Of one [`rank`].
    pub fn of_rank(&self, rank: u8) -> u64 {
        self.0[usize::from(rank)]
    }

    /// Of all ranks. Entering a grace-period reader is no lock.
    pub fn all(&self) -> u64 {
        self.0[usize::from(rank::MMAP_LOCK)..].iter().sum()
    }

    /// Of the reverse map: `i_mmap_rwsem`, anchors, and the chains of `pte_chain`.
    pub fn reverse_map(&self) -> u64 {
        [rank::I_MMAP, rank::ANON_VMA, rank::CHAIN].map(|rank| self.of_rank(rank)).iter().sum()
    }

    /// Those taken since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(core::array::from_fn(|rank| self.0[rank] - earlier.0[rank]))
    }

    /// These and those of `other`.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|rank| self.0[rank] + other.0[rank]))
    }
}

#[cfg(all(any(feature = "count-locks", test), not(loom)))]
mod counting {
    use super::{LockCount, RANKS};
    use std::cell::Cell;

    /// Whether this build counts.
    pub const COUNTS: bool = true;

    std::thread_local! {
        // Without a destructor, so that first use does not register one (which makes the C library allocate).
        static TAKEN: Cell<[u64; RANKS]> = const { Cell::new([0; RANKS]) };
    }

    #[inline]
    pub(crate) fn took(rank: u8) {
        let mut taken = TAKEN.get();
        taken[usize::from(rank)] += 1;
        TAKEN.set(taken);
    }

    /// Locks that the calling thread has taken so far; none in a build that does not count.
    pub fn taken() -> LockCount {
        LockCount(TAKEN.get())
    }
}

/// The same where nothing is counted: it compiles to nothing.
#[cfg(not(all(any(feature = "count-locks", test), not(loom))))]
mod counting {
    use super::LockCount;

    /// Whether this build counts.
    pub const COUNTS: bool = false;

    #[inline]
    pub(crate) fn took(_rank: u8) {}

    /// Locks that the calling thread has taken so far; none in a build that does not count.
    #[inline]
    pub fn taken() -> LockCount {
        LockCount::default()
    }
}

pub(super) use counting::took;
pub use counting::{COUNTS, taken};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::rcu::Rcu;
    use crate::base::sync::atomic::AtomicU32;
    use crate::base::sync::{Mutex, RwSem, SpinLock, bit_lock};

    #[test]
    fn every_kind_of_lock_counts_for_its_thread_and_rank() {
        let (i_mmap, root) = (RwSem::<{ rank::I_MMAP }>::new(), RwSem::<{ rank::ANON_VMA }>::new());
        let chain = SpinLock::<{ rank::CHAIN }>::new();
        let leaf = Mutex::<(), { rank::LEAF }>::new(());
        let (flags, rcu) = (AtomicU32::new(0), Rcu::new());
        let before = taken();
        bit_lock::lock(&flags, 0, 7, rank::PAGE_LOCK);
        drop(i_mmap.write().downgrade());
        {
            let _read = root.read();
            assert!(root.try_write().is_none());
            let (_reader, _leaf, _chain) = (rcu.read_lock(), leaf.lock(), chain.lock());
        }
        bit_lock::unlock(&flags, 0, 7);
        std::thread::scope(|scope| scope.spawn(|| drop(root.read())).join()).unwrap();
        let count = taken().since(&before);
        assert_eq!((count.all(), count.reverse_map()), (5, 3));
        assert_eq!((count.of_rank(rank::ANON_VMA), count.of_rank(rank::LEAF)), (1, 1));
        assert_eq!(count.plus(&count).since(&count), count);
    }
}
