//! The shutdown code in CMOS and the warm-reset vector at 40:67 (Intel MultiProcessor Specification 1.4, B.4).

use crate::{mmio, port, Ring0};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const SHUTDOWN_CODE: u8 = 0x0F;
/// "Jump to the address at 40:67, without an EOI."
const WARM_RESET: u8 = 0x0A;
/// Physical address of the vector: offset, then segment. Not aligned to four bytes.
const VECTOR: u64 = 0x467;

fn write(ring0: Ring0, register: u8, value: u8) {
    port::write(ring0, INDEX, register);
    port::write(ring0, DATA, value);
}

/// Lets a BIOS machine's next processor reset continue in real mode at physical address `target`
/// (below 1 MB, a multiple of 16), instead of a restart.
///
/// # Safety
/// `target` holds real-mode code that knows what it does.
pub unsafe fn set_warm_reset(ring0: Ring0, target: u32) {
    let segment = (target >> 4).to_le_bytes();
    for (at, byte) in [(0, 0), (1, 0), (2, segment[0]), (3, segment[1])] {
        // SAFETY: the BIOS data area; nobody holds a reference to it.
        unsafe { mmio::write8(ring0, VECTOR + at, byte) };
    }
    write(ring0, SHUTDOWN_CODE, WARM_RESET);
}

/// Makes the next processor reset an ordinary restart again.
pub fn clear_warm_reset(ring0: Ring0) {
    write(ring0, SHUTDOWN_CODE, 0);
}
