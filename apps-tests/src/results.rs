//! Results of the long test run, kept per state of the source tree so that it can be
//! broken off, gone on with, and added up.

use crate::exec;
use crate::paths::Paths;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// The outcome of one test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The test's name.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// How long it took.
    pub seconds: f64,
    /// The seed it ran with.
    pub seed: u64,
    /// Why it failed.
    pub failure: Option<String>,
}

/// The file of results for the tree as it is now.
pub struct Results {
    file: PathBuf,
    /// The latest outcome of each test that ran before.
    pub earlier: Vec<Outcome>,
}

impl Results {
    /// Opens the results of this very state: commit and uncommitted changes.
    ///
    /// # Errors
    /// When git does not answer or the file is damaged.
    pub fn open(paths: &Paths) -> Result<Self> {
        let git = |arguments: &[&str]| exec::text(Command::new("git").args(arguments).current_dir(&paths.root));
        let mut name = git(&["rev-parse", "--short=12", "HEAD"])?.trim().to_owned();
        let changes = git(&["diff", "HEAD"])?;
        if !changes.is_empty() {
            let digest = Sha256::digest(&changes);
            name.push_str(&format!(
                "+{:02x}{:02x}{:02x}{:02x}",
                digest[0], digest[1], digest[2], digest[3]
            ));
        }
        let dir = paths.root.join("target/results");
        fs::create_dir_all(&dir)?;
        let file = dir.join(name + ".jsonl");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let earlier = parse(&text).with_context(|| format!("{}: remove it", file.display()))?;
        Ok(Self { file, earlier })
    }

    /// Whether a test has passed before.
    #[must_use]
    pub fn passed(&self, name: &str) -> bool {
        self.earlier
            .iter()
            .any(|outcome| outcome.name == name && outcome.passed)
    }

    /// Adds an outcome to the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&self, outcome: &Outcome) -> Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file)?;
        // One write, so that shards which run at once do not mix their lines.
        let line = serde_json::to_string(outcome)? + "\n";
        file.write_all(line.as_bytes())
            .with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// Reads a file of results: the last outcome of each test.
///
/// # Errors
/// When a line is not an outcome.
pub fn parse(text: &str) -> Result<Vec<Outcome>> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for line in text.lines() {
        let outcome: Outcome = serde_json::from_str(line)?;
        outcomes.retain(|other| other.name != outcome.name);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_outcome_counts() {
        let line = |name: &str, passed| {
            format!("{{\"name\":\"{name}\",\"passed\":{passed},\"seconds\":1.0,\"seed\":1,\"failure\":null}}\n")
        };
        let outcomes = parse(&(line("a", false) + &line("b", true) + &line("a", true))).unwrap();
        assert_eq!(outcomes.len(), 2);
        assert!(outcomes.iter().all(|outcome| outcome.passed));
        assert!(parse("{").is_err());
    }
}
