//! Kernels whose BTF is not theirs, or not whole (see `image.rs` for the images).

use salvage::memory::Image;
use salvage::prepared::{KernelFacts, PrepareError, Prepared};

/// The parts of a BTF blob (`struct btf_header`), as offsets in it.
struct Blob {
    types: std::ops::Range<usize>,
    strings: usize,
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn parts(blob: &[u8]) -> Blob {
    let body = word(blob, 4);
    let start = body + word(blob, 8);
    Blob {
        types: start..start + word(blob, 12),
        strings: body + word(blob, 16),
    }
}

/// Where the members of a structure stand: 12 bytes each, name, type and offset in bits (`struct btf_member`).
fn members(blob: &[u8], name: &str) -> std::ops::Range<usize> {
    let parts = parts(blob);
    let mut at = parts.types.start;
    while at < parts.types.end {
        let info = word(blob, at + 4);
        let (kind, count) = (info >> 24 & 0x1F, info & 0xFFFF);
        let text = &blob[parts.strings + word(blob, at)..];
        let own = at + 12..at + 12 + 12 * count;
        if kind == 4 && text.starts_with(name.as_bytes()) && text[name.len()] == 0 {
            return own;
        }
        // Kinds of include/uapi/linux/btf.h by number.
        at = own.start
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => 0,
            };
    }
    panic!("there is no struct {name}");
}

#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn each_fault_is_named() {
    let dir = std::env::var_os("ORTHROS_IMAGE_DIR").expect("ORTHROS_IMAGE_DIR names a folder of images");
    let mut images = 0;
    for entry in std::fs::read_dir(dir).expect("image folder can be read") {
        let path = entry.expect("folder entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "mem") {
            continue;
        }
        images += 1;
        let mut bytes = std::fs::read(&path).expect("image can be read");
        let prepared = Prepared::find(&Image::flat(&bytes)).expect("the image holds a kernel");
        let facts = KernelFacts {
            tables: prepared.space.tables,
            info: prepared.info.clone(),
        };
        // The kernel's image lies in one piece.
        let phys = |at: salvage::addr::Kva| {
            let address =
                at.0.wrapping_sub(0xFFFF_FFFF_8000_0000)
                    .wrapping_add(prepared.space.phys_base);
            address as usize
        };
        assert!(prepared.is_of(&Image::flat(&bytes), &facts));
        let symbols = &prepared.symbols;
        for variable in [symbols.page_offset_base, symbols.vmemmap_base, symbols.per_cpu_offset] {
            bytes[phys(variable) + 3] ^= 0x40;
            assert!(!prepared.is_of(&Image::flat(&bytes), &facts), "{variable:?}");
            bytes[phys(variable) + 3] ^= 0x40;
        }
        let range = phys(prepared.symbols.start_btf)..phys(prepared.symbols.stop_btf);
        let whole = bytes[range.clone()].to_vec();
        let mut refused = |change: &dyn Fn(&mut [u8])| {
            change(&mut bytes[range.clone()]);
            let error = Prepared::new(&Image::flat(&bytes), facts.clone()).expect_err("refused");
            bytes[range.clone()].copy_from_slice(&whole);
            error
        };

        let task = members(&whole, "task_struct");
        let error = refused(&|blob| {
            // As of a kernel with one more member at the beginning.
            for member in task.clone().step_by(12) {
                let moved = word(blob, member + 8) as u32 + 64;
                blob[member + 8..member + 12].copy_from_slice(&moved.to_le_bytes());
            }
        });
        assert!(matches!(error, PrepareError::ForeignBtf(_)), "{error}");
        assert!(
            error.to_string().contains("BTF does not match the running kernel"),
            "{error}"
        );

        let error = refused(&|blob| {
            let strings = parts(blob).strings;
            let name = strings + word(blob, task.start - 12);
            blob[name..name + 4].copy_from_slice(b"desk");
        });
        assert!(matches!(error, PrepareError::Btf(_)), "{error}");
        assert!(error.to_string().contains("task_struct"), "{error}");

        let error = refused(&|blob| blob[0] ^= 1);
        assert!(matches!(error, PrepareError::Btf(_)), "{error}");
        assert!(error.to_string().contains("BTF"), "{error}");
    }
    assert!(images > 0, "the image folder holds no *.mem file");
}
