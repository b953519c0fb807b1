//! eventfd, epoll, timerfd, signalfd.

use crate::cell::{same, Cell, Context};
use crate::sys::event::{self, epoll_control, epoll_wait};
use crate::sys::signal::{self, bit};
use crate::sys::{clock, file, process};
use anyhow::{ensure, Result};
use std::fs::File;
use std::io::{Read, Write};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "eventfd/counter",
        what: "the counter of an eventfd, and that it still adds",
        covers: &["OpenFileKind.EventFd"],
        caught: None,
        run: counter,
    },
    Cell {
        name: "eventfd/semaphore",
        what: "an eventfd that counts down by one",
        covers: &["OpenFileKind.EventFd"],
        caught: None,
        run: semaphore,
    },
    Cell {
        name: "epoll/watches",
        what: "an epoll set: which are ready, with their data; disabled by one-shot; edge-triggered",
        covers: &[
            "OpenFileKind.Epoll",
            "EpollWatch.fd",
            "EpollWatch.file",
            "EpollWatch.events",
            "EpollWatch.data",
            "EpollWatch.fired",
        ],
        caught: None,
        run: watches,
    },
    Cell {
        name: "timerfd/relative",
        what: "a running timerfd: what is left, interval, and that it fires",
        covers: &["OpenFileKind.TimerFd"],
        caught: None,
        run: relative,
    },
    Cell {
        name: "timerfd/absolute",
        what: "an absolute timerfd on CLOCK_REALTIME",
        covers: &["OpenFileKind.TimerFd"],
        caught: None,
        run: absolute,
    },
    Cell {
        name: "timerfd/expired",
        what: "expirations not yet read, and a disarmed timerfd",
        covers: &["OpenFileKind.TimerFd"],
        caught: None,
        run: expired,
    },
    Cell {
        name: "signalfd/mask",
        what: "a signalfd gives the signals of its mask only",
        covers: &["OpenFileKind.SignalFd"],
        caught: None,
        run: mask,
    },
];

fn read_count(mut file: &File) -> Result<u64> {
    let mut word = [0; 8];
    file.read_exact(&mut word)?;
    Ok(u64::from_ne_bytes(word))
}

fn counter(context: &mut Context) -> Result<()> {
    let mut event = event::eventfd(7, libc::EFD_NONBLOCK)?;
    event.write_all(&35u64.to_ne_bytes())?;
    context.failover(|| Ok(event.try_clone()?.write_all(&1u64.to_ne_bytes())?))?;
    event.write_all(&100u64.to_ne_bytes())?;
    same("counter", read_count(&event)?, 142)?;
    same(
        "errno when it is zero",
        file::read_once(&event, &mut [0; 8]).1,
        libc::EAGAIN,
    )
}

fn semaphore(context: &mut Context) -> Result<()> {
    let event = event::eventfd(3, libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK)?;
    context.failover(|| read_count(&event).map(drop))?;
    for _ in 0..3 {
        same("one of the semaphore", read_count(&event)?, 1)?;
    }
    same(
        "errno when it is zero",
        file::read_once(&event, &mut [0; 8]).1,
        libc::EAGAIN,
    )
}

fn watches(context: &mut Context) -> Result<()> {
    const IN: u32 = libc::EPOLLIN as u32;
    let set = event::epoll()?;
    let ready = event::eventfd(1, 0)?;
    let mut quiet = event::eventfd(0, 0)?;
    let once = event::eventfd(1, 0)?;
    let (mut edge, mut writer) = file::pipe(0)?;
    epoll_control(&set, libc::EPOLL_CTL_ADD, &once, IN | libc::EPOLLONESHOT as u32, 333)?;
    same("one-shot", epoll_wait(&set, 0), (0, vec![(IN, 333)]))?;
    epoll_control(&set, libc::EPOLL_CTL_ADD, &ready, IN, 0x1111_2222_3333_4444)?;
    epoll_control(&set, libc::EPOLL_CTL_ADD, &quiet, IN, 222)?;
    epoll_control(&set, libc::EPOLL_CTL_ADD, &edge, IN | libc::EPOLLET as u32, 444)?;
    context.failover(|| epoll_control(&set, libc::EPOLL_CTL_MOD, &ready, IN, 9))?;
    same("ready", epoll_wait(&set, 0), (0, vec![(IN, 0x1111_2222_3333_4444)]))?;
    quiet.write_all(&1u64.to_ne_bytes())?;
    writer.write_all(b"x")?;
    let (errno, mut events) = epoll_wait(&set, 0);
    events.sort_by_key(|event| event.1);
    same(
        "all ready",
        (errno, events),
        (0, vec![(IN, 222), (IN, 444), (IN, 0x1111_2222_3333_4444)]),
    )?;
    let again = epoll_wait(&set, 0).1;
    ensure!(again.iter().all(|event| event.1 != 444), "the edge comes twice");
    edge.read_exact(&mut [0])?;
    epoll_control(&set, libc::EPOLL_CTL_MOD, &once, IN | libc::EPOLLONESHOT as u32, 333)?;
    ensure!(
        epoll_wait(&set, 0).1.contains(&(IN, 333)),
        "the one-shot watch cannot be enabled again"
    );
    Ok(())
}

const SECOND: u64 = 1_000_000_000;

fn relative(context: &mut Context) -> Result<()> {
    let timer = event::timerfd(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)?;
    let begin = clock::now();
    event::timerfd_set(&timer, 0, 3000 * SECOND, 7 * SECOND)?;
    context.failover(|| event::timerfd_set(&timer, 0, 9000 * SECOND, 7 * SECOND))?;
    let (left, interval) = event::timerfd_get(&timer)?;
    let due = begin + 3000 * SECOND;
    let error = (clock::now() + left).abs_diff(due);
    ensure!(error < SECOND, "it will fire {error} ns off");
    same("interval", interval, 7 * SECOND)?;
    event::timerfd_set(&timer, 0, 1, 0)?;
    clock::nanosleep(std::time::Duration::from_millis(5));
    same("expirations afterwards", read_count(&timer)?, 1)
}

fn absolute(context: &mut Context) -> Result<()> {
    let timer = event::timerfd(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK)?;
    let due = clock::read(libc::CLOCK_REALTIME) + 5000 * SECOND;
    event::timerfd_set(&timer, libc::TFD_TIMER_ABSTIME, due, 0)?;
    context.failover(|| event::timerfd_set(&timer, libc::TFD_TIMER_ABSTIME, due + 60 * SECOND, 0))?;
    let (left, interval) = event::timerfd_get(&timer)?;
    let error = (clock::read(libc::CLOCK_REALTIME) + left).abs_diff(due);
    ensure!(error < SECOND, "it will fire {error} ns off");
    same("interval", interval, 0)
}

fn expired(context: &mut Context) -> Result<()> {
    let ticking = event::timerfd(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)?;
    let disarmed = event::timerfd(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK)?;
    event::timerfd_set(&ticking, 0, 1, 0)?;
    clock::nanosleep(std::time::Duration::from_millis(5));
    context.failover(|| read_count(&ticking).map(drop))?;
    same("what is left", event::timerfd_get(&ticking)?, (0, 0))?;
    same("result of reading", file::read_once(&ticking, &mut [0; 8]), (8, 0))?;
    same(
        "errno of the disarmed one",
        file::read_once(&disarmed, &mut [0; 8]).1,
        libc::EAGAIN,
    )
}

fn mask(context: &mut Context) -> Result<()> {
    let wanted = bit(libc::SIGUSR1) | bit(40);
    signal::mask(libc::SIG_SETMASK, wanted | bit(41))?;
    let taken = event::signalfd(wanted, libc::SFD_NONBLOCK)?;
    let pid = process::getpid()?;
    for number in [41, 40] {
        process::kill(pid, number)?;
    }
    context.failover(|| process::kill(pid, libc::SIGUSR1.into()).map(drop))?;
    let mut info = [0; 128];
    same("bytes read", file::read_once(&taken, &mut info), (128, 0))?;
    same("signal", u32::from_ne_bytes([info[0], info[1], info[2], info[3]]), 40)?;
    same("errno afterwards", file::read_once(&taken, &mut info).1, libc::EAGAIN)?;
    process::kill(pid, libc::SIGUSR1.into())?;
    same("bytes read afterwards", file::read_once(&taken, &mut info), (128, 0))
}
