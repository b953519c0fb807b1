//! The module's C mirror of the region (`active-hooks/kmod/region_abi.h`) against the definition in this crate.
//!
//! Every field of every structure that the module shares becomes a `_Static_assert` on its offset and size, every
//! constant one on its value; the C compiler then judges. The macros take the structures apart without `..`, so a
//! field that was added here and not there does not compile.

use shared_region::{
    context, control, device, facts, header, layout, netfilter, parking, protect, rescue_area, stage, standby, timeline,
};
use std::{
    fmt::Write as _,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// Asserts size and every field's offset and size of `struct $c`.
macro_rules! structure {
    ($out:ident, $rust:path, $c:literal, { $($field:ident),* $(,)? }) => {{
        #[allow(dead_code)]
        fn all_fields_are_named(value: &$rust) {
            let $rust { $($field: _),* } = value;
        }
        fn size_of_field<T, F>(_: impl Fn(&T) -> &F) -> usize {
            core::mem::size_of::<F>()
        }
        assertion(&mut $out, &format!("sizeof(struct {})", $c), core::mem::size_of::<$rust>() as u64);
        $(
            assertion(
                &mut $out,
                &format!("offsetof(struct {}, {})", $c, stringify!($field)),
                core::mem::offset_of!($rust, $field) as u64,
            );
            assertion(
                &mut $out,
                &format!("sizeof(((struct {} *)0)->{})", $c, stringify!($field)),
                size_of_field(|value: &$rust| &value.$field) as u64,
            );
        )*
    }};
}

fn assertion(out: &mut String, expression: &str, value: u64) {
    writeln!(
        out,
        "_Static_assert({expression} == {value:#x}ULL, \"{expression} is {value:#x} in Rust\");"
    )
    .unwrap();
}

fn structures(out: &mut String) {
    let mut text = String::new();
    structure!(text, header::MemoryRange, "orthros_memory_range", { start, end, kind });
    structure!(text, device::RescueArea, "orthros_rescue_area", {
        state, function, start, sectors, disk_sectors, id, serial,
    });
    structure!(text, rescue_area::RescueWords, "orthros_rescue_area", {
        state, function, start, sectors, disk_sectors, id, serial,
    });
    structure!(text, header::Header, "orthros_header", {
        magic, abi_version, digest, base, size, nursery, reserved_nursery, reserved_apic_id, bsp_apic_id, rsdp,
        pm_timer_port, tsc_hz, cpu_count, cpus, ram_count, ram, options, reserved,
    });
    structure!(text, control::ControlWords, "orthros_control", {
        watch_state, watch_reason, watcher_looks, stray_vectors, failover_count, stop_request, park_root_l4,
        park_root_l5, park_entry, salvage_gate, detected_tsc, detected_hpet, detected_pm_timer, unparked_cpus,
        successor_slot, stop_gently, failure_cause, failure_cpu, failure_where,
        failure_interrupted, hang_questions, stalled_threads, successor_fails_at, network_hold, backup_reserved, module_abi, doorbell, doorbell_tsc, successor_phase, successor_heartbeat,
        commit_point, processes_resumed, frames_adopted, frames_copied, frames_refused, inject_unparkable, inject,
        nursery_free, module_features, hang_limits, warm_cache, status_address, log_target, module_reserved,
    });
    structure!(text, timeline::Timeline, "orthros_timeline", { tsc });
    structure!(text, facts::XstateComponent, "orthros_xstate_component", { offset, size, flags, reserved });
    structure!(text, facts::Facts, "orthros_facts", {
        magic, abi_version, size, seq, release, build_id, pad, root_table_phys, la57, phys_base, vmcoreinfo_phys,
        vmcoreinfo_len, panic_cpu_phys, panic_cpu_invalid, asm_exc_nmi_phys, panic_phys, panic_size, nr_cpu_ids, xcr0,
        xsave_size, xstate, tsc_khz, memory_block_size, total_ram_pages, published_tsc, apic_id_of_cpu,
        netfilter,
    });
    structure!(text, netfilter::NetfilterWords, "orthros_netfilter", {
        seq, rules, length, generation, generation_at, connections, connections_count,
    });
    structure!(text, protect::ProtectEntry, "orthros_protect_entry", { kind, flags, tgid, start_boottime, comm });
    structure!(text, protect::ProtectTable, "orthros_protect_table", { seq, entries });
    structure!(text, parking::ParkSlot, "orthros_park_slot", {
        state, generation, cpu, current_task, cr2, cr3, fs_base, kernel_gs_base, regs, xsave_valid, tsc, command,
        argument, argument2, nmis, parked_rip, parked_rsp, parked_cr3, parked_gdt, parked_idt, let_go_on, question,
        answer_nmi, answer_interrupt, answer_thread, answer_ip, answer_flags, answer_tid, reserved, xsave, stack,
    });
    structure!(text, context::FrameRun, "orthros_frame_run", { va, word });
    structure!(text, device::Info, "orthros_info", { abi_version, region, successor, withheld });
    structure!(text, device::Protect, "orthros_protect", { kind, flags, tgid, comm });
    structure!(text, device::AddMemory, "orthros_add_memory", { start, size, withheld, given, nanoseconds });
    structure!(text, device::Lazy, "orthros_lazy", { step, pid, runs, count, pages, nanoseconds });
    structure!(text, device::Cache, "orthros_cache", { fd, runs, count, pages, copied, nanoseconds });
    structure!(text, device::Warm, "orthros_warm", { fd, runs, count, size, version, pages, nanoseconds });
    structure!(text, device::Tcp, "orthros_tcp", { fd, step, listener });
    structure!(text, device::TcpEnd, "orthros_tcp_end", { fd, error, done, bound, state, ports, local, peer });
    structure!(text, device::Netlink, "orthros_netlink", { fd, data, length, port, group, process, user, gid, reserved });
    structure!(text, device::InotifyEvent, "orthros_inotify_event", { fd, wd, mask, cookie, name_len, name });
    structure!(text, device::IoUring, "orthros_io_uring", {
        fd, taken, completed, extra, timeouts, timeouts_flushed, drain_disabled
    });
    structure!(text, device::PeerCredentials, "orthros_peer_credentials", {
        fd, of_peer, process, user, group, groups, count
    });
    structure!(text, device::Adopt, "orthros_adopt", { pid, runs, count, adopted, copied, stopped_at, nanoseconds });
    structure!(text, device::Release, "orthros_release", { released, left, nanoseconds });
    structure!(text, device::ResumeCall, "orthros_resume_call", { tid, kind, a, b, expires, c });
    structure!(text, device::Mark, "orthros_mark", { event, phase, tsc, resumed });
    structure!(text, device::WriteReport, "orthros_write_report", { data, length });
    structure!(text, device::Test, "orthros_test", { kind, cpu, value });
    structure!(text, device::TaskState, "orthros_task_state", { tid, start_boottime, utime, stime, login });
    structure!(text, device::Wake, "orthros_wake", { successor });
    structure!(text, stage::StagedKernel, "orthros_staged_kernel", {
        valid, kernel, kernel_len, initramfs, initramfs_len, kernel_digest, initramfs_digest, cmdline,
    });
    stage_table(&mut text);
    structure!(text, stage::StageWords, "orthros_stage_words", { request, answered, state, why });
    structure!(text, device::StageBegin, "orthros_stage_begin", { slot, room });
    structure!(text, device::StageWrite, "orthros_stage_write", { offset, data, length });
    structure!(text, device::StageCommit, "orthros_stage_commit", {
        kernel_len, initramfs_offset, initramfs_len, kernel_digest, initramfs_digest, cmdline, cmdline_len, request,
    });
    structure!(text, device::Commit, "orthros_commit", { level });
    structure!(text, device::Rest, "orthros_rest", { blocks });
    structure!(text, standby::StandbyWords, "orthros_standby", {
        state, first_entry, first_boot_params, missing, put_back, image_bytes, idle_count, idle_blocks,
    });
    structure!(text, device::Configure, "orthros_configure", { limit, value });
    structure!(text, device::Update, "orthros_update", { deadline, flags, threads, attempts, tid, call, interrupted });
    out.push_str(&text);
}

/// `current` is a macro in the kernel.
fn stage_table(out: &mut String) {
    use core::mem::{offset_of, size_of};
    #[allow(dead_code)]
    fn all_fields_are_named(
        stage::StageTable {
            current: _,
            slots: _,
            failed: _,
        }: &stage::StageTable,
    ) {
    }
    for (name, offset) in [
        ("current_slot", offset_of!(stage::StageTable, current)),
        ("slots", offset_of!(stage::StageTable, slots)),
        ("failed", offset_of!(stage::StageTable, failed)),
    ] {
        assertion(
            out,
            &format!("offsetof(struct orthros_stage_table, {name})"),
            offset as u64,
        );
    }
    let size = size_of::<stage::StageTable>() as u64;
    assertion(out, "sizeof(struct orthros_stage_table)", size);
}

fn constants(out: &mut String) {
    use control::{CommitPoint, Doorbell, HangLimit, SalvageGate, SuccessorPhase, WatchState};
    use timeline::Event;

    let values = [
        ("ABI_VERSION", u64::from(shared_region::ABI_VERSION)),
        ("REGION_SIZE", layout::REGION_SIZE),
        ("NURSERY_SIZE", layout::NURSERY_SIZE),
        ("MAX_CPUS", layout::MAX_CPUS as u64),
        ("HEADER_OFFSET", layout::HEADER.offset),
        ("HEADER_SIZE", layout::HEADER.size),
        ("CONTROL_OFFSET", layout::CONTROL.offset),
        ("TIMELINE_OFFSET", layout::TIMELINE.offset),
        ("FACTS_OFFSET", layout::FACTS.offset),
        ("PROTECT_OFFSET", layout::PROTECT.offset),
        ("PARKING_CODE_OFFSET", layout::PARKING_CODE.offset),
        ("PARKING_CODE_SIZE", layout::PARKING_CODE.size),
        ("PARKING_SLOTS_OFFSET", layout::PARKING_SLOTS.offset),
        ("REPORT_OFFSET", layout::REPORT.offset),
        ("REPORT_SIZE", layout::REPORT.size),
        ("RETAINED_OFFSET", layout::RETAINED.offset),
        ("RETAINED_SIZE", layout::RETAINED.size),
        ("HEADER_MAGIC", header::MAGIC),
        ("MAX_RAM_RANGES", header::MAX_RAM_RANGES as u64),
        ("WATCH_OFF", WatchState::Off as u64),
        ("WATCH_UNARMED", WatchState::Unarmed as u64),
        ("WATCH_ARMED", WatchState::Armed as u64),
        ("WATCH_STOPPING", WatchState::Stopping as u64),
        ("WATCH_SALVAGING", WatchState::Salvaging as u64),
        ("WATCH_HANDING_OVER", WatchState::HandingOver as u64),
        ("WATCH_DEAD", WatchState::Dead as u64),
        ("GATE_NONE", SalvageGate::None as u64),
        ("GATE_BUSY", SalvageGate::Busy as u64),
        ("GATE_OPEN", SalvageGate::Open as u64),
        ("GATE_FAILED", SalvageGate::Failed as u64),
        ("GATE_FORBIDDEN", SalvageGate::Forbidden as u64),
        ("COMMIT_OPEN", CommitPoint::Open as u64),
        ("COMMIT_MEMORY", CommitPoint::Memory as u64),
        ("COMMIT_REVOKED", CommitPoint::Revoked as u64),
        ("COMMIT_DISKS", CommitPoint::Disks as u64),
        ("COMMIT_PROCESSES", CommitPoint::Processes as u64),
        ("DOORBELL_QUIET", Doorbell::Quiet as u64),
        ("DOORBELL_PANIC", Doorbell::Panic as u64),
        ("DOORBELL_UPDATE", Doorbell::Update as u64),
        ("FEATURE_ANSWERS", control::features::ANSWERS),
        ("HANG_LIMITS", HangLimit::ALL.len() as u64),
        ("WARM_CACHE_LIMIT", device::WARM_CACHE_LIMIT),
        ("WARM_CACHE_MOST_MB", control::WARM_CACHE_MOST_MB),
        ("STATUS_ADDRESS", device::STATUS_ADDRESS),
        ("LOG_TARGET", device::LOG_TARGET),
        ("HANG_LIMIT_OFF", HangLimit::OFF),
        ("HANG_LIMIT_LEAST_MS", HangLimit::LEAST_MS),
        ("HANG_LIMIT_MOST_MS", HangLimit::MOST_MS),
        ("PHASE_NONE", SuccessorPhase::None as u64),
        ("PHASE_MODULE", SuccessorPhase::Module as u64),
        ("PHASE_MEMORY_ADDED", SuccessorPhase::MemoryAdded as u64),
        ("PHASE_COMPLETE", SuccessorPhase::Complete as u64),
        ("TIMELINE_SLOTS", timeline::SLOTS as u64),
        ("EVENT_INIT_STARTED", Event::InitStarted as u64),
        ("EVENT_MODULE_LOADED", Event::ModuleLoaded as u64),
        ("EVENT_COMPLETE", Event::Complete as u64),
        ("EVENT_NETWORK_WANTED", Event::NetworkWanted as u64),
        ("FACTS_MAGIC", facts::MAGIC),
        ("PROTECT_ENTRIES", protect::MAX_ENTRIES as u64),
        ("PROTECT_FREE", u64::from(protect::kind::FREE)),
        ("PROTECT_PROCESS", u64::from(protect::kind::PROCESS)),
        ("PROTECT_COMM", u64::from(protect::kind::COMM)),
        ("PROTECT_DESCENDANTS", u64::from(protect::flags::DESCENDANTS)),
        ("PARK_SLOT_SIZE", parking::SLOT_SIZE as u64),
        ("PARK_XSAVE_SIZE", parking::XSAVE_SIZE as u64),
        ("PARK_RUNNING", parking::ParkState::Running as u64),
        ("PARK_SAVING", parking::ParkState::Saving as u64),
        ("PARK_SAVED", parking::ParkState::Saved as u64),
        ("NO_QUESTION", parking::NO_QUESTION),
        ("FRAME_OWN", context::frame_kind::OWN),
        ("FRAME_SHARED", context::frame_kind::SHARED),
        ("FRAME_HUGE", context::frame_kind::HUGE),
        ("FRAME_COPIED", context::frame_kind::COPIED),
        ("RESUME_SLEEP", device::resume_kind::SLEEP),
        ("RESUME_FUTEX", device::resume_kind::FUTEX),
        ("RESUME_POLL", device::resume_kind::POLL),
        ("TEST_PANIC", device::test_kind::PANIC),
        ("TEST_NULL_DEREFERENCE", device::test_kind::NULL_DEREFERENCE),
        ("TEST_BUG_IN_INTERRUPT", device::test_kind::BUG_IN_INTERRUPT),
        ("TEST_PANIC_WITH_SPINNER", device::test_kind::PANIC_WITH_SPINNER),
        ("TEST_INJECT", device::test_kind::INJECT),
        ("TEST_UNPARKABLE", device::test_kind::UNPARKABLE),
        ("TEST_PANIC_IN_PANIC", device::test_kind::PANIC_IN_PANIC),
        ("TEST_PANIC_HOLDING_LOCKS", device::test_kind::PANIC_HOLDING_LOCKS),
        ("TEST_PANIC_AT", device::test_kind::PANIC_AT),
        ("TEST_CORRUPT", device::test_kind::CORRUPT),
        ("TEST_HANG_ALL", device::test_kind::HANG_ALL),
        ("TEST_HANG_CPU", device::test_kind::HANG_CPU),
        ("TEST_SOFT_LOCKUP", device::test_kind::SOFT_LOCKUP),
        ("TEST_LIVE_LOCK", device::test_kind::LIVE_LOCK),
        ("TEST_STALL", device::test_kind::STALL),
        ("TEST_HANG_IN_NMI", device::test_kind::HANG_IN_NMI),
        ("TEST_HANG_HOLDING_LOCKS", device::test_kind::HANG_HOLDING_LOCKS),
        ("UPDATE_DRY_RUN", device::update_flags::DRY_RUN),
        ("UPDATE_ALLOW_INTERRUPTED", device::update_flags::ALLOW_INTERRUPTED),
        ("UPDATE_ALLOW_BUSY", device::update_flags::ALLOW_BUSY),
        ("INFO", device::INFO),
        ("PROTECT", device::PROTECT),
        ("UNPROTECT", device::UNPROTECT),
        ("ADD_MEMORY", device::ADD_MEMORY),
        ("ADOPT", device::ADOPT),
        ("RELEASE", device::RELEASE),
        ("RESUME", device::RESUME),
        ("MARK", device::MARK),
        ("WRITE_REPORT", device::WRITE_REPORT),
        ("TEST", device::TEST),
        ("TASK_STATE", device::TASK_STATE),
        ("WAKE", device::WAKE),
        ("REST", device::REST),
        ("STANDBY_OFFSET", layout::STANDBY_WORDS.offset),
        ("STANDBY_STARTING", standby::StandbyState::Starting as u64),
        ("IDLE_BLOCK", standby::IDLE_BLOCK),
        ("MAX_IDLE_BLOCKS", standby::MAX_IDLE_BLOCKS as u64),
        ("CONFIGURE", device::CONFIGURE),
        ("UPDATE", device::UPDATE),
        ("CACHE", device::CACHE),
        ("WARM", device::WARM),
        ("PEER_CREDENTIALS", device::PEER_CREDENTIALS),
        ("TCP", device::TCP),
        ("INOTIFY_EVENT", device::INOTIFY_EVENT),
        ("NETLINK", device::NETLINK),
        ("TCP_END", device::TCP_END),
        ("IO_URING", device::IO_URING),
        ("TCP_FIN", device::tcp_step::FIN),
        ("TCP_CROSSED", device::tcp_step::CROSSED),
        ("TCP_WAIT", device::tcp_step::WAIT),
        ("TCP_SPEAK", device::tcp_step::SPEAK),
        ("TCP_FAIL", device::tcp_step::FAIL),
        ("TCP_URGENT_RECEIVED", device::tcp_step::URGENT_RECEIVED),
        ("TCP_URGENT_TO_SEND", device::tcp_step::URGENT_TO_SEND),
        ("COMMIT", device::COMMIT),
        ("STAGE_BEGIN", device::STAGE_BEGIN),
        ("STAGE_WRITE", device::STAGE_WRITE),
        ("STAGE_COMMIT", device::STAGE_COMMIT),
        ("STAGE_WRITE_MOST", device::STAGE_WRITE_MOST),
        ("STAGE_TABLE_OFFSET", layout::STAGE_TABLE.offset),
        ("STAGE_WORDS_OFFSET", layout::STAGE_WORDS.offset),
        ("STAGED_0_OFFSET", layout::STAGED_0.offset),
        ("STAGED_1_OFFSET", layout::STAGED_1.offset),
        ("STAGED_SIZE", layout::STAGED_0.size),
        ("CMDLINE_SIZE", stage::CMDLINE_SIZE as u64),
        ("STAGE_WHY_SIZE", stage::WHY_SIZE as u64),
        ("NETFILTER_MOST", netfilter::MOST),
        ("RESCUE_WORDS_OFFSET", layout::RESCUE_WORDS.offset),
        ("RESCUE_AREA", device::RESCUE_AREA),
        ("LAZY", device::LAZY),
        ("LAZY_BEGIN", device::lazy_step::BEGIN),
        ("LAZY_HOLD", device::lazy_step::HOLD),
        ("LAZY_READY", device::lazy_step::READY),
    ];
    for (name, value) in values {
        assertion(out, &format!("ORTHROS_{name}"), value);
    }
}

/// The compiler's messages about a C source, empty if it has none.
fn compile(source: &str) -> String {
    let kmod = Path::new(env!("CARGO_MANIFEST_DIR")).join("../active-hooks/kmod");
    let mut gcc = Command::new("gcc")
        .args(["-fsyntax-only", "-std=gnu11", "-Wall", "-Werror", "-x", "c", "-"])
        .arg("-I")
        .arg(kmod)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gcc is needed to check the C header");
    gcc.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    let output = gcc.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), messages.is_empty(), "{messages}");
    messages
}

#[test]
fn the_c_header_has_the_same_layout() {
    let mut source = String::from("#include <stddef.h>\n#include \"region_abi.h\"\n");
    structures(&mut source);
    constants(&mut source);
    assert_eq!(compile(&source), "");
}

#[test]
fn every_constant_of_the_c_header_is_compared() {
    let header = include_str!("../../active-hooks/kmod/region_abi.h");
    let mut compared = String::new();
    constants(&mut compared);
    for line in header.lines() {
        let Some(name) = line
            .strip_prefix("#define ORTHROS_")
            .and_then(|rest| rest.split_whitespace().next())
        else {
            continue;
        };
        assert!(
            name == "REGION_ABI_H" || compared.contains(&format!("(ORTHROS_{name} ==")),
            "ORTHROS_{name} is not compared with Rust"
        );
    }
}

#[test]
fn a_difference_is_found() {
    let mut source = String::from("#include <stddef.h>\n#include \"region_abi.h\"\n");
    assertion(&mut source, "offsetof(struct orthros_facts, seq)", 17);
    assert!(compile(&source).contains("is 0x11 in Rust"));
}
