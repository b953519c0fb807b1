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
    /// Instructions from the files being ready until all processes run again.
    pub restore: u64,
    /// The timeline, in instructions since the failure.
    pub timeline: Vec<(String, u64)>,
}

/// Runs a scenario while counting instructions: one instruction is one nanosecond of the
/// guest, so the report's timeline counts them.
///
/// # Errors
/// When the scenario fails or its report lacks figures.
pub fn failover(paths: &Paths, artefacts: &Artefacts, scenario: &Scenario, series: Series) -> Result<Cost> {
    let mut scenario = scenario.clone();
    scenario.protect.ready.timeout = PATIENCE.as_secs();
    scenario.verdict.timeout = PATIENCE.as_secs();
    for step in &mut scenario.steps {
        step.timeout = PATIENCE.as_secs();
    }
    let mut plan = Plan::new(series, series, paths.target.join("bench/counted"));
    plan.accelerator = Some(Accelerator::InstructionCount);
    let report = run::once(paths, artefacts, &scenario, &plan, 1)?;
    if let Some(failure) = &report.failure {
        bail!("{}: {failure}\nlogs: {}", scenario.name(), report.logs);
    }
    let figures = report.orthros.clone().context("orthros-ctl gave no report")?;
    let mut timeline: Vec<(String, u64)> = figures["timeline_ns"]
        .as_object()
        .context("the report has no timeline")?
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
        .collect();
    timeline.sort_by_key(|(_, at)| *at);
    let at = |name: &str| {
        let found = timeline.iter().find(|(moment, _)| moment == name);
        found
            .map(|(_, at)| *at)
            .with_context(|| format!("the timeline has no {name}"))
    };
    let restore = at("all_resumed")?.saturating_sub(at("files_ready")?);
    let adopted = figures["frames"]["adopted"]
        .as_u64()
        .context("the report counts no frames")?;
    Ok(Cost {
        report,
        adopted,
        restore,
        timeline,
    })
}

impl Cost {
    /// Instructions for each frame that was handed over, everything included.
    #[must_use]
    pub const fn per_frame(&self) -> u64 {
        self.restore / if self.adopted == 0 { 1 } else { self.adopted }
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
            "kernel": self.report.active,
            "adopted_frames": self.adopted,
            "restore_instructions": self.restore,
            "restore_instructions_per_frame": self.per_frame(),
            "timeline_instructions": timeline,
        })
    }
}
