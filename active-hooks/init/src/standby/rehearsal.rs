//! A rehearsal: before it sleeps, a standby rebuilds a small process of its own, from records that are made up here, and
//! ends it again.
//!
//! A kernel on which processes cannot be rebuilt, because it lacks a system call or forbids one, is found out while the old
//! one is well. And what a kernel sets up when something is first asked of it is set up then.

use crate::{
    restore::{self, creds, host::Host, memory, world, OrRefuse, Refusal, Restored, Setting},
    sys,
};
use orthros_device::{Adopted, Device};
use shared_region::{
    context::{
        AddressSpace, Backing, Creds, FileTable, Inode, Mapping, OpenFile, OpenFileKind, Process, SigAction, Thread,
    },
    device::{ResumeCall, TaskState},
    PAGE_SIZE,
};
use std::{
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};
use world::{Content, Member, Space, World};

/// Where a free process id is looked for.
const FIRST_ID: u32 = 1000;
/// RLIMIT_* (include/uapi/asm-generic/resource.h).
const LIMITS: u32 = 16;
/// Ids of records.
const SPACE: u64 = 1;
const TABLE: u64 = 2;
const PROGRAM: u64 = 3;
const NULL: u64 = 4;
const EVENT: u64 = 5;
/// Where its memory is: below anything that a kernel maps by itself.
const MEMORY: u64 = 0x10_0000_0000;
const SIZE: u64 = 0x10_0000;
/// And its vDSO.
const VDSO: u64 = 0x20_0000_0000;
const DEV_NULL: u64 = 1 << 20 | 3;
/// User mode with interrupts on (arch/x86/include/asm/segment.h: __USER_CS, __USER_DS).
const FLAGS: u64 = 0x202;
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2B;

/// What there is of a dead kernel: nothing but the module of this one.
pub struct Stage<'a>(pub &'a Device);

impl Host for Stage<'_> {
    fn adopt(&self, _pid: u32, _runs: &[u8]) -> Restored<Adopted> {
        Err(Refusal::new("memory", "there is none to hand over"))
    }

    fn read_frames(&self, _pfn: u64, _bytes: &mut [u8]) -> Restored<()> {
        Err(Refusal::new("page frames", "there are none"))
    }

    fn resume_call(&self, call: ResumeCall) -> Restored<()> {
        self.0.resume_call(call).or_refuse(|| "interrupted system call")
    }

    fn set_times(&self, times: TaskState) -> Restored<()> {
        self.0.task_state(times).or_refuse(|| "start and CPU times")
    }
}

/// Rebuilds the process.
///
/// # Errors
/// What was refused, and why.
pub fn rehearse(host: &dyn Host) -> Restored<()> {
    let program = std::env::current_exe().or_refuse(|| "this program")?;
    let ready = restore::restore(&world(&program)?, host, &Setting::default())?;
    ready.strike()
}

fn world(program: &Path) -> Restored<World<'static>> {
    let mut world = World::default();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").or_refuse(|| "release")?;
    world.machine.release = release.trim().to_owned();
    let id = free_id()?;
    world.processes.insert(id, member(id)?);
    let (vdso, vvar_size) = vdso()?;
    let mapping = |start: u64, size: u64, backing, inode, prot: i32| Mapping {
        start,
        end: start + size,
        prot: prot as u32,
        backing,
        inode,
        ..Mapping::default()
    };
    let (read, write, run) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    let space = Space {
        record: AddressSpace {
            vdso: VDSO + vvar_size,
            vvar_size,
            dumpable: 1,
            exe: program.as_os_str().as_bytes().to_vec(),
            exe_inode: PROGRAM,
            bounds: bounds(),
            ..AddressSpace::default()
        },
        rings: Vec::new(),
        mappings: vec![
            mapping(MEMORY, SIZE, Backing::Anonymous, 0, read | write),
            mapping(MEMORY + SIZE, SIZE, Backing::FilePrivate, PROGRAM, read | run),
            mapping(VDSO, vvar_size, Backing::Vvar, 0, read),
            mapping(VDSO + vvar_size, vdso, Backing::Vdso, 0, read | run),
        ],
        frames: Vec::new(),
        bytes: Vec::new(),
    };
    world.spaces.insert(SPACE, space);
    let descriptors = vec![(0, NULL, false), (1, NULL, false), (3, EVENT, true)];
    world.tables.insert(TABLE, FileTable { descriptors });
    let open = |what, path: &str| OpenFile {
        what,
        flags: libc::O_RDWR as u32,
        path: path.into(),
        ..OpenFile::default()
    };
    let null = open(OpenFileKind::Device { rdev: DEV_NULL }, "/dev/null");
    world.files.insert(NULL, null);
    let event = OpenFileKind::EventFd {
        count: 1,
        semaphore: false,
    };
    world.files.insert(EVENT, open(event, ""));
    world.inodes.insert(PROGRAM, inode(program)?);
    Ok(world)
}

/// An id that nobody has, and nobody the next.
fn free_id() -> Restored<u32> {
    let is_free = |id: u32| !Path::new("/proc").join(id.to_string()).exists();
    let mut ids = (FIRST_ID..).take(1 << 15);
    let found = ids.find(|&id| is_free(id) && is_free(id + 1));
    found.ok_or_else(|| Refusal::new("process id", "none is free"))
}

fn inode(program: &Path) -> Restored<Content<'static, Inode>> {
    let found = std::fs::metadata(program).or_refuse(|| "this program")?;
    let path = program.as_os_str().as_bytes().to_vec();
    let record = Inode {
        path: path.clone(),
        last_path: path,
        number: found.ino(),
        mode: found.mode(),
        size: found.size(),
        nlink: 1,
        fstype: b"rootfs".to_vec(),
        ..Inode::default()
    };
    Ok(Content {
        record,
        frames: Vec::new(),
    })
}

fn member(tgid: u32) -> Restored<Member> {
    let own = creds::Own::now()?;
    let limits = (0..LIMITS).map(sys::limit).collect::<Result<_, _>>();
    let record = Process {
        tgid,
        ppid: std::process::id(),
        pgid: tgid,
        sid: tgid,
        exit_signal: libc::SIGCHLD as u32,
        mm: SPACE,
        files: TABLE,
        cwd: b"/".to_vec(),
        root: b"/".to_vec(),
        umask: 0o22,
        rlimits: limits.or_refuse(|| "resource limits")?,
        sigactions: vec![SigAction::default(); 64],
        coredump_filter: 0x33,
        ..Process::default()
    };
    let thread = |tid: u32| {
        let mut thread = Thread {
            tid,
            tgid,
            comm: b"rehearsal".to_vec(),
            xstate: xstate(),
            creds: Creds {
                caps: [0, own.permitted, own.permitted, u64::MAX, 0],
                ..Creds::default()
            },
            ..Thread::default()
        };
        // rip cs eflags rsp ss
        thread.regs[16..21].copy_from_slice(&[MEMORY, USER_CS, FLAGS, MEMORY + SIZE, USER_DS]);
        thread
    };
    Ok(Member {
        record,
        threads: vec![thread(tgid), thread(tgid + 1)],
    })
}

/// Code, data and the rest, in the order of `struct prctl_mm_map`: each start below its end.
fn bounds() -> [u64; 11] {
    let end = MEMORY + PAGE_SIZE;
    [MEMORY, end, MEMORY, end, end, end, end, MEMORY, end, MEMORY, end]
}

/// Extended registers as they are at first, in the standard format (Intel SDM 1, 13.4).
fn xstate() -> Vec<u8> {
    /// CPUID leaf of the extended state; sub-leaf 0 tells the bytes of what is enabled.
    const LEAF: u32 = 0xD;
    /// Exceptions masked, as after a reset.
    const MXCSR: u32 = 0x1F80;
    let size = core::arch::x86_64::__cpuid_count(LEAF, 0).ebx as usize;
    let mut area = vec![0; size.max(576)];
    area[24..28].copy_from_slice(&MXCSR.to_le_bytes());
    area
}

/// Bytes of this kernel's vDSO and of the data pages before it.
fn vdso() -> Restored<(u64, u64)> {
    let areas = memory::maps_of(std::process::id())?;
    let size = |prefix: &str| {
        let parts = areas.iter().filter(|area| area.name.starts_with(prefix));
        parts.map(|area| area.end - area.start).sum()
    };
    Ok((size("[vdso"), size("[vvar")))
}
