//! Where a virtio device has its registers (Virtual I/O Device 1.2, 4.1.4).

use crate::pci::{self, Function};
use crate::Ring0;

const VENDOR: u32 = 0x1AF4;
/// Device ids of a network card: one that can be used in the old way too, and one that cannot.
const NETWORK: [u32; 2] = [0x1000, 0x1041];
/// The same of a disk.
const DISK: [u32; 2] = [0x1001, 0x1042];
/// Class of a network controller.
const CLASS_NETWORK: u8 = 0x02;
/// Vendor-specific capability.
const VENDOR_SPECIFIC: u8 = 0x09;
/// Kinds of structure: what all devices have, where they are notified, what is of the device's kind.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;
/// The least that a structure takes in bytes.
const COMMON_SIZE: u32 = 56;
const DEVICE_SIZE: u32 = 8;
/// The end of what [`Ring0`] promises to be mapped.
const MAPPED_END: u64 = 1 << 32;

/// The places of a device's registers, all below 4 GB.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The function.
    pub function: Function,
    /// The common configuration.
    pub common: u64,
    /// Where queues are notified.
    pub notify: u64,
    /// Bytes of that.
    pub notify_size: u32,
    /// Bytes from one queue's place to the next one's.
    pub multiplier: u32,
    /// The device's own configuration.
    pub device: u64,
}

/// What was found of network cards.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// A virtio device that can be used.
    Usable(Place),
    /// A card that cannot, and why.
    Other(Function, &'static str),
}

/// Looks for network cards. Uses the PCI configuration ports: only while no kernel runs.
pub fn network_cards(ring0: Ring0, mut found: impl FnMut(Found)) {
    pci::walk(ring0, |function| {
        if function.class(ring0).0 != CLASS_NETWORK {
            return;
        }
        let id = function.id(ring0).unwrap_or(0);
        let is_virtio = id & 0xFFFF == VENDOR && NETWORK.contains(&(id >> 16));
        found(match is_virtio.then(|| place(ring0, function)) {
            None => Found::Other(function, "is no virtio device"),
            Some(None) => Found::Other(function, "has no registers in memory below 4 GB"),
            Some(Some(place)) => Found::Usable(place),
        });
    });
}

/// The disk that is this function, or why there is none that can be used. Uses the PCI configuration ports: only while no
/// kernel runs.
///
/// # Errors
/// What is there instead.
pub fn disk(ring0: Ring0, function: Function) -> Result<Place, &'static str> {
    let id = function.id(ring0).ok_or("is gone")?;
    if id & 0xFFFF != VENDOR || !DISK.contains(&(id >> 16)) {
        return Err("is no virtio disk");
    }
    place(ring0, function).ok_or("has no registers in memory below 4 GB")
}

fn place(ring0: Ring0, function: Function) -> Option<Place> {
    let structure = |wanted: u8, least: u32| {
        function.capabilities(ring0, VENDOR_SPECIFIC).find_map(|at| {
            let word = |offset: u8| function.read(ring0, at.saturating_add(offset));
            if (word(0) >> 24) as u8 != wanted {
                return None;
            }
            let base = function.memory_base(ring0, word(4) as u8)?;
            let (offset, size) = (word(8), word(12));
            let start = base.checked_add(u64::from(offset))?;
            let fits = size >= least && start.checked_add(u64::from(size))? <= MAPPED_END && start.is_multiple_of(4);
            fits.then(|| (start, size, word(16)))
        })
    };
    let (notify, notify_size, multiplier) = structure(NOTIFY, 2)?;
    Some(Place {
        function,
        common: structure(COMMON, COMMON_SIZE)?.0,
        notify,
        notify_size,
        multiplier,
        device: structure(DEVICE, DEVICE_SIZE)?.0,
    })
}
