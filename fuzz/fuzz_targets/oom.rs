//! The same programs with allocations failing: what ran out of memory has changed nothing (G4) and leaves nothing (G7).
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz::op::Program;
fuzz_target!(|program: Program| rmap_fuzz::runner::run(&program, true));
