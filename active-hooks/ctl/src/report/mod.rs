//! `orthros-ctl report`: what the last failover did, from the records in the region.

mod attempts;
mod text;
mod timeline;

use crate::exit::Exit;
use crate::snapshot::{control, open_region, stream, Snapshot, Source};
use anyhow::Result;
use attempts::Tried;
use serde_json::{json, Value};
use shared_region::context::{Cost, Evidence, FileCache, FileSystem, Lost, Machine, Outcome, Summary};
use shared_region::control::{Cause, ControlWords, SalvageGate, SuccessorPhase, WHERE_SIZE};
use shared_region::layout::{Part, CONTEXT, EPITAPH, REPORT};
use shared_region::record::{Kind, Record, Stream};
use timeline::Timeline;

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Numbers only.
    Short,
    /// With every process.
    Processes,
    /// With the evidence.
    Full,
}

/// Frames of the old kernel by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    adopted: u64,
    copied: u64,
    refused: u64,
}

/// The last failover.
#[derive(Clone, Debug)]
pub struct Report {
    number: u64,
    timeline: Timeline,
    gate: Option<SalvageGate>,
    phase: Option<SuccessorPhase>,
    cause: Cause,
    /// The Linux CPU that failed.
    cause_cpu: Option<u64>,
    /// Where that CPU hung, empty if it did not or it is not known.
    cause_where: String,
    /// Threads whose call an update has ended with EINTR.
    interrupted: u64,
    unparked: u64,
    resumed: u64,
    frames: Frames,
    machine: Option<Machine>,
    summary: Option<Summary>,
    /// By process id.
    outcomes: Vec<(u64, Outcome)>,
    /// By process id, 0 if it costs none.
    lost: Vec<(u64, Lost)>,
    evidence: Option<Evidence>,
    /// Successors, in the order in which they were tried.
    attempts: Vec<Tried>,
    /// What the parts of the hand-over have taken.
    costs: Vec<Cost>,
    /// What became of data and names that the disks did not have.
    files: Option<FileCache>,
    /// What of the records could not be read.
    problems: Vec<String>,
}

impl Report {
    /// Reads what there is; what cannot be read is named and the rest shown.
    pub fn read(source: &impl Source, snapshot: &Snapshot) -> Self {
        let mut report = Self {
            number: snapshot.failovers(),
            timeline: Timeline::read(snapshot),
            gate: SalvageGate::from_word(control!(snapshot, salvage_gate)),
            phase: SuccessorPhase::from_word(control!(snapshot, successor_phase)),
            cause: Cause::from_word(control!(snapshot, failure_cause)).unwrap_or_default(),
            cause_cpu: control!(snapshot, failure_cpu).checked_sub(1),
            cause_where: place(snapshot),
            interrupted: control!(snapshot, failure_interrupted),
            unparked: control!(snapshot, unparked_cpus),
            resumed: control!(snapshot, processes_resumed),
            frames: Frames {
                adopted: control!(snapshot, frames_adopted),
                copied: control!(snapshot, frames_copied),
                refused: control!(snapshot, frames_refused),
            },
            machine: None,
            summary: None,
            outcomes: Vec::new(),
            lost: Vec::new(),
            evidence: None,
            attempts: attempts::read(source),
            costs: Vec::new(),
            files: None,
            problems: Vec::new(),
        };
        for part in [CONTEXT, REPORT] {
            report.read_stream(source, part);
        }
        report
    }

    fn read_stream(&mut self, source: &impl Source, part: Part) {
        let bytes = stream(source, part);
        let stream = match Stream::open(&bytes) {
            Ok(stream) => stream,
            Err(error) => return self.problems.push(format!("{}: {error}", part.name)),
        };
        if stream.header.failover != self.number {
            return self.problems.push(format!(
                "{}: it belongs to failover {}, not to the last one",
                part.name, stream.header.failover
            ));
        }
        if stream.header.truncated != 0 {
            self.problems
                .push(format!("{}: the area was full, records are missing", part.name));
        }
        for record in stream.records() {
            let read = record.and_then(|record| self.add(&record));
            if let Err(error) = read {
                self.problems.push(format!("{}: {error}", part.name));
            }
        }
    }

    fn add(&mut self, record: &Record<'_>) -> Result<(), shared_region::record::RecordError> {
        match record.kind {
            Kind::Machine => self.machine = Some(record.decode()?),
            Kind::Summary => self.summary = Some(record.decode()?),
            Kind::Evidence => self.evidence = Some(record.decode()?),
            Kind::Costs => self.costs = record.decode()?,
            Kind::FileCache => self.files = Some(record.decode()?),
            Kind::Outcome => self.outcomes.push((record.owner, record.decode()?)),
            Kind::Lost => self.lost.push((record.owner, record.decode()?)),
            _ => {}
        }
        Ok(())
    }

    /// Processes that were to be kept and do not run.
    fn not_resumed(&self) -> u64 {
        let refused = u64::from(self.summary.map_or(0, |summary| summary.refused));
        refused + self.outcomes.iter().filter(|(_, outcome)| !outcome.resumed).count() as u64
    }

    /// Processes that run again: as the agent recorded them, or as they were counted while it works.
    fn resumed(&self) -> u64 {
        let recorded = self.outcomes.iter().filter(|(_, outcome)| outcome.resumed).count() as u64;
        recorded.max(self.resumed)
    }

    /// For programs.
    pub fn json(&self, detail: Detail) -> Value {
        let mut value = json!({
            "version": 1,
            "failover": self.number,
            "salvage": self.gate.map(|gate| format!("{gate:?}").to_lowercase()),
            "phase": self.phase.map(|phase| format!("{phase:?}").to_lowercase()),
            "old_kernel": self.machine.as_ref().map(|machine| machine.release.clone()),
            "timeline_ns": self.timeline.json(),
            "cause": self.cause.name(),
            "cause_cpu": self.cause_cpu,
            "cause_where": (!self.cause_where.is_empty()).then_some(&self.cause_where),
            "interrupted_calls": self.interrupted,
            "unparked_cpus": self.unparked,
            "attempts": self.attempts.iter().map(Tried::json).collect::<Vec<_>>(),
            "processes": {"resumed": self.resumed(), "not_resumed": self.not_resumed()},
            "frames": {
                "adopted": self.frames.adopted,
                "copied": self.frames.copied,
                "refused": self.frames.refused,
                "retained": self.summary.map(|summary| summary.retained_frames),
            },
            "costs": self
                .costs
                .iter()
                .map(|cost| json!({"part": cost.part, "times": cost.times, "nanoseconds": cost.nanoseconds}))
                .collect::<Vec<_>>(),
            "file_cache": self.files.as_ref().map(|files| {
                let each = |it: &FileSystem| json!({"name": it.name, "done": it.done});
                json!({
                    "file_systems": files.file_systems.iter().map(each).collect::<Vec<_>>(),
                    "files": files.files,
                    "bytes": files.bytes,
                    "pages": {"in_place": files.in_place, "copied": files.copied},
                    "nanoseconds": files.nanoseconds,
                })
            }),
            "problems": self.problems,
        });
        if detail == Detail::Short {
            return value;
        }
        value["saved_and_not"] = self
            .outcomes
            .iter()
            .map(|(pid, outcome)| {
                json!({
                    "pid": pid,
                    "comm": outcome.comm,
                    "resumed": outcome.resumed,
                    "remarks": outcome.remarks,
                    "adopted": outcome.adopted,
                    "copied": outcome.copied,
                })
            })
            .collect();
        value["lost"] = self
            .lost
            .iter()
            .map(|(pid, lost)| {
                json!({
                    "pid": pid,
                    "comm": lost.comm,
                    "object": lost.object,
                    "reason": lost.reason,
                    "fatal": lost.fatal,
                })
            })
            .collect();
        if detail == Detail::Full {
            value["evidence"] = self
                .evidence
                .as_ref()
                .map(|evidence| {
                    json!({
                        "panic_cpu": evidence.panic_cpu,
                        "task": evidence.task,
                        "stack": evidence.stack,
                        "tasks": evidence.tasks,
                        "dmesg": evidence.dmesg,
                    })
                })
                .into();
        }
        value
    }
}

/// Where the CPU that failed hung.
fn place(snapshot: &Snapshot) -> String {
    let first = std::mem::offset_of!(ControlWords, failure_where);
    let words = (0..WHERE_SIZE / 8).map(|index| snapshot.word(first + 8 * index));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How the last life of the machine ended, if it was given up.
fn last_life(source: &impl Source) -> Option<String> {
    let text = crate::log::text(source, EPITAPH);
    (attempts::epitaph_is_old(source) && !text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}

fn without_failover(last_words: Option<&str>) -> String {
    let mut text = "there has been no failover since the machine was started\n".to_owned();
    if let Some(words) = last_words {
        text += "before that it was given up, and reset by the backup OS:\n";
        text.extend(words.lines().map(|line| format!("  {line}\n")));
    }
    text
}

/// Prints the report of the last failover, or says that there is none.
pub fn run(json: bool, full: bool) -> Result<Exit> {
    let (_device, region) = open_region()?;
    let snapshot = Snapshot::take(&region);
    let last_words = last_life(&region);
    if snapshot.failovers() == 0 {
        if json {
            println!("{:#}", json!({"version": 1, "failover": 0, "last_life": last_words}));
        } else {
            print!("{}", without_failover(last_words.as_deref()));
        }
        return Ok(Exit::Fine);
    }
    let report = Report::read(&region, &snapshot);
    let detail = if full { Detail::Full } else { Detail::Processes };
    if json {
        println!("{:#}", report.json(detail));
    } else {
        print!("{}", report.text(detail));
    }
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;
    use shared_region::control::ControlWords;
    use shared_region::layout::TIMELINE;
    use shared_region::record::Writer;
    use shared_region::timeline::Event;
    use std::mem::offset_of;

    fn failed_over() -> Fake {
        let mut fake = Fake::armed();
        let words = [
            (offset_of!(ControlWords, failover_count), 2),
            (offset_of!(ControlWords, failure_cause), Cause::SoftLockup as u64),
            (offset_of!(ControlWords, failure_cpu), 3),
            (
                offset_of!(ControlWords, failure_where),
                u64::from_le_bytes(*b"spin+0x9"),
            ),
            (offset_of!(ControlWords, salvage_gate), 2),
            (offset_of!(ControlWords, successor_phase), 5),
            (offset_of!(ControlWords, processes_resumed), 1),
            (offset_of!(ControlWords, frames_adopted), 262_144),
            (offset_of!(ControlWords, frames_copied), 17),
        ];
        for (offset, value) in words {
            fake.set_control(offset, value);
        }
        // The fake machine's counter ticks once a nanosecond.
        for (event, tsc) in [
            (Event::Failed, 1_000_000),
            (Event::Detected, 1_800_000),
            (Event::Stopped, 5_000_000),
            (Event::Salvaged, 12_345_678),
            (Event::FirstResumed, 7_001_000_000),
            (Event::AllResumed, 7_101_000_000),
        ] {
            fake.set_word(TIMELINE, event as usize, tsc);
        }
        let mut area = vec![0; 4096];
        let mut writer = Writer::new(&mut area, 2).expect("room");
        let machine = Machine {
            release: "6.1.0-56-cloud-amd64".into(),
            ..Machine::default()
        };
        writer.push(Kind::Machine, 1, 0, 0, &machine).expect("room");
        let lost = Lost {
            object: "fd 5".into(),
            reason: "has a socket open".into(),
            fatal: true,
            comm: "sshd".into(),
        };
        writer.push(Kind::Lost, 1, 0, 3001, &lost).expect("room");
        let evidence = Evidence {
            dmesg: "[    9.1] Kernel panic - not syncing: sysrq triggered crash\n".into(),
            panic_cpu: 2,
            task: "2222 bash".into(),
            stack: vec!["panic+0x1b3".into(), "sysrq_handle_crash+0x16".into()],
            tasks: vec!["1 systemd S".into()],
        };
        writer.push(Kind::Evidence, 1, 0, 0, &evidence).expect("room");
        let summary = Summary {
            processes: 1,
            threads: 8,
            refused: 1,
            retained_frames: 300_000,
            ..Summary::default()
        };
        writer.push(Kind::Summary, 1, 0, 0, &summary).expect("room");
        writer.finish();
        fake.0.insert(CONTEXT.offset, area);
        let mut area = vec![0; 4096];
        let mut writer = Writer::new(&mut area, 2).expect("room");
        let outcome = Outcome {
            comm: "worker".into(),
            resumed: true,
            remarks: vec!["epoll_wait was answered with EINTR".into()],
            adopted: 262_144,
            copied: 17,
        };
        writer.push(Kind::Outcome, 1, 0, 2345, &outcome).expect("room");
        let cost = Cost {
            part: "adoption".into(),
            times: 4,
            nanoseconds: 1_234_567,
        };
        writer.push(Kind::Costs, 1, 0, 0, &vec![cost]).expect("room");
        let files = FileCache {
            file_systems: vec![FileSystem {
                name: "vda".into(),
                done: "transaction 7 with 3 blocks, 0 revoked, is in its log".into(),
            }],
            files: 64,
            bytes: 536_870_912,
            in_place: 131_000,
            copied: 72,
            nanoseconds: 1_500_000_000,
        };
        writer.push(Kind::FileCache, 1, 0, 0, &files).expect("room");
        writer.finish();
        fake.0.insert(REPORT.offset, area);
        fake
    }

    fn report(fake: &Fake) -> Report {
        Report::read(fake, &Snapshot::take(fake))
    }

    #[test]
    fn golden_text() {
        let expected = "\
Failover 2 of the machine: salvage open, hand-over complete.
The kernel that died: 6.1.0-56-cloud-amd64
Cause: a CPU let no thread on any more: CPU 2 at spin+0x9

Timeline
  failed                     0 ns           0 ns
  detected             800 000 ns       800.0 µs
  stopped            4 000 000 ns         4.0 ms
  salvaged          11 345 678 ns        11.3 ms
  first_resumed  7 000 000 000 ns        7.000 s
  all_resumed    7 100 000 000 ns        7.100 s

Processes: 1 runs again, 1 does not
  2345 worker: runs again, 262144 frames adopted, 17 copied
    epoll_wait was answered with EINTR
  3001 sshd: not kept: fd 5: has a socket open

Frames: 262144 adopted in place, 17 copied, 0 refused, 300000 retained
File system on vda: transaction 7 with 3 blocks, 0 revoked, is in its log
Data of 64 files that nobody protected holds: 536870912 bytes put back in 1.500 s, 131000 pages in place, 72 copied
";
        assert_eq!(report(&failed_over()).text(Detail::Processes), expected);
    }

    #[test]
    fn a_machine_that_was_given_up_says_why_after_the_reset() {
        let mut fake = Fake::armed();
        assert_eq!(last_life(&fake), None);
        for (at, word) in [7, EPITAPH.size - 64, 0, 0, 0, 0, 0, 0, u64::from_le_bytes(*b"no luck.")]
            .into_iter()
            .enumerate()
        {
            fake.set_word(EPITAPH, at, word);
        }
        assert_eq!(last_life(&fake), None, "it is of this life");
        let old = std::mem::offset_of!(shared_region::attempts::AttemptWords, old_epitaph);
        fake.set_word(shared_region::layout::ATTEMPTS, old / 8, 1);
        let words = last_life(&fake);
        assert_eq!(words.as_deref(), Some("no luck"));
        assert!(without_failover(words.as_deref()).contains("  no luck\n"));
    }

    #[test]
    fn the_evidence_comes_on_demand() {
        let report = report(&failed_over());
        let text = report.text(Detail::Full);
        assert!(
            text.contains("CPU 2, task 2222 bash") && text.contains("sysrq_handle_crash+0x16"),
            "{text}"
        );
        assert!(
            text.contains("sysrq triggered crash") && text.contains("1 systemd S"),
            "{text}"
        );
        assert!(
            text.contains("  adoption           1 234 567 ns,      4 times\n"),
            "{text}"
        );
        assert!(report.json(Detail::Processes).get("evidence").is_none());
        assert_eq!(report.json(Detail::Full)["evidence"]["panic_cpu"], 2);
    }

    #[test]
    fn json_has_what_programs_need() {
        let value = report(&failed_over()).json(Detail::Processes);
        assert_eq!(value["timeline_ns"]["stopped"], 4_000_000);
        assert_eq!(value["timeline_ns"]["complete"], Value::Null);
        let adoption = json!({"part": "adoption", "times": 4, "nanoseconds": 1_234_567});
        assert_eq!(value["costs"], json!([adoption]));
        assert_eq!(value["cause"], "soft-lockup");
        assert_eq!(value["cause_where"], "spin+0x9");
        assert_eq!(value["processes"], json!({"resumed": 1, "not_resumed": 1}));
        assert_eq!(value["lost"][0]["pid"], 3001);
        assert_eq!(value["saved_and_not"][0]["resumed"], true);
    }

    #[test]
    fn records_that_cannot_be_read_are_named_and_the_rest_is_shown() {
        let mut fake = failed_over();
        fake.0.get_mut(&CONTEXT.offset).expect("records")[100] ^= 1;
        let report = report(&fake);
        let text = report.text(Detail::Processes);
        assert!(
            text.contains("Essential Context: record stream: digest does not match"),
            "{text}"
        );
        assert!(text.contains("2345 worker: runs again"), "{text}");
    }

    #[test]
    fn records_of_an_earlier_failover_are_not_shown_as_this_ones() {
        let mut fake = failed_over();
        fake.set_control(offset_of!(ControlWords, failover_count), 3);
        let report = report(&fake);
        assert!(report.outcomes.is_empty() && report.lost.is_empty());
        assert_eq!(report.problems.len(), 2);
    }
}
