//! Fake `/proc` trees: a plain process, and one change at a time.

use super::*;
use crate::snapshot::fake::Fake;
use shared_region::protect::{flags, kind, ProtectEntry};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A tree that goes away with it.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SMAPS: &str = "\
55d000000000-55d000010000 r-xp 00001000 fe:01 1234                       /usr/bin/with a blank
Size:                 64 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me sd
7f0000000000-7f0000800000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me ac sd
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
VmFlags: rd wr mr mw me gd ac
7ffc00100000-7ffc00104000 r--p 00000000 00:00 0                          [vvar]
VmFlags: rd mr pf io de dd sd
7ffc00104000-7ffc00106000 r-xp 00000000 00:00 0                          [vdso]
VmFlags: rd ex mr mw me de sd
";

impl Tree {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("orthros-ctl-check-{}-{number}", std::process::id()));
        let tree = Self(path);
        tree.file("proc/sys/kernel/ns_last_pid", "9\n");
        tree.process(1, "init", 0);
        tree.process(3000, "worker", 1);
        tree
    }

    fn root(&self) -> Root {
        Root::at(&self.0)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        std::fs::write(path, text).expect("write a file");
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        let _ = std::fs::remove_file(&path);
        symlink(target, path).expect("make a link");
    }

    fn process(&self, pid: u32, comm: &str, parent: u32) {
        let at = |name: &str| format!("proc/{pid}/{name}");
        self.file(&at("comm"), &format!("{comm}\n"));
        self.file(
            &at("stat"),
            &format!("{pid} ({comm} ) x) S {parent} {pid} {pid} 0 -1 0\n"),
        );
        self.file(
            &at("status"),
            &format!("Name:\t{comm}\nState:\tS (sleeping)\nPPid:\t{parent}\nTracerPid:\t0\nNSpid:\t{pid}\nVmSize:\t100 kB\nVmSwap:\t0 kB\nHugetlbPages:\t0 kB\nSeccomp:\t0\n"),
        );
        self.file(&at("smaps"), SMAPS);
        self.file(&at("maps"), "x");
        self.file(&at("mountinfo"), "22 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n23 22 0:20 / /proc rw - proc proc rw\n24 22 0:30 / /mnt/nfs rw - nfs4 server:/x rw\n25 22 0:31 / /dev/mqueue rw - mqueue mqueue rw\n");
        self.file(&at("timers"), "");
        self.file(&at(&format!("task/{pid}/attr/current")), "unconfined\n");
        for name in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
            self.link(&at(&format!("ns/{name}")), &format!("{name}:[4026531{}]", name.len()));
        }
        self.link(&at("ns/pid_for_children"), "pid:[40265313]");
        self.descriptor(pid, 0, "/dev/null", "pos:\t0\nflags:\t0100002\nmnt_id:\t22\n");
        self.descriptor(pid, 1, "pipe:[77]", "flags:\t01\nmnt_id:\t9\n");
    }

    fn descriptor(&self, pid: u32, fd: u32, target: &str, info: &str) {
        self.link(&format!("proc/{pid}/fd/{fd}"), target);
        self.file(&format!("proc/{pid}/fdinfo/{fd}"), info);
    }

    /// Replaces text in a file of process 3000.
    fn edit(&self, name: &str, from: &str, to: &str) {
        let path = self.0.join("proc/3000").join(name);
        let text = std::fs::read_to_string(&path).expect("read a file");
        assert!(text.contains(from), "{name} has no {from}");
        std::fs::write(path, text.replace(from, to)).expect("write a file");
    }

    fn verdict(&self) -> Verdict {
        self.verdict_with(None)
    }

    fn verdict_with(&self, snapshot: Option<Snapshot>) -> Verdict {
        let root = self.root();
        let peers = Peers::read(&root, snapshot);
        check(&Process { root: &root, pid: 3000 }, &peers).expect("a readable process")
    }

    /// The names of what is found.
    fn names(&self) -> Vec<&'static str> {
        self.verdict().findings.iter().map(|finding| finding.name).collect()
    }
}

#[test]
fn a_plain_process_survives() {
    let verdict = Tree::new().verdict();
    assert_eq!(verdict.findings, []);
    assert!(verdict.survives());
    assert_eq!(verdict.text(), "process 3000 (worker), 1 thread: would survive\n");
}

#[test]
fn memory_on_swap_survives_where_it_can_be_read() {
    const HEADER: &str = "Filename\tType\tSize\tUsed\tPriority\n";
    let found = |areas: &str, zswap: &str| {
        let tree = Tree::new();
        tree.edit("status", "VmSwap:\t0", "VmSwap:\t4");
        tree.file("proc/swaps", &format!("{HEADER}{areas}"));
        tree.file("sys/module/zswap/parameters/enabled", zswap);
        let pci = "devices/pci0000:00/0000:00:05.0/virtio2/block/vdb/vdb2";
        tree.link("sys/class/block/vdb2", &format!("../../{pci}"));
        tree.link("sys/class/block/zram0", "../../devices/virtual/block/zram0");
        let verdict = tree.verdict();
        assert_eq!(verdict.findings.len(), 1);
        (verdict.survives(), verdict.findings[0].text.clone())
    };
    let disk = "/dev/vdb2 partition 100 4 5\n";
    assert_eq!(found(disk, "N\n"), (true, "4 KB on swap are read from there".into()));
    for (areas, zswap, why) in [
        (disk, "Y\n", "zswap"),
        ("/dev/zram0 partition 100 4 5\n", "N\n", "/dev/zram0 is no disk"),
        (
            "/dev/vdb2 partition 1 0 5\n/swapfile file 100 4 5\n",
            "N\n",
            "/swapfile lies neither",
        ),
    ] {
        let (survives, text) = found(areas, zswap);
        assert!(!survives && text.contains(why), "{text}");
    }
}

#[test]
fn each_feature_of_the_status_is_named() {
    let cases = [
        ("TracerPid:\t0", "TracerPid:\t9", "ptrace"),
        ("HugetlbPages:\t0", "HugetlbPages:\t2048", "hugetlb"),
        ("Seccomp:\t0", "Seccomp:\t7", "unknown"),
        ("Seccomp:\t0", "x86_Thread_features:\tshstk", "shadow-stack"),
    ];
    for (from, to, name) in cases {
        let tree = Tree::new();
        tree.edit("status", from, to);
        assert_eq!(tree.names(), [name], "{to}");
    }
}

#[test]
fn seccomp_filters_need_a_kernel_that_keeps_them() {
    let tree = Tree::new();
    tree.edit("status", "Seccomp:\t0", "Seccomp:\t2");
    assert_eq!(tree.names(), [""; 0]);
    std::fs::remove_file(tree.0.join("proc/sys/kernel/ns_last_pid")).expect("remove");
    assert_eq!(tree.names(), ["seccomp-lost"]);
}

#[test]
fn each_flag_and_kind_of_a_mapping_is_named() {
    let mapping = |name: &str, flags: &str| {
        format!("7f1000000000-7f1000001000 rw-s 00000000 00:2f 99                   {name}\nVmFlags: rd {flags}\n")
    };
    let cases = [
        (mapping("/memfd:x (deleted)", "sh"), None),
        (mapping("/dev/zero (deleted)", "sh lo hg"), None),
        (mapping("/memfd:x (deleted)", "um"), Some("userfaultfd")),
        (mapping("/memfd:x (deleted)", "uw ui"), Some("userfaultfd")),
        (mapping("/memfd:x (deleted)", "ht"), Some("hugetlb")),
        (mapping("/memfd:x (deleted)", "qq"), Some("unknown")),
        (mapping("/SYSV00000000 (deleted)", "sh"), None),
        (mapping("/SYSV00000000 (deleted)", "sh").replace(" 99 ", " 0 "), None),
        (mapping("/[aio] (deleted)", "sh"), None),
        (mapping("/dev/dri/card0", "sh"), Some("device-memory")),
        (mapping("/anon_hugepage (deleted)", "sh"), Some("hugetlb")),
        (mapping("anon_inode:[io_uring]", "sh mm"), None),
        (mapping("anon_inode:[io_uring]", "sh pf"), Some("device-memory")),
        (mapping("/memfd:x (deleted)", "mm"), Some("special-mapping")),
        (mapping("anon_inode:[perf_event]", "sh"), Some("perf")),
        (mapping("anon_inode:new", "sh"), Some("special-mapping")),
        (mapping("/mnt/elsewhere", "sh"), Some("hidden-path")),
        (
            mapping("/mnt/nfs/file", "sh").replace("00:2f", "00:1e"),
            Some("file-system"),
        ),
        (
            "7f1000000000-7f1000001000 rw-p 00000000 00:00 0   [odd]\nVmFlags: rd\n".into(),
            Some("special-mapping"),
        ),
        (
            "7f1000000000-7f1000001000 rw-p 00000000 00:00 0   [uprobes]\nVmFlags: rd\n".into(),
            Some("uprobes"),
        ),
        (
            "7f1000000000-7f1000001000 rw-p 00000000 00:00 0   [anon:name: with a colon]\nVmFlags: rd\n".into(),
            None,
        ),
    ];
    for (text, name) in cases {
        let tree = Tree::new();
        tree.file("proc/3000/smaps", &format!("{SMAPS}{text}"));
        assert_eq!(tree.names(), Vec::from_iter(name), "{text}");
    }
}

/// Linux 6.1 has no name for MLOCK_ONFAULT.
#[test]
fn a_lock_on_fault_without_a_name_is_told_from_other_flags_without_one() {
    let locked = |flags: &str| {
        format!("7f1000000000-7f1000001000 rw-p 00000000 00:00 0\nVmFlags: rd wr mr mw me {flags} ac sd\n")
    };
    let cases = [
        // A kernel without the name.
        ("lo ??", "lo ??", None),
        ("lo ?? ??", "lo ??", Some("unknown")),
        ("??", "lo ??", Some("unknown")),
        ("lo lf ??", "lo ??", Some("unknown")),
        // One with it.
        ("lo lf", "lo lf", None),
        ("lo ??", "lo lf", Some("unknown")),
        // One that does not let this program lock its memory.
        ("lo ??", "", Some("unknown")),
    ];
    for (flags, own, name) in cases {
        let tree = Tree::new();
        tree.file("proc/3000/smaps", &format!("{SMAPS}{}", locked(flags)));
        tree.file("proc/self/smaps", &locked(own));
        assert_eq!(tree.names().first().copied(), name, "{flags}, own memory: {own}");
    }
}

#[test]
fn files_outside_of_a_root_directory_are_found_by_that_of_process_1() {
    let mapped = "7f1000000000-7f1000001000 r-xp 00000000 fe:01 77 /usr/lib/outside\nVmFlags: rd ex mr mw me sd\n";
    let changed_root = |namespace: &str, mounts: &str| {
        let tree = Tree::new();
        tree.file("proc/3000/smaps", &format!("{SMAPS}{mapped}"));
        tree.descriptor(3000, 7, "/home/file", "flags:\t0100002\nmnt_id:\t22\n");
        tree.link("proc/3000/ns/mnt", namespace);
        tree.file("proc/3000/mountinfo", mounts);
        tree.names()
    };
    assert_eq!(changed_root("mnt:[40265313]", ""), [""; 0]);
    assert_eq!(changed_root("mnt:[5]", ""), [""; 0]);
}

#[test]
fn mounts_of_a_service_are_made_anew_but_for_what_is_mounted_nowhere_else() {
    let service =
        "50 1 254:1 / / ro master:1 - ext4 /dev/vda1 rw\n51 50 254:1 /tmp/private /tmp rw - ext4 /dev/vda1 rw\n\
                   52 50 0:77 / /dev ro - tmpfs tmpfs ro\n";
    let with_mounts = |mounts: &str| {
        let tree = Tree::new();
        tree.link("proc/3000/ns/mnt", "mnt:[5]");
        tree.file("proc/3000/mountinfo", mounts);
        tree.names()
    };
    assert_eq!(with_mounts(service), [""; 0]);
    let image = format!("{service}53 50 0:78 / /opt rw - squashfs /dev/loop0 ro\n");
    assert_eq!(with_mounts(&image), ["mount-namespace"]);
}

#[test]
fn each_kind_of_descriptor_is_named() {
    let info = "flags:\t0100002\nmnt_id:\t22\n";
    let cases = [
        ("anon_inode:[eventfd]", info, None),
        (
            "anon_inode:[eventpoll]",
            "flags:\t02\nmnt_id:\t9\ntfd:        1 events:       19 data: 1\n",
            None,
        ),
        ("anon_inode:[timerfd]", info, None),
        ("anon_inode:[signalfd]", info, None),
        ("/dev/urandom", info, None),
        ("/memfd:x (deleted)", info, None),
        ("/home/file", info, None),
        ("/home/file (deleted)", info, None),
        (
            "anon_inode:[eventpoll]",
            "flags:\t02\nmnt_id:\t9\ntfd:       41 events:       19 data: 1\n",
            Some("watched-file"),
        ),
        ("anon_inode:inotify", info, None),
        ("anon_inode:[pidfd]", info, Some("file-type")),
        ("anon_inode:[io_uring]", info, Some("io_uring")),
        ("anon_inode:[perf_event]", info, Some("perf")),
        ("anon_inode:[userfaultfd]", info, Some("userfaultfd")),
        ("anon_inode:bpf-map", info, Some("bpf")),
        ("anon_inode:[something-new]", info, Some("unknown")),
        ("socket:[4711]", info, Some("socket")),
        ("net:[4026531840]", info, Some("file-type")),
        ("/dev/pts/3", info, None),
        ("/proc/3000/maps", "flags:\t0100000\nmnt_id:\t23\n", None),
        ("/proc/3000/task/3001/stat", "flags:\t0100000\nmnt_id:\t23\n", None),
        ("/proc/3000/mem", "flags:\t0100002\nmnt_id:\t23\n", Some("file-system")),
        (
            "/proc/3000/pagemap",
            "flags:\t0100000\nmnt_id:\t23\n",
            Some("file-system"),
        ),
        ("/proc/kmsg", "flags:\t0100000\nmnt_id:\t23\n", Some("file-system")),
        ("/proc/stat", "flags:\t0100000\nmnt_id:\t23\n", None),
        ("/proc/mtrr", "flags:\t0100002\nmnt_id:\t23\n", Some("file-system")),
        ("/proc/sys/kernel/pid_max", "flags:\t0100002\nmnt_id:\t23\n", None),
        ("/mnt/nfs/file", "flags:\t0100000\nmnt_id:\t24\n", Some("file-system")),
        ("/queue", "flags:\t0100000\nmnt_id:\t25\n", Some("file-system")),
        ("/elsewhere", "flags:\t0100000\nmnt_id:\t99\n", Some("hidden-path")),
        ("/home/file", "flags:\t0120002\nmnt_id:\t22\n", Some("fasync")),
        (
            "/home/file",
            "flags:\t0100002\nmnt_id:\t22\nlock:\t1: POSIX  ADVISORY  WRITE 3000 fe:01:5 0 EOF\n",
            None,
        ),
        (
            "/home/file",
            "flags:\t0100002\nmnt_id:\t22\nlock:\t1: ACCESS ADVISORY  WRITE 3000 fe:01:5 0 EOF\n",
            Some("file-lock"),
        ),
        (
            "/home/file",
            "flags:\t0120002\nmnt_id:\t22\nlock:\t1: LEASE  ACTIVE    READ  3000 fe:01:5 0 EOF\n",
            None,
        ),
        (
            "/home/file",
            "flags:\t0100002\nmnt_id:\t22\nlock:\t1: LEASE  BREAKING  UNLCK 3000 fe:01:5 0 EOF\n",
            Some("lease"),
        ),
    ];
    for (target, info, name) in cases {
        let tree = Tree::new();
        tree.descriptor(3000, 7, target, info);
        assert_eq!(tree.names(), Vec::from_iter(name), "{target} {info}");
    }
}

#[test]
fn other_namespaces_labels_and_timers_are_named() {
    let tree = Tree::new();
    tree.link("proc/3000/ns/net", "net:[5]");
    // Whose nobody can tell.
    tree.link("proc/3000/ns/user", "user:[5]");
    tree.link("proc/3000/ns/uts", "uts:[5]");
    tree.link("proc/3000/ns/ipc", "ipc:[5]");
    tree.link("proc/3000/ns/time_for_children", "time:[6]");
    tree.link("proc/1/ns/time_for_children", "time:[7]");
    tree.link("proc/3000/ns/moon", "moon:[6]");
    tree.file("proc/3000/task/3000/attr/current", "/usr/sbin/thing (enforce)\n");
    tree.file(
        "proc/3000/timers",
        "ID: 0\nsignal: 14/0\nnotify: signal/pid.3000\nClockID: 1\nID: 1\nClockID: -6\n",
    );
    let mut names = tree.names();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "ipc-namespace",
            "lsm-label",
            "net-namespace",
            "time-namespace",
            "timer-kind",
            "unknown",
            "user-namespace",
            "uts-namespace"
        ]
    );
}

#[test]
fn other_pid_namespaces_are_named() {
    // Whose they are nobody can tell here.
    for name in ["pid", "pid_for_children"] {
        let tree = Tree::new();
        tree.link(&format!("proc/3000/ns/{name}"), "pid:[5]");
        assert_eq!(tree.names(), ["pid-namespace"], "{name}");
    }
    // Nobody has been born there.
    let tree = Tree::new();
    std::fs::remove_file(tree.0.join("proc/3000/ns/pid_for_children")).expect("remove");
    let text = tree.verdict().text();
    assert!(text.contains("none of which is born yet"), "{text}");
    let tree = Tree::new();
    tree.link("proc/3000/ns/pid_for_children", "pid:[5]");
    tree.file("proc/3000/task/3001/attr/current", "unconfined\n");
    let text = tree.verdict().text();
    assert!(text.contains("it has threads"), "{text}");
}

#[test]
fn a_network_with_a_link_is_named() {
    let tree = Tree::new();
    tree.link("proc/3000/ns/net", "net:[5]");
    let heads = "Inter-|   Receive |  Transmit\n face |bytes |bytes\n";
    tree.file("proc/3000/net/dev", &format!("{heads}    lo:       0       0\n"));
    // Whose the namespace is nobody can tell here.
    assert_eq!(tree.names(), ["net-namespace"]);
    tree.file(
        "proc/3000/net/dev",
        &format!("{heads}    lo:       0       0\n  eth0:       0       0\n"),
    );
    assert_eq!(tree.names(), ["net-namespace"; 2]);
}

#[test]
fn a_mapping_with_a_memory_policy_of_its_own_is_named() {
    let tree = Tree::new();
    tree.file(
        "proc/3000/numa_maps",
        "55d000000000 bind:0 file=/x\n7f0000000000 bind:0 anon=1\n",
    );
    assert_eq!(tree.names(), [""; 0]);
    tree.file(
        "proc/3000/numa_maps",
        "55d000000000 default file=/x\n7f0000000000 bind:0 anon=1\n",
    );
    assert_eq!(tree.names(), ["mapping-policy"]);
}

#[test]
fn low_ids_are_a_risk() {
    let tree = Tree::new();
    tree.edit("stat", " 1 3000 3000 ", " 1 900 800 ");
    let verdict = tree.verdict();
    assert_eq!(verdict.findings.len(), 2);
    assert!(
        !verdict.survives() && verdict.text().contains("may not survive"),
        "{}",
        verdict.text()
    );
    assert!(
        verdict.text().contains("RISK  process group id 900: is below 2000"),
        "{}",
        verdict.text()
    );
}

#[test]
fn a_32_bit_program_is_named() {
    let tree = Tree::new();
    tree.file("program", "\x7fELF\x01rest");
    tree.link("proc/3000/exe", &tree.0.join("program").to_string_lossy());
    assert_eq!(tree.names(), ["compat"]);
}

#[test]
fn unprotected_relations_are_notes() {
    let tree = Tree::new();
    tree.process(2999, "shell", 1);
    tree.process(3001, "helper", 3000);
    tree.edit("status", "PPid:\t1", "PPid:\t2999");
    tree.descriptor(2999, 1, "pipe:[88]", "flags:\t0\n");
    tree.descriptor(1, 1, "pipe:[1]", "flags:\t0\n");
    let mut fake = Fake::armed();
    let entry = ProtectEntry {
        kind: kind::PROCESS,
        tgid: 3000,
        ..ProtectEntry::default()
    };
    fake.protect(0, entry);
    let verdict = tree.verdict_with(Some(Snapshot::take(&fake)));
    let expected = "\
process 3000 (worker), 1 thread: would survive
  note  parent: process 2999 (shell) is not protected: init becomes the parent
  note  child: process 3001 (helper) is not protected: it will be gone (`protect --descendants` keeps it)
  note  pipe:[77]: process 3001 (helper) is not protected: its end will be seen as closed
";
    assert_eq!(verdict.text(), expected);

    let flags = flags::DESCENDANTS;
    fake.protect(0, ProtectEntry { flags, ..entry });
    let verdict = tree.verdict_with(Some(Snapshot::take(&fake)));
    assert_eq!(verdict.findings.len(), 1);
}

#[test]
fn a_process_that_is_gone_is_said_to_be() {
    let tree = Tree::new();
    let root = tree.root();
    let peers = Peers::read(&root, None);
    let error = check(&Process { root: &root, pid: 4000 }, &peers).expect_err("no such process");
    assert_eq!(error.to_string(), "there is no process 4000");
}

#[test]
fn without_names_the_protected_ones_are_chosen() {
    let tree = Tree::new();
    let root = tree.root();
    assert!(chosen(&root, &[], false, None).is_err());
    assert_eq!(chosen(&root, &[], true, None).expect("all"), [1, 3000]);
    let mut fake = Fake::armed();
    let snapshot = Snapshot::take(&fake);
    assert!(chosen(&root, &[], false, Some(&snapshot)).is_err());
    fake.protect(
        3,
        ProtectEntry {
            kind: kind::COMM,
            comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            ..ProtectEntry::default()
        },
    );
    let snapshot = Snapshot::take(&fake);
    assert_eq!(chosen(&root, &[], false, Some(&snapshot)).expect("one"), [3000]);
}

#[test]
fn json_is_for_programs() {
    let tree = Tree::new();
    tree.descriptor(3000, 7, "socket:[1]", "flags:\t02\nmnt_id:\t9\n");
    let value = tree.verdict().json();
    assert_eq!(value["survives"], false);
    assert_eq!(value["findings"][0]["reason"], "socket");
    assert_eq!(value["findings"][0]["object"], "fd 7");
    assert_eq!(value["protected"], Value::Null);
}

#[test]
fn sockets_are_told_apart_by_their_tables() {
    let tree = Tree::new();
    let tcp = |number: u32, state: &str, queue: &str, inode: u32| {
        format!("   {number}: 00000000:1F90 00000000:0000 {state} 00000000:{queue} 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n")
    };
    let table = [
        "head\n".to_owned(),
        tcp(0, "0A", "00000000", 11),
        tcp(1, "0A", "00000002", 12),
        tcp(2, "01", "00000000", 13),
        tcp(3, "08", "00000001", 14),
        tcp(4, "02", "00000000", 21),
        tcp(5, "03", "00000000", 25),
    ];
    tree.file("proc/3000/net/tcp", &table.concat());
    tree.file(
        "proc/3000/net/udp",
        &["head\n".to_owned(), tcp(0, "07", "00000000", 15)].concat(),
    );
    tree.file(
        "proc/3000/net/unix",
        "head\n\
         0: 2 0 00010000 0001 01 16 /run/x.sock\n\
         0: 3 0 00000000 0001 03 17\n\
         0: 3 0 00000000 0001 03 18\n\
         0: 2 0 00000000 0002 01 19\n",
    );
    tree.file(
        "proc/3000/net/netlink",
        "head\n0000000000000000 0   3000       00000111 0        0        0     2        0        22\n\
         0000000000000000 12  3000       00000000 0        0        0     2        0        23\n\
         0000000000000000 0   3001       00000000 0        0        0     2        0        24\n",
    );
    tree.file(
        "proc/3000/net/packet",
        "head\n0000000000000000 3      3    0003   2     1       0      0      26\n",
    );
    tree.link("proc/3000/ns/net", "net:[5]");
    tree.file("proc/1/net/unix", "head\n0: 3 0 00000000 0001 03 27\n");
    // Of networks of others, with and without a link.
    for (pid, inode, link) in [(3100, 28, "lo"), (3200, 29, "eth0")] {
        let table = format!("head\n0: 3 0 00000000 0001 03 {inode}\n");
        tree.file(&format!("proc/{pid}/net/unix"), &table);
        tree.file(&format!("proc/{pid}/net/dev"), &format!("head\nhead\n  {link}: 0\n"));
        tree.link(&format!("proc/{pid}/ns/net"), &format!("net:[{pid}]"));
    }
    tree.file("proc/3000/environ", "A=b\0JOURNAL_STREAM=8:17\0");
    let expected = [
        (11, None),
        (12, None),
        (13, None),
        (14, None),
        (21, None),
        (25, Some((Cost::Fatal, "socket-state"))),
        (26, Some((Cost::Note, "packet"))),
        (15, Some((Cost::Note, "udp"))),
        (16, None),
        (17, Some((Cost::Note, "journal"))),
        (18, Some((Cost::Note, "unix"))),
        (19, None),
        // Of the first process's network.
        (27, Some((Cost::Note, "unix"))),
        (28, Some((Cost::Note, "unix"))),
        (29, Some((Cost::Fatal, "net-namespace"))),
        (20, Some((Cost::Risk, "socket"))),
        (22, Some((Cost::Note, "netlink"))),
        (23, Some((Cost::Fatal, "socket-state"))),
        (24, None),
    ];
    let root = tree.root();
    let process = Process { root: &root, pid: 3000 };
    for (inode, expected) in expected {
        let found = sockets::check(&process, "3", &format!("socket:[{inode}]"));
        assert_eq!(found.map(|finding| (finding.cost, finding.name)), expected, "{inode}");
    }
}

#[test]
fn a_ring_of_io_uring_is_kept_unless_something_was_added_to_it() {
    let plain = "flags:\t02000002\nmnt_id:\t15\nSqMask:\t0x7\nSQEs:\t1\n    0: opcode:NOP, fd:0\nSqThread:\t-1\n\
                 UserFiles:\t0\nUserBufs:\t0\nPollList:\nCqOverflowList:\n";
    let verdict = |info: &str| {
        let tree = Tree::new();
        tree.descriptor(3000, 7, "anon_inode:[io_uring]", info);
        tree.verdict()
    };
    let kept = verdict(plain);
    assert!(kept.survives());
    assert_eq!(kept.findings[0].name, "io_uring");
    let cases = [
        ("SqThread:\t-1", "SqThread:\t3007", "SQPOLL"),
        ("UserFiles:\t0", "UserFiles:\t2\n    0: file\n    1: <none>", "files"),
        ("UserBufs:\t0", "UserBufs:\t1", "buffers"),
        ("PollList", "Personalities:\n1\nPollList", "personalities"),
    ];
    for (from, to, what) in cases {
        let verdict = verdict(&plain.replace(from, to));
        assert!(!verdict.survives(), "{to}");
        assert!(
            verdict.findings[0].text.contains(what),
            "{to}: {}",
            verdict.findings[0].text
        );
    }
    let with_next = |own: &str, next: Option<&str>| {
        let tree = Tree::new();
        tree.file("proc/sys/kernel/osrelease", own);
        tree.descriptor(3000, 7, "anon_inode:[io_uring]", plain);
        let mut fake = Fake::armed();
        let entry = ProtectEntry {
            kind: kind::PROCESS,
            tgid: 3000,
            ..ProtectEntry::default()
        };
        fake.protect(0, entry);
        let mut snapshot = Snapshot::take(&fake);
        snapshot.next_release = next.map(str::to_owned);
        tree.verdict_with(Some(snapshot)).survives()
    };
    assert!(with_next("6.1.0-56-amd64\n", Some("6.1.0-57-amd64")));
    assert!(with_next("6.12.1\n", Some("6.6.0")));
    assert!(with_next("6.12.1\n", None));
    assert!(!with_next("6.1.0-56-amd64\n", Some("6.12.1")));
    assert!(!with_next("6.12.1\n", Some("6.1.0-56-amd64")));
}
