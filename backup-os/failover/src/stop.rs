//! The stop ladder: ways to get a CPU out of a dead kernel, the gentlest first.
//!
//! | rung | for | needs of the dead kernel |
//! |---|---|---|
//! | [`Rung::ModuleNmi`] | every CPU | the module's NMI handler; saves registers and FPU |
//! | [`Rung::Init`] | application processors | nothing |
//! | [`Rung::NmiText`] | the bootstrap processor | NMIs not blocked, the entry text where the facts say |
//! | [`Rung::LoopText`] | the bootstrap processor | that it spins in `panic()` |
//! | [`Rung::WarmReset`] | the bootstrap processor | nothing; a firmware that honours the warm-reset vector |
//!
//! The warm reset comes last because a firmware that ignores the vector resets the machine. Every rung ends in the
//! parking code, also INIT: the CPU is sent there by a start-up IPI, so that being stopped is seen and not supposed.
//! At the end every application processor is put into wait-for-SIPI, where not even an NMI reaches it.
//!
//! A CPU that the first NMI finds in the middle of a system call may end it, because what a call has done is known
//! exactly when it is over. It says so ([`Seen::GoingOn`]), parks by itself on its way to user mode, and is asked again
//! in short intervals. When a number of tries and a time have passed, it is to park wherever it is
//! ([`Action::Insist`]).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// A way to stop a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// NMI, handled by the module: saves the CPU's state and parks.
    ModuleNmi,
    /// INIT, then a start-up IPI into the parking code.
    Init,
    /// NMI, after the kernel's NMI entry text was replaced by a jump into the parking code.
    NmiText,
    /// The text of `panic()`, in whose last loop the CPU spins, replaced in the same way.
    LoopText,
    /// INIT after setting the firmware's warm-reset vector.
    WarmReset,
}

impl Rung {
    /// In the order they are tried.
    pub const ALL: [Self; 5] = [
        Self::ModuleNmi,
        Self::Init,
        Self::NmiText,
        Self::LoopText,
        Self::WarmReset,
    ];

    /// The name used in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ModuleNmi => "nmi",
            Self::Init => "init",
            Self::NmiText => "nmi text patch",
            Self::LoopText => "loop text patch",
            Self::WarmReset => "warm reset",
        }
    }
}

/// What a CPU's slot says, after the backup OS has checked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// Nothing has been heard of it.
    Running,
    /// It has answered so many NMIs, each in the middle of a call, which it may end first.
    GoingOn(u64),
    /// The module's handler fills the slot.
    Saving,
    /// The slot is whole, the CPU not yet in the parking code.
    Saved,
    /// It reported from inside the parking code, and its code, page tables, descriptor tables and stack lie in the
    /// region.
    Parked,
}

/// What to do next. CPUs are named by their index in the list given to [`Ladder::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send an NMI.
    Nmi(usize),
    /// From now on no CPU may end its call first: the next NMI parks it wherever it is.
    Insist,
    /// Send an INIT.
    Init(usize),
    /// Send a start-up IPI with the vector of the region's real-mode trampoline.
    StartUp(usize),
    /// Replace the kernel's NMI entry text.
    PatchNmiText,
    /// Put the kernel's NMI entry text back.
    RestoreNmiText,
    /// Replace the text of `panic()`.
    PatchLoopText,
    /// Put the text of `panic()` back.
    RestoreLoopText,
    /// Set the firmware's warm-reset vector to the trampoline.
    SetWarmReset,
    /// Take the warm-reset vector back.
    ClearWarmReset,
    /// The CPU now waits for a start-up IPI: write that into its slot.
    MarkWaiting(usize),
}

/// The next step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Do this, then ask again.
    Do(Action),
    /// Look at the slots again.
    Wait,
    /// The ladder has ended.
    Done,
}

/// Deadlines, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the module's NMI handler to park a CPU.
    pub nmi: u64,
    /// After this a CPU that shows no sign gets a second NMI (the first may have met another one in flight).
    pub nmi_again: u64,
    /// How long after its last answer a CPU that ends a call is asked again ...
    pub ask: u64,
    /// ... after so many answers ...
    pub ask_often: u64,
    /// ... no sooner than this, and after as many again no sooner than twice this, and so on: it gets on when it is left alone.
    pub ask_slowly: u64,
    /// Calls may be ended for so long at least, and until each CPU that does so has answered `go_on_answers` times ...
    pub go_on: u64,
    /// ... where a virtual CPU can run for a long time between two answers ...
    pub go_on_answers: u64,
    /// ... but never longer than this.
    pub go_on_most: u64,
    /// How much longer a CPU that has begun to save its state may take.
    pub saving: u64,
    /// From INIT to the first start-up IPI (Intel SDM vol. 3A, 9.4.4.1 asks for 10 ms of old processors).
    pub init_settle: u64,
    /// For a CPU to arrive after INIT; the start-up IPI is repeated at half of it.
    pub init: u64,
    /// For the patch of the NMI entry text.
    pub nmi_text: u64,
    /// For the patch of `panic()`: the CPU is caught when it next returns into that function, for which it may first
    /// have to wait a second for CPUs that do not answer it any more (`native_stop_other_cpus`).
    pub loop_text: u64,
    /// For the firmware to come round to the warm-reset vector.
    pub warm_reset: u64,
    /// The most time that counts between two looks. When the reserved core itself was kept from running (by firmware, or
    /// a loaded host of a virtual machine), the others probably were too, and no deadline is to pass unseen.
    pub blink: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A CPU of hardware is there within microseconds; the virtual CPU of a loaded host was seen to take 44 ms,
            // and giving up too early costs what it had in its registers.
            nmi: 200_000,
            nmi_again: 50_000,
            ask: 100,
            // Under emulation an NMI takes as long as a CPU runs between two that come every 100 microseconds.
            ask_often: 20,
            ask_slowly: 1_000,
            go_on: 2_000,
            // A CPU with much to do for the network ends a call in many steps: with 20 of them, as many milliseconds under
            // emulation and two on hardware, five of six panics of a busy server found one in the middle.
            // Where the host has no time for it, that was not enough either while it was asked every millisecond.
            go_on_answers: 100,
            go_on_most: 350_000,
            saving: 200_000,
            init_settle: 10_000,
            init: 40_000,
            nmi_text: 20_000,
            loop_text: 5_000_000,
            warm_reset: 200_000,
            blink: 1_000,
        }
    }
}

impl Limits {
    /// For a machine that may be a virtual one.
    pub fn of_machine(is_virtual: bool) -> Self {
        let limits = Self::default();
        // Its CPUs may stand still for as long as the host has others to run: two of three took no NMI for 211 ms on a host
        // with twice as many to run as it had CPUs. No other rung saves registers.
        let nmi = if is_virtual { 1_000_000 } else { limits.nmi };
        Self { nmi, ..limits }
    }
}

/// Rungs that are left out: for tests, or because what they need is not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Skip {
    /// Leave out [`Rung::ModuleNmi`].
    pub module_nmi: bool,
    /// Leave out [`Rung::Init`].
    pub init: bool,
    /// Leave out [`Rung::NmiText`].
    pub nmi_text: bool,
    /// Leave out [`Rung::LoopText`].
    pub loop_text: bool,
    /// Leave out [`Rung::WarmReset`].
    pub warm_reset: bool,
}

/// One CPU on the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Local APIC id.
    pub apic_id: u8,
    /// Whether it is the bootstrap processor.
    pub bsp: bool,
    /// What was last seen of it.
    pub seen: Seen,
    /// The rung by which it was stopped.
    pub stopped_by: Option<Rung>,
    /// Microseconds from the start of the ladder until it was seen stopped.
    pub stopped_after: u64,
    /// Whether it now waits for a start-up IPI.
    pub waiting: bool,
}

impl Cpu {
    fn stopped(&self) -> bool {
        self.stopped_by.is_some()
    }

    /// Whether `rung` can do anything for this CPU.
    fn is_target(&self, rung: Rung) -> bool {
        !self.stopped()
            && match rung {
                Rung::ModuleNmi => true,
                Rung::Init => !self.bsp,
                Rung::NmiText | Rung::LoopText | Rung::WarmReset => self.bsp,
            }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// About to enter the rung with this index in [`Rung::ALL`].
    Enter(usize),
    /// In it, since this time.
    On(usize, u64),
    /// Putting application processors into wait-for-SIPI.
    Settle,
    Done,
}

/// The ladder, for one stop.
#[derive(Clone, Debug)]
pub struct Ladder {
    cpus: Vec<Cpu>,
    limits: Limits,
    skip: Skip,
    stage: Stage,
    queue: VecDeque<Action>,
    started: Option<u64>,
    /// When was looked last.
    last: u64,
    /// Time that counts against deadlines.
    patience: u64,
    /// Start-up or NMI repeats sent on this rung.
    sent: u8,
    /// For each CPU that ends a call: its answers when it was asked last, and when that was.
    asked: Vec<(u64, u64)>,
    /// Whether calls may no longer be ended.
    insisting: bool,
}

impl Ladder {
    /// A ladder for these CPUs (local APIC id, whether it is the bootstrap processor).
    pub fn new(cpus: impl IntoIterator<Item = (u8, bool)>, limits: Limits, skip: Skip) -> Self {
        let cpus: Vec<Cpu> = cpus
            .into_iter()
            .map(|(apic_id, bsp)| Cpu {
                apic_id,
                bsp,
                seen: Seen::Running,
                stopped_by: None,
                stopped_after: 0,
                waiting: false,
            })
            .collect();
        Self {
            asked: cpus.iter().map(|_| (0, 0)).collect(),
            insisting: false,
            cpus,
            limits,
            skip,
            stage: Stage::Enter(0),
            queue: VecDeque::new(),
            started: None,
            last: 0,
            patience: 0,
            sent: 0,
        }
    }

    /// The CPUs and what became of them.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// CPUs that no rung has stopped.
    pub fn unstopped(&self) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().filter(|cpu| !cpu.stopped())
    }

    /// The rung being tried.
    pub fn rung(&self) -> Option<Rung> {
        match self.stage {
            Stage::On(index, _) => Rung::ALL.get(index).copied(),
            _ => None,
        }
    }

    /// Takes what was seen of each CPU (`seen(index)`) at `now` (microseconds, any zero) and says what is next.
    pub fn step(&mut self, now: u64, seen: impl Fn(usize) -> Seen) -> Step {
        let started = *self.started.get_or_insert(now);
        let passed = now.saturating_sub(self.last.max(started));
        self.patience += passed.min(self.limits.blink);
        self.last = now;
        let rung = self.rung();
        for (index, cpu) in self.cpus.iter_mut().enumerate() {
            if cpu.stopped() {
                continue;
            }
            cpu.seen = seen(index);
            if cpu.seen == Seen::Parked {
                // A late arrival between two rungs still came by the one before.
                cpu.stopped_by = Some(rung.unwrap_or(Rung::ModuleNmi));
                cpu.stopped_after = now.saturating_sub(started);
            }
        }
        loop {
            if let Some(action) = self.queue.pop_front() {
                if let Action::MarkWaiting(index) = action {
                    if let Some(cpu) = self.cpus.get_mut(index) {
                        cpu.waiting = true;
                    }
                }
                return Step::Do(action);
            }
            match self.stage {
                Stage::Enter(index) => self.enter(index),
                Stage::On(index, since) => {
                    if !self.climb(index, self.patience - since) {
                        return Step::Wait;
                    }
                }
                Stage::Settle => {
                    for (index, cpu) in self.cpus.iter().enumerate() {
                        if !cpu.bsp && cpu.stopped() {
                            self.queue.push_back(Action::Init(index));
                            self.queue.push_back(Action::MarkWaiting(index));
                        }
                    }
                    self.stage = Stage::Done;
                }
                Stage::Done => return Step::Done,
            }
        }
    }

    fn skipped(&self, rung: Rung) -> bool {
        match rung {
            Rung::ModuleNmi => self.skip.module_nmi,
            Rung::Init => self.skip.init,
            Rung::NmiText => self.skip.nmi_text,
            Rung::LoopText => self.skip.loop_text,
            Rung::WarmReset => self.skip.warm_reset,
        }
    }

    fn targets(&self, rung: Rung) -> Vec<usize> {
        (0..self.cpus.len()).filter(|&i| self.cpus[i].is_target(rung)).collect()
    }

    fn enter(&mut self, index: usize) {
        let Some(&rung) = Rung::ALL.get(index) else {
            self.stage = Stage::Settle;
            return;
        };
        let targets = self.targets(rung);
        if targets.is_empty() || self.skipped(rung) {
            self.stage = Stage::Enter(index + 1);
            return;
        }
        self.sent = 0;
        match rung {
            Rung::ModuleNmi => self.queue.extend(targets.into_iter().map(Action::Nmi)),
            Rung::Init => self.queue.extend(targets.into_iter().map(Action::Init)),
            Rung::NmiText => {
                self.queue.push_back(Action::PatchNmiText);
                self.queue.extend(targets.into_iter().map(Action::Nmi));
            }
            Rung::LoopText => self.queue.push_back(Action::PatchLoopText),
            Rung::WarmReset => {
                self.queue.push_back(Action::SetWarmReset);
                for target in targets {
                    self.queue.push_back(Action::Init(target));
                    // A processor that keeps INIT pending while halted is woken by the start-up IPI; a bootstrap
                    // processor ignores it otherwise.
                    self.queue.push_back(Action::StartUp(target));
                }
            }
        }
        self.stage = Stage::On(index, self.patience);
    }

    /// Whether the rung has been left, or has queued something.
    fn climb(&mut self, index: usize, elapsed: u64) -> bool {
        let rung = Rung::ALL[index];
        let targets = self.targets(rung);
        if targets.is_empty() || elapsed >= self.deadline(rung, &targets) {
            match rung {
                Rung::NmiText => self.queue.push_back(Action::RestoreNmiText),
                Rung::LoopText => self.queue.push_back(Action::RestoreLoopText),
                Rung::WarmReset => self.queue.push_back(Action::ClearWarmReset),
                Rung::ModuleNmi | Rung::Init => {}
            }
            self.stage = Stage::Enter(index + 1);
            return true;
        }
        match rung {
            Rung::ModuleNmi => {
                if self.sent == 0 && elapsed >= self.limits.nmi_again {
                    self.sent = 1;
                    let silent = targets.iter().filter(|&&i| self.cpus[i].seen == Seen::Running);
                    self.queue.extend(silent.map(|&i| Action::Nmi(i)));
                }
                self.ask_again(elapsed, &targets);
            }
            Rung::Init => {
                let due = [self.limits.init_settle, self.limits.init / 2 + self.limits.init_settle];
                if due.get(usize::from(self.sent)).is_some_and(|&at| elapsed >= at) {
                    self.sent += 1;
                    self.queue.extend(targets.into_iter().map(Action::StartUp));
                }
            }
            _ => {}
        }
        !self.queue.is_empty()
    }

    /// Asks CPUs that end a call again, and at last insists.
    fn ask_again(&mut self, elapsed: u64, targets: &[usize]) {
        let limits = self.limits;
        let going_on = targets.iter().filter_map(|&i| match self.cpus.get(i)?.seen {
            Seen::GoingOn(answers) => Some((i, answers)),
            _ => None,
        });
        let going_on: Vec<(usize, u64)> = going_on.collect();
        let enough = going_on.iter().all(|&(_, answers)| answers >= limits.go_on_answers);
        let patient = elapsed < limits.go_on_most && !(enough && elapsed >= limits.go_on);
        if !going_on.is_empty() && !patient && !self.insisting {
            self.insisting = true;
            self.queue.push_back(Action::Insist);
            for &(i, answers) in &going_on {
                // One more answer can come to an NMI that was sent before.
                if let Some(asked) = self.asked.get_mut(i) {
                    *asked = (answers, elapsed);
                }
                self.queue.push_back(Action::Nmi(i));
            }
            return;
        }
        for (i, answers) in going_on {
            let Some((known, at)) = self.asked.get_mut(i) else {
                continue;
            };
            // Without an answer to the last one it may have got lost in one that was in flight.
            let wait = match answers {
                _ if answers <= *known => limits.nmi_again,
                _ if answers < limits.ask_often => limits.ask,
                _ => limits.ask_slowly.saturating_mul(answers / limits.ask_often.max(1)),
            };
            if elapsed >= at.saturating_add(wait) {
                (*known, *at) = (answers, elapsed);
                self.queue.push_back(Action::Nmi(i));
            }
        }
    }

    fn deadline(&self, rung: Rung, targets: &[usize]) -> u64 {
        match rung {
            Rung::ModuleNmi => {
                let saving = targets.iter().any(|&i| self.cpus[i].seen > Seen::Running);
                self.limits.nmi + if saving { self.limits.saving } else { 0 }
            }
            Rung::Init => self.limits.init_settle + self.limits.init,
            Rung::NmiText => self.limits.nmi_text,
            Rung::LoopText => self.limits.loop_text,
            Rung::WarmReset => self.limits.warm_reset,
        }
    }
}

#[cfg(test)]
mod tests;
