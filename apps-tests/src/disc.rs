//! The GRUB disc: loader, backup OS, kernels and initramfs as multiboot2 modules.

use crate::cache;
use crate::exec;
use anyhow::{bail, Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel with its initramfs and command line.
#[derive(Debug, Clone)]
pub struct Staged {
    /// The bzImage.
    pub image: PathBuf,
    /// Its initramfs.
    pub initramfs: PathBuf,
    /// Command line, without what the loader adds.
    pub command_line: String,
}

/// What a disc boots.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The multiboot2 loader.
    pub loader: PathBuf,
    /// Options for it.
    pub loader_options: String,
    /// The backup OS.
    pub backup_os: PathBuf,
    /// The kernel that runs first.
    pub active: Staged,
    /// The kernel that takes over.
    pub successor: Staged,
}

/// A module that GRUB hands to the loader.
#[derive(Debug, Clone)]
pub struct Module {
    /// The first word of its string, which is how the loader tells modules apart.
    pub role: String,
    /// The file.
    pub file: PathBuf,
    /// The rest of its string.
    pub words: String,
}

/// Writes a bootable disc image to `iso`.
///
/// # Errors
/// As [`write`].
pub fn make(iso: &Path, contents: &Contents) -> Result<()> {
    let module = |role: &str, file: &Path, words: &str| Module {
        role: role.to_owned(),
        file: file.to_path_buf(),
        words: words.to_owned(),
    };
    let (active, successor) = (&contents.active, &contents.successor);
    let modules = [
        module("backup-os", &contents.backup_os, ""),
        module("kernel", &active.image, &active.command_line),
        module("initramfs", &active.initramfs, ""),
        module("successor-kernel", &successor.image, &successor.command_line),
        module("successor-initramfs", &successor.initramfs, ""),
    ];
    write(iso, &contents.loader, &contents.loader_options, &modules)
}

/// Writes a bootable disc image with a loader and any list of modules.
///
/// # Errors
/// When a part is missing, a command line cannot be written to grub.cfg, or
/// grub-mkrescue fails.
pub fn write(iso: &Path, loader: &Path, options: &str, modules: &[Module]) -> Result<()> {
    let (tree, boot) = folders(iso)?;
    let mut entry = String::new();
    put(&boot, "loader", loader, options)?;
    writeln!(entry, "  multiboot2 /boot/loader {options}")?;
    for (number, module) in modules.iter().enumerate() {
        let name = format!("{number}-{}", module.role);
        put(&boot, &name, &module.file, &module.words)?;
        writeln!(entry, "  module2 /boot/{name} {} {}", module.role, module.words)?;
    }
    finish(iso, &tree, "multiboot2", &entry)
}

/// Writes a bootable disc image with a kernel alone, as a distribution's GRUB boots it.
///
/// # Errors
/// As [`write`].
pub fn make_stock(iso: &Path, kernel: &Staged) -> Result<()> {
    let (tree, boot) = folders(iso)?;
    put(&boot, "kernel", &kernel.image, &kernel.command_line)?;
    put(&boot, "initramfs", &kernel.initramfs, "")?;
    let words = &kernel.command_line;
    let entry = format!("  linux /boot/kernel {words}\n  initrd /boot/initramfs\n");
    finish(iso, &tree, "linux", &entry)
}

/// The disc's tree and the folder `boot` in it, both made anew.
fn folders(iso: &Path) -> Result<(PathBuf, PathBuf)> {
    let tree = iso.with_extension("tree");
    cache::remove(&tree)?;
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    Ok((tree, boot))
}

/// Makes the disc of its tree, with one menu entry. `command` is the GRUB module that boots it.
fn finish(iso: &Path, tree: &Path, command: &str, entry: &str) -> Result<()> {
    let menu = format!(
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\nset timeout=0\nmenuentry Orthros {{\n{entry}  boot\n}}\n"
    );
    fs::write(tree.join("boot/grub/grub.cfg"), menu)?;
    // The BIOS platform's modules alone keep the disc small and its making quick.
    exec::quiet(
        Command::new("grub-mkrescue")
            .args([
                "-d",
                "/usr/lib/grub/i386-pc",
                &format!("--install-modules={command} serial terminal biosdisk iso9660 part_msdos normal configfile"),
            ])
            .args(["--fonts=", "--locales=", "--themes=", "-o"])
            .arg(iso)
            .arg(tree),
    )?;
    cache::remove(tree)
}

/// Puts a file on the disc, if GRUB can be told its words.
fn put(boot: &Path, name: &str, file: &Path, words: &str) -> Result<()> {
    if words.contains(['\n', '"', '\'', '\\', '$', '{', '}', ';', '#']) {
        bail!("the {name} command line has a character that GRUB would interpret: {words}");
    }
    fs::copy(file, boot.join(name)).with_context(|| format!("cannot put {} on the disc", file.display()))?;
    Ok(())
}
