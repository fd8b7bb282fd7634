//! All committed inputs, without a fuzzer and on any toolchain.

mod inputs;

fn replay(name: &str) {
    let (_, run) = rmap_fuzz::TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    inputs::replay(name, run);
}

#[test]
fn machine_ops() {
    replay("machine_ops");
}

#[test]
fn oom() {
    replay("oom");
}

#[test]
fn engines_agree() {
    replay("engines_agree");
}

#[test]
fn trace_parser() {
    replay("trace_parser");
}

#[test]
fn interval_tree() {
    replay("interval_tree");
}

#[test]
fn mapping_word() {
    replay("mapping_word");
}
