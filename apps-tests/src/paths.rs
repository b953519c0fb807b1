//! Where things are on the host: the source tree, build results and caches.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Directories every other module works from.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Root of the source tree (the folder of the workspace's `Cargo.toml`).
    pub root: PathBuf,
    /// Build results: cargo's target directory.
    pub target: PathBuf,
    /// Caches that depend on content alone, safe to share between target directories.
    pub guest: PathBuf,
}

impl Paths {
    /// Finds the source tree from the current directory upwards, else from where this
    /// crate was built. The target directory is `target`, else `CARGO_TARGET_DIR`,
    /// else `target/` in the tree.
    ///
    /// # Errors
    /// When no source tree is found or a directory cannot be made.
    pub fn find(target: Option<PathBuf>) -> Result<Self> {
        let here = std::env::current_dir().context("current directory")?;
        let built = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here
            .ancestors()
            .chain(built.ancestors())
            .find(|dir| dir.join("apps-tests/Cargo.toml").is_file() && dir.join("shared-region").is_dir())
            .context("not inside a source tree of Orthros (no folder above has apps-tests/ and shared-region/)")?
            .to_path_buf();
        let target = match target.or_else(|| std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from)) {
            Some(dir) if dir.is_absolute() => dir,
            Some(dir) => here.join(dir),
            None => root.join("target"),
        };
        let guest = root.join("target/guest");
        for dir in [&target, &guest] {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(Self { root, target, guest })
    }
}
