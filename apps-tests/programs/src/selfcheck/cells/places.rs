//! Where a thread is caught: every call that blocks, with its exact result afterwards.

use crate::cell::{join, same, Cell, Context};
use crate::sys::event::{self, epoll_control, epoll_wait};
use crate::sys::process::{self, fork, wait4};
use crate::sys::signal::{self, bit, Info};
use crate::sys::{clock, file, futex_wait, futex_wake, poll_none};
use anyhow::{ensure, Result};
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

macro_rules! place {
    ($name:literal, $what:literal, $covers:expr, $caught:literal, $run:ident) => {
        Cell {
            name: $name,
            what: $what,
            covers: $covers,
            caught: Some($caught),
            run: $run,
        }
    };
}

pub const CELLS: &[Cell] = &[
    place!(
        "place/vdso",
        "reading a clock without end: never backwards, and equal to the system call's",
        &["Thread.caught", "Caught.Vdso", "AddressSpace.vdso"],
        "vDSO",
        in_vdso
    ),
    place!(
        "place/page-fault",
        "touching fresh memory without end: every page reads as zero and keeps what is written",
        &["Caught.Kernel", "Backing.Anonymous"],
        "page fault",
        in_page_fault
    ),
    place!(
        "place/read",
        "read from an empty pipe: gets exactly what is written afterwards",
        &["Thread.resume", "Resume.Registers", "Caught.Syscall"],
        "read",
        in_read
    ),
    place!(
        "place/write",
        "write into a pipe that fills up in the middle: no byte twice, none lost",
        &["Thread.resume", "Bytes"],
        "write",
        in_write
    ),
    place!(
        "place/nanosleep",
        "nanosleep: result 0, for the time asked",
        &["Resume.Sleep"],
        "nanosleep",
        in_nanosleep
    ),
    place!(
        "place/clock-nanosleep",
        "clock_nanosleep until an instant of CLOCK_MONOTONIC: result 0, not before",
        &["Resume.Registers"],
        "clock_nanosleep absolute",
        in_clock_nanosleep
    ),
    place!(
        "place/futex",
        "futex without time-out: woken afterwards",
        &["Resume.Registers"],
        "futex",
        in_futex
    ),
    place!(
        "place/futex-timeout",
        "futex with a time-out: ETIMEDOUT after the time asked",
        &["Resume.Futex"],
        "futex with time-out",
        in_futex_timeout
    ),
    place!(
        "place/poll",
        "poll without time-out: the descriptor that becomes ready afterwards",
        &["Resume.Registers"],
        "poll",
        in_poll
    ),
    place!(
        "place/poll-timeout",
        "poll with a time-out: result 0 after the time asked",
        &["Resume.Poll"],
        "poll with time-out",
        in_poll_timeout
    ),
    place!(
        "place/select",
        "select without time-out: the descriptor that becomes ready afterwards",
        &["Resume.Registers"],
        "select",
        in_select
    ),
    place!(
        "place/epoll-wait",
        "epoll_wait without time-out: the event afterwards, or EINTR as after any signal",
        &["Resume.Registers", "OpenFileKind.Epoll"],
        "epoll_wait",
        in_epoll_wait
    ),
    place!(
        "place/wait4",
        "wait4: the status of a child that ends afterwards",
        &["Resume.Registers", "Process.exit_signal"],
        "wait4",
        in_wait4
    ),
    place!(
        "place/sigtimedwait",
        "rt_sigtimedwait without time-out: the signal sent afterwards, with its value",
        &["Resume.Registers", "Thread.blocked"],
        "rt_sigtimedwait",
        in_sigtimedwait
    ),
    place!(
        "place/eventfd-read",
        "read of an eventfd that is zero: the count added afterwards",
        &["Resume.Registers", "OpenFileKind.EventFd"],
        "read of an eventfd",
        in_eventfd_read
    ),
    place!(
        "place/timerfd-read",
        "read of a timerfd: one expiration at the instant it was armed for",
        &["Resume.Registers", "OpenFileKind.TimerFd"],
        "read of a timerfd",
        in_timerfd_read
    ),
];

fn in_vdso(context: &mut Context) -> Result<()> {
    let mut latest = clock::now();
    context.ready(|| {
        latest += 3600 * 1_000_000_000;
        Ok(())
    })?;
    loop {
        for _ in 0..200_000 {
            let now = clock::now();
            ensure!(now >= latest, "CLOCK_MONOTONIC went from {latest} to {now}");
            latest = now;
        }
        if context.seen() {
            let by_syscall = clock::read_by_syscall(libc::CLOCK_MONOTONIC)?;
            ensure!(
                by_syscall >= latest,
                "the system call says {by_syscall}, the vDSO said {latest}"
            );
            ensure!(
                by_syscall - latest < 2_000_000_000,
                "the system call says {by_syscall}, the vDSO said {latest}"
            );
            return Ok(());
        }
    }
}

fn in_page_fault(context: &mut Context) -> Result<()> {
    use crate::sys::memory::{Region, PAGE_WORDS};
    const PAGES: usize = 512;
    context.ready(|| Ok(()))?;
    for round in 0u64.. {
        let memory = Region::private(PAGES)?;
        memory.advise(libc::MADV_NOHUGEPAGE)?;
        for page in 0..PAGES {
            let found = memory.get(page * PAGE_WORDS + 7);
            ensure!(found == 0, "fresh page {page} holds {found:#x}");
            memory.set(page * PAGE_WORDS, round + page as u64);
        }
        if context.mutate() {
            memory.set(PAGE_WORDS, 0xBAD);
        }
        for page in 0..PAGES {
            same(
                "word written to a fresh page",
                memory.get(page * PAGE_WORDS),
                round + page as u64,
            )?;
        }
        if context.seen() {
            break;
        }
    }
    Ok(())
}

/// Expects success where −1 and `errno` mean failure.
fn expect_result(call: &str, (result, errno): (i64, i32), expected: i64) -> Result<()> {
    ensure!(
        result == expected,
        "{call} returned {result} ({}), expected {expected}",
        std::io::Error::from_raw_os_error(errno)
    );
    Ok(())
}

fn in_read(context: &mut Context) -> Result<()> {
    let (reader, mut writer) = file::pipe(0)?;
    let mutate = context.mutate();
    let partner = context.partner(move || {
        let text: &[u8] = if mutate {
            b"something else"
        } else {
            b"after the failure"
        };
        writer.write_all(text).map(|()| writer)
    });
    context.ready(|| Ok(()))?;
    let mut buffer = [0; 100];
    let result = file::read_once(&reader, &mut buffer);
    context.expect_failover("read")?;
    expect_result("read", result, 17)?;
    same("bytes read", &buffer[..17], b"after the failure")?;
    join(partner)??;
    Ok(())
}

fn in_write(context: &mut Context) -> Result<()> {
    const LENGTH: usize = 200_000;
    let (reader, writer) = file::pipe(0)?;
    let data: Arc<Vec<u8>> = Arc::new((0..LENGTH).map(|n| (n / 7 % 251) as u8).collect());
    let mut expected = data.to_vec();
    if context.mutate() {
        expected[150_000] ^= 1;
    }
    let partner = context.partner(move || {
        let (mut found, mut buffer) = (Vec::new(), vec![0; 30_000]);
        loop {
            match file::read_once(&reader, &mut buffer) {
                (count @ 1.., _) => found.extend_from_slice(&buffer[..count as usize]),
                _ => return found,
            }
        }
    });
    context.ready(|| Ok(()))?;
    let mut done = 0;
    while done < LENGTH {
        let (count, errno) = file::write_once(&writer, &data[done..]);
        ensure!(count > 0, "write: {}", std::io::Error::from_raw_os_error(errno));
        context.expect_failover("write")?;
        done += count as usize;
    }
    drop(writer);
    let found = join(partner)?;
    same("bytes that arrived", found.len(), LENGTH)?;
    match found
        .iter()
        .zip(&expected)
        .position(|(found, expected)| found != expected)
    {
        Some(at) => same(&format!("byte {at} of what arrived"), found[at], expected[at]),
        None => Ok(()),
    }
}

fn in_nanosleep(context: &mut Context) -> Result<()> {
    let period = Duration::from_nanos(context.period());
    context.timed(
        || Ok(()),
        |_| {
            let (errno, rest) = clock::nanosleep(period);
            ensure!(errno == 0, "nanosleep: errno {errno}, {rest} ns left");
            Ok(())
        },
    )
}

fn in_clock_nanosleep(context: &mut Context) -> Result<()> {
    context.timed(
        || Ok(()),
        |deadline| {
            same(
                "errno of clock_nanosleep",
                clock::sleep_until(libc::CLOCK_MONOTONIC, deadline),
                0,
            )
        },
    )
}

fn in_futex(context: &mut Context) -> Result<()> {
    let word = Arc::new(AtomicU32::new(5));
    let partner = {
        let word = word.clone();
        context.partner(move || {
            word.store(6, Ordering::Release);
            futex_wake(&word);
        })
    };
    let mut expected = 6;
    context.ready(|| {
        expected = 7;
        Ok(())
    })?;
    let errno = futex_wait(&word, 5, None);
    context.expect_failover("futex")?;
    join(partner)?;
    // Restarted after the word has changed it says EAGAIN, as it would without a failure in between.
    ensure!(
        matches!(errno, 0 | libc::EAGAIN),
        "futex: {}",
        std::io::Error::from_raw_os_error(errno)
    );
    same("futex word", word.load(Ordering::Acquire), expected)
}

fn in_futex_timeout(context: &mut Context) -> Result<()> {
    let (word, period) = (AtomicU32::new(5), context.period());
    context.timed(
        || Ok(()),
        |_| same("errno of futex", futex_wait(&word, 5, Some(period)), libc::ETIMEDOUT),
    )
}

fn in_poll(context: &mut Context) -> Result<()> {
    let (reader, mut writer) = file::pipe(0)?;
    let partner = context.partner(move || writer.write_all(b"x").map(|()| writer));
    let mut expected = libc::POLLIN;
    context.ready(|| {
        expected = libc::POLLHUP;
        Ok(())
    })?;
    let (result, errno, events) = file::poll(&reader, libc::POLLIN, -1);
    context.expect_failover("poll")?;
    expect_result("poll", (result, errno), 1)?;
    join(partner)??;
    same("revents", events, expected)
}

fn in_poll_timeout(context: &mut Context) -> Result<()> {
    let period = (context.period() / 1_000_000) as i32;
    context.timed(|| Ok(()), |_| same("errno of poll", poll_none(period), 0))
}

fn in_select(context: &mut Context) -> Result<()> {
    let (reader, mut writer) = file::pipe(0)?;
    let partner = context.partner(move || writer.write_all(b"x").map(|()| writer));
    let mut expected = 1;
    context.ready(|| {
        expected = 0;
        Ok(())
    })?;
    let result = file::select_read(&reader);
    context.expect_failover("select")?;
    join(partner)??;
    expect_result("select", result, expected)
}

fn in_epoll_wait(context: &mut Context) -> Result<()> {
    const IN: u32 = libc::EPOLLIN as u32;
    let (reader, mut writer) = file::pipe(0)?;
    let set = event::epoll()?;
    epoll_control(&set, libc::EPOLL_CTL_ADD, &reader, IN, 77)?;
    let partner = context.partner(move || writer.write_all(b"x").map(|()| writer));
    let mut expected = vec![(IN, 77)];
    context.ready(|| {
        expected[0].1 = 78;
        Ok(())
    })?;
    let mut answer = epoll_wait(&set, -1);
    context.expect_failover("epoll_wait")?;
    let _writer = join(partner)??;
    if answer.0 == libc::EINTR {
        println!("epoll_wait answered EINTR");
        answer = epoll_wait(&set, 1000);
    }
    same("epoll_wait", answer, (0, expected))
}

fn in_wait4(context: &mut Context) -> Result<()> {
    let code = if context.mutate() { 43 } else { 42 };
    let child = fork(|| {
        context.wait()?;
        clock::nanosleep(Duration::from_millis(50));
        process::exit_now(code)
    })?;
    context.ready(|| Ok(()))?;
    let answer = wait4(child.pid, 0);
    context.expect_failover("wait4")?;
    same("result, errno and status of wait4", answer, (child.pid, 0, 42 << 8))
}

fn in_sigtimedwait(context: &mut Context) -> Result<()> {
    let set = bit(44);
    signal::mask(libc::SIG_SETMASK, set)?;
    let pid = process::getpid()?;
    let info = Info {
        signal: 44,
        code: -1,
        pid: 99,
        uid: 98,
        value: 0xABCD_EF01_2345,
    };
    let sent = Info {
        value: info.value + u64::from(context.mutate()),
        ..info
    };
    let partner = context.partner(move || signal::queue(pid, None, sent));
    context.ready(|| Ok(()))?;
    let answer = signal::wait_for(set, None);
    context.expect_failover("rt_sigtimedwait")?;
    join(partner)??;
    same("errno and signal", answer, (0, info))
}

fn in_eventfd_read(context: &mut Context) -> Result<()> {
    let reader = event::eventfd(0, 0)?;
    let mut writer = reader.try_clone()?;
    let count = 21 + u64::from(context.mutate());
    let partner = context.partner(move || writer.write_all(&count.to_ne_bytes()));
    context.ready(|| Ok(()))?;
    let mut word = [0; 8];
    let result = file::read_once(&reader, &mut word);
    context.expect_failover("read")?;
    join(partner)??;
    expect_result("read", result, 8)?;
    same("count", u64::from_ne_bytes(word), 21)
}

fn in_timerfd_read(context: &mut Context) -> Result<()> {
    let timer = event::timerfd(libc::CLOCK_MONOTONIC, 0)?;
    context.timed(
        || Ok(()),
        |deadline| {
            event::timerfd_set(&timer, libc::TFD_TIMER_ABSTIME, deadline, 0)?;
            let mut word = [0; 8];
            expect_result("read", file::read_once(&timer, &mut word), 8)?;
            same("expirations", u64::from_ne_bytes(word), 1)
        },
    )
}
