//! What the region said at one moment, copied out of it.

use crate::standby::Standby;
use anyhow::{Context, Result};
use orthros_device::{Device, DeviceError};
use shared_region::control::ControlWords;
use shared_region::facts::{Facts, FactsError};
use shared_region::header::{Header, HeaderError};
use shared_region::layout::{self, Part};
use shared_region::protect::{self, ProtectEntry, ProtectTable};
use shared_region::record::{StreamHeader, MAGIC, STREAM_HEADER};
use shared_region::timeline::{Event, EVENTS};
use std::mem::offset_of;
use zerocopy::FromBytes;

/// Where the parts of the region come from: the device, or bytes in tests.
pub trait Source {
    /// As many bytes of a part as `limit` allows.
    fn copy(&self, part: Part, limit: usize) -> Vec<u8>;
}

impl Source for orthros_device::Region {
    fn copy(&self, part: Part, limit: usize) -> Vec<u8> {
        Self::copy(self, part, limit)
    }
}

/// The control words and timeline as plain numbers, and the parts that are small.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The header page.
    pub header: Result<Header, HeaderError>,
    control: Vec<u8>,
    timeline: Vec<u8>,
    /// What has become of the standby.
    pub standby: Standby,
    /// What the module told.
    pub facts: Result<Facts, FactsError>,
    /// Entries in use.
    pub protected: Vec<ProtectEntry>,
    /// `uname -r` of the kernel that takes over next, if it is known.
    pub next_release: Option<String>,
}

/// The control word of a field.
macro_rules! control {
    ($snapshot:expr, $field:ident) => {
        $snapshot.word(std::mem::offset_of!(shared_region::control::ControlWords, $field))
    };
}
pub(crate) use control;

impl Snapshot {
    /// Copies the parts.
    pub fn take(source: &impl Source) -> Self {
        let whole = |part: Part| source.copy(part, part.size as usize);
        let table = source.copy(layout::PROTECT, size_of::<ProtectTable>());
        Self {
            header: Header::parse(&whole(layout::HEADER)),
            control: source.copy(layout::CONTROL, size_of::<ControlWords>()),
            timeline: source.copy(layout::TIMELINE, 8 * EVENTS.len()),
            standby: Standby::read(source),
            facts: Facts::parse(&source.copy(layout::FACTS, size_of::<Facts>())),
            protected: ProtectTable::read_from_prefix(&table)
                .map(|(table, _)| table.entries.to_vec())
                .unwrap_or_default()
                .into_iter()
                .filter(|entry| entry.kind != protect::kind::FREE)
                .collect(),
            next_release: crate::stage::slots::next_release(source),
        }
    }

    /// A control word by its offset; see [`control!`].
    pub fn word(&self, offset: usize) -> u64 {
        word(&self.control, offset / 8)
    }

    /// The time-stamp counter at an event, 0 if it has not happened.
    pub fn event(&self, event: Event) -> u64 {
        word(&self.timeline, event as usize)
    }

    /// Failovers since the machine was started.
    pub fn failovers(&self) -> u64 {
        self.word(offset_of!(ControlWords, failover_count))
    }

    /// Whether a process is protected by its id or name.
    pub fn protects(&self, pid: u32, comm: &str) -> bool {
        self.protected.iter().any(|entry| match entry.kind {
            protect::kind::PROCESS => entry.tgid == u64::from(pid),
            protect::kind::COMM => comm_of(entry) == comm,
            _ => false,
        })
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    bytes
        .get(index * 8..index * 8 + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// The name in an entry.
pub fn comm_of(entry: &ProtectEntry) -> String {
    let end = entry
        .comm
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(entry.comm.len());
    String::from_utf8_lossy(&entry.comm[..end]).into_owned()
}

/// Copies the record stream of a part: no more than its header says it has.
pub fn stream(source: &impl Source, part: Part) -> Vec<u8> {
    let head = source.copy(part, STREAM_HEADER);
    let length = match StreamHeader::read_from_prefix(&head) {
        Ok((header, _)) if header.magic == MAGIC => header.length,
        _ => 0,
    };
    let wanted = usize::try_from(length)
        .unwrap_or(usize::MAX)
        .saturating_add(STREAM_HEADER);
    source.copy(part, wanted.min(part.size as usize))
}

/// Opens the device, with the way out in the error.
pub fn open_device() -> Result<Device> {
    Device::open().map_err(|error| {
        let hint = match (&error, error.errno()) {
            (DeviceError::Open(_), Some(libc_errno::EACCES | libc_errno::EPERM)) => {
                "Orthros can be looked at and controlled by root only: run this as root, or with sudo"
            }
            (DeviceError::Open(_), Some(libc_errno::ENOENT | libc_errno::ENXIO | libc_errno::ENODEV)) => {
                "the kernel module is not loaded: `modprobe orthros`. It refuses to load on a machine that was not \
                 started through the Orthros loader; `dmesg` says why, `orthros-ctl check-machine` what to do"
            }
            _ => return anyhow::Error::new(error),
        };
        let error = std::io::Error::from_raw_os_error(error.errno().unwrap_or_default());
        anyhow::anyhow!("{}: {error}\n{hint}", shared_region::device::PATH)
    })
}

/// Opens the device and maps the region.
pub fn open_region() -> Result<(Device, orthros_device::Region)> {
    let device = open_device()?;
    let region = device.region().context("the region")?;
    Ok((device, region))
}

/// errno values of x86_64 Linux (include/uapi/asm-generic/errno-base.h).
pub mod libc_errno {
    /// Operation not permitted.
    pub const EPERM: i32 = 1;
    /// No such file.
    pub const ENOENT: i32 = 2;
    /// No such process.
    pub const ESRCH: i32 = 3;
    /// No such device or address.
    pub const ENXIO: i32 = 6;
    /// Device or resource busy.
    pub const EBUSY: i32 = 16;
    /// Permission denied.
    pub const EACCES: i32 = 13;
    /// Try again.
    pub const EAGAIN: i32 = 11;
    /// Exists.
    pub const EEXIST: i32 = 17;
    /// No such device.
    pub const ENODEV: i32 = 19;
    /// Took too long.
    pub const ETIMEDOUT: i32 = 110;
    /// No space left.
    pub const ENOSPC: i32 = 28;
}

#[cfg(test)]
pub mod fake {
    //! A region in memory.

    use super::*;
    use shared_region::header::{self, MemoryRange};
    use shared_region::{facts, ABI_VERSION};
    use std::collections::HashMap;
    use zerocopy::{FromZeros, IntoBytes};

    /// Parts by their offset.
    #[derive(Default)]
    pub struct Fake(pub HashMap<u64, Vec<u8>>);

    impl Source for Fake {
        fn copy(&self, part: Part, limit: usize) -> Vec<u8> {
            let mut bytes = self.0.get(&part.offset).cloned().unwrap_or_default();
            bytes.resize((part.size as usize).min(limit), 0);
            bytes
        }
    }

    impl Fake {
        /// A healthy machine of 2 GB with three CPUs for Linux, armed.
        pub fn armed() -> Self {
            let mut header = Header::new_zeroed();
            header.magic = header::MAGIC;
            header.abi_version = ABI_VERSION;
            header.base = 0x6800_0000;
            header.size = layout::REGION_SIZE;
            header.nursery = [0x5800_0000, 0x4800_0000];
            header.reserved_apic_id = 3;
            header.tsc_hz = 1_000_000_000;
            header.cpu_count = 3;
            header.cpus[..3].copy_from_slice(&[0, 1, 2]);
            header.ram_count = 1;
            header.ram[0] = MemoryRange {
                start: 0x10_0000,
                end: 0x7FFE_0000,
                kind: 1,
            };
            header.digest = header.compute_digest();
            let mut facts = Facts::new_zeroed();
            facts.magic = facts::MAGIC;
            facts.abi_version = ABI_VERSION;
            facts.size = size_of::<Facts>() as u32;
            facts.release[..6].copy_from_slice(b"6.1.0\0");
            facts.root_table_phys = 0x200_0000;
            facts.vmcoreinfo_len = 100;
            facts.nr_cpu_ids = 3;
            facts.xsave_size = 832;
            let mut fake = Self::default();
            fake.0.insert(layout::HEADER.offset, header.as_bytes().to_vec());
            fake.0.insert(layout::FACTS.offset, facts.as_bytes().to_vec());
            fake.set_control(offset_of!(ControlWords, watch_state), 2);
            fake.set_control(offset_of!(ControlWords, watcher_looks), 4711);
            fake.set_control(offset_of!(ControlWords, module_abi), u64::from(ABI_VERSION));
            fake
        }

        /// Sets a control word.
        pub fn set_control(&mut self, offset: usize, value: u64) {
            self.set_word(layout::CONTROL, offset / 8, value);
        }

        /// Sets a word of a part.
        pub fn set_word(&mut self, part: Part, index: usize, value: u64) {
            let bytes = self.0.entry(part.offset).or_default();
            if bytes.len() < index * 8 + 8 {
                bytes.resize(index * 8 + 8, 0);
            }
            bytes[index * 8..index * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }

        /// Protects something.
        pub fn protect(&mut self, index: usize, entry: ProtectEntry) {
            let start = 8 + index * size_of::<ProtectEntry>();
            let bytes = self.0.entry(layout::PROTECT.offset).or_default();
            bytes.resize(bytes.len().max(start + size_of::<ProtectEntry>()), 0);
            bytes[start..start + size_of::<ProtectEntry>()].copy_from_slice(entry.as_bytes());
        }
    }
}
