//! Restrictions: what a process may not do, it may not do afterwards either.

use crate::cell::{same, Cell, Context};
use crate::sys::memory::Region;
use crate::sys::process::{self, fork};
use crate::sys::{errno, file, signal};
use anyhow::{ensure, Result};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "restrictions/no-new-privs",
        what: "no_new_privs",
        covers: &["Thread.no_new_privs"],
        caught: None,
        run: no_new_privs,
    },
    Cell {
        name: "restrictions/seccomp-deny",
        what: "two seccomp filters: one call still denied with its errno, another with the other filter's",
        covers: &["Thread.seccomp", "Seccomp.mode", "Seccomp.filters"],
        caught: None,
        run: seccomp_deny,
    },
    Cell {
        name: "restrictions/seccomp-kill",
        what: "a seccomp filter that kills still kills",
        covers: &["Seccomp.filters"],
        caught: None,
        run: seccomp_kill,
    },
    Cell {
        name: "restrictions/seccomp-strict",
        what: "strict seccomp: read and write go on, anything else kills",
        covers: &["Seccomp.mode"],
        caught: Some("read"),
        run: seccomp_strict,
    },
    Cell {
        name: "restrictions/securebits",
        what: "the secure bits, locked ones too",
        covers: &["Creds.securebits"],
        caught: None,
        run: securebits,
    },
    Cell {
        name: "restrictions/dumpable",
        what: "not dumpable",
        covers: &["AddressSpace.dumpable"],
        caught: None,
        run: dumpable,
    },
    Cell {
        name: "restrictions/personality",
        what: "the execution domain and its flags",
        covers: &["Thread.personality"],
        caught: None,
        run: personality,
    },
    Cell {
        name: "restrictions/dropped-privileges",
        what: "a process that gave root up cannot open what root may and cannot become root",
        covers: &["Creds.uid", "Creds.caps"],
        caught: None,
        run: dropped,
    },
];

fn no_new_privs(context: &mut Context) -> Result<()> {
    process::NO_NEW_PRIVS.set(1)?;
    let mut expected = 1;
    context.failover(|| {
        expected = 0;
        Ok(())
    })?;
    same("no_new_privs", process::NO_NEW_PRIVS.get()?, expected)
}

const LOAD_WORD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7FFF_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// A filter that gives one call a verdict and allows the rest.
fn filter(call: libc::c_long, verdict: u32) -> [libc::sock_filter; 4] {
    [
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_EQUAL, 0, 1, call as u32),
        instruction(RETURN, 0, 0, verdict),
        instruction(RETURN, 0, 0, ALLOW),
    ]
}

/// Two calls without effect that nothing else here makes.
const DENIED: [libc::c_long; 2] = [libc::SYS_getpgrp, libc::SYS_sched_get_priority_max];

fn denied(which: usize) -> i32 {
    // SAFETY: both calls take an integer at most and change nothing.
    errno(unsafe { libc::syscall(DENIED[which], 0) })
}

fn seccomp_deny(context: &mut Context) -> Result<()> {
    process::NO_NEW_PRIVS.set(1)?;
    process::add_filter(&filter(DENIED[0], ERRNO | 95))?;
    if !context.mutate() {
        process::add_filter(&filter(DENIED[1], ERRNO | 96))?;
    }
    let mode = process::status_field(process::getpid()?, "Seccomp")?;
    context.failover(|| Ok(()))?;
    same("mode", process::status_field(process::getpid()?, "Seccomp")?, mode)?;
    same("errno of the first filter's call", denied(0), 95)?;
    same("errno of the second filter's call", denied(1), 96)
}

fn seccomp_kill(context: &mut Context) -> Result<()> {
    let mutate = context.mutate();
    let child = fork(|| {
        process::NO_NEW_PRIVS.set(1)?;
        process::set_limit(libc::RLIMIT_CORE, 0, 0)?;
        if !mutate {
            process::add_filter(&filter(DENIED[0], KILL_PROCESS))?;
        }
        context.wait()?;
        denied(0);
        Ok(())
    })?;
    context.failover(|| Ok(()))?;
    let status = child.status()?;
    ensure!(
        status & 0x7F == libc::SIGSYS,
        "the call did not kill (wait status {status:#x})"
    );
    Ok(())
}

fn seccomp_strict(context: &mut Context) -> Result<()> {
    let (to_child, from_parent) = (file::pipe(0)?, file::pipe(0)?);
    let mutate = context.mutate();
    let child = fork(|| {
        process::set_limit(libc::RLIMIT_CORE, 0, 0)?;
        let mut byte = [0u8];
        if !mutate {
            process::set_strict()?;
        }
        let (count, _) = file::read_once(&to_child.0, &mut byte);
        file::write_once(&from_parent.1, &[byte[0] + count as u8]);
        // Anything but read, write, exit and sigreturn: SIGKILL.
        let _ = process::getpid();
        process::exit_thread(0)
    })?;
    context.failover(|| Ok(()))?;
    file::write_once(&to_child.1, b"A");
    let mut answer = [0u8];
    file::read_once(&from_parent.0, &mut answer);
    let status = child.status()?;
    same("the child's answer", answer, *b"B")?;
    ensure!(
        status & 0x7F == libc::SIGKILL,
        "the call did not kill (wait status {status:#x})"
    );
    Ok(())
}

fn securebits(context: &mut Context) -> Result<()> {
    context.need_root()?;
    /// SECBIT_NOROOT and its lock, SECBIT_KEEP_CAPS.
    const BITS: i64 = 0b1_0011;
    process::SECUREBITS.set(BITS)?;
    context.failover(|| process::SECUREBITS.set(BITS & !0b1_0000))?;
    same("secure bits", process::SECUREBITS.get()?, BITS)?;
    ensure!(process::SECUREBITS.set(0).is_err(), "a locked bit could be cleared");
    Ok(())
}

fn dumpable(context: &mut Context) -> Result<()> {
    // The files of /proc/self then belong to root; the cell needs none of them.
    process::DUMPABLE.set(0)?;
    context.failover(|| process::DUMPABLE.set(1))?;
    same("dumpable", process::DUMPABLE.get()?, 0)
}

fn personality(context: &mut Context) -> Result<()> {
    const ADDR_NO_RANDOMIZE: i64 = 0x004_0000;
    const STICKY_TIMEOUTS: i64 = 0x400_0000;
    process::personality(ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS)?;
    context.failover(|| process::personality(ADDR_NO_RANDOMIZE).map(drop))?;
    same(
        "personality",
        process::personality(0xFFFF_FFFF)?,
        ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS,
    )
}

fn dropped(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let secret = context.path("secret");
    std::fs::write(&secret, "secret")?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let words = Region::shared(1)?;
    let mutate = context.mutate();
    let child = fork(|| {
        process::set_groups(&[])?;
        process::setresgid(12345, 12345, 12345)?;
        if !mutate {
            process::setresuid(12345, 12345, 12345)?;
        }
        words.set(0, 1);
        context.wait()?;
        ensure!(std::fs::read(&secret).is_err(), "root's file can be read");
        ensure!(process::setresuid(0, 0, 0).is_err(), "the process can become root");
        same("capabilities", process::capabilities()?[1], 0)
    })?;
    while words.get(0) == 0 {
        process::sched_yield()?;
    }
    context.failover(|| Ok(()))?;
    signal::blocked()?;
    child.join("child without privileges")
}
