//! The results as a table in Markdown and as JSON.

use super::steps::{self, Moment};
use super::{median, Marks, Measured, Method};
use serde_json::{json, Value};
use std::fmt::Write as _;
use std::time::Duration;

/// Everything in Markdown: the gaps, the marks, and what was when in the gaps.
#[must_use]
pub fn text(list: &[Measured]) -> String {
    let mut text = gaps(list);
    for marks in Marks::all(list) {
        let _ = write!(text, "\n{}", marks.text());
    }
    let (stock, orthros): (Vec<&Measured>, Vec<&Measured>) = list.iter().partition(|measured| measured.method.stock());
    let tables = [
        (
            "since the failure, in ms",
            moments(&orthros, |measured| &measured.moments),
        ),
        (
            "the restore agent at, in ms",
            moments(&orthros, |measured| &measured.parts),
        ),
        (
            "since the last answer, in ms",
            moments(&stock, |measured| &measured.moments),
        ),
    ];
    for (title, (columns, rows)) in tables.iter().filter(|(_, (_, rows))| !rows.is_empty()) {
        let _ = write!(text, "\n| {title} |");
        for column in columns {
            let _ = write!(text, " {column} |");
        }
        let _ = writeln!(text, "\n|---|{}", "---|".repeat(columns.len()));
        for (what, times) in rows {
            let _ = write!(text, "| {} |", what.replace('_', " "));
            for time in times {
                let ms = time.map_or_else(|| "-".into(), |time| format!("{:.1}", time.as_secs_f64() * 1000.0));
                let _ = write!(text, " {ms} |");
            }
            text.push('\n');
        }
    }
    text
}

/// Heads of the columns, and for each moment its medians.
type Table = (Vec<String>, Vec<(String, Vec<Option<Duration>>)>);

fn moments(list: &[&Measured], of: impl Fn(&Measured) -> &Vec<Vec<Moment>>) -> Table {
    let medians: Vec<Vec<Moment>> = list.iter().map(|measured| steps::medians(of(measured))).collect();
    let mut names: Vec<&str> = Vec::new();
    // Each column is in its own order; a moment that the columns before lack goes behind the one it follows.
    for column in &medians {
        let mut place = 0;
        for moment in column {
            match names.iter().position(|name| *name == moment.what) {
                Some(found) => place = found + 1,
                None => {
                    names.insert(place, &moment.what);
                    place += 1;
                }
            }
        }
    }
    let rows = names.iter().map(|name| {
        let at = |column: &Vec<Moment>| {
            column
                .iter()
                .find(|moment| moment.what == *name)
                .map(|moment| moment.at)
        };
        ((*name).to_owned(), medians.iter().map(at).collect())
    });
    let heads = list
        .iter()
        .map(|measured| format!("{}, {} MB", measured.method, measured.megabytes));
    (heads.collect(), rows.collect())
}

/// Median, smallest and largest gap in milliseconds, and how many times longer the gaps of a reboot and of kexec with
/// CRIU are for the same content.
fn gaps(list: &[Measured]) -> String {
    let mut text = String::from(
        "| event | method | content | gap, ms | from | to | host CPU, ms | reboot takes | kexec + CRIU takes | the process |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for measured in list {
        let ms = |gap: Option<&std::time::Duration>| gap.map_or(0, std::time::Duration::as_millis);
        let times = |other| {
            ratio(list, other, measured).map_or_else(|| "-".into(), |times| format!("{times:.1} times as long"))
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} MB | **{}** | {} | {} | {} | {} | {} | {} |",
            if measured.method.panics() { "panic" } else { "planned" },
            measured.method,
            measured.megabytes,
            measured.median().as_millis(),
            ms(measured.gaps.iter().min()),
            ms(measured.gaps.iter().max()),
            median(&measured.work).as_millis(),
            times(Method::Reboot),
            times(Method::Criu),
            fate(measured),
        );
    }
    text
}

/// What becomes of the process, and how often it did not.
fn fate(measured: &Measured) -> String {
    let fate = if measured.goes_on { "goes on" } else { "is another" };
    match measured.lost.len() {
        0 => fate.into(),
        lost => format!("{fate}; lost in {lost} of {}", lost + measured.gaps.len()),
    }
}

/// How many times as long another method's median is, for the same content.
pub(super) fn ratio(list: &[Measured], other: Method, than: &Measured) -> Option<f64> {
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
                "work_ns": measured.work.iter().copied().map(nanoseconds).collect::<Vec<_>>(),
                "goes_on": measured.goes_on,
                "lost": measured.lost,
                "moments_ns": named(&measured.moments),
                "parts_ns": named(&measured.parts),
            })
        })
        .collect()
}

/// For each event its moments by name.
fn named(events: &[Vec<Moment>]) -> Value {
    let event = |moments: &Vec<Moment>| -> Value {
        let entry = |moment: &Moment| (moment.what.clone(), nanoseconds(moment.at).into());
        moments.iter().map(entry).collect::<serde_json::Map<_, _>>().into()
    };
    events.iter().map(event).collect()
}

fn nanoseconds(gap: std::time::Duration) -> u64 {
    u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_for_the_same_content() {
        let of = |method, megabytes, gap| Measured {
            method,
            megabytes,
            gaps: vec![Duration::from_millis(gap)],
            work: vec![Duration::from_millis(7)],
            goes_on: true,
            lost: Vec::new(),
            moments: vec![vec![Moment {
                what: "user_space".into(),
                at: Duration::from_millis(gap / 2),
            }]],
            parts: Vec::new(),
        };
        let list = [
            of(Method::Reboot, 100, 9000),
            of(Method::Reboot, 1000, 30000),
            of(Method::PanicStandby, 1000, 1000),
        ];
        assert_eq!(ratio(&list, Method::Reboot, &list[2]), Some(30.0));
        assert_eq!(ratio(&list, Method::Criu, &list[2]), None);
        assert_eq!(ratio(&list, Method::Reboot, &list[0]), None);
        assert!(text(&list).contains("| 1000 MB | **1000** | 1000 | 1000 | 7 | 30.0 times as long | - | goes on |"));
        assert_eq!(json(&list)[1]["gaps_ns"][0], 30_000_000_000u64);
        assert_eq!(json(&list)[2]["moments_ns"][0]["user_space"], 500_000_000u64);
        assert!(text(&list).contains("| user space | 4500.0 | 15000.0 |"));
    }
}
