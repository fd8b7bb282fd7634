//! Programs of several processes, beside the oracle (G1) and a model of every byte (G6); nothing is left (G7).
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz::op::Program;
fuzz_target!(|program: Program| rmap_fuzz::runner::run(&program, false));
