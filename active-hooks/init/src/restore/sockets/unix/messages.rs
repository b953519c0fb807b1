//! What lies in queues of AF_UNIX, sent once more in the name of those who had sent it, and whom `SO_PEERCRED` names.

use super::raw;
use crate::{
    restore::{high::High, host::Host, OrRefuse, Refusal, Restored},
    sys,
};
use shared_region::context::{Id, UnixMessage, UnixSocket};
use std::{collections::BTreeMap, io};

/// Control messages (`include/linux/socket.h`), and the size of their header.
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
const HEADER: usize = 16;

/// What comes with a message.
#[derive(Debug, Default)]
pub struct Control {
    bytes: Vec<u8>,
    process: i32,
}

impl Control {
    /// Gathers it; `files` are the numbers of open files.
    pub fn new(message: &UnixMessage, files: &BTreeMap<Id, Restored<u32>>) -> Restored<Self> {
        let mut control = Self::default();
        if !message.files.is_empty() {
            let mut numbers = Vec::new();
            for id in &message.files {
                let number = match files.get(id) {
                    Some(number) => number.clone()?,
                    None => return Err(Refusal::new("descriptor on its way", "it was not opened")),
                };
                numbers.extend(number.to_ne_bytes());
            }
            control.add(SCM_RIGHTS, &numbers);
        }
        if let Some((process, user, group)) = message.credentials {
            let words = [process.to_ne_bytes(), user.to_ne_bytes(), group.to_ne_bytes()];
            control.add(SCM_CREDENTIALS, &words.concat());
            control.process = process;
        }
        Ok(control)
    }

    /// Adds a `struct cmsghdr` with its data, filled up to eight bytes.
    fn add(&mut self, kind: i32, data: &[u8]) {
        self.bytes.extend((HEADER + data.len()).to_ne_bytes());
        self.bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// Does something with it while there is a process that it names.
    pub fn with<T>(&self, work: impl FnOnce(&[u8]) -> Restored<T>) -> Restored<T> {
        match self.process {
            0 => work(&self.bytes),
            process => with_process(process, || work(&self.bytes)),
        }
    }
}

/// Does something while a process with this id is there: one that is gone is stood in for.
fn with_process<T>(id: i32, work: impl FnOnce() -> Restored<T>) -> Restored<T> {
    if sys::kill(id, 0).is_ok() {
        return work();
    }
    sys::spawn_paused(id, 0).or_refuse(|| format!("a stand-in for process {id}"))?;
    let result = work();
    // It does nothing but wait for signals.
    let _ = sys::kill(id, libc::SIGKILL);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let _ = sys::wait(id, deadline);
    result
}

/// Sends a message; what comes with it goes with its first byte.
pub fn send(fd: &High, data: &[u8], to: &[u8], control: &[u8], in_parts: bool) -> io::Result<()> {
    let mut taken = raw::send_message(fd, data, to, control)?;
    while in_parts && taken < data.len() {
        taken += raw::send_message(fd, &data[taken..], to, &[])?;
    }
    Ok(())
}

/// Sets whom `SO_PEERCRED` names, of a socket or of the one that it is connected to.
pub fn credentials(host: &dyn Host, fd: &High, of_peer: bool, unix: &UnixSocket) -> Restored<()> {
    match &unix.credentials {
        Some(credentials) => {
            let set = || host.set_peer_credentials(fd.number(), of_peer, credentials);
            with_process(credentials.process, set)
        }
        None => Ok(()),
    }
}
