//! G4: every allocation of every operation fails in turn, and a failed operation has changed nothing.

use super::rig::*;
use crate::base::alloc::testing::Countdown;
use crate::base::error::{Error, Result};
use crate::machine::map::{MapFlags, MapRequest};

/// Makes the first allocation of `operation` fail, then the second, and so on, until it succeeds without a failure. Each time on a machine that `prepare` made.
fn each_allocation_fails(prepare: impl Fn(&Rig), operation: impl Fn(&Rig) -> Result<()>) {
    let mut failures = 0;
    for n in 0.. {
        let countdown = Countdown::leaked();
        let rig = Rig::over(countdown.heap());
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
    assert!(failures > 0, "nothing was allocated");
}

/// Twelve touched pages in a VMA whose slab, index and pool have no room left over.
fn twelve(rig: &Rig) {
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

#[test]
fn g4_mmap() {
    each_allocation_fails(twelve, |rig| {
        rig.m().mmap(rig.mm(), &MapRequest::new(bytes(4), R, MapFlags::PRIVATE)).map(|_| ())
    });
    each_allocation_fails(twelve, |rig| {
        rig.m().mmap(rig.mm(), &MapRequest::new(bytes(4), RW, MapFlags::SHARED)).map(|_| ())
    });
}

#[test]
fn g4_mmap_over_what_is_there() {
    let over = |rig: &Rig, file| {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let request = MapRequest { addr: Some(at(BASE + 4)), file, ..MapRequest::new(bytes(4), R, flags) };
        rig.m().mmap(rig.mm(), &request).map(|_| ())
    };
    each_allocation_fails(twelve, |rig| over(rig, None));
    each_allocation_fails(twelve, |rig| over(rig, Some((rig.files[0].clone(), 3))));
}

#[test]
fn g4_munmap() {
    each_allocation_fails(twelve, |rig| rig.m().munmap(rig.mm(), at(BASE + 4), bytes(4)));
}

#[test]
fn g4_mprotect() {
    each_allocation_fails(twelve, |rig| rig.m().mprotect(rig.mm(), at(BASE + 4), bytes(4), R));
}
