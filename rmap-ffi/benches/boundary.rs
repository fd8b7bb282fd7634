//! What the C boundary costs: the same operation through `extern "C"`, and by the core's own functions, taking turns.
//!
//! ```text
//! cargo bench -p rmap-ffi --bench boundary [-- --test] [-- FILTER]
//! ```
//!
//! Each operation is done on twins: a context of the C ABI's, and one of the core's with the engine named as a type. C
//! functions are called by pointers that the compiler cannot see through, as a program calls a library, and their
//! status is looked at. Samples take turns, each side first in every second round; the difference is that of the two
//! samples of a round, so that a slow phase of the machine meets both. `--test` runs each once: its figures mean
//! nothing.

mod boundary {
    pub(crate) mod component;
    pub(crate) mod machine;
    pub(crate) mod through_c;
}
#[path = "../../rmap-core/benches/common/clock.rs"]
#[allow(dead_code, reason = "one of the clocks is for other programs")]
mod clock;
#[path = "../../rmap-core/benches/common/family.rs"]
#[allow(dead_code, reason = "a part of it is for other programs")]
mod family;

use clock::cpu_time;

/// Nanoseconds a call that the boundary may cost.
const BAR: f64 = 5.0;
/// Rounds, and how long a sample takes.
const ROUNDS: usize = 41;
const SAMPLE_NS: u64 = 1_000_000;

/// One side: does the operation so many times.
type Side = Box<dyn FnMut(u64)>;

/// An operation, both ways.
struct Pair {
    /// As the case of the C suite is called.
    name: String,
    /// Calls across the boundary in one operation, those of the program's functions included.
    calls: u64,
    core: Side,
    c: Side,
}

impl Pair {
    fn new(name: impl Into<String>, calls: u64, core: impl FnMut(u64) + 'static, c: impl FnMut(u64) + 'static) -> Self {
        Self { name: name.into(), calls, core: Box::new(core), c: Box::new(c) }
    }

    /// Nanoseconds an operation by the core and through C, for each round.
    fn samples(&mut self, rounds: usize, sample_ns: u64) -> Vec<(f64, f64)> {
        let mut one = |c: bool, times: u64| {
            let side = if c { &mut self.c } else { &mut self.core };
            cpu_time(|| side(times)).as_nanos() as f64 / times as f64
        };
        // What comes once, when an operation is first done, is done.
        let warm = one(false, 1).max(one(true, 1));
        let times = if rounds == 1 { 2 } else { (sample_ns as f64 / one(true, 256).min(warm).max(1.0)) as u64 + 1 };
        let both = |round: usize| {
            let c_first = round % 2 == 1;
            let (first, second) = (one(c_first, times), one(!c_first, times));
            if c_first { (second, first) } else { (first, second) }
        };
        (0..rounds).map(both).collect()
    }
}

/// Median, least and greatest.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[0], values[values.len() - 1]]
}

/// The line of one operation.
fn report(pair: &Pair, samples: &[(f64, f64)]) -> String {
    let [core, core_min, core_max] = spread(samples.iter().map(|s| s.0));
    let [c, c_min, c_max] = spread(samples.iter().map(|s| s.1));
    let [call, call_min, call_max] = spread(samples.iter().map(|s| (s.1 - s.0) / pair.calls as f64));
    let over = if samples.len() > 1 && call > BAR { "  OVER" } else { "" };
    format!(
        "SUMMARY boundary {:<24} calls {:>4} unit ns core {core:.1} min {core_min:.1} max {core_max:.1} \
         c {c:.1} min {c_min:.1} max {c_max:.1} call {call:.2} min {call_min:.2} max {call_max:.2}{over}",
        pair.name, pair.calls
    )
}

fn main() {
    // Cargo says that it benchmarks.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let rounds = if arguments.iter().any(|arg| arg == "--test") { 1 } else { ROUNDS };
    let wanted = |name: &str| arguments.iter().filter(|arg| !arg.starts_with("--")).all(|arg| name.contains(&**arg));
    let mut pairs = boundary::component::pairs();
    pairs.extend(boundary::machine::pairs());
    pairs.retain(|pair| wanted(&pair.name));
    assert!(!pairs.is_empty(), "no operation is called that");
    for pair in &mut pairs {
        let samples = pair.samples(rounds, SAMPLE_NS);
        println!("{}", report(pair, &samples));
    }
}
