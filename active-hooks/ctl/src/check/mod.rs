//! `orthros-ctl check`: what of a process would survive a failure and what would not, from `/proc`.
//!
//! An allow-list over every feature that `/proc` shows: what is not known here is named as not surviving, never
//! passed over. The reasons are those of [`shared_region::reasons`], which the salvager gives after a failure. What
//! `/proc` does not show is listed in [`UNSEEN`].

mod descriptors;
mod handlers;
mod mappings;
mod mounts;
mod peers;
mod rings;
mod sockets;
mod state;
mod swap;
#[cfg(test)]
mod tests;
mod timers;
mod unused_sockets;

use crate::exit::Exit;
use crate::root::Root;
use crate::snapshot::{open_region, Snapshot};
use crate::units::count;
use anyhow::{ensure, Context, Result};
use mounts::Mounts;
use peers::Peers;
use serde_json::{json, Value};
use shared_region::reasons::Reason;

/// What the salvager refuses and `/proc` does not show.
pub const UNSEEN: &str = "Landlock, keyrings (but for a session keyring as service managers make it), local descriptor tables, access to ports, hardware breakpoints, System V \
                          semaphore adjustments, redirected system calls, flags of rings of io_uring, limits of user namespaces and PR_SET_MDWE are not shown by /proc; the salvager looks at them";

/// What a finding means for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// It survives; this is what is done about something on the way.
    Note,
    /// It may not survive.
    Risk,
    /// It does not survive.
    Fatal,
}

/// Something that was found out about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: `fd 5`, `mapping 7f00…`, `process`.
    pub object: String,
    /// What it means.
    pub cost: Cost,
    /// Short name, stable, for programs.
    pub name: &'static str,
    /// For people.
    pub text: String,
}

impl Finding {
    /// Something the salvager would refuse, with a detail (may be empty).
    pub fn refused(object: impl Into<String>, reason: Reason, detail: impl AsRef<str>) -> Self {
        let detail = detail.as_ref();
        Self {
            object: object.into(),
            cost: Cost::Fatal,
            name: reason.name,
            text: match detail {
                "" => reason.text.to_owned(),
                detail => format!("{} ({detail})", reason.text),
            },
        }
    }

    /// Something that may go wrong.
    pub fn risk(object: impl Into<String>, name: &'static str, text: impl Into<String>) -> Self {
        let (object, text) = (object.into(), text.into());
        let cost = Cost::Risk;
        Self {
            object,
            cost,
            name,
            text,
        }
    }

    /// Something that is taken care of.
    pub fn note(object: impl Into<String>, name: &'static str, text: impl Into<String>) -> Self {
        let (object, text) = (object.into(), text.into());
        let cost = Cost::Note;
        Self {
            object,
            cost,
            name,
            text,
        }
    }
}

/// What is said about a process.
#[derive(Clone, Debug)]
pub struct Verdict {
    pid: u32,
    comm: String,
    protected: Option<bool>,
    threads: usize,
    findings: Vec<Finding>,
}

impl Verdict {
    /// Whether everything survives.
    pub fn survives(&self) -> bool {
        self.findings.iter().all(|finding| finding.cost == Cost::Note)
    }

    /// For a process that cannot be looked at.
    fn unreadable(root: &Root, pid: u32, error: &anyhow::Error) -> Self {
        let text = format!("cannot be looked at: {error:#}");
        Self {
            pid,
            comm: root.line(&format!("/proc/{pid}/comm")).unwrap_or_else(|| "?".into()),
            protected: None,
            threads: root.names(&format!("/proc/{pid}/task")).map_or(1, |names| names.len()),
            findings: vec![Finding::risk("process", "unreadable", text)],
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// For people.
    pub fn text(&self) -> String {
        let worst = match self.survives() {
            true => "would survive",
            false if self.findings.iter().any(|finding| finding.cost == Cost::Fatal) => "would not survive",
            false => "may not survive",
        };
        let protected = match self.protected {
            Some(false) => ", but is not protected",
            _ => "",
        };
        let mut out = format!(
            "process {} ({}), {}: {worst}{protected}\n",
            self.pid,
            self.comm,
            count(self.threads as u64, "thread", "threads")
        );
        for finding in &self.findings {
            let mark = match finding.cost {
                Cost::Note => "note",
                Cost::Risk => "RISK",
                Cost::Fatal => "LOST",
            };
            out += &format!("  {mark}  {}: {}\n", finding.object, finding.text);
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let findings: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "object": finding.object,
                    "cost": format!("{:?}", finding.cost).to_lowercase(),
                    "reason": finding.name,
                    "text": finding.text,
                })
            })
            .collect();
        json!({
            "pid": self.pid,
            "comm": self.comm,
            "protected": self.protected,
            "threads": self.threads,
            "survives": self.survives(),
            "findings": findings,
        })
    }
}

/// A process that is looked at.
pub struct Process<'a> {
    /// Where `/proc` is.
    pub root: &'a Root,
    /// Its id.
    pub pid: u32,
}

impl Process<'_> {
    /// A path below its folder in `/proc`.
    pub fn path(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid)
    }

    /// A file below its folder.
    pub fn read(&self, name: &str) -> std::io::Result<String> {
        self.root.read(&self.path(name))
    }

    /// A value of its `status` file.
    pub fn status(&self, name: &str) -> Option<String> {
        let text = self.read("status").ok()?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim().to_owned())
    }
}

/// The process ids of a `/proc`.
pub fn pids(root: &Root) -> Result<Vec<u32>> {
    let names = root.names("/proc").context("/proc")?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Whether it is a thread of the kernel: those have no executable and no mappings.
fn is_kernel_thread(process: &Process<'_>) -> bool {
    process.read("maps").is_ok_and(|maps| maps.is_empty()) && process.status("VmSize").is_none()
}

/// Looks at one process.
pub fn check(process: &Process<'_>, peers: &Peers) -> Result<Verdict> {
    let pid = process.pid;
    ensure!(
        process.root.exists(&format!("/proc/{pid}")),
        "there is no process {pid}"
    );
    let comm = process
        .read("comm")
        .with_context(|| process.path("comm"))?
        .trim_end()
        .to_owned();
    let mut findings = Vec::new();
    if is_kernel_thread(process) {
        findings.push(Finding::risk(
            "process",
            "kernel-thread",
            "is a thread of the kernel; it is started anew",
        ));
    } else {
        let mounts = Mounts::read(process)?;
        state::check(process, &mut findings)?;
        mappings::check(process, &mounts, &mut findings)?;
        mappings::policies(process, &mut findings);
        descriptors::check(process, &mounts, peers.next_release(), &mut findings)?;
        timers::check(process, &mut findings);
        handlers::check(process, &mut findings);
        peers.check(process, &mut findings)?;
    }
    Ok(Verdict {
        pid,
        protected: peers.protected(pid, &comm),
        comm,
        threads: process.root.names(&process.path("task")).map_or(1, |names| names.len()),
        findings,
    })
}

/// The region's snapshot, if the module is there: without, nothing can be said about protection.
fn snapshot() -> Option<Snapshot> {
    let (_device, region) = open_region().ok()?;
    Some(Snapshot::take(&region))
}

/// Which processes are asked for.
fn chosen(root: &Root, given: &[u32], all: bool, snapshot: Option<&Snapshot>) -> Result<Vec<u32>> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let everything = pids(root)?;
    if all {
        let kept = |pid: &u32| !is_kernel_thread(&Process { root, pid: *pid });
        return Ok(everything.into_iter().filter(kept).collect());
    }
    let snapshot = snapshot.context(
        "no process was named, and without the module it is not known which are protected; name some, or use --all",
    )?;
    let comm = |pid: u32| root.line(&format!("/proc/{pid}/comm")).unwrap_or_default();
    let list: Vec<u32> = everything
        .into_iter()
        .filter(|&pid| snapshot.protects(pid, &comm(pid)))
        .collect();
    ensure!(
        !list.is_empty(),
        "no process is protected; name some to check them all the same"
    );
    Ok(list)
}

/// Looks at every protected process; those that end meanwhile are left out.
pub fn protected(root: &Root, snapshot: Snapshot) -> Result<Vec<Verdict>> {
    let peers = Peers::read(root, Some(snapshot));
    let mut verdicts = Vec::new();
    for pid in pids(root)? {
        let comm = root.line(&format!("/proc/{pid}/comm")).unwrap_or_default();
        if pid == 1 || peers.protected(pid, &comm) != Some(true) {
            continue;
        }
        let process = Process { root, pid };
        // A child that has ended is kept with its parent and has nothing to look at.
        if is_kernel_thread(&process) {
            continue;
        }
        match check(&process, &peers) {
            Ok(verdict) => verdicts.push(verdict),
            Err(_) if !root.exists(&format!("/proc/{pid}")) => {}
            Err(error) => return Err(explain(error, pid)),
        }
    }
    Ok(verdicts)
}

/// Prints the verdicts. Fails if something would not survive.
pub fn run(given: &[u32], all: bool, json: bool) -> Result<Exit> {
    let root = Root::system();
    let snapshot = snapshot();
    let list = chosen(&root, given, all, snapshot.as_ref())?;
    let peers = Peers::read(&root, snapshot);
    let mut verdicts = Vec::new();
    for pid in list {
        match check(&Process { root: &root, pid }, &peers) {
            Ok(verdict) => verdicts.push(verdict),
            // Processes come and go while all are looked at.
            Err(_) if all && !root.exists(&format!("/proc/{pid}")) => {}
            Err(error) if all => verdicts.push(Verdict::unreadable(&root, pid, &error)),
            Err(error) => return Err(explain(error, pid)),
        }
    }
    let fine = verdicts.iter().all(Verdict::survives);
    if json {
        let list: Vec<_> = verdicts.iter().map(Verdict::json).collect();
        println!(
            "{:#}",
            json!({"version": 1, "survive": fine, "processes": list, "unseen": UNSEEN})
        );
    } else {
        verdicts.iter().for_each(|verdict| print!("{}", verdict.text()));
        println!("{UNSEEN}.");
    }
    Ok(if fine { Exit::Fine } else { Exit::No })
}

/// Adds the way out to an error of reading `/proc`.
fn explain(error: anyhow::Error, pid: u32) -> anyhow::Error {
    let denied = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    match denied {
        true => error.context(format!(
            "process {pid} is not yours to look at: run this as root, or with sudo"
        )),
        false => error.context(format!("process {pid}")),
    }
}
