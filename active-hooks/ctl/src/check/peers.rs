//! Who a process shares something with: parent, children, other ends of pipes and pseudo terminals. What is not protected is
//! gone after a failure.

use super::{pids, Finding, Process};
use crate::root::Root;
use crate::snapshot::Snapshot;
use anyhow::Result;
use shared_region::protect::{flags, kind};
use std::collections::{BTreeSet, HashMap};

/// The tree of processes, and who holds which pipe or pseudo terminal.
pub struct Peers {
    snapshot: Option<Snapshot>,
    /// Name and parent by process id.
    processes: HashMap<u32, (String, u32)>,
    /// Processes by pipe (`pipe:[inode]`) and pseudo terminal (name of the slave).
    shared: HashMap<String, BTreeSet<u32>>,
}

impl Peers {
    /// `uname -r` of the kernel that takes over next, if it is known.
    pub fn next_release(&self) -> Option<&str> {
        self.snapshot.as_ref()?.next_release.as_deref()
    }

    /// Looks at every process once. Those that cannot be looked at have nothing that shows.
    pub fn read(root: &Root, snapshot: Option<Snapshot>) -> Self {
        let mut peers = Self {
            snapshot,
            processes: HashMap::new(),
            shared: HashMap::new(),
        };
        for pid in pids(root).unwrap_or_default() {
            let process = Process { root, pid };
            let Some(comm) = root.line(&process.path("comm")) else {
                continue;
            };
            let parent = process
                .status("PPid")
                .and_then(|parent| parent.parse().ok())
                .unwrap_or(0);
            peers.processes.insert(pid, (comm, parent));
            for fd in root.names(&process.path("fd")).unwrap_or_default() {
                let target = root.link(&process.path(&format!("fd/{fd}"))).unwrap_or_default();
                if let Some(object) = shared(&process, &fd, target) {
                    peers.shared.entry(object).or_default().insert(pid);
                }
            }
        }
        peers
    }

    /// Whether a process is protected, by itself or as a descendant. `None` if it is not known.
    pub fn protected(&self, pid: u32, comm: &str) -> Option<bool> {
        let snapshot = self.snapshot.as_ref()?;
        if snapshot.protects(pid, comm) {
            return Some(true);
        }
        let mut at = pid;
        // The tree is read while it changes: no more steps than there are processes.
        for _ in 0..self.processes.len() {
            let Some(&(_, parent)) = self.processes.get(&at) else {
                break;
            };
            let Some((name, _)) = self.processes.get(&parent) else {
                break;
            };
            let head = snapshot.protected.iter().any(|entry| {
                let same = match entry.kind {
                    kind::PROCESS => entry.tgid == u64::from(parent),
                    kind::COMM => crate::snapshot::comm_of(entry) == *name,
                    _ => false,
                };
                same && entry.flags & flags::DESCENDANTS != 0
            });
            if head {
                return Some(true);
            }
            at = parent;
        }
        Some(false)
    }

    fn is_unprotected(&self, pid: u32) -> bool {
        let comm = self.processes.get(&pid).map_or("", |(comm, _)| comm.as_str());
        self.protected(pid, comm) == Some(false)
    }

    fn named(&self, pid: u32) -> String {
        let comm = self.processes.get(&pid).map_or("?", |(comm, _)| comm.as_str());
        format!("process {pid} ({comm})")
    }

    /// What happens to the process's relations. Without the module nothing is known about protection, and nothing said.
    pub fn check(&self, process: &Process<'_>, findings: &mut Vec<Finding>) -> Result<()> {
        if self.snapshot.is_none() {
            return Ok(());
        }
        let pid = process.pid;
        let parent = self.processes.get(&pid).map_or(0, |&(_, parent)| parent);
        if parent > 1 && self.is_unprotected(parent) {
            findings.push(Finding::note(
                "parent",
                "unprotected-parent",
                format!("{} is not protected: init becomes the parent", self.named(parent)),
            ));
        }
        let mut children: Vec<u32> = self
            .processes
            .iter()
            .filter(|(_, &(_, parent))| parent == pid)
            .map(|(&child, _)| child)
            .collect();
        children.sort_unstable();
        for child in children.into_iter().filter(|&child| self.is_unprotected(child)) {
            findings.push(Finding::note(
                "child",
                "unprotected-child",
                format!(
                    "{} is not protected: it will be gone (`protect --descendants` keeps it)",
                    self.named(child)
                ),
            ));
        }
        for (object, holders) in &self.shared {
            let others = holders
                .iter()
                .filter(|&&holder| holder != pid && self.is_unprotected(holder));
            if holders.contains(&pid) {
                findings.extend(others.map(|&holder| {
                    Finding::note(
                        object.as_str(),
                        "unprotected-peer",
                        format!(
                            "{} is not protected: its end will be seen as closed",
                            self.named(holder)
                        ),
                    )
                }));
            }
        }
        Ok(())
    }
}

/// Whether a descriptor is the master of a pseudo terminal.
pub fn is_master(target: &str) -> bool {
    matches!(target, "/dev/ptmx" | "/dev/pts/ptmx")
}

/// The object with two ends that a descriptor is one of.
fn shared(process: &Process<'_>, fd: &str, target: String) -> Option<String> {
    if is_master(&target) {
        let info = process.read(&format!("fdinfo/{fd}")).ok()?;
        let index = info.lines().find_map(|line| line.strip_prefix("tty-index:"))?;
        return Some(format!("/dev/pts/{}", index.trim()));
    }
    (target.starts_with("pipe:[") || target.starts_with("/dev/pts/")).then_some(target)
}
