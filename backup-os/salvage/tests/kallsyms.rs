//! Symbol tables built by hand, whole and broken.

use proptest::prelude::*;
use salvage::addr::Kva;
use salvage::error::Reason;
use salvage::kallsyms::Kallsyms;

const BASE: u64 = 0xFFFF_FFFF_8100_0000;

/// A table with a token for each printable character, and token 1 for `init_`.
struct Tables {
    offsets: Vec<i32>,
    names: Vec<u8>,
    starts: Vec<u16>,
    tokens: Vec<u8>,
}

impl Tables {
    fn new() -> Self {
        let (mut starts, mut tokens) = (Vec::new(), Vec::new());
        for token in 0..=255u8 {
            starts.push(tokens.len() as u16);
            if token == 1 {
                tokens.extend_from_slice(b"init_");
            } else {
                tokens.push(if token.is_ascii_graphic() { token } else { b'?' });
            }
            tokens.push(0);
        }
        Self {
            offsets: Vec::new(),
            names: Vec::new(),
            starts,
            tokens,
        }
    }

    /// Adds a symbol; `name` is token numbers, type letter first.
    fn add(&mut self, address: u64, name: &[u8]) {
        let offset = if address < 1 << 31 {
            address as i32
        } else {
            -1 - (address - BASE) as i32
        };
        self.offsets.push(offset);
        if name.len() < 0x80 {
            self.names.push(name.len() as u8);
        } else {
            self.names
                .extend([name.len() as u8 & 0x7F | 0x80, (name.len() >> 7) as u8]);
        }
        self.names.extend_from_slice(name);
    }

    fn build(&self) -> Result<Kallsyms, Reason> {
        Kallsyms::build(
            self.offsets.clone(),
            BASE,
            self.names.clone(),
            &self.starts,
            self.tokens.clone(),
        )
    }
}

fn sample() -> Tables {
    let mut tables = Tables::new();
    tables.add(0x1_2340, b"Ahot");
    tables.add(BASE, b"T_text");
    tables.add(BASE, b"T_stext");
    tables.add(BASE + 0x100, b"D\x01task");
    tables.add(BASE + 0x200, &[b"tlong".as_slice(), &[b'x'; 300]].concat());
    for i in 0..200u64 {
        tables.add(BASE + 0x1000 + i * 0x10, format!("tf{i}").as_bytes());
    }
    tables.add(BASE + 0x9000, b"dtwice");
    tables.add(BASE + 0x9008, b"dtwice");
    tables
}

#[test]
fn names_lead_to_addresses() {
    let table = sample().build().unwrap();
    assert_eq!(
        table.lookup_all(&["init_task", "nothing", "hot", "f199", "twice"]),
        [
            Some(Kva(BASE + 0x100)),
            None,
            Some(Kva(0x1_2340)),
            Some(Kva(BASE + 0x1000 + 199 * 0x10)),
            Some(Kva(BASE + 0x9000))
        ]
    );
    assert_eq!(table.lookup_each("twice"), [Kva(BASE + 0x9000), Kva(BASE + 0x9008)]);
    assert_eq!(table.len(), 207);
}

#[test]
fn addresses_lead_to_names() {
    let table = sample().build().unwrap();
    let name = |offset| {
        table
            .symbolize(Kva(BASE + offset))
            .map(|found| (found.name, found.offset))
    };
    assert_eq!(name(0), Some(("_text".into(), 0)));
    assert_eq!(name(0x108), Some(("init_task".into(), 8)));
    assert_eq!(name(0x1000 + 77 * 0x10), Some(("f77".into(), 0)));
    assert_eq!(name(0x200).map(|(name, _)| name.len()), Some(304));
    assert_eq!(table.name_at(Kva(BASE + 0x101)), None);
    assert_eq!(table.name_at(Kva(BASE + 0x100)).as_deref(), Some("init_task"));
    // Per-CPU offsets are no addresses, and nothing lies below the first symbol.
    assert_eq!(table.symbolize(Kva(0x1_2348)), None);
    assert_eq!(table.symbolize(Kva(0)), None);
}

#[test]
fn what_is_cut_off_is_named() {
    let mut tables = sample();
    tables.names.truncate(100);
    assert_eq!(
        tables.build().unwrap_err(),
        Reason::BadNode("name behind the end of the names")
    );
    let mut tables = sample();
    tables.tokens.pop();
    assert_eq!(tables.build().unwrap_err(), Reason::BadNode("token without end"));
    let mut tables = sample();
    tables.starts[7] = 60_000;
    assert_eq!(tables.build().unwrap_err(), Reason::BadNode("token without end"));
}

proptest! {
    #[test]
    fn hostile_tables_never_panic(
        changes in prop::collection::vec((0usize..4, any::<prop::sample::Index>(), any::<u8>()), 1..30),
        probe in any::<u64>(),
    ) {
        let mut tables = sample();
        for (table, place, value) in changes {
            match table {
                0 => { let at = place.index(tables.offsets.len()); tables.offsets[at] ^= i32::from(value) << (value % 24); }
                1 => { let at = place.index(tables.names.len()); tables.names[at] = value; }
                2 => { let at = place.index(tables.starts.len()); tables.starts[at] ^= u16::from(value); }
                _ => { let at = place.index(tables.tokens.len()); tables.tokens[at] = value; }
            }
        }
        if let Ok(table) = tables.build() {
            let _ = table.lookup_all(&["init_task", "f7", ""]);
            for address in [probe, BASE, BASE + probe % 0x1_0000, u64::MAX] {
                let _ = table.symbolize(Kva(address));
            }
        }
    }
}
