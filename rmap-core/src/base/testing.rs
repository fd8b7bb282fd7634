//! What tests share: threads, how long they go on, and what lives for ever.

use crate::base::sync::{Mutex, rank};
use core::any::Any;
use std::boxed::Box;
use std::vec::Vec;

/// Rounds of a test that takes `full`: under Miri `few`, else at most as many as `RMAP_TEST_ROUNDS` says.
pub(crate) fn rounds(full: usize, few: usize) -> usize {
    if cfg!(miri) {
        return few;
    }
    let cap = std::env::var("RMAP_TEST_ROUNDS").ok();
    cap.map_or(full, |cap| full.min(cap.parse().expect("RMAP_TEST_ROUNDS is a number")))
}

/// A value that is never dropped, and that LeakSanitizer finds to be still in use.
pub(crate) fn forever<T: Send + Sync + 'static>(value: T) -> &'static T {
    static ALL: Mutex<Vec<&'static (dyn Any + Send + Sync)>, { rank::LEAF }> = Mutex::new(Vec::new());
    let value: &'static T = Box::leak(Box::new(value));
    ALL.lock().push(value);
    value
}

/// Threads that may borrow: a scheduler's.
#[cfg(shuttle)]
pub(crate) use shuttle::thread::scope;

#[cfg(not(shuttle))]
pub(crate) use told::scope;

#[cfg(not(shuttle))]
mod told {
    use crate::base::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    /// Threads that have ended in a [`scope`].
    static ENDED: AtomicUsize = AtomicUsize::new(0);

    /// std's scope, whose end ThreadSanitizer sees to come after the ends of its threads: std says so in a function that is
    /// not compiled for it.
    #[derive(Clone, Copy)]
    pub(crate) struct Scope<'scope, 'env: 'scope>(&'scope thread::Scope<'scope, 'env>);

    impl<'scope> Scope<'scope, '_> {
        /// Starts a thread of the scope.
        pub(crate) fn spawn<T: Send + 'scope>(
            self,
            body: impl FnOnce() -> T + Send + 'scope,
        ) -> thread::ScopedJoinHandle<'scope, T> {
            self.0.spawn(|| {
                let result = body();
                // Release; pairs with the Acquire in `scope`.
                ENDED.fetch_add(1, Ordering::Release);
                result
            })
        }
    }

    /// Threads that may borrow, and that have all ended when this returns.
    pub(crate) fn scope<'env, T>(body: impl for<'scope> FnOnce(Scope<'scope, 'env>) -> T) -> T {
        let result = thread::scope(|scope| body(Scope(scope)));
        // Acquire; pairs with the Release in `Scope::spawn`.
        ENDED.load(Ordering::Acquire);
        result
    }
}
