//! The interval tree beside a list.
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz::interval_tree::{Step, run};
fuzz_target!(|steps: Vec<Step>| run(&steps));
