//! The interval tree beside a list.
#![no_main]
use libfuzzer_sys::fuzz_target;
use rmap_fuzz::interval_tree::{Step, run};
use rmap_fuzz::steps::Steps;
fuzz_target!(|steps: Steps<Step>| run(&steps.0));
