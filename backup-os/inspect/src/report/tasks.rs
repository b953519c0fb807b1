//! Processes and their threads.

use super::{printable, Dead, Problems};
use salvage::overview::{processes, Process, Thread};
use serde::Serialize;
use std::io::{self, Write};

/// A process, or a thread of the kernel.
#[derive(Debug, Serialize)]
pub struct TaskEntry {
    /// Process id.
    tgid: u32,
    /// Process id of its parent.
    ppid: u32,
    /// Real user id.
    uid: Option<u32>,
    /// Name of its first thread.
    comm: String,
    /// State of its first thread, as `ps` shows it.
    state: char,
    /// Whether it is a thread of the kernel.
    kernel: bool,
    /// Its threads, the first one first.
    threads: Vec<ThreadEntry>,
}

/// A thread.
#[derive(Debug, Serialize)]
pub struct ThreadEntry {
    /// Its id.
    pid: u32,
    /// Its name.
    comm: String,
    /// Its state, as `ps` shows it.
    state: char,
    /// Whether it was on a CPU.
    on_cpu: bool,
    /// Address of its `struct task_struct`.
    task: String,
}

/// Reads the section.
pub fn gather(dead: &Dead<'_>, problems: &mut Problems) -> Vec<TaskEntry> {
    let found = processes(dead, |error| problems.note("tasks", error));
    found.iter().filter_map(entry).collect()
}

fn entry(process: &Process) -> Option<TaskEntry> {
    let leader = process.threads.first()?;
    Some(TaskEntry {
        tgid: leader.tgid,
        ppid: leader.ppid,
        uid: leader.uid,
        comm: printable(&leader.comm),
        state: leader.state,
        kernel: leader.kernel,
        threads: process.threads.iter().map(thread).collect(),
    })
}

fn thread(thread: &Thread) -> ThreadEntry {
    ThreadEntry {
        pid: thread.pid,
        comm: printable(&thread.comm),
        state: thread.state,
        on_cpu: thread.on_cpu,
        task: thread.task.to_string(),
    }
}

/// Writes the section for people: a line for each process and, indented, for each further thread.
pub fn write_text(section: &[TaskEntry], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nTASKS ({})", section.len())?;
    writeln!(out, "  {:>7} {:>7} {:>7} S  {:<18}  TASK", "PID", "PPID", "UID", "COMM")?;
    for process in section {
        let uid = process.uid.map_or("?".into(), |uid| uid.to_string());
        for (place, thread) in process.threads.iter().enumerate() {
            let cpu = if thread.on_cpu { '*' } else { ' ' };
            let (ppid, uid, comm) = if place > 0 {
                (String::new(), String::new(), format!("  {}", thread.comm))
            } else if process.kernel {
                (process.ppid.to_string(), uid.clone(), format!("[{}]", thread.comm))
            } else {
                (process.ppid.to_string(), uid.clone(), thread.comm.clone())
            };
            let state = thread.state;
            writeln!(
                out,
                "  {:>7} {ppid:>7} {uid:>7} {state}{cpu} {comm:<18}  {}",
                thread.pid, thread.task
            )?;
        }
    }
    Ok(())
}
