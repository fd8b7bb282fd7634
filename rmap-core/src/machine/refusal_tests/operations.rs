//! Every public operation of the machine, and each of its allocations refused.

use super::digest::{Leave, difference, digest};
use super::scene::{FILLER, Scarce, Scene};
use crate::base::alloc::testing::Countdown;
use crate::base::error::{Error, Result};
use crate::base::types::VmFlags;
use crate::engine::Engine;
use crate::machine::advise::Advice;
use crate::machine::life_tests::{at, on_every_engine};
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::remap::MremapFlags;
use crate::machine::system::{Access, FileExt, VmaExt};
use crate::mm::Mm;
use std::collections::BTreeSet;
use std::string::String;
use std::vec::Vec;

on_every_engine!(each_refused_allocation_of_each_operation);

/// An operation on the scene: which method it calls, what a failure may leave, and the call.
pub(super) struct Operation<S: Scarce> {
    pub(super) method: &'static str,
    pub(super) leave: Leave,
    pub(super) act: fn(&Scene<S>) -> Result<()>,
}

/// Bytes of so many pages.
const fn bytes(pages: u64) -> u64 {
    pages << 12
}

fn request<S: Scarce>(vpn: u64, pages: u64, flags: MapFlags) -> MapRequest<S> {
    MapRequest { addr: Some(at(vpn)), ..MapRequest::new(bytes(pages), VmFlags::READ | VmFlags::WRITE, flags) }
}

fn mmap<S: Scarce>(s: &Scene<S>, request: &MapRequest<S>) -> Result<()> {
    s.world.machine.mmap(&s.parent, request).map(drop)
}

/// All of them. Several of one method take several ways through it.
pub(super) fn operations<S: Scarce>() -> Vec<Operation<S>> {
    let mut all = Vec::new();
    let mut op = |method, leave, act| all.push(Operation { method, leave, act });

    // What makes and ends address spaces and files.
    op("mm_new", Leave::Nothing, |s| s.world.machine.mm_new().map(|mm| s.world.machine.exit(mm)));
    op("exec", Leave::Nothing, |s| {
        let extra = s.parent.try_get_user();
        assert!(extra);
        match s.world.machine.exec(&s.parent) {
            Ok(fresh) => {
                s.world.machine.exit(fresh);
                Ok(())
            }
            Err(error) => {
                assert!(!s.parent.put_user());
                Err(error)
            }
        }
    });
    op("fork", Leave::Fork, |s| s.world.machine.fork(&s.parent).map(|mm| s.world.machine.exit(mm)));
    op("fork", Leave::Fork, |s| s.world.machine.fork(&s.child).map(|mm| s.world.machine.exit(mm)));
    op("new_file", Leave::Nothing, |s| s.world.machine.new_file(4, FileExt::default()).map(drop));
    op("new_shmem", Leave::Nothing, |s| s.world.machine.new_shmem(4).map(drop));

    // Changes of layout: in free room, beside a neighbour that grows, and over what is there.
    op("mmap", Leave::Nothing, |s| mmap(s, &request(0xc00, 4, MapFlags::PRIVATE | MapFlags::FIXED)));
    op("mmap", Leave::Nothing, |s| mmap(s, &request(0x120, 4, MapFlags::PRIVATE | MapFlags::FIXED)));
    op("mmap", Leave::Nothing, |s| mmap(s, &request(0x108, 0xc, MapFlags::PRIVATE | MapFlags::FIXED)));
    op("mmap", Leave::Nothing, |s| mmap(s, &request(0xc00, 4, MapFlags::SHARED | MapFlags::FIXED)));
    op("mmap", Leave::Nothing, |s| {
        let file = Some((s.file.clone(), 4));
        mmap(s, &MapRequest { file, ..request(0x304, 2, MapFlags::PRIVATE | MapFlags::FIXED) })
    });
    op("mmap", Leave::Nothing, |s| {
        let ext = VmaExt { ops: Some(&FILLER), private: 3 };
        mmap(s, &MapRequest { ext, ..request(0xc00, 4, MapFlags::PRIVATE | MapFlags::FIXED) })
    });
    op("munmap", Leave::Nothing, |s| s.world.machine.munmap(&s.parent, at(0x102), bytes(4)));
    op("munmap", Leave::Nothing, |s| s.world.machine.munmap(&s.parent, at(0x108), bytes(0x14)));
    op("munmap", Leave::Nothing, |s| s.world.machine.munmap(&s.parent, at(0x302), bytes(2)));
    op("munmap", Leave::Nothing, |s| s.world.machine.munmap(&s.parent, at(0x802), bytes(2)));
    op("mprotect", Leave::Nothing, |s| s.world.machine.mprotect(&s.parent, at(0x102), bytes(4), VmFlags::READ));
    // From the middle of one VMA to the middle of the third.
    op("mprotect", Leave::Nothing, |s| s.world.machine.mprotect(&s.parent, at(0x108), bytes(0x14), VmFlags::EXEC));
    op("mprotect", Leave::Nothing, |s| s.world.machine.mprotect(&s.parent, at(0x303), bytes(3), VmFlags::READ));
    op("mremap", Leave::Nothing, |s| mremap(s, (0x102, 4), (0xc00, 4), MremapFlags::MAYMOVE | MremapFlags::FIXED));
    op("mremap", Leave::Nothing, |s| mremap(s, (0x1fe, 4), (0x302, 2), MremapFlags::MAYMOVE | MremapFlags::FIXED));
    op("mremap", Leave::Nothing, |s| mremap(s, (0x302, 4), (0xc00, 9), MremapFlags::MAYMOVE | MremapFlags::FIXED));
    op("mremap", Leave::Nothing, |s| mremap(s, (0x802, 4), (0xc00, 4), MremapFlags::MAYMOVE | MremapFlags::FIXED));
    op("mremap", Leave::Nothing, |s| {
        let flags = MremapFlags::MAYMOVE | MremapFlags::FIXED | MremapFlags::DONTUNMAP;
        mremap(s, (0x102, 4), (0xc00, 4), flags)
    });
    op("mremap", Leave::Nothing, |s| mremap(s, (0x1f8, 0x10), (0, 0x14), MremapFlags::empty()));
    op("mremap", Leave::Nothing, |s| mremap(s, (0x1f8, 0x10), (0, 4), MremapFlags::empty()));
    op("mremap", Leave::Nothing, |s| mremap(s, (0x100, 8), (0, 0x20), MremapFlags::MAYMOVE));
    op("brk", Leave::Nothing, |s| {
        let end = s.world.machine.brk(&s.parent, at(0xa04));
        if end == at(0xa04) { Ok(()) } else { Err(Error::NoMemory) }
    });
    op("grow_stack", Leave::Nothing, |s| s.world.machine.grow_stack(&s.parent, at(0x678), at(0x682)));

    // Advice and locks. One VMA, and from the middle of one to the middle of the third.
    for_advice(&mut op);
    op("set_name", Leave::Nothing, |s| s.world.machine.set_name(&s.parent, at(0x104), bytes(4), Some(b"heap")));
    op("set_name", Leave::Nothing, |s| s.world.machine.set_name(&s.parent, at(0x108), bytes(0x14), Some(b"heap")));
    op("mlock", Leave::Nothing, |s| s.world.machine.mlock(&s.parent, at(0x102), bytes(4), true));
    op("mlock", Leave::Nothing, |s| s.world.machine.mlock(&s.parent, at(0x108), bytes(0x14), true));
    op("munlock", Leave::Nothing, |s| {
        // Nothing was locked: what changes nothing needs nothing.
        s.world.machine.munlock(&s.parent, at(0x102), bytes(4))
    });
    op("mlockall", Leave::Nothing, |s| s.world.machine.mlockall(&s.parent, true, false, true));
    op("munlockall", Leave::Nothing, |s| s.world.machine.munlockall(&s.parent));

    // Faults of every kind.
    for_faults(&mut op);
    op("swap_out", Leave::Nothing, |s| s.world.machine.swap_out(s.world.page(&s.parent, 0x200)).map(drop));

    // What only looks.
    op("for_each_mm", Leave::Nothing, |s| s.world.machine.for_each_mm(|_| ()));
    op("footprint", Leave::Nothing, |s| s.world.machine.footprint().map(drop));
    op("check", Leave::Nothing, |s| match s.world.machine.check() {
        Ok(_) => Ok(()),
        Err(broken) if broken.is_no_memory() => Err(Error::NoMemory),
        Err(broken) => panic!("{broken}"),
    });
    all
}

fn mremap<S: Scarce>(
    s: &Scene<S>,
    (old, old_len): (u64, u64),
    (to, len): (u64, u64),
    flags: MremapFlags,
) -> Result<()> {
    let to = flags.contains(MremapFlags::FIXED).then(|| at(to));
    s.world.machine.mremap(&s.parent, at(old), bytes(old_len), bytes(len), flags, to).map(drop)
}

fn for_advice<S: Scarce>(op: &mut impl FnMut(&'static str, Leave, fn(&Scene<S>) -> Result<()>)) {
    op("madvise", Leave::Nothing, |s| s.world.machine.madvise(&s.parent, at(0x102), bytes(4), Advice::DontFork));
    op("madvise", Leave::Nothing, |s| s.world.machine.madvise(&s.parent, at(0x108), bytes(0x14), Advice::DontFork));
    op("madvise", Leave::Nothing, |s| s.world.machine.madvise(&s.parent, at(0x108), bytes(0x14), Advice::WipeOnFork));
    op("madvise", Leave::Nothing, |s| s.world.machine.madvise(&s.parent, at(0x108), bytes(0x14), Advice::NoHugePage));
    op("madvise", Leave::Nothing, |s| s.world.machine.madvise(&s.parent, at(0x102), bytes(4), Advice::DontNeed));
    op("madvise", Leave::Nothing, |s| s.world.machine.madvise(&s.child, at(0x102), bytes(4), Advice::Free));
    op("madvise", Leave::Readiness, |s| s.world.machine.madvise(&s.parent, at(0x1f8), bytes(8), Advice::GuardInstall));
    op("madvise", Leave::Readiness, |s| s.world.machine.madvise(&s.parent, at(0x105), bytes(1), Advice::PopulateWrite));
    op("madvise", Leave::Readiness, |s| s.world.machine.madvise(&s.parent, at(0x105), bytes(1), Advice::PopulateRead));
}

fn for_faults<S: Scarce>(op: &mut impl FnMut(&'static str, Leave, fn(&Scene<S>) -> Result<()>)) {
    fn fault<S: Scarce>(s: &Scene<S>, mm: &Mm<S>, vpn: u64, access: Access) -> Result<()> {
        s.world.machine.fault(mm, at(vpn), access)
    }
    // Anonymous: the zero page, a page, a copy, a copy of the zero page; where there is no anchor and no table yet.
    op("fault", Leave::Readiness, |s| fault(s, &s.parent, 0x105, Access::Read));
    op("fault", Leave::Readiness, |s| fault(s, &s.parent, 0x105, Access::Write));
    op("fault", Leave::Readiness, |s| fault(s, &s.child, 0x102, Access::Write));
    op("fault", Leave::Readiness, |s| fault(s, &s.parent, 0x118, Access::Write));
    // From swap, for reading and for writing; the stack grows.
    op("fault", Leave::Readiness, |s| fault(s, &s.child, 0x104, Access::Read));
    op("fault", Leave::Steps, |s| fault(s, &s.child, 0x104, Access::Write));
    op("fault", Leave::Steps, |s| fault(s, &s.parent, 0x67f, Access::Write));
    // Of files: read in with its neighbours, copied, shared; shared memory; operations of the embedder's.
    op("fault", Leave::Readiness, |s| fault(s, &s.parent, 0x310, Access::Exec));
    op("fault", Leave::Readiness, |s| fault(s, &s.parent, 0x305, Access::Write));
    op("fault", Leave::Readiness, |s| fault(s, &s.parent, 0x404, Access::Write));
    op("fault", Leave::Readiness, |s| fault(s, &s.child, 0x500, Access::Read));
    op("fault", Leave::Readiness, |s| fault(s, &s.parent, 0x505, Access::Write));
    op("fault", Leave::Readiness, |s| fault(s, &s.parent, 0x803, Access::Read));
    op("read", Leave::Readiness, |s| s.world.machine.read(&s.child, at(0x104), &mut [0]));
    op("write", Leave::Readiness, |s| s.world.machine.write(&s.child, at(0x102), &[3]));
    op("pin", Leave::Readiness, |s| s.world.machine.pin(&s.child, at(0x102), false).map(|p| s.world.machine.unpin(p)));
    op("pin", Leave::Readiness, |s| s.world.machine.pin(&s.child, at(0x102), true).map(|p| s.world.machine.unpin(p)));
    op("uffd_copy", Leave::Readiness, |s| s.world.machine.uffd_copy(&s.parent, at(0x702), &[7; 4096]));
    op("uffd_zeropage", Leave::Readiness, |s| s.world.machine.uffd_zeropage(&s.parent, at(0x702)));
}

/// Methods that ask for no memory of the heap, and so cannot be refused any.
const NEED_NOTHING: &[&str] = &[
    // Getters.
    "rmap",
    "frames",
    "swap_store",
    "zero_pfn",
    "set_brk_start",
    // They only give back.
    "exit",
    "unpin",
    "sweep_files",
    "trim_swap_cache",
    // For tests; it asks the global allocator.
    "oracle_mappings",
];

/// Made before there is a machine: `making_things_fails_without_a_leak`.
const MAKERS: &[&str] = &["new", "with_engine"];

/// The methods that `impl<S: SoftSystem> Machine<S>` has, as the sources say.
fn methods() -> BTreeSet<String> {
    fn read(dir: &std::path::Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.to_string_lossy().ends_with("_tests") {
                read(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let mut inside = false;
                for line in std::fs::read_to_string(&path).unwrap().lines() {
                    inside =
                        if line.starts_with("impl") { line.contains(" Machine<S> {") } else { inside && line != "}" };
                    if inside && let Some(rest) = line.strip_prefix("    pub fn ") {
                        found.insert(rest.split(['(', '<']).next().unwrap().into());
                    }
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    read(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/machine"), &mut found);
    found
}

/// A method that is new is either tried without memory or known not to need any.
#[test]
fn no_operation_is_forgotten() {
    let tried = operations::<crate::machine::system::AnonVmaSystem>().iter().map(|op| op.method).collect::<Vec<_>>();
    let known: BTreeSet<String> =
        tried.iter().chain(NEED_NOTHING).chain(MAKERS).map(|name| String::from(*name)).collect();
    assert_eq!(methods(), known);
}

fn each_refused_allocation_of_each_operation<S: Scarce>() {
    let mut refused = 0;
    for (number, op) in operations::<S>().iter().enumerate() {
        let name = std::format!("{} ({number})", op.method);
        for n in 0.. {
            if !one_refused(op, &name, n) {
                break;
            }
            refused += 1;
        }
    }
    std::println!("{refused} allocations refused");
    assert!(refused > 100, "{refused} allocations were refused");
}

/// The operation with its `n`-th allocation refused; returns whether it made as many.
fn one_refused<S: Scarce>(op: &Operation<S>, name: &str, n: i64) -> bool {
    let countdown = Countdown::leaked();
    let scene = Scene::<S>::new(countdown.heap(), None);
    let before = digest(&scene.world.machine, op.leave);
    countdown.fail_after(n);
    let done = (op.act)(&scene);
    let refused = countdown.lift();
    scene.world.check();
    match done {
        // Without this allocation it did what it was for all the same.
        Ok(()) => {}
        Err(error) => {
            assert!(refused && error == Error::NoMemory, "{name}, allocation {n}: {error:?}");
            let after = digest(&scene.world.machine, op.leave);
            assert!(before == after, "{name}, allocation {n}: {}", difference(&before, &after));
            // An engine that is for tests alone needs memory to join what was cut, and mremap wants one VMA.
            let kept_apart = <S::Design as Engine<S>>::NAME == "per_mm" && op.method == "mremap";
            let again = (op.act)(&scene);
            assert!(again == Ok(()) || kept_apart, "{name}, allocation {n}, again: {again:?}");
            scene.world.check();
        }
    }
    Scene::end(scene);
    refused
}
