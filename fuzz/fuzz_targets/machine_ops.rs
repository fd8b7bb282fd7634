//! Programs of several processes, beside the oracle and a model.
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz::op::Program;
fuzz_target!(|program: Program| rmap_fuzz::runner::run(&program, false));
