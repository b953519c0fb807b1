//! `test`: the test run.

use anyhow::Result;
use clap::Args;
use harness::paths::Paths;
use harness::suite::{self, Shard};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Args)]
pub struct Options {
    /// The whole matrix: every scenario on every pair of kernels, with its sweeps; goes on
    /// where an earlier run on the same source was broken off
    #[arg(long)]
    all: bool,
    /// Only part I of N
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Only tests whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Seed of the random instants (default: from the clock, printed)
    #[arg(long)]
    seed: Option<u64>,
    /// Scenarios that run at once (default: two, if there are as many CPUs)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: Option<u64>,
}

/// An emulated machine takes one CPU, and its clients, the disk and the checks at the end take what is left.
fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(2))
}

pub fn run(paths: &Paths, options: Options) -> Result<bool> {
    let clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs())
    };
    let Options {
        all,
        shard,
        only,
        seed,
        jobs,
    } = options;
    let options = suite::Options {
        all,
        shard,
        only,
        seed: seed.unwrap_or_else(clock),
        jobs: jobs.map_or_else(default_jobs, |jobs| jobs as usize),
    };
    Ok(suite::run(paths, &options)?.failed == 0)
}
