//! The modules of a kernel, as depmod lists them.

use crate::unpack::unpacked;
use crate::{read, InitramfsError};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// `lib/modules/RELEASE` of a kernel.
#[derive(Clone, Debug)]
pub struct Modules {
    release: String,
    dir: PathBuf,
    /// The line of `modules.dep` for each module.
    lines: HashMap<String, String>,
    built_in: HashSet<String>,
}

impl Modules {
    /// Reads `modules.dep` and `modules.builtin`.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn read(dir: &Path, release: &str) -> Result<Self, InitramfsError> {
        let text = |name: &str| read(&dir.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let lines = text("modules.dep")?
            .lines()
            .filter_map(|line| Some((name(line.split_once(':')?.0), line.to_owned())))
            .collect();
        let built_in = text("modules.builtin")?.lines().map(name).collect();
        Ok(Self {
            release: release.to_owned(),
            dir: dir.to_path_buf(),
            lines,
            built_in,
        })
    }

    /// Whether the kernel has it, one way or the other.
    pub fn has(&self, module: &str) -> bool {
        self.built_in.contains(module) || self.lines.contains_key(module)
    }

    /// Whether it needs no file.
    pub fn is_built_in(&self, module: &str) -> bool {
        self.built_in.contains(module)
    }

    /// The files of the wanted modules that are not built in, each after those it needs.
    ///
    /// # Errors
    /// A module that is neither packaged nor built in.
    pub fn load_order<'a>(&self, wanted: impl IntoIterator<Item = &'a str>) -> Result<Vec<PathBuf>, InitramfsError> {
        let mut order: Vec<PathBuf> = Vec::new();
        for wanted in wanted {
            let Some((own, needs)) = self.lines.get(wanted).and_then(|line| line.split_once(':')) else {
                if self.built_in.contains(wanted) {
                    continue;
                }
                return Err(InitramfsError::NoModule {
                    release: self.release.clone(),
                    module: wanted.to_owned(),
                });
            };
            // modules.dep names the nearest dependency first; the farthest is loaded first.
            for path in needs.split_whitespace().rev().chain([own]) {
                let path = self.dir.join(path);
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        }
        Ok(order)
    }

    /// The file of a module, wherever it was installed (DKMS, `extra`, …).
    pub fn file(&self, module: &str) -> Option<PathBuf> {
        let (own, _) = self.lines.get(module)?.split_once(':')?;
        Some(self.dir.join(own))
    }
}

/// `kernel/drivers/virtio/virtio-pci.ko.xz` is the module `virtio_pci`.
pub fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// The contents of a module's file, uncompressed.
///
/// # Errors
/// It cannot be read or unpacked.
pub fn contents(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    unpacked(&read(path)?)
}

/// The release that a module was built for, by its `vermagic`; `None` if it is no module.
pub fn built_for(module: &[u8]) -> Option<&str> {
    const KEY: &[u8] = b"vermagic=";
    if !module.starts_with(b"\x7FELF") {
        return None;
    }
    let at = module.windows(KEY.len()).position(|bytes| bytes == KEY)? + KEY.len();
    let text = module.get(at..)?;
    let end = text.iter().position(|&byte| byte == b' ' || byte == 0)?;
    std::str::from_utf8(text.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel's folder with a built-in, a module and one it needs.
    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("orthros-initramfs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(
            dir.join("modules.dep"),
            "kernel/b/top-one.ko.xz: kernel/a/middle.ko kernel/a/low.ko\nkernel/a/middle.ko: kernel/a/low.ko\nkernel/a/low.ko:\n",
        )
        .unwrap();
        std::fs::write(dir.join("modules.builtin"), "kernel/c/virtio-pci.ko\n").unwrap();
        dir
    }

    #[test]
    fn what_is_needed_comes_first() {
        let dir = folder("order");
        let modules = Modules::read(&dir, "6.1.0").unwrap();
        let order = modules.load_order(["middle", "virtio_pci", "top_one"]).unwrap();
        let names: Vec<String> = order.iter().map(|path| name(&path.to_string_lossy())).collect();
        assert_eq!(names, ["low", "middle", "top_one"]);
        assert!(modules.has("virtio_pci") && modules.is_built_in("virtio_pci") && !modules.has("nvme"));
        let error = modules.load_order(["nvme"]).unwrap_err().to_string();
        assert_eq!(error, "kernel 6.1.0 has no module nvme, neither packaged nor built in");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn names_of_modules() {
        assert_eq!(name("kernel/drivers/char/hw_random/virtio-rng.ko.xz"), "virtio_rng");
        assert_eq!(name("kernel/fs/ext4/ext4.ko"), "ext4");
    }

    #[test]
    fn a_module_says_what_it_was_built_for() {
        let mut module = b"\x7FELF....license=GPL\0vermagic=6.12.1-amd64 SMP preempt\0".to_vec();
        assert_eq!(built_for(&module), Some("6.12.1-amd64"));
        module[0] = 0;
        assert_eq!(built_for(&module), None);
        assert_eq!(built_for(b"\x7FELF"), None);
    }
}
