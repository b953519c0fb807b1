//! The kernel's symbol tables, and the notes that lead to them.

use salvage::addr::Kva;
use salvage::kallsyms::{Kallsyms, KallsymsTables};
use salvage::vmcoreinfo::VmCoreInfo;

/// Four bytes of lengths, then offsets, token starts, names and tokens; and the whole as VMCOREINFO.
pub fn kallsyms(data: &[u8]) {
    if let Ok(info) = VmCoreInfo::parse(data) {
        let _ = (
            info.phys_base(),
            info.levels(),
            info.build_id(),
            KallsymsTables::from_vmcoreinfo(&info),
        );
    }
    let Some((lengths, rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    let mut rest = rest;
    let mut take = |length: usize| {
        let (head, tail) = rest.split_at(length.min(rest.len()));
        rest = tail;
        head
    };
    let offsets: Vec<i32> = take(usize::from(lengths[0]) * 4)
        .chunks_exact(4)
        .map(|chunk| i32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
        .collect();
    let starts: Vec<u16> = take(usize::from(lengths[1]) * 2)
        .chunks_exact(2)
        .map(|chunk| u16::from_le_bytes([chunk[0], chunk[1]]))
        .collect();
    let names = take(usize::from(u16::from_le_bytes([lengths[2], lengths[3]]))).to_vec();
    let tokens = rest.to_vec();
    let Ok(symbols) = Kallsyms::build(offsets.clone(), 0xFFFF_FFFF_8100_0000, names, &starts, tokens) else {
        return;
    };
    assert_eq!(symbols.len(), offsets.len());
    let _ = symbols.lookup_all(&["init_task", "a", ""]);
    for address in [0, 0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8100_1000, u64::MAX] {
        let _ = (symbols.symbolize(Kva(address)), symbols.name_at(Kva(address)));
    }
    let _ = symbols.lookup_each("init_task");
}
