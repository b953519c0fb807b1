//! `bench`: figures of speed.

use super::scenario::prepared;
use anyhow::{bail, Context, Result};
use clap::{Args, Subcommand};
use harness::bench::{self, Counted, COUNTED};
use harness::kernels::Series;
use harness::paths::Paths;
use harness::scenario::Scenario;
use serde_json::json;
use std::path::PathBuf;

#[derive(Subcommand)]
enum Part {
    /// How long a service is silent while its kernel is replaced, beside reboot, kexec, CRIU and kdump
    Gaps(super::gaps::Options),
    /// What watching costs the watched, by instruction counts
    Cost(super::cost::Options),
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Only this kernel (default: both)
    #[arg(long, value_enum)]
    kernel: Option<Series>,
    /// The kernel that takes over in failovers (default: the same)
    #[arg(long, value_enum)]
    successor: Option<Series>,
    /// Only the salvage on this host, not the failover by instruction counts
    #[arg(long)]
    salvage_only: bool,
    /// Only the failovers by instruction counts
    #[arg(long, conflicts_with = "salvage_only")]
    failover_only: bool,
    /// Only failovers of this scenario: `checksum` is one large process, `many` are small ones, `beat` wakes a standby
    #[arg(long)]
    scenario: Option<String>,
    /// Write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Use what was built before
    #[arg(long)]
    no_build: bool,
}

pub fn run(paths: &Paths, options: &Options) -> Result<bool> {
    match &options.part {
        Some(Part::Gaps(options)) => return super::gaps::run(paths, options),
        Some(Part::Cost(options)) => return super::cost::run(paths, options),
        None => {}
    }
    let kernels = options
        .kernel
        .map_or_else(|| Series::ALL.to_vec(), |series| vec![series]);
    let mut wanted = kernels.clone();
    wanted.extend(options.successor.filter(|successor| !kernels.contains(successor)));
    let artefacts = prepared(paths, &wanted, options.no_build)?;
    let read = |name: &str| Scenario::read(&super::scenario_dir(paths, name));
    let is_wanted = |counted: &&Counted| options.scenario.as_deref().is_none_or(|name| name == counted.scenario);
    let counted: Vec<&Counted> = COUNTED.iter().filter(is_wanted).collect();
    if counted.is_empty() {
        bail!("only failovers of the scenarios checksum, many and beat are counted");
    }
    let mut figures = Vec::new();
    for series in kernels {
        let mut entry = json!({ "series": series });
        if !options.failover_only {
            let salvage = bench::salvage(paths, &artefacts, &read("checksum")?, series)?;
            println!(
                "{series}: salvage of a dead guest with a process of 1 GB in 4 KB pages, one thread of this host:"
            );
            for line in salvage.lines() {
                println!("    {line}");
            }
            entry["salvage"] = salvage.into();
        }
        let mut costs = Vec::new();
        for counted in counted.iter().filter(|_| !options.salvage_only) {
            let pair = (series, options.successor.unwrap_or(series));
            let cost = bench::failover(paths, &artefacts, &read(counted.scenario)?, counted, pair)?;
            println!(
                "{} → {}: {}, in instructions of the guest since the failure:\n{}",
                pair.0,
                pair.1,
                counted.title,
                cost.text()
            );
            costs.push(cost.json());
        }
        entry["failovers"] = costs.into();
        figures.push(entry);
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&json!({ "schema": 3, "figures": figures }))? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(true)
}
