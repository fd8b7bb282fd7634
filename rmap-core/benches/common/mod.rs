//! What the benchmarks share: clocks, the reference figures, and a small memory manager to run them on.

// Each benchmark is a program of its own and uses a part of this.
#![allow(dead_code, unused_imports)]

mod clock;
mod family;
mod figures;

pub(crate) use clock::{cpu_time, pair};
pub(crate) use family::{ADDR, Bench, Random, Space, bounds_at};
pub(crate) use figures::{Figures, Unit};
