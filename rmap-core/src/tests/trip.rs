//! Places in the embedder's functions at which a test can make one panic.

use core::cell::Cell;
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

std::thread_local! {
    /// The place, and how often it is passed before.
    static ARMED: Cell<Option<(&'static str, u32)>> = const { Cell::new(None) };
}

/// Panics if this thread has armed the place, and it is its turn. Without a message: nobody is to read it.
pub(crate) fn pass(place: &'static str) {
    let Some((armed, left)) = ARMED.get() else { return };
    if armed == place {
        ARMED.set(left.checked_sub(1).map(|left| (armed, left)));
        if left == 0 {
            resume_unwind(Box::new("tripped"));
        }
    }
}

/// Runs `f`, which panics when it passes the place for the `n`-th time, counted from 0. `None`: it did; else what `f`
/// returned.
pub(crate) fn tripped_at<T>(place: &'static str, n: u32, f: impl FnOnce() -> T) -> Option<T> {
    ARMED.set(Some((place, n)));
    let done = catch_unwind(AssertUnwindSafe(f));
    let fired = ARMED.replace(None).is_none();
    match done {
        Ok(value) => {
            assert!(!fired, "a panic was swallowed");
            Some(value)
        }
        Err(panic) => {
            if !fired {
                resume_unwind(panic);
            }
            None
        }
    }
}
