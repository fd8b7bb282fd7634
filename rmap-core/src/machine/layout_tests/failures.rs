//! G4: every allocation of every operation fails in turn, and a failed operation has changed nothing.

use super::rig::*;
use crate::base::alloc::testing::Countdown;
use crate::base::error::{Error, Result};
use crate::base::types::VirtAddr;
use crate::machine::advise::Advice;
use crate::machine::life_tests::on_every_engine;
use crate::machine::map::{MapFlags, MapRequest};
use crate::machine::remap::MremapFlags;
use crate::machine::system::SoftSystem;

on_every_engine!(
    g4_mmap,
    g4_mmap_over_what_is_there,
    g4_munmap,
    g4_mprotect,
    g4_mremap,
    g4_a_private_file_mapping_moves,
    g4_the_others,
);

/// Makes the first allocation of `operation` fail, then the second, and so on, until it succeeds without a failure.
/// Each time on a machine that `prepare` made.
fn each_allocation_fails<S: SoftSystem>(prepare: impl Fn(&Rig<S>), operation: impl Fn(&Rig<S>) -> Result<()>) {
    assert!(each_allocation_fails_or_none(prepare, operation) > 0, "nothing was allocated");
}

/// As above, for operations that may do without. Returns how many failed.
fn each_allocation_fails_or_none<S: SoftSystem>(
    prepare: impl Fn(&Rig<S>),
    operation: impl Fn(&Rig<S>) -> Result<()>,
) -> usize {
    let mut failures = 0;
    for n in 0.. {
        let countdown = Countdown::leaked();
        let rig = Rig::<S>::over(countdown.heap());
        prepare(&rig);
        let before = rig.state();
        countdown.fail_after(n);
        let done = operation(&rig);
        let refused = countdown.lift();
        rig.check();
        if let Err(error) = done {
            assert!(refused && error == Error::NoMemory, "{error:?}");
            assert_eq!(rig.state(), before, "allocation {n} failed");
            failures += 1;
        }
        if !refused {
            break;
        }
    }
    failures
}

/// Twelve touched pages in a VMA whose slab, index and pool have no room left over.
fn twelve<S: SoftSystem>(rig: &Rig<S>) {
    rig.map(BASE, 12, RW);
    (0..12).for_each(|n| assert!(rig.touch(BASE + n, n as u8)));
    // Uses up what the slab of VMAs holds.
    for n in 0.. {
        let page = 3000 + 2 * n;
        let held = rig.m().rmap().arena().live_vmas();
        if n > 8 && held.is_power_of_two() && held >= 64 || page + 1 >= TASK_PAGES {
            break;
        }
        rig.map(page, 1, if n % 2 == 0 { R } else { RW });
    }
}

fn g4_mmap<S: SoftSystem>() {
    each_allocation_fails(twelve::<S>, |rig| {
        rig.m().mmap(rig.mm(), &MapRequest::new(bytes(4), R, MapFlags::PRIVATE)).map(|_| ())
    });
    each_allocation_fails(twelve::<S>, |rig| {
        rig.m().mmap(rig.mm(), &MapRequest::new(bytes(4), RW, MapFlags::SHARED)).map(|_| ())
    });
}

fn g4_mmap_over_what_is_there<S: SoftSystem>() {
    let over = |rig: &Rig<S>, file| {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let request = MapRequest { addr: Some(at(BASE + 4)), file, ..MapRequest::new(bytes(4), R, flags) };
        rig.m().mmap(rig.mm(), &request).map(|_| ())
    };
    each_allocation_fails(twelve::<S>, |rig| over(rig, None));
    each_allocation_fails(twelve::<S>, |rig| over(rig, Some((rig.files[0].clone(), 3))));
}

fn g4_munmap<S: SoftSystem>() {
    each_allocation_fails(twelve::<S>, |rig| rig.m().munmap(rig.mm(), at(BASE + 4), bytes(4)));
}

fn g4_mprotect<S: SoftSystem>() {
    each_allocation_fails(twelve::<S>, |rig| rig.m().mprotect(rig.mm(), at(BASE + 4), bytes(4), R));
}

/// ```text
///   |aaaa====aaaa|          |----|     the middle moves, to a free place, over what is there, and growing
/// ```
fn g4_mremap<S: SoftSystem>() {
    let with_target = |rig: &Rig<S>| {
        twelve(rig);
        rig.map(BASE + 600, 8, R);
    };
    let fixed = MremapFlags::MAYMOVE | MremapFlags::FIXED;
    for (old_pages, new_pages, flags, to) in [
        (4, 4, fixed, Some(BASE + 1200)),
        (4, 4, fixed, Some(BASE + 602)),
        (4, 2, fixed, Some(BASE + 602)),
        (4, 20, MremapFlags::MAYMOVE, None),
        (4, 1, MremapFlags::empty(), None),
        (8, 9, MremapFlags::empty(), None),
        (4, 4, fixed | MremapFlags::DONTUNMAP, Some(BASE + 1200)),
    ] {
        each_allocation_fails_or_none(with_target, |rig| {
            let (old, to) = (at(BASE + 4), to.map(at));
            rig.m().mremap(rig.mm(), old, bytes(old_pages), bytes(new_pages), flags, to).map(|_| ())
        });
    }
}

fn g4_a_private_file_mapping_moves<S: SoftSystem>() {
    let prepare = |rig: &Rig<S>| {
        twelve(rig);
        let file = Some((rig.files[0].clone(), 3));
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let request = MapRequest { addr: Some(at(BASE + 20)), file, ..MapRequest::new(bytes(8), RW, flags) };
        rig.m().mmap(rig.mm(), &request).unwrap();
        (0..8).for_each(|n| assert!(rig.touch(BASE + 20 + n, n as u8)));
    };
    each_allocation_fails(prepare, |rig| {
        let flags = MremapFlags::MAYMOVE | MremapFlags::FIXED;
        rig.m().mremap(rig.mm(), at(BASE + 22), bytes(4), bytes(4), flags, Some(at(BASE + 2000))).map(|_| ())
    });
}

fn g4_the_others<S: SoftSystem>() {
    let (start, len) = (at(BASE + 4), bytes(4));
    each_allocation_fails_or_none(twelve::<S>, |rig| rig.m().mlock(rig.mm(), start, len, true));
    each_allocation_fails_or_none(twelve::<S>, |rig| rig.m().madvise(rig.mm(), start, len, Advice::DontFork));
    each_allocation_fails_or_none(twelve::<S>, |rig| rig.m().madvise(rig.mm(), start, len, Advice::GuardInstall));
    each_allocation_fails_or_none(twelve::<S>, |rig| rig.m().set_name(rig.mm(), start, len, Some(&b"name"[..])));
    each_allocation_fails_or_none(twelve::<S>, |rig| {
        rig.m().set_brk_start(rig.mm(), at(BASE + 200));
        match rig.m().brk(rig.mm(), at(BASE + 210)) {
            end if end == at(BASE + 210) => Ok(()),
            end => {
                assert_eq!(end, at(BASE + 200));
                Err(Error::NoMemory)
            }
        }
    });
    let stack = |rig: &Rig<S>| {
        twelve(rig);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::GROWSDOWN;
        let request = MapRequest { addr: Some(at(2900)), ..MapRequest::new(bytes(2), RW, flags) };
        rig.m().mmap(rig.mm(), &request).unwrap();
        assert!(rig.touch(2900, 1));
    };
    each_allocation_fails_or_none(stack, |rig| rig.m().expand_stack(&rig.mm().write(), VirtAddr(at(2890).0 + 5)));
}
