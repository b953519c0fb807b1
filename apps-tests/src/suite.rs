//! The test run: checks, then scenarios; short by default, or the whole matrix.

use crate::artefacts::{self, Artefacts};
use crate::cache;
use crate::checks;
use crate::images;
use crate::kernels::{Kernel, Series};
use crate::machine::Plan;
use crate::paths::Paths;
use crate::refusals;
use crate::report::Report;
use crate::results::{Outcome, Results};
use crate::run;
use crate::scenario::Scenario;
use anyhow::{anyhow, bail, Context, Result};
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Bytes of guests' file systems of earlier runs that are kept.
const KEPT_IMAGES: u64 = 4 << 30;
/// Free bytes without which no run is begun: the largest scenario's disk, memory image and disc.
const NEEDED: u64 = 4 << 30;

/// A part of a test run: test number n belongs to shard n mod `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = anyhow::Error;

    /// Reads `I/N` with I from 1 to N.
    fn from_str(text: &str) -> Result<Self> {
        let (index, of) = text.split_once('/').context("a shard is written I/N")?;
        let (index, of): (usize, usize) = (index.parse()?, of.parse()?);
        if index == 0 || index > of {
            bail!("shard {index}/{of}: the first number goes from 1 to the second");
        }
        Ok(Self { index: index - 1, of })
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The whole matrix instead of the short run.
    pub all: bool,
    /// Only a part of it.
    pub shard: Option<Shard>,
    /// Only tests whose name contains this.
    pub only: Option<String>,
    /// Seed of random instants.
    pub seed: u64,
    /// Scenarios that run at once.
    pub jobs: usize,
}

/// One test.
enum Test {
    Check(checks::Check),
    Images(Series),
    Refusals,
    Scenario {
        scenario: Box<Scenario>,
        active: Series,
        successor: Series,
        sweep: bool,
    },
}

impl Test {
    fn name(&self) -> String {
        match self {
            Self::Check((name, _)) => (*name).to_owned(),
            Self::Images(series) => images::name(*series),
            Self::Refusals => refusals::NAME.to_owned(),
            Self::Scenario {
                scenario,
                active,
                successor,
                sweep,
            } => {
                format!(
                    "{} {active}→{successor}{}",
                    scenario.name(),
                    if *sweep { " sweep" } else { "" }
                )
            }
        }
    }
}

/// Numbers of tests that passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Passed, earlier passes of the same tree included.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
}

/// Runs tests, printing a line for each and the totals at the end.
///
/// # Errors
/// When the run itself breaks down; failing tests are no error.
pub fn run(paths: &Paths, options: &Options) -> Result<Totals> {
    let tests = list(paths, options)?;
    cache::prune(&paths.guest.join("images"), KEPT_IMAGES)?;
    cache::require_space(&paths.target, NEEDED)?;
    let results = Results::open(paths)?;
    println!("{} tests, seed {}", tests.len(), options.seed);
    let (scenarios, others): (Vec<Test>, Vec<Test>) = tests
        .into_iter()
        .partition(|test| matches!(test, Test::Scenario { .. }));
    let work = Work {
        paths,
        options,
        results,
        built: OnceLock::new(),
        totals: Mutex::default(),
    };
    work.all(&Mutex::new(others.into_iter()))?;
    // An emulated machine takes one CPU of the host, whatever it has itself.
    let queue = Mutex::new(scenarios.into_iter());
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..options.jobs).map(|_| scope.spawn(|| work.all(&queue))).collect();
        jobs.into_iter()
            .try_for_each(|job| job.join().map_err(|_| anyhow!("a test has panicked"))?)
    })?;
    let totals = *locked(&work.totals);
    println!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(totals)
}

/// A run under way.
struct Work<'r> {
    paths: &'r Paths,
    options: &'r Options,
    results: Results,
    /// Made when it is first needed. A tree that does not compile fails each test that needs it, and the first says why.
    built: OnceLock<std::result::Result<Artefacts, String>>,
    totals: Mutex<Totals>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work<'_> {
    /// Runs what is in a queue.
    fn all(&self, queue: &Mutex<impl Iterator<Item = Test>>) -> Result<()> {
        loop {
            let next = locked(queue).next();
            let Some(test) = next else { return Ok(()) };
            self.run(&test)?;
        }
    }

    fn run(&self, test: &Test) -> Result<()> {
        let name = test.name();
        if self.options.all && self.results.passed(&name) {
            println!("PASS {name} (earlier)");
            locked(&self.totals).passed += 1;
            return Ok(());
        }
        let start = Instant::now();
        for (name, failure) in one(self.paths, test, &name, self.options.seed, &self.built)? {
            let outcome = Outcome {
                name,
                passed: failure.is_none(),
                seconds: start.elapsed().as_secs_f64(),
                seed: self.options.seed,
                failure,
            };
            let mut totals = locked(&self.totals);
            show(&outcome);
            self.results.add(&outcome)?;
            if outcome.passed {
                totals.passed += 1;
            } else {
                totals.failed += 1;
            }
        }
        Ok(())
    }
}

/// Names and failures of one test: several for a sweep.
fn one(
    paths: &Paths,
    test: &Test,
    name: &str,
    seed: u64,
    built: &OnceLock<std::result::Result<Artefacts, String>>,
) -> Result<Vec<(String, Option<String>)>> {
    let single = |failure: Option<String>| vec![(name.to_owned(), failure)];
    if let Test::Check((_, check)) = test {
        return Ok(single(check(paths).err().map(|error| format!("{error:#}"))));
    }
    let artefacts = built.get_or_init(|| build(paths).map_err(|error| format!("{error:#}")));
    let artefacts = match artefacts {
        Ok(artefacts) => artefacts,
        Err(error) => return Ok(single(Some(format!("nothing to run: {error}")))),
    };
    let (scenario, active, successor, sweep) = match test {
        Test::Check(_) => return Ok(Vec::new()),
        Test::Images(series) => {
            let results = images::check(paths, artefacts, *series);
            return Ok(results.unwrap_or_else(|error| single(Some(format!("{error:#}")))));
        }
        Test::Refusals => {
            let results = refusals::check(paths, artefacts);
            return Ok(results.unwrap_or_else(|error| single(Some(format!("{error:#}")))));
        }
        Test::Scenario {
            scenario,
            active,
            successor,
            sweep,
        } => (scenario, *active, *successor, *sweep),
    };
    let dir = paths.target.join("runs").join(name.replace(['→', ' '], "-"));
    cache::remove(&dir)?;
    let plan = Plan::new(active, successor, dir);
    let reports = if sweep {
        run::sweep(paths, artefacts, scenario, &plan, seed)?
    } else {
        vec![run::once(paths, artefacts, scenario, &plan, seed)?]
    };
    if reports.iter().all(|report| report.passed) {
        // Discs and disks are big; the logs stay.
        for entry in fs::read_dir(&plan.dir)?.filter_map(std::result::Result::ok) {
            if entry
                .path()
                .extension()
                .is_some_and(|ext| ext == "iso" || ext == "qcow2")
            {
                cache::remove(&entry.path())?;
            }
        }
    }
    Ok(reports
        .iter()
        .enumerate()
        .map(|(number, report)| (label(name, report, sweep, number), failure(report)))
        .collect())
}

fn label(name: &str, report: &Report, sweep: bool, number: usize) -> String {
    match report.steps.first() {
        Some(step) if sweep => format!("{name} {number} ({})", step.injection),
        _ => name.to_owned(),
    }
}

/// Why a run failed, with what somebody needs who has only the output of the tests.
fn failure(report: &Report) -> Option<String> {
    let failure = report.failure.as_ref()?;
    let logs = &report.logs;
    let report = report.to_string();
    // Of hundreds of processes those count that are lost.
    let told: Vec<_> = report.lines().filter(|line| !line.contains(": runs again, ")).collect();
    let (told, ends) = (told.join("\n"), last_lines(Path::new(logs)));
    Some(format!("{failure}\nlogs: {logs}\n{told}\n{ends}"))
}

/// The ends of the logs of a run: consoles and clients.
fn last_lines(dir: &Path) -> String {
    const LINES: usize = 12;
    let files = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(std::result::Result::ok);
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let is_told = |name: &String| ["com1.log", "com2.log"].contains(&name.as_str()) || name.starts_with("client-");
    let mut names: Vec<_> = names.filter(is_told).collect();
    names.sort();
    let mut told = String::new();
    for name in names {
        let text = fs::read(dir.join(&name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            told += &format!("{name}: {line}\n");
        }
    }
    told
}

fn build(paths: &Paths) -> Result<Artefacts> {
    let kernels = Series::ALL
        .map(|series| Kernel::find(paths, series))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    artefacts::build(paths, &kernels)
}

fn show(outcome: &Outcome) {
    let word = if outcome.passed { "PASS" } else { "FAIL" };
    println!("{word} {} ({:.1} s)", outcome.name, outcome.seconds);
    for line in outcome.failure.iter().flat_map(|failure| failure.lines()) {
        println!("     {line}");
    }
}

/// The tests in their order: checks, then scenarios by name.
fn list(paths: &Paths, options: &Options) -> Result<Vec<Test>> {
    let mut tests: Vec<Test> = checks::all(paths).into_iter().map(Test::Check).collect();
    tests.extend(Series::ALL.map(Test::Images));
    tests.push(Test::Refusals);
    let mut dirs = fs::read_dir(paths.root.join("apps-tests/scenarios"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    dirs.sort();
    for dir in dirs {
        let scenario = Scenario::read(&dir)?;
        let every = Series::ALL
            .iter()
            .flat_map(|active| Series::ALL.map(|successor| (*active, successor)));
        let pairs: Vec<(Series, Series)> = if options.all {
            every.collect()
        } else {
            scenario.quick.clone()
        };
        for (active, successor) in pairs {
            let test = |sweep| Test::Scenario {
                scenario: Box::new(scenario.clone()),
                active,
                successor,
                sweep,
            };
            tests.push(test(false));
            if options.all && scenario.sweep.is_some() {
                tests.push(test(true));
            }
        }
    }
    if let Some(only) = &options.only {
        tests.retain(|test| test.name().contains(only.as_str()));
        if tests.is_empty() {
            bail!("no test has \"{only}\" in its name");
        }
    }
    if let Some(shard) = options.shard {
        let mut number = 0;
        tests.retain(|_| {
            number += 1;
            (number - 1) % shard.of == shard.index
        });
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards() {
        assert_eq!("2/3".parse::<Shard>().unwrap(), Shard { index: 1, of: 3 });
        for wrong in ["0/3", "4/3", "1", "a/b"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
