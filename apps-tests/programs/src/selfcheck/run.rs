//! Running one cell, or many at once.

use crate::cell::{BadMutation, Cell, Context, Options, Skip};
use crate::cells;
use anyhow::{ensure, Context as _, Result};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Exit code for a cell that cannot be run here.
const SKIPPED: u8 = 77;

/// Exit code for a mutation that could not be applied.
const BROKEN: u8 = 2;

/// Cells of which a thread computes until the failover.
const BUSY: [&str; 4] = ["place/page-fault", "place/vdso", "threads/eight", "threads/registers"];

/// Runs a cell and prints its verdict.
pub fn one(cell: &Cell, options: Options) -> ExitCode {
    let result = Context::new(options, cell.name).and_then(|mut context| (cell.run)(&mut context));
    match result {
        Ok(()) => {
            println!("CELL OK");
            ExitCode::SUCCESS
        }
        Err(error) if error.is::<Skip>() => {
            println!("CELL SKIP {error}");
            ExitCode::from(SKIPPED)
        }
        Err(error) if error.is::<BadMutation>() => {
            println!("CELL BROKEN {error}");
            ExitCode::from(BROKEN)
        }
        Err(error) => {
            println!("CELL FAIL {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Part `index` (from 1) of `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('/')
            .and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parsed {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err(format!("`{text}` is not I/N with 1 ≤ I ≤ N")),
        }
    }
}

/// Which cells, and how long to wait for them.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Only names that contain one of these; all if there is none.
    pub only: Vec<String>,
    /// None whose name contains one of these.
    pub except: Vec<String>,
    /// Only this part of them.
    pub shard: Shard,
    /// Seconds.
    pub deadline_s: u64,
}

impl Selection {
    /// The cells chosen.
    pub fn cells(&self) -> impl Iterator<Item = &'static Cell> + '_ {
        cells::all()
            .filter(|cell| self.only.is_empty() || self.only.iter().any(|text| cell.name.contains(text)))
            .filter(|cell| !self.except.iter().any(|text| cell.name.contains(text)))
            .enumerate()
            .filter(|(at, _)| at % self.shard.count == self.shard.index - 1)
            .map(|(_, cell)| cell)
    }

    /// Asks again and again until `done` or the deadline.
    fn until(&self, mut done: impl FnMut() -> bool) -> bool {
        let start = Instant::now();
        while !done() {
            if start.elapsed() > Duration::from_secs(self.deadline_s) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        true
    }
}

fn output(directory: &Path, cell: &Cell) -> PathBuf {
    directory.join(format!("{}.out", cell.name.replace('/', "-")))
}

/// The last line a cell printed, `None` while it has not said anything.
fn last_line(directory: &Path, cell: &Cell) -> Option<String> {
    let text = std::fs::read_to_string(output(directory, cell)).ok()?;
    text.lines().last().map(str::to_owned)
}

/// Starts the chosen cells, each a session of its own with its output in a file, and waits until they are ready.
///
/// Those that are caught in a place of their own come late, and last those that keep a CPU busy until the failover: beside
/// these the others would take minutes to get ready on an emulated machine.
pub fn start_all(options: &Options, selection: &Selection) -> Result<ExitCode> {
    std::fs::create_dir_all(&options.directory)?;
    let (busy, idle): (Vec<&Cell>, Vec<&Cell>) = selection.cells().partition(|cell| BUSY.contains(&cell.name));
    let (caught, quiet): (Vec<&Cell>, Vec<&Cell>) = idle.into_iter().partition(|cell| cell.caught.is_some());
    for cells in [quiet, caught, busy] {
        for cell in &cells {
            start(options, cell)?;
        }
        await_ready(options, selection, &cells)?;
    }
    println!("ALL READY {}", selection.cells().count());
    Ok(ExitCode::SUCCESS)
}

fn start(options: &Options, cell: &Cell) -> Result<()> {
    let file = File::create(output(&options.directory, cell))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([cell.name, "--at", options.place.name()])
        .args(["--period-ms", &options.period_ms.to_string()])
        .arg("--directory")
        .arg(&options.directory)
        .args(options.mutate.then_some("--mutate"))
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    if let Some(after) = options.assume_after_ms {
        command.args(["--assume-failover-after-ms", &after.to_string()]);
    }
    // SAFETY: `setsid` is async-signal-safe and the closure does nothing else.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    let child = command.spawn().with_context(|| format!("start {}", cell.name))?;
    println!("{} {}", child.id(), cell.name);
    Ok(())
}

fn await_ready(options: &Options, selection: &Selection, cells: &[&Cell]) -> Result<()> {
    let mut late = Vec::new();
    let ready = selection.until(|| {
        late = cells
            .iter()
            .filter(|cell| last_line(&options.directory, cell).is_none())
            .map(|cell| cell.name)
            .collect();
        late.is_empty()
    });
    ensure!(ready, "not ready after {} s: {}", selection.deadline_s, late.join(" "));
    Ok(())
}

/// Waits until the chosen cells have given a verdict, prints each, and fails if one is not OK (or, with `--mutate`, if
/// one is). Those that are not as expected come first: who reads a long report from its beginning sees them.
pub fn collect(options: &Options, selection: &Selection) -> Result<ExitCode> {
    let verdict = |cell: &Cell| last_line(&options.directory, cell).filter(|line| line.starts_with("CELL "));
    selection.until(|| selection.cells().all(|cell| verdict(cell).is_some()));
    let (mut good, mut bad, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for cell in selection.cells() {
        let line = verdict(cell).unwrap_or_else(|| "CELL FAIL no verdict: gone or still waiting".into());
        let expected = if options.mutate { "CELL FAIL" } else { "CELL OK" };
        let kind = if line.starts_with("CELL SKIP") {
            &mut skipped
        } else if line.starts_with(expected) {
            &mut good
        } else {
            &mut bad
        };
        kind.push(format!("{:32} {}", cell.name, line.trim_start_matches("CELL ")));
    }
    for line in [&bad, &skipped, &good].into_iter().flatten() {
        println!("{line}");
    }
    println!(
        "CELLS {} as expected, {} not, {} skipped",
        good.len(),
        bad.len(),
        skipped.len()
    );
    Ok(if bad.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_cells_are_cells() {
        for name in BUSY {
            assert!(cells::all().any(|cell| cell.name == name), "{name}");
        }
    }
}
