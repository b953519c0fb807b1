//! PCI configuration space by mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2).
//!
//! The two ports are one shared register: nothing here may run while a kernel that uses them is alive.

use crate::{clock::Clock, port, Ring0};

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
const COMMAND: u8 = 0x04;
const BASES: u8 = 0x10;
const CLASS: u8 = 0x08;
const HEADER_TYPE: u8 = 0x0C;
const BUSES: u8 = 0x18;
const CAPABILITIES: u8 = 0x34;
const HAS_CAPABILITIES: u32 = 1 << 20;
const MEMORY: u32 = 1 << 1;
const BUS_MASTER: u32 = 1 << 2;
const INTERRUPT_DISABLE: u32 = 1 << 10;
const CLASS_BRIDGE: u8 = 0x06;
/// PCI Express capability; device status is at +0x0A, of which bit 5 is "transactions pending".
const EXPRESS: u8 = 0x10;
const TRANSACTIONS_PENDING: u32 = 1 << (16 + 5);
/// How long a device may take to finish what it has begun (PCI Express 5.0, 7.5.3.16: 50 ms by default at most).
const DRAIN_US: u64 = 50_000;

/// A function on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Bus.
    pub bus: u8,
    /// Device, 0…31.
    pub device: u8,
    /// Function, 0…7.
    pub function: u8,
}

impl core::fmt::Display for Function {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

impl Function {
    fn select(&self, ring0: Ring0, offset: u8) {
        let address = 1 << 31
            | u32::from(self.bus) << 16
            | u32::from(self.device & 31) << 11
            | u32::from(self.function & 7) << 8
            | u32::from(offset & 0xFC);
        port::write(ring0, ADDRESS, address);
    }

    /// Reads 32 bits of configuration space; all ones where there is nothing.
    pub fn read(&self, ring0: Ring0, offset: u8) -> u32 {
        self.select(ring0, offset);
        port::read(ring0, DATA)
    }

    /// Writes 32 bits of configuration space.
    pub fn write(&self, ring0: Ring0, offset: u8, value: u32) {
        self.select(ring0, offset);
        port::write(ring0, DATA, value);
    }

    /// Vendor (low half) and device id, or `None` if nothing is there.
    pub fn id(&self, ring0: Ring0) -> Option<u32> {
        let id = self.read(ring0, 0);
        (id & 0xFFFF != 0xFFFF && id != 0).then_some(id)
    }

    /// Base class and subclass.
    pub fn class(&self, ring0: Ring0) -> (u8, u8) {
        let value = self.read(ring0, CLASS);
        ((value >> 24) as u8, (value >> 16) as u8)
    }

    /// Whether it is a bridge of any kind.
    pub fn is_bridge(&self, ring0: Ring0) -> bool {
        self.class(ring0).0 == CLASS_BRIDGE
    }

    /// The offsets of all capabilities of one kind.
    pub fn capabilities(self, ring0: Ring0, id: u8) -> impl Iterator<Item = u8> {
        let has = self.read(ring0, COMMAND) & HAS_CAPABILITIES != 0;
        let mut next = if has {
            self.read(ring0, CAPABILITIES) as u8 & 0xFC
        } else {
            0
        };
        let each = core::iter::from_fn(move || {
            let at = next;
            if at < 0x40 {
                return None;
            }
            let head = self.read(ring0, at);
            next = (head >> 8) as u8 & 0xFC;
            Some((at, head as u8))
        });
        // 48 capabilities of 4 bytes fill the space behind the header; more is a loop.
        each.take(48).filter_map(move |(at, found)| (found == id).then_some(at))
    }

    /// Where a base address register of memory leads; `None` if it is one of ports, or nothing was assigned.
    pub fn memory_base(&self, ring0: Ring0, index: u8) -> Option<u64> {
        if index >= 6 {
            return None;
        }
        let low = self.read(ring0, BASES + 4 * index);
        // Bit 0: ports; bits 2 and 1: 64 bits wide.
        let high = if low & 7 == 4 && index < 5 {
            self.read(ring0, BASES + 4 * index + 4)
        } else {
            0
        };
        let base = u64::from(low & !0xF) | u64::from(high) << 32;
        (low & 1 == 0 && base != 0).then_some(base)
    }

    /// Lets the function answer at its memory addresses.
    pub fn enable_memory(&self, ring0: Ring0) {
        self.set_command(ring0, MEMORY);
    }

    /// Gives the function the right to read and write memory.
    pub fn enable_bus_master(&self, ring0: Ring0) {
        self.set_command(ring0, BUS_MASTER);
    }

    fn set_command(&self, ring0: Ring0, bits: u32) {
        let command = self.read(ring0, COMMAND) & 0xFFFF; // the upper half is status, cleared by writing ones
        self.write(ring0, COMMAND, command | bits);
    }

    /// Takes the right to read and write memory from the function, and its interrupt pin.
    /// Returns whether it had the former.
    pub fn disable_bus_master(&self, ring0: Ring0) -> bool {
        let command = self.read(ring0, COMMAND) & 0xFFFF; // the upper half is status, cleared by writing ones
        self.write(ring0, COMMAND, command & !BUS_MASTER | INTERRUPT_DISABLE);
        let _flushed = self.read(ring0, COMMAND);
        command & BUS_MASTER != 0
    }

    /// Waits until a PCI Express function has no request of its own under way. Returns whether that came true in time;
    /// always true for one that cannot tell.
    pub fn drain(&self, ring0: Ring0, clock: &Clock) -> bool {
        let Some(express) = self.capabilities(ring0, EXPRESS).next() else {
            return true;
        };
        clock
            .wait_for(DRAIN_US, "the end of a PCI transaction", || {
                self.read(ring0, express.saturating_add(8)) & TRANSACTIONS_PENDING == 0
            })
            .is_ok()
    }
}

/// Calls `visit` for every function that answers, from bus 0 down through all bridges.
pub fn walk(ring0: Ring0, mut visit: impl FnMut(Function)) {
    let mut wanted = [0u64; 4];
    let mut done = [0u64; 4];
    wanted[0] = 1;
    // Each round takes one bus out of `wanted` that is not in `done`: 256 rounds at most.
    while let Some(bus) =
        (0..=255u8).find(|&b| (wanted[usize::from(b >> 6)] & !done[usize::from(b >> 6)]) >> (b & 63) & 1 == 1)
    {
        done[usize::from(bus >> 6)] |= 1 << (bus & 63);
        for device in 0..32 {
            for function in 0..8 {
                let here = Function { bus, device, function };
                if here.id(ring0).is_none() {
                    if function == 0 {
                        break;
                    }
                    continue;
                }
                let header = (here.read(ring0, HEADER_TYPE) >> 16) as u8;
                if header & 0x7F == 1 {
                    let secondary = (here.read(ring0, BUSES) >> 8) as u8;
                    wanted[usize::from(secondary >> 6)] |= 1 << (secondary & 63);
                }
                visit(here);
                if function == 0 && header & 0x80 == 0 {
                    break;
                }
            }
        }
    }
}

/// What [`quiesce`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiesced {
    /// Functions whose bus mastering was on.
    pub stopped: u32,
    /// Of these, how many still had a transaction under way at the deadline.
    pub undrained: u32,
}

/// Takes bus mastering from every function that is not a bridge, and waits until their transactions are over.
pub fn quiesce(ring0: Ring0, clock: &Clock) -> Quiesced {
    let mut result = Quiesced::default();
    walk(ring0, |function| {
        if !function.is_bridge(ring0) && function.disable_bus_master(ring0) {
            result.stopped += 1;
            result.undrained += u32::from(!function.drain(ring0, clock));
        }
    });
    result
}
