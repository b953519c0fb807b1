//! `results`: adding up what several machines found.

use anyhow::{bail, Context, Result};
use clap::Args;
use harness::results::{self, Outcome};
use std::path::PathBuf;

#[derive(Args)]
pub struct Options {
    /// Files of target/results/, all of one commit
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub fn run(options: &Options) -> Result<bool> {
    let commit = options.files[0].file_name();
    let mut all: Vec<Outcome> = Vec::new();
    for file in &options.files {
        if file.file_name() != commit {
            bail!(
                "{} is of another commit than {}",
                file.display(),
                options.files[0].display()
            );
        }
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        for outcome in results::parse(&text).with_context(|| file.display().to_string())? {
            all.retain(|other| other.name != outcome.name);
            all.push(outcome);
        }
    }
    let failed: Vec<&Outcome> = all.iter().filter(|outcome| !outcome.passed).collect();
    for outcome in &failed {
        println!("FAIL {} (seed {})", outcome.name, outcome.seed);
    }
    println!("{} passed, {} failed", all.len() - failed.len(), failed.len());
    Ok(failed.is_empty())
}
