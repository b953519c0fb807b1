//! Stock Debian kernels: which packages, downloaded and unpacked, never installed.

use crate::cache;
use crate::exec;
use crate::paths::Paths;
use crate::progress::Step;
use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel series that Orthros is tested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
pub enum Series {
    /// Debian 12's own kernel.
    #[serde(rename = "6.1")]
    #[value(name = "6.1")]
    V6_1,
    /// The newer kernel that Debian 12 gets with its security updates.
    #[serde(rename = "6.12")]
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    /// Both, oldest first.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The one that this is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::V6_1 => Self::V6_12,
            Self::V6_12 => Self::V6_1,
        }
    }

    /// As in version numbers: `6.1`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The series it belongs to.
    pub series: Series,
    /// What `uname -r` prints when it runs.
    pub release: String,
    /// The bzImage.
    pub image: PathBuf,
    /// Its `lib/modules/<release>`, with `modules.dep`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The newest cloud kernel of a series that apt offers, unpacked below
    /// `target/guest/kernels/`. Once found, the same one is used until that folder is
    /// removed.
    ///
    /// # Errors
    /// When apt knows no such package or it cannot be downloaded or unpacked.
    pub fn find(paths: &Paths, series: Series) -> Result<Self> {
        let home = paths.guest.join("kernels");
        let choice = cache::once(&home.join(format!("{series}.release")), |scratch| {
            let _step = Step::start(format!("looking for the newest {series} cloud kernel"));
            Ok(fs::write(scratch, newest_release(series)?)?)
        })?;
        let release = fs::read_to_string(&choice)?.trim().to_owned();
        let tree = cache::once(&home.join(&release), |scratch| {
            let _step = Step::start(format!("downloading kernel {release}"));
            unpack(&format!("linux-image-{release}"), scratch)?;
            // depmod wants lib/modules below the base folder, as the package has it.
            exec::quiet(Command::new("/sbin/depmod").arg("-b").arg(scratch).arg(&release))
        })?;
        Ok(Self {
            series,
            image: tree.join(format!("boot/vmlinuz-{release}")),
            modules: tree.join(format!("lib/modules/{release}")),
            release,
        })
    }

    /// The folder of its packaged headers. Installed with apt when missing, which
    /// needs root.
    ///
    /// # Errors
    /// When they are missing and cannot be installed.
    pub fn headers(&self) -> Result<PathBuf> {
        let dir = PathBuf::from(format!("/usr/src/linux-headers-{}", self.release));
        if !dir.is_dir() {
            let package = format!("linux-headers-{}", self.release);
            let _step = Step::start(format!("installing {package}"));
            exec::quiet(
                Command::new("apt-get")
                    .args(["install", "-y", "-q", "--no-install-recommends", &package])
                    .env("DEBIAN_FRONTEND", "noninteractive"),
            )
            .with_context(|| format!("the headers of {} are needed to build the module", self.release))?;
        }
        Ok(dir)
    }
}

/// Downloads one package and unpacks it into `tree`.
fn unpack(package: &str, tree: &Path) -> Result<()> {
    let debs = tree.join("deb");
    fs::create_dir_all(&debs)?;
    // apt drops to its own user for downloads and warns when it cannot write here.
    exec::quiet(
        Command::new("apt-get")
            .args(["download", "-q", "-o", "APT::Sandbox::User=root", package])
            .current_dir(&debs),
    )?;
    let deb = fs::read_dir(&debs)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .with_context(|| format!("apt-get download {package} left no package"))?;
    exec::quiet(Command::new("dpkg").arg("-x").arg(&deb).arg(tree))?;
    cache::remove(&debs)
}

/// Asks apt for the newest signed cloud kernel of a series that can be downloaded.
fn newest_release(series: Series) -> Result<String> {
    let prefix = format!("linux-image-{series}.");
    let known = exec::text(Command::new("apt-cache").args(["pkgnames", &prefix]))?;
    let mut releases: Vec<&str> = known
        .lines()
        .filter_map(|package| package.strip_prefix("linux-image-"))
        .filter(|release| release.ends_with("-cloud-amd64"))
        .collect();
    releases.sort_by(|a, b| version_order(b, a));
    for release in releases {
        let package = format!("linux-image-{release}");
        if exec::quiet(Command::new("apt-get").args(["download", "-q", "--print-uris", &package])).is_ok() {
            return Ok(release.to_owned());
        }
    }
    bail!("apt offers no package {prefix}*-cloud-amd64 (run apt-get update; bookworm and bookworm-security must be in the sources)")
}

/// Compares version strings number by number, text between them as text.
fn version_order(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<Result<u64, String>> {
        let mut parts: Vec<Result<u64, String>> = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let digits = first.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
            let (part, tail) = rest.split_at(end);
            parts.push(part.parse().map_err(|_| part.to_owned()));
            rest = tail;
        }
        parts
    };
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(
            version_order("6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64"),
            Ordering::Less
        );
        assert_eq!(
            version_order("6.12.107+deb12-cloud-amd64", "6.12.22+bpo-cloud-amd64"),
            Ordering::Greater
        );
    }
}
