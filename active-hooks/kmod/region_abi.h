/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * The region and the ioctl interface, as C sees them.
 *
 * The definition is the Rust crate shared-region; this is a mirror of the
 * parts that the module touches, under the same field names. A test of that
 * crate (tests/c_header.rs) compares every field and constant, so nothing here
 * may be changed alone. Who writes and who reads a field is said there.
 */
#ifndef ORTHROS_REGION_ABI_H
#define ORTHROS_REGION_ABI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define ORTHROS_ABI_VERSION 1

/* layout.rs: bytes from the base of the region */
#define ORTHROS_REGION_SIZE 0x10000000ULL
#define ORTHROS_NURSERY_SIZE 0x10000000ULL
#define ORTHROS_MAX_CPUS 256
#define ORTHROS_HEADER_OFFSET 0x0ULL
#define ORTHROS_HEADER_SIZE 0x1000ULL
#define ORTHROS_CONTROL_OFFSET 0x1000ULL
#define ORTHROS_TIMELINE_OFFSET 0x2000ULL
#define ORTHROS_STANDBY_OFFSET 0x3000ULL
#define ORTHROS_FACTS_OFFSET 0x10000ULL
#define ORTHROS_PROTECT_OFFSET 0x20000ULL
#define ORTHROS_PARKING_CODE_OFFSET 0x80000ULL
#define ORTHROS_PARKING_CODE_SIZE 0x80000ULL
#define ORTHROS_PARKING_SLOTS_OFFSET 0x100000ULL
#define ORTHROS_REPORT_OFFSET 0x900000ULL
#define ORTHROS_REPORT_SIZE 0x700000ULL
#define ORTHROS_RETAINED_OFFSET 0x9000000ULL
#define ORTHROS_RETAINED_SIZE 0x400000ULL

/* standby.rs */
#define ORTHROS_STANDBY_STARTING 1
#define ORTHROS_IDLE_BLOCK 0x200000ULL
#define ORTHROS_MAX_IDLE_BLOCKS 128

struct orthros_standby {
	__u64 state;
	__u64 first_entry;
	__u64 first_boot_params;
	__u64 missing;
	__u64 put_back;
	__u64 image_bytes[2];
	__u64 idle_count;
	__u64 idle_blocks[ORTHROS_MAX_IDLE_BLOCKS];
};

/* header.rs */
#define ORTHROS_HEADER_MAGIC 0x21534f524854524fULL
#define ORTHROS_MAX_RAM_RANGES 64

struct orthros_memory_range {
	__u64 start;
	__u64 end;
	__u64 kind;
};

struct orthros_header {
	__u64 magic;
	__u32 abi_version;
	__u32 digest;
	__u64 base;
	__u64 size;
	__u64 nursery[2];
	__u64 reserved_nursery;
	__u64 reserved_apic_id;
	__u64 bsp_apic_id;
	__u64 rsdp;
	__u64 pm_timer_port;
	__u64 tsc_hz;
	__u64 cpu_count;
	__u8 cpus[ORTHROS_MAX_CPUS];
	__u64 ram_count;
	struct orthros_memory_range ram[ORTHROS_MAX_RAM_RANGES];
	__u64 options;
	__u8 reserved[2184];
};

/* control.rs */
#define ORTHROS_WATCH_OFF 0
#define ORTHROS_WATCH_UNARMED 1
#define ORTHROS_WATCH_ARMED 2
#define ORTHROS_WATCH_STOPPING 3
#define ORTHROS_WATCH_SALVAGING 4
#define ORTHROS_WATCH_HANDING_OVER 5
#define ORTHROS_WATCH_DEAD 6

#define ORTHROS_GATE_NONE 0
#define ORTHROS_GATE_BUSY 1
#define ORTHROS_GATE_OPEN 2
#define ORTHROS_GATE_FAILED 3
#define ORTHROS_GATE_FORBIDDEN 4

#define ORTHROS_COMMIT_OPEN 0
#define ORTHROS_COMMIT_MEMORY 1
#define ORTHROS_COMMIT_REVOKED 2
#define ORTHROS_COMMIT_DISKS 3
#define ORTHROS_COMMIT_PROCESSES 4
#define ORTHROS_DOORBELL_QUIET 0
#define ORTHROS_DOORBELL_PANIC 1
#define ORTHROS_DOORBELL_UPDATE 2

#define ORTHROS_FEATURE_ANSWERS 1

#define ORTHROS_HANG_LIMITS 5
#define ORTHROS_WARM_CACHE_LIMIT 64
#define ORTHROS_WARM_CACHE_MOST_MB (1ULL << 20)
#define ORTHROS_STATUS_ADDRESS 65
#define ORTHROS_LOG_TARGET 66
#define ORTHROS_HANG_LIMIT_OFF 0xffffffffffffffffULL
#define ORTHROS_HANG_LIMIT_LEAST_MS 1000
#define ORTHROS_HANG_LIMIT_MOST_MS 3600000

#define ORTHROS_PHASE_NONE 0
#define ORTHROS_PHASE_MODULE 1
#define ORTHROS_PHASE_MEMORY_ADDED 2
#define ORTHROS_PHASE_COMPLETE 5

struct orthros_control {
	/* written by the backup OS */
	__u64 watch_state;
	__u64 watch_reason;
	__u64 watcher_looks;
	__u64 stray_vectors;
	__u64 failover_count;
	__u64 stop_request;
	__u64 park_root_l4;
	__u64 park_root_l5;
	__u64 park_entry;
	__u64 salvage_gate;
	__u64 detected_tsc;
	__u64 detected_hpet;
	__u64 detected_pm_timer;
	__u64 unparked_cpus;
	__u64 successor_slot;
	__u64 stop_gently;
	__u64 failure_cause;
	__u64 failure_cpu;
	__u64 failure_where[6];
	__u64 failure_interrupted;
	__u64 hang_questions;
	__u64 stalled_threads;
	__u64 successor_fails_at;
	__u64 network_hold;
	__u64 backup_reserved[3];
	/* written by the module */
	__u64 module_abi;
	__u64 doorbell;
	__u64 doorbell_tsc;
	__u64 successor_phase;
	__u64 successor_heartbeat;
	__u64 commit_point;
	__u64 processes_resumed;
	__u64 frames_adopted;
	__u64 frames_copied;
	__u64 frames_refused;
	__u64 inject_unparkable[4];
	__u64 inject;
	__u64 nursery_free;
	__u64 module_features;
	__u64 hang_limits[ORTHROS_HANG_LIMITS];
	__u64 warm_cache;
	__u64 status_address;
	__u64 log_target;
	__u64 module_reserved[7];
};

/* timeline.rs */
#define ORTHROS_TIMELINE_SLOTS 64
#define ORTHROS_EVENT_INIT_STARTED 6
#define ORTHROS_EVENT_MODULE_LOADED 7
#define ORTHROS_EVENT_COMPLETE 13
#define ORTHROS_EVENT_NETWORK_WANTED 17

struct orthros_timeline {
	__u64 tsc[ORTHROS_TIMELINE_SLOTS];
};

/* facts.rs */
#define ORTHROS_FACTS_MAGIC 0x53544341462d524fULL

struct orthros_xstate_component {
	__u32 offset;
	__u32 size;
	__u32 flags;
	__u32 reserved;
};

struct orthros_facts {
	__u64 magic;
	__u32 abi_version;
	__u32 size;
	__u64 seq;
	__u8 release[64];
	__u8 build_id[20];
	__u32 pad;
	__u64 root_table_phys;
	__u64 la57;
	__u64 phys_base;
	__u64 vmcoreinfo_phys;
	__u64 vmcoreinfo_len;
	__u64 panic_cpu_phys;
	__u64 panic_cpu_invalid;
	__u64 asm_exc_nmi_phys;
	__u64 panic_phys;
	__u64 panic_size;
	__u64 nr_cpu_ids;
	__u64 xcr0;
	__u64 xsave_size;
	struct orthros_xstate_component xstate[32];
	__u64 tsc_khz;
	__u64 memory_block_size;
	__u64 total_ram_pages;
	__u64 published_tsc;
	__u16 apic_id_of_cpu[ORTHROS_MAX_CPUS];
	__u64 netfilter;
};

/* netfilter.rs */
#define ORTHROS_NETFILTER_MOST 0x1000000ULL

struct orthros_netfilter {
	__u64 seq;
	__u64 rules;
	__u64 length;
	__u64 generation;
	__u64 generation_at;
	__u64 connections;
	__u64 connections_count;
};

/* protect.rs */
#define ORTHROS_PROTECT_ENTRIES 1024
#define ORTHROS_PROTECT_FREE 0
#define ORTHROS_PROTECT_PROCESS 1
#define ORTHROS_PROTECT_COMM 2
#define ORTHROS_PROTECT_DESCENDANTS 1

struct orthros_protect_entry {
	__u32 kind;
	__u32 flags;
	__u64 tgid;
	__u64 start_boottime;
	__u8 comm[16];
};

struct orthros_protect_table {
	__u64 seq;
	struct orthros_protect_entry entries[ORTHROS_PROTECT_ENTRIES];
};

/* parking.rs */
#define ORTHROS_PARK_SLOT_SIZE 0x4000
#define ORTHROS_PARK_XSAVE_SIZE 0x2c00
#define ORTHROS_PARK_RUNNING 0
#define ORTHROS_PARK_SAVING 1
#define ORTHROS_PARK_SAVED 2
#define ORTHROS_NO_QUESTION 0xffffffffffffffffULL

struct orthros_park_slot {
	__u64 state;
	__u64 generation;
	__u64 cpu;
	__u64 current_task;
	__u64 cr2;
	__u64 cr3;
	__u64 fs_base;
	__u64 kernel_gs_base;
	__u64 regs[21];
	__u64 xsave_valid;
	__u64 tsc;
	__u64 command;
	__u64 argument;
	__u64 argument2;
	__u64 nmis;
	__u64 parked_rip;
	__u64 parked_rsp;
	__u64 parked_cr3;
	__u64 parked_gdt;
	__u64 parked_idt;
	__u64 let_go_on;
	__u64 question;
	__u64 answer_nmi;
	__u64 answer_interrupt;
	__u64 answer_thread;
	__u64 answer_ip;
	__u64 answer_flags;
	__u64 answer_tid;
	__u64 reserved[80];
	__u8 xsave[ORTHROS_PARK_XSAVE_SIZE];
	__u8 stack[0x1000];
};

/* context/memory.rs: one run of page frames */
#define ORTHROS_FRAME_OWN 0
#define ORTHROS_FRAME_SHARED 1
#define ORTHROS_FRAME_HUGE 4
#define ORTHROS_FRAME_COPIED 5

struct orthros_frame_run {
	__u64 va;
	__u64 word;
};

/* stage.rs */
#define ORTHROS_STAGE_TABLE_OFFSET 0x40000
#define ORTHROS_STAGE_WORDS_OFFSET 0x5000
#define ORTHROS_STAGED_0_OFFSET 0x4000000
#define ORTHROS_STAGED_1_OFFSET 0x6800000
#define ORTHROS_STAGED_SIZE 0x2800000
#define ORTHROS_CMDLINE_SIZE 2048
#define ORTHROS_STAGE_WHY_SIZE 192

struct orthros_staged_kernel {
	__u64 valid;
	__u64 kernel;
	__u64 kernel_len;
	__u64 initramfs;
	__u64 initramfs_len;
	__u32 kernel_digest;
	__u32 initramfs_digest;
	__u8 cmdline[ORTHROS_CMDLINE_SIZE];
};

struct orthros_stage_table {
	__u64 current_slot;
	struct orthros_staged_kernel slots[2];
	__u64 failed[2];
};

struct orthros_stage_words {
	__u64 request;
	__u64 answered;
	__u64 state;
	__u64 why[ORTHROS_STAGE_WHY_SIZE / 8];
};

/* device.rs */
struct orthros_info {
	__u64 abi_version;
	__u64 region;
	__u64 successor;
	__u64 withheld;
};

struct orthros_protect {
	__u32 kind;
	__u32 flags;
	__u64 tgid;
	__u8 comm[16];
};

struct orthros_add_memory {
	__u64 start;
	__u64 size;
	__u64 withheld;
	__u64 given;
	__u64 nanoseconds;
};

struct orthros_adopt {
	__u64 pid;
	__u64 runs;
	__u64 count;
	__u64 adopted;
	__u64 copied;
	__u64 stopped_at;
	__u64 nanoseconds;
};

#define ORTHROS_LAZY_BEGIN 1
#define ORTHROS_LAZY_HOLD 2
#define ORTHROS_LAZY_READY 3

struct orthros_lazy {
	__u64 step;
	__u64 pid;
	__u64 runs;
	__u64 count;
	__u64 pages;
	__u64 nanoseconds;
};

struct orthros_cache {
	__u64 fd;
	__u64 runs;
	__u64 count;
	__u64 pages;
	__u64 copied;
	__u64 nanoseconds;
};

struct orthros_warm {
	__u64 fd;
	__u64 runs;
	__u64 count;
	__u64 size;
	__u64 version;
	__u64 pages;
	__u64 nanoseconds;
};

struct orthros_release {
	__u64 released;
	__u64 left;
	__u64 nanoseconds;
};

#define ORTHROS_RESUME_SLEEP 1
#define ORTHROS_RESUME_FUTEX 2
#define ORTHROS_RESUME_POLL 3

struct orthros_resume_call {
	__u64 tid;
	__u64 kind;
	__u64 a;
	__u64 b;
	__u64 expires;
	__u64 c;
};

struct orthros_mark {
	__u64 event;
	__u64 phase;
	__u64 tsc;
	__u64 resumed;
};

struct orthros_write_report {
	__u64 data;
	__u64 length;
};

#define ORTHROS_TEST_PANIC 1
#define ORTHROS_TEST_NULL_DEREFERENCE 2
#define ORTHROS_TEST_BUG_IN_INTERRUPT 3
#define ORTHROS_TEST_PANIC_WITH_SPINNER 4
#define ORTHROS_TEST_INJECT 5
#define ORTHROS_TEST_UNPARKABLE 6
#define ORTHROS_TEST_PANIC_IN_PANIC 7
#define ORTHROS_TEST_PANIC_HOLDING_LOCKS 8
#define ORTHROS_TEST_PANIC_AT 9
#define ORTHROS_TEST_CORRUPT 10
#define ORTHROS_TEST_HANG_ALL 16
#define ORTHROS_TEST_HANG_CPU 17
#define ORTHROS_TEST_SOFT_LOCKUP 18
#define ORTHROS_TEST_LIVE_LOCK 19
#define ORTHROS_TEST_STALL 20
#define ORTHROS_TEST_HANG_IN_NMI 21
#define ORTHROS_TEST_HANG_HOLDING_LOCKS 22

struct orthros_test {
	__u64 kind;
	__u64 cpu;
	__u64 value;
};

struct orthros_task_state {
	__u64 tid;
	__u64 start_boottime;
	__u64 utime;
	__u64 stime;
	__u64 login;
};

struct orthros_wake {
	__u64 successor;
};

struct orthros_rest {
	__u64 blocks;
};

struct orthros_configure {
	__u64 limit;
	__u64 value;
};

#define ORTHROS_UPDATE_DRY_RUN 1
#define ORTHROS_UPDATE_ALLOW_INTERRUPTED 2
#define ORTHROS_UPDATE_ALLOW_BUSY 4

struct orthros_update {
	__u64 deadline;
	__u64 flags;
	__u64 threads;
	__u64 attempts;
	__u64 tid;
	__u64 call;
	__u64 interrupted;
};

struct orthros_commit {
	__u64 level;
};

#define ORTHROS_STAGE_WRITE_MOST 0x100000

struct orthros_stage_begin {
	__u64 slot;
	__u64 room;
};

struct orthros_stage_write {
	__u64 offset;
	__u64 data;
	__u64 length;
};

struct orthros_stage_commit {
	__u64 kernel_len;
	__u64 initramfs_offset;
	__u64 initramfs_len;
	__u64 kernel_digest;
	__u64 initramfs_digest;
	__u64 cmdline;
	__u64 cmdline_len;
	__u64 request;
};

struct orthros_peer_credentials {
	__u64 fd;
	__u64 of_peer;
	__u64 process;
	__u64 user;
	__u64 group;
	__u64 groups;
	__u64 count;
};

#define ORTHROS_TCP_FIN 1
#define ORTHROS_TCP_CROSSED 2
#define ORTHROS_TCP_WAIT 3
#define ORTHROS_TCP_SPEAK 4
#define ORTHROS_TCP_FAIL 5
#define ORTHROS_TCP_URGENT_RECEIVED 6
#define ORTHROS_TCP_URGENT_TO_SEND 7

struct orthros_tcp {
	__u64 fd;
	__u64 step;
	__u64 listener;
};

struct orthros_tcp_end {
	__u64 fd;
	__u32 error;
	__u16 done;
	__u16 bound;
	__u32 state;
	__u16 ports[2];
	__u8 local[16];
	__u8 peer[16];
};

/* rescue_area/mod.rs */
#define ORTHROS_RESCUE_WORDS_OFFSET 0x6000

struct orthros_rescue_area {
	__u64 state;
	__u64 function;
	__u64 start;
	__u64 sectors;
	__u64 disk_sectors;
	__u64 id[2];
	__u64 serial[3];
};

struct orthros_inotify_event {
	__u64 fd;
	__s32 wd;
	__u32 mask;
	__u32 cookie;
	__u32 name_len;
	__u64 name;
};

struct orthros_netlink {
	__u64 fd;
	__u64 data;
	__u64 length;
	__u32 port;
	__u32 group;
	__u32 process;
	__u32 user;
	__u32 gid;
	__u32 reserved;
};

struct orthros_io_uring {
	__u64 fd;
	__u32 taken;
	__u32 completed;
	__u32 extra;
	__u32 timeouts;
	__u32 timeouts_flushed;
	__u32 drain_disabled;
};

#define ORTHROS_INFO _IOWR('O', 1, struct orthros_info)
#define ORTHROS_PROTECT _IOWR('O', 2, struct orthros_protect)
#define ORTHROS_UNPROTECT _IOWR('O', 3, struct orthros_protect)
#define ORTHROS_ADD_MEMORY _IOWR('O', 4, struct orthros_add_memory)
#define ORTHROS_ADOPT _IOWR('O', 5, struct orthros_adopt)
#define ORTHROS_RELEASE _IOWR('O', 6, struct orthros_release)
#define ORTHROS_RESUME _IOWR('O', 7, struct orthros_resume_call)
#define ORTHROS_MARK _IOWR('O', 8, struct orthros_mark)
#define ORTHROS_WRITE_REPORT _IOWR('O', 9, struct orthros_write_report)
#define ORTHROS_TEST _IOWR('O', 10, struct orthros_test)
#define ORTHROS_TASK_STATE _IOWR('O', 11, struct orthros_task_state)
#define ORTHROS_WAKE _IOWR('O', 12, struct orthros_wake)
#define ORTHROS_REST _IOWR('O', 13, struct orthros_rest)
#define ORTHROS_CONFIGURE _IOWR('O', 16, struct orthros_configure)
#define ORTHROS_UPDATE _IOWR('O', 17, struct orthros_update)
#define ORTHROS_COMMIT _IOWR('O', 32, struct orthros_commit)
#define ORTHROS_STAGE_BEGIN _IOWR('O', 33, struct orthros_stage_begin)
#define ORTHROS_STAGE_WRITE _IOWR('O', 34, struct orthros_stage_write)
#define ORTHROS_STAGE_COMMIT _IOWR('O', 35, struct orthros_stage_commit)
#define ORTHROS_LAZY _IOWR('O', 48, struct orthros_lazy)
#define ORTHROS_CACHE _IOWR('O', 64, struct orthros_cache)
#define ORTHROS_WARM _IOWR('O', 65, struct orthros_warm)
#define ORTHROS_PEER_CREDENTIALS _IOWR('O', 80, struct orthros_peer_credentials)
#define ORTHROS_TCP _IOWR('O', 81, struct orthros_tcp)
#define ORTHROS_INOTIFY_EVENT _IOWR('O', 82, struct orthros_inotify_event)
#define ORTHROS_IO_URING _IOWR('O', 83, struct orthros_io_uring)
#define ORTHROS_NETLINK _IOWR('O', 86, struct orthros_netlink)
#define ORTHROS_TCP_END _IOWR('O', 87, struct orthros_tcp_end)
#define ORTHROS_RESCUE_AREA _IOWR('O', 96, struct orthros_rescue_area)

#endif
