//! How long the host has worked for a machine: what is left of a gap when the host's other work is taken away.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks.
const STEP: Duration = Duration::from_millis(4);

/// CPU time of a process, looked at again and again.
pub struct Work {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Duration, Duration)>>,
}

/// CPU time of all threads of a process (Documentation/scheduler/sched-stats.rst: the first number, in nanoseconds).
fn cpu_time(pid: u32) -> Option<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let times = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(times.sum()))
}

impl Work {
    /// Looks from now on; instants count from `start`.
    #[must_use]
    pub fn watch(pid: u32, start: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !theirs.load(Ordering::Relaxed) {
                if let Some(time) = cpu_time(pid) {
                    seen.push((start.elapsed(), time));
                }
                std::thread::sleep(STEP);
            }
            seen
        });
        Self { stop, thread }
    }

    /// The CPU time between two instants, as exact as the looks were dense.
    #[must_use]
    pub fn between(self, (from, to): (Duration, Duration)) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap_or_default();
        at(&seen, to).saturating_sub(at(&seen, from))
    }
}

/// The time at an instant, on the straight line between the looks before and after it.
fn at(seen: &[(Duration, Duration)], when: Duration) -> Duration {
    let after = seen.partition_point(|(at, _)| *at < when);
    match (
        after.checked_sub(1).and_then(|before| seen.get(before)),
        seen.get(after),
    ) {
        (Some(&(from, least)), Some(&(to, most))) if to > from => {
            let part = (when - from).as_secs_f64() / (to - from).as_secs_f64();
            least + most.saturating_sub(least).mul_f64(part)
        }
        (_, Some(&(_, time))) | (Some(&(_, time)), None) => time,
        (None, None) => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_two_looks_is_shared_out() {
        let ms = Duration::from_millis;
        let seen = [(ms(10), ms(100)), (ms(20), ms(104)), (ms(30), ms(104))];
        assert_eq!(at(&seen, ms(15)), ms(102));
        assert_eq!(at(&seen, ms(25)), ms(104));
        assert_eq!(at(&seen, ms(5)), ms(100));
        assert_eq!(at(&seen, ms(99)), ms(104));
    }

    #[test]
    fn work_is_seen() {
        let work = Work::watch(std::process::id(), Instant::now());
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        let time = work.between((Duration::ZERO, Duration::from_secs(9)));
        assert!(time > Duration::from_millis(10), "{time:?}");
    }
}
