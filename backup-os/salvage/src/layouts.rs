//! Gathers the mirrors of the kernel's subsystems; each stands in its subsystem's file.

use crate::aio::{Kioctx, KioctxCpu, KioctxTable};
use crate::block_devices::{BlockDevice, Kobject};
use crate::clock::{ClockSource, TimeNamespace, TimekeeperClocks, TkReadBase};
use crate::cpus::{PcpuHot, Tss};
use crate::creds::{AaLabel, AaLabelFlags, Cred, GroupInfo, LsmBlobSizes};
use crate::dentry::{Dentry, MntNamespace, MountLayout};
use crate::directories::Children;
use crate::event_files::{Epitem, EventfdCtx, Eventpoll, SignalfdCtx, TimerfdCtx};
use crate::ext4::{Ext4Inode, Ext4Super};
use crate::file_locks::{FileLockContext, FileLockLayout};
use crate::files::{Fdtable, FileLayout, FilesStruct, FownStruct};
use crate::fpu::FpState;
use crate::heartbeat::{IrqStat, KernelCpustat, KernelStat, Rq};
use crate::inodes::{FileSystemType, InodeLayout, ShmemInode, SuperBlock};
use crate::inotify::{
    FsnotifyGroup, FsnotifyMark, FsnotifyMarkConnector, InotifyEventInfo, InotifyInodeMark, WatchedInode,
};
use crate::interrupted::kept_registers::SwitchFrame;
use crate::interrupted::stack::{FutexQ, IovIter, Kiocb};
use crate::interrupted::RestartBlock;
use crate::io_uring;
use crate::ipc_namespaces::IpcSettings;
use crate::jbd2::{
    BufferStatesOfJournal, Handle, Journal, JournalHead, RevokeRecord, RevokeTable, States, Transaction,
};
use crate::keyrings::{AssocArrayNode, Key, KeyType, UserKeyPayload};
use crate::launch::LinuxBinprm;
use crate::link_setup::{NetdevAdjacent, RtnlLinkOps};
use crate::machine::{NewUtsname, PidNamespace, UtsNamespace};
use crate::mm::{AnonVmaName, MmStruct, MmuNotifiers, VdsoImage, VmArea, VmSpecialMapping};
use crate::mount_namespaces::{ProcFsInfo, ShmemSbInfo, SymbolicLink};
use crate::mqueue::{ExtWaitQueue, MqueueInodeInfo, PosixMsgTreeNode, QueuesOfNamespace};
use crate::namespaces::Nsproxy;
use crate::netfilter::{IpCtTcpState, NfConn, NfConntrackTupleHash};
use crate::network::{
    FibAlias, FibInfo, FibNh, FibTable, InDevice, InIfaddr, Inet6Dev, Inet6Ifaddr, KeyVector, Net, NetDevice,
};
use crate::network6::{Fib6Info, Fib6Nh, Fib6Node, Fib6Table};
use crate::network_namespaces::{NetworkOfNamespace, NfHookEntries, NfHookEntry};
use crate::page_cache::{AddressSpaceLayout, BufferHead, BufferStates, IomapPage, IomapState};
use crate::pages::{Folio, PageFlags};
use crate::pipes::{PipeBuffer, PipeInodeInfo};
use crate::process::{Cgroup, CgroupNamespace, CssSet, FsStruct, KernfsNode, TaskCgroups};
use crate::pseudo_files::{ProcDirEntry, ProcInode, ProcOps, SeqFile, SeqOperations};
use crate::seccomp::{BpfProg, SeccompFilter, SockFprogKern};
use crate::signals::{KSigaction, SigPending, SigQueue, Sighand};
use crate::sockets::datagrams::{Ipv6Devconf, Raw6Sock, RawSock, RouterState, UdpSock};
use crate::sockets::inet::InetSock;
use crate::sockets::inet6::Ipv6Pinfo;
use crate::sockets::multicast::{IpMcSocklist, Ipv6McSocklist};
use crate::sockets::netlink::{NetlinkSkbParms, NetlinkSock};
use crate::sockets::options::{SkFilter, SockFlags, SockReuseport};
use crate::sockets::orphans::{InetHashinfo, TcpTables};
use crate::sockets::packet::{PacketFlags, PacketMclist, PacketSock};
use crate::sockets::skb::{BioVec, SkBuff, SkBuffHead, SkbFrag, SkbSharedInfo};
use crate::sockets::tcp::{InetConnectionSock, RequestSock, TcpCongestionOps, TcpSkbCb, TcpSock};
use crate::sockets::unix::{ScmFpList, UnixAddress, UnixSkbParms, UnixSock};
use crate::sockets::{Sock, Socket};
use crate::swap::{PageOfTable, Ptdesc, SwapExtent, SwapInfo};
use crate::sysctls;
use crate::sysv_ipc::{
    IpcIds, IpcNamespace, KernIpcPerm, MsgMsg, MsgQueue, MsgReceiver, MsgSegment, MsgSender, Sem, SemArray, SemQueue,
    ShmidKernel,
};
use crate::tasks::{Pid, PidTypes, SemUndoList, Signal, Task, Upid, VmStruct};
use crate::terminals::{NTtyData, TtyBuffer, TtyDriver, TtyFilePrivate, TtyLdisc, TtyLdiscOps, TtyPort, TtyStruct};
use crate::thread::{IoContext, Mempolicy};
use crate::timers::{Alarm, CpuItimer, Hrtimer, HrtimerClockBase, HrtimerSleeper, KItimer, TaskCputime};
use crate::user_namespaces::{UidGidMap, UserNamespaceLayout};

crate::mirror_set! {
    /// Where the members of the structures lie that make up processes and files.
    pub struct Layouts {
        /// `struct tk_read_base`.
        tk_read_base: TkReadBase,
        /// `struct timekeeper`.
        timekeeper: TimekeeperClocks,
        /// `struct time_namespace`.
        time_namespace: Option<TimeNamespace>,
        /// `struct clocksource`.
        clocksource: ClockSource,
        /// `struct new_utsname`.
        new_utsname: NewUtsname,
        /// `struct uts_namespace`.
        uts_namespace: UtsNamespace,
        /// `struct pid_namespace`.
        pid_namespace: PidNamespace,
        /// `struct task_struct`.
        task: Task,
        /// `struct signal_struct`.
        signal: Signal,
        /// `struct sem_undo_list`.
        sem_undo_list: Option<SemUndoList>,
        /// `struct vm_struct`.
        vm_struct: VmStruct,
        /// `struct pid`.
        pid: Pid,
        /// `struct upid`.
        upid: Upid,
        /// Kinds of process ids, indices of `signal_struct.pids`.
        pid_types: PidTypes,
        /// `struct pcpu_hot`.
        pcpu_hot: Option<PcpuHot>,
        /// `struct rq`.
        rq: Option<Rq>,
        /// `irq_cpustat_t`.
        irq_stat: Option<IrqStat>,
        /// `struct kernel_cpustat`.
        kernel_cpustat: Option<KernelCpustat>,
        /// `struct kernel_stat`.
        kernel_stat: Option<KernelStat>,
        /// `struct tss_struct`.
        tss: Option<Tss>,
        /// `struct fpstate`.
        fpstate: FpState,
        /// `struct cred`.
        cred: Cred,
        /// `struct group_info`.
        group_info: GroupInfo,
        /// `struct key`.
        key: Key,
        /// `struct key_type`.
        key_type: KeyType,
        /// `struct assoc_array_node`.
        assoc_array_node: AssocArrayNode,
        /// `struct user_key_payload`.
        user_key_payload: UserKeyPayload,
        /// `struct lsm_blob_sizes`.
        lsm_blob_sizes: LsmBlobSizes,
        /// `struct aa_label`.
        aa_label: Option<AaLabel>,
        /// Flags of an AppArmor label.
        aa_label_flags: AaLabelFlags,
        /// `struct seccomp_filter`.
        seccomp_filter: Option<SeccompFilter>,
        /// `struct bpf_prog`.
        bpf_prog: BpfProg,
        /// `struct sock_fprog_kern`.
        sock_fprog_kern: SockFprogKern,
        /// `struct sighand_struct`.
        sighand: Sighand,
        /// `struct k_sigaction`.
        k_sigaction: KSigaction,
        /// `struct sigpending`.
        sig_pending: SigPending,
        /// `struct sigqueue`.
        sig_queue: SigQueue,
        /// `struct hrtimer`.
        hrtimer: Hrtimer,
        /// `struct hrtimer_clock_base`.
        hrtimer_clock_base: HrtimerClockBase,
        /// `struct hrtimer_sleeper`.
        hrtimer_sleeper: HrtimerSleeper,
        /// `struct alarm`.
        alarm: Alarm,
        /// `struct k_itimer`.
        k_itimer: KItimer,
        /// `struct cpu_itimer`.
        cpu_itimer: CpuItimer,
        /// `struct task_cputime_atomic`.
        task_cputime: TaskCputime,
        /// `struct folio`.
        folio: Folio,
        /// Bits of `page.flags`.
        page_flags: PageFlags,
        /// `struct mm_struct`.
        mm: MmStruct,
        /// `struct vm_area_struct`.
        vma: VmArea,
        /// `struct anon_vma_name`.
        anon_vma_name: Option<AnonVmaName>,
        /// `struct vm_special_mapping`.
        vm_special_mapping: VmSpecialMapping,
        /// `struct vdso_image`.
        vdso_image: VdsoImage,
        /// `struct mmu_notifier_subscriptions`.
        mmu_notifiers: Option<MmuNotifiers>,
        /// `struct kioctx_table`.
        kioctx_table: Option<KioctxTable>,
        /// `struct kioctx`.
        kioctx: Option<Kioctx>,
        /// `struct kioctx_cpu`.
        kioctx_cpu: Option<KioctxCpu>,
        /// The structures of io_uring.
        io_uring: io_uring::Known,
        /// `struct dentry`.
        dentry: Dentry,
        /// `struct dentry`, the names below one.
        children: Children,
        /// `struct mount`.
        mount: MountLayout,
        /// `struct mnt_namespace`.
        mnt_namespace: MntNamespace,
        /// `struct shmem_sb_info`.
        shmem_sb_info: Option<ShmemSbInfo>,
        /// `struct proc_fs_info`.
        proc_fs_info: Option<ProcFsInfo>,
        /// `struct inode`, of a symbolic link.
        symbolic_link: SymbolicLink,
        /// `struct inode`.
        inode: InodeLayout,
        /// `struct address_space`.
        address_space: AddressSpaceLayout,
        /// `struct super_block`.
        super_block: SuperBlock,
        /// `struct file_system_type`.
        file_system_type: FileSystemType,
        /// `struct shmem_inode_info`.
        shmem_inode: ShmemInode,
        /// `struct swap_info_struct`.
        swap_info: Option<SwapInfo>,
        /// `struct swap_extent`.
        swap_extent: Option<SwapExtent>,
        /// `struct kobject`.
        kobject: Kobject,
        /// `struct ptdesc`.
        ptdesc: Option<Ptdesc>,
        /// `struct page`, as a page table.
        page_of_table: PageOfTable,
        /// `struct ext4_inode_info`.
        ext4_inode: Option<Ext4Inode>,
        /// `struct ext4_sb_info`.
        ext4_super: Option<Ext4Super>,
        /// `struct buffer_head`.
        buffer_head: BufferHead,
        /// `struct iomap_folio_state`.
        iomap_state: Option<IomapState>,
        /// `struct iomap_page`.
        iomap_page: Option<IomapPage>,
        /// Bits of `buffer_head.b_state`.
        buffer_states: BufferStates,
        /// `struct journal_s`.
        journal: Option<Journal>,
        /// `struct transaction_s`.
        transaction: Option<Transaction>,
        /// `struct jbd2_journal_handle`.
        handle: Option<Handle>,
        /// `struct journal_head`.
        journal_head: Option<JournalHead>,
        /// `struct jbd2_revoke_table_s`.
        revoke_table: Option<RevokeTable>,
        /// `struct jbd2_revoke_record_s`.
        revoke_record: Option<RevokeRecord>,
        /// States of a transaction.
        transaction_states: States,
        /// Bits of `buffer_head.b_state` that jbd2 has added.
        journal_buffer_states: BufferStatesOfJournal,
        /// `struct block_device`.
        block_device: BlockDevice,
        /// `struct nsproxy`.
        nsproxy: Nsproxy,
        /// `struct user_namespace`.
        user_namespace: UserNamespaceLayout,
        /// `struct uid_gid_map`.
        uid_gid_map: UidGidMap,
        /// `struct files_struct`.
        files_struct: FilesStruct,
        /// `struct fdtable`.
        fdtable: Fdtable,
        /// `struct file`.
        file: FileLayout,
        /// `struct fown_struct`.
        fown: FownStruct,
        /// `struct tty_file_private`.
        tty_file_private: TtyFilePrivate,
        /// `struct tty_struct`.
        tty_struct: TtyStruct,
        /// `struct tty_driver`.
        tty_driver: TtyDriver,
        /// `struct tty_ldisc`.
        tty_ldisc: TtyLdisc,
        /// `struct tty_ldisc_ops`.
        tty_ldisc_ops: TtyLdiscOps,
        /// `struct n_tty_data`.
        n_tty_data: NTtyData,
        /// `struct tty_port`.
        tty_port: TtyPort,
        /// `struct tty_buffer`.
        tty_buffer: TtyBuffer,
        /// `struct file_lock_context`.
        file_lock_context: FileLockContext,
        /// `struct file_lock`.
        file_lock: FileLockLayout,
        /// `struct eventfd_ctx`.
        eventfd: EventfdCtx,
        /// `struct eventpoll`.
        eventpoll: Eventpoll,
        /// `struct epitem`.
        epitem: Epitem,
        /// `struct timerfd_ctx`.
        timerfd: TimerfdCtx,
        /// `struct signalfd_ctx`.
        signalfd: SignalfdCtx,
        /// `struct fsnotify_group`.
        fsnotify_group: FsnotifyGroup,
        /// `struct fsnotify_mark`.
        fsnotify_mark: FsnotifyMark,
        /// `struct fsnotify_mark_connector`.
        fsnotify_mark_connector: FsnotifyMarkConnector,
        /// `struct inotify_event_info`.
        inotify_event: InotifyEventInfo,
        /// `struct inotify_inode_mark`.
        inotify_inode_mark: InotifyInodeMark,
        /// `struct inode`, as those who watch it know it.
        watched_inode: WatchedInode,
        /// `struct pipe_inode_info`.
        pipe: PipeInodeInfo,
        /// `struct pipe_buffer`.
        pipe_buffer: PipeBuffer,
        /// `struct futex_q`.
        futex_q: FutexQ,
        /// `struct kiocb`.
        kiocb: Kiocb,
        /// `struct iov_iter`.
        iov_iter: IovIter,
        /// `struct restart_block`.
        restart_block: RestartBlock,
        /// `struct io_context`.
        io_context: IoContext,
        /// `struct mempolicy`.
        mempolicy: Option<Mempolicy>,
        /// `struct net`.
        net: Net,
        /// `struct net`, what one has beside links.
        network_of_namespace: NetworkOfNamespace,
        /// `struct nf_hook_entries`.
        nf_hook_entries: Option<NfHookEntries>,
        /// `struct nf_hook_entry`.
        nf_hook_entry: Option<NfHookEntry>,
        /// What settings lie in.
        sysctls: Option<sysctls::Layouts>,
        /// `struct net_device`.
        net_device: NetDevice,
        /// `struct rtnl_link_ops`.
        rtnl_link_ops: RtnlLinkOps,
        /// `struct netdev_adjacent`.
        netdev_adjacent: NetdevAdjacent,
        /// `struct in_device`.
        in_device: InDevice,
        /// `struct in_ifaddr`.
        in_ifaddr: InIfaddr,
        /// `struct inet6_dev`.
        inet6_dev: Inet6Dev,
        /// `struct inet6_ifaddr`.
        inet6_ifaddr: Inet6Ifaddr,
        /// `struct fib_table`.
        fib_table: FibTable,
        /// `struct key_vector`.
        key_vector: KeyVector,
        /// `struct nf_conn`.
        nf_conn: Option<NfConn>,
        /// `struct nf_conntrack_tuple_hash`.
        nf_conntrack_tuple_hash: Option<NfConntrackTupleHash>,
        /// `struct ip_ct_tcp_state`.
        ip_ct_tcp_state: Option<IpCtTcpState>,
        /// `struct fib6_table`.
        fib6_table: Fib6Table,
        /// `struct fib6_node`.
        fib6_node: Fib6Node,
        /// `struct fib6_info`.
        fib6_info: Fib6Info,
        /// `struct fib6_nh`.
        fib6_nh: Fib6Nh,
        /// `struct fib_alias`.
        fib_alias: FibAlias,
        /// `struct fib_info`.
        fib_info: FibInfo,
        /// `struct fib_nh`.
        fib_nh: FibNh,
        /// `struct socket`.
        socket: Socket,
        /// `struct sock`.
        sock: Sock,
        /// Bits of `sock.sk_flags`.
        sock_flags: SockFlags,
        /// `struct inet_sock`.
        inet_sock: InetSock,
        /// `struct udp_sock`.
        udp_sock: UdpSock,
        /// `struct raw_sock`.
        raw_sock: RawSock,
        /// `struct raw6_sock`.
        raw6_sock: Raw6Sock,
        /// `struct net`, what routers' programs have in it.
        router_state: RouterState,
        /// `struct ipv6_devconf`.
        ipv6_devconf: Ipv6Devconf,
        /// `struct ip_mc_socklist`.
        ip_mc_socklist: IpMcSocklist,
        /// `struct ipv6_mc_socklist`.
        ipv6_mc_socklist: Ipv6McSocklist,
        /// `struct sk_filter`.
        sk_filter: SkFilter,
        /// `struct sock_reuseport`.
        sock_reuseport: SockReuseport,
        /// `struct netlink_sock`.
        netlink_sock: NetlinkSock,
        /// `struct netlink_skb_parms`.
        netlink_skb_parms: NetlinkSkbParms,
        /// `struct net`, where its connections are.
        tcp_tables: TcpTables,
        /// `struct inet_hashinfo`.
        inet_hashinfo: InetHashinfo,
        /// `struct packet_sock`.
        packet_sock: Option<PacketSock>,
        /// Bits of `packet_sock.flags`.
        packet_flags: Option<PacketFlags>,
        /// `struct packet_mclist`.
        packet_mclist: Option<PacketMclist>,
        /// `struct ipv6_pinfo`.
        ipv6_pinfo: Ipv6Pinfo,
        /// `struct inet_connection_sock`.
        inet_connection_sock: InetConnectionSock,
        /// `struct request_sock`.
        request_sock: RequestSock,
        /// `struct tcp_congestion_ops`.
        tcp_congestion_ops: TcpCongestionOps,
        /// `struct tcp_sock`.
        tcp_sock: TcpSock,
        /// `struct tcp_skb_cb`.
        tcp_skb_cb: TcpSkbCb,
        /// `struct unix_sock`.
        unix_sock: UnixSock,
        /// `struct unix_skb_parms`.
        unix_skb_parms: UnixSkbParms,
        /// `struct unix_address`.
        unix_address: UnixAddress,
        /// `struct scm_fp_list`.
        scm_fp_list: ScmFpList,
        /// `struct sk_buff`.
        sk_buff: SkBuff,
        /// `struct sk_buff_head`.
        sk_buff_head: SkBuffHead,
        /// `struct skb_shared_info`.
        skb_shared_info: SkbSharedInfo,
        /// `struct skb_frag`.
        skb_frag: Option<SkbFrag>,
        /// `struct bio_vec`.
        bio_vec: BioVec,
        /// `struct fs_struct`.
        fs: FsStruct,
        /// `struct task_struct`.
        task_cgroups: TaskCgroups,
        /// `struct cgroup_namespace`.
        cgroup_namespace: Option<CgroupNamespace>,
        /// `struct css_set`.
        css_set: CssSet,
        /// `struct cgroup`.
        cgroup: Cgroup,
        /// `struct kernfs_node`.
        kernfs_node: KernfsNode,
        /// `struct linux_binprm`.
        linux_binprm: LinuxBinprm,
        /// `struct proc_inode`.
        proc_inode: ProcInode,
        /// `struct proc_dir_entry`.
        proc_dir_entry: ProcDirEntry,
        /// `struct proc_ops`.
        proc_ops: ProcOps,
        /// `struct seq_file`.
        seq_file: SeqFile,
        /// `struct seq_operations`.
        seq_operations: SeqOperations,
        /// `struct inactive_task_frame`.
        switch_frame: SwitchFrame,
        /// `struct ipc_namespace`.
        ipc_namespace: Option<IpcNamespace>,
        /// `struct ipc_namespace`, what is set in one.
        ipc_settings: Option<IpcSettings>,
        /// `struct ipc_ids`.
        ipc_ids: Option<IpcIds>,
        /// `struct kern_ipc_perm`.
        kern_ipc_perm: Option<KernIpcPerm>,
        /// `struct sem_array`.
        sem_array: Option<SemArray>,
        /// `struct sem`.
        sem: Option<Sem>,
        /// `struct sem_queue`.
        sem_queue: Option<SemQueue>,
        /// `struct ipc_namespace`, the POSIX message queues of one.
        queues_of_namespace: Option<QueuesOfNamespace>,
        /// `struct mqueue_inode_info`.
        mqueue_inode_info: Option<MqueueInodeInfo>,
        /// `struct posix_msg_tree_node`.
        posix_msg_tree_node: Option<PosixMsgTreeNode>,
        /// `struct ext_wait_queue`.
        ext_wait_queue: Option<ExtWaitQueue>,
        /// `struct shmid_kernel`.
        shmid_kernel: Option<ShmidKernel>,
        /// `struct msg_queue`.
        msg_queue: Option<MsgQueue>,
        /// `struct msg_msg`.
        msg_msg: Option<MsgMsg>,
        /// `struct msg_msgseg`.
        msg_msgseg: Option<MsgSegment>,
        /// `struct msg_receiver`.
        msg_receiver: Option<MsgReceiver>,
        /// `struct msg_sender`.
        msg_sender: Option<MsgSender>,
    }
}
