//! The operations: each is drawn from the seed and from what there is, so that whoever knows the seed and the number of
//! operations knows what all files have to be.

use crate::model::{Entry, Model};
use anyhow::{ensure, Context, Result};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Names of files, in each directory.
const FILES: u64 = 24;
/// Names of directories.
const DIRECTORIES: u64 = 8;
/// No file is longer, in bytes.
const LONGEST: usize = 160 << 10;
const ATTRIBUTE: &std::ffi::CStr = c"user.churn";

/// One operation. Offsets, lengths and sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Create {
        name: String,
        mode: u32,
    },
    Write {
        name: String,
        offset: usize,
        length: usize,
    },
    /// Through a shared mapping, within the file.
    Store {
        name: String,
        offset: usize,
        length: usize,
    },
    /// A hole.
    Punch {
        name: String,
        offset: usize,
        length: usize,
    },
    Truncate {
        name: String,
        size: usize,
    },
    Chmod {
        name: String,
        mode: u32,
    },
    SetAttribute {
        name: String,
        length: usize,
    },
    RemoveAttribute {
        name: String,
    },
    Sync {
        name: String,
    },
    /// Room behind the end of the file.
    Reserve {
        name: String,
        length: usize,
    },
    /// Of modification, in seconds since 1970.
    SetTime {
        name: String,
        seconds: i64,
    },
    Unlink {
        name: String,
    },
    MakeDirectory {
        name: String,
    },
    RemoveDirectory {
        name: String,
    },
    Link {
        from: String,
        to: String,
    },
    Symlink {
        name: String,
        target: String,
    },
    Rename {
        from: String,
        to: String,
    },
}

/// A sequence of numbers (xorshift64*).
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    fn size(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    /// A number below `end`, one time in four below `far`.
    fn mostly(&mut self, end: usize, far: usize) -> usize {
        let end = if self.below(4) == 0 { far } else { end };
        self.size(end)
    }
}

/// What operation `number` writes. No two operations write the same.
pub fn content(number: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(number.wrapping_add(7));
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        let word = random.below(u64::MAX) << 31 ^ random.below(u64::MAX);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(length);
    // A zero must not pass for a byte that was written.
    bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = 1);
    bytes
}

impl Op {
    /// The next operation that is possible.
    pub fn draw(model: &Model, random: &mut Random) -> Self {
        loop {
            let candidate = Self::candidate(model, random);
            let candidate = match model.plain {
                true => candidate.and_then(|op| op.on_plain(random)),
                false => candidate,
            };
            if let Some(op) = candidate {
                return op;
            }
        }
    }

    /// What there is of it, or instead of it, on a plain file system.
    fn on_plain(self, random: &mut Random) -> Option<Self> {
        Some(match self {
            Self::Create { name, .. } => Self::Create { name, mode: 0o755 },
            Self::Chmod { name, mode } => Self::Chmod {
                name,
                mode: if mode & 1 == 0 { 0o755 } else { 0o555 },
            },
            Self::Punch { name, length, .. } => Self::Reserve { name, length },
            // Even seconds, of the years from 1983 on.
            Self::SetAttribute { name, .. } => Self::SetTime {
                name,
                seconds: 410_227_200 + 2 * random.below(1 << 29) as i64,
            },
            Self::Link { .. } | Self::Symlink { .. } | Self::RemoveAttribute { .. } => return None,
            other => other,
        })
    }

    fn candidate(model: &Model, random: &mut Random) -> Option<Self> {
        let existing = |random: &mut Random| {
            let files: Vec<&String> = model
                .names
                .iter()
                .filter_map(|(name, entry)| matches!(entry, Entry::File(_)).then_some(name))
                .collect();
            (!files.is_empty()).then(|| files[random.size(files.len())].clone())
        };
        let free = |name: String| (!model.names.contains_key(&name)).then_some(name);
        Some(match random.below(100) {
            0..=15 => Self::Create {
                name: free(fresh(model, random))?,
                mode: 0o600 | random.below(0o200) as u32,
            },
            16..=30 => {
                let name = existing(random)?;
                let offset = model.file(&name)?.1.bytes.len();
                let length = 1 + random.mostly(2_000, 40_000);
                if offset + length > LONGEST {
                    return None;
                }
                Self::Write { name, offset, length }
            }
            31..=45 => {
                let name = existing(random)?;
                let offset = random.size(model.file(&name)?.1.bytes.len().max(1) + 9_000);
                let length = 1 + random.size(9_000);
                if offset + length > LONGEST {
                    return None;
                }
                Self::Write { name, offset, length }
            }
            46..=53 => {
                let (name, offset, length) = within(model, existing(random)?, random)?;
                Self::Store { name, offset, length }
            }
            54..=56 => {
                let (name, offset, length) = within(model, existing(random)?, random)?;
                Self::Punch { name, offset, length }
            }
            57..=62 => {
                let name = existing(random)?;
                let size = random.size(model.file(&name)?.1.bytes.len() + 5_000);
                if size > LONGEST {
                    return None;
                }
                Self::Truncate { name, size }
            }
            63..=74 => {
                let (from, to) = (existing(random)?, fresh(model, random));
                match model.names.get(&to) {
                    Some(Entry::Directory) => return None,
                    _ => Self::Rename { from, to },
                }
            }
            75..=82 => Self::Unlink {
                name: existing(random)?,
            },
            83..=85 => Self::MakeDirectory {
                name: free(directory(random))?,
            },
            86 => {
                let name = directory(random);
                let below = format!("{name}/");
                let used = model.names.keys().any(|name| name.starts_with(&below));
                match model.names.get(&name) {
                    Some(Entry::Directory) if !used => Self::RemoveDirectory { name },
                    _ => return None,
                }
            }
            87 => {
                let (from, to) = (directory(random), free(directory(random))?);
                match model.names.get(&from) {
                    Some(Entry::Directory) => Self::Rename { from, to },
                    _ => return None,
                }
            }
            88..=90 => Self::Link {
                from: existing(random)?,
                to: free(fresh(model, random))?,
            },
            91 => Self::Symlink {
                name: free(fresh(model, random))?,
                target: "x".repeat(1 + random.size(90)),
            },
            92..=94 => Self::Chmod {
                name: existing(random)?,
                mode: 0o600 | random.below(0o200) as u32,
            },
            95..=97 => Self::SetAttribute {
                name: existing(random)?,
                length: 1 + random.mostly(60, 700),
            },
            98 => {
                let name = existing(random)?;
                model.file(&name)?.1.attribute.as_ref()?;
                Self::RemoveAttribute { name }
            }
            _ if random.below(8) == 0 => Self::Sync {
                name: existing(random)?,
            },
            _ => return None,
        })
    }

    /// Carries it out as operation `number` below `root`.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn run(&self, number: u64, root: &Path, plain: bool) -> Result<()> {
        let at = |name: &str| root.join(name);
        let writable = |name: &str| OpenOptions::new().read(true).write(true).open(at(name));
        match self {
            Self::Create { name, mode } => {
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(at(name))?;
                // Whatever the umask is.
                if !plain {
                    file.set_permissions(fs::Permissions::from_mode(*mode))?;
                }
            }
            Self::Write { name, offset, length } => {
                writable(name)?.write_all_at(&content(number, *length), *offset as u64)?;
            }
            Self::Store { name, offset, length } => store(&writable(name)?, *offset, &content(number, *length))?,
            Self::Punch { name, offset, length } => {
                fallocate(&writable(name)?, libc::FALLOC_FL_PUNCH_HOLE, *offset, *length)?;
            }
            Self::Reserve { name, length } => {
                let file = writable(name)?;
                let size = file.metadata()?.len() as usize;
                fallocate(&file, 0, size, *length)?;
            }
            Self::SetTime { name, seconds } => {
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs());
                File::open(at(name))?.set_modified(time)?;
            }
            Self::Truncate { name, size } => writable(name)?.set_len(*size as u64)?,
            Self::Chmod { name, mode } => fs::set_permissions(at(name), fs::Permissions::from_mode(*mode))?,
            Self::SetAttribute { name, length } => {
                let (path, value) = (c_path(&at(name))?, content(number, *length));
                // SAFETY: both strings end with NUL, and `value` is as long as is said.
                let done =
                    unsafe { libc::setxattr(path.as_ptr(), ATTRIBUTE.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
                check("setxattr", done)?;
            }
            Self::RemoveAttribute { name } => {
                let path = c_path(&at(name))?;
                // SAFETY: both strings end with NUL.
                check("removexattr", unsafe {
                    libc::removexattr(path.as_ptr(), ATTRIBUTE.as_ptr())
                })?;
            }
            Self::Sync { name } => File::open(at(name))?.sync_all()?,
            Self::Unlink { name } => fs::remove_file(at(name))?,
            Self::MakeDirectory { name } => fs::create_dir(at(name))?,
            Self::RemoveDirectory { name } => fs::remove_dir(at(name))?,
            Self::Link { from, to } => fs::hard_link(at(from), at(to))?,
            Self::Symlink { name, target } => std::os::unix::fs::symlink(target, at(name))?,
            Self::Rename { from, to } => fs::rename(at(from), at(to))?,
        }
        Ok(())
    }
}

/// The attribute of a file.
///
/// # Errors
/// It cannot be read.
pub fn attribute(path: &Path) -> Result<Option<Vec<u8>>> {
    let (path, mut value) = (c_path(path)?, vec![0u8; 4096]);
    // SAFETY: both strings end with NUL, and `value` has as much room as is said.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            ATTRIBUTE.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    if length < 0 {
        let error = std::io::Error::last_os_error();
        // A plain file system has none at all.
        let is_none = matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP));
        ensure!(is_none, "getxattr: {error}");
        return Ok(None);
    }
    value.truncate(length as usize);
    Ok(Some(value))
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).context("a path without NUL")
}

/// `fallocate` that leaves the size.
fn fallocate(file: &File, mode: i32, offset: usize, length: usize) -> Result<()> {
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes integers; the descriptor is open for the whole call.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, length as i64) };
    check("fallocate", done)
}

fn check(call: &str, done: i32) -> Result<()> {
    ensure!(done == 0, "{call}: {}", std::io::Error::last_os_error());
    Ok(())
}

fn store(file: &File, offset: usize, bytes: &[u8]) -> Result<()> {
    let length = offset + bytes.len();
    // SAFETY: a new mapping at an address of the kernel's choice; that the file is so long was seen to by the caller.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    ensure!(at != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    // SAFETY: (1) mapped above and writable; (2) nobody else knows it; (3) within the mapping.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.cast::<u8>().add(offset), bytes.len()) };
    // SAFETY: mapped above, and nothing refers to it.
    check("munmap", unsafe { libc::munmap(at, length) })
}

/// Part of a file that is there.
fn within(model: &Model, name: String, random: &mut Random) -> Option<(String, usize, usize)> {
    let size = model.file(&name)?.1.bytes.len();
    if size == 0 {
        return None;
    }
    let offset = random.size(size);
    let length = 1 + random.size((size - offset).min(9_000));
    Some((name, offset, length))
}

fn directory(random: &mut Random) -> String {
    format!("d{}", random.below(DIRECTORIES))
}

/// A name that a file can have, used or not.
fn fresh(model: &Model, random: &mut Random) -> String {
    let name = format!("f{}", random.below(FILES));
    let directory = directory(random);
    match model.names.get(&directory) {
        Some(Entry::Directory) => format!("{directory}/{name}"),
        _ => name,
    }
}
