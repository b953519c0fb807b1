//! A worker that notices if a single bit of its memory, or its clock, goes wrong.
//!
//! Each thread owns a share of the memory and goes through it page after page: it checks
//! every word of a page against what it wrote there last, then writes the page anew. The
//! main thread keeps a one-line status in a file it holds open all the time, and sees by
//! the kernel's boot id that another kernel runs below it. With `--judge` the program
//! reads that status instead and waits until every page written under an earlier kernel
//! was checked under the last one.
#![forbid(unsafe_code)]

use anyhow::{bail, Context, Result};
use clap::Parser;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Words of 8 bytes in a page.
const WORDS: usize = 512;
/// Bytes of the status file; a shorter status is padded, so that it is replaced whole.
const STATUS: usize = 256;

/// Fills memory with a pattern and checks it for ever.
#[derive(Parser)]
struct Options {
    /// Threads that write and check
    #[arg(long, default_value_t = 8)]
    threads: usize,
    /// Memory of all threads together, in MiB
    #[arg(long, default_value_t = 1024)]
    megabytes: usize,
    /// Threads that only read the clock
    #[arg(long, default_value_t = 0)]
    clocks: usize,
    /// File for the status, held open while the program runs
    #[arg(long)]
    status: Option<PathBuf>,
    /// Read this status file of a running worker and judge it
    #[arg(long, conflicts_with = "status")]
    judge: Option<PathBuf>,
    /// With --judge: how often the kernel was replaced
    #[arg(long, default_value_t = 1)]
    failovers: u64,
    /// With --judge: seconds to wait for the check of every page
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

/// What the threads tell the main thread.
#[derive(Default)]
struct Counters {
    /// Pages found as they should be.
    verified: AtomicU64,
    /// Pages found otherwise.
    corrupt: AtomicU64,
    /// Times that CLOCK_MONOTONIC was earlier than a reading before it.
    backwards: AtomicU64,
    /// Threads that have filled their share.
    filled: AtomicU64,
    /// How often the kernel was replaced, as far as the main thread has seen.
    failovers: AtomicU64,
    /// The latest reading of the clock by any thread, in nanoseconds since the start.
    latest: AtomicU64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    match &options.judge {
        Some(status) => judge(status, &options),
        None => work(&options),
    }
}

fn work(options: &Options) -> Result<()> {
    let pages = (options.megabytes << 20) / (WORDS * 8);
    if options.threads == 0 || pages < options.threads {
        bail!("every thread needs a page of 4 KiB at least");
    }
    let counters = Arc::new(Counters::default());
    let start = Instant::now();
    let mut checked = Vec::new();
    for number in 0..options.threads {
        let share = pages / options.threads + usize::from(number < pages % options.threads);
        let counters = Arc::clone(&counters);
        // The number of failovers after which this thread has checked its whole share.
        let done = Arc::new(AtomicU64::new(0));
        checked.push(Arc::clone(&done));
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            Share::new(number, share, start).go_round(&counters, &done);
        })?;
    }
    for number in 0..options.clocks {
        let counters = Arc::clone(&counters);
        thread::Builder::new()
            .name(format!("clock-{number}"))
            .spawn(move || loop {
                check_clock(start, &counters);
            })?;
    }
    report(options, &counters, &checked, start)
}

/// No thread may read an earlier time than one that was published before it looked.
fn check_clock(start: Instant, counters: &Counters) {
    let before = counters.latest.load(Ordering::SeqCst);
    let now = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    if now < before {
        counters.backwards.fetch_add(1, Ordering::Relaxed);
    }
    counters.latest.fetch_max(now, Ordering::SeqCst);
}

/// Writes the status once a second and watches for another kernel.
fn report(options: &Options, counters: &Counters, checked: &[Arc<AtomicU64>], start: Instant) -> Result<()> {
    let file = options
        .status
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("cannot make {}", path.display())));
    let file = file.transpose()?;
    let mut boot = boot_id()?;
    let mut longest_gap = Duration::ZERO;
    let mut last = Instant::now();
    loop {
        let kernel = boot_id()?;
        if kernel != boot {
            boot = kernel;
            counters.failovers.fetch_add(1, Ordering::SeqCst);
        }
        let ready = counters.filled.load(Ordering::Relaxed) == options.threads as u64;
        let line = format!(
            "phase={} seconds={} verified={} corrupt={} backwards={} failovers={} checked={} gap_ms={}",
            if ready { "steady" } else { "filling" },
            start.elapsed().as_secs(),
            counters.verified.load(Ordering::Relaxed),
            counters.corrupt.load(Ordering::Relaxed),
            counters.backwards.load(Ordering::Relaxed),
            counters.failovers.load(Ordering::SeqCst),
            checked
                .iter()
                .map(|done| done.load(Ordering::SeqCst))
                .min()
                .unwrap_or(0),
            longest_gap.as_millis(),
        );
        println!("{line}");
        if let Some(file) = &file {
            file.write_all_at(format!("{line:<width$}\n", width = STATUS - 1).as_bytes(), 0)?;
        }
        thread::sleep(Duration::from_secs(1));
        let now = Instant::now();
        if now < last {
            counters.backwards.fetch_add(1, Ordering::Relaxed);
        }
        longest_gap = longest_gap.max(now.saturating_duration_since(last));
        last = now;
    }
}

/// Differs at each boot of a kernel. Read in one call: of two, the second may be another kernel's.
fn boot_id() -> Result<Vec<u8>> {
    let mut id = [0; 64];
    let length = File::open("/proc/sys/kernel/random/boot_id")
        .and_then(|mut file| file.read(&mut id))
        .context("cannot tell the kernel's boot id")?;
    Ok(id[..length].to_vec())
}

/// The memory of one thread.
struct Share {
    number: u64,
    words: Vec<u64>,
    /// How often each page was written.
    generation: Vec<u64>,
    start: Instant,
}

impl Share {
    fn new(number: usize, pages: usize, start: Instant) -> Self {
        Self {
            number: number as u64,
            words: vec![0; pages * WORDS],
            generation: vec![0; pages],
            start,
        }
    }

    fn go_round(&mut self, counters: &Counters, done: &AtomicU64) {
        for page in 0..self.generation.len() {
            self.write(page);
        }
        counters.filled.fetch_add(1, Ordering::Relaxed);
        loop {
            let failovers = counters.failovers.load(Ordering::SeqCst);
            for page in 0..self.generation.len() {
                match self.first_wrong(page) {
                    None => counters.verified.fetch_add(1, Ordering::Relaxed),
                    Some((word, expected, found)) => {
                        println!(
                            "corrupt: thread {} page {page} word {word}: {found:#018x} instead of {expected:#018x}",
                            self.number
                        );
                        counters.corrupt.fetch_add(1, Ordering::Relaxed)
                    }
                };
                self.write(page);
                check_clock(self.start, counters);
            }
            // Every page was checked since this number of failovers was seen.
            done.store(failovers, Ordering::SeqCst);
        }
    }

    fn write(&mut self, page: usize) {
        self.generation[page] += 1;
        let first = self.seed(page);
        for (index, word) in self.words[page * WORDS..][..WORDS].iter_mut().enumerate() {
            *word = pattern(first, index);
        }
    }

    /// Index, expected and found value of the first word that is not as written.
    fn first_wrong(&self, page: usize) -> Option<(usize, u64, u64)> {
        let first = self.seed(page);
        let words = self.words[page * WORDS..][..WORDS].iter().enumerate();
        words
            .map(|(index, word)| (index, pattern(first, index), *word))
            .find(|(_, expected, found)| expected != found)
    }

    fn seed(&self, page: usize) -> u64 {
        (self.number << 56 ^ (page as u64) << 24 ^ self.generation[page]).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

const fn pattern(seed: u64, index: usize) -> u64 {
    seed.wrapping_add((index as u64).wrapping_mul(0xD134_2543_DE82_EF95))
}

/// Waits until a running worker has checked all its pages after the last failover.
fn judge(status: &Path, options: &Options) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(options.patience);
    let mut first_seconds = None;
    loop {
        let text = fs::read_to_string(status).with_context(|| format!("cannot read {}", status.display()))?;
        let value = |name: &str| -> Result<u64> {
            let word = text
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.with_context(|| format!("no {name} in: {text}"))?
                .parse()
                .with_context(|| format!("{name} in: {text}"))
        };
        if value("corrupt")? != 0 || value("backwards")? != 0 {
            bail!("the worker found damage: {}", text.trim());
        }
        if value("failovers")? > options.failovers {
            bail!("more failovers than {}: {}", options.failovers, text.trim());
        }
        let seconds = value("seconds")?;
        let still_runs = seconds > *first_seconds.get_or_insert(seconds);
        if value("checked")? == options.failovers && still_runs {
            println!("every page was right: {}", text.trim());
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "not every page was checked within {} s: {}",
                options.patience,
                text.trim()
            );
        }
        thread::sleep(Duration::from_millis(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_bit_is_found() {
        let mut share = Share::new(3, 2, Instant::now());
        share.write(0);
        share.write(1);
        share.write(1);
        assert_eq!((share.first_wrong(0), share.first_wrong(1)), (None, None));
        share.words[WORDS + 17] ^= 1 << 40;
        assert_eq!(share.first_wrong(1).unwrap().0, 17);
        share.words.swap(0, 1);
        assert_eq!(share.first_wrong(0).unwrap().0, 0);
    }
}
