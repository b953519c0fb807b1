//! The result of a run as JSON. The schema has a version: fields are only ever added
//! within one version.

use crate::machine::Plan;
use crate::scenario::{Event, Scenario};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Version of the JSON schema.
pub const SCHEMA: u32 = 1;

/// Everything about one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The scenario's name.
    pub scenario: String,
    /// The scenario's title.
    pub title: String,
    /// `uname -r` of the kernel that ran first.
    pub active: String,
    /// `uname -r` of the kernel that was to take over.
    pub successor: String,
    /// `q35` or `pc`.
    pub machine: String,
    /// CPUs, the reserved one included.
    pub cpus: u32,
    /// MiB of RAM.
    pub ram: u32,
    /// Seed of everything random in this run.
    pub seed: u64,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// What was not.
    pub failure: Option<String>,
    /// Seconds for all of it.
    pub seconds: f64,
    /// What happened, seen from the host.
    pub timeline: Vec<Moment>,
    /// The failures that were brought about.
    pub steps: Vec<StepResult>,
    /// What the guest's verdict command printed.
    pub guest: Option<String>,
    /// The clients' ends.
    pub clients: Vec<ClientResult>,
    /// `orthros-ctl report --json` after the last step.
    pub orthros: Option<Value>,
    /// `orthros-ctl report`, for people.
    pub orthros_text: Option<String>,
    /// How the last successor started.
    pub start: Option<SuccessorStart>,
    /// Folder of the run's logs.
    pub logs: String,
}

/// The way from the dead kernel's last CPU to the successor's first program.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SuccessorStart {
    /// Whether a standby was woken; otherwise the kernel booted.
    pub woken: bool,
    /// Milliseconds of the guest from the last CPU's stop to the first instruction of orthros-init, after its sleep if it
    /// slept.
    pub milliseconds: f64,
}

impl SuccessorStart {
    /// Reads it from `orthros-ctl report --json`; none without a failover.
    #[must_use]
    pub fn of(orthros: &Value) -> Option<Self> {
        let at = |event: &str| orthros.get("timeline_ns")?.get(event)?.as_u64();
        let nanoseconds = at("init_started")?.checked_sub(at("stopped")?)?;
        Some(Self {
            woken: at("woken").is_some(),
            milliseconds: std::time::Duration::from_nanos(nanoseconds).as_secs_f64() * 1e3,
        })
    }
}

/// A moment on the host's clock.
#[derive(Debug, Clone, Serialize)]
pub struct Moment {
    /// Seconds since the machine was started.
    pub at: f64,
    /// What was seen.
    pub what: String,
}

/// One failure and what followed.
#[derive(Debug, Clone, Serialize)]
pub struct StepResult {
    /// Its kind.
    pub event: Event,
    /// How it was brought about.
    pub injection: String,
    /// Seconds since the machine's start when it was asked for.
    pub asked: f64,
    /// Seconds since the machine's start when the successor's user space answered.
    pub up: Option<f64>,
    /// `uname -r` of the kernel that answered.
    pub release: Option<String>,
}

/// A client's end.
#[derive(Debug, Clone, Serialize)]
pub struct ClientResult {
    /// The command.
    pub command: String,
    /// Its exit status; none if it had to be killed.
    pub status: Option<i32>,
}

impl Report {
    /// A report of a run that has not begun: it has not passed.
    #[must_use]
    pub fn new(scenario: &Scenario, plan: &Plan, seed: u64) -> Self {
        Self {
            schema: SCHEMA,
            scenario: scenario.name(),
            title: scenario.title.clone(),
            active: plan.active.to_string(),
            successor: plan.successor.to_string(),
            machine: scenario.guest.machine.clone(),
            cpus: scenario.guest.cpus,
            ram: scenario.guest.ram,
            seed,
            passed: false,
            failure: None,
            seconds: 0.0,
            timeline: Vec::new(),
            steps: Vec::new(),
            guest: None,
            clients: Vec::new(),
            orthros: None,
            orthros_text: None,
            start: None,
            logs: plan.dir.display().to_string(),
        }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Notes a moment.
    pub fn moment(&mut self, at: Duration, what: impl Into<String>) {
        self.timeline.push(Moment {
            at: at.as_secs_f64(),
            what: what.into(),
        });
    }
}

/// What happened, line by line; without the verdict on it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.scenario, self.title)?;
        writeln!(
            f,
            "{} → {}, {}, {} CPUs, {} MiB",
            self.active, self.successor, self.machine, self.cpus, self.ram
        )?;
        writeln!(f, "Seen from the host, in seconds since the machine was started:")?;
        for moment in &self.timeline {
            writeln!(f, "{:10.3}  {}", moment.at, moment.what)?;
        }
        if let Some(start) = &self.start {
            writeln!(
                f,
                "From the dead kernel's last CPU to the successor's first program: {:.1} ms ({})",
                start.milliseconds,
                if start.woken { "woken" } else { "cold" }
            )?;
        }
        let told = [
            ("What Orthros reports (orthros-ctl report):", &self.orthros_text),
            ("The verdict from inside the guest:", &self.guest),
        ];
        for (title, text) in told {
            let Some(text) = text else { continue };
            writeln!(f, "{title}")?;
            for line in text.lines() {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::SuccessorStart;
    use serde_json::json;

    #[test]
    fn the_start_is_read_from_the_timeline() {
        let mut report = json!({"timeline_ns": {"stopped": 2_000_000, "init_started": 302_500_000, "woken": null}});
        let cold = SuccessorStart {
            woken: false,
            milliseconds: 300.5,
        };
        assert_eq!(SuccessorStart::of(&report), Some(cold));
        report["timeline_ns"]["woken"] = 3_000_000.into();
        assert!(SuccessorStart::of(&report).unwrap().woken);
        report["timeline_ns"]["stopped"] = json!(null);
        assert_eq!(SuccessorStart::of(&report), None);
    }
}
