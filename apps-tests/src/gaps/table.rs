//! The results as a table in Markdown and as JSON.

use super::{Measured, Method};
use serde_json::{json, Value};
use std::fmt::Write as _;

/// A table in Markdown: median, smallest and largest gap in milliseconds, and how many times longer the gaps of a
/// reboot and of kexec with CRIU are for the same content.
#[must_use]
pub fn text(list: &[Measured]) -> String {
    let mut text = String::from(
        "| event | method | content | gap, ms | from | to | reboot takes | kexec + CRIU takes | the process |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for measured in list {
        let ms = |gap: Option<&std::time::Duration>| gap.map_or(0, std::time::Duration::as_millis);
        let times = |other| {
            ratio(list, other, measured).map_or_else(|| "-".into(), |times| format!("{times:.1} times as long"))
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} MB | **{}** | {} | {} | {} | {} | {} |",
            if measured.method.panics() { "panic" } else { "planned" },
            measured.method,
            measured.megabytes,
            measured.median().as_millis(),
            ms(measured.gaps.iter().min()),
            ms(measured.gaps.iter().max()),
            times(Method::Reboot),
            times(Method::Criu),
            if measured.goes_on { "goes on" } else { "is another" },
        );
    }
    text
}

/// How many times as long another method's median is, for the same content.
fn ratio(list: &[Measured], other: Method, than: &Measured) -> Option<f64> {
    let other = list
        .iter()
        .find(|measured| measured.method == other && measured.megabytes == than.megabytes)?;
    let own = than.median().as_secs_f64();
    (own > 0.0 && other.method != than.method).then(|| other.median().as_secs_f64() / own)
}

/// The same with every single gap, in nanoseconds.
#[must_use]
pub fn json(list: &[Measured]) -> Value {
    list.iter()
        .map(|measured| {
            json!({
                "method": measured.method.name(),
                "megabytes": measured.megabytes,
                "median_ns": nanoseconds(measured.median()),
                "gaps_ns": measured.gaps.iter().copied().map(nanoseconds).collect::<Vec<_>>(),
                "goes_on": measured.goes_on,
            })
        })
        .collect()
}

fn nanoseconds(gap: std::time::Duration) -> u64 {
    u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ratios_are_for_the_same_content() {
        let of = |method, megabytes, gap| Measured {
            method,
            megabytes,
            gaps: vec![Duration::from_millis(gap)],
            goes_on: true,
        };
        let list = [
            of(Method::Reboot, 100, 9000),
            of(Method::Reboot, 1000, 30000),
            of(Method::PanicStandby, 1000, 1000),
        ];
        assert_eq!(ratio(&list, Method::Reboot, &list[2]), Some(30.0));
        assert_eq!(ratio(&list, Method::Criu, &list[2]), None);
        assert_eq!(ratio(&list, Method::Reboot, &list[0]), None);
        assert!(text(&list).contains("| 1000 MB | **1000** | 1000 | 1000 | 30.0 times as long | - | goes on |"));
        assert_eq!(json(&list)[1]["gaps_ns"][0], 30_000_000_000u64);
    }
}
