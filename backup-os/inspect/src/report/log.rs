//! The kernel's log.

use super::{printable, Dead, Problems};
use serde::Serialize;
use std::io::{self, Write};

/// A record of the log.
#[derive(Debug, Serialize)]
pub struct LogEntry {
    /// Its number since boot.
    seq: u64,
    /// Nanoseconds since boot.
    time_ns: u64,
    /// 0 (emergency) to 7 (debug).
    level: u8,
    /// The text.
    text: String,
}

/// Reads the section; of the records the last `tail`, if given.
pub fn gather(dead: &Dead<'_>, tail: Option<usize>, problems: &mut Problems) -> Vec<LogEntry> {
    let Some(log) = problems.take("log", salvage::printk::log(dead)) else {
        return Vec::new();
    };
    let mut records: Vec<LogEntry> = log
        .filter_map(|record| problems.take("log", record))
        .map(|record| LogEntry {
            seq: record.seq,
            time_ns: record.ts_nsec,
            level: record.level,
            text: printable(&record.text),
        })
        .collect();
    if let Some(tail) = tail {
        records.drain(..records.len().saturating_sub(tail));
    }
    records
}

/// Writes the section for people, as `dmesg` does.
pub fn write_text(section: &[LogEntry], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nLOG ({} records)", section.len())?;
    for record in section {
        let (seconds, rest) = (record.time_ns / 1_000_000_000, record.time_ns % 1_000_000_000);
        for line in record.text.lines() {
            writeln!(out, "[{seconds:5}.{:06}] {line}", rest / 1000)?;
        }
    }
    Ok(())
}
