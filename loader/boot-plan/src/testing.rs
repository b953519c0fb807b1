//! Small machines, kernels and tables for the tests of this crate.

use crate::acpi::FirmwareMemory;
use alloc::{vec, vec::Vec};
use shared_region::{
    header::{Header, MemoryRange, MAGIC},
    layout,
};
/// A header with the fields every machine has alike.
fn blank_header() -> Header {
    Header {
        magic: MAGIC,
        abi_version: shared_region::ABI_VERSION,
        digest: 0,
        base: 0,
        size: layout::REGION_SIZE,
        nursery: [0; 2],
        reserved_nursery: 0,
        reserved_apic_id: 0,
        bsp_apic_id: 0,
        rsdp: 0,
        pm_timer_port: 0,
        tsc_hz: 0,
        cpu_count: 0,
        cpus: [0; layout::MAX_CPUS],
        ram_count: 0,
        ram: [MemoryRange::default(); 64],
        options: 0,
        reserved: [0; 2184],
    }
}

/// A machine with 2 GB below 4 GB and 2 GB above, as the loader would describe it.
pub(crate) fn header() -> Header {
    let mut header = blank_header();
    header.base = 0x6800_0000;
    header.nursery = [0x5800_0000, 0x4800_0000];
    header.reserved_apic_id = 3;
    header.cpu_count = 3;
    header.cpus[..3].copy_from_slice(&[0, 1, 2]);
    let ranges = [
        (0, 0x9_FC00, 1),
        (0x9_FC00, 0xA_0000, 2),
        (0xF_0000, 0x10_0000, 2),
        (0x10_0000, 0x7FFE_0000, 1),
        (0x7FFE_0000, 0x8000_0000, 2),
        (0xFFFC_0000, 0x1_0000_0000, 2),
        (0x1_0000_0000, 0x1_8000_0000, 1),
    ];
    header.ram_count = ranges.len() as u64;
    for (slot, (start, end, kind)) in header.ram.iter_mut().zip(ranges) {
        *slot = MemoryRange { start, end, kind };
    }
    header
}

/// A kernel image of one setup sector and one page.
pub(crate) fn bzimage() -> Vec<u8> {
    let mut file = vec![0u8; 2 * 512 + 4096];
    let mut set = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x1F1, &[1]);
    set(0x1F4, &256u32.to_le_bytes());
    set(0x1FE, &[0x55, 0xAA, 0xEB, 0x6A]);
    set(0x202, b"HdrS");
    set(0x206, &0x020Fu16.to_le_bytes());
    set(0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    set(0x230, &0x20_0000u32.to_le_bytes());
    set(0x234, &[1]);
    set(0x236, &0x7Fu16.to_le_bytes());
    set(0x238, &2047u32.to_le_bytes());
    set(0x258, &0x100_0000u64.to_le_bytes());
    set(0x260, &0x10_0000u32.to_le_bytes());
    file
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; 36];
    out[..4].copy_from_slice(signature);
    out[4..8].copy_from_slice(&(36 + body.len() as u32).to_le_bytes());
    out[8] = 1;
    out.extend_from_slice(body);
    let sum = out.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
    out[9] = sum.wrapping_neg();
    out
}

/// A MADT with these local APIC ids and one I/O APIC.
pub(crate) fn madt(ids: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0, 0xE0, 0xFE, 1, 0, 0, 0];
    for &id in ids {
        body.extend_from_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    body.extend_from_slice(&[1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]);
    table(b"APIC", &body)
}

/// An FADT of ACPI 1.0, as SeaBIOS makes it for a `pc`.
pub(crate) fn fadt() -> Vec<u8> {
    let mut body = vec![0u8; 116 - 36];
    let mut set = |at: usize, value: u32| body[at - 36..at - 32].copy_from_slice(&value.to_le_bytes());
    set(36, 0x7FFE_0000);
    set(40, 0x7FFE_0040);
    set(44, 9 << 16);
    set(56, 0x600);
    set(64, 0x604);
    set(76, 0x608);
    table(b"FACP", &body)
}

/// Memory with something here and there.
#[derive(Clone, Default)]
pub(crate) struct SparseMemory(Vec<(u64, Vec<u8>)>);

impl SparseMemory {
    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
        for (start, piece) in &mut self.0 {
            let end = *start + piece.len() as u64;
            if *start <= address && address + bytes.len() as u64 <= end {
                let at = (address - *start) as usize;
                piece[at..at + bytes.len()].copy_from_slice(bytes);
                return;
            }
        }
        self.0.push((address, bytes.to_vec()));
    }
}

impl FirmwareMemory for SparseMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.0.iter().any(|(start, piece)| {
            let Some(at) = address.checked_sub(*start) else {
                return false;
            };
            match piece.get(at as usize..).and_then(|rest| rest.get(..into.len())) {
                Some(bytes) => {
                    into.copy_from_slice(bytes);
                    true
                }
                None => false,
            }
        })
    }
}

/// A firmware with RSDT, FADT, MADT and HPET; the RSDP structure and the memory they lie in.
pub(crate) fn firmware(ids: &[u8]) -> (Vec<u8>, SparseMemory) {
    let hpet = table(
        b"HPET",
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xD0, 0xFE, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    let mut area = vec![0u8; 0x4000];
    let mut place = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
    place(0x100, &fadt());
    place(0x200, &madt(ids));
    place(0x3000, &hpet);
    let pointers: Vec<u8> = [0x7FFE_0100u32, 0x7FFE_0200, 0x7FFE_3000]
        .iter()
        .flat_map(|p| p.to_le_bytes())
        .collect();
    place(0, &table(b"RSDT", &pointers));
    let mut rsdp = vec![0u8; 20];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(b"BOCHS ");
    rsdp[16..20].copy_from_slice(&0x7FFE_0000u32.to_le_bytes());
    let sum = rsdp.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
    rsdp[8] = sum.wrapping_neg();
    (rsdp, SparseMemory(vec![(0x7FFE_0000, area)]))
}

/// Builds multiboot2 information.
pub(crate) struct MultibootBuilder(Vec<u8>);

impl MultibootBuilder {
    pub(crate) fn new() -> Self {
        Self(vec![0; 8])
    }

    fn tag(mut self, kind: u32, body: &[u8]) -> Self {
        self.0.extend_from_slice(&kind.to_le_bytes());
        self.0.extend_from_slice(&(8 + body.len() as u32).to_le_bytes());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    pub(crate) fn command_line(self, line: &str) -> Self {
        self.tag(1, &[line.as_bytes(), &[0]].concat())
    }

    pub(crate) fn module(self, start: u32, end: u32, string: &str) -> Self {
        let body = [&start.to_le_bytes(), &end.to_le_bytes(), string.as_bytes(), &[0]].concat();
        self.tag(3, &body)
    }

    pub(crate) fn memory(self, ranges: &[(u64, u64, u32)]) -> Self {
        let mut body = vec![24, 0, 0, 0, 0, 0, 0, 0];
        for (start, length, kind) in ranges {
            body.extend_from_slice(&start.to_le_bytes());
            body.extend_from_slice(&length.to_le_bytes());
            body.extend_from_slice(&kind.to_le_bytes());
            body.extend_from_slice(&[0; 4]);
        }
        self.tag(6, &body)
    }

    pub(crate) fn framebuffer(self, kind: u8) -> Self {
        let mut body = [0u8; 24];
        body[21] = kind;
        self.tag(8, &body)
    }

    pub(crate) fn rsdp_old(self, bytes: &[u8]) -> Self {
        self.tag(14, bytes)
    }

    pub(crate) fn rsdp_new(self, bytes: &[u8]) -> Self {
        self.tag(15, bytes)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let mut out = self.tag(0, &[]).0;
        let length = out.len() as u32;
        out[..4].copy_from_slice(&length.to_le_bytes());
        out
    }
}
