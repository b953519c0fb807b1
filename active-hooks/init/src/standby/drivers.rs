//! Drivers that are loaded before the sleep and meet their devices after it: what takes a third of a second under
//! emulation is done ahead of time, and still no disk is looked at.
//!
//! With `drivers_autoprobe` off (Documentation/ABI/testing/sysfs-bus) a bus does not bring drivers and devices together
//! by itself.

use crate::boot::log;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const BUSES: &str = "/sys/bus";
const AUTOPROBE: &str = "drivers_autoprobe";

/// The buses, in the order of their names.
fn buses(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut buses = fs::read_dir(root)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    buses.retain(|bus| bus.join(AUTOPROBE).exists());
    buses.sort();
    Ok(buses)
}

fn set(root: &Path, value: &str) -> io::Result<Vec<PathBuf>> {
    let buses = buses(root)?;
    for bus in &buses {
        fs::write(bus.join(AUTOPROBE), value)?;
    }
    Ok(buses)
}

/// Keeps drivers and devices apart until [`join`].
///
/// # Errors
/// Of the first bus that refuses.
pub fn part() -> io::Result<()> {
    set(Path::new(BUSES), "0").map(drop)
}

/// Brings drivers and devices together that were kept apart. What that makes anew, as the devices behind a controller,
/// finds its drivers by itself.
pub fn join() {
    let buses = match set(Path::new(BUSES), "1") {
        Ok(buses) => buses,
        Err(error) => return log::error(format_args!("standby: {BUSES}: {error}; devices stay without drivers")),
    };
    for bus in buses {
        for device in without_driver(&bus) {
            // A device that no driver is for is refused.
            if let Err(error) = fs::write(bus.join("drivers_probe"), &device) {
                if error.raw_os_error() != Some(libc::EINVAL) && error.raw_os_error() != Some(libc::ENODEV) {
                    log::warning(format_args!("standby: {device} on {}: {error}", bus.display()));
                }
            }
        }
    }
}

fn without_driver(bus: &Path) -> Vec<String> {
    let devices = fs::read_dir(bus.join("devices")).into_iter().flatten().flatten();
    let mut names: Vec<String> = devices
        .filter(|device| !device.path().join("driver").exists())
        .filter_map(|device| device.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bus_is_turned_off_and_on_and_only_what_has_no_driver_is_probed() {
        let root = std::env::temp_dir().join(format!("orthros-buses-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (bus, device) in [("pci", "0000:00:01.0"), ("pci", "0000:00:02.0"), ("virtio", "virtio0")] {
            fs::create_dir_all(root.join(bus).join("devices").join(device)).unwrap();
            fs::write(root.join(bus).join(AUTOPROBE), "1").unwrap();
        }
        fs::create_dir_all(root.join("clocksource")).unwrap();
        fs::write(root.join("pci/devices/0000:00:02.0/driver"), "").unwrap();
        let value = |bus: &str| fs::read_to_string(root.join(bus).join(AUTOPROBE)).unwrap();
        assert_eq!(set(&root, "0").unwrap().len(), 2);
        assert_eq!((value("pci"), value("virtio")), ("0".into(), "0".into()));
        assert_eq!(set(&root, "1").unwrap(), [root.join("pci"), root.join("virtio")]);
        assert_eq!(value("pci"), "1");
        assert_eq!(without_driver(&root.join("pci")), ["0000:00:01.0"]);
        assert_eq!(without_driver(&root.join("virtio")), ["virtio0"]);
        fs::remove_dir_all(&root).unwrap();
    }
}
