//! What the agent needs from whoever holds the dead kernel's frames: the module, or a test that captured a process.

use super::{OrRefuse, Refusal, Restored};
use crate::boot::log;
use orthros_device::{Adopted, Device};
#[cfg(test)]
use shared_region::PAGE_SIZE;
use shared_region::{
    context::{FrameRun, InotifyEvent, IoUring, Lost, NetlinkMessage, UnixCredentials},
    device::{self, PeerCredentials, ResumeCall, TaskState, Tcp, TcpEnd},
    layout::REPORT,
    record::{Kind, RecordError, Writer},
};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The holder of the frames, and of what no system call can do.
pub trait Host {
    /// Makes the frames of `runs` (payload of a `Frames` record) anonymous memory of a process that has mapped their
    /// addresses already.
    fn adopt(&self, pid: u32, runs: &[u8]) -> Restored<Adopted>;

    /// As [`Host::adopt`], but each frame only when the process needs it. `None` if that cannot be; then nothing has
    /// happened. Else the number of frames, and [`Host::hold`] is to be called before the process runs.
    fn adopt_lazily(&self, _pid: u32, _runs: &[u8]) -> Option<u64> {
        None
    }

    /// See [`Host::adopt_lazily`].
    fn hold(&self, pid: u32) -> Restored<()> {
        Err(Refusal::new("memory", format!("process {pid} has nothing to come")))
    }

    /// Reads consecutive frames from `pfn` on until `bytes` is full.
    fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Restored<()>;

    /// Makes frames pages of a file, in the order of the runs, which name whole pages within its size. Returns how many pages
    /// there are, and how many of them are copies; the others have to be written.
    fn cache(&self, _file: BorrowedFd<'_>, _runs: &[FrameRun]) -> (u64, u64) {
        (0, 0)
    }

    /// Sets the restart block of a stopped thread.
    fn resume_call(&self, call: ResumeCall) -> Restored<()>;

    /// Sets start and CPU times of a stopped thread.
    fn set_times(&self, times: TaskState) -> Restored<()>;

    /// Sets whom `SO_PEERCRED` names, of a socket of AF_UNIX or of its peer. The process must be there.
    fn set_peer_credentials(&self, _fd: u32, _of_peer: bool, _credentials: &UnixCredentials) -> Restored<()> {
        Ok(())
    }

    /// Does with a connection of TCP what no system call does.
    fn tcp(&self, _request: Tcp) -> Restored<()> {
        Err(Refusal::new("connection", "there is no module to end or queue it"))
    }

    /// Lets a socket of TCP be as after a connection.
    fn tcp_end(&self, _request: TcpEnd) -> Restored<()> {
        Err(Refusal::new("connection that is over", "there is no module to say so"))
    }

    /// Puts a message at the end of the queue of a socket of netlink, or, without any bytes, has it say that it has missed some.
    fn netlink(&self, _fd: BorrowedFd<'_>, _message: &NetlinkMessage, _data: &[u8]) -> Restored<()> {
        Err(Refusal::new(
            "socket of netlink",
            "there is no module to put messages into its queue",
        ))
    }

    /// Puts an event at the end of the queue of inotify.
    fn inotify_event(&self, _fd: BorrowedFd<'_>, _event: &InotifyEvent) -> Restored<()> {
        Err(Refusal::new(
            "inotify",
            "there is no module to put events into its queue",
        ))
    }

    /// Lets a ring of io_uring go on counting from where another was.
    fn io_uring(&self, _fd: BorrowedFd<'_>, _ring: &IoUring) -> Restored<()> {
        Err(Refusal::new("ring of io_uring", "there is no module to set its counts"))
    }

    /// Notes, for a successor that may have to do all this again, processes whose memory is about to be changed.
    fn note_at_stake(&self, _failover: u64, _processes: &[u32]) -> Restored<()> {
        Ok(())
    }
}

/// Writes what [`Host::note_at_stake`] notes into an area. Returns the bytes used.
///
/// # Errors
/// They do not fit.
pub fn at_stake(area: &mut [u8], failover: u64, processes: &[u32]) -> Result<usize, RecordError> {
    let mut writer = Writer::new(area, failover)?;
    for &pid in processes {
        writer.push(Kind::Lost, 1, 0, u64::from(pid), &Lost::default())?;
    }
    Ok(writer.finish())
}

impl Host for Device {
    fn adopt(&self, pid: u32, runs: &[u8]) -> Restored<Adopted> {
        Device::adopt(self, pid, runs).or_refuse(|| "memory")
    }

    fn adopt_lazily(&self, pid: u32, runs: &[u8]) -> Option<u64> {
        Device::adopt_lazily(self, pid, runs)
            .inspect_err(|error| log::warning(format_args!("process {pid} waits for its memory: {error}")))
            .ok()
    }

    fn hold(&self, pid: u32) -> Restored<()> {
        Device::hold(self, pid).or_refuse(|| "memory")
    }

    fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Restored<()> {
        Device::read_frames(self, pfn, bytes).or_refuse(|| "page frames")
    }

    fn cache(&self, file: BorrowedFd<'_>, runs: &[FrameRun]) -> (u64, u64) {
        // Why not all of them is told by the write of what is left, if that fails as well.
        let (pages, copied, _) = Device::cache(self, file, runs);
        (pages, copied)
    }

    fn resume_call(&self, call: ResumeCall) -> Restored<()> {
        Device::resume_call(self, call).or_refuse(|| "interrupted system call")
    }

    fn set_times(&self, times: TaskState) -> Restored<()> {
        self.task_state(times).or_refuse(|| "start and CPU times")
    }

    fn set_peer_credentials(&self, fd: u32, of_peer: bool, credentials: &UnixCredentials) -> Restored<()> {
        let request = PeerCredentials {
            fd: fd.into(),
            of_peer: of_peer.into(),
            process: credentials.process as u64,
            user: credentials.user.into(),
            group: credentials.group.into(),
            groups: credentials.groups.as_ptr() as u64,
            count: credentials.groups.len() as u64,
        };
        Device::peer_credentials(self, request).or_refuse(|| "SO_PEERCRED")
    }

    fn tcp(&self, request: Tcp) -> Restored<()> {
        Device::tcp(self, request).or_refuse(|| "connection")
    }

    fn tcp_end(&self, request: TcpEnd) -> Restored<()> {
        Device::tcp_end(self, request).or_refuse(|| "connection that is over")
    }

    fn netlink(&self, fd: BorrowedFd<'_>, message: &NetlinkMessage, data: &[u8]) -> Restored<()> {
        let (process, user, gid) = message.credentials;
        let request = device::Netlink {
            fd: fd.as_raw_fd() as u64,
            data: data.as_ptr() as u64,
            length: data.len() as u64,
            port: message.port,
            group: message.group,
            process: process as u32,
            user,
            gid,
            reserved: 0,
        };
        Device::netlink(self, request).or_refuse(|| "message of netlink")
    }

    fn inotify_event(&self, fd: BorrowedFd<'_>, event: &InotifyEvent) -> Restored<()> {
        let request = device::InotifyEvent {
            fd: fd.as_raw_fd() as u64,
            wd: event.wd,
            mask: event.mask,
            cookie: event.cookie,
            name_len: event.name.len() as u32,
            name: event.name.as_ptr() as u64,
        };
        Device::inotify_event(self, request).or_refuse(|| "event of inotify")
    }

    fn io_uring(&self, fd: BorrowedFd<'_>, ring: &IoUring) -> Restored<()> {
        let request = device::IoUring {
            fd: fd.as_raw_fd() as u64,
            taken: ring.taken,
            completed: ring.completed,
            extra: ring.extra,
            timeouts: ring.timeouts,
            timeouts_flushed: ring.timeouts_flushed,
            drain_disabled: ring.drain_disabled.into(),
        };
        Device::io_uring(self, request).or_refuse(|| "ring of io_uring")
    }

    fn note_at_stake(&self, failover: u64, processes: &[u32]) -> Restored<()> {
        let mut area = vec![0; REPORT.size as usize];
        let used = at_stake(&mut area, failover, processes).or_refuse(|| "a note for other successors")?;
        let note = area.get(..used).unwrap_or_default();
        self.write_report(note).or_refuse(|| "a note for other successors")
    }
}

/// No frames, and no module.
#[cfg(test)]
pub struct Nobody;

#[cfg(test)]
impl Host for Nobody {
    fn adopt(&self, _: u32, _: &[u8]) -> Restored<Adopted> {
        Err(Refusal::new("frames", "there are none"))
    }

    fn read_frames(&self, _: u64, _: &mut [u8]) -> Restored<()> {
        Err(Refusal::new("frames", "there are none"))
    }

    fn resume_call(&self, _: ResumeCall) -> Restored<()> {
        Ok(())
    }

    fn set_times(&self, _: TaskState) -> Restored<()> {
        Ok(())
    }
}

/// Frames from 0 on, and no module.
#[cfg(test)]
pub struct Memory(pub Vec<u8>);

#[cfg(test)]
impl Host for Memory {
    fn adopt(&self, _: u32, _: &[u8]) -> Restored<Adopted> {
        Err(Refusal::new("memory", "none"))
    }

    fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Restored<()> {
        bytes.copy_from_slice(&self.0[(pfn * PAGE_SIZE) as usize..][..bytes.len()]);
        Ok(())
    }

    fn resume_call(&self, _: ResumeCall) -> Restored<()> {
        Err(Refusal::new("call", "none"))
    }

    fn set_times(&self, _: TaskState) -> Restored<()> {
        Err(Refusal::new("times", "none"))
    }
}
