//! Subcommands and their options.

mod boot;
mod build;

use anyhow::Result;
use clap::{Parser, Subcommand};
use harness::paths::Paths;
use std::path::PathBuf;

/// Builds Orthros, runs it in QEMU on stock Debian kernels, and checks it from outside.
#[derive(Parser)]
#[command(name = "orthros-harness", version)]
pub struct Arguments {
    /// Folder for build results (default: CARGO_TARGET_DIR, else target/)
    #[arg(long, global = true)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything that a guest needs
    Build(build::Options),
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
        Command::Build(options) => build::run(&paths, &options),
        Command::Boot(options) => boot::run(&paths, &options),
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
