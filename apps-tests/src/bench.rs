//! Figures of speed, apart from the tests: how long salvage takes over a dead guest's
//! memory on this host, and how many instructions the guest spends on a failover.

use crate::artefacts::Artefacts;
use crate::exec;
use crate::kernels::Series;
use crate::machine::Plan;
use crate::paths::Paths;
use crate::progress::Step;
use crate::qemu::Accelerator;
use crate::report::Report;
use crate::run;
use crate::scenario::Scenario;
use anyhow::{bail, Context, Result};
use regex::Regex;
use serde_json::{json, Value};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// MiB of a guest whose memory image has no hole below 4 GB, on any machine type.
const FLAT: u32 = 2560;
/// For a guest under instruction counting to get through anything.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Makes an image of a guest that died with a process of 1 GB in 4 KB pages and times
/// the salvage of it. Returns what the benchmark printed.
///
/// # Errors
/// When the guest does not die as wanted or the benchmark fails.
pub fn salvage(paths: &Paths, artefacts: &Artefacts, scenario: &Scenario, series: Series) -> Result<String> {
    let dir = paths.target.join("bench");
    let images = dir.join("images");
    fs::create_dir_all(&images)?;
    let image = images.join(format!("{series}.mem"));
    {
        let _step = Step::start(format!("an image of a dead {series} guest with 1 GB in use"));
        let mut scenario = scenario.clone();
        scenario.guest.ram = FLAT;
        scenario.guest.kernel_parameters = "transparent_hugepage=never".into();
        let mut plan = Plan::new(series, series, dir.join("guest"));
        plan.stock = true;
        let mut machine = run::ready_machine(paths, artefacts, &scenario, &plan)?;
        let console = machine.qemu.console.position();
        machine.agent.send("echo c >/proc/sysrq-trigger")?;
        let end = Regex::new(r"end Kernel panic")?;
        machine.qemu.console.wait_for(console, &end, Duration::from_secs(60))?;
        machine.qemu.save_memory(&image, u64::from(FLAT) << 20)?;
    }
    let _step = Step::start("timing the salvage");
    let text = exec::text(
        Command::new("cargo")
            .args(["bench", "--quiet", "-p", "salvage", "--bench", "salvage"])
            .env("ORTHROS_IMAGE_DIR", &images)
            .env("CARGO_TARGET_DIR", &paths.target)
            .current_dir(&paths.root),
    );
    crate::cache::remove(&image)?;
    text
}

/// Waits until the standby sleeps.
const ASLEEP: &str = "until orthros-ctl status | grep -q 'standby:.*asleep'; do sleep 0.3; done";

/// A failover to be counted.
#[derive(Debug, Clone)]
pub struct Counted {
    /// What is measured.
    pub title: &'static str,
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Words for the kernels' command lines.
    pub kernel_parameters: &'static str,
    /// Whether the successor sleeps until it is needed.
    pub standby: bool,
}

/// One large process in small pages and in huge ones, and many small processes; and the service of `bench gaps`, for which
/// a standby is woken.
pub const COUNTED: [Counted; 4] = [
    Counted {
        title: "a process of 1 GB in 4 KB pages",
        scenario: "checksum",
        kernel_parameters: "transparent_hugepage=never",
        standby: false,
    },
    Counted {
        title: "a process of 1 GB in huge pages",
        scenario: "checksum",
        kernel_parameters: "transparent_hugepage=always",
        standby: false,
    },
    Counted {
        title: "50 processes of 1 MB and their shell",
        scenario: "many",
        kernel_parameters: "transparent_hugepage=never",
        standby: false,
    },
    Counted {
        title: "a service with 100 MB, from the standby",
        scenario: "beat",
        kernel_parameters: "",
        standby: true,
    },
];

/// What a part of the hand-over has taken.
#[derive(Debug, Clone)]
pub struct Share {
    /// Its name in the report.
    pub part: String,
    /// How many times it was done.
    pub times: u64,
    /// Instructions in all.
    pub instructions: u64,
}

/// What a failover costs the guest.
#[derive(Debug, Clone)]
pub struct Cost {
    /// What was measured.
    pub title: &'static str,
    /// The run.
    pub report: Report,
    /// Frames handed over in place.
    pub adopted: u64,
    /// Processes that run again.
    pub processes: u64,
    /// Instructions until the old RAM was added, from the gate on.
    pub adding: u64,
    /// Instructions from the files being ready until the first process was about to run.
    pub first: u64,
    /// Instructions from the files being ready until all processes ran again.
    pub restore: u64,
    /// Where they went.
    pub parts: Vec<Share>,
    /// The timeline, in instructions since the failure.
    pub timeline: Vec<(String, u64)>,
}

/// Runs a scenario while counting instructions: one instruction is one nanosecond of the
/// guest, so the report's times count them; time in which all CPUs sleep counts as well.
///
/// # Errors
/// When the scenario fails or its report lacks figures.
pub fn failover(
    paths: &Paths,
    artefacts: &Artefacts,
    scenario: &Scenario,
    counted: &Counted,
    (active, successor): (Series, Series),
) -> Result<Cost> {
    let mut scenario = scenario.clone();
    // With one CPU for Linux and one for the backup OS: CPUs are emulated in turn, and one that waits for another to
    // come up keeps it from doing so.
    scenario.guest.cpus = 2;
    scenario.guest.kernel_parameters = counted.kernel_parameters.into();
    scenario.guest.standby = Some(counted.standby);
    if counted.standby {
        for step in &mut scenario.steps {
            step.before.push(ASLEEP.into());
        }
    }
    scenario.protect.ready.timeout = PATIENCE.as_secs();
    scenario.verdict.timeout = PATIENCE.as_secs();
    for step in &mut scenario.steps {
        step.timeout = PATIENCE.as_secs();
    }
    let dir = paths.target.join("bench/counted").join(scenario.name());
    let mut plan = Plan::new(active, successor, dir);
    plan.accelerator = Some(Accelerator::InstructionCount);
    let report = run::once(paths, artefacts, &scenario, &plan, 1)?;
    if let Some(failure) = &report.failure {
        bail!("{}: {failure}\nlogs: {}", scenario.name(), report.logs);
    }
    Cost::of(counted.title, report)
}

/// A number with blanks between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(" ")
}

impl Cost {
    /// Reads the figures from a run's report.
    fn of(title: &'static str, report: Report) -> Result<Self> {
        let figures = report.orthros.clone().context("orthros-ctl gave no report")?;
        let mut timeline: Vec<(String, u64)> = figures["timeline_ns"]
            .as_object()
            .context("the report has no timeline")?
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
            .collect();
        timeline.sort_by_key(|(_, at)| *at);
        let between = |from: &str, to: &str| {
            let at = |name: &str| {
                let found = timeline.iter().find(|(moment, _)| moment == name);
                found
                    .map(|(_, at)| *at)
                    .with_context(|| format!("the timeline has no {name}"))
            };
            anyhow::Ok(at(to)?.saturating_sub(at(from)?))
        };
        let parts = figures["costs"].as_array().context("the report names no costs")?;
        let part = |value: &Value| {
            Some(Share {
                part: value["part"].as_str()?.to_owned(),
                times: value["times"].as_u64()?,
                instructions: value["nanoseconds"].as_u64()?,
            })
        };
        Ok(Self {
            title,
            adopted: figures["frames"]["adopted"]
                .as_u64()
                .context("the report counts no frames")?,
            processes: figures["processes"]["resumed"]
                .as_u64()
                .context("the report counts no processes")?,
            adding: between("gate_passed", "memory_added")?,
            first: between("files_ready", "first_resumed")?,
            restore: between("files_ready", "all_resumed")?,
            parts: parts.iter().filter_map(part).collect(),
            timeline,
            report,
        })
    }

    /// Instructions for handing frames over.
    #[must_use]
    pub fn adoption(&self) -> u64 {
        let adoption = self.parts.iter().find(|share| share.part == "adoption");
        adoption.map_or(0, |share| share.instructions)
    }

    /// Instructions for each frame that was handed over.
    #[must_use]
    pub fn per_page(&self) -> u64 {
        self.adoption() / self.adopted.max(1)
    }

    /// Instructions for each process that runs again, but for the frames.
    #[must_use]
    pub fn per_process(&self) -> u64 {
        self.restore.saturating_sub(self.adoption()) / self.processes.max(1)
    }

    /// Instructions until the first process was about to run, but for the frames.
    #[must_use]
    pub fn first_without_pages(&self) -> u64 {
        self.first.saturating_sub(self.adoption())
    }

    /// Instructions for adding 1 GiB of RAM.
    #[must_use]
    pub fn per_gigabyte(&self) -> u64 {
        self.adding * 1024 / u64::from(self.report.ram.max(1))
    }

    /// What is wanted of each figure: what it is, the figure.
    fn figures(&self) -> [(&'static str, u64); 6] {
        [
            ("a page, adoption alone", self.per_page()),
            ("a process, without its pages", self.per_process()),
            ("files ready to first process", self.first),
            ("the same without pages", self.first_without_pages()),
            ("files ready to all processes", self.restore),
            ("adding 1 GiB of RAM", self.per_gigabyte()),
        ]
    }

    /// As a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("    {:<32} {:>16} {:>16}\n", "moment", "instructions", "since the last");
        let mut last = 0;
        for (moment, at) in &self.timeline {
            text += &format!("    {moment:<32} {:>16} {:>16}\n", grouped(*at), grouped(at - last));
            last = *at;
        }
        text += &format!(
            "    {:<32} {:>16} {:>16}\n",
            "part of the hand-over", "instructions", "times"
        );
        for share in &self.parts {
            let (all, times) = (grouped(share.instructions), grouped(share.times));
            text += &format!("    {:<32} {all:>16} {times:>16}\n", share.part);
        }
        text += &format!(
            "    for {} processes with {} pages\n",
            self.processes,
            grouped(self.adopted)
        );
        for (what, figure) in self.figures() {
            text += &format!("    {what:<32} {:>16}\n", grouped(figure));
        }
        text
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let timeline: serde_json::Map<String, Value> = self
            .timeline
            .iter()
            .map(|(name, at)| (name.clone(), (*at).into()))
            .collect();
        let parts: serde_json::Map<String, Value> = self
            .parts
            .iter()
            .map(|share| {
                let value = json!({ "instructions": share.instructions, "times": share.times });
                (share.part.clone(), value)
            })
            .collect();
        json!({
            "title": self.title,
            "scenario": self.report.scenario,
            "active": self.report.active,
            "successor": self.report.successor,
            "adopted_frames": self.adopted,
            "processes": self.processes,
            "adoption_instructions_per_frame": self.per_page(),
            "instructions_per_process_without_frames": self.per_process(),
            "first_resumed_instructions": self.first,
            "first_resumed_instructions_without_frames": self.first_without_pages(),
            "all_resumed_instructions": self.restore,
            "add_instructions_per_gib": self.per_gigabyte(),
            "parts": parts,
            "timeline_instructions": timeline,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!([0, 12, 1234, 1_234_567].map(grouped), ["0", "12", "1 234", "1 234 567"]);
    }
}
