//! The counter of process ids.

use super::log;
use std::{fs, io};

/// Where it can be read and set.
pub const LAST: &str = "/proc/sys/kernel/ns_last_pid";

/// The id that was given last.
///
/// # Errors
/// The file cannot be read.
pub fn last() -> io::Result<u32> {
    let text = fs::read_to_string(LAST)?;
    text.trim().parse().map_err(io::Error::other)
}

/// Makes the next id, if it is free, the one after this.
///
/// # Errors
/// The file cannot be written.
pub fn set_last(last: u32) -> io::Result<()> {
    fs::write(LAST, last.to_string())
}

/// Moves the counter so that the next id is at least `first`.
pub fn start_at(first: u32) {
    if last().is_ok_and(|last| last >= first) {
        return;
    }
    if let Err(error) = set_last(first - 1) {
        log::warning(format_args!("process ids do not start at {first}: {LAST}: {error}"));
    }
}
