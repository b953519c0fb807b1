//! Tests that need no guest: format, lints, unit tests, and builds without warnings.

use crate::artefacts;
use crate::exec;
use crate::kernels::{Kernel, Series};
use crate::paths::Paths;
use anyhow::{bail, Result};
use std::process::Command;

/// A check's name and what it does.
pub type Check = (&'static str, fn(&Paths) -> Result<()>);

/// All checks, cheap ones first. What this toolchain has no tool for is left out, and
/// said so: Debian's has no clippy.
#[must_use]
pub fn all(paths: &Paths) -> Vec<Check> {
    let tools: [(&str, Check); 2] = [("fmt", ("format", format)), ("clippy", ("lint host crates", lint))];
    let mut checks = Vec::new();
    for (tool, check) in tools {
        if exec::quiet(cargo(paths).args([tool, "--version"])).is_ok() {
            checks.push(check);
        } else {
            println!("SKIP {}: there is no cargo {tool} here", check.0);
        }
    }
    checks.extend(ALWAYS);
    checks
}

const ALWAYS: [Check; 5] = [
    ("unit tests", unit_tests),
    ("build loader", |paths| artefacts::build_bare(paths, "loader")),
    ("build backup OS", |paths| artefacts::build_bare(paths, "backup-os")),
    ("module for 6.1 without warnings", |paths| module(paths, Series::V6_1)),
    ("module for 6.12 without warnings", |paths| module(paths, Series::V6_12)),
];

fn cargo(paths: &Paths) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.env("CARGO_TARGET_DIR", &paths.target).current_dir(&paths.root);
    cargo
}

fn format(paths: &Paths) -> Result<()> {
    exec::quiet(cargo(paths).args(["fmt", "--all", "--check"]))?;
    for own_workspace in ["loader", "backup-os"] {
        exec::quiet(
            cargo(paths)
                .args(["fmt", "--all", "--check"])
                .current_dir(paths.root.join(own_workspace)),
        )?;
    }
    Ok(())
}

fn lint(paths: &Paths) -> Result<()> {
    exec::quiet(cargo(paths).args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn unit_tests(paths: &Paths) -> Result<()> {
    exec::quiet(cargo(paths).args(["test", "--quiet", "--workspace"]))
}

/// Builds from scratch, so that old objects cannot hide a warning. The module's static
/// assertions compare its header with the layout that the Rust side defines.
fn module(paths: &Paths, series: Series) -> Result<()> {
    let kernel = Kernel::find(paths, series)?;
    crate::cache::remove(&paths.target.join("kmod").join(&kernel.release))?;
    let printed = artefacts::build_module(paths, &kernel)?;
    let warning = printed
        .lines()
        .find(|line| line.contains("warning:") || line.contains("WARNING:"));
    match warning {
        Some(line) => bail!("{line}"),
        None => Ok(()),
    }
}
