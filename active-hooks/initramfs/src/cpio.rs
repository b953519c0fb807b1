//! A cpio archive in the `newc` format that Linux unpacks as its initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use crate::InitramfsError;

const MAGIC: &[u8] = b"070701";
/// The same with checksums, which nobody looks at.
const MAGIC_CRC: &[u8] = b"070702";
/// Bytes before the name: the magic and thirteen numbers of eight hexadecimal digits.
const HEADER: usize = 6 + 13 * 8;
/// Name of the last entry.
const TRAILER: &str = "TRAILER!!!";

/// An archive being written.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

impl Archive {
    /// Adds a directory; parents must have been added before.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file with the given permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), to.as_bytes());
    }

    /// Adds a character device, readable and writable by root only.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER | 0o600, (major, minor), &[]);
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // inode mode uid gid links mtime size, device (2), rdev (2), name size, checksum.
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Names and contents both end on a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// An entry that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its path, without a leading `/` or `./`.
    pub path: &'a str,
    /// What is in it.
    pub content: &'a [u8],
}

/// Reads the entry at the start, and says where the next one begins.
fn entry(bytes: &[u8]) -> Result<(Entry<'_>, usize), InitramfsError> {
    let short = |what: &str| InitramfsError::Short(format!("it ends in {what}"));
    let magic = bytes.get(..MAGIC.len()).ok_or_else(|| short("a header"))?;
    if magic != MAGIC && magic != MAGIC_CRC {
        return Err(InitramfsError::Malformed("no cpio header where one has to be".into()));
    }
    let header = bytes.get(..HEADER).ok_or_else(|| short("a header"))?;
    let number = |index: usize| {
        let at = MAGIC.len() + 8 * index;
        std::str::from_utf8(&header[at..at + 8])
            .ok()
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .ok_or_else(|| InitramfsError::Malformed("a number in a cpio header is none".into()))
    };
    let (size, name_size) = (number(6)?, number(11)?);
    let name = bytes.get(HEADER..HEADER + name_size).ok_or_else(|| short("a name"))?;
    let path = std::str::from_utf8(name.strip_suffix(b"\0").unwrap_or(name))
        .map_err(|_| InitramfsError::Malformed("a name is no text".into()))?;
    let start = (HEADER + name_size).next_multiple_of(4);
    let content = bytes
        .get(start..start + size)
        .ok_or_else(|| short(&format!("the contents of {path}")))?;
    let path = path.trim_start_matches("./").trim_start_matches('/');
    Ok((Entry { path, content }, (start + size).next_multiple_of(4)))
}

/// Bytes of the archive at the start, its end included.
///
/// # Errors
/// It has no end.
pub fn length(bytes: &[u8]) -> Result<usize, InitramfsError> {
    let mut at = 0;
    loop {
        let (entry, size) = entry(bytes.get(at..).unwrap_or_default())?;
        at += size;
        if entry.path == TRAILER {
            return Ok(at.min(bytes.len()));
        }
    }
}

/// The entries of archives that follow each other, with zeros between them or not.
///
/// # Errors
/// One of them has no end, or there is none.
pub fn entries(bytes: &[u8]) -> Result<Vec<Entry<'_>>, InitramfsError> {
    let mut found = Vec::new();
    let (mut at, mut ended) = (0, false);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if ended && rest.iter().all(|&byte| byte == 0) {
            return Ok(found);
        }
        if ended {
            at += rest.iter().take_while(|&&byte| byte == 0).count();
        }
        let (entry, size) = entry(bytes.get(at..).unwrap_or_default())?;
        at += size;
        ended = entry.path == TRAILER;
        if !ended {
            found.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn what_was_written_is_read_back() {
        let mut archive = Archive::default();
        archive.directory("dir");
        archive.file("dir/five", 0o755, b"12345");
        let mut bytes = archive.finish();
        assert_eq!(length(&bytes).unwrap(), bytes.len());
        bytes.resize(bytes.len() + 512, 0);
        bytes.extend_from_slice(&Archive::default().finish());
        let entries = entries(&bytes).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[1].path, entries[1].content), ("dir/five", &b"12345"[..]));
    }

    #[test]
    fn cpio_reads_it_back() {
        let mut archive = Archive::default();
        archive.directory("dir");
        archive.file("dir/five", 0o755, b"12345");
        archive.link("dir/link", "five");
        let mut cpio = Command::new("cpio")
            .args(["-tv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let listing = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 3, "{listing}");
        assert!(
            lines[1].starts_with("-rwxr-xr-x") && lines[1].contains(" 5 "),
            "{listing}"
        );
        assert!(lines[2].ends_with("dir/link -> five"), "{listing}");
    }
}
