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

/// What a failover costs the guest.
#[derive(Debug, Clone)]
pub struct Cost {
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
    /// The timeline, in instructions since the failure.
    pub timeline: Vec<(String, u64)>,
}

/// Runs a scenario while counting instructions: one instruction is one nanosecond of the
/// guest, so the report's timeline counts them; time in which all CPUs sleep counts as well.
///
/// # Errors
/// When the scenario fails or its report lacks figures.
pub fn failover(paths: &Paths, artefacts: &Artefacts, scenario: &Scenario, series: Series) -> Result<Cost> {
    let mut scenario = scenario.clone();
    // With one CPU for Linux and one for the backup OS: CPUs are emulated in turn, and one that waits for another to
    // come up keeps it from doing so.
    scenario.guest.cpus = 2;
    scenario.protect.ready.timeout = PATIENCE.as_secs();
    scenario.verdict.timeout = PATIENCE.as_secs();
    for step in &mut scenario.steps {
        step.timeout = PATIENCE.as_secs();
    }
    let dir = paths.target.join("bench/counted").join(scenario.name());
    let mut plan = Plan::new(series, series, dir);
    plan.accelerator = Some(Accelerator::InstructionCount);
    let report = run::once(paths, artefacts, &scenario, &plan, 1)?;
    if let Some(failure) = &report.failure {
        bail!("{}: {failure}\nlogs: {}", scenario.name(), report.logs);
    }
    Cost::of(report)
}

impl Cost {
    /// Reads the figures from a run's report.
    fn of(report: Report) -> Result<Self> {
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
        Ok(Self {
            adopted: figures["frames"]["adopted"]
                .as_u64()
                .context("the report counts no frames")?,
            processes: figures["processes"]["resumed"]
                .as_u64()
                .context("the report counts no processes")?,
            adding: between("gate_passed", "memory_added")?,
            first: between("files_ready", "first_resumed")?,
            restore: between("files_ready", "all_resumed")?,
            timeline,
            report,
        })
    }

    /// Instructions for each frame that was handed over, everything included.
    #[must_use]
    pub const fn per_frame(&self) -> u64 {
        self.restore / if self.adopted == 0 { 1 } else { self.adopted }
    }

    /// Instructions for each process that runs again, everything included.
    #[must_use]
    pub const fn per_process(&self) -> u64 {
        self.restore / if self.processes == 0 { 1 } else { self.processes }
    }

    /// Instructions for adding 1 GiB of RAM.
    #[must_use]
    pub fn per_gigabyte(&self) -> u64 {
        self.adding * 1024 / u64::from(self.report.ram.max(1))
    }

    /// As a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut last = 0;
        for (moment, at) in &self.timeline {
            text += &format!("    {moment:14} {at:>16}  +{}\n", at - last);
            last = *at;
        }
        text += &format!("    RAM added: {} for each GiB of the machine\n", self.per_gigabyte());
        text += &format!("    files ready to first process: {}\n", self.first);
        text += &format!(
            "    restore: {} for {} processes with {} frames: {} a process, {} a frame",
            self.restore,
            self.processes,
            self.adopted,
            self.per_process(),
            self.per_frame()
        );
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
        json!({
            "scenario": self.report.scenario,
            "kernel": self.report.active,
            "adopted_frames": self.adopted,
            "processes": self.processes,
            "add_instructions_per_gib": self.per_gigabyte(),
            "first_resumed_instructions": self.first,
            "restore_instructions": self.restore,
            "restore_instructions_per_frame": self.per_frame(),
            "restore_instructions_per_process": self.per_process(),
            "timeline_instructions": timeline,
        })
    }
}
