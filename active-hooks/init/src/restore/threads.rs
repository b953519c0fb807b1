//! What belongs to one thread: registration with the kernel, scheduling, names, interrupted calls.

use super::{
    batch::{Arg, Batch},
    creds,
    host::Host,
    restrictions,
    tracee::{self, Tracee},
    user_memory::UserMemory,
    OrRefuse, Refusal, Restored,
};
use crate::sys::{self, Registers, SchedAttr, Tid};
use shared_region::{
    context::{Resume, Thread},
    device::{resume_kind, ResumeCall},
};
use zerocopy::IntoBytes;

const PR_SET_PDEATHSIG: u64 = 1;
const PR_SET_NAME: u64 = 15;
const PR_SET_TIMERSLACK: u64 = 29;
const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
const ROBUST_HEAD_SIZE: u64 = 24;
/// Flags of a signal stack (include/uapi/linux/signal.h). SS_ONSTACK is not for the caller to set.
const SS_DISABLE: u32 = 2;
/// See [`SS_DISABLE`].
const SS_AUTODISARM: u32 = 1 << 31;
/// Bytes of the `syscall` instruction.
const SYSCALL_SIZE: u64 = 2;
/// Offset of `rseq_cs` in `struct rseq` (include/uapi/linux/rseq.h).
const RSEQ_CS: u64 = 8;

/// What cannot be restored is found before anything is built.
pub fn check(thread: &Thread) -> Restored<()> {
    creds::check(&thread.creds)?;
    restrictions::check(&thread.seccomp)?;
    if !thread.unusual.is_empty() {
        return Err(Refusal::new(
            format!("thread {}", thread.tid),
            thread.unusual.join(", "),
        ));
    }
    Ok(())
}

/// Registers with the kernel what the thread's library registered. Its memory must be there.
pub fn registrations(batch: &mut Batch<'_>, thread: &Thread) -> Restored<()> {
    let tid = thread.tid;
    batch.call(
        format!("robust list of thread {tid}"),
        libc::SYS_set_robust_list,
        [thread.robust_list.into(), ROBUST_HEAD_SIZE.into()],
    )?;
    batch.call(
        format!("thread {tid}"),
        libc::SYS_set_tid_address,
        [thread.clear_child_tid.into()],
    )?;
    let (address, size, flags) = thread.sigaltstack;
    let flags = if size == 0 { SS_DISABLE } else { flags & SS_AUTODISARM };
    let stack = [address, u64::from(flags), size];
    batch.call(
        format!("signal stack of thread {tid}"),
        libc::SYS_sigaltstack,
        [Arg::Bytes(stack.as_bytes()), 0u64.into()],
    )?;
    let (area, length, signature) = thread.rseq;
    if area != 0 {
        batch.call(
            format!("rseq of thread {tid}"),
            libc::SYS_rseq,
            [area.into(), length.into(), 0u64.into(), signature.into()],
        )?;
    }
    Ok(())
}

/// The critical section a thread was in, if any: registering clears it, and the thread must be led out of it.
pub fn rseq_section(pid: u32, thread: &Thread) -> Option<u64> {
    let (area, ..) = thread.rseq;
    if area == 0 {
        return None;
    }
    let section = UserMemory::of(pid)
        .and_then(|memory| memory.word(area + RSEQ_CS))
        .ok()?;
    Some(section).filter(|section| *section != 0)
}

/// Puts a critical section back; the kernel then aborts it on the way to user mode, as after any preemption.
fn put_rseq_section(pid: u32, thread: &Thread, section: u64) -> Restored<()> {
    UserMemory::of(pid)
        .and_then(|memory| memory.write(thread.rseq.0 + RSEQ_CS, &section.to_le_bytes()))
        .map_err(|refusal| Refusal::new(format!("rseq of thread {}", thread.tid), refusal))
}

/// Name, scheduling and the like.
pub fn attributes(batch: &mut Batch<'_>, thread: &Thread) -> Restored<()> {
    let tid = thread.tid;
    let name = [thread.comm.as_slice(), &[0]].concat();
    batch.call(
        format!("name of thread {tid}"),
        libc::SYS_prctl,
        [PR_SET_NAME.into(), Arg::Bytes(&name)],
    )?;
    scheduling(batch, thread)?;
    if thread.ioprio != 0 {
        sys::set_io_priority(tid as Tid, thread.ioprio).or_refuse(|| format!("I/O priority of thread {tid}"))?;
    }
    if thread.timer_slack != 0 {
        batch.call(
            format!("timer slack of thread {tid}"),
            libc::SYS_prctl,
            [PR_SET_TIMERSLACK.into(), thread.timer_slack.into()],
        )?;
    }
    batch.call(
        format!("personality of thread {tid}"),
        libc::SYS_personality,
        [thread.personality.into()],
    )?;
    let (mode, nodes) = &thread.mempolicy;
    if *mode != 0 {
        let bits = nodes.len() as u64 * 64 + 1;
        batch.call(
            format!("memory policy of thread {tid}"),
            libc::SYS_set_mempolicy,
            [(*mode).into(), Arg::Bytes(nodes.as_bytes()), bits.into()],
        )?;
    }
    Ok(())
}

fn scheduling(batch: &mut Batch<'_>, thread: &Thread) -> Restored<()> {
    let sched = &thread.sched;
    let (runtime, deadline, period) = sched.deadline;
    let attributes = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: sched.policy,
        flags: if sched.reset_on_fork {
            SCHED_FLAG_RESET_ON_FORK
        } else {
            0
        },
        nice: sched.nice,
        priority: sched.rt_priority,
        deadline: [runtime, deadline, period],
    };
    let what = || format!("scheduling of thread {}", thread.tid);
    // From outside: in a user namespace of its own the thread may not raise itself.
    sys::set_scheduling(thread.tid as Tid, &attributes).or_refuse(what)?;
    let affinity = thread.affinity.as_bytes();
    if affinity.iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    let size = affinity.len() as u64;
    batch.call(
        what(),
        libc::SYS_sched_setaffinity,
        [0u64.into(), size.into(), Arg::Bytes(affinity)],
    )
}

/// Restrictions and credentials, and what a change of credentials resets.
pub fn restrict(batch: &mut Batch<'_>, thread: &Thread, own: creds::Own) -> Restored<()> {
    restrictions::install(batch, &thread.seccomp)?;
    creds::set(batch, &thread.creds, own)?;
    restrictions::no_new_privs(batch, thread)?;
    if thread.pdeath_signal != 0 {
        batch.call(
            format!("death signal of thread {}", thread.tid),
            libc::SYS_prctl,
            [PR_SET_PDEATHSIG.into(), thread.pdeath_signal.into()],
        )?;
    }
    Ok(())
}

/// Offsets of the process's clocks from the kernel's own: CLOCK_MONOTONIC, CLOCK_BOOTTIME, in nanoseconds.
pub type ClockOffsets = (i64, i64);

/// The registers to start with. A thread whose interrupted call goes on starts with `restart_syscall`.
pub fn registers(thread: &Thread) -> Registers {
    let mut registers = thread.regs;
    let restart = libc::SYS_restart_syscall as u64;
    let goes_on = !matches!(thread.resume, Resume::Registers | Resume::Undecided);
    if goes_on && registers[tracee::RAX] != restart {
        registers[tracee::RAX] = restart;
        registers[tracee::RIP] = registers[tracee::RIP].wrapping_sub(SYSCALL_SIZE);
    }
    registers
}

/// Gives a thread the state it goes on with; `section` is the restartable sequence it was in.
pub fn settle(
    tracee: &Tracee,
    thread: &Thread,
    section: Option<u64>,
    offsets: ClockOffsets,
    host: &dyn Host,
) -> Restored<()> {
    if let Some(section) = section {
        put_rseq_section(thread.tgid, thread, section)?;
    }
    tracee.set_state(&registers(thread), &thread.xstate, blocked(thread))?;
    resume(thread, offsets, host)
}

/// The signals a thread has blocked when it goes on.
pub fn blocked(thread: &Thread) -> u64 {
    thread.saved_blocked.unwrap_or(thread.blocked)
}

/// Prepares an interrupted call to go on when the thread does.
fn resume(thread: &Thread, offsets: ClockOffsets, host: &dyn Host) -> Restored<()> {
    let kernel_time = |clock: i32, expires: u64| match clock {
        libc::CLOCK_MONOTONIC => expires.saturating_add_signed(-offsets.0),
        libc::CLOCK_BOOTTIME => expires.saturating_add_signed(-offsets.1),
        _ => expires,
    };
    let tid = u64::from(thread.tid);
    let call = match thread.resume {
        Resume::Registers | Resume::Undecided => return Ok(()),
        Resume::Sleep { clock, expires, remain } => ResumeCall {
            tid,
            kind: resume_kind::SLEEP,
            a: clock as u64,
            b: remain,
            expires: kernel_time(clock, expires),
            c: 0,
        },
        Resume::Futex {
            uaddr,
            val,
            flags,
            bitset,
            expires,
        } => {
            let clock = if flags & libc::FUTEX_CLOCK_REALTIME as u32 != 0 {
                libc::CLOCK_REALTIME
            } else {
                libc::CLOCK_MONOTONIC
            };
            ResumeCall {
                tid,
                kind: resume_kind::FUTEX,
                a: val.into(),
                b: uaddr,
                expires: kernel_time(clock, expires),
                c: u64::from(flags) | u64::from(bitset) << 32,
            }
        }
        Resume::Poll { fds, count, expires } => ResumeCall {
            tid,
            kind: resume_kind::POLL,
            a: count.into(),
            b: fds,
            expires: kernel_time(libc::CLOCK_MONOTONIC, expires),
            c: 0,
        },
    };
    host.resume_call(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_call_goes_on_from_its_instruction() {
        let mut thread = Thread::default();
        thread.regs[tracee::RIP] = 0x1002;
        assert_eq!(registers(&thread), thread.regs);
        thread.resume = Resume::Sleep {
            clock: 1,
            expires: 5,
            remain: 0,
        };
        let started = registers(&thread);
        assert_eq!((started[tracee::RIP], started[tracee::RAX]), (0x1000, 219));
    }
}
