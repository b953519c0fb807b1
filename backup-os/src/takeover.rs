//! The way of a failover, from the moment the active is found dead until its successor needs nothing more.
//!
//! While it lasts the log goes to the ring only; the serial port gets it when the gate is open.

use crate::attempt::{Attempt, Failed};
use crate::hang::Death;
use crate::launch::Jump;
use crate::memory::FrozenMemory;
use crate::newborn::Newborn;
use crate::region::slot_word;
use crate::rescue::{self, Aim, Failure};
use crate::stop::Stop;
use crate::watch::{Armed, Backup};
use crate::{attempt, console, epitaph, launch, quiesce, stage, watch};
use alloc::format;
use alloc::rc::Rc;
use core::sync::atomic::Ordering;
use failover::attempts::{Attempts, Candidate};
use failover::life::{Input, Start};
use failover::ram::ActiveRam;
use failover::stop::Cpu;
use machine::clock::{self, PmTimer};
use machine::hpet;
use salvage::jbd2::operations_under_way;
use salvage::kernel::Kernel;
use shared_region::attempts::End;
use shared_region::control::{inject, Cause, CommitPoint, NetworkHold, SalvageGate, SuccessorPhase, WHERE_SIZE};
use shared_region::facts::Facts;
use shared_region::stage::StageTable;
use shared_region::timeline::{Event, EVENTS};

/// Successors that may fail one after the other with processes in them, before the machine is given up.
const IN_A_ROW: u32 = 3;
/// Microseconds that operations on file systems have to end.
const OPERATIONS: u64 = 20_000;

impl Backup {
    /// Takes over from a dead active. Returns when the successor has taken over everything, or, with it, when it has failed
    /// after processes ran in it.
    ///
    /// # Safety
    /// The active is dead, or has stopped itself.
    pub unsafe fn take_over(&mut self, armed: Armed) -> Option<Armed> {
        // What is not unpacked by now unpacks itself, and a standby that is not back by now is none.
        self.unpacking = None;
        self.drop_outdated();
        self.leave_images();
        self.note_detection(armed.panicking_since, &armed.death);
        self.step(Input::ActiveDied);
        let generation = self.life.failovers;
        self.let_operations_end(&armed);
        // SAFETY: the active is dead: the caller's promise.
        unsafe { self.stop(&armed, generation) };
        let stopped_tsc = clock::tsc();
        self.region.stamp_at(Event::Stopped, stopped_tsc);
        self.step(Input::Stopped);
        // The module of the successor has an NMI handler too, and must not park in it.
        self.region.control().stop_request.store(0, Ordering::Release);

        quiesce::everything(self.ring0, &self.clock, &self.platform);
        self.region.stamp(Event::Quiesced);

        // SAFETY: every CPU of the active is parked, no device masters the bus but the network cards, for the heap, and the
        // gate is shut: the value is dropped before it opens.
        let frozen = unsafe { rescue::frozen(self.region, &armed.ram) };
        let hashing = self.region.control().inject.load(Ordering::Relaxed) & inject::HASH_MEMORY != 0;
        let before = hashing.then(|| rescue::hash(&frozen));

        self.forget_awake();
        // The dead kernel's, of which `armed` has a copy: from here on the successor's are looked for.
        self.withdraw_facts();
        self.forget_attempts();
        let la57 = armed.facts.la57 == 1;
        let mut attempts = Attempts::new(attempt::slots(self.region));
        let failure = Failure {
            facts: &armed.facts,
            generation,
            stopped_tsc,
            failover: generation,
            suspect: armed.death.cpu,
        };
        let Some(mut successor) = self.start_next(&mut attempts, la57) else {
            self.lose_all(&armed, &failure)
        };

        let prepared = match &armed.prepared {
            Some(prepared) => Ok(prepared.clone()),
            None => rescue::prepare(&armed.live, &armed.facts).map(Rc::new),
        };
        let saved = prepared.map_err(|error| format!("{error}")).and_then(|prepared| {
            // SAFETY: 1. `frozen` lives on behind this call. 2. The gate is shut.
            let saved = unsafe { rescue::salvage(self.region, &self.clock, &frozen, &prepared, &failure, Aim::All) };
            saved.map_err(|error| format!("{error}"))
        });
        let gate = match saved {
            Ok(saved) => {
                log::info!(
                    "salvage: {} bytes of Essential Context, {:?}",
                    saved.bytes,
                    saved.summary
                );
                if saved.truncated {
                    log::warn!("salvage: the Essential Context area is full, records were left out");
                }
                SalvageGate::Open
            }
            Err(error) => {
                log::error!("salvage: failed: {error}");
                SalvageGate::Failed
            }
        };
        let mut shut = Some(frozen);
        while let Err(failed) = self.carry_through(&mut successor, &mut shut, gate, before) {
            if failed.level == CommitPoint::Processes {
                return Some(self.inherit(&successor, failed));
            }
            // SAFETY: no process runs in it, and none can any more.
            unsafe { self.clear_away(&successor, failed) };
            successor = match self.start_next(&mut attempts, la57) {
                Some(next) => next,
                None => self.lose_all(&armed, &failure),
            };
        }
        let start = successor.candidate.start;
        let took_over = Failed {
            end: End::TookOver,
            level: CommitPoint::Processes,
        };
        self.note_end(successor.candidate, took_over, SuccessorPhase::Complete);
        log::info!("failover: over, successor started {start:?}");
        self.log_timeline();
        self.placed = None;
        self.unwatched = Some(successor.candidate);
        self.step(Input::HandedOver);
        self.swap_nurseries();
        None
    }

    /// A successor has failed in which processes run: it is an active like any other, of which the other nursery is not a
    /// part any more. Another kernel is to take over from it, if there is one.
    fn inherit(&mut self, successor: &Attempt, failed: Failed) -> Armed {
        self.another_is_next(successor.candidate, failed, successor.watch.phase());
        self.log_timeline();
        self.placed = None;
        self.step(Input::HandedOver);
        self.swap_nurseries();
        let rang = self.region.control().doorbell.load(Ordering::Acquire);
        let death = if rang == 0 {
            let cause = Cause::Silent;
            Death {
                cause,
                ..Death::default()
            }
        } else {
            watch::rung_by(rang)
        };
        match self.arm_dead(death) {
            Ok(armed) => armed,
            Err(why) => self.lose(format_args!("the successor {}, and {why}", failed.end.text())),
        }
    }

    /// A successor has failed with processes in it, and was not watched yet: another kernel is to take over from it. Gives
    /// the machine up if that has been so too often in a row.
    pub fn another_is_next(&mut self, candidate: Candidate, failed: Failed, phase: SuccessorPhase) {
        self.note_end(candidate, failed, phase);
        self.failed_in_a_row += 1;
        if self.failed_in_a_row > IN_A_ROW {
            self.lose(format_args!("the successor {} again", failed.end.text()));
        }
        let other = attempt::slots(self.region).after(candidate.slot);
        self.put_stage_word(core::mem::offset_of!(StageTable, current), other as u64);
    }

    /// Opens the gate, if that has not been done for an earlier successor, and waits until this one has taken over
    /// everything. `shut` is the old memory while the gate is shut, `before` its digest, if that is to be compared.
    fn carry_through(
        &mut self,
        successor: &mut Attempt,
        shut: &mut Option<FrozenMemory>,
        gate: SalvageGate,
        before: Option<(u64, u64)>,
    ) -> Result<(), Failed> {
        if successor.candidate.start == Start::Standby {
            let awake = self.await_awake(&mut successor.watch, successor.since);
            // One that has not woken cannot have gone ahead.
            awake.map_err(|end| {
                self.revoke();
                Failed::early(end)
            })?;
        }
        if let Some((before, frozen)) = before.zip(shut.as_ref()) {
            self.await_phase(successor, SuccessorPhase::Module)?;
            compare_hashes(before, rescue::hash(frozen));
        }
        if shut.take().is_some() {
            self.region.stamp(Event::Salvaged);
            self.region.control().salvage_gate.store(gate as u64, Ordering::Release);
            self.step(Input::Salvaged);
        }
        console::hurry(false);
        self.learn_network();
        let end = self.await_phase(successor, SuccessorPhase::Complete);
        self.leave_network();
        end
    }

    /// Notes the instant on every clock, and clears what the last failover left.
    fn note_detection(&self, panicking_since: u64, death: &Death) {
        let (control, region) = (self.region.control(), self.region);
        let tsc = clock::tsc();
        let counter = self.platform.hpet.map_or(0, |base| hpet::counter(self.ring0, base));
        let pm_timer = match self.platform.pm_timer_port {
            0 => 0,
            port => u64::from(PmTimer::new(self.ring0, port).read()),
        };
        console::hurry(true);
        control.detected_tsc.store(tsc, Ordering::Relaxed);
        control.detected_hpet.store(counter, Ordering::Relaxed);
        control.detected_pm_timer.store(pm_timer, Ordering::Relaxed);
        for word in &region.timeline().tsc {
            word.store(0, Ordering::Relaxed);
        }
        let rang = control.doorbell.load(Ordering::Acquire);
        let rang_tsc = match rang {
            0 => 0,
            _ => control.doorbell_tsc.load(Ordering::Relaxed),
        };
        // Whichever was first.
        let failed = [panicking_since, rang_tsc, death.since]
            .into_iter()
            .filter(|&at| at != 0 && at < tsc)
            .min();
        if let Some(failed) = failed {
            region.stamp_at(Event::Failed, failed);
        }
        region.stamp_at(Event::Detected, tsc);
        control.unparked_cpus.store(0, Ordering::Relaxed);
        // The successor's module clears the word it comes from.
        let fails_at = (control.inject.load(Ordering::Relaxed) & inject::SUCCESSOR_AT) >> inject::SUCCESSOR_AT_SHIFT;
        control.successor_fails_at.store(fails_at, Ordering::Relaxed);
        control.salvage_gate.store(SalvageGate::Busy as u64, Ordering::Release);
        control.network_hold.store(NetworkHold::None as u64, Ordering::Release);
        self.note_cause(death);
        log::info!(
            "failover: cause {}: doorbell {rang:#x}, panic_cpu {}, tsc {tsc}, hpet {counter}, pm timer {pm_timer}",
            death.cause.name(),
            if panicking_since == 0 {
                "not seen taken"
            } else {
                "taken"
            }
        );
    }

    /// The successor's module is to find its words as at power-on. Not earlier: the dead one's can still ring while its
    /// CPUs are being stopped, and that would look like a panic of the successor.
    pub fn clear_module_words(&self) {
        let control = self.region.control();
        for word in [
            &control.module_abi,
            &control.module_features,
            &control.stalled_threads,
            &control.doorbell,
            &control.doorbell_tsc,
            &control.successor_phase,
            &control.successor_heartbeat,
            &control.commit_point,
            &control.processes_resumed,
            &control.frames_adopted,
            &control.frames_copied,
            &control.frames_refused,
            &control.nursery_free,
        ] {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Writes down why, for the report.
    fn note_cause(&self, death: &Death) {
        let control = self.region.control();
        control.failure_cause.store(death.cause as u64, Ordering::Relaxed);
        let cpu = death.cpu.map_or(0, |cpu| 1 + cpu as u64);
        control.failure_cpu.store(cpu, Ordering::Relaxed);
        control.failure_interrupted.store(death.interrupted, Ordering::Relaxed);
        let mut text = [0; WHERE_SIZE];
        let length = death.place.len().min(WHERE_SIZE);
        text[..length].copy_from_slice(&death.place.as_bytes()[..length]);
        for (word, bytes) in control.failure_where.iter().zip(text.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
    }

    /// What stops the CPUs of a kernel with this memory, of which these facts are known.
    pub fn hands<'a>(&'a self, ram: &'a ActiveRam, facts: &'a Facts) -> Stop<'a> {
        Stop {
            ring0: self.ring0,
            clock: self.clock,
            region: self.region,
            parking: &self.parking,
            header: &self.header,
            ram,
            facts,
        }
    }

    /// Gives operations on file systems that are under way a moment to end: a thread that was put aside or waits in the
    /// middle of one cannot end it once the CPUs are stopped, and its journal cannot be completed then. The CPU that
    /// panicked waits for half a second to be asked.
    fn let_operations_end(&self, armed: &Armed) {
        let Some(prepared) = armed.prepared.as_ref().filter(|_| armed.death.cause == Cause::Panic) else {
            return;
        };
        let kernel = Kernel::new(&armed.live, prepared);
        let open = operations_under_way(&kernel);
        if open == 0 {
            return;
        }
        let none = || operations_under_way(&kernel) == 0;
        match self.clock.wait_for(OPERATIONS, "operations on file systems", none) {
            Ok(()) => log::info!("stop: {open} operations on file systems have ended"),
            Err(timeout) => log::info!("stop: {timeout}"),
        }
    }

    /// Stops every CPU, or gives the machine up.
    ///
    /// # Safety
    /// The active is dead.
    unsafe fn stop(&mut self, armed: &Armed, generation: u64) {
        // SAFETY: the caller's promise.
        let cpus = unsafe { self.hands(&armed.ram, &armed.facts).run(generation) };
        let running: alloc::vec::Vec<&Cpu> = cpus.iter().filter(|cpu| cpu.stopped_by.is_none()).collect();
        let control = self.region.control();
        if running.is_empty() {
            self.clear_module_words();
            return;
        }
        control.unparked_cpus.store(running.len() as u64, Ordering::Relaxed);
        control
            .salvage_gate
            .store(SalvageGate::Forbidden as u64, Ordering::Release);
        self.step(Input::NotStopped);
        epitaph::give_up(format_args!(
            "{} of {} CPUs could not be parked, first of them apic {}: no memory was added, no disk written",
            running.len(),
            cpus.len(),
            running[0].apic_id
        ))
    }

    /// Checks the placed successor, places it anew if it was written to or is another one, and sends the bootstrap
    /// processor into it.
    ///
    /// A bzImage turns 5-level paging on or off as it should be; an unpacked kernel takes it as it is. So one is entered
    /// only if the bootstrap processor has kept what the active had (`la57`).
    ///
    /// # Errors
    /// Why it is not on its way.
    pub fn start_cold(&mut self, slot: usize, la57: bool) -> Result<Newborn, End> {
        let bsp = self.header.bsp_apic_id as u8;
        let parked_in = slot_word!(self.region.slot(bsp), parked_cr3).load(Ordering::Relaxed);
        let unpacked = parked_in & !0xFFF == self.parking.root(la57);
        let placed = self.placed.as_ref().filter(|placed| placed.slot == slot);
        let mut entry = placed.and_then(|placed| placed.entry(unpacked));
        if entry.is_none() {
            if placed.is_some() {
                log::warn!("stage: the placed successor was written to; placing it anew");
            }
            let nursery = self.life.reserved_nursery;
            match stage::place_from(self.ring0, self.region, &self.header, nursery, slot) {
                Ok(placed) => entry = self.placed.insert(placed).entry(false),
                Err(error) => {
                    log::error!("stage: {error}");
                    return Err(End::NotPlaced);
                }
            }
        }
        let (Some(placed), Some(entry)) = (&self.placed, entry) else {
            log::error!("stage: what was placed is written to all the time");
            return Err(End::NotPlaced);
        };
        self.region
            .control()
            .successor_slot
            .store(placed.slot as u64, Ordering::Relaxed);
        let jump = Jump::Enter {
            entry,
            boot_params: placed.boot_params,
        };
        let newborn = self.watch_newborn();
        // SAFETY: 1. and 3. every CPU is parked. 2. The placed kernel's digest is right.
        let started = unsafe { launch::start(self.ring0, &self.clock, self.region, bsp, jump, self.mtrrs) };
        if let Err(timeout) = started {
            self.lose(format_args!("no successor can be started: {timeout}"));
        }
        log::info!("launch: cpu apic {bsp} entered the successor: {jump:x?}");
        Ok(newborn)
    }

    pub fn heartbeat(&self) -> u64 {
        self.region.control().successor_heartbeat.load(Ordering::Relaxed)
    }

    /// The successor did not make it.
    pub fn lose(&mut self, why: core::fmt::Arguments<'_>) -> ! {
        self.lose_saying(why, "")
    }

    /// The same, with what became of the files, if that is known.
    pub fn lose_saying(&mut self, why: core::fmt::Arguments<'_>, files: &str) -> ! {
        self.step(Input::SuccessorDied);
        let word = self.region.control().commit_point.load(Ordering::Acquire);
        let level = failover::attempts::furthest(self.levels().chain([word]));
        let and = if files.is_empty() { "" } else { "; " };
        epitaph::give_up(format_args!("{why}, {}{and}{files}", level.text()))
    }

    /// One line with every instant, in nanoseconds after the detection.
    fn log_timeline(&self) {
        use core::fmt::Write;
        let words = &self.region.timeline().tsc;
        let stamp = |event: Event| words[event as usize].load(Ordering::Acquire);
        let zero = stamp(Event::Detected);
        let mut line = alloc::string::String::new();
        for (event, name) in EVENTS {
            let tsc = stamp(event);
            if tsc != 0 {
                let ns = |from: u64, to: u64| self.clock.nanoseconds(to - from);
                let _ = if tsc < zero {
                    write!(line, " {name} -{}", ns(tsc, zero))
                } else {
                    write!(line, " {name} {}", ns(zero, tsc))
                };
            }
        }
        log::info!("timeline:{line} ns");
    }

    /// Makes the other window the reservation.
    fn swap_nurseries(&mut self) {
        self.header.reserved_nursery = self.life.reserved_nursery as u64;
        self.header.digest = self.header.compute_digest();
        // SAFETY: after the loader only this program writes the header; readers check its digest.
        unsafe { self.region.put_header(&self.header) };
        log::info!("watch: nursery {} is the reservation now", self.header.reserved_nursery);
    }
}

fn compare_hashes(before: (u64, u64), after: (u64, u64)) {
    log::info!(
        "hash: old memory {:016x} before the jump, {:016x} at the gate, over {} bytes",
        before.0,
        after.0,
        after.1
    );
    if before == after {
        log::info!("hash: old memory is unchanged");
    } else {
        log::error!("hash: old memory has CHANGED");
    }
}
