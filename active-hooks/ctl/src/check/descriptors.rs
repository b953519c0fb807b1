//! Open files, from `fd` and `fdinfo`.

use super::mounts::Mounts;
use super::{peers, rings, Finding, Process};
use anyhow::{Context, Result};
use shared_region::reasons::{self, Reason};

/// `O_ASYNC` (include/uapi/asm-generic/fcntl.h).
const O_ASYNC: u32 = 0o20_000;
/// Anonymous inodes that are restored.
const KEPT: [&str; 5] = ["[eventfd]", "[eventpoll]", "[timerfd]", "[signalfd]", "inotify"];
/// Devices without state of their own.
const STATELESS: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// File system of POSIX message queues (ipc/mqueue.c).
const MQUEUE_MAGIC: i64 = 0x1980_0202;

/// What `fdinfo` says.
#[derive(Debug, Default)]
struct Info {
    flags: u32,
    mount: Option<u32>,
    locks: Vec<String>,
    /// Descriptors an epoll set watches.
    watched: Vec<u32>,
}

impl Info {
    fn parse(text: &str) -> Self {
        let mut info = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match key {
                "flags" => info.flags = u32::from_str_radix(value, 8).unwrap_or(0),
                "mnt_id" => info.mount = value.parse().ok(),
                "lock" => info.locks.push(value.to_owned()),
                "tfd" => info
                    .watched
                    .extend(value.split_whitespace().next().and_then(|fd| fd.parse::<u32>().ok())),
                _ => {}
            }
        }
        info
    }
}

/// Looks at every descriptor.
/// `next` is `uname -r` of the kernel that takes over next.
pub fn check(process: &Process<'_>, mounts: &Mounts, next: Option<&str>, findings: &mut Vec<Finding>) -> Result<()> {
    let names = process
        .root
        .names(&process.path("fd"))
        .with_context(|| process.path("fd"))?;
    for name in &names {
        let link = process.path(&format!("fd/{name}"));
        // Closed meanwhile.
        let Ok(target) = process.root.link(&link) else { continue };
        let text = match process.read(&format!("fdinfo/{name}")) {
            Ok(text) => text,
            Err(_) if process.root.link(&link).ok().as_ref() != Some(&target) => continue,
            Err(_) => String::new(),
        };
        let info = Info::parse(&text);
        let object = format!("fd {name}");
        let is_socket = target.starts_with("socket:[");
        findings.extend(match is_socket {
            true => super::sockets::check(process, name, &target),
            false if target == rings::RING => Some(rings::check(process, &object, &text, next)),
            false => kind(process, mounts, &object, &link, &target, &info),
        });
        findings.extend(common(&object, is_socket, &info));
        for watched in closed(process, name, info.watched) {
            findings.push(Finding::refused(
                &object,
                reasons::WATCHED_FILE,
                format!("descriptor {watched} of then"),
            ));
        }
    }
    Ok(())
}

/// Descriptors that are watched by one of epoll and not there. One that has come since the list was read is; and one that is closed
/// now was taken out of the list at that moment, unless it has a copy.
fn closed(process: &Process<'_>, name: &str, mut watched: Vec<u32>) -> Vec<u32> {
    let is_closed = |fd: &u32| process.root.link(&process.path(&format!("fd/{fd}"))).is_err();
    watched.retain(is_closed);
    if !watched.is_empty() {
        let now = Info::parse(&process.read(&format!("fdinfo/{name}")).unwrap_or_default());
        watched.retain(|fd| now.watched.contains(fd) && is_closed(fd));
    }
    watched
}

/// What any file may have.
fn common(object: &str, is_socket: bool, info: &Info) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Whoever has a lease is told by a signal, too.
    if info.flags & O_ASYNC != 0 && !is_socket && !info.locks.iter().any(|lock| lock.contains(" LEASE ")) {
        findings.push(Finding::refused(object, reasons::FASYNC, ""));
    }
    // `1: POSIX  ADVISORY  WRITE 1234 08:01:5678 0 EOF`
    for lock in &info.locks {
        let reason = match lock.split_whitespace().nth(1) {
            Some("POSIX" | "OFDLCK" | "FLOCK") => continue,
            // `1: LEASE  ACTIVE    READ  1234 08:01:5678 0 EOF`
            Some("LEASE") if !lock.contains("BREAK") => continue,
            Some("LEASE" | "DELEG") => reasons::LEASE,
            _ => reasons::FILE_LOCK,
        };
        findings.push(Finding::refused(object, reason, lock));
    }
    findings
}

fn kind(
    process: &Process<'_>,
    mounts: &Mounts,
    object: &str,
    link: &str,
    target: &str,
    info: &Info,
) -> Option<Finding> {
    let refuse = |reason: Reason, detail: &str| Some(Finding::refused(object, reason, detail));
    if let Some(name) = target.strip_prefix("anon_inode:") {
        return match name {
            name if KEPT.contains(&name) => None,
            "[perf_event]" => refuse(reasons::PERF, ""),
            "[userfaultfd]" => refuse(reasons::USERFAULTFD, ""),
            name if name.starts_with("bpf") || name.starts_with("[bpf") => refuse(reasons::BPF, name),
            "[fanotify]" | "[pidfd]" | "seccomp notify" | "[fscontext]" => refuse(reasons::FILE_TYPE, name),
            name if name.starts_with("landlock") => refuse(reasons::FILE_TYPE, name),
            other => refuse(reasons::UNKNOWN, &format!("a descriptor of kind `{other}`")),
        };
    }
    if target.starts_with("pipe:[") {
        return None;
    }
    if !target.starts_with('/') {
        // Namespaces (`net:[…]`), `pidfd:[…]` and whatever comes.
        return refuse(reasons::FILE_TYPE, target);
    }
    if target.starts_with("/memfd:") || STATELESS.contains(&target) {
        return None;
    }
    if peers::is_master(target) || target.starts_with("/dev/pts/") {
        return None;
    }
    let metadata = process.root.metadata(link).ok();
    let directory = metadata.as_ref().is_some_and(|metadata| metadata.is_dir());
    if directory && target.ends_with(" (deleted)") {
        return refuse(reasons::DELETED_DIRECTORY, target);
    }
    if let Some(kind) = metadata.and_then(special) {
        return match kind {
            Special::Fifo => None,
            Special::Character if is_terminal(target) => None,
            Special::Character | Special::Block => refuse(reasons::DEVICE, target),
            Special::Socket => refuse(reasons::SOCKET, target),
        };
    }
    match info.mount {
        // The mount that a POSIX message queue is on shows nowhere.
        _ if process.root.file_system(link).is_ok_and(|magic| magic == MQUEUE_MAGIC) => None,
        Some(mount) => mounts.problem_of_mount(object, mount, target, directory, info.flags),
        None => refuse(reasons::UNREADABLE, &format!("no mount is shown for {target}")),
    }
}

/// Terminals without another end: the console and serial lines.
fn is_terminal(path: &str) -> bool {
    let name = path.strip_prefix("/dev/").unwrap_or_default();
    name == "console" || name.starts_with("tty")
}

enum Special {
    Fifo,
    Character,
    Block,
    Socket,
}

fn special(metadata: std::fs::Metadata) -> Option<Special> {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    Some(match () {
        () if kind.is_fifo() => Special::Fifo,
        () if kind.is_char_device() => Special::Character,
        () if kind.is_block_device() => Special::Block,
        () if kind.is_socket() => Special::Socket,
        () => return None,
    })
}
