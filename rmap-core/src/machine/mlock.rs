//! mlock and its kin, and what they share with MAP_POPULATE.

use super::Machine;
use super::system::SoftSystem;
use crate::base::types::VirtAddr;
use crate::mm::Mm;

impl<S: SoftSystem> Machine<S> {
    /// Faults pages in. Errors end it silently.
    #[allow(clippy::unused_self)]
    pub(super) fn populate(&self, _mm: &Mm<S>, _start: VirtAddr, _end: VirtAddr) {}
}
