//! What the process is, apart from memory and files: ids, namespaces, tracer, restrictions, terminal.

use super::{mounts, swap, Finding, Process};
use anyhow::{Context, Result};
use orthros_init::sys;
use shared_region::reasons::{self, Reason};
use std::{fs::File, io::ErrorKind, os::unix::fs::MetadataExt};

/// User space starts at this process id on every armed boot, so that lower ones stay free for the kernel's threads.
const FIRST_PID: u32 = 2000;

/// Looks at the process and each of its threads.
pub fn check(process: &Process<'_>, findings: &mut Vec<Finding>) -> Result<()> {
    status(process, findings)?;
    namespaces(process, findings);
    ids(process, findings)?;
    executable(process, findings);
    for thread in process.root.names(&process.path("task")).unwrap_or_default() {
        label(process, &thread, findings);
    }
    Ok(())
}

fn status(process: &Process<'_>, findings: &mut Vec<Finding>) -> Result<()> {
    let mut refuse = |reason: Reason, detail: String| findings.push(Finding::refused("process", reason, detail));
    let state = process.status("State").with_context(|| process.path("status"))?;
    let number = |name: &str| -> u64 {
        let value = process.status(name).unwrap_or_default();
        value
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or(0)
    };
    if number("TracerPid") != 0 {
        refuse(reasons::PTRACE, format!("by process {}", number("TracerPid")));
    }
    if number("HugetlbPages") != 0 {
        refuse(reasons::HUGETLB, format!("{} KB", number("HugetlbPages")));
    }
    let features = process.status("x86_Thread_features").unwrap_or_default();
    if features.split_whitespace().any(|feature| feature == "shstk") {
        refuse(reasons::SHADOW_STACK, String::new());
    }
    match number("Seccomp") {
        0 | 1 => {}
        2 if process.root.exists("/proc/sys/kernel/ns_last_pid") => {}
        // The programs are kept with CONFIG_CHECKPOINT_RESTORE, of which that file is a part.
        2 => refuse(
            reasons::SECCOMP_LOST,
            "the kernel lacks CONFIG_CHECKPOINT_RESTORE".into(),
        ),
        mode => refuse(reasons::UNKNOWN, format!("seccomp mode {mode}")),
    }
    findings.extend(swap::finding(process.root, number("VmSwap"), ""));
    if state.starts_with('Z') || state.starts_with('X') {
        findings.push(Finding::note(
            "process",
            "ended",
            "has ended; its parent gets its status",
        ));
    }
    Ok(())
}

/// Namespaces by their names in `/proc/PID/ns`.
const NAMESPACES: [(&str, Reason); 10] = [
    ("cgroup", reasons::NS_CGROUP),
    ("ipc", reasons::NS_IPC),
    ("mnt", reasons::NS_MOUNT),
    ("net", reasons::NS_NET),
    ("pid", reasons::NS_PID),
    ("pid_for_children", reasons::NS_PID),
    ("time", reasons::NS_TIME),
    ("time_for_children", reasons::NS_TIME),
    ("user", reasons::NS_USER),
    ("uts", reasons::NS_UTS),
];

/// Kept processes live in the namespaces of process 1, but for those that can be made anew.
fn namespaces(process: &Process<'_>, findings: &mut Vec<Finding>) {
    let mut different: Vec<Reason> = Vec::new();
    for name in process.root.names(&process.path("ns")).unwrap_or_default() {
        let Some((_, reason)) = NAMESPACES.iter().find(|(known, _)| *known == name) else {
            findings.push(Finding::refused(
                "process",
                reasons::UNKNOWN,
                format!("namespace `{name}`"),
            ));
            continue;
        };
        let of_init = process.root.link(&format!("/proc/1/ns/{name}"));
        let own = process.root.link(&process.path(&format!("ns/{name}")));
        if matches!((of_init, own), (Ok(init), Ok(own)) if init != own) {
            match *reason {
                reasons::NS_MOUNT => {
                    mounts::namespace(process, findings);
                    owner(process, &name, *reason, findings);
                }
                reasons::NS_NET => {
                    network(process, findings);
                    owner(process, &name, *reason, findings);
                }
                reasons::NS_CGROUP | reasons::NS_IPC | reasons::NS_USER | reasons::NS_UTS => {
                    owner(process, &name, *reason, findings)
                }
                reasons::NS_PID => pid(process, &name, findings),
                reason if !different.contains(&reason) => different.push(reason),
                _ => {}
            }
        }
    }
    let link = |name: &str| process.root.link(&process.path(&format!("ns/{name}")));
    let is_alive = link("uts").is_ok();
    // One that begins with the first child shows nothing until then.
    if is_alive && link("pid_for_children").is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        findings.push(Finding::refused(
            "process",
            reasons::NS_PID,
            "for its children, none of which is born yet",
        ));
    }
    findings.extend(
        different
            .into_iter()
            .map(|reason| Finding::refused("process", reason, "")),
    );
}

/// Looks at a pid namespace: that of the process, or that of its children.
fn pid(process: &Process<'_>, name: &str, findings: &mut Vec<Finding>) {
    let link = |name: &str| process.root.link(&process.path(&format!("ns/{name}"))).ok();
    let is_of_children = name == "pid_for_children";
    if is_of_children && link(name) == link("pid") {
        return;
    }
    let threads = process.root.names(&process.path("task")).unwrap_or_default().len();
    if is_of_children && threads > 1 {
        let detail = "for its children, and it has threads";
        findings.push(Finding::refused("process", reasons::NS_PID, detail));
    }
    owner(process, name, reasons::NS_PID, findings);
}

/// A network can be made anew if there is nothing in it but the loopback link.
fn network(process: &Process<'_>, findings: &mut Vec<Finding>) {
    findings.extend(other_links(process).map(|links| Finding::refused("process", reasons::NS_NET, links)));
}

/// The links of a process's network but for loopback, if there are any.
pub fn other_links(process: &Process<'_>) -> Option<String> {
    let links = process.read("net/dev").unwrap_or_default();
    // Two lines are heads of columns.
    let names = links.lines().skip(2).filter_map(|line| line.split(':').next());
    let others: Vec<&str> = names.map(str::trim).filter(|name| *name != "lo").collect();
    (!others.is_empty()).then(|| format!("with the link {}", others.join(", ")))
}

/// What can be made anew belongs to the first user namespace, or to one whose parent that is.
fn owner(process: &Process<'_>, name: &str, reason: Reason, findings: &mut Vec<Finding>) {
    let number = |path: &str| process.root.metadata(path).map(|found| found.ino());
    let owner = File::open(process.root.path(&process.path(&format!("ns/{name}"))))
        .and_then(sys::owner_of_namespace)
        .and_then(|owner| File::from(owner).metadata())
        .map(|owner| owner.ino());
    let is = |path: &str| matches!((&owner, number(path)), (Ok(owner), Ok(other)) if *owner == other);
    let is_known = match reason {
        // One whose owner cannot be told is judged by its mounts.
        reasons::NS_MOUNT => owner.is_err() || is("/proc/1/ns/user"),
        // Its own user namespace is looked at itself.
        reasons::NS_CGROUP | reasons::NS_IPC | reasons::NS_NET | reasons::NS_UTS => {
            is("/proc/1/ns/user") || is(&process.path("ns/user"))
        }
        _ => is("/proc/1/ns/user"),
    };
    if !is_known {
        let detail = match owner {
            Ok(_) => "of another user namespace than the first".into(),
            Err(error) => error.to_string(),
        };
        findings.push(Finding::refused("process", reason, detail));
    } else if reason == reasons::NS_USER && process.read("uid_map").is_ok_and(|map| map.trim().is_empty()) {
        findings.push(Finding::refused("process", reason, "whose ids were not set"));
    }
}

/// Field `number` of `stat`, counted from 1 as in proc(5).
fn stat_field(process: &Process<'_>, number: usize) -> Option<i64> {
    let text = process.read("stat").ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(number - 3)?.parse().ok()
}

fn ids(process: &Process<'_>, findings: &mut Vec<Finding>) -> Result<()> {
    let mut low = Vec::new();
    let mut look = |what: &str, id: i64| {
        if (1..i64::from(FIRST_PID)).contains(&id) && !low.iter().any(|(_, known)| *known == id) {
            low.push((what.to_owned(), id));
        }
    };
    look("process", process.pid.into());
    for thread in process.root.names(&process.path("task")).unwrap_or_default() {
        look("thread", thread.parse().unwrap_or(0));
    }
    look(
        "process group",
        stat_field(process, 5).with_context(|| process.path("stat"))?,
    );
    look("session", stat_field(process, 6).unwrap_or(0));
    for (what, id) in low {
        findings.push(Finding::risk(
            format!("{what} id {id}"),
            "low-id",
            format!("is below {FIRST_PID} and may be taken by a thread of the next kernel; start it again, or restart the machine"),
        ));
    }
    const TERMINAL: usize = 7;
    if stat_field(process, TERMINAL).is_some_and(|terminal| terminal != 0) {
        findings.push(Finding::note(
            "controlling terminal",
            "terminal",
            "is kept if the leader of its session is protected as well; else the process goes on without it",
        ));
    }
    Ok(())
}

/// The fifth byte of an ELF file is its class: 1 is 32 bits (System V ABI, chapter 4).
fn executable(process: &Process<'_>, findings: &mut Vec<Finding>) {
    use std::io::Read;
    let mut head = [0; 5];
    let path = process.root.path(&process.path("exe"));
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    if read.is_ok() && head == *b"\x7fELF\x01" {
        findings.push(Finding::refused("process", reasons::COMPAT, ""));
    }
}

/// The security label of a thread.
fn label(process: &Process<'_>, thread: &str, findings: &mut Vec<Finding>) {
    let path = process.path(&format!("task/{thread}/attr/current"));
    let label = process.root.line(&path).unwrap_or_default();
    let label = label.trim_end_matches('\0').trim();
    if !matches!(label, "" | "unconfined" | "kernel") {
        let finding = Finding::refused(format!("thread {thread}"), reasons::LSM_LABEL, label);
        findings.push(finding);
    }
}
