//! Settings that a kernel derives from the RAM it finds at boot. A successor finds the nursery only, and is told here
//! what it would have chosen with all of it.
//!
//! Most of them grow in proportion to the RAM, so they are scaled; those with a cap are computed as the kernel does. Where
//! a value depends on what was free at that moment of the boot, it comes out within a few per cent of the old one.

use crate::{boot::log, sys};
use std::fs;

/// Proportional to the RAM early in the boot: the threads (`fork_init`), and half as many namespaces of a user; files
/// (`files_maxfiles_init`) and epoll's watches (`eventpoll_init`).
const EARLY: [&str; 11] = [
    "fs/file-max",
    "fs/epoll/max_user_watches",
    "kernel/threads-max",
    "user/max_cgroup_namespaces",
    "user/max_ipc_namespaces",
    "user/max_mnt_namespaces",
    "user/max_net_namespaces",
    "user/max_pid_namespaces",
    "user/max_time_namespaces",
    "user/max_user_namespaces",
    "user/max_uts_namespaces",
];
/// Pages of RAM for each of the threads (`set_max_threads`: their stacks of 16 KB may take an eighth).
const PAGES_PER_THREAD: u64 = 32;
/// Proportional to the RAM later on: the memory of TCP and UDP in pages (`tcp_init_mem`, `udp_init`).
const PROPORTIONAL: [&str; 2] = ["net/ipv4/tcp_mem", "net/ipv4/udp_mem"];
/// Watches of inotify and marks of fanotify: as many as fit into a hundredth of the RAM, but no more than 1,048,576
/// (`inotify_user_setup`, `fanotify_user_setup`). The nursery's number is a lower bound and tells nothing, so the bytes
/// of one are given here: two inodes and the mark, as of Linux 6.12; those of 6.1 are within a tenth.
const WATCHES: [(&str, u64); 4] = [
    ("fs/inotify/max_user_watches", 1339),
    ("user/max_inotify_watches", 1339),
    ("fs/fanotify/max_user_marks", 1259),
    ("user/max_fanotify_marks", 1259),
];
/// See [`WATCHES`].
const MOST_WATCHES: u64 = 1 << 20;
/// Peers remembered by address: proportional up to this (`inet_initpeers`).
const MOST_PEERS: u64 = 65_536 + 128;
/// A kernel with less RAM than 512 MB turns huge pages off (`hugepage_init`). What it does otherwise: the settings that
/// the kernel's defaults stand for, unless the command line says otherwise. The first one's value depends on its build;
/// Debian's is `always`.
const HUGE_PAGES: [(&str, &str); 4] = [
    ("defrag", "madvise"),
    ("use_zero_page", "1"),
    ("khugepaged/defrag", "1"),
    ("enabled", "always"),
];
/// Largest buffer of a TCP socket, the third of three values: at most this many bytes (`tcp_init`).
const TCP_BUFFERS: [(&str, u64); 2] = [("net/ipv4/tcp_wmem", 4 << 20), ("net/ipv4/tcp_rmem", 6 << 20)];
/// Limits of the first process, in its resource numbers: half of the threads (`fork_init`).
const THREAD_LIMITS: [u32; 2] = [libc::RLIMIT_NPROC, libc::RLIMIT_SIGPENDING];

/// RAM of the running kernel in pages, as MemTotal shows it.
pub fn ram_pages() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()
        .map(|kilobytes: u64| kilobytes / 4)
}

/// Sets what a kernel that booted with `now` pages would have set with `then`.
pub fn adapt(now: u64, then: u64) {
    if now == 0 || then <= now {
        return;
    }
    let (early_now, early_then) = at_fork_init(now, then);
    for name in EARLY {
        change(name, |value, _| scale(value, early_now, early_then));
    }
    for name in PROPORTIONAL {
        change(name, |value, _| scale(value, now, then));
    }
    for (name, bytes) in WATCHES {
        change(name, |value, _| {
            value.max((then * 4096 / 100 / bytes).min(MOST_WATCHES))
        });
    }
    change("net/ipv4/inet_peer_threshold", |value, _| {
        value.max(scale(value, now, then).min(MOST_PEERS))
    });
    for (name, most) in TCP_BUFFERS {
        change(name, |value, index| {
            let share = (then << 5).min(most);
            if index == 2 {
                value.max(share)
            } else {
                value
            }
        });
    }
    for resource in THREAD_LIMITS {
        let set = sys::limit(resource).and_then(|(soft, hard)| {
            sys::set_limit(
                0,
                resource,
                scale(soft, early_now, early_then),
                scale(hard, early_now, early_then),
            )
        });
        if let Err(error) = set {
            log::warning(format_args!("resource limit {resource}: {error}"));
        }
    }
}

/// What both kernels had at `fork_init()`: all but what their boot has freed since, which is the same for both. The number
/// of threads tells how much this one had.
fn at_fork_init(now: u64, then: u64) -> (u64, u64) {
    let threads = fs::read_to_string("/proc/sys/kernel/threads-max").ok();
    let pages = threads
        .and_then(|text| text.trim().parse::<u64>().ok())
        .and_then(|threads| threads.checked_mul(PAGES_PER_THREAD));
    // Anything else than somewhat less is somebody's own setting.
    match pages.filter(|pages| (now / 2..=now).contains(pages)) {
        Some(pages) => (pages, then - (now - pages)),
        None => (now, then),
    }
}

/// Turns huge pages on as the kernel would have with all of its RAM: `now` and `then` are pages, `wanted` what the command
/// line says of them.
pub fn huge_pages(now: u64, then: u64, wanted: Option<&str>) {
    const THRESHOLD: u64 = 512 << (20 - 12);
    if now >= THRESHOLD || then < THRESHOLD {
        return;
    }
    for (name, value) in HUGE_PAGES {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{name}");
        let value = if name == "enabled" {
            wanted.unwrap_or(value)
        } else {
            value
        };
        // A kernel without huge pages has no such file.
        if std::path::Path::new(&path).exists() {
            if let Err(error) = fs::write(&path, value) {
                log::warning(format_args!("{path} = {value}: {error}"));
            }
        }
    }
}

/// Values that mean "no limit" stay.
fn scale(value: u64, now: u64, then: u64) -> u64 {
    const UNLIMITED: u64 = i64::MAX as u64;
    if value >= UNLIMITED {
        return value;
    }
    let scaled = u128::from(value) * u128::from(then) / u128::from(now);
    u64::try_from(scaled).unwrap_or(UNLIMITED).min(UNLIMITED)
}

fn change(name: &str, new: impl Fn(u64, usize) -> u64) {
    let path = format!("/proc/sys/{name}");
    // A kernel without the setting has nothing to set back.
    let Ok(text) = fs::read_to_string(&path) else { return };
    let Some(values) = changed(&text, new) else {
        return log::warning(format_args!("{name} is no list of numbers: {text}"));
    };
    if let Err(error) = fs::write(&path, &values) {
        log::warning(format_args!("{name} = {values}: {error}"));
    }
}

fn changed(text: &str, new: impl Fn(u64, usize) -> u64) -> Option<String> {
    let words: Option<Vec<String>> = text
        .split_ascii_whitespace()
        .enumerate()
        .map(|(index, word)| Some(new(word.parse().ok()?, index).to_string()))
        .collect();
    words.map(|words| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_grow_with_the_memory() {
        assert_eq!(scale(1500, 50_000, 500_000), 15_000);
        assert_eq!(scale(u64::MAX, 1, 2), u64::MAX);
        assert_eq!(changed("10\t20\t30\n", |value, _| value * 2).unwrap(), "20 40 60");
        assert_eq!(
            changed("4096 16384 200000", |value, index| if index == 2 { 7 } else { value }).unwrap(),
            "4096 16384 7"
        );
        assert_eq!(changed("a", |value, _| value), None);
    }
}
