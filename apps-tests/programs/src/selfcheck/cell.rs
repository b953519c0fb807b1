//! What a cell is and what it is given to run.

use crate::place::{Place, LOOK};
use crate::sys::clock;
use crate::watch::Watch;
use anyhow::{bail, ensure, Result};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// One cell of the coverage table: a resource in a state.
#[derive(Clone, Copy)]
pub struct Cell {
    /// `resource/state`.
    pub name: &'static str,
    /// What is checked.
    pub what: &'static str,
    /// Fields of Essential Context records it observes, `Record.field`.
    pub covers: &'static [&'static str],
    /// Where the thread is caught, if the cell decides that itself.
    pub caught: Option<&'static str>,
    /// Sets the state up, calls [`Context::failover`] or [`Context::ready`], and checks.
    pub run: fn(&mut Context) -> Result<()>,
}

/// Why a cell cannot be run here: not a failure of what it tests.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The mutation could not be applied: a failure then proves nothing about the check.
#[derive(Debug)]
pub struct BadMutation(pub String);

impl std::fmt::Display for BadMutation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the mutation failed: {}", self.0)
    }
}

impl std::error::Error for BadMutation {}

/// How a cell is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Apply the mutation after READY, so that the check has to fail.
    pub mutate: bool,
    /// Where resource cells wait.
    pub place: Place,
    /// Assume a failover so many milliseconds after READY.
    pub assume_after_ms: Option<u64>,
    /// Length of timed waits.
    pub period_ms: u64,
    /// Where files are put.
    pub directory: PathBuf,
}

/// What a running cell is given.
pub struct Context {
    watch: Arc<Watch>,
    options: Options,
    /// CLOCK_MONOTONIC when a partner thread first ran in the new kernel.
    resumed_at: Arc<OnceLock<u64>>,
}

impl Context {
    /// Prepares a run of the cell called `name`.
    pub fn new(options: Options, name: &str) -> Result<Self> {
        let directory = options.directory.join(name.replace('/', "-"));
        // What an earlier run left would be found instead of what this one makes.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory)?;
        Ok(Self {
            watch: Arc::new(Watch::new(options.assume_after_ms.is_some())?),
            options: Options { directory, ..options },
            resumed_at: Arc::default(),
        })
    }

    /// Whether this run has to fail.
    pub fn mutate(&self) -> bool {
        self.options.mutate
    }

    /// Arguments for another run of this program that sees the same failover and is mutated like this one.
    pub fn child_arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = vec!["--directory".into(), self.options.directory.join("child").into()];
        if let Some(after) = self.options.assume_after_ms {
            arguments.extend(["--assume-failover-after-ms".into(), after.to_string().into()]);
        }
        arguments.extend(self.options.mutate.then(|| "--mutate".into()));
        arguments
    }

    /// Whether there will be no failover.
    pub fn is_assumed(&self) -> bool {
        self.options.assume_after_ms.is_some()
    }

    /// A path for a file of this cell.
    pub fn path(&self, name: &str) -> PathBuf {
        self.options.directory.join(name)
    }

    /// Nanoseconds a timed wait lasts.
    pub fn period(&self) -> u64 {
        self.options.period_ms * 1_000_000
    }

    /// Says that the state is set up; a mutated run then alters it.
    pub fn ready(&self, mutation: impl FnOnce() -> Result<()>) -> Result<()> {
        // One call and no lock, so that a thread that starts now finds nothing held.
        let stdout = std::io::stdout();
        stdout.lock().write_all(b"READY\n")?;
        stdout.lock().flush()?;
        if self.options.mutate {
            mutation().map_err(|error| BadMutation(format!("{error:#}")))?;
        }
        self.watch.arm(self.options.assume_after_ms.unwrap_or(0) * 1_000_000);
        Ok(())
    }

    /// Whether the kernel has been replaced.
    pub fn seen(&self) -> bool {
        self.watch.seen()
    }

    /// Waits at the chosen place until the kernel has been replaced. For children, and as the end of [`Self::failover`].
    pub fn wait(&self) -> Result<()> {
        self.options.place.wait(&self.watch)
    }

    /// [`Self::ready`], then [`Self::wait`].
    pub fn failover(&self, mutation: impl FnOnce() -> Result<()>) -> Result<()> {
        self.ready(mutation)?;
        self.wait()
    }

    /// Starts a thread that waits for the failover and then does something: what a blocked call is waiting for.
    pub fn partner<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let (watch, resumed_at) = (self.watch.clone(), self.resumed_at.clone());
        std::thread::spawn(move || {
            while !watch.seen() {
                clock::nanosleep(LOOK);
            }
            resumed_at.get_or_init(clock::now);
            action()
        })
    }

    /// Expects that the failover has happened: a call that returned before was not caught in it.
    pub fn expect_failover(&self, call: &str) -> Result<()> {
        ensure!(self.seen(), "{call} returned before the failover");
        Ok(())
    }

    /// Repeats a timed wait until the failover, checking each time that it lasts [`Self::period`]: never less, and no
    /// more than it takes to come back. `wait` is given the instant it has to end at.
    pub fn timed(&self, mutation: impl FnOnce() -> Result<()>, mut wait: impl FnMut(u64) -> Result<()>) -> Result<()> {
        /// How late a timed wait may end on a busy machine.
        const SLACK: u64 = 3_000_000_000;
        let partner = self.partner(|| ());
        self.ready(mutation)?;
        let expected = if self.mutate() {
            self.period() + 3_600_000_000_000
        } else {
            self.period()
        };
        loop {
            let begin = clock::now();
            wait(begin + self.period())?;
            let end = clock::now();
            let seen = self.seen();
            ensure!(end - begin >= expected, "waited {} ns of {expected} ns", end - begin);
            if seen {
                join(partner)?;
                let due = (begin + self.period()).max(self.resumed_at.get().copied().unwrap_or(end));
                ensure!(end <= due + SLACK, "came back {} ns too late", end - due);
                return Ok(());
            }
        }
    }

    /// Leaves the cell out for a reason that lies in the machine it runs on.
    pub fn skip<T>(&self, reason: impl Into<String>) -> Result<T> {
        bail!(Skip(reason.into()))
    }

    /// Skips unless run by root.
    pub fn need_root(&self) -> Result<()> {
        if crate::sys::process::ids(false)?[1] != 0 {
            return self.skip("needs root");
        }
        Ok(())
    }
}

/// Joins a thread and takes its result.
pub fn join<T>(thread: JoinHandle<T>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))
}

/// Expects two values to be equal.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, before: T) -> Result<()> {
    ensure!(found == before, "{what}: {found:x?}, was {before:x?}");
    Ok(())
}

/// Writes all bytes to a descriptor.
pub fn write_all(fd: &impl AsFd, bytes: &[u8]) -> Result<()> {
    File::from(fd.as_fd().try_clone_to_owned()?).write_all(bytes)?;
    Ok(())
}
