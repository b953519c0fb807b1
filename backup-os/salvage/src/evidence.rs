//! Why the kernel died: what would be lost with its memory.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::tasks::{self, ProcessEntry, EXIT_ZOMBIE};
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::Evidence;

/// Return addresses that are listed.
const MAX_FRAMES: usize = 48;
/// Processes that are listed.
const MAX_LISTED: usize = 4096;

/// Gathers the evidence. What cannot be read is left out.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, processes: &[ProcessEntry]) -> Evidence {
    let kernel = context.kernel;
    let panic_cpu = kernel.mem.i32(kernel.symbols.panic_cpu).unwrap_or(-1);
    let cpu = context
        .cpus
        .iter()
        .find(|cpu| i32::try_from(cpu.number) == Ok(panic_cpu));
    let mem = &kernel.mem;
    let types = &kernel.types.layouts.task;
    let task = cpu.map(|cpu| {
        let comm = mem.text(cpu.current, types.comm).unwrap_or_default();
        let pid = mem.uint(cpu.current, types.pid).unwrap_or(0);
        alloc::format!("{pid} {}", String::from_utf8_lossy(&comm))
    });
    Evidence {
        dmesg: String::new(),
        panic_cpu: i64::from(panic_cpu),
        task: task.unwrap_or_default(),
        stack: cpu.map(|cpu| stack(context, cpu.current)).unwrap_or_default(),
        tasks: processes.iter().take(MAX_LISTED).map(line).collect(),
    }
}

/// Return addresses on a task's kernel stack, innermost first, as `symbol+offset`. The frames are not unwound: addresses
/// that are only left over stand among them, as in a stack dump of the kernel with `?`.
fn stack<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Vec<String> {
    let kernel = context.kernel;
    let Ok((bottom, top)) = tasks::stack(kernel, task) else {
        return Vec::new();
    };
    let len = top.0.wrapping_sub(bottom.0) as usize;
    let bytes = kernel.mem.bytes(bottom, len).unwrap_or_default();
    let (words, _) = bytes.as_chunks::<8>();
    let image = &kernel.prepared.space.image;
    let mut found: Vec<String> = Vec::new();
    for word in words {
        let address = Kva(u64::from_le_bytes(*word));
        if !image.contains(&address) {
            continue;
        }
        let Some(symbol) = kernel.kallsyms.symbolize(address) else {
            continue;
        };
        // Data and functions' first bytes are no return addresses.
        if symbol.offset == 0 || symbol.offset > 0x4000 || !context.is_text(address) {
            continue;
        }
        found.push(alloc::format!("{}+{:#x}", symbol.name, symbol.offset));
        if found.len() >= MAX_FRAMES {
            break;
        }
    }
    found
}

/// `pid comm state` of a process.
fn line(process: &ProcessEntry) -> String {
    let state = match (process.exit_state, process.state & 0xFFFF) {
        (state, _) if state & EXIT_ZOMBIE != 0 => 'Z',
        (0, 0) => 'R',
        (0, state) if state & 0x0C != 0 => 'T',
        (0, state) if state & 1 != 0 => 'S',
        (0, state) if state & 0x400 != 0 => 'I',
        (0, _) => 'D',
        _ => 'X',
    };
    alloc::format!("{} {} {state}", process.tgid, String::from_utf8_lossy(&process.comm))
}
