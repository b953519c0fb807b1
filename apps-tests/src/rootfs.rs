//! The guest's root file system: an ext4 image made of Debian packages and our files.

use crate::cache::{self, Key};
use crate::exec;
use crate::paths::Paths;
use crate::progress::Step;
use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What runs as process 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// A script of a few lines, `guest/minimal-init`.
    #[default]
    Minimal,
    /// Debian's systemd.
    Systemd,
}

/// A file to put into the guest.
#[derive(Debug, Clone)]
pub struct File {
    /// Where it is on the host: a file, or a folder with everything below it.
    pub from: PathBuf,
    /// Absolute path in the guest.
    pub to: String,
}

/// Everything that a root file system is made of.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// Debian packages besides the essential ones; what they need comes along.
    pub packages: BTreeSet<String>,
    /// What runs as process 1.
    pub init: Init,
    /// Files to add.
    pub files: Vec<File>,
    /// A static busybox, for the minimal init.
    pub busybox: PathBuf,
    /// Free space on the image besides what it holds, in MiB.
    pub free: u64,
}

/// Makes the image (raw ext4), or finds the one made earlier of the same parts. Needs
/// root: the packages' files keep their owners.
///
/// # Errors
/// When mmdebstrap or mke2fs fails, or a file is missing.
pub fn make(paths: &Paths, spec: &Spec) -> Result<PathBuf> {
    let base = base_tree(paths, spec)?;
    let base_name = base
        .file_name()
        .context("the tree has a name")?
        .to_string_lossy()
        .into_owned();
    let mut key = Key::default()
        .text("image 2")
        .text(&base_name)
        .text(&spec.free.to_string())
        .file(&spec.busybox)?;
    for text in own_files(spec.init)
        .iter()
        .flat_map(|(path, content, _)| [*path, *content])
    {
        key = key.text(text);
    }
    for file in &spec.files {
        key = hash_tree(key.text(&file.to), &file.from)?;
    }
    let image = paths.guest.join("images").join(format!("{}.ext4", key.finish()));
    cache::once(&image, |scratch| {
        let _step = Step::start("making the guest's file system");
        let tree = cache::beside(scratch, "tree");
        cache::remove(&tree)?;
        // Hard links cost nothing; what is added below replaces links, never contents.
        exec::quiet(Command::new("cp").args(["-al", "--"]).arg(&base).arg(&tree))?;
        let result = add_files(&tree, spec).and_then(|()| make_ext4(&tree, scratch, spec.free));
        cache::remove(&tree)?;
        result
    })
}

/// A copy-on-write disk over an image, for one run.
///
/// # Errors
/// When qemu-img fails.
pub fn overlay(image: &Path, disk: &Path) -> Result<()> {
    cache::remove(disk)?;
    exec::quiet(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(image)
            .arg(disk),
    )
}

/// An empty disk of `size` as qemu-img understands it (`64M`).
///
/// # Errors
/// When qemu-img fails.
pub fn empty_disk(disk: &Path, size: &str) -> Result<()> {
    cache::remove(disk)?;
    exec::quiet(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(disk)
            .arg(size),
    )
}

/// The packages' files, unpacked and configured.
fn base_tree(paths: &Paths, spec: &Spec) -> Result<PathBuf> {
    let mut packages = spec.packages.clone();
    packages.insert("procps".into());
    if spec.init == Init::Systemd {
        packages.extend(["systemd-sysv", "dbus", "udev"].map(String::from));
    }
    let list = packages.into_iter().collect::<Vec<_>>().join(",");
    let tree = paths
        .guest
        .join("trees")
        .join(Key::default().text("tree 1").text(&list).finish());
    cache::once(&tree, |scratch| {
        let _step = Step::start(format!("unpacking Debian packages for the guest ({list})"));
        exec::quiet(
            Command::new("mmdebstrap")
                .args([
                    "--mode=root",
                    "--variant=minbase",
                    "--quiet",
                    "--aptopt=Apt::Install-Recommends \"false\"",
                ])
                .args([
                    "--dpkgopt=path-exclude=/usr/share/man/*",
                    "--dpkgopt=path-exclude=/usr/share/locale/*",
                ])
                .args(["--customize-hook=rm -rf \"$1\"/var/cache/apt/* \"$1\"/var/lib/apt/lists/*"])
                .args([&format!("--include={list}"), "bookworm"])
                .arg(scratch),
        )
    })
}

/// The harness' own files: path, content, permissions.
fn own_files(init: Init) -> Vec<(&'static str, &'static str, u32)> {
    let mut files = vec![
        ("usr/lib/orthros-tests/agent", include_str!("../guest/agent"), 0o755),
        ("etc/fstab", "", 0o644),
        ("etc/hostname", "guest\n", 0o644),
        ("etc/resolv.conf", "nameserver 10.0.2.3\n", 0o644),
    ];
    match init {
        Init::Minimal => files.push(("usr/sbin/init", include_str!("../guest/minimal-init"), 0o755)),
        Init::Systemd => files.push((
            "etc/systemd/system/orthros-tests-agent.service",
            include_str!("../guest/orthros-tests-agent.service"),
            0o644,
        )),
    }
    files
}

fn add_files(tree: &Path, spec: &Spec) -> Result<()> {
    for (path, content, permissions) in own_files(spec.init) {
        let path = place(tree, path)?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(permissions))?;
    }
    fs::copy(&spec.busybox, place(tree, "usr/lib/orthros-tests/busybox")?)?;
    if spec.init == Init::Systemd {
        let wants = place(
            tree,
            "etc/systemd/system/multi-user.target.wants/orthros-tests-agent.service",
        )?;
        symlink("../orthros-tests-agent.service", wants)?;
        // Names of network interfaces stay the kernel's, so that they are the same everywhere.
        symlink("/dev/null", place(tree, "etc/systemd/network/99-default.link")?)?;
    }
    for file in &spec.files {
        let Some(inside) = file.to.strip_prefix('/') else {
            bail!("{}: a path in the guest must be absolute", file.to);
        };
        let to = place(tree, inside)?;
        exec::quiet(
            Command::new("cp")
                .args(["-rLT", "--preserve=mode,timestamps", "--"])
                .arg(&file.from)
                .arg(to),
        )?;
    }
    Ok(())
}

/// The path below the tree, with its folders made and any older file removed. Follows
/// the links that a merged /usr has in the root folder.
fn place(tree: &Path, inside: &str) -> Result<PathBuf> {
    let mut parts = Path::new(inside).components();
    let first = tree.join(parts.next().context("an empty path")?);
    let path = match fs::read_link(&first) {
        Ok(link) => tree.join(link).join(parts.as_path()),
        Err(_) => tree.join(inside),
    };
    fs::create_dir_all(path.parent().context("a path in the guest has a parent")?)?;
    if !path.is_dir() {
        cache::remove(&path)?;
    }
    Ok(path)
}

fn make_ext4(tree: &Path, image: &Path, free: u64) -> Result<()> {
    let used = exec::text(Command::new("du").args(["-sm", "--"]).arg(tree))?;
    let used: u64 = used.split_whitespace().next().context("du prints a number")?.parse()?;
    let size = used + used / 8 + free;
    exec::quiet(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", "guest", "-E", "root_owner=0:0", "-d"])
            .arg(tree)
            .arg(image)
            .arg(format!("{size}M")),
    )
}

/// Adds a file or a whole folder, names and permissions included, to a key.
fn hash_tree(key: Key, path: &Path) -> Result<Key> {
    let meta = fs::metadata(path).with_context(|| format!("{} is to go into the guest", path.display()))?;
    let key = key.text(&format!("{:o}", meta.permissions().mode()));
    if !meta.is_dir() {
        return key.file(path);
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    entries.sort();
    entries.iter().try_fold(key, |key, entry| {
        let name = entry
            .file_name()
            .context("an entry has a name")?
            .to_string_lossy()
            .into_owned();
        hash_tree(key.text(&name), entry)
    })
}
