//! Making standbys at machine start.
//!
//! The loader has put the first kernel in its place and parked the boot CPU. Before that kernel is entered, the staged one
//! boots in each nursery in turn, on the very CPUs it will have, and goes to sleep. The nursery that will be ordinary memory
//! of the first kernel comes first, because what sleeps there has to be packed before that kernel is entered: this core does
//! it while the other nursery's kernel boots.

use super::{own_parts, pieces, seen, staged_in, Sleeper, Standby};
use crate::launch::{self, Jump};
use crate::stage::{self, Placed, Purpose};
use crate::watch::Backup;
use crate::{epitaph, quiesce, rescue};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use boot_plan::first;
use boot_plan::span::Span;
use core::sync::atomic::Ordering;
use failover::ram::ActiveRam;
use failover::standby::{self as decide, Control, Verdict};
use machine::clock;
use shared_region::control::inject;
use shared_region::facts::Facts;
use shared_region::layout::{self, Part};
use shared_region::parking::ParkState;
use shared_region::standby::StandbyState;
use shared_region::timeline::Event;
use zerocopy::FromZeros;

/// How long the loader may take from the backup OS's first sign of life until it has parked the boot CPU, in
/// microseconds: it unpacks nothing, but moves the first kernel.
const LOADER_US: u64 = 30_000_000;
/// How long an image is packed between two looks at a kernel that boots, in microseconds.
const PACK_US: u64 = 5_000;

impl Backup {
    /// Puts standbys to sleep, as far as that is possible, and starts the first kernel in any case.
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
        // Each kernel's module clears the word.
        let injected = self.region.control().inject.load(Ordering::Relaxed);
        let reserved = self.life.reserved_nursery;
        if let Err(why) = self.make_image(1 - reserved, injected) {
            log::warn!("standby: no image for nursery {}: {why}", 1 - reserved);
        }
        self.forget_kernel();
        let made = self.put_to_sleep(reserved, injected);
        self.finish_packing(injected);
        self.forget_kernel();
        match made {
            Ok(sleeper) => {
                self.standby = Some(Standby {
                    sleeper,
                    inject: injected,
                });
                // Before the first kernel's orthros-init looks. Without a fingerprint it is not woken yet.
                self.set_standby_state(StandbyState::Asleep);
            }
            Err(why) => {
                log::warn!("standby: none: {why}; the successor will start cold");
                self.set_standby_state(StandbyState::Failed);
            }
        }
        let jump = Jump::Enter {
            entry: words.first_entry.load(Ordering::Acquire),
            boot_params: words.first_boot_params.load(Ordering::Relaxed),
        };
        // SAFETY: 1. and 3. every CPU is parked. 2. The loader has put the kernel in its place; what was written to its parts
        // of the region has been put back.
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
            standby.sleeper.take_fingerprint();
            standby.sleeper.prepare(&self.header);
            let sleeper = standby.sleeper.clone();
            self.images.begin(sleeper);
        }
    }

    /// Puts a standby to sleep in the nursery that will be the first kernel's memory, and begins to pack it.
    fn make_image(&mut self, nursery: usize, injected: u64) -> Result<(), String> {
        let window = Span::of(self.header.nursery[nursery], layout::NURSERY_SIZE);
        let boot_params = self.region.copy(layout::half(layout::BOOT_PARAMS, first::HALF));
        let occupied = first::occupied(&boot_params).ok_or("the first kernel's boot_params are cut off")?;
        if let Some(span) = occupied.iter().find(|span| span.overlaps(&window)) {
            return Err(alloc::format!("the first kernel lies at {span}"));
        }
        // The first kernel's tables and parameters lie in the parts that are also this nursery's.
        let parts: [(Part, Vec<u8>); 2] = own_parts(nursery).map(|part| (part, self.region.copy(part)));
        let made = self.put_to_sleep(nursery, injected);
        if let Ok(sleeper) = &made {
            let mut sleeper = sleeper.clone();
            sleeper.take_fingerprint();
            self.images.begin(sleeper);
            // What lies in the parts is packed before they are put back.
            self.images.keep(parts);
        } else {
            self.put_parts_back(parts);
        }
        made.map(drop)
    }

    fn finish_packing(&mut self, injected: u64) {
        let since = clock::tsc();
        while self.images.packs() {
            self.images.pack_on(self.region, &self.clock, PACK_US);
        }
        let us = rescue::since(&self.clock, since);
        if us > 1000 {
            log::info!("standby: waited {} ms for an image to be packed", us / 1000);
        }
        if let Some(parts) = self.images.kept() {
            self.put_parts_back(parts);
        }
        if injected & inject::STANDBY_IMAGE != 0 {
            self.damage_image(1 - self.life.reserved_nursery);
        }
    }

    fn put_parts_back(&self, parts: [(Part, Vec<u8>); 2]) {
        for (part, bytes) in parts {
            // SAFETY: no kernel that uses the parts runs, and this program holds no reference into them.
            unsafe { self.region.fill(part, &bytes) };
        }
    }

    /// What the module of a kernel that sleeps, or is gone, has told is not the next one's.
    fn forget_kernel(&self) {
        self.clear_module_words();
        self.withdraw_facts();
    }

    /// Boots the staged kernel and waits until it sleeps. When this returns every CPU is parked, one way or the other.
    fn put_to_sleep(&mut self, nursery: usize, injected: u64) -> Result<Sleeper, String> {
        // The firmware leaves bus mastering on for the boot disk, and a kernel that wakes restores what it found.
        quiesce::everything(self.ring0, &self.clock, &self.platform);
        let placed: Placed = stage::place(self.ring0, self.region, &self.header, nursery, Purpose::Sleep)
            .map_err(|error| alloc::format!("{error}"))?;
        log::info!("standby: {placed}");
        let page = self.region.sleep_page(nursery);
        self.region.control().inject.store(injected, Ordering::Relaxed);
        self.region.standby().idle_count.store(0, Ordering::Relaxed);
        let Some(entry) = placed.entry(false) else {
            return Err("what was placed is written to".into());
        };
        let jump = Jump::Enter {
            entry,
            boot_params: placed.boot_params,
        };
        let bsp = self.header.bsp_apic_id as u8;
        let since = clock::tsc();
        // SAFETY: 1. and 3. every CPU is parked, or has not been started. 2. Placed just now.
        unsafe { launch::start(self.ring0, &self.clock, self.region, bsp, jump, self.mtrrs) }
            .map_err(|timeout| alloc::format!("{timeout}"))?;
        // What takes long is done while it boots.
        self.images.prepare(&self.header);
        let verdict = loop {
            self.wait_a_tick();
            self.images.pack_on(self.region, &self.clock, PACK_US);
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
        let control = placed.control.ok_or("it was not placed to sleep")?;
        let kernel = staged_in(self.region, Some(placed.slot)).ok_or("it is not staged any more")?;
        log::info!(
            "standby: Linux {} asleep in nursery {nursery} {} ms after its start, control {:#x}, waking vector {vector:#x}",
            facts.release(),
            asleep_us / 1000,
            asleep.0
        );
        Ok(Sleeper {
            nursery,
            slot: placed.slot,
            kernel,
            facts,
            asleep,
            vector,
            control,
            pieces: Rc::new(pieces(self.region, &self.header, nursery)),
            print: Rc::default(),
            prepared: None,
        })
    }

    /// Stops the CPUs of a kernel in a nursery that is not the active, or gives the machine up.
    ///
    /// # Safety
    /// What the CPUs do may end.
    pub(super) unsafe fn stop_kernel_in(&self, nursery: usize, facts: &Facts) {
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
}
