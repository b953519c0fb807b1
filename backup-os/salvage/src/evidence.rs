//! Why the kernel died: what would be lost with its memory.

use crate::addr::Kva;
use crate::context::Context;
use crate::cpus::Cpu;
use crate::heartbeat;
use crate::memory::PhysMem;
use crate::orc::{frames, Unwind};
use crate::overview;
use crate::printk;
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::Evidence;

/// Return addresses that are listed.
const MAX_FRAMES: usize = 64;
/// Threads that are listed.
const MAX_LISTED: usize = 8192;
/// Bytes of the log that are kept, from its end.
const MAX_LOG: usize = 128 << 10;
/// Nanoseconds in a microsecond and microseconds in a second, for the time stamps of the log.
const MICRO: u64 = 1000;
const SECOND: u64 = 1_000_000;

/// Gathers the evidence. What cannot be read is left out.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> Evidence {
    let kernel = context.kernel;
    let panic_cpu = kernel.mem.i32(kernel.symbols.panic_cpu).unwrap_or(-1);
    let cpu = context.cpus.iter().find(|cpu| {
        i32::try_from(cpu.number) == Ok(panic_cpu) || (panic_cpu < 0 && context.input.suspect == Some(cpu.number))
    });
    let types = &kernel.types.layouts.task;
    let task = cpu.map(|cpu| {
        let comm = kernel.mem.text(cpu.current, types.comm).unwrap_or_default();
        let pid = kernel.mem.uint(cpu.current, types.pid).unwrap_or(0);
        alloc::format!("{pid} {}", String::from_utf8_lossy(&comm))
    });
    let threads = overview::processes(kernel, |_| {})
        .into_iter()
        .flat_map(|process| process.threads);
    Evidence {
        dmesg: log(context),
        panic_cpu: i64::from(panic_cpu),
        task: task.unwrap_or_default(),
        stack: cpu.map(|cpu| stack(context, cpu)).unwrap_or_default(),
        tasks: threads.take(MAX_LISTED).map(|thread| line(&thread)).collect(),
    }
}

/// The end of the log, as `dmesg` shows it.
fn log<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>) -> String {
    let Ok(records) = printk::log(context.kernel) else {
        return String::new();
    };
    let mut text = String::new();
    for record in records.flatten() {
        let micros = record.ts_nsec.checked_div(MICRO).unwrap_or(0);
        let (seconds, rest) = (micros.checked_div(SECOND), micros.checked_rem(SECOND));
        text.push_str(&alloc::format!(
            "[{:5}.{:06}] ",
            seconds.unwrap_or(0),
            rest.unwrap_or(0)
        ));
        text.push_str(&String::from_utf8_lossy(&record.text));
        text.push('\n');
    }
    let mut start = text.len().saturating_sub(MAX_LOG);
    while !text.is_char_boundary(start) {
        start = start.saturating_add(1);
    }
    text.split_off(start)
}

/// Where the CPU was, as `symbol+offset`: from the caller of `panic` on, or from the place at which it hung.
fn stack<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, cpu: &Cpu) -> Vec<String> {
    let kernel = context.kernel;
    let chain = match Unwind::panicking(kernel, cpu.current) {
        Ok(Some(chain)) => chain,
        _ => {
            let Some(left) = &cpu.left else {
                return Vec::new();
            };
            Unwind::new(kernel, left.start())
        }
    };
    let (found, _) = frames(chain);
    let named = |ip: Kva| heartbeat::place(kernel, ip.0);
    found.into_iter().take(MAX_FRAMES).map(named).collect()
}

/// `pid comm state` of a thread.
fn line(thread: &overview::Thread) -> String {
    alloc::format!(
        "{} {} {}",
        thread.pid,
        String::from_utf8_lossy(&thread.comm),
        thread.state
    )
}
