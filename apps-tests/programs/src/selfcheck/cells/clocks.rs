//! Clocks never run backwards and keep their distances.

use crate::cell::{Cell, Context};
use crate::sys::clock;
use anyhow::{ensure, Result};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "clocks/forward",
        what: "no clock is earlier than a reading taken before the failure",
        covers: &["Machine.clock", "Clock.monotonic", "Clock.boottime", "Clock.realtime"],
        caught: None,
        run: forward,
    },
    Cell {
        name: "clocks/distance",
        what: "REALTIME − MONOTONIC and BOOTTIME − MONOTONIC are kept to 100 ms, TAI − REALTIME to the second",
        covers: &["Clock.realtime", "Clock.boottime", "Clock.tai_offset"],
        caught: None,
        run: distance,
    },
    Cell {
        name: "clocks/cpu-time",
        what: "the CPU time of thread and process is not less than before",
        covers: &["Thread.utime", "Thread.stime"],
        caught: None,
        run: cpu_time,
    },
];

const CLOCKS: [(i32, &str); 8] = [
    (libc::CLOCK_REALTIME, "CLOCK_REALTIME"),
    (libc::CLOCK_MONOTONIC, "CLOCK_MONOTONIC"),
    (libc::CLOCK_MONOTONIC_RAW, "CLOCK_MONOTONIC_RAW"),
    (libc::CLOCK_REALTIME_COARSE, "CLOCK_REALTIME_COARSE"),
    (libc::CLOCK_MONOTONIC_COARSE, "CLOCK_MONOTONIC_COARSE"),
    (libc::CLOCK_BOOTTIME, "CLOCK_BOOTTIME"),
    (libc::CLOCK_TAI, "CLOCK_TAI"),
    (libc::CLOCK_THREAD_CPUTIME_ID, "CLOCK_THREAD_CPUTIME_ID"),
];

/// Rounds a coarse clock may lag behind the fine one: one tick at 100 Hz.
const TICK: u64 = 10_000_000;

fn forward(context: &mut Context) -> Result<()> {
    let mut latest = CLOCKS.map(|(id, _)| clock::read(id));
    context.ready(|| {
        latest[1] += 3600 * 1_000_000_000;
        Ok(())
    })?;
    // Read all the way, so that the last reading lies close to the failure.
    loop {
        let seen = context.seen();
        for ((id, name), latest) in CLOCKS.iter().zip(&mut latest) {
            for now in [clock::read(*id), clock::read_by_syscall(*id)?] {
                ensure!(
                    now + u64::from(now < *latest && name.ends_with("COARSE")) * TICK >= *latest,
                    "{name} went from {latest} to {now}"
                );
                *latest = now.max(*latest);
            }
        }
        if seen {
            return Ok(());
        }
        clock::nanosleep(std::time::Duration::from_millis(1));
    }
}

/// The clocks are read one after the other: of several readings the quickest counts, so that the thread's waiting for a
/// CPU in between is not taken for a distance.
fn distances() -> [i64; 3] {
    let once = || {
        let monotonic = clock::now() as i64;
        let realtime = clock::read(libc::CLOCK_REALTIME) as i64;
        let boottime = clock::read(libc::CLOCK_BOOTTIME) as i64;
        let tai = clock::read(libc::CLOCK_TAI) as i64;
        let took = clock::now() as i64 - monotonic;
        (took, [realtime - monotonic, boottime - monotonic, tai - realtime])
    };
    let quickest = (0..50).map(|_| once()).min_by_key(|(took, _)| *took);
    quickest.map_or([0; 3], |(_, distances)| distances)
}

fn distance(context: &mut Context) -> Result<()> {
    let mut before = distances();
    context.failover(|| {
        before[0] += 1_000_000_000;
        Ok(())
    })?;
    let names = ["REALTIME − MONOTONIC", "BOOTTIME − MONOTONIC", "TAI − REALTIME"];
    for ((name, now), before) in names.iter().zip(distances()).zip(before) {
        let drift = now.abs_diff(before);
        ensure!(drift < 100_000_000, "{name} moved by {drift} ns");
    }
    Ok(())
}

fn cpu_time(context: &mut Context) -> Result<()> {
    // A quarter of a second of work, so that starting from zero shows.
    while clock::read(libc::CLOCK_PROCESS_CPUTIME_ID) < 250_000_000 {
        std::hint::black_box(0);
    }
    let read = || [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID].map(clock::read);
    let mut before = read();
    context.failover(|| {
        before[0] += 3600 * 1_000_000_000;
        Ok(())
    })?;
    for (name, (now, before)) in ["process", "thread"].iter().zip(read().into_iter().zip(before)) {
        // Accounting by ticks may lose the last one.
        ensure!(
            now + TICK >= before,
            "CPU time of the {name}: {now} ns, was {before} ns"
        );
    }
    Ok(())
}
