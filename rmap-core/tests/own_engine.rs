//! An engine from outside the crate, of its public interface alone: what somebody writes who brings a design of their
//! own. It lists all regions that were written, under one lock, and looks at each. It runs as the others do: a random
//! program beside the oracle, and a trace of a real one against the kernel's snapshot.

use core::ops::ControlFlow;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use rmap_core::base::alloc::{Heap, HeapVec};
use rmap_core::base::clock::Clock;
use rmap_core::base::error::Result;
use rmap_core::base::room::lock_with_room;
use rmap_core::base::sync::{Mutex, MutexGuard, rank};
use rmap_core::base::types::{PgOff, VirtAddr, VmFlags};
use rmap_core::ds::interval_tree::NeedNodes;
use rmap_core::engine::{Engine, Footprint, Holds, Lookup, Relayout, Wait};
use rmap_core::machine::map::{MapFlags, MapRequest};
use rmap_core::machine::remap::MremapFlags;
use rmap_core::machine::{Machine, MachineConfig};
use rmap_core::mm::{Arena, EngineData, System, Vma};
use rmap_core::page::Page;
use rmap_core::page::frames::Contents;
use rmap_core::page::mapping::Mapping;
use rmap_core::trace::compare::compare;
use rmap_core::trace::measure::measure;
use rmap_core::trace::mmt::Trace;
use rmap_core::trace::on_machine::{MachineReplay, OnMachine};
use rmap_core::trace::snapshot::Snapshot;
use rmap_core::trace::source::{FileLines, snapshot_beside};
use std::path::Path;

/// A region in the list, which it leaves before it is freed.
struct Listed<S: System>(NonNull<Vma<S>>);

// SAFETY: regions are Send and Sync.
unsafe impl<S: System> Send for Listed<S> {}

type Held<'a, S> = MutexGuard<'a, HeapVec<Listed<S>>, { rank::ANON_VMA }>;

/// The engine.
struct Everyone<S: System> {
    heap: Heap,
    all: Mutex<HeapVec<Listed<S>>, { rank::ANON_VMA }>,
}

/// What it keeps in a region: whether it is in the list.
#[derive(Default)]
struct IsListed(AtomicBool);

/// A change of layout: who leaves the list by it. Who comes is listed already.
struct Plan<'a, S: System>(Option<&'a Vma<S>>);

/// A system that has chosen this engine.
trait EveryoneSystem: System<Engine: EngineData<Vma: Holds<IsListed>>> {}
impl<S: System<Engine: EngineData<Vma: Holds<IsListed>>>> EveryoneSystem for S {}

fn flag<S: EveryoneSystem>(vma: &Vma<S>) -> &AtomicBool {
    &vma.engine().part().0
}

impl<S: EveryoneSystem> Everyone<S> {
    fn list(&self, vma: &Vma<S>) -> Result<()> {
        let mut all = lock_with_room(&self.all, &self.heap)?;
        if !flag(vma).swap(true, Ordering::AcqRel) {
            all.push(Listed(NonNull::from(vma)));
        }
        Ok(())
    }

    fn strike(all: &mut Held<'_, S>, vma: &Vma<S>) {
        flag(vma).store(false, Ordering::Release);
        all.retain(|listed| listed.0 != NonNull::from(vma));
    }
}

impl<S: System> EngineData for Everyone<S> {
    type Mm = ();
    type Vma = IsListed;
}

impl<S: EveryoneSystem> Engine<S> for Everyone<S> {
    const NAME: &'static str = "everyone";

    type Anchor<'a>
        = Held<'a, S>
    where
        S: 'a;
    type MoveLock<'a>
        = Held<'a, S>
    where
        S: 'a;
    type Plan<'a>
        = Plan<'a, S>
    where
        S: 'a;

    fn new(arena: &Arena<S>) -> Result<Self> {
        Ok(Self { heap: arena.heap.clone(), all: Mutex::new(arena.heap.vec()) })
    }
    fn mm_data(&self, _: &Arena<S>) -> Result<()> {
        Ok(())
    }

    fn prepare(&self, vma: &Vma<S>) -> Result<()> {
        if self.is_prepared(vma) { Ok(()) } else { self.list(vma) }
    }
    fn is_prepared(&self, vma: &Vma<S>) -> bool {
        flag(vma).load(Ordering::Acquire)
    }
    fn fork(&self, child: &Vma<S>, parent: &Vma<S>) -> Result<()> {
        if self.is_prepared(parent) { self.list(child) } else { Ok(()) }
    }
    fn copy(&self, copy: &Vma<S>, source: &Vma<S>) -> Result<()> {
        self.fork(copy, source)
    }
    fn may_merge(&self, _: &Vma<S>, _: &Vma<S>) -> bool {
        true
    }
    /// Heirs are listed at once, since the change itself may not allocate. If it is not made, that is one candidate too
    /// many, and a region that may have pages and has none.
    fn plan_relayout<'a>(&self, change: &Relayout<'a, S>) -> Result<Plan<'a, S>> {
        let (vma, _) = change.vma;
        let shifted = change.shift.map(|(other, _)| other);
        let before = [Some(vma), change.remove, shifted];
        let written = before.into_iter().flatten().any(|vma| self.is_prepared(vma));
        for heir in [Some(vma), change.insert, shifted].into_iter().flatten().filter(|_| written) {
            self.list(heir)?;
        }
        Ok(Plan(change.remove))
    }
    fn commit_relayout(&self, plan: &mut Plan<'_, S>, apply: &mut dyn FnMut()) -> core::result::Result<(), NeedNodes> {
        let mut all = self.all.lock();
        apply();
        if let Some(gone) = plan.0 {
            Self::strike(&mut all, gone);
        }
        Ok(())
    }
    fn unlink(&self, vma: &Vma<S>) {
        if self.is_prepared(vma) {
            Self::strike(&mut self.all.lock(), vma);
        }
    }
    fn lock_for_move<'a>(&'a self, vma: &'a Vma<S>) -> Option<Held<'a, S>> {
        self.is_prepared(vma).then(|| self.all.lock())
    }
    unsafe fn unlock_move(&self, _: &Vma<S>) {
        unreachable!("the C interface asks, and has engines of its own");
    }

    fn anchor_page(&self, page: &Page, vma: &Vma<S>, addr: VirtAddr, _exclusive: bool) {
        page.set_index(vma.bounds().pgoff_of(addr));
        // There is one list, so the word need not lead to it.
        page.mapping().store(Mapping::Anon(NonNull::<u64>::dangling().cast()));
    }
    fn reanchor(&self, _: &Page, _: &Vma<S>, _: VirtAddr) {}

    fn lock_anchor(&self, page: &Page, wait: Wait) -> Lookup<Held<'_, S>> {
        let held = match wait {
            Wait::Block => Some(self.all.lock()),
            Wait::Try => self.all.try_lock(),
        };
        match held {
            None => Lookup::Contended,
            Some(_) if !page.is_mapped() => Lookup::Unmapped,
            Some(held) => Lookup::Found(held),
        }
    }
    fn walk_anchor(
        &self,
        anchor: &Held<'_, S>,
        first: PgOff,
        last: PgOff,
        mut visit: impl FnMut(&Vma<S>, VirtAddr) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for listed in anchor.iter() {
            // SAFETY: a region leaves the list, under the lock that is held, before it is freed.
            let vma = unsafe { listed.0.as_ref() };
            if let Some(addr) = vma.bounds().first_of(first, last) {
                visit(vma, addr)?;
            }
        }
        ControlFlow::Continue(())
    }
    fn is_contended(&self, _: &Held<'_, S>) -> bool {
        false
    }

    fn footprint(&self) -> Footprint {
        let links = self.all.lock().len() as u64;
        Footprint { anchors: 0, links, bytes: links * size_of::<Listed<S>>() as u64 }
    }
    fn vma_footprint(&self, _: &Vma<S>) -> Footprint {
        Footprint { bytes: size_of::<IsListed>() as u64, ..Footprint::default() }
    }
}

rmap_core::machine_system!(
    /// A machine with it.
    Mine,
    Everyone
);

const PAGE: u64 = 4096;

/// Maps, writes, forks, cuts, moves and unmaps at random. Who maps what is compared with all page tables after each step.
#[test]
fn a_random_program_agrees_with_the_page_tables() {
    let heap = Heap::global().unwrap();
    {
        let machine = Machine::<Mine>::new(MachineConfig::new(&heap, 4096)).unwrap();
        let mut mms = vec![machine.mm_new().unwrap()];
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut pick = |n: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % n
        };
        let at = |page: usize| VirtAddr(0x10_0000 + page as u64 * PAGE);
        let rw = VmFlags::READ | VmFlags::WRITE;
        for _ in 0..1_000 {
            let mm = mms[pick(mms.len())].clone();
            let (page, len) = (pick(24), (1 + pick(8)) as u64 * PAGE);
            // What the layout refuses is refused: the oracle looks at what came of it.
            match pick(8) {
                0 => {
                    let request = MapRequest::new(len, rw, MapFlags::PRIVATE | MapFlags::FIXED);
                    machine.mmap(&mm, &MapRequest { addr: Some(at(page)), ..request }).unwrap();
                }
                1 => machine.munmap(&mm, at(page), len).unwrap(),
                2 => drop(machine.mprotect(&mm, at(page), len, VmFlags::READ)),
                3 => drop(machine.mprotect(&mm, at(page), len, rw)),
                4 if mms.len() < 5 => mms.push(machine.fork(&mm).unwrap()),
                5 if mms.len() > 1 => {
                    mms.retain(|other| other.id() != mm.id());
                    machine.exit(mm);
                }
                6 => drop(machine.mremap(&mm, at(page), len, len, MremapFlags::MAYMOVE, None)),
                _ => drop(machine.write(&mm, at(page), &[page as u8])),
            }
            machine.check().unwrap();
        }
        let walks = measure(&machine, || 0).unwrap();
        assert!(walks.mismatches == 0 && walks.anon.mappings > 0, "{:?}", walks.differences);
        for mm in mms {
            machine.exit(mm);
        }
        assert_eq!(machine.rmap().engine().footprint().links, 0);
    }
    assert_eq!(heap.in_use(), 0);
}

#[test]
fn a_real_program_is_replayed_exactly() {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench-c/traces");
    let trace = traces.join("bash.mmt.gz");
    let heap = Heap::global().unwrap();
    let config = MachineConfig { contents: Contents::MetadataOnly, ..MachineConfig::new(&heap, 1 << 15) };
    let machine = Machine::<Mine>::new(config).unwrap();
    let clock = Clock::start();
    let mut marks = 0;
    let mut at_mark = |replay: &MachineReplay<'_, Mine>, label: &str| {
        let there = snapshot_beside(&trace, label).and_then(FileLines::open).and_then(Snapshot::read);
        let found = compare(&there.map_err(|error| error.to_string())?.state(), &replay.states());
        let walks = measure(&machine, || clock.ns()).map_err(|error| error.to_string())?;
        assert!(found.is_exact() && walks.mismatches == 0 && walks.anon.mappings > 1_000, "{found:?} {walks:?}");
        marks += 1;
        Ok(())
    };
    let mut events = Trace::new(FileLines::open(&trace).unwrap());
    MachineReplay::new(OnMachine::new(&machine)).run(&mut events, &mut at_mark).unwrap();
    assert_eq!(marks, 1);
}
