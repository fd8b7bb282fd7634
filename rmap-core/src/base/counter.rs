//! A counter that threads change without meeting: one cell per stripe, summed when somebody asks.

use super::sync::atomic::{AtomicI64, Ordering};
use super::sync::{CachePadded, STRIPES, stripe};

/// See the [module](self). All accesses are Relaxed: it counts, and orders nothing.
pub struct StripedCounter {
    cells: [CachePadded<AtomicI64>; STRIPES],
}

impl Default for StripedCounter {
    fn default() -> Self {
        Self { cells: core::array::from_fn(|_| CachePadded(AtomicI64::new(0))) }
    }
}

impl StripedCounter {
    /// A counter at 0.
    pub fn new() -> Self {
        Self::default()
    }
    /// Counts up.
    #[inline]
    pub fn add(&self, n: i64) {
        self.cells[stripe()].0.fetch_add(n, Ordering::Relaxed);
    }
    /// Counts down.
    #[inline]
    pub fn sub(&self, n: i64) {
        self.add(-n);
    }
    /// The sum; of the past when other threads count. A moment's view of it below 0 is shown as 0.
    pub fn sum(&self) -> u64 {
        let sum: i64 = self.cells.iter().map(|c| c.0.load(Ordering::Relaxed)).sum();
        u64::try_from(sum).unwrap_or(0)
    }
}
