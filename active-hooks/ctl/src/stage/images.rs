//! The images of the kernel that is to be staged: read, made, and checked before anything that is staged is touched.

use super::drivers::{root_file_system, Aliases, Drivers};
use crate::cli;
use crate::root::Root;
use crate::units::bytes;
use anyhow::{anyhow, bail, ensure, Context, Result};
use boot_plan::bzimage::{self, BzImage};
use orthros_initramfs::build::{self, Parts};
use orthros_initramfs::inspect::{self, Needs};
use orthros_initramfs::modules::{contents, Modules};
use shared_region::layout::{NURSERY_SIZE, STAGED_0};
use shared_region::stage::CMDLINE_SIZE;
use shared_region::PAGE_SIZE;
use std::path::{Path, PathBuf};

/// Where a package puts orthros-init, and its modules for kernels that DKMS did not build them for.
const INIT: [&str; 2] = ["/usr/lib/orthros/orthros-init", "/usr/sbin/orthros-init"];
const MODULES: &str = "/usr/lib/orthros/modules";
const BUSYBOX: [&str; 3] = [
    "/bin/busybox",
    "/usr/bin/busybox",
    "/usr/lib/initramfs-tools/bin/busybox",
];
/// RAM a kernel needs beside its image and initramfs to reach its first program (`boot_plan::successor`).
const WORKING_MEMORY: u64 = 64 << 20;

/// Everything that is put into a slot.
#[derive(Clone, Debug)]
pub struct Images {
    /// `uname -r` of the kernel.
    pub release: String,
    /// The bzImage.
    pub kernel: Vec<u8>,
    /// The initramfs.
    pub initramfs: Vec<u8>,
    /// The command line, as the administrator gave it.
    pub cmdline: Vec<u8>,
    /// What could not be checked.
    pub warnings: Vec<String>,
}

impl Images {
    /// Reads or makes them, and checks them. `cmdline` is used if none is given.
    ///
    /// # Errors
    /// What is wrong, naming the file.
    pub fn prepare(wish: &cli::Images, root: &Root, cmdline: &[u8]) -> Result<Self> {
        let path = wish.kernel.as_deref().context("no --kernel is given")?;
        let (kernel, release) = kernel(path)?;
        let mut warnings = Vec::new();
        let initramfs = match &wish.initrd {
            Some(file) => brought(file, root, wish, &release, &mut warnings)?,
            None => made(root, wish, &release)?,
        };
        let cmdline = wish.cmdline.as_ref().map_or(cmdline, |line| line.as_bytes()).to_vec();
        ensure!(
            cmdline.len() < CMDLINE_SIZE,
            "the command line has {} bytes, {} are allowed",
            cmdline.len(),
            CMDLINE_SIZE - 1
        );
        let images = Self {
            release,
            kernel,
            initramfs,
            cmdline,
            warnings,
        };
        images.fit(path)?;
        Ok(images)
    }

    /// Where the initramfs goes in the slot.
    pub fn initramfs_offset(&self) -> u64 {
        (self.kernel.len() as u64).next_multiple_of(PAGE_SIZE)
    }

    fn fit(&self, path: &Path) -> Result<()> {
        let need = self.initramfs_offset() + self.initramfs.len() as u64;
        ensure!(
            need <= STAGED_0.size,
            "{} ({}) and its initramfs ({}) do not fit into a slot of {}",
            path.display(),
            bytes(self.kernel.len() as u64),
            bytes(self.initramfs.len() as u64),
            bytes(STAGED_0.size)
        );
        let image = BzImage::parse(&self.kernel)?;
        let memory = image.init_size + self.initramfs.len() as u64 + WORKING_MEMORY;
        ensure!(
            memory <= NURSERY_SIZE,
            "{} needs {} of memory to start with its initramfs, the nursery has {}",
            path.display(),
            bytes(memory),
            bytes(NURSERY_SIZE)
        );
        Ok(())
    }
}

fn kernel(path: &Path) -> Result<(Vec<u8>, String)> {
    let size = std::fs::metadata(path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .len();
    ensure!(
        size <= STAGED_0.size,
        "{} has {}, a slot {}: too large for a kernel image",
        path.display(),
        bytes(size),
        bytes(STAGED_0.size)
    );
    let file = orthros_initramfs::read(path)?;
    BzImage::parse(&file).map_err(|error| match bzimage::other_kind(&file) {
        Some(kind) => anyhow!("{} is {kind}", path.display()),
        None => anyhow!("{}: {error}", path.display()),
    })?;
    let release = bzimage::release(&file)
        .with_context(|| format!("{} does not say which kernel it is", path.display()))?
        .to_owned();
    Ok((file, release))
}

fn modules_dir(root: &Root, wish: &cli::Images, release: &str) -> PathBuf {
    wish.modules
        .clone()
        .unwrap_or_else(|| root.path(&format!("/lib/modules/{release}")))
}

/// An initramfs that was brought.
fn brought(file: &Path, root: &Root, wish: &cli::Images, release: &str, warnings: &mut Vec<String>) -> Result<Vec<u8>> {
    let bytes = orthros_initramfs::read(file)?;
    let dir = modules_dir(root, wish, release);
    let found = Modules::read(&dir, release).ok();
    let drivers = match &found {
        Some(modules) => drivers(root, &dir, modules)?,
        None => {
            warnings.push(format!(
                "{} is not there: whether the initramfs has the drivers of the root disk is not checked",
                dir.display()
            ));
            Drivers::default()
        }
    };
    let needs = Needs {
        release,
        drivers: &drivers.required,
        modules: found.as_ref(),
    };
    inspect::check(&bytes, &needs).map_err(|error| anyhow!("{}: {error}", file.display()))?;
    Ok(bytes)
}

/// An initramfs made for this machine.
fn made(root: &Root, wish: &cli::Images, release: &str) -> Result<Vec<u8>> {
    let dir = modules_dir(root, wish, release);
    let modules = Modules::read(&dir, release).with_context(|| {
        format!("the modules of kernel {release} are not installed (--modules says where else they are)")
    })?;
    let drivers = drivers(root, &dir, &modules)?;
    let init = given_or(wish.init.as_ref(), &INIT.map(|path| root.path(path)))
        .context("there is no orthros-init (--init says where it is)")?;
    let packaged = root.path(&format!("{MODULES}/{release}/orthros.ko"));
    let module = given_or(wish.module.as_ref(), &[])
        .or_else(|| modules.file("orthros"))
        .or_else(|| given_or(None, &[packaged]))
        .with_context(|| {
            format!(
                "there is no Orthros module for kernel {release}: build it with DKMS, or say where it is with --module"
            )
        })?;
    build::check_module(&contents(&module)?, &module.display().to_string(), release)?;
    let busybox = given_or(None, &BUSYBOX.map(|path| root.path(path)));
    let wanted = drivers.required.iter().chain(&drivers.wanted).cloned().collect();
    let archive = build::build(&Parts {
        release,
        modules: &modules,
        init: &init,
        module: Some(&module),
        busybox: busybox.as_deref(),
        wanted,
    })?;
    let needs = Needs {
        release,
        drivers: &drivers.required,
        modules: Some(&modules),
    };
    inspect::check(&archive, &needs).context("the initramfs that was made")?;
    Ok(archive)
}

fn drivers(root: &Root, dir: &Path, modules: &Modules) -> Result<Drivers> {
    let (fstype, device) = root_file_system(root)?;
    Drivers::find(root, &fstype, &device, modules, &Aliases::read(dir)?)
}

fn given_or(given: Option<&PathBuf>, usual: &[PathBuf]) -> Option<PathBuf> {
    given.or_else(|| usual.iter().find(|path| path.is_file())).cloned()
}

/// The options make sense together.
///
/// # Errors
/// What does not.
pub fn check_options(wish: &cli::Images) -> Result<()> {
    if wish.kernel.is_none() {
        let given = [
            ("--initrd", wish.initrd.is_some()),
            ("--auto", wish.auto),
            ("--cmdline", wish.cmdline.is_some()),
        ];
        if let Some((name, _)) = given.into_iter().find(|(_, given)| *given) {
            bail!("{name} belongs to a --kernel");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(content: &[u8]) -> String {
        let path = std::env::temp_dir().join(format!("orthros-image-{}-{}", std::process::id(), content.len()));
        std::fs::write(&path, content).unwrap();
        let error = kernel(&path).map(drop).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        let text = format!("{error:#}");
        assert!(text.contains("orthros-image"), "the file is named: {text}");
        text
    }

    #[test]
    fn files_that_are_no_kernel_are_named_for_what_they_are() {
        let mut arm = [0; 70];
        arm[56..60].copy_from_slice(b"ARM\x64");
        for (content, message) in [
            (&b"This is a text."[..], "not a Linux kernel image"),
            (&arm, "is a kernel for arm64"),
            (b"070701000000", "is a cpio archive"),
            (b"", "not a Linux kernel image"),
        ] {
            let text = refusal(content);
            assert!(text.contains(message), "{text}");
        }
        let large = vec![0; STAGED_0.size as usize + 1];
        assert!(refusal(&large).contains("too large for a kernel image"));
        assert!(kernel(Path::new("/nowhere")).is_err());
    }
}
