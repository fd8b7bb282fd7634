//! The C ABI of librmap: `include/rmap.h`, one file per noun.
//!
//! | file | what it is |
//! |---|---|
//! | [`allocator`] | the Rust global allocator: never malloc |
//! | [`status`] | status codes, and where panics stop |
//! | [`handle`] | handles, who owns what, and how stale ones are found |
//! | `held` | locks that a thread holds across the boundary |
//! | [`context`] | the library, contexts, grace periods, figures |
//! | [`pte_ops`] | the embedder's page tables |
//! | [`page`] | page descriptors |
//! | [`mm`] | address spaces and fork |
//! | [`vma`], [`vma_look`] | regions: made and changed; found and looked at |
//! | [`mod@file`] | files |
//! | [`anon`] | anonymous pages mapped and unmapped |
//! | [`reserve`] | memory for mappings that are about to be made |
//! | [`lookup`] | from a page to its anchor |
//! | [`walk`] | walks |
//! | [`act`] | unmap, age, clean |
//! | [`dot`] | a page's reverse map, drawn |
//! | [`machine`] | a memory manager for programs that bring none |
//! | [`replay`] | traces of real programs, replayed in a machine |
//! | `block`, `sized` | memory for handles; structs that grow |
//!
//! Each function has the same parts in the same order, which the header carries over: what it does, Parameters,
//! Returns, Ownership, Context. What a function's parts demand is the contract of its `unsafe`: SAFETY comments name
//! the part.

// Types and variants are named as the header names them.
#![allow(non_camel_case_types)]
// The contract of an `extern "C"` function is in its Parameters, Ownership and Context.
#![allow(clippy::missing_safety_doc)]
// Documentation is written for the header, where backticks are noise.
#![allow(clippy::doc_markdown)]

mod block;
mod held;
mod sized;

// In the order of the header, which blank lines keep.
pub mod status;

pub mod context;

pub mod handle;

pub mod pte_ops;

pub mod page;

pub mod mm;

pub mod vma;

pub mod vma_look;

pub mod anon;

pub mod file;

pub mod lookup;
pub mod reserve;

pub mod walk;

pub mod act;

pub mod dot;

pub mod machine;

pub mod replay;

pub mod allocator;

/// All that Rust allocates on librmap's behalf: never malloc.
#[global_allocator]
static ALLOCATOR: allocator::SlabAllocator = allocator::SlabAllocator::new();
