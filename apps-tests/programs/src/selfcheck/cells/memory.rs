//! Contents of every kind of mapping.

use crate::cell::{same, write_all, Cell, Context};
use crate::sys::file::open;
use crate::sys::memory::{self, pattern, Region, PAGE};
use anyhow::{ensure, Result};
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "memory/private",
        what: "8 MB of private anonymous memory, every word, and it can be written afterwards",
        covers: &[
            "Backing.Anonymous",
            "frame_kind.OWN",
            "Mapping.start",
            "Mapping.end",
            "Frames",
        ],
        caught: None,
        run: private,
    },
    Cell {
        name: "memory/sparse",
        what: "every third page touched; the holes read as zeros",
        covers: &["Backing.Anonymous", "frame_kind.OWN"],
        caught: None,
        run: sparse,
    },
    Cell {
        name: "memory/zero-page",
        what: "pages only ever read: zeros, and written separately afterwards",
        covers: &["Backing.Anonymous"],
        caught: None,
        run: zero_page,
    },
    Cell {
        name: "memory/transparent-huge",
        what: "8 MB advised to huge pages",
        covers: &["frame_kind.HUGE", "Mapping.advice"],
        caught: None,
        run: huge,
    },
    Cell {
        name: "memory/heap",
        what: "the program break and what lies below it",
        covers: &["AddressSpace.bounds"],
        caught: None,
        run: heap,
    },
    Cell {
        name: "memory/stack",
        what: "what lies on the main stack, and that it still grows by 1 MB",
        covers: &["Mapping.map_flags", "Backing.Anonymous"],
        caught: None,
        run: stack,
    },
    Cell {
        name: "memory/file-private",
        what: "a private file mapping, some pages written by us, some not, and the file as it was",
        covers: &["Backing.FilePrivate", "Mapping.offset", "Mapping.inode"],
        caught: None,
        run: file_private,
    },
    Cell {
        name: "memory/file-shared",
        what: "a shared file mapping with unsynced writes, seen through the mapping and through the file",
        covers: &[
            "Backing.FileShared",
            "frame_kind.FILE_DIRTY",
            "Inode.dirty",
            "Mapping.writable_file",
        ],
        caught: None,
        run: file_shared,
    },
    Cell {
        name: "memory/file-deleted",
        what: "private and shared mappings of a file that has no name any more",
        covers: &[
            "Inode.nlink",
            "Inode.last_path",
            "Inode.fully_cached",
            "frame_kind.FILE",
        ],
        caught: None,
        run: file_deleted,
    },
    Cell {
        name: "memory/layout",
        what: "the list of mappings: ranges, protections, offsets, names",
        covers: &[
            "Mapping.start",
            "Mapping.end",
            "Mapping.prot",
            "Mapping.offset",
            "Mapping.name",
        ],
        caught: None,
        run: layout,
    },
    Cell {
        name: "memory/vdso",
        what: "the vDSO lies where it lay and its clock works",
        covers: &[
            "AddressSpace.vdso",
            "AddressSpace.vvar_size",
            "Backing.Vdso",
            "Backing.Vvar",
            "frame_kind.COPIED",
        ],
        caught: None,
        run: vdso,
    },
];

fn private(context: &mut Context) -> Result<()> {
    let memory = Region::private(2048)?;
    memory.fill(1, 0..2048);
    context.failover(|| {
        memory.set(777_777, 0);
        Ok(())
    })?;
    memory.verify("memory", 1, 0..2048)?;
    memory.fill(2, 0..2048);
    memory.verify("memory written afterwards", 2, 0..2048)
}

fn sparse(context: &mut Context) -> Result<()> {
    let memory = Region::private(3000)?;
    memory.fill(3, (0..3000).step_by(3));
    context.failover(|| {
        memory.set(memory::PAGE_WORDS, 1);
        Ok(())
    })?;
    memory.verify("touched page", 3, (0..3000).step_by(3))?;
    memory.verify_zero("hole", (1..3000).step_by(3))?;
    memory.verify_zero("hole", (2..3000).step_by(3))
}

fn zero_page(context: &mut Context) -> Result<()> {
    let memory = Region::private(256)?;
    memory.verify_zero("fresh page", 0..256)?;
    context.failover(|| {
        memory.set(5000, 1);
        Ok(())
    })?;
    memory.verify_zero("zero page", 0..256)?;
    memory.fill(4, 0..1);
    memory.verify_zero("zero page after another was written", 1..256)
}

fn huge(context: &mut Context) -> Result<()> {
    const HUGE: usize = 512;
    let memory = Region::private(5 * HUGE)?;
    memory.advise(libc::MADV_HUGEPAGE)?;
    memory.fill(5, 0..5 * HUGE);
    context.failover(|| {
        memory.set(1_000_000, 1);
        Ok(())
    })?;
    memory.verify("memory", 5, 0..5 * HUGE)?;
    let flags = memory::mapping_of(memory.address())?.flags;
    ensure!(
        flags.iter().any(|flag| flag == "hg"),
        "MADV_HUGEPAGE is gone: {flags:?}"
    );
    Ok(())
}

fn heap(context: &mut Context) -> Result<()> {
    const BYTES: usize = 1 << 20;
    let start = memory::grow_heap(BYTES)?.next_multiple_of(8);
    let words = BYTES / 8 - 1;
    for index in 0..words {
        memory::heap_word(start + index * 8).store(pattern(6, index), Ordering::Relaxed);
    }
    let before = memory::program_break();
    context.failover(|| memory::grow_heap(PAGE).map(drop))?;
    same("program break", memory::program_break(), before)?;
    for index in 0..words {
        let found = memory::heap_word(start + index * 8).load(Ordering::Relaxed);
        same("word of the heap", found, pattern(6, index))?;
    }
    let grown = memory::grow_heap(BYTES)?;
    same("break before it grows", grown, before)?;
    memory::heap_word(grown.next_multiple_of(8)).store(1, Ordering::Relaxed);
    Ok(())
}

#[inline(never)]
fn deeper(depth: u64) -> u64 {
    let mut frame = [depth; 512];
    std::hint::black_box(&mut frame);
    if depth == 0 {
        return 0;
    }
    deeper(depth - 1) + frame[(depth % 512) as usize]
}

fn stack(context: &mut Context) -> Result<()> {
    let mut words: [u64; 2048] = std::array::from_fn(|index| pattern(7, index));
    std::hint::black_box(&mut words);
    context.failover(|| {
        words[1000] = 0;
        Ok(())
    })?;
    std::hint::black_box(&mut words);
    for (index, word) in words.iter().enumerate() {
        same("word of the stack", *word, pattern(7, index))?;
    }
    same("sum from 1 MB further down", deeper(256), (1..=256).sum())
}

/// A file with a pattern, 64 pages, not synced.
fn pattern_file(context: &Context, seed: u64) -> Result<std::fs::File> {
    let file = open(&context.path("file"), true, 0)?;
    let bytes: Vec<u8> = (0..64 * memory::PAGE_WORDS)
        .flat_map(|index| pattern(seed, index).to_ne_bytes())
        .collect();
    write_all(&file, &bytes)?;
    Ok(file)
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn file_private(context: &mut Context) -> Result<()> {
    let file = pattern_file(context, 8)?;
    // From page 16 on, so that an ignored offset shows.
    let memory = Region::file(file.as_fd(), 16 * PAGE as u64, 48, READ_WRITE, libc::MAP_PRIVATE)?;
    drop(file);
    memory.fill(9, 0..16);
    context.failover(|| {
        memory.set(100, 0);
        Ok(())
    })?;
    memory.verify("page written by us", 9, 0..16)?;
    for index in 16 * memory::PAGE_WORDS..memory.words() {
        same(
            "word from the file",
            memory.get(index),
            pattern(8, index + 16 * memory::PAGE_WORDS),
        )?;
    }
    let bytes = std::fs::read(context.path("file"))?;
    for (index, word) in bytes.chunks_exact(8).enumerate() {
        same("word of the file", word, &pattern(8, index).to_ne_bytes()[..])?;
    }
    Ok(())
}

fn file_shared(context: &mut Context) -> Result<()> {
    let file = pattern_file(context, 10)?;
    let memory = Region::file(file.as_fd(), 0, 64, READ_WRITE, libc::MAP_SHARED)?;
    memory.fill(11, 20..40);
    context.failover(|| {
        memory.set(25 * memory::PAGE_WORDS, 0);
        Ok(())
    })?;
    memory.verify("page not written", 10, (0..20).chain(40..64))?;
    memory.verify("page written", 11, 20..40)?;
    let bytes = std::fs::read(context.path("file"))?;
    same("bytes of the file", bytes.len(), 64 * PAGE)?;
    for (index, word) in bytes.chunks_exact(8).enumerate() {
        let seed = if (20..40).contains(&(index / memory::PAGE_WORDS)) {
            11
        } else {
            10
        };
        same("word of the file", word, &pattern(seed, index).to_ne_bytes()[..])?;
    }
    memory.set(0, 42);
    let head = std::fs::read(context.path("file"))?;
    same("first word written afterwards", &head[..8], &42u64.to_ne_bytes()[..])
}

fn file_deleted(context: &mut Context) -> Result<()> {
    let file = pattern_file(context, 12)?;
    let shared = Region::file(file.as_fd(), 0, 64, READ_WRITE, libc::MAP_SHARED)?;
    let private = Region::file(file.as_fd(), 0, 64, READ_WRITE, libc::MAP_PRIVATE)?;
    drop(file);
    std::fs::remove_file(context.path("file"))?;
    shared.fill(13, 10..20);
    private.fill(14, 30..40);
    context.failover(|| {
        shared.set(0, 1);
        Ok(())
    })?;
    shared.verify("shared page not written", 12, (0..10).chain(20..64))?;
    shared.verify("shared page written", 13, 10..20)?;
    private.verify("private page not written", 12, (0..10).chain(20..30).chain(40..64))?;
    private.verify("private page written", 14, 30..40)?;
    private.verify("private page written by the other mapping", 13, 10..20)?;
    shared.set(0, 99);
    same("the file's first word in the private mapping", private.get(0), 99)?;
    ensure!(!context.path("file").exists(), "the deleted file has a name again");
    Ok(())
}

/// Names of what the kernel maps into every process for its own clocks.
const OF_THE_KERNEL: [&str; 3] = ["[vvar]", "[vvar_vclock]", "[vdso]"];

/// Where the kernel's own mappings lie. Under another kernel the old text and data stay there as ordinary memory.
fn kernels_own() -> Result<Vec<Range<usize>>> {
    let all = memory::mappings()?.into_iter();
    Ok(all
        .filter(|vma| OF_THE_KERNEL.contains(&vma.name.as_str()))
        .map(|vma| vma.start..vma.end)
        .collect())
}

/// The mappings that have to be the same in any kernel, without what lies where the kernel's `own` were.
fn comparable(own: &[Range<usize>]) -> Result<Vec<String>> {
    let mut list = Vec::new();
    for vma in memory::mappings()? {
        let kernels = OF_THE_KERNEL.contains(&vma.name.as_str())
            || own.iter().any(|range| range.start <= vma.start && vma.end <= range.end);
        if !kernels && !matches!(vma.name.as_str(), "[vsyscall]" | "[heap]" | "[stack]") {
            let inode = if vma.inode == 0 { "anonymous" } else { "file" };
            list.push(format!(
                "{:x}-{:x} {} {:x} {inode} {}",
                vma.start, vma.end, vma.perms, vma.offset, vma.name
            ));
        }
    }
    Ok(list)
}

fn layout(context: &mut Context) -> Result<()> {
    let file = pattern_file(context, 15)?;
    let mapped = Region::file(file.as_fd(), PAGE as u64, 4, libc::PROT_READ, libc::MAP_PRIVATE)?;
    let memory = Region::private(16)?;
    memory.protect(4..8, libc::PROT_READ)?;
    memory.protect(8..12, libc::PROT_NONE)?;
    // The first reading sizes the allocator's memory for the second.
    let own = kernels_own()?;
    comparable(&own)?;
    let before = comparable(&own)?;
    context.failover(|| memory.protect(0..1, libc::PROT_READ))?;
    let now = comparable(&own)?;
    for (now, before) in now.iter().zip(&before) {
        same("mapping", now, before)?;
    }
    same("number of mappings", now.len(), before.len())?;
    drop(mapped);
    Ok(())
}

fn vdso(context: &mut Context) -> Result<()> {
    let base = crate::sys::clock::vdso_base();
    if base == 0 {
        return context.skip("there is no vDSO");
    }
    let before = memory::mapping_of(base as usize)?;
    let mut expected = before.start;
    context.failover(|| {
        expected += PAGE;
        Ok(())
    })?;
    let now = memory::mapping_of(base as usize)?;
    same("start of the vDSO", now.start, expected)?;
    ensure!(
        now.name.contains("vdso") || now.name.is_empty(),
        "the vDSO is now {}",
        now.name
    );
    std::io::stdout().flush()?;
    let by_vdso = crate::sys::clock::now();
    let by_syscall = crate::sys::clock::read_by_syscall(libc::CLOCK_MONOTONIC)?;
    ensure!(
        by_syscall.abs_diff(by_vdso) < 2_000_000_000,
        "CLOCK_MONOTONIC: {by_vdso} by the vDSO, {by_syscall} by the system call"
    );
    Ok(())
}
