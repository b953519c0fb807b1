//! Real kernels whose memory is overwritten at random: every walk ends, and nothing panics (see `image.rs`).

use salvage::addr::Kva;
use salvage::failover::{run, Input, Protected, Stopped};
use salvage::kernel::Kernel;
use salvage::memory::{Image, PhysMem};
use salvage::orc::{frames, Unwind};
use salvage::overview::{processes, Thread};
use salvage::prepared::{KernelFacts, Prepared};
use shared_region::record::Stream;

const ROUNDS: u64 = 300;
/// Objects and problems together: more than the guest has, and as many as bounds of the walks allow.
const MOST: usize = 20_000;

/// A small generator of numbers (xorshift), so that a finding can be repeated from its round.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A word that is likely to lead somewhere.
    fn word(&mut self, threads: &[Thread]) -> u64 {
        let at = self.next() as usize % threads.len();
        match self.next() % 4 {
            0 => self.next(),
            1 => threads[at].task.0.wrapping_add((self.next() % 0x2000) & !7),
            2 => self.next() % 0x10000,
            _ => 1 << (self.next() % 64),
        }
    }
}

/// Looks at everything there is to look at; returns how much was found.
fn look(image: &Image<'_>, prepared: &Prepared, known: &[Thread]) -> usize {
    let kernel = Kernel::new(image, prepared);
    let mut problems = 0;
    let found: Vec<Thread> = processes(&kernel, |_| problems += 1)
        .into_iter()
        .flat_map(|process| process.threads)
        .collect();
    for thread in known.iter().chain(&found) {
        if let Ok(chain) = Unwind::sleeping(&kernel, thread.task) {
            assert!(frames(chain).0.len() <= 128);
        }
        let _ = Unwind::panicking(&kernel, thread.task);
    }
    let modules = salvage::modules::modules(&kernel).count();
    let records = salvage::printk::log(&kernel).map_or(0, Iterator::count);
    let mut area = vec![0; 4 << 20];
    let mut retained = vec![0; (image.end().pfn().0 / 8 + 1) as usize];
    let input = Input {
        facts: None,
        protected: Protected::All,
        stopped: Stopped::Image,
        readings: None,
        failover: 1,
        suspect: None,
        warm_pages: 1 << 16,
        by_file: false,
    };
    let saved = run(&kernel, &input, &mut area, &mut retained).expect("the area has room");
    let stream = Stream::open(&area).expect("the stream is whole");
    assert_eq!(stream.records().flatten().count() as u64, stream.header.count);
    assert!(saved.summary.retained_frames <= image.end().pfn().0);
    found.len() + modules + records + problems
}

#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn nothing_panics_and_everything_ends() {
    let dir = std::env::var_os("ORTHROS_IMAGE_DIR").expect("ORTHROS_IMAGE_DIR names a folder of images");
    for entry in std::fs::read_dir(dir).expect("image folder can be read") {
        let path = entry.expect("folder entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "mem") {
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("image can be read");
        let prepared = Prepared::find(&Image::flat(&bytes)).expect("the image holds a kernel");
        let (threads, places) = {
            let image = Image::flat(&bytes);
            let kernel = Kernel::new(&image, &prepared);
            let threads: Vec<Thread> = processes(&kernel, |_| {})
                .into_iter()
                .flat_map(|process| process.threads)
                .collect();
            // The tasks, what they share, their stacks, the list of modules and the log.
            let mut places: Vec<(Kva, u64)> = threads.iter().map(|thread| (thread.task, 0x2000)).collect();
            let member = |of, field| kernel.mem.ptr(of, field).expect("a task can be read");
            places.extend(
                threads
                    .iter()
                    .map(|thread| (member(thread.task, prepared.types.overview.task.signal), 0x400)),
            );
            places.extend(
                threads
                    .iter()
                    .map(|thread| (member(thread.task, prepared.types.orc.task.sp), 0x200)),
            );
            let task = &prepared.types.layouts.task;
            for field in [task.mm, task.files, task.fs, task.sighand, task.cred, task.signal] {
                places.extend(threads.iter().map(|thread| (member(thread.task, field), 0x400)));
            }
            // The nodes of mapping trees and the mappings, by way of their tree.
            for thread in &threads {
                let mm = member(thread.task, task.mm);
                let tree = mm.offset(u64::from(prepared.types.layouts.mm.mm_mt.offset));
                for area in kernel
                    .maple(tree)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter(|_| !mm.is_null())
                {
                    places.push((Kva(area.value), 0x100));
                }
            }
            places.push((prepared.symbols.modules, 0x10));
            places.push((kernel.mem.pointer(prepared.symbols.prb).expect("the log"), 0x80));
            let start = |at: Kva| kernel.mem.translate(at).ok().map(|phys| phys.0);
            let places: Vec<(u64, u64)> = places
                .into_iter()
                .filter_map(|(at, len)| Some((start(at)?, len)))
                .collect();
            (threads, places)
        };
        let whole = look(&Image::flat(&bytes), &prepared, &threads);
        let mut random = Random(0x5EED_5EED);
        for round in 0..ROUNDS {
            let mut undo = Vec::new();
            for _ in 0..1 + round % 40 {
                let (start, len) = places[random.next() as usize % places.len()];
                let at = ((start + random.next() % len) & !7) as usize;
                let Some(word) = bytes.get_mut(at..at + 8) else {
                    continue;
                };
                undo.push((at, <[u8; 8]>::try_from(&*word).expect("eight bytes")));
                word.copy_from_slice(&random.word(&threads).to_le_bytes());
            }
            let found = look(&Image::flat(&bytes), &prepared, &threads);
            assert!(found <= MOST, "round {round}: {found} of {whole}");
            for (at, word) in undo.into_iter().rev() {
                bytes[at..at + 8].copy_from_slice(&word);
            }
        }
        assert_eq!(look(&Image::flat(&bytes), &prepared, &threads), whole);
        // The tables everything is learned from, overwritten too: an error or another kernel, never a panic.
        let facts = KernelFacts {
            tables: prepared.space.tables,
            info: prepared.info.clone(),
        };
        let tables = [
            "kallsyms_names",
            "kallsyms_token_index",
            "kallsyms_token_table",
            "kallsyms_offsets",
        ];
        let image = prepared.space.image.clone();
        for round in 0..24u64 {
            let mut undo = Vec::new();
            for _ in 0..200 {
                let name = tables[random.next() as usize % tables.len()];
                let base = match round % 3 {
                    0 => prepared.symbols.start_btf,
                    1 => prepared.info.symbol(name).expect("a table"),
                    _ => image.start.offset(random.next() % (image.end.0 - image.start.0)),
                };
                let phys = base
                    .0
                    .wrapping_sub(0xFFFF_FFFF_8000_0000)
                    .wrapping_add(prepared.space.phys_base);
                let at = ((phys + random.next() % 0x1_0000) & !7) as usize;
                let Some(word) = bytes.get_mut(at..at + 8) else {
                    continue;
                };
                undo.push((at, <[u8; 8]>::try_from(&*word).expect("eight bytes")));
                word.copy_from_slice(&random.word(&threads).to_le_bytes());
            }
            if let Ok(found) = Prepared::new(&Image::flat(&bytes), facts.clone()) {
                look(&Image::flat(&bytes), &found, &threads);
            }
            for (at, word) in undo.into_iter().rev() {
                bytes[at..at + 8].copy_from_slice(&word);
            }
        }
    }
}
