//! The standby: the hands of [`failover::standby`].
//!
//! At machine start the loader has put the first kernel in its place and parked the boot CPU. Before that kernel is
//! entered, the staged successor boots in the reserved nursery on the very CPUs it will have, and goes to sleep. At a
//! failover the boot CPU jumps to its waking vector. Whatever goes wrong on the way costs the standby, not the machine:
//! the first kernel is started all the same, and the successor starts cold.

use crate::launch::{self, Jump};
use crate::stage::{self, Placed, Purpose};
use crate::watch::Backup;
use crate::{epitaph, quiesce, rescue};
use core::sync::atomic::Ordering;
use failover::fingerprint::Fingerprint;
use failover::life::Start;
use failover::ram::ActiveRam;
use failover::standby::{self as decide, Control, Request, Seen, Verdict};
use failover::successor::{self, Watch};
use machine::{clock, port, reset};
use shared_region::attempts::End;
use shared_region::control::{inject, SuccessorPhase};
use shared_region::facts::Facts;
use shared_region::header::Header;
use shared_region::layout;
use shared_region::parking::ParkState;
use shared_region::standby::{SleepPage, StandbyState, RESET_VALUE};
use shared_region::timeline::Event;
use zerocopy::FromZeros;

/// How long the loader may take from the backup OS's first sign of life until it has parked the boot CPU, in
/// microseconds: it unpacks nothing, but moves the first kernel.
const LOADER_US: u64 = 30_000_000;

/// A successor that went to sleep.
pub struct Standby {
    /// The nursery it lives in.
    nursery: usize,
    /// Staged-kernel slot it came from.
    slot: usize,
    /// What its module told before the sleep, all zero if that was nothing.
    facts: Facts,
    /// The control word with which it went to sleep.
    asleep: Control,
    /// Its waking vector.
    vector: u32,
    /// The machine's own PM1 control port.
    control: u16,
    /// What is to go wrong with it: bits of [`inject`].
    inject: u64,
    /// Of its memory.
    fingerprint: Option<Fingerprint>,
}

impl Standby {
    /// The staged-kernel slot it came from.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Everything it will find when it wakes: its nursery and its low range.
    fn memory(&self, header: &Header) -> [&'static [u8]; 2] {
        let low = layout::low_range(self.nursery);
        // SAFETY: (both) 1. RAM below 4 GB, mapped. 2. Nobody writes there while the standby sleeps, and the slices do not
        // outlive that; a wild write of the active is what they are looked at for, and changes what is found.
        let slice =
            |start: u64, length: u64| unsafe { core::slice::from_raw_parts(start as *const u8, length as usize) };
        [
            slice(header.nursery[self.nursery], layout::NURSERY_SIZE),
            slice(low.0, low.1 - low.0),
        ]
    }
}

fn seen(page: &SleepPage) -> Seen {
    Seen {
        control: Control(page.pm1_control.load(Ordering::Acquire)),
        reset: page.reset.load(Ordering::Acquire) == RESET_VALUE,
        doorbell: false,
    }
}

impl Backup {
    fn standby_state(&self) -> StandbyState {
        let word = self.region.standby().state.load(Ordering::Acquire);
        StandbyState::from_word(word).unwrap_or(StandbyState::Failed)
    }

    fn set_standby_state(&self, state: StandbyState) {
        self.region.standby().state.store(state as u64, Ordering::Release);
    }

    /// How the next successor starts.
    pub fn next_start(&self) -> Start {
        let reserved = self.life.reserved_nursery;
        match &self.standby {
            Some(standby) if decide::can_wake(self.standby_state(), standby.nursery, reserved) => Start::Standby,
            _ => Start::Cold,
        }
    }

    /// Puts a standby to sleep, if that is possible, and starts the first kernel in any case.
    pub fn start_machine(&mut self) {
        // From here on nothing runs but what is started here: should this program fail, the machine is reset.
        self.set_standby_state(StandbyState::Starting);
        let words = self.region.standby();
        let bsp = self.header.bsp_apic_id as u8;
        let slot = self.region.slot(bsp);
        let parked = || {
            words.first_entry.load(Ordering::Acquire) != 0
                && slot.state.load(Ordering::Acquire) == ParkState::Parked as u64
        };
        let since = clock::tsc();
        while !parked() {
            if rescue::since(&self.clock, since) > LOADER_US {
                // The loader says on the console what keeps it.
                log::error!("standby: the loader has not parked the boot CPU in time");
                self.set_standby_state(StandbyState::Failed);
                return;
            }
            self.wait_a_tick();
        }
        let since = clock::tsc();
        match self.put_to_sleep() {
            Ok(standby) => {
                self.standby = Some(standby);
                // Before the first kernel's orthros-init looks. Without a fingerprint it is not woken yet.
                self.set_standby_state(StandbyState::Asleep);
            }
            Err(why) => {
                log::warn!("standby: none: {why}; the successor will start cold");
                self.set_standby_state(StandbyState::Failed);
            }
        }
        self.clear_module_words();
        self.withdraw_facts();
        let jump = Jump::Enter {
            entry: words.first_entry.load(Ordering::Acquire),
            boot_params: words.first_boot_params.load(Ordering::Relaxed),
        };
        // SAFETY: 1. and 3. every CPU is parked. 2. The loader has put the kernel in its place.
        let started = unsafe { launch::start(self.ring0, &self.clock, self.region, bsp, jump, self.mtrrs) };
        if let Err(timeout) = started {
            epitaph::give_up(format_args!("the first kernel cannot be started: {timeout}"));
        }
        log::info!(
            "standby: first kernel entered {} ms after the loader was done",
            rescue::since(&self.clock, since) / 1000
        );
        // Instants of a failover only.
        self.region.timeline().tsc[Event::Jumped as usize].store(0, Ordering::Relaxed);
        if let Some(standby) = &mut self.standby {
            let fingerprint = Fingerprint::of(&standby.memory(&self.header));
            log::info!(
                "standby: {} pages in use, digest {:016x}",
                fingerprint.pages(),
                fingerprint.digest()
            );
            standby.fingerprint = Some(fingerprint);
        }
    }

    /// Boots the staged kernel and waits until it sleeps. When this returns every CPU is parked, one way or the other.
    fn put_to_sleep(&mut self) -> Result<Standby, alloc::string::String> {
        // The firmware leaves bus mastering on for the boot disk, and a kernel that wakes restores what it found.
        quiesce::everything(self.ring0, &self.clock, &self.platform);
        let nursery = self.life.reserved_nursery;
        let placed: Placed = stage::place(self.ring0, self.region, &self.header, nursery, Purpose::Sleep)
            .map_err(|error| alloc::format!("{error}"))?;
        log::info!("standby: {placed}");
        let page = self.region.sleep_page(nursery);
        // Its module clears the word.
        let injected = self.region.control().inject.load(Ordering::Relaxed);
        let Some(entry) = placed.entry(false) else {
            return Err("what was placed is written to".into());
        };
        let jump = Jump::Enter {
            entry,
            boot_params: placed.boot_params,
        };
        let bsp = self.header.bsp_apic_id as u8;
        let since = clock::tsc();
        // SAFETY: 1. and 3. the boot CPU is parked, the others have not been started. 2. Placed just now.
        unsafe { launch::start(self.ring0, &self.clock, self.region, bsp, jump, self.mtrrs) }
            .map_err(|timeout| alloc::format!("{timeout}"))?;
        let verdict = loop {
            self.wait_a_tick();
            let mut seen = seen(page);
            seen.doorbell = self.region.control().doorbell.load(Ordering::Acquire) != 0
                || seen.control.asks_for_sleep() && injected & inject::STANDBY_PANICS != 0;
            match decide::judge(rescue::since(&self.clock, since), seen) {
                Verdict::Going => {}
                verdict => break verdict,
            }
        };
        let asleep_us = rescue::since(&self.clock, since);
        let asleep = Control(page.pm1_control.load(Ordering::Acquire));
        let vector = page.waking_vector.load(Ordering::Acquire);
        let facts = Facts::parse(&self.region.copy(layout::FACTS)).unwrap_or_else(|_| Facts::new_zeroed());
        // SAFETY: it sleeps, or has failed: what its CPUs do may end.
        unsafe { self.stop_kernel_in(nursery, &facts) };
        quiesce::everything(self.ring0, &self.clock, &self.platform);
        match verdict {
            Verdict::Asleep if decide::vector_is_sound(vector, nursery) => {}
            Verdict::Asleep => return Err(alloc::format!("its waking vector {vector:#x} is not in its own memory")),
            Verdict::Failed(why) => return Err(why.into()),
            Verdict::Going => return Err("it is still going".into()),
        }
        let Some(control) = placed.control else {
            return Err("it was not placed to sleep".into());
        };
        log::info!(
            "standby: Linux {} asleep {} ms after its start, control {:#x}, waking vector {vector:#x}",
            facts.release(),
            asleep_us / 1000,
            asleep.0
        );
        Ok(Standby {
            nursery,
            slot: placed.slot,
            facts,
            asleep,
            vector,
            control,
            inject: injected,
            fingerprint: None,
        })
    }

    /// Stops the CPUs of a kernel in a nursery that is not the active, or gives the machine up.
    ///
    /// # Safety
    /// What the CPUs do may end.
    unsafe fn stop_kernel_in(&self, nursery: usize, facts: &Facts) {
        // All RAM but that of a kernel in the other nursery.
        let ram = ActiveRam::new(&self.header, 1 - nursery.min(1));
        // SAFETY: the caller's promise. Nobody is asked (generation 0): a CPU that parked in the module's handler would be
        // in it for ever when the kernel goes on.
        let cpus = unsafe { self.hands(&ram, facts).run(0) };
        if let Some(running) = cpus.iter().find(|cpu| cpu.stopped_by.is_none()) {
            epitaph::give_up(format_args!(
                "standby: cpu apic {} could not be taken back",
                running.apic_id
            ));
        }
    }

    /// Facts about the standby are not facts about the kernel that is entered next.
    pub fn withdraw_facts(&self) {
        let magic = self.region.address(layout::FACTS) + core::mem::offset_of!(Facts, magic) as u64;
        // SAFETY: the part's writer, the module, is of a kernel that sleeps or is gone; readers check the magic.
        unsafe { machine::mmio::write64(self.ring0, magic, 0) };
    }

    /// Wakes the standby. Returns whether it is on its way.
    pub fn wake(&mut self) -> bool {
        let Some(standby) = &self.standby else { return false };
        let base = self.header.nursery[standby.nursery];
        if standby.inject & inject::STANDBY_WRITTEN != 0 {
            let byte = base + layout::NURSERY_SIZE / 2;
            let value = machine::mmio::read32(self.ring0, byte) as u8;
            // SAFETY: RAM that nobody holds a reference to; the kernel in it is not woken.
            unsafe { machine::mmio::write8(self.ring0, byte, !value) };
        }
        let memory = standby.memory(&self.header);
        if !standby
            .fingerprint
            .as_ref()
            .is_some_and(|before| before.matches(&memory))
        {
            log::warn!("standby: it was written to while it slept; starting cold");
            self.set_standby_state(StandbyState::Failed);
            return false;
        }
        let page = self.region.sleep_page(standby.nursery);
        page.pm1_control
            .store(boot_plan::acpi::sleep::SCI_ENABLED, Ordering::Relaxed);
        page.reset.store(0, Ordering::Relaxed);
        self.region
            .control()
            .successor_slot
            .store(standby.slot as u64, Ordering::Relaxed);
        self.set_standby_state(StandbyState::Waking);
        let vector = if standby.inject & inject::STANDBY_HANGS == 0 {
            standby.vector
        } else {
            self.place_trap(standby.nursery)
        };
        let jump = Jump::Wake { vector };
        let bsp = self.header.bsp_apic_id as u8;
        // SAFETY: 1. and 3. every CPU is parked. 2. Its memory is as it left it: the digest is right.
        let started = unsafe { launch::start(self.ring0, &self.clock, self.region, bsp, jump, self.mtrrs) };
        if let Err(timeout) = started {
            self.lose(format_args!("the standby cannot be woken: {timeout}"));
        }
        log::info!("launch: cpu apic {bsp} left for the waking vector {vector:#x}");
        true
    }

    /// Real-mode code that hangs, at the start of the low range of a nursery's kernel, which is not woken.
    fn place_trap(&self, nursery: usize) -> u32 {
        /// cli; hlt; jmp to hlt
        const TRAP: [u8; 4] = [0xFA, 0xF4, 0xEB, 0xFD];
        let at = layout::low_range(nursery).0;
        for (offset, &byte) in TRAP.iter().enumerate() {
            // SAFETY: RAM that nobody holds a reference to.
            unsafe { machine::mmio::write8(self.ring0, at + offset as u64, byte) };
        }
        at as u32
    }

    /// Waits until the woken standby has reported in.
    ///
    /// # Errors
    /// How it failed.
    pub fn await_awake(&mut self, watch: &mut Watch, since: u64) -> Result<(), End> {
        let control = self.region.control();
        let why = loop {
            let us = rescue::since(&self.clock, since);
            let phase = control.successor_phase.load(Ordering::Acquire);
            if let successor::Verdict::Reached(reached) = watch.look(us, phase, self.heartbeat()) {
                log::info!("successor: {reached:?}");
            }
            if watch.phase() >= SuccessorPhase::Module {
                self.set_standby_state(StandbyState::Awake);
                return Ok(());
            }
            if control.doorbell.load(Ordering::Acquire) != 0 {
                break End::Panicked;
            }
            if us > decide::WAKE_US {
                break End::NotInTime;
            }
            self.wait_a_tick();
        };
        log::error!("standby: it was woken and {}; starting cold", why.text());
        self.set_standby_state(StandbyState::Failed);
        Err(why)
    }

    /// The standby that was woken has failed as a successor.
    pub fn lose_standby(&mut self) {
        if self.standby.take().is_some() {
            self.set_standby_state(StandbyState::Failed);
        }
    }

    /// Another kernel takes the place of the one that sleeps in the reserved nursery, if one does.
    pub fn forget_asleep(&mut self) {
        if self.standby_state() == StandbyState::Asleep {
            log::info!("standby: another kernel was staged, which will start cold");
            self.standby = None;
            self.set_standby_state(StandbyState::None);
        }
    }

    /// A kernel that was woken, and has died: its words mean nothing any more.
    pub fn forget_awake(&mut self) {
        if self.standby_state() == StandbyState::Awake {
            self.standby = None;
            self.set_standby_state(StandbyState::None);
        }
    }

    /// Does what a kernel that was woken asks of the chipset that it does not reach.
    pub fn serve_power_words(&self) {
        let Some(standby) = &self.standby else { return };
        if self.standby_state() != StandbyState::Awake {
            return;
        }
        let page = self.region.sleep_page(standby.nursery);
        let seen = seen(page);
        match decide::request(seen.control, seen.reset, standby.asleep) {
            Request::Nothing => {}
            Request::Pass(word) => {
                log::info!("standby: the kernel writes {:#x} to PM1 control", word.0);
                log::logger().flush();
                page.pm1_control
                    .store(boot_plan::acpi::sleep::SCI_ENABLED, Ordering::Relaxed);
                port::write(self.ring0, standby.control, word.0);
            }
            Request::Sleep => {
                log::error!("standby: the kernel wants to sleep, from which nobody could wake it");
                page.pm1_control
                    .store(boot_plan::acpi::sleep::SCI_ENABLED, Ordering::Relaxed);
            }
            Request::Reset => {
                log::info!("standby: the kernel resets the machine");
                log::logger().flush();
                reset::machine(self.ring0, &self.clock, self.platform.reset);
            }
        }
    }
}
