//! Runs a program on a machine, beside a model of what its processes see.
//!
//! | after each step | what holds |
//! |---|---|
//! | [`Machine::check`] | the machine's own oracle: the reverse map finds exactly the entries, all counts agree (G1) |
//! | layout | every page is mapped as the model says, flags, object, offset and name |
//! | bytes | every page that has a frame or a slot holds what the model says (G6, G7) |
//! | errors | the operation failed if and only if the model says so, with that error; out of memory only where memory ran out, and then nothing has changed (G4) |
//!
//! At the end every process reads all its pages, exits, and nothing is left (G7).

use crate::countdown::Countdown;
use crate::model::{HEAP, MIN_PAGE, Object, Places, STACK_LIMIT, TASK_PAGES, file_page, vpn};
use crate::op::{Op, Program, Setup, Step};
use rmap_core::base::alloc::Heap;
use rmap_core::base::error::{Error, Result};
use rmap_core::base::sync::atomic::Ordering;
use rmap_core::base::types::{PAGE_SIZE, PgOff, VirtAddr, VmFlags};
use rmap_core::engine::Engine;
use rmap_core::engine::any::AnyEngine;
use rmap_core::machine::access::PinnedPage;
use rmap_core::machine::oracle::Report;
use rmap_core::machine::swap::Backing;
use rmap_core::machine::system::{AnySystem, FileExt, FileOps};
use rmap_core::machine::{ChargeHook, Machine, MachineConfig};
use rmap_core::mm::{FileRef, MmRef};
use rmap_core::page::Page;
use rmap_core::page::pte::PageTable;
use std::cell::Cell;
use std::rc::Rc;

/// Named files, and the pages of each; after them comes named shared memory of the same size.
const FILES: usize = 2;
const FILE_PAGES: u64 = 24;
/// Processes at a time.
const PROCESSES: usize = 5;

pub(crate) type S = AnySystem;

pub(crate) fn at(page: u64) -> VirtAddr {
    VirtAddr::from_vpn(page)
}

pub(crate) fn bytes(pages: u64) -> u64 {
    pages * PAGE_SIZE
}

struct Pattern;

impl FileOps for Pattern {
    fn read_page(&self, private: usize, pgoff: PgOff, out: &mut [u8; PAGE_SIZE as usize]) -> Result<()> {
        *out = file_page(private, pgoff);
        Ok(())
    }
}

/// Pages that are charged, and how many may be.
pub(crate) struct Charges {
    pub(crate) charged: Cell<i64>,
    limit: i64,
    pub(crate) refused: Cell<bool>,
}

impl Charges {
    fn hook(&self) -> ChargeHook {
        fn this<'a>(arg: usize) -> &'a Charges {
            // SAFETY: the charges of a runner, which are in a box and outlive its machine; one thread uses both.
            unsafe { &*core::ptr::with_exposed_provenance(arg) }
        }
        fn charge(arg: usize, _: u64, pages: u64) -> bool {
            let this = this(arg);
            let sum = this.charged.get() + pages as i64;
            this.refused.set(this.refused.get() || sum > this.limit);
            if sum <= this.limit {
                this.charged.set(sum);
            }
            sum <= this.limit
        }
        fn uncharge(arg: usize, _: u64, pages: u64) {
            let charged = &this(arg).charged;
            charged.set(charged.get() - pages as i64);
        }
        ChargeHook { charge, uncharge, arg: core::ptr::from_ref(self).expose_provenance() }
    }
}

/// A pin, and where what it sees is modelled.
pub(crate) struct Pin {
    pub(crate) pinned: PinnedPage,
    pub(crate) write: bool,
    /// The number of a page of a process's own, or an object's page.
    pub(crate) sees: core::result::Result<u64, (usize, u64)>,
}

pub(crate) struct Process {
    pub(crate) mm: MmRef<S>,
    pub(crate) places: Places,
    pub(crate) brk: u64,
    /// What new mappings are locked with.
    pub(crate) future: VmFlags,
}

/// A machine and its model. See the [module](self).
pub struct Runner {
    pub(crate) machine: Machine<S>,
    pub(crate) files: Vec<FileRef<S>>,
    pub(crate) objects: Vec<Object>,
    pub(crate) processes: Vec<Process>,
    pub(crate) pins: Vec<Pin>,
    pub(crate) last_id: u64,
    /// Whether an allocation was refused in this step.
    pub(crate) refused: bool,
    pub(crate) charges: Box<Charges>,
    heap: Heap,
    /// Last: the heap is over it.
    source: Box<Countdown>,
}

/// What a step came to, for comparisons between engines.
pub type Outcome = Result<u64>;

impl Runner {
    /// A machine with one process.
    pub fn new(setup: &Setup) -> Self {
        let source = Box::<Countdown>::default();
        // SAFETY: in a box of the runner, which is dropped after all that has a handle.
        let heap = unsafe { source.heap() };
        let charges = Box::new(Charges {
            charged: Cell::new(0),
            limit: setup.limit.unwrap_or(i64::MAX),
            refused: Cell::new(false),
        });
        let config = MachineConfig {
            swap: (setup.slots != 0).then(|| (Backing::memory(&heap, setup.slots).expect("memory"), setup.slots)),
            fault_around: setup.fault_around,
            charge: Some(charges.hook()),
            min_addr: at(MIN_PAGE),
            task_size: at(TASK_PAGES),
            ..MachineConfig::new(&heap, setup.frames)
        };
        let machine = Machine::with_engine(config, |arena| AnyEngine::of_kind(setup.engine, arena)).expect("memory");
        let file =
            |private| machine.new_file(FILE_PAGES, FileExt { ops: Some(&Pattern), private, ..FileExt::default() });
        let mut files: Vec<_> = (0..FILES).map(|private| file(private).expect("memory")).collect();
        files.push(machine.new_shmem(FILE_PAGES).expect("memory"));
        let contents = |i, pgoff| Rc::new(if i < FILES { file_page(i, pgoff) } else { [0; 4096] });
        let objects = files.iter().enumerate().map(|(i, file)| Object {
            id: file.id(),
            is_file: i < FILES,
            pages: (0..FILE_PAGES).map(|pgoff| contents(i, pgoff)).collect(),
        });
        let objects = objects.collect();
        let mut this = Self {
            machine,
            files,
            objects,
            processes: Vec::new(),
            pins: Vec::new(),
            last_id: 0,
            refused: false,
            charges,
            heap,
            source,
        };
        let mm = this.machine.mm_new().expect("memory");
        this.enter(mm);
        this
    }

    /// An empty address space has a process.
    pub(crate) fn enter(&mut self, mm: MmRef<S>) {
        self.machine.set_brk_start(&mm, at(HEAP));
        mm.data().stack_limit.store(bytes(STACK_LIMIT), Ordering::Relaxed);
        self.processes.push(Process { mm, places: Places::new(), brk: HEAP, future: VmFlags::empty() });
    }

    /// The number of the process that an operation names.
    pub(crate) fn which(&self, mm: u8) -> usize {
        usize::from(mm) % self.processes.len()
    }

    /// The page that an operation names.
    pub(crate) fn page_of(&self, which: usize, at: u8) -> u64 {
        vpn(&self.processes[which].places, at)
    }

    /// Whether an operation may have run out of memory: an allocation or a charge was refused, or, if it takes frames,
    /// there are not the two that a private mapping of a file needs for one page.
    pub(crate) fn may_run_out(&self, takes_frames: bool) -> bool {
        self.refused || (takes_frames && (self.charges.refused.get() || self.machine.frames().free_frames() < 2))
    }

    /// Whether memory ran out, as it may have.
    #[track_caller]
    pub(crate) fn ran_out<T>(&self, done: &Result<T>, takes_frames: bool) -> bool {
        let out = matches!(done, Err(Error::NoMemory));
        assert!(!out || self.may_run_out(takes_frames), "there is memory");
        out
    }

    /// Calls `act` under the step's limit of allocations.
    pub(crate) fn limited<T>(&mut self, fail_after: Option<u8>, act: impl FnOnce(&mut Self) -> T) -> T {
        self.charges.refused.set(false);
        self.source.arm(fail_after.map(u64::from));
        let done = act(self);
        self.refused |= self.source.lift();
        done
    }

    /// Runs one step and holds the machine to the model.
    pub fn step(&mut self, step: &Step) -> Outcome {
        self.refused = false;
        let outcome = self.apply(step.op, step.fail_after);
        self.settle();
        outcome
    }

    fn apply(&mut self, op: Op, fail: Option<u8>) -> Outcome {
        match op {
            Op::Map { .. } => self.map(op, fail),
            Op::Unmap { mm, at, pages } => self.unmap(mm, at, pages, fail),
            Op::Protect { mm, at, pages, prot } => self.protect(mm, at, pages, prot, fail),
            Op::Remap { .. } => self.remap(op, fail),
            Op::Advise { mm, at, pages, advice } => self.advise(mm, at, pages, advice, fail),
            Op::Lock { mm, at, pages, lock } => self.lock(mm, at, pages, lock, fail),
            Op::LockAll { .. } => self.lock_all(op, fail),
            Op::Name { mm, at, pages, name } => self.name(mm, at, pages, name, fail),
            Op::Brk { mm, at } => self.brk(mm, at, fail),
            Op::Grow { mm, at } => self.grow(mm, at, fail),
            Op::Write { mm, at, offset, byte, len } => {
                let offset = usize::from(offset % 4096);
                self.write(mm, at, offset, &vec![byte; usize::from(len).min(4096 - offset)], fail)
            }
            Op::Read { mm, at } => self.read(mm, at, fail),
            Op::Fetch { mm, at } => self.fetch(mm, at, fail),
            Op::Fork { mm } => self.fork(mm, fail),
            Op::Exit { mm } if self.processes.len() > 1 => {
                let gone = self.processes.remove(self.which(mm));
                self.limited(fail, |this| this.machine.exit(gone.mm));
                Ok(0)
            }
            Op::Exit { mm } | Op::Exec { mm } => self.exec(mm, fail),
            Op::SwapOut { mm, at } => self.swap_out(mm, at, fail),
            Op::Referenced { mm, at } => self.referenced(mm, at),
            Op::MkClean { mm, at } => self.mkclean(mm, at),
            Op::Pin { mm, at, write } => self.pin(mm, at, write, fail),
            Op::PinWrite { nth, byte } => self.pin_write(nth, byte),
            Op::Unpin { nth } => self.unpin(nth),
            Op::Trim => {
                // How many that frees is not the same under every engine: fork leaves some pages of files out.
                self.machine.trim_swap_cache();
                self.machine.sweep_files();
                Ok(0)
            }
        }
    }

    /// The page that is present at a page of a process.
    pub(crate) fn present(&self, which: usize, page: u64) -> Option<&Page> {
        let pfn = self.processes[which].mm.table().load(at(page)).pfn()?;
        self.machine.rmap().pages().page(pfn)
    }

    /// Whether there is room for one more process.
    pub(crate) fn is_full(&self) -> bool {
        self.processes.len() == PROCESSES
    }

    /// Every process reads all it has, exits, and nothing is left.
    pub fn finish(mut self) {
        self.refused = false;
        for pin in self.pins.drain(..) {
            self.machine.unpin(pin.pinned);
        }
        for which in 0..self.processes.len() {
            let pages: Vec<_> = self.processes[which].places.keys().copied().collect();
            for page in pages {
                let _ = self.read_page(which, page, None);
            }
            self.settle();
        }
        for process in self.processes.drain(..) {
            self.machine.exit(process.mm);
        }
        self.files.clear();
        self.machine.rmap().arena().rcu.drain();
        self.machine.sweep_files();
        self.machine.trim_swap_cache();
        let nothing = Report { free: self.machine.frames().total() - 1, ..Report::default() };
        assert_eq!(self.machine.check(), Ok(nothing));
        assert_eq!(self.machine.swap_store().map_or(0, |swap| swap.used()), 0);
        assert_eq!(Engine::<S>::footprint(self.machine.rmap().engine()).anchors, 0);
        assert_eq!(self.charges.charged.get(), 0, "charges are left");
        let Self { machine, heap, source, charges, .. } = self;
        drop((machine, charges));
        assert_eq!(heap.in_use(), 0);
        drop(heap);
        assert_eq!(source.out(), 0);
    }
}

/// Runs a program to its end. `fail`: with the allocations failing that it says.
pub fn run(program: &Program, fail: bool) {
    let mut runner = Runner::new(&program.setup);
    for step in &program.steps {
        let _ = runner.step(&Step { fail_after: step.fail_after.filter(|_| fail), ..*step });
    }
    runner.finish();
}
