//! A serial line of the guest: everything it prints, with times, and a way to write.

use anyhow::{bail, Context, Result};
use regex::Regex;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A line of output and when its last byte came, counted from the machine's start.
#[derive(Debug, Clone)]
pub struct Line {
    /// Since the machine was started.
    pub at: Duration,
    /// Without its line ending; bytes that are not UTF-8 are replaced.
    pub text: String,
}

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    partial: Vec<u8>,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One serial line. Clones see the same line.
#[derive(Clone)]
pub struct Serial {
    name: &'static str,
    shared: Arc<Shared>,
    writer: Arc<Mutex<UnixStream>>,
}

impl Serial {
    /// Reads `stream` from now on, keeping every line and copying it to `log`.
    ///
    /// # Errors
    /// When the log cannot be made or no thread can be started.
    pub fn start(name: &'static str, stream: UnixStream, start: Instant, log: &Path) -> Result<Self> {
        let mut log = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut reader = stream.try_clone().context("serial socket")?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name(name.into()).spawn(move || {
            let mut buffer = [0u8; 4096];
            loop {
                let count = match reader.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => count,
                };
                let mut state = theirs.lock();
                for byte in &buffer[..count] {
                    if *byte == b'\n' {
                        state.end_line(start.elapsed(), &mut log);
                    } else {
                        state.partial.push(*byte);
                    }
                }
                theirs.changed.notify_all();
            }
            let mut state = theirs.lock();
            if !state.partial.is_empty() {
                state.end_line(start.elapsed(), &mut log);
            }
            state.closed = true;
            theirs.changed.notify_all();
        })?;
        Ok(Self {
            name,
            shared,
            writer: Arc::new(Mutex::new(stream)),
        })
    }

    /// How many whole lines there are: a position to search from.
    #[must_use]
    pub fn position(&self) -> usize {
        self.shared.lock().lines.len()
    }

    /// Whole lines from a position on.
    #[must_use]
    pub fn lines(&self, from: usize) -> Vec<Line> {
        self.shared.lock().lines.get(from..).unwrap_or_default().to_vec()
    }

    /// Waits for a whole line that matches and returns it with the position after it.
    ///
    /// # Errors
    /// When none came in time or the machine ended; the message has the last lines.
    pub fn wait_for(&self, from: usize, pattern: &Regex, within: Duration) -> Result<(Line, usize)> {
        let deadline = Instant::now() + within;
        let mut at = from;
        let mut state = self.shared.lock();
        loop {
            while let Some(line) = state.lines.get(at) {
                at += 1;
                if pattern.is_match(&line.text) {
                    return Ok((line.clone(), at));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                let why = if state.closed {
                    "the machine ended"
                } else {
                    "time ran out"
                };
                let last: Vec<String> = state.lines[state.lines.len().saturating_sub(8)..]
                    .iter()
                    .map(shown)
                    .collect();
                bail!(
                    "{}: {why} waiting for /{pattern}/ ({within:.0?}); last lines:\n  {}",
                    self.name,
                    last.join("\n  ")
                );
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Writes to the guest.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer
            .write_all(bytes)
            .with_context(|| format!("{}: the machine has ended", self.name))
    }
}

/// The beginning of a line, as much as a message bears.
fn shown(line: &Line) -> String {
    line.text.chars().take(160).collect()
}

impl State {
    fn end_line(&mut self, at: Duration, log: &mut File) {
        let text = String::from_utf8_lossy(&self.partial).trim_matches('\r').to_owned();
        self.partial.clear();
        // A full disk must not stop the reader, whose lines the harness still needs.
        let _ = writeln!(log, "{:9.3} {text}", at.as_secs_f64());
        self.lines.push(Line { at, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_once_and_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let log = std::env::temp_dir().join(format!("orthros-serial-{}", std::process::id()));
        let serial = Serial::start("test", ours, Instant::now(), &log).unwrap();
        theirs.write_all(b"one\r\ntwo\nthree\n").unwrap();
        let second = Duration::from_secs(5);
        let (line, next) = serial.wait_for(0, &Regex::new("^t").unwrap(), second).unwrap();
        assert_eq!(line.text, "two");
        let (line, next) = serial.wait_for(next, &Regex::new("^t").unwrap(), second).unwrap();
        assert_eq!(line.text, "three");
        drop(theirs);
        let error = serial
            .wait_for(next, &Regex::new("four").unwrap(), second)
            .unwrap_err()
            .to_string();
        assert!(error.contains("machine ended") && error.contains("three"), "{error}");
        std::fs::remove_file(log).unwrap();
    }
}
