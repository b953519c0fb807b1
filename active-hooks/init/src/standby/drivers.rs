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

/// Drivers and devices that are kept apart.
#[derive(Debug)]
pub struct Parted {
    buses: Vec<Bus>,
}

/// A bus as it was when everything on it that had found each other was together.
#[derive(Debug)]
struct Bus {
    path: PathBuf,
    drivers: Vec<String>,
    devices: Vec<String>,
}

/// What is to be brought together: buses, and devices on them.
#[derive(Debug, PartialEq, Eq)]
pub struct Joining(Vec<(PathBuf, Vec<String>)>);

/// Keeps drivers and devices apart until [`Joining::join`].
///
/// # Errors
/// Of the first bus that refuses.
pub fn part() -> io::Result<Parted> {
    part_in(Path::new(BUSES))
}

fn part_in(root: &Path) -> io::Result<Parted> {
    let bus = |path: PathBuf| Bus {
        drivers: names(&path.join("drivers")),
        devices: names(&path.join("devices")),
        path,
    };
    Ok(Parted {
        buses: set(root, "0")?.into_iter().map(bus).collect(),
    })
}

impl Parted {
    /// Looks up who may find each other: where neither a driver nor a device has come since, nobody will.
    pub fn joining(&self) -> Joining {
        let changed = self.buses.iter().filter(|bus| {
            bus.drivers != names(&bus.path.join("drivers")) || bus.devices != names(&bus.path.join("devices"))
        });
        Joining(
            changed
                .map(|bus| (bus.path.clone(), without_driver(&bus.path)))
                .collect(),
        )
    }
}

impl Joining {
    /// Brings drivers and devices together that were kept apart. What that makes anew, as the devices behind a controller,
    /// finds its drivers by itself.
    pub fn join(&self) {
        if let Err(error) = set(Path::new(BUSES), "1") {
            return log::error(format_args!("standby: {BUSES}: {error}; devices stay without drivers"));
        }
        for (bus, devices) in &self.0 {
            for device in devices {
                // A device that no driver is for is refused.
                if let Err(error) = fs::write(bus.join("drivers_probe"), device) {
                    if error.raw_os_error() != Some(libc::EINVAL) && error.raw_os_error() != Some(libc::ENODEV) {
                        log::warning(format_args!("standby: {device} on {}: {error}", bus.display()));
                    }
                }
            }
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn without_driver(bus: &Path) -> Vec<String> {
    let devices = bus.join("devices");
    let mut names = names(&devices);
    names.retain(|name| !devices.join(name).join("driver").exists());
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
        fs::create_dir_all(root.join("pci/drivers/nvme")).unwrap();
        let parted = part_in(&root).unwrap();
        assert_eq!(parted.buses.len(), 2);
        assert_eq!((value("pci"), value("virtio")), ("0".into(), "0".into()));
        assert_eq!(parted.joining(), Joining(Vec::new()));
        fs::create_dir_all(root.join("pci/drivers/virtio-pci")).unwrap();
        let pci = (root.join("pci"), vec!["0000:00:01.0".to_owned()]);
        assert_eq!(parted.joining(), Joining(vec![pci.clone()]));
        fs::create_dir_all(root.join("virtio/devices/virtio1")).unwrap();
        let virtio = (root.join("virtio"), vec!["virtio0".to_owned(), "virtio1".to_owned()]);
        assert_eq!(parted.joining(), Joining(vec![pci, virtio]));
        fs::remove_dir_all(root.join("virtio/devices/virtio1")).unwrap();
        assert_eq!(set(&root, "1").unwrap(), [root.join("pci"), root.join("virtio")]);
        assert_eq!(value("pci"), "1");
        assert_eq!(without_driver(&root.join("pci")), ["0000:00:01.0"]);
        assert_eq!(without_driver(&root.join("virtio")), ["virtio0"]);
        fs::remove_dir_all(&root).unwrap();
    }
}
