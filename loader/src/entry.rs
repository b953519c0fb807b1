//! The Multiboot2 header (Multiboot2 Specification 2.0, 3.1) and the way from GRUB's 32-bit protected mode to Rust.

/// Bytes of the loader's stack.
const STACK: usize = 64 << 10;
/// Page tables: root, one of 512 GB, four of 1 GB each in 2 MB pages.
const TABLES: usize = 6 * 4096;

core::arch::global_asm!(
    ".pushsection .multiboot, \"a\"",
    ".balign 8",
    "loader_header:",
    ".long 0xE85250D6, 0, loader_header_end - loader_header",
    ".long -(0xE85250D6 + loader_header_end - loader_header)",
    ".short 6, 0", // modules are wanted at page boundaries
    ".long 8",
    ".short 0, 0", // end
    ".long 8",
    "loader_header_end:",
    ".popsection",

    ".pushsection .text.loader_entry, \"ax\"",
    ".code32",
    ".globl loader_entry_32",
    "loader_entry_32:",
    "cli",
    "cld",
    "movl $loader_stack_end, %esp",
    "movl %eax, %esi", // magic
    "movl %ebx, %edi", // information
    // Long mode?
    "movl $0x80000000, %eax",
    "cpuid",
    "cmpl $0x80000001, %eax",
    "jb loader_no_long_mode",
    "movl $0x80000001, %eax",
    "cpuid",
    "testl $(1 << 29), %edx",
    "jz loader_no_long_mode",
    // The low 4 GB in 2 MB pages.
    "movl $loader_tables + 0x1000 + 3, loader_tables",
    "movl $loader_tables + 0x2000 + 3, %eax",
    "movl $loader_tables + 0x1000, %ebx",
    "movl $4, %ecx",
    "1:",
    "movl %eax, (%ebx)",
    "addl $0x1000, %eax",
    "addl $8, %ebx",
    "loop 1b",
    "movl $0x83, %eax",
    "movl $loader_tables + 0x2000, %ebx",
    "movl $2048, %ecx",
    "2:",
    "movl %eax, (%ebx)",
    "addl $0x200000, %eax",
    "addl $8, %ebx",
    "loop 2b",
    "movl $0x620, %eax", // PAE, OSFXSR, OSXMMEXCPT
    "movl %eax, %cr4",
    "movl $loader_tables, %eax",
    "movl %eax, %cr3",
    "movl $0xC0000080, %ecx", // EFER.LME
    "rdmsr",
    "orl $0x100, %eax",
    "wrmsr",
    "lgdtl loader_gdtr",
    "movl %cr0, %eax",
    "andl $0x9FFFFFF3, %eax", // CD, NW, EM, TS off
    "orl $0x80010023, %eax",  // PG, WP, NE, MP, PE
    "movl %eax, %cr0",
    "ljmpl $0x10, $loader_entry_64",

    // Says so on the first serial port, as the firmware left it, and on the VGA text screen.
    "loader_no_long_mode:",
    "movl $loader_no_long_mode_text, %esi",
    "movl $0xB8000, %edi",
    "3:",
    "lodsb",
    "testb %al, %al",
    "jz 5f",
    "movb $0x07, %ah",
    "movw %ax, (%edi)",
    "addl $2, %edi",
    "movb %al, %bl",
    "movl $100000, %ecx",
    "movw $0x3FD, %dx",
    "4:",
    "inb %dx, %al",
    "testb $0x20, %al",
    "loopz 4b",
    "movw $0x3F8, %dx",
    "movb %bl, %al",
    "outb %al, %dx",
    "jmp 3b",
    "5:",
    "hlt",
    "jmp 5b",
    "loader_no_long_mode_text:",
    ".asciz \"Orthros cannot start this machine: the CPU has no 64-bit long mode. Halted.\\r\\n\"",

    ".code64",
    "loader_entry_64:",
    "movl $0x18, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movl %eax, %fs",
    "movl %eax, %gs",
    "movl $loader_stack_end, %esp",
    "movl %edi, %eax",
    "movl %esi, %edi",
    "movl %eax, %esi",
    "xorl %ebp, %ebp",
    "pushq $0",
    "jmp loader_start",
    ".balign 8",
    "loader_gdtr:",
    ".short 4 * 8 - 1",
    ".long loader_gdt",
    ".balign 8",
    "loader_gdt:",
    ".quad {gdt0}, {gdt1}, {gdt2}, {gdt3}",
    ".popsection",

    ".pushsection .bss.loader_entry, \"aw\", @nobits",
    ".balign 4096",
    "loader_tables:",
    ".skip {tables}",
    ".skip {stack}",
    "loader_stack_end:",
    ".popsection",
    gdt0 = const machine::gdt::DESCRIPTORS[0],
    gdt1 = const machine::gdt::DESCRIPTORS[1],
    gdt2 = const machine::gdt::DESCRIPTORS[2],
    gdt3 = const machine::gdt::DESCRIPTORS[3],
    tables = const TABLES,
    stack = const STACK,
    options(att_syntax),
);

/// Where the assembly ends.
#[unsafe(no_mangle)]
extern "C" fn loader_start(magic: u32, information: u32) -> ! {
    crate::start(magic, information)
}
