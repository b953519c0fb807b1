//! POSIX timers, from `timers`.

use super::{Finding, Process};
use shared_region::reasons;

/// CLOCK_REALTIME, MONOTONIC, BOOTTIME, REALTIME_ALARM, BOOTTIME_ALARM, TAI (include/uapi/linux/time.h).
const KEPT: [i32; 6] = [0, 1, 7, 8, 9, 11];

/// Looks at the clock of every timer. Kernels that do not show them show none.
pub fn check(process: &Process<'_>, findings: &mut Vec<Finding>) {
    let text = process.read("timers").unwrap_or_default();
    let mut id = String::new();
    for line in text.lines() {
        match line.split_once(':') {
            Some(("ID", value)) => id = value.trim().to_owned(),
            Some(("ClockID", value)) => {
                let kept = value.trim().parse().is_ok_and(|clock| KEPT.contains(&clock));
                if !kept {
                    let detail = format!("POSIX timer on clock {}", value.trim());
                    findings.push(Finding::refused(format!("timer {id}"), reasons::TIMER_KIND, detail));
                }
            }
            _ => {}
        }
    }
}
