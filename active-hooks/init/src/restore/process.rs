//! A process under construction, and what belongs to it as a whole.

use super::{
    arena::Arena,
    batch::{Arg, Batch},
    clock::Elapsed,
    creds, descriptors, file_locks,
    host::Host,
    library,
    meter::{self, Part},
    namespaces, pid_namespaces,
    process_files::ProcessFiles,
    signals, threads, timers,
    tracee::Tracee,
    world::{Member, World},
    OrRefuse, Refusal, Restored,
};
use crate::sys;
use shared_region::{context::FileTable, control::FREEZER_CGROUP, device::TaskState};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};
use zerocopy::IntoBytes;

const PR_SET_DUMPABLE: u64 = 4;
const PR_SET_CHILD_SUBREAPER: u64 = 36;

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that has its memory and threads but does not run.
#[derive(Debug)]
pub struct Built {
    /// Its threads, the leader first, in the order of the records.
    pub threads: Vec<Tracee>,
    /// The session it is in now.
    pub session: u32,
    /// Frames that became its memory in place.
    pub adopted: u64,
    /// Frames whose contents were copied for it.
    pub copied: u64,
    /// Whether it runs before all its frames are its memory.
    pub lazy: bool,
    /// Addresses of pages that it has before the rest of its memory is adopted.
    pub has: BTreeSet<u64>,
    /// What it has to do without.
    pub remarks: Vec<String>,
    /// Whether a child that could not be restored was left to it as dead.
    pub bereaved: bool,
    /// What is to be run in it before it goes on.
    pub library: Option<library::Plan>,
}

impl Built {
    /// A process of which there is only the leader yet.
    pub fn new(leader: Tracee, session: u32) -> Self {
        Self {
            threads: vec![leader],
            session,
            adopted: 0,
            copied: 0,
            lazy: false,
            has: BTreeSet::new(),
            remarks: Vec::new(),
            bereaved: false,
            library: None,
        }
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.threads.first().map(|leader| leader.tid() as u32)
    }

    /// The leader.
    pub fn leader(&self) -> Restored<&Tracee> {
        self.threads.first().ok_or_else(|| Refusal::new("leader", "it is gone"))
    }

    /// Kills the process and waits until it is gone.
    pub fn kill(mut self) {
        self.kill_threads();
    }

    /// As [`Self::kill`]; what is known of the process stays.
    pub fn kill_threads(&mut self) {
        let Some(pid) = self.threads.first().map(Tracee::tid) else {
            return;
        };
        // It may be gone already: then there is nothing to do.
        let _ = sys::kill(pid, libc::SIGKILL);
        let deadline = Instant::now() + PATIENCE;
        for thread in self.threads.drain(..).rev() {
            while let Ok(stop) = sys::wait(thread.tid(), deadline) {
                if matches!(stop, sys::Stop::Exited(_)) {
                    break;
                }
            }
        }
    }
}

/// What cannot be restored is found before anything is built.
pub fn check(member: &Member, world: &World<'_>) -> Restored<()> {
    let process = &member.record;
    if process.zombie {
        return Ok(());
    }
    if member.threads.first().map(|thread| thread.tid) != Some(process.tgid) {
        return Err(Refusal::new("threads", "there is no record of the first one"));
    }
    for (id, what) in [(process.mm, "address space"), (process.files, "file table")] {
        let known = match what {
            "address space" => world.spaces.contains_key(&id),
            _ => world.tables.contains_key(&id),
        };
        if !known {
            return Err(Refusal::new(what, "there is no record of it"));
        }
    }
    world.read_from_swap(process.mm)?;
    let shares = |other: &Member| {
        let theirs = &other.record;
        if theirs.tgid == process.tgid || theirs.zombie {
            return None;
        }
        [
            (theirs.mm == process.mm, "address space"),
            (theirs.files == process.files, "file table"),
            (theirs.fs == process.fs && process.fs != 0, "working directory"),
            (
                theirs.sighand == process.sighand && process.sighand != 0,
                "signal handlers",
            ),
        ]
        .into_iter()
        .find_map(|(same, what)| same.then_some((what, theirs.tgid)))
    };
    if let Some((what, other)) = world.processes.values().find_map(shares) {
        return Err(Refusal::new(what, format!("shared with process {other}")));
    }
    namespaces::check(world, member)?;
    pid_namespaces::check(world, member)?;
    signals::check(process, &member.threads)?;
    member.threads.iter().try_for_each(threads::check)
}

/// What the finishing needs to know beyond the process.
pub struct Finish<'a> {
    /// The records.
    pub world: &'a World<'a>,
    /// The holder of frames.
    pub host: &'a dyn Host,
    /// Time since the dead kernel's last instant.
    pub elapsed: &'a Elapsed,
    /// Offsets of the clocks in this time namespace.
    pub offsets: threads::ClockOffsets,
    /// What the agent may do.
    pub own: creds::Own,
    /// Open files that belong to processes.
    pub process_files: &'a ProcessFiles,
}

/// Gives a process everything that is left but its own instructions: after this it needs only to be released. `sections` are
/// the restartable sequences that its threads were in ([`threads::rseq_section`]).
pub fn finish(
    arena: &mut Arena,
    built: &mut Built,
    member: &Member,
    context: &Finish<'_>,
    sections: &[Option<u64>],
    done: &mut descriptors::Done,
) -> Restored<()> {
    let process = &member.record;
    let space = context
        .world
        .spaces
        .get(&process.mm)
        .ok_or_else(|| Refusal::new("address space", "there is no record of it"))?;
    let empty = FileTable::default();
    let table = context.world.tables.get(&process.files).unwrap_or(&empty);
    for (tracee, thread) in built.threads.iter().zip(&member.threads).rev() {
        if thread.seccomp.mode != 0 {
            tracee.suspend_seccomp()?;
        }
        let leads = thread.tid == process.tgid;
        let mut batch = Batch::new(arena, tracee);
        if leads {
            signals::actions(&mut batch, process)?;
            if !built.bereaved {
                signals::drop_strays(&mut batch)?;
            }
        }
        threads::registrations(&mut batch, thread)?;
        threads::attributes(&mut batch, thread)?;
        if leads {
            // One in a user namespace has them: it got them before it entered that.
            if !thread.creds.foreign_user_ns {
                places(&mut batch, member)?;
            }
            context
                .process_files
                .place(&mut batch, process.tgid, table, context.world)?;
            batch.finish()?;
            timers::posix_timers(arena, tracee, process, context)?;
            pid_namespaces::settle(arena, tracee, context.world, process.tgid)?;
            batch = Batch::new(arena, tracee);
            timers::interval_timers(&mut batch, process, context.elapsed)?;
            signals::queue_for_process(&mut batch, process, context.world)?;
        }
        signals::queue_for_thread(&mut batch, thread, context.world)?;
        threads::restrict(&mut batch, thread, context.own)?;
        if leads {
            descriptors::owners(&mut batch, process.tgid, table, context.world, done)?;
            file_locks::lock(&mut batch, process.files, table, context.world, done)?;
            dumpable(&mut batch, space.record.dumpable)?;
        }
        batch.finish()?;
    }
    built.remarks.extend(meter::at(Part::Outside, || from_outside(member)));
    let led = context.world.processes.contains_key(&process.sid);
    if !process.tty.is_empty() && !led {
        built
            .remarks
            .push("its controlling terminal: the leader of its session is gone".into());
    }
    last_calls(arena, built.leader()?, member)?;
    for ((tracee, thread), section) in built.threads.iter().zip(&member.threads).zip(sections) {
        meter::at(Part::Registers, || {
            threads::settle(tracee, thread, *section, context.offsets, context.host)
        })?;
        // The kernel counts without the namespace; what started before this kernel did started at a negative time.
        let times = TaskState {
            tid: thread.tid.into(),
            start_boottime: process.start_time.wrapping_add_signed(-context.offsets.1),
            utime: thread.utime,
            stime: thread.stime,
            login: u64::from(thread.login.0) | u64::from(thread.login.1) << 32,
        };
        if let Err(refusal) = context.host.set_times(times) {
            built.remarks.push(refusal.to_string());
        }
    }
    built.library = library::plan(space, member, context.world, sections, &mut built.remarks)?;
    if process.stopped_by != 0 {
        sys::kill(process.tgid as sys::Tid, libc::SIGSTOP).or_refuse(|| "stopped state")?;
    }
    if built.lazy {
        // From here on its mappings stay as they are.
        context.host.hold(process.tgid)?;
    }
    Ok(())
}

/// Root, working directory, mask for new files, subreaper.
pub fn places(batch: &mut Batch<'_>, member: &Member) -> Restored<()> {
    let process = &member.record;
    let path = |bytes: &[u8]| [bytes, &[0]].concat();
    let cwd = path(&process.cwd);
    batch.call(
        format!("working directory {}", String::from_utf8_lossy(&process.cwd)),
        libc::SYS_chdir,
        [Arg::Bytes(&cwd)],
    )?;
    if !process.root.is_empty() && process.root != b"/" {
        let root = path(&process.root);
        batch.call(
            format!("root directory {}", String::from_utf8_lossy(&process.root)),
            libc::SYS_chroot,
            [Arg::Bytes(&root)],
        )?;
    }
    batch.call("umask", libc::SYS_umask, [process.umask.into()])?;
    let reaper = u64::from(process.child_subreaper);
    batch.call(
        "subreaper",
        libc::SYS_prctl,
        [PR_SET_CHILD_SUBREAPER.into(), reaper.into()],
    )
}

fn dumpable(batch: &mut Batch<'_>, dumpable: u32) -> Restored<()> {
    // 2 ("only root reads the core") cannot be asked for; 0 restricts more.
    let value = if dumpable == 1 { 1u64 } else { 0 };
    batch.call("dumpable", libc::SYS_prctl, [PR_SET_DUMPABLE.into(), value.into()])
}

/// What the agent sets from outside. Returns what could not be set and does no harm.
fn from_outside(member: &Member) -> Vec<String> {
    let process = &member.record;
    let pid = process.tgid;
    let mut remarks = Vec::new();
    let mut remark = |what: &str, result: std::io::Result<()>| {
        if let Err(error) = result {
            remarks.push(format!("{what}: {error}"));
        }
    };
    let proc = |file: &str, value: String| fs::write(format!("/proc/{pid}/{file}"), value);
    remark(
        "oom_score_adj",
        proc("oom_score_adj", process.oom_score_adj.to_string()),
    );
    remark(
        "coredump_filter",
        proc("coredump_filter", format!("{:#x}", process.coredump_filter)),
    );
    for (resource, &(soft, hard)) in process.rlimits.iter().enumerate() {
        let result = sys::set_limit(pid as sys::Tid, resource as u32, soft, hard);
        remark(&format!("resource limit {resource}"), result);
    }
    let cgroup = own_cgroup(&process.cgroup);
    if !cgroup.is_empty() && cgroup != b"/" {
        let name = format!("control group {}", String::from_utf8_lossy(cgroup));
        remark(&name, enter_cgroup(pid, cgroup));
    }
    remarks
}

/// Where version 2 of the control groups is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The control group without the one below it into which an update may have moved the process to freeze it.
fn own_cgroup(path: &[u8]) -> &[u8] {
    let moved = path.strip_suffix(FREEZER_CGROUP.as_bytes());
    moved.and_then(|path| path.strip_suffix(b"/")).unwrap_or(path)
}

/// Puts a process into its control group, made if it is not there. Its limits are the real init's to set.
pub fn enter_cgroup(pid: u32, path: &[u8]) -> std::io::Result<()> {
    let path = Path::new(CGROUPS).join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
    fs::create_dir_all(&path)?;
    fs::write(path.join("cgroup.procs"), pid.to_string())
}

/// The calls after which no batch can run: the disposition of the signal that ends batches, and the arena's unmapping.
fn last_calls(arena: &mut Arena, leader: &Tracee, member: &Member) -> Restored<()> {
    arena.clear();
    let action = arena.put(signals::trap_action(&member.record).as_bytes());
    let calls = [
        (libc::SYS_rt_sigaction, [libc::SIGTRAP as u64, action, 0, 8, 0, 0]),
        (libc::SYS_munmap, [arena.base(), super::arena::SIZE as u64, 0, 0, 0, 0]),
    ];
    for (number, arguments) in calls {
        let result = leader.single(arena, number, arguments)?;
        if result != 0 {
            let error = std::io::Error::from_raw_os_error(-result as i32);
            return Err(Refusal::new(format!("last call {number}"), error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_frozen_for_an_update_belongs_above() {
        assert_eq!(own_cgroup(b"/orthros-update"), b"");
        assert_eq!(own_cgroup(b"/user.slice/orthros-update"), b"/user.slice");
        assert_eq!(
            own_cgroup(b"/user.slice/not-orthros-update"),
            b"/user.slice/not-orthros-update"
        );
    }
}
