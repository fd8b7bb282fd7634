//! Page tables against a map of addresses, and their races.

use super::*;
use crate::base::alloc::testing::Countdown;
use crate::machine::pte_word::tests::any_pte;
use crate::page::pte::SwapEntry;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;
const SPAN: u64 = 2 * MIB;
const ALL: VirtAddr = ADDRESS_END;
const WRITE_DIRTY: PteFlags = PteFlags::WRITE.union(PteFlags::DIRTY);

fn tables() -> RadixTable {
    RadixTable::new(&Heap::global().unwrap()).unwrap()
}

fn page(n: u64) -> VirtAddr {
    VirtAddr::from_vpn(n)
}

fn entries(tables: &RadixTable, start: VirtAddr, end: VirtAddr) -> Vec<(VirtAddr, Pte)> {
    let mut all = Vec::new();
    tables.for_each(start, end, |addr, pte| all.push((addr, pte)));
    all
}

/// Pages near the ends of tables, of 1 GiB nodes and of the whole address space, so that runs collide and cross.
fn any_page() -> impl Strategy<Value = u64> {
    let place = prop_oneof![Just(0), Just(512), Just(1 << 18), Just(1 << 27), Just(ALL.vpn() - 512)];
    let offset = prop_oneof![0..4_u64, 508..512_u64];
    (place, offset).prop_map(|(place, offset)| place + offset)
}

#[derive(Debug, Clone)]
enum Step {
    Set(u64, Pte),
    Clear(u64),
    ClearFlush(u64),
    TakeYoung(u64),
    MkClean(u64),
    WrProtect(u64),
    Large(u64, u64),
    Split(u64),
    Free(u64, u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any_page(), any_pte()).prop_map(|(at, pte)| Step::Set(at, pte)),
        2 => any_page().prop_map(Step::Clear),
        2 => any_page().prop_map(Step::ClearFlush),
        1 => any_page().prop_map(Step::TakeYoung),
        1 => any_page().prop_map(Step::MkClean),
        1 => any_page().prop_map(Step::WrProtect),
        1 => (any_page(), 0..1_u64 << 43).prop_map(|(at, pfn)| Step::Large(at / 512 * 512, pfn * 512)),
        1 => any_page().prop_map(Step::Split),
        1 => (any_page(), any_page()).prop_map(|(a, b)| Step::Free(a.min(b), a.max(b))),
    ]
}

/// What the tables should hold: an entry per page, a set of tables, and which of them are large.
#[derive(Default)]
struct Model {
    ptes: BTreeMap<u64, Pte>,
    tables: BTreeMap<u64, bool>,
}

impl Model {
    fn get(&self, at: u64) -> Pte {
        let missing = if self.tables.contains_key(&(at / 512)) { Pte::None } else { Pte::NoTable };
        self.ptes.get(&at).copied().unwrap_or(missing)
    }

    fn split(&mut self, at: u64) -> bool {
        let Some(large @ true) = self.tables.get_mut(&(at / 512)) else { return false };
        *large = false;
        for (_, pte) in self.ptes.range_mut(at / 512 * 512..(at / 512 + 1) * 512) {
            let Pte::Present { flags, .. } = pte else { unreachable!() };
            *flags -= PteFlags::LARGE;
        }
        true
    }

    fn clear(&mut self, at: u64) -> Pte {
        let old = self.get(at);
        if let Some(large @ true) = self.tables.get_mut(&(at / 512)) {
            *large = false;
            self.ptes.retain(|page, _| page / 512 != at / 512);
        } else {
            self.ptes.remove(&at);
        }
        old
    }

    fn set(&mut self, at: u64, pte: Pte) {
        self.tables.entry(at / 512).or_insert(false);
        if pte.is_none() {
            self.ptes.remove(&at)
        } else {
            self.ptes.insert(at, pte)
        };
    }

    /// Takes bits of the entry, and of all under the same large one.
    fn take_bits(&mut self, at: u64, bits: PteFlags) -> bool {
        let Pte::Present { flags, .. } = self.get(at) else { return false };
        let pages = if flags.contains(PteFlags::LARGE) { at / 512 * 512..(at / 512 + 1) * 512 } else { at..at + 1 };
        for (_, pte) in self.ptes.range_mut(pages) {
            let Pte::Present { flags, .. } = pte else { unreachable!() };
            *flags -= bits;
        }
        flags.intersects(bits)
    }
}

fn run(tables: &RadixTable, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    match *step {
        Step::Set(at, pte) => {
            tables.alloc(page(at)).unwrap();
            let mut locked = tables.lock(page(at), false).unwrap();
            if model.get(at).pfn().is_some() {
                prop_assert_eq!(locked.clear(page(at)), model.clear(at));
            }
            locked.set(page(at), pte);
            model.split(at);
            model.set(at, pte);
        }
        Step::Clear(at) | Step::ClearFlush(at) => {
            let Some(mut locked) = tables.lock(page(at), false) else {
                prop_assert_eq!(model.get(at), Pte::NoTable);
                return Ok(());
            };
            let before = tables.flushes();
            let flush = matches!(step, Step::ClearFlush(_));
            let old = if flush { locked.clear_flush(page(at)) } else { locked.clear(page(at)) };
            prop_assert_eq!(old, model.clear(at));
            prop_assert_eq!(tables.flushes() - before, u64::from(flush && old.pfn().is_some()));
        }
        Step::TakeYoung(at) | Step::MkClean(at) | Step::WrProtect(at) => {
            let Some(mut locked) = tables.lock(page(at), false) else { return Ok(()) };
            match step {
                Step::TakeYoung(_) => {
                    prop_assert_eq!(locked.test_and_clear_young(page(at)), model.take_bits(at, PteFlags::YOUNG));
                }
                Step::MkClean(_) => prop_assert_eq!(locked.mkclean(page(at)), model.take_bits(at, WRITE_DIRTY)),
                _ => {
                    locked.wrprotect(page(at));
                    model.take_bits(at, PteFlags::WRITE);
                }
            }
        }
        Step::Large(at, pfn) => {
            let busy = model.ptes.range(at..at + 512).next().is_some();
            let flags = PteFlags::WRITE | PteFlags::YOUNG;
            prop_assert_eq!(tables.set_large(page(at), Pfn(pfn), flags), if busy { Err(Error::Busy) } else { Ok(()) });
            if !busy {
                (0..512).for_each(|i| model.set(at + i, Pte::present(Pfn(pfn + i), flags | PteFlags::LARGE)));
            }
            model.tables.insert(at / 512, if busy { model.tables[&(at / 512)] } else { true });
        }
        Step::Split(at) => prop_assert_eq!(tables.split_large(page(at)), model.split(at)),
        Step::Free(start, end) => {
            let first = start.div_ceil(512);
            let whole = first..first.max(end / 512);
            for table in whole.clone().take(4) {
                while let Some((&at, _)) = model.ptes.range(table * 512..(table + 1) * 512).next() {
                    tables.lock(page(at), false).unwrap().clear(page(at));
                    model.clear(at);
                }
            }
            let full = |table: &u64| model.ptes.range(table * 512..(table + 1) * 512).next().is_some();
            if model.tables.range(whole.clone()).any(|(table, _)| full(table)) {
                return Ok(());
            }
            tables.free_tables(page(start), page(end));
            model.tables.retain(|table, _| !whole.contains(table));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn tables_agree_with_a_map(steps in prop::collection::vec(any_step(), 0..60)) {
        let heap = Heap::global().unwrap();
        let tables = RadixTable::new(&heap).unwrap();
        let mut model = Model::default();
        for step in steps {
            run(&tables, &mut model, &step)?;
            prop_assert_eq!(tables.nr_tables(), model.tables.len() as u64);
        }
        let expected: Vec<_> = model.ptes.iter().map(|(at, pte)| (page(*at), *pte)).collect();
        prop_assert_eq!(entries(&tables, VirtAddr(0), ALL), expected);
        for at in [0, 3, 511, 512, 1 << 18, ALL.vpn() - 1] {
            prop_assert_eq!(tables.load(page(at)), model.get(at));
        }
        drop(tables);
        prop_assert_eq!(heap.in_use(), 0);
    }
}

#[test]
fn a_range_begins_and_ends_within_tables() {
    //   table 0             table 1             table 3
    //   |.............510 511|512.............1023|      |1536 1537......|
    let tables = tables();
    for at in [510, 511, 512, 1_536, 1_537] {
        tables.alloc(page(at)).unwrap();
        tables.lock(page(at), false).unwrap().set(page(at), Pte::Special { pfn: Pfn(at) });
    }
    let found: Vec<u64> = entries(&tables, page(511), page(1_537)).iter().map(|(addr, _)| addr.vpn()).collect();
    assert_eq!(found, [511, 512, 1_536]);
    assert_eq!(table_end(page(511), page(4_000)), page(512));
    assert_eq!(table_end(page(512), page(600)), page(600));
    assert_eq!(tables.next_table(page(1_024), page(1_600)), Some(page(1_536)));
}

#[test]
fn tables_beyond_48_bits_are_refused() {
    let tables = tables();
    assert_eq!(tables.alloc(ALL), Err(Error::Invalid));
    assert_eq!(tables.load(ALL), Pte::NoTable);
    assert!(tables.lock(ALL, false).is_none());
    assert_eq!(tables.set_large(VirtAddr(SPAN + 4_096), Pfn(512), PteFlags::WRITE), Err(Error::Invalid));
    assert_eq!(tables.set_large(VirtAddr(SPAN), Pfn(100), PteFlags::WRITE), Err(Error::Invalid));
}

#[test]
fn g4_each_failing_allocation_leaves_the_tables_as_they_were() {
    let countdown = Countdown::leaked();
    let heap = countdown.heap();
    countdown.fail_after(0);
    assert_eq!(RadixTable::new(&heap).err(), Some(Error::NoMemory));
    countdown.lift();
    let tables = RadixTable::new(&heap).unwrap();
    for n in 0.. {
        countdown.fail_after(n);
        let done = tables.set_large(VirtAddr(SPAN), Pfn(512), PteFlags::WRITE);
        if !countdown.lift() {
            assert_eq!(done, Ok(()));
            break;
        }
        assert_eq!((done, tables.nr_tables()), (Err(Error::NoMemory), 0));
        assert_eq!(tables.load(VirtAddr(SPAN)), Pte::NoTable);
    }
    drop(tables);
    assert_eq!(heap.in_use(), 0);
}

#[test]
fn two_tables_are_locked_in_address_order() {
    let tables = tables();
    let (low, high) = (page(0), page(512));
    for addr in [low, high] {
        tables.alloc(addr).unwrap();
    }
    let mut from = tables.lock(low, false).unwrap();
    let mut to = tables.lock(high, true).unwrap();
    from.set(low, Pte::Swap(SwapEntry { slot: 3, exclusive: true }));
    let moved = from.clear(low);
    to.set(high, moved);
    drop((from, to));
    assert_eq!(tables.load(high), Pte::Swap(SwapEntry { slot: 3, exclusive: true }));
    assert_eq!(tables.load(low), Pte::None);
}

#[test]
fn a_batch_flushes_once() {
    let tables = tables();
    tables.alloc(page(0)).unwrap();
    let mut locked = tables.lock(page(0), false).unwrap();
    (0..512).for_each(|n| locked.set(page(n), Pte::present(Pfn(n), PteFlags::DIRTY)));
    for n in 0..512 {
        assert_eq!(locked.clear(page(n)), Pte::present(Pfn(n), PteFlags::DIRTY));
    }
    drop(locked);
    assert_eq!(tables.flushes(), 0);
    tables.flush(page(0), page(512));
    assert_eq!(tables.flushes(), 1);
}

#[test]
fn many_threads_fault_on_the_same_tables() {
    const THREADS: u64 = 4;
    let heap = Heap::global().unwrap();
    for _ in 0..50 {
        let tables = RadixTable::new(&heap).unwrap();
        crate::base::testing::scope(|s| {
            for thread in 0..THREADS {
                let tables = &tables;
                s.spawn(move || {
                    for at in (0..2_048).filter(|at| at % THREADS == thread) {
                        tables.alloc(page(at)).unwrap();
                        let mut locked = tables.lock(page(at), false).unwrap();
                        assert_eq!(locked.get(page(at)), Pte::None);
                        locked.set(page(at), Pte::present(Pfn(at), PteFlags::WRITE));
                    }
                });
            }
        });
        assert_eq!(tables.nr_tables(), 4);
        let all = entries(&tables, VirtAddr(0), ALL);
        assert!(all.iter().map(|(addr, pte)| (addr.vpn(), pte.pfn())).eq((0..2_048).map(|n| (n, Some(Pfn(n))))));
    }
    assert_eq!(heap.in_use(), 0);
}

#[test]
fn a_reader_sees_a_large_mapping_or_its_parts_never_neither() {
    let tables = tables();
    for _ in 0..100 {
        tables.set_large(VirtAddr(0), Pfn(1_024), PteFlags::WRITE).unwrap();
        crate::base::testing::scope(|s| {
            s.spawn(|| {
                while tables.load(page(77)) != Pte::present(Pfn(1_024 + 77), PteFlags::WRITE) {
                    assert_eq!(tables.load(page(500)).pfn(), Some(Pfn(1_524)));
                }
            });
            s.spawn(|| assert!(tables.split_large(page(5))));
        });
        let mut locked = tables.lock(page(0), false).unwrap();
        for n in 0..512 {
            locked.clear(page(n));
        }
    }
}

#[test]
fn a_locked_table_is_the_one_of_its_address_while_tables_come_and_go() {
    // The memory of a few tables wanders between eight addresses. What is written under a lock is found by way of the
    // tree.
    let tables = tables();
    crate::base::testing::scope(|s| {
        for thread in 0..3_u64 {
            let tables = &tables;
            s.spawn(move || {
                for round in 0..20_000 {
                    let at = page((round * 7 + thread) % 8 * 512 + thread);
                    tables.alloc(at).unwrap();
                    let Some(mut locked) = tables.lock(at, false) else { continue };
                    assert_eq!(locked.get(at), Pte::None);
                    locked.set(at, Pte::Marker(at.vpn()));
                    assert_eq!(tables.load(at), Pte::Marker(at.vpn()));
                    assert_eq!(locked.clear(at), Pte::Marker(at.vpn()));
                    drop(locked);
                    tables.free_tables(page(0), page(8 * 512));
                }
            });
        }
    });
    tables.free_tables(VirtAddr(0), ALL);
    assert_eq!(tables.nr_tables(), 0);
}
