//! Tests of faults, accesses, forks, exits and swapping: each on every engine. Under shuttle the scenes with threads alone.

#[cfg(not(shuttle))]
mod failing;
#[cfg(not(shuttle))]
mod faults;
#[cfg(not(shuttle))]
mod files;
#[cfg(not(shuttle))]
mod forks;
#[cfg(not(shuttle))]
mod looks;
#[cfg(not(shuttle))]
mod model;
#[cfg(not(shuttle))]
mod pictures;
pub(crate) mod stress;
pub(crate) mod stress_layout;
pub(crate) mod stress_lookup;
#[cfg(not(shuttle))]
mod swapping;

use super::account::{Change, account_vma};
use super::oracle::Report;
use super::swap::Backing;
use super::system::{SoftSystem, VmaExt};
use super::{ChargeHook, Machine, MachineConfig};
use crate::base::alloc::Heap;
use crate::base::types::{VirtAddr, VmFlags};
use crate::mm::{FileRef, Mm, MmRef, VmaBounds};
use crate::page::Page;
use crate::page::pte::{PageTable, Pte};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Makes a module of tests for each engine: each test is a function that is generic over the system.
macro_rules! on_every_engine {
    ($($test:ident),* $(,)?) => {
        crate::tests::each_engine!(crate::machine::life_tests::on_one_engine, $($test)*);
    };
}
pub(crate) use on_every_engine;

/// One of these modules.
macro_rules! on_one_engine {
    ($engine:ident $toy:ident $system:ident $($test:ident)*) => {
        mod $engine {
            $(#[test]
            fn $test() {
                super::$test::<crate::machine::system::$system>();
            })*
        }
    };
}
pub(crate) use on_one_engine;

/// Private memory that may be read and written.
pub(super) const RW: VmFlags =
    VmFlags::READ.union(VmFlags::WRITE).union(VmFlags::MAYREAD).union(VmFlags::MAYWRITE).union(VmFlags::MAYEXEC);
/// The same, shared.
pub(super) const SHARED_RW: VmFlags = RW.union(VmFlags::SHARED);

pub(super) const PAGE: u64 = 4096;

pub(super) fn at(vpn: u64) -> VirtAddr {
    VirtAddr::from_vpn(vpn)
}

/// A machine, and the heap under it.
pub(super) struct World<S: SoftSystem> {
    pub(super) machine: Machine<S>,
    pub(super) heap: Heap,
}

impl<S: SoftSystem> World<S> {
    /// `frames` frames with contents, as many slots of swap, and no fault-around.
    pub(super) fn new(frames: u64) -> Self {
        Self::with(Heap::global().unwrap(), frames, |_| {})
    }

    pub(super) fn with(heap: Heap, frames: u64, change: impl FnOnce(&mut MachineConfig)) -> Self {
        let mut config = MachineConfig::new(&heap, frames);
        config.swap = Some((Backing::memory(&heap, frames).unwrap(), frames));
        config.fault_around = 1;
        change(&mut config);
        Self { machine: Machine::new(config).unwrap(), heap }
    }

    pub(super) fn mm(&self) -> MmRef<S> {
        self.machine.mm_new().unwrap()
    }

    pub(super) fn map(&self, mm: &Mm<S>, vpn: u64, pages: u64, flags: VmFlags) {
        self.map_with(mm, vpn, pages, flags, None, VmaExt::default());
    }

    /// `file`: the file, and the page of it that `vpn` is.
    pub(super) fn map_with(
        &self,
        mm: &Mm<S>,
        vpn: u64,
        pages: u64,
        flags: VmFlags,
        file: Option<(&FileRef<S>, u64)>,
        ext: VmaExt,
    ) {
        let bounds = VmaBounds { start: at(vpn), end: at(vpn + pages), pgoff: file.map_or(vpn, |(_, pgoff)| pgoff) };
        let held = mm.write();
        self.machine.rmap().vma_new(&held, bounds, flags, file.map(|(file, _)| file.clone()), ext).unwrap();
        account_vma(&mm.data().counters, flags, file.is_some(), pages, Change::Add);
    }

    pub(super) fn poke(&self, mm: &Mm<S>, vpn: u64, byte: u8) {
        self.machine.write(mm, VirtAddr(at(vpn).0 + 7), &[byte]).unwrap();
    }

    pub(super) fn peek(&self, mm: &Mm<S>, vpn: u64) -> u8 {
        let mut byte = [0xee];
        self.machine.read(mm, VirtAddr(at(vpn).0 + 7), &mut byte).unwrap();
        byte[0]
    }

    pub(super) fn pte(&self, mm: &Mm<S>, vpn: u64) -> Pte {
        mm.table().load(at(vpn))
    }

    /// The page that is mapped at `vpn`.
    pub(super) fn page(&self, mm: &Mm<S>, vpn: u64) -> &Page {
        let pte = self.pte(mm, vpn);
        self.machine.rmap().pages().page(pte.pfn().unwrap_or_else(|| panic!("{pte:?} at {vpn:#x}"))).unwrap()
    }

    /// How many candidates the reverse map offers for the page at `vpn`.
    pub(super) fn candidates(&self, mm: &Mm<S>, vpn: u64) -> usize {
        let page = self.page(mm, vpn);
        let _locked = page.lock();
        let mut candidates = 0;
        let mut visit = |_: &crate::mm::Vma<S>, _| {
            candidates += 1;
            core::ops::ControlFlow::Continue(())
        };
        self.machine.rmap().rmap_walk(page, &mut crate::rmap::walk::WalkControl::new(&mut visit));
        candidates
    }

    #[track_caller]
    pub(super) fn check(&self) -> Report {
        self.machine.check().unwrap_or_else(|broken| panic!("{broken}"))
    }

    /// All address spaces have exited and all references are gone: nothing is left.
    #[track_caller]
    pub(super) fn end(self) {
        self.machine.tidy();
        self.machine.trim_swap_cache();
        assert_eq!(self.check(), Report { free: self.machine.frames().total() - 1, ..Report::default() });
        assert_eq!(self.machine.swap_store().map_or(0, super::swap::SwapStore::used), 0);
        drop(self.machine);
        assert_eq!(self.heap.in_use(), 0);
    }
}

/// What is asked of a charge hook, once.
type Ask = Box<dyn FnOnce(u64) -> bool + Send>;

/// A charge hook that keeps accounts, may have a limit, and can be told to do something when it is asked next.
#[derive(Default)]
pub(super) struct Charges {
    charged: Mutex<HashMap<u64, i64>>,
    limit: Mutex<Option<i64>>,
    ask: Mutex<Option<Ask>>,
}

static HOOKS: Mutex<Vec<Arc<Charges>>> = Mutex::new(Vec::new());

impl Charges {
    pub(super) fn new() -> (Arc<Self>, ChargeHook) {
        let charges = Arc::new(Self::default());
        let mut hooks = HOOKS.lock().unwrap();
        hooks.push(charges.clone());
        (charges, ChargeHook { charge: Self::charge, uncharge: Self::uncharge, arg: hooks.len() - 1 })
    }

    fn charge(arg: usize, mm: u64, pages: u64) -> bool {
        let this = HOOKS.lock().unwrap()[arg].clone();
        let ask = this.ask.lock().unwrap().take();
        if let Some(ask) = ask
            && !ask(mm)
        {
            return false;
        }
        let mut charged = this.charged.lock().unwrap();
        let sum: i64 = charged.values().sum::<i64>() + pages as i64;
        if this.limit.lock().unwrap().is_some_and(|limit| sum > limit) {
            return false;
        }
        *charged.entry(mm).or_default() += pages as i64;
        true
    }

    fn uncharge(arg: usize, mm: u64, pages: u64) {
        let this = HOOKS.lock().unwrap()[arg].clone();
        *this.charged.lock().unwrap().get_mut(&mm).expect("nothing was charged") -= pages as i64;
    }

    pub(super) fn limit(&self, pages: Option<i64>) {
        *self.limit.lock().unwrap() = pages;
    }

    /// What the hook does and answers when it is asked next.
    pub(super) fn next(&self, ask: impl FnOnce(u64) -> bool + Send + 'static) {
        *self.ask.lock().unwrap() = Some(Box::new(ask));
    }

    /// Each address space is charged for what is present in it.
    #[track_caller]
    pub(super) fn check<S: SoftSystem>(&self, world: &World<S>) {
        let charged = self.charged.lock().unwrap();
        let mut sum = 0;
        world
            .machine
            .for_each_mm(|mm| {
                let rss = mm.data().counters.rss() as i64;
                assert_eq!(charged.get(&mm.id()).copied().unwrap_or(0), rss, "charges of address space {}", mm.id());
                sum += rss;
            })
            .unwrap();
        assert_eq!(charged.values().sum::<i64>(), sum, "charges of address spaces that are gone");
    }
}
