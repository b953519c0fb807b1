//! `bench`: figures of speed.

use super::scenario::prepared;
use anyhow::{Context, Result};
use clap::Args;
use harness::bench;
use harness::kernels::Series;
use harness::paths::Paths;
use harness::scenario::Scenario;
use serde_json::json;
use std::path::PathBuf;

/// Scenarios that are run while instructions are counted.
const COUNTED: [&str; 2] = ["checksum", "many"];

#[derive(Args)]
pub struct Options {
    /// Only this kernel (default: both)
    #[arg(long, value_enum)]
    kernel: Option<Series>,
    /// Only the salvage on this host, not the failover by instruction counts
    #[arg(long)]
    salvage_only: bool,
    /// Only the failovers by instruction counts
    #[arg(long, conflicts_with = "salvage_only")]
    failover_only: bool,
    /// Only this scenario by instruction counts (default: one large process, then many small ones)
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
    let kernels = options
        .kernel
        .map_or_else(|| Series::ALL.to_vec(), |series| vec![series]);
    let artefacts = prepared(paths, &kernels, options.no_build)?;
    let read = |name: &str| Scenario::read(&super::scenario_dir(paths, name));
    let counted: Vec<Scenario> = match &options.scenario {
        Some(name) => vec![read(name)?],
        None => COUNTED.into_iter().map(read).collect::<Result<_>>()?,
    };
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
        for scenario in counted.iter().filter(|_| !options.salvage_only) {
            let cost = bench::failover(paths, &artefacts, scenario, series)?;
            println!(
                "{series}: failover of \"{}\", in instructions of the guest since the failure:\n{}",
                scenario.title,
                cost.text()
            );
            costs.push(cost.json());
        }
        entry["failovers"] = costs.into();
        figures.push(entry);
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&json!({ "schema": 2, "figures": figures }))? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(true)
}
