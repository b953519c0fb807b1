//! Which accelerator to use. A `/dev/kvm` that opens is no proof: nested ones exist on
//! which a stock kernel hangs. So a tiny guest with each kernel is tried first.

use crate::cache;
use crate::cpio::Archive;
use crate::kernels::{Kernel, Series};
use crate::paths::Paths;
use crate::progress::Step;
use crate::qemu::{Accelerator, Boot, Config, Qemu};
use anyhow::Result;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

/// How long the tiny guest may take to power itself off.
const DEADLINE: Duration = Duration::from_secs(20);

/// The accelerator for this host: KVM where both kernels run under it, else TCG.
/// `ORTHROS_ACCEL=tcg` or `=kvm` decides without a trial. The result is kept until the
/// host reboots.
///
/// # Errors
/// When the result cannot be kept or the trial's files cannot be made.
pub fn accelerator(paths: &Paths, busybox: &Path) -> Result<Accelerator> {
    match std::env::var("ORTHROS_ACCEL").as_deref() {
        Ok("tcg") => return Ok(Accelerator::Tcg),
        Ok("kvm") => return Ok(Accelerator::Kvm),
        _ => {}
    }
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let kernels = [Kernel::find(paths, Series::V6_1)?, Kernel::find(paths, Series::V6_12)?];
    let name = kernels
        .iter()
        .map(|kernel| kernel.release.as_str())
        .collect::<Vec<_>>()
        .join("+");
    let answer = cache::once(
        &paths.guest.join("kvm").join(format!("{}-{name}", boot.trim())),
        |scratch| {
            let _step = Step::start("trying whether KVM runs a stock kernel here");
            let works = kernels
                .iter()
                .all(|kernel| powers_off(kernel, busybox, scratch).unwrap_or(false));
            Ok(fs::write(scratch, if works { "kvm" } else { "tcg" })?)
        },
    )?;
    Ok(if fs::read_to_string(answer)? == "kvm" {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    })
}

/// Boots a kernel with two CPUs into a program that switches the machine off.
fn powers_off(kernel: &Kernel, busybox: &Path, scratch: &Path) -> Result<bool> {
    let dir = scratch.with_extension("trial");
    fs::create_dir_all(&dir)?;
    let mut archive = Archive::default();
    for path in ["bin", "dev", "proc"] {
        archive.directory(path);
    }
    archive.character_device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &fs::read(busybox)?);
    archive.file("init", 0o755, b"#!/bin/busybox sh\nexec /bin/busybox poweroff -f\n");
    let initramfs = dir.join("initramfs");
    fs::write(&initramfs, archive.finish())?;
    let config = Config {
        accelerator: Accelerator::Kvm,
        machine: "q35".into(),
        cpus: 2,
        ram: 512,
        boot: Boot::Kernel {
            image: kernel.image.clone(),
            initramfs,
            command_line: "console=ttyS0 panic=1".into(),
        },
        disks: Vec::new(),
        ports: Vec::new(),
        reboot: false,
        memory: None,
        state: None,
        extra: Vec::new(),
    };
    let ended = Qemu::start(&config, &dir.join("logs"))?.wait_end(DEADLINE);
    // A panic reboots, which ends the machine as well: only the kernel's own farewell counts.
    let console = fs::read_to_string(dir.join("logs/com1.log")).unwrap_or_default();
    cache::remove(&dir)?;
    Ok(ended.is_ok() && console.contains("reboot: Power down"))
}
