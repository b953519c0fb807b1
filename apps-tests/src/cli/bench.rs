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

#[derive(Args)]
pub struct Options {
    /// Only this kernel (default: both)
    #[arg(long, value_enum)]
    kernel: Option<Series>,
    /// Only the salvage on this host, not the failover by instruction counts
    #[arg(long)]
    salvage_only: bool,
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
    let scenario = Scenario::read(&super::scenario_dir(paths, "checksum"))?;
    let mut figures = Vec::new();
    for series in kernels {
        let salvage = bench::salvage(paths, &artefacts, &scenario, series)?;
        println!("{series}: salvage of a dead guest with a process of 1 GB in 4 KB pages, one thread of this host:");
        for line in salvage.lines() {
            println!("    {line}");
        }
        let mut entry = json!({ "series": series, "salvage": salvage });
        if !options.salvage_only {
            let cost = bench::failover(paths, &artefacts, &scenario, series)?;
            println!("{series}: failover of the same process, in instructions of the guest since the failure:");
            for (moment, at) in &cost.timeline {
                println!("    {moment:14} {at:>16}");
            }
            println!(
                "    restore: {} for {} frames, {} a frame",
                cost.restore,
                cost.adopted,
                cost.per_frame()
            );
            entry["failover"] = cost.json();
        }
        figures.push(entry);
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&json!({ "schema": 1, "figures": figures }))? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(true)
}
