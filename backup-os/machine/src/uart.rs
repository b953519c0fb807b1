//! A 16550 serial port (National Semiconductor PC16550D data sheet), written to by polling.

use crate::{clock, port, Ring0};

/// I/O port of the first serial port of a PC.
pub const COM1: u16 = 0x3F8;
/// I/O port of the second.
pub const COM2: u16 = 0x2F8;

/// Registers, as offsets from the base port.
mod register {
    pub const DATA: u16 = 0;
    pub const INTERRUPT_ENABLE: u16 = 1;
    pub const FIFO_CONTROL: u16 = 2;
    pub const LINE_CONTROL: u16 = 3;
    pub const MODEM_CONTROL: u16 = 4;
    pub const LINE_STATUS: u16 = 5;
    pub const SCRATCH: u16 = 7;
}

/// Line status: the transmitter holding register is empty.
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes the transmit FIFO takes once it is empty.
const FIFO_DEPTH: usize = 16;
/// A full FIFO at 115200 baud drains in 1.4 ms. Ten times that at 3 GHz.
const TICKS_PER_WAIT: u64 = 42_000_000;
/// Reads after which a port is given up whatever the time-stamp counter says.
const READS_PER_WAIT: u32 = 200_000;

/// A serial port. Text that cannot be sent is dropped, so that a missing or stuck port holds nobody up for long.
#[derive(Debug)]
pub struct Uart {
    ring0: Ring0,
    base: u16,
    room: usize,
    stuck: bool,
}

impl Uart {
    /// Sets the port at `base` to 115200 baud, 8N1, FIFO on, interrupts off.
    ///
    /// Returns `None` if no UART answers there.
    pub fn new(ring0: Ring0, base: u16) -> Option<Self> {
        let set = |register: u16, value: u8| port::write(ring0, base + register, value);
        set(register::SCRATCH, 0xA5);
        if port::read::<u8>(ring0, base + register::SCRATCH) != 0xA5 {
            return None;
        }
        set(register::INTERRUPT_ENABLE, 0);
        set(register::LINE_CONTROL, 0x80); // divisor latch
        set(register::DATA, 1); // 115200 / 1
        set(register::INTERRUPT_ENABLE, 0);
        set(register::LINE_CONTROL, 0x03); // 8N1
        set(register::FIFO_CONTROL, 0x07); // on, both cleared
        set(register::MODEM_CONTROL, 0x03); // DTR, RTS; OUT2 off keeps the interrupt line off
        Some(Self {
            ring0,
            base,
            room: 0,
            stuck: false,
        })
    }

    fn wait_for_room(&mut self) -> bool {
        let start = clock::tsc();
        for _ in 0..READS_PER_WAIT {
            if port::read::<u8>(self.ring0, self.base + register::LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
                self.room = FIFO_DEPTH;
                self.stuck = false;
                return true;
            }
            // A port that was stuck last time gets one look, not another wait.
            if self.stuck || clock::tsc().wrapping_sub(start) > TICKS_PER_WAIT {
                break;
            }
            core::hint::spin_loop();
        }
        self.stuck = true;
        false
    }

    /// Sends one byte if there is room for it now. Returns whether there was.
    pub fn try_send(&mut self, byte: u8) -> bool {
        if self.room == 0 {
            if port::read::<u8>(self.ring0, self.base + register::LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
                return false;
            }
            self.room = FIFO_DEPTH;
            self.stuck = false;
        }
        self.room -= 1;
        port::write(self.ring0, self.base + register::DATA, byte);
        true
    }

    /// Sends one byte, or drops it if the port is stuck.
    pub fn send(&mut self, byte: u8) {
        if self.room == 0 && !self.wait_for_room() {
            return;
        }
        self.room -= 1;
        port::write(self.ring0, self.base + register::DATA, byte);
    }
}

impl core::fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}
