//! Locks: the facade's own, as models use them.
#![cfg(all(test, loom))]

use super::run_model;
use crate::base::sync::atomic::{AtomicU32, Ordering};
use crate::base::sync::cell::UnsafeCell;
use crate::base::sync::{Mutex, RwSem, bit_lock, rank};
use loom::sync::Arc;
use loom::thread;

/// A reader by downgrade keeps the next writer out, and sees what it wrote itself.
#[test]
fn loom_rwsem_downgrade_keeps_writers_out() {
    struct Guarded {
        sem: RwSem<{ rank::ANON_VMA }>,
        value: UnsafeCell<u32>,
    }
    // SAFETY: `value` is accessed under `sem`; that this is enough is what the model checks.
    unsafe impl Sync for Guarded {}
    // SAFETY: as for Sync.
    unsafe impl Send for Guarded {}

    run_model("rwsem_downgrade", None, || {
        let guarded = Arc::new(Guarded { sem: RwSem::new(), value: UnsafeCell::new(0) });
        let writer = thread::spawn({
            let guarded = guarded.clone();
            move || {
                let _write = guarded.sem.write();
                // SAFETY: written under the lock.
                guarded.value.with_mut(|value| unsafe { *value += 10 });
            }
        });
        let write = guarded.sem.write();
        // SAFETY: written under the lock.
        let before = guarded.value.with_mut(|value| unsafe {
            *value += 1;
            *value
        });
        let read = write.downgrade();
        // SAFETY: read under the lock.
        let after = guarded.value.with(|value| unsafe { *value });
        assert_eq!(before, after, "a writer got in while it was downgraded");
        drop(read);
        writer.join().unwrap();
        let _read = guarded.sem.read();
        // SAFETY: read under the lock.
        assert_eq!(guarded.value.with(|value| unsafe { *value }), 11);
    });
}

/// Readers share, a writer excludes.
#[test]
fn loom_rwsem_readers_and_writer() {
    struct Guarded {
        sem: RwSem<{ rank::ANON_VMA }>,
        value: UnsafeCell<u32>,
    }
    // SAFETY: `value` is accessed under `sem`; that this is enough is what the model checks.
    unsafe impl Sync for Guarded {}
    // SAFETY: as for Sync.
    unsafe impl Send for Guarded {}

    run_model("rwsem_readers_and_writer", None, || {
        let guarded = Arc::new(Guarded { sem: RwSem::new(), value: UnsafeCell::new(0) });
        let reader = thread::spawn({
            let guarded = guarded.clone();
            move || {
                let _read = guarded.sem.read();
                // SAFETY: read under the lock.
                guarded.value.with(|value| unsafe { *value })
            }
        });
        let trier = thread::spawn({
            let guarded = guarded.clone();
            move || {
                if let Some(_read) = guarded.sem.try_read() {
                    // SAFETY: read under the lock.
                    guarded.value.with(|value| unsafe { *value });
                }
            }
        });
        guarded.sem.write().into_raw();
        // SAFETY: written under the lock.
        guarded.value.with_mut(|value| unsafe { *value += 1 });
        // SAFETY: taken for writing above, the guard was given up.
        unsafe { guarded.sem.unlock_write_raw() };
        assert!(reader.join().unwrap() <= 1);
        trier.join().unwrap();
    });
}

/// The page lock: one at a time, and what one wrote the next one sees.
#[test]
fn loom_bit_lock_excludes() {
    const LOCKED: u32 = 0;
    const WAITERS: u32 = 7;
    struct Page {
        flags: AtomicU32,
        value: UnsafeCell<u32>,
    }
    // SAFETY: `value` is accessed under the page lock; that this is enough is what the model checks.
    unsafe impl Sync for Page {}
    // SAFETY: as for Sync.
    unsafe impl Send for Page {}

    fn add(page: &Page) {
        bit_lock::lock(&page.flags, LOCKED, WAITERS, rank::PAGE_LOCK);
        // SAFETY: written under the page lock.
        page.value.with_mut(|value| unsafe { *value += 1 });
        bit_lock::unlock(&page.flags, LOCKED, WAITERS);
    }

    run_model("bit_lock_excludes", Some(3), || {
        let page = Arc::new(Page { flags: AtomicU32::new(1 << 3), value: UnsafeCell::new(0) });
        let others = [(); 2].map(|()| {
            let page = page.clone();
            thread::spawn(move || add(&page))
        });
        if bit_lock::try_lock(&page.flags, LOCKED, rank::PAGE_LOCK) {
            // SAFETY: written under the page lock.
            page.value.with_mut(|value| unsafe { *value += 1 });
            bit_lock::unlock(&page.flags, LOCKED, WAITERS);
        } else {
            add(&page);
        }
        for other in others {
            other.join().unwrap();
        }
        // SAFETY: the others have been joined.
        assert_eq!(page.value.with(|value| unsafe { *value }), 3);
        assert_eq!(page.flags.load(Ordering::Relaxed), 1 << 3, "other bits of the word are nobody's business");
    });
}

/// A mutex, blocking and by try: the data is one thread's at a time.
#[test]
fn loom_mutex_excludes() {
    run_model("mutex_excludes", None, || {
        let mutex = Arc::new(Mutex::<u32, { rank::LEAF }>::new(0));
        let other = thread::spawn({
            let mutex = mutex.clone();
            move || {
                let mut value = mutex.lock();
                let before = *value;
                // Whoever can get in gets in here.
                thread::yield_now();
                *value = before + 1;
            }
        });
        // loom blocks who already stands before a lock that is taken, trying or not: this gets there later.
        thread::yield_now();
        let tried = mutex.try_lock().map(|mut value| *value += 1).is_some();
        other.join().unwrap();
        assert_eq!(*mutex.lock(), 1 + u32::from(tried));
    });
}
