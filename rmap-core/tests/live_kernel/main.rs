//! The running kernel as the oracle: a tree of real processes and the machine do the same random steps, and after each
//! the kernel's page tables, counts and VMAs are compared with the machine's.
//!
//! ```text
//! live_kernel [--steps N] [--seeds N] [--seed S] [--wrong NAME]
//! ```
//!
//! `--steps` are those of each seed, `--seeds` how many there are from `--seed` on; `--wrong` makes the machine wrong on
//! purpose, and the program then fails unless a difference is found. It needs root, and says so and passes without.
//!
//! | file | what it has |
//! |---|---|
//! | `ops` | the steps, and how they are drawn |
//! | `worker` | the tree of processes |
//! | `twin` | the machine, which does each step too |
//! | `kernel`, `state` | what the kernel says, in the terms of the comparison |
//! | `compare` | the comparison, and what is left to the kernel |
//! | `guard` | swap file and memory group, taken away however this ends |
//!
//! Large pages are switched off for the tree, and KSM is not asked for: the machine has neither.

mod compare;
mod guard;
mod kernel;
mod ops;
mod state;
mod twin;
mod worker;

use compare::{Failure, Totals};
use guard::Extras;
use kernel::{Frames, address};
use ops::{Draw, Kind, OBJECT_PAGES, Op, Step};
use rmap_core::base::error::Error;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::ExitCode;
use twin::{Twins, Wrong};
use worker::Tree;

/// Steps between two comparisons of all bytes.
const BYTES_EVERY: u64 = 32;
/// Steps that a failure prints.
const PRINTED: usize = 30;

struct Options {
    steps: u64,
    seeds: u64,
    seed: u64,
    wrong: Option<Wrong>,
}

impl Options {
    /// The smoke form, unless more is asked for. What only the harness of other tests knows (a filter) is passed over.
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self { steps: 300, seeds: 1, seed: 1, wrong: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg}: its value is missing"));
            let number = |text: &String| text.parse().map_err(|error| format!("{text}: {error}"));
            match arg.as_str() {
                "--steps" => options.steps = number(value()?)?,
                "--seeds" => options.seeds = number(value()?)?,
                "--seed" => options.seed = number(value()?)?,
                "--wrong" => options.wrong = Some(value()?.parse()?),
                _ => {}
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(worker::WORKER) => worker::work(&args[1..]),
        Some(guard::JANITOR) => return ExitCode::from(guard::keep_clean() as u8),
        Some("--list") => return ExitCode::SUCCESS,
        _ => {}
    }
    let options = match Options::parse(&args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("live_kernel: {error}");
            return ExitCode::from(2);
        }
    };
    let frames = match Frames::open() {
        Ok(frames) => frames,
        Err(error) => {
            println!("live_kernel: skipped: needs root and /proc/kpagecount ({error})");
            return ExitCode::SUCCESS;
        }
    };
    match run(&options, &frames) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("live_kernel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, frames: &Frames) -> Result<(), String> {
    let extras = Extras::set_up().map_err(|error| error.to_string())?;
    for missing in &extras.missing {
        println!("live_kernel: cannot have {missing}");
    }
    let guards = kernel::has_guard_regions().map_err(|error| error.to_string())?;
    if !guards {
        println!("live_kernel: skipped: guard regions, which this kernel does not show");
        if options.wrong == Some(Wrong::GuardsForgotten) {
            return Ok(());
        }
    }
    for seed in options.seed..options.seed + options.seeds {
        let draw = Draw::new(seed, guards);
        let mut seed_run =
            Run::start((seed, draw), options.wrong, &extras, frames).map_err(|failure| failure.to_string())?;
        let done = seed_run.steps(options.steps);
        let steps = seed_run.steps_done;
        match (done, options.wrong) {
            (Ok(()), None) => println!("live_kernel: seed {seed}: {steps} steps, {}", seed_run.totals),
            (Err(Failure::Differ(what)), Some(wrong)) => {
                let what = what.lines().next().unwrap_or_default();
                println!("live_kernel: seed {seed}: {wrong:?} noticed after {steps} steps: {what}");
                return Ok(());
            }
            (Ok(()), Some(_)) => {}
            (Err(failure), _) => return Err(seed_run.describe(&failure)),
        }
    }
    match options.wrong {
        Some(wrong) => Err(format!("{wrong:?} was not noticed")),
        None => Ok(()),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differ(what) => write!(f, "kernel and machine differ: {what}"),
            Self::Broken(what) => write!(f, "failed: {what}"),
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} comparisons: entries {} anonymous, {} of files, {} in swap, {} of guards; {} shared frames; {} VMAs; {} pages of bytes",
            self.comparisons,
            self.anon_entries,
            self.file_entries,
            self.swap_entries,
            self.guard_entries,
            self.shared_frames,
            self.vmas,
            self.pages_of_bytes
        )
    }
}

/// Both sides, and what happened so far. Both begin with one process, which has nothing in the range.
struct Run<'a> {
    seed: u64,
    extras: &'a Extras,
    frames: &'a Frames,
    tree: Tree,
    twins: Twins,
    file: File,
    memory: File,
    draw: Draw,
    history: Vec<Step>,
    steps_done: u64,
    totals: Totals,
}

impl<'a> Run<'a> {
    fn start(
        (seed, draw): (u64, Draw),
        wrong: Option<Wrong>,
        extras: &'a Extras,
        frames: &'a Frames,
    ) -> Result<Self, Failure> {
        let file = object(&std::env::temp_dir())?;
        let memory = shared_memory()?;
        for fd in [&file, &memory] {
            fd.set_len(OBJECT_PAGES * 4096)?;
            worker::keep_on_exec(fd)?;
        }
        let tree = Tree::start(extras.group_processes().as_deref())?;
        let twins = Twins::new(wrong).map_err(|error| Failure::Broken(format!("the machine: {error:?}")))?;
        let totals = Totals::default();
        Ok(Self { seed, extras, frames, tree, twins, file, memory, draw, history: Vec::new(), steps_done: 0, totals })
    }

    fn steps(&mut self, steps: u64) -> Result<(), Failure> {
        while self.steps_done < steps {
            self.steps_done += 1;
            let step = self.draw.step(&self.twins.candidates(), self.seed << 32 | self.steps_done);
            self.history.push(step);
            self.step(step)?;
            if self.steps_done.is_multiple_of(BYTES_EVERY) || self.steps_done == steps {
                compare::compare_bytes(&self.tree, self.frames, &self.twins, &mut self.totals)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), Failure> {
        let theirs = self.in_the_tree(step)?;
        let ours = self.twins.apply(step);
        let same = match (&theirs, &ours) {
            (Ok(k), Ok(m)) => k == m,
            (Err(_), Err(error)) if *error != Error::NoMemory => true,
            _ => false,
        };
        if !same {
            return Err(Failure::Differ(format!("{step}: kernel {theirs:x?}, machine {ours:x?}")));
        }
        if let Op::Fork { child } = step.op {
            compare::follow_fork(&self.tree, self.frames, &self.twins, child)?;
        }
        let touched = match step.op {
            Op::Load { at } | Op::Store { at, .. } if theirs.is_ok() => Some((step.slot, at)),
            _ => None,
        };
        compare::compare(&self.tree, self.frames, &self.twins, touched, &mut self.totals)
    }

    /// Does a step in the tree. The outer error is this program's; the value is a load's word.
    fn in_the_tree(&mut self, Step { slot, op }: Step) -> Result<io::Result<u64>, Failure> {
        let bytes = |pages: u64| pages * 4096;
        let (fixed, leaving) = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, libc::MREMAP_DONTUNMAP);
        let (number, args) = match op {
            Op::Map { at, pages, prot, kind, pgoff } => {
                let (fd, offset) = match kind {
                    Kind::Anon | Kind::SharedAnon => (-1, 0),
                    Kind::FilePrivate | Kind::FileShared => (self.file.as_raw_fd(), bytes(pgoff)),
                    Kind::MemPrivate | Kind::MemShared => (self.memory.as_raw_fd(), bytes(pgoff)),
                };
                let sharing = if kind.is_shared() { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                let anonymous = if fd < 0 { libc::MAP_ANONYMOUS } else { 0 };
                // No accounting: the machine has none, and VMAs that differ in it do not join.
                let flags = sharing | anonymous | libc::MAP_FIXED | libc::MAP_NORESERVE;
                (libc::SYS_mmap, [address(at), bytes(pages), u64::from(prot), flags as u64, fd as u64, offset])
            }
            Op::Unmap { at, pages } => (libc::SYS_munmap, [address(at), bytes(pages), 0, 0, 0, 0]),
            Op::Protect { at, pages, prot } => {
                (libc::SYS_mprotect, [address(at), bytes(pages), u64::from(prot), 0, 0, 0])
            }
            Op::Resize { at, old, new } => (libc::SYS_mremap, [address(at), bytes(old), bytes(new), 0, 0, 0]),
            Op::Move { at, old, new, to } => {
                (libc::SYS_mremap, [address(at), bytes(old), bytes(new), fixed as u64, address(to), 0])
            }
            Op::MoveLeaving { at, pages, to } => {
                let flags = (fixed | leaving) as u64;
                (libc::SYS_mremap, [address(at), bytes(pages), bytes(pages), flags, address(to), 0])
            }
            Op::Advise { at, pages, advice } => {
                (libc::SYS_madvise, [address(at), bytes(pages), advice as u64, 0, 0, 0])
            }
            Op::Load { at } => return Ok(self.tree.load(slot, address(at))?),
            Op::Store { at, value } => return Ok(self.tree.store(slot, address(at), value)?.map(|_| 0)),
            Op::Fork { child } => {
                self.tree.fork(slot, child)?;
                return Ok(Ok(0));
            }
            Op::Exit => {
                self.tree.exit(slot)?;
                return Ok(Ok(0));
            }
            Op::Reclaim => {
                self.extras.reclaim();
                return Ok(Ok(0));
            }
        };
        Ok(self.tree.call(slot, number, args)?.map(|_| 0))
    }

    fn describe(&self, failure: &Failure) -> String {
        let (seed, steps) = (self.seed, self.steps_done);
        let first = self.history.len().saturating_sub(PRINTED);
        let lines: String =
            (first + 1..).zip(&self.history[first..]).map(|(n, step)| format!("\n  {n}: {step}")).collect();
        format!("seed {seed}, step {steps}: {failure}\nthe last steps:{lines}\nagain: --seed {seed} --steps {steps}")
    }
}

/// A file without a name.
fn object(folder: &std::path::Path) -> io::Result<File> {
    let path = folder.join(format!("rmap-live-kernel-{}.file", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// Shared memory without a name.
fn shared_memory() -> io::Result<File> {
    // SAFETY: the name is a constant that ends in 0.
    let fd = unsafe { libc::memfd_create(c"rmap-live-kernel".as_ptr(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}
