//! Memory that ksmd has merged (Documentation/admin-guide/mm/ksm.rst).

use crate::cell::{Cell, Context};
use crate::sys::clock;
use crate::sys::memory::{Region, PAGE_WORDS};
use crate::sys::process::fork;
use anyhow::{ensure, Context as _, Result};
use std::time::Duration;

pub const CELLS: &[Cell] = &[Cell {
    name: "memory/merged",
    what: "equal pages of two processes, merged by ksmd: contents, and later writes stay private",
    covers: &["frame_kind.SHARED", "frame_kind.OWN"],
    caught: None,
    run: merged,
}];

const PAGES: usize = 64;
/// ksmd takes a page at its second look, each over all of its memory.
const PATIENCE: Duration = Duration::from_secs(60);

/// Memory of its own whose pages all hold the same.
fn equal_pages() -> Result<Region> {
    let memory = Region::private(PAGES)?;
    // A huge page would first have to be split.
    memory.advise(libc::MADV_NOHUGEPAGE)?;
    for index in 0..memory.words() {
        memory.set(index, content(index));
    }
    memory.advise(libc::MADV_MERGEABLE)?;
    Ok(memory)
}

const fn content(index: usize) -> u64 {
    0x6d65_7267_6564 + (index % PAGE_WORDS) as u64
}

/// Waits until ksmd has merged this process' pages.
fn wait_until_merged() -> Result<()> {
    let deadline = clock::now() + PATIENCE.as_nanos() as u64;
    loop {
        let text = std::fs::read_to_string("/proc/self/ksm_merging_pages").context("the number of merged pages")?;
        let pages: usize = text.trim().parse().context("the number of merged pages")?;
        if pages >= PAGES - 1 {
            return Ok(());
        }
        ensure!(clock::now() < deadline, "ksmd has merged only {pages} of {PAGES} pages");
        clock::nanosleep(Duration::from_millis(50));
    }
}

fn expect(what: &str, memory: &Region, from: usize) -> Result<()> {
    for index in from * PAGE_WORDS..memory.words() {
        let found = memory.get(index);
        ensure!(found == content(index), "{what}: word {index} is {found:#x}");
    }
    Ok(())
}

fn merged(context: &mut Context) -> Result<()> {
    if std::fs::read_to_string("/sys/kernel/mm/ksm/run").map_or(true, |run| run.trim() != "1") {
        return context.skip("ksmd does not run");
    }
    let ready = Region::shared(1)?;
    let child = fork(|| {
        let memory = equal_pages()?;
        wait_until_merged()?;
        ready.set(0, 1);
        context.wait()?;
        expect("the child's merged page", &memory, 0)?;
        memory.fill(46, 0..PAGES / 2);
        expect("the child's page after others were written", &memory, PAGES / 2)?;
        memory.verify("the child's written page", 46, 0..PAGES / 2)
    })?;
    let memory = equal_pages()?;
    wait_until_merged()?;
    let deadline = clock::now() + PATIENCE.as_nanos() as u64;
    while ready.get(0) == 0 {
        ensure!(clock::now() < deadline, "the child is not ready");
        clock::nanosleep(Duration::from_millis(10));
    }
    context.failover(|| {
        memory.set(PAGE_WORDS, 0);
        Ok(())
    })?;
    child.join("child")?;
    expect("the parent's merged page", &memory, 0)?;
    memory.fill(47, 0..1);
    expect("the parent's page after one was written", &memory, 1)
}
