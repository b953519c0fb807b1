//! Memory mappings, from `smaps`.

use super::mounts::Mounts;
use super::rings::RING;
use super::{swap, Finding, Process};
use crate::root::Root;
use anyhow::{Context, Result};
use rustix::mm::{mlockall, munlockall, MlockAllFlags};
use shared_region::reasons::{self, Reason};
use std::collections::BTreeSet;

/// Flags of `VmFlags` that are restored, or say nothing that would have to be (Documentation/filesystems/proc.rst).
const KNOWN: [&str; 23] = [
    "rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd", "lo", "lf", "sr", "rr", "dc", "de", "ac", "nr", "wf", "dd",
    "sd", "hg", "nh", "mg",
];

/// Flags that are refused by name.
const REFUSED: [(&str, Reason); 8] = [
    ("ht", reasons::HUGETLB),
    ("um", reasons::USERFAULTFD),
    ("uw", reasons::USERFAULTFD),
    ("ui", reasons::USERFAULTFD),
    ("io", reasons::DEVICE_MEMORY),
    ("pf", reasons::DEVICE_MEMORY),
    ("mm", reasons::SPECIAL_MAPPING),
    ("ss", reasons::SHADOW_STACK),
];

/// The flag that the mapping of a ring of io_uring has (VM_MIXEDMAP). Its descriptor tells the rest.
const RING_FLAG: &str = "mm";

struct Mapping<'a> {
    range: &'a str,
    shared: bool,
    device: &'a str,
    inode: &'a str,
    name: &'a str,
}

impl<'a> Mapping<'a> {
    /// `start-end perms offset device inode name`.
    fn parse(line: &'a str) -> Option<Self> {
        let mut rest = line;
        let mut word = || {
            let (word, tail) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
            rest = tail;
            (!word.is_empty()).then_some(word)
        };
        let range = word()?;
        let (start, _) = range.split_once('-')?;
        u64::from_str_radix(start, 16).ok()?;
        let (perms, _offset, device, inode) = (word()?, word()?, word()?, word()?);
        Some(Self {
            range,
            shared: perms.ends_with('s'),
            device,
            inode,
            name: rest.trim(),
        })
    }

    /// Made and filled by the kernel itself, in any kernel.
    fn is_the_kernels(&self) -> bool {
        matches!(self.name, "[vdso]" | "[vvar]" | "[vvar_vclock]" | "[vsyscall]")
    }

    fn object(&self) -> String {
        format!("mapping {}", self.range)
    }

    fn backing(&self, mounts: &Mounts) -> Option<Finding> {
        let refuse = |reason, detail: &str| Some(Finding::refused(self.object(), reason, detail));
        let name = self.name.trim_end_matches(" (deleted)");
        // The inode number is the segment's id, which may be 0.
        if name.starts_with("/SYSV") {
            return None;
        }
        if self.inode == "0" {
            let anonymous = ["", "[heap]", "[stack]"].contains(&name)
                || name.starts_with("[anon:")
                || name.starts_with("[anon_shmem:");
            return match name {
                _ if anonymous => None,
                "[uprobes]" => refuse(reasons::UPROBES, ""),
                other => refuse(reasons::SPECIAL_MAPPING, other),
            };
        }
        match name {
            // Whether requests are under way shows only when the kernel stands still.
            "/dev/zero" | "/memfd:" | "/[aio]" | RING => None,
            _ if name.starts_with("/memfd:") => None,
            _ if name.starts_with("/anon_hugepage") => refuse(reasons::HUGETLB, ""),
            _ if name.starts_with("anon_inode:[perf_event]") => refuse(reasons::PERF, ""),
            _ if name.starts_with("anon_inode:bpf") => refuse(reasons::BPF, name),
            _ if name.starts_with("anon_inode:") => refuse(reasons::SPECIAL_MAPPING, name),
            _ if name.starts_with("socket:") => refuse(reasons::SOCKET, ""),
            _ if name.starts_with("/dev/") && !name.starts_with("/dev/shm/") => refuse(reasons::DEVICE_MEMORY, name),
            _ => mounts.problem_of_device(&self.object(), self.device, name),
        }
    }
}

/// Looks at every mapping.
pub fn check(process: &Process<'_>, mounts: &Mounts, findings: &mut Vec<Finding>) -> Result<()> {
    let text = process.read("smaps").with_context(|| process.path("smaps"))?;
    let mut current: Option<Mapping<'_>> = None;
    let mut shared_swap = 0;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':').filter(|(key, _)| is_key(key)) else {
            current = Mapping::parse(line);
            if let Some(mapping) = current.as_ref().filter(|mapping| !mapping.is_the_kernels()) {
                findings.extend(mapping.backing(mounts));
            }
            continue;
        };
        let Some(mapping) = current.as_ref().filter(|mapping| !mapping.is_the_kernels()) else {
            continue;
        };
        match key {
            "VmFlags" => flags(process.root, mapping, value, findings),
            // Private pages on swap are counted in `status`; those of shared memory are not.
            "Swap" if mapping.shared => {
                shared_swap += value.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
            }
            _ => {}
        }
    }
    findings.extend(swap::finding(process.root, shared_swap, " of shared memory"));
    Ok(())
}

/// Policies of single mappings, from `numa_maps`: `address policy …`. Where a mapping has none it shows the thread's, so
/// one policy is the thread's and any other a mapping's own. Kernels without NUMA have no such file.
pub fn policies(process: &Process<'_>, findings: &mut Vec<Finding>) {
    let text = process.read("numa_maps").unwrap_or_default();
    let policies: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    if policies.len() > 1 {
        let list = Vec::from_iter(policies).join(", ");
        findings.push(Finding::refused("process", reasons::MAPPING_POLICY, list));
    }
}

/// Whether it is a key of a line such as `Rss: 4 kB`; a mapping's own line has blanks before its first colon.
fn is_key(key: &str) -> bool {
    key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// How a flag is shown that the kernel has no name for.
const NAMELESS: &str = "??";

/// Whether `??` beside `lo` is MLOCK_ONFAULT and nothing else that has no name. Older kernels have none for it (`lf`), and that
/// this one has none is seen by locking this program's own memory in that way.
fn is_lock_on_fault(root: &Root, flags: &str) -> bool {
    let nameless = |flags: &str| {
        let count = |wanted| flags.split_whitespace().filter(|&flag| flag == wanted).count();
        (count("lo"), count("lf"), count(NAMELESS)) == (1, 0, 1)
    };
    if !nameless(flags) {
        return false;
    }
    // Where that is not allowed, nothing is seen.
    let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT);
    let own = root.read("/proc/self/smaps").unwrap_or_default();
    let _ = munlockall();
    own.lines()
        .filter_map(|line| line.strip_prefix("VmFlags:"))
        .any(nameless)
}

fn flags(root: &Root, mapping: &Mapping<'_>, value: &str, findings: &mut Vec<Finding>) {
    let mut seen: Vec<Reason> = Vec::new();
    for flag in value.split_whitespace().filter(|flag| !KNOWN.contains(flag)) {
        if flag == NAMELESS && is_lock_on_fault(root, value) || flag == RING_FLAG && mapping.name == RING {
            continue;
        }
        let reason = REFUSED
            .iter()
            .find(|(name, _)| *name == flag)
            .map(|(_, reason)| *reason);
        match reason {
            Some(reason) if seen.contains(&reason) => {}
            Some(reason) => {
                seen.push(reason);
                findings.push(Finding::refused(mapping.object(), reason, mapping.name));
            }
            None => findings.push(Finding::refused(
                mapping.object(),
                reasons::UNKNOWN,
                format!("flag `{flag}` of a mapping"),
            )),
        }
    }
}
