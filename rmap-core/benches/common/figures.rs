//! Figures: measured through criterion, printed beside those of the kernel's own code.

use criterion::Criterion;
use std::cell::RefCell;
use std::time::Duration;

/// What the kernel's code does: Linux 6.12's `mm/rmap.c` and `mm/interval_tree.c`, compiled in user space, on a quiet
/// machine.
const KERNEL: &[(&str, f64)] = &[
    ("prepare_unlink/hot", 33.0),
    ("prepare_unlink/100000_live", 83.0),
    ("fork_unlink/1", 50.0),
    ("fork_unlink/4", 93.0),
    ("fork_unlink/16", 292.0),
    ("fork_unlink/64", 1_725.0),
    ("fork_unlink/256", 14_600.0),
    ("walk_n/1", 23.0),
    ("walk_n/10", 80.0),
    ("walk_n/1000", 7_700.0),
    ("walk_n/10000", 106_000.0),
    ("fan_out/one_child", 17.0),
    ("i_mmap_random/insert", 330.0),
    ("i_mmap_random/remove", 190.0),
    ("i_mmap_random/walk_25_hits", 5_600.0),
    ("i_mmap_same/insert", 63.0),
    ("i_mmap_same/remove_random", 184.0),
    ("i_mmap_same/visit", 31.0),
    ("look_up/1_thread", 6.4),
    ("look_up_pair/one_page", 24.0),
    ("look_up_pair/one_root", 31.0),
    ("look_up_pair/two_roots", 172.0),
    ("walk_vs_fork/forks", 48_000.0),
    ("walk_vs_fork/walks", 80_000.0),
    ("sizes/anon_vma", 96.0),
    ("sizes/link", 64.0),
    ("sizes/vma_never_forked", 169.0),
    ("sizes/vma_depth_1", 233.0),
    ("sizes/vma_depth_256", 16_550.0),
];

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nanoseconds an operation.
    Nanos,
    /// Millions of operations a second, of all threads together.
    MillionsPerSecond,
    /// Operations a second.
    PerSecond,
    /// Bytes.
    Bytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Nanos => "ns",
            Self::MillionsPerSecond => "M/s",
            Self::PerSecond => "/s",
            Self::Bytes => "B",
        }
    }
    fn more_is_better(self) -> bool {
        matches!(self, Self::MillionsPerSecond | Self::PerSecond)
    }
}

/// The figures of one benchmark program.
pub(crate) struct Figures {
    criterion: Criterion,
    samples: usize,
    lines: Vec<String>,
}

impl Figures {
    /// Reads the command line, which is criterion's.
    pub(crate) fn new() -> Self {
        let samples = 15;
        let criterion = Criterion::default()
            .sample_size(samples)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1))
            .configure_from_args();
        Self { criterion, samples, lines: Vec::new() }
    }

    /// Measures `run`, which does its argument times what it does and returns how long that took; each time is
    /// `operations` operations.
    pub(crate) fn time(&mut self, name: &str, operations: u64, mut run: impl FnMut(u64) -> Duration) {
        let seen = RefCell::new(Vec::new());
        self.criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let took = run(times);
                seen.borrow_mut().push(took.as_nanos() as f64 / (times * operations) as f64);
                took
            });
        });
        self.line(name, Unit::Nanos, &seen.into_inner());
    }

    /// Measures rates that `run` returns: one for each of `names`. Criterion is shown the time that an operation takes
    /// at the sum of them.
    pub(crate) fn rates<const N: usize>(
        &mut self,
        group: &str,
        names: [&str; N],
        unit: Unit,
        mut run: impl FnMut() -> [f64; N],
    ) {
        let seen = RefCell::new(Vec::new());
        self.criterion.bench_function(group, |bencher| {
            bencher.iter_custom(|times| {
                let rates = run();
                seen.borrow_mut().push(rates);
                Duration::from_secs_f64(times as f64 / rates.iter().sum::<f64>().max(1.0))
            });
        });
        let seen = seen.into_inner();
        let scale = if unit == Unit::MillionsPerSecond { 1e-6 } else { 1.0 };
        for (i, name) in names.into_iter().enumerate() {
            self.line(name, unit, &seen.iter().map(|rates| rates[i] * scale).collect::<Vec<_>>());
        }
    }

    /// Reports a figure that is not measured but counted.
    pub(crate) fn count(&mut self, name: &str, unit: Unit, value: f64) {
        self.line(name, unit, &[value]);
    }

    fn line(&mut self, name: &str, unit: Unit, seen: &[f64]) {
        // The first samples are criterion's warm-up.
        let mut kept = seen[seen.len().saturating_sub(self.samples)..].to_vec();
        if kept.is_empty() {
            return; // not chosen on the command line
        }
        kept.sort_by(f64::total_cmp);
        let median = kept[kept.len() / 2];
        let best = if unit.more_is_better() { kept[kept.len() - 1] } else { kept[0] };
        let unit_name = unit.name();
        let kernel = KERNEL.iter().find(|(key, _)| *key == name).map_or(String::new(), |(_, kernel)| {
            let ratio = if unit.more_is_better() { kernel / median } else { median / kernel };
            format!("  kernel {kernel:>9.1}  ours/kernel {ratio:.2} (below 1 is faster or smaller)")
        });
        self.lines.push(format!("SUMMARY {name:<34} median {median:>11.1} {unit_name:<3} best {best:>11.1}{kernel}"));
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        for line in &self.lines {
            println!("{line}");
        }
    }
}
