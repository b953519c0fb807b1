//! `VM_*` flags of mappings (`include/linux/mm.h`), which are not in BTF, and what they are in the system-call ABI.

use alloc::vec::Vec;

/// `VM_SHARED`.
pub const SHARED: u64 = 0x8;
/// `VM_MAYWRITE`.
pub const MAYWRITE: u64 = 0x20;
/// `VM_GROWSDOWN`.
pub const GROWSDOWN: u64 = 0x100;
/// `VM_UFFD_MISSING` and `VM_UFFD_WP`.
pub const UFFD: u64 = 0x200 | 0x1000;
/// `VM_PFNMAP`.
pub const PFNMAP: u64 = 0x400;
/// `VM_LOCKED`.
pub const LOCKED: u64 = 0x2000;
/// `VM_IO`.
pub const IO: u64 = 0x4000;
/// `VM_SEQ_READ`.
pub const SEQ_READ: u64 = 0x8000;
/// `VM_RAND_READ`.
pub const RAND_READ: u64 = 0x1_0000;
/// `VM_DONTCOPY`.
pub const DONTCOPY: u64 = 0x2_0000;
/// `VM_DONTEXPAND`.
pub const DONTEXPAND: u64 = 0x4_0000;
/// `VM_LOCKONFAULT`.
pub const LOCKONFAULT: u64 = 0x8_0000;
/// `VM_ACCOUNT`.
pub const ACCOUNT: u64 = 0x10_0000;
/// `VM_NORESERVE`.
pub const NORESERVE: u64 = 0x20_0000;
/// `VM_HUGETLB`.
pub const HUGETLB: u64 = 0x40_0000;
/// `VM_WIPEONFORK`.
pub const WIPEONFORK: u64 = 0x200_0000;
/// `VM_DONTDUMP`.
pub const DONTDUMP: u64 = 0x400_0000;
/// `VM_SOFTDIRTY`.
pub const SOFTDIRTY: u64 = 0x800_0000;
/// `VM_MIXEDMAP`.
pub const MIXEDMAP: u64 = 0x1000_0000;
/// `VM_HUGEPAGE`.
pub const HUGEPAGE: u64 = 0x2000_0000;
/// `VM_NOHUGEPAGE`.
pub const NOHUGEPAGE: u64 = 0x4000_0000;
/// `VM_MERGEABLE`.
pub const MERGEABLE: u64 = 0x8000_0000;
/// Where the protection key stands (`VM_PKEY_SHIFT`), 4 bits.
const PKEY_SHIFT: u32 = 32;
const PKEY_MASK: u64 = 0xF;

/// The flags that are restored, or that say nothing that would have to be.
pub const KNOWN: u64 = 0xFF
    | GROWSDOWN
    | PFNMAP
    | LOCKED
    | IO
    | SEQ_READ
    | RAND_READ
    | DONTCOPY
    | DONTEXPAND
    | LOCKONFAULT
    | ACCOUNT
    | NORESERVE
    | WIPEONFORK
    | DONTDUMP
    | SOFTDIRTY
    | MIXEDMAP
    | HUGEPAGE
    | NOHUGEPAGE
    | MERGEABLE
    | PKEY_MASK << PKEY_SHIFT;

/// PROT_READ, PROT_WRITE and PROT_EXEC have the same numbers as `VM_READ`, `VM_WRITE` and `VM_EXEC`.
pub const fn prot(flags: u64) -> u32 {
    (flags & 7) as u32
}

/// MAP_GROWSDOWN, MAP_LOCKED and MAP_NORESERVE (`include/uapi/asm-generic/mman.h`).
pub const fn map_flags(flags: u64) -> u32 {
    let mut map = 0;
    if flags & GROWSDOWN != 0 {
        map |= 0x100;
    }
    if flags & LOCKED != 0 {
        map |= 0x2000;
    }
    if flags & NORESERVE != 0 {
        map |= 0x4000;
    }
    map
}

/// MCL_FUTURE and MCL_ONFAULT for the flags that new mappings get.
pub const fn mlockall(default_flags: u64) -> u64 {
    let mut mcl = 0;
    if default_flags & LOCKED != 0 {
        mcl |= 2;
    }
    if default_flags & LOCKONFAULT != 0 {
        mcl |= 4;
    }
    mcl
}

/// The protection key.
pub const fn pkey(flags: u64) -> u32 {
    ((flags >> PKEY_SHIFT) & PKEY_MASK) as u32
}

/// `madvise` values that lead to the flags (`include/uapi/asm-generic/mman-common.h`), in ascending order.
pub fn advice(flags: u64) -> Vec<u32> {
    const VALUES: [(u64, u32); 8] = [
        (RAND_READ, 1),
        (SEQ_READ, 2),
        (DONTCOPY, 10),
        (MERGEABLE, 12),
        (HUGEPAGE, 14),
        (NOHUGEPAGE, 15),
        (DONTDUMP, 16),
        (WIPEONFORK, 18),
    ];
    VALUES
        .iter()
        .filter(|(flag, _)| flags & flag != 0)
        .map(|&(_, value)| value)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_what_a_program_would_have_passed() {
        let flags = 0x3 | GROWSDOWN | LOCKED | DONTCOPY | WIPEONFORK | 5 << PKEY_SHIFT;
        assert_eq!((prot(flags), map_flags(flags), pkey(flags)), (3, 0x2100, 5));
        assert_eq!(advice(flags), [10, 18]);
        assert_eq!(flags & !KNOWN, 0);
    }

    #[test]
    fn sealed_and_uncached_mappings_are_unknown() {
        assert_ne!((1u64 << 63) & !KNOWN, 0);
        assert_ne!((1u64 << 37) & !KNOWN, 0);
        assert_ne!(0x100_0000 & !KNOWN, 0);
    }
}
