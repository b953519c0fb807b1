//! Services of systemd, by their control groups.

use anyhow::{bail, Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where version 2 of the control groups is mounted.
const GROUPS: &str = "/sys/fs/cgroup";
/// Levels that are searched: slices lie within slices.
const DEPTH: u32 = 8;
/// The end of a service's name, which may be left out.
const SERVICE: &str = ".service";

/// The processes of a service.
///
/// # Errors
/// It does not run, or its control group cannot be read.
pub fn processes(name: &str) -> Result<BTreeSet<u32>> {
    let full = match name.contains('.') {
        true => name.to_owned(),
        false => format!("{name}{SERVICE}"),
    };
    let Some(group) = find(Path::new(GROUPS), &full, DEPTH) else {
        bail!("{full} does not run: there is no control group of this name below {GROUPS}");
    };
    let mut found = BTreeSet::new();
    collect(&group, DEPTH, &mut found).with_context(|| format!("processes of {full}"))?;
    if found.is_empty() {
        bail!("{full} has no processes");
    }
    Ok(found)
}

fn folders(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(folder).map(|entry| entry.path()).collect()
}

fn find(below: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let folders = folders(below);
    let here = folders.iter().find(|path| path.ends_with(name));
    here.cloned().or_else(|| {
        let deeper = depth.checked_sub(1)?;
        folders.iter().find_map(|path| find(path, name, deeper))
    })
}

fn collect(group: &Path, depth: u32, found: &mut BTreeSet<u32>) -> Result<()> {
    let list = fs::read_to_string(group.join("cgroup.procs"))?;
    found.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
    if let Some(deeper) = depth.checked_sub(1) {
        folders(group)
            .iter()
            .try_for_each(|path| collect(path, deeper, found))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_in_its_slice_with_what_is_below() {
        let root = std::env::temp_dir().join(format!("orthros-groups-{}", std::process::id()));
        let group = root.join("system.slice/a.service");
        fs::create_dir_all(group.join("worker")).expect("folders");
        fs::write(group.join("cgroup.procs"), "12\n13\n").expect("file");
        fs::write(group.join("worker/cgroup.procs"), "14\n").expect("file");
        assert_eq!(find(&root, "a.service", 3), Some(group.clone()));
        assert_eq!(find(&root, "b.service", 3), None);
        let mut found = BTreeSet::new();
        collect(&group, 3, &mut found).expect("read");
        assert_eq!(found, [12, 13, 14].into());
        fs::remove_dir_all(root).expect("removed");
    }
}
