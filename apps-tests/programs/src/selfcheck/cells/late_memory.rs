//! Memory in a quantity that is handed over while the process runs already, and what can be done with it before it is
//! all there: the first thing after the failover is the call or access that the cell is about.

use crate::cell::{join, same, Cell, Context};
use crate::sys::memory::{Region, PAGE, PAGE_WORDS};
use crate::sys::process::fork;
use anyhow::{ensure, Context as _, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const COVERS: &[&str] = &["Frames", "frame_kind.OWN", "Backing.Anonymous"];

pub const CELLS: &[Cell] = &[
    Cell {
        name: "late/read-and-written",
        what: "32 MB, read and written at once by four threads in opposite orders",
        covers: COVERS,
        caught: None,
        run: threads,
    },
    Cell {
        name: "late/fork",
        what: "32 MB, forked at once: the child has all of it and what each writes stays its own",
        covers: COVERS,
        caught: None,
        run: forked,
    },
    Cell {
        name: "late/given-up",
        what: "32 MB, parts given up at once (MADV_DONTNEED): they are zero, the rest is not",
        covers: COVERS,
        caught: None,
        run: given_up,
    },
    Cell {
        name: "late/freed",
        what: "32 MB, parts freed at once (MADV_FREE): each page is what it was or zero, the rest is what it was",
        covers: COVERS,
        caught: None,
        run: freed,
    },
    Cell {
        name: "late/moved",
        what: "32 MB, moved to another address at once",
        covers: COVERS,
        caught: None,
        run: moved,
    },
    Cell {
        name: "late/protected",
        what: "32 MB, parts made read-only or inaccessible at once, and back",
        covers: COVERS,
        caught: None,
        run: protected,
    },
    Cell {
        name: "late/unmapped",
        what: "32 MB, a part unmapped at once and mapped anew: zeros there, the rest is what it was",
        covers: COVERS,
        caught: None,
        run: unmapped,
    },
    Cell {
        name: "late/locked",
        what: "32 MB, locked at once",
        covers: COVERS,
        caught: None,
        run: locked,
    },
    Cell {
        name: "late/by-calls",
        what: "32 MB, read and written at once by system calls only: write, read, /proc/self/mem, process_vm_readv",
        covers: COVERS,
        caught: None,
        run: by_calls,
    },
    Cell {
        name: "late/counted",
        what: "the resident size of the process, at once",
        covers: COVERS,
        caught: None,
        run: counted,
    },
];

const PAGES: usize = 8192;

/// All pages with contents, through the failover.
fn prepared(context: &mut Context, seed: u64) -> Result<Region> {
    let memory = Region::private(PAGES)?;
    memory.fill(seed, 0..PAGES);
    context.failover(|| {
        memory.set(PAGE_WORDS * 6000 + 17, 0);
        Ok(())
    })?;
    Ok(memory)
}

fn threads(context: &mut Context) -> Result<()> {
    let memory = Arc::new(prepared(context, 300)?);
    let part = |number: usize| {
        let memory = memory.clone();
        std::thread::spawn(move || {
            // Pages that the others have as neighbours.
            let own = (0..PAGES).filter(|page| page % 4 == number);
            let own: Vec<usize> = if number.is_multiple_of(2) {
                own.collect()
            } else {
                own.rev().collect()
            };
            memory.verify("page", 300, own.iter().copied())?;
            memory.fill(301, own.iter().copied());
            memory.verify("page written afterwards", 301, own.into_iter())
        })
    };
    let parts: Vec<_> = (0..4).map(part).collect();
    parts.into_iter().try_for_each(|thread| join(thread)?)
}

fn forked(context: &mut Context) -> Result<()> {
    let memory = prepared(context, 302)?;
    let child = fork(|| {
        memory.verify("the child's page", 302, 0..PAGES)?;
        memory.fill(303, 0..PAGES);
        memory.verify("the child's page written afterwards", 303, 0..PAGES)
    })?;
    memory.fill(304, 0..PAGES / 2);
    child.join("child")?;
    memory.verify("the parent's page written afterwards", 304, 0..PAGES / 2)?;
    memory.verify("the parent's page", 302, PAGES / 2..PAGES)
}

/// Some that end within a page table, some that fill one.
const GIVEN: [std::ops::Range<usize>; 3] = [100..101, 700..3000, 4096..5120];

fn others() -> impl Iterator<Item = usize> {
    (0..PAGES).filter(|page| !GIVEN.iter().any(|given| given.contains(page)))
}

fn given_up(context: &mut Context) -> Result<()> {
    let memory = prepared(context, 305)?;
    for given in GIVEN {
        memory.give_up(given, libc::MADV_DONTNEED)?;
    }
    for given in GIVEN {
        memory.verify_zero("page given up", given)?;
    }
    memory.verify("page", 305, others())?;
    // What comes late must not come back.
    std::thread::sleep(std::time::Duration::from_secs(5));
    GIVEN
        .into_iter()
        .try_for_each(|given| memory.verify_zero("page given up some time ago", given))
}

fn freed(context: &mut Context) -> Result<()> {
    let memory = prepared(context, 306)?;
    for given in GIVEN {
        memory.give_up(given, libc::MADV_FREE)?;
    }
    memory.verify("page", 306, others())?;
    for page in GIVEN.into_iter().flatten() {
        let kept = memory.verify("freed page", 306, page..page + 1);
        if kept.is_err() {
            memory.verify_zero("freed page", page..page + 1)?;
        }
    }
    memory.fill(307, GIVEN.into_iter().flatten());
    std::thread::sleep(std::time::Duration::from_secs(5));
    memory.verify("freed page written afterwards", 307, GIVEN.into_iter().flatten())
}

fn moved(context: &mut Context) -> Result<()> {
    let memory = prepared(context, 308)?.moved()?;
    memory.verify("page", 308, 0..PAGES)?;
    memory.fill(309, 0..PAGES);
    memory.verify("page written afterwards", 309, 0..PAGES)
}

fn protected(context: &mut Context) -> Result<()> {
    let memory = prepared(context, 310)?;
    memory.protect(300..2000, libc::PROT_READ)?;
    memory.protect(4000..6000, libc::PROT_NONE)?;
    memory.verify("page", 310, (0..4000).chain(6000..PAGES))?;
    memory.protect(0..PAGES, libc::PROT_READ | libc::PROT_WRITE)?;
    memory.verify("page", 310, 0..PAGES)?;
    memory.fill(311, 0..PAGES);
    memory.verify("page written afterwards", 311, 0..PAGES)
}

fn unmapped(context: &mut Context) -> Result<()> {
    let memory = prepared(context, 312)?;
    let part = memory.replace(1000..5000)?;
    part.verify_zero("page mapped anew", 0..4000)?;
    memory.verify("page", 312, (0..1000).chain(5000..PAGES))?;
    std::thread::sleep(std::time::Duration::from_secs(5));
    part.verify_zero("page mapped anew some time ago", 0..4000)
}

fn locked(context: &mut Context) -> Result<()> {
    let memory = prepared(context, 313)?;
    memory.lock(0).context("the limit for locked memory")?;
    memory.verify("page", 313, 0..PAGES)?;
    memory.unlock()
}

fn by_calls(context: &mut Context) -> Result<()> {
    // Open before, so that its folder, which is new, is one that is kept.
    let mut file = File::create(context.path("copy"))?;
    let memory = prepared(context, 314)?;
    memory.with_bytes(0..1000, |bytes| Ok(file.write_all(bytes)?))?;
    let mut read = File::open("/proc/self/exe")?;
    memory.with_bytes_mut(1500..1501, |bytes| Ok(read.read_exact(bytes)?))?;
    let mut page = vec![0; PAGE];
    let own = File::open("/proc/self/mem")?;
    own.read_exact_at(&mut page, (memory.address() + 3000 * PAGE) as u64)?;
    let copied = memory.copy_across(5000..5001)?;
    let written = std::fs::read(context.path("copy"))?;
    memory.verify("page", 314, (0..1500).chain(1501..PAGES))?;
    same("bytes written", written.len(), 1000 * PAGE)?;
    memory.with_bytes(0..1000, |bytes| same("pages written", bytes == written, true))?;
    memory.with_bytes(3000..3001, |bytes| same("/proc/self/mem", bytes == page, true))?;
    memory.with_bytes(5000..5001, |bytes| same("process_vm_readv", bytes == copied, true))?;
    let mut begin = vec![0; PAGE];
    File::open("/proc/self/exe")?.read_exact(&mut begin)?;
    memory.with_bytes(1500..1501, |bytes| same("page read into", bytes == begin, true))
}

/// Resident pages, from `/proc/self/statm`.
fn resident() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    Ok(text.split(' ').nth(1).context("statm")?.parse()?)
}

fn counted(context: &mut Context) -> Result<()> {
    let memory = Region::private(PAGES)?;
    memory.fill(315, 0..PAGES);
    context.failover(|| memory.give_up(0..PAGES, libc::MADV_DONTNEED))?;
    let pages = resident()?;
    ensure!(pages >= PAGES, "{pages} pages are resident, at least {PAGES} were");
    memory.verify("page", 315, 0..PAGES)
}
