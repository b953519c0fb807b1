//! The Orthros loader: started by GRUB (Multiboot2) on the boot CPU.
//!
//! What we know on entry to [`start`]: 64-bit mode, interrupts off, the low 4 GB mapped at their own addresses, a stack,
//! no interrupt table (an exception resets the machine); the firmware has left every other CPU waiting for a start-up
//! IPI; GRUB's information and modules lie somewhere below 4 GB, outside of this program.
//!
//! What we are responsible for: the machine is left to a kernel as a firmware would leave it, but for the region, one
//! nursery and one core, which belong to the backup OS from then on; or, if anything is not as it has to be, one clear
//! message on the console and a halt.
//!
//! | module | does |
//! |---|---|
//! | `entry` | the Multiboot2 header and the way into 64-bit mode |
//! | `console` | first serial port and VGA text |
//! | `heap` | memory for the plans |
//! | `physical` | reads and writes of physical memory |
//! | `inventory` | what machine this is and what GRUB brought |
//! | `region` | fills the region in |
//! | `backup` | loads the backup OS and starts its core |
//! | `kernel` | starts Linux |
//! | `parking` | leaves the boot CPU to the backup OS |
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports))]

extern crate alloc;

mod backup;
mod console;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod heap;
mod inventory;
mod kernel;
mod parking;
mod physical;
mod region;

use alloc::boxed::Box;
use boot_plan::options::Fallback;
use console::say;
use core::{convert::Infallible, error::Error};
use inventory::Inventory;
use machine::Ring0;
use physical::Physical;
use shared_region::header::options;

/// Continues after the assembly entry. `magic` and `information` are what GRUB left in EAX and EBX.
fn start(magic: u32, information: u32) -> ! {
    // SAFETY: 1. ring 0 and 2. the mapping are what the entry code set up. 3. The firmware and GRUB are gone, and no
    // other CPU runs yet: every device is ours until Linux is entered.
    let ring0 = unsafe { Ring0::assume() };
    console::open(ring0);
    say!("Orthros loader {}", env!("CARGO_PKG_VERSION"));
    let Err(why) = run(ring0, magic, information);
    say!("Orthros cannot start this machine: {why}");
    say!("Halted. Choose another entry in GRUB's menu to start without Orthros.");
    machine::cpu::stop(ring0)
}

/// The whole way. Returns only with the reason why not.
fn run(ring0: Ring0, magic: u32, information: u32) -> Result<Infallible, Box<dyn Error>> {
    // SAFETY: single-threaded, and this is the only place that makes one.
    let physical = unsafe { Physical::new(ring0) };
    let inventory = Inventory::take(ring0, &physical, magic, information)?;
    inventory.report();
    let header = region::fill(&physical, &inventory)?;
    match backup::start(ring0, &physical, &inventory, &header) {
        Ok(()) if header.options & options::STANDBY != 0 => kernel::hand_over(ring0, &physical, &inventory, &header),
        Ok(()) => kernel::boot(ring0, &physical, &inventory, &header),
        Err(why) if inventory.options.fallback == Fallback::Boot => {
            say!("warning: {why}");
            say!("warning: starting Linux WITHOUT protection, because of `fallback=boot`");
            kernel::boot_unprotected(ring0, &physical, &inventory, &header)
        }
        Err(why) => Err(why),
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    say!("Orthros loader: {info}");
    // SAFETY: as in `start`; nothing but halting is done with it.
    machine::cpu::stop(unsafe { Ring0::assume() })
}

/// A host build exists for the lints alone.
#[cfg(not(target_os = "none"))]
fn main() {
    let _: fn(u32, u32) -> ! = start;
}
