//! The initramfs of one kernel: orthros-init, the modules it loads, and a busybox for
//! the emergency shell.
//!
//! Its layout is what orthros-init relies on:
//!
//! - `/init` is orthros-init.
//! - `/lib/orthros/orthros.ko` is our module for this kernel.
//! - `/lib/orthros/modules` lists the stock modules to load, one absolute path a line,
//!   in an order that satisfies their dependencies; network drivers stand last.
//! - `/lib/modules/*.ko` are those modules, uncompressed.
//! - `/bin/busybox` and `/bin/sh`.

use crate::cache::{self, Key};
use crate::cpio::Archive;
use crate::exec;
use crate::kernels::Kernel;
use crate::paths::Paths;
use anyhow::{bail, Context, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules that a guest needs before its root file system is mounted; the network last.
const WANTED: [&str; 4] = ["virtio_pci", "virtio_blk", "ext4", "virtio_net"];

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
}

/// Makes the initramfs, or finds the one made earlier of the same parts. It is not
/// compressed: it is small, and unpacking would be paid at every failover.
///
/// # Errors
/// When a part is missing or a wanted module is neither built in nor packaged.
pub fn make(paths: &Paths, kernel: &Kernel, parts: &Parts) -> Result<PathBuf> {
    let mut key = Key::default()
        .text("initramfs 3")
        .text(&kernel.release)
        .file(&parts.init)?
        .file(&parts.busybox)?
        .text(if parts.without_disk { "no disk" } else { "" });
    if let Some(module) = &parts.module {
        key = key.file(module)?;
    }
    let path = paths
        .guest
        .join("initramfs")
        .join(format!("{}-{}.cpio", kernel.series, key.finish()));
    cache::once(&path, |scratch| {
        let archive = build(kernel, parts, scratch)?;
        fs::write(scratch, archive).with_context(|| format!("cannot write {}", scratch.display()))
    })
}

fn build(kernel: &Kernel, parts: &Parts, beside: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut archive = Archive::default();
    for dir in [
        "bin",
        "dev",
        "lib",
        "lib/modules",
        "lib/orthros",
        "mnt",
        "proc",
        "run",
        "sys",
        "sysroot",
        "tmp",
    ] {
        archive.directory(dir);
    }
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.file("init", 0o755, &stripped(&parts.init, beside)?);
    archive.file("bin/busybox", 0o755, &read(&parts.busybox)?);
    archive.link("bin/sh", "busybox");
    let mut order = String::new();
    for module in load_order(kernel, parts.without_disk)? {
        let name = module.file_name().context("a module has a name")?.to_string_lossy();
        let name = name.trim_end_matches(".xz").trim_end_matches(".zst");
        archive.file(&format!("lib/modules/{name}"), 0o644, &uncompressed(&module)?);
        order.push_str(&format!("/lib/modules/{name}\n"));
    }
    archive.file("lib/orthros/modules", 0o644, order.as_bytes());
    if let Some(module) = &parts.module {
        archive.file("lib/orthros/orthros.ko", 0o644, &stripped(module, beside)?);
    }
    Ok(archive.finish())
}

/// A program or module without its debug information, which is most of it; the
/// symbols that a module is linked by stay. A script is taken as it is. `beside` names a
/// place for scratch files.
fn stripped(path: &Path, beside: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(bytes);
    }
    let copy = beside.with_extension("stripped");
    exec::quiet(
        Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(&copy)
            .arg(path),
    )?;
    let bytes = fs::read(&copy)?;
    cache::remove(&copy)?;
    Ok(bytes)
}

/// The wanted modules that are not built in, each after those it needs.
fn load_order(kernel: &Kernel, without_disk: bool) -> Result<Vec<PathBuf>> {
    let builtin = fs::read_to_string(kernel.modules.join("modules.builtin"))?;
    let dependencies = fs::read_to_string(kernel.modules.join("modules.dep"))?;
    let by_name: HashMap<String, &str> = dependencies
        .lines()
        .filter_map(|line| Some((module_name(line.split_once(':')?.0), line)))
        .collect();
    let mut order: Vec<PathBuf> = Vec::new();
    for wanted in WANTED.into_iter().filter(|name| !(without_disk && *name == DISK)) {
        let Some(line) = by_name.get(wanted) else {
            if builtin.lines().any(|path| module_name(path) == wanted) {
                continue;
            }
            bail!(
                "kernel {} has no module {wanted}, neither packaged nor built in",
                kernel.release
            );
        };
        let (own, needs) = line.split_once(':').context("modules.dep has a colon a line")?;
        // modules.dep names the nearest dependency first; the farthest is loaded first.
        for path in needs.split_whitespace().rev().chain([own]) {
            let path = kernel.modules.join(path);
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

/// `kernel/drivers/virtio/virtio-pci.ko.xz` is the module `virtio_pci`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn uncompressed(module: &Path) -> Result<Vec<u8>> {
    let tool = match module.extension().and_then(|ext| ext.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(module).with_context(|| format!("cannot read {}", module.display())),
    };
    Ok(exec::output(Command::new(tool).arg("-dc").arg(module))?.stdout)
}

#[cfg(test)]
mod tests {
    use super::module_name;

    #[test]
    fn names_of_modules() {
        assert_eq!(
            module_name("kernel/drivers/char/hw_random/virtio-rng.ko.xz"),
            "virtio_rng"
        );
        assert_eq!(module_name("kernel/fs/ext4/ext4.ko"), "ext4");
    }
}
