//! Runs handlers and hooks, those of several processes beside each other, and lets the processes go on.

use super::{abort_of, calls, frame, Plan, Registered, Turn, What};
use crate::{
    restore::{
        clock::now, host::Host, process::Built, signals, threads, tracee, tracee::Tracee, user_memory::UserMemory,
        world::Member, world::World, Refusal, Restored, Setting,
    },
    sys::{self, Stop, Tid},
};
use rustix::time::ClockId;
use shared_region::{
    context::Thread,
    library::{answer, turn, Failover, Table},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem::offset_of,
    time::{Duration, Instant},
};
use zerocopy::IntoBytes;

/// How long a thread may take to stop, or the threads of a process that ended to be gone.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest sleep between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Signals of faults: they reach the thread while a handler runs, all others wait.
const FAULTS: [i32; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// The object that remarks are about.
const HANDLERS: &str = "its failover handlers";

/// What runs at this moment.
#[derive(Clone, Copy, Debug)]
struct Current {
    turn: Turn,
    /// The frame it returns through.
    frame: u64,
    /// Whether it is in the call that takes the frame.
    returns: bool,
}

/// A process that is held while its handlers run.
struct Held<'a> {
    built: Built,
    member: &'a Member,
    plan: Plan,
    memory: UserMemory,
    deadline: Instant,
    current: Option<Current>,
    /// Whether a SIGSTOP was kept back.
    stopped: bool,
    /// Threads that have ended.
    gone: BTreeSet<Tid>,
}

/// A process that does not wait for anything any more.
#[derive(Debug)]
pub struct Ended {
    /// What is left of it.
    pub built: Built,
    /// Whether it goes on.
    pub resumed: bool,
}

/// Everything that runs handlers.
pub struct Handlers<'a> {
    held: BTreeMap<u32, Held<'a>>,
    done: BTreeMap<u32, Ended>,
    host: &'a dyn Host,
    setting: &'a Setting,
}

fn failover(world: &World<'_>, setting: &Setting) -> Failover {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let then = &world.machine.clock;
    Failover {
        cause: setting.cause as u32,
        count: setting.failover,
        monotonic_before: then.monotonic,
        monotonic_after: now(ClockId::Monotonic),
        realtime_before: then.realtime,
        realtime_after: now(ClockId::Realtime) as i64,
        release_before: Failover::release(&world.machine.release),
        release_after: Failover::release(release.trim()),
        ..Failover::default()
    }
}

impl<'a> Handlers<'a> {
    /// Takes the processes with handlers out of `built` and starts the first of each.
    pub fn start(
        built: &mut BTreeMap<u32, Built>,
        world: &'a World<'_>,
        host: &'a dyn Host,
        setting: &'a Setting,
    ) -> Self {
        let with: Vec<u32> = built
            .iter()
            .filter(|(_, built)| built.library.is_some())
            .map(|(&id, _)| id)
            .collect();
        let mut handlers = Self {
            held: BTreeMap::new(),
            done: BTreeMap::new(),
            host,
            setting,
        };
        for id in with {
            let (Some(mut built), Some(member)) = (built.remove(&id), world.processes.get(&id)) else {
                continue;
            };
            let (Some(plan), Ok(memory)) = (built.library.take(), UserMemory::of(id)) else {
                handlers.done.insert(id, released(built, &BTreeSet::new(), false));
                continue;
            };
            let mut held = Held::new(built, member, plan, memory);
            held.begin(&failover(world, setting));
            held.next(host, setting);
            handlers.held.insert(id, held);
        }
        handlers
    }

    /// Waits for all of them, at most until their deadlines, and lets their processes go on; those that lack an answer
    /// cannot.
    pub fn finish(mut self) -> BTreeMap<u32, Ended> {
        while !self.held.is_empty() {
            let ready: Vec<u32> = self
                .held
                .iter_mut()
                .filter_map(|(&id, held)| held.look(self.host, self.setting).then_some(id))
                .collect();
            // Children first, as for all others.
            for id in ready.iter().rev() {
                if let Some(held) = self.held.remove(id) {
                    self.done.insert(*id, held.end());
                }
            }
            if ready.is_empty() {
                let nearest = self.held.values().map(|held| held.deadline).min();
                let left = nearest.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()));
                sys::wait_for_child_signal(left.clamp(Duration::from_millis(1), LOOK));
            }
        }
        self.done
    }
}

/// Lets a process go on.
fn released(mut built: Built, gone: &BTreeSet<Tid>, stopped: bool) -> Ended {
    if stopped {
        if let Some(id) = built.id() {
            if let Err(error) = sys::kill(id as Tid, libc::SIGSTOP) {
                built.remarks.push(format!("stopped state: {error}"));
            }
        }
    }
    for thread in built.threads.drain(..).filter(|thread| !gone.contains(&thread.tid())) {
        if let Err(refusal) = thread.release() {
            built.remarks.push(refusal.to_string());
        }
    }
    Ended { built, resumed: true }
}

impl<'a> Held<'a> {
    fn new(built: Built, member: &'a Member, plan: Plan, memory: UserMemory) -> Self {
        // Each table has its own; all of them together must not take longer than the longest.
        let longest = plan.tables.iter().map(|registered| registered.table.deadline()).max();
        Self {
            built,
            member,
            plan,
            memory,
            deadline: Instant::now() + Duration::from_millis(longest.unwrap_or(0)),
            current: None,
            stopped: false,
            gone: BTreeSet::new(),
        }
    }

    /// Lets the process go on, or ends it if a call of its could not be decided.
    fn end(mut self) -> Ended {
        let alive = self
            .built
            .threads
            .iter()
            .any(|thread| !self.gone.contains(&thread.tid()));
        let undecided = self.plan.undecided.first();
        let undecided = undecided.and_then(|&index| self.member.threads.get(index));
        let Some(thread) = undecided.filter(|_| alive) else {
            return released(self.built, &self.gone, self.stopped);
        };
        self.built.remarks.push(super::undecided(thread).to_string());
        self.built.kill_threads();
        Ended {
            built: self.built,
            resumed: false,
        }
    }

    /// Tells the failover.
    fn begin(&mut self, failover: &Failover) {
        for registered in &mut self.plan.tables {
            registered.table.failover = *failover;
        }
    }

    fn remark(&mut self, why: impl std::fmt::Display) {
        self.built.remarks.push(Refusal::new(HANDLERS, why).to_string());
    }

    fn thread(&self, index: usize) -> Restored<(&Tracee, &Thread)> {
        let pair = self.built.threads.get(index).zip(self.member.threads.get(index));
        pair.ok_or_else(|| Refusal::new(HANDLERS, "their thread is gone"))
    }

    /// Starts the next turn there is, if any.
    fn next(&mut self, host: &dyn Host, setting: &Setting) {
        self.current = None;
        while let Some(turn) = self.plan.turns.pop_front() {
            match self.start(turn) {
                Ok(current) => {
                    self.current = Some(current);
                    return;
                }
                Err(refusal) => {
                    self.remark(refusal);
                    if let Err(refusal) = self.settle(turn.thread, host, setting) {
                        self.remark(refusal);
                    }
                }
            }
        }
    }

    fn start(&mut self, turn: Turn) -> Restored<Current> {
        let frame = match turn.what {
            What::Unfinished => self.plan.tables[turn.table].table.frame,
            What::Handler => self.enter(turn, turn::HANDLER)?,
            What::Hook => self.enter(turn, turn::HOOK)?,
        };
        self.thread(turn.thread)?.0.run_own()?;
        Ok(Current {
            turn,
            frame,
            returns: false,
        })
    }

    /// Puts a frame on the table's stack and a thread at the dispatcher's first instruction.
    fn enter(&mut self, turn: Turn, kind: u64) -> Restored<u64> {
        let (tracee, thread) = self.thread(turn.thread)?;
        let tid = tracee.tid();
        let Registered { at, mut table } = self.plan.tables[turn.table].clone();
        if turn.what == What::Hook {
            let call = calls::of(thread, &self.memory);
            let hook = call.and_then(|call| table.hook_for(call.number));
            let (Some(call), Some(hook)) = (call, hook) else {
                return Err(Refusal::new("hook", "its call is another now"));
            };
            table.call = call;
            table.hook = [hook.function, hook.argument];
        }
        let mut registers = threads::registers(thread);
        if let Some(section) = self.plan.sections.get(turn.thread).copied().flatten() {
            if let Some(abort) = abort_of(thread, section, &self.memory)? {
                registers[tracee::RIP] = abort;
            }
        }
        let error = |what: &'static str| move |error: std::io::Error| Refusal::new(what, error);
        let xstate = sys::xstate(tid).map_err(error("extended registers"))?;
        let state = frame::State {
            registers: &registers,
            xstate: &xstate,
            blocked: threads::blocked(thread),
            sigaltstack: thread.sigaltstack,
        };
        let stack = (table.stack_start, table.stack_end);
        let frame = frame::build(stack, table.dispatcher, table.restorer, &state)?;
        let blocked = self.blocked_meanwhile(thread);
        table.turn = kind;
        table.frame = frame.at;
        table.answer = answer::PLANNED;
        self.memory.write(frame.at, &frame.bytes)?;
        let ours = offset_of!(Table, turn)..offset_of!(Table, hooks);
        self.memory.write(at + ours.start as u64, &table.as_bytes()[ours])?;
        self.thread(turn.thread)?
            .0
            .set_state(&frame.entry, &frame::fresh(xstate.len()), blocked)?;
        Ok(frame.at)
    }

    /// The signals that wait while a handler runs in a thread: all, but for those that tell of a fault of its own. A
    /// pending one of these comes from somewhere else. A thread that was on its signal stack would have it overwritten by
    /// the handler of a fault.
    fn blocked_meanwhile(&self, thread: &Thread) -> u64 {
        let (address, size, _) = thread.sigaltstack;
        if thread.regs[tracee::RSP].wrapping_sub(address) <= size && size != 0 {
            return !0;
        }
        let process = &self.member.record;
        let mut pending = thread.pending_mask | process.pending_mask;
        for info in thread.pending.iter().chain(&process.pending) {
            pending |= signals::signal_of(info).map_or(0, signals::bit);
        }
        !FAULTS.map(signals::bit).into_iter().fold(0, |set, bit| set | bit) | pending
    }

    /// Puts a thread back where it was.
    fn settle(&self, index: usize, host: &dyn Host, setting: &Setting) -> Restored<()> {
        let (tracee, thread) = self.thread(index)?;
        let section = self.plan.sections.get(index).copied().flatten();
        threads::settle(tracee, thread, section, setting.offsets, host)
    }

    /// Sees what has happened. Returns whether the process can go on.
    fn look(&mut self, host: &dyn Host, setting: &Setting) -> bool {
        while let Some(current) = self.current {
            match self.look_at(current, host, setting) {
                Ok(true) => {}
                Ok(false) if Instant::now() < self.deadline => return false,
                Ok(false) => self.give_up(current, host, setting),
                Err(refusal) => {
                    self.remark(refusal);
                    self.plan.turns.clear();
                    self.current = None;
                }
            }
        }
        true
    }

    /// Returns whether something has happened.
    fn look_at(&mut self, current: Current, host: &dyn Host, setting: &Setting) -> Restored<bool> {
        let tid = self.thread(current.turn.thread)?.0.tid();
        match sys::try_wait(tid) {
            Ok(Some(stop)) => self.stopped(current, tid, stop, host, setting).map(|()| true),
            Ok(None) => {
                self.look_at_others(tid);
                Ok(false)
            }
            Err(error) => Err(Refusal::new(format!("thread {tid}"), error)),
        }
    }

    /// The end of a thread is told once those after it have been seen.
    fn look_at_others(&mut self, running: Tid) {
        let others = self.built.threads.iter().map(Tracee::tid).filter(|tid| *tid != running);
        let ended = others.filter(|tid| matches!(sys::try_wait(*tid), Ok(Some(Stop::Exited(_))) | Err(_)));
        let ended: Vec<Tid> = ended.collect();
        self.gone.extend(ended);
    }

    fn stopped(&mut self, current: Current, tid: Tid, stop: Stop, host: &dyn Host, setting: &Setting) -> Restored<()> {
        let go_on = |signal| sys::cont_to_syscall_with(tid, signal).map_err(|e| Refusal::new("tracing", e));
        match stop {
            Stop::Syscall if current.returns => {
                self.returned(current, host, setting)?;
                self.next(host, setting);
                Ok(())
            }
            Stop::Syscall => {
                if self.is_return(current, tid)? {
                    self.current = Some(Current {
                        returns: true,
                        ..current
                    });
                    // It must get back, whatever its filters say of `rt_sigreturn`.
                    self.thread(current.turn.thread)?.0.suspend_seccomp()?;
                }
                go_on(0)
            }
            Stop::Signal(libc::SIGSTOP) => {
                self.stopped = true;
                go_on(0)
            }
            Stop::Signal(signal) => go_on(signal),
            Stop::Event(libc::PTRACE_EVENT_EXEC) => {
                self.gone.extend(self.built.threads.iter().skip(1).map(Tracee::tid));
                self.plan.undecided.clear();
                Err(Refusal::new(HANDLERS, "one has started another program"))
            }
            Stop::Event(_) => go_on(0),
            Stop::Exited(status) => {
                self.gone.insert(tid);
                self.bury();
                Err(Refusal::new(HANDLERS, ended(status)))
            }
        }
    }

    fn is_return(&self, current: Current, tid: Tid) -> Restored<bool> {
        let error = |error| Refusal::new("tracing", error);
        if sys::call_entered(tid).map_err(error)? != Some(libc::SYS_rt_sigreturn as u64) {
            return Ok(false);
        }
        let registers = sys::registers(tid).map_err(error)?;
        Ok(registers[tracee::RSP] == frame::Frame::return_pointer(current.frame))
    }

    /// The dispatcher has returned: the thread is where it was, or where a hook put it.
    fn returned(&mut self, current: Current, host: &dyn Host, setting: &Setting) -> Restored<()> {
        let at = self.plan.tables[current.turn.table].at + offset_of!(Table, answer) as u64;
        match current.turn.what {
            What::Unfinished => Ok(()),
            What::Hook if self.memory.word(at)? != answer::PLANNED => {
                self.plan.undecided.remove(&current.turn.thread);
                Ok(())
            }
            _ => self.settle(current.turn.thread, host, setting),
        }
    }

    /// The deadline is over: what runs goes on by itself, and nothing else is run.
    fn give_up(&mut self, current: Current, host: &dyn Host, setting: &Setting) {
        let what = match current.turn.what {
            What::Hook => "a hook",
            _ => "the handler",
        };
        let milliseconds = self.plan.tables[current.turn.table].table.deadline();
        let left = self.plan.turns.len();
        self.plan.turns.clear();
        self.current = None;
        let result = self.stop(current, host, setting);
        match result {
            // It was about to return.
            Ok(true) if left == 0 => {}
            Ok(_) => self.remark(format_args!(
                "{what} had not returned after {milliseconds} ms; others left out: {left}"
            )),
            Err(refusal) => self.remark(refusal),
        }
    }

    /// Stops what runs. Returns whether it has returned.
    fn stop(&mut self, current: Current, host: &dyn Host, setting: &Setting) -> Restored<bool> {
        let tid = self.thread(current.turn.thread)?.0.tid();
        let error = |error| Refusal::new(format!("thread {tid}"), error);
        sys::interrupt(tid).map_err(error)?;
        match sys::wait(tid, Instant::now() + PATIENCE).map_err(error)? {
            Stop::Exited(status) => {
                self.gone.insert(tid);
                self.bury();
                Err(Refusal::new(HANDLERS, ended(status)))
            }
            Stop::Syscall if current.returns => self.returned(current, host, setting).map(|()| true),
            Stop::Signal(libc::SIGSTOP) => {
                self.stopped = true;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Waits for the other threads of a process that is ending.
    fn bury(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for thread in self.built.threads.iter().rev().map(Tracee::tid) {
            // A process of which one thread alone has ended has others that are held: they are not waited for.
            if self.gone.contains(&thread)
                || !matches!(sys::registers(thread), Err(e) if e.raw_os_error() == Some(libc::ESRCH))
            {
                continue;
            }
            if matches!(sys::wait(thread, deadline), Ok(Stop::Exited(_)) | Err(_)) {
                self.gone.insert(thread);
            }
        }
    }
}

fn ended(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        format!("one ended with signal {}", libc::WTERMSIG(status))
    } else {
        format!("one ended its thread with status {}", libc::WEXITSTATUS(status))
    }
}
