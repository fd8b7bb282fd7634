//! What the fuzz targets do with their inputs; `fuzz/README.md` says how they are run.
//!
//! | target | module | what it holds the library to |
//! |---|---|---|
//! | `machine_ops` | [`runner`] | the machine's oracle, and a [model](self::runner) of layout and bytes, after every step |
//! | `oom` | [`runner`] | the same, with allocations failing: an error is out of memory, and has changed nothing |
//! | `engines_agree` | [`engines_agree`] | one program comes to the same under every engine |
//! | `trace_parser` | [`trace_parser`] | any bytes are refused with the line named, or can be replayed |
//! | `interval_tree` | [`interval_tree`] | the tree and a list give the same answers, in the same order |
//! | `mapping_word` | [`mapping_word`] | what is stored in a packed word is what is read |
//! | `component_ffi` | the package `component` | the C ABI over an embedder's page tables; misuse is refused |
//!
//! A program ([`op::Program`]) is what three of them share: records of eight bytes, so that seeds can be written and
//! mutations stay local.

mod access;
mod check;
mod countdown;
pub mod engines_agree;
pub mod interval_tree;
mod layout;
pub mod mapping_word;
mod model;
pub mod op;
pub mod runner;
pub mod steps;
pub mod trace_parser;

use arbitrary::{Arbitrary, Unstructured};
use steps::Steps;

/// What a target does with an input: as the fuzzer does it, for whoever has the input and no fuzzer.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("machine_ops", |data| structured(data, |program| runner::run(&program, false))),
    ("oom", |data| structured(data, |program| runner::run(&program, true))),
    ("engines_agree", |data| structured(data, |program| engines_agree::run(&program))),
    ("trace_parser", trace_parser::run),
    ("interval_tree", |data| structured(data, |steps: Steps<_>| interval_tree::run(&steps.0))),
    ("mapping_word", |data| structured(data, |steps: Steps<_>| mapping_word::run(&steps.0))),
];

/// Reads an input as the fuzzer reads it.
fn structured<'a, T: Arbitrary<'a>>(data: &'a [u8], run: impl FnOnce(T)) {
    if let Ok(input) = T::arbitrary_take_rest(Unstructured::new(data)) {
        run(input);
    }
}
