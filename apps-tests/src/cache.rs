//! Results kept by the content they were made from, so that a second run is quick and
//! two runs at once cannot disturb each other.

use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// A key over everything that a cached result depends on.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds a value; lengths are hashed too, so that fields cannot run together.
    #[must_use]
    pub fn text(mut self, value: &str) -> Self {
        self.0.update((value.len() as u64).to_le_bytes());
        self.0.update(value);
        self
    }

    /// Adds a file's content.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn file(mut self, path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        Ok(self)
    }

    /// The key as 16 hexadecimal digits, enough to tell results of one machine apart.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
            .finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Returns `path`, made by `make` if it does not exist yet.
///
/// `make` gets a scratch path beside it that is renamed into place at the end, so that
/// a half-made result is never taken for a whole one.
///
/// # Errors
/// What `make` returns, or a file system error.
pub fn once(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    if path.exists() {
        if let Ok(file) = fs::File::open(path) {
            // Used now: prune() takes the others first.
            let _ = file.set_modified(SystemTime::now());
        }
        return Ok(path.to_path_buf());
    }
    let parent = path.parent().context("a cached path has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let name = path.file_name().context("a cached path has a name")?.to_string_lossy();
    // Two threads of this process may make the same.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let scratch = parent.join(format!(".{name}.{}-{number}", std::process::id()));
    remove(&scratch)?;
    if let Err(error) = make(&scratch) {
        let _ = remove(&scratch);
        return Err(error);
    }
    if let Err(error) = fs::rename(&scratch, path) {
        // Another run may have been faster; its result has the same content.
        remove(&scratch)?;
        if !path.exists() {
            return Err(error).with_context(|| format!("cannot make {}", path.display()));
        }
    }
    Ok(path.to_path_buf())
}

/// A further scratch path beside the one that [`once`] has given.
#[must_use]
pub fn beside(scratch: &Path, kind: &str) -> PathBuf {
    let mut path = scratch.as_os_str().to_owned();
    path.push(".");
    path.push(kind);
    path.into()
}

/// Removes a file or a tree; a missing one is fine.
///
/// # Errors
/// When something is there and cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(meta) if meta.is_dir() => {
            fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(_) => fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Removes the files of a folder that were not used for longest, until the rest take at most `keep` bytes on disk. A file
/// that [`once`] returned has been used then.
///
/// # Errors
/// When the folder is there and cannot be read, or a file cannot be removed.
pub fn prune(dir: &Path, keep: u64) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            files.push((meta.modified()?, meta.blocks() * 512, entry.path()));
        }
    }
    files.sort();
    let mut kept = 0;
    for (_, size, path) in files.iter().rev() {
        kept += size;
        if kept > keep {
            remove(path)?;
        }
    }
    Ok(())
}

/// Refuses to begin where `path`'s file system has less than `need` bytes left: half an hour later nothing would tell a full
/// disk from a failing test.
///
/// # Errors
/// When there is less, or the file system does not say.
pub fn require_space(path: &Path, need: u64) -> Result<()> {
    let state =
        rustix::fs::statvfs(path).with_context(|| format!("cannot ask for the space below {}", path.display()))?;
    let free = state.f_bavail.saturating_mul(state.f_frsize);
    if free < need {
        bail!(
            "{} MiB are free below {}, and a run needs {}: free some, or name another place in CARGO_TARGET_DIR",
            free >> 20,
            path.display(),
            need >> 20
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_together() {
        let one = Key::default().text("ab").text("c").finish();
        let other = Key::default().text("a").text("bc").finish();
        assert_ne!(one, other);
        assert_eq!(one.len(), 16);
    }

    #[test]
    fn what_was_used_last_is_kept() {
        let dir = std::env::temp_dir().join(format!("orthros-prune-{}", std::process::id()));
        prune(&dir, 0).unwrap();
        for name in ["old", "older", "oldest"] {
            once(&dir.join(name), |scratch| Ok(fs::write(scratch, [1; 4096])?)).unwrap();
        }
        for (name, age) in [("old", 10), ("older", 20), ("oldest", 30)] {
            let file = fs::File::open(dir.join(name)).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age))
                .unwrap();
        }
        once(&dir.join("oldest"), |_| bail!("it is there")).unwrap();
        prune(&dir, 8192).unwrap();
        let left = ["old", "older", "oldest"].map(|name| dir.join(name).exists());
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(left, [true, false, true]);
    }

    #[test]
    fn a_full_disk_is_named() {
        require_space(&std::env::temp_dir(), 1).unwrap();
        let error = require_space(&std::env::temp_dir(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("MiB are free below"), "{error}");
    }

    #[test]
    fn a_failed_making_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("orthros-cache-{}", std::process::id()));
        let path = dir.join("thing");
        assert!(once(&path, |scratch| {
            fs::write(scratch, "half")?;
            anyhow::bail!("broke")
        })
        .is_err());
        assert!(!path.exists());
        once(&path, |scratch| Ok(fs::write(scratch, "whole")?)).unwrap();
        once(&path, |_| anyhow::bail!("must not be made twice")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        fs::remove_dir_all(dir).unwrap();
    }
}
