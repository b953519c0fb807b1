//! Files and directories of `/proc` that belong to a process. They can be opened only when that process is there: until then
//! something else stands at their numbers, and each process takes them from the agent at the end.
//!
//! Who reads about a process that is not restored sees it as gone: the file is opened for a helper, which ends.

use super::{
    batch::Batch, build::Builder, high::High, process::Built, tracee::Tracee, world::World, OrRefuse, Refusal, Restored,
};
use crate::sys;
use rustix::{
    fs::{open, seek, Mode, OFlags, SeekFrom},
    io::read,
};
use shared_region::context::{FileTable, Id, OpenFile, OpenFileKind};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// The first process, which every system has.
const FIRST: u32 = 1;
/// The mapping that every list has at its end (arch/x86/include/uapi/asm/vsyscall.h).
const VSYSCALL: u64 = 0xFFFF_FFFF_FF60_0000;

/// Open files, by id.
#[derive(Debug, Default)]
pub struct ProcessFiles(BTreeMap<Id, High>);

/// What stands in the place of one for the time.
pub fn stand_in() -> Restored<OwnedFd> {
    open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).or_refuse(|| "/dev/null")
}

/// Opens all of them. Who has one with which it goes wrong is refused.
pub fn open_all(builder: &mut Builder<'_>) -> ProcessFiles {
    let world = builder.world;
    let mut opened = ProcessFiles::default();
    for (&id, file) in &world.files {
        let OpenFileKind::OfProcess { process, ended, .. } = file.what else {
            continue;
        };
        let result = match is_there(world, process) {
            true => open_at(file, &file.path, ended),
            false => of_dead(file, process, ended),
        };
        match result.and_then(|fd| High::raise(fd, builder.objects.base())) {
            Ok(fd) => drop(opened.0.insert(id, fd)),
            Err(refusal) => builder.refuse_holders(|holder, _| holder == id, &refusal),
        }
    }
    opened
}

fn is_there(world: &World<'_>, process: u32) -> bool {
    process == FIRST || world.processes.contains_key(&process)
}

fn of_dead(file: &OpenFile, process: u32, ended: bool) -> Restored<OwnedFd> {
    let helper = sys::spawn_paused(0, 0).or_refuse(|| "helper process")?;
    let folder = format!("/proc/{process}");
    let rest = file.path.strip_prefix(folder.as_bytes()).unwrap_or_default();
    // A thread is gone as well.
    let rest = match rest.strip_prefix(b"/task/") {
        Some(thread) => thread
            .iter()
            .position(|&byte| byte == b'/')
            .map_or(&[][..], |at| &thread[at..]),
        None => rest,
    };
    let fd = open_at(file, &[format!("/proc/{helper}").as_bytes(), rest].concat(), ended);
    Built::new(Tracee::borrowed(helper), 0).kill();
    fd
}

fn open_at(file: &OpenFile, path: &[u8], ended: bool) -> Restored<OwnedFd> {
    let name = || String::from_utf8_lossy(path).into_owned();
    let flags = OFlags::from_bits_retain(file.flags) | OFlags::CLOEXEC;
    let fd = open(OsStr::from_bytes(path), flags, Mode::empty()).or_refuse(name)?;
    if ended {
        text(&fd).or_refuse(name)?;
    }
    Ok(fd)
}

/// Reads to the end.
fn text(fd: &OwnedFd) -> rustix::io::Result<Vec<u8>> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match read(fd, &mut buffer)? {
            0 => return Ok(text),
            count => text.extend(&buffer[..count]),
        }
    }
}

/// Where in a list of mappings (proc_pid_maps(5)) the first line begins that is about this address or a higher one.
fn line_of(text: &[u8], address: u64) -> usize {
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    let is_below = |line: &&[u8]| {
        let start = line.split(|&byte| byte == b'-').next().unwrap_or_default();
        let start = std::str::from_utf8(start)
            .ok()
            .and_then(|start| u64::from_str_radix(start, 16).ok());
        start.is_some_and(|start| start < address.min(VSYSCALL))
    };
    lines.take_while(is_below).map(<[u8]>::len).sum()
}

fn settle(fd: &High, file: &OpenFile, address: u64) -> rustix::io::Result<()> {
    let position = match address {
        0 => file.position,
        address => {
            let fd = fd.as_fd().try_clone_to_owned().map_err(|_| rustix::io::Errno::MFILE)?;
            line_of(&text(&fd)?, address) as u64
        }
    };
    seek(fd, SeekFrom::Start(position)).map(drop)
}

impl ProcessFiles {
    /// Sets their positions, when the processes have all their mappings, and no others.
    pub fn settle(&self, builder: &mut Builder<'_>) {
        let world = builder.world;
        for (&id, fd) in &self.0 {
            let Some(file) = world.files.get(&id) else { continue };
            let settled = match file.what {
                OpenFileKind::OfProcess {
                    process,
                    ended: false,
                    address,
                } if is_there(world, process) => settle(fd, file, address),
                _ => Ok(()),
            };
            let name = || String::from_utf8_lossy(&file.path).into_owned();
            if let Err(refusal) = settled.or_refuse(name) {
                builder.refuse_holders(|holder, _| holder == id, &refusal);
            }
        }
    }

    /// Puts them at their numbers in a process that has everything else at its own, and may still do anything.
    pub fn place(&self, batch: &mut Batch<'_>, id: u32, table: &FileTable, world: &World<'_>) -> Restored<()> {
        let is_wanted = |&&(_, id, _): &&(u32, Id, bool)| {
            let file = world.files.get(&id);
            file.is_some_and(|file| matches!(file.what, OpenFileKind::OfProcess { .. }))
        };
        let wanted: Vec<_> = table.descriptors.iter().filter(is_wanted).collect();
        // Most processes have none, and some have very many others.
        if wanted.is_empty() {
            return Ok(());
        }
        if world.own_number(id) != id {
            return Err(Refusal::new(
                "files of /proc",
                "it is in a pid namespace in which the agent is not",
            ));
        }
        let mut free = (0..).filter(|number| table.descriptors.iter().all(|(fd, ..)| fd != number));
        let (Some(agent), Some(taken)) = (free.next(), free.next()) else {
            return Ok(());
        };
        for &(fd, id, close_on_exec) in wanted {
            let what = || format!("fd {fd}");
            let file = self
                .0
                .get(&id)
                .ok_or_else(|| Refusal::new(what(), "it is not opened"))?;
            let own = std::process::id();
            let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
            for (number, arguments, wanted) in [
                (libc::SYS_pidfd_open, [own, 0, 0], agent),
                (libc::SYS_pidfd_getfd, [agent, file.number(), 0], taken),
                (libc::SYS_dup3, [taken, fd, flags as u32], fd),
                (libc::SYS_close, [taken, 0, 0], 0),
                (libc::SYS_close, [agent, 0, 0], 0),
            ] {
                let expected = super::batch::Expect::Value(wanted.into());
                batch.expect(what(), number, arguments.map(Into::into), expected)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn a_list_of_mappings_goes_on_at_an_address() {
        let list = b"1000-2000 r\n4000-6000 r\nffffffffff600000-ffffffffff601000 --xp\n";
        assert_eq!(
            [0x1000, 0x1001, 0x4000, 0x5000].map(|address| line_of(list, address)),
            [0, 12, 12, 24]
        );
        // What the kernel notes when only the last line is left.
        assert_eq!(line_of(list, u64::MAX - 1), 24);
    }
}
