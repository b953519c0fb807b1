//! Devices made quiet between two kernels: no DMA into memory that is being read, no interrupt for a kernel that is
//! gone.

use crate::platform::Platform;
use machine::clock::Clock;
use machine::ioapic::IoApic;
use machine::{hpet, pci, pic, vtd, Ring0};

/// Takes bus mastering from every device, then DMA remapping down, then silences the interrupt sources.
///
/// Uses the PCI configuration ports: only after every CPU of the active is parked, and before the successor runs.
pub fn everything(ring0: Ring0, clock: &Clock, platform: &Platform) {
    let buses = pci::quiesce(ring0, clock);
    log::info!(
        "quiesce: bus mastering taken from {} functions, {} with transactions under way at the deadline",
        buses.stopped,
        buses.undrained
    );
    for &base in &platform.vtd {
        match vtd::disable(ring0, clock, base) {
            Ok(false) => log::info!("quiesce: DMA remapping unit at {base:#x} was off"),
            Ok(true) => log::info!("quiesce: DMA remapping unit at {base:#x} turned off"),
            Err(timeout) => log::warn!("quiesce: DMA remapping unit at {base:#x}: {timeout}"),
        }
    }
    let mut pins = 0;
    for &base in &platform.ioapics {
        let ioapic = IoApic::new(ring0, base);
        ioapic.mask_all();
        pins += ioapic.pins();
    }
    if let Some(base) = platform.hpet {
        hpet::quiet(ring0, base);
    }
    pic::mask_all(ring0);
    log::info!(
        "quiesce: {} IOAPIC pins masked, HPET {}, PIC masked",
        pins,
        if platform.hpet.is_some() { "quiet" } else { "absent" }
    );
}
