//! The local APIC of the CPU that runs this (Intel SDM vol. 3A, chapter 11), in whichever mode the firmware or the
//! kernel before us left it.

use crate::{
    clock::{Clock, Deadline},
    mmio, msr, Ring0, Timeout,
};

const GLOBAL_ENABLE: u64 = 1 << 11;
const X2APIC_ENABLE: u64 = 1 << 10;
const BASE_MASK: u64 = 0x000F_FFFF_FFFF_F000;

/// Registers by their xAPIC offset.
mod register {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TASK_PRIORITY: u32 = 0x80;
    pub const EOI: u32 = 0xB0;
    pub const SPURIOUS: u32 = 0xF0;
    pub const IN_SERVICE: u32 = 0x100;
    pub const ERROR_STATUS: u32 = 0x280;
    pub const ICR_LOW: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_THERMAL: u32 = 0x330;
    pub const LVT_PERFORMANCE: u32 = 0x340;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3E0;
}

/// Interrupt command register, low half (SDM vol. 3A, figure 11-12).
mod command {
    pub const NMI: u32 = 4 << 8;
    pub const INIT: u32 = 5 << 8;
    pub const STARTUP: u32 = 6 << 8;
    pub const ASSERT: u32 = 1 << 14;
    pub const LEVEL: u32 = 1 << 15;
    pub const PENDING: u32 = 1 << 12;
}

const SOFTWARE_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const TIMER_PERIODIC: u32 = 1 << 17;
/// Divide by 16 (SDM vol. 3A, figure 11-10).
const DIVIDE_16: u32 = 0b0011;
/// How long an IPI may take to be accepted.
const DELIVERY_US: u64 = 20_000;

/// How the registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Globally disabled; only [`LocalApic::mode`] means anything then.
    Disabled,
    /// Memory-mapped, 8-bit ids.
    XApic,
    /// MSRs, 32-bit ids.
    X2Apic,
}

/// The local APIC of the current CPU.
#[derive(Clone, Copy, Debug)]
pub struct LocalApic {
    ring0: Ring0,
    base: u64,
    mode: Mode,
}

impl LocalApic {
    /// Looks at the mode the local APIC is in now. To be asked again after anything that may have changed it.
    pub fn current(ring0: Ring0) -> Self {
        // SAFETY: IA32_APIC_BASE exists on every CPU with long mode.
        let value = unsafe { msr::read(ring0, msr::APIC_BASE) };
        let mode = match (value & GLOBAL_ENABLE != 0, value & X2APIC_ENABLE != 0) {
            (false, _) => Mode::Disabled,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
        };
        Self {
            ring0,
            base: value & BASE_MASK,
            mode,
        }
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    fn read(&self, register: u32) -> u32 {
        if self.mode == Mode::X2Apic {
            // SAFETY: the x2APIC registers exist in this mode.
            unsafe { msr::read(self.ring0, msr::X2APIC + register / 16) as u32 }
        } else {
            mmio::read32(self.ring0, self.base + u64::from(register))
        }
    }

    fn write(&self, register: u32, value: u32) {
        if self.mode == Mode::X2Apic {
            // SAFETY: 1. the x2APIC registers exist in this mode. 2. No register of the local APIC takes memory away.
            unsafe { msr::write(self.ring0, msr::X2APIC + register / 16, u64::from(value)) }
        } else {
            // SAFETY: a device register: IA32_APIC_BASE says where.
            unsafe { mmio::write32(self.ring0, self.base + u64::from(register), value) }
        }
    }

    /// The id of this CPU.
    pub fn id(&self) -> u32 {
        match self.mode {
            Mode::X2Apic => self.read(register::ID),
            _ => self.read(register::ID) >> 24,
        }
    }

    /// Switches the local APIC on, with `spurious` as its spurious vector, every local source masked and all
    /// priorities let through.
    pub fn enable(&self, spurious: u8) {
        self.mask_local_sources();
        self.write(register::TASK_PRIORITY, 0);
        self.write(register::SPURIOUS, SOFTWARE_ENABLE | u32::from(spurious));
    }

    fn mask_local_sources(&self) {
        let last = (self.read(register::VERSION) >> 16) & 0xFF;
        let sources = [
            (0, register::LVT_TIMER),
            (1, register::LVT_LINT0),
            (2, register::LVT_LINT1),
            (3, register::LVT_ERROR),
            (4, register::LVT_PERFORMANCE),
            (5, register::LVT_THERMAL),
        ];
        for (_, lvt) in sources.into_iter().filter(|&(number, _)| number <= last) {
            self.write(lvt, LVT_MASKED);
        }
        self.write(register::TIMER_INITIAL, 0);
    }

    /// Tells that the interrupt in service is done with.
    pub fn end_of_interrupt(&self) {
        self.write(register::EOI, 0);
    }

    /// Ends every interrupt that is still marked as in service, as a predecessor that died in a handler leaves them.
    pub fn end_all_interrupts(&self) {
        // At most one per priority class above the exceptions.
        for _ in 0..14 {
            if (0..8).all(|word| self.read(register::IN_SERVICE + 16 * word) == 0) {
                return;
            }
            self.end_of_interrupt();
        }
    }

    fn send(&self, id: u32, command: u32) -> Result<(), Timeout> {
        if self.mode == Mode::X2Apic {
            let value = u64::from(id) << 32 | u64::from(command);
            // SAFETY: 1. the register exists in this mode. 2. What the IPI does to another CPU is the promise of the
            // public functions' callers.
            unsafe { msr::write(self.ring0, msr::X2APIC + register::ICR_LOW / 16, value) };
            return Ok(());
        }
        self.write(register::ERROR_STATUS, 0);
        self.write(register::ICR_HIGH, id << 24);
        self.write(register::ICR_LOW, command);
        // Counted in reads as well: this is used before the time-stamp counter is measured.
        let deadline = Clock::new(0).deadline(DELIVERY_US);
        while self.read(register::ICR_LOW) & command::PENDING != 0 {
            if deadline.passed() {
                return Err(Timeout("delivery of an inter-processor interrupt"));
            }
            core::hint::spin_loop();
        }
        Ok(())
    }

    /// Sends an NMI.
    ///
    /// # Errors
    /// [`Timeout`] if it is not accepted.
    ///
    /// # Safety
    /// The CPU has an NMI handler, or it does not matter what becomes of it.
    pub unsafe fn send_nmi(&self, id: u32) -> Result<(), Timeout> {
        self.send(id, command::NMI | command::ASSERT)
    }

    /// Sends an INIT, level asserted and deasserted. An application processor then waits for a SIPI; the bootstrap
    /// processor goes through the firmware's reset path (see [`crate::cmos`]).
    ///
    /// # Errors
    /// [`Timeout`] if it is not accepted.
    ///
    /// # Safety
    /// What the CPU is doing may end between any two instructions.
    pub unsafe fn send_init(&self, id: u32, clock: &Clock) -> Result<(), Timeout> {
        self.send(id, command::INIT | command::ASSERT | command::LEVEL)?;
        clock.wait(200);
        self.send(id, command::INIT | command::LEVEL)
    }

    /// Sends a start-up IPI: a CPU that waits for it starts in real mode at `page` × 4096.
    ///
    /// # Errors
    /// [`Timeout`] if it is not accepted.
    ///
    /// # Safety
    /// That page holds real-mode code that knows what it does.
    pub unsafe fn send_sipi(&self, id: u32, page: u8) -> Result<(), Timeout> {
        self.send(id, command::STARTUP | command::ASSERT | u32::from(page))
    }

    /// Starts a CPU at the trampoline: INIT, 10 ms, SIPI, and a second SIPI if the first has no effect
    /// (Intel MultiProcessor Specification 1.4, B.4). `arrived` is asked until it says so.
    ///
    /// # Errors
    /// [`Timeout`] if an IPI is not accepted or the CPU does not arrive within `us` microseconds.
    ///
    /// # Safety
    /// 1. [`crate::trampoline::Start::install`] has been called for this CPU. 2. What the CPU is doing may end.
    pub unsafe fn start_cpu(
        &self,
        id: u32,
        clock: &Clock,
        us: u64,
        mut arrived: impl FnMut() -> bool,
    ) -> Result<(), Timeout> {
        const PAGE: u8 = (shared_region::layout::TRAMPOLINE >> 12) as u8;
        // SAFETY: the caller's promise 2.
        unsafe { self.send_init(id, clock)? };
        clock.wait(10_000);
        // SAFETY: the caller's promise 1.
        unsafe { self.send_sipi(id, PAGE)? };
        if clock.wait_for(1_000, "", &mut arrived).is_err() {
            // SAFETY: the caller's promise 1. A CPU that is on its way already ignores it.
            unsafe { self.send_sipi(id, PAGE)? };
        }
        clock.wait_for(us, "the start of a CPU", arrived)
    }

    /// Counts how many timer ticks (after division by 16) a second has, over `us` microseconds.
    pub fn measure_timer(&self, clock: &Clock, us: u64) -> u64 {
        self.write(register::LVT_TIMER, LVT_MASKED);
        self.write(register::TIMER_DIVIDE, DIVIDE_16);
        self.write(register::TIMER_INITIAL, u32::MAX);
        let deadline: Deadline = clock.deadline(us);
        while !deadline.passed() {
            core::hint::spin_loop();
        }
        let ticks = u32::MAX - self.read(register::TIMER_CURRENT);
        self.write(register::TIMER_INITIAL, 0);
        u64::from(ticks) * 1_000_000 / us.max(1)
    }

    /// Fires `vector` every `count` ticks (after division by 16).
    pub fn start_timer(&self, vector: u8, count: u32) {
        self.write(register::TIMER_DIVIDE, DIVIDE_16);
        self.write(register::LVT_TIMER, TIMER_PERIODIC | u32::from(vector));
        self.write(register::TIMER_INITIAL, count.max(1));
    }
}
