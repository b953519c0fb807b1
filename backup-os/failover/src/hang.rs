//! Whether the active hangs.
//!
//! What is looked at is words that the kernel moves anyway: a CPU that takes interrupts, switches threads, or runs user
//! mode shows it there. Three kinds of standstill are told apart, each a suspicion only:
//!
//! | level | stands still | and is believed if the CPU does not answer |
//! |---|---|---|
//! | [`Level::Interrupt`] | interrupts and switches | from an interrupt |
//! | [`Level::Thread`] | switches and user mode | from a thread |
//! | [`Level::Turn`] | it is never idle and never in user mode, though it switches | from a thread |
//!
//! A suspicion leads to questions ([`Action::Ask`]), each with a deadline; only when none was answered is the CPU taken to
//! hang. One sign of life ends the suspicion at any moment.
//!
//! Time is what has been looked at: between two looks no more than [`Limits::blink`] counts, however far a clock has
//! jumped. When the reserved core was kept from running (a paused virtual machine, a loaded host), the others probably
//! were too.

use alloc::vec::Vec;

/// What a CPU is suspected of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It takes no interrupts.
    Interrupt = 0,
    /// No thread gets on it.
    Thread = 1,
    /// Ordinary threads do not get their turn on it.
    Turn = 2,
}

/// All levels, the worst first.
const LEVELS: [Level; 3] = [Level::Interrupt, Level::Thread, Level::Turn];

/// Deadlines in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long each level may stand still before the CPU is asked; `None`: it is not watched.
    pub quiet: [Option<u64>; 3],
    /// How long an answer may take at each level, from a CPU that takes the NMI.
    pub answer: [u64; 3],
    /// The same from a CPU that does not even take the NMI. It may be a virtual CPU that its host does not run.
    pub silence: u64,
    /// Questions in a row without an answer.
    pub questions: u32,
    /// The most time that counts between two looks.
    pub blink: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The kernel's own detectors complain after 10 and 20 s; they cost nothing but a message if they are wrong.
            quiet: [Some(10_000_000), Some(30_000_000), Some(60_000_000)],
            answer: [1_000_000, 4_000_000, 10_000_000],
            silence: 5_000_000,
            questions: 3,
            // Twice the time between two looks (`backup-os/src/hang.rs`).
            blink: 200_000,
        }
    }
}

/// What is seen of a CPU. The counters may wrap; only whether they change matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sign {
    /// Whether the kernel counts it among its CPUs.
    pub online: bool,
    /// Interrupts taken.
    pub interrupts: u64,
    /// Switches from thread to thread.
    pub switches: u64,
    /// Time in user mode.
    pub user: u64,
    /// Whether its idle task runs.
    pub idle: bool,
}

/// Which steps of the last question the CPU has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its NMI handler.
    pub nmi: bool,
    /// An interrupt.
    pub interrupt: bool,
    /// A thread.
    pub thread: bool,
}

/// How the kernel hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every CPU is past [`Level::Interrupt`].
    AllCpus,
    /// A CPU is past [`Level::Interrupt`], and others are not.
    Cpu,
    /// A CPU is past [`Level::Thread`].
    SoftLockup,
    /// A CPU is past [`Level::Turn`].
    LiveLock,
}

/// A hang that has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hang {
    /// How.
    pub kind: Kind,
    /// Index of the CPU; of several the one that has stood still longest.
    pub cpu: usize,
    /// Microseconds of looked-at time for which it has stood still.
    pub quiet: u64,
}

/// What to do after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put a new question to the CPU with this index.
    Ask(usize),
    /// The CPU with this index is suspected no more.
    Cleared(usize, Level),
    /// The kernel hangs.
    Hung(Hang),
}

/// A question that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    level: Level,
    /// Microseconds since.
    since: u64,
    /// How many have been put in a row.
    count: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    last: Option<Sign>,
    quiet: [u64; 3],
    asked: Option<Asked>,
    /// The level at which no question was answered.
    hung: Option<Level>,
}

/// The state of the watch over all CPUs of one kernel.
#[derive(Clone, Debug)]
pub struct Watch {
    limits: Limits,
    cpus: Vec<Cpu>,
    last: Option<u64>,
}

impl Watch {
    /// Watches `cpus` CPUs.
    pub fn new(limits: Limits, cpus: usize) -> Self {
        Self {
            limits,
            cpus: alloc::vec![Cpu::default(); cpus],
            last: None,
        }
    }

    /// Other deadlines from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether a CPU is suspected at this moment.
    pub fn suspects(&self) -> bool {
        self.cpus.iter().any(|cpu| cpu.asked.is_some() || cpu.hung.is_some())
    }

    /// A look, at `now` microseconds of any clock. `paused`: the kernel stands still because somebody wants it to (a
    /// debugger), and no time counts. `signs` and `answers` are by CPU.
    pub fn look(&mut self, now: u64, paused: bool, signs: &[Sign], answers: &[Answer]) -> Vec<Action> {
        let elapsed = self.last.map_or(0, |last| now.wrapping_sub(last));
        self.last = Some(now);
        let elapsed = if paused { 0 } else { elapsed.min(self.limits.blink) };
        let mut actions = Vec::new();
        for (index, cpu) in self.cpus.iter_mut().enumerate() {
            let sign = signs.get(index).copied().unwrap_or_default();
            let answer = answers.get(index).copied().unwrap_or_default();
            cpu.look(index, elapsed, sign, answer, &self.limits, &mut actions);
        }
        if let Some(hang) = self.verdict() {
            actions.push(Action::Hung(hang));
        }
        actions
    }

    /// The hang, once every question that belongs to it has been answered or not.
    fn verdict(&self) -> Option<Hang> {
        let online = || self.cpus.iter().filter(|cpu| cpu.last.is_some_and(|sign| sign.online));
        let worst = online().filter_map(|cpu| cpu.hung).min()?;
        let undecided = |cpu: &Cpu| cpu.hung.is_none() && cpu.asked.is_some_and(|asked| asked.level == worst);
        if online().any(undecided) {
            return None;
        }
        let at_worst = |cpu: &Cpu| cpu.hung == Some(worst);
        let (cpu, hung) = self
            .cpus
            .iter()
            .enumerate()
            .filter(|(_, cpu)| at_worst(cpu))
            .max_by_key(|(index, cpu)| (cpu.quiet[worst as usize], usize::MAX - index))?;
        let kind = match worst {
            Level::Interrupt if online().all(at_worst) => Kind::AllCpus,
            Level::Interrupt => Kind::Cpu,
            Level::Thread => Kind::SoftLockup,
            Level::Turn => Kind::LiveLock,
        };
        Some(Hang {
            kind,
            cpu,
            quiet: hung.quiet[worst as usize],
        })
    }
}

impl Cpu {
    fn look(
        &mut self,
        index: usize,
        elapsed: u64,
        sign: Sign,
        answer: Answer,
        limits: &Limits,
        actions: &mut Vec<Action>,
    ) {
        let known = self.last.replace(sign);
        let Some(last) = known.filter(|last| last.online && sign.online) else {
            // It comes, goes, or is not there.
            *self = Self {
                last: Some(sign),
                ..Self::default()
            };
            return;
        };
        let switched = sign.switches != last.switches;
        let user = sign.user != last.user;
        let mut alive = [
            sign.interrupts != last.interrupts || switched || user,
            switched || user,
            sign.idle || user,
        ];
        if let Some(asked) = self.asked {
            // What answers belongs to this question only: each has a number of its own.
            alive[Level::Interrupt as usize] |= answer.interrupt || answer.thread;
            alive[Level::Thread as usize] |= answer.thread;
            alive[Level::Turn as usize] |= answer.thread;
            if alive[asked.level as usize] {
                self.asked = None;
                self.hung = None;
                actions.push(Action::Cleared(index, asked.level));
            }
        }
        for level in LEVELS {
            let quiet = &mut self.quiet[level as usize];
            *quiet = if alive[level as usize] {
                0
            } else {
                quiet.saturating_add(elapsed)
            };
        }
        self.suspect(index, elapsed, answer, limits, actions);
    }

    /// Puts the next question, or takes the CPU to hang.
    fn suspect(&mut self, index: usize, elapsed: u64, answer: Answer, limits: &Limits, actions: &mut Vec<Action>) {
        let due = LEVELS
            .into_iter()
            .find(|&level| limits.quiet[level as usize].is_some_and(|limit| self.quiet[level as usize] >= limit));
        let Some(level) = due else {
            self.asked = None;
            self.hung = None;
            return;
        };
        let Some(asked) = self.asked.filter(|asked| asked.level == level) else {
            self.hung = None;
            self.asked = Some(Asked {
                level,
                since: 0,
                count: 1,
            });
            actions.push(Action::Ask(index));
            return;
        };
        let since = asked.since.saturating_add(elapsed);
        let patience = match answer.nmi {
            true => limits.answer[level as usize],
            false => limits.silence.max(limits.answer[level as usize]),
        };
        if self.hung.is_some() || since < patience {
            self.asked = Some(Asked { since, ..asked });
        } else if asked.count < limits.questions {
            self.asked = Some(Asked {
                since: 0,
                count: asked.count + 1,
                ..asked
            });
            actions.push(Action::Ask(index));
        } else {
            self.hung = Some(level);
        }
    }
}

#[cfg(test)]
mod tests;
