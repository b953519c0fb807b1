//! Images, sparse memory and the kernel's address space over them.

use salvage::addr::{Kva, PhysAddr};
use salvage::error::{MemError, Reason};
use salvage::kernel_memory::{AddressSpace, KernelMemory};
use salvage::memory::{Image, PhysMem, SparseMemory};
use salvage::mirror::Field;
use salvage::paging::{Levels, PageTables};
use salvage::vmcoreinfo::{find_all, VmCoreInfo};

const DIRECT: u64 = 0xFFFF_8880_0000_0000;
const VMALLOC: u64 = 0xFFFF_C900_0000_0000;

#[test]
fn an_image_with_a_hole_goes_on_at_4_gb() {
    let bytes: Vec<u8> = (0..64).collect();
    let image = Image::with_hole(&bytes, 48);
    assert_eq!(image.slice(PhysAddr(40), 8), Some(&bytes[40..48]));
    assert_eq!(image.slice(PhysAddr(1 << 32), 16), Some(&bytes[48..]));
    assert_eq!(image.end(), PhysAddr((1 << 32) + 16));
    let mut two = [0; 2];
    assert_eq!(
        image.read(PhysAddr(47), &mut two),
        Err(MemError {
            address: PhysAddr(47),
            len: 2
        })
    );
    assert_eq!(image.phys_of_offset(50), Some(PhysAddr((1 << 32) + 2)));
    assert_eq!(image.phys_of_offset(64), None);
    assert_eq!(Image::flat(&bytes).end(), PhysAddr(64));
    assert_eq!(Image::with_hole(&bytes, 4096).ranges(), Image::flat(&bytes).ranges());
}

#[test]
fn sparse_memory_crosses_its_pages() {
    let mut memory = SparseMemory::new();
    memory.write(PhysAddr(0x1FFE), &[1, 2, 3, 4]);
    let mut four = [0; 4];
    memory.read(PhysAddr(0x1FFE), &mut four).unwrap();
    assert_eq!(four, [1, 2, 3, 4]);
    assert_eq!(memory.slice(PhysAddr(0x1FFE), 4), None);
    assert!(memory.read(PhysAddr(0x2FFE), &mut four).is_err());
    assert!(memory.read(PhysAddr(u64::MAX), &mut four).is_err());
}

/// A direct map, and two vmalloc pages whose frames lie in reverse order.
fn kernel(memory: &mut SparseMemory) -> AddressSpace {
    let flags = 0x63;
    for (at, entry) in [
        (0x1000 + ((VMALLOC >> 39) & 511) * 8, 0x2000 | flags),
        (0x2000 + ((VMALLOC >> 30) & 511) * 8, 0x3000 | flags),
        (0x3000 + ((VMALLOC >> 21) & 511) * 8, 0x4000 | flags),
        (0x4000, 0x9000 | flags),
        (0x4008, 0x8000 | flags),
        (0x4010, 0x7_0000_0000 | flags),
    ] {
        memory.write_u64(PhysAddr(at), entry);
    }
    for (frame, byte) in [(0x8000, 0x88), (0x9000, 0x99)] {
        memory.write(PhysAddr(frame), &[byte; 4096]);
    }
    AddressSpace {
        tables: PageTables {
            root: PhysAddr(0x1000),
            levels: Levels::Four,
        },
        image: Kva::NULL..Kva::NULL,
        phys_base: 0,
        direct_map: Kva(DIRECT)..Kva(DIRECT + (1 << 40)),
    }
}

#[test]
fn kernel_memory_is_read_across_pages() {
    let mut memory = SparseMemory::new();
    let space = kernel(&mut memory);
    let memory = KernelMemory::new(&memory, space);
    assert_eq!(memory.u32(Kva(VMALLOC + 0xFFE)), Ok(0x8888_9999));
    assert_eq!(memory.u8(Kva(DIRECT + 0x9000)), Ok(0x99));
    assert_eq!(memory.slice(Kva(VMALLOC + 0x1000), 4096).map(<[u8]>::len), Some(4096));
    assert_eq!(memory.slice(Kva(VMALLOC + 0xFFE), 4), None);
    assert_eq!(memory.bytes(Kva(VMALLOC + 0xFFE), 4).unwrap(), [0x99, 0x99, 0x88, 0x88]);
    // The second time from the cache.
    assert_eq!(memory.u32(Kva(VMALLOC + 0xFFE)), Ok(0x8888_9999));
}

#[test]
fn a_bad_address_tells_why() {
    let mut memory = SparseMemory::new();
    let space = kernel(&mut memory);
    let memory = KernelMemory::new(&memory, space);
    let why = |address| memory.u64(Kva(address)).unwrap_err().reason;
    assert_eq!(why(0x0100_0000_0000_0000), Reason::NotCanonical);
    assert_eq!(why(VMALLOC + 0x3000), Reason::NotMapped);
    assert_eq!(why(VMALLOC + 0x2000), Reason::NotRam(PhysAddr(0x7_0000_0000)));
    assert_eq!(why(DIRECT + 0x5000_0000), Reason::NotRam(PhysAddr(0x5000_0000)));
    assert_eq!(why(0), Reason::NotMapped);
    assert!(matches!(
        memory.bytes(Kva(VMALLOC), usize::MAX).unwrap_err().reason,
        Reason::TooLarge(_)
    ));
}

#[test]
fn members_are_read_by_their_width() {
    let mut memory = SparseMemory::new();
    let space = kernel(&mut memory);
    memory.write(
        PhysAddr(0x8000),
        &[0xFE, 0xFF, 0xFF, 0xFF, 0b1011_0100, b'a', b'b', 0, b'c'],
    );
    let memory = KernelMemory::new(&memory, space);
    let base = Kva(DIRECT + 0x8000);
    assert_eq!(memory.uint(base, Field::plain(0, 4)), Ok(0xFFFF_FFFE));
    assert_eq!(memory.int(base, Field::plain(0, 4)), Ok(-2));
    assert_eq!(memory.uint(base, Field::plain(0, 2)), Ok(0xFFFE));
    let bits = Field {
        offset: 4,
        size: 4,
        element: 4,
        bit: 2,
        bit_size: 3,
    };
    assert_eq!(memory.uint(base, bits), Ok(0b101));
    assert_eq!(memory.int(base, bits), Ok(-3));
    assert!(memory.uint(base, Field::plain(0, 12)).is_err());
    assert_eq!(memory.text(base, Field::plain(5, 4)).unwrap(), b"ab");
    assert_eq!(memory.text(base, Field::plain(5, 2)).unwrap(), b"ab");
    assert_eq!(memory.cstr(base.offset(5), 2).unwrap(), b"ab");
    assert_eq!(
        memory.cstr(base.offset(5), 1).unwrap_err().reason,
        Reason::NotTerminated(1)
    );
}

#[test]
fn vmcoreinfo_is_found_and_taken_apart() {
    let text = b"OSRELEASE=6.12.1\nBUILD-ID=abcd\nSYMBOL(swapper_pg_dir)=ffffffff82002000\n\
                 NUMBER(phys_base)=-16777216\nNUMBER(pgtable_l5_enabled)=1\nrubbish\n\0OSRELEASE=old";
    let mut bytes = vec![0; 0x3000];
    bytes[0x1010..][..text.len()].copy_from_slice(text);
    bytes[0x2FF8..].copy_from_slice(b"OSRELEAS");
    let found = find_all(&Image::flat(&bytes));
    assert_eq!(found.len(), 1);
    let (at, info) = &found[0];
    assert_eq!(*at, PhysAddr(0x1010));
    assert_eq!((info.release(), info.build_id()), ("6.12.1", Some("abcd")));
    assert_eq!(info.phys_base(), 0u64.wrapping_sub(16_777_216));
    assert_eq!(info.levels(), Levels::Five);
    assert_eq!(info.symbol("swapper_pg_dir"), Some(Kva(0xFFFF_FFFF_8200_2000)));
    let error = VmCoreInfo::parse(b"OSRELEASE=1\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "VMCOREINFO: `SYMBOL(swapper_pg_dir)` is missing or malformed"
    );
    assert!(VmCoreInfo::parse(b"OSRELEASE=\xFF\n").is_err());
}
