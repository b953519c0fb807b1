//! Settings that a kernel derives from the RAM it finds at boot. A successor finds the nursery only, and is told here
//! what it would have chosen with all of it.
//!
//! Most of them grow in proportion to the RAM, so they are scaled; those with a cap are computed as the kernel does.
//! `fs.inotify.max_user_watches` and `fs.epoll.max_user_watches` are not among them: their unit is the size of kernel
//! structures.

use crate::{boot::log, sys};
use std::fs;

/// Proportional to RAM: `kernel.threads-max` (`set_max_threads`), `fs.file-max` (`files_maxfiles_init`), the
/// namespaces of a user (half of the threads), and the memory of TCP and UDP in pages (`tcp_init_mem`, `udp_init`).
const PROPORTIONAL: [&str; 12] = [
    "kernel/threads-max",
    "fs/file-max",
    "user/max_cgroup_namespaces",
    "user/max_ipc_namespaces",
    "user/max_mnt_namespaces",
    "user/max_net_namespaces",
    "user/max_pid_namespaces",
    "user/max_time_namespaces",
    "user/max_user_namespaces",
    "user/max_uts_namespaces",
    "net/ipv4/tcp_mem",
    "net/ipv4/udp_mem",
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
    for name in PROPORTIONAL {
        change(name, |value, _| scale(value, now, then));
    }
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
        let set = sys::limit(resource)
            .and_then(|(soft, hard)| sys::set_limit(0, resource, scale(soft, now, then), scale(hard, now, then)));
        if let Err(error) = set {
            log::warning(format_args!("resource limit {resource}: {error}"));
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
