//! Programs: what processes do to their memory, as records of eight bytes.
//!
//! | byte | of a record | of the first record, which says what the machine is like |
//! |---|---|---|
//! | 0 | the operation, modulo the table [`CODES`] | the engine |
//! | 1 | which process, file or pin | frames |
//! | 2 | which page: see [`At`] | slots of swap |
//! | 3 | how many pages | how far a file fault maps around |
//! | 4..7 | what else the operation has | byte 4: a limit of charged pages |
//! | 7 | the allocation of it that fails, and all that follow; 0: none | |
//!
//! Every byte means something, so every input is a program; and records stay records when bytes change, so what a
//! mutation leaves alone means what it meant. The reverse way is [`Program::to_bytes`]: seeds are written with it.

use arbitrary::{Arbitrary, Unstructured};
use rmap_core::base::types::VmFlags;
use rmap_core::engine::any::EngineKind;
use rmap_core::machine::advise::Advice;
use rmap_core::machine::map::MapFlags;
use rmap_core::machine::remap::MremapFlags;

/// Bytes of a record.
pub const RECORD: usize = 8;

/// A page that an operation names: 0..192 one of 64 pages across the end of a page table, 192..224 one of 32 across the
/// end of another, 224.. one of the pages that the process has mapped.
pub type At = u8;

/// What is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Anonymous memory.
    Anon,
    /// Shared memory that only its mappings know.
    SharedAnon,
    /// A file (of 0, 1) or named shared memory (2), at the page that follows from the place, or at this one.
    File { which: u8, pgoff: Option<u8> },
}

/// How pages are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    Now,
    OnFault,
    Off,
}

/// One thing that a process does. Processes, files, pins and pages are taken modulo what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Map { mm: u8, at: At, pages: u8, prot: VmFlags, what: What, flags: MapFlags },
    Unmap { mm: u8, at: At, pages: u8 },
    Protect { mm: u8, at: At, pages: u8, prot: VmFlags },
    Remap { mm: u8, at: At, old: u8, new: u8, flags: MremapFlags, to: At },
    Advise { mm: u8, at: At, pages: u8, advice: Advice },
    Lock { mm: u8, at: At, pages: u8, lock: Lock },
    LockAll { mm: u8, current: bool, future: bool, onfault: bool },
    Name { mm: u8, at: At, pages: u8, name: Option<u8> },
    Brk { mm: u8, at: At },
    Grow { mm: u8, at: At },
    Write { mm: u8, at: At, offset: u16, byte: u8, len: u8 },
    Read { mm: u8, at: At },
    Fetch { mm: u8, at: At },
    Fork { mm: u8 },
    Exit { mm: u8 },
    Exec { mm: u8 },
    SwapOut { mm: u8, at: At },
    Referenced { mm: u8, at: At },
    MkClean { mm: u8, at: At },
    Pin { mm: u8, at: At, write: bool },
    PinWrite { nth: u8, byte: u8 },
    Unpin { nth: u8 },
    Trim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Map,
    Unmap,
    Protect,
    Remap,
    Advise,
    Lock,
    LockAll,
    Name,
    Brk,
    Grow,
    Write,
    Read,
    Fetch,
    Fork,
    Exit,
    Exec,
    SwapOut,
    Referenced,
    MkClean,
    Pin,
    PinWrite,
    Unpin,
    Trim,
}

/// Which operation a byte is: as often as it is worth it.
#[rustfmt::skip]
const CODES: [Code; 64] = {
    use Code::*;
    [
        Map, Map, Map, Map, Map, Map, Map, Unmap, Unmap, Unmap, Protect, Protect, Protect, Protect,
        Remap, Remap, Remap, Remap, Remap, Advise, Advise, Advise, Advise, Lock, Lock, LockAll, Name, Brk, Brk, Grow,
        Write, Write, Write, Write, Write, Write, Write, Write, Write, Write, Read, Read, Read, Read, Fetch,
        Fork, Fork, Fork, Fork, Exit, Exit, Exec, SwapOut, SwapOut, SwapOut, SwapOut, Referenced, MkClean, MkClean,
        Pin, Pin, PinWrite, Unpin, Trim,
    ]
};

const ADVICE: [Advice; 21] = [
    Advice::DontNeed,
    Advice::Free,
    Advice::DontFork,
    Advice::DoFork,
    Advice::WipeOnFork,
    Advice::KeepOnFork,
    Advice::PopulateRead,
    Advice::PopulateWrite,
    Advice::DontNeedLocked,
    Advice::GuardInstall,
    Advice::GuardRemove,
    Advice::Mergeable,
    Advice::Unmergeable,
    Advice::HugePage,
    Advice::NoHugePage,
    Advice::DontDump,
    Advice::DoDump,
    Advice::Normal,
    Advice::WillNeed,
    Advice::Cold,
    Advice::PageOut,
];

/// Bits of a mapping's flags, in the order of byte 6.
const MAP_BITS: [MapFlags; 7] = [
    // Without it the address is a hint.
    MapFlags::FIXED,
    MapFlags::FIXED_NOREPLACE,
    MapFlags::POPULATE,
    MapFlags::LOCKED,
    MapFlags::GROWSDOWN,
    MapFlags::READ_ONLY_FILE,
    MapFlags::SHARED,
];

fn pages(byte: u8) -> u8 {
    byte % 12
}

fn prot(byte: u8) -> VmFlags {
    // 0, which is the most frequent of bytes, is readable and writable.
    VmFlags::from_bits_truncate(u64::from(byte & 7 ^ 3))
}

fn lock(byte: u8) -> Lock {
    match byte % 3 {
        0 => Lock::OnFault,
        1 => Lock::Now,
        _ => Lock::Off,
    }
}

fn what(byte: u8) -> What {
    match byte & 7 {
        0..=3 => What::Anon,
        4 => What::SharedAnon,
        n => What::File { which: n - 5, pgoff: (byte & 0x80 != 0).then_some(byte >> 3 & 15) },
    }
}

fn decode(record: [u8; RECORD]) -> Op {
    let [code, mm, at, n, x, y, z, _] = record;
    match CODES[usize::from(code) % CODES.len()] {
        Code::Map => {
            let mut flags = MapFlags::empty();
            for (i, bit) in MAP_BITS.into_iter().enumerate() {
                // Bit 0 and 6 are as good either way; the others are seldom wanted, and so only without bit 7.
                flags.set(bit, (z ^ 1) >> i & 1 != 0 && (z & 0x80 == 0 || i == 0 || i == 6));
            }
            Op::Map { mm, at, pages: pages(n) + 1, prot: prot(x), what: what(y), flags }
        }
        Code::Unmap => Op::Unmap { mm, at, pages: pages(n) + 1 },
        Code::Protect => Op::Protect { mm, at, pages: pages(n), prot: prot(x) },
        Code::Remap => {
            let flags = MremapFlags::from_bits_truncate(u32::from(y & 7 ^ 1));
            Op::Remap { mm, at, old: pages(n), new: pages(x), flags, to: z }
        }
        Code::Advise => Op::Advise { mm, at, pages: pages(n), advice: ADVICE[usize::from(x) % ADVICE.len()] },
        Code::Lock => Op::Lock { mm, at, pages: pages(n), lock: lock(x) },
        Code::LockAll => Op::LockAll { mm, current: x & 1 != 0, future: x & 2 != 0, onfault: x & 4 != 0 },
        Code::Name => Op::Name { mm, at, pages: pages(n), name: (x & 3 != 0).then_some(b'a' + (x & 3)) },
        Code::Brk => Op::Brk { mm, at },
        Code::Grow => Op::Grow { mm, at },
        Code::Write => {
            Op::Write { mm, at, offset: u16::from_le_bytes([y, z & 15]), byte: x, len: if n == 0 { 1 } else { n } }
        }
        Code::Read => Op::Read { mm, at },
        Code::Fetch => Op::Fetch { mm, at },
        Code::Fork => Op::Fork { mm },
        Code::Exit => Op::Exit { mm },
        Code::Exec => Op::Exec { mm },
        Code::SwapOut => Op::SwapOut { mm, at },
        Code::Referenced => Op::Referenced { mm, at },
        Code::MkClean => Op::MkClean { mm, at },
        Code::Pin => Op::Pin { mm, at, write: x & 1 == 0 },
        Code::PinWrite => Op::PinWrite { nth: mm, byte: x },
        Code::Unpin => Op::Unpin { nth: mm },
        Code::Trim => Op::Trim,
    }
}

fn encode(op: Op) -> [u8; RECORD] {
    let unprot = |prot: VmFlags| prot.bits() as u8 ^ 3;
    let (code, fields) = match op {
        Op::Map { mm, at, pages, prot, what, flags } => {
            let bits = MAP_BITS.into_iter().enumerate();
            let bits = bits.fold(0, |bits, (i, bit)| bits | u8::from(flags.contains(bit)) << i) ^ 1;
            let what = match what {
                What::Anon => 0,
                What::SharedAnon => 4,
                What::File { which, pgoff: None } => 5 + which,
                What::File { which, pgoff: Some(pgoff) } => 0x80 | pgoff << 3 | (5 + which),
            };
            (Code::Map, [mm, at, pages - 1, unprot(prot), what, bits])
        }
        Op::Unmap { mm, at, pages } => (Code::Unmap, [mm, at, pages - 1, 0, 0, 0]),
        Op::Protect { mm, at, pages, prot } => (Code::Protect, [mm, at, pages, unprot(prot), 0, 0]),
        Op::Remap { mm, at, old, new, flags, to } => (Code::Remap, [mm, at, old, new, flags.bits() as u8 ^ 1, to]),
        Op::Advise { mm, at, pages, advice } => {
            let number = ADVICE.into_iter().position(|other| other == advice);
            (Code::Advise, [mm, at, pages, number.expect("one of the table's") as u8, 0, 0])
        }
        Op::Lock { mm, at, pages, lock } => {
            let lock = match lock {
                Lock::OnFault => 0,
                Lock::Now => 1,
                Lock::Off => 2,
            };
            (Code::Lock, [mm, at, pages, lock, 0, 0])
        }
        Op::LockAll { mm, current, future, onfault } => {
            let bits = u8::from(current) | u8::from(future) << 1 | u8::from(onfault) << 2;
            (Code::LockAll, [mm, 0, 0, bits, 0, 0])
        }
        Op::Name { mm, at, pages, name } => (Code::Name, [mm, at, pages, name.map_or(0, |name| name - b'a'), 0, 0]),
        Op::Brk { mm, at } => (Code::Brk, [mm, at, 0, 0, 0, 0]),
        Op::Grow { mm, at } => (Code::Grow, [mm, at, 0, 0, 0, 0]),
        Op::Write { mm, at, offset, byte, len } => {
            let [low, high] = offset.to_le_bytes();
            (Code::Write, [mm, at, len, byte, low, high])
        }
        Op::Read { mm, at } => (Code::Read, [mm, at, 0, 0, 0, 0]),
        Op::Fetch { mm, at } => (Code::Fetch, [mm, at, 0, 0, 0, 0]),
        Op::Fork { mm } => (Code::Fork, [mm, 0, 0, 0, 0, 0]),
        Op::Exit { mm } => (Code::Exit, [mm, 0, 0, 0, 0, 0]),
        Op::Exec { mm } => (Code::Exec, [mm, 0, 0, 0, 0, 0]),
        Op::SwapOut { mm, at } => (Code::SwapOut, [mm, at, 0, 0, 0, 0]),
        Op::Referenced { mm, at } => (Code::Referenced, [mm, at, 0, 0, 0, 0]),
        Op::MkClean { mm, at } => (Code::MkClean, [mm, at, 0, 0, 0, 0]),
        Op::Pin { mm, at, write } => (Code::Pin, [mm, at, 0, u8::from(!write), 0, 0]),
        Op::PinWrite { nth, byte } => (Code::PinWrite, [nth, 0, 0, byte, 0, 0]),
        Op::Unpin { nth } => (Code::Unpin, [nth, 0, 0, 0, 0, 0]),
        Op::Trim => (Code::Trim, [0; 6]),
    };
    let code = CODES.iter().position(|other| *other == code).expect("each has a place");
    let [mm, at, n, x, y, z] = fields;
    [code as u8, mm, at, n, x, y, z, 0]
}

/// What the machine is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub engine: EngineKind,
    pub frames: u64,
    /// 0: no swap store.
    pub slots: u64,
    pub fault_around: u64,
    /// Pages that may be charged.
    pub limit: Option<i64>,
}

impl Setup {
    fn decode([engine, frames, slots, around, limit, ..]: [u8; RECORD]) -> Self {
        Self {
            engine: EngineKind::ALL[usize::from(engine) % EngineKind::ALL.len()],
            frames: 24 + u64::from(frames % 104),
            slots: if slots == 255 { 0 } else { 1 + u64::from(slots % 64) },
            fault_around: 1 << (around % 5),
            limit: (limit >= 128).then_some(8 + i64::from(limit % 64)),
        }
    }
}

/// An operation, and what fails in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub op: Op,
    /// Allocations that succeed before one fails, if any is to fail.
    pub fail_after: Option<u8>,
}

/// What processes do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub setup: Setup,
    pub steps: Vec<Step>,
}

/// Steps of a program that are run: the rest of a longer input is not looked at.
const MOST_STEPS: usize = 256;

impl Program {
    /// The bytes of a program of these steps, on a machine of the first engine with everything at its most.
    pub fn to_bytes(ops: &[Op]) -> Vec<u8> {
        let setup = [0, 103, 63, 2, 0, 0, 0, 0];
        core::iter::once(setup).chain(ops.iter().map(|op| encode(*op))).flatten().collect()
    }
}

impl<'a> Arbitrary<'a> for Program {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut record = || <[u8; RECORD]>::try_from(u.bytes(RECORD).ok()?).ok();
        let setup = Setup::decode(record().ok_or(arbitrary::Error::NotEnoughData)?);
        let step = |record: [u8; RECORD]| Step { op: decode(record), fail_after: record[7].checked_sub(1) };
        let steps = core::iter::from_fn(record).take(MOST_STEPS).map(step).collect();
        Ok(Self { setup, steps })
    }

    fn size_hint(_: usize) -> (usize, Option<usize>) {
        (RECORD, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_survives_its_record() {
        for code in 0..=255 {
            for seed in 0..=255_u8 {
                let record = [code, seed, seed ^ 0x5a, seed / 3, seed.rotate_left(3), seed, seed.wrapping_mul(7), 0];
                let op = decode(record);
                assert_eq!(decode(encode(op)), op, "{record:?}");
            }
        }
    }

    #[test]
    fn every_operation_has_a_byte() {
        assert!((0..=Code::Trim as u8).all(|n| CODES.iter().any(|code| *code as u8 == n)));
    }
}
