//! Proofs of the core: properties against an oracle, failing allocations, the known ways to be wrong, and models of races.
//!
//! | file | what it is |
//! |---|---|
//! | `support` | test systems for both engines, a memory manager in small (faults, fork, copy-on-write, swap, mremap), page tables of atomics |
//! | `oracle` | who maps a page, by reading page tables and nothing else; every promise that can be checked between two operations |
//! | `properties` | random operations, checked after each |
//! | `failures` | every allocation of an operation made to fail in turn |
//! | `known_bugs` | T1 to T15: the known ways to be wrong |
//! | `bounds` | how much memory, how many candidates, which locks |
//! | `loom_*` | models: each names its race |

#[cfg(not(loom))]
mod bounds;
#[cfg(not(loom))]
mod failures;
#[cfg(not(loom))]
mod known_bugs;
#[cfg(not(loom))]
mod oracle;
#[cfg(not(loom))]
mod properties;
mod support;
