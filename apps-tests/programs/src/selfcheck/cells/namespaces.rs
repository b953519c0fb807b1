//! Namespaces of the machine's names and of ids, as a service manager makes them for services.

use crate::cell::{join, same, Cell, Context, Skip};
use crate::sys::namespace::{owner, set_names, unshare};
use crate::sys::process::{self, fork};
use crate::sys::signal::{self, Info};
use anyhow::{ensure, Result};
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "namespaces/uts",
        what: "host and domain name of its own, which a child sees change",
        covers: &[
            "Namespace.what",
            "NamespaceKind.Uts",
            "InNamespace.namespace",
        ],
        caught: None,
        run: uts,
    },
    Cell {
        name: "namespaces/cgroup",
        what: "a cgroup namespace whose root lies above the group that the process is in: both paths, from inside and from outside",
        covers: &["NamespaceKind.Cgroup"],
        caught: None,
        run: cgroup,
    },
    Cell {
        name: "namespaces/user",
        what: "a user namespace with a child and a thread in it: maps, who made it, ids and capabilities in it, what may be queued in it, and a host name that only it may change",
        covers: &[
            "Namespace.owned_by",
            "NamespaceKind.User",
            "UserNamespace.owner",
            "UserNamespace.uids",
            "UserNamespace.gids",
            "UserNamespace.projects",
            "UserNamespace.setgroups",
            "UserNamespace.limits",
            "Creds.foreign_user_ns",
        ],
        caught: None,
        run: user,
    },
    Cell {
        name: "namespaces/user-without-setgroups",
        what: "a user namespace in which groups cannot be set, with ids that it does not map",
        covers: &["UserNamespace.setgroups"],
        caught: None,
        run: user_without_setgroups,
    },
];

/// `SECBIT_NO_SETUID_FIXUP` (include/uapi/linux/securebits.h).
const NO_SETUID_FIXUP: i64 = 1 << 2;
/// So many signals may be queued in it.
const SIGNALS: u64 = 60;
/// A real-time signal.
const SIGNAL: i32 = 37;

fn names() -> Result<[String; 2]> {
    let read = |name| fs::read_to_string(format!("/proc/sys/kernel/{name}"));
    Ok([read("hostname")?, read("domainname")?])
}

/// A namespace of its own, if that is possible here.
pub(super) fn new(kind: i32) -> Result<()> {
    unshare(kind.into()).map_err(|error| Skip(format!("no namespace: {error:#}")))?;
    Ok(())
}

fn uts(context: &mut Context) -> Result<()> {
    context.need_root()?;
    new(libc::CLONE_NEWUTS)?;
    set_names("inside", "inside.example")?;
    let before = names()?;
    let child = fork(|| {
        context.wait()?;
        for _ in 0..500 {
            if names()?[0] == "changed\n" {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        same("the name in the child", names()?[0].as_str(), "changed\n")
    })?;
    context.failover(|| set_names("mutated", "inside.example"))?;
    same("the names", names()?, before)?;
    set_names("changed", "inside.example")?;
    child.join("child")
}

fn cgroup(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let groups = Path::new("/sys/fs/cgroup");
    if !groups.join("cgroup.procs").exists() {
        return context.skip("no control groups of version 2");
    }
    let root = groups.join("selfcheck-root");
    let own = root.join("own");
    let other = groups.join("selfcheck-other");
    let enter = |group: &Path| -> Result<()> {
        fs::create_dir_all(group)?;
        Ok(fs::write(group.join("cgroup.procs"), std::process::id().to_string())?)
    };
    let seen = |process: &str| Ok::<_, anyhow::Error>(fs::read_to_string(format!("/proc/{process}/cgroup"))?);
    enter(&own)?;
    let pid = std::process::id().to_string();
    let outside = fork(|| {
        context.wait()?;
        same(
            "the group from outside",
            seen(&pid)?.as_str(),
            "0::/selfcheck-root/own\n",
        )
    })?;
    enter(&root)?;
    new(libc::CLONE_NEWCGROUP)?;
    enter(&own)?;
    same("the group", seen("self")?.as_str(), "0::/own\n")?;
    context.failover(|| enter(&other))?;
    same("the group", seen("self")?.as_str(), "0::/own\n")?;
    enter(&other)?;
    same("a group beside", seen("self")?.as_str(), "0::/../selfcheck-other\n")?;
    enter(&own)?;
    outside.join("outside")
}

/// Makes a user namespace as this user and group, in which this process has the ids it had; `more` is mapped as well. What is
/// queued counts for who has made it: each cell is somebody else.
fn user_namespace(maker: i64, more: &str, setgroups: bool) -> Result<()> {
    let map = format!("0 0 1\n{maker} {maker} 1{more}");
    let pid = std::process::id();
    let mapper = fork(|| {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/user"));
        let parent = pid.to_string();
        for _ in 0..5000 {
            if of(&parent)? != of("self")? {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let set = |file: &str, text: &str| fs::write(format!("/proc/{pid}/{file}"), text);
        if !setgroups {
            set("setgroups", "deny")?;
        }
        set("uid_map", &map)?;
        set("gid_map", &map)?;
        Ok(set("projid_map", "3 4 5")?)
    })?;
    let (_, hard) = process::limit(libc::RLIMIT_SIGPENDING)?;
    process::set_limit(libc::RLIMIT_SIGPENDING, SIGNALS, hard)?;
    process::SECUREBITS.set(NO_SETUID_FIXUP)?;
    process::setresgid(-1, maker, -1)?;
    process::setresuid(-1, maker, -1)?;
    new(libc::CLONE_NEWUSER)?;
    mapper.join("who sets the maps")?;
    process::setresgid(-1, 0, -1)?;
    process::setresuid(-1, 0, -1)?;
    process::set_limit(libc::RLIMIT_SIGPENDING, 4 * SIGNALS, hard)
}

/// How many signals can be queued.
fn signals() -> Result<usize> {
    let set = signal::bit(SIGNAL);
    signal::mask(libc::SIG_BLOCK, set)?;
    let info = Info {
        signal: SIGNAL,
        code: -1,
        ..Info::default()
    };
    let pid = std::process::id().into();
    let queued = (0..4 * SIGNALS as usize).take_while(|_| signal::queue(pid, None, info).is_ok());
    let count = queued.count();
    while signal::wait_for(set, Some(0)).0 == 0 {}
    Ok(count)
}

/// What can be seen of the user namespace and of this process's rights in it.
fn state() -> Result<Vec<String>> {
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut seen = Vec::new();
    for file in ["uid_map", "gid_map", "projid_map", "setgroups"] {
        seen.push(format!(
            "{file} {}",
            words(fs::read_to_string(format!("/proc/self/{file}"))?)
        ));
    }
    for field in ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = process::status_field(std::process::id().into(), field)?;
        seen.push(format!("{field} {}", words(value)));
    }
    seen.push(format!("made by {}", owner(&File::open("/proc/self/ns/user")?)?));
    seen.push(format!("{} signals", signals()?));
    Ok(seen)
}

fn user(context: &mut Context) -> Result<()> {
    context.need_root()?;
    user_namespace(8, "\n100 5000 10", true)?;
    new(libc::CLONE_NEWUTS)?;
    set_names("inside", "inside.example")?;
    process::set_groups(&[102, 103])?;
    process::setresgid(0, 104, 105)?;
    process::setresuid(0, 0, 106)?;
    let of_names = names()?;
    let before = state()?;
    ensure!(before.contains(&format!("{SIGNALS} signals")), "{before:?}");
    let child = fork(|| {
        context.wait()?;
        same("the child's user namespace", state()?, before.clone())
    })?;
    let thread = context.partner(|| fs::read_link("/proc/thread-self/ns/user"));
    context.failover(|| process::drop_from_bounding_set(22))?;
    child.join("child")?;
    same("the user namespace", state()?, before)?;
    same(
        "the user namespace of a thread",
        join(thread)??,
        fs::read_link("/proc/self/ns/user")?,
    )?;
    same("the names", names()?, of_names)?;
    // What is its own it may change; the machine it may not.
    set_names("changed", "inside.example")?;
    let set = fs::write("/proc/sys/kernel/ns_last_pid", std::process::id().to_string());
    ensure!(set.is_err(), "it has set the counter of process ids");
    Ok(())
}

fn user_without_setgroups(context: &mut Context) -> Result<()> {
    context.need_root()?;
    process::set_groups(&[4711])?;
    user_namespace(9, "", false)?;
    let before = state()?;
    ensure!(process::set_groups(&[]).is_err(), "groups can be set");
    context.failover(|| process::drop_from_bounding_set(22))?;
    same("the user namespace", state()?, before)?;
    ensure!(process::set_groups(&[]).is_err(), "groups can be set");
    Ok(())
}
