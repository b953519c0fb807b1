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

/// Writes a bootable disc image to `iso`. The first word of each module's string names
/// its role, which is how the loader tells them apart.
///
/// # Errors
/// When a part is missing, a command line cannot be written to grub.cfg, or
/// grub-mkrescue fails.
pub fn make(iso: &Path, contents: &Contents) -> Result<()> {
    let tree = iso.with_extension("tree");
    cache::remove(&tree)?;
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    let mut menu = String::from(
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\nset timeout=0\nmenuentry Orthros {\n",
    );
    let mut add = |verb: &str, role: &str, file: &Path, words: &str| -> Result<()> {
        if words.contains(['\n', '"', '\'', '\\', '$', '{', '}', ';', '#']) {
            bail!("the {role} command line has a character that GRUB would interpret: {words}");
        }
        let name = role.to_owned();
        fs::copy(file, boot.join(&name)).with_context(|| format!("cannot put {} on the disc", file.display()))?;
        let role = if verb == "module2" {
            format!(" {role}")
        } else {
            String::new()
        };
        writeln!(menu, "  {verb} /boot/{name}{role} {words}")?;
        Ok(())
    };
    add("multiboot2", "loader", &contents.loader, &contents.loader_options)?;
    add("module2", "backup-os", &contents.backup_os, "")?;
    add(
        "module2",
        "kernel",
        &contents.active.image,
        &contents.active.command_line,
    )?;
    add("module2", "initramfs", &contents.active.initramfs, "")?;
    let successor = &contents.successor;
    add("module2", "successor-kernel", &successor.image, &successor.command_line)?;
    add("module2", "successor-initramfs", &successor.initramfs, "")?;
    menu.push_str("  boot\n}\n");
    fs::write(boot.join("grub/grub.cfg"), menu)?;
    // The BIOS platform's modules alone keep the disc small and its making quick.
    exec::quiet(
        Command::new("grub-mkrescue")
            .args([
                "-d",
                "/usr/lib/grub/i386-pc",
                "--install-modules=multiboot2 serial terminal biosdisk iso9660 part_msdos normal configfile",
            ])
            .args(["--fonts=", "--locales=", "--themes=", "-o"])
            .arg(iso)
            .arg(&tree),
    )?;
    cache::remove(&tree)
}
