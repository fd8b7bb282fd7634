//! The packed words.
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz::mapping_word::{Step, run};
use rmap_fuzz::steps::Steps;
fuzz_target!(|steps: Steps<Step>| run(&steps.0));
