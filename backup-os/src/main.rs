//! The backup OS: a program on one reserved core that takes over when the Linux on the other cores dies.
//!
//! | module | part |
//! |---|---|
//! | [`region`] | the memory shared with everybody else |
//! | [`console`], [`epitaph`] | the log, and the last words |
//! | [`heap`], [`memory`], [`interrupts`], [`timer`] | what a program on bare metal needs |
//! | [`platform`] | timers and interrupt controllers, by the firmware's tables |
//! | [`watch`] | the loop while nothing is wrong |
//! | [`hang`] | noticing that the active hangs |
//! | [`takeover`], [`attempt`] | the way of a failover, and the successors that are tried on it |
//! | [`stop`], [`text_patch`], [`parking`] | getting CPUs out of the dead kernel |
//! | [`quiesce`] | silencing devices |
//! | [`stage`], [`unpack`], [`launch`] | the successor: placing it, unpacking it, entering it |
//! | [`restage`] | a kernel that the running one has staged |
//! | [`newborn`] | whether a successor panics that has not reported in |
//! | [`standby`] | the successor that sleeps until it is needed |
//! | [`rescue`] | salvage |
//! | [`network`] | the network, while no kernel has it |
//! | [`rescue_area`] | the file cache, when no kernel can be booted any more |
//! | [`virtio`] | devices that are driven for these two |
#![no_std]
#![no_main]

extern crate alloc;

mod attempt;
mod console;
mod epitaph;
mod hang;
mod heap;
mod interrupts;
mod launch;
mod memory;
mod network;
mod newborn;
mod parking;
mod platform;
mod quiesce;
mod region;
mod rescue;
mod rescue_area;
mod restage;
mod stage;
mod standby;
mod stop;
mod takeover;
mod text_patch;
mod timer;
mod unpack;
mod unwatched;
mod virtio;
mod watch;

use core::sync::atomic::Ordering;
use failover::life::{Input, Life};
use machine::apic::LocalApic;
use machine::clock::Clock;
use machine::mtrr::Mtrrs;
use machine::Ring0;
use parking::Parking;
use platform::Platform;
use region::Region;
use shared_region::header::{options, Header};
use spin::Once;
use watch::Backup;

const STACK_SIZE: usize = 0x10_0000;

core::arch::global_asm!(
    ".pushsection .text.orthros_start, \"ax\"",
    ".globl _start",
    "_start:",
    "cli",
    "cld",
    "lea rsp, [rip + orthros_stack_end]",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    ".popsection",
    ".pushsection .bss.orthros_stack, \"aw\", @nobits",
    ".balign 16",
    ".skip {size}",
    "orthros_stack_end:",
    ".popsection",
    start = sym start,
    size = const STACK_SIZE,
);

unsafe extern "C" {
    static __ehdr_start: u8;
}

static RING0: Once<Ring0> = Once::new();

/// The proof that this program runs where it may touch hardware; set at the start.
fn ring0() -> Ring0 {
    *RING0.wait()
}

/// Where this program was loaded.
fn image_base() -> u64 {
    &raw const __ehdr_start as u64
}

/// What we know on entry: ring 0, long mode, interrupts off, the low 4 GB at their own addresses, `base` is the region
/// that the loader filled in, this image is relocated, its zeroed data is zero, and every other CPU is the loader's or
/// Linux's. What we are responsible for: that the machine survives the death of that Linux, or restarts by itself.
extern "C" fn start(base: u64) -> ! {
    // SAFETY: as known on entry; the devices this program names are its own (second serial port, its local APIC) or
    // become its own when the active is dead.
    let ring0 = *RING0.call_once(|| unsafe { Ring0::assume() });
    // SAFETY: the loader passes the region's address, and starts one copy.
    let region = unsafe { Region::at(base) };
    // SAFETY: called once; the part is ours.
    unsafe { heap::init(region) };
    let header = region.header();
    let clock = Clock::new(header.as_ref().map_or(0, |header| header.tsc_hz));
    // SAFETY: log ring and second serial port are ours; Linux is told to leave the port alone.
    unsafe { console::init(region, ring0, clock) };
    epitaph::prepare(region, clock, None);
    // SAFETY: called once, interrupts are off.
    unsafe { interrupts::init(ring0) };
    match header {
        Ok(header) => run(ring0, region, header, clock),
        // The active is none of ours then: it goes on without a watcher, and a reset would cost it its life.
        Err(error) => {
            log::error!("start: {error}; not watching");
            log::logger().flush();
            machine::cpu::stop(ring0)
        }
    }
}

fn run(ring0: Ring0, region: Region, header: Header, clock: Clock) -> ! {
    let apic = LocalApic::current(ring0);
    log::info!(
        "start: backup OS {} on cpu apic {}, region {:#x}, nurseries {:#x} {:#x}, tsc {} Hz",
        env!("CARGO_PKG_VERSION"),
        apic.id(),
        region.base(),
        header.nursery[0],
        header.nursery[1],
        clock.hz()
    );
    // SAFETY: the region lies in RAM below 4 GB (`Header::parse`).
    if let Err(error) = unsafe { memory::map_everything(ring0, &header) } {
        log::error!("start: {error}; not watching");
        log::logger().flush();
        machine::cpu::stop(ring0)
    }
    let platform = Platform::read(ring0, &header);
    log::info!("start: {platform}");
    epitaph::prepare(region, clock, platform.reset);
    // SAFETY: no CPU is parked yet; the part is ours.
    let parking = unsafe { Parking::install(region, ring0) };
    // SAFETY: the descriptor table was loaded at the start.
    let rate = unsafe { timer::start(ring0, &clock) };
    log::info!("start: local APIC timer {rate} Hz, a look every {} us", timer::TICK_US);

    let reserved_nursery = header.reserved_nursery as usize;
    let mut backup = Backup {
        ring0,
        clock,
        region,
        header,
        parking,
        platform,
        mtrrs: Mtrrs::save(ring0),
        life: Life::new(reserved_nursery),
        placed: None,
        standby: None,
        awake: None,
        images: standby::Images::default(),
        unpacking: None,
        failed_in_a_row: 0,
        unwatched: None,
        network: network::Network::default(),
    };
    region.control().watcher_looks.store(0, Ordering::Relaxed);
    backup.step(Input::Started);
    if backup.header.options & options::STANDBY != 0 {
        backup.start_machine();
    }
    loop {
        let mut dead = Some(backup.watch());
        while let Some(armed) = dead {
            // SAFETY: the active has panicked, hangs, or has stopped itself for an update; or its successor has failed.
            dead = unsafe { backup.take_over(armed) };
        }
    }
}
