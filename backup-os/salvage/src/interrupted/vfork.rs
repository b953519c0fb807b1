//! A thread that waits for a child that runs in its memory (`CLONE_VFORK`, `kernel_clone()` in `kernel/fork.c`).

use super::stack::Words;
use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::refusal::Result;
use crate::tasks;
use alloc::vec::Vec;
use core::ops::Range;

/// More children than a process has.
const MOST_CHILDREN: u64 = 1 << 20;

/// The id of the child that the thread waits for, which is the result of its call. `frames` is what the call has on the kernel's
/// stack. `None` if it cannot be told.
///
/// The child knows what its parent waits on: a completion in the parent's frame. Once the child has let go of it, that frame
/// still holds the child's `struct pid`, from which the result is taken.
///
/// # Errors
/// The kernel's structures cannot be read.
pub fn child<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva, frames: Range<Kva>) -> Result<Option<u64>> {
    let kernel = context.kernel;
    let layout = &kernel.types.layouts.task;
    let mem = &kernel.mem;
    let words = Words::read(context, frames.clone())?;
    let mut named = Vec::new();
    let children = task.offset(u64::from(layout.children.offset));
    for child in kernel.list(children, layout.sibling).bounded(MOST_CHILDREN) {
        let child = child?;
        let pid = mem.ptr(child, layout.thread_pid)?;
        if pid.is_null() {
            continue;
        }
        let number = u64::from(tasks::pid_number(kernel, pid)?);
        if frames.contains(&mem.ptr(child, layout.vfork_done)?) {
            return Ok(Some(number));
        }
        if words.all().any(|word| word == pid.0) {
            named.push(number);
        }
    }
    Ok(match named.as_slice() {
        [only] => Some(*only),
        _ => None,
    })
}
