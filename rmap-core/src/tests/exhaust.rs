//! Engines whose slabs a test can leave without a free slot: whatever needs one then asks the heap.

use crate::engine::anon_vma::AnonVmaEngine;
use crate::engine::full_scan::{FullScanEngine, FullScanSystem};
use crate::engine::objrmap::{ObjrmapEngine, ObjrmapSystem};
use crate::engine::per_mm::{PerMm, PerMmSystem};
use crate::engine::pte_chain::PteChain;
use crate::mm::System;

/// An engine that can be left so.
pub(crate) trait Exhaust {
    /// Takes all slots that can be had without an allocation, for good.
    fn exhaust(&self);
}

/// Engines with slabs of their own, which take a method of this name to mean this.
macro_rules! exhausts {
    ($($engine:ident: $system:ident),*) => {
        $(impl<S: $system> Exhaust for $engine<S> {
            fn exhaust(&self) {
                self.exhaust();
            }
        })*
    };
}

exhausts!(AnonVmaEngine: System, ObjrmapEngine: ObjrmapSystem, PerMm: PerMmSystem, PteChain: System);

/// It has a list, and no slab.
impl<S: FullScanSystem> Exhaust for FullScanEngine<S> {
    fn exhaust(&self) {}
}
