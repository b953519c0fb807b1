//! A thread that waits for a child that runs in its memory (`CLONE_VFORK`, `kernel_clone()` in `kernel/fork.c`).

use super::stack::Words;
use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::pid_namespaces;
use crate::refusal::Result;
use crate::tasks;
use alloc::vec::Vec;
use core::ops::Range;

/// More children than a process has.
const MOST_CHILDREN: u64 = 1 << 20;

/// The id, as the thread sees it, of the child that the thread waits for or is about to wait for, which is the result of its call. `frames` is what the
/// call has on the kernel's stack, if it is known to wait. `None` if there is none, or it cannot be told.
///
/// The child knows what its parent waits on: a completion on the parent's stack. Once the child has let go of it, the call's
/// frames still hold the child's `struct pid`, from which the result is taken.
///
/// # Errors
/// The kernel's structures cannot be read.
pub fn child<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    task: Kva,
    frames: Option<Range<Kva>>,
) -> Result<Option<u64>> {
    let kernel = context.kernel;
    let layout = &kernel.types.layouts.task;
    let mem = &kernel.mem;
    let words = frames.map(|frames| Words::read(context, frames)).transpose()?;
    let (lowest, end) = tasks::stack(kernel, task)?;
    let mut named = Vec::new();
    let children = task.offset(u64::from(layout.children.offset));
    for child in kernel.list(children, layout.sibling).bounded(MOST_CHILDREN) {
        let child = child?;
        let pid = mem.ptr(child, layout.thread_pid)?;
        if pid.is_null() {
            continue;
        }
        let number = u64::from(pid_namespaces::number_for(context, task, pid)?);
        if (lowest..end).contains(&mem.ptr(child, layout.vfork_done)?) {
            return Ok(Some(number));
        }
        if words
            .as_ref()
            .is_some_and(|words| words.all().any(|word| word == pid.0))
        {
            named.push(number);
        }
    }
    Ok(match named.as_slice() {
        [only] => Some(*only),
        _ => None,
    })
}
