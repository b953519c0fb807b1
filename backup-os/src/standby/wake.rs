//! Waking the standby at a failover, and serving the kernel that was woken.

use super::{seen, sleeping, Standby};
use crate::launch::{self, Jump};
use crate::rescue;
use crate::watch::Backup;
use core::sync::atomic::Ordering;
use failover::standby::{self as decide, Request};
use failover::successor::{self, Watch};
use machine::{port, reset};
use shared_region::attempts::End;
use shared_region::control::{inject, SuccessorPhase};
use shared_region::layout;
use shared_region::standby::StandbyState;

impl Backup {
    /// Wakes the standby. Returns whether it is on its way.
    pub fn wake(&mut self) -> bool {
        let Some(standby) = &self.standby else { return false };
        let Standby { sleeper, inject } = standby;
        let (nursery, injected) = (sleeper.nursery, *inject);
        let base = self.header.nursery[nursery];
        if injected & inject::STANDBY_WRITTEN != 0 {
            // Somewhere in what it will find again, which its free memory is not part of.
            let middle = sleeper.pieces.chunk(sleeper.pieces.chunks() / 2);
            let byte = middle.map_or(base, |(start, _)| start);
            let value = machine::mmio::read32(self.ring0, byte) as u8;
            // SAFETY: RAM that nobody holds a reference to; the kernel in it is not woken.
            unsafe { machine::mmio::write8(self.ring0, byte, !value) };
        }
        let chunks = 0..sleeper.pieces.chunks();
        if let Some((start, length)) = sleeper.print.changed(chunks, &sleeper.pieces, sleeping) {
            log::warn!("standby: it was written to while it slept, within {length} bytes at {start:#x}; starting cold");
            self.standby = None;
            self.set_standby_state(StandbyState::Failed);
            return false;
        }
        let page = self.region.sleep_page(nursery);
        page.pm1_control
            .store(boot_plan::acpi::sleep::SCI_ENABLED, Ordering::Relaxed);
        page.reset.store(0, Ordering::Relaxed);
        self.region
            .control()
            .successor_slot
            .store(sleeper.slot as u64, Ordering::Relaxed);
        self.set_standby_state(StandbyState::Waking);
        let vector = if injected & inject::STANDBY_HANGS == 0 {
            sleeper.vector
        } else {
            self.place_trap(nursery)
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
                self.awake = self.standby.take().map(|standby| standby.sleeper);
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

    /// A kernel that was woken, and has died: its words mean nothing any more.
    pub fn forget_awake(&mut self) {
        self.awake = None;
    }

    /// Does what a kernel that was woken asks of the chipset that it does not reach.
    pub fn serve_power_words(&self) {
        let Some(awake) = &self.awake else { return };
        let page = self.region.sleep_page(awake.nursery);
        let seen = seen(page);
        match decide::request(seen.control, seen.reset, awake.asleep) {
            Request::Nothing => {}
            Request::Pass(word) => {
                log::info!("standby: the kernel writes {:#x} to PM1 control", word.0);
                log::logger().flush();
                page.pm1_control
                    .store(boot_plan::acpi::sleep::SCI_ENABLED, Ordering::Relaxed);
                port::write(self.ring0, awake.control, word.0);
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
