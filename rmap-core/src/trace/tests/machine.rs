//! Replays in the machine, against the kernel's snapshots; and every walk over what they leave, against the page
//! tables.

use super::{snapshot, trace};
use crate::base::alloc::Heap;
use crate::base::clock::Clock;
use crate::engine::Engine;
use crate::machine::system::{AnonVmaSystem, FullScanSystem, ObjrmapSystem, PerMmSystem, PteChainSystem, SoftSystem};
use crate::machine::{Machine, MachineConfig};
use crate::page::frames::Contents;
use crate::trace::compare::{Comparison, compare};
use crate::trace::measure::{Report, measure};
use crate::trace::on_machine::{MachineReplay, OnMachine};
use crate::trace::replay::Stats;

/// Comparison and walks at each mark, and the figures of the whole.
fn replayed<S: SoftSystem>(name: &str) -> (Vec<(Comparison, Report)>, Stats) {
    let heap = Heap::global().unwrap();
    let before = heap.in_use();
    let config = MachineConfig { contents: Contents::MetadataOnly, ..MachineConfig::new(&heap, 1 << 17) };
    let machine = Machine::<S>::new(config).unwrap();
    let clock = Clock::start();
    let mut marks = Vec::new();
    let mut replay = MachineReplay::new(OnMachine::new(&machine));
    let mut at_mark = |replay: &MachineReplay<'_, S>, label: &str| {
        let found = compare(&snapshot(label).state(), &replay.states());
        let walks = measure(&machine, || clock.ns()).map_err(|error| error.to_string())?;
        marks.push((found, walks));
        Ok(())
    };
    replay.run(&mut trace(name), &mut at_mark).unwrap();
    let stats = *replay.stats();
    drop(replay);
    drop(machine);
    assert_eq!(heap.in_use(), before, "{name}: memory is left");
    (marks, stats)
}

/// Processes, anonymous pages and extra pages of each mark. Returns the candidates of all walks over anonymous pages.
fn holds<S: SoftSystem>(name: &str, expected: &[(u64, u64, u64)]) -> u64 {
    let (marks, stats) = replayed::<S>(name);
    let found: Vec<_> = marks.iter().map(|(found, _)| (found.processes, found.anon, found.anon_extra)).collect();
    assert_eq!(found, expected, "{name}");
    for (found, walks) in &marks {
        assert!(found.is_exact(), "{name}: {found:#?}");
        // What a program touched is there; the kernel may have mapped a page of a file that nobody touched.
        assert!(found.file_only_there * 1_000 <= found.file_both, "{name}: {found:#?}");
        assert_eq!((walks.mismatches, &walks.differences[..]), (0, &[][..]), "{name}");
        assert!(walks.anon.mappings >= found.anon && walks.anon.candidates >= walks.anon.mappings, "{walks:?}");
        let exact = <S::Design as Engine<S>>::NAME == "pte_chain";
        assert!(!exact || walks.all.candidates == walks.all.mappings, "{name}: {walks:?}");
        assert_eq!(walks.entries, walks.anon.mappings + walks.file.mappings);
        assert!(walks.footprint.bytes > 0 && walks.vmas > 0);
    }
    assert_eq!((stats.failed_faults, stats.unknown_advices, stats.mms, stats.vmas), (0, 0, 0, 0), "{stats:?}");
    marks.iter().map(|(_, walks)| walks.anon.candidates).sum()
}

/// The same truth with every engine, at different cost: the finer what pages point to, the fewer candidates. A chain
/// has no candidate that is no mapping.
fn holds_with_every_engine(name: &str, expected: &[(u64, u64, u64)]) {
    let candidates = [
        holds::<PteChainSystem>(name, expected),
        holds::<AnonVmaSystem>(name, expected),
        holds::<ObjrmapSystem>(name, expected),
        holds::<PerMmSystem>(name, expected),
        holds::<FullScanSystem>(name, expected),
    ];
    std::println!("{name}: candidates of pte_chain, anon_vma, objrmap, per_mm, full_scan: {candidates:?}");
    assert!(candidates.is_sorted(), "{candidates:?}");
}

#[test]
fn bash_replays_exactly() {
    // The one page too many is a `g` line of the recorder's.
    holds_with_every_engine("bash", &[(10, 1_021, 1)]);
}

#[test]
fn redis_replays_exactly() {
    holds_with_every_engine("redis", &[(1, 6_362, 0), (2, 13_132, 0)]);
}

#[test]
fn py_replays_exactly() {
    holds_with_every_engine("py", &[(7, 103_292, 0)]);
}

#[test]
fn make_replays_exactly() {
    holds_with_every_engine("make", &[(13, 3_901, 0), (20, 12_450, 0)]);
}

#[test]
fn web_replays_exactly() {
    holds_with_every_engine("web", &[(13, 29_015, 0), (10, 28_946, 0)]);
}
