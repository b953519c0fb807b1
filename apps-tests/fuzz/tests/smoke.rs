//! Every target over its seeds, over changed seeds, and over noise. Runs on any toolchain.
//!
//! `ORTHROS_FUZZ_ROUNDS` sets the number of changed seeds and of noise inputs for each target, `ORTHROS_FUZZ_SEED` the
//! seed of both, which a failure names.

use orthros_fuzz::TARGETS;
use std::path::Path;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut seeds: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let bytes = std::fs::read(&path).expect("a readable seed");
            (path.display().to_string(), bytes)
        })
        .collect();
    seeds.sort();
    seeds
}

/// A few bytes set, words replaced, pieces cut out, doubled or appended.
fn change(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][random.below(5)],
            2 => bytes.truncate(at),
            3 => {
                let piece: Vec<u8> = bytes[at..].iter().take(random.below(64)).copied().collect();
                bytes.splice(at..at, piece);
            }
            _ => bytes.extend(random.next().to_le_bytes()),
        }
    }
    bytes
}

fn noise(random: &mut Random) -> Vec<u8> {
    let most = if random.below(4) == 0 { 20_000 } else { 300 };
    let length = random.below(most);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // Words rather than bytes: most formats are made of small numbers.
        match random.below(3) {
            0 => bytes.extend(random.next().to_le_bytes()),
            1 => bytes.extend((random.below(64) as u32).to_le_bytes()),
            _ => bytes.push(random.next() as u8),
        }
    }
    bytes
}

#[test]
fn every_target_survives_seeds_changes_and_noise() {
    let rounds = from_environment("ORTHROS_FUZZ_ROUNDS", 2000);
    let start = from_environment("ORTHROS_FUZZ_SEED", 1);
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (path, bytes) in &seeds {
            println!("{name}: {path}");
            target(bytes);
        }
        let mut random = Random(start);
        for round in 0..rounds {
            let input = match round % 2 {
                0 => change(&seeds[random.below(seeds.len())].1, &mut random),
                _ => noise(&mut random),
            };
            let outcome = std::panic::catch_unwind(|| target(&input));
            if outcome.is_err() {
                let path = std::env::temp_dir().join(format!("orthros-fuzz-{name}-{start}-{round}"));
                std::fs::write(&path, &input).expect("keep the input");
                panic!("{name} fails on {} (seed {start}, round {round})", path.display());
            }
        }
    }
}

/// Seeds that are refused at the door would lead nowhere.
#[test]
fn the_seeds_are_good_inputs() {
    let seed = |name: &str, file: &str| {
        let list = seeds(name);
        let found = list.into_iter().find(|(path, _)| path.ends_with(&format!("/{file}")));
        found.unwrap_or_else(|| panic!("no seed {name}/{file}")).1
    };
    let blob = seed("btf", "small");
    let btf = btf::Btf::parse(&blob[2..]).expect("BTF");
    let task = btf.find_struct("task_struct").expect("a structure");
    assert_eq!(btf.member(task, "tasks.prev").expect("a member").bit_offset, 16 * 8);
    let image = seed("bzimage", "small");
    boot_plan::bzimage::BzImage::parse(&image).expect("a kernel");
    let elf = seed("bzimage", "elf");
    let elf = boot_plan::elf::Image::parse(&elf).expect("an ELF file");
    assert_eq!(elf.relocations(0).count(), 2);
    let information = seed("multiboot2", "pc");
    let information = boot_plan::multiboot::Information::parse(&information).expect("information");
    assert_eq!((information.modules.len(), information.memory.len()), (3, 6));
    let stream = seed("records", "stream");
    let stream = shared_region::record::Stream::open(&stream).expect("a stream");
    assert_eq!(stream.records().filter(Result::is_ok).count(), 7);
    assert_eq!(orthros_fuzz::pages_shown(&seed("own_address", "request")), 1);
    // A page of one byte.
    let (pages, packed) = ([0x41; failover::fingerprint::PAGE], seed("packed", "lz4"));
    let mut memory = [0; failover::fingerprint::PAGE];
    let chunk = failover::fingerprint::Chunk::of(&pages);
    let unpacked = failover::packed::Unpacker::default().unpack(&chunk, &packed[1..], &mut memory);
    assert_eq!((unpacked, memory), (Ok(1), pages));
    salvage::vmcoreinfo::VmCoreInfo::parse(&seed("kallsyms", "vmcoreinfo")).expect("VMCOREINFO");
}
