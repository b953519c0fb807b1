//! Settings of a network below `/proc/sys`, in the namespace that this process is in.

use std::{fs, io::ErrorKind};

/// One setting may allow another: so often are all gone through.
const ROUNDS: usize = 3;

/// Sets everything that is otherwise: the name of each below `/proc/sys`, and what is written there. A setting that this kernel does
/// not have is left out.
///
/// # Errors
/// The last that could not be set, and why.
pub fn set(settings: &[(Vec<u8>, Vec<u8>)]) -> Result<(), String> {
    let path = |name: &[u8]| format!("/proc/sys/{}", String::from_utf8_lossy(name));
    let mut all: Vec<(String, &[u8])> = settings.iter().map(|(name, value)| (path(name), &value[..])).collect();
    all.sort();
    let mut why = String::new();
    for _ in 0..=ROUNDS {
        // Setting one may set another: all are looked at again.
        let different = all.iter().filter(|(path, value)| is_other(path, value));
        let different: Vec<_> = different.collect();
        if different.is_empty() {
            return Ok(());
        }
        for (path, value) in different {
            if let Err(error) = fs::write(path, value) {
                why = format!("{path}: {error}");
            }
        }
    }
    Err(why)
}

fn is_other(path: &str, value: &[u8]) -> bool {
    match fs::read(path) {
        Ok(now) => now.trim_ascii() != value,
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}
