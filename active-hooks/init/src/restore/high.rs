//! Descriptors of the agent above every number that a process to be restored uses.
//!
//! Every open file is opened once, in the agent, at such a number. The processes are forked from the agent and so
//! share it; each then puts it at the numbers where it belongs.

use super::{OrRefuse, Restored};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A descriptor at or above the base.
#[derive(Debug)]
pub struct High(OwnedFd);

impl High {
    /// Moves a descriptor up.
    pub fn raise(fd: OwnedFd, base: u32) -> Restored<Self> {
        let raised = rustix::io::fcntl_dupfd_cloexec(&fd, base as RawFd).or_refuse(|| "descriptor")?;
        Ok(Self(raised))
    }

    /// Its number, in the agent and in every process forked from it that has not closed it.
    pub fn number(&self) -> u32 {
        self.0.as_raw_fd() as u32
    }
}

impl std::os::fd::AsFd for High {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes ownership of a descriptor that a raw call returned.
///
/// # Safety
/// The caller owns `fd` and passes it on here alone.
pub unsafe fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
