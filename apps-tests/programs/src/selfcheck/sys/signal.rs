//! Signals and the timers that send them.

use super::clock::{nanoseconds, timespec};
use super::{check, errno};
use anyhow::Result;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// First real-time signal the C library leaves to programs.
pub const RT: i32 = 34;

/// The bit of a signal in a mask of the kernel ABI.
pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// `struct sigaction` as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Disposition {
    /// SIG_DFL, SIG_IGN or an address.
    pub handler: usize,
    /// SA_*.
    pub flags: u64,
    /// Return trampoline.
    pub restorer: usize,
    /// Blocked meanwhile.
    pub mask: u64,
}

/// The disposition of a signal.
pub fn disposition(signal: i32) -> Result<Disposition> {
    let mut now = Disposition::default();
    // SAFETY: `now` has the layout of the kernel's structure.
    let ret = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, 0, &mut now, 8) };
    check("rt_sigaction", ret)?;
    Ok(now)
}

/// Ignores a signal, or gives it back its default.
pub fn ignore(signal: i32, ignored: bool) -> Result<()> {
    let handler = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler is installed.
    let ret = unsafe { libc::signal(signal, handler) };
    check("signal", if ret == libc::SIG_ERR { -1 } else { 0 }).map(drop)
}

/// Signals counted by [`count`], by number.
static COUNTS: [AtomicU64; 65] = [const { AtomicU64::new(0) }; 65];
/// Stack pointer of the last handler.
static HANDLER_STACK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn counting_handler(signal: i32) {
    let here = 0u8;
    HANDLER_STACK.store(&raw const here as usize, Ordering::Relaxed);
    if let Some(count) = COUNTS.get(signal as usize) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a signal from now on, with SA_* flags and a mask of the kernel ABI.
pub fn count(signal: i32, flags: i32, mask: u64) -> Result<()> {
    // SAFETY: all zeros is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = counting_handler as extern "C" fn(i32) as usize;
    action.sa_flags = flags;
    for other in 1..=64 {
        if mask & bit(other) != 0 {
            // SAFETY: the set is valid and the number is a signal's; 32 and 33 are refused, which is wanted.
            unsafe { libc::sigaddset(&mut action.sa_mask, other) };
        }
    }
    // SAFETY: the handler touches atomics only, which is allowed in a signal handler.
    let ret = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    check("sigaction", ret.into()).map(drop)
}

/// How often a signal came since [`count`].
pub fn counted(signal: i32) -> u64 {
    COUNTS[signal as usize].load(Ordering::Relaxed)
}

/// Where the stack was in the last counting handler.
pub fn handler_stack() -> usize {
    HANDLER_STACK.load(Ordering::Relaxed)
}

/// Changes the calling thread's mask (SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK) and returns the old one.
pub fn mask(how: i32, set: u64) -> Result<u64> {
    let mut old = 0u64;
    // SAFETY: both sets are 8 bytes long, as said.
    let ret = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &set, &mut old, 8) };
    check("rt_sigprocmask", ret)?;
    Ok(old)
}

/// The calling thread's mask.
pub fn blocked() -> Result<u64> {
    mask(libc::SIG_BLOCK, 0)
}

/// Signals pending for the thread or the process.
pub fn pending() -> Result<u64> {
    let mut set = 0u64;
    // SAFETY: the set is 8 bytes long, as said.
    let ret = unsafe { libc::syscall(libc::SYS_rt_sigpending, &mut set, 8) };
    check("rt_sigpending", ret)?;
    Ok(set)
}

/// What a `siginfo_t` of a queued signal says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Signal.
    pub signal: i32,
    /// SI_*.
    pub code: i32,
    /// Sender.
    pub pid: i32,
    /// Its user.
    pub uid: i32,
    /// `sigval`.
    pub value: u64,
}

#[repr(C, align(8))]
struct RawInfo([i32; 32]);

impl RawInfo {
    fn new(info: Info) -> Self {
        let mut raw = [0; 32];
        raw[0] = info.signal;
        raw[2] = info.code;
        raw[4] = info.pid;
        raw[5] = info.uid;
        raw[6] = info.value as i32;
        raw[7] = (info.value >> 32) as i32;
        Self(raw)
    }

    fn info(&self) -> Info {
        Info {
            signal: self.0[0],
            code: self.0[2],
            pid: self.0[4],
            uid: self.0[5],
            value: u64::from(self.0[6] as u32) | u64::from(self.0[7] as u32) << 32,
        }
    }
}

/// Queues a signal with its info for this process, or for one of its threads.
pub fn queue(pid: i64, tid: Option<i64>, info: Info) -> Result<()> {
    let raw = RawInfo::new(info);
    // SAFETY: the info is 128 bytes, valid for the whole call.
    let ret = unsafe {
        match tid {
            Some(tid) => libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, info.signal, &raw),
            None => libc::syscall(libc::SYS_rt_sigqueueinfo, pid, info.signal, &raw),
        }
    };
    check("rt_sigqueueinfo", ret).map(drop)
}

/// One `rt_sigtimedwait`, not restarted: errno (0 if a signal was taken) and the signal's info.
pub fn wait_for(set: u64, timeout: Option<u64>) -> (i32, Info) {
    let mut raw = RawInfo([0; 32]);
    let time = timespec(timeout.unwrap_or(0));
    let time = timeout.map_or(std::ptr::null(), |_| &raw const time);
    // SAFETY: the set is 8 bytes long, the info 128, and the time is null or valid for the whole call.
    let ret = unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &set, &mut raw, time, 8) };
    (errno(ret), raw.info())
}

/// `rt_sigsuspend`: waits under another mask until a handler has run.
pub fn suspend(mask: u64) -> i32 {
    // SAFETY: the set is 8 bytes long, as said.
    errno(unsafe { libc::syscall(libc::SYS_rt_sigsuspend, &mask, 8) })
}

/// The calling thread's alternate stack: address, bytes, flags.
pub fn alternate_stack() -> Result<(usize, usize, i32)> {
    let mut stack = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    // SAFETY: asks only.
    let ret = unsafe { libc::sigaltstack(std::ptr::null(), &mut stack) };
    check("sigaltstack", ret.into())?;
    Ok((stack.ss_sp as usize, stack.ss_size, stack.ss_flags))
}

/// Makes a mapping the calling thread's alternate stack. It is leaked, because handlers may use it from now on.
pub fn set_alternate_stack(memory: super::memory::Region) -> Result<()> {
    let stack = libc::stack_t {
        ss_sp: memory.address() as *mut _,
        ss_flags: 0,
        ss_size: memory.bytes(),
    };
    std::mem::forget(memory);
    // SAFETY: the stack lies in a mapping that is never unmapped.
    let ret = unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
    check("sigaltstack", ret.into()).map(drop)
}

/// Takes the alternate stack away.
pub fn disable_alternate_stack() -> Result<()> {
    let stack = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: handlers then run on the ordinary stack.
    let ret = unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
    check("sigaltstack", ret.into()).map(drop)
}

/// Sets ITIMER_REAL (0), VIRTUAL (1) or PROF (2): value and interval in microseconds.
pub fn set_itimer(which: i32, value: u64, interval: u64) -> Result<()> {
    let spec = [
        (interval / 1_000_000) as i64,
        (interval % 1_000_000) as i64,
        (value / 1_000_000) as i64,
        (value % 1_000_000) as i64,
    ];
    // SAFETY: `struct itimerval` is four words; no old value is asked for.
    let ret = unsafe { libc::syscall(libc::SYS_setitimer, which, &spec, 0) };
    check("setitimer", ret).map(drop)
}

/// Value and interval of an interval timer in microseconds.
pub fn itimer(which: i32) -> Result<(u64, u64)> {
    let mut spec = [0i64; 4];
    // SAFETY: `struct itimerval` is four words.
    let ret = unsafe { libc::syscall(libc::SYS_getitimer, which, &mut spec) };
    check("getitimer", ret)?;
    let micros = |at: usize| spec[at] as u64 * 1_000_000 + spec[at + 1] as u64;
    Ok((micros(2), micros(0)))
}

/// A POSIX timer of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer(pub i32);

impl Timer {
    /// `timer_create`: SIGEV_* in `notify`, thread for SIGEV_THREAD_ID.
    pub fn new(clock: i32, notify: i32, signal: i32, value: u64, thread: i32) -> Result<Self> {
        let mut event = [0u64; 8];
        event[0] = value;
        event[1] = u64::from(signal as u32) | u64::from(notify as u32) << 32;
        event[2] = u64::from(thread as u32);
        let mut id = 0i32;
        // SAFETY: `struct sigevent` is 64 bytes (value, signal, notify, thread id), the id one int.
        let ret = unsafe { libc::syscall(libc::SYS_timer_create, clock, &event, &mut id) };
        check("timer_create", ret)?;
        Ok(Self(id))
    }

    /// Arms it: first expiry and interval in nanoseconds. `flags` may be TIMER_ABSTIME.
    pub fn set(self, flags: i32, value: u64, interval: u64) -> Result<()> {
        let spec = [timespec(interval), timespec(value)];
        // SAFETY: `struct itimerspec` is two timespecs; no old value is asked for.
        let ret = unsafe { libc::syscall(libc::SYS_timer_settime, self.0, flags, &spec, 0) };
        check("timer_settime", ret).map(drop)
    }

    /// What is left and the interval, in nanoseconds.
    pub fn get(self) -> Result<(u64, u64)> {
        let mut spec = [timespec(0), timespec(0)];
        // SAFETY: `struct itimerspec` is two timespecs.
        let ret = unsafe { libc::syscall(libc::SYS_timer_gettime, self.0, &mut spec) };
        check("timer_gettime", ret)?;
        Ok((nanoseconds(&spec[1]), nanoseconds(&spec[0])))
    }
}

impl Timer {
    /// Deletes it.
    pub fn delete(self) -> Result<()> {
        // SAFETY: takes an integer.
        check("timer_delete", unsafe { libc::syscall(libc::SYS_timer_delete, self.0) }).map(drop)
    }
}
