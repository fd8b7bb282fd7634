//! The ground floor: locks, grace periods, memory, and the field's units.
//!
//! | file | what it is |
//! |---|---|
//! | [`types`] | page frame numbers, addresses, page offsets, VMA flags |
//! | [`error`] | the one error type |
//! | [`sync`] | atomics and locks: a word each, or loom's |
//! | [`lockdep`] | debug builds: lock order and recursion, checked at run time |
//! | [`lock_count`] | how many locks a thread has taken, in builds that count |
//! | `mutant` | what models must notice |
//! | [`rcu`] | grace periods |
//! | [`alloc`] | memory that can run out without an abort |
//! | [`room`] | collections under a lock that grow while it is not held |
//! | [`slab`] | type-stable objects, handed out and taken back without a lock |
//! | [`counter`] | a counter that threads change without meeting |
//! | `clock` | nanoseconds, for measurements |
//! | `file` | positioned reading and writing of a file |
//! | [`href`] | counted references to objects in such memory |
//! | `testing` | threads of tests, how long they go on, and what lives for ever |
//!
//! Nothing above this folder names `std` or `loom`.

pub mod alloc;
#[cfg(feature = "std")]
pub mod clock;
pub mod counter;
pub mod error;
#[cfg(feature = "std")]
pub mod file;
pub mod href;
pub mod lock_count;
pub mod lockdep;
pub(crate) mod mutant;
pub mod rcu;
pub mod room;
pub mod slab;
pub mod sync;
#[cfg(all(test, not(loom)))]
pub(crate) mod testing;
pub mod types;
