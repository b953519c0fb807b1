//! A process beside the agent that makes something only a process of its own can make: a namespace.

use super::{process::Built, tracee::Tracee, OrRefuse, Refusal, Restored};
use crate::sys::{self, Tid};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
};

/// How long the making of one may take.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };
/// What the helper says when it is done.
const DONE: &str = "done";

/// Lets a helper `build`, and lets the agent `take` what it has made, by the helper's id. The helper ends.
pub fn helped<T>(
    what: &str,
    build: impl FnOnce() -> Restored<()>,
    take: impl FnOnce(Tid) -> Restored<T>,
) -> Restored<T> {
    let (told, telling) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_refuse(|| what)?;
    let helper = sys::in_child(|| {
        let answer = build().map_or_else(|refusal| refusal.to_string(), |()| DONE.into());
        // Nobody hears it if it cannot be given.
        let _ = File::from(telling).write_all(answer.as_bytes());
        sys::pause();
    })
    .or_refuse(|| what)?;
    let made = answer(what, told).and_then(|()| take(helper));
    Built::new(Tracee::borrowed(helper), 0).kill();
    made
}

fn answer(what: &str, told: OwnedFd) -> Restored<()> {
    let ready = poll(&mut [PollFd::new(&told, PollFlags::IN)], Some(&PATIENCE)).or_refuse(|| what)?;
    if ready == 0 {
        return Err(Refusal::new(what, "the making of it takes too long"));
    }
    let mut text = String::new();
    File::from(told).read_to_string(&mut text).or_refuse(|| what)?;
    match text.as_str() {
        DONE => Ok(()),
        "" => Err(Refusal::new(what, "its helper has ended")),
        why => Err(Refusal::new(what, why)),
    }
}
