//! Calls of terminals and pseudo terminals (ioctl_tty(2)).

use super::check;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

/// Bytes of `struct termios2` (include/uapi/asm-generic/termbits.h).
pub const SETTINGS: usize = 44;
/// `TCGETS2` and `TCSETS2`.
const TCGETS2: libc::c_ulong = 0x802C_542A;
const TCSETS2: libc::c_ulong = 0x402C_542B;
/// `TIOCGPTN` and `TIOCSPTLCK`.
const TIOCGPTN: libc::c_ulong = 0x8004_5430;
const TIOCSPTLCK: libc::c_ulong = 0x4004_5431;
/// How long a helper of [`by_its_session`] may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The settings of a terminal.
///
/// # Errors
/// As `ioctl`.
pub fn settings(fd: impl AsFd) -> io::Result<[u8; SETTINGS]> {
    let mut bytes = [0; SETTINGS];
    // SAFETY: (1) the descriptor is borrowed; (2) the request writes a `struct termios2`, for which there is room.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TCGETS2, bytes.as_mut_ptr()) };
    check(result.into()).map(|_| bytes)
}

/// Sets them.
///
/// # Errors
/// As `ioctl`.
pub fn set_settings(fd: impl AsFd, bytes: &[u8; SETTINGS]) -> io::Result<()> {
    // SAFETY: (1) the descriptor is borrowed; (2) the request reads a `struct termios2`.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TCSETS2, bytes.as_ptr()) };
    check(result.into()).map(drop)
}

/// Sets rows, columns, and pixels across and down.
///
/// # Errors
/// As `ioctl`.
pub fn set_window(fd: impl AsFd, window: [u16; 4]) -> io::Result<()> {
    // SAFETY: (1) the descriptor is borrowed; (2) the request reads a `struct winsize`, four of these.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, window.as_ptr()) };
    check(result.into()).map(drop)
}

/// Gives a character to the line discipline, which has looked at it when this returns.
///
/// # Errors
/// As `ioctl`.
pub fn insert(fd: impl AsFd, character: u8) -> io::Result<()> {
    // SAFETY: (1) the descriptor is borrowed; (2) the request reads a byte.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSTI, &raw const character) };
    check(result.into()).map(drop)
}

/// The number of a master's slave.
///
/// # Errors
/// As `ioctl`.
pub fn number(master: impl AsFd) -> io::Result<u32> {
    let mut number = 0u32;
    // SAFETY: (1) the descriptor is borrowed; (2) the request writes an int.
    let result = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), TIOCGPTN, &raw mut number) };
    check(result.into()).map(|_| number)
}

/// Keeps the slave of a master from being opened, or lets it.
///
/// # Errors
/// As `ioctl`.
pub fn lock(master: impl AsFd, locked: bool) -> io::Result<()> {
    let value = i32::from(locked);
    // SAFETY: (1) the descriptor is borrowed; (2) the request reads an int.
    let result = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), TIOCSPTLCK, &raw const value) };
    check(result.into()).map(drop)
}

/// Lets a master read packets.
///
/// # Errors
/// As `ioctl`.
pub fn packets(master: impl AsFd) -> io::Result<()> {
    let value = 1i32;
    // SAFETY: (1) the descriptor is borrowed; (2) the request reads an int.
    let result = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCPKT, &raw const value) };
    check(result.into()).map(drop)
}

/// Keeps others from opening a terminal.
///
/// # Errors
/// As `ioctl`.
pub fn exclusive(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed; the request takes no argument.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCEXCL) }.into()).map(drop)
}

/// Stops a terminal's output.
///
/// # Errors
/// As `ioctl`.
pub fn stop(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed; the request takes an integer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TCXONC, libc::TCOOFF) }.into()).map(drop)
}

/// Opens `/dev/tty` where it is `terminal`, which must be nobody's controlling terminal: by a helper that makes it its own
/// meanwhile.
///
/// # Errors
/// As the calls of the helper.
pub fn by_its_session(terminal: &OwnedFd, flags: i32) -> io::Result<OwnedFd> {
    let fd = terminal.as_raw_fd();
    let reserved = terminal.try_clone()?;
    let target = reserved.as_raw_fd();
    let flags = flags | libc::O_NOCTTY;
    let exit_signal = libc::SIGCHLD;
    // SAFETY: (1) without CLONE_VM the child has memory of its own; (2) it makes system calls only, so that locks which
    // others may have held do not matter to it; (3) with CLONE_FILES the descriptors it uses are this process's, which
    // does nothing but wait meanwhile; (4) `target` is replaced, not closed: its owner keeps owning it.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | exit_signal, 0, 0, 0, 0) })?;
    if pid == 0 {
        // SAFETY: as above; the path is a constant that ends with a NUL.
        unsafe {
            let done = |result: i32| {
                if result < 0 {
                    libc::_exit(*libc::__errno_location());
                }
                result
            };
            // Giving it up again tells the foreground, which is this process.
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            done(libc::setsid());
            done(libc::ioctl(fd, libc::TIOCSCTTY, 0));
            let opened = done(libc::open(c"/dev/tty".as_ptr(), flags));
            done(libc::dup3(opened, target, libc::O_CLOEXEC));
            libc::close(opened);
            done(libc::ioctl(target, libc::TIOCNOTTY));
            libc::_exit(0);
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match super::wait(pid as super::Tid, deadline)? {
            super::Stop::Exited(0) => return Ok(reserved),
            super::Stop::Exited(status) => return Err(io::Error::from_raw_os_error(status >> 8 & 0xFF)),
            _ => {}
        }
    }
}
