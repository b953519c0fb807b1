//! Memory on swap, and the areas it may lie on, from `/proc/swaps`.

use super::Finding;
use crate::root::Root;
use shared_region::context::DevicePlace;
use shared_region::reasons;

/// Magic numbers of file systems of which files can be areas (include/uapi/linux/magic.h).
const FILE_SYSTEMS: [i64; 2] = [0xEF53, 0x5846_5342];
const ZSWAP: &str = "/sys/module/zswap/parameters/enabled";

/// What is said about a process that has so many KB on swap; `of` says of what kind.
pub fn finding(root: &Root, kilobytes: u64, of: &str) -> Option<Finding> {
    if kilobytes == 0 {
        return None;
    }
    Some(match problem(root) {
        Some(problem) => {
            let detail = format!("{kilobytes} KB{of}, {problem}; `swapoff -a` brings it back into RAM");
            Finding::refused("process", reasons::SWAPPED, detail)
        }
        None => {
            let text = format!("{kilobytes} KB{of} on swap are read from there");
            Finding::note("process", reasons::SWAPPED.name, text)
        }
    })
}

/// Why memory may lie where it is not read from, if it may.
fn problem(root: &Root) -> Option<String> {
    if root.line(ZSWAP).as_deref() == Some("Y") {
        return Some("zswap may keep it, compressed".into());
    }
    let areas = root.read("/proc/swaps").unwrap_or_default();
    areas.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let (name, kind) = (words.next()?, words.next()?);
        problem_of(root, name, kind).map(|problem| format!("{name} {problem}"))
    })
}

fn problem_of(root: &Root, name: &str, kind: &str) -> Option<&'static str> {
    if kind == "partition" {
        let device = name.rsplit('/').next().unwrap_or_default();
        let link = root.link(&format!("/sys/class/block/{device}")).unwrap_or_default();
        let path = link.trim_start_matches("../");
        return DevicePlace::of(path.as_bytes())
            .is_none()
            .then_some("is no disk of this machine's");
    }
    let known = root.file_system(name).is_ok_and(|magic| FILE_SYSTEMS.contains(&magic));
    (!known).then_some("lies neither on ext4 nor on XFS")
}
