//! `bench cost`: what watching costs the watched.

use super::scenario::prepared;
use anyhow::{Context, Result};
use clap::Args;
use harness::cost;
use harness::kernels::Series;
use harness::paths::Paths;
use harness::scenario::Scenario;
use std::path::PathBuf;

#[derive(Args)]
pub struct Options {
    /// The kernel
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Series,
    /// Write every round to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Use what was built before
    #[arg(long)]
    no_build: bool,
}

pub fn run(paths: &Paths, options: &Options) -> Result<bool> {
    let artefacts = prepared(paths, &[options.kernel], options.no_build)?;
    let scenario = Scenario::read(&super::scenario_dir(paths, "smoke"))?;
    let cost = cost::measure(paths, &artefacts, &scenario, options.kernel)?;
    print!("{}", cost.text());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&cost.json())? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(true)
}
