//! The bootstrap processor's way from the parking code into the successor.

use crate::region::{slot_word, Region};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};
use machine::apic::LocalApic;
use machine::clock::Clock;
use machine::mtrr::Mtrrs;
use machine::{linux, Ring0, Timeout};
use shared_region::parking::command;
use shared_region::timeline::Event;

/// How long the CPU may take to leave the parking code after the first NMI, in microseconds.
const FIRST_US: u64 = 50_000;
/// And after the second, which is sent only if the first was lost.
const SECOND_US: u64 = 200_000;
const STACK_SIZE: usize = 0x8000;

core::arch::global_asm!(
    ".pushsection .text.orthros_launch, \"ax\"",
    ".globl orthros_launch",
    "orthros_launch:",
    "lea rsp, [rip + orthros_launch_stack_end]",
    "xor ebp, ebp",
    "call {launch}",
    "ud2",
    ".popsection",
    ".pushsection .bss.orthros_launch_stack, \"aw\", @nobits",
    ".balign 16",
    ".skip {size}",
    "orthros_launch_stack_end:",
    ".popsection",
    launch = sym launch,
    size = const STACK_SIZE,
);

unsafe extern "C" {
    static orthros_launch: u8;
}

/// What the bootstrap processor is told.
struct Orders {
    region: Region,
    entry: u64,
    boot_params: u64,
    mtrrs: Option<Mtrrs>,
    arrived: AtomicBool,
}

/// On entry: 64-bit mode, the low 4 GB at their own addresses, interrupts off, nothing of the dead kernel in use.
/// We owe: the local APIC quiet and enabled, memory types as the firmware set them, and the jump.
extern "C" fn launch(orders: &'static Orders) -> ! {
    let ring0 = crate::ring0();
    let apic = LocalApic::current(ring0);
    if apic.mode() != machine::apic::Mode::Disabled {
        apic.enable(0xFF);
        apic.end_all_interrupts();
    }
    if let Some(mtrrs) = &orders.mtrrs {
        if !mtrrs.in_force(ring0) {
            // SAFETY: saved on this machine at start; interrupts are off.
            unsafe { mtrrs.restore(ring0) };
        }
    }
    orders.arrived.store(true, Ordering::Release);
    orders.region.stamp(Event::Jumped);
    // SAFETY: 1. and 2. entry and boot_params are those of the placed kernel, whose digest was checked. 3. The tables map
    // the low 4 GB and lie in the region, as does this program's descriptor table. 4. The CPU is the successor's now.
    unsafe { linux::enter(ring0, orders.entry, orders.boot_params) }
}

/// Sends the parked bootstrap processor into a kernel.
///
/// # Errors
/// [`Timeout`] if it does not leave the parking code.
///
/// # Safety
/// 1. The CPU is parked. 2. `entry` and `boot_params` are those of a kernel placed as its setup header asks.
pub unsafe fn start(
    ring0: Ring0,
    clock: &Clock,
    region: Region,
    bsp: u8,
    (entry, boot_params): (u64, u64),
    mtrrs: Option<Mtrrs>,
) -> Result<(), Timeout> {
    let orders: &'static Orders = Box::leak(Box::new(Orders {
        region,
        entry,
        boot_params,
        mtrrs,
        arrived: AtomicBool::new(false),
    }));
    let slot = region.slot(bsp);
    slot_word!(slot, argument).store(&raw const orthros_launch as u64, Ordering::Relaxed);
    slot_word!(slot, argument2).store(core::ptr::from_ref(orders) as u64, Ordering::Relaxed);
    slot_word!(slot, command).store(command::BOOT, Ordering::Release);
    let apic = LocalApic::current(ring0);
    let arrived = || orders.arrived.load(Ordering::Acquire);
    // SAFETY: the CPU is in the parking code, which has an NMI handler.
    unsafe { apic.send_nmi(u32::from(bsp))? };
    if clock.wait_for(FIRST_US, "", arrived).is_ok() {
        return Ok(());
    }
    // The NMI may have come between the CPU's look at the command and its HLT. Once the command is taken there is no
    // handler any more.
    if slot_word!(slot, command).load(Ordering::Acquire) == command::BOOT {
        // SAFETY: as above.
        unsafe { apic.send_nmi(u32::from(bsp))? };
    }
    clock.wait_for(
        SECOND_US,
        "the bootstrap processor's way out of the parking code",
        arrived,
    )
}
