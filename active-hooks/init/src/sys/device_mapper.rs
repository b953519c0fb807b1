//! Requests to the device mapper (`include/uapi/linux/dm-ioctl.h`).

use super::check;
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Where requests are made.
const CONTROL: &str = "/dev/mapper/control";
/// The interface's version since Linux 2.6.
const VERSION: [u32; 3] = [4, 0, 0];
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
/// Without a flag: resume.
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;
/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;

/// `struct dm_ioctl`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Spec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

const _: () = assert!(size_of::<Head>() == 312 && size_of::<Spec>() == 40);

/// A part of a device, in sectors of 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins.
    pub start: u64,
    /// Its length.
    pub sectors: u64,
    /// Sectors on one device before it is the next one's turn; 0 if there is one alone.
    pub chunk: u64,
    /// The devices (`dev_t`), and the first sector on each.
    pub on: Vec<(u64, u64)>,
}

impl Part {
    /// Kind and parameters, as the kernel reads them (Documentation/admin-guide/device-mapper/{linear,striped}.rst).
    fn text(&self) -> (&'static [u8], String) {
        let places = self.on.iter();
        let places = places.map(|&(on, from)| format!(" {}:{} {from}", libc::major(on), libc::minor(on)));
        let places: String = places.collect();
        match self.chunk {
            0 => (b"linear", format!("{}\0", places.trim_start())),
            chunk => (b"striped", format!("{} {chunk}{places}\0", self.on.len())),
        }
    }
}

/// Makes a device, and returns its number (`dev_t`). What is half made goes away again.
///
/// # Errors
/// As `ioctl`; `InvalidInput` if a name is too long.
pub fn create(name: &[u8], uuid: &[u8], parts: &[Part], is_read_only: bool) -> io::Result<u64> {
    let control = File::options().read(true).write(true).open(CONTROL)?;
    let mut head = Head {
        version: VERSION,
        ..Head::new_zeroed()
    };
    // The last byte ends a name.
    let room = head.name.len() - 1;
    copy(&mut head.name[..room], name)?;
    let mut made = head;
    let room = made.uuid.len() - 1;
    copy(&mut made.uuid[..room], uuid)?;
    let number = request(&control, DEV_CREATE, made, &[])?.dev;
    let table = Head {
        flags: if is_read_only { READ_ONLY } else { 0 },
        target_count: parts.len() as u32,
        ..head
    };
    let filled = request(&control, TABLE_LOAD, table, &specs(parts)).and_then(|_| {
        let flags = table.flags;
        request(&control, DEV_SUSPEND, Head { flags, ..head }, &[])
    });
    match filled {
        Ok(_) => Ok(number),
        Err(error) => {
            let _ = request(&control, DEV_REMOVE, head, &[]);
            Err(error)
        }
    }
}

fn copy(to: &mut [u8], from: &[u8]) -> io::Result<()> {
    let to = to.get_mut(..from.len()).ok_or(io::ErrorKind::InvalidInput)?;
    to.copy_from_slice(from);
    Ok(())
}

/// A table as the kernel reads it: each part with its parameters as text behind it.
fn specs(parts: &[Part]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let (kind, parameters) = part.text();
        let length = (size_of::<Spec>() + parameters.len()).next_multiple_of(8);
        let mut target_type = [0; 16];
        target_type[..kind.len()].copy_from_slice(kind);
        let spec = Spec {
            sector_start: part.start,
            length: part.sectors,
            status: 0,
            next: length as u32,
            target_type,
        };
        let end = bytes.len() + length;
        bytes.extend(spec.as_bytes());
        bytes.extend(parameters.as_bytes());
        bytes.resize(end, 0);
    }
    bytes
}

fn request(control: &impl AsFd, number: u8, mut head: Head, payload: &[u8]) -> io::Result<Head> {
    // Some requests answer more than they were told.
    let mut bytes = vec![0; size_of::<Head>() + payload.len().max(512)];
    head.data_size = bytes.len() as u32;
    head.data_start = size_of::<Head>() as u32;
    bytes[..size_of::<Head>()].copy_from_slice(head.as_bytes());
    bytes[size_of::<Head>()..][..payload.len()].copy_from_slice(payload);
    // _IOWR(0xFD, number, struct dm_ioctl).
    let code = 3 << 30 | (size_of::<Head>() as u64) << 16 | 0xFD << 8 | u64::from(number);
    // SAFETY: the kernel reads and writes `data_size` bytes from the pointer on, which is the buffer's length.
    check(unsafe { libc::ioctl(control.as_fd().as_raw_fd(), code as _, bytes.as_mut_ptr()) }.into())?;
    let (answer, _) = Head::read_from_prefix(&bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_a_list_of_parts_with_text() {
        let part = |start, chunk, on: &[u64]| Part {
            start,
            sectors: 100,
            chunk,
            on: on.iter().map(|&from| (libc::makedev(254, 16), from)).collect(),
        };
        let bytes = specs(&[part(0, 0, &[2048]), part(100, 128, &[123_456_789, 8])]);
        let next = u32::from_le_bytes(bytes[20..24].try_into().unwrap()) as usize;
        assert_eq!(next % 8, 0);
        assert_eq!(&bytes[24..30], b"linear");
        assert!(bytes[40..].starts_with(b"254:16 2048\0"));
        let second = &bytes[next..];
        assert_eq!(u64::from_le_bytes(second[..8].try_into().unwrap()), 100);
        assert_eq!(&second[24..31], b"striped");
        assert!(second[40..].starts_with(b"2 128 254:16 123456789 254:16 8\0"));
        assert_eq!(
            u32::from_le_bytes(second[20..24].try_into().unwrap()) as usize,
            second.len()
        );
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let mut room = [0; 4];
        assert!(copy(&mut room, b"long").is_ok());
        assert!(copy(&mut room, b"longer").is_err());
    }
}
