//! Kernel modules of the initramfs.

use super::{cmdline::Cmdline, log};
use orthros_device::Device;
use std::{
    fs,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// The list of modules to load: absolute paths, one a line, in the order of their dependencies.
pub const LIST: &str = "/lib/orthros/modules";
/// Our own module.
pub const ORTHROS: &str = "/lib/orthros/orthros.ko";
/// Our own module's parameters on the kernel command line start with this.
const PREFIX: &str = "orthros.";
/// Words with the prefix that are for this program.
const OURS: [&str; 3] = ["init", "successor", "uncommitted"];

/// The driver of cards that the backup OS can hold.
const NETWORK: &str = "virtio_net.ko";
const NETWORK_DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";

/// Modules that make links nobody has asked for, and how they are told not to.
const UNASKED: [(&str, &str); 2] = [("bonding.ko", "max_bonds=0"), ("dummy.ko", "numdummies=0")];

/// What comes later.
enum Later {
    /// A module, open: by then its file is out of reach.
    Module(PathBuf, File),
    /// A device that was taken from a driver that is built in.
    Device(String),
}

static LATER: Mutex<Vec<Later>> = Mutex::new(Vec::new());

fn put_off(what: Later) {
    if let Ok(mut later) = LATER.lock() {
        later.push(what);
    }
}

/// Loads what the list names, but for the driver of the network if that is to come later ([`load_later`]); if it is built in, its
/// devices are taken from it. What cannot be loaded is warned of: the root file system tells whether it was needed.
pub fn load_list(list: &str, network_later: bool) {
    let text = match fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) => return log::warning(format_args!("no modules are loaded: {list}: {error}")),
    };
    for path in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let path = Path::new(path);
        let done = if network_later && path.ends_with(NETWORK) {
            File::open(path).map(|file| put_off(Later::Module(path.to_owned(), file)))
        } else {
            let parameters = UNASKED.iter().find(|(module, _)| path.ends_with(module));
            load(path, parameters.map_or("", |(_, parameters)| parameters))
        };
        if let Err(error) = done {
            log::warning(format_args!("module {}: {error}", path.display()));
        }
    }
    if network_later {
        part_network();
    }
}

/// Takes from the driver of the network what it has found already.
fn part_network() {
    let entries = fs::read_dir(NETWORK_DRIVER).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for device in names.filter(|name| name.starts_with("virtio")) {
        match fs::write(format!("{NETWORK_DRIVER}/unbind"), &device) {
            Ok(()) => put_off(Later::Device(device)),
            Err(error) => log::warning(format_args!("{device} stays with its driver: {error}")),
        }
    }
}

/// Whether anything was put off.
pub fn are_put_off() -> bool {
    LATER.lock().is_ok_and(|later| !later.is_empty())
}

/// Does what was put off.
pub fn load_later() {
    let later = LATER.lock().map(|mut later| std::mem::take(&mut *later));
    for what in later.unwrap_or_default() {
        let (name, done) = match what {
            Later::Module(path, file) => (path.display().to_string(), load_file(&file, "")),
            Later::Device(device) => {
                let done = fs::write(format!("{NETWORK_DRIVER}/bind"), &device);
                (device, done)
            }
        };
        if let Err(error) = done {
            log::warning(format_args!("{name}: {error}"));
        }
    }
}

/// Loads our module, if the loader has set a region aside, and opens its device.
pub fn load_orthros(cmdline: &Cmdline) -> Option<Device> {
    if cmdline.value("orthros.region").is_none() {
        log::info(format_args!(
            "no orthros.region= on the command line: this boot is not protected"
        ));
        return None;
    }
    let parameters: Vec<String> = cmdline
        .with_prefix(PREFIX)
        .filter(|(name, _)| !OURS.contains(name))
        .map(|(name, value)| value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}")))
        .collect();
    if let Err(error) = load(Path::new(ORTHROS), &parameters.join(" ")) {
        log::error(format_args!("module {ORTHROS}: {error}; this boot is not protected"));
        return None;
    }
    match Device::open() {
        Ok(device) => Some(device),
        Err(error) => {
            log::error(format_args!("{error}; this boot is not protected"));
            None
        }
    }
}

fn load(path: &Path, parameters: &str) -> io::Result<()> {
    load_file(&File::open(path)?, parameters)
}

fn load_file(file: &File, parameters: &str) -> io::Result<()> {
    let parameters = std::ffi::CString::new(parameters)?;
    match rustix::system::finit_module(file, &parameters, 0) {
        // Loaded already, or built in.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
