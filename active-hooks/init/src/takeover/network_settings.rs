//! Settings of a network below `/proc/sys`, in the namespace that this process is in.

use std::{fs, path::Path};

/// One setting may allow another: so often are all gone through.
const ROUNDS: usize = 3;

/// Sets everything that is otherwise: the name of each below `/proc/sys`, and what is written there. A setting that this kernel does
/// not have is left out.
///
/// # Errors
/// The last that could not be set, and why.
pub fn set(settings: &[(Vec<u8>, Vec<u8>)]) -> Result<(), String> {
    let mut left: Vec<(String, &[u8])> = settings
        .iter()
        .map(|(name, value)| (format!("/proc/sys/{}", String::from_utf8_lossy(name)), &value[..]))
        .filter(|(path, _)| Path::new(path).exists())
        .collect();
    let mut why = String::new();
    for _ in 0..=ROUNDS {
        // Setting one may set another: all are looked at again.
        let different = left.iter().filter(|(path, value)| !is_set(path, value));
        let different: Vec<_> = different.cloned().collect();
        if different.is_empty() {
            return Ok(());
        }
        for (path, value) in different {
            if let Err(error) = fs::write(&path, value) {
                why = format!("{path}: {error}");
            }
        }
        left.sort();
    }
    Err(why)
}

fn is_set(path: &str, value: &[u8]) -> bool {
    fs::read(path).is_ok_and(|now| now.trim_ascii() == value)
}
