//! The cases.

use crate::{capture::Capture, frames::Frames, library};
use orthros_init::{
    restore::{self, world::World, Setting},
    sys::Tid,
};
use shared_region::{context::Outcome, record::Stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::FileExt, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Name and function of every case.
pub const ALL: &[(&str, fn())] = &[
    ("clocks_go_on_with_the_same_kernel", clocks_go_on_with_the_same_kernel),
    ("clocks_go_on_with_another_kernel", clocks_go_on_with_another_kernel),
    ("memory_timer_and_handler_go_on", memory_timer_and_handler_go_on),
    ("threads_keep_their_registers", threads_keep_their_registers),
    ("a_pipe_between_parent_and_child", a_pipe_between_parent_and_child),
    ("shared_pages_are_inherited", shared_pages_are_inherited),
    ("files_keep_offset_and_sharing", files_keep_offset_and_sharing),
    ("namespaces_are_made_anew", || alone(namespaces_are_made_anew)),
    ("a_rehearsal_leaves_nothing_behind", a_rehearsal_leaves_nothing_behind),
    (
        "a_handler_runs_first_each_time",
        library::a_handler_runs_first_each_time,
    ),
    ("hooks_end_calls", library::hooks_end_calls),
    (
        "hooks_decide_what_nobody_knows",
        library::hooks_decide_what_nobody_knows,
    ),
    ("registers_outlive_a_handler", library::registers_outlive_a_handler),
    (
        "a_late_handler_returns_by_itself",
        library::a_late_handler_returns_by_itself,
    ),
    (
        "a_handler_that_was_running_goes_on",
        library::a_handler_that_was_running_goes_on,
    ),
    (
        "a_restartable_sequence_is_aborted",
        library::a_restartable_sequence_is_aborted,
    ),
    ("a_child_has_no_handler", library::a_child_has_no_handler),
    ("a_handler_may_fail", library::a_handler_may_fail),
    ("a_damaged_table_is_named", library::a_damaged_table_is_named),
    (
        "a_stopped_process_stays_stopped",
        library::a_stopped_process_stays_stopped,
    ),
];

/// Runs a case in a process with a single thread, which may adopt orphans.
pub fn in_a_process_of_its_own(case: fn()) -> bool {
    // SAFETY: this process has one thread, so the child may do anything; it ends without returning.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        let passed = std::panic::catch_unwind(case).is_ok();
        std::process::exit(i32::from(!passed));
    }
    let mut status = 0;
    // SAFETY: `status` is live.
    unsafe { libc::waitpid(child, &mut status, 0) };
    status == 0
}

/// Runs a case where no other process takes ids, as there is none when processes are restored.
fn alone(case: fn()) {
    // SAFETY: this process has one thread, so the child may do anything; it ends without returning. All texts are live.
    let child = unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS), 0);
        libc::fork()
    };
    if child == 0 {
        let none = std::ptr::null();
        // SAFETY: as above.
        unsafe {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            assert_eq!(libc::mount(none, c"/".as_ptr(), none, private, none.cast()), 0);
            let proc = c"proc".as_ptr();
            assert_eq!(libc::mount(proc, c"/proc".as_ptr(), proc, 0, none.cast()), 0);
        }
        let passed = std::panic::catch_unwind(case).is_ok();
        std::process::exit(i32::from(!passed));
    }
    let mut status = 0;
    // SAFETY: `status` is live.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
}

/// A program under test with the pipes to talk to it.
pub struct Subject {
    /// Its process.
    pub pid: Tid,
    /// The process as it was first started; the capture collects it.
    _first: Child,
    ask: File,
    hear: BufReader<File>,
}

impl Subject {
    /// Starts a program and waits until it is ready.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        // SAFETY: setsid() is safe between fork and exec. Without a session of its own the leader of the program's
        // session would be alive, outside of what is restored.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 {
                    Err(std::io::Error::last_os_error())
                } else {
                    Ok(())
                }
            })
        };
        let mut child = command
            .args(["--program", name])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create("/dev/null").unwrap())
            .spawn()
            .unwrap();
        let ask = File::from(OwnedFd::from(child.stdin.take().unwrap()));
        let hear = File::from(OwnedFd::from(child.stdout.take().unwrap()));
        let mut subject = Self {
            pid: child.id() as Tid,
            _first: child,
            ask,
            hear: BufReader::new(hear),
        };
        assert_eq!(subject.line(), "ready");
        std::thread::sleep(Duration::from_millis(20));
        subject
    }

    /// What it says next.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.hear.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Asks it.
    pub fn ask(&mut self) -> String {
        self.ask.write_all(b"?").unwrap();
        self.line()
    }

    /// Captures these processes, kills them and restores them. The pipes to the first are new afterwards: their
    /// other ends were ours and are not restored.
    fn through_failure(&mut self, pids: &[Tid]) -> BTreeMap<u32, Outcome> {
        self.through(Capture::new(), pids)
    }

    fn through(&mut self, capture: Capture, pids: &[Tid]) -> BTreeMap<u32, Outcome> {
        let outcomes = self.through_with_remarks(capture, pids, &Setting::default());
        for (pid, outcome) in &outcomes {
            assert!(
                outcome.resumed && outcome.remarks.is_empty(),
                "{pid}: {:?}",
                outcome.remarks
            );
        }
        outcomes
    }

    /// The same for processes that go on with remarks, or do not.
    pub fn through_with_remarks(
        &mut self,
        mut capture: Capture,
        pids: &[Tid],
        setting: &Setting,
    ) -> BTreeMap<u32, Outcome> {
        pids.iter().for_each(|&pid| capture.stop(pid));
        pids.iter().for_each(|&pid| capture.process(pid));
        capture.kill(pids);
        let stream = capture.stream();
        let stream = Stream::open(&stream).unwrap();
        let world = World::read(&stream);
        assert!(world.unreadable.is_empty(), "{:?}", world.unreadable);
        let ready = restore::restore(&world, &capture.frames, setting).unwrap();
        for (name, number) in [("ask", 0), ("hear", 1)] {
            let path = format!("/proc/{}/fd/{number}", self.pid);
            let end = File::options().read(name == "hear").write(name == "ask").open(path);
            match (name, end) {
                ("ask", Ok(end)) => self.ask = end,
                ("hear", Ok(end)) => self.hear = BufReader::new(end),
                (_, Err(error)) => eprintln!("{name}: {error}"),
                _ => {}
            }
        }
        ready.release(&world, &capture.frames, setting)
    }
}

fn memory_timer_and_handler_go_on() {
    let mut subject = Subject::start("counter", &[]);
    let pid = subject.pid;
    assert_eq!(subject.ask(), format!("1 true {pid}"));
    let outcomes = subject.through_failure(&[pid]);
    assert!(outcomes[&(pid as u32)].adopted > 1900);
    assert_eq!(subject.ask(), format!("2 true {pid}"));
}

fn clocks_go_on_with_the_same_kernel() {
    let mut subject = Subject::start("clock", &[]);
    subject.through_failure(&[subject.pid]);
    assert_eq!(subject.ask(), "true");
}

fn clocks_go_on_with_another_kernel() {
    let mut subject = Subject::start("clock", &[]);
    let mut capture = Capture::new();
    capture.other_kernel = true;
    subject.through(capture, &[subject.pid]);
    assert_eq!(subject.ask(), "true");
}

fn threads_keep_their_registers() {
    let mut subject = Subject::start("threads", &[]);
    let pid = subject.pid;
    subject.through_failure(&[pid]);
    assert_eq!(subject.ask(), "true");
}

fn a_pipe_between_parent_and_child() {
    let mut subject = Subject::start("family", &[]);
    let pid = subject.pid;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child = children.trim().parse().unwrap();
    subject.through_failure(&[pid, child]);
    assert_eq!(subject.ask(), format!("true true {}", 7 << 8));
}

/// Physical frames of a process's anonymous memory.
fn anonymous_frames(pid: Tid) -> BTreeSet<u64> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let mut frames = BTreeSet::new();
    for area in restore::memory::maps_of(pid as u32).unwrap() {
        for page in (area.start..area.end).step_by(4096) {
            let mut entry = [0; 8];
            if pagemap.read_exact_at(&mut entry, page / 4096 * 8).is_ok() && entry[7] >> 5 == 0b100 {
                frames.insert(u64::from_le_bytes(entry) & ((1 << 55) - 1));
            }
        }
    }
    frames
}

fn shared_pages_are_inherited() {
    let mut subject = Subject::start("forked", &[]);
    let pid = subject.pid;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child: Tid = children.trim().parse().unwrap();
    let common = |pid, child| anonymous_frames(pid).intersection(&anonymous_frames(child)).count();
    let before = common(pid, child);
    let outcomes = subject.through_failure(&[pid, child]);
    let copied: u64 = outcomes.values().map(|outcome| outcome.copied).sum();
    assert_eq!(copied, 0);
    let after = common(pid, child);
    assert!(
        before > 250 && after + 20 > before,
        "{before} frames were shared, {after} are"
    );
    assert_eq!(subject.ask(), "true 3 true");
}

fn files_keep_offset_and_sharing() {
    let path = std::env::temp_dir().join(format!("orthros-restore-{}", std::process::id()));
    let mut subject = Subject::start("file", &[path.to_str().unwrap()]);
    subject.through_failure(&[subject.pid]);
    let answer = subject.ask();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(answer, "before after shared");
}

fn namespaces_are_made_anew() {
    for setgroups in ["allow", "deny"] {
        let mut subject = Subject::start("confined", &[setgroups]);
        let pid = subject.pid;
        let seen = || {
            let of_process = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
            let user = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
            assert_ne!(user, std::fs::read_link("/proc/self/ns/user").unwrap());
            ["uid_map", "gid_map", "setgroups"].map(of_process)
        };
        let (before, answer) = (seen(), subject.ask());
        assert_eq!(before[2].trim(), setgroups);
        let last = std::fs::read_to_string("/proc/sys/kernel/ns_last_pid").unwrap();
        let outcomes = subject.through_failure(&[pid]);
        assert!(outcomes[&(pid as u32)].resumed);
        assert_eq!((seen(), subject.ask()), (before, answer));
        let now = std::fs::read_to_string("/proc/sys/kernel/ns_last_pid").unwrap();
        let number = |text: String| text.trim().parse::<u32>().unwrap();
        assert!(number(now) >= number(last), "the counter of ids has gone back");
    }
}

fn a_rehearsal_leaves_nothing_behind() {
    let state = || {
        let own = std::process::id();
        let children = std::fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mapped = std::fs::read_to_string("/proc/self/maps").unwrap();
        (children, open, mapped.contains("memfd:"))
    };
    let before = state();
    assert_eq!(before.0, "");
    for _ in 0..2 {
        orthros_init::standby::rehearsal::rehearse(&Frames::default()).unwrap();
        assert_eq!(state(), before);
    }
}
