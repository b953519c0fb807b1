//! Results kept by the content they were made from, so that a second run is quick and
//! two runs at once cannot disturb each other.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

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
        return Ok(path.to_path_buf());
    }
    let parent = path.parent().context("a cached path has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let name = path.file_name().context("a cached path has a name")?.to_string_lossy();
    let scratch = parent.join(format!(".{name}.{}", std::process::id()));
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
