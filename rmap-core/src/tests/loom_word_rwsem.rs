//! The words under the reader-writer lock, as production runs them. (Models of other things use a stand-in with fewer
//! states.)
#![cfg(all(test, loom))]

use super::run_model;
use crate::base::sync::cell::UnsafeCell;
use crate::base::sync::word_rwsem::WordRwSem;
use loom::sync::Arc;
use loom::thread;

struct Guarded {
    sem: WordRwSem,
    value: UnsafeCell<u32>,
}

// SAFETY: `value` is accessed under `sem`; that this is enough is what the models check.
unsafe impl Sync for Guarded {}
// SAFETY: as for Sync.
unsafe impl Send for Guarded {}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self { sem: WordRwSem::new(), value: UnsafeCell::new(0) })
    }

    fn add(&self) {
        self.sem.write();
        // SAFETY: under the lock.
        self.value.with_mut(|value| unsafe { *value += 1 });
        // SAFETY: taken above.
        unsafe { self.sem.unlock_write() };
    }

    fn get(&self) -> u32 {
        self.sem.read();
        // SAFETY: under the lock.
        let value = self.value.with(|value| unsafe { *value });
        // SAFETY: taken above.
        unsafe { self.sem.unlock_read() };
        value
    }
}

/// Whoever waits is woken: a lost wake-up is a deadlock that loom reports. Nobody sees a value half written.
#[test]
fn loom_word_rwsem_wakes_who_waits() {
    run_model("word_rwsem_wakes", Some(3), || {
        let guarded = Guarded::new();
        let writer = thread::spawn({
            let guarded = guarded.clone();
            move || guarded.add()
        });
        let reader = thread::spawn({
            let guarded = guarded.clone();
            move || assert!(guarded.get() <= 2)
        });
        guarded.add();
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(guarded.get(), 2);
        assert!(!guarded.sem.is_locked() && guarded.sem.waiters() == 0);
        assert!(guarded.sem.try_write());
    });
}

/// Two readers hold it together while a writer waits; the last one out lets the writer in.
#[test]
fn loom_word_rwsem_the_last_reader_lets_the_writer_in() {
    run_model("word_rwsem_last_reader", Some(3), || {
        let guarded = Guarded::new();
        guarded.sem.read();
        let reader = thread::spawn({
            let guarded = guarded.clone();
            move || guarded.get()
        });
        let writer = thread::spawn({
            let guarded = guarded.clone();
            move || guarded.add()
        });
        // SAFETY: under the lock.
        assert_eq!(guarded.value.with(|value| unsafe { *value }), 0);
        // SAFETY: taken above.
        unsafe { guarded.sem.unlock_read() };
        assert!(reader.join().unwrap() <= 1);
        writer.join().unwrap();
        assert_eq!(guarded.get(), 1);
    });
}

/// Who only tries gets in beside nobody that it may not, and sees what they wrote.
#[test]
fn loom_word_rwsem_try() {
    run_model("word_rwsem_try", Some(3), || {
        let guarded = Guarded::new();
        let reader = thread::spawn({
            let guarded = guarded.clone();
            move || {
                if guarded.sem.try_read() {
                    // SAFETY: under the lock.
                    assert!(guarded.value.with(|value| unsafe { *value }) <= 2);
                    // SAFETY: taken above.
                    unsafe { guarded.sem.unlock_read() };
                }
            }
        });
        let writer = thread::spawn({
            let guarded = guarded.clone();
            move || {
                let taken = guarded.sem.try_write();
                if taken {
                    // SAFETY: under the lock.
                    guarded.value.with_mut(|value| unsafe { *value += 1 });
                    // SAFETY: taken above.
                    unsafe { guarded.sem.unlock_write() };
                }
                u32::from(taken)
            }
        });
        guarded.add();
        reader.join().unwrap();
        let tried = writer.join().unwrap();
        assert_eq!(guarded.get(), 1 + tried);
        assert!(!guarded.sem.is_locked() && guarded.sem.waiters() == 0);
    });
}

/// A downgrade lets readers in, and writers only when it is over.
#[test]
fn loom_word_rwsem_downgrade() {
    run_model("word_rwsem_downgrade", Some(3), || {
        let guarded = Guarded::new();
        let writer = thread::spawn({
            let guarded = guarded.clone();
            move || guarded.add()
        });
        guarded.sem.write();
        // SAFETY: under the lock.
        let before = guarded.value.with(|value| unsafe { *value });
        // SAFETY: taken above, here and in the next two.
        unsafe { guarded.sem.downgrade() };
        // SAFETY: under the lock, shared.
        assert_eq!(before, guarded.value.with(|value| unsafe { *value }));
        // SAFETY: a reader since the downgrade.
        unsafe { guarded.sem.unlock_read() };
        writer.join().unwrap();
        assert_eq!(guarded.get(), 1);
    });
}
