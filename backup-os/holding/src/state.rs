//! What a failover has come to, as the page shows it: text for people, JSON for programs. Nothing of it is an address in a
//! kernel's memory, or anybody's data.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use shared_region::attempts::End;
use shared_region::context::{Machine, Summary};
use shared_region::control::{Cause, SuccessorPhase};
use shared_region::record::{Kind, Stream};
use shared_region::timeline::{Event, EVENTS};

/// Characters of a [`Word`].
const WORD: usize = 64;
const NS_PER_MS: i128 = 1_000_000;

/// A short text of one line that needs no escape in JSON, whatever it was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word(String);

impl Word {
    /// Replaces what is not printable, and cuts what is too long.
    pub fn new(text: &str) -> Self {
        let is_plain = |c: char| (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\\');
        let chars = text.chars().map(|c| if is_plain(c) { c } else { '?' });
        Self(chars.take(WORD).collect())
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An attempt at a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The slot of its kernel.
    pub slot: usize,
    /// It was woken, not booted.
    pub woken: bool,
    /// What has become of it.
    pub end: End,
}

/// Messages to the target of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// So many are on their way.
    pub sent: u64,
    /// So many had no room to wait in.
    pub dropped: u64,
}

/// The state. Milliseconds count from the stop of the dead kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Number of the failover since the machine was started.
    pub failover: u64,
    /// Why it takes place.
    pub cause: Cause,
    /// The CPU of the dead kernel that failed, if it was one.
    pub cpu: Option<u64>,
    /// Where that was, as `symbol+offset`.
    pub place: Word,
    /// `uname -r` of the dead kernel.
    pub failed: Word,
    /// The same of the staged kernels, by slot.
    pub kernels: [Word; 2],
    /// The attempts of this failover.
    pub attempts: Vec<Attempt>,
    /// How far the successor has come by itself.
    pub phase: Option<SuccessorPhase>,
    /// When each of [`EVENTS`] was, in milliseconds.
    pub steps: [Option<i64>; EVENTS.len()],
    /// Now, in milliseconds.
    pub now: u64,
    /// What was salvaged.
    pub summary: Option<Summary>,
    /// The instant of the stop in milliseconds since 1970 by the dead kernel's clock.
    pub stopped_at: Option<i64>,
    /// Messages, if there is a target.
    pub messages: Option<Messages>,
}

impl State {
    /// Takes over what the records know. `stopped` is the TSC of the stop.
    pub fn learn(&mut self, stream: &Stream<'_>, stopped: u64) {
        for record in stream.records().map_while(Result::ok) {
            match record.kind {
                Kind::Machine => {
                    if let Ok(machine) = record.decode::<Machine>() {
                        self.failed = Word::new(&machine.release);
                        self.stopped_at = wall_clock(&machine, stopped);
                    }
                }
                Kind::Summary => self.summary = record.decode().ok(),
                _ => {}
            }
        }
    }

    /// The step that was taken last.
    pub fn step(&self) -> Option<(Event, &'static str)> {
        let taken = self.steps.iter().zip(EVENTS);
        let taken = taken.filter_map(|(at, step)| Some(((*at)?, step)));
        taken.max_by_key(|&(at, (event, _))| (at, event)).map(|(_, step)| step)
    }

    /// The kernel of an attempt.
    pub fn kernel(&self, attempt: &Attempt) -> &Word {
        self.kernels.get(attempt.slot).unwrap_or(&self.kernels[0])
    }

    /// Why the kernel was replaced, in one line.
    pub fn cause(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| {
            f.write_str(self.cause.name())?;
            if let Some(cpu) = self.cpu {
                write!(f, " on CPU {cpu}")?;
            }
            match self.place.is_empty() {
                true => Ok(()),
                false => write!(f, " in {}", self.place),
            }
        })
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "Orthros: failover {}, {} ms after the stop",
            self.failover, self.now
        )?;
        writeln!(out, "cause: {}", self.cause())?;
        writeln!(out, "failed: {}", self.failed)?;
        if let Some(attempt) = self.attempts.last() {
            writeln!(
                out,
                "starting: {}, attempt {}",
                self.kernel(attempt),
                self.attempts.len()
            )?;
        }
        writeln!(out, "step: {}", self.step().map_or("none", |(_, name)| name))?;
        if let Some(summary) = &self.summary {
            writeln!(
                out,
                "processes: {} salvaged, {} refused",
                summary.processes, summary.refused
            )?;
        }
        if let Some(Messages { sent, dropped }) = self.messages {
            writeln!(out, "messages: {sent} sent, {dropped} dropped")?;
        }
        writeln!(out, "\nsteps, in milliseconds after the stop:")?;
        for (at, (_, name)) in self.steps.iter().zip(EVENTS) {
            if let Some(at) = at {
                writeln!(out, "  {name:<16} {at}")?;
            }
        }
        writeln!(out, "\nattempts:")?;
        for (number, attempt) in (1..).zip(&self.attempts) {
            let how = if attempt.woken { "woken" } else { "booted" };
            let end = attempt.end.text();
            writeln!(out, "  {number} {}, {how}: {end}", self.kernel(attempt))?;
        }
        Ok(())
    }

    /// As JSON.
    pub fn json(&self) -> String {
        let mut json = String::new();
        // Writing to a string does not fail.
        let _ = self.write_json(&mut json);
        json
    }

    fn write_json(&self, out: &mut String) -> fmt::Result {
        write!(out, "{{\"version\":1,\"failover\":{}", self.failover)?;
        write!(out, ",\"since_stop_ms\":{}", self.now)?;
        write!(out, ",\"cause\":\"{}\",\"cpu\":{}", self.cause.name(), Json(self.cpu))?;
        write!(out, ",\"place\":\"{}\",\"failed\":\"{}\"", self.place, self.failed)?;
        match self.attempts.last() {
            Some(attempt) => write!(out, ",\"starting\":\"{}\"", self.kernel(attempt))?,
            None => out.push_str(",\"starting\":null"),
        }
        write!(out, ",\"attempt\":{}", self.attempts.len())?;
        write!(out, ",\"phase\":{}", Json(self.phase.map(|phase| phase as u64)))?;
        write!(out, ",\"step\":\"{}\"", self.step().map_or("none", |(_, name)| name))?;
        let summary = self.summary.as_ref();
        let salvaged = Json(summary.map(|summary| summary.processes));
        let refused = Json(summary.map(|summary| summary.refused));
        write!(out, ",\"processes\":{{\"salvaged\":{salvaged},\"refused\":{refused}}}")?;
        match self.messages {
            Some(Messages { sent, dropped }) => {
                write!(out, ",\"messages\":{{\"sent\":{sent},\"dropped\":{dropped}}}")?;
            }
            None => out.push_str(",\"messages\":null"),
        }
        out.push_str(",\"steps_ms\":{");
        let mut comma = "";
        for (at, (_, name)) in self.steps.iter().zip(EVENTS) {
            if let Some(at) = at {
                write!(out, "{comma}\"{name}\":{at}")?;
                comma = ",";
            }
        }
        out.push_str("},\"attempts\":[");
        comma = "";
        for attempt in &self.attempts {
            let (kernel, woken, end) = (self.kernel(attempt), attempt.woken, attempt.end.text());
            write!(
                out,
                "{comma}{{\"kernel\":\"{kernel}\",\"woken\":{woken},\"end\":\"{end}\"}}"
            )?;
            comma = ",";
        }
        out.push_str("]}\n");
        Ok(())
    }
}

/// A number, or null.
struct Json<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("null"),
        }
    }
}

/// The dead kernel's CLOCK_REALTIME at a TSC, in milliseconds.
fn wall_clock(machine: &Machine, tsc: u64) -> Option<i64> {
    let clock = &machine.clock;
    let ticks = i128::from(tsc).checked_sub(i128::from(clock.tsc))?;
    let ns = ticks.checked_mul(1_000_000_000)?.checked_div(clock.tsc_hz.into())?;
    let ns = i128::from(clock.realtime).checked_add(ns)?;
    i64::try_from(ns.checked_div(NS_PER_MS)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use shared_region::context::Clock;
    use shared_region::record::Writer;

    #[test]
    fn records_tell_of_the_dead_kernel() {
        let mut area = alloc::vec![0; 4096];
        let mut writer = Writer::new(&mut area, 1).unwrap();
        let machine = Machine {
            release: "6.1.0-56-amd64".into(),
            clock: Clock {
                tsc: 3_000,
                tsc_hz: 1_000_000,
                realtime: 1_700_000_000_000_000_000,
                ..Clock::default()
            },
            ..Machine::default()
        };
        let summary = Summary {
            processes: 3,
            refused: 1,
            ..Summary::default()
        };
        writer.push(Kind::Machine, 1, 0, 0, &machine).unwrap();
        writer.push(Kind::Summary, 1, 0, 0, &summary).unwrap();
        writer.finish();
        let mut state = State::default();
        // A millisecond before the instant of the records.
        state.learn(&Stream::open(&area).unwrap(), 2_000);
        assert_eq!(state.failed.to_string(), "6.1.0-56-amd64");
        assert_eq!(state.stopped_at, Some(1_699_999_999_999));
        assert_eq!(state.summary, Some(summary));
    }

    #[test]
    fn a_clock_that_makes_no_sense_is_none() {
        let machine = Machine::default();
        assert_eq!(wall_clock(&machine, u64::MAX), None);
    }

    #[test]
    fn words_are_plain_whatever_they_are_made_of() {
        assert_eq!(Word::new("6.1.0-56-amd64").to_string(), "6.1.0-56-amd64");
        assert_eq!(Word::new("a\"b\\c\n\u{e9}\u{1b}[0m").to_string(), "a?b?c???[0m");
        assert_eq!(Word::new(&"x".repeat(200)).to_string().len(), WORD);
    }

    #[test]
    fn the_last_step_is_the_latest() {
        let mut state = State::default();
        assert_eq!(state.step(), None);
        state.steps[Event::Detected as usize] = Some(-3);
        state.steps[Event::Stopped as usize] = Some(0);
        state.steps[Event::Quiesced as usize] = Some(0);
        assert_eq!(state.step(), Some((Event::Quiesced, "quiesced")));
        state.steps[Event::Woken as usize] = Some(2);
        assert_eq!(state.step(), Some((Event::Woken, "woken")));
    }
}
