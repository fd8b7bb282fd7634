//! The locks that a thread holds across the boundary, counted: what must not run under one asks here.

use crate::status::Outcome;
use crate::status::rmap_status::RMAP_ERR_LOCK;
use core::cell::Cell;

std::thread_local! {
    // Without a destructor, so that first use does not register one (which makes the C library allocate).
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// A lock was taken for the program.
#[inline]
pub(crate) fn took() {
    HELD.set(HELD.get() + 1);
}

/// A lock of the program's was released.
#[inline]
pub(crate) fn released() {
    // Unlocked by another thread than the one that locked: forbidden, and no reason to wrap.
    HELD.set(HELD.get().saturating_sub(1));
}

/// `RMAP_ERR_LOCK` unless this thread holds no lock of librmap's.
#[inline]
pub(crate) fn none() -> Outcome {
    if HELD.get() == 0 { Ok(()) } else { Err(RMAP_ERR_LOCK) }
}

/// Counts a lock that librmap itself holds while it calls the program.
pub(crate) struct Inside(());

impl Inside {
    #[inline]
    pub(crate) fn new() -> Self {
        took();
        Self(())
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        released();
    }
}
