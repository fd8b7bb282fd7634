//! One step: an operation in one process of the tree, how it is drawn at random, and how it is printed.

use core::fmt;
use rmap_core::machine::advise::Advice;

/// Pages of the range that is compared.
pub(crate) const PAGES: u64 = 128;
/// Pages of the file and of the shared memory.
pub(crate) const OBJECT_PAGES: u64 = 48;
/// Processes at once.
pub(crate) const SLOTS: usize = 10;
/// Forks between the first process and any other.
pub(crate) const DEPTH: u32 = 6;

/// What a mapping is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Private anonymous memory.
    Anon,
    /// Shared anonymous memory of its own.
    SharedAnon,
    /// The file, private.
    FilePrivate,
    /// The file, shared.
    FileShared,
    /// The shared memory that all have open (memfd), private.
    MemPrivate,
    /// The same, shared.
    MemShared,
}

impl Kind {
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::SharedAnon | Self::FileShared | Self::MemShared)
    }
}

/// An operation. Places are pages of the range, `prot` is that of the system calls: 1 read, 2 write, 4 execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Map {
        at: u64,
        pages: u64,
        prot: u32,
        kind: Kind,
        pgoff: u64,
    },
    Unmap {
        at: u64,
        pages: u64,
    },
    Protect {
        at: u64,
        pages: u64,
        prot: u32,
    },
    /// mremap that stays where it is.
    Resize {
        at: u64,
        old: u64,
        new: u64,
    },
    /// mremap with `MREMAP_FIXED`; old 0 maps a shared range a second time.
    Move {
        at: u64,
        old: u64,
        new: u64,
        to: u64,
    },
    /// mremap with `MREMAP_DONTUNMAP` and `MREMAP_FIXED`.
    MoveLeaving {
        at: u64,
        pages: u64,
        to: u64,
    },
    Advise {
        at: u64,
        pages: u64,
        advice: Advice,
    },
    /// Reads the word of a page that stores write.
    Load {
        at: u64,
    },
    Store {
        at: u64,
        value: u64,
    },
    /// The child gets this slot.
    Fork {
        child: usize,
    },
    Exit,
    /// All that the tree has goes to swap, as far as the kernel wants.
    Reclaim,
}

/// An operation and the slot of the process that does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) slot: usize,
    pub(crate) op: Op,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}: {:?}", self.slot, self.op)
    }
}

/// What the drawing of a step has to know of a process.
pub(crate) struct Candidate {
    pub(crate) slot: usize,
    pub(crate) depth: u32,
    /// First page and pages of each VMA.
    pub(crate) vmas: Vec<(u64, u64)>,
}

/// Numbers that depend on the seed alone (xorshift64*).
pub(crate) struct Draw {
    state: u64,
    guards: bool,
}

impl Draw {
    /// `guards`: guard regions too.
    pub(crate) fn new(seed: u64, guards: bool) -> Self {
        // Neighbouring seeds begin far apart, and none with 0, which would stay.
        Self { state: seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, guards }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A range: mostly all or part of a VMA, maybe with more than that.
    fn range(&mut self, of: &Candidate) -> (u64, u64) {
        if of.vmas.is_empty() || self.below(8) == 0 {
            let at = self.below(PAGES);
            return (at, 1 + self.below((PAGES - at).min(24)));
        }
        let (start, pages) = self.pick(&of.vmas);
        match self.below(4) {
            0 => (start, pages),
            1 => (start, (pages + self.below(4)).min(PAGES - start)),
            _ => {
                let skip = self.below(pages);
                (start + skip, 1 + self.below(pages - skip))
            }
        }
    }

    fn page(&mut self, of: &Candidate) -> u64 {
        let (at, pages) = self.range(of);
        at + self.below(pages)
    }

    fn prot(&mut self) -> u32 {
        self.pick(&[3, 3, 3, 3, 1, 1, 0, 7])
    }

    fn advice(&mut self) -> Advice {
        use Advice::{
            DoDump, DoFork, DontDump, DontFork, DontNeed, GuardInstall, GuardRemove, KeepOnFork, PageOut, PopulateRead,
            PopulateWrite, WipeOnFork,
        };
        let all = [
            GuardInstall,
            GuardInstall,
            GuardRemove,
            GuardRemove,
            DontNeed,
            DontNeed,
            DontNeed,
            DontNeed,
            PageOut,
            PageOut,
            DontFork,
            DoFork,
            DoFork,
            WipeOnFork,
            WipeOnFork,
            KeepOnFork,
            KeepOnFork,
            PopulateRead,
            PopulateWrite,
            DontDump,
            DoDump,
        ];
        loop {
            let advice = self.pick(&all);
            if self.guards || !matches!(advice, GuardInstall | GuardRemove) {
                return advice;
            }
        }
    }

    fn map(&mut self, of: &Candidate) -> Op {
        use Kind::{Anon, FilePrivate, FileShared, MemPrivate, MemShared, SharedAnon};
        let (mut at, mut pages) = (self.below(PAGES), 1 + self.below(20));
        // Beside a VMA as well: neighbours that may join.
        if !of.vmas.is_empty() && self.below(2) == 0 {
            let (start, len) = self.pick(&of.vmas);
            at = start + len;
        }
        at = at.min(PAGES - 1);
        pages = pages.min(PAGES - at);
        let kind = self.pick(&[
            Anon,
            Anon,
            Anon,
            Anon,
            Anon,
            Anon,
            SharedAnon,
            FilePrivate,
            FileShared,
            MemPrivate,
            MemShared,
        ]);
        // Some pages beyond the object's end; some where neighbours are continued.
        let pgoff = if self.below(2) == 0 { at % OBJECT_PAGES } else { self.below(OBJECT_PAGES) };
        Op::Map { at, pages, prot: self.prot(), kind, pgoff }
    }

    /// The next step. `value` is what a store writes; at least one process is left alive.
    pub(crate) fn step(&mut self, all: &[Candidate], value: u64) -> Step {
        let of = &all[self.below(all.len() as u64) as usize];
        let op = loop {
            let choice = self.below(1000);
            let (at, pages) = self.range(of);
            break match choice {
                0..430 => Op::Store { at: self.page(of), value },
                430..550 => Op::Load { at: self.page(of) },
                550..630 => self.map(of),
                630..655 => Op::Unmap { at, pages },
                655..715 => Op::Protect { at, pages, prot: self.prot() },
                715..750 => {
                    Op::Resize { at, old: pages, new: (pages + self.below(9)).saturating_sub(4).min(PAGES - at) }
                }
                750..790 => {
                    let new = if self.below(2) == 0 { pages } else { 1 + self.below(12) };
                    let old = if self.below(16) == 0 { 0 } else { pages };
                    Op::Move { at, old, new, to: self.below(PAGES.saturating_sub(new) + 1) }
                }
                790..815 => Op::MoveLeaving { at, pages, to: self.below(PAGES - pages + 1) },
                815..895 => Op::Advise { at, pages, advice: self.advice() },
                895..955 => {
                    let child = (0..SLOTS).find(|slot| all.iter().all(|one| one.slot != *slot));
                    match child.filter(|_| of.depth < DEPTH) {
                        Some(child) => Op::Fork { child },
                        None => continue,
                    }
                }
                955..995 if all.len() > 1 => Op::Exit,
                995.. => Op::Reclaim,
                _ => continue,
            };
        };
        Step { slot: of.slot, op }
    }
}
