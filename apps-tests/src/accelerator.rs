//! Which accelerator to use.
//!
//! A `/dev/kvm` that opens is no proof: nested ones exist on which a stock kernel hangs.
//! So a tiny guest with each kernel is tried first. Emulation with a thread for each CPU
//! is no better: before QEMU 8.1 a CPU can run a stale translation of text that another
//! CPU has just patched, and Linux dies with `Oops: int3` every now and then. There all
//! CPUs share one thread.

use crate::cache;
use crate::exec;
use crate::kernels::{Kernel, Series};
use crate::paths::Paths;
use crate::progress::Step;
use crate::qemu::{Accelerator, Boot, Config, Qemu};
use anyhow::{bail, Context, Result};
use orthros_initramfs::cpio::Archive;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long the tiny guest may take to power itself off.
const DEADLINE: Duration = Duration::from_secs(20);

/// First version of QEMU whose threads of emulation can be trusted.
const THREADS_SINCE: (u32, u32) = (8, 1);

/// The accelerator for this host: KVM where both kernels run under it, else emulation.
/// `ORTHROS_ACCEL=kvm`, `=tcg` or `=tcg-threads` decides without a trial. The result is kept until the
/// host reboots.
///
/// # Errors
/// When the result cannot be kept or the trial's files cannot be made.
pub fn choose(paths: &Paths, busybox: &Path) -> Result<Accelerator> {
    match std::env::var("ORTHROS_ACCEL").as_deref() {
        Ok("tcg") => return Ok(Accelerator::Tcg),
        Ok("tcg-threads") => return Ok(Accelerator::TcgThreads),
        Ok(other) if other != "kvm" => bail!("ORTHROS_ACCEL={other}: known are kvm, tcg and tcg-threads"),
        Ok("kvm") => return Ok(Accelerator::Kvm),
        _ => {}
    }
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return emulation();
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
    if fs::read_to_string(answer)? == "kvm" {
        return Ok(Accelerator::Kvm);
    }
    emulation()
}

/// The best way of emulation that this QEMU does right.
fn emulation() -> Result<Accelerator> {
    let text = exec::text(Command::new("qemu-system-x86_64").arg("--version"))?;
    let version = version(&text).with_context(|| format!("no version in: {text}"))?;
    Ok(if version >= THREADS_SINCE {
        Accelerator::TcgThreads
    } else {
        Accelerator::Tcg
    })
}

/// Finds the major and minor number in `QEMU emulator version 7.2.19 (Debian ...)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_once("version ")?.1.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Boots a kernel with two CPUs into a program that switches the machine off.
fn powers_off(kernel: &Kernel, busybox: &Path, scratch: &Path) -> Result<bool> {
    let dir = cache::beside(scratch, "trial");
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
    let boot = Boot::Kernel {
        image: kernel.image.clone(),
        initramfs,
        command_line: "console=ttyS0 panic=1".into(),
    };
    let config = Config {
        cpus: 2,
        ram: 512,
        ..Config::new(Accelerator::Kvm, boot)
    };
    let ended = Qemu::start(&config, &dir.join("logs"))?.wait_end(DEADLINE);
    // A panic reboots, which ends the machine as well: only the kernel's own farewell counts.
    let console = fs::read_to_string(dir.join("logs/com1.log")).unwrap_or_default();
    cache::remove(&dir)?;
    Ok(ended.is_ok() && console.contains("reboot: Power down"))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions() {
        assert_eq!(
            version("QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)"),
            Some((7, 2))
        );
        assert_eq!(version("QEMU emulator version 10.0.2\nCopyright"), Some((10, 0)));
        assert_eq!(version("something else"), None);
    }
}
