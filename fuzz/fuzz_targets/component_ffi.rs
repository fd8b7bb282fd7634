//! Sequences of C calls, wrong ones included: walks find what the embedder's tables have (G1).
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz_component::{Calls, run};
fuzz_target!(|calls: Calls| run(calls.engine, &calls.ops));
