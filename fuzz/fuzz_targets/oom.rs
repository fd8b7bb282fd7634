//! The same programs with allocations failing.
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz::op::Program;
fuzz_target!(|program: Program| rmap_fuzz::runner::run(&program, true));
