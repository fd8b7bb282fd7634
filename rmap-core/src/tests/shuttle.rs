//! Scenes of a whole machine under a random scheduler: 3 or 4 threads, dozens of operations each, the functions that
//! production runs. Walks are complete (G1), what they visit is alive (G2), look-ups wait for nobody (G3), and every byte
//! is what its process wrote (G6).
//!
//! Every atomic operation is a point where another thread may go on, and locks are the real words over such atomics.
//! Shuttle explores sequentially consistent executions alone; weaker ones are loom's (`loom_*`), which can afford small
//! models only.
//!
//! An execution draws its operations and its schedule from one seed. A scene that fails prints the seed, and the seed
//! replays it:
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle RMAP_SHUTTLE_SEED=4711 RMAP_SHUTTLE_ITERATIONS=1 \
//!     cargo test -p rmap-core --lib shuttle::anon_vma::shuttle_families
//! ```
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `RMAP_SHUTTLE_SEED` | 1 | seed of the first execution; execution n has this plus n |
//! | `RMAP_SHUTTLE_ITERATIONS` | the scene's | executions |
//! | `RMAP_SHUTTLE_DEPTH` | none | n: a scheduler that always prefers one thread to another and changes its mind at n - 1 points (PCT); a failure names the seed and the executions that replay it |

use crate::base::rcu;
use crate::machine::life_tests::{stress, stress_layout, stress_lookup};
use core::fmt::Display;
use shuttle::rand::RngCore;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use stress::Scale;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Runs `scene` once for each of `executions`, with what `scheduler` decides.
fn run(scheduler: impl Scheduler + 'static, executions: &Arc<AtomicU64>, scene: fn(seed: u64)) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    // A schedule is as long as an execution, and the seed says the same.
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(20_000_000);
    // What is weaker than sequentially consistent is loom's.
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let executions = executions.clone();
    Runner::new(scheduler, config).run(move || {
        executions.fetch_add(1, Ordering::Relaxed);
        scene(shuttle::rand::thread_rng().next_u64());
    });
}

/// Runs a scene `iterations` times, or as often as the environment says, and prints how often; a failure prints what
/// replays it.
pub(super) fn explore(name: impl Display, iterations: u64, scene: fn(seed: u64)) {
    let seed = number("RMAP_SHUTTLE_SEED").unwrap_or(1);
    let iterations = number("RMAP_SHUTTLE_ITERATIONS").unwrap_or(iterations);
    let depth = number("RMAP_SHUTTLE_DEPTH");
    let executions = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(|| match depth {
        Some(depth) => run(PctScheduler::new_from_seed(seed, depth as usize, iterations as usize), &executions, scene),
        None => {
            (0..iterations).for_each(|n| run(RandomScheduler::new_from_seed(seed + n, 1), &executions, scene));
        }
    }));
    let done = executions.load(Ordering::Relaxed);
    if let Err(panic) = ended {
        let (first, count) = if depth.is_some() { (seed, done) } else { (seed + done - 1, 1) };
        std::eprintln!(
            "shuttle {name}: execution {done} failed; RMAP_SHUTTLE_SEED={first} RMAP_SHUTTLE_ITERATIONS={count} replays it"
        );
        resume_unwind(panic);
    }
    assert_eq!(done, iterations);
    std::println!("shuttle {name}: {done} iterations from seed {seed}, {:.1?}", start.elapsed());
}

/// Few frames and pages, so that threads meet and memory runs out.
const SMALL: Scale = Scale { frames: 40, pages: 4, threads: 3, rounds: 30, seed: 1 };

/// For each engine a module of the scenes.
macro_rules! scenes {
    ($engine:ident $toy:ident $system:ident $($test:ident = $module:ident $scene:ident, $iterations:literal, $scale:expr;)*) => {
        mod $engine {
            use super::*;
            $(#[test]
            fn $test() {
                let name = concat!(stringify!($engine), "::", stringify!($test));
                explore(name, $iterations, |seed| $module::$scene::<crate::machine::system::$system>(Scale { seed, ..$scale }));
            })*
        }
    };
}

crate::tests::each_engine!(
    scenes,
    shuttle_families = stress families, 20, SMALL;
    shuttle_one_address_space = stress one_address_space, 20, SMALL;
    shuttle_walks_beside_forks = stress walks_beside_forks, 20, Scale { threads: 2, rounds: 12, frames: 80, ..SMALL };
    shuttle_moves = stress_layout moves, 20, Scale { threads: 2, pages: 3, ..SMALL };
    shuttle_one_move = stress_lookup one_move, 300, Scale { frames: 16, rounds: 4, ..SMALL };
    shuttle_one_move_away = stress_lookup one_move_away, 300, Scale { frames: 16, rounds: 4, ..SMALL };
    shuttle_files = stress_layout files, 20, Scale { threads: 2, frames: 60, ..SMALL };
);

scenes!(
    anon_vma_anchors Anon AnonVmaSystem
    shuttle_lookups = stress_lookup lookups, 300, Scale { frames: 6, rounds: 4, ..SMALL };
);
scenes!(
    objrmap_anchors Objrmap ObjrmapSystem
    shuttle_lookups = stress_lookup lookups, 300, Scale { frames: 6, rounds: 4, ..SMALL };
);

#[test]
fn shuttle_grace_periods() {
    explore("shuttle_grace_periods", 300, |_| rcu::tests::readers_and_writers(4));
}
