//! Call chains of the threads.

use super::{printable, Dead, Problems};
use salvage::addr::Kva;
use salvage::error::WalkError;
use salvage::orc::{frames, Unwind};
use salvage::overview::processes;
use serde::Serialize;
use std::io::{self, Write};

/// Where a thread was.
#[derive(Debug, Serialize)]
pub struct StackEntry {
    /// Its id.
    pid: u32,
    /// Its name.
    comm: String,
    /// Whether it was on a CPU.
    on_cpu: bool,
    /// The functions, the innermost first. Empty for a thread that was on a CPU, except for the one that panicked: the
    /// registers of the others are not in memory.
    frames: Vec<Frame>,
}

/// A function of a chain.
#[derive(Debug, Serialize)]
pub struct Frame {
    /// Where it goes on when the inner one returns.
    address: String,
    /// The function and the distance in it; nothing if the address is not the kernel's own text.
    symbol: Option<String>,
}

/// Reads the section; of the threads only the one that panicked, unless `all` are wanted.
pub fn gather(dead: &Dead<'_>, all: bool, problems: &mut Problems) -> Vec<StackEntry> {
    let mut unread = Vec::new();
    let found = processes(dead, |error| unread.push(error));
    if all {
        unread.into_iter().for_each(|error| problems.note("stacks", error));
    }
    let mut entries = Vec::new();
    for thread in found.iter().flat_map(|process| &process.threads) {
        let chain = match Unwind::panicking(dead, thread.task) {
            Ok(None) if thread.on_cpu || !all => Ok(None),
            Ok(None) => Unwind::sleeping(dead, thread.task).map(Some),
            other => other,
        };
        let panicked = matches!(chain, Ok(Some(_))) && thread.on_cpu;
        if !all && !panicked {
            continue;
        }
        let chain = problems.take("stacks", chain).flatten().map(frames);
        let (chain, error) = chain.unwrap_or_default();
        error
            .into_iter()
            .for_each(|error: WalkError| problems.note("stacks", error));
        entries.push(StackEntry {
            pid: thread.pid,
            comm: printable(&thread.comm),
            on_cpu: thread.on_cpu,
            frames: chain.into_iter().map(|ip| frame(dead, ip)).collect(),
        });
    }
    entries
}

fn frame(dead: &Dead<'_>, ip: Kva) -> Frame {
    // The return address can be the first one of the next function, if the call does not return.
    let symbol = dead
        .kallsyms
        .symbolize(ip.back(1))
        .filter(|_| dead.prepared.space.image.contains(&ip));
    Frame {
        address: ip.to_string(),
        symbol: symbol.map(|found| format!("{}+{:#x}", found.name, found.offset + 1)),
    }
}

/// Writes the section for people.
pub fn write_text(section: &[StackEntry], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nSTACKS ({})", section.len())?;
    for stack in section {
        let running = if stack.on_cpu { ", on a CPU" } else { "" };
        writeln!(out, "  {} {}{running}", stack.pid, stack.comm)?;
        for frame in &stack.frames {
            writeln!(out, "    {}  {}", frame.address, frame.symbol.as_deref().unwrap_or("?"))?;
        }
    }
    Ok(())
}
