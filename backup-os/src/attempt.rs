//! Attempts at a successor: the hands of [`failover::attempts`].
//!
//! A successor that fails before it has let a process run is stopped like an active that has died, and the next candidate
//! is put in its place, in the same nursery. What was salvaged stays valid: retained frames have not been written to, nor
//! the other nursery, and the region's parts are as the salvager left them. How far the successor had gone is written
//! down with its end, so that the next one knows what it finds.

use crate::memory::LiveMemory;
use crate::newborn::Newborn;
use crate::region::Region;
use crate::watch::Backup;
use crate::{quiesce, rescue, stage};
use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use failover::attempts::{Attempts, Candidate, Slots};
use failover::life::{Input, Start};
use failover::ram::ActiveRam;
use failover::successor::{Limits, Verdict, Watch};
use machine::clock::{self, Clock};
use shared_region::attempts::{End, MAX};
use shared_region::control::{CommitPoint, HangLimit, SuccessorPhase};
use shared_region::facts::Facts;
use shared_region::layout;
use shared_region::stage::StageTable;
use shared_region::timeline::Event;
use zerocopy::FromZeros;

/// Instants of the successor alone, which the next one has again.
const OF_THE_SUCCESSOR: [Event; 8] = [
    Event::Jumped,
    Event::Woken,
    Event::InitStarted,
    Event::ModuleLoaded,
    Event::GatePassed,
    Event::MemoryAdded,
    Event::FilesReady,
    Event::NetworkWanted,
];

/// How an attempt ended, and how far it had gone.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// What became of the successor.
    pub end: End,
    /// How far it had gone.
    pub level: CommitPoint,
}

impl Failed {
    /// Before it was started, or could have done anything.
    pub fn early(end: End) -> Self {
        let level = CommitPoint::Open;
        Self { end, level }
    }
}

/// A successor on its way.
pub struct Attempt {
    /// Which.
    pub candidate: Candidate,
    /// How it is doing.
    pub watch: Watch,
    /// TSC when it was entered.
    pub since: u64,
    /// What its memory says, if it boots.
    pub newborn: Option<Newborn>,
}

impl Attempt {
    /// Whether it panics before its module could say so.
    fn panics_unsaid(&mut self, clock: &Clock) -> bool {
        let booting = self.watch.phase() == SuccessorPhase::None;
        booting && self.newborn.as_mut().is_some_and(|newborn| newborn.panicked(clock))
    }
}

/// What the region says of the staged kernels.
pub fn slots(region: Region) -> Slots {
    let running = region.control().successor_slot.load(Ordering::Relaxed);
    stage::table(region).map_or_else(Slots::default, |table| Slots::read(&table, running))
}

impl Backup {
    /// Starts the next candidate, the one after that if it cannot be started, and so on; `None` when there is none left.
    /// `la57`: whether the active had 5-level paging.
    pub fn start_next(&mut self, attempts: &mut Attempts, la57: bool) -> Option<Attempt> {
        loop {
            let standby = match self.life.start {
                Start::Standby => self.standby.as_ref().map(|standby| standby.slot()),
                Start::Cold => None,
            };
            let candidate = attempts.next(standby)?;
            if self.life.start != candidate.start {
                self.step(Input::Replaced(candidate.start));
            }
            self.note_begin(candidate);
            let started = match candidate.start {
                Start::Standby if self.wake() => Ok(None),
                Start::Standby => Err(End::Damaged),
                Start::Cold => {
                    self.take_network();
                    self.start_cold(candidate.slot, la57).map(Some)
                }
            };
            match started {
                Ok(newborn) => {
                    return Some(Attempt {
                        candidate,
                        watch: Watch::new(
                            Limits::with_heartbeat(self.region.hang_limit(HangLimit::Successor)),
                            0,
                            self.heartbeat(),
                        ),
                        since: clock::tsc(),
                        newborn,
                    })
                }
                Err(end) => self.note_end(candidate, Failed::early(end), SuccessorPhase::None),
            }
        }
    }

    /// Waits until the successor has come to a phase.
    ///
    /// # Errors
    /// How it failed. Unless processes run in it, it may be replaced.
    pub fn await_phase(&mut self, attempt: &mut Attempt, phase: SuccessorPhase) -> Result<(), Failed> {
        let control = self.region.control();
        while attempt.watch.phase() < phase {
            self.wait_a_tick();
            let word = control.successor_phase.load(Ordering::Acquire);
            self.serve_network();
            let us = rescue::since(&self.clock, attempt.since);
            let verdict = attempt.watch.look(us, word, self.heartbeat());
            let end = match verdict {
                _ if control.doorbell.load(Ordering::Acquire) != 0 => End::Panicked,
                Verdict::Going if attempt.panics_unsaid(&self.clock) => End::Panicked,
                Verdict::Going => continue,
                Verdict::Reached(reached) => {
                    log::info!("successor: {reached:?}");
                    continue;
                }
                Verdict::BootTimeout => End::NotInTime,
                Verdict::HeartbeatTimeout(_) => End::Silent,
                Verdict::PhaseTimeout(_) => End::TooLong,
            };
            let level = self.revoke().unwrap_or(CommitPoint::Processes);
            return Err(Failed { end, level });
        }
        Ok(())
    }

    /// Takes the successor's right to go on, unless processes run in it. Returns how far it had gone.
    pub fn revoke(&self) -> Option<CommitPoint> {
        let word = &self.region.control().commit_point;
        let mut found = word.load(Ordering::Acquire);
        loop {
            let level = failover::attempts::replaceable(found)?;
            let revoked = CommitPoint::Revoked as u64;
            match word.compare_exchange(found, revoked, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(level),
                Err(now) => found = now,
            }
        }
    }

    /// Stops a successor that has failed, and leaves everything as it was before it was started, but for what its level
    /// says.
    ///
    /// # Safety
    /// It was revoked: what its CPUs do may end.
    pub unsafe fn clear_away(&mut self, attempt: &Attempt, failed: Failed) {
        self.note_end(attempt.candidate, failed, attempt.watch.phase());
        self.leave_network();
        let nursery = self.life.reserved_nursery;
        let ram = ActiveRam::of_nursery(&self.header, nursery);
        let facts = match &self.standby {
            Some(standby) if attempt.candidate.start == Start::Standby => *standby.facts(),
            _ => self.facts_in(&ram),
        };
        // SAFETY: a nursery is RAM, and all of it is mapped.
        let memory = unsafe { LiveMemory::new(ram.clone()) };
        // The module of a standby has said so before it slept, and that of the active since.
        if facts.root_table_phys != 0 {
            if let Err(refusal) = self.map_its_text(&facts, &memory) {
                log::warn!("stop: {}", refusal.message);
            }
        }
        // SAFETY: the caller's promise. Nobody is asked (generation 0): a kernel that has failed may answer with anything.
        let cpus = unsafe { self.hands(&ram, &facts).run(0) };
        if let Some(running) = cpus.iter().find(|cpu| cpu.stopped_by.is_none()) {
            self.lose(format_args!(
                "{}; its cpu apic {} could not be stopped",
                self.attempts_text(),
                running.apic_id
            ));
        }
        self.lose_standby();
        self.forget_awake();
        quiesce::everything(self.ring0, &self.clock, &self.platform);
        for event in OF_THE_SUCCESSOR {
            self.region.timeline().tsc[event as usize].store(0, Ordering::Relaxed);
        }
        self.withdraw_facts();
        self.clear_module_words();
    }

    /// What a kernel that lives in this memory has told of itself, all zero if that was nothing.
    fn facts_in(&self, ram: &ActiveRam) -> Facts {
        Facts::parse(&self.region.copy(layout::FACTS))
            .ok()
            .filter(|facts| ram.holds(facts.asm_exc_nmi_phys, 1) && ram.holds(facts.panic_phys, 1))
            .unwrap_or_else(Facts::new_zeroed)
    }

    /// Clears the attempts of the failover before, unless this one is what its successor's failure has led to.
    pub fn forget_attempts(&self) {
        let words = self.region.attempts();
        let kept = if self.failed_in_a_row == 0 {
            0
        } else {
            words.count.load(Ordering::Relaxed)
        };
        words.inherited.store(kept, Ordering::Relaxed);
        words.count.store(kept, Ordering::Release);
    }

    fn note_begin(&self, candidate: Candidate) {
        let words = self.region.attempts();
        let number = words.count.load(Ordering::Relaxed);
        log::info!(
            "attempt {}: the kernel of slot {}, {:?}",
            number + 1,
            candidate.slot,
            candidate.start
        );
        if let (Some(attempt), Some(level)) = (words.list.get(number as usize), words.levels.get(number as usize)) {
            level.store(CommitPoint::Open as u64, Ordering::Relaxed);
            let woken = u64::from(candidate.start == Start::Standby);
            for (word, value) in [
                (&attempt.slot, candidate.slot as u64),
                (&attempt.woken, woken),
                (&attempt.end, End::Going as u64),
                (&attempt.phase, SuccessorPhase::None as u64),
                (&attempt.begun, clock::tsc()),
                (&attempt.ended, 0),
            ] {
                word.store(value, Ordering::Relaxed);
            }
        }
        words.count.store(number + 1, Ordering::Release);
    }

    /// Writes down how the attempt under way has ended, also for the choice of the next kernel.
    pub fn note_end(&self, candidate: Candidate, Failed { end, level }: Failed, phase: SuccessorPhase) {
        let words = self.region.attempts();
        let number = words.count.load(Ordering::Relaxed);
        let index = (number as usize).wrapping_sub(1);
        if let (Some(attempt), Some(word)) = (words.list.get(index), words.levels.get(index)) {
            word.store(level as u64, Ordering::Relaxed);
            attempt.phase.store(phase as u64, Ordering::Relaxed);
            attempt.ended.store(clock::tsc(), Ordering::Relaxed);
            attempt.end.store(end as u64, Ordering::Release);
        }
        let took_over = end == End::TookOver;
        if !took_over {
            log::error!(
                "attempt {number}: the successor {} in {phase:?}, {}",
                end.text(),
                level.text()
            );
        }
        // A standby says nothing about how its kernel boots.
        if took_over || candidate.start == Start::Cold {
            let failed = core::mem::offset_of!(StageTable, failed) + 8 * candidate.slot;
            self.put_stage_word(failed, u64::from(!took_over));
        }
        if took_over {
            self.put_stage_word(core::mem::offset_of!(StageTable, current), candidate.slot as u64);
        }
    }

    /// Writes a word of the stage table, at an offset in bytes.
    pub fn put_stage_word(&self, offset: usize, value: u64) {
        let address = self.region.address(layout::STAGE_TABLE) + offset as u64;
        // SAFETY: a word of the stage table, whose other writer, the module, writes while
        // it waits for this program's answer or not at all.
        unsafe { machine::mmio::write64(self.ring0, address, value) };
    }

    /// How far each attempt of this failover has gone, as words.
    pub fn levels(&self) -> impl Iterator<Item = u64> {
        let words = self.region.attempts();
        let count = words.count.load(Ordering::Relaxed).min(MAX as u64) as usize;
        let inherited = words.inherited.load(Ordering::Relaxed) as usize;
        let levels = words.levels.iter().take(count).skip(inherited);
        levels.map(|level| level.load(Ordering::Relaxed))
    }

    /// How each attempt has ended, for the epitaph.
    pub fn attempts_text(&self) -> String {
        let words = self.region.attempts();
        let count = words.count.load(Ordering::Relaxed).min(MAX as u64) as usize;
        let mut text = String::new();
        for (index, attempt) in words.list.iter().take(count).enumerate() {
            let word = |word: &core::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
            let how = if word(&attempt.woken) == 1 { "woken" } else { "booted" };
            let end = End::from_word(word(&attempt.end)).unwrap_or(End::Going);
            let comma = if index == 0 { "" } else { "; " };
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{comma}the kernel of slot {}, {how}, {}",
                word(&attempt.slot),
                end.text()
            );
        }
        text
    }
}
