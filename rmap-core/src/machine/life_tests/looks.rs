//! Second looks, and charges: the charge hook runs in the middle of a fault, so a test can let another thread be faster
//! there.

use super::*;
use crate::base::error::Error;
use crate::base::sync::atomic::Ordering;
use crate::machine::system::{Access, FileExt};
use crate::page::pte::PteFlags;

on_every_engine!(
    a_second_look_finds_each_faster_thread,
    a_second_look_finds_an_address_space_that_is_torn_down,
    charges_are_what_is_present,
    a_refused_charge_changes_nothing,
);

/// What is at page 0x100 before the fault that is overtaken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    ZeroPage,
    SharedPage,
    Swap,
    SharedSwap,
    File,
    FilePage,
    SharedMemory,
}

impl Before {
    /// A read has to bring the page first.
    fn is_elsewhere(self) -> bool {
        matches!(self, Self::Swap | Self::SharedSwap | Self::File | Self::SharedMemory)
    }
}

const ALL: [Before; 8] = [
    Before::Nothing,
    Before::ZeroPage,
    Before::SharedPage,
    Before::Swap,
    Before::SharedSwap,
    Before::File,
    Before::FilePage,
    Before::SharedMemory,
];

fn prepared<S: SoftSystem>(w: &World<S>, before: Before) -> (MmRef<S>, Option<MmRef<S>>) {
    let mm = w.mm();
    match before {
        Before::File | Before::FilePage => {
            let file = w.machine.new_file(4, FileExt::default()).unwrap();
            w.map_with(&mm, 0x100, 4, RW, Some((&file, 0)), VmaExt::default());
        }
        Before::SharedMemory => {
            let shmem = w.machine.new_shmem(4).unwrap();
            w.map_with(&mm, 0x100, 4, SHARED_RW, Some((&shmem, 0)), VmaExt::default());
        }
        _ => w.map(&mm, 0x100, 4, RW),
    }
    match before {
        Before::Nothing | Before::File | Before::SharedMemory => {}
        Before::ZeroPage | Before::FilePage => assert_eq!(w.peek(&mm, 0x100), 0),
        Before::SharedPage | Before::Swap | Before::SharedSwap => w.poke(&mm, 0x100, 0),
    }
    let shared = matches!(before, Before::SharedPage | Before::SharedSwap);
    let child = shared.then(|| w.machine.fork(&mm).unwrap());
    if matches!(before, Before::Swap | Before::SharedSwap) {
        assert_eq!(w.machine.swap_out(w.page(&mm, 0x100)), Ok(true));
    }
    (mm, child)
}

fn a_second_look_finds_each_faster_thread<S: SoftSystem>() {
    for before in ALL {
        for (mine, others) in
            [(Access::Write, Access::Write), (Access::Write, Access::Read), (Access::Read, Access::Write)]
        {
            let (charges, hook) = Charges::new();
            let w = Arc::new(World::<S>::with(Heap::global().unwrap(), 64, |config| config.charge = Some(hook)));
            let (mm, child) = prepared(&w, before);
            let (world, same, asked) = (w.clone(), mm.clone(), Arc::new(Mutex::new(false)));
            let noted = asked.clone();
            charges.next(move |_| {
                *noted.lock().unwrap() = true;
                let faster = std::thread::spawn(move || match others {
                    Access::Write => world.poke(&same, 0x100, 9),
                    _ => assert_eq!(world.peek(&same, 0x100), 0),
                });
                faster.join().unwrap();
                true
            });
            let free = w.machine.frames().free_frames();
            w.machine.fault(&mm, at(0x100), mine).unwrap();
            // Overtaken, it keeps nothing.
            assert!(free - w.machine.frames().free_frames() <= 3);
            charges.next(|_| true);
            let report = w.check();
            charges.check(&w);
            // A read of what is there, or of the zero page, asks for nothing.
            let wrote = others == Access::Write && *asked.lock().unwrap();
            assert_eq!(mine == Access::Write || before.is_elsewhere(), *asked.lock().unwrap(), "{before:?}");
            assert_eq!(w.peek(&mm, 0x100), if wrote { 9 } else { 0 }, "{before:?} {mine:?} {others:?}");
            assert!(report.anon <= 2 && report.mappings <= 3, "{before:?} {report:?}");
            if let Some(child) = child {
                assert_eq!(w.peek(&child, 0x100), 0);
                w.check();
                w.machine.exit(child);
            }
            w.machine.exit(mm);
            charges.check(&w);
            Arc::into_inner(w).expect("the last reference").end();
        }
    }
}

fn a_second_look_finds_an_address_space_that_is_torn_down<S: SoftSystem>() {
    for before in ALL {
        let (charges, hook) = Charges::new();
        let w = World::<S>::with(Heap::global().unwrap(), 64, |config| config.charge = Some(hook));
        let (mm, child) = prepared(&w, before);
        let (pte, same) = (w.pte(&mm, 0x100), mm.clone());
        charges.next(move |_| {
            same.data().unstable.store(true, Ordering::Release);
            true
        });
        let faulted = w.machine.fault(&mm, at(0x100), Access::Write);
        charges.next(|_| true);
        let now = w.pte(&mm, 0x100);
        assert_eq!(faulted, Err(Error::Unstable), "{before:?}");
        assert!(now == pte || (now.is_none() && pte.is_none()), "{before:?} {now:?}");
        w.check();
        charges.check(&w);
        mm.data().unstable.store(false, Ordering::Release);
        w.poke(&mm, 0x100, 3);
        w.check();
        child.into_iter().for_each(|child| w.machine.exit(child));
        w.machine.exit(mm);
        charges.check(&w);
        w.end();
    }
    // Without a charge: the zero page.
    let w = World::<S>::new(16);
    let mm = w.mm();
    w.map(&mm, 0x100, 1, RW);
    mm.data().unstable.store(true, Ordering::Release);
    assert_eq!(w.machine.fault(&mm, at(0x100), Access::Read), Err(Error::Unstable));
    assert_eq!(w.check().special, 0);
    w.machine.exit(mm);
    w.end();
}

fn charges_are_what_is_present<S: SoftSystem>() {
    let (charges, hook) = Charges::new();
    let w = World::<S>::with(Heap::global().unwrap(), 128, |config| {
        config.charge = Some(hook);
        config.fault_around = 16;
    });
    let file = w.machine.new_file(40, FileExt::default()).unwrap();
    let mm = w.mm();
    w.map(&mm, 0x100, 8, RW);
    w.map_with(&mm, 0x200, 40, RW, Some((&file, 0)), VmaExt::default());
    let look = || {
        w.check();
        charges.check(&w);
    };
    w.peek(&mm, 0x100);
    look();
    w.poke(&mm, 0x100, 1);
    w.poke(&mm, 0x101, 1);
    look();
    w.peek(&mm, 0x203);
    look();
    w.poke(&mm, 0x204, 1);
    w.poke(&mm, 0x220, 1);
    look();
    let child = w.machine.fork(&mm).unwrap();
    look();
    w.poke(&child, 0x101, 2);
    look();
    assert_eq!(w.machine.swap_out(w.page(&mm, 0x100)), Ok(true));
    look();
    w.peek(&child, 0x100);
    look();
    w.machine.exit(mm);
    look();
    w.machine.exit(child);
    look();
    drop(file);
    w.end();
}

fn a_refused_charge_changes_nothing<S: SoftSystem>() {
    for before in ALL {
        for access in [Access::Read, Access::Write] {
            let (charges, hook) = Charges::new();
            let w = World::<S>::with(Heap::global().unwrap(), 64, |config| config.charge = Some(hook));
            let (mm, child) = prepared(&w, before);
            let pte = w.pte(&mm, 0x100);
            let none = |pte: Pte| if pte.is_none() { Pte::None } else { pte };
            charges.limit(Some(0));
            let free = w.machine.frames().free_frames();
            let faulted = w.machine.fault(&mm, at(0x100), access);
            let present = matches!(pte, Pte::Present { .. } | Pte::Special { .. });
            let needs_none = access == Access::Read && (present || before == Before::Nothing);
            assert_eq!(faulted, if needs_none { Ok(()) } else { Err(Error::NoMemory) }, "{before:?} {access:?}");
            if faulted.is_err() {
                assert_eq!(none(w.pte(&mm, 0x100)), none(pte));
            }
            assert_eq!(w.machine.frames().free_frames(), free);
            w.check();
            charges.check(&w);
            // Fork charges the child for what it copies.
            charges.limit(None);
            w.machine.fault(&mm, at(0x100), Access::Write).unwrap();
            w.check();
            charges.limit(Some(0));
            let mms = w.check().mms;
            if !matches!(before, Before::SharedMemory) {
                assert_eq!(w.machine.fork(&mm).err(), Some(Error::NoMemory));
            }
            assert_eq!(w.check().mms, mms);
            charges.check(&w);
            charges.limit(None);
            w.poke(&mm, 0x100, 1);
            child.into_iter().for_each(|child| w.machine.exit(child));
            w.machine.exit(mm);
            charges.check(&w);
            w.end();
        }
    }
    // Fault-around goes as far as it may.
    let (charges, hook) = Charges::new();
    let w = World::<S>::with(Heap::global().unwrap(), 64, |config| {
        config.charge = Some(hook);
        config.fault_around = 16;
    });
    let file = w.machine.new_file(16, FileExt::default()).unwrap();
    let mm = w.mm();
    w.map_with(&mm, 0x100, 16, RW, Some((&file, 0)), VmaExt::default());
    charges.limit(Some(3));
    assert_eq!(w.peek(&mm, 0x103), 0);
    assert_eq!(w.check().mappings, 1);
    charges.check(&w);
    let Pte::Present { flags, .. } = w.pte(&mm, 0x103) else { panic!() };
    assert_eq!(flags, PteFlags::YOUNG);
    w.machine.exit(mm);
    drop(file);
    w.end();
}
