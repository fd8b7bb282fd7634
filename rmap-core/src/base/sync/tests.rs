//! Unit tests of the locks.

extern crate std;

use super::atomic::{AtomicU32, Ordering};
use super::*;
use std::sync::Barrier;
use std::thread;

#[test]
fn sizes() {
    assert!(size_of::<RwSem<0>>() <= 16);
    assert_eq!(size_of::<SpinLock<0>>(), 4);
    assert_eq!(align_of::<CachePadded<u8>>(), 64);
}

#[test]
fn waiters_are_counted() {
    static SEM: RwSem<{ rank::ANON_VMA }> = RwSem::new();
    let write = SEM.write();
    assert!(!SEM.is_contended());
    assert!(SEM.is_write_locked());
    let reader = thread::spawn(|| drop(SEM.read()));
    let writer = thread::spawn(|| drop(SEM.write()));
    while SEM.raw.waiters() != 2 {
        thread::yield_now();
    }
    assert!(SEM.is_contended());
    drop(write);
    reader.join().unwrap();
    writer.join().unwrap();
    assert!(!SEM.is_contended());
    assert!(!SEM.is_locked());
}

#[test]
fn downgrade_lets_readers_in_and_keeps_writers_out() {
    let sem = RwSem::<{ rank::ANON_VMA }>::new();
    let write = sem.write();
    crate::base::testing::scope(|scope| {
        scope.spawn(|| assert!(sem.try_read().is_none())).join().unwrap();
        let read = write.downgrade();
        scope
            .spawn(|| {
                assert!(sem.try_write().is_none());
                assert!(sem.try_read().is_some());
            })
            .join()
            .unwrap();
        drop(read);
    });
    assert!(sem.try_write().is_some());
}

#[test]
fn mutex_and_spin_lock_exclude() {
    const ROUNDS: u32 = 20_000;
    struct Shared<'a>(&'a cell::UnsafeCell<u32>);
    // SAFETY: accessed under `spin`.
    unsafe impl Sync for Shared<'_> {}
    let mutex = Mutex::<u32, { rank::CACHE }>::new(0);
    let spin = SpinLock::<{ rank::LEAF }>::new();
    let cell = cell::UnsafeCell::new(0_u32);
    let shared = &Shared(&cell);
    let (mutex, spin) = (&mutex, &spin);
    crate::base::testing::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    *mutex.lock() += 1;
                    spin.lock().into_raw();
                    // SAFETY: under `spin`.
                    shared.0.with_mut(|value| unsafe { *value += 1 });
                    if round % 1_000 == 0 {
                        thread::yield_now();
                    }
                    // SAFETY: taken above, the guard was given up.
                    unsafe { spin.unlock_raw() };
                }
            });
        }
    });
    assert_eq!(*mutex.lock(), 4 * ROUNDS);
    assert_eq!(cell.into_inner(), 4 * ROUNDS);
}

#[test]
fn mutex_holds_unsized_data() {
    let mut mutex = Mutex::<[u32; 3], { rank::LEAF }>::new([1, 2, 3]);
    mutex.get_mut()[0] = 7;
    let slice: &Mutex<[u32], { rank::LEAF }> = &mutex;
    assert_eq!(*slice.lock(), [7, 2, 3]);
    assert!(slice.try_lock().is_some());
    assert_eq!(mutex.into_inner(), [7, 2, 3]);
}

#[test]
fn bit_lock_under_contention() {
    const LOCKED: u32 = 0;
    const WAITERS: u32 = 7;
    const ROUNDS: u32 = 5_000;
    struct Page {
        flags: AtomicU32,
        value: cell::UnsafeCell<u32>,
    }
    // SAFETY: `value` is accessed under the page lock.
    unsafe impl Sync for Page {}
    let page = Page { flags: AtomicU32::new(1 << 3), value: cell::UnsafeCell::new(0) };
    let (shared, barrier) = (&page, &Barrier::new(4));
    crate::base::testing::scope(|scope| {
        for id in 0..4_u32 {
            scope.spawn(move || {
                barrier.wait();
                for round in 0..ROUNDS {
                    bit_lock::lock(&shared.flags, LOCKED, WAITERS, rank::PAGE_LOCK);
                    // SAFETY: under the page lock.
                    shared.value.with_mut(|value| unsafe { *value += 1 });
                    if round % 64 == id {
                        // Long enough for the others to park.
                        thread::sleep(std::time::Duration::from_micros(50));
                    }
                    bit_lock::unlock(&shared.flags, LOCKED, WAITERS);
                    // Other flags change at any time.
                    shared.flags.fetch_xor(1 << (8 + id), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(page.value.into_inner(), 4 * ROUNDS);
    assert_eq!(page.flags.load(Ordering::Relaxed), 1 << 3, "nobody holds it and nobody waits");
}

#[test]
fn bit_lock_try() {
    let flags = AtomicU32::new(0);
    assert!(bit_lock::try_lock(&flags, 4, rank::PAGE_LOCK));
    assert!(bit_lock::is_locked(&flags, 4));
    crate::base::testing::scope(|scope| {
        scope.spawn(|| assert!(!bit_lock::try_lock(&flags, 4, rank::PAGE_LOCK)));
    });
    bit_lock::unlock(&flags, 4, 7);
    assert!(!bit_lock::is_locked(&flags, 4));
}

#[cfg(feature = "std")]
#[test]
fn stripes_are_dealt_once() {
    let first = stripe();
    assert!(first < STRIPES);
    assert_eq!(first, stripe());
    let others: std::collections::BTreeSet<usize> =
        (0..4 * STRIPES).map(|_| thread::spawn(stripe).join().unwrap()).collect();
    // Other tests deal meanwhile, so not exactly all.
    assert!(others.len() > STRIPES / 2, "{others:?}");
    assert!(others.iter().all(|&stripe| stripe < STRIPES));
}

#[test]
fn readers_and_writers_under_contention() {
    const ROUNDS: u32 = 5_000;
    struct Shared {
        sem: RwSem<{ rank::ANON_VMA }>,
        pair: cell::UnsafeCell<(u64, u64)>,
    }
    // SAFETY: `pair` is accessed under `sem`.
    unsafe impl Sync for Shared {}
    let shared = Shared { sem: RwSem::new(), pair: cell::UnsafeCell::new((0, 0)) };
    let (shared_ref, barrier) = (&shared, &Barrier::new(4));
    crate::base::testing::scope(|scope| {
        for id in 0..4_u32 {
            scope.spawn(move || {
                barrier.wait();
                for round in 0..ROUNDS {
                    let check = || {
                        // SAFETY: under `sem`, shared at least.
                        shared_ref.pair.with(|pair| unsafe { assert_eq!((*pair).0, (*pair).1) });
                    };
                    if (round + id) % 3 == 0 {
                        let write = shared_ref.sem.write();
                        // SAFETY: under `sem`, exclusively.
                        shared_ref.pair.with_mut(|pair| unsafe {
                            (*pair).0 += 1;
                            if round % 512 == id {
                                // Long enough for the others to sleep.
                                thread::sleep(std::time::Duration::from_micros(200));
                            }
                            (*pair).1 += 1;
                        });
                        if round % 2 == 0 {
                            let _read = write.downgrade();
                            check();
                        }
                    } else {
                        let _read = shared_ref.sem.read();
                        check();
                    }
                }
            });
        }
    });
    assert!(!shared.sem.is_contended() && !shared.sem.is_locked());
    assert!(shared.sem.try_write().is_some());
    assert!(u64::from(ROUNDS) < shared.pair.into_inner().0);
}
