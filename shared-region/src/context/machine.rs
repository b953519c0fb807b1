//! The dead kernel, its clocks and its mounts.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// The dead kernel and its clocks ([`crate::record::Kind::Machine`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r` of the dead kernel.
    pub release: String,
    /// Its GNU build id.
    pub build_id: Vec<u8>,
    /// `uname -n`.
    pub hostname: String,
    /// `uname -v` domain name.
    pub domainname: String,
    /// CPUs that were online.
    pub cpus: u32,
    /// MemTotal in pages.
    pub total_ram_pages: u64,
    /// The clocks at one instant.
    pub clock: Clock,
    /// XCR0 at the time of the failure.
    pub xcr0: u64,
    /// Highest thread or process id in use.
    pub last_pid: u32,
}

/// All clocks at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// TSC of the instant.
    pub tsc: u64,
    /// TSC ticks in a second.
    pub tsc_hz: u64,
    /// CLOCK_MONOTONIC. Not earlier than any reading a process can have taken.
    pub monotonic: u64,
    /// CLOCK_BOOTTIME.
    pub boottime: u64,
    /// CLOCK_REALTIME.
    pub realtime: i64,
    /// TAI − UTC in seconds.
    pub tai_offset: i32,
    /// Frequency correction as `adjtimex` shows it (ppm × 2^16).
    pub frequency: i64,
}

/// File systems that only control something: the service manager mounts them, in the old system as in the new one.
pub const CONTROL_FILE_SYSTEMS: [&[u8]; 4] = [b"autofs", b"binfmt_misc", b"configfs", b"fusectl"];
/// Where it mounts what services are given secretly, when it starts them.
pub const CREDENTIALS: &[u8] = b"/run/credentials";

/// The successor that has written a rescue area ([`crate::record::Kind::SavedBy`]). There is none if no kernel took over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedBy {
    /// Its `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// A mount of the old system that a protected process can see ([`crate::record::Kind::Mount`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Mount id.
    pub id: u32,
    /// Mount id of the parent, its own for the root.
    pub parent: u32,
    /// `mnt_devname`: `/dev/vda1`, `tmpfs`.
    pub source: Vec<u8>,
    /// `ext4`, `tmpfs` ….
    pub fstype: Vec<u8>,
    /// Path within the file system that is mounted.
    pub root: Vec<u8>,
    /// Where it is mounted.
    pub mountpoint: Vec<u8>,
    /// MS_* flags of the mount and the superblock.
    pub flags: u64,
    /// Device number (`st_dev`, major << 20 | minor).
    pub device: u64,
    /// Options of the file system that decide on how data comes to the disk, as `mount` takes them; empty: its defaults.
    pub options: Vec<u8>,
}

impl Mount {
    /// The number of the subvolume of btrfs that is mounted, whole, if one is.
    pub fn subvolume(&self) -> Option<u64> {
        let options = core::str::from_utf8(&self.options).ok()?;
        let mut options = options.split(',').filter(|_| self.fstype == b"btrfs");
        options.find_map(|option| option.strip_prefix("subvolid=")?.parse().ok())
    }

    /// Whether a file system or a subvolume is mounted whole, and not a part of one.
    pub fn is_whole(&self) -> bool {
        self.root == b"/" || self.subvolume().is_some()
    }
}

/// A subvolume of btrfs of which something is in memory ([`crate::record::Kind::Subvolume`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subvolume {
    /// Device number of its files in other records; no other file system's have it.
    pub device: u64,
    /// Device number of the file system's mounts.
    pub file_system: u64,
    /// UUID of the file system.
    pub uuid: [u8; 16],
    /// Number of the subvolume.
    pub number: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are an interface between programs of different age.
    #[test]
    fn golden_bytes() {
        let by = SavedBy { boot_id: "ab".into() };
        assert_eq!(postcard::to_allocvec(&by).unwrap(), [2, b'a', b'b']);
        let subvolume = Subvolume {
            device: 41,
            file_system: 40,
            uuid: [7; 16],
            number: 257,
        };
        let want = [&[41, 40][..], &[7; 16], &[0x81, 2]].concat();
        assert_eq!(postcard::to_allocvec(&subvolume).unwrap(), want);
    }

    #[test]
    fn a_part_of_a_file_system_is_not_mounted_whole() {
        let mount = |fstype: &str, root: &str, options: &str| Mount {
            fstype: fstype.into(),
            root: root.into(),
            options: options.into(),
            ..Mount::default()
        };
        assert!(mount("ext4", "/", "").is_whole() && !mount("ext4", "/part", "subvolid=257").is_whole());
        assert!(mount("btrfs", "/@data", "subvolid=257").is_whole() && !mount("btrfs", "/@data/part", "").is_whole());
        assert_eq!(mount("btrfs", "/@data", "subvolid=257").subvolume(), Some(257));
        assert_eq!(mount("btrfs", "/@data", "subvolid=").subvolume(), None);
    }
}
