//! Stopping the active's CPUs: the hands of [`failover::stop`].

use crate::parking::Parking;
use crate::region::{slot_word, Region, SlotWords};
use crate::text_patch::TextPatch;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use failover::ram::ActiveRam;
use failover::stop::{Action, Cpu, Ladder, Limits, Rung, Seen, Skip, Step};
use machine::apic::LocalApic;
use machine::clock::{self, Clock};
use machine::{cmos, cpu, trampoline, Ring0, Timeout};
use shared_region::control::{inject, ControlWords};
use shared_region::facts::Facts;
use shared_region::header::Header;
use shared_region::layout::TRAMPOLINE;
use shared_region::parking::{ParkSlot, ParkState};

/// How long a CPU may take through the trampoline, in microseconds.
const TRAMPOLINE_US: u64 = 5_000;

/// What stopping needs.
pub struct Stop<'a> {
    /// Ring 0.
    pub ring0: Ring0,
    /// Time.
    pub clock: Clock,
    /// The region.
    pub region: Region,
    /// The parking code.
    pub parking: &'a Parking,
    /// The machine.
    pub header: &'a Header,
    /// The active's memory.
    pub ram: &'a ActiveRam,
    /// The active.
    pub facts: &'a Facts,
}

fn skipped(control: &ControlWords) -> Skip {
    let bits = control.inject.load(Ordering::Relaxed);
    Skip {
        module_nmi: bits & inject::SKIP_NMI_RUNG != 0,
        init: bits & inject::SKIP_AP_INIT_RUNG != 0,
        nmi_text: bits & inject::SKIP_PATCH_RUNG != 0,
        loop_text: bits & inject::SKIP_LOOP_RUNG != 0,
        warm_reset: bits & inject::SKIP_INIT_RUNG != 0,
    }
}

impl Stop<'_> {
    /// Climbs the ladder. Returns the CPUs in the order of the header; one with a rung beside it has been seen in the
    /// parking code.
    ///
    /// # Safety
    /// The active is dead: what its CPUs do may end between any two instructions, and its text may change.
    pub unsafe fn run(&self, generation: u64) -> Vec<Cpu> {
        let control = self.region.control();
        let cpus = self.header.cpus();
        self.parking.clear_slots(cpus);
        let mut skip = skipped(control);
        // Nobody is asked with generation 0: a kernel that is to go on afterwards must not find itself in a handler.
        skip.module_nmi |= generation == 0;
        // A kernel that has told nothing of itself has no text that could be patched.
        skip.nmi_text |= self.facts.asm_exc_nmi_phys == 0;
        skip.loop_text |= self.facts.panic_phys == 0;
        // A CPU that waits for the request in panic() answers it without an NMI.
        let request = if skip.module_nmi { 0 } else { generation };
        let at_once = control.inject.load(Ordering::Relaxed) & inject::PARK_AT_ONCE != 0;
        control
            .stop_gently
            .store(if at_once { 0 } else { request }, Ordering::Release);
        control.stop_request.store(request, Ordering::Release);

        let bsp = self.header.bsp_apic_id;
        let listed = cpus.iter().map(|&id| (id, u64::from(id) == bsp));
        let limits = Limits::of_machine(cpu::features().hypervisor);
        let mut ladder = Ladder::new(listed, limits, skip);
        let mut hands = Hands {
            stop: self,
            nmi_text: None,
            loop_text: None,
        };
        let start = clock::tsc();
        loop {
            let now = self.clock.nanoseconds(clock::tsc().wrapping_sub(start)) / 1000;
            match ladder.step(now, |index| self.seen(cpus[index])) {
                Step::Wait => core::hint::spin_loop(),
                Step::Done => break,
                // SAFETY: the caller's promise.
                Step::Do(action) => unsafe { hands.act(action, cpus) },
            }
        }
        for cpu in ladder.cpus() {
            self.report(cpu, generation);
        }
        ladder.cpus().to_vec()
    }

    fn seen(&self, apic_id: u8) -> Seen {
        let slot = self.region.slot(apic_id);
        match slot.state.load(Ordering::Acquire) {
            state if state == ParkState::Parked as u64 => match self.parking.prove(apic_id) {
                Ok(()) => Seen::Parked,
                Err(_) => Seen::Running,
            },
            // The slots were cleared before the request, so what is in them belongs to it.
            state if state == ParkState::Saved as u64 => Seen::Saved,
            state if state == ParkState::Saving as u64 => Seen::Saving,
            _ => match slot_word!(slot, let_go_on).load(Ordering::Acquire) {
                0 => Seen::Running,
                answers => Seen::GoingOn(answers),
            },
        }
    }

    /// Another rung is about to be tried on a CPU, unless it is parked by now: says what is known of it, and gives up
    /// what it may be in the middle of saving.
    fn leave_rung(&self, apic_id: u8) {
        let slot = self.region.slot(apic_id);
        let state = slot.state.load(Ordering::Relaxed);
        if state == ParkState::Parked as u64 && self.parking.prove(apic_id).is_ok() {
            return;
        }
        if state == ParkState::Saving as u64 {
            slot.generation.store(0, Ordering::Release);
        }
        let word = |word: &core::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
        log::warn!(
            "stop: cpu apic {apic_id} not stopped yet: slot state {state}, generation {}, nmis {}, rip {:#x}, rsp {:#x}, cr3 {:#x}, gdt {:#x}, idt {:#x}",
            word(&slot.generation),
            word(&slot_word!(slot, nmis)),
            word(&slot_word!(slot, parked_rip)),
            word(&slot_word!(slot, parked_rsp)),
            word(&slot_word!(slot, parked_cr3)),
            word(&slot_word!(slot, parked_gdt)),
            word(&slot_word!(slot, parked_idt)),
        );
    }

    fn report(&self, cpu: &Cpu, generation: u64) {
        let slot: &SlotWords = self.region.slot(cpu.apic_id);
        let role = if cpu.bsp { "bsp" } else { "ap" };
        let Some(rung) = cpu.stopped_by else {
            let what = self.parking.prove(cpu.apic_id).err().unwrap_or("nothing");
            log::error!(
                "stop: cpu apic {} ({role}) not stopped by any rung, last seen {:?}, {what} outside the region",
                cpu.apic_id,
                cpu.seen
            );
            return;
        };
        // The module writes the generation when all else is in the slot. A CPU may be on its way from there when the
        // rung's deadline passes.
        let saved = generation != 0 && slot.generation.load(Ordering::Acquire) == generation;
        let rung = if saved { Rung::ModuleNmi } else { rung };
        log::info!(
            "stop: cpu apic {} ({role}) parked by {} in {} us, generation {generation}, {}, proven: code, stack, page tables, GDT, IDT in the region, now {}",
            cpu.apic_id,
            rung.name(),
            cpu.stopped_after,
            if saved { "registers saved" } else { "registers not saved" },
            if cpu.waiting { "waiting for SIPI" } else { "halted in the parking code" },
        );
        let going_on = slot_word!(slot, let_go_on).load(Ordering::Relaxed);
        if going_on != 0 {
            // CS in `struct pt_regs`.
            let cs = core::mem::offset_of!(ParkSlot, regs) / 8 - 2 + 17;
            let user = slot.words[cs].load(Ordering::Relaxed) & 3 == 3;
            log::info!(
                "stop: cpu apic {} was let go on {going_on} times and came to {}",
                cpu.apic_id,
                if user { "user mode" } else { "another task, or nowhere" },
            );
        }
    }
}

/// The text that is patched at the moment.
struct Hands<'a, 's> {
    stop: &'a Stop<'s>,
    nmi_text: Option<TextPatch>,
    loop_text: Option<TextPatch>,
}

impl Hands<'_, '_> {
    /// # Safety
    /// As [`Stop::run`].
    unsafe fn act(&mut self, action: Action, cpus: &[u8]) {
        let stop = self.stop;
        match action {
            Action::Init(index) => stop.leave_rung(cpus[index]),
            Action::PatchNmiText | Action::PatchLoopText => stop.leave_rung(stop.header.bsp_apic_id as u8),
            _ => {}
        }
        let apic = LocalApic::current(stop.ring0);
        let id = |index: usize| u32::from(cpus[index]);
        let facts = stop.facts;
        let root = stop.parking.root(facts.la57 == 1) as u32;
        let entry = stop.parking.entry_by_id as u32;
        let result = match action {
            // It may have begun to park since it was looked at, outside of an NMI: another one could come where it has no
            // handler.
            Action::Nmi(index)
                if self.nmi_text.is_none()
                    && matches!(stop.seen(cpus[index]), Seen::Saving | Seen::Saved | Seen::Parked) =>
            {
                Ok(())
            }
            // SAFETY: the active is dead.
            Action::Nmi(index) => unsafe { apic.send_nmi(id(index)) },
            // SAFETY: the active is dead; the ladder sets the warm-reset vector before it resets the bootstrap
            // processor.
            Action::Init(index) => unsafe { apic.send_init(id(index), &stop.clock) },
            // SAFETY: the active is dead.
            Action::StartUp(index) => unsafe { self.start_up(&apic, id(index)) },
            Action::Insist => {
                stop.region.control().stop_gently.store(0, Ordering::Release);
                Ok(())
            }
            Action::MarkWaiting(index) => {
                let slot = stop.region.slot(cpus[index]);
                slot.state.store(ParkState::WaitForSipi as u64, Ordering::Release);
                Ok(())
            }
            Action::PatchNmiText => {
                // SAFETY: 1. the active is dead. 2. The root's last entry is the active's (`Parking::map_kernel_text`
                // when it was armed); the parking code lies in the low 4 GB.
                self.nmi_text = unsafe { TextPatch::nmi_entry(stop.ram, facts.asm_exc_nmi_phys, root, entry) };
                if self.nmi_text.is_none() {
                    log::warn!("stop: NMI entry text at {:#x} is not in RAM", facts.asm_exc_nmi_phys);
                }
                Ok(())
            }
            Action::PatchLoopText => {
                // SAFETY: as above.
                self.loop_text =
                    unsafe { TextPatch::whole_function(stop.ram, facts.panic_phys, facts.panic_size, root, entry) };
                if self.loop_text.is_none() {
                    log::warn!("stop: text of panic() at {:#x} is not in RAM", facts.panic_phys);
                }
                Ok(())
            }
            Action::RestoreNmiText => {
                self.nmi_text.take().into_iter().for_each(TextPatch::restore);
                Ok(())
            }
            Action::RestoreLoopText => {
                self.loop_text.take().into_iter().for_each(TextPatch::restore);
                Ok(())
            }
            Action::SetWarmReset => {
                // SAFETY: the active is dead; no other CPU is in the trampoline (each start is waited for).
                unsafe {
                    self.install_trampoline();
                    cmos::set_warm_reset(stop.ring0, TRAMPOLINE as u32);
                }
                Ok(())
            }
            Action::ClearWarmReset => {
                cmos::clear_warm_reset(stop.ring0);
                Ok(())
            }
        };
        if let Err(Timeout(what)) = result {
            log::warn!("stop: {action:?}: {what} did not happen in time");
        }
    }

    /// # Safety
    /// No CPU is in the trampoline.
    unsafe fn install_trampoline(&self) {
        let start = trampoline::Start {
            cr3: self.stop.parking.boot_root as u32,
            // The parking code sets a stack of its own before it uses one; until then the trampoline's one return
            // address needs a place: the end of the reserved core's slot, which is never parked.
            stack: self.stop.region.slot_address(self.stop.header.reserved_apic_id as u8) + 0x4000,
            entry: self.stop.parking.entry_by_id,
            argument: 0,
        };
        // SAFETY: 1. the caller's promise. 2. Nobody refers to the page. 3. The parking code's map covers the low 4 GB.
        unsafe { start.install(self.stop.ring0) };
    }

    /// Sends a start-up IPI and waits until the CPU has left the trampoline, so that the next one may use it.
    ///
    /// # Safety
    /// As [`Stop::run`].
    unsafe fn start_up(&self, apic: &LocalApic, id: u32) -> Result<(), Timeout> {
        let stop = self.stop;
        // SAFETY: the active is dead. A CPU that was late when the page was written before finds the same bytes: the
        // entry looks its slot up by its own id.
        unsafe {
            self.install_trampoline();
            apic.send_sipi(id, (TRAMPOLINE >> 12) as u8)?;
        }
        // Not arriving is seen by the ladder.
        let _ = stop
            .clock
            .wait_for(TRAMPOLINE_US, "", || trampoline::arrived(stop.ring0));
        Ok(())
    }
}
