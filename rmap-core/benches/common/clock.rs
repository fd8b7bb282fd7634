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

/// How long the calling thread has been ready to run, but not running, because another had its processor. Time that it
/// slept of its own accord is not counted. Zero where the system does not say.
fn queued() -> Duration {
    let nanos = std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
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
    use super::{AtomicBool, Barrier, Duration, Instant, Ordering, queued, stay_on};

    /// How long a window is. Short: the shorter, the more of them nobody disturbs.
    const WINDOW: Duration = Duration::from_micros(1_500);
    /// Windows at most until one is found that nobody disturbs.
    const ATTEMPTS: usize = 60;

    /// What one thread did in one window.
    #[derive(Clone, Copy)]
    struct Half {
        /// Operations a second.
        rate: f64,
        /// When it began and ended.
        times: [Instant; 2],
        /// For how long somebody else had its processor.
        waited: Duration,
    }

    /// The part of a window for which not both were at work.
    fn disturbed(a: Half, b: Half) -> f64 {
        let apart = |i: usize| a.times[i].max(b.times[i]) - a.times[i].min(b.times[i]);
        (a.waited + b.waited + apart(0) + apart(1)).as_secs_f64() / WINDOW.as_secs_f64()
    }

    /// Runs `left` and `right` again and again, each on a thread of its own, in windows of time until one was not
    /// disturbed: operations a second of both in that one, or in the least disturbed. Each call does `batch`
    /// operations.
    pub(crate) fn rates(batch: u64, left: &mut (dyn FnMut() + Send), right: &mut (dyn FnMut() + Send)) -> (f64, f64) {
        let mut best = (f64::MAX, (0.0, 0.0));
        for _ in 0..ATTEMPTS {
            let (a, b) = one_window(batch, left, right);
            let disturbed = disturbed(a, b);
            if disturbed < best.0 {
                best = (disturbed, (a.rate, b.rate));
            }
            if disturbed < 0.03 {
                break;
            }
        }
        best.1
    }

    fn one_window(batch: u64, left: &mut (dyn FnMut() + Send), right: &mut (dyn FnMut() + Send)) -> (Half, Half) {
        let (start, stop) = (Barrier::new(2), AtomicBool::new(false));
        let half = |cpu: usize, work: &mut (dyn FnMut() + Send)| {
            stay_on(cpu);
            work();
            start.wait();
            let (begin, waited) = (Instant::now(), queued());
            let mut batches = 0_u64;
            // The right thread ends the window for both, so neither works alone.
            while !stop.load(Ordering::Relaxed) {
                work();
                batches += 1;
                if cpu == 1 && begin.elapsed() >= WINDOW {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            let (end, waited) = (Instant::now(), queued().saturating_sub(waited));
            Half { rate: (batches * batch) as f64 / (end - begin).as_secs_f64(), times: [begin, end], waited }
        };
        std::thread::scope(|scope| {
            let left = scope.spawn(|| half(0, left));
            let right = scope.spawn(|| half(1, right));
            (left.join().expect("a thread of the pair"), right.join().expect("a thread of the pair"))
        })
    }
}
