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
}

pub fn run(paths: &Paths, options: Options) -> Result<bool> {
    let clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs())
    };
    let Options { all, shard, only, seed } = options;
    let options = suite::Options {
        all,
        shard,
        only,
        seed: seed.unwrap_or_else(clock),
    };
    Ok(suite::run(paths, &options)?.failed == 0)
}
