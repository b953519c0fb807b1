//! eventfd, epoll, timerfd, signalfd.

use super::clock::{nanoseconds, timespec};
use super::{check, errno, file::own};
use anyhow::Result;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// `eventfd2`.
pub fn eventfd(count: u32, flags: i32) -> Result<File> {
    // SAFETY: takes integers only.
    Ok(File::from(own("eventfd2", unsafe {
        libc::syscall(libc::SYS_eventfd2, count, flags)
    })?))
}

/// `signalfd4` over a mask of signals (bit 0 is signal 1).
pub fn signalfd(mask: u64, flags: i32) -> Result<File> {
    // SAFETY: the mask is valid for the whole call and 8 bytes long, as said.
    let ret = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &mask, 8, flags) };
    Ok(File::from(own("signalfd4", ret)?))
}

/// `timerfd_create`.
pub fn timerfd(clock: i32, flags: i32) -> Result<File> {
    // SAFETY: takes integers only.
    Ok(File::from(own("timerfd_create", unsafe {
        libc::syscall(libc::SYS_timerfd_create, clock, flags)
    })?))
}

/// Arms a timerfd: first expiry and interval in nanoseconds.
pub fn timerfd_set(fd: &File, flags: i32, value: u64, interval: u64) -> Result<()> {
    let spec = libc::itimerspec {
        it_interval: timespec(interval),
        it_value: timespec(value),
    };
    let none = std::ptr::null_mut::<libc::itimerspec>();
    // SAFETY: `spec` is valid for the whole call and no old value is asked for.
    let ret = unsafe { libc::syscall(libc::SYS_timerfd_settime, fd.as_raw_fd(), flags, &spec, none) };
    check("timerfd_settime", ret).map(drop)
}

/// What a timerfd has left and its interval, in nanoseconds.
pub fn timerfd_get(fd: &File) -> Result<(u64, u64)> {
    let mut spec = libc::itimerspec {
        it_interval: timespec(0),
        it_value: timespec(0),
    };
    // SAFETY: `spec` is valid for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_timerfd_gettime, fd.as_raw_fd(), &mut spec) };
    check("timerfd_gettime", ret)?;
    Ok((nanoseconds(&spec.it_value), nanoseconds(&spec.it_interval)))
}

/// `epoll_create1`.
pub fn epoll() -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    own("epoll_create1", unsafe { libc::syscall(libc::SYS_epoll_create1, 0) })
}

/// `epoll_ctl` with EPOLL_CTL_ADD or MOD.
pub fn epoll_control(set: &OwnedFd, operation: i32, fd: &impl AsFd, events: u32, data: u64) -> Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: `event` is valid for the whole call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_epoll_ctl,
            set.as_raw_fd(),
            operation,
            fd.as_fd().as_raw_fd(),
            &mut event,
        )
    };
    check("epoll_ctl", ret).map(drop)
}

/// `epoll_wait` for up to 8 events, not restarted. Returns errno and (events, data).
pub fn epoll_wait(set: &OwnedFd, timeout_ms: i32) -> (i32, Vec<(u32, u64)>) {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    // SAFETY: room for 8 events, as said.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_epoll_wait,
            set.as_raw_fd(),
            events.as_mut_ptr(),
            8,
            timeout_ms,
        )
    };
    let count = usize::try_from(ret).unwrap_or(0).min(8);
    (errno(ret), events[..count].iter().map(|e| (e.events, e.u64)).collect())
}
