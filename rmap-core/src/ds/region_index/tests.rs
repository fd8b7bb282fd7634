use super::*;
use crate::base::alloc::testing::Countdown;
use crate::base::error::Error;
use crate::base::testing::{forever, rounds, scope};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A region whose bounds change as a VMA's do.
struct Vma {
    start: AtomicU64,
    end: AtomicU64,
}

impl Vma {
    fn leaked(start: u64, end: u64) -> &'static Self {
        forever(Self { start: AtomicU64::new(start), end: AtomicU64::new(end) })
    }
    fn set(&self, start: u64, end: u64) {
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
    }
}

impl Region for Vma {
    fn start(&self) -> u64 {
        self.start.load(Ordering::Relaxed)
    }
    fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }
}

/// The index as one thread uses it: regions are leaked, so they stay valid; nobody else writes.
struct Sole(RegionIndex<Vma>);

impl Sole {
    fn new(heap: &Heap) -> Self {
        Self(RegionIndex::new(heap))
    }
    fn insert(&self, start: u64, end: u64) -> Result<&'static Vma> {
        let vma = Vma::leaked(start, end);
        // SAFETY: one writer; the region is leaked; the callers pass free ranges.
        unsafe { self.0.insert(NonNull::from(vma)) }.map(|()| vma)
    }
    fn remove(&self, vma: &'static Vma) {
        // SAFETY: one writer; the region is leaked; the callers pass an indexed one.
        unsafe { self.0.remove(NonNull::from(vma)) }
    }
    fn rekey(&self, vma: &'static Vma, start: u64, end: u64) {
        // SAFETY: one writer; the callers pass an indexed region and bounds between its neighbours.
        unsafe { self.0.rekey(NonNull::from(vma), start, end, || vma.set(start, end)) }
    }
    /// Everything in order, and that the nodes keep their rules.
    fn check(&self) -> Vec<(u64, u64)> {
        let all: Vec<_> = self.0.iter().map(|vma| (vma.start(), vma.end())).collect();
        assert_eq!(all.len(), self.0.len());
        let Some(root) = self.0.root() else { return all };
        let mut lens = Vec::new();
        for index in 0..root.len() {
            let leaf = root.leaf(index).unwrap();
            assert!(leaf.len() > 0);
            lens.push(leaf.len());
            let mut largest = 0;
            assert_eq!(root.key(index), leaf.start(0));
            for slot in 0..SLOTS {
                assert_eq!(slot < leaf.len(), leaf.item(slot).is_some());
                if slot < leaf.len() {
                    let item = leaf.item(slot).unwrap();
                    // SAFETY: leaked.
                    let item = unsafe { item.as_ref() };
                    assert_eq!((item.start(), item.end()), (leaf.start(slot), leaf.end(slot)));
                    let place = Place { root, leaf, index, slot };
                    largest = largest.max(place.next_start() - place.end());
                } else {
                    assert_eq!((leaf.start(slot), leaf.end(slot)), (u64::MAX, 0));
                }
            }
            assert_eq!(root.gap(index), largest);
        }
        assert!(lens.windows(2).all(|pair| pair[0] + pair[1] > HALF), "{lens:?}");
        all
    }
}

/// Key: start; value: end and the region.
type Model = BTreeMap<u64, (u64, &'static Vma)>;

fn free(model: &Model, start: u64, end: u64) -> bool {
    start < end && model.range(..end).next_back().is_none_or(|(_, &(e, _))| e <= start)
}

fn gaps(model: &Model, low: u64, high: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let mut at = 0;
    for (&start, &(end, _)) in model {
        out.push((at, start));
        at = end;
    }
    out.push((at, u64::MAX));
    out.into_iter().map(|(a, b)| (a.max(low), b.min(high))).filter(|(a, b)| a < b).collect()
}

fn bounds(vma: Option<&Vma>) -> Option<(u64, u64)> {
    vma.map(|vma| (vma.start(), vma.end()))
}

fn compare(index: &RegionIndex<Vma>, model: &Model, addr: u64, span: u64, size: u64) {
    let pair = |(&start, &(end, _)): (&u64, &(u64, &Vma))| (start, end);
    let holder = model.range(..=addr).next_back().map(pair).filter(|&(_, end)| addr < end);
    let after = model.range(addr..).next().map(pair);
    assert_eq!(bounds(index.find(addr)), holder);
    // SAFETY: regions are leaked.
    assert_eq!(index.find_racy(addr).map(|vma| unsafe { vma.as_ref() }.start()), holder.map(|(start, _)| start));
    assert_eq!(bounds(index.find_vma(addr)), holder.or(after));
    assert_eq!(bounds(index.prev(addr)), model.range(..addr).next_back().map(pair));
    assert_eq!(bounds(index.next_after(addr)), after);
    assert_eq!(bounds(index.first()), model.first_key_value().map(pair));
    assert_eq!(bounds(index.last()), model.last_key_value().map(pair));
    let high = addr.saturating_add(span);
    let meets = model.iter().map(pair).filter(|&(start, end)| start < high && end > addr && addr < high);
    assert!(index.range(addr, high).map(|vma| (vma.start(), vma.end())).eq(meets));
    let fits = |(a, b): &(u64, u64)| size > 0 && b - a >= size;
    let gaps = gaps(model, addr, high);
    assert_eq!(index.gap_above(addr, high, size), gaps.iter().find(|g| fits(g)).map(|g| g.0));
    assert_eq!(index.gap_below(addr, high, size), gaps.iter().rfind(|g| fits(g)).map(|g| g.1 - size));
}

#[derive(Debug, Clone)]
enum Op {
    Insert(u64, u64),
    /// Next to the region before the address, without a gap.
    Append(u64, u64),
    Remove(u64),
    /// Removes all in a range.
    Unmap(u64, u64),
    Rekey(u64, u64, u64),
    Look(u64, u64, u64),
}

fn ops(space: u64) -> impl Strategy<Value = Vec<Op>> {
    let at = 0..space;
    let size = prop_oneof![4 => 1..8_u64, 1 => 1..200_u64];
    let op = prop_oneof![
        6 => (at.clone(), size.clone()).prop_map(|(a, s)| Op::Insert(a, s)),
        3 => (at.clone(), size.clone()).prop_map(|(a, s)| Op::Append(a, s)),
        3 => at.clone().prop_map(Op::Remove),
        1 => (at.clone(), 0..space / 8).prop_map(|(a, s)| Op::Unmap(a, s)),
        2 => (at.clone(), 0..4_u64, 1..9_u64).prop_map(|(a, s, e)| Op::Rekey(a, s, e)),
        2 => (at, prop_oneof![0..space / 4, Just(u64::MAX)], 0..40_u64).prop_map(|(a, s, z)| Op::Look(a, s, z)),
    ];
    prop::collection::vec(op, 1..if cfg!(miri) { 60 } else { 900 })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: rounds(300, 4) as u32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn it_agrees_with_an_ordered_map(ops in prop_oneof![ops(300), ops(20_000)]) {
        let heap = Heap::global().unwrap();
        let index = Sole::new(&heap);
        let mut model = Model::new();
        for op in ops {
            match op {
                Op::Insert(start, size) => if free(&model, start, start + size) {
                    model.insert(start, (start + size, index.insert(start, start + size).unwrap()));
                },
                Op::Append(addr, size) => {
                    let start = model.range(..=addr).next_back().map_or(0, |(_, &(end, _))| end);
                    if free(&model, start, start + size) {
                        model.insert(start, (start + size, index.insert(start, start + size).unwrap()));
                    }
                }
                Op::Remove(addr) => if let Some((&start, &(_, vma))) = model.range(addr..).next() {
                    model.remove(&start);
                    index.remove(vma);
                },
                Op::Unmap(addr, size) => {
                    let gone: Vec<_> = model.range(addr..addr + size).map(|(&start, &(_, vma))| (start, vma)).collect();
                    for (start, vma) in gone {
                        model.remove(&start);
                        index.remove(vma);
                    }
                }
                Op::Rekey(addr, up, size) => if let Some((&old, &(old_end, vma))) = model.range(addr..).next() {
                    model.remove(&old);
                    let low = model.range(..old).next_back().map_or(0, |(_, &(end, _))| end);
                    let start = low + up;
                    let fits = start + size <= model.range(old..).next().map_or(u64::MAX, |(&next, _)| next);
                    let (start, end) = if fits { (start, start + size) } else { (old, old_end) };
                    index.rekey(vma, start, end);
                    model.insert(start, (end, vma));
                },
                Op::Look(addr, span, size) => {
                    compare(&index.0, &model, addr, span, size);
                    index.check();
                }
            }
        }
        let all: Vec<_> = model.iter().map(|(&start, &(end, _))| (start, end)).collect();
        prop_assert_eq!(index.check(), all);
        for addr in [0, 1, 150, 10_000, u64::MAX - 1, u64::MAX] {
            for size in 0..12 {
                compare(&index.0, &model, addr, u64::MAX, size);
            }
        }
        drop(index);
        prop_assert_eq!(heap.in_use(), 0);
    }

    /// What was reserved suffices, wherever the insertions go and whatever is removed in between.
    #[test]
    fn reserved_insertions_do_not_fail(
        before in 0..700_usize,
        reserved in 0..300_usize,
        style in 0..4_u8,
        picks in prop::collection::vec(any::<u32>(), 1000),
    ) {
        let countdown = Countdown::leaked();
        let index = Sole::new(&countdown.heap());
        let mut model = Model::new();
        let mut picks = picks.into_iter();
        let mut step = |model: &mut Model, index: &Sole| {
            let pick = u64::from(picks.next().unwrap());
            let first = model.keys().next().map_or(1 << 40, |&start| start);
            let last = model.keys().next_back().map_or(1 << 40, |&start| start);
            let start = match (style, pick % 8) {
                (0, _) | (3, 0) => first - 0x1_0000,
                (1, _) | (3, 1) => last + 0x1_0000,
                _ => (1 << 39) + (pick << 7),
            };
            if free(model, start, start + 1) {
                model.insert(start, (start + 1, index.insert(start, start + 1).unwrap()));
            } else {
                return;
            }
            if pick % 5 == 0 && style >= 2 {
                let (&start, &(_, vma)) = model.range(start..).next().unwrap();
                model.remove(&start);
                index.remove(vma);
            }
        };
        for _ in 0..before {
            step(&mut model, &index);
        }
        index.0.reserve(reserved).unwrap();
        let held = index.0.held_bytes();
        countdown.fail_after(0);
        for _ in 0..reserved {
            step(&mut model, &index);
        }
        prop_assert!(!countdown.lift());
        prop_assert_eq!(held, index.0.held_bytes());
        index.check();
    }
}

#[test]
fn an_insertion_without_memory_changes_nothing() {
    let countdown = Countdown::leaked();
    let heap = countdown.heap();
    let index = Sole::new(&heap);
    let mut refusals = 0;
    // Into the middle, so that leaves split, for long enough that the root is replaced twice.
    for n in 0..SLOTS as u64 * 12 {
        let start = if n % 2 == 0 { n * 16 } else { (1 << 30) - n * 16 };
        let before = index.check();
        let mut allowed = 0;
        loop {
            countdown.fail_after(allowed);
            let outcome = index.insert(start, start + 8);
            if !countdown.lift() {
                outcome.unwrap();
                break;
            }
            assert_eq!(outcome.err(), Some(Error::NoMemory));
            assert_eq!(index.check(), before);
            refusals += 1;
            allowed += 1;
        }
    }
    assert!(refusals > 20);
    countdown.fail_after(0);
    assert_eq!(index.0.reserve(SLOTS * 100), Err(Error::NoMemory));
    countdown.fail_after(0);
    for vma in index.0.iter().map(NonNull::from).collect::<Vec<_>>() {
        // SAFETY: leaked regions; one writer; the iterator is gone.
        unsafe { index.0.remove(vma) };
    }
    assert!(!countdown.lift(), "a removal allocates");
    assert!(index.check().is_empty());
    drop(index);
    assert_eq!(heap.in_use(), 0);
}

/// ```text
/// |--------------- one full leaf ---------------|
/// ^ a leaf of its own    ^ a split               ^ a leaf of its own
/// ```
#[test]
fn three_insertions_may_take_three_leaves() {
    let countdown = Countdown::leaked();
    let index = Sole::new(&countdown.heap());
    for n in 1..=SLOTS as u64 {
        index.insert(n * 16, n * 16 + 1).unwrap();
    }
    assert_eq!(index.0.root().unwrap().len(), 1);
    index.0.reserve(3).unwrap();
    countdown.fail_after(0);
    for start in [(SLOTS as u64 + 1) * 16, 0, SLOTS as u64 / 2 * 16 + 8] {
        index.insert(start, start + 1).unwrap();
    }
    assert_eq!(index.0.root().unwrap().len(), 4);
    index.check();
}

/// Memory follows the peak, not the history: what was emptied is used again.
#[test]
fn held_memory_follows_the_peak() {
    let heap = Heap::global().unwrap();
    let index = Sole::new(&heap);
    let mut at = 0;
    let mut window = std::collections::VecDeque::new();
    let mut peak = 0;
    for n in 0..SLOTS * 100 {
        window.push_back(index.insert(at, at + 1).unwrap());
        at += 2;
        if window.len() > SLOTS * 4 {
            index.remove(window.pop_front().unwrap());
        }
        if n == SLOTS * 10 {
            peak = index.0.held_bytes();
        }
    }
    assert_eq!(index.0.held_bytes(), peak);
    assert_eq!(heap.in_use(), peak);
}

/// ```text
/// fixed   |----|    |----|    |----| ..   never touched
/// busy         |----|    |----|           1: whole   |--------|
///                                         2: split   |---||---|
///                                         3: removed
/// always covered: the fixed ones, and the busy ones of even number, which are split and merged but not removed
/// ```
#[test]
fn a_covered_address_is_never_reported_uncovered() {
    const CELL: u64 = 0x1000;
    const CELLS: u64 = if cfg!(miri) { 12 } else { 160 };
    let heap = Heap::global().unwrap();
    let index = Sole::new(&heap);
    let mut whole = Vec::new();
    for cell in 0..CELLS {
        whole.push(index.insert(cell * CELL, (cell + 1) * CELL).unwrap());
    }
    // Lets a reader run between the two halves of a change, now and then.
    let pause = |round: u64| {
        if round.is_multiple_of(32) {
            std::thread::yield_now();
        }
    };
    let (stop, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
    scope(|s| {
        let readers = [1_u64, 2, 3].map(|mut seed| {
            let (index, stop, looks) = (&index, &stop, &looks);
            s.spawn(move || {
                while stop.load(Ordering::Relaxed) == 0 {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let addr = (seed >> 20) % (CELLS * CELL);
                    let found = index.0.find_racy(addr);
                    assert!(found.is_some() || addr / CELL % 4 == 3, "{addr:#x} is covered");
                    if (addr / CELL).is_multiple_of(2) {
                        // SAFETY: leaked.
                        assert_eq!(unsafe { found.unwrap().as_ref() }.start(), addr / CELL * CELL);
                    }
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let mut seed = 99_u64;
        let least = rounds(300_000, 100) as u64;
        // On a machine with other work, time is up before the numbers are reached.
        let began = std::time::Instant::now();
        let busy = |rounds| {
            let enough = rounds >= least / 4 && looks.load(Ordering::Relaxed) >= least as usize;
            !enough && (cfg!(miri) || began.elapsed().as_secs() < 3)
        };
        let mut rounds = 0_u64;
        let mut halves: BTreeMap<u64, &'static Vma> = BTreeMap::new();
        let failed = || readers.iter().any(std::thread::ScopedJoinHandle::is_finished);
        while !failed() && busy(rounds) {
            rounds += 1;
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let cell = ((seed >> 33) % CELLS) | 1;
            let (start, middle, end) = (cell * CELL, cell * CELL + CELL / 2, (cell + 1) * CELL);
            let lower = whole[cell as usize];
            index.0.reserve(1).unwrap();
            if cell % 4 == 3 {
                index.remove(lower);
                // SAFETY: one writer; the region is leaked and was just taken out.
                unsafe { index.0.insert(NonNull::from(lower)) }.unwrap();
            } else if let Some(upper) = halves.remove(&cell) {
                // SAFETY: one writer; nothing in here looks up without the lock.
                unsafe {
                    index.0.batch(|| {
                        index.remove(upper);
                        pause(rounds);
                        index.rekey(lower, start, end);
                    });
                }
            } else {
                // SAFETY: as above.
                let upper = unsafe {
                    index.0.batch(|| {
                        index.rekey(lower, start, middle);
                        pause(rounds);
                        index.insert(middle, end).unwrap()
                    })
                };
                halves.insert(cell, upper);
            }
        }
        stop.store(1, Ordering::Relaxed);
    });
    index.check();
    drop(index);
    assert_eq!(heap.in_use(), 0);
}

#[test]
fn a_panic_inside_a_change_lets_readers_go_on() {
    let heap = Heap::global().unwrap();
    let index = Sole::new(&heap);
    let vma = index.insert(8, 16).unwrap();
    // SAFETY: one writer; the region is indexed, leaked, and keeps to free space.
    let change = || unsafe { index.0.rekey(NonNull::from(vma), 8, 12, || panic!("as planned")) };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(change)).is_err());
    assert!(index.0.find_racy(12).is_some());
    assert_eq!(index.check(), [(8, 16)]);
}
