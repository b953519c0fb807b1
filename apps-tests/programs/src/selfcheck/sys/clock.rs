//! Clocks, sleeps, and `times`.

use super::check;
use anyhow::Result;
use std::time::Duration;

/// A `timespec` of so many nanoseconds.
pub fn timespec(nanoseconds: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    }
}

/// Nanoseconds of a `timespec`; negative ones count as 0.
pub fn nanoseconds(time: &libc::timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Reads a clock the way a program does: through the C library and the vDSO.
pub fn read(clock: i32) -> u64 {
    let mut time = timespec(0);
    // SAFETY: `time` is a valid timespec for the whole call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    nanoseconds(&time)
}

/// Reads a clock through the system call.
pub fn read_by_syscall(clock: i32) -> Result<u64> {
    let mut time = timespec(0);
    // SAFETY: `time` is a valid timespec for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &mut time) };
    check("clock_gettime", ret)?;
    Ok(nanoseconds(&time))
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Ticks of 1/100 s since the running kernel started, plus a constant. Unlike every clock it starts anew with the kernel.
pub fn ticks() -> i64 {
    // SAFETY: a null buffer is allowed: only the return value is wanted.
    unsafe { libc::syscall(libc::SYS_times, 0) }
}

/// `nanosleep`, without restarting it. Returns the errno, 0 if it slept to the end, and the remainder it wrote.
pub fn nanosleep(time: Duration) -> (i32, u64) {
    let request = timespec(time.as_nanos() as u64);
    let mut rest = timespec(0);
    // SAFETY: both timespecs are valid for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_nanosleep, &request, &mut rest) };
    (super::errno(ret), nanoseconds(&rest))
}

/// `clock_nanosleep` to an absolute instant. Returns the errno, 0 if it slept to the end.
pub fn sleep_until(clock: i32, deadline: u64) -> i32 {
    let request = timespec(deadline);
    let none = std::ptr::null_mut::<libc::timespec>();
    // SAFETY: `request` is valid for the whole call and an absolute sleep writes no remainder.
    let ret = unsafe { libc::syscall(libc::SYS_clock_nanosleep, clock, libc::TIMER_ABSTIME, &request, none) };
    super::errno(ret)
}

/// Address of the vDSO, 0 if there is none.
pub fn vdso_base() -> u64 {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) }
}
