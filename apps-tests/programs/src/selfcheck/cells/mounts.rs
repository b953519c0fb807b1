//! Mount namespaces, as a service manager makes them for services.

use crate::cell::{same, Cell, Context, Skip};
use crate::sys::mount::{character_device, mount, new_namespace, unmount};
use anyhow::{ensure, Result};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{chown, symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub const CELLS: &[Cell] = &[Cell {
    name: "mounts/namespace",
    what: "a mount namespace with a directory shown read-only in another place, a tmpfs with devices, links and directories, a part of it shown again, and one that is shared: all as before, for files that are open too",
    covers: &[
        "MountNamespace.mounts",
        "NamespaceMount.parent",
        "NamespaceMount.mountpoint",
        "NamespaceMount.flags",
        "NamespaceMount.follows",
        "NamespaceMount.leads",
        "NamespaceMount.what",
        "Mounted.Shown",
        "Mounted.Part",
        "Mounted.Own",
        "FileNode.mode",
        "FileNode.uid",
        "FileNode.gid",
        "FileNode.rdev",
        "FileNode.target",
        "InMountNamespace.namespace",
    ],
    caught: None,
    run: namespace,
}];

/// What can be seen of the mounts below a directory, without the numbers that the kernel chooses.
fn mounts(below: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let below = below.to_string_lossy();
    let mut lines: Vec<String> = (text.lines())
        .filter(|line| line.contains(&*below))
        .map(|line| {
            let words = line
                .split(' ')
                .skip(3)
                .map(|word| word.split(':').next().unwrap_or(word));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort();
    Ok(lines)
}

/// What can be seen of what is in a directory.
fn content(directory: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let found = path.symlink_metadata()?;
        let target = fs::read_link(&path).unwrap_or_default();
        let (name, target) = (path.display(), target.display());
        let (mode, uid, gid, device) = (found.mode(), found.uid(), found.gid(), found.rdev());
        lines.push(format!("{name} {mode:o} {uid} {gid} {device} {target}"));
        if found.is_dir() {
            lines.extend(content(&path)?);
        }
    }
    lines.sort();
    Ok(lines)
}

fn namespace(context: &mut Context) -> Result<()> {
    let at = |name: &str| -> Result<PathBuf> {
        let path = context.path(name);
        fs::create_dir_all(&path)?;
        Ok(path.canonicalize()?)
    };
    let (shown, hidden, own, leading) = (at("shown")?, at("hidden")?, at("own")?, at("leading")?);
    fs::write(shown.join("file"), "content")?;
    let mut outside = File::open(shown.join("file"))?;
    if let Err(error) = new_namespace() {
        return Err(Skip(format!("no mount namespace: {error:#}")).into());
    }
    mount(Path::new("none"), Path::new("/"), libc::MS_REC | libc::MS_SLAVE, "")?;
    mount(&shown, &hidden, libc::MS_BIND, "")?;
    let restricted = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NOATIME;
    mount(&shown, &hidden, restricted, "")?;
    let options = "mode=750,size=1m,nr_inodes=64,uid=3,gid=4";
    mount(Path::new("own"), &own, libc::MS_NOEXEC | libc::MS_STRICTATIME, options)?;
    character_device(&own.join("null"), (1, 3), 0o666)?;
    symlink("null", own.join("link"))?;
    fs::write(own.join("empty"), "")?;
    let (inner, again) = (own.join("inner"), own.join("again"));
    fs::create_dir_all(inner.join("most"))?;
    fs::create_dir(&again)?;
    chown(&inner, Some(7), Some(8))?;
    fs::set_permissions(&inner, Permissions::from_mode(0o3733))?;
    mount(&inner, &again, libc::MS_BIND, "")?;
    mount(&leading, &leading, libc::MS_BIND, "")?;
    mount(Path::new("none"), &leading, libc::MS_SHARED, "")?;
    let file = File::open(hidden.join("file"))?;
    let mut null = OpenOptions::new().write(true).open(own.join("null"))?;
    std::env::set_current_dir(again.join("most"))?;

    let below = hidden.parent().unwrap_or(Path::new("/")).to_path_buf();
    let (mounts_before, content_before) = (mounts(&below)?, content(&own)?);
    ensure!(mounts_before.len() == 4, "mounts: {mounts_before:?}");
    context.failover(|| unmount(&hidden))?;
    same("the mounts", mounts(&below)?, mounts_before)?;
    same("what is in its own file system", content(&own)?, content_before)?;
    same("the working directory", std::env::current_dir()?, again.join("most"))?;
    same(
        "what is shown",
        fs::read_to_string(hidden.join("file"))?,
        "content".to_owned(),
    )?;
    let refused = |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    let change = file.set_permissions(Permissions::from_mode(0o600));
    same(
        "the error of changing an open file on a mount that is read-only",
        refused(change),
        Some(libc::EROFS),
    )?;
    let change = fs::write(hidden.join("another"), "");
    same("the error of making a file there", refused(change), Some(libc::EROFS))?;
    ensure!(null.metadata()?.file_type().is_char_device(), "the open device is none");
    null.write_all(b"gone")?;
    fs::write(inner.join("new"), "")?;
    ensure!(again.join("new").exists(), "the part that is shown again is another");
    let mut text = String::new();
    outside.read_to_string(&mut text)?;
    same("a file that was opened before", text.as_str(), "content")?;
    outside.set_permissions(Permissions::from_mode(0o600))?;
    Ok(())
}
