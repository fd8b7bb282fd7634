//! One program under every engine.
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz::op::Program;
fuzz_target!(|program: Program| rmap_fuzz::engines_agree::run(&program));
