//! `scenario` and `demo`: one scenario from boot to verdict.

use anyhow::{Context, Result};
use clap::Args;
use harness::artefacts::{self, Artefacts};
use harness::kernels::{Kernel, Series};
use harness::machine::Plan;
use harness::paths::Paths;
use harness::report::Report;
use harness::run;
use harness::scenario::{Event, Scenario};
use std::path::PathBuf;

#[derive(Args)]
pub struct Options {
    /// Scenario folder, or the name of one below apps-tests/scenarios/
    dir: String,
    /// Kernel that runs first
    #[arg(long, value_enum, default_value = "6.1")]
    active: Series,
    /// Kernel that takes over (default: the same)
    #[arg(long, value_enum)]
    successor: Option<Series>,
    /// What happens, instead of the steps' own events
    #[arg(long, value_enum)]
    event: Option<Event>,
    /// How it is brought about, instead of the steps' own ways: arguments for panic-test, hang-test or update
    #[arg(long, allow_hyphen_values = true)]
    injection: Option<String>,
    /// Write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Run on the plain kernel without Orthros; only useful with --event none
    #[arg(long)]
    stock: bool,
    /// Whether the successor sleeps as a standby until it is needed, instead of what the scenario says
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"])]
    standby: Option<String>,
    /// Run the scenario's sweep, all from one saved state of the machine
    #[arg(long, conflicts_with = "json")]
    sweep: bool,
    /// So many instants at random in the sweep, instead of what the scenario says
    #[arg(long, requires = "sweep", value_name = "N")]
    random: Option<u32>,
    /// Use what was built before
    #[arg(long)]
    no_build: bool,
    /// Number that decides everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub fn run(paths: &Paths, options: &Options) -> Result<bool> {
    let successor = options.successor.unwrap_or(options.active);
    let mut scenario = Scenario::read(&super::scenario_dir(paths, &options.dir))?;
    for step in &mut scenario.steps {
        if let Some(event) = options.event.filter(|&event| event != step.event) {
            // How one event is brought about means nothing to another.
            step.event = event;
            step.injection = None;
        }
        if options.injection.is_some() {
            step.injection.clone_from(&options.injection);
        }
    }
    let dir = paths
        .target
        .join("runs")
        .join(format!("{}-{}-{successor}", scenario.name(), options.active));
    let mut plan = Plan::new(options.active, successor, dir);
    plan.stock = options.stock;
    if let Some(standby) = &options.standby {
        plan.loader_options = format!("standby={standby}");
    }
    let artefacts = prepared(paths, &[options.active, successor], options.no_build)?;
    if options.sweep {
        if let Some(random) = options.random {
            let sweep = scenario.sweep.as_mut().filter(|sweep| sweep.random_below_ms > 0);
            sweep.context("the scenario's sweep has no instants at random")?.random = random;
        }
        let reports = run::sweep(paths, &artefacts, &scenario, &plan, options.seed)?;
        reports.iter().for_each(show);
        return Ok(reports.iter().all(|report| report.passed));
    }
    let report = run::once(paths, &artefacts, &scenario, &plan, options.seed)?;
    if let Some(file) = &options.json {
        report.write(file)?;
    }
    show(&report);
    Ok(report.passed)
}

/// The demonstration: 1 GB in eight threads lives through a panic.
pub fn demo(paths: &Paths) -> Result<bool> {
    let scenario = Scenario::read(&super::scenario_dir(paths, "checksum"))?;
    let dir = paths.target.join("runs/demo");
    let plan = Plan::new(Series::V6_1, Series::V6_12, dir);
    let artefacts = prepared(paths, &Series::ALL, false)?;
    println!("A stock Debian kernel will panic under a program with 8 threads and 1 GB of memory in use.");
    let report = run::once(paths, &artefacts, &scenario, &plan, 1)?;
    show(&report);
    Ok(report.passed)
}

/// Builds for these kernels unless told not to.
pub fn prepared(paths: &Paths, series: &[Series], no_build: bool) -> Result<Artefacts> {
    if no_build {
        return Ok(Artefacts::at(paths));
    }
    let mut series = series.to_vec();
    series.dedup();
    let kernels = series
        .into_iter()
        .map(|series| Kernel::find(paths, series))
        .collect::<Result<Vec<_>>>()?;
    artefacts::build(paths, &kernels)
}

fn show(report: &Report) {
    print!("{report}");
    match &report.failure {
        None => println!("PASS in {:.1} s", report.seconds),
        Some(failure) => println!("FAIL in {:.1} s: {failure}\nlogs: {}", report.seconds, report.logs),
    }
}
