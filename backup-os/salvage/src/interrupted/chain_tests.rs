//! What a chain tells of where a thread was.

use super::*;
use alloc::string::ToString;

/// A chain of functions; one that begins with `!` was interrupted.
pub fn chain(names: &[&str]) -> Chain {
    let frames = names.iter().enumerate().map(|(i, name)| {
        let at = 0x1000 * (i as u64 + 1);
        let interrupted = name.starts_with('!');
        Link {
            name: name.trim_start_matches('!').to_string(),
            frame: Kva(at)..Kva(at + 0x1000),
            interrupted,
            registers: interrupted.then_some(Kva(at - 0x100)),
        }
    });
    Chain::from_links(frames.collect())
}

const READ: [&str; 2] = ["vfs_read", "ksys_read"];

fn below(inner: &[&str]) -> Chain {
    let outer = [
        "new_sync_read",
        "vfs_read",
        "ksys_read",
        "__x64_sys_read",
        "do_syscall_64",
    ];
    chain(&[inner, &outer].concat())
}

#[test]
fn a_reader_on_an_empty_pipe_waits_by_itself() {
    let chain = below(&["__schedule", "schedule", "pipe_read"]);
    let at = chain.find(&["pipe_read"]).expect("it is there");
    assert!(chain.is_off() && chain.waits(at));
    assert_eq!(chain.called_by(at).map(|link| link.name.as_str()), Some("schedule"));
    assert_eq!(chain.find(&READ), Some(4));
}

#[test]
fn a_thread_that_waits_for_a_lock_or_a_page_does_not_wait_by_itself() {
    for inner in [
        &[
            "__schedule",
            "schedule",
            "schedule_preempt_disabled",
            "__mutex_lock",
            "pipe_read",
        ][..],
        &[
            "__schedule",
            "schedule",
            "io_schedule",
            "folio_wait_bit_common",
            "filemap_fault",
            "pipe_read",
        ],
    ] {
        let chain = below(inner);
        let at = chain.find(&["pipe_read"]).expect("it is there");
        assert!(chain.is_off() && !chain.waits(at));
    }
}

#[test]
fn what_an_interrupt_did_is_no_part_of_the_chain() {
    let chain = below(&[
        "__schedule",
        "irqentry_exit",
        "asm_sysvec_apic_timer_interrupt",
        "!pipe_read",
    ]);
    let at = chain.find(&["pipe_read"]).expect("it is there");
    assert_eq!((at, chain.called_by(at)), (0, None));
    assert!(!chain.is_off() && !chain.waits(at));
}

#[test]
fn a_page_fault_is_part_of_what_the_function_does() {
    let faulting = [
        "__schedule",
        "schedule",
        "handle_mm_fault",
        "exc_page_fault",
        "asm_exc_page_fault",
    ];
    let inner = [
        &faulting[..],
        &[
            "!rep_movs_alternative",
            "_copy_to_iter",
            "copy_page_to_iter",
            "pipe_read",
        ],
    ]
    .concat();
    let chain = below(&inner);
    let at = chain.find(&["pipe_read"]).expect("it is there");
    assert!(chain.faults(at, &["rep_movs_alternative"]) && !chain.faults(at, &["_copy_to_iter"]));
    let registers = chain
        .faulting(at, &["rep_movs_alternative"])
        .and_then(|link| link.registers);
    assert_eq!(registers, Some(Kva(0x6000 - 0x100)));
    assert_eq!(
        chain.called_by(at).map(|link| link.name.as_str()),
        Some("copy_page_to_iter")
    );
    // An interrupt of the same copy tells nothing.
    let chain = below(&[
        "asm_common_interrupt",
        "!_copy_to_iter",
        "copy_page_to_iter",
        "pipe_read",
    ]);
    assert!(!chain.faults(2, &["_copy_to_iter"]) && chain.called_by(0).is_none());
}

#[test]
fn a_fault_of_an_outer_function_does_not_count_for_the_inner_ones() {
    let chain = below(&["asm_exc_page_fault", "!pipe_read"]);
    let at = chain.find(&["new_sync_read"]).expect("it is there");
    assert!(chain.called_by(1).is_none() && chain.faults(at, &["pipe_read"]));
}

#[test]
fn calls_that_have_not_begun_are_told() {
    assert!(chain(&["!entry_SYSCALL_64_after_hwframe"]).is_before_the_call());
    assert!(chain(&[
        "__schedule",
        "schedule",
        "mutex_lock",
        "__fdget_pos",
        "ksys_read",
        "do_syscall_64"
    ])
    .is_before_the_call());
    assert!(chain(&["!syscall_trace_enter.constprop.0", "do_syscall_64"]).is_before_the_call());
    assert!(!chain(&["!do_syscall_64", "entry_SYSCALL_64_after_hwframe"]).is_before_the_call());
    assert!(!below(&["!pipe_read"]).is_before_the_call());
}

#[test]
fn a_thread_that_opens_is_before_or_past_its_descriptor() {
    let opens = |inner: &[&str]| {
        let outer = ["do_sys_openat2", "__x64_sys_openat", "do_syscall_64"];
        chain(&[inner, &outer].concat()).calls(&["do_sys_openat2"], &["alloc_fd", "do_filp_open"])
    };
    // For the number, on a lock that somebody holds for ever.
    assert!(opens(&[
        "!native_queued_spin_lock_slowpath",
        "_raw_spin_lock",
        "alloc_fd"
    ]));
    assert!(opens(&["!link_path_walk", "path_openat", "do_filp_open"]));
    assert!(!opens(&["!fd_install"]));
    assert!(!opens(&["!kmem_cache_free", "putname"]));
    // At an instruction of its own nothing is known.
    assert!(!chain(&["!do_sys_openat2", "__x64_sys_openat"]).calls(&["do_sys_openat2"], &["alloc_fd"]));
}
