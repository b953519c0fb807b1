//! Starts Linux on the boot CPU.

use crate::{
    console::say,
    inventory::{own_memory, Inventory},
    parking,
    physical::Physical,
};
use alloc::boxed::Box;
use boot_plan::{
    first::{self, Input},
    plan::Plan,
    span::Span,
};
use core::{convert::Infallible, error::Error, mem::offset_of};
use machine::{apic::LocalApic, linux, mmio, Ring0};
use shared_region::{header::Header, layout, standby::StandbyWords};

/// Starts the first kernel beside the backup OS.
///
/// # Errors
/// Only if it cannot be started.
pub fn boot(
    ring0: Ring0,
    physical: &Physical,
    inventory: &Inventory,
    header: &Header,
) -> Result<Infallible, Box<dyn Error>> {
    let plan = plan_protected(physical, inventory, header)?;
    enter(ring0, physical, &plan)
}

/// Puts the first kernel in its place and leaves the rest to the backup OS, which boots the standby before it: this CPU
/// parks in the region.
///
/// # Errors
/// Only if it cannot be started, or the backup OS has not said where to park.
pub fn hand_over(
    ring0: Ring0,
    physical: &Physical,
    inventory: &Inventory,
    header: &Header,
) -> Result<Infallible, Box<dyn Error>> {
    let plan = plan_protected(physical, inventory, header)?;
    let way = parking::Way::read(ring0, header)?;
    say!(
        "Linux is placed at {:#x} (needs {} MB), initramfs at {}; the standby is booted first",
        plan.entry,
        plan.kernel.len() >> 20,
        Span { ..plan.initramfs }
    );
    // SAFETY: as in `enter`.
    unsafe { physical.carry_out(&plan) };
    let words = header.base + layout::STANDBY_WORDS.offset;
    let word = |offset: usize| words + offset as u64;
    // SAFETY: words of the region, whose writer is the loader.
    unsafe {
        mmio::write64(
            ring0,
            word(offset_of!(StandbyWords, first_boot_params)),
            plan.boot_params,
        );
        mmio::write64(ring0, word(offset_of!(StandbyWords, first_entry)), plan.entry);
    }
    // SAFETY: this is the last thing the loader does.
    unsafe { way.go(ring0) }
}

/// Starts the first kernel on all CPUs with all memory, as if the loader were not there.
///
/// # Errors
/// Only if it cannot be started.
pub fn boot_unprotected(
    ring0: Ring0,
    physical: &Physical,
    inventory: &Inventory,
    header: &Header,
) -> Result<Infallible, Box<dyn Error>> {
    let plan = with_input(physical, inventory, |input| first::plan_unprotected(header, input))?;
    let reserved = u32::from(inventory.cpus.reserved);
    // SAFETY: whatever the core does instead of what it should is to end, before its memory is given away.
    unsafe { LocalApic::current(ring0).send_init(reserved, &inventory.clock) }?;
    enter(ring0, physical, &plan)
}

fn plan_protected(physical: &Physical, inventory: &Inventory, header: &Header) -> Result<Plan, Box<dyn Error>> {
    let plan = with_input(physical, inventory, |input| {
        first::plan(header, &inventory.tables, physical, input)
    })?;
    for warning in &plan.warnings {
        say!("warning: {warning}");
    }
    Ok(plan)
}

fn with_input<T>(physical: &Physical, inventory: &Inventory, plan: impl FnOnce(&Input) -> T) -> T {
    let kernel = inventory.modules.kernel;
    plan(&Input {
        // SAFETY: nothing is written until the plan is made.
        kernel: unsafe { physical.slice(kernel.span) },
        kernel_at: kernel.span.start,
        initramfs: inventory.modules.initramfs.map(|module| module.span),
        command_line: kernel.arguments,
        screen: inventory.screen,
        used: &[own_memory(), kernel.span],
    })
}

fn enter(ring0: Ring0, physical: &Physical, plan: &Plan) -> Result<Infallible, Box<dyn Error>> {
    say!(
        "starting Linux at {:#x} (needs {} MB), initramfs at {}",
        plan.entry,
        plan.kernel.len() >> 20,
        Span { ..plan.initramfs }
    );
    // SAFETY: the plan keeps clear of this program, the kernel's image and the initramfs; the backup OS uses other parts
    // of the region; every other module has served its purpose.
    unsafe { physical.carry_out(plan) };
    // SAFETY: 1. and 2. are what the plan is made for. 3. The entry code's page tables map the low 4 GB, and the kernel
    // unpacks itself no lower than 16 MB, above this program. 4. This is the last thing the loader does.
    unsafe { linux::enter(ring0, plan.entry, plan.boot_params) }
}
