//! The cgroup v2 freezer: keeps processes out of the middle of system calls.
//!
//! A process whose cgroup holds no stranger that must go on is frozen where it is; one in the root cgroup, which cannot be
//! frozen, or in that of this program, is moved into a cgroup of our own below it. Dropping the value undoes both. The restore
//! agent knows the name, and puts it into the one above.

use anyhow::{bail, Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the cgroup into which processes are moved (`shared_region::control::FREEZER_CGROUP`).
const OWN: &str = shared_region::control::FREEZER_CGROUP;
/// How long freezing may take: a thread that sleeps uninterruptibly freezes when it wakes.
const DEADLINE: Duration = Duration::from_secs(2);

/// Frozen processes.
#[derive(Debug, Default)]
pub struct Freezer {
    frozen: Vec<PathBuf>,
    made: BTreeSet<PathBuf>,
    /// Processes that were moved, with where they came from.
    moved: Vec<(u32, PathBuf)>,
}

/// Where cgroup v2 is mounted, by the text of `/proc/self/mounts`.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// The path of a process in the hierarchy, by the text of `/proc/PID/cgroup`.
fn path_in_hierarchy(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

fn cgroup_of(root: &Path, pid: u32) -> Result<PathBuf> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&file).context(file)?;
    let path = path_in_hierarchy(&text).with_context(|| format!("process {pid} is in no cgroup of version 2"))?;
    Ok(root.join(path.trim_start_matches('/')))
}

/// Whether processes of `group` can be frozen where they are, without freezing `own`.
fn in_place(root: &Path, group: &Path, own: &Path) -> bool {
    group != root && !own.starts_with(group)
}

fn write(file: PathBuf, text: &str) -> Result<()> {
    std::fs::write(&file, text).with_context(|| file.display().to_string())
}

fn is_frozen(group: &Path) -> bool {
    std::fs::read_to_string(group.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
}

impl Freezer {
    /// Freezes processes, and waits until they are frozen.
    ///
    /// # Errors
    /// There is no cgroup v2, or they do not freeze in time; nothing stays frozen then.
    pub fn freeze(pids: &[u32]) -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        let root = mount_point(&mounts).context("cgroup v2 is not mounted, so processes cannot be frozen")?;
        let own = cgroup_of(&root, std::process::id())?;
        let mut freezer = Self::default();
        let mut groups = BTreeSet::new();
        for &pid in pids {
            let group = match cgroup_of(&root, pid) {
                Ok(group) => group,
                // It has ended.
                Err(_) if !Path::new(&format!("/proc/{pid}")).exists() => continue,
                Err(error) => return Err(error),
            };
            if in_place(&root, &group, &own) {
                groups.insert(group);
            } else {
                groups.insert(freezer.take(pid, group)?);
            }
        }
        for group in groups {
            freezer.frozen.push(group.clone());
            write(group.join("cgroup.freeze"), "1")?;
        }
        let end = Instant::now() + DEADLINE;
        while let Some(group) = freezer.frozen.iter().find(|group| !is_frozen(group)) {
            if Instant::now() > end {
                bail!("{} did not freeze within {DEADLINE:.0?}", group.display());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(freezer)
    }

    /// Moves a process into a cgroup of our own.
    fn take(&mut self, pid: u32, from: PathBuf) -> Result<PathBuf> {
        let own = from.join(OWN);
        if !self.made.contains(&own) {
            match std::fs::create_dir(&own) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| own.display().to_string())
                }
                _ => self.made.insert(own.clone()),
            };
        }
        write(own.join("cgroup.procs"), &pid.to_string())?;
        self.moved.push((pid, from));
        Ok(own)
    }

    /// How many processes were moved to be frozen.
    pub fn moved(&self) -> usize {
        self.moved.len()
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Whatever fails here, the rest is undone all the same.
        for group in &self.frozen {
            let _ = std::fs::write(group.join("cgroup.freeze"), "0");
        }
        for (pid, from) in &self.moved {
            let _ = std::fs::write(from.join("cgroup.procs"), pid.to_string());
        }
        for own in &self.made {
            let _ = std::fs::remove_dir(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_among_others() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(mount_point(mounts), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(mount_point("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
        let text = "1:name=systemd:/x\n0::/system.slice/a.service\n";
        assert_eq!(path_in_hierarchy(text), Some("/system.slice/a.service"));
    }

    #[test]
    fn neither_the_root_nor_our_own_group_is_frozen() {
        let root = Path::new("/sys/fs/cgroup");
        let own = root.join("user/session");
        assert!(!in_place(root, root, &own));
        assert!(!in_place(root, &root.join("user"), &own));
        assert!(!in_place(root, &own, &own));
        assert!(in_place(root, &root.join("system/db"), &own));
    }
}
