//! Pid namespaces: which number a process has where, and where it has to be born.
//!
//! A namespace comes to be with its first process, which whoever bears it makes in the same call, and goes with it. Everybody else
//! in it is born by one who is in it, or who has entered it for that birth alone. All ids by which the agent knows processes are
//! those of the first namespace, in which it is itself; a call that a process makes is given the numbers that the process sees.

use super::{
    arena::Arena,
    batch::{self, Arg, Batch},
    helper::helped,
    namespaces::{Namespaces, Visited},
    tracee::Tracee,
    world::{Member, World},
    OrRefuse, Refusal, Restored,
};
use crate::{
    boot::pids,
    sys::{self, Tid},
};
use shared_region::context::{Id, NamespaceKind};
use std::fs;

/// The first namespace.
const FIRST: Id = 0;
/// The number of the first process of every namespace.
pub const FIRST_PROCESS: u32 = 1;

fn refuse<T>(why: impl Into<String>) -> Restored<T> {
    Err(Refusal::new("pid namespace", why.into()))
}

/// How a process comes into its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// It is that of the one who bears it.
    Here,
    /// With it the namespace begins.
    First,
    /// It is one inside; this is its first process.
    Within(u32),
}

impl World<'_> {
    /// The innermost namespace of an id.
    fn pid_namespace(&self, id: u32) -> Id {
        self.inner_ids.get(&id).map_or(FIRST, |inner| inner.namespace)
    }

    /// A namespace and those it is in, without the first.
    fn around(&self, namespace: Id) -> Vec<Id> {
        let mut chain = Vec::new();
        let mut at = namespace;
        while at != FIRST && !chain.contains(&at) {
            chain.push(at);
            at = match self.namespaces.get(&at).map(|namespace| &namespace.what) {
                Some(NamespaceKind::Pid { parent, .. }) => *parent,
                _ => FIRST,
            };
        }
        chain
    }

    /// The numbers of an id as `clone3` takes them: from the innermost namespace out.
    pub fn numbers(&self, id: u32) -> Vec<Tid> {
        let inner = self.inner_ids.get(&id).map_or(&[][..], |inner| &inner.numbers);
        inner.iter().chain([&id]).map(|&number| number as Tid).collect()
    }

    /// The number of an id in a namespace, if it has one there.
    fn number_in(&self, id: u32, namespace: Id) -> Option<u32> {
        let Some(inner) = self.inner_ids.get(&id).filter(|_| namespace != FIRST) else {
            return (namespace == FIRST).then_some(id);
        };
        let chain = self.around(inner.namespace);
        let at = chain.iter().position(|&other| other == namespace)?;
        inner.numbers.get(at).copied()
    }

    /// The number by which one process sees an id, if it sees it.
    pub fn seen_by(&self, reader: u32, id: u32) -> Option<u32> {
        self.number_in(id, self.pid_namespace(reader))
    }

    /// The number that a process or thread sees as its own.
    pub fn own_number(&self, id: u32) -> u32 {
        self.inner_ids
            .get(&id)
            .and_then(|inner| inner.numbers.first().copied())
            .unwrap_or(id)
    }

    /// Whether a process is the first of a namespace.
    fn is_first(&self, id: u32) -> bool {
        let inner = self.inner_ids.get(&id);
        inner.is_some_and(|inner| inner.numbers.first() == Some(&FIRST_PROCESS))
    }

    /// The first process of a namespace, if it is known.
    pub fn first_of(&self, namespace: Id) -> Option<u32> {
        let is_it = |id: &&u32| self.pid_namespace(**id) == namespace && self.is_first(**id);
        self.inner_ids.keys().find(is_it).copied()
    }

    /// The processes that end with this one: all in the namespace of which it is the first.
    pub fn dependents(&self, id: u32) -> Vec<u32> {
        if !self.is_first(id) {
            return Vec::new();
        }
        let namespace = self.pid_namespace(id);
        let is_inside = |other: &u32| self.around(self.pid_namespace(*other)).contains(&namespace);
        let all = self.processes.keys().copied().filter(|other| *other != id);
        all.filter(is_inside).collect()
    }

    /// In which order processes are to be killed: the first of a namespace waits for all others in it.
    pub fn order_of_death(&self, id: u32) -> (bool, std::cmp::Reverse<usize>) {
        let depth = self.inner_ids.get(&id).map_or(0, |inner| inner.numbers.len());
        (self.is_first(id), std::cmp::Reverse(depth))
    }

    /// How a process comes into its namespace if this one bears it; 0 is the agent.
    pub fn birth(&self, id: u32, bearer: u32) -> Restored<Birth> {
        let (own, around) = (self.pid_namespace(id), self.pid_namespace(bearer));
        if own == around {
            return Ok(Birth::Here);
        }
        let chain = self.around(own);
        if around != FIRST && !chain.contains(&around) {
            return refuse("who bears it is in another");
        }
        let parent = chain.get(1).copied().unwrap_or(FIRST);
        match (self.is_first(id), self.first_of(own)) {
            (true, _) if parent == around => Ok(Birth::First),
            (false, Some(first)) => Ok(Birth::Within(first)),
            _ => refuse("its first process is not there"),
        }
    }

    /// Whether somebody is to be born in a namespace by one who is not in it.
    pub fn enters(&self, id: u32, parent: Option<u32>) -> bool {
        matches!(self.birth(id, parent.unwrap_or(0)), Ok(Birth::Within(_)))
    }

    /// The namespace that children of a process are born in, if that is not its own.
    fn for_children(&self, id: u32) -> Restored<Option<Id>> {
        let own = self.pid_namespace(id);
        let of_children = self.namespace_of(id, |namespace| matches!(namespace.what, NamespaceKind::Pid { .. }))?;
        Ok(of_children.filter(|&other| other != own))
    }
}

/// What cannot be restored is found before anything is built.
pub fn check(world: &World<'_>, member: &Member) -> Restored<()> {
    let id = member.record.tgid;
    let threads = member.threads.len();
    let confined = member.threads.iter().any(|thread| thread.creds.foreign_user_ns);
    let for_children = world.for_children(id)?;
    if threads > 1 && confined && world.pid_namespace(id) != FIRST {
        return refuse("with threads in a user namespace");
    }
    if for_children.is_some() && (threads > 1 || confined) {
        return refuse("its children are born in another, and it has threads or is in a user namespace");
    }
    let inside = [Some(world.pid_namespace(id)), for_children];
    for namespace in inside.into_iter().flatten().filter(|&namespace| namespace != FIRST) {
        let first = world
            .first_of(namespace)
            .filter(|first| world.processes.contains_key(first));
        if first.is_none() {
            return refuse("its first process is not restored");
        }
    }
    Ok(())
}

/// Lets children of a process be born in the namespace of a process that it sees under this number.
pub fn enter(arena: &mut Arena, tracee: &Tracee, number: u32) -> Restored<()> {
    let what = || "pid namespace";
    let arguments = |_| [number.into(), 0, 0, 0, 0, 0];
    let (opened, _) = batch::query(arena, tracee, libc::SYS_pidfd_open, arguments, &[])?;
    if opened < 0 {
        let error = std::io::Error::from_raw_os_error(-opened as i32);
        return Err(Refusal::new(what(), format!("process {number} in it: {error}")));
    }
    let fd = Arg::from(opened as u64);
    let mut batch = Batch::new(arena, tracee);
    batch.call(what(), libc::SYS_setns, [fd, libc::CLONE_NEWPID.into()])?;
    batch.call(what(), libc::SYS_close, [fd])?;
    batch.finish()
}

/// As it was: children of a process are born where it says.
pub fn settle(arena: &mut Arena, tracee: &Tracee, world: &World<'_>, id: u32) -> Restored<()> {
    let Some(namespace) = world.for_children(id)? else {
        return Ok(());
    };
    let first = world.first_of(namespace).and_then(|first| world.seen_by(id, first));
    match first {
        Some(number) => enter(arena, tracee, number),
        None => refuse("its children's is not inside of its own"),
    }
}

/// Lets the numbers that the kernel chooses in a new namespace be none that is wanted. `first` is its first process.
pub fn keep_free(namespaces: &Namespaces, world: &World<'_>, first: u32) -> Restored<()> {
    let namespace = world.pid_namespace(first);
    let in_it = |&id: &u32| world.number_in(id, namespace);
    let highest = world.inner_ids.keys().filter_map(in_it).max().unwrap_or(FIRST_PROCESS);
    let set = || pids::set_last(highest).or_refuse(|| pids::LAST);
    inside(namespaces, first, "pid namespace", set)
}

/// Lets a helper in the namespace of a process do something.
pub fn inside(namespaces: &Namespaces, first: u32, what: &str, act: impl FnOnce() -> Restored<()>) -> Restored<()> {
    let path = format!("/proc/{first}/ns/pid");
    let entrance = fs::File::open(&path).or_refuse(|| path)?;
    namespaces.inside_of(Visited::Processes, &entrance, || helped(what, act, |_| Ok(())))
}

/// Sets which number was given last in each namespace that is there, when nobody is born any more.
pub fn complete(world: &World<'_>, namespaces: &Namespaces, is_built: impl Fn(u32) -> bool) -> Vec<Refusal> {
    let complete = |(&id, namespace): (&Id, _)| {
        let &NamespaceKind::Pid { last, .. } = namespace else {
            return None;
        };
        let first = world.first_of(id).filter(|&first| is_built(first))?;
        let set = || pids::set_last(last).or_refuse(|| pids::LAST);
        inside(namespaces, first, "pid namespace", set).err()
    };
    let all = world.namespaces.iter().map(|(id, namespace)| (id, &namespace.what));
    all.filter_map(complete).collect()
}

/// The number by which one living process sees another; both by their ids in the agent's namespace.
pub fn seen_now(reader: Tid, id: Tid) -> Restored<Tid> {
    let numbers = |id: Tid| -> Restored<Vec<Tid>> {
        let path = format!("/proc/{id}/status");
        let text = fs::read_to_string(&path).or_refuse(|| path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
        Ok(line
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect())
    };
    let depth = numbers(reader)?.len();
    let number = depth.checked_sub(1).and_then(|at| numbers(id).ok()?.get(at).copied());
    number.map_or_else(|| refuse(format!("process {reader} does not see {id}")), Ok)
}

/// The process group that a process is in, by its id in the agent's namespace.
pub fn group_of(id: u32) -> Restored<u32> {
    sys::group_of(id as Tid)
        .map(|group| group as u32)
        .or_refuse(|| "process group")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::context::{InnerIds, Namespace, Process};

    /// Namespace 7 with processes 2002 (1 in it) and 2003 (5), and 8 in it with 2004 (1 in it, 9 in 7); 2001 is outside.
    fn world() -> World<'static> {
        let mut world = World::default();
        for (id, parent) in [(7, 0), (8, 7)] {
            let what = NamespaceKind::Pid { parent, last: 30 };
            world.namespaces.insert(id, Namespace { owned_by: 0, what });
        }
        let ids: [(u32, Id, &[u32]); 3] = [(2002, 7, &[1]), (2003, 7, &[5]), (2004, 8, &[1, 9])];
        for (id, namespace, numbers) in ids {
            let numbers = numbers.to_vec();
            world.inner_ids.insert(id, InnerIds { namespace, numbers });
        }
        for tgid in 2001..=2004 {
            let member = world.processes.entry(tgid).or_default();
            member.record = Process {
                tgid,
                ..Process::default()
            };
        }
        world
    }

    #[test]
    fn a_process_has_a_number_in_its_namespace_and_those_around() {
        let world = world();
        assert_eq!(world.numbers(2004), [1, 9, 2004]);
        assert_eq!(world.numbers(2001), [2001]);
        assert_eq!(world.seen_by(2003, 2004), Some(9));
        assert_eq!(world.seen_by(2001, 2004), Some(2004));
        assert_eq!(world.seen_by(2004, 2003), None);
        assert_eq!(world.seen_by(2003, 2001), None);
        assert_eq!([2001, 2003, 2004].map(|id| world.own_number(id)), [2001, 5, 1]);
    }

    #[test]
    fn a_namespace_begins_with_its_first_process() {
        let world = world();
        assert_eq!(world.birth(2001, 0).unwrap(), Birth::Here);
        assert_eq!(world.birth(2002, 2001).unwrap(), Birth::First);
        assert_eq!(world.birth(2002, 0).unwrap(), Birth::First);
        assert_eq!(world.birth(2003, 2002).unwrap(), Birth::Here);
        assert_eq!(world.birth(2003, 2001).unwrap(), Birth::Within(2002));
        assert_eq!(world.birth(2004, 2003).unwrap(), Birth::First);
        // Only one who is in the namespace around can begin it.
        assert!(world.birth(2004, 2001).is_err());
        // Nobody comes out of one.
        assert!(world.birth(2001, 2002).is_err());
    }

    #[test]
    fn all_go_with_the_first_and_before_it() {
        let world = world();
        assert_eq!(world.dependents(2002), [2003, 2004]);
        assert!(world.dependents(2003).is_empty() && world.dependents(2001).is_empty());
        let mut ids = [2002, 2004, 2003];
        ids.sort_by_key(|&id| world.order_of_death(id));
        assert_eq!(ids, [2003, 2004, 2002]);
    }

    #[test]
    fn without_its_first_process_nobody_is_in_one() {
        let mut world = world();
        assert!(check(&world, &world.processes[&2003]).is_ok());
        world.processes.remove(&2002);
        let words = check(&world, &world.processes[&2003]).unwrap_err().to_string();
        assert!(words.contains("its first process is not restored"), "{words}");
        assert!(check(&world, &world.processes[&2001]).is_ok());
    }

    #[test]
    fn a_circle_of_namespaces_ends() {
        let mut world = world();
        let what = NamespaceKind::Pid { parent: 8, last: 30 };
        world.namespaces.insert(7, Namespace { owned_by: 0, what });
        assert_eq!(world.around(8), [8, 7]);
    }
}
