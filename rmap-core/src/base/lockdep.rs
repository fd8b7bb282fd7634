//! Lock order and recursion, checked at run time in debug builds.
//!
//! Each thread keeps a stack of the locks that it holds. Before a lock is taken, its rank is compared with those held:
//! locks are taken in the order of [`rank`](crate::base::sync::rank), outermost first. What is wrong panics at once, on
//! the first run that takes the locks in the wrong order, not on the unlucky one that deadlocks.
//!
//! | acquisition | must be true |
//! |---|---|
//! | blocking | its rank is above every rank held |
//! | blocking, nested | its rank is not below any rank held |
//! | try | nothing: it cannot wait. But what it took is held, and counts for the next one |
//! | of a lock this thread holds, blocking, or a read of any sort | never: a waiting writer would deadlock the second read |
//!
//! A grace-period reader is on the stack too, without a rank, so that waiting for oneself is reported.
//!
//! The stack is a thread-local of fixed size without a destructor: it neither allocates nor makes the C library
//! allocate. In release builds, under loom and without `std` every function here is empty, but that a build may
//! [count](super::lock_count).

use super::lock_count;

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shared with other readers.
    Read,
    /// Exclusive.
    Write,
    /// Not a lock: a grace-period reader.
    Rcu,
}

/// What an acquisition promises about the locks held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// All are of a lower rank.
    Ordered,
    /// None is of a higher rank.
    Nested,
    /// Nothing: it does not wait.
    Try,
}

/// The rank that a grace-period reader is recorded with: it takes no part in the order.
#[cfg_attr(not(all(debug_assertions, feature = "std", not(loom))), allow(dead_code))]
const NO_RANK: u8 = 0;

#[cfg(all(debug_assertions, feature = "std", not(loom)))]
mod checked {
    use super::{Kind, NO_RANK, Order};
    use crate::base::sync::rank;
    use std::cell::{Cell, RefCell};
    use std::vec::Vec;

    /// Locks that one thread can hold; two page-table locks and a walk need fewer than ten.
    const DEPTH: usize = 64;

    #[derive(Clone, Copy)]
    struct Held {
        rank: u8,
        address: usize,
        kind: Kind,
    }

    struct Stack {
        len: usize,
        held: [Held; DEPTH],
    }

    impl Stack {
        fn held(&self) -> &[Held] {
            &self.held[..self.len]
        }

        fn push(&mut self, held: Held) {
            assert!(self.len < DEPTH, "lockdep: a thread holds more than {DEPTH} locks");
            self.held[self.len] = held;
            self.len += 1;
        }

        /// The latest entry of that lock; locks need not be released in the reverse order.
        fn find(&self, address: usize, kind: Kind) -> Option<usize> {
            self.held().iter().rposition(|h| h.address == address && h.kind == kind)
        }

        fn remove(&mut self, at: usize) {
            self.held.copy_within(at + 1..self.len, at);
            self.len -= 1;
        }
    }

    crate::base::sync::thread_local! {
        static STACK: RefCell<Stack> = const {
            RefCell::new(Stack { len: 0, held: [Held { rank: NO_RANK, address: 0, kind: Kind::Rcu }; DEPTH] })
        };
    }

    std::thread_local! {
        /// Where `audit::record` collects on this thread; null when it does not run.
        static AUDIT: Cell<*mut Vec<super::audit::Acquisition>> = const { Cell::new(core::ptr::null_mut()) };
    }

    /// The name of a rank, for messages.
    fn name(rank: u8) -> &'static str {
        use crate::base::sync::rank;
        match rank {
            rank::MMAP_LOCK => "MMAP_LOCK",
            rank::PAGE_LOCK => "PAGE_LOCK",
            rank::KSM => "KSM",
            rank::CACHE => "CACHE",
            rank::I_MMAP => "I_MMAP",
            rank::ANON_VMA => "ANON_VMA",
            rank::PAGE_TABLE => "PAGE_TABLE",
            rank::LEAF => "LEAF",
            rank::CHAIN => "CHAIN",
            _ => "unknown",
        }
    }

    #[track_caller]
    pub(crate) fn check(rank: u8, address: usize, kind: Kind, order: Order) {
        STACK.with(|stack| {
            let stack = stack.borrow();
            for held in stack.held() {
                if held.kind == Kind::Rcu {
                    continue;
                }
                // A try for writing cannot succeed, and cannot wait: it says no, which is an answer.
                let recursive = held.address == address && (order != Order::Try || kind == Kind::Read);
                assert!(
                    !recursive,
                    "lockdep: recursion: {kind:?} of the lock at {address:#x}, rank {} ({}), which this thread holds ({:?})",
                    rank,
                    name(rank),
                    held.kind,
                );
                let ordered = match order {
                    Order::Ordered => held.rank < rank,
                    Order::Nested => held.rank <= rank,
                    Order::Try => true,
                };
                assert!(
                    ordered,
                    "lockdep: order: {kind:?} of the lock at {address:#x}, rank {} ({}), while this thread holds {:#x}, rank {} ({}, {:?})",
                    rank,
                    name(rank),
                    held.address,
                    held.rank,
                    name(held.rank),
                    held.kind,
                );
            }
        });
    }

    #[track_caller]
    pub(super) fn acquired(rank: u8, address: usize, kind: Kind) {
        STACK.with(|stack| stack.borrow_mut().push(Held { rank, address, kind }));
        let audit = AUDIT.get();
        if !audit.is_null() && kind != Kind::Rcu {
            // Locks that an audited allocator takes for `push` are not the audited code's.
            AUDIT.set(core::ptr::null_mut());
            // SAFETY: (1) not null only while `record` runs on this thread, whose local it points to; (2) `record` does
            // not touch it meanwhile; (3) nothing `push` calls gets at it: `AUDIT` is null.
            unsafe { (*audit).push(super::audit::Acquisition { rank, address, kind }) };
            AUDIT.set(audit);
        }
    }

    #[track_caller]
    pub(crate) fn released(address: usize, kind: Kind) {
        STACK.with(|stack| {
            let mut stack = stack.borrow_mut();
            match stack.find(address, kind) {
                Some(at) => stack.remove(at),
                // A second panic while unwinding would abort and hide the first.
                None => assert!(
                    std::thread::panicking(),
                    "lockdep: {kind:?} of {address:#x} is released by a thread that does not hold it",
                ),
            }
        });
    }

    #[track_caller]
    pub(crate) fn downgraded(address: usize) {
        STACK.with(|stack| {
            let mut stack = stack.borrow_mut();
            match stack.find(address, Kind::Write) {
                Some(at) => stack.held[at].kind = Kind::Read,
                None => panic!("lockdep: {address:#x} is downgraded by a thread that does not hold it for writing"),
            }
        });
    }

    #[track_caller]
    pub(crate) fn assert_no_locks(what: &str) {
        STACK.with(|stack| {
            let stack = stack.borrow();
            if let Some(held) = stack.held().iter().find(|h| h.kind != Kind::Rcu) {
                panic!(
                    "lockdep: {what} while this thread holds {:#x}, rank {} ({}, {:?})",
                    held.address,
                    held.rank,
                    name(held.rank),
                    held.kind,
                );
            }
        });
    }

    /// The allocator may be the embedder's, and wait for reclaim: no lock is held that reclaim could want (G8, T11).
    #[track_caller]
    pub(crate) fn assert_may_allocate() {
        STACK.with(|stack| {
            let stack = stack.borrow();
            if let Some(held) = stack.held().iter().find(|h| h.kind != Kind::Rcu && h.rank >= rank::CACHE) {
                panic!(
                    "lockdep: the allocator is called while this thread holds {:#x}, rank {} ({}, {:?})",
                    held.address,
                    held.rank,
                    name(held.rank),
                    held.kind,
                );
            }
        });
    }

    #[track_caller]
    pub(crate) fn assert_no_reader(address: usize, what: &str) {
        STACK.with(|stack| {
            let stack = stack.borrow();
            assert!(
                stack.find(address, Kind::Rcu).is_none(),
                "lockdep: {what} inside a reader of the same domain would wait for itself",
            );
        });
    }

    pub(super) fn record(f: impl FnOnce()) -> Vec<super::audit::Acquisition> {
        /// Puts the outer recording back, also when `f` unwinds.
        struct Restore(*mut Vec<super::audit::Acquisition>);
        impl Drop for Restore {
            fn drop(&mut self) {
                AUDIT.set(self.0);
            }
        }
        let mut acquisitions = Vec::new();
        let restore = Restore(AUDIT.replace(&raw mut acquisitions));
        f();
        drop(restore);
        acquisitions
    }
}

#[cfg(all(debug_assertions, feature = "std", not(loom)))]
pub(crate) use checked::{assert_may_allocate, assert_no_locks, assert_no_reader, check, downgraded, released};

/// The same functions where nothing is checked: they compile to nothing.
#[cfg(not(all(debug_assertions, feature = "std", not(loom))))]
mod unchecked {
    use super::{Kind, Order};

    #[inline]
    pub(crate) fn check(_rank: u8, _address: usize, _kind: Kind, _order: Order) {}
    #[inline]
    pub(super) fn acquired(_rank: u8, _address: usize, _kind: Kind) {}
    #[inline]
    pub(crate) fn released(_address: usize, _kind: Kind) {}
    #[inline]
    pub(crate) fn downgraded(_address: usize) {}
    #[inline]
    pub(crate) fn assert_no_locks(_what: &str) {}
    #[inline]
    pub(crate) fn assert_no_reader(_address: usize, _what: &str) {}
    #[inline]
    pub(crate) fn assert_may_allocate() {}
}

#[cfg(not(all(debug_assertions, feature = "std", not(loom))))]
pub(crate) use unchecked::{assert_may_allocate, assert_no_locks, assert_no_reader, check, downgraded, released};

#[cfg(all(debug_assertions, feature = "std", not(loom)))]
use checked as held;
#[cfg(not(all(debug_assertions, feature = "std", not(loom))))]
use unchecked as held;

/// The lock at `address` is this thread's.
#[inline]
#[cfg_attr(debug_assertions, track_caller)]
pub(crate) fn acquired(rank: u8, address: usize, kind: Kind) {
    lock_count::took(rank);
    held::acquired(rank, address, kind);
}

/// A grace-period reader of the domain at `address` enters.
#[inline]
#[cfg_attr(debug_assertions, track_caller)]
pub(crate) fn reader_enters(address: usize) {
    held::acquired(NO_RANK, address, Kind::Rcu);
}

/// A grace-period reader of the domain at `address` leaves.
#[inline]
#[cfg_attr(debug_assertions, track_caller)]
pub(crate) fn reader_leaves(address: usize) {
    released(address, Kind::Rcu);
}

/// Which locks a piece of code takes, so that a test can show that two unrelated ones share none.
#[cfg(all(debug_assertions, feature = "std", not(loom)))]
pub mod audit {
    pub use super::Kind;
    use std::vec::Vec;

    /// One lock taken.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Acquisition {
        /// Its rank, one of [`rank`](crate::base::sync::rank).
        pub rank: u8,
        /// Its address.
        pub address: usize,
        /// Shared or exclusive.
        pub kind: Kind,
    }

    /// Runs `f` and returns the locks that this thread took meanwhile, try-locks that succeeded included, in order. An
    /// inner `record` keeps its acquisitions from the outer one.
    pub fn record(f: impl FnOnce()) -> Vec<Acquisition> {
        super::checked::record(f)
    }
}

#[cfg(all(test, debug_assertions, feature = "std", not(loom)))]
mod tests {
    use crate::base::rcu::Rcu;
    use crate::base::sync::atomic::AtomicU32;
    use crate::base::sync::{Mutex, RwSem, SpinLock, audit, bit_lock, rank};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::string::String;
    use std::vec::Vec;

    /// The message of the panic in `f`, which must panic.
    fn message(f: impl FnOnce()) -> String {
        let payload = catch_unwind(AssertUnwindSafe(f)).expect_err("lockdep saw nothing wrong");
        payload.downcast_ref::<String>().expect("a formatted message").clone()
    }

    #[test]
    fn wrong_order_names_both_ranks() {
        let anon_vma = RwSem::<{ rank::ANON_VMA }>::new();
        let i_mmap = RwSem::<{ rank::I_MMAP }>::new();
        let _held = anon_vma.read();
        let message = message(|| drop(i_mmap.write()));
        assert!(message.contains("rank 5 (I_MMAP)"), "{message}");
        assert!(message.contains("rank 6 (ANON_VMA, Read)"), "{message}");
        // What failed is not held.
        assert!(!i_mmap.is_locked());
    }

    #[test]
    fn right_order_and_release_in_any_order() {
        let mmap_lock = RwSem::<{ rank::MMAP_LOCK }>::new();
        let root = RwSem::<{ rank::ANON_VMA }>::new();
        let pte = SpinLock::<{ rank::PAGE_TABLE }>::new();
        for _ in 0..2 {
            let outer = mmap_lock.write();
            let middle = root.read();
            let inner = pte.lock();
            drop(outer);
            drop(inner);
            drop(middle);
        }
    }

    #[test]
    fn equal_rank_only_nested() {
        let parent = RwSem::<{ rank::MMAP_LOCK }>::new();
        let child = RwSem::<{ rank::MMAP_LOCK }>::new();
        let _parent = parent.write();
        assert!(message(|| drop(child.write())).contains("order"));
        drop(child.write_nested());
        let (one, two) = (SpinLock::<{ rank::PAGE_TABLE }>::new(), SpinLock::<{ rank::PAGE_TABLE }>::new());
        let _one = one.lock();
        drop(two.lock_nested());
        // Nested is for equal ranks, not for lower ones.
        assert!(message(|| drop(child.write_nested())).contains("order"));
    }

    #[test]
    fn recursion_panics_even_by_try() {
        let sem = RwSem::<{ rank::ANON_VMA }>::new();
        {
            let _read = sem.read();
            assert!(message(|| drop(sem.read())).contains("recursion"));
            assert!(message(|| drop(sem.try_read())).contains("recursion"));
            assert!(message(|| drop(sem.write_nested())).contains("recursion"));
            // A try for writing says no.
            assert!(sem.try_write().is_none());
        }
        let _write = sem.write();
        assert!(message(|| drop(sem.read())).contains("recursion"));
        assert!(message(|| drop(sem.try_read())).contains("recursion"));
    }

    #[test]
    fn try_is_exempt_but_recorded() {
        let lru = Mutex::<(), { rank::LEAF }>::new(());
        let flags = AtomicU32::new(0);
        let root = RwSem::<{ rank::ANON_VMA }>::new();
        let held = lru.lock();
        assert!(bit_lock::try_lock(&flags, 0, rank::PAGE_LOCK));
        drop(held);
        // The LRU lock is gone, the page lock counts: what is inside it may follow, what is outside may not.
        drop(root.read());
        let mmap_lock = RwSem::<{ rank::MMAP_LOCK }>::new();
        assert!(message(|| drop(mmap_lock.read())).contains("rank 2 (PAGE_LOCK, Write)"));
        bit_lock::unlock(&flags, 0, 7);
        drop(mmap_lock.read());
    }

    #[test]
    fn raw_unlock_and_downgrade_are_followed() {
        let sem = RwSem::<{ rank::ANON_VMA }>::new();
        let read = sem.write().downgrade();
        read.into_raw();
        assert!(message(|| drop(sem.try_read())).contains("(Read)"));
        // SAFETY: taken for writing above, downgraded, and the guard was given up.
        unsafe { sem.unlock_read_raw() };
        drop(sem.read());
    }

    #[test]
    fn waiting_for_oneself() {
        let rcu = Rcu::new();
        let guard = rcu.read_lock();
        assert!(message(|| rcu.synchronize()).contains("synchronize inside a reader"));
        drop(guard);
        rcu.synchronize();
        let lock = Mutex::<(), { rank::LEAF }>::new(());
        let _held = lock.lock();
        assert!(message(|| assert_eq!(rcu.reclaim(), 0)).contains("reclaim while this thread holds"));
    }

    #[test]
    fn audit_lists_what_is_taken() {
        let sem = RwSem::<{ rank::ANON_VMA }>::new();
        let lock = Mutex::<u32, { rank::LEAF }>::new(0);
        let record = || {
            let _read = sem.read();
            *lock.lock() += 1;
            assert!(sem.try_write().is_none());
        };
        let taken: Vec<_> = audit::record(record).iter().map(|a| (a.rank, a.kind)).collect();
        assert_eq!(taken, [(rank::ANON_VMA, audit::Kind::Read), (rank::LEAF, audit::Kind::Write)]);
        record();
        assert!(audit::record(|| ()).is_empty());
    }
}
