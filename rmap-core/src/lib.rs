//! librmap's core: given a page frame, **who maps it**, while threads map, fork, split, move and unmap; and acting on
//! the answer.
//!
//! # The layers
//!
//! Each imports only what stands below it.
//!
//! ```text
//!   machine   trace          a memory manager for those who bring none; traces of real programs replayed in it
//!        rmap                account, walk, try_to_unmap, page_referenced, page_mkclean, pictures
//!       engine               how the candidates of a page are found: anon_vma, objrmap, pte_chain, full_scan
//!     page    mm             page descriptors and page tables' boundary; address spaces, VMAs, files
//!         ds                 interval tree, region index
//!        base                locks, grace periods, memory that can run out, units
//! ```
//!
//! An embedder with page tables of its own implements [`PageTable`](page::pte::PageTable), picks an engine by naming it
//! in a [`System`](mm::System), and makes an [`Rmap`](rmap::Rmap). One without takes a [`Machine`](machine::Machine).
//!
//! # Lock order
//!
//! Outermost first. A debug build checks it at run time ([`base::lockdep`]); each nested acquisition says it in a line.
//!
//! ```text
//! mm.mmap_lock                              two: parent before child, in fork
//!   page lock (PG_locked)                   two: lower frame number first, unless by a try-lock
//!     page cache, swap cache
//!       File.i_mmap_rwsem
//!         anchor's rwsem (the root's in anon_vma, the only one in full_scan and pte_chain)
//!           mm.page_table_lock, PTE lock    two: address order; in fork the parent's first
//!             swap slots, free frames, slabs, the list of address spaces
//!               the locks of pte_chain's chains
//! ```
//!
//! Faults take the page lock under mmap_lock. Reclaim takes it with no mmap_lock held, and whoever holds a page lock
//! never waits for an mmap_lock. No rwsem is read recursively: a callback of a walk starts no walk of the same family.
//!
//! # Guarantees
//!
//! Tests and models cite them by letter.
//!
//! - **G1 complete**: a walk that runs to its end visits every mapping that was made before it began and is still there when it
//!   ends, at least once, and exactly once if it was not moved meanwhile, whatever forks, splits, merges, moves and exits run beside
//!   it. Every walk holds the page lock.
//! - **G2 alive**: what a callback is handed stays valid until it returns.
//! - **G3 lock-free look-up**: page to anchor takes no lock until it has found one, waits for nobody and allocates nothing.
//! - **G4 all or nothing**: an operation that returns an error, out of memory included, has changed nothing that a program or an embedder
//!   can see. (A failed fork may leave the parent's pages write-protected and not exclusive: they fault back. mprotect and madvise over
//!   a hole do what the kernel does, and say so.)
//! - **G5 bounded**: memory is bounded by VMAs, not by history: a chain of a million forks, each parent exiting before the next fork,
//!   ends with at most 3 anchors.
//! - **G6 nothing lost**: contents survive copy-on-write and swap, and races between them.
//! - **G7 nothing leaks**: a frame given to a new owner carries no byte of the old one's; at the end all memory is given back.
//! - **G8 no hidden calls**: no callback of the embedder's runs under a lock that its documentation does not name.
//!
//! # Memory
//!
//! Metadata come from one [`Heap`](base::alloc::Heap) per context; every allocation can fail, and failure is
//! [`Error::NoMemory`](base::error::Error::NoMemory), never an abort. anon_vmas, VMAs and tree nodes live in
//! type-stable slabs ([`base::slab`]), which is what makes the look-up safe without a grace period. A slab's memory
//! goes back when the context does.
#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![cfg_attr(shuttle, allow(dead_code, unused_imports, unused_macros, reason = "tests that are no scenes are left out"))]

extern crate alloc;

pub mod base;
pub mod ds;
pub mod engine;
pub mod machine;
pub mod mm;
pub mod page;
pub mod rmap;
pub mod trace;

#[cfg(test)]
mod tests;

/// The README's example in Rust, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
