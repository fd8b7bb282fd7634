//! Pure data structures: no page, no VMA, no engine is known here.
//!
//! | file | what it is |
//! |---|---|
//! | [`interval_tree`] | a set of intervals: everything that maps a page offset, in order |
//! | [`group`] | the members of that set whose intervals are equal |
//! | [`pool`] | the memory of both, in blocks of five sizes |
//! | [`list`] | a list whose links lie in its items |
//! | [`region_index`] | the regions of an address space, by address |
//!
//! Nothing here locks or allocates while the set changes: the owner's lock guards a structure, and memory is fetched
//! before that lock is taken.

pub mod group;
pub mod interval_tree;
pub mod list;
pub mod pool;
pub mod region_index;
