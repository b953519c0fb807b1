//! Looks for hangs of the active: the hands of [`failover::hang`].
//!
//! Threads that sleep uninterruptibly for good are reported and nothing else: what they wait for may be far away.
//!
//! Nothing is written to the active's memory. A CPU that shows no sign of life is asked by an NMI; its module answers in
//! the CPU's slot of the region.

use crate::memory::LiveMemory;
use crate::region::{slot_word, Region};
use crate::rescue;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use failover::hang::{Action, Answer, Hang, Kind, Limits, Sign, Watch};
use machine::apic::LocalApic;
use machine::clock::{self, Clock};
use machine::Ring0;
use salvage::heartbeat::{self, Heartbeats, Sleeper};
use salvage::kernel::Kernel;
use salvage::prepared::Prepared;
use shared_region::control::{features, Cause, HangLimit};
use shared_region::facts::Facts;
use shared_region::layout::MAX_CPUS;

/// Microseconds between two looks at the heartbeats. Each costs the active a few cache lines a CPU.
const LOOK_US: u64 = 100_000;
/// Suspicions that came to nothing of which the log tells, for one kernel.
const TOLD: u32 = 20;

/// Numbers of questions, never used twice.
static QUESTION: AtomicU64 = AtomicU64::new(1);

/// How the active died.
#[derive(Clone, Debug, Default)]
pub struct Death {
    /// Why there is a failover.
    pub cause: Cause,
    /// The Linux CPU concerned.
    pub cpu: Option<usize>,
    /// Threads whose call an update has ended with EINTR.
    pub interrupted: u64,
    /// Where that CPU hangs.
    pub place: String,
    /// TSC when it began, 0 if that is not known.
    pub since: u64,
}

/// The watch over the CPUs of one active.
pub struct HangWatch {
    watch: Watch,
    beats: Heartbeats,
    /// By Linux CPU number.
    apic_ids: Vec<Option<u8>>,
    /// The last question put to each CPU.
    questions: Vec<u64>,
    last_look: u64,
    told: u32,
    stalls: Stalls,
}

/// Threads in uninterruptible sleep.
#[derive(Default)]
struct Stalls {
    /// Microseconds for which there were some at every look.
    some: u64,
    /// Those of the last time the list was walked, with the microseconds for which each has not run.
    seen: Vec<(Sleeper, u64)>,
    reported: u64,
}

/// What a look needs.
#[derive(Clone, Copy)]
pub struct Eyes<'a> {
    /// Ring 0.
    pub ring0: Ring0,
    /// Time.
    pub clock: Clock,
    /// The region.
    pub region: Region,
    /// The active's memory.
    pub live: &'a LiveMemory,
    /// The active.
    pub prepared: &'a Prepared,
}

fn limits(region: Region) -> Limits {
    Limits {
        quiet: [HangLimit::Cpu, HangLimit::Thread, HangLimit::LiveLock].map(|limit| region.hang_limit(limit)),
        ..Limits::default()
    }
}

/// Whether the module answers for this CPU: it does for those that were in use when it was loaded.
fn answers_at_all(region: Region, apic_id: u8) -> bool {
    slot_word!(region.slot(apic_id), question).load(Ordering::Acquire) != 0
}

impl HangWatch {
    /// Begins to watch. `None`, with the reason in the log, if hangs of this kernel cannot be noticed.
    pub fn begin(eyes: Eyes<'_>, facts: &Facts) -> Option<Self> {
        let control = eyes.region.control();
        if control.module_features.load(Ordering::Acquire) & features::ANSWERS == 0 {
            log::warn!("hang: the module does not answer questions; hangs are not noticed");
            return None;
        }
        let kernel = Kernel::new(eyes.live, eyes.prepared);
        let beats = Heartbeats::find(&kernel)
            .map_err(|error| log::warn!("hang: {error}; hangs are not noticed"))
            .ok()?;
        let id = |cpu: usize| {
            let id = *facts.apic_id_of_cpu.get(cpu)?;
            (usize::from(id) < MAX_CPUS).then_some(id as u8)
        };
        Some(Self {
            watch: Watch::new(limits(eyes.region), beats.count()),
            apic_ids: (0..beats.count()).map(id).collect(),
            questions: alloc::vec![0; beats.count()],
            beats,
            last_look: clock::tsc(),
            told: 0,
            stalls: Stalls::default(),
        })
    }

    /// Looks, if it is time to.
    pub fn look(&mut self, eyes: Eyes<'_>) -> Option<Death> {
        if rescue::since(&eyes.clock, self.last_look) < LOOK_US {
            return None;
        }
        let now = clock::tsc();
        let elapsed = rescue::since(&eyes.clock, self.last_look).min(Limits::default().blink);
        self.last_look = now;
        let mut uninterruptible = 0u64;
        self.watch.set_limits(limits(eyes.region));
        let mut signs = Vec::with_capacity(self.apic_ids.len());
        let mut answers = Vec::with_capacity(self.apic_ids.len());
        for (cpu, apic_id) in self.apic_ids.iter().enumerate() {
            let beat = self.beats.beat(eyes.live, cpu).unwrap_or_default();
            uninterruptible = uninterruptible.wrapping_add(beat.uninterruptible);
            signs.push(Sign {
                online: beat.online && apic_id.is_some_and(|id| answers_at_all(eyes.region, id)),
                interrupts: beat.interrupts,
                switches: beat.switches,
                user: beat.user,
                idle: beat.idle,
            });
            answers.push(self.answer(eyes.region, cpu));
        }
        self.look_for_stalls(eyes, elapsed, uninterruptible != 0);
        let paused = self.beats.in_debugger(eyes.live);
        let actions = self
            .watch
            .look(eyes.clock.nanoseconds(now) / 1000, paused, &signs, &answers);
        let mut death = None;
        for action in actions {
            match action {
                Action::Ask(cpu) => self.ask(eyes, cpu),
                Action::Cleared(cpu, level) => {
                    self.told += 1;
                    if self.told <= TOLD {
                        log::info!(
                            "hang: cpu {cpu} is alive, at {} (was suspected: {level:?})",
                            self.place(eyes, cpu)
                        );
                    }
                }
                Action::Hung(hang) => death = Some(self.death(eyes, hang)),
            }
        }
        death
    }

    /// Walks the list of threads four times per deadline while some sleep uninterruptibly all the time, and reports those
    /// that have not run for as long as the deadline.
    fn look_for_stalls(&mut self, eyes: Eyes<'_>, elapsed: u64, some: bool) {
        let stalls = &mut self.stalls;
        let Some(limit) = eyes.region.hang_limit(HangLimit::Stalled).filter(|_| some) else {
            if !stalls.seen.is_empty() {
                *stalls = Stalls::default();
                eyes.region.control().stalled_threads.store(0, Ordering::Relaxed);
            }
            stalls.some = 0;
            return;
        };
        let period = limit / 4;
        stalls.some += elapsed;
        if stalls.some < period {
            return;
        }
        let passed = core::mem::take(&mut stalls.some);
        let seen = heartbeat::sleepers(&Kernel::new(eyes.live, eyes.prepared)).into_iter();
        stalls.seen = seen
            .map(|sleeper| {
                let before = stalls.seen.iter().find(|(other, _)| *other == sleeper);
                let slept = before.map_or(0, |(_, slept)| slept + passed);
                (sleeper, slept)
            })
            .collect();
        let stalled = || stalls.seen.iter().filter(|(_, slept)| *slept >= limit);
        let count = stalled().count() as u64;
        eyes.region.control().stalled_threads.store(count, Ordering::Relaxed);
        if count > stalls.reported {
            for (sleeper, slept) in stalled().take(TOLD as usize) {
                log::warn!(
                    "hang: thread {} ({}) has slept uninterruptibly for {} s",
                    sleeper.pid,
                    String::from_utf8_lossy(&sleeper.comm),
                    slept / 1_000_000
                );
            }
        }
        stalls.reported = count;
    }

    fn answer(&self, region: Region, cpu: usize) -> Answer {
        let (Some(apic_id), question) = (self.apic_ids[cpu], self.questions[cpu]) else {
            return Answer::default();
        };
        let slot = region.slot(apic_id);
        let answered = |word: &AtomicU64| question != 0 && word.load(Ordering::Acquire) == question;
        Answer {
            nmi: answered(&slot_word!(slot, answer_nmi)),
            interrupt: answered(&slot_word!(slot, answer_interrupt)),
            thread: answered(&slot_word!(slot, answer_thread)),
        }
    }

    fn ask(&mut self, eyes: Eyes<'_>, cpu: usize) {
        let Some(apic_id) = self.apic_ids[cpu] else { return };
        let question = QUESTION.fetch_add(1, Ordering::Relaxed);
        self.questions[cpu] = question;
        slot_word!(eyes.region.slot(apic_id), question).store(question, Ordering::Release);
        eyes.region.control().hang_questions.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the module has an NMI handler that answers (`HangWatch::begin`); one that has gone meanwhile leaves the
        // kernel's own, which counts the NMI as unknown.
        if let Err(timeout) = unsafe { LocalApic::current(eyes.ring0).send_nmi(u32::from(apic_id)) } {
            log::warn!("hang: question {question} to cpu {cpu}: {timeout}");
        }
    }

    /// Where the CPU was when its NMI handler answered the last question.
    fn place(&self, eyes: Eyes<'_>, cpu: usize) -> String {
        let Some(apic_id) = self.apic_ids[cpu].filter(|_| self.answer(eyes.region, cpu).nmi) else {
            return String::from("a place it does not tell");
        };
        let slot = eyes.region.slot(apic_id);
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (ip, flags) = (
            word(&slot_word!(slot, answer_ip)),
            word(&slot_word!(slot, answer_flags)),
        );
        if flags >> 32 & 1 == 1 {
            return alloc::format!("user mode, thread {}", word(&slot_word!(slot, answer_tid)));
        }
        heartbeat::place(&Kernel::new(eyes.live, eyes.prepared), ip)
    }

    fn death(&self, eyes: Eyes<'_>, hang: Hang) -> Death {
        let cause = match hang.kind {
            Kind::AllCpus => Cause::AllCpusHung,
            Kind::Cpu => Cause::CpuHung,
            Kind::SoftLockup => Cause::SoftLockup,
            Kind::LiveLock => Cause::LiveLock,
        };
        let place = self.place(eyes, hang.cpu);
        for cpu in 0..self.apic_ids.len() {
            let answer = self.answer(eyes.region, cpu);
            if self.questions[cpu] != 0 {
                log::info!(
                    "hang: cpu {cpu}, question {}: answered by NMI {}, by interrupt {}, by thread {}; at {}",
                    self.questions[cpu],
                    answer.nmi,
                    answer.interrupt,
                    answer.thread,
                    self.place(eyes, cpu)
                );
            }
        }
        log::error!(
            "hang: {}: cpu {} has shown no sign of life for {} ms, at {place}",
            cause.name(),
            hang.cpu,
            hang.quiet / 1000
        );
        Death {
            cause,
            cpu: Some(hang.cpu),
            interrupted: 0,
            place,
            since: clock::tsc().wrapping_sub(eyes.clock.ticks(hang.quiet)),
        }
    }
}
