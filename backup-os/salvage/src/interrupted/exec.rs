//! How far a thread has come that starts a program (`fs/exec.c`, `fs/binfmt_elf.c`).
//!
//! A thread that is alone in its process changes nothing that the same call would not change again, until `exec_mmap()`
//! gives it an address space that is empty but for the strings on its stack. Then `load_elf_binary()` fills it, notes
//! where its parts are, and sets the registers, the result first.

use super::chain::Chain;
use crate::addr::Kva;
use crate::calls::{self, Way};
use crate::context::Context;
use crate::launch::Launch;
use crate::memory::PhysMem;
use crate::refusal::{Refusal, Result};
use crate::registers::{self, Origin, UserRegs};
use crate::tasks;
use shared_region::reasons;

/// Where a program is loaded, and what is called there while the old one still is in place.
const LOADER: [&str; 1] = ["load_elf_binary"];
const BEFORE_LOADING: [&str; 3] = ["begin_new_exec", "kernel_read", "open_exec"];

/// See the module's comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The process is what it was.
    Before,
    /// It is neither what it was nor a new program.
    Within,
    /// It is the new program.
    After,
}

/// Whether a thread starts a program (`in_execve`).
///
/// # Errors
/// It cannot be read.
pub fn is_under_way<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<bool> {
    let field = context.kernel.types.layouts.task.in_execve;
    Ok(context.kernel.mem.uint(task, field)? != 0)
}

/// How far a thread in such a call has come.
///
/// # Errors
/// It cannot be read, or told.
pub fn progress<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    task: Kva,
    user: &UserRegs,
    chain: Option<&Chain>,
) -> Result<Progress> {
    if !is_under_way(context, task)? {
        return Ok(Progress::Before);
    }
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let mm = mem.ptr(task, layouts.task.mm)?;
    let is_program = mem.uint(mm, layouts.mm.start_code)? != 0;
    chain
        .and_then(|chain| of_chain(chain, is_program, user.ax == 0))
        .ok_or_else(|| Refusal::new(reasons::EXEC, ""))
}

/// The same from where the thread is, whether the address space has got its places noted, and whether the call has its
/// result. `None` between the noting and the result: the old program has its places, too.
fn of_chain(chain: &Chain, is_program: bool, has_result: bool) -> Option<Progress> {
    let loads = chain.has(&LOADER);
    match (is_program, has_result) {
        (false, _) => Some(Progress::Within),
        (true, false) if !loads || chain.has(&BEFORE_LOADING) => Some(Progress::Before),
        (true, true) if !loads => Some(Progress::After),
        _ => None,
    }
}

/// What a process is about to run that has lost its old memory and not got the new one. `None` if it is not in between.
///
/// # Errors
/// It is, and it cannot be told what it was to run.
pub fn launch<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Option<Launch>> {
    // Of most processes this is all that is read.
    if !is_under_way(context, task)? {
        return Ok(None);
    }
    let registers = registers::read(context.kernel, context.input, task, context.cpu_of(task))?;
    let user = &registers.user;
    let starts = calls::way(user.orig_ax as u32) == Way::Exec && matches!(user.ax as i64, super::ENOSYS | 0);
    if registers.origin != Origin::Stack || !user.in_syscall() || !starts {
        return Ok(None);
    }
    let chain = Chain::of(context, task, &registers);
    match progress(context, task, user, chain.as_ref())? {
        Progress::Before | Progress::After => Ok(None),
        Progress::Within => within(context, task, chain.as_ref()).map(Some),
    }
}

/// The same of a thread that is [`Progress::Within`].
///
/// # Errors
/// It cannot be told what it was to run, or it is not alone in its process.
pub fn within<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva, chain: Option<&Chain>) -> Result<Launch> {
    let signal = context.kernel.mem.ptr(task, context.kernel.types.layouts.task.signal)?;
    if tasks::threads(context.kernel, signal)?.len() != 1 {
        return Err(Refusal::new(reasons::EXEC, "with other threads"));
    }
    Launch::find(context, task, chain.and_then(Chain::frames).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupted::chain::tests::chain;

    const OUTER: [&str; 4] = ["bprm_execve", "do_execveat_common", "__x64_sys_execve", "do_syscall_64"];

    fn at(inner: &[&str]) -> Chain {
        chain(&[inner, &OUTER].concat())
    }

    #[test]
    fn a_program_that_still_is_there_starts_the_other_again() {
        for inner in [
            &["__schedule", "schedule", "open_exec", "load_elf_binary"][..],
            &["copy_page_to_iter", "kernel_read", "load_elf_binary"],
            &["!set_mm_exe_file", "begin_new_exec", "load_elf_binary"],
            &["!load_script"],
            &[],
        ] {
            assert_eq!(of_chain(&at(inner), true, false), Some(Progress::Before), "{inner:?}");
        }
    }

    #[test]
    fn a_program_that_has_gone_is_neither() {
        for inner in [
            &["unmap_vmas", "exit_mmap", "mmput", "begin_new_exec", "load_elf_binary"][..],
            &["vm_mmap_pgoff", "load_elf_binary"],
        ] {
            for has_result in [false, true] {
                assert_eq!(of_chain(&at(inner), false, has_result), Some(Progress::Within));
            }
        }
    }

    #[test]
    fn the_last_instructions_of_loading_cannot_be_told_from_the_first() {
        assert_eq!(of_chain(&at(&["!load_elf_binary"]), true, false), None);
        assert_eq!(of_chain(&at(&["!load_elf_binary"]), true, true), None);
    }

    #[test]
    fn a_new_program_begins() {
        assert_eq!(of_chain(&at(&[]), true, true), Some(Progress::After));
    }
}
