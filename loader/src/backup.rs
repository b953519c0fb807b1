//! Loads the backup OS into its part of the region and starts it on the reserved core.
//!
//! What the backup OS finds on entry (`extern "C" fn(region: u64) -> !`): 64-bit mode, interrupts off, RDI = address of
//! the region, the low 4 GB mapped at their own addresses, RSP = end of [`layout::BACKUP_IMAGE`] − 64 KB − 8 with a zero
//! return address, page tables in those last 64 KB, the trampoline's descriptor table, no interrupt table, its memory
//! behind the image not cleared. It has [`START_US`] to set `watch_state` to something other than `Off`.

use crate::{console::say, inventory::Inventory, physical::Physical, region};
use alloc::{boxed::Box, vec};
use boot_plan::{elf::Image, span::Span};
use core::{error::Error, mem::offset_of};
use machine::{
    apic::LocalApic,
    cpu, mmio,
    mtrr::Mtrrs,
    paging::{self, Table},
    trampoline::{self, Start},
    Ring0,
};
use shared_region::{
    control::{ControlWords, WatchState},
    header::Header,
    layout,
};

/// Room for the page tables at the end of the image part; the stack begins below it.
const TABLES_SIZE: u64 = 64 << 10;
/// Room for the stack between image and page tables.
const MIN_STACK: u64 = 256 << 10;
/// How long the core may take from the start-up IPI to the trampoline's end.
const ARRIVE_US: u64 = 500_000;
/// How long the backup OS may take to report in.
const START_US: u64 = 2_000_000;

/// The backup OS does not fit into its part of the region.
#[derive(Debug)]
struct TooLarge {
    need: u64,
    room: u64,
}

impl core::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "module `backup-os` needs {} KB of memory, {} KB are reserved for it",
            self.need.div_ceil(1024),
            self.room / 1024
        )
    }
}

impl Error for TooLarge {}

/// Loads and starts the backup OS, and waits until it has reported in.
///
/// # Errors
/// The reason why it does not run.
pub fn start(ring0: Ring0, physical: &Physical, inventory: &Inventory, header: &Header) -> Result<(), Box<dyn Error>> {
    let area = region::part(header.base, layout::BACKUP_IMAGE);
    let entry = load(physical, inventory, area)?;
    let tables = area.end - TABLES_SIZE;
    map(physical, tables)?;
    // Leaked: the core may still be on its way when the wait for it is given up.
    let orders: &'static Orders = Box::leak(Box::new(Orders {
        entry,
        stack: tables,
        region: header.base,
        memory_types: Mtrrs::save(ring0),
    }));
    let start = Start {
        cr3: u32::try_from(tables)?,
        stack: tables,
        entry: arrive as *const () as u64,
        argument: core::ptr::from_ref(orders) as u64,
    };
    // SAFETY: 1. no CPU but this one runs. 2. The loader does not use the page. 3. The tables map the low 4 GB.
    unsafe { start.install(ring0) };
    let (id, clock) = (u32::from(inventory.cpus.reserved), inventory.clock);
    // SAFETY: 1. installed above. 2. The firmware left the core with nothing to do.
    unsafe { LocalApic::current(ring0).start_cpu(id, &clock, ARRIVE_US, || trampoline::arrived(ring0)) }
        .inspect_err(|_| say!("the reserved core {id} does not start"))?;

    let word = header.base + layout::CONTROL.offset + offset_of!(ControlWords, watch_state) as u64;
    clock.wait_for(START_US, "the backup OS's first sign of life", || {
        mmio::read64(ring0, word) != WatchState::Off as u64
    })?;
    say!("backup OS runs on core {id}");
    Ok(())
}

/// What the reserved core is told.
struct Orders {
    entry: u64,
    stack: u64,
    region: u64,
    memory_types: Option<Mtrrs>,
}

/// The reserved core's way from the trampoline into the backup OS.
///
/// We know on entry what the trampoline promises; we owe the memory types the firmware gave to the boot CPU, which some
/// machines forget at an INIT: without them nothing is cached.
extern "C" fn arrive(orders: &Orders) -> ! {
    // SAFETY: 1. and 2. are the trampoline's promise. 3. This core touches nothing but its own registers.
    let ring0 = unsafe { Ring0::assume() };
    if let Some(types) = &orders.memory_types {
        if !types.in_force(ring0) {
            // SAFETY: saved on this machine; interrupts are off.
            unsafe { types.restore(ring0) };
        }
    }
    // SAFETY: `entry` is that of the image loaded for this place, and `stack` the end of free memory behind it; this
    // function's frame is not needed any more.
    unsafe {
        core::arch::asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push 0",
            "jmp {entry}",
            stack = in(reg) orders.stack,
            entry = in(reg) orders.entry,
            in("rdi") orders.region,
            options(noreturn),
        )
    }
}

/// Puts the image in place and returns the address of its entry.
fn load(physical: &Physical, inventory: &Inventory, area: Span) -> Result<u64, Box<dyn Error>> {
    // SAFETY: the module lies outside of the region, and nothing else is written until the function returns.
    let file = unsafe { physical.slice(inventory.modules.backup_os.span) };
    let image = Image::parse(file)?;
    let room = area.len() - TABLES_SIZE - MIN_STACK;
    if image.size > room {
        return Err(TooLarge { need: image.size, room }.into());
    }
    // SAFETY: (all writes below) inside the backup OS's part of the region: no segment and no relocation reaches beyond
    // `image.size` (checked when it was parsed), which fits (checked above).
    unsafe {
        physical.clear(Span::of(area.start, image.size));
        for segment in &image.segments {
            physical.write(area.start + segment.offset, segment.bytes);
        }
        for (offset, value) in image.relocations(area.start) {
            physical.write(area.start + offset, &value.to_le_bytes());
        }
    }
    Ok(area.start + image.entry)
}

/// Builds an identity map of the low 4 GB at `address`.
fn map(physical: &Physical, address: u64) -> Result<(), Box<dyn Error>> {
    const LOW: u64 = 4 << 30;
    let large = cpu::features().pages_1g;
    let mut tables = vec![Table::EMPTY; paging::tables_needed(LOW, large)];
    paging::identity(&mut tables, address, LOW, large)?;
    for (index, table) in tables.iter().enumerate() {
        for (entry, value) in table.0.iter().enumerate() {
            let at = address + (index * 4096 + entry * 8) as u64;
            // SAFETY: inside the 64 KB at the end of the image part: six tables at most.
            unsafe { physical.write(at, &value.to_le_bytes()) };
        }
    }
    Ok(())
}
