//! UTS, IPC, network, cgroup and user namespaces of processes; those of pids are [`super::pid_namespaces`].
//!
//! A helper of the agent makes each, and the agent keeps a descriptor of it. What is in one of IPC the agent makes itself, for
//! which it enters it for a moment: all of it is there, or none of the processes in it is right. It does the same in networks, for
//! their settings, their links, and every socket. Processes enter those of UTS, IPC, networks and control groups when they are born. A user
//! namespace takes the rights away by which a process is built, so one is entered as late as that can be: when the process has its
//! memory, its places and its ids, and one thread still.

use super::{
    attached,
    batch::Batch,
    creds,
    helper::helped,
    high::High,
    host::Host,
    mount_namespaces::is_same,
    private_network, process, sysv_ipc,
    world::{Member, World},
    OrRefuse, Refusal, Restored,
};
use crate::sys::{self, Tid};
use crate::takeover::netlink::Netlink;
use rustix::fs::{fstat, open, stat, Mode, OFlags};
use shared_region::context::{Id, Namespace, NamespaceKind, UserNamespace};
use std::{cell::Cell, collections::BTreeMap, fmt::Write as _, fs, os::fd::AsFd};

/// Limits of all processes in a user namespace, as they stand in [`UserNamespace::limits`].
const LIMITS: [u32; 4] = [
    libc::RLIMIT_NPROC,
    libc::RLIMIT_MSGQUEUE,
    libc::RLIMIT_SIGPENDING,
    libc::RLIMIT_MEMLOCK,
];

/// The largest of them.
const UNLIMITED: u64 = i64::MAX as u64;

/// All that processes need.
#[derive(Debug, Default)]
pub struct Namespaces {
    made: BTreeMap<Id, Restored<High>>,
    first: Option<First>,
    /// The agent has not come back from one: what it made now would be in the wrong one.
    astray: Cell<bool>,
}

/// The agent's own namespaces, which are the first process's.
#[derive(Debug)]
struct First {
    uts: High,
    ipc: High,
    net: High,
    pid: High,
    cgroup: High,
}

/// Namespaces that the agent enters for a moment.
#[derive(Clone, Copy, Debug)]
pub enum Visited {
    /// System V objects and POSIX message queues.
    Ipc,
    /// Networks.
    Network,
    /// Numbers of processes: children are born there.
    Processes,
}

impl Visited {
    fn flag(self) -> i32 {
        match self {
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Network => libc::CLONE_NEWNET,
            Self::Processes => libc::CLONE_NEWPID,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ipc => "IPC namespace",
            Self::Network => "network namespace",
            Self::Processes => "pid namespace",
        }
    }
}

impl Namespaces {
    /// Makes all of them. Who needs one that fails is refused later.
    pub fn make(world: &World<'_>, host: &dyn Host, base: u32) -> Restored<Self> {
        let mut all = Self::default();
        if world.namespaces.is_empty() {
            return Ok(all);
        }
        all.first = Some(First {
            uts: entrance("self", "uts", base)?,
            ipc: entrance("self", "ipc", base)?,
            net: entrance("self", "net", base)?,
            pid: entrance("self", "pid", base)?,
            cgroup: entrance("self", "cgroup", base)?,
        });
        let is_user = |namespace: &Namespace| matches!(namespace.what, NamespaceKind::User(_));
        // What belongs to a user namespace is made in it.
        let (users, others): (Vec<_>, Vec<_>) = world
            .namespaces
            .iter()
            // Those begin with their first processes.
            .filter(|(_, record)| !matches!(record.what, NamespaceKind::Pid { .. }))
            .partition(|(_, record)| is_user(record));
        for (&id, record) in users.into_iter().chain(others) {
            let made = all.make_one(record, base);
            let made = made.and_then(|made| all.fill(world, host, (id, record), made));
            all.made.insert(id, made);
        }
        Ok(all)
    }

    /// Sets what is set in a namespace of IPC, and makes its System V objects; sets up a network.
    fn fill(&self, world: &World<'_>, host: &dyn Host, (id, record): (Id, &Namespace), made: High) -> Restored<High> {
        match &record.what {
            NamespaceKind::Ipc { settings } => self.inside_of(Visited::Ipc, &made, || {
                settings.iter().try_for_each(|(name, value)| set(name, value))?;
                let failed = world.ipc_of.get(&id).map(|ipc| sysv_ipc::make(ipc, world, host));
                match failed.unwrap_or_default().into_iter().next() {
                    Some(remark) => Err(Refusal::new("IPC namespace", remark)),
                    None => Ok(()),
                }
            })?,
            NamespaceKind::Network(network) => {
                let more = world.inside.get(&id);
                let first = Netlink::open().or_refuse(|| "the machine's network")?;
                let inside = (&first, made.as_fd());
                self.inside_of(Visited::Network, &made, || {
                    private_network::set_up(network, more, inside)
                })?;
            }
            NamespaceKind::Uts { .. }
            | NamespaceKind::User(_)
            | NamespaceKind::Pid { .. }
            | NamespaceKind::Cgroup { .. } => {}
        }
        Ok(made)
    }

    /// Does something in a namespace.
    pub fn inside_of<T>(&self, kind: Visited, entrance: impl AsFd, act: impl FnOnce() -> Restored<T>) -> Restored<T> {
        let what = || kind.name();
        let first = match (&self.first, kind) {
            (Some(first), Visited::Ipc) => &first.ipc,
            (Some(first), Visited::Network) => &first.net,
            (Some(first), Visited::Processes) => &first.pid,
            (None, _) => return Err(Refusal::new(what(), "there is none to come back to")),
        };
        sys::enter_namespace(entrance, kind.flag()).or_refuse(what)?;
        let done = act();
        let back = sys::enter_namespace(first, kind.flag());
        self.astray.set(self.astray.get() || back.is_err());
        back.or_refuse(what)?;
        done
    }

    /// Does something in a namespace, or where the agent is.
    pub fn inside<T>(&self, kind: Visited, namespace: Option<&Id>, act: impl FnOnce() -> Restored<T>) -> Restored<T> {
        match namespace {
            _ if self.astray.get() => Err(Refusal::new(kind.name(), "the agent has not come back from one")),
            Some(&id) => self.inside_of(kind, self.get(id)?, act),
            None => act(),
        }
    }

    /// Does something in the network that a socket is of.
    pub fn in_network_of<T>(&self, world: &World<'_>, socket: Id, act: impl FnOnce() -> Restored<T>) -> Restored<T> {
        self.inside(Visited::Network, world.network_of.get(&socket), act)
    }

    /// Refuses all that are in a namespace, of which something could not be made.
    pub fn give_up(&mut self, namespace: Id, refusal: Refusal) {
        self.made.insert(namespace, Err(refusal));
    }

    /// Lets this process enter an IPC namespace, to stay.
    pub fn enter_ipc(&self, namespace: Id) -> Restored<()> {
        sys::enter_namespace(self.get(namespace)?, libc::CLONE_NEWIPC).or_refuse(|| "IPC namespace")
    }

    /// What is left to do in IPC namespaces when every process has attached its segments.
    pub fn complete(&self, world: &World<'_>) {
        for (id, ipc) in &world.ipc_of {
            let completed = self.inside(Visited::Ipc, Some(id), || {
                sysv_ipc::complete(ipc);
                Ok(())
            });
            if let Err(refusal) = completed {
                crate::boot::log::warning(format_args!("{refusal}"));
            }
        }
    }

    fn make_one(&self, record: &Namespace, base: u32) -> Restored<High> {
        let owner = match record.owned_by {
            0 => None,
            id => Some(self.get(id)?),
        };
        match &record.what {
            NamespaceKind::User(_) if owner.is_some() => Err(Refusal::new("user namespace", "it is in another one")),
            NamespaceKind::User(user) => helped(
                "user namespace",
                || unshare_ids(user),
                |helper| {
                    map_ids(helper, user)?;
                    entrance(&helper.to_string(), "user", base)
                },
            ),
            NamespaceKind::Ipc { .. } => helped(
                "IPC namespace",
                || unshare_in(owner, libc::CLONE_NEWIPC),
                |helper| entrance(&helper.to_string(), "ipc", base),
            ),
            NamespaceKind::Network(_) => helped(
                Visited::Network.name(),
                || unshare_in(owner, libc::CLONE_NEWNET),
                |helper| entrance(&helper.to_string(), "net", base),
            ),
            NamespaceKind::Cgroup { root } => helped(
                "cgroup namespace",
                || {
                    // Where one is when it is made is its root.
                    process::enter_cgroup(std::process::id(), root).or_refuse(|| "its root")?;
                    unshare_in(owner, libc::CLONE_NEWCGROUP)
                },
                |helper| entrance(&helper.to_string(), "cgroup", base),
            ),
            NamespaceKind::Pid { .. } => Err(Refusal::new("pid namespace", "it begins with its first process")),
            NamespaceKind::Uts { host, domain } => helped(
                "UTS namespace",
                || {
                    unshare_in(owner, libc::CLONE_NEWUTS)?;
                    sys::set_machine_names(host, domain).or_refuse(|| "its names")
                },
                |helper| entrance(&helper.to_string(), "uts", base),
            ),
        }
    }

    fn get(&self, id: Id) -> Restored<&High> {
        match self.made.get(&id) {
            Some(Ok(made)) => Ok(made),
            Some(Err(refusal)) => Err(refusal.clone()),
            None => Err(Refusal::new("namespace", "there is no record of it")),
        }
    }

    /// Lets a process that has one thread enter the UTS, IPC, network and cgroup namespaces it belongs to, if it was born in others.
    pub fn enter_first(&self, world: &World<'_>, batch: &mut Batch<'_>, id: u32, tid: Tid) -> Restored<()> {
        let Some(first) = &self.first else {
            return Ok(());
        };
        let kinds: [(IsOfKind, &High, &str, i32); 4] = [
            (is_uts, &first.uts, "uts", libc::CLONE_NEWUTS),
            (is_ipc, &first.ipc, "ipc", libc::CLONE_NEWIPC),
            (is_network, &first.net, "net", libc::CLONE_NEWNET),
            (is_cgroup, &first.cgroup, "cgroup", libc::CLONE_NEWCGROUP),
        ];
        for (is_of_kind, first, name, flag) in kinds {
            let entrance = world
                .namespace_of(id, is_of_kind)?
                .map_or(Ok(first), |id| self.get(id))?;
            enter(batch, entrance, tid, name, flag)?;
        }
        Ok(())
    }

    /// Gives a process that has one thread its places and its ids, and lets it enter its user namespace, if it is in one. Tells
    /// whether it is.
    pub fn enter_user(&self, world: &World<'_>, batch: &mut Batch<'_>, member: &Member, tid: Tid) -> Restored<bool> {
        let Some(namespace) = user_namespace(world, member)? else {
            return Ok(false);
        };
        let first = member
            .threads
            .first()
            .ok_or_else(|| Refusal::new("threads", "there is none"))?;
        process::places(batch, member)?;
        creds::ids(batch, &first.creds)?;
        enter(batch, self.get(namespace)?, tid, "user", libc::CLONE_NEWUSER)?;
        Ok(true)
    }
}

/// The user namespace that a process is in, if it is not the first.
pub fn user_namespace(world: &World<'_>, member: &Member) -> Restored<Option<Id>> {
    let of_user = |namespace: &Namespace| matches!(namespace.what, NamespaceKind::User(_));
    world.namespace_of(member.record.tgid, of_user)
}

type IsOfKind = fn(&Namespace) -> bool;

fn is_uts(namespace: &Namespace) -> bool {
    matches!(namespace.what, NamespaceKind::Uts { .. })
}

fn is_network(namespace: &Namespace) -> bool {
    matches!(namespace.what, NamespaceKind::Network(_))
}

fn is_cgroup(namespace: &Namespace) -> bool {
    matches!(namespace.what, NamespaceKind::Cgroup { .. })
}

fn is_ipc(namespace: &Namespace) -> bool {
    matches!(namespace.what, NamespaceKind::Ipc { .. })
}

/// A segment is attached by its id, which is one of the namespace that the process is in.
fn check_attached(world: &World<'_>, member: &Member) -> Restored<()> {
    let own = match world.namespace_of(member.record.tgid, is_ipc)? {
        Some(namespace) => world.ipc_of.get(&namespace),
        None => Some(&world.ipc),
    };
    let own = own.map_or(&[][..], |ipc| &ipc.segments);
    let mappings = world
        .spaces
        .get(&member.record.mm)
        .map_or(&[][..], |space| &space.mappings);
    let mut attached = mappings.iter().filter_map(|mapping| attached::segment(mapping, world));
    match attached.all(|segment| own.contains(segment)) {
        true => Ok(()),
        false => Err(Refusal::new(
            "System V shared memory",
            "it is of an IPC namespace that the process is not in",
        )),
    }
}

/// What cannot be restored is found before anything is built.
pub fn check(world: &World<'_>, member: &Member) -> Restored<()> {
    check_attached(world, member)?;
    let refuse = |why| Err(Refusal::new("user namespace", why));
    let is_in_one = user_namespace(world, member)?.is_some();
    if member
        .threads
        .iter()
        .any(|thread| thread.creds.foreign_user_ns != is_in_one)
    {
        return refuse("its records contradict each other");
    }
    // Ids are set outside of it, before there are further threads.
    let ids = |index: usize| member.threads.get(index).map(|thread| creds::all_ids(&thread.creds));
    match is_in_one && (1..member.threads.len()).any(|index| ids(index) != ids(0)) {
        true => refuse("one thread has other ids than the first"),
        false => Ok(()),
    }
}

/// Gives this process a new namespace, which belongs to a user namespace.
fn unshare_in(owner: Option<&High>, kind: i32) -> Restored<()> {
    if let Some(owner) = owner {
        sys::enter_namespace(owner, libc::CLONE_NEWUSER).or_refuse(|| "its user namespace")?;
    }
    sys::unshare(kind).or_refuse(|| "a new one")
}

/// Sets a limit of the namespace this process is in, if it is another.
fn set(name: &[u8], value: &[u8]) -> Restored<()> {
    let path = format!("/proc/sys/{}", String::from_utf8_lossy(name));
    let what = || path.clone();
    if fs::read(&path).or_refuse(what)?.trim_ascii() != value {
        fs::write(&path, value).or_refuse(what)?;
    }
    Ok(())
}

fn entrance(process: &str, name: &str, base: u32) -> Restored<High> {
    let path = format!("/proc/{process}/ns/{name}");
    let fd = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).or_refuse(|| path)?;
    High::raise(fd, base)
}

fn enter(batch: &mut Batch<'_>, entrance: &High, tid: Tid, name: &str, kind: i32) -> Restored<()> {
    let what = || format!("{name} namespace");
    let is = stat(format!("/proc/{tid}/ns/{name}")).or_refuse(what)?;
    if is_same(&fstat(entrance).or_refuse(what)?, &is) {
        return Ok(());
    }
    batch.call(what(), libc::SYS_setns, [entrance.number().into(), kind.into()])
}

/// Makes this process one in a user namespace without ids yet, as its owner had done it.
fn unshare_ids(record: &UserNamespace) -> Restored<()> {
    for (&resource, &limit) in LIMITS.iter().zip(&record.limits) {
        let what = || format!("limit {resource}");
        let (soft, hard) = sys::limit(resource).or_refuse(what)?;
        if soft.min(UNLIMITED) != limit {
            sys::set_limit(0, resource, limit, limit.max(hard)).or_refuse(what)?;
        }
    }
    sys::change_ids(record.owner.0, record.owner.1).or_refuse(|| "its owner")?;
    sys::unshare(libc::CLONE_NEWUSER).or_refuse(|| "a new one")
}

/// Sets the ids of a user namespace from outside of it, where any can be given.
fn map_ids(helper: Tid, record: &UserNamespace) -> Restored<()> {
    let set = |file: &str, text: &str| {
        fs::write(format!("/proc/{helper}/{file}"), text).or_refuse(|| format!("{file} of the user namespace"))
    };
    if !record.setgroups {
        set("setgroups", "deny")?;
    }
    let maps = [
        ("uid_map", &record.uids),
        ("gid_map", &record.gids),
        ("projid_map", &record.projects),
    ];
    for (file, map) in maps.into_iter().filter(|(_, map)| !map.is_empty()) {
        set(file, &map_text(map))?;
    }
    Ok(())
}

/// As `uid_map` takes it, all in one write.
fn map_text(map: &[(u32, u32, u32)]) -> String {
    map.iter().fold(String::new(), |mut text, (inside, outside, count)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
        text
    })
}
