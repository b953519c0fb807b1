//! Attempts at a successor: the hands of [`failover::attempts`].
//!
//! Until the commit point the old memory is whole: a successor that fails is stopped like an active that has died, and
//! the next candidate is put in its place. What was salvaged stays valid, for nothing but the nursery and its low range
//! has been written to.

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
use shared_region::control::{CommitPoint, SuccessorPhase};
use shared_region::facts::Facts;
use shared_region::layout;
use shared_region::stage::StageTable;
use shared_region::timeline::Event;
use zerocopy::FromZeros;

/// Instants of the successor alone, which the next one has again.
const OF_THE_SUCCESSOR: [Event; 5] = [
    Event::Jumped,
    Event::Woken,
    Event::InitStarted,
    Event::ModuleLoaded,
    Event::GatePassed,
];

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
    /// Starts the next candidate, the one after that if it cannot be started, and so on; gives the machine up when there
    /// is none left. `la57`: whether the active had 5-level paging.
    pub fn start_next(&mut self, attempts: &mut Attempts, la57: bool) -> Attempt {
        loop {
            let standby = match self.life.start {
                Start::Standby => self.standby.as_ref().map(|standby| standby.slot()),
                Start::Cold => None,
            };
            let Some(candidate) = attempts.next(standby) else {
                self.lose(format_args!("no successor took over: {}", self.attempts_text()));
            };
            if self.life.start != candidate.start {
                self.step(Input::Replaced(candidate.start));
            }
            self.note_begin(candidate);
            let started = match candidate.start {
                Start::Standby if self.wake() => Ok(None),
                Start::Standby => Err(End::Damaged),
                Start::Cold => self.start_cold(candidate.slot, la57).map(Some),
            };
            match started {
                Ok(newborn) => {
                    return Attempt {
                        candidate,
                        watch: Watch::new(Limits::default(), 0, self.heartbeat()),
                        since: clock::tsc(),
                        newborn,
                    }
                }
                Err(end) => self.note_end(candidate, end, SuccessorPhase::None),
            }
        }
    }

    /// Waits until the successor has come to a phase.
    ///
    /// # Errors
    /// How it failed, if it may be replaced; after the commit point the machine is given up.
    pub fn await_phase(&mut self, attempt: &mut Attempt, phase: SuccessorPhase) -> Result<(), End> {
        let control = self.region.control();
        while attempt.watch.phase() < phase {
            self.wait_a_tick();
            let word = control.successor_phase.load(Ordering::Acquire);
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
            if self.revoke() {
                return Err(end);
            }
            self.lose(format_args!(
                "the successor {} in {:?}",
                end.text(),
                attempt.watch.phase()
            ));
        }
        Ok(())
    }

    /// Takes the successor's right to go ahead, unless it has made use of it.
    pub fn revoke(&self) -> bool {
        let word = &self.region.control().commit_point;
        let (open, revoked) = (CommitPoint::Open as u64, CommitPoint::Revoked as u64);
        word.compare_exchange(open, revoked, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Stops a successor that has failed, and leaves everything as it was before it was started.
    ///
    /// # Safety
    /// It was revoked: what its CPUs do may end.
    pub unsafe fn clear_away(&mut self, attempt: &Attempt, end: End) {
        self.note_end(attempt.candidate, end, attempt.watch.phase());
        let nursery = self.life.reserved_nursery;
        let ram = ActiveRam::of_nursery(&self.header, nursery);
        let facts = match &self.standby {
            Some(standby) if attempt.candidate.start == Start::Standby => standby.facts().clone(),
            _ => self.facts_in(&ram),
        };
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

    /// Clears the attempts of the failover before.
    pub fn forget_attempts(&self) {
        self.region.attempts().count.store(0, Ordering::Release);
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
        if let Some(attempt) = words.list.get(number as usize) {
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
    pub fn note_end(&self, candidate: Candidate, end: End, phase: SuccessorPhase) {
        let words = self.region.attempts();
        let number = words.count.load(Ordering::Relaxed);
        let attempt = usize::try_from(number)
            .ok()
            .and_then(|n| words.list.get(n.wrapping_sub(1)));
        if let Some(attempt) = attempt {
            attempt.phase.store(phase as u64, Ordering::Relaxed);
            attempt.ended.store(clock::tsc(), Ordering::Relaxed);
            attempt.end.store(end as u64, Ordering::Release);
        }
        let took_over = end == End::TookOver;
        if !took_over {
            log::error!(
                "attempt {number}: the successor {} in {phase:?}, before the commit point",
                end.text()
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
