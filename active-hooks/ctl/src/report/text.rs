//! The report for people.

use super::{Detail, Report};
use crate::units::{count, duration};
use shared_region::context::FileSystem;
use shared_region::control::{Cause, SalvageGate, SuccessorPhase};
use shared_region::timeline::Event;
use std::fmt::Write;

/// A number with blanks between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

impl Report {
    fn salvage_text(&self) -> &'static str {
        match self.gate {
            Some(SalvageGate::None) => "nothing was salvaged",
            Some(SalvageGate::Busy) => "salvage is under way",
            Some(SalvageGate::Open) => "salvage open",
            Some(SalvageGate::Failed) => "salvage failed, nothing could be kept",
            Some(SalvageGate::Forbidden) => "a CPU could not be parked, so nothing was touched",
            None => "salvage in an unknown state",
        }
    }

    fn phase_text(&self) -> &'static str {
        match self.phase {
            Some(SuccessorPhase::None) => "the new kernel has not reported in",
            Some(SuccessorPhase::Module) => "hand-over has begun",
            Some(SuccessorPhase::MemoryAdded) => "memory has been added",
            Some(SuccessorPhase::Files) => "files are back",
            Some(SuccessorPhase::Resumed) => "processes run",
            Some(SuccessorPhase::Complete) => "hand-over complete",
            None => "hand-over in an unknown state",
        }
    }

    /// One line.
    pub fn summary(&self) -> String {
        let time = self
            .timeline
            .at(Event::AllResumed)
            .map_or_else(String::new, |time| format!(" after {}", duration(time)));
        format!(
            "failover {}: {} resumed{time}, {} not; {}",
            self.number,
            self.resumed(),
            self.not_resumed(),
            self.phase_text()
        )
    }

    /// The whole report.
    pub fn text(&self, detail: Detail) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out, detail);
        out
    }

    fn write(&self, out: &mut String, detail: Detail) -> std::fmt::Result {
        writeln!(
            out,
            "Failover {} of the machine: {}, {}.",
            self.number,
            self.salvage_text(),
            self.phase_text()
        )?;
        if let Some(machine) = &self.machine {
            writeln!(out, "The kernel that died: {}", machine.release)?;
        }
        self.write_cause(out)?;
        if self.unparked > 0 {
            writeln!(out, "CPUs that could not be parked: {}", self.unparked)?;
        }
        // One that simply took over is not worth a line.
        if self.attempts.len() > 1 {
            writeln!(out, "Successors that were tried:")?;
            for attempt in &self.attempts {
                writeln!(out, "  {}", attempt.text())?;
            }
        }
        for problem in &self.problems {
            writeln!(out, "Cannot be shown: {problem}")?;
        }
        writeln!(out, "\nTimeline")?;
        for (_, name, time) in &self.timeline.0 {
            writeln!(out, "  {name:<13} {:>14} ns {:>14}", grouped(*time), duration(*time))?;
        }
        let (resumed, not) = (self.resumed(), self.not_resumed());
        let run = if resumed == 1 { "runs" } else { "run" };
        let does = if not == 1 { "does" } else { "do" };
        writeln!(out, "\nProcesses: {resumed} {run} again, {not} {does} not")?;
        self.write_processes(out)?;
        write!(
            out,
            "\nFrames: {} adopted in place, {} copied, {} refused",
            self.frames.adopted, self.frames.copied, self.frames.refused
        )?;
        match self.summary {
            Some(summary) => writeln!(out, ", {} retained", summary.retained_frames)?,
            None => writeln!(out)?,
        }
        self.write_files(out)?;
        if detail == Detail::Full {
            self.write_costs(out)?;
            self.write_evidence(out)?;
        }
        Ok(())
    }

    fn write_files(&self, out: &mut String) -> std::fmt::Result {
        let Some(files) = &self.files else { return Ok(()) };
        for FileSystem { name, done } in &files.file_systems {
            writeln!(out, "File system on {name}: {done}")?;
        }
        if files.files == 0 {
            return Ok(());
        }
        writeln!(
            out,
            "Data of {} that nobody protected holds: {} bytes put back in {}, {} pages in place, {} copied",
            count(files.files, "file", "files"),
            files.bytes,
            duration(files.nanoseconds),
            files.in_place,
            files.copied
        )
    }

    fn write_costs(&self, out: &mut String) -> std::fmt::Result {
        if !self.costs.is_empty() {
            writeln!(out, "\nParts of the hand-over")?;
        }
        for cost in &self.costs {
            let time = grouped(cost.nanoseconds);
            writeln!(out, "  {:<13} {time:>14} ns, {:>6} times", cost.part, cost.times)?;
        }
        Ok(())
    }

    fn write_cause(&self, out: &mut String) -> std::fmt::Result {
        let text = match self.cause {
            Cause::Unknown => return Ok(()),
            Cause::Panic => "the kernel panicked",
            Cause::Update => "a planned update",
            Cause::AllCpusHung => "no CPU took interrupts any more",
            Cause::CpuHung => "a CPU took no interrupts any more",
            Cause::SoftLockup => "a CPU let no thread on any more",
            Cause::LiveLock => "ordinary threads did not get their turn on a CPU any more",
            Cause::Silent => "it was still taking over, and gave no sign of life any more",
        };
        write!(out, "Cause: {text}")?;
        match (self.cause_cpu, self.cause_where.as_str()) {
            (None, _) => {}
            (Some(cpu), "") => write!(out, ": CPU {cpu}")?,
            (Some(cpu), place) => write!(out, ": CPU {cpu} at {place}")?,
        }
        if self.interrupted > 0 {
            let threads = count(self.interrupted, "thread", "threads");
            write!(out, "; the calls of {threads} ended with EINTR")?;
        }
        writeln!(out)
    }

    fn write_processes(&self, out: &mut String) -> std::fmt::Result {
        for (pid, outcome) in &self.outcomes {
            if outcome.resumed {
                writeln!(
                    out,
                    "  {pid} {}: runs again, {} frames adopted, {} copied",
                    outcome.comm, outcome.adopted, outcome.copied
                )?;
            } else {
                writeln!(out, "  {pid} {}: could not be restored", outcome.comm)?;
            }
            for remark in &outcome.remarks {
                writeln!(out, "    {remark}")?;
            }
        }
        for (pid, lost) in &self.lost {
            let cost = if lost.fatal { "not kept" } else { "kept without" };
            match *pid {
                0 => writeln!(out, "  {}: {}", lost.object, lost.reason)?,
                pid => writeln!(out, "  {pid} {}: {cost}: {}: {}", lost.comm, lost.object, lost.reason)?,
            }
        }
        Ok(())
    }

    fn write_evidence(&self, out: &mut String) -> std::fmt::Result {
        let Some(evidence) = &self.evidence else {
            return writeln!(out, "\nThere is no evidence of why the kernel died.");
        };
        match evidence.panic_cpu {
            cpu @ 0.. => writeln!(out, "\nThe kernel panicked on CPU {cpu}, task {}", evidence.task)?,
            _ => match (self.cause_cpu, evidence.task.as_str()) {
                (None, _) | (_, "") => writeln!(out, "\nNo CPU had panicked")?,
                (Some(cpu), task) => writeln!(out, "\nCPU {cpu} hung, task {task}")?,
            },
        }
        for frame in &evidence.stack {
            writeln!(out, "  {frame}")?;
        }
        writeln!(out, "\nTasks")?;
        for task in &evidence.tasks {
            writeln!(out, "  {task}")?;
        }
        writeln!(out, "\nEnd of its log\n{}", evidence.dmesg.trim_end())
    }
}
