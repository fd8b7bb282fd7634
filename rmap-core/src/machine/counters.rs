//! An address space's figures, in pages: what the kernel keeps in `mm_struct`, and `/proc/PID/status` shows.
//!
//! All are Relaxed: each is exact once nobody changes the address space, and agrees then with a count of its VMAs and
//! page-table entries.

use crate::base::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// The figures at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64,)* }

        /// The figures as they change. See the [module](self).
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64,)* }

        impl Counters {
            /// The figures now.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Pages of all VMAs.
    total_vm
    /// Pages of VMAs with LOCKED.
    locked_vm
    /// Pages whose reference count was raised for good (pins by the program).
    pinned_vm
    /// Pages of private writable VMAs that are no stacks.
    data_vm
    /// Pages of executable VMAs that are not writable.
    exec_vm
    /// Pages of stacks.
    stack_vm
    /// Pages of shared VMAs with a file.
    shared_vm
    /// The most `total_vm` ever was.
    hiwater_vm
    /// The most anonymous, file and shmem pages present ever were together.
    hiwater_rss
    /// Anonymous pages present.
    rss_anon
    /// Pages of files present.
    rss_file
    /// Pages of shared anonymous memory present.
    rss_shmem
    /// Entries that stand for pages in swap.
    swap_ents
}

/// Counts up.
#[inline]
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Counts down.
#[inline]
pub fn sub(counter: &AtomicU64, n: u64) {
    let before = counter.fetch_sub(n, Ordering::Relaxed);
    debug_assert!(before >= n, "a counter falls below zero");
}

impl Counters {
    /// Pages present.
    pub fn rss(&self) -> u64 {
        let of = |c: &AtomicU64| c.load(Ordering::Relaxed);
        of(&self.rss_anon) + of(&self.rss_file) + of(&self.rss_shmem)
    }

    /// Notes the high-water marks. Called before figures fall and when they are read.
    pub fn note_peaks(&self) {
        self.hiwater_vm.fetch_max(self.total_vm.load(Ordering::Relaxed), Ordering::Relaxed);
        self.hiwater_rss.fetch_max(self.rss(), Ordering::Relaxed);
    }
}
