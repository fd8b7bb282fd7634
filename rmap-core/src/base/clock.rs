//! A clock for measurements.

use std::time::Instant;

/// Nanoseconds since it was started; it never goes back.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Begins to count.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since then.
    #[inline]
    pub fn ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_go_back() {
        let clock = Clock::start();
        let mut last = clock.ns();
        for _ in 0..1_000 {
            let now = clock.ns();
            assert!(now >= last);
            last = now;
        }
    }
}
