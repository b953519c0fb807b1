//! Memory of a process that does not run, from outside. What the process may not write, its tracer may.

use super::{OrRefuse, Restored};
use std::{fs::File, os::unix::fs::FileExt};

/// Memory of a process that does not run.
#[derive(Debug)]
pub struct UserMemory(File);

impl UserMemory {
    /// Opens it.
    pub fn of(pid: u32) -> Restored<Self> {
        let options = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"));
        Ok(Self(options.or_refuse(|| "memory")?))
    }

    /// Reads `N` bytes.
    pub fn read<const N: usize>(&self, at: u64) -> Restored<[u8; N]> {
        let mut bytes = [0; N];
        self.0
            .read_exact_at(&mut bytes, at)
            .or_refuse(|| format!("memory at {at:#x}"))?;
        Ok(bytes)
    }

    /// Reads a word.
    pub fn word(&self, at: u64) -> Restored<u64> {
        Ok(u64::from_le_bytes(self.read(at)?))
    }

    /// Writes.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Restored<()> {
        self.0
            .write_all_at(bytes, at)
            .or_refuse(|| format!("memory at {at:#x}"))
    }
}
