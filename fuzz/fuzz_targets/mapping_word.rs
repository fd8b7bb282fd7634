//! The packed words.
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz::mapping_word::{Step, run};
fuzz_target!(|steps: Vec<Step>| run(&steps));
