//! A service in miniature whose silence can be measured from outside.
//!
//! It loads its content into memory, as a database or a cache does, and then answers every few milliseconds out of a
//! page of it that it picks at random and checks: a line `beat NUMBER` on standard output. The number starts at zero,
//! so that a service that went on can be told from one that was started again.
#![forbid(unsafe_code)]

use anyhow::{ensure, Context, Result};
use clap::Parser;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

/// Answers out of its content for ever.
#[derive(Parser)]
struct Options {
    /// Content, in MiB
    #[arg(long, default_value_t = 100)]
    megabytes: usize,
    /// File with the content; made if it is not there or has another size
    #[arg(long)]
    content: PathBuf,
    /// Milliseconds between two answers
    #[arg(long, default_value_t = 10)]
    every: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let content = load(&options.content, options.megabytes << 20)?;
    let pages = content.len() / PAGE;
    ensure!(pages > 0, "there is no content");
    let mut picked = 0;
    let mut due = Instant::now();
    for number in 0u64.. {
        // The constants of Knuth's MMIX generator: any walk over all pages would do.
        picked = usize::try_from(
            (picked as u64)
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
                >> 20,
        )? % pages;
        let page = &content[picked * PAGE..][..PAGE];
        let word = u64::try_from(picked)?.to_le_bytes();
        ensure!(
            page.chunks_exact(word.len()).all(|chunk| chunk == word),
            "page {picked} of the content is wrong"
        );
        // One write, so that the kernel's messages come between lines and not into them.
        std::io::stdout()
            .lock()
            .write_all(format!("beat {number}\n").as_bytes())?;
        due += Duration::from_millis(options.every);
        match due.checked_duration_since(Instant::now()) {
            Some(left) => thread::sleep(left),
            // After a pause it answers at once and then at its old pace.
            None => due = Instant::now(),
        }
    }
    Ok(())
}

/// Reads the content, after making it if need be.
fn load(file: &Path, bytes: usize) -> Result<Vec<u8>> {
    if fs::metadata(file).map_or(true, |meta| meta.len() != bytes as u64) {
        make(file, bytes).with_context(|| format!("cannot make {}", file.display()))?;
    }
    let mut content = Vec::with_capacity(bytes);
    File::open(file)
        .and_then(|mut file| file.read_to_end(&mut content))
        .with_context(|| format!("cannot read {}", file.display()))?;
    Ok(content)
}

/// Every page is full of its own number.
fn make(file: &Path, bytes: usize) -> Result<()> {
    let mut out = std::io::BufWriter::new(File::create(file)?);
    for page in 0..bytes / PAGE {
        let word = u64::try_from(page)?.to_le_bytes();
        out.write_all(&word.repeat(PAGE / word.len()))?;
    }
    out.into_inner()?.sync_all()?;
    Ok(())
}
