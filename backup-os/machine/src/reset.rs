//! Reset of the whole machine.

use crate::{clock::Clock, mmio, pci, port, Ring0};

/// The FADT's reset register (ACPI 6.5, 4.8.3.6), if the firmware offers one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetRegister {
    /// A byte in memory.
    Memory {
        /// Physical address.
        address: u64,
        /// What to write.
        value: u8,
    },
    /// An I/O port.
    Port {
        /// Port.
        port: u16,
        /// What to write.
        value: u8,
    },
    /// A byte of configuration space on bus 0.
    Pci {
        /// Device.
        device: u8,
        /// Function.
        function: u8,
        /// Offset.
        offset: u8,
        /// What to write.
        value: u8,
    },
}

/// Time given to each way before the next is tried.
const EACH_US: u64 = 50_000;

/// Resets the machine: by the FADT's register, the PCI reset port 0xCF9, the keyboard controller, and at last by a
/// triple fault. Does not return whatever the hardware answers.
pub fn machine(ring0: Ring0, clock: &Clock, register: Option<ResetRegister>) -> ! {
    match register {
        // SAFETY: a device register by the firmware's word; the machine ends here.
        Some(ResetRegister::Memory { address, value }) if address < 1 << 32 => unsafe {
            mmio::write8(ring0, address, value)
        },
        Some(ResetRegister::Port { port, value }) => port::write(ring0, port, value),
        Some(ResetRegister::Pci {
            device,
            function,
            offset,
            value,
        }) => {
            let target = pci::Function {
                bus: 0,
                device,
                function,
            };
            let shift = 8 * u32::from(offset & 3);
            let word = target.read(ring0, offset) & !(0xFF << shift);
            target.write(ring0, offset, word | u32::from(value) << shift);
        }
        _ => {}
    }
    clock.wait(EACH_US);
    // Intel ICH: full reset, first with the request bit clear (RST_CNT, 0xCF9).
    port::write(ring0, 0xCF9, 0x02u8);
    port::write(ring0, 0xCF9, 0x06u8);
    clock.wait(EACH_US);
    port::write(ring0, 0xCF9, 0x0Eu8);
    clock.wait(EACH_US);
    // Keyboard controller: pulse the reset line.
    port::write(ring0, 0x64, 0xFEu8);
    clock.wait(EACH_US);
    triple_fault()
}

fn triple_fault() -> ! {
    let empty = x86_64::structures::DescriptorTablePointer {
        limit: 0,
        base: x86_64::VirtAddr::zero(),
    };
    // SAFETY: the machine ends here: an exception that finds no descriptor for itself, nor for the double fault,
    // shuts the CPU down, which resets a PC.
    unsafe {
        x86_64::instructions::tables::lidt(&empty);
        core::arch::asm!("2:", "ud2", "jmp 2b", options(noreturn));
    }
}
