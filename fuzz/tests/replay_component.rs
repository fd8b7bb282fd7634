//! The committed inputs of `component_ffi`: by themselves, as the C ABI brings its global allocator along.

mod inputs;

use arbitrary::{Arbitrary, Unstructured};
use rmap_fuzz_component::{Calls, run};

#[test]
fn component_ffi() {
    inputs::replay("component_ffi", |data| {
        if let Ok(calls) = Calls::arbitrary_take_rest(Unstructured::new(data)) {
            run(calls.engine, &calls.ops);
        }
    });
}
