//! Puts an initramfs together.

use crate::cpio::Archive;
use crate::modules::{built_for, contents, Modules};
use crate::{read, InitramfsError, INIT, LIST, ORTHROS};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What goes into it.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The kernel's release.
    pub release: &'a str,
    /// Its modules.
    pub modules: &'a Modules,
    /// The first program, static: orthros-init.
    pub init: &'a Path,
    /// Our module for this kernel, compressed or not; without it only stock boots make sense.
    pub module: Option<&'a Path>,
    /// A static busybox, for the emergency shell.
    pub busybox: Option<&'a Path>,
    /// Modules to load, in this order, each after those it needs.
    pub wanted: Vec<String>,
}

/// Makes the archive. It is not compressed: it is small, and unpacking would be paid at every failover.
///
/// # Errors
/// A part is missing, or a wanted module is.
pub fn build(parts: &Parts<'_>) -> Result<Vec<u8>, InitramfsError> {
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
    archive.file(INIT, 0o755, &stripped(parts.init)?);
    if let Some(busybox) = parts.busybox {
        archive.file("bin/busybox", 0o755, &read(busybox)?);
        archive.link("bin/sh", "busybox");
    }
    let mut order = String::new();
    for module in parts.modules.load_order(parts.wanted.iter().map(String::as_str))? {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let name = name.split(".ko").next().unwrap_or(&name);
        archive.file(&format!("lib/modules/{name}.ko"), 0o644, &contents(&module)?);
        order.push_str(&format!("/lib/modules/{name}.ko\n"));
    }
    archive.file(LIST, 0o644, order.as_bytes());
    if let Some(module) = parts.module {
        archive.file(ORTHROS, 0o644, &contents(module)?);
    }
    Ok(archive.finish())
}

/// Checks that a module is built for a kernel.
///
/// # Errors
/// [`InitramfsError::Vermagic`], or it is no module at all.
pub fn check_module(module: &[u8], what: &str, release: &str) -> Result<(), InitramfsError> {
    match built_for(module) {
        Some(found) if found == release => Ok(()),
        Some(found) => Err(InitramfsError::Vermagic {
            what: what.to_owned(),
            found: found.to_owned(),
            wanted: release.to_owned(),
        }),
        None => Err(InitramfsError::Malformed(format!("{what} is not a kernel module"))),
    }
}

/// A program without its debug information, which is most of it, if there is a `strip`; a script is taken as it is.
fn stripped(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    let bytes = read(path)?;
    if !bytes.starts_with(b"\x7FELF") {
        return Ok(bytes);
    }
    let copy: PathBuf = std::env::temp_dir().join(format!("orthros-initramfs-{}.stripped", std::process::id()));
    let done = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .arg(&copy)
        .arg(path)
        .output();
    let result = match done {
        Ok(output) if output.status.success() => read(&copy),
        // Without the tool it is larger, and works.
        _ => Ok(bytes),
    };
    let _ = std::fs::remove_file(&copy);
    result
}
