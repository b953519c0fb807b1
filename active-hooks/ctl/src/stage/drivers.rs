//! Which modules the next kernel needs on this machine: for the disk of the root file system, for others that are mounted, and
//! for the network.
//!
//! A device says what it is by its modalias, and the next kernel's `modules.alias` which module that means there. What is
//! built into it has no alias; it is then known by the name of the driver that has the device now.

use crate::root::Root;
use anyhow::{bail, Context, Result};
use orthros_init::mountinfo::{lines, Line};
use orthros_initramfs::modules::{self, Modules};
use std::path::{Path, PathBuf};

/// Modules by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drivers {
    /// Those without which the root file system cannot be reached.
    pub required: Vec<String>,
    /// Those that are good to have: for other disks, and for the network.
    pub wanted: Vec<String>,
}

/// Aliases of a kernel's modules (`modules.alias`).
pub struct Aliases(Vec<(String, String)>);

impl Aliases {
    /// Reads the file in `lib/modules/RELEASE`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let file = dir.join("modules.alias");
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let alias = |line: &str| {
            let mut words = line.strip_prefix("alias ")?.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        };
        Self(text.lines().filter_map(alias).collect())
    }

    /// The modules for a device.
    fn of(&self, modalias: &str) -> impl Iterator<Item = &str> {
        let modalias = modalias.to_owned();
        self.0
            .iter()
            .filter(move |(pattern, _)| matches(pattern.as_bytes(), modalias.as_bytes()))
            .map(|(_, module)| module.as_str())
    }
}

/// Shell patterns as depmod writes them: `*`, `?`, and `[...]`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| matches(rest, &text[skip..])),
        Some((b'[', rest)) => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else {
                return false;
            };
            let Some((&first, after)) = text.split_first() else {
                return false;
            };
            let set = &rest[..end];
            let ranges = (0..set.len()).any(|at| match set.get(at..at + 3) {
                Some(&[from, b'-', to]) => (from..=to).contains(&first),
                _ => set[at] == first,
            });
            ranges && matches(&rest[end + 1..], after)
        }
        Some((&byte, rest)) => text
            .split_first()
            .is_some_and(|(&first, after)| (byte == b'?' || byte == first) && matches(rest, after)),
    }
}

impl Drivers {
    /// Looks at the running system. `fstype` is that of the root file system, `device` its device number
    /// (`major:minor`).
    ///
    /// # Errors
    /// The disk cannot be found in sysfs, or the next kernel has no driver for it or for its file system.
    pub fn find(root: &Root, fstype: &str, device: &str, modules: &Modules, aliases: &Aliases) -> Result<Self> {
        let disk = std::fs::canonicalize(root.path(&format!("/sys/dev/block/{device}"))).with_context(|| {
            format!("the root file system is on no device that could be looked at (/sys/dev/block/{device})")
        })?;
        let mut required = of_device(root, &disk, modules, aliases)?;
        if !modules.has(fstype) {
            bail!("the next kernel has no file system {fstype}, which the root file system is");
        }
        push(&mut required, fstype.to_owned());
        let mut wanted = of_mounts(root, modules, aliases);
        wanted.retain(|module| !required.contains(module));
        for name in root.names("/sys/class/net").unwrap_or_default() {
            if let Some(module) = of_link(root, &name).filter(|module| modules.has(module)) {
                push(&mut wanted, module.to_owned());
            }
            let path = root.path(&format!("/sys/class/net/{name}/device"));
            // What has no device is none of hardware; what has no driver there is reported by its absence.
            if let Ok(path) = std::fs::canonicalize(path) {
                for module in of_device(root, &path, modules, aliases).unwrap_or_default() {
                    if !required.contains(&module) {
                        push(&mut wanted, module);
                    }
                }
            }
        }
        Ok(Self { required, wanted })
    }
}

/// `IFF_NOARP` (include/uapi/linux/if.h).
const NO_ARP: u32 = 0x80;

/// The module that makes a link of a kind that is made again, if it is no hardware.
fn of_link(root: &Root, name: &str) -> Option<&'static str> {
    let line = |file: &str| root.line(&format!("/sys/class/net/{name}/{file}"));
    let uevent = root.read(&format!("/sys/class/net/{name}/uevent")).ok()?;
    match uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")) {
        Some("bridge") => Some("bridge"),
        Some("vlan") => Some("8021q"),
        Some("bond") => Some("bonding"),
        Some(_) => None,
        // A dummy does not say what it is.
        None => {
            let flags = u32::from_str_radix(line("flags")?.trim_start_matches("0x"), 16).ok()?;
            let alone = line("iflink")? == line("ifindex")? && flags & NO_ARP != 0;
            (alone && !root.path(&format!("/sys/class/net/{name}/device")).exists()).then_some("dummy")
        }
    }
}

/// Drivers for the disks of all file systems that are mounted, and those file systems, as far as the next kernel has them.
fn of_mounts(root: &Root, modules: &Modules, aliases: &Aliases) -> Vec<String> {
    let text = root.read("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for Line {
        device, kind, options, ..
    } in lines(&text).filter(|line| line.source.starts_with("/dev/"))
    {
        // Some file systems have a number of their own instead of their disk's.
        let disk = std::fs::canonicalize(root.path(&format!("/sys/dev/block/{device}"))).ok();
        for disk in disk.iter().flat_map(|disk| with_those_below(disk, MAX_MAPPED)) {
            if disk.join("dm").exists() && modules.has(MAPPER) {
                push(&mut found, MAPPER.to_owned());
            }
            for module in of_device(root, &disk, modules, aliases).unwrap_or_default() {
                push(&mut found, module);
            }
        }
        if modules.has(kind) {
            push(&mut found, kind.to_owned());
        }
        for module in character_sets(options).filter(|module| modules.has(module)) {
            push(&mut found, module);
        }
    }
    found
}

/// Modules of the character sets that a vfat is mounted with (`load_nls()`).
fn character_sets(options: &str) -> impl Iterator<Item = String> + '_ {
    options.split(',').filter_map(|option| {
        let name = match option.split_once('=')? {
            ("codepage", number) => format!("nls_cp{number}"),
            ("iocharset", name) => format!("nls_{name}"),
            _ => return None,
        };
        Some(modules::name(&name))
    })
}

/// The device mapper.
const MAPPER: &str = "dm_mod";
/// Its devices on top of each other.
const MAX_MAPPED: u32 = 4;

/// A device, and those that it is made of.
fn with_those_below(device: &Path, depth: u32) -> Vec<PathBuf> {
    let mut all = vec![device.to_owned()];
    let below = std::fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
    for entry in below.filter(|_| depth > 0) {
        if let Ok(path) = std::fs::canonicalize(entry.path()) {
            all.extend(with_those_below(&path, depth - 1));
        }
    }
    all
}

/// Drivers of a device and all it hangs on, the farthest first.
fn of_device(root: &Root, device: &Path, modules: &Modules, aliases: &Aliases) -> Result<Vec<String>> {
    let top = std::fs::canonicalize(root.path("/sys/devices")).unwrap_or_else(|_| PathBuf::from("/sys/devices"));
    let mut found = Vec::new();
    let chain: Vec<&Path> = device.ancestors().take_while(|path| path.starts_with(&top)).collect();
    for path in chain.into_iter().rev() {
        let Ok(driver) = std::fs::read_link(path.join("driver")) else {
            continue;
        };
        let driver = modules::name(&driver.to_string_lossy());
        let modalias = std::fs::read_to_string(path.join("modalias")).unwrap_or_default();
        let by_alias: Vec<&str> = aliases
            .of(modalias.trim())
            .filter(|module| modules.has(module))
            .collect();
        // The driver that has it now, if the other kernel knows it for this device too.
        let module = match by_alias.iter().find(|module| **module == driver).or(by_alias.first()) {
            Some(module) => (*module).to_owned(),
            None if modules.has(&driver) => driver,
            // Bridges and the like are driven by the kernel itself.
            None if !path.join("block").exists() && !path.join("net").exists() => continue,
            None => bail!(
                "the next kernel has no driver for {} (`{driver}` has it now)",
                path.display()
            ),
        };
        push(&mut found, module);
    }
    Ok(found)
}

fn push(list: &mut Vec<String>, name: String) {
    if !list.contains(&name) {
        list.push(name);
    }
}

/// File-system type and device number of the root directory, by `/proc/self/mountinfo`.
///
/// # Errors
/// There is none.
pub fn root_file_system(root: &Root) -> Result<(String, String)> {
    let text = root.read("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let root = lines(&text).rfind(|line| line.point == "/");
    root.map(|line| (line.kind.to_owned(), line.device.to_owned()))
        .context("there is no root file system")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, text, matching) in [
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            (
                "pci:v*d*sv*sd*bc01sc06i01*",
                "pci:v00008086d2922sv1sd2bc01sc06i01",
                true,
            ),
            (
                "pci:v*d*sv*sd*bc01sc06i01*",
                "pci:v00008086d2922sv1sd2bc02sc06i01",
                false,
            ),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("x[0-9a]y", "x5y", true),
            ("x[0-9a]y", "xay", true),
            ("x[0-9a]y", "xby", false),
            ("x[", "x", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                matching,
                "{pattern} {text}"
            );
        }
    }

    /// A machine with a virtio disk, whose drivers the next kernel has as a module and built in.
    fn machine(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("orthros-drivers-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let device = dir.join("sys/devices/pci0000:00/0000:00:02.0/virtio1");
        fs::create_dir_all(device.join("block/vda")).unwrap();
        fs::create_dir_all(dir.join("sys/dev/block")).unwrap();
        fs::create_dir_all(dir.join("modules")).unwrap();
        fs::create_dir_all(dir.join("proc/self")).unwrap();
        symlink(device.join("block/vda"), dir.join("sys/dev/block/254:0")).unwrap();
        symlink("../bus/virtio/drivers/virtio_blk", device.join("driver")).unwrap();
        fs::write(device.join("modalias"), "virtio:d00000002v00001AF4\n").unwrap();
        let pci = device.parent().unwrap();
        symlink("../bus/pci/drivers/virtio-pci", pci.join("driver")).unwrap();
        fs::write(pci.join("modalias"), "pci:v00001AF4d00001042\n").unwrap();
        fs::write(
            dir.join("modules/modules.builtin"),
            "kernel/drivers/virtio/virtio_pci.ko\n",
        )
        .unwrap();
        fs::write(
            dir.join("modules/modules.dep"),
            "kernel/virtio_blk.ko:\nkernel/fs/ext4.ko:\nkernel/fs/fat/vfat.ko:\n\
             kernel/fs/nls/nls_cp437.ko:\nkernel/fs/nls/nls_iso8859-1.ko:\n",
        )
        .unwrap();
        fs::write(
            dir.join("proc/self/mountinfo"),
            "20 1 0:5 / /proc rw - proc proc rw\n21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
             22 21 254:1 / /boot/efi rw - vfat /dev/vda1 rw,codepage=437,iocharset=iso8859-1,utf8\n\
             23 21 254:2 / /b rw - btrfs /dev/vda2 rw\n",
        )
        .unwrap();
        dir
    }

    #[test]
    fn links_that_are_no_hardware_need_what_makes_them() {
        let dir = machine("links");
        let link = |name: &str, uevent: &str, flags: &str, below: &str| {
            let of = dir.join("sys/class/net").join(name);
            fs::create_dir_all(&of).unwrap();
            for (file, text) in [
                ("uevent", uevent),
                ("flags", flags),
                ("iflink", below),
                ("ifindex", "7"),
            ] {
                fs::write(of.join(file), format!("{text}\n")).unwrap();
            }
        };
        let root = Root::at(&dir);
        link("br0", "DEVTYPE=bridge\nINTERFACE=br0", "0x1003", "7");
        link("br0.5", "DEVTYPE=vlan", "0x1003", "3");
        link("b", "DEVTYPE=bond", "0x1403", "7");
        link("d", "INTERFACE=d", "0x83", "7");
        link("veth1", "INTERFACE=veth1", "0x1003", "9");
        link("lo", "INTERFACE=lo", "0x9", "7");
        link("wg0", "DEVTYPE=wireguard", "0x91", "7");
        let of = |name| of_link(&root, name);
        assert_eq!(
            [of("br0"), of("br0.5"), of("b"), of("d")],
            [Some("bridge"), Some("8021q"), Some("bonding"), Some("dummy")]
        );
        assert_eq!([of("veth1"), of("lo"), of("wg0"), of("none")], [None; 4]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_volume_needs_the_device_mapper_and_the_disks_it_lies_on() {
        let dir = machine("volume");
        let volume = dir.join("sys/devices/virtual/block/dm-0");
        fs::create_dir_all(volume.join("dm")).unwrap();
        fs::create_dir_all(volume.join("slaves")).unwrap();
        let disk = dir.join("sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda");
        symlink(disk, volume.join("slaves/vda")).unwrap();
        symlink(&volume, dir.join("sys/dev/block/253:0")).unwrap();
        fs::write(
            dir.join("modules/modules.dep"),
            "kernel/virtio_blk.ko:\nkernel/dm-mod.ko:\n",
        )
        .unwrap();
        let mounts = "24 21 253:0 / /srv rw - ext4 /dev/mapper/vg-srv rw\n";
        fs::write(dir.join("proc/self/mountinfo"), mounts).unwrap();
        let modules = Modules::read(&dir.join("modules"), "6.1").unwrap();
        let aliases = Aliases::parse("alias virtio:d00000002v* virtio_blk\n");
        let found = of_mounts(&Root::at(&dir), &modules, &aliases);
        assert_eq!(found, ["dm_mod", "virtio_pci", "virtio_blk"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_chain_of_devices_below_the_root_file_system_is_followed() {
        let dir = machine("chain");
        let root = Root::at(&dir);
        let modules = Modules::read(&dir.join("modules"), "6.1").unwrap();
        let aliases = Aliases::parse("# x\nalias virtio:d00000002v* virtio_blk\nalias pci:v00009999* other\n");
        let (fstype, device) = root_file_system(&root).unwrap();
        assert_eq!((fstype.as_str(), device.as_str()), ("ext4", "254:0"));
        let drivers = Drivers::find(&root, &fstype, &device, &modules, &aliases).unwrap();
        assert_eq!(drivers.required, ["virtio_pci", "virtio_blk", "ext4"]);
        assert_eq!(drivers.wanted, ["vfat", "nls_cp437", "nls_iso8859_1"]);
        let error = Drivers::find(&root, "xfs", &device, &modules, &aliases)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no file system xfs"), "{error}");
        fs::write(dir.join("modules/modules.dep"), "kernel/fs/ext4.ko:\n").unwrap();
        let modules = Modules::read(&dir.join("modules"), "6.1").unwrap();
        let error = Drivers::find(&root, &fstype, &device, &modules, &aliases)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no driver for") && error.contains("virtio_blk"),
            "{error}"
        );
        fs::remove_dir_all(dir).unwrap();
    }
}
