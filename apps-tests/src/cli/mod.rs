//! Subcommands and their options.

mod bench;
mod boot;
mod build;
mod cost;
mod gaps;
mod results;
mod scenario;
mod shell;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};
use harness::paths::Paths;
use std::path::PathBuf;

/// Builds Orthros, runs it in QEMU on stock Debian kernels, and checks it from outside.
///
/// Without a subcommand: a demonstration. A program with 8 threads and 1 GB of memory
/// in use lives through a kernel panic.
#[derive(Parser)]
#[command(name = "orthros-harness", version)]
pub struct Arguments {
    /// Folder for build results (default: CARGO_TARGET_DIR, else target/)
    #[arg(long, global = true)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything that a guest needs
    Build(build::Options),
    /// Run one scenario from boot to verdict
    Scenario(scenario::Options),
    /// Run the tests
    Test(test::Options),
    /// Measure speed
    Bench(bench::Options),
    /// Add up results files of several machines
    Results(results::Options),
    /// Type commands into a guest
    Shell(shell::Options),
    /// Boot a guest, optionally panic it, and keep all logs
    Boot(Box<boot::Options>),
}

/// Does what was asked. `false` means that it was done and something failed.
///
/// # Errors
/// When it could not be done.
pub fn run(arguments: Arguments) -> Result<bool> {
    let paths = Paths::find(arguments.target_dir)?;
    match arguments.command {
        None => scenario::demo(&paths),
        Some(Command::Build(options)) => build::run(&paths, &options),
        Some(Command::Scenario(options)) => scenario::run(&paths, &options),
        Some(Command::Test(options)) => test::run(&paths, options),
        Some(Command::Bench(options)) => bench::run(&paths, &options),
        Some(Command::Results(options)) => results::run(&options),
        Some(Command::Shell(options)) => shell::run(&paths, &options),
        Some(Command::Boot(options)) => boot::run(&paths, &options),
    }
}

/// A scenario's folder: a path, or the name of one of the repository's.
fn scenario_dir(paths: &Paths, name: &str) -> PathBuf {
    let own = paths.root.join("apps-tests/scenarios").join(name);
    if !name.contains('/') && own.is_dir() {
        own
    } else {
        PathBuf::from(name)
    }
}
