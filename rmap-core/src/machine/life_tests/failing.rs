//! Memory runs out at each place in turn: an error, and nothing has changed (G4), or it did not matter.

use super::*;
use crate::base::alloc::testing::Countdown;
use crate::base::error::Error;
use crate::machine::system::{Access, FileExt};

on_every_engine!(
    g4_each_failing_allocation_in_a_fault,
    g4_each_failing_allocation_in_a_fork,
    g4_frames_that_run_out,
    making_things_fails_without_a_leak,
);

/// Runs `act` on a fresh machine for each allocation that it makes, failing that one; `act` returns whether it
/// succeeded.
fn each_failure<S: SoftSystem>(
    setup: impl Fn(&World<S>) -> Vec<MmRef<S>>,
    act: impl Fn(&World<S>, &mut Vec<MmRef<S>>) -> crate::base::error::Result<()>,
    verify: impl Fn(&World<S>, &[MmRef<S>]),
) {
    for n in 0.. {
        let countdown = Countdown::leaked();
        let w = World::<S>::with(countdown.heap(), 64, |config| config.fault_around = 4);
        let mut mms = setup(&w);
        w.check();
        countdown.fail_after(n);
        let done = act(&w, &mut mms);
        let refused = countdown.lift();
        assert!(done.is_ok() || (refused && done == Err(Error::NoMemory)), "{done:?} with {n} allocations");
        w.check();
        verify(&w, &mms);
        w.check();
        // It works when there is memory.
        act(&w, &mut mms).unwrap();
        w.check();
        verify(&w, &mms);
        mms.into_iter().for_each(|mm| w.machine.exit(mm));
        w.end();
        if !refused {
            assert!(n > 0, "nothing was allocated");
            return;
        }
    }
}

fn g4_each_failing_allocation_in_a_fault<S: SoftSystem>() {
    let anonymous = |w: &World<S>| {
        let mm = w.mm();
        w.map(&mm, 0x1f0, 0x20, RW);
        vec![mm]
    };
    let fault = |vpn, access| move |w: &World<S>, mms: &mut Vec<MmRef<S>>| w.machine.fault(&mms[0], at(vpn), access);
    each_failure(anonymous, fault(0x1f1, Access::Write), |w, mms| assert_eq!(w.peek(&mms[0], 0x1f1), 0));
    each_failure(anonymous, fault(0x1f1, Access::Read), |w, mms| assert_eq!(w.peek(&mms[0], 0x1f1), 0));
    let in_two = |w: &World<S>, mms: &mut Vec<MmRef<S>>| {
        w.machine.write(&mms[0], at(0x1ff), &[7; 4096])?;
        w.machine.write(&mms[0], at(0x200), &[8; 4096])
    };
    each_failure(anonymous, in_two, |w, mms| assert!([0, 7].contains(&w.peek(&mms[0], 0x1ff))));

    let family = |w: &World<S>| {
        let mm = w.mm();
        w.map(&mm, 0x1f0, 0x20, RW);
        w.poke(&mm, 0x1f1, 5);
        let child = w.machine.fork(&mm).unwrap();
        vec![child, mm]
    };
    let kept = |w: &World<S>, mms: &[MmRef<S>]| {
        for mm in mms {
            assert_eq!(w.peek(mm, 0x1f1), 5);
        }
    };
    each_failure(family, fault(0x1f1, Access::Write), kept);
    let pin = |w: &World<S>, mms: &mut Vec<MmRef<S>>| {
        w.machine.pin(&mms[0], at(0x1f1), false).map(|pinned| w.machine.unpin(pinned))
    };
    each_failure(family, pin, kept);
    let swapped = |w: &World<S>| {
        let mms = family(w);
        assert_eq!(w.machine.swap_out(w.page(&mms[0], 0x1f1)), Ok(true));
        mms
    };
    // The frame that was freed has its memory already.
    let crowded = |w: &World<S>| {
        let mms = swapped(w);
        w.poke(&mms[1], 0x1f2, 1);
        mms
    };
    each_failure(crowded, fault(0x1f1, Access::Read), kept);
    each_failure(crowded, fault(0x1f1, Access::Write), kept);

    let file = |w: &World<S>| {
        let mm = w.mm();
        let file = w.machine.new_file(8, FileExt::default()).unwrap();
        w.map_with(&mm, 0x1fe, 8, RW, Some((&file, 0)), VmaExt::default());
        w.map_with(&mm, 0x100, 8, SHARED_RW, Some((&file, 0)), VmaExt::default());
        vec![mm]
    };
    let zero = |w: &World<S>, mms: &[MmRef<S>]| assert_eq!((w.peek(&mms[0], 0x1fe), w.peek(&mms[0], 0x100)), (0, 0));
    for access in [Access::Read, Access::Write] {
        each_failure(file, fault(0x1fe, access), zero);
        each_failure(file, fault(0x100, access), zero);
    }
}

fn g4_each_failing_allocation_in_a_fork<S: SoftSystem>() {
    let setup = |w: &World<S>| {
        let mm = w.mm();
        let file = w.machine.new_file(8, FileExt::default()).unwrap();
        w.map(&mm, 0x1fe, 4, RW);
        w.map_with(&mm, 0x300, 8, RW, Some((&file, 0)), VmaExt::default());
        w.map_with(&mm, 0x400, 8, SHARED_RW, Some((&file, 0)), VmaExt::default());
        w.map(&mm, 0x1000, 4, RW | VmFlags::WIPEONFORK);
        for vpn in [0x1fe, 0x1ff, 0x200, 0x301, 0x402, 0x1000] {
            w.poke(&mm, vpn, vpn as u8);
        }
        w.peek(&mm, 0x201);
        assert_eq!(w.machine.swap_out(w.page(&mm, 0x1ff)), Ok(true));
        vec![mm]
    };
    let pins = Mutex::new(Vec::new());
    let fork = |w: &World<S>, mms: &mut Vec<MmRef<S>>| {
        let pinned = w.machine.pin(&mms[0], at(0x200), true)?;
        let child = w.machine.fork(&mms[0]);
        w.machine.unpin(pinned);
        mms.push(child?);
        Ok(())
    };
    each_failure(setup, fork, |w, mms| {
        for vpn in [0x1fe, 0x1ff, 0x200, 0x301, 0x402] {
            for mm in mms {
                assert_eq!(w.peek(mm, vpn), vpn as u8, "{vpn:#x}");
            }
        }
        assert_eq!(w.check().mms, mms.len() as u64);
        pins.lock().unwrap().push(mms.len());
    });
    assert!(pins.into_inner().unwrap().len() > 10, "few allocations failed");
}

/// Frames instead of metadata: a machine that is too small.
fn g4_frames_that_run_out<S: SoftSystem>() {
    let w = World::<S>::with(Heap::global().unwrap(), 5, |config| config.fault_around = 16);
    let mm = w.mm();
    let file = w.machine.new_file(8, FileExt::default()).unwrap();
    w.map(&mm, 0x100, 8, RW);
    w.map_with(&mm, 0x200, 8, RW, Some((&file, 0)), VmaExt::default());
    w.poke(&mm, 0x100, 1);
    let child = w.machine.fork(&mm).unwrap();
    w.poke(&mm, 0x101, 1);
    w.poke(&mm, 0x102, 1);
    // One frame is left: the page that is asked for is mapped, its neighbours are not.
    assert_eq!(w.peek(&mm, 0x204), 0);
    assert_eq!(w.check().file, 1);
    for (mm, vpn) in [(&mm, 0x103), (&mm, 0x204), (&mm, 0x100), (&child, 0x205), (&child, 0x100)] {
        let pte = w.pte(mm, vpn);
        assert_eq!(w.machine.fault(mm, at(vpn), Access::Write), Err(Error::NoMemory), "{vpn:#x}");
        assert!(w.pte(mm, vpn) == pte || (w.pte(mm, vpn).is_none() && pte.is_none()));
        w.check();
    }
    assert_eq!(w.machine.pin(&mm, at(0x103), true).unwrap_err(), Error::NoMemory);
    // A pinned page needs a frame in fork.
    let pinned = w.machine.pin(&mm, at(0x101), true).unwrap();
    assert_eq!(w.machine.fork(&mm).err(), Some(Error::NoMemory));
    w.check();
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x102)), Ok(true));
    let second = w.machine.fork(&mm).unwrap();
    w.check();
    assert_eq!((w.peek(&second, 0x100), w.peek(&second, 0x101)), (1, 1));
    w.machine.unpin(pinned);
    for mm in [mm, child, second] {
        w.machine.exit(mm);
    }
    drop(file);
    w.end();
}

fn making_things_fails_without_a_leak<S: SoftSystem>() {
    for n in 0.. {
        let countdown = Countdown::leaked();
        let heap = countdown.heap();
        countdown.fail_after(n);
        let made = (|| {
            let mut config = MachineConfig::new(&heap, 16);
            config.swap = Some((Backing::memory(&heap, 16)?, 16));
            let machine = Machine::<S>::new(config)?;
            let mm = machine.mm_new()?;
            let file = machine.new_file(4, FileExt::default())?;
            let fresh = machine.exec(&mm)?;
            drop((mm, file));
            machine.exit(fresh);
            Ok(())
        })();
        let refused = countdown.lift();
        assert_eq!(made, if refused { Err(Error::NoMemory) } else { Ok(()) });
        assert_eq!(heap.in_use(), 0);
        if !refused {
            return;
        }
    }
}
