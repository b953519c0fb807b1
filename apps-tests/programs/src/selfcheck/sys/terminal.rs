//! Pseudo terminals.

use super::{check, errno, file};
use anyhow::Result;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Bytes of `struct termios2` (include/uapi/asm-generic/termbits.h): four words of flags, the line discipline, 19 control
/// characters, two speeds.
pub type Settings = [u8; 44];
const TCGETS2: libc::c_ulong = 0x802C_542A;
const TCSETS2: libc::c_ulong = 0x402C_542B;
const TIOCGPTN: libc::c_ulong = 0x8004_5430;
const TIOCSPTLCK: libc::c_ulong = 0x4004_5431;
const TIOCGPTLCK: libc::c_ulong = 0x8004_5439;
const TIOCGPKT: libc::c_ulong = 0x8004_5438;
const TIOCGEXCL: libc::c_ulong = 0x8004_5440;

/// An ioctl with a pointer to something of the right size, which the callers' types ensure.
fn ioctl<T>(fd: &impl AsFd, request: libc::c_ulong, value: &mut T) -> Result<()> {
    // SAFETY: (1) the descriptor is borrowed; (2) the request reads or writes a `T`, valid for the whole call.
    check(
        "ioctl",
        i64::from(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, value) }),
    )
    .map(drop)
}

fn word(fd: &impl AsFd, request: libc::c_ulong) -> Result<i32> {
    let mut value = 0i32;
    ioctl(fd, request, &mut value)?;
    Ok(value)
}

/// A new master, its slave not locked, and the slave's number.
pub fn master(flags: i32) -> Result<(File, i32)> {
    let master = file::open(Path::new("/dev/ptmx"), true, flags | libc::O_NOCTTY)?;
    ioctl(&master, TIOCSPTLCK, &mut 0i32)?;
    let number = word(&master, TIOCGPTN)?;
    Ok((master, number))
}

/// Opens a slave.
pub fn slave(number: i32, flags: i32) -> Result<File> {
    file::open(Path::new(&format!("/dev/pts/{number}")), true, flags | libc::O_NOCTTY)
}

/// The settings.
pub fn settings(fd: &impl AsFd) -> Result<Settings> {
    let mut bytes = [0; 44];
    ioctl(fd, TCGETS2, &mut bytes)?;
    Ok(bytes)
}

/// Sets them.
pub fn set(fd: &impl AsFd, settings: Settings) -> Result<()> {
    ioctl(fd, TCSETS2, &mut { settings })
}

/// Changes one of the four words of flags: input, output, control, local.
pub fn change(fd: &impl AsFd, at: usize, on: u32, off: u32) -> Result<()> {
    let mut bytes = settings(fd)?;
    let word = &mut bytes[at * 4..at * 4 + 4];
    let old = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
    word.copy_from_slice(&(old & !off | on).to_ne_bytes());
    set(fd, bytes)
}

/// Sets a control character.
pub fn set_character(fd: &impl AsFd, at: usize, character: u8) -> Result<()> {
    let mut bytes = settings(fd)?;
    bytes[17 + at] = character;
    set(fd, bytes)
}

/// No lines, no echo, no signals, every byte as it is.
pub fn make_raw(fd: &impl AsFd) -> Result<()> {
    for at in [0, 1, 3] {
        change(fd, at, 0, u32::MAX)?;
    }
    Ok(())
}

/// Rows, columns, pixels across and down.
pub fn window(fd: &impl AsFd) -> Result<[u16; 4]> {
    let mut window = [0; 4];
    ioctl(fd, libc::TIOCGWINSZ, &mut window)?;
    Ok(window)
}

/// Sets them.
pub fn set_window(fd: &impl AsFd, window: [u16; 4]) -> Result<()> {
    ioctl(fd, libc::TIOCSWINSZ, &mut { window })
}

/// Whether the slave is locked, packets are read, the terminal is exclusive.
pub fn modes(master: &impl AsFd, slave: &impl AsFd) -> Result<[i32; 3]> {
    Ok([
        word(master, TIOCGPTLCK)?,
        word(master, TIOCGPKT)?,
        word(slave, TIOCGEXCL)?,
    ])
}

/// Locks the slave.
pub fn lock(master: &impl AsFd) -> Result<()> {
    ioctl(master, TIOCSPTLCK, &mut 1i32)
}

/// Reads packets.
pub fn packets(master: &impl AsFd) -> Result<()> {
    ioctl(master, libc::TIOCPKT, &mut 1i32)
}

/// Keeps others out.
pub fn exclusive(slave: &impl AsFd) -> Result<()> {
    // SAFETY: the descriptor is borrowed; the request takes no argument.
    check(
        "TIOCEXCL",
        i64::from(unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCEXCL) }),
    )
    .map(drop)
}

/// Stops output, or lets it go on (`TCOOFF`, `TCOON`).
pub fn flow(slave: &impl AsFd, action: i32) -> Result<()> {
    // SAFETY: the descriptor is borrowed; the request takes an integer.
    let ret = unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TCXONC, action) };
    check("TCXONC", ret.into()).map(drop)
}

/// Makes a terminal the controlling one of this session.
pub fn control(slave: &impl AsFd) -> Result<()> {
    // SAFETY: the descriptor is borrowed; the request takes an integer.
    let ret = unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    check("TIOCSCTTY", ret.into()).map(drop)
}

/// Foreground group and session: what it says, or the negated errno.
pub fn foreground(fd: &impl AsFd) -> [i32; 2] {
    [libc::TIOCGPGRP, libc::TIOCGSID].map(|request| {
        let mut value = 0i32;
        // SAFETY: (1) the descriptor is borrowed; (2) the request writes an int.
        let ret = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut value) };
        match errno(ret.into()) {
            0 => value,
            errno => -errno,
        }
    })
}

/// Puts a group into the foreground.
pub fn set_foreground(fd: &impl AsFd, group: i32) -> Result<()> {
    ioctl(fd, libc::TIOCSPGRP, &mut { group })
}
