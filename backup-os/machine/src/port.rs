//! I/O ports.

use crate::Ring0;
use x86_64::instructions::port::{PortRead, PortWrite};

/// Reads a port.
pub fn read<T: PortRead>(_: Ring0, port: u16) -> T {
    // SAFETY: 1. `Ring0`: the instruction is allowed. 2. A port read changes no memory of ours; what it does to the
    // device is the business of the caller, who owns it (`Ring0`, 3).
    unsafe { T::read_from_port(port) }
}

/// Writes a port.
///
/// A device that is told to write to memory does so behind the compiler's back: callers that arm DMA own that memory.
pub fn write<T: PortWrite>(_: Ring0, port: u16, value: T) {
    // SAFETY: 1. `Ring0`: the instruction is allowed. 2. The caller owns the device (`Ring0`, 3); nothing in this
    // crate arms DMA, it only turns it off.
    unsafe { T::write_to_port(port, value) }
}
