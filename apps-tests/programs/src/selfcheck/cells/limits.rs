//! Limits and scheduling.

use crate::cell::{same, Cell, Context};
use crate::sys::process;
use anyhow::Result;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "limits/resources",
        what: "soft and hard value of all 16 resource limits",
        covers: &["Process.rlimits"],
        caught: None,
        run: resources,
    },
    Cell {
        name: "limits/nice",
        what: "the nice value",
        covers: &["Thread.sched", "Sched.nice"],
        caught: None,
        run: nice,
    },
    Cell {
        name: "limits/batch",
        what: "SCHED_BATCH with reset on fork",
        covers: &["Sched.policy", "Sched.reset_on_fork"],
        caught: None,
        run: batch,
    },
    Cell {
        name: "limits/real-time",
        what: "SCHED_RR with a priority",
        covers: &["Sched.policy", "Sched.rt_priority"],
        caught: None,
        run: real_time,
    },
    Cell {
        name: "limits/affinity",
        what: "the CPUs the thread may run on, and that it runs there",
        covers: &["Thread.affinity"],
        caught: None,
        run: affinity,
    },
    Cell {
        name: "limits/io-priority",
        what: "the I/O priority",
        covers: &["Thread.ioprio"],
        caught: None,
        run: io_priority,
    },
    Cell {
        name: "limits/timer-slack",
        what: "the timer slack",
        covers: &["Thread.timer_slack"],
        caught: None,
        run: timer_slack,
    },
    Cell {
        name: "limits/oom-score",
        what: "oom_score_adj",
        covers: &["Process.oom_score_adj"],
        caught: None,
        run: oom_score,
    },
    Cell {
        name: "limits/dump-filter",
        what: "coredump_filter",
        covers: &["Process.coredump_filter"],
        caught: None,
        run: dump_filter,
    },
];

/// Resources 0…15 (RLIMIT_CPU … RLIMIT_RTTIME).
const RESOURCES: std::ops::Range<u32> = 0..16;

fn resources(context: &mut Context) -> Result<()> {
    for resource in RESOURCES {
        let (_, hard) = process::limit(resource)?;
        // Large enough not to disturb the cell, and different for each resource.
        let soft = (1 << 40).min(hard).saturating_sub(u64::from(resource)).max(64);
        let soft = if resource == libc::RLIMIT_NOFILE {
            hard.min(1000)
        } else {
            soft.min(hard)
        };
        process::set_limit(resource, soft, hard)?;
    }
    let state = || RESOURCES.map(process::limit).collect::<Result<Vec<_>>>();
    let before = state()?;
    context.failover(|| {
        let (soft, hard) = process::limit(libc::RLIMIT_CORE)?;
        process::set_limit(libc::RLIMIT_CORE, soft.saturating_sub(1).min(7), hard)
    })?;
    for (resource, (now, before)) in state()?.into_iter().zip(before).enumerate() {
        same(&format!("limit {resource}"), now, before)?;
    }
    Ok(())
}

fn nice(context: &mut Context) -> Result<()> {
    process::setpriority(0, 0, 7)?;
    context.failover(|| process::setpriority(0, 0, 9).map(drop))?;
    same("20 − nice", process::getpriority(0, 0)?, 13)
}

const SCHED_RESET_ON_FORK: i32 = 0x4000_0000;

fn batch(context: &mut Context) -> Result<()> {
    let policy = libc::SCHED_BATCH | SCHED_RESET_ON_FORK;
    process::set_scheduler(policy, 0)?;
    context.failover(|| process::set_scheduler(libc::SCHED_IDLE, 0))?;
    same("policy and priority", process::scheduler()?, (policy.into(), 0))
}

fn real_time(context: &mut Context) -> Result<()> {
    if process::set_scheduler(libc::SCHED_RR, 3).is_err() {
        return context.skip("real-time scheduling is not allowed");
    }
    context.failover(|| process::set_scheduler(libc::SCHED_RR, 4))?;
    same("policy and priority", process::scheduler()?, (libc::SCHED_RR.into(), 3))
}

fn affinity(context: &mut Context) -> Result<()> {
    let all = process::affinity()?;
    let last = (0..1024usize)
        .rev()
        .find(|cpu| all[cpu / 64] & (1 << (cpu % 64)) != 0)
        .unwrap_or(0);
    let mut one = [0; 16];
    one[last / 64] = 1 << (last % 64);
    if one == all {
        return context.skip("there is one CPU only");
    }
    process::set_affinity(&one)?;
    context.failover(|| process::set_affinity(&all))?;
    same("mask", process::affinity()?, one)?;
    same("CPU", process::current_cpu()?, last as u32)
}

fn io_priority(context: &mut Context) -> Result<()> {
    const PROCESS: i64 = 1;
    const BEST_EFFORT: i64 = 2 << 13;
    process::ioprio_set(PROCESS, 0, BEST_EFFORT | 6)?;
    context.failover(|| process::ioprio_set(PROCESS, 0, BEST_EFFORT | 1).map(drop))?;
    same("I/O priority", process::ioprio_get(PROCESS, 0)?, BEST_EFFORT | 6)
}

fn timer_slack(context: &mut Context) -> Result<()> {
    process::TIMERSLACK.set(123_456)?;
    context.failover(|| process::TIMERSLACK.set(50_000))?;
    same("timer slack", process::TIMERSLACK.get()?, 123_456)
}

fn proc_value(context: &Context, path: &str, value: &str, other: &str) -> Result<()> {
    std::fs::write(path, value)?;
    let before = std::fs::read_to_string(path)?;
    context.failover(|| Ok(std::fs::write(path, other)?))?;
    same(path, std::fs::read_to_string(path)?, before)
}

fn oom_score(context: &mut Context) -> Result<()> {
    proc_value(context, "/proc/self/oom_score_adj", "432", "433")
}

fn dump_filter(context: &mut Context) -> Result<()> {
    proc_value(context, "/proc/self/coredump_filter", "0x55", "0x33")
}
