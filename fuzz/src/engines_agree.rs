//! One program under every engine: what a process finds out is the same, and so is who shares which page.
//!
//! Each engine runs beside a model of its own; here they are held against one another: every step comes to the same,
//! and then every anonymous page is mapped at the same places, as its own reverse map says.
//!
//! Engines may differ in what is not a program's to see: where VMAs are joined, and so which entries of files a fork
//! copies. So files are not compared, frames are plenty, and an mremap that would see the ends of VMAs is left out where
//! those differ.

use crate::op::{Op, Program, Setup, Step};
use crate::runner::{Runner, at};
use core::ops::ControlFlow;
use rmap_core::base::types::VirtAddr;
use rmap_core::engine::any::EngineKind;
use rmap_core::mm::address_space::MmLocked;
use rmap_core::page::Page;
use rmap_core::page::pte::Pte;
use std::collections::BTreeMap;

/// More than five processes can fill with pages of their own in a program.
const FRAMES: u64 = 400;
/// No program swaps out as many.
const SLOTS: u64 = 400;

/// Where something is mapped: the process, and the page.
type Place = (usize, u64);

/// Runs a program under all engines.
pub fn run(program: &Program) {
    let setup = |engine| Setup { engine, frames: FRAMES, slots: SLOTS, fault_around: 1, limit: None };
    let mut runners: Vec<_> = EngineKind::ALL.iter().map(|&engine| Runner::new(&setup(engine))).collect();
    for step in &program.steps {
        let (first, rest) = runners.split_first_mut().expect("there are engines");
        let seen = first.sees(step.op);
        if rest.iter().any(|runner| runner.sees(step.op) != seen) {
            continue;
        }
        let step = Step { fail_after: None, ..*step };
        let outcome = first.step(&step);
        let shared = first.anonymous();
        for (runner, kind) in rest.iter_mut().zip(&EngineKind::ALL[1..]) {
            assert_eq!(runner.step(&step), outcome, "{}: {:?}", kind.name(), step.op);
            let other = runner.anonymous();
            if other != shared {
                let wrong = shared.iter().find(|(place, sharer)| other.get(place) != Some(sharer));
                panic!("{}: {} pages for {}, {wrong:?} is not the same", kind.name(), other.len(), shared.len());
            }
        }
    }
    runners.into_iter().for_each(Runner::finish);
}

impl Runner {
    /// What an operation may depend on that engines need not agree on: whether the pages of an mremap are one VMA, and
    /// whether that ends with them; whether the page that is to go is there.
    fn sees(&self, op: Op) -> u64 {
        match op {
            Op::Remap { mm, at: place, old, .. } => {
                let which = self.which(mm);
                let page = self.page_of(which, place);
                let end = at(page + u64::from(old));
                let held = self.processes[which].mm.read();
                held.find(at(page)).map_or(3, |vma| match vma.end().cmp(&end) {
                    core::cmp::Ordering::Less => 0,
                    core::cmp::Ordering::Equal => 1,
                    core::cmp::Ordering::Greater => 2,
                })
            }
            Op::SwapOut { mm, at: place } => {
                let which = self.which(mm);
                let page = self.present(which, self.page_of(which, place));
                // Of a file's page, who maps it is not the same everywhere.
                page.map_or(0, |page| if page.mapping().load().is_anon() { 1 } else { u64::from(page.mapcount()) + 2 })
            }
            _ => 0,
        }
    }

    /// For each place with anonymous memory the first place that has the same page, as the reverse map finds it; in
    /// swap, the first that has the same slot.
    fn anonymous(&self) -> BTreeMap<Place, Option<Place>> {
        let number = |mm: u64| self.processes.iter().position(|process| process.mm.id() == mm).expect("one of ours");
        let mut all = BTreeMap::new();
        let mut slots = BTreeMap::new();
        for (which, process) in self.processes.iter().enumerate() {
            process.mm.table().for_each(VirtAddr(0), at(crate::model::TASK_PAGES), |addr, pte| {
                let place = (which, addr.vpn());
                match pte {
                    Pte::Swap(entry) => {
                        all.insert(place, Some(*slots.entry(entry.slot).or_insert(place)));
                    }
                    Pte::Present { pfn, .. } => {
                        let page = self.machine.rmap().pages().page(pfn).expect("one of the machine's");
                        if page.mapping().load().is_anon() {
                            let first =
                                self.mappings(page).into_iter().map(|(mm, addr)| (number(mm), addr.vpn())).min();
                            all.insert(place, first);
                        }
                    }
                    _ => {}
                }
            });
        }
        all
    }

    /// Who maps a page: address spaces and addresses.
    fn mappings(&self, page: &Page) -> Vec<(u64, VirtAddr)> {
        let _locked = page.lock();
        let mut found = Vec::new();
        self.machine.rmap().for_each_mapping(page, |vma, addr, _| {
            found.push((vma.mm().id(), addr));
            ControlFlow::Continue(())
        });
        found
    }
}
