//! The root file system: `root=`, `rootfstype=`, `rootflags=`, `ro`, `rw`.

use super::{cmdline::Cmdline, ext4, log, superblock};
use anyhow::{bail, ensure, Context, Result};
use rustix::{
    io::Errno,
    mount::{mount as mount_call, MountFlags},
};
use std::{
    ffi::CString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a device may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);

/// Looks whether the root file system could be mounted, without touching it: its device is there, and the kernel knows a
/// file system that it may hold.
///
/// # Errors
/// The device that did not appear, or the file system that the kernel does not know.
pub fn look(cmdline: &Cmdline) -> Result<()> {
    let root = cmdline.value("root").context("no root= on the kernel command line")?;
    let device = wait_for(root)?;
    let types = types(cmdline, &device)?;
    let known = known_types()?;
    let mountable = types.iter().any(|fstype| known.contains(fstype));
    ensure!(
        mountable,
        "the kernel knows no file system to mount {} as (tried {})",
        device.display(),
        types.join(", ")
    );
    Ok(())
}

/// Mounts the root file system at `target`.
///
/// # Errors
/// The device that did not appear, or the file system that could not be mounted.
pub fn mount(cmdline: &Cmdline, target: &str) -> Result<()> {
    let Some(root) = cmdline.value("root") else {
        bail!("no root= on the kernel command line");
    };
    let device = wait_for(root)?;
    fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
    let flags = match cmdline.last_of(&["ro", "rw"]) {
        Some("rw") => MountFlags::empty(),
        _ => MountFlags::RDONLY,
    };
    let options = CString::new(cmdline.value("rootflags").unwrap_or_default()).context("rootflags=")?;
    let types = types(cmdline, &device)?;
    let mut last = Errno::NODEV;
    for fstype in &types {
        match mount_call(&device, target, fstype.as_str(), flags, options.as_c_str()) {
            Ok(()) => {
                log::info(format_args!("root file system: {} ({fstype})", device.display()));
                return Ok(());
            }
            Err(error) => last = error,
        }
    }
    Err(last).with_context(|| {
        format!(
            "cannot mount {} as root file system (tried {})",
            device.display(),
            types.join(", ")
        )
    })
}

fn wait_for(root: &str) -> Result<PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(device) = locate(root) {
            return Ok(device);
        }
        if Instant::now() >= deadline {
            let known: Vec<String> = fs::read_dir("/sys/class/block")
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect();
            bail!(
                "root={root} has not appeared within {PATIENCE:?}; block devices: {}",
                known.join(" ")
            );
        }
        std::thread::sleep(STEP);
    }
}

fn locate(root: &str) -> Option<PathBuf> {
    if let Some(label) = root.strip_prefix("LABEL=") {
        return ext4::find(|names| names.label == label);
    }
    if let Some(uuid) = root.strip_prefix("UUID=") {
        let others = || superblock::find_all(|found| ext4::uuid_text(found).eq_ignore_ascii_case(uuid));
        let ext4 = ext4::find(|names| names.uuid.eq_ignore_ascii_case(uuid));
        return ext4.or_else(|| others().into_iter().next());
    }
    if let Some(uuid) = root.strip_prefix("PARTUUID=") {
        return by_partition(uuid);
    }
    let path = PathBuf::from(root);
    path.exists().then_some(path)
}

/// The kernel tells the UUID of a partition in its uevent.
fn by_partition(uuid: &str) -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/class/block").ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let text = fs::read_to_string(entry.path().join("uevent")).ok()?;
        let found = text.lines().find_map(|line| line.strip_prefix("PARTUUID="))?;
        found
            .eq_ignore_ascii_case(uuid)
            .then(|| Path::new("/dev").join(entry.file_name()))
    })
}

/// What to try: what the command line says, else what the superblock says, else all the kernel knows.
fn types(cmdline: &Cmdline, device: &Path) -> Result<Vec<String>> {
    match cmdline.value("rootfstype") {
        Some(fstype) => Ok(fstype.split(',').map(str::to_owned).collect()),
        None if ext4::names(device).is_ok() => Ok(vec!["ext4".into()]),
        None => known_types(),
    }
}

/// File systems for devices that the kernel knows.
fn known_types() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/filesystems").context("/proc/filesystems")?;
    Ok(text
        .lines()
        .filter(|line| !line.starts_with("nodev"))
        .map(|line| line.trim().to_owned())
        .collect())
}
