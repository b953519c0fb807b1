//! The moments of a gap: what had happened by when.

use crate::serial::Line;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// What any Linux says first.
const KERNEL: &str = "Linux version ";

/// Something that had happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// What.
    pub what: String,
    /// Since the failure, or since the service's last answer.
    pub at: Duration,
}

/// The moments of a failover until the last process runs, and what each part of the agent's work has taken, as
/// `orthros-ctl report --json` tells them.
#[must_use]
pub fn of_orthros(report: &Value) -> (Vec<Moment>, Vec<Moment>) {
    let nanoseconds = |value: &Value| value.as_u64().map(Duration::from_nanos);
    let mut moments: Vec<Moment> = report["timeline_ns"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(what, at)| {
            Some(Moment {
                what: what.clone(),
                at: nanoseconds(at)?,
            })
        })
        .collect();
    moments.sort_by_key(|moment| moment.at);
    let end = moments.iter().find(|moment| moment.what == "all_resumed");
    let end = end.map_or(Duration::MAX, |moment| moment.at);
    moments.retain(|moment| moment.at <= end);
    let parts = report["costs"].as_array().into_iter().flatten().filter_map(|cost| {
        Some(Moment {
            what: cost["part"].as_str()?.to_owned(),
            at: nanoseconds(&cost["nanoseconds"])?,
        })
    });
    (moments, parts.collect())
}

/// The moments of a gap from `start` to `end` that a console shows: each kernel that started, and when the agent of the
/// last one was there.
#[must_use]
pub fn of_console(lines: &[Line], (start, end): (Duration, Duration), agent: Duration) -> Vec<Moment> {
    let mut moments: Vec<Moment> = lines
        .iter()
        .filter(|line| line.text.contains(KERNEL) && (start..end).contains(&line.at))
        .enumerate()
        .map(|(index, line)| Moment {
            what: if index == 0 { "kernel" } else { "next_kernel" }.into(),
            at: line.at - start,
        })
        .collect();
    moments.push(Moment {
        what: "user_space".into(),
        at: agent.saturating_sub(start),
    });
    moments.sort_by_key(|moment| moment.at);
    moments
}

/// The median of each moment over several events, in the order of the medians; of an even number the upper of the two.
#[must_use]
pub fn medians(events: &[Vec<Moment>]) -> Vec<Moment> {
    let mut all: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for moment in events.iter().flatten() {
        all.entry(&moment.what).or_default().push(moment.at);
    }
    let mut medians: Vec<Moment> = all
        .into_iter()
        .filter_map(|(what, mut at)| {
            at.sort_unstable();
            Some(Moment {
                what: what.to_owned(),
                at: *at.get(at.len() / 2)?,
            })
        })
        .collect();
    medians.sort_by_key(|moment| moment.at);
    medians
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn moment(what: &str, ms: u64) -> Moment {
        Moment {
            what: what.into(),
            at: Duration::from_millis(ms),
        }
    }

    #[test]
    fn what_comes_after_the_processes_is_no_part_of_a_gap() {
        let report = json!({
            "timeline_ns": { "failed": 0, "armed": 9_000_000, "stopped": 2_000_000, "all_resumed": 8_000_000 },
            "costs": [{ "part": "files", "times": 1, "nanoseconds": 3_000_000 }],
        });
        let (moments, parts) = of_orthros(&report);
        assert_eq!(
            moments,
            [moment("failed", 0), moment("stopped", 2), moment("all_resumed", 8)]
        );
        assert_eq!(parts, [moment("files", 3)]);
    }

    #[test]
    fn kernels_are_found_within_the_silence() {
        let line = |ms, text: &str| Line {
            at: Duration::from_millis(ms),
            text: text.into(),
        };
        let lines = [
            line(50, "[ 0.0] Linux version 6.1"),
            line(300, "[ 0.0] Linux version 6.1"),
            line(500, "[ 0.0] Linux version 6.1"),
        ];
        let silence = (Duration::from_millis(100), Duration::from_millis(900));
        let found = of_console(&lines, silence, Duration::from_millis(700));
        let want = [
            moment("kernel", 200),
            moment("next_kernel", 400),
            moment("user_space", 600),
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn medians_are_of_the_same_moment() {
        let events = [
            vec![moment("a", 1), moment("b", 5)],
            vec![moment("b", 2), moment("a", 3)],
            vec![moment("a", 2), moment("b", 9)],
        ];
        assert_eq!(medians(&events), [moment("a", 2), moment("b", 5)]);
    }
}
