//! The table of peers: services of the system that are not restored, but that everybody talks to. Their listening sockets
//! are made here, so that connections to them can be, and are handed to the service manager, which gives them to the
//! services: what is sent meanwhile waits there.

use super::{raw, unix::names::sockaddr};
use crate::restore::{OrRefuse, Refusal, Restored};
use rustix::fs::{chmod, Mode};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::symlink},
    },
    path::Path,
};

/// A socket on which a service of the system listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The unit that has it.
    pub unit: &'static str,
    /// Its path.
    pub path: &'static str,
    /// SOCK_STREAM or SOCK_DGRAM.
    pub kind: i32,
}

/// Those of systemd-journald (units/systemd-journald.socket, units/systemd-journald-dev-log.socket of systemd).
pub const JOURNAL: [Listener; 3] = [
    Listener {
        unit: "systemd-journald.socket",
        path: "/run/systemd/journal/stdout",
        kind: libc::SOCK_STREAM,
    },
    Listener {
        unit: "systemd-journald.socket",
        path: "/run/systemd/journal/socket",
        kind: libc::SOCK_DGRAM,
    },
    Listener {
        unit: "systemd-journald-dev-log.socket",
        path: "/run/systemd/journal/dev-log",
        kind: libc::SOCK_DGRAM,
    },
];
/// Where output of services goes.
pub const STDOUT: &str = JOURNAL[0].path;
/// The end of a service's name.
const SERVICE: &str = ".service";
/// Where messages of `syslog` go, and the name by which programs know it.
const DEV_LOG: &str = JOURNAL[2].path;
const SYSLOG: &str = "/dev/log";
/// Connections that may wait, and bytes of messages, as in these units.
const BACKLOG: u32 = 4096;
const MESSAGES: u32 = 8 << 20;
/// SO_TIMESTAMP and SO_PASSSEC (include/uapi/asm-generic/socket.h).
const SO_TIMESTAMP: i32 = 29;
const SO_PASSSEC: i32 = 34;
const SO_RCVBUFFORCE: i32 = 33;

/// The listening sockets that were made.
#[derive(Debug, Default)]
pub struct Peers {
    made: BTreeMap<&'static str, OwnedFd>,
}

impl Peers {
    /// Whether connections to this name are made anew.
    pub fn known(name: &[u8]) -> Option<&'static Listener> {
        JOURNAL.iter().find(|listener| listener.path.as_bytes() == name)
    }

    /// Makes all of them: a unit that lacks one of its sockets is started from the beginning.
    pub fn listen(&mut self) -> Restored<()> {
        if !self.made.is_empty() {
            return Ok(());
        }
        for listener in &JOURNAL {
            let fd = listen(listener).map_err(|refusal| Refusal::new(listener.path, refusal))?;
            self.made.insert(listener.path, fd);
        }
        Ok(())
    }

    /// Gives them up to whoever hands them over.
    pub fn take(&mut self) -> BTreeMap<&'static str, OwnedFd> {
        std::mem::take(&mut self.made)
    }
}

fn listen(listener: &Listener) -> Restored<OwnedFd> {
    let path = Path::new(listener.path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).or_refuse(|| "directory")?;
    }
    // What an earlier start has left.
    let _ = fs::remove_file(path);
    let fd = raw::socket(libc::AF_UNIX as u32, listener.kind as u32, 0).or_refuse(|| "socket")?;
    for name in [libc::SO_PASSCRED, SO_PASSSEC, SO_TIMESTAMP] {
        raw::set_number(&fd, libc::SOL_SOCKET, name, 1).or_refuse(|| format!("option {name}"))?;
    }
    raw::bind(&fd, &sockaddr(listener.path.as_bytes())?).or_refuse(|| "name")?;
    chmod(OsStr::from_bytes(listener.path.as_bytes()), Mode::from_raw_mode(0o666)).or_refuse(|| "permissions")?;
    if listener.path == DEV_LOG {
        // Set by the unit when it starts, which this one does not.
        let _ = fs::remove_file(SYSLOG);
        symlink(DEV_LOG, SYSLOG).or_refuse(|| SYSLOG)?;
    }
    if listener.kind == libc::SOCK_STREAM {
        raw::listen(&fd, BACKLOG).or_refuse(|| "listening")?;
    } else {
        raw::set_number(&fd, libc::SOL_SOCKET, SO_RCVBUFFORCE, MESSAGES).or_refuse(|| "buffer")?;
    }
    Ok(fd)
}

/// What a stream to [`STDOUT`] begins with (`connect_logger_as`, src/core/execute.c of systemd): identifier, unit,
/// priority (`daemon.info`), whether lines may begin with one, and that they go nowhere else.
pub fn header(identifier: &str, unit: &str) -> Vec<u8> {
    const DAEMON_INFO: u32 = 3 << 3 | 6;
    format!("{identifier}\n{unit}\n{DAEMON_INFO}\n1\n0\n0\n0\n").into_bytes()
}

/// The service that a control group belongs to: name and group.
pub fn service_of(group: &[u8]) -> Option<(String, String)> {
    let group = std::str::from_utf8(group).ok()?;
    let mut path = String::new();
    for part in group.split('/').filter(|part| !part.is_empty()) {
        path.push('/');
        path.push_str(part);
        if part.ends_with(SERVICE) {
            return Some((part.to_owned(), path));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_seven_lines() {
        let text = String::from_utf8(header("lighttpd", "lighttpd.service")).unwrap();
        assert_eq!(text, "lighttpd\nlighttpd.service\n30\n1\n0\n0\n0\n");
    }

    #[test]
    fn a_service_is_known_by_its_control_group() {
        let known = |group: &str| service_of(group.as_bytes());
        let expected = ("a.service".to_owned(), "/system.slice/a.service".to_owned());
        assert_eq!(known("/system.slice/a.service"), Some(expected.clone()));
        assert_eq!(known("/system.slice/a.service/worker"), Some(expected));
        assert_eq!(known("/user.slice/session-1.scope"), None);
        assert_eq!(known("/"), None);
    }

    #[test]
    fn only_what_is_in_the_table_is_known() {
        assert_eq!(Peers::known(STDOUT.as_bytes()), Some(&JOURNAL[0]));
        assert_eq!(Peers::known(b"/run/mysqld/mysqld.sock"), None);
        assert_eq!(Peers::known(b""), None);
    }
}
