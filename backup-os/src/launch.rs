//! The bootstrap processor's way from the parking code into a kernel: one that starts, or one that is woken.

use crate::region::{slot_word, Region};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use machine::apic::LocalApic;
use machine::clock::Clock;
use machine::mtrr::Mtrrs;
use machine::{linux, real_mode, Ring0, Timeout};
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

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jump {
    /// To the 64-bit entry of a kernel that was placed.
    Enter {
        /// The entry.
        entry: u64,
        /// Its `boot_params`.
        boot_params: u64,
    },
    /// To the waking vector of a kernel that sleeps, in real mode.
    Wake {
        /// The vector.
        vector: u32,
    },
}

/// What the bootstrap processor is told.
struct Orders {
    region: Region,
    jump: Jump,
    mtrrs: Option<Mtrrs>,
    arrived: AtomicBool,
}

/// What it was told last, to be dropped at the next start.
static LAST_ORDERS: AtomicPtr<Orders> = AtomicPtr::new(core::ptr::null_mut());

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
    match orders.jump {
        // SAFETY: 1. and 2. entry and boot_params are those of the placed kernel, whose digest was checked. 3. The tables
        // map the low 4 GB and lie in the region, as does this program's descriptor table. 4. The CPU is the kernel's now.
        Jump::Enter { entry, boot_params } => unsafe { linux::enter(ring0, entry, boot_params) },
        Jump::Wake { .. } => {
            orders.region.stamp(Event::Woken);
            // SAFETY: 1. installed in `start`. 2. The tables map the low 4 GB. 3. The CPU is the kernel's now.
            unsafe { real_mode::leave(ring0) }
        }
    }
}

/// Sends the parked bootstrap processor into a kernel.
///
/// # Errors
/// [`Timeout`] if it does not leave the parking code.
///
/// # Safety
/// 1. The CPU is parked. 2. Entry and `boot_params` are those of a kernel placed as its setup header asks; a vector is that
///    of a kernel that sleeps and whose memory is as it left it. 3. No other CPU is in the trampoline.
pub unsafe fn start(
    ring0: Ring0,
    clock: &Clock,
    region: Region,
    bsp: u8,
    jump: Jump,
    mtrrs: Option<Mtrrs>,
) -> Result<(), Timeout> {
    let orders = Box::into_raw(Box::new(Orders {
        region,
        jump,
        mtrrs,
        arrived: AtomicBool::new(false),
    }));
    let before = LAST_ORDERS.swap(orders, Ordering::Relaxed);
    if !before.is_null() {
        // SAFETY: 1. it came from a box, and was taken out of the word, once. 2. The CPU is parked (the caller's promise 1), so
        // it does not carry out orders of an earlier start any more.
        drop(unsafe { Box::from_raw(before) });
    }
    // SAFETY: it is not dropped before the next start, which borrows nothing of this one.
    let orders: &'static Orders = unsafe { &*orders };
    if let Jump::Wake { vector } = jump {
        // SAFETY: the caller's promise 3: what was started through the page has left it for the parking code.
        unsafe { real_mode::install(ring0, vector) };
    }
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
