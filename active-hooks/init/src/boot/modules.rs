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

/// A driver of cards that the backup OS can hold.
const HELD_BACK: &str = "virtio_net.ko";

/// Modules of the list that come later, open: by then their files are out of reach.
static LATER: Mutex<Vec<(PathBuf, File)>> = Mutex::new(Vec::new());

/// Loads what the list names, but for drivers of the network if they are to come later ([`load_later`]). What cannot be loaded is
/// warned of: the root file system tells whether it was needed.
pub fn load_list(list: &str, network_later: bool) {
    let text = match fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) => return log::warning(format_args!("no modules are loaded: {list}: {error}")),
    };
    for path in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let path = Path::new(path);
        let done = if network_later && path.ends_with(HELD_BACK) {
            put_off(path)
        } else {
            load(path, "")
        };
        if let Err(error) = done {
            log::warning(format_args!("module {}: {error}", path.display()));
        }
    }
}

fn put_off(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    if let Ok(mut later) = LATER.lock() {
        later.push((path.to_owned(), file));
    }
    Ok(())
}

/// Whether modules were put off.
pub fn are_put_off() -> bool {
    LATER.lock().is_ok_and(|later| !later.is_empty())
}

/// Loads what was put off.
pub fn load_later() {
    let later = LATER.lock().map(|mut later| std::mem::take(&mut *later));
    for (path, file) in later.unwrap_or_default() {
        if let Err(error) = load_file(&file, "") {
            log::warning(format_args!("module {}: {error}", path.display()));
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
