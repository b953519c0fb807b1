//! Salvages whole memory images, as they are and with their structures overwritten.
//!
//! Ignored unless asked for (`cargo test -- --ignored`): `ORTHROS_IMAGE_DIR` names a folder with images of guests that
//! have panicked, one `*.mem` file each, RAM below 4 GB from offset 0 on.

use salvage::failover::{run, Input, Protected, Saved, Stopped};
use salvage::kernel::Kernel;
use salvage::memory::{Image, PhysMem};
use salvage::prepared::Prepared;
use salvage::tasks;
use shared_region::context::{FrameRun, Lost, Process, Thread};
use shared_region::record::{Kind, Stream};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const AREA: usize = 44 << 20;
const RETAINED: usize = 4 << 20;

fn images() -> Vec<PathBuf> {
    let dir = std::env::var_os("ORTHROS_IMAGE_DIR").expect("ORTHROS_IMAGE_DIR names a folder of images");
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .expect("image folder can be read")
        .map(|entry| entry.expect("folder entry can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "mem"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "the image folder holds no *.mem file");
    found
}

fn everything() -> Input<'static> {
    Input {
        facts: None,
        protected: Protected::All,
        stopped: Stopped::Image,
        readings: None,
        failover: 7,
        suspect: None,
        warm_pages: 0,
        by_file: false,
    }
}

fn salvage(bytes: &[u8], prepared: &Prepared, area: &mut [u8], retained: &mut [u8]) -> Saved {
    let image = Image::flat(bytes);
    run(&Kernel::new(&image, prepared), &everything(), area, retained).expect("the area has room for the machine")
}

#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn every_process_is_recorded_whole_or_named_as_lost() {
    for path in images() {
        let bytes = std::fs::read(&path).expect("image can be read");
        let image = Image::flat(&bytes);
        let prepared = Prepared::find(&image).expect("the image holds a kernel");
        let (mut area, mut retained) = (vec![0; AREA], vec![0; RETAINED]);
        let saved = salvage(&bytes, &prepared, &mut area, &mut retained);
        assert!(!saved.truncated, "{}", path.display());

        let stream = Stream::open(&area).expect("the stream is whole");
        let (mut seen, mut kept, mut threads, mut runs) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), Vec::new());
        for record in stream.records() {
            let record = record.expect("the record is whole");
            match record.kind {
                Kind::Process => {
                    let process: Process = record.decode().expect("a process");
                    assert!(kept.insert(process.tgid), "process {} stands twice", process.tgid);
                    seen.insert(process.tgid);
                }
                Kind::Thread => {
                    let thread: Thread = record.decode().expect("a thread");
                    assert!(kept.contains(&thread.tgid), "thread {} before its process", thread.tid);
                    assert!(threads.insert(thread.tid));
                    // No kernel may take these registers for those of an interrupted call.
                    assert_eq!(thread.regs[15], u64::MAX);
                }
                Kind::Lost => {
                    let lost: Lost = record.decode().expect("a loss");
                    assert!(!lost.reason.is_empty() && !lost.object.is_empty());
                    if lost.fatal {
                        seen.insert(record.owner as u32);
                    }
                }
                Kind::Frames => runs.extend(FrameRun::iter(record.payload)),
                _ => {}
            }
        }
        for run in &runs {
            for pfn in run.pfn()..run.pfn() + run.pages() {
                assert!(
                    shared_region::retained::is_marked(&retained, pfn),
                    "frame {pfn:#x} would be lost"
                );
            }
            assert!(run.pfn() + run.pages() <= image.end().pfn().0);
        }
        let kernel = Kernel::new(&image, &prepared);
        let users: BTreeSet<u32> = tasks::processes(&kernel)
            .0
            .iter()
            .filter(|process| !process.kernel && process.tgid > 1 && process.exit_state & tasks::EXIT_DEAD == 0)
            .map(|process| process.tgid)
            .collect();
        assert_eq!(seen, users, "{}", path.display());
        assert_eq!(saved.summary.threads as usize, threads.len());
    }
}

#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn a_small_area_drops_processes_and_says_so() {
    for path in images() {
        let bytes = std::fs::read(&path).expect("image can be read");
        let prepared = Prepared::find(&Image::flat(&bytes)).expect("the image holds a kernel");
        let (mut area, mut retained) = (vec![0; AREA], vec![0; RETAINED]);
        let whole = salvage(&bytes, &prepared, &mut area, &mut retained);
        area.truncate(whole.bytes / 2);
        let saved = salvage(&bytes, &prepared, &mut area, &mut retained);
        assert!(saved.truncated && saved.bytes <= area.len());
        let stream = Stream::open(&area).expect("the stream is whole");
        let kinds: Vec<Kind> = stream
            .records()
            .map(|record| record.expect("the record is whole").kind)
            .collect();
        assert_eq!(
            (kinds.first(), kinds.last()),
            (Some(&Kind::Machine), Some(&Kind::Summary))
        );
        assert!(kinds.contains(&Kind::Lost));
    }
}

/// A generator that needs no state but a number (SplitMix64), so that a failing round can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Physical addresses of structures that salvage reads of every user process.
fn targets(image: &Image<'_>, prepared: &Prepared) -> Vec<(u64, u64)> {
    let kernel = Kernel::new(image, prepared);
    let layouts = &kernel.types.layouts;
    let mut found = Vec::new();
    for process in tasks::processes(&kernel).0.iter().filter(|process| !process.kernel) {
        let mut add = |at: salvage::addr::Kva, size: u64| {
            if let Ok(phys) = kernel.mem.translate(at) {
                found.push((phys.0, size));
            }
        };
        add(process.leader, u64::from(layouts.task.struct_size));
        for field in [
            layouts.task.signal,
            layouts.task.mm,
            layouts.task.files,
            layouts.task.fs,
            layouts.task.sighand,
            layouts.task.cred,
            layouts.task.nsproxy,
        ] {
            if let Ok(at) = kernel.mem.ptr(process.leader, field) {
                if !at.is_null() {
                    add(at, 1024);
                }
            }
        }
        let Ok(files) = kernel.mem.ptr(process.leader, layouts.task.files) else {
            continue;
        };
        let Ok(table) = kernel.mem.ptr(files, layouts.files_struct.fdt) else {
            continue;
        };
        let Ok(slots) = kernel.mem.ptr(table, layouts.fdtable.fd) else {
            continue;
        };
        for fd in 0..40 {
            let Ok(file) = kernel.mem.pointer(slots.offset(fd * 8)) else {
                continue;
            };
            if file.is_null() {
                continue;
            }
            add(file, u64::from(layouts.file.struct_size));
            for field in [
                layouts.file.f_inode,
                layouts.file.private_data,
                layouts.file.path_dentry,
            ] {
                if let Ok(at) = kernel.mem.ptr(file, field) {
                    if !at.is_null() {
                        add(at, 512);
                    }
                }
            }
        }
        let Ok(mm) = kernel.mem.ptr(process.leader, layouts.task.mm) else {
            continue;
        };
        if mm.is_null() {
            continue;
        }
        if let Ok(root) = kernel.mem.u64(mm.offset(u64::from(layouts.mm.mm_mt.offset) + 8)) {
            add(salvage::addr::Kva(root & !0xFF), 256);
        }
        if let Ok(pgd) = kernel.mem.ptr(mm, layouts.mm.pgd) {
            add(pgd, 4096);
        }
    }
    found
}

#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn overwritten_structures_cost_bounded_work_and_no_panic() {
    let rounds: u64 = std::env::var("ORTHROS_ROUNDS").map_or(60, |text| text.parse().expect("a number"));
    let seed: u64 = std::env::var("ORTHROS_SEED").map_or(1, |text| text.parse().expect("a number"));
    for path in images() {
        let original = std::fs::read(&path).expect("image can be read");
        let image = Image::flat(&original);
        let prepared = Prepared::find(&image).expect("the image holds a kernel");
        let targets = targets(&image, &prepared);
        let mut bytes = original.clone();
        let (mut area, mut retained) = (vec![0; AREA], vec![0; RETAINED]);
        for round in 0..rounds {
            let mut random = Random(seed + round);
            let mut touched = Vec::new();
            for _ in 0..=random.below(24) {
                let (start, size) = targets[random.below(targets.len() as u64) as usize];
                let at = ((start + random.below(size)) & !7) as usize;
                // Another word of a structure is the most plausible kind of wrong.
                let (other, span) = targets[random.below(targets.len() as u64) as usize];
                let from = ((other + random.below(span)) & !7) as usize;
                if at + 8 > bytes.len() || from + 8 > bytes.len() {
                    continue;
                }
                let word = match random.below(5) {
                    0 => 0,
                    1 => random.next(),
                    2 => u64::MAX,
                    3 => u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) ^ (1 << random.below(64)),
                    _ => u64::from_le_bytes(bytes[from..from + 8].try_into().expect("8 bytes")),
                };
                bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
                touched.push(at);
            }
            let start = Instant::now();
            salvage(&bytes, &prepared, &mut area, &mut retained);
            let took = start.elapsed();
            assert!(took < Duration::from_secs(20), "seed {} took {took:?}", seed + round);
            Stream::open(&area).unwrap_or_else(|error| panic!("seed {}: {error}", seed + round));
            for at in touched {
                bytes[at..at + 8].copy_from_slice(&original[at..at + 8]);
            }
        }
    }
}
