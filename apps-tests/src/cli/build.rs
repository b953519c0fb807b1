//! `build`: everything, or one part.

use anyhow::Result;
use clap::{Args, ValueEnum};
use harness::artefacts;
use harness::kernels::{Kernel, Series};
use harness::paths::Paths;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// orthros-init, orthros-ctl and the test programs
    Guest,
    /// The multiboot2 loader
    Loader,
    /// The backup OS
    BackupOs,
    /// The kernel module for both kernels
    Module,
}

#[derive(Args)]
pub struct Options {
    /// Only these parts
    #[arg(value_enum)]
    parts: Vec<Part>,
}

pub fn run(paths: &Paths, options: &Options) -> Result<bool> {
    let wanted = |part| options.parts.is_empty() || options.parts.contains(&part);
    if wanted(Part::Guest) {
        artefacts::build_guest_programs(paths)?;
    }
    if wanted(Part::Loader) {
        artefacts::build_bare(paths, "loader")?;
    }
    if wanted(Part::BackupOs) {
        artefacts::build_bare(paths, "backup-os")?;
    }
    if wanted(Part::Module) {
        for series in Series::ALL {
            artefacts::build_module(paths, &Kernel::find(paths, series)?)?;
        }
    }
    Ok(true)
}
