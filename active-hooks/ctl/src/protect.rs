//! `orthros-ctl protect` and `unprotect`.

use crate::cli;
use crate::exit::Exit;
use crate::services;
use crate::snapshot::{libc_errno, open_device};
use anyhow::{bail, ensure, Context, Result};
use orthros_device::{Device, DeviceError};
use shared_region::device;
use shared_region::protect::{flags, kind};
use std::os::unix::process::CommandExt;

/// Longest name the kernel keeps, in bytes.
const COMM_LENGTH: usize = 15;

/// A wish for one process.
fn process(pid: u32, descendants: bool) -> device::Protect {
    device::Protect {
        kind: kind::PROCESS,
        flags: if descendants { flags::DESCENDANTS } else { 0 },
        tgid: pid.into(),
        comm: [0; 16],
    }
}

/// A wish for every process of a name.
fn name(name: &str, descendants: bool) -> Result<device::Protect> {
    ensure!(!name.is_empty(), "a process name cannot be empty");
    ensure!(
        name.len() <= COMM_LENGTH && !name.contains('\0'),
        "`{name}` cannot be the name of a process: the kernel keeps {COMM_LENGTH} bytes (`cat /proc/PID/comm` shows them)"
    );
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    Ok(device::Protect {
        kind: kind::COMM,
        flags: if descendants { flags::DESCENDANTS } else { 0 },
        tgid: 0,
        comm,
    })
}

/// What a refused wish means.
fn explain(subject: &str, error: DeviceError) -> anyhow::Error {
    let text = match error.errno() {
        Some(libc_errno::ESRCH) => format!("{subject}: there is no such process"),
        Some(libc_errno::ENOENT) => format!("{subject} is not protected"),
        Some(libc_errno::ENOSPC) => format!(
            "{subject}: the table of {} entries is full; unprotect something, or protect by name",
            shared_region::protect::MAX_ENTRIES
        ),
        _ => return anyhow::Error::new(error).context(subject.to_owned()),
    };
    anyhow::anyhow!(text)
}

fn wishes(pids: &[u32], names: &[String], descendants: bool) -> Result<Vec<(String, device::Protect)>> {
    let by_pid = pids
        .iter()
        .map(|&pid| Ok((format!("process {pid}"), process(pid, descendants))));
    let by_name = names
        .iter()
        .map(|comm| Ok((format!("name `{comm}`"), name(comm, descendants)?)));
    by_pid.chain(by_name).collect()
}

/// The processes of services as they are now; what they start later is descended from them.
fn of_units(units: &[String]) -> Result<Vec<(String, device::Protect)>> {
    let mut wishes = Vec::new();
    for unit in units {
        let wish = |pid: u32| (format!("process {pid} of {unit}"), process(pid, true));
        wishes.extend(services::processes(unit)?.into_iter().map(wish));
    }
    Ok(wishes)
}

/// One that was listed a moment ago and has ended since needs nothing.
fn or_has_ended(done: Result<(), DeviceError>) -> Result<(), DeviceError> {
    match done {
        Err(error) if error.errno() == Some(libc_errno::ESRCH) => Ok(()),
        done => done,
    }
}

/// Carries every wish out, even when one fails, and tells which failed.
fn each(
    wishes: Vec<(String, device::Protect)>,
    act: impl Fn(device::Protect) -> Result<(), DeviceError>,
) -> Vec<String> {
    let mut failed = Vec::new();
    for (subject, wish) in wishes {
        match act(wish) {
            Err(error) if error.errno() == Some(libc_errno::EEXIST) => println!("{subject} is protected already"),
            Err(error) => failed.push(format!("{:#}", explain(&subject, error))),
            Ok(()) => {}
        }
    }
    failed
}

/// Fails if something has.
fn none_of(failed: &[String]) -> Result<Exit> {
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(Exit::Fine)
}

/// Protects, or runs a command protected. In the latter case does not return if the command starts.
pub fn protect(wish: &cli::Protect) -> Result<Exit> {
    let by_name = wishes(&wish.pids, &wish.comm, wish.descendants)?;
    let of_units = of_units(&wish.unit)?;
    let Some((program, arguments)) = wish.command.split_first() else {
        let device = open_device()?;
        let mut failed = each(by_name, |wish| device.protect(wish));
        failed.extend(each(of_units, |wish| or_has_ended(device.protect(wish))));
        return none_of(&failed);
    };
    run_protected(&open_device()?, program, arguments)
}

/// This process protects itself and becomes the command, so that there is no moment in which it is unprotected.
fn run_protected(device: &Device, program: &std::ffi::OsStr, arguments: &[std::ffi::OsString]) -> Result<Exit> {
    let own = process(std::process::id(), true);
    match device.protect(own) {
        Err(error) if error.errno() != Some(libc_errno::EEXIST) => return Err(explain("this process", error)),
        _ => {}
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    // Best effort: the entry goes with this process anyway.
    let _ = device.unprotect(own);
    Err(error).with_context(|| format!("cannot run {}", program.to_string_lossy()))
}

/// Takes protection back.
pub fn unprotect(wish: &cli::Unprotect) -> Result<Exit> {
    let device = open_device()?;
    if wish.all {
        if let Err(error) = device.unprotect(device::Protect::default()) {
            bail!(explain("everything", error));
        }
        return Ok(Exit::Fine);
    }
    let mut wishes = wishes(&wish.pids, &wish.comm, false)?;
    wishes.extend(of_units(&wish.unit)?);
    none_of(&each(wishes, |wish| device.unprotect(wish)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_meanwhile_is_no_failure() {
        let with = |errno| or_has_ended(Err(DeviceError::Map(std::io::Error::from_raw_os_error(errno))));
        assert!(with(libc_errno::ESRCH).is_ok());
        assert!(with(libc_errno::ENOSPC).is_err());
    }

    #[test]
    fn a_name_longer_than_the_kernel_keeps_is_refused() {
        let error = name("a-name-of-sixteen", false).expect_err("too long").to_string();
        assert!(error.contains("15 bytes"), "{error}");
        assert!(name("", false).is_err());
        assert_eq!(
            &name("exactly-15-byte", true).expect("fits").comm[..],
            b"exactly-15-byte\0"
        );
    }

    #[test]
    fn wishes_name_their_subject() {
        let list = wishes(&[7], &["sleep".into()], true).expect("good wishes");
        assert_eq!(list[0].0, "process 7");
        assert_eq!(
            (list[0].1.kind, list[0].1.tgid, list[0].1.flags),
            (kind::PROCESS, 7, flags::DESCENDANTS)
        );
        assert_eq!(list[1].0, "name `sleep`");
        assert_eq!(list[1].1.kind, kind::COMM);
    }
}
