//! Where a stopped CPU waits: code, descriptor tables and page tables in the region, nothing of the old kernel's.
//!
//! The code below is copied to [`layout::PARKING_CODE`] and reaches what it needs relative to itself. There are two
//! ways in, both with interrupts off and physical memory below 4 GB at its own address:
//!
//! - `entry`, from the module's NMI handler: RDI is the CPU's slot (see [`shared_region::parking`]);
//! - `entry_by_id`, from a text patch or the real-mode trampoline: the slot is found by the CPU's local APIC id.
//!
//! The CPU then drops everything that could still lead into the old kernel (descriptor tables, debug registers, blocked
//! NMIs, virtualisation, control-flow protection), writes what its registers hold now into its slot, says that it is
//! parked, and halts. An NMI makes it look at `command`. The command BOOT takes it through protected mode without
//! paging, because only there 5-level paging can be left, to a plain 4-level identity map and on to `argument`.

use crate::region::{slot_word, Region};
use core::sync::atomic::Ordering;
use machine::paging::{self, Table};
use machine::{gdt, Ring0};
use shared_region::control::ControlWords;
use shared_region::layout;
use shared_region::parking::{command, ParkSlot, ParkState, SLOT_SIZE};

/// Offsets in [`layout::PARKING_CODE`], in bytes.
mod place {
    /// Code with its descriptor table and data.
    pub const CODE: u64 = 0;
    /// Interrupt descriptor table.
    pub const IDT: u64 = 0x4000;
    /// Identity map of the low 4 GB with 4-level paging; the first table is `park_root_l4`.
    pub const TABLES: u64 = 0x1_0000;
    /// Root of a 4-level map that nobody else writes, for CPUs that leave.
    pub const BOOT_ROOT: u64 = 0x2_0000;
    /// `park_root_l5`, and the table under its entry 0.
    pub const L5_ROOT: u64 = 0x2_1000;
}

const LOW_END: u64 = 4 << 30;
/// Present, writable, accessed.
const TABLE_ENTRY: u64 = 0x23;

core::arch::global_asm!(
    ".pushsection .text.orthros_parking, \"ax\"",
    ".balign 16",
    ".globl orthros_parking_begin",
    "orthros_parking_begin:",
    // ---- ways in -------------------------------------------------------------------------------------------------
    ".globl orthros_parking_entry",
    "orthros_parking_entry:",
    "endbr64",
    "cli",
    "cld",
    "jmp 20f",
    ".globl orthros_parking_entry_by_id",
    "orthros_parking_entry_by_id:",
    "endbr64",
    "cli",
    "cld",
    "mov eax, 1",
    "xor ecx, ecx",
    "cpuid",
    "shr ebx, 24", // initial local APIC id
    "imul ebx, ebx, {slot_size}",
    "mov rdi, [rip + orthros_parking_slots]",
    "add rdi, rbx",
    // ---- leave the old kernel ------------------------------------------------------------------------------------
    "20:",
    "lgdt [rip + orthros_parking_gdtr]",
    "lidt [rip + orthros_parking_idtr]",
    "mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov fs, eax",
    "mov gs, eax",
    "lea rsp, [rdi + {slot_size}]",
    "mov rax, rsp",
    "push {data}", // IRETQ loads CS and lets NMIs through again
    "push rax",
    "push 2",
    "push {code64}",
    "lea rax, [rip + 21f]",
    "push rax",
    "iretq",
    "21:",
    "xor eax, eax",
    "lldt ax",
    "mov dr7, rax",
    "mov rax, cr4",
    "bt eax, 13", // VMXE: in VMX operation INIT would be held back
    "jnc 22f",
    ".globl orthros_parking_vmxoff",
    "orthros_parking_vmxoff:",
    "vmxoff", // an undefined opcode where VMX operation was not entered: the handler steps over it
    "mov rax, cr4",
    "22:",
    "and eax, 0x1060", // LA57, MCE and PAE stay; PCIDE, PGE, SMEP, SMAP, CET, PKE and the rest go
    "or eax, 0x20",
    "mov cr4, rax",
    // ---- what the registers hold now -----------------------------------------------------------------------------
    "lea rax, [rip + orthros_parking_begin]",
    "mov [rdi + {parked_rip}], rax",
    "mov [rdi + {parked_rsp}], rsp",
    "mov rax, cr3",
    "mov [rdi + {parked_cr3}], rax",
    "sub rsp, 16",
    "sgdt [rsp]",
    "mov rax, [rsp + 2]",
    "mov [rdi + {parked_gdt}], rax",
    "sidt [rsp]",
    "mov rax, [rsp + 2]",
    "mov [rdi + {parked_idt}], rax",
    "add rsp, 16",
    "mov qword ptr [rdi], {parked}",
    "23:",
    "cmp qword ptr [rdi + {command}], {boot}",
    "je 24f",
    "cli",
    "hlt",
    "jmp 23b",
    // ---- BOOT ----------------------------------------------------------------------------------------------------
    "24:",
    "mov rbx, [rdi + {argument}]",
    "mov rsi, [rdi + {argument2}]",
    "mov qword ptr [rdi + {command}], {taken}",
    "mov rax, [rip + orthros_parking_boot_root]",
    "push rax",
    "lea rbp, [rip + 26f]",
    "push {code32}",
    "lea rax, [rip + 25f]",
    "push rax",
    "retfq",
    ".code32",
    "25:",
    "mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov eax, cr0",
    "and eax, 0x1FFFFFF3", // PG, CD, NW, TS and EM off
    "mov cr0, eax",
    "mov eax, 0x620", // PAE, OSFXSR, OSXMMEXCPT
    "mov ecx, 0xC0000080",
    "mov edi, eax",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr", // EFER: long mode and everything else off
    "mov cr4, edi",
    "pop eax",
    "pop edx",
    "mov cr3, eax",
    "mov eax, 0x100", // EFER.LME
    "xor edx, edx",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80010023", // PG, WP, NE, MP, PE
    "mov cr0, eax",
    "push {code64}",
    "push ebp",
    "retf",
    ".code64",
    "26:",
    "mov ebx, ebx", // addresses below 4 GB
    "mov edi, esi",
    "xor ebp, ebp",
    "jmp rbx",
    // ---- interrupts ----------------------------------------------------------------------------------------------
    ".globl orthros_parking_nmi",
    "orthros_parking_nmi:",
    "push rax",
    "mov rax, rsp",
    "and rax, -{slot_size}",
    "lock inc qword ptr [rax + {nmis}]",
    "pop rax",
    "iretq",
    ".globl orthros_parking_undefined",
    "orthros_parking_undefined:",
    "push rax",
    "lea rax, [rip + orthros_parking_vmxoff]",
    "cmp rax, [rsp + 8]",
    "jne 27f",
    "add qword ptr [rsp + 8], 3", // length of VMXOFF
    "pop rax",
    "iretq",
    ".globl orthros_parking_fault",
    "orthros_parking_fault:",
    "27:",
    "cli",
    "hlt",
    "jmp 27b",
    // ---- data ----------------------------------------------------------------------------------------------------
    ".balign 8",
    ".globl orthros_parking_data",
    "orthros_parking_data:",
    "orthros_parking_slots: .quad 0",
    "orthros_parking_boot_root: .quad 0",
    "orthros_parking_gdtr: .short 4 * 8 - 1",
    "orthros_parking_gdt_base: .quad 0",
    ".balign 8",
    "orthros_parking_idtr: .short 256 * 16 - 1",
    "orthros_parking_idt_base: .quad 0",
    ".balign 8",
    ".globl orthros_parking_gdt",
    "orthros_parking_gdt: .quad {gdt0}, {gdt1}, {gdt2}, {gdt3}",
    ".globl orthros_parking_end",
    "orthros_parking_end:",
    ".popsection",
    data = const gdt::DATA,
    code32 = const gdt::CODE32,
    code64 = const gdt::CODE64,
    slot_size = const SLOT_SIZE,
    parked = const ParkState::Parked as u64,
    boot = const command::BOOT,
    taken = const command::TAKEN,
    parked_rip = const core::mem::offset_of!(ParkSlot, parked_rip),
    parked_rsp = const core::mem::offset_of!(ParkSlot, parked_rsp),
    parked_cr3 = const core::mem::offset_of!(ParkSlot, parked_cr3),
    parked_gdt = const core::mem::offset_of!(ParkSlot, parked_gdt),
    parked_idt = const core::mem::offset_of!(ParkSlot, parked_idt),
    command = const core::mem::offset_of!(ParkSlot, command),
    argument = const core::mem::offset_of!(ParkSlot, argument),
    argument2 = const core::mem::offset_of!(ParkSlot, argument2),
    nmis = const core::mem::offset_of!(ParkSlot, nmis),
    gdt0 = const gdt::DESCRIPTORS[0],
    gdt1 = const gdt::DESCRIPTORS[1],
    gdt2 = const gdt::DESCRIPTORS[2],
    gdt3 = const gdt::DESCRIPTORS[3],
);

/// Where the words of the parking code's data lie behind `orthros_parking_data`.
mod data {
    pub const SLOTS: u64 = 0;
    pub const BOOT_ROOT: u64 = 8;
    pub const GDT_BASE: u64 = 18;
    pub const IDT_BASE: u64 = 34;
}

unsafe extern "C" {
    static orthros_parking_begin: u8;
    static orthros_parking_entry: u8;
    static orthros_parking_entry_by_id: u8;
    static orthros_parking_nmi: u8;
    static orthros_parking_undefined: u8;
    static orthros_parking_fault: u8;
    static orthros_parking_data: u8;
    static orthros_parking_gdt: u8;
    static orthros_parking_end: u8;
}

/// The parking code in its place.
#[derive(Clone, Copy, Debug)]
pub struct Parking {
    region: Region,
    /// Root of a 4-level map that nobody else writes.
    pub boot_root: u64,
    /// Where a CPU enters that does not know its slot.
    pub entry_by_id: u64,
}

/// Offset of a symbol in the code.
fn offset(symbol: *const u8) -> u64 {
    symbol as u64 - &raw const orthros_parking_begin as u64
}

fn gate(handler: u64) -> [u64; 2] {
    let low = (handler & 0xFFFF) | u64::from(gdt::CODE64) << 16 | 0x8E00 << 32 | (handler >> 16 & 0xFFFF) << 48;
    [low, handler >> 32]
}

impl Parking {
    /// Writes code and tables into their part, and the addresses into the control words.
    ///
    /// # Safety
    /// No CPU is parked, and nobody holds a reference into the part.
    pub unsafe fn install(region: Region, _: Ring0) -> Self {
        let part = region.address(layout::PARKING_CODE);
        // SAFETY: the caller's promise; nobody else holds it while this function runs.
        let bytes = unsafe { region.part_mut(layout::PARKING_CODE) };
        bytes.fill(0);

        let length = offset(&raw const orthros_parking_end) as usize;
        assert!(length as u64 <= place::IDT);
        // SAFETY: the symbols enclose `length` bytes of this program's text.
        let code = unsafe { core::slice::from_raw_parts(&raw const orthros_parking_begin, length) };
        bytes[..length].copy_from_slice(code);
        let mut put = |at: u64, value: u64| bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
        let code_at = |symbol: *const u8| part + place::CODE + offset(symbol);
        let data_at = offset(&raw const orthros_parking_data);
        put(data_at + data::SLOTS, region.address(layout::PARKING_SLOTS));
        put(data_at + data::BOOT_ROOT, part + place::BOOT_ROOT);
        put(data_at + data::GDT_BASE, code_at(&raw const orthros_parking_gdt));
        put(data_at + data::IDT_BASE, part + place::IDT);

        for vector in 0..256u64 {
            let handler = match vector {
                2 => &raw const orthros_parking_nmi,
                6 => &raw const orthros_parking_undefined,
                _ => &raw const orthros_parking_fault,
            };
            let [low, high] = gate(code_at(handler));
            put(place::IDT + 16 * vector, low);
            put(place::IDT + 16 * vector + 8, high);
        }

        let mut tables = alloc::vec![Table::EMPTY; paging::tables_needed(LOW_END, false)];
        paging::identity(&mut tables, part + place::TABLES, LOW_END, false).expect("as many tables as are needed");
        for (index, table) in tables.iter().enumerate() {
            for (at, &entry) in table.0.iter().enumerate() {
                put(place::TABLES + 4096 * index as u64 + 8 * at as u64, entry);
            }
        }
        let low_map = tables[0].0[0];
        put(place::BOOT_ROOT, low_map);
        put(place::L5_ROOT, (part + place::L5_ROOT + 4096) | TABLE_ENTRY);
        put(place::L5_ROOT + 4096, low_map);

        let control = region.control();
        control.park_root_l4.store(part + place::TABLES, Ordering::Relaxed);
        control.park_root_l5.store(part + place::L5_ROOT, Ordering::Relaxed);
        let entry = code_at(&raw const orthros_parking_entry);
        control.park_entry.store(entry, Ordering::Release);
        Self {
            region,
            boot_root: part + place::BOOT_ROOT,
            entry_by_id: code_at(&raw const orthros_parking_entry_by_id),
        }
    }

    /// The root to load on a CPU of a kernel with (`la57`) or without 5-level paging.
    pub fn root(&self, la57: bool) -> u64 {
        let control: &ControlWords = self.region.control();
        let word = if la57 {
            &control.park_root_l5
        } else {
            &control.park_root_l4
        };
        word.load(Ordering::Relaxed)
    }

    /// Maps what the dead kernel maps in the last entry of its root table: its own text, so that a patched
    /// instruction stream goes on after the page tables were changed under it.
    pub fn map_kernel_text(&self, la57: bool, entry: u64) {
        let word = (self.root(la57) + 511 * 8) as *mut u64;
        // SAFETY: 1. an entry of a table in the region, aligned. 2. The only other writer is the module of the active,
        // which writes the same value. 3. No CPU uses the table before it is stopped.
        unsafe { word.write_volatile(entry) };
    }

    /// Makes all slots those of a CPU of which nothing is known.
    pub fn clear_slots(&self, cpus: &[u8]) {
        for &apic_id in cpus {
            let slot = self.region.slot(apic_id);
            slot.state.store(ParkState::Running as u64, Ordering::Relaxed);
            slot.generation.store(0, Ordering::Relaxed);
            for word in &slot.words {
                word.store(0, Ordering::Relaxed);
            }
        }
        core::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Checks by the parked CPU's own registers that its code, page tables, descriptor tables and stack all lie in the
    /// region.
    ///
    /// # Errors
    /// The first that does not.
    pub fn prove(&self, apic_id: u8) -> Result<(), &'static str> {
        let slot = self.region.slot(apic_id);
        let words = [
            ("code", &slot_word!(slot, parked_rip)),
            ("stack", &slot_word!(slot, parked_rsp)),
            ("page tables", &slot_word!(slot, parked_cr3)),
            ("GDT", &slot_word!(slot, parked_gdt)),
            ("IDT", &slot_word!(slot, parked_idt)),
        ];
        words
            .into_iter()
            .find(|(_, word)| !self.region.contains(word.load(Ordering::Relaxed), 1))
            .map_or(Ok(()), |(name, _)| Err(name))
    }
}
