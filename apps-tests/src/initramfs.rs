//! The initramfs of the guest's kernels, by the builder that `orthros-ctl stage --auto` uses as well.

use crate::cache::{self, Key};
use crate::kernels::Kernel;
use crate::paths::Paths;
use anyhow::{Context, Result};
use orthros_initramfs::{build, modules::Modules};
use std::fs;
use std::path::PathBuf;

/// Modules that a guest needs before its root file system is mounted; the network last.
const WANTED: [&str; 4] = ["virtio_pci", DISK, "ext4", "virtio_net"];
/// The driver of the root disk.
const DISK: &str = "virtio_blk";

/// What goes into an initramfs besides the kernel's own modules.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The first program, static.
    pub init: PathBuf,
    /// orthros.ko for this kernel; without it only stock boots make sense.
    pub module: Option<PathBuf>,
    /// A static busybox.
    pub busybox: PathBuf,
    /// Drivers for disks are left out.
    pub without_disk: bool,
    /// Modules besides those that every guest needs.
    pub drivers: Vec<String>,
}

/// The files of the kernel's own modules that a guest needs.
///
/// # Errors
/// When one is neither built in nor packaged.
pub fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    Ok(Modules::read(&kernel.modules, &kernel.release)?.load_order(WANTED)?)
}

/// Makes the initramfs, or finds the one made earlier of the same parts.
///
/// # Errors
/// When a part is missing or a wanted module is neither built in nor packaged.
pub fn make(paths: &Paths, kernel: &Kernel, parts: &Parts) -> Result<PathBuf> {
    let mut key = Key::default()
        .text("initramfs 5")
        .text(&kernel.release)
        .file(&parts.init)?
        .file(&parts.busybox)?
        .text(if parts.without_disk { "no disk" } else { "" })
        .text(&parts.drivers.join(","));
    if let Some(module) = &parts.module {
        key = key.file(module)?;
    }
    let path = paths
        .guest
        .join("initramfs")
        .join(format!("{}-{}.cpio", kernel.series, key.finish()));
    cache::once(&path, |scratch| {
        let wanted = WANTED.iter().filter(|name| !(parts.without_disk && **name == DISK));
        let archive = build::build(&build::Parts {
            release: &kernel.release,
            modules: &Modules::read(&kernel.modules, &kernel.release)?,
            init: &parts.init,
            module: parts.module.as_deref(),
            busybox: Some(&parts.busybox),
            wanted: wanted
                .map(|&name| name.to_owned())
                .chain(parts.drivers.iter().cloned())
                .collect(),
        })?;
        fs::write(scratch, archive).with_context(|| format!("cannot write {}", scratch.display()))
    })
}
