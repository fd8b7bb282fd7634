//! Any bytes as a trace or a snapshot.
#![no_main]
use libfuzzer_sys::fuzz_target;
fuzz_target!(|data: &[u8]| rmap_fuzz::trace_parser::run(data));
