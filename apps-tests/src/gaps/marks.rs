//! What the gaps of Orthros are held against: a thirtieth of a reboot, a tenth of kexec with CRIU, and for the way from the
//! last CPU's stop to the first program a twentieth of a cold start, for the same content in the same run.

use super::steps::{self, Moment};
use super::table::ratio;
use super::{Measured, Method};
use std::fmt::Write as _;
use std::time::Duration;

/// A gap must fit into that of another method so many times.
const GAPS: [(Method, f64); 2] = [(Method::Reboot, 30.0), (Method::Criu, 10.0)];
/// And the start of a standby into a cold start.
const START: f64 = 20.0;

/// How many times one time fits into another, and how many times it should.
#[derive(Debug, Clone, PartialEq)]
struct Mark {
    what: String,
    asked: f64,
    found: f64,
}

/// The marks for one size of content, as far as the methods they compare were measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Marks {
    megabytes: u32,
    marks: Vec<Mark>,
}

impl Marks {
    /// Those of every size.
    #[must_use]
    pub fn all(list: &[Measured]) -> Vec<Self> {
        let mut sizes: Vec<u32> = list.iter().map(|measured| measured.megabytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let all = sizes.into_iter().map(|megabytes| Self {
            megabytes,
            marks: gaps(list, megabytes).chain(starts(list, megabytes)).collect(),
        });
        all.filter(|marks| !marks.marks.is_empty()).collect()
    }

    /// A table in Markdown.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "| with {} MB | fits so many times | asked | |\n|---|---|---|---|\n",
            self.megabytes
        );
        for Mark { what, asked, found } in &self.marks {
            let verdict = if found >= asked { "met" } else { "missed" };
            let _ = writeln!(text, "| {what} | {found:.1} | {asked:.0} | {verdict} |");
        }
        text
    }
}

fn gaps(list: &[Measured], megabytes: u32) -> impl Iterator<Item = Mark> + '_ {
    let own = list
        .iter()
        .filter(move |measured| measured.megabytes == megabytes && measured.method.standby());
    own.flat_map(move |own| {
        GAPS.iter().filter_map(move |&(other, asked)| {
            Some(Mark {
                what: format!("{} in: {other}", own.method),
                asked,
                found: ratio(list, other, own)?,
            })
        })
    })
}

/// For each event of both kinds: a standby's start in a cold one.
fn starts(list: &[Measured], megabytes: u32) -> impl Iterator<Item = Mark> + '_ {
    let of = move |method: Method| {
        let found = list
            .iter()
            .find(|measured| measured.method == method && measured.megabytes == megabytes)?;
        start(&found.moments)
    };
    let pairs = [
        (Method::PanicStandby, Method::PanicCold),
        (Method::UpdateStandby, Method::UpdateCold),
    ];
    pairs.into_iter().filter_map(move |(standby, cold)| {
        let (own, other) = (of(standby)?, of(cold)?);
        Some(Mark {
            what: format!("stop to first program, {standby} in: {cold}"),
            asked: START,
            found: other.as_secs_f64() / own.as_secs_f64().max(1e-9),
        })
    })
}

/// The median from the last CPU's stop to the successor's first program.
fn start(events: &[Vec<Moment>]) -> Option<Duration> {
    let medians = steps::medians(events);
    let at = |what: &str| Some(medians.iter().find(|moment| moment.what == what)?.at);
    at("init_started")?.checked_sub(at("stopped")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_met_or_missed_within_one_size() {
        let of = |method, gap, start: u64| Measured {
            method,
            megabytes: 100,
            gaps: vec![Duration::from_millis(gap)],
            work: Vec::new(),
            goes_on: true,
            lost: Vec::new(),
            moments: vec![vec![
                Moment {
                    what: "stopped".into(),
                    at: Duration::from_millis(10),
                },
                Moment {
                    what: "init_started".into(),
                    at: Duration::from_millis(10 + start),
                },
            ]],
            parts: Vec::new(),
        };
        let mut list = vec![
            of(Method::PanicCold, 5000, 4000),
            of(Method::PanicStandby, 300, 100),
            of(Method::Reboot, 9000, 0),
            of(Method::Criu, 2000, 0),
        ];
        let all = Marks::all(&list);
        assert_eq!(all.len(), 1);
        let text = all[0].text();
        assert!(
            text.contains("reboot through GRUB, service started again | 30.0 | 30 | met |"),
            "{text}"
        );
        assert!(text.contains("CRIU restore | 6.7 | 10 | missed |"), "{text}");
        assert!(text.contains("cold successor | 40.0 | 20 | met |"), "{text}");
        list.iter_mut().skip(2).for_each(|measured| measured.megabytes = 1000);
        assert_eq!(Marks::all(&list)[0].marks.len(), 1);
        assert!(Marks::all(&list[2..]).is_empty());
    }
}
