//! Who the process is to the system: ids, names, credentials, places.

use crate::cell::{same, Cell, Context};
use crate::sys::file;
use crate::sys::process::{self, fork};
use anyhow::{Context as _, Result};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "identity/command",
        what: "command line, environment and executable as /proc shows them",
        covers: &["AddressSpace.bounds", "AddressSpace.exe", "AddressSpace.exe_inode"],
        caught: None,
        run: command,
    },
    Cell {
        name: "identity/auxv",
        what: "the auxiliary vector",
        covers: &["AddressSpace.auxv"],
        caught: None,
        run: auxv,
    },
    Cell {
        name: "identity/mm-fields",
        what: "the addresses of code, data, stack, arguments and environment in /proc/self/stat",
        covers: &["AddressSpace.bounds"],
        caught: None,
        run: mm_fields,
    },
    Cell {
        name: "identity/start-time",
        what: "the start time of the process",
        covers: &["Process.start_time"],
        caught: None,
        run: start_time,
    },
    Cell {
        name: "identity/users",
        what: "real, effective, saved and file-system user and group ids, all different, and groups",
        covers: &["Thread.creds", "Creds.uid", "Creds.gid", "Creds.groups"],
        caught: None,
        run: users,
    },
    Cell {
        name: "identity/login",
        what: "as whom somebody has logged in, and the number of that login",
        covers: &["Thread.login"],
        caught: None,
        run: login,
    },
    Cell {
        name: "identity/capabilities",
        what: "effective, permitted, inheritable, bounding and ambient capabilities",
        covers: &["Creds.caps"],
        caught: None,
        run: capabilities,
    },
    Cell {
        name: "identity/directories",
        what: "working directory and umask",
        covers: &["Process.cwd", "Process.umask", "Process.fs"],
        caught: None,
        run: directories,
    },
    Cell {
        name: "identity/root",
        what: "the root directory after chroot",
        covers: &["Process.root"],
        caught: None,
        run: root,
    },
    Cell {
        name: "identity/cgroup",
        what: "the cgroup",
        covers: &["Process.cgroup"],
        caught: None,
        run: cgroup,
    },
];

fn command(context: &mut Context) -> Result<()> {
    fn state() -> Result<(Vec<u8>, Vec<u8>, std::path::PathBuf)> {
        Ok((
            std::fs::read("/proc/self/cmdline")?,
            std::fs::read("/proc/self/environ")?,
            std::fs::read_link("/proc/self/exe")?,
        ))
    }
    let mut before = state()?;
    context.failover(|| {
        before.0.push(b'!');
        Ok(())
    })?;
    let now = state()?;
    same("command line", now.0, before.0)?;
    same("environment", now.1, before.1)?;
    same("executable", now.2, before.2)
}

fn auxv(context: &mut Context) -> Result<()> {
    let mut before = std::fs::read("/proc/self/auxv")?;
    context.failover(|| {
        before[8] ^= 1;
        Ok(())
    })?;
    same("auxiliary vector", std::fs::read("/proc/self/auxv")?, before)
}

fn mm_fields(context: &mut Context) -> Result<()> {
    // proc(5): startcode endcode startstack, start_data end_data start_brk arg_start arg_end env_start env_end.
    const FIELDS: [usize; 10] = [26, 27, 28, 45, 46, 47, 48, 49, 50, 51];
    let state = || {
        FIELDS
            .iter()
            .map(|&field| process::stat_field(field))
            .collect::<Result<Vec<_>>>()
    };
    let mut before = state()?;
    context.failover(|| {
        before[3] += 8;
        Ok(())
    })?;
    same("addresses in stat", state()?, before)
}

fn start_time(context: &mut Context) -> Result<()> {
    const START_TIME: usize = 22;
    let mut before = process::stat_field(START_TIME)?;
    context.failover(|| {
        before += 1000;
        Ok(())
    })?;
    let now = process::stat_field(START_TIME)?;
    anyhow::ensure!(now.abs_diff(before) <= 2, "start time: {now} ticks, was {before}");
    Ok(())
}

fn users(context: &mut Context) -> Result<()> {
    context.need_root()?;
    type State = ([u32; 3], [u32; 3], Vec<u32>, i64, i64);
    fn state() -> Result<State> {
        Ok((
            process::ids(false)?,
            process::ids(true)?,
            process::groups()?,
            process::setfsuid(-1)?,
            process::setfsgid(-1)?,
        ))
    }
    process::set_groups(&[4, 24, 4711])?;
    process::setresgid(1001, 1002, 1003)?;
    process::setfsgid(1004)?;
    process::setresuid(2001, 0, 2003)?;
    process::setfsuid(2004)?;
    let before = state()?;
    context.failover(|| process::set_groups(&[4, 24]))?;
    let now = state()?;
    same("user ids", now.0, before.0)?;
    same("group ids", now.1, before.1)?;
    same("supplementary groups", now.2, before.2)?;
    same("file-system ids", (now.3, now.4), (before.3, before.4))
}

fn login(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let set = |user: u32| std::fs::write("/proc/self/loginuid", user.to_string());
    let state = || -> Result<[String; 2]> {
        let read = |name| std::fs::read_to_string(format!("/proc/self/{name}"));
        Ok([read("loginuid")?, read("sessionid")?])
    };
    if set(1234).is_err() {
        return context.skip("nobody may log in here");
    }
    let before = state()?;
    context.failover(|| Ok(set(4321)?))?;
    same("who has logged in", state()?, before)
}

fn capabilities(context: &mut Context) -> Result<()> {
    context.need_root()?;
    const KILL: u32 = 5;
    const NET_RAW: u32 = 13;
    const SYS_BOOT: u32 = 22;
    const SYS_PTRACE: u32 = 19;
    fn state() -> Result<([u64; 3], Vec<bool>, Vec<i64>)> {
        let all = 0..=40u32;
        Ok((
            process::capabilities()?,
            all.clone()
                .map(|cap| process::in_bounding_set(cap).unwrap_or(false))
                .collect(),
            all.map(|cap| process::ambient(libc::PR_CAP_AMBIENT_IS_SET, cap).unwrap_or(-1))
                .collect(),
        ))
    }
    process::drop_from_bounding_set(SYS_BOOT)?;
    let [effective, permitted, _] = process::capabilities()?;
    let permitted = permitted & !(1 << NET_RAW);
    process::set_capabilities([effective & permitted & !(1 << SYS_PTRACE), permitted, 1 << KILL])?;
    process::ambient(libc::PR_CAP_AMBIENT_RAISE, KILL)?;
    let before = state()?;
    context.failover(|| process::ambient(libc::PR_CAP_AMBIENT_LOWER, KILL).map(drop))?;
    let now = state()?;
    same("effective, permitted, inheritable", now.0, before.0)?;
    same("bounding set", now.1, before.1)?;
    same("ambient set", now.2, before.2)
}

fn directories(context: &mut Context) -> Result<()> {
    let directory = context.path("sub directory");
    std::fs::create_dir(&directory)?;
    std::env::set_current_dir(&directory)?;
    file::umask(0o123)?;
    let before = std::env::current_dir()?;
    context.failover(|| file::umask(0o022).map(drop))?;
    same("umask", file::umask(0o123)?, 0o123)?;
    same("working directory", std::env::current_dir()?, before)?;
    std::fs::write("relative", "x").context("a relative path")?;
    same(
        "file by its full path",
        std::fs::read(directory.join("relative"))?,
        b"x".to_vec(),
    )
}

fn root(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let inside = context.path("inside");
    std::fs::create_dir(&inside)?;
    std::fs::write(inside.join("mark"), "the mark")?;
    // Nobody holds the file over the failover: only what is on the disk is sure to be there.
    std::fs::File::open(inside.join("mark"))?.sync_all()?;
    let expected = if context.mutate() { "another mark" } else { "the mark" };
    let child = fork(|| {
        process::chroot(&inside)?;
        std::env::set_current_dir("/")?;
        context.wait()?;
        same("/mark", std::fs::read_to_string("/mark")?, expected.to_owned())?;
        same("entries of /", std::fs::read_dir("/")?.count(), 1)
    })?;
    context.failover(|| Ok(()))?;
    child.join("child under chroot")
}

fn cgroup(context: &mut Context) -> Result<()> {
    let mut before = std::fs::read_to_string("/proc/self/cgroup")?;
    context.failover(|| {
        before.push('x');
        Ok(())
    })?;
    same("cgroup", std::fs::read_to_string("/proc/self/cgroup")?, before)
}
