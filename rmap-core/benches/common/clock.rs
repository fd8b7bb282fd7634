//! Time on a machine that is shared with others.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Processor time of the calling thread so far: what others do meanwhile is not counted, what they do to the caches is.
fn thread_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writing.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    assert_eq!(failed, 0, "no clock of processor time");
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// How often the calling thread was interrupted in favour of another so far.
fn preemptions() -> i64 {
    // SAFETY: `rusage` is made of numbers.
    let mut usage = unsafe { core::mem::zeroed::<libc::rusage>() };
    // SAFETY: `usage` is valid for writing.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nivcsw
}

/// Keeps the calling thread on one processor, as far as the system lets it.
fn stay_on(cpu: usize) {
    // SAFETY: a set is made of numbers; `cpu` is far below its size; the call reads that many bytes of it.
    unsafe {
        let mut set = core::mem::zeroed::<libc::cpu_set_t>();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// The processor time that `work` takes.
pub(crate) fn cpu_time(work: impl FnOnce()) -> Duration {
    let start = thread_time();
    work();
    thread_time().saturating_sub(start)
}

/// Two threads at work together, each on a processor of its own.
pub(crate) mod pair {
    use super::{AtomicBool, Barrier, Duration, Instant, Ordering, preemptions, stay_on, thread_time};

    /// How long a window is. Short: the shorter, the more of them nobody disturbs.
    const WINDOW: Duration = Duration::from_micros(1_500);
    /// Windows at most until one is found that nobody disturbs.
    const ATTEMPTS: usize = 60;

    /// What one thread did in one window.
    #[derive(Clone, Copy)]
    struct Half {
        /// Operations a second.
        rate: f64,
        /// The part of the window for which the thread had its processor, and how often it was taken away.
        present: f64,
        taken: i64,
    }

    impl Half {
        /// Disturbance, 0 for none. A thread that waits for the other gives its processor up, which does not count.
        fn disturbed(self, waits: Waits) -> f64 {
            let absent = if waits == Waits::Never { (1.0 - self.present).max(0.0) } else { 0.0 };
            absent + self.taken as f64
        }
    }

    /// How a window is judged.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Waits {
        /// The threads never sleep.
        Never,
        /// The threads sleep while they wait for each other.
        Sometimes,
    }

    /// Runs `left` and `right` again and again, each on a thread of its own, in windows of time until one was not disturbed:
    /// operations a second of both in that one, or in the least disturbed. Each call does `batch` operations; a window is `window` units.
    pub(crate) fn rates(
        waits: Waits,
        window: u32,
        batch: u64,
        left: &mut (dyn FnMut() + Send),
        right: &mut (dyn FnMut() + Send),
    ) -> (f64, f64) {
        let mut best = (f64::MAX, (0.0, 0.0));
        for _ in 0..ATTEMPTS {
            let (a, b) = one_window(WINDOW * window, batch, left, right);
            let disturbed = a.disturbed(waits) + b.disturbed(waits);
            if disturbed < best.0 {
                best = (disturbed, (a.rate, b.rate));
            }
            if disturbed < 0.03 {
                break;
            }
        }
        best.1
    }

    fn one_window(
        window: Duration,
        batch: u64,
        left: &mut (dyn FnMut() + Send),
        right: &mut (dyn FnMut() + Send),
    ) -> (Half, Half) {
        let (start, stop) = (Barrier::new(2), AtomicBool::new(false));
        let half = |cpu: usize, work: &mut (dyn FnMut() + Send)| {
            stay_on(cpu);
            work();
            start.wait();
            let (wall, busy, taken) = (Instant::now(), thread_time(), preemptions());
            let mut batches = 0_u64;
            // The right thread ends the window for both, so neither works alone.
            while !stop.load(Ordering::Relaxed) {
                work();
                batches += 1;
                if cpu == 1 && wall.elapsed() >= window {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            let (busy, taken) = (thread_time().saturating_sub(busy), preemptions() - taken);
            let wall = wall.elapsed();
            let present = busy.as_secs_f64() / wall.as_secs_f64();
            Half { rate: (batches * batch) as f64 / wall.as_secs_f64(), present, taken }
        };
        std::thread::scope(|scope| {
            let left = scope.spawn(|| half(0, left));
            let right = scope.spawn(|| half(1, right));
            (left.join().expect("a thread of the pair"), right.join().expect("a thread of the pair"))
        })
    }
}
