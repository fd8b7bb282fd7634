//! librmap's core: given a page frame, who maps it, while threads map, fork, split, move and unmap; and acting on the answer.
#![cfg_attr(not(any(feature = "std", test)), no_std)]

extern crate alloc;

pub mod base;
pub mod ds;
pub mod engine;
pub mod machine;
pub mod mm;
pub mod page;
pub mod rmap;

#[cfg(test)]
mod tests;
