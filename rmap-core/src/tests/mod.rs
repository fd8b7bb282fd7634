//! Proofs of the core: properties against an oracle, failing allocations, the known ways to be wrong, and models of
//! races.
//!
//! | file | what it is |
//! |---|---|
//! | `toy` | a test system for each engine over page tables of atomics, and the steps of a memory manager |
//! | `world` | a memory manager in small: faults, fork, copy-on-write, swap, mremap |
//! | `oracle` | who maps a page, by reading page tables and nothing else; every promise that can be checked between two operations |
//! | `properties` | random operations, checked after each |
//! | `acts` | unmapping, ageing and cleaning, and what the controls of a walk promise |
//! | `compound` | pages of several frames, mapped by one entry or by many |
//! | `refusals` | what the component refuses changes nothing |
//! | `exhaust` | engines without a free slot |
//! | `failures` | every allocation of an operation made to fail in turn |
//! | `panics` | callbacks that stop a walk, and callbacks that panic |
//! | `known_bugs` | T1 to T15: the known ways to be wrong |
//! | `bounds` | how much memory, how many candidates, which locks |
//! | `trip` | places in the embedder's functions that can be made to panic |
//! | `shuttle` | scenes of a whole machine under a random scheduler |
//!
//! Models, each named after its race; `.ci/loom` runs them, and their mutants:
//!
//! | file | what races |
//! |---|---|
//! | `loom_lookup` | a look-up, with whoever takes the anchor away |
//! | `loom_fork`, `loom_relayout`, `loom_move`, `loom_chain` | a walk, with fork, split, merge, shift, mremap; over chains |
//! | `loom_family` | unmapping, pins, re-anchoring and the end of a family, with walks |
//! | `loom_machine` | faults of relatives on one page |
//! | `loom_prepare` | first faults of one region |
//! | `loom_allocator` | who asks for memory, with a walk under the allocator's own lock |
//! | `loom_rcu`, `loom_slab` | readers, with freeing; owners, with handing out again |
//! | `loom_rwsem`, `loom_word_rwsem` | locks: as models use them, and the words that production has |
//!
//! Under loom the rwsem and the mutex of other models are stand-ins with fewer states (`base::sync::model`); the words
//! that they stand for have models of their own. Grace periods, slabs, page locks and page tables are production's.

/// The list of engines: calls the macro `then` for each, with its name, its system in `toy`, and its machine in
/// [`machine::system`](crate::machine::system).
#[cfg(not(loom))]
macro_rules! each_engine {
    ($then:path $(, $($args:tt)*)?) => {
        $then!(anon_vma Anon AnonVmaSystem $($($args)*)?);
        $then!(objrmap Objrmap ObjrmapSystem $($($args)*)?);
        $then!(pte_chain Chained PteChainSystem $($($args)*)?);
        $then!(full_scan FullScan FullScanSystem $($($args)*)?);
        $then!(per_mm PerSpace PerMmSystem $($($args)*)?);
    };
}
#[cfg(not(loom))]
pub(crate) use each_engine;

/// Makes a module of tests for each engine: each test is a function that is generic over the
/// [`TestSystem`](toy::TestSystem).
#[cfg(not(loom))]
macro_rules! on_every_toy {
    ($($test:ident),* $(,)?) => {
        crate::tests::each_engine!(on_one_toy, $($test)*);
    };
}

/// One of these modules.
macro_rules! on_one_toy {
    ($engine:ident $toy:ident $system:ident $($test:ident)*) => {
        mod $engine {
            $(#[test]
            fn $test() {
                super::$test::<crate::tests::toy::$toy>();
            })*
        }
    };
}

#[cfg(not(any(loom, shuttle)))]
mod acts;
#[cfg(not(any(loom, shuttle)))]
mod bounds;
#[cfg(not(any(loom, shuttle)))]
mod compound;
pub(crate) mod exhaust;
#[cfg(not(any(loom, shuttle)))]
mod failures;
#[cfg(not(any(loom, shuttle)))]
mod known_bugs;
#[cfg(not(loom))]
mod oracle;
#[cfg(not(any(loom, shuttle)))]
mod panics;
#[cfg(not(any(loom, shuttle)))]
mod properties;
#[cfg(not(any(loom, shuttle)))]
mod refusals;
mod toy;
pub(crate) mod trip;
#[cfg(not(loom))]
mod world;

#[cfg(shuttle)]
mod shuttle;

#[cfg(loom)]
mod loom_allocator;
#[cfg(loom)]
mod loom_chain;
#[cfg(loom)]
mod loom_family;
#[cfg(loom)]
mod loom_fork;
#[cfg(loom)]
mod loom_lookup;
#[cfg(loom)]
mod loom_machine;
#[cfg(loom)]
mod loom_move;
#[cfg(loom)]
mod loom_prepare;
#[cfg(loom)]
mod loom_rcu;
#[cfg(loom)]
mod loom_relayout;
#[cfg(loom)]
mod loom_rwsem;
#[cfg(loom)]
mod loom_slab;
#[cfg(loom)]
mod loom_word_rwsem;

/// Explores `f` with at most `bound` preemptions (all when `None`), prints the number of executions, and fails if the
/// time limit cut the exploration short: loom by itself passes then.
///
/// `RMAP_LOOM_BOUND` lowers the bound, for a smoke test.
#[cfg(loom)]
fn run_model(name: &str, bound: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};
    const LIMIT: Duration = Duration::from_mins(30);

    let smoke = std::env::var("RMAP_LOOM_BOUND").ok().and_then(|n| n.parse().ok());
    let bound = smoke.map_or(bound, |smoke: usize| Some(bound.map_or(smoke, |bound| bound.min(smoke))));
    let iterations = std::sync::Arc::new(AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound;
    builder.max_duration = Some(LIMIT);
    builder.max_branches = 100_000;
    let start = Instant::now();
    builder.check({
        let iterations = iterations.clone();
        move || {
            iterations.fetch_add(1, Ordering::Relaxed);
            f();
        }
    });
    let elapsed = start.elapsed();
    std::println!("loom {name}: {} iterations, bound {bound:?}, {elapsed:.1?}", iterations.load(Ordering::Relaxed));
    assert!(elapsed < LIMIT, "{name}: exploration did not finish");
}
