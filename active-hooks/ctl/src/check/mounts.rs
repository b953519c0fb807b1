//! File systems a process sees, and which of them files can be restored on.

use super::{Finding, Process};
use anyhow::{Context, Result};
use orthros_init::mountinfo::lines;
use shared_region::reasons;
use std::collections::{HashMap, HashSet};

/// File systems whose files are found again on disk.
const DISK: [&str; 7] = ["ext4", "ext3", "ext2", "xfs", "btrfs", "squashfs", "iso9660"];
/// File systems whose files are copied.
const MEMORY: [&str; 4] = ["tmpfs", "ramfs", "devtmpfs", "rootfs"];
/// File systems whose directories are found again by name.
const DIRECTORIES: [&str; 4] = ["sysfs", "cgroup2", "devpts", "proc"];
/// Files of proc that are no texts.
const NOT_TEXTS: [&str; 6] = ["kmsg", "kcore", "vmcore", "kpagecount", "kpageflags", "kpagecgroup"];
/// Texts about a process that are found again with it.
const ABOUT_PROCESSES: [&str; 17] = [
    "cgroup",
    "cmdline",
    "comm",
    "cpuset",
    "io",
    "limits",
    "maps",
    "oom_score",
    "personality",
    "schedstat",
    "smaps_rollup",
    "stack",
    "stat",
    "statm",
    "status",
    "syscall",
    "wchan",
];
/// `O_ACCMODE` (include/uapi/asm-generic/fcntl.h); nothing of it is set in a file that is only read.
const O_ACCMODE: u32 = 3;
/// File systems that a mount namespace can have for itself.
const OWN: [&str; 3] = ["tmpfs", "proc", "mqueue"];

/// Looks at a mount namespace that is not the one of process 1: it is made anew from that one's mounts.
pub fn namespace(process: &Process<'_>, findings: &mut Vec<Finding>) {
    let init = Process { pid: 1, ..*process };
    let (Ok(own), Ok(of_init)) = (process.read("mountinfo"), init.read("mountinfo")) else {
        findings.push(Finding::refused(
            "process",
            reasons::NS_MOUNT,
            "its mounts cannot be read",
        ));
        return;
    };
    let known: HashSet<&str> = lines(&of_init).map(|line| line.device).collect();
    let foreign = lines(&own).filter(|line| !known.contains(line.device) && !OWN.contains(&line.kind));
    findings.extend(foreign.map(|line| {
        let detail = format!("{} on {} is mounted nowhere else", line.kind, line.point);
        Finding::refused("process", reasons::NS_MOUNT, detail)
    }));
}

/// Types of file systems by mount id and by device number.
pub struct Mounts {
    by_id: HashMap<u32, String>,
    by_device: HashMap<String, String>,
}

impl Mounts {
    /// Reads `mountinfo`. A process shows those below its root directory; files from outside of it, and from before it got
    /// mounts of its own, are found again by those of process 1.
    pub fn read(process: &Process<'_>) -> Result<Self> {
        let own = process.read("mountinfo").with_context(|| process.path("mountinfo"))?;
        let init = Process { pid: 1, ..*process };
        let text = own + &init.read("mountinfo").unwrap_or_default();
        let mut mounts = Self {
            by_id: HashMap::new(),
            by_device: HashMap::new(),
        };
        for line in lines(&text) {
            mounts.by_id.insert(line.id, line.kind.to_owned());
            mounts.by_device.insert(line.device.to_owned(), line.kind.to_owned());
        }
        Ok(mounts)
    }

    /// What is wrong with a file of this mount, if anything. A mount that is not listed is not visible by any path.
    pub fn problem_of_mount(&self, object: &str, id: u32, path: &str, directory: bool, flags: u32) -> Option<Finding> {
        match self.by_id.get(&id) {
            Some(kind) if directory && DIRECTORIES.contains(&kind.as_str()) => None,
            Some(kind) if !directory && is_remade(kind, path, flags) => None,
            Some(kind) => problem(object, kind, path),
            None => Some(Finding::refused(object, reasons::HIDDEN_PATH, path)),
        }
    }

    /// The same for a mapped file, of which the device number is known (`major:minor`, in hexadecimal).
    pub fn problem_of_device(&self, object: &str, device: &str, path: &str) -> Option<Finding> {
        let decimal = device.split_once(':').and_then(|(major, minor)| {
            let number = |text| u32::from_str_radix(text, 16).ok();
            Some(format!("{}:{}", number(major)?, number(minor)?))
        });
        // btrfs gives its files device numbers that no mount shows: that one is known by its other mappings only.
        match decimal.and_then(|device| self.by_device.get(&device)) {
            Some(kind) => problem(object, kind, path),
            None if self.by_id.values().any(|kind| kind == "btrfs") => None,
            None => Some(Finding::refused(object, reasons::HIDDEN_PATH, path)),
        }
    }
}

/// Whether a file's content is made by the kernel as it is read, and nothing but the position has to be kept.
fn is_remade(kind: &str, path: &str, flags: u32) -> bool {
    let only_read = flags & O_ACCMODE == 0;
    match kind {
        "proc" if path.starts_with("/proc/sys/") => true,
        "proc" => {
            let name = path.strip_prefix("/proc/").unwrap_or_default();
            let known = match name.starts_with(|first: char| first.is_ascii_digit()) {
                true => ABOUT_PROCESSES.contains(&name.rsplit('/').next().unwrap_or_default()),
                false => !NOT_TEXTS.contains(&name),
            };
            only_read && known
        }
        "sysfs" | "cgroup2" => only_read,
        _ => false,
    }
}

fn problem(object: &str, kind: &str, path: &str) -> Option<Finding> {
    let known = DISK.contains(&kind) || MEMORY.contains(&kind);
    (!known).then(|| Finding::refused(object, reasons::FILE_SYSTEM, format!("{kind}: {path}")))
}
