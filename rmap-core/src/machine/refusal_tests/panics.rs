//! An embedder's function panics in the middle of an operation: locks are free, figures and charges are right, the
//! reverse map is sound, and at the end nothing has leaked.

use super::digest::{Leave, difference, digest};
use super::operations::operations;
use super::scene::{FILLER, Scarce, Scene};
use crate::base::alloc::Heap;
use crate::base::error::{Error, Result};
use crate::base::lockdep;
use crate::machine::ChargeHook;
use crate::machine::life_tests::{RW, World, at, on_every_engine};
use crate::machine::system::{Access, VmaExt};
use crate::tests::trip::{pass, tripped_at};
use core::cell::Cell;
use core::mem::ManuallyDrop;

on_every_engine!(each_panic_in_each_operation, a_handler_that_panics, a_close_that_panics_in_exit);

std::thread_local! {
    /// Pages charged and not uncharged by this thread.
    static CHARGED: Cell<i64> = const { Cell::new(0) };
}

/// Counts, and can be made to panic.
const HOOK: ChargeHook = ChargeHook {
    charge: |_, _, pages| {
        pass("charge");
        CHARGED.set(CHARGED.get() + pages as i64);
        true
    },
    uncharge: |_, _, pages| CHARGED.set(CHARGED.get() - pages as i64),
    arg: 0,
};

fn scene<S: Scarce>() -> ManuallyDrop<Scene<S>> {
    CHARGED.set(0);
    Scene::new(Heap::global().unwrap(), Some(HOOK))
}

/// What is charged is what is present.
fn sound<S: Scarce>(scene: &Scene<S>) {
    lockdep::assert_no_locks("a function of the embedder's has panicked");
    scene.world.check();
    let mut present = 0;
    scene.world.machine.for_each_mm(|mm| present += mm.data().counters.rss() as i64).unwrap();
    assert_eq!(CHARGED.get(), present, "pages charged");
}

fn each_panic_in_each_operation<S: Scarce>() {
    let mut panics = 0;
    for op in &operations::<S>() {
        // What has not been: these do what they are for at the end. Then a fault may map neighbours, and asks again.
        let undone =
            |n| op.method == "fork" || n == 0 && matches!(op.method, "fault" | "read" | "write" | "pin" | "uffd_copy");
        for place in ["open", "close", "fault", "read_page", "charge"] {
            // They end with an exit, which has a test of its own.
            if place == "close" && matches!(op.method, "fork" | "exec") {
                continue;
            }
            for n in 0.. {
                let scene = scene::<S>();
                let leave = if op.leave == Leave::Nothing { Leave::Readiness } else { op.leave };
                let before = digest(&scene.world.machine, leave);
                let done = tripped_at(place, n, || (op.act)(&scene));
                sound(&scene);
                if done.is_none() && undone(n) {
                    let after = digest(&scene.world.machine, leave);
                    assert!(before == after, "{} and {place} {n}: {}", op.method, difference(&before, &after));
                    assert_eq!((op.act)(&scene), Ok(()));
                    sound(&scene);
                }
                Scene::end(scene);
                assert_eq!(CHARGED.get(), 0);
                match done {
                    Some(done) => {
                        assert_eq!(done, Ok(()), "{}", op.method);
                        break;
                    }
                    None => panics += 1,
                }
            }
        }
    }
    assert!(panics >= 50, "{panics}");
}

fn a_handler_that_panics<S: Scarce>() {
    let scene = scene::<S>();
    let fault = || -> Result<()> { scene.world.machine.fault(&scene.parent, at(0x701), Access::Write) };
    assert_eq!(tripped_at("missing", 0, fault), None);
    sound(&scene);
    assert_eq!(fault(), Err(Error::Bus));
    Scene::end(scene);
}

/// What was cut short goes with the machine.
fn a_close_that_panics_in_exit<S: Scarce>() {
    let world = World::<S>::new(16);
    let mm = world.mm();
    for vpn in [0x100, 0x200, 0x300] {
        world.map_with(&mm, vpn, 2, RW, None, VmaExt { ops: Some(&FILLER), private: 0 });
        world.poke(&mm, vpn, 1);
    }
    assert!(tripped_at("close", 1, || world.machine.exit(mm)).is_none());
    lockdep::assert_no_locks("a function of the embedder's has panicked");
    assert_eq!(world.check().vmas, 1);
    let World { machine, heap } = world;
    drop(machine);
    assert_eq!(heap.in_use(), 0);
}
