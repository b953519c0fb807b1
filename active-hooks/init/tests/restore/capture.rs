//! Takes a live process apart into records, through ptrace and `/proc`, and kills it. What the salvager reads from a
//! dead kernel's memory is read here from a living one.

use crate::frames::Frames;
use orthros_init::sys::{self, Registers, Tid};
use shared_region::{
    context::{
        frame_kind, AddressSpace, Backing, Caught, Clock, Creds, FileTable, FrameRun, InNamespace, Inode, Machine,
        Mapping, Namespace, NamespaceKind, OpenFile, OpenFileKind, Pipe, Process, Resume, Sched, SharedMemory,
        SigAction, Thread, UserNamespace,
    },
    record::{Kind, Writer},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileExt, MetadataExt},
    time::{Duration, Instant},
};

const RAX: usize = 10;
const ORIG_RAX: usize = 15;
const RIP: usize = 16;
const RSP: usize = 19;

/// A record on its way into a stream.
type Push = Box<dyn Fn(&mut Writer<'_>)>;

/// Everything captured so far.
pub struct Capture {
    records: Vec<Push>,
    /// The pages.
    pub frames: Frames,
    clock: Clock,
    inodes: BTreeMap<u64, ()>,
    pipes: BTreeMap<u64, ()>,
    files: Vec<(u64, Tid, u32)>,
    masks: BTreeMap<Tid, u64>,
    /// Restartable sequences that threads were in when they were stopped. The kernel forgets them when calls are injected.
    sections: BTreeMap<Tid, (u64, [u8; 8])>,
    /// Frames by their physical number.
    physical: BTreeMap<u64, u64>,
    /// Record a vDSO and a release that are not this kernel's.
    pub other_kernel: bool,
    /// Record processes as stopped by SIGSTOP.
    pub stopped: bool,
    /// Record this system call as one of which it cannot be told what it has done.
    pub undecided: Option<libc::c_long>,
}

/// Stops a thread; returns its blocked signals.
fn attach(tid: Tid) -> u64 {
    sys::seize(tid, 0).unwrap();
    sys::interrupt(tid).unwrap();
    sys::wait(tid, Instant::now() + Duration::from_secs(5)).unwrap();
    let mask = sys::signal_mask(tid).unwrap();
    // A signal must not come between the calls that are injected.
    sys::set_signal_mask(tid, !0).unwrap();
    mask
}

/// Address of the word that says which restartable sequence a stopped thread is in. One that has only just begun has none.
fn rseq_section(tid: Tid) -> Option<u64> {
    let (area, ..) = sys::rseq(tid).unwrap();
    (area != 0).then_some(area + 8)
}

fn read(pid: Tid, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn tids(pid: Tid) -> Vec<Tid> {
    let mut tids: Vec<Tid> = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    tids.sort_by_key(|tid| (*tid != pid, *tid));
    tids
}

/// Issues a call in a stopped thread, and returns its result and `data` as it left them. `gate` is the address of a
/// `syscall` instruction in its memory.
fn inject(gate: u64, tid: Tid, number: i64, arguments: impl Fn(u64) -> [u64; 6], data: &mut [u8]) -> i64 {
    let saved = sys::registers(tid).unwrap();
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{tid}/mem"))
        .unwrap();
    let at = (saved[RSP] - 0x800) & !15;
    let mut old = vec![0; data.len()];
    memory.read_exact_at(&mut old, at).unwrap();
    memory.write_all_at(data, at).unwrap();
    let mut registers = saved;
    registers[RIP] = gate;
    registers[RAX] = number as u64;
    for (index, value) in [14, 13, 12, 7, 9, 8].into_iter().zip(arguments(at)) {
        registers[index] = value;
    }
    registers[ORIG_RAX] = u64::MAX;
    let mut code = [0; 2];
    memory.read_exact_at(&mut code, registers[RIP]).unwrap();
    assert_eq!(code, [0x0F, 0x05]);
    sys::set_registers(tid, &registers).unwrap();
    for _ in 0..2 {
        sys::cont_to_syscall(tid).unwrap();
        sys::wait(tid, Instant::now() + Duration::from_secs(5)).unwrap();
    }
    let result = sys::registers(tid).unwrap()[RAX] as i64;
    memory.read_exact_at(data, at).unwrap();
    memory.write_all_at(&old, at).unwrap();
    sys::set_registers(tid, &saved).unwrap();
    result
}

/// Translates an interrupted call into its restart from the start.
fn restarted(mut registers: Registers) -> (Registers, Caught) {
    if registers[ORIG_RAX] as i64 >= 0 && matches!(-(registers[RAX] as i64), 512..=514 | 516) {
        registers[RAX] = registers[ORIG_RAX];
        registers[RIP] -= 2;
        return (registers, Caught::Syscall(registers[ORIG_RAX] as u32));
    }
    (registers, Caught::User)
}

/// Number of a process's namespace, 0 if it is ours.
fn namespace(pid: Tid, name: &str) -> u64 {
    let number = |process: String| fs::metadata(format!("/proc/{process}/ns/{name}")).unwrap().ino();
    let own = number(pid.to_string());
    if own == number("self".into()) {
        0
    } else {
        own
    }
}

fn status_field(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.split_ascii_whitespace().nth(1).unwrap(), 16).unwrap()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap()))
        .collect()
}

impl Capture {
    /// Nothing captured.
    pub fn new() -> Self {
        use orthros_init::restore::clock::now;
        use rustix::time::ClockId;
        Self {
            records: Vec::new(),
            frames: Frames::default(),
            clock: Clock {
                monotonic: now(ClockId::Monotonic),
                boottime: now(ClockId::Boottime),
                realtime: now(ClockId::Realtime) as i64,
                ..Clock::default()
            },
            inodes: BTreeMap::new(),
            pipes: BTreeMap::new(),
            files: Vec::new(),
            masks: BTreeMap::new(),
            sections: BTreeMap::new(),
            physical: BTreeMap::new(),
            other_kernel: false,
            stopped: false,
            undecided: None,
        }
    }

    fn push<T: serde::Serialize + 'static>(&mut self, kind: Kind, owner: u64, value: T) {
        self.records
            .push(Box::new(move |writer| writer.push(kind, 1, 0, owner, &value).unwrap()));
    }

    fn push_bytes(&mut self, kind: Kind, owner: u64, bytes: Vec<u8>) {
        self.records.push(Box::new(move |writer| {
            writer.push_bytes(kind, 1, 0, owner, &bytes).unwrap()
        }));
    }

    /// Stops a process for good. All are stopped before the first is captured, as by a failure.
    pub fn stop(&mut self, pid: Tid) {
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        for tid in tids(pid) {
            self.masks.insert(tid, attach(tid));
            if let Some(at) = rseq_section(tid) {
                let mut section = [0; 8];
                memory.read_exact_at(&mut section, at).unwrap();
                self.sections.insert(tid, (at, section));
            }
        }
    }

    /// Captures a stopped process.
    pub fn process(&mut self, pid: Tid) {
        let tids = tids(pid);
        // Some thread waits: for a question, or for room in a pipe.
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let is_call = |at: &u64| {
            let mut code = [0; 2];
            memory.read_exact_at(&mut code, *at).unwrap();
            code == [0x0F, 0x05]
        };
        let mut before = tids.iter().map(|&tid| sys::registers(tid).unwrap()[RIP] - 2);
        let gate = before.find(is_call).expect("no thread is stopped in a system call");
        for &tid in &tids {
            self.thread(gate, pid, tid);
        }
        self.process_record(gate, pid);
        let memory = File::options().write(true).open(format!("/proc/{pid}/mem")).unwrap();
        for (at, section) in tids.iter().filter_map(|tid| self.sections.get(tid)) {
            memory.write_all_at(section, *at).unwrap();
        }
        self.space(pid);
        self.table(pid);
    }

    fn thread(&mut self, gate: u64, pid: Tid, tid: Tid) {
        let status = read(tid, "status");
        let mut stack = [0; 24];
        inject(gate, tid, libc::SYS_sigaltstack, |at| [0, at, 0, 0, 0, 0], &mut stack);
        let stack = words(&stack);
        let mut robust = [0; 16];
        inject(
            gate,
            tid,
            libc::SYS_get_robust_list,
            |at| [0, at, at + 8, 0, 0, 0],
            &mut robust,
        );
        let mut address = [0; 8];
        inject(gate, tid, libc::SYS_prctl, |at| [40, at, 0, 0, 0, 0], &mut address);
        let mut affinity = [0; 8];
        inject(
            gate,
            tid,
            libc::SYS_sched_getaffinity,
            |at| [0, 8, at, 0, 0, 0],
            &mut affinity,
        );
        let nice = inject(gate, tid, libc::SYS_getpriority, |_| [0; 6], &mut []);
        let slack = inject(gate, tid, libc::SYS_prctl, |_| [30, 0, 0, 0, 0, 0], &mut []);
        let ids = |name: &str| -> [u32; 4] {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            let ids: Vec<u32> = line
                .split_ascii_whitespace()
                .skip(1)
                .map(|id| id.parse().unwrap())
                .collect();
            ids.try_into().unwrap()
        };
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let (mut regs, caught) = restarted(sys::registers(tid).unwrap());
        let undecided = self
            .undecided
            .is_some_and(|number| caught == Caught::Syscall(number as u32));
        if undecided {
            regs[RIP] += 2;
            regs[RAX] = -i64::from(libc::ENOSYS) as u64;
        }
        let thread = Thread {
            tid: tid as u32,
            tgid: pid as u32,
            comm: read(tid, "comm").trim_end().into(),
            regs,
            caught,
            resume: if undecided {
                Resume::Undecided
            } else {
                Resume::Registers
            },
            xstate: sys::xstate(tid).unwrap(),
            blocked: self.masks[&tid],
            pending_mask: status_field(&status, "SigPnd"),
            sigaltstack: (stack[0], stack[2], stack[1] as u32),
            robust_list: words(&robust)[0],
            clear_child_tid: words(&address)[0],
            rseq: sys::rseq(tid).unwrap(),
            sched: Sched {
                nice: 20 - nice as i32,
                ..Sched::default()
            },
            affinity: words(&affinity),
            creds: Creds {
                uid: ids("Uid:"),
                gid: ids("Gid:"),
                groups: groups.split_ascii_whitespace().map(|id| id.parse().unwrap()).collect(),
                foreign_user_ns: namespace(pid, "user") != 0,
                caps: ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| status_field(&status, name)),
                ..Creds::default()
            },
            no_new_privs: status_field(&status, "NoNewPrivs") != 0,
            timer_slack: slack as u64,
            ..Thread::default()
        };
        self.push(Kind::Thread, pid as u64, thread);
    }

    /// UTS and user namespaces, as the programs here make them.
    fn namespaces(&mut self, pid: Tid) {
        let map = |file: &str| -> Vec<(u32, u32, u32)> {
            let numbers: Vec<u32> = read(pid, file)
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            numbers.chunks(3).map(|ids| (ids[0], ids[1], ids[2])).collect()
        };
        let (user, uts) = (namespace(pid, "user"), namespace(pid, "uts"));
        if user != 0 {
            let what = NamespaceKind::User(UserNamespace {
                owner: (0, 0),
                uids: map("uid_map"),
                gids: map("gid_map"),
                projects: Vec::new(),
                setgroups: read(pid, "setgroups").trim() == "allow",
                limits: [
                    libc::RLIMIT_NPROC,
                    libc::RLIMIT_MSGQUEUE,
                    libc::RLIMIT_SIGPENDING,
                    libc::RLIMIT_MEMLOCK,
                ]
                .map(|resource| sys::limit(resource).unwrap().0.min(i64::MAX as u64)),
            });
            self.push(Kind::Namespace, user, Namespace { owned_by: 0, what });
        }
        if uts != 0 {
            let what = NamespaceKind::Uts {
                host: b"inside".to_vec(),
                domain: b"inside.example".to_vec(),
            };
            self.push(Kind::Namespace, uts, Namespace { owned_by: user, what });
        }
        for namespace in [user, uts].into_iter().filter(|namespace| *namespace != 0) {
            self.push(Kind::InNamespace, pid as u64, InNamespace { namespace });
        }
    }

    fn process_record(&mut self, gate: u64, pid: Tid) {
        let stat = read(pid, "stat");
        let stat: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        let number = |index: usize| stat[index].parse().unwrap();
        let mut sigactions = Vec::new();
        for signal in 1..=64u64 {
            let mut action = [0; 32];
            inject(
                gate,
                pid,
                libc::SYS_rt_sigaction,
                |at| [signal, 0, at, 8, 0, 0],
                &mut action,
            );
            let action = words(&action);
            sigactions.push(SigAction {
                handler: action[0],
                flags: action[1],
                restorer: action[2],
                mask: action[3],
            });
        }
        let mut itimers = [(0, 0); 3];
        for (which, timer) in itimers.iter_mut().enumerate() {
            let mut setting = [0; 32];
            inject(
                gate,
                pid,
                libc::SYS_getitimer,
                |at| [which as u64, at, 0, 0, 0, 0],
                &mut setting,
            );
            let [s, us, vs, vus] = words(&setting).try_into().unwrap();
            *timer = (vs * 1_000_000_000 + vus * 1000, s * 1_000_000_000 + us * 1000);
        }
        let link = |name: &str| -> Vec<u8> {
            let path = fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
            path.to_str().unwrap().as_bytes().to_vec()
        };
        let rlimits = (0..16)
            .map(|resource| {
                let mut limit = [0; 16];
                inject(
                    gate,
                    pid,
                    libc::SYS_prlimit64,
                    |at| [0, resource, 0, at, 0, 0],
                    &mut limit,
                );
                (words(&limit)[0], words(&limit)[1])
            })
            .collect();
        let umask = read(pid, "status");
        let umask = umask
            .lines()
            .find_map(|line| line.strip_prefix("Umask:"))
            .unwrap()
            .trim()
            .to_owned();
        let process = Process {
            tgid: pid as u32,
            ppid: number(1),
            pgid: number(2),
            sid: number(3),
            exit_signal: libc::SIGCHLD as u32,
            mm: pid as u64 + 0x1_0000_0000,
            files: pid as u64 + 0x2_0000_0000,
            cwd: link("cwd"),
            root: link("root"),
            umask: u32::from_str_radix(&umask, 8).unwrap(),
            rlimits,
            sigactions,
            pending_mask: status_field(&read(pid, "status"), "ShdPnd"),
            itimers,
            stopped_by: if self.stopped { libc::SIGSTOP as u32 } else { 0 },
            coredump_filter: u32::from_str_radix(read(pid, "coredump_filter").trim(), 16).unwrap(),
            ..Process::default()
        };
        self.push(Kind::Process, pid as u64, process);
        self.namespaces(pid);
    }

    fn space(&mut self, pid: Tid) {
        let owner = pid as u64 + 0x1_0000_0000;
        let stat = read(pid, "stat");
        let stat: Vec<u64> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_ascii_whitespace()
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        let maps = read(pid, "maps");
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
        let mut mappings = Vec::new();
        let mut runs = Vec::new();
        let mut record = AddressSpace {
            exe: fs::read_link(format!("/proc/{pid}/exe"))
                .unwrap()
                .to_str()
                .unwrap()
                .into(),
            auxv: words(&fs::read(format!("/proc/{pid}/auxv")).unwrap()),
            dumpable: 1,
            ..AddressSpace::default()
        };
        let mut brk = stat[44];
        for line in maps.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let (start, end) = range(words[0]);
            let name = words.get(5).copied().unwrap_or("");
            let mut mapping = Mapping {
                start,
                end,
                prot: words[1][..3]
                    .bytes()
                    .zip([1, 2, 4])
                    .filter(|(b, _)| *b != b'-')
                    .map(|(_, p)| p)
                    .sum(),
                ..Mapping::default()
            };
            let shared = words[1].ends_with('s');
            match name {
                "[vsyscall]" => continue,
                "[vdso]" => {
                    record.vdso = start;
                    mapping.backing = Backing::Vdso;
                }
                name if name.starts_with("[vvar") => {
                    record.vvar_size += end - start;
                    mapping.backing = Backing::Vvar;
                }
                "[heap]" => brk = end,
                "[stack]" => mapping.map_flags = libc::MAP_GROWSDOWN as u32,
                name if name.starts_with('/') => {
                    mapping.offset = u64::from_str_radix(words[2], 16).unwrap();
                    mapping.inode = self.inode(pid, name, &words, &memory);
                    mapping.backing = match (shared, name) {
                        (true, "/dev/zero") => Backing::SharedMemory,
                        (true, _) => Backing::FileShared,
                        (false, _) => Backing::FilePrivate,
                    };
                    mapping.writable_file = shared;
                }
                _ => {}
            }
            for page in (start..end).step_by(0x1000) {
                let mut entry = [0; 8];
                pagemap.read_exact_at(&mut entry, page / 0x1000 * 8).unwrap();
                let present = entry[7] >> 5;
                let physical = u64::from_le_bytes(entry) & ((1 << 55) - 1);
                let anonymous = present & 0b100 != 0 && present & 0b001 == 0;
                if mapping.backing == Backing::Vdso || anonymous && mapping.backing != Backing::Vvar && !shared {
                    let mut bytes = [0; 4096];
                    memory.read_exact_at(&mut bytes, page).unwrap();
                    if mapping.backing == Backing::Vdso && page == start && self.other_kernel {
                        // Padding of the ELF identification.
                        bytes[15] ^= 1;
                    }
                    // A frame that was seen in another process is shared copy-on-write.
                    let (frame, kind) = match self.physical.get(&physical) {
                        Some(&frame) if anonymous => (frame, frame_kind::SHARED),
                        _ => (self.frames.keep(bytes), frame_kind::OWN),
                    };
                    self.physical.insert(physical, frame);
                    runs.extend(FrameRun::new(page, frame, 1, kind).to_bytes());
                }
            }
            mappings.push(mapping);
        }
        // /proc/PID/stat from its third field on: start and end of code, start of stack, then data, brk, arguments.
        record.bounds = [
            stat[23], stat[24], stat[42], stat[43], stat[44], brk, stat[25], stat[45], stat[46], stat[47], stat[48],
        ];
        self.push(Kind::AddressSpace, owner, record);
        for mapping in mappings {
            self.push(Kind::Mapping, owner, mapping);
        }
        self.push_bytes(Kind::Frames, owner, runs);
    }

    fn inode(&mut self, pid: Tid, name: &str, words: &[&str], memory: &File) -> u64 {
        let number: u64 = words[4].parse().unwrap();
        if self.inodes.insert(number, ()).is_some() {
            return number;
        }
        let (start, end) = range(words[0]);
        if name == "/dev/zero" {
            let mut runs = Vec::new();
            for page in (start..end).step_by(0x1000) {
                let mut bytes = [0; 4096];
                memory.read_exact_at(&mut bytes, page).unwrap();
                runs.extend(FrameRun::new(page - start, self.frames.keep(bytes), 1, 3).to_bytes());
            }
            let shared = SharedMemory {
                size: end - start,
                name: name.into(),
                ..SharedMemory::default()
            };
            self.push(Kind::SharedMemory, number, shared);
            self.push_bytes(Kind::Frames, number, runs);
        } else if name.starts_with("/memfd:") {
            // Of a private mapping: what was written is the process's own, the rest are zeros.
            let size = fs::metadata(format!("/proc/{pid}/map_files/{}", words[0]))
                .unwrap()
                .len();
            let shared = SharedMemory {
                size,
                name: name.into(),
                seals: Some(0),
                ..SharedMemory::default()
            };
            self.push(Kind::SharedMemory, number, shared);
        } else {
            self.named_inode(name, number);
        }
        number
    }

    fn named_inode(&mut self, path: &str, number: u64) {
        let metadata = fs::metadata(path).unwrap();
        let inode = Inode {
            path: path.into(),
            number,
            mode: metadata.mode(),
            size: metadata.size(),
            nlink: 1,
            ..Inode::default()
        };
        self.push(Kind::Inode, number, inode);
    }

    fn table(&mut self, pid: Tid) {
        let mut descriptors = Vec::new();
        let mut entries: Vec<u32> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        entries.sort_unstable();
        for fd in entries {
            let info = read(pid, &format!("fdinfo/{fd}"));
            let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let flags = u32::from_str_radix(field("flags:").unwrap(), 8).unwrap();
            let known = self
                .files
                .iter()
                .find(|(_, other, number)| same_file(*other, *number, pid, fd));
            let id = match known {
                Some((id, ..)) => *id,
                None => {
                    let id = 0x3_0000_0000 + self.files.len() as u64;
                    let file = self.file(pid, fd, flags, &field);
                    self.files.push((id, pid, fd));
                    self.push(Kind::OpenFile, id, file);
                    id
                }
            };
            descriptors.push((fd, id, flags & libc::O_CLOEXEC as u32 != 0));
        }
        self.push(Kind::FileTable, pid as u64 + 0x2_0000_0000, FileTable { descriptors });
    }

    fn file<'f>(&mut self, pid: Tid, fd: u32, flags: u32, field: &dyn Fn(&str) -> Option<&'f str>) -> OpenFile {
        let link = format!("/proc/{pid}/fd/{fd}");
        let path = fs::read_link(&link).unwrap().to_str().unwrap().to_owned();
        let metadata = fs::metadata(&link).unwrap();
        let what = match path.as_str() {
            "anon_inode:[eventfd]" => OpenFileKind::EventFd {
                count: u64::from_str_radix(field("eventfd-count:").unwrap(), 16).unwrap(),
                semaphore: false,
            },
            "anon_inode:[timerfd]" => OpenFileKind::TimerFd {
                clock: field("clockid:").unwrap().parse().unwrap(),
                ticks: field("ticks:").unwrap().parse().unwrap(),
                settime_flags: 0,
                value: time_pair(field("it_value:").unwrap()),
                interval: time_pair(field("it_interval:").unwrap()),
            },
            "anon_inode:[eventpoll]" => OpenFileKind::Epoll { watches: Vec::new() },
            path if path.starts_with("pipe:") => {
                self.pipe(&link, metadata.ino());
                OpenFileKind::Pipe { inode: metadata.ino() }
            }
            path if path.starts_with("/dev/") => OpenFileKind::Device {
                rdev: u64::from(rustix::fs::major(metadata.rdev())) << 20
                    | u64::from(rustix::fs::minor(metadata.rdev())),
            },
            path => {
                if self.inodes.insert(metadata.ino(), ()).is_none() {
                    self.named_inode(path, metadata.ino());
                }
                OpenFileKind::Regular { inode: metadata.ino() }
            }
        };
        OpenFile {
            what,
            flags,
            position: field("pos:").unwrap().parse().unwrap(),
            path: path.into(),
            ..OpenFile::default()
        }
    }

    fn pipe(&mut self, link: &str, inode: u64) {
        if self.pipes.insert(inode, ()).is_some() {
            return;
        }
        use std::os::unix::fs::OpenOptionsExt;
        let mut data = Vec::new();
        let mut end = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(link)
            .unwrap();
        // A writer keeps it open, so the end of the data shows as an error.
        let _ = end.read_to_end(&mut data);
        self.push(Kind::Pipe, inode, Pipe::default());
        self.push_bytes(Kind::Bytes, inode, data);
    }

    /// The records as a stream.
    pub fn stream(&self) -> Vec<u8> {
        let mut area = vec![0; 64 << 20];
        let mut writer = Writer::new(&mut area, 1).unwrap();
        let release = read(1, "../sys/kernel/osrelease");
        let machine = Machine {
            release: if self.other_kernel {
                "other".into()
            } else {
                release.trim().into()
            },
            clock: self.clock,
            ..Machine::default()
        };
        writer.push(Kind::Machine, 1, 0, 0, &machine).unwrap();
        self.records.iter().for_each(|push| push(&mut writer));
        let used = writer.finish();
        area.truncate(used);
        area
    }

    /// Kills the captured processes and waits until they are gone.
    pub fn kill(&self, pids: &[Tid]) {
        for &pid in pids {
            let threads = tids(pid);
            sys::kill(pid, libc::SIGKILL).unwrap();
            for tid in threads.into_iter().rev() {
                while let Ok(stop) = sys::wait(tid, Instant::now() + Duration::from_secs(5)) {
                    if matches!(stop, sys::Stop::Exited(_)) {
                        break;
                    }
                }
            }
        }
    }
}

/// First address and first address after it, as `maps` has them.
fn range(text: &str) -> (u64, u64) {
    let (start, end) = text.split_once('-').unwrap();
    let address = |text| u64::from_str_radix(text, 16).unwrap();
    (address(start), address(end))
}

/// `(seconds, nanoseconds)` as fdinfo prints it, in nanoseconds.
fn time_pair(text: &str) -> u64 {
    let (seconds, rest) = text.trim_matches(['(', ')']).split_once(',').unwrap();
    seconds.trim().parse::<u64>().unwrap() * 1_000_000_000 + rest.trim().parse::<u64>().unwrap()
}

fn same_file(a: Tid, fd_a: u32, b: Tid, fd_b: u32) -> bool {
    const KCMP_FILE: i32 = 0;
    // SAFETY: takes numbers only.
    unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_FILE, fd_a, fd_b) == 0 }
}
