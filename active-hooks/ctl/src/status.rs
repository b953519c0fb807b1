//! `orthros-ctl status`.

use crate::config;
use crate::exit::Exit;
use crate::report::{self, Report};
use crate::rescue_area;
use crate::root::Root;
use crate::snapshot::{comm_of, control, open_region, Snapshot, Source};
use crate::stage::slots::{self, Answer, Slot};
use crate::units::count;
use anyhow::Result;
use boot_plan::parameters::{deviations, Addition, Deviation, Facts};
use serde_json::{json, Value};
use shared_region::control::{features, HangLimit, WatchReason, WatchState};
use shared_region::protect::{flags, kind, ProtectEntry};
use std::fmt::Write;

/// What is shown.
pub struct Status {
    snapshot: Snapshot,
    staged: Vec<Slot>,
    answer: Answer,
    deviations: Vec<Deviation>,
    release: String,
    last: Option<Report>,
    /// In words, and as JSON.
    rescue_area: (String, Value),
}

/// The watcher's state in words.
pub fn state_text(snapshot: &Snapshot) -> String {
    let word = control!(snapshot, watch_state);
    let Some(state) = WatchState::from_word(word) else {
        return format!("unknown state {word}");
    };
    match state {
        WatchState::Off => "the backup OS has not started".into(),
        WatchState::Unarmed => format!("not armed: {}", reason_text(snapshot)),
        WatchState::Armed => "armed".into(),
        WatchState::Stopping => "stopping the failed kernel".into(),
        WatchState::Salvaging => "salvaging".into(),
        WatchState::HandingOver => "handing over to this kernel".into(),
        WatchState::Dead => "given up; `orthros-ctl log --epitaph` says why".into(),
    }
}

/// Why the watcher is not armed, with the way out.
fn reason_text(snapshot: &Snapshot) -> String {
    let word = control!(snapshot, watch_reason);
    let Some(reason) = WatchReason::from_word(word) else {
        return format!("for reason {word}, which this program does not know");
    };
    match reason {
        WatchReason::None => "no reason given; it may be about to be",
        WatchReason::NoFacts => "the module has told nothing about this kernel yet: `modprobe orthros`",
        WatchReason::FactsVersion => "module and backup OS are of different versions: install the same package for both and restart",
        WatchReason::FactsInvalid => "what the module told does not fit the memory it describes; `orthros-ctl log` has the details",
        WatchReason::Btf => "this kernel's BTF cannot be read, lacks what salvage needs, or is another kernel's; `orthros-ctl log` has the details: a kernel with CONFIG_DEBUG_INFO_BTF is required",
        WatchReason::Stage => "no kernel is staged, or its digest is wrong: check the kernel and initramfs modules of the boot entry",
        WatchReason::HandOver => "the last failover is still being handed over, or its nursery is not free yet",
    }
    .into()
}

impl Status {
    /// Reads everything.
    pub fn take(source: &impl Source, root: &Root) -> Self {
        let snapshot = Snapshot::take(source);
        let line = root.line("/proc/cmdline").unwrap_or_default();
        // A kernel that has taken over was booted in a nursery and got the parameters for that as well.
        let addition = match snapshot.failovers() {
            0 => Addition::First,
            _ => Addition::Successor,
        };
        Self {
            deviations: snapshot
                .header
                .as_ref()
                .map(|header| deviations(line.as_bytes(), &Facts::of(header), addition))
                .unwrap_or_default(),
            staged: slots::read(source, &snapshot),
            answer: slots::answer(source),
            rescue_area: (rescue_area::text(source), rescue_area::json(source)),
            release: root.line("/proc/sys/kernel/osrelease").unwrap_or_else(|| "?".into()),
            last: (snapshot.failovers() > 0).then(|| Report::read(source, &snapshot)),
            snapshot,
        }
    }

    /// Whether the machine would come back from a failure.
    pub fn armed(&self) -> bool {
        let state = WatchState::from_word(control!(self.snapshot, watch_state));
        self.snapshot.header.is_ok() && state == Some(WatchState::Armed)
    }

    /// The staged kernel that would be booted, if there is one.
    pub fn staged(&self) -> Option<&Slot> {
        self.staged.iter().find(|slot| slot.next)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, text: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{:<12} {text}", format!("{name}:"));
        };
        let snapshot = &self.snapshot;
        match &snapshot.header {
            Ok(_) => line("state", state_text(snapshot)),
            Err(error) => line("state", format!("unusable: {error}")),
        }
        line("kernel", self.release.clone());
        match &snapshot.facts {
            Ok(facts) if facts.release() == self.release => {}
            Ok(facts) => line("facts", format!("of another kernel: {}", facts.release())),
            Err(error) => line("facts", error.to_string().trim_start_matches("facts: ").to_owned()),
        }
        if let Ok(header) = &snapshot.header {
            line(
                "machine",
                format!(
                    "{} for Linux, core with APIC id {} reserved; region at {:#x}, nursery {} at {:#x} reserved",
                    count(header.cpu_count, "CPU", "CPUs"),
                    header.reserved_apic_id,
                    header.base,
                    header.reserved_nursery,
                    header
                        .nursery
                        .get(header.reserved_nursery as usize)
                        .copied()
                        .unwrap_or(0),
                ),
            );
        }
        match self.staged.as_slice() {
            [] => line("staged", "nothing".into()),
            slots => slots.iter().for_each(|slot| line("staged", slot.text())),
        }
        if let Some(text) = slots::state_text(&self.answer) {
            line("stage", text);
        }
        if let Some(text) = snapshot.standby.text() {
            line("standby", text);
        }
        line("rescue area", self.rescue_area.0.clone());
        line(
            "watcher",
            format!(
                "{} looks, {} stray interrupts",
                control!(snapshot, watcher_looks),
                control!(snapshot, stray_vectors)
            ),
        );
        line("hangs", hangs_text(snapshot));
        match snapshot.protected.as_slice() {
            [] => line("protected", "nothing; see `orthros-ctl protect --help`".into()),
            entries => entries.iter().for_each(|entry| line("protected", entry_text(entry))),
        }
        for deviation in &self.deviations {
            let found = deviation
                .found
                .as_ref()
                .map_or_else(|| "missing".into(), |found| format!("is `{found}`"));
            line(
                "parameter",
                format!("`{}` {found}: {}", deviation.wanted, deviation.reason),
            );
        }
        match &self.last {
            Some(report) => line("last", report.summary()),
            None => line("last", "no failover since the machine was started".into()),
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let snapshot = &self.snapshot;
        let header = snapshot.header.as_ref();
        json!({
            "version": 1,
            "armed": self.armed(),
            "state": state_text(snapshot),
            "header_error": header.err().map(|error| error.to_string()),
            "kernel": self.release,
            "facts": {
                "release": snapshot.facts.as_ref().ok().map(|facts| facts.release().to_owned()),
                "error": snapshot.facts.as_ref().err().map(|error| error.to_string()),
            },
            "cpus": header.ok().map(|header| header.cpu_count),
            "reserved_apic_id": header.ok().map(|header| header.reserved_apic_id),
            "region": header.ok().map(|header| header.base),
            "reserved_nursery": header.ok().map(|header| header.reserved_nursery),
            "staged": self.staged().map(Slot::json),
            "slots": self.staged.iter().map(Slot::json).collect::<Vec<_>>(),
            "stage": slots::state_text(&self.answer),
            "standby": snapshot.standby.name(),
            "rescue_area": self.rescue_area.1,
            "standby_details": snapshot.standby.details(),
            "watcher_looks": control!(snapshot, watcher_looks),
            "stray_vectors": control!(snapshot, stray_vectors),
            "hangs": {
                "watched": watches_hangs(snapshot),
                "questions": control!(snapshot, hang_questions),
                "stalled_threads": control!(snapshot, stalled_threads),
            },
            "failovers": snapshot.failovers(),
            "protected": snapshot.protected.iter().map(entry_json).collect::<Vec<_>>(),
            "parameters": self.deviations.iter().map(|deviation| json!({
                "wanted": deviation.wanted,
                "found": deviation.found,
                "reason": deviation.reason,
            })).collect::<Vec<_>>(),
            "last_failover": self.last.as_ref().map(|report| report.json(report::Detail::Short)),
        })
    }
}

fn watches_hangs(snapshot: &Snapshot) -> bool {
    control!(snapshot, module_features) & features::ANSWERS != 0
}

/// After how long a hang is one, and what has looked like one.
fn hangs_text(snapshot: &Snapshot) -> String {
    if !watches_hangs(snapshot) {
        return "not noticed: the module does not answer questions".into();
    }
    let limit = |limit| config::text(config::deadline(snapshot, limit));
    format!(
        "a CPU after {}, a thread after {}, a live-lock after {}; {} asked, {} stalled",
        limit(HangLimit::Cpu),
        limit(HangLimit::Thread),
        limit(HangLimit::LiveLock),
        count(control!(snapshot, hang_questions), "question", "questions"),
        count(control!(snapshot, stalled_threads), "thread", "threads"),
    )
}

fn with_descendants(entry: &ProtectEntry) -> &'static str {
    if entry.flags & flags::DESCENDANTS != 0 {
        " and its descendants"
    } else {
        ""
    }
}

fn entry_text(entry: &ProtectEntry) -> String {
    let comm = comm_of(entry);
    match entry.kind {
        kind::PROCESS => format!("process {} ({comm}){}", entry.tgid, with_descendants(entry)),
        kind::COMM => format!("every process named `{comm}`{}", with_descendants(entry)),
        other => format!("entry of unknown kind {other}"),
    }
}

fn entry_json(entry: &ProtectEntry) -> Value {
    let process = entry.kind == kind::PROCESS;
    json!({
        "kind": match entry.kind { kind::PROCESS => "process", kind::COMM => "comm", _ => "unknown" },
        "pid": process.then_some(entry.tgid),
        "comm": comm_of(entry),
        "descendants": entry.flags & flags::DESCENDANTS != 0,
    })
}

/// Prints the status. Fails if the machine is not armed.
pub fn run(json: bool) -> Result<Exit> {
    let (_device, region) = open_region()?;
    let status = Status::take(&region, &Root::system());
    if json {
        println!("{:#}", status.json());
    } else {
        print!("{}", status.text());
    }
    Ok(if status.armed() { Exit::Fine } else { Exit::No })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fake::Fake;
    use boot_plan::parameters::append;
    use shared_region::control::ControlWords;
    use std::mem::offset_of;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The status of a machine whose command line contradicts one of our parameters.
    fn status(fake: &Fake) -> Status {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("orthros-ctl-status-{}-{number}", std::process::id()));
        std::fs::create_dir_all(folder.join("proc/sys/kernel")).expect("make a folder");
        std::fs::write(folder.join("proc/sys/kernel/osrelease"), "6.1.0\n").expect("write a file");
        let header = Snapshot::take(&Fake::armed()).header.expect("a good header");
        let facts = Facts::of(&header);
        let good = append(b"root=/dev/vda1 ro", &facts, Addition::First).expect("a command line");
        let line = String::from_utf8(good.bytes).expect("text") + " panic=10\n";
        std::fs::write(folder.join("proc/cmdline"), line).expect("write a file");
        let status = Status::take(fake, &Root::at(&folder));
        let _ = std::fs::remove_dir_all(folder);
        status
    }

    #[test]
    fn an_armed_machine() {
        let mut fake = Fake::armed();
        fake.set_control(offset_of!(ControlWords, module_features), 1);
        fake.set_control(offset_of!(ControlWords, hang_limits), 4_000);
        fake.protect(
            0,
            ProtectEntry {
                kind: kind::PROCESS,
                flags: flags::DESCENDANTS,
                tgid: 2345,
                start_boottime: 1,
                comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            },
        );
        fake.protect(
            5,
            ProtectEntry {
                kind: kind::COMM,
                comm: *b"mysqld\0\0\0\0\0\0\0\0\0\0",
                ..ProtectEntry::default()
            },
        );
        let status = status(&fake);
        assert!(status.armed());
        let expected = "\
state:       armed
kernel:      6.1.0
machine:     3 CPUs for Linux, core with APIC id 3 reserved; region at 0x68000000, nursery 0 at 0x58000000 reserved
staged:      nothing
rescue area: none
watcher:     4711 looks, 0 stray interrupts
hangs:       a CPU after 4 s, a thread after 30 s, a live-lock after 60 s; 0 questions asked, 0 threads stalled
protected:   process 2345 (worker) and its descendants
protected:   every process named `mysqld`
parameter:   `panic=0` is `panic=10`: a panicking kernel must not reset the machine: its memory is what is to be saved
last:        no failover since the machine was started
";
        assert_eq!(status.text(), expected);
        assert_eq!(status.json()["armed"], true);
        assert_eq!(status.json()["protected"][1]["comm"], "mysqld");
        assert_eq!(status.json()["parameters"][0]["found"], "panic=10");
    }

    #[test]
    fn a_standby_is_shown_if_there_is_one() {
        let mut fake = Fake::armed();
        assert!(!status(&fake).text().contains("standby:"));
        assert_eq!(status(&fake).json()["standby"], "none");
        fake.set_word(shared_region::layout::STANDBY_WORDS, 0, 2);
        let status = status(&fake);
        assert!(status
            .text()
            .contains("\nstandby:     asleep; a failover wakes it; images: none for"));
        assert_eq!(status.json()["standby"], "asleep");
    }

    #[test]
    fn every_reason_not_to_be_armed_has_a_way_out() {
        let mut fake = Fake::armed();
        fake.set_control(offset_of!(ControlWords, watch_state), 1);
        for reason in 1..=7 {
            fake.set_control(offset_of!(ControlWords, watch_reason), reason);
            let text = state_text(&Snapshot::take(&fake));
            assert!(text.starts_with("not armed: ") && text.len() > 40, "{text}");
        }
        assert!(!status(&fake).armed());
    }

    #[test]
    fn a_header_that_was_overwritten_is_said_to_be() {
        let mut fake = Fake::armed();
        fake.set_word(shared_region::layout::HEADER, 3, 1);
        let status = status(&fake);
        assert!(!status.armed());
        assert!(
            status
                .text()
                .starts_with("state:       unusable: region header: digest"),
            "{}",
            status.text()
        );
    }

    #[test]
    fn facts_of_another_kernel_are_shown() {
        let mut fake = Fake::armed();
        let release = std::mem::offset_of!(shared_region::facts::Facts, release) / 8;
        fake.set_word(
            shared_region::layout::FACTS,
            release,
            u64::from_le_bytes(*b"6.12.9\0\0"),
        );
        assert!(status(&fake).text().contains("facts:       of another kernel: 6.12.9"));
    }

    #[test]
    fn without_facts_the_module_is_named() {
        let fake = Fake::default();
        let snapshot = Snapshot::take(&fake);
        assert!(snapshot.header.is_err());
        assert!(status(&fake).text().contains("load the orthros module"));
    }
}
