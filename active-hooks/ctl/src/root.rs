//! The file trees the tool reads: `/proc`, `/sys`, `/boot`; in tests, a folder that looks like them.

use std::io;
use std::path::PathBuf;

/// A root directory.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// The running system.
    pub fn system() -> Self {
        Self(PathBuf::from("/"))
    }

    /// A folder.
    #[cfg(test)]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// A path under it, given with its leading slash.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// A file as text; bytes that are no UTF-8 are replaced.
    pub fn read(&self, path: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.path(path))?).into_owned())
    }

    /// A file of one line, without its end. `None` if it cannot be read.
    pub fn line(&self, path: &str) -> Option<String> {
        self.read(path).ok().map(|text| text.trim_end().to_owned())
    }

    /// The target of a link, as text.
    pub fn link(&self, path: &str) -> io::Result<String> {
        Ok(std::fs::read_link(self.path(path))?.to_string_lossy().into_owned())
    }

    /// Whether something is there.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Names in a folder, numbers in order of size before the rest.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(path))?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort_by(|a, b| {
            let number = |name: &str| name.parse::<u64>().unwrap_or(u64::MAX);
            number(a).cmp(&number(b)).then_with(|| a.cmp(b))
        });
        Ok(names)
    }

    /// What a path leads to, following links.
    pub fn metadata(&self, path: &str) -> io::Result<std::fs::Metadata> {
        std::fs::metadata(self.path(path))
    }

    /// The magic number of the file system of what a path leads to, following links (statfs(2)).
    pub fn file_system(&self, path: &str) -> io::Result<i64> {
        Ok(rustix::fs::statfs(self.path(path))?.f_type)
    }
}
