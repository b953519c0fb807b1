//! Fixed amounts of ordinary work, and what each costs: for finding out what watching costs the watched.
//!
//! Prints a line `cost NAME CPU ELAPSED` for each round of each kind of work: nanoseconds of CPU time of this process,
//! and nanoseconds of CLOCK_MONOTONIC. Where instructions are counted, a nanosecond is an instruction.
#![forbid(unsafe_code)]

use anyhow::{ensure, Context, Result};
use clap::Parser;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Does its work and says what it cost.
#[derive(Parser)]
struct Options {
    /// Folder for files
    #[arg(long, default_value = "/var/tmp/cost")]
    directory: PathBuf,
    /// Rounds of each kind of work; one more comes first and is not counted
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

/// A kind of work.
type Work = fn(&Path) -> Result<()>;

const KINDS: [(&str, Work); 4] = [
    ("cpu", primes),
    ("memory", memory),
    ("files", files),
    ("switches", switches),
];

fn main() -> Result<()> {
    let options = Options::parse();
    fs::create_dir_all(&options.directory)?;
    for (name, work) in KINDS {
        work(&options.directory).context(name)?;
        for _ in 0..options.rounds {
            let (cpu, start) = (cpu_time()?, Instant::now());
            work(&options.directory).context(name)?;
            let elapsed = start.elapsed().as_nanos();
            println!("cost {name} {} {elapsed}", cpu_time()? - cpu);
        }
    }
    Ok(())
}

/// Nanoseconds that the threads of this process have run, the first field of their schedstat (sched-stats.rst). What a thread
/// has run since the last tick is added when it gives its CPU away, so it does first.
fn cpu_time() -> Result<u64> {
    thread::sleep(Duration::from_micros(1));
    let mut sum = 0;
    for thread in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().context("schedstat is empty")?;
        sum += first.parse::<u64>()?;
    }
    Ok(sum)
}

/// Primes below a bound, by division.
fn primes(_: &Path) -> Result<()> {
    let count = (2u32..60_000)
        .filter(|number| {
            (2..)
                .take_while(|divisor| divisor * divisor <= *number)
                .all(|divisor| black_box(*number) % divisor != 0)
        })
        .count();
    ensure!(count == 6057, "{count} primes below 60000");
    Ok(())
}

/// Memory touched anew, in order, and at random.
fn memory(_: &Path) -> Result<()> {
    let mut words = vec![0u64; 4 << 20];
    for (index, word) in words.iter_mut().enumerate() {
        *word = index as u64;
    }
    let mut at = 0;
    let mut sum = 0u64;
    for _ in 0..500_000 {
        at = (at * 1_103_515_245 + 12_345) % words.len();
        sum = sum.wrapping_add(words[at]);
    }
    black_box(sum);
    Ok(())
}

/// Small files made, read and removed, and a large one written to the disk and read.
fn files(directory: &Path) -> Result<()> {
    let content = [0x5au8; 4096];
    let path = |number: u32| directory.join(number.to_string());
    for number in 0..200 {
        fs::write(path(number), content)?;
    }
    for number in 0..200 {
        ensure!(fs::read(path(number))? == content, "a file has changed");
        fs::remove_file(path(number))?;
    }
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(directory.join("large"))?;
    for _ in 0..1024 {
        file.write_all(&content)?;
    }
    file.sync_all()?;
    file.rewind()?;
    let mut back = Vec::new();
    file.read_to_end(&mut back)?;
    ensure!(back.len() == 1024 * content.len(), "the large file is short");
    Ok(())
}

/// Two threads that wait for each other.
fn switches(_: &Path) -> Result<()> {
    let (there, from_there) = mpsc::sync_channel::<u32>(0);
    let (back, from_back) = mpsc::sync_channel::<u32>(0);
    let other = thread::spawn(move || from_there.iter().try_for_each(|number| back.send(number + 1)));
    for number in 0..5000 {
        there.send(number).context("the other thread has ended")?;
        ensure!(from_back.recv()? == number + 1, "a wrong answer");
    }
    drop(there);
    other.join().ok().context("the other thread has panicked")?.ok();
    Ok(())
}
