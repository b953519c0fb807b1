//! One line for every thread of the machine, protected or not: what `ps` would have shown. Part of the evidence that is
//! kept of a failure.

use crate::addr::Kva;
use crate::error::{About, WalkError};
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use alloc::vec::Vec;

/// More tasks than `pid_max` allows (`PID_MAX_LIMIT` is 4 Mi).
const MAX_TASKS: u64 = 4 << 20;
/// `PF_KTHREAD` in `task_struct.flags` (`include/linux/sched.h`).
const PF_KTHREAD: u64 = 0x0020_0000;
/// Bits of the state that are shown (`TASK_REPORT`, `include/linux/sched.h`).
const TASK_REPORT: u64 = 0x7F;
/// `TASK_IDLE`: asleep without counting as load.
const TASK_IDLE: u64 = 0x402;

crate::mirrors! {
    /// A task, as far as it is shown.
    pub struct TaskLine = "task_struct" {
        /// Its place among the processes, if it leads one.
        tasks: Field,
        /// Its place among the threads of its process.
        thread_node: Field,
        /// What the threads share.
        signal: Field,
        /// Id.
        pid: Field,
        /// Id of its process.
        tgid: Field,
        /// The process it belongs to as a child.
        real_parent: Field,
        /// Name.
        comm: Field,
        /// What it does.
        state: Field = "__state" | "state",
        /// How far it has ended.
        exit_state: Field,
        /// Flags.
        flags: Field,
        /// Whether it is on a CPU.
        on_cpu: Field,
        /// Credentials it acts with.
        cred: Field,
    }

    /// What the threads of a process share, as far as it is needed.
    pub struct SignalLine = "signal_struct" {
        /// Head of the list of threads.
        thread_head: Field,
        /// Number of threads.
        nr_threads: Field,
    }

    /// Credentials, as far as they are shown.
    pub struct CredLine = "cred" {
        /// Real user id.
        uid: Field,
    }
}

crate::mirror_set! {
    /// The mirrors of the overview.
    pub struct OverviewTypes {
        /// `struct task_struct`.
        task: TaskLine,
        /// `struct signal_struct`.
        signal: SignalLine,
        /// `struct cred`.
        cred: CredLine,
    }
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its `struct task_struct`.
    pub task: Kva,
    /// Its id, in the first pid namespace.
    pub pid: u32,
    /// Id of its process.
    pub tgid: u32,
    /// Id of the parent process, 0 if it has none.
    pub ppid: u32,
    /// Real user id in the first user namespace; `None` if its credentials cannot be read.
    pub uid: Option<u32>,
    /// Name.
    pub comm: Vec<u8>,
    /// Letter of its state, as `ps` shows it.
    pub state: char,
    /// Whether it was on a CPU.
    pub on_cpu: bool,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
}

/// A process, or a thread of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Number of threads the kernel counted; differs from those found if the list is torn.
    pub counted_threads: u64,
    /// The threads, the first one first.
    pub threads: Vec<Thread>,
}

/// All processes in the order they were created. What cannot be read is passed to `problem`, the rest goes on.
pub fn processes<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, mut problem: impl FnMut(WalkError)) -> Vec<Process> {
    let types = &kernel.types.overview;
    let head = kernel.symbols.init_task.offset(u64::from(types.task.tasks.offset));
    let mut found = Vec::new();
    for leader in kernel.list(head, types.task.tasks).bounded(MAX_TASKS) {
        match leader.and_then(|leader| process(kernel, leader, &mut problem)) {
            Ok(process) => found.push(process),
            Err(error) => problem(error),
        }
    }
    found
}

fn process<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    leader: Kva,
    problem: &mut impl FnMut(WalkError),
) -> Result<Process, WalkError> {
    let types = &kernel.types.overview;
    let signal = kernel.mem.ptr(leader, types.task.signal).about("task_struct")?;
    let counted_threads = kernel
        .mem
        .uint(signal, types.signal.nr_threads)
        .about("signal_struct")?;
    let head = signal.offset(u64::from(types.signal.thread_head.offset));
    let mut threads = Vec::new();
    for task in kernel.list(head, types.task.thread_node).bounded(MAX_TASKS) {
        match task.and_then(|task| thread(kernel, task)) {
            Ok(thread) => threads.push(thread),
            Err(error) => problem(error),
        }
    }
    Ok(Process {
        counted_threads,
        threads,
    })
}

fn thread<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, task: Kva) -> Result<Thread, WalkError> {
    let types = &kernel.types.overview.task;
    let number = |of, field| kernel.mem.uint(of, field).about("task_struct");
    let parent = Kva(number(task, types.real_parent)?);
    let cred = Kva(number(task, types.cred)?);
    let state = number(task, types.state)? | number(task, types.exit_state)?;
    Ok(Thread {
        task,
        pid: number(task, types.pid)? as u32,
        tgid: number(task, types.tgid)? as u32,
        ppid: number(parent, types.tgid)? as u32,
        uid: kernel
            .mem
            .uint(cred, kernel.types.overview.cred.uid)
            .ok()
            .map(|uid| uid as u32),
        comm: kernel.mem.text(task, types.comm).about("task_struct")?,
        state: state_letter(state),
        on_cpu: number(task, types.on_cpu)? != 0,
        kernel: number(task, types.flags)? & PF_KTHREAD != 0,
    })
}

/// The letter for `__state | exit_state` (`task_state_to_char`).
fn state_letter(state: u64) -> char {
    if state & TASK_IDLE == TASK_IDLE {
        return 'I';
    }
    let highest = 64u32.saturating_sub((state & TASK_REPORT).leading_zeros());
    "RSDTtXZP".chars().nth(highest as usize).unwrap_or('?')
}

#[cfg(test)]
mod tests {
    use super::state_letter;

    #[test]
    fn states_have_the_letters_of_ps() {
        let states = [0, 1, 2, 4, 8, 0x10, 0x20, 0x40, 0x402, 0x2001];
        assert_eq!(
            states.map(state_letter).iter().collect::<alloc::string::String>(),
            "RSDTtXZPIS"
        );
    }
}
