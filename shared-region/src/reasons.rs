//! Why a process cannot be kept: the one table of texts, for the salvager after a failover and for `orthros-ctl check`
//! before one.
//!
//! What is kept is an allow-list. A feature that is not on it is refused by the entry here that names it, or by
//! [`UNKNOWN`] with the kernel's own name for it.

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Short name, stable, for programs that read reports.
    pub name: &'static str,
    /// What is said to the administrator. Fits behind "process 12 (name): ".
    pub text: &'static str,
}

macro_rules! reasons {
    ($( $constant:ident $name:literal $text:literal; )*) => {
        $( #[doc = $text] pub const $constant: Reason = Reason { name: $name, text: $text }; )*
        /// Every entry.
        pub const ALL: &[Reason] = &[$($constant),*];
    };
}

reasons! {
    UNKNOWN "unknown" "uses something this version does not know";
    UNREADABLE "unreadable" "its state in kernel memory makes no sense";
    NO_ROOM "no-room" "there is no room left to record it";

    SOCKET "socket" "has a socket of a kind that cannot be restored";
    SOCKET_STATE "socket-state" "has a socket in a state that cannot be restored";
    TIME_WAIT "time-wait" "not made again: both sides have had everything";
    FILE_TYPE "file-type" "has a file open that cannot be restored";
    FILE_SYSTEM "file-system" "has a file open on a file system that cannot be restored";
    PSEUDO_TERMINAL "pty" "has a pseudo terminal in a state that cannot be restored";
    DEVICE "device" "has a device open that keeps state";
    FILE_LOCK "file-lock" "holds a lock on a file of a kind that cannot be restored";
    LEASE "lease" "holds a lease on a file";
    FASYNC "fasync" "asked for signals on input and output (O_ASYNC) in a way that cannot be restored";
    DIRECT_IO "direct-io" "has direct input or output under way";
    WATCHED_FILE "watched-file" "watches a file with epoll that it has closed";
    PIPE_PAGES "pipe-pages" "has data in a pipe that lies in memory of another object";
    DELETED_DIRECTORY "deleted-directory" "uses a directory that was deleted";
    BLOCKS_UNKNOWN "blocks-unknown" "wrote to a file whose blocks on the disk cannot be told";
    UNCOMMITTED "uncommitted" "its journal cannot be completed";
    ENCRYPTED "encrypted" "is encrypted: what was written to it last is not put back";
    INLINE_DATA "inline-data" "keeps small files in inodes: ext4's own journal may bring older content of files back";
    OTHER_FILE_SYSTEM "other-file-system" "what was changed on it last is as its own recovery leaves it";
    MAPPED_DEVICE "mapped-device" "is a device of the device mapper that cannot be made again";
    HIDDEN_PATH "hidden-path" "uses a path that lies outside its mount namespace or under another mount";

    AIO "aio" "uses asynchronous input and output (io_setup) in a way that cannot be restored";
    IO_URING "io_uring" "uses io_uring in a way that cannot be restored";
    PERF "perf" "has performance counters open";
    BPF "bpf" "uses BPF";
    PTRACE "ptrace" "is traced by a debugger";
    SYSV_SEM "sysv-sem" "has System V semaphore adjustments";
    SYSV_SHM "sysv-shm" "has System V shared memory attached of a kind or in a way that cannot be restored";
    INOTIFY "inotify" "watches files in a way that cannot be restored";
    SYSV_SHM_GONE "sysv-shm-gone" "what lies in a segment of System V shared memory is not kept";
    POSIX_MQUEUE "mqueue" "uses a POSIX message queue in a way that cannot be restored";

    NS_USER "user-namespace" "is in a user namespace that cannot be made anew";
    NS_PID "pid-namespace" "is in a pid namespace that cannot be made anew";
    NS_MOUNT "mount-namespace" "is in a mount namespace that cannot be made anew";
    NS_NET "net-namespace" "is in a network namespace that cannot be made anew";
    NS_UTS "uts-namespace" "is in a UTS namespace that cannot be made anew";
    NS_IPC "ipc-namespace" "is in an IPC namespace that cannot be made anew";
    NS_CGROUP "cgroup-namespace" "is in a cgroup namespace that cannot be made anew";
    NS_TIME "time-namespace" "is in a time namespace";

    SECCOMP_LOST "seccomp-lost" "has a seccomp filter whose original program the kernel does not keep";
    SECCOMP_NOTIFY "seccomp-notify" "has a seccomp filter with a supervisor";
    LSM_LABEL "lsm-label" "is confined by a security module";
    KEYRING "keyring" "has a session keyring that cannot be made anew";
    LANDLOCK "landlock" "is confined by Landlock";
    SYSCALL_DISPATCH "syscall-dispatch" "redirects its system calls (PR_SET_SYSCALL_USER_DISPATCH)";

    COMPAT "compat" "is a 32-bit process";
    LDT "ldt" "uses a local descriptor table";
    IO_PORTS "io-ports" "has access to input and output ports";
    HW_BREAKPOINT "hw-breakpoint" "has hardware breakpoints set";
    SHADOW_STACK "shadow-stack" "has a shadow stack";
    TLS_SEGMENTS "tls-segments" "uses thread-local segments of the descriptor table";
    UPROBES "uprobes" "is being probed";
    CORE_SCHED "core-sched" "is in a core scheduling group";

    SPECIAL_MAPPING "special-mapping" "has a mapping of a kind that cannot be restored";
    DEVICE_MEMORY "device-memory" "has memory of a device mapped";
    MAPPING_POLICY "mapping-policy" "has a memory policy on a mapping (mbind)";
    MEMORY_WATCHED "memory-watched" "has memory that another part of the kernel watches, as until a failover is complete";
    HUGETLB "hugetlb" "uses huge pages of the hugetlb pool";
    USERFAULTFD "userfaultfd" "uses userfaultfd";
    SWAPPED "swapped" "has memory on swap";
    POISONED "poisoned" "has memory that failed in hardware";
    SPECIAL_PAGE "special-page" "has a page that was being moved when the kernel died";
    PAGES_LOST "pages-lost" "has page tables that cannot be read";
    MAPPINGS_CHANGING "mappings-changing" "was changing its mappings when the kernel died";

    REGISTERS_LOST "registers-lost" "has a thread whose CPU was stopped without saving its registers";
    FPU_LOST "fpu-lost" "has a thread whose floating-point registers were only in its CPU";
    ENTRY_CODE "entry-code" "has a thread that was caught between user and kernel mode";
    CALL_EFFECT "call-effect" "has a thread in a system call that can be neither repeated nor completed";
    EXEC "exec" "was starting a program";
    VFORK "vfork" "waits for a child that borrows its memory (vfork)";
    CORE_DUMP "core-dump" "was writing a core dump";
    GROUP_CHANGING "group-changing" "was changing its threads when the kernel died";
    TIMER_KIND "timer-kind" "has a timer of a kind that cannot be restored";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn names_are_unique_and_texts_fit_a_line() {
        for (i, reason) in ALL.iter().enumerate() {
            assert!(
                ALL[..i].iter().all(|other| other.name != reason.name),
                "{}",
                reason.name
            );
            assert!(reason.text.len() < 90 && !reason.text.ends_with('.'), "{}", reason.name);
        }
    }
}
