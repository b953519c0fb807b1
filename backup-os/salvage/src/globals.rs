//! Addresses of variables and functions that only salvage itself needs. All are optional: what cannot be found costs
//! the objects that need it.

use crate::addr::Kva;

crate::symbols! {
    /// Variables and functions of the kernel.
    pub struct Globals {
        /// The timekeeper under construction.
        shadow_timekeeper: Option<Kva>,
        /// The clock of ticks, by which their length is known.
        clocksource_jiffies: Option<Kva>,
        /// The ticks.
        jiffies_64: Option<Kva>,
        /// Frequency correction.
        time_freq: Option<Kva>,
        /// The first UTS namespace.
        init_uts_ns: Option<Kva>,
        /// The first user namespace.
        init_user_ns: Option<Kva>,
        /// Functions of UTS namespaces.
        utsns_operations: Option<Kva>,
        /// Functions of IPC namespaces.
        ipcns_operations: Option<Kva>,
        /// Functions of network namespaces.
        netns_operations: Option<Kva>,
        /// Functions of user namespaces.
        userns_operations: Option<Kva>,
        /// Functions of cgroup namespaces.
        cgroupns_operations: Option<Kva>,
        /// Functions of pid namespaces.
        pidns_operations: Option<Kva>,
        /// The first pid namespace.
        init_pid_ns: Option<Kva>,
        /// The first IPC namespace.
        init_ipc_ns: Option<Kva>,
        /// The first process's namespaces.
        init_nsproxy: Option<Kva>,
        /// Bitmap of CPUs that run.
        cpu_online_mask: Option<Kva> = "__cpu_online_mask",
        /// Per CPU: the running task, up to 6.1 and from 6.15 on.
        current_task: Option<Kva>,
        /// Per CPU: hot data with the running task, in between.
        pcpu_hot: Option<Kva>,
        /// Per CPU: the run queue.
        runqueues: Option<Kva>,
        /// Per CPU: interrupts of the processor's own.
        irq_stat: Option<Kva>,
        /// Per CPU: interrupts of devices.
        kstat: Option<Kva>,
        /// Per CPU: time by kind.
        kernel_cpustat: Option<Kva>,
        /// The CPU that is in the kernel debugger, −1 if none is.
        kgdb_active: Option<Kva>,
        /// Frame number of the zero page.
        zero_pfn: Option<Kva>,
        /// Frame number of the huge zero page, all ones if there is none.
        huge_zero_pfn: Option<Kva>,
        /// Functions of ext4's file systems.
        ext4_sops: Option<Kva>,
        /// The time zone that file systems without one of their own keep.
        sys_tz: Option<Kva>,
        /// Modules that have BTF.
        btf_modules: Option<Kva>,
        /// All mounted file systems.
        super_blocks: Option<Kva>,
        /// Mount of shared memory without a path.
        shm_mnt: Option<Kva>,
        /// Function of the timer a sleeping task waits for.
        hrtimer_wakeup: Option<Kva>,
        /// Swap caches, by swap area.
        swapper_spaces: Option<Kva>,
        /// Number of swap areas.
        nr_swapfiles: Option<Kva>,
        /// The swap areas.
        swap_info: Option<Kva>,
        /// A static key: whether pages may ever have been compressed instead of swapped out. Not in every kernel that does it.
        zswap_ever_enabled: Option<Kva>,
        /// Whether they are now.
        zswap_enabled: Option<Kva>,
        /// The default cgroup hierarchy.
        cgrp_dfl_root: Option<Kva>,
        /// Where AppArmor keeps its label in credentials.
        apparmor_blob_sizes: Option<Kva>,
        /// Whether AppArmor is in use.
        apparmor_initialized: Option<Kva>,
        /// Where Landlock keeps its domain in credentials.
        landlock_blob_sizes: Option<Kva>,
        /// Whether Landlock is in use.
        landlock_initialized: Option<Kva>,
        /// Offsets of XSAVE components.
        xstate_offsets: Option<Kva>,
        /// Sizes of XSAVE components.
        xstate_sizes: Option<Kva>,
        /// Flags of XSAVE components.
        xstate_flags: Option<Kva>,
        /// Number of frames that `MemTotal` shows.
        totalram_pages: Option<Kva> = "_totalram_pages",
        /// Per CPU: task-state segment, with the user's stack pointer of a system call that has just begun.
        cpu_tss_rw: Option<Kva>,
        /// First instruction of a system call.
        entry_syscall: Option<Kva> = "entry_SYSCALL_64",
        /// Where the registers of a system call have begun to be saved.
        entry_syscall_saved: Option<Kva> = "entry_SYSCALL_64_after_hwframe",
        /// First byte of the entry code.
        entry_text_start: Option<Kva> = "__entry_text_start",
        /// First byte after the entry code.
        entry_text_end: Option<Kva> = "__entry_text_end",
        /// Where a return to user mode begins that the entry code shares.
        return_to_user: Option<Kva> = "swapgs_restore_regs_and_return_to_usermode",
    }
}
