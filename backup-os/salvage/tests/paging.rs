//! Page tables built by hand: translation and scan, 4 and 5 levels, all sizes of pages.

use proptest::prelude::*;
use salvage::addr::{Pfn, PhysAddr, Uva};
use salvage::error::Reason;
use salvage::memory::SparseMemory;
use salvage::paging::{runs, Leaf, Levels, PageSize, PageTables, Pte, Run, Sort, TooManyTables};

const ROOT: u64 = 0x1000;
/// Present, writable, user, accessed.
const TABLE: u64 = 0x27;
const PAGE: u64 = 0x8000_0000_0000_0067;

/// Root, then one table for each level below; the entry with index `i` of each leads to the next.
fn tables(levels: Levels, indices: &[u64], leaf: u64, leaf_levels_up: usize) -> (SparseMemory, PageTables) {
    let mut memory = SparseMemory::new();
    let depth = indices.len() - leaf_levels_up;
    for (level, index) in indices.iter().take(depth).enumerate() {
        let table = ROOT + level as u64 * 0x1000;
        let entry = if level + 1 == depth {
            leaf
        } else {
            (table + 0x1000) | TABLE
        };
        memory.write_u64(PhysAddr(table + index * 8), entry);
    }
    memory.write_u64(PhysAddr(0xFFFF_F000), 0);
    (
        memory,
        PageTables {
            root: PhysAddr(ROOT),
            levels,
        },
    )
}

/// What a scan meets, copied.
#[derive(Debug, PartialEq)]
enum Met {
    Table(u64, Vec<u64>),
    Huge(u64, u64, PageSize),
    Lost(u64, u64, u64),
}

fn scan(memory: &SparseMemory, tables: &PageTables, start: u64, end: u64) -> Result<Vec<Met>, TooManyTables> {
    let mut met = Vec::new();
    tables.scan(memory, Uva(start), Uva(end), &mut |leaf| {
        met.push(match leaf {
            Leaf::Table { start, entries, .. } => Met::Table(
                start.0,
                entries.iter().map(|entry| u64::from_le_bytes(*entry)).collect(),
            ),
            Leaf::Huge { start, entry, size } => Met::Huge(start.0, entry.0, size),
            Leaf::Lost { start, end, table } => Met::Lost(start.0, end.0, table.0),
        });
    })?;
    Ok(met)
}

#[test]
fn four_levels_lead_to_a_page() {
    let (memory, tables) = tables(Levels::Four, &[0x1FF, 0x123, 0x45, 0x67], 0x1234_5000 | PAGE, 0);
    let address = 0xFFFF_0000_0000_0000 | 0x1FF << 39 | 0x123 << 30 | 0x45 << 21 | 0x67 << 12 | 0x89;
    let found = tables.translate(&memory, address).unwrap();
    assert_eq!((found.phys, found.size), (PhysAddr(0x1234_5089), PageSize::Base));
    assert_eq!(tables.translate(&memory, address + 0x1000), Err(Reason::NotMapped));
    assert_eq!(tables.translate(&memory, 1 << 47), Err(Reason::NotCanonical));
}

#[test]
fn five_levels_lead_to_a_huge_page() {
    let indices = [0x55, 0x1FF, 0x123, 0x45, 0x67];
    let base = 0x55 << 48 | 0x1FF << 39 | 0x123 << 30;
    // Bit 12 of a huge entry is PAT.
    let (memory, two_mb) = tables(Levels::Five, &indices, 0x1220_0000 | 0x1000 | Pte::HUGE | PAGE, 1);
    let found = two_mb.translate(&memory, base | 0x45 << 21 | 0x12_3456).unwrap();
    assert_eq!((found.phys, found.size), (PhysAddr(0x1232_3456), PageSize::Huge2M));
    let (memory, one_gb) = tables(Levels::Five, &indices, 0x4000_0000 | 0x1000 | Pte::HUGE | PAGE, 2);
    let found = one_gb.translate(&memory, base | 0x1234_5678).unwrap();
    assert_eq!((found.phys, found.size), (PhysAddr(0x5234_5678), PageSize::Huge1G));
}

#[test]
fn a_table_outside_ram_is_named() {
    let (mut memory, tables) = tables(Levels::Four, &[0, 0, 0, 0], PAGE, 0);
    memory.write_u64(PhysAddr(0x2000), 0x7_0000_0000 | TABLE);
    assert_eq!(
        tables.translate(&memory, 0x1000),
        Err(Reason::NotRam(PhysAddr(0x7_0000_0000)))
    );
    assert_eq!(
        scan(&memory, &tables, 0x1000, 0x5000).unwrap(),
        [Met::Lost(0x1000, 0x5000, 0x7_0000_0000)]
    );
}

#[test]
fn a_scan_shows_entries_of_the_range_only() {
    let (mut memory, tables) = tables(Levels::Four, &[0, 0, 0, 3], 0x5000 | PAGE, 0);
    memory.write_u64(PhysAddr(0x4000 + 4 * 8), 0x6000 | PAGE);
    memory.write_u64(PhysAddr(0x4000 + 6 * 8), 0x7000 | PAGE);
    let met = scan(&memory, &tables, 0x3ABC, 0x6001).unwrap();
    assert_eq!(
        met,
        [Met::Table(0x3000, vec![0x5000 | PAGE, 0x6000 | PAGE, 0, 0x7000 | PAGE])]
    );
    assert_eq!(scan(&memory, &tables, 0x6000, 0x6000).unwrap(), []);
    assert_eq!(scan(&memory, &tables, 0x40_0000, 0x60_0000).unwrap(), []);
}

#[test]
fn a_scan_goes_from_one_table_to_the_next() {
    let (mut memory, tables) = tables(Levels::Four, &[0, 0, 0, 511], 0x5000 | PAGE, 0);
    // The second 2 MB are one page, the third a table that is no RAM, the fourth an entry of a page being moved.
    memory.write_u64(PhysAddr(0x3008), 0x20_0000 | Pte::HUGE | PAGE);
    memory.write_u64(PhysAddr(0x3010), 0x7_0000_0000 | TABLE);
    memory.write_u64(PhysAddr(0x3018), 0xF800_0000_0000_0000);
    let met = scan(&memory, &tables, 0x1F_F000, 0x80_0000).unwrap();
    assert_eq!(
        met,
        [
            Met::Table(0x1F_F000, vec![0x5000 | PAGE]),
            Met::Huge(0x20_0000, 0x20_0000 | Pte::HUGE | PAGE, PageSize::Huge2M),
            Met::Lost(0x40_0000, 0x60_0000, 0x7_0000_0000),
            Met::Huge(0x60_0000, 0xF800_0000_0000_0000, PageSize::Huge2M),
        ]
    );
}

#[test]
fn tables_that_refer_to_themselves_end_the_scan() {
    let mut memory = SparseMemory::new();
    for index in 0..512 {
        memory.write_u64(PhysAddr(ROOT + index * 8), ROOT | TABLE);
    }
    let tables = PageTables {
        root: PhysAddr(ROOT),
        levels: Levels::Five,
    };
    let mut met = 0;
    let result = tables.scan(&memory, Uva(0), Uva(u64::MAX), &mut |_| met += 1);
    assert_eq!(result, Err(TooManyTables(2)));
    assert_eq!(met, 0);
}

#[test]
fn an_entry_that_is_no_table_costs_what_it_maps() {
    let mut memory = SparseMemory::new();
    memory.write_u64(PhysAddr(ROOT), Pte::PROT_NONE | 0x1000);
    let tables = PageTables {
        root: PhysAddr(ROOT),
        levels: Levels::Four,
    };
    let met = scan(&memory, &tables, 0x1000, 0x2000).unwrap();
    assert!(matches!(met[..], [Met::Lost(0x1000, 0x2000, _)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_tables_end(
        words in prop::collection::vec((0u64..8 * 512, 0u64..9, any::<u64>()), 1..600),
        five in any::<bool>(),
        start in any::<u64>(),
        end in any::<u64>(),
    ) {
        let mut memory = SparseMemory::new();
        for (place, table, flags) in words {
            // Most entries lead to another table of the eight, some anywhere.
            let entry = if table < 8 { (ROOT + table * 0x1000) | (flags & 0xFFF) } else { flags };
            memory.write_u64(PhysAddr(ROOT + place * 8), entry);
        }
        let tables = PageTables { root: PhysAddr(ROOT), levels: if five { Levels::Five } else { Levels::Four } };
        let mut met = 0u32;
        let _ = tables.scan(&memory, Uva(start), Uva(end), &mut |leaf| {
            met += 1;
            if let Leaf::Table { start, entries, .. } = leaf {
                runs(start, entries, |run| assert!(run.pages > 0));
            }
        });
        prop_assert!(met <= 512 * 16);
        let _ = tables.translate(&memory, start);
    }
}

#[test]
fn equal_neighbours_are_one_run() {
    let swap = 2 << 59 | (!77u64 << 14 >> 5);
    let inverted = !0x9000u64 & 0x000F_FFFF_FFFF_F000 | Pte::PROT_NONE;
    let entries: Vec<[u8; 8]> = [
        0x5000 | PAGE,
        0x6000 | PAGE,
        0x7000 | PAGE & !Pte::WRITE,
        0,
        0,
        swap,
        swap,
        inverted,
        inverted - 0x1000,
    ]
    .iter()
    .map(|entry: &u64| entry.to_le_bytes())
    .collect();
    let mut found = Vec::new();
    runs(Uva(0x1_0000), &entries, |run| found.push(run));
    let shape: Vec<_> = found.iter().map(|run| (run.start.0, run.pages)).collect();
    assert_eq!(
        shape,
        [
            (0x1_0000, 2),
            (0x1_2000, 1),
            (0x1_3000, 2),
            (0x1_5000, 1),
            (0x1_6000, 1),
            (0x1_7000, 2)
        ]
    );
    assert!(matches!(found[0].sort, Sort::Mapped { first: Pfn(5), .. }));
    assert_eq!(
        found[2],
        Run {
            start: Uva(0x1_3000),
            pages: 2,
            sort: Sort::None
        }
    );
    let Sort::Swap(entry) = found[3].sort else {
        panic!("a swap entry")
    };
    assert_eq!((entry.swap().kind, entry.swap().offset), (2, 77));
    assert!(matches!(found[5].sort, Sort::Mapped { first: Pfn(9), .. }));
}
