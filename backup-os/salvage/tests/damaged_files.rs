//! Real kernels whose file cache is overwritten: a block of a journal is never taken for another, and a page never for one of
//! another file or place (see `image.rs`). `ORTHROS_ROUNDS` and `ORTHROS_SEED` as in `processes.rs`.

use salvage::addr::Kva;
use salvage::failover::{run, Input, Protected, Stopped};
use salvage::kernel::Kernel;
use salvage::memory::Image;
use salvage::prepared::Prepared;
use shared_region::context::{FrameRun, Journal};
use shared_region::record::{Kind, Stream};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: u64 = 4096;
/// Buffers of a transaction, and inodes, that are looked at.
const MOST: u64 = 100_000;
/// `S_IFMT` and a regular file.
const KIND: u64 = 0o170_000;
const REGULAR: u64 = 0o100_000;

/// Frame of each page of a file: by address of its inode, and index.
type FramesOfPages = BTreeMap<(u64, u64), u64>;

/// What was recorded: of each block of a journal its place in memory, of each page of a file its frame.
#[derive(Debug, Default)]
struct Recorded {
    blocks: BTreeMap<(u64, u64), u64>,
    pages: FramesOfPages,
}

fn salvage(bytes: &[u8], prepared: &Prepared, area: &mut [u8], retained: &mut [u8]) -> Recorded {
    let image = Image::flat(bytes);
    let input = Input {
        facts: None,
        protected: Protected::All,
        stopped: Stopped::Image,
        readings: None,
        failover: 1,
        suspect: None,
        warm_pages: 0,
        by_file: false,
    };
    run(&Kernel::new(&image, prepared), &input, area, retained).expect("the area has room");
    let stream = Stream::open(area).expect("the stream is whole");
    let (mut recorded, mut files) = (Recorded::default(), BTreeSet::new());
    for record in stream.records().flatten() {
        match record.kind {
            Kind::Journal => {
                let journal: Journal = record.decode().expect("a journal");
                let blocks = journal
                    .blocks
                    .iter()
                    .map(|block| ((journal.device, block.number), block.at));
                recorded.blocks.extend(blocks);
            }
            Kind::Inode | Kind::DirtyFile => drop(files.insert(record.owner)),
            Kind::Frames if files.contains(&record.owner) => {
                for run in FrameRun::iter(record.payload) {
                    let pages = (0..run.pages()).map(|page| ((record.owner, run.va / PAGE + page), run.pfn() + page));
                    recorded.pages.extend(pages);
                }
            }
            _ => {}
        }
    }
    recorded
}

/// All pages of regular files on ext4, and where objects lie that lead to them and to blocks of journals.
fn look(image: &Image<'_>, prepared: &Prepared) -> (FramesOfPages, Vec<(u64, u64)>) {
    let kernel = Kernel::new(image, prepared);
    let layouts = &kernel.types.layouts;
    let mem = &kernel.mem;
    let (mounted, own) = (layouts.ext4_super.as_ref(), layouts.journal.as_ref());
    let (mounted, own) = (mounted.expect("ext4"), own.expect("a journal"));
    let (transaction, head) = (layouts.transaction.as_ref(), layouts.journal_head.as_ref());
    let (transaction, head) = (transaction.expect("a transaction"), head.expect("its blocks"));
    let (mut pages, mut places) = (BTreeMap::new(), Vec::new());
    let mut add = |at: Kva, bytes: u64| places.extend(mem.translate(at).ok().map(|at| (at.0, bytes)));
    let all = prepared.globals.super_blocks.expect("file systems");
    for superblock in kernel.list(all, layouts.super_block.s_list).bounded(MOST).flatten() {
        let operations = mem.ptr(superblock, layouts.super_block.s_op).expect("operations");
        if prepared.globals.ext4_sops != Some(operations) {
            continue;
        }
        let info = mem.ptr(superblock, layouts.super_block.s_fs_info).expect("ext4");
        let journal = mem.ptr(info, mounted.s_journal).expect("a journal");
        let running = mem.ptr(journal, own.j_running_transaction).expect("a transaction");
        let mut at = mem.ptr(running, transaction.t_buffers).unwrap_or(Kva::NULL);
        let first = at;
        while !at.is_null() {
            add(at, u64::from(head.struct_size));
            let buffer = mem.ptr(at, head.b_bh).expect("a buffer");
            add(buffer, u64::from(layouts.buffer_head.struct_size));
            at = mem.ptr(at, head.b_tnext).expect("the next");
            if at == first {
                break;
            }
        }
        let inodes = superblock.offset(u64::from(layouts.super_block.s_inodes.offset));
        for inode in kernel.list(inodes, layouts.inode.i_sb_list).bounded(MOST).flatten() {
            if mem.uint(inode, layouts.inode.i_mode).expect("a mode") & KIND != REGULAR {
                continue;
            }
            let mapping = mem.ptr(inode, layouts.inode.i_mapping).expect("pages");
            let array = mapping.offset(u64::from(layouts.address_space.i_pages.offset));
            for entry in kernel.xarray(array).into_iter().flatten().flatten() {
                if let Ok(pfn) = kernel.page_to_pfn(Kva(entry.value & !3)) {
                    pages.extend((0..entry.span.max(1)).map(|at| ((inode.0, entry.index + at), pfn.0 + at)));
                }
            }
            if kernel
                .xarray(array)
                .into_iter()
                .any(|array| array.marked(0).next().is_some())
            {
                add(inode, u64::from(layouts.inode.struct_size));
                // `xa_head`, and a node if it leads to one.
                let top = mem.u64(array.offset(8)).unwrap_or(0);
                if top & 3 == 2 {
                    add(Kva(top & !3), 576);
                }
            }
        }
    }
    (pages, places)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
#[ignore = "needs ORTHROS_IMAGE_DIR"]
fn nothing_is_taken_for_something_else() {
    let dir = std::env::var_os("ORTHROS_IMAGE_DIR").expect("ORTHROS_IMAGE_DIR names a folder of images");
    for entry in std::fs::read_dir(dir).expect("image folder can be read") {
        let path = entry.expect("folder entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "mem") {
            continue;
        }
        let original = std::fs::read(&path).expect("image can be read");
        let mut bytes = original.clone();
        let prepared = Prepared::find(&Image::flat(&original)).expect("the image holds a kernel");
        let (pages, places) = look(&Image::flat(&original), &prepared);
        let (mut area, mut retained) = (vec![0; 44 << 20], vec![0; 4 << 20]);
        let whole = salvage(&original, &prepared, &mut area, &mut retained);
        assert!(
            !whole.blocks.is_empty() && !whole.pages.is_empty(),
            "{}",
            path.display()
        );
        let mut state = number("ORTHROS_SEED", 1);
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for round in 0..number("ORTHROS_ROUNDS", 300) {
            let mut touched = Vec::new();
            for _ in 0..=random(6) {
                let (start, length) = places[random(places.len() as u64) as usize];
                let at = ((start + random(length)) & !7) as usize;
                let old = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
                let (other, _) = places[random(places.len() as u64) as usize];
                let word = match random(3) {
                    0 => old ^ 1 << random(64),
                    1 => old ^ 1 << random(14),
                    _ => u64::from_le_bytes(bytes[other as usize..other as usize + 8].try_into().expect("8 bytes")),
                };
                bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
                touched.push(at);
            }
            let found = salvage(&bytes, &prepared, &mut area, &mut retained);
            for (block, at) in &found.blocks {
                assert_eq!(whole.blocks.get(block), Some(at), "round {round}: block {block:?}");
            }
            let files: BTreeSet<u64> = pages.keys().map(|&(inode, _)| inode).collect();
            for (page, pfn) in found.pages.iter().filter(|((inode, _), _)| files.contains(inode)) {
                assert_eq!(pages.get(page), Some(pfn), "round {round}: page {page:?}");
            }
            for at in touched {
                bytes[at..at + 8].copy_from_slice(&original[at..at + 8]);
            }
        }
    }
}
