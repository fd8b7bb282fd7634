//! Sequences of calls of the C ABI, by an embedder with page tables of its own, who also makes mistakes.
//!
//! A package of its own: whoever links the C ABI gets its global allocator, which the other targets do without.
//!
//! | after each call | what holds |
//! |---|---|
//! | a right one | the status is the one that the header promises |
//! | a wrong one ([`misuse`]) | it is refused, and nothing that a program can see has changed |
//! | any | for each page, `rmap_page_mappings` finds exactly the entries of the embedder's tables; counts and references agree |
//!
//! At the end the context is freed, and its allocator has all bytes back.

mod check;
mod embedder;
mod layout;
mod memory;
mod misuse;
mod table;

use arbitrary::{Arbitrary, Unstructured};
use embedder::Embedder;
pub use misuse::{Bad, Misuse};

/// One thing that the embedder does. Everything is taken modulo what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Op {
    New,
    Exit { mm: u8 },
    Fork { mm: u8 },
    Map { mm: u8, at: u8, pages: u8, what: u8 },
    Unmap { mm: u8, at: u8 },
    Split { mm: u8, at: u8 },
    Merge { mm: u8, at: u8 },
    Shift { mm: u8, at: u8, to: u8 },
    Adjust { mm: u8, at: u8, start: u8, end: u8 },
    Move { mm: u8, at: u8, to: u8 },
    SetFlags { mm: u8, at: u8, which: u8 },
    Name { mm: u8, at: u8, name: u8 },
    Write { mm: u8, at: u8 },
    Read { mm: u8, at: u8 },
    Zap { mm: u8, at: u8 },
    SwapOut { frame: u8, flags: u8 },
    Evict { file: u8, pgoff: u8 },
    Referenced { frame: u8 },
    MkClean { frame: u8 },
    Pin { frame: u8 },
    Unpin { frame: u8 },
    GetAnon { frame: u8 },
    PutAnon,
    LockAnon { frame: u8, held: bool },
    Synchronize,
    Misuse(Misuse),
}

/// Calls that are made: the rest of a longer input is not looked at.
const MOST: usize = 400;

/// Makes the calls, under the engine that `engine` says.
pub fn run(engine: u8, ops: &[Op]) {
    let mut embedder = Embedder::new(engine);
    for op in &ops[..ops.len().min(MOST)] {
        embedder.apply(*op);
        embedder.check();
    }
    embedder.finish();
}

/// An input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    pub engine: u8,
    /// As many as the bytes have.
    pub ops: Vec<Op>,
}

impl<'a> Arbitrary<'a> for Calls {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut calls = Self { engine: u.arbitrary()?, ops: Vec::new() };
        while !u.is_empty() {
            calls.ops.push(u.arbitrary()?);
        }
        Ok(calls)
    }
}
