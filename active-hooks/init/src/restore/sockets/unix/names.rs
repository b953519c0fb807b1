//! Names of sockets of AF_UNIX.
//!
//! A name is what a program gave to `bind`, whatever its root and working directory were then. Where others may still connect
//! to it, it is bound so that the file comes where it was. Otherwise nobody looks at anything but the words: it is bound in a
//! file system of its own, which nobody sees.

use super::{name, raw};
use crate::restore::{OrRefuse, Refusal, Restored};
use rustix::{
    fs::{open, Mode, OFlags},
    mount::{fsconfig_create, fsmount, fsopen, FsMountFlags, FsOpenFlags, MountAttrFlags},
    process::{chroot, fchdir},
};
use shared_region::context::{SocketFile, UnixSocket};
use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{chown, FileTypeExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};

/// Bytes of a name, the NUL after a path included (`struct sockaddr_un`).
const LONGEST: usize = 108;

/// Where a bound socket is found.
#[derive(Debug, Default)]
pub struct Bound {
    /// The file of one that is bound to a path.
    file: Option<OwnedFd>,
}

impl Bound {
    /// The address by which it is found now.
    pub fn address(&self, name: &[u8]) -> Restored<Vec<u8>> {
        match &self.file {
            Some(file) => sockaddr(crate::sys::magic_path(file).as_bytes()),
            None if name.is_empty() => Err(Refusal::new("socket", "one without a name is not found")),
            None => sockaddr(name),
        }
    }
}

/// A file system that nobody sees, made when it is needed.
#[derive(Debug, Default)]
pub struct Scratch {
    root: Option<OwnedFd>,
}

impl Scratch {
    /// Binds a socket to its name.
    pub fn bind(&mut self, fd: &OwnedFd, unix: &UnixSocket) -> Restored<Bound> {
        if unix.name.first() == Some(&0) {
            raw::bind(fd, &sockaddr(&unix.name)?).or_refuse(|| name(&unix.name))?;
            return Ok(Bound::default());
        }
        let file = match &unix.file {
            Some(file) => in_place(fd, &unix.name, file),
            None => self.aside(fd, &unix.name),
        };
        let file = file.map_err(|refusal| Refusal::new(name(&unix.name), refusal))?;
        Ok(Bound { file: Some(file) })
    }

    fn aside(&mut self, fd: &OwnedFd, to: &[u8]) -> Restored<OwnedFd> {
        let root = match &self.root {
            Some(root) => root,
            None => self.root.insert(file_system().or_refuse(|| "a file system for names")?),
        };
        let address = sockaddr(to)?;
        within(root, || {
            let path = Path::new(OsStr::from_bytes(to));
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            raw::bind(fd, &address)?;
            Ok(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
        })
        .or_refuse(|| "its words")
    }
}

fn file_system() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

/// Does something with another root directory, which is also the working directory.
fn within<T>(root: &impl AsFd, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let (own_root, own_directory) = (open("/", flags, Mode::empty())?, open(".", flags, Mode::empty())?);
    fchdir(root)?;
    let result = match chroot(".") {
        Ok(()) => work(),
        Err(error) => Err(error.into()),
    };
    fchdir(&own_root)?;
    chroot(".")?;
    fchdir(&own_directory)?;
    result
}

/// Binds a socket so that its file comes where it was.
fn in_place(fd: &OwnedFd, to: &[u8], file: &SocketFile) -> Restored<OwnedFd> {
    let (words, path) = (
        Path::new(OsStr::from_bytes(to)),
        Path::new(OsStr::from_bytes(&file.path)),
    );
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(Refusal::new("file", "it is another one now")),
        Ok(_) => fs::remove_file(path).or_refuse(|| "what is left of it")?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).or_refuse(|| "file"),
    }
    let address = sockaddr(to)?;
    if leads_to(words, path) {
        raw::bind(fd, &address).or_refuse(|| "binding")?;
    } else {
        let from = seen_from(to, &file.path).ok_or_else(|| Refusal::new("file", "it was given another name"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(&from, flags, Mode::empty()).or_refuse(|| from.display().to_string())?;
        within(&directory, || raw::bind(fd, &address)).or_refuse(|| "binding")?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(file.mode)).or_refuse(|| "permissions")?;
    chown(path, Some(file.user), Some(file.group)).or_refuse(|| "owner")?;
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).or_refuse(|| "file")
}

/// Whether the words lead to this path from the root directory, by symbolic links perhaps.
fn leads_to(words: &Path, path: &Path) -> bool {
    let real = |path: &Path| path.parent().and_then(|parent| fs::canonicalize(parent).ok());
    let same = matches!((real(words), real(path)), (Some(one), Some(other)) if one == other);
    words.is_absolute() && words.file_name() == path.file_name() && same
}

/// The directory from which the words lead to this path, as root or working directory.
fn seen_from(words: &[u8], path: &[u8]) -> Option<PathBuf> {
    let mut words = words;
    while let Some(rest) = words.strip_prefix(b"./").or_else(|| words.strip_prefix(b"/")) {
        words = rest;
    }
    let up = words.split(|&byte| byte == b'/').any(|part| part == b"..");
    let above = path.strip_suffix(words)?.strip_suffix(b"/").filter(|_| !up)?;
    Some(OsStr::from_bytes(if above.is_empty() { b"/" } else { above }).into())
}

/// `struct sockaddr_un`.
pub fn sockaddr(path: &[u8]) -> Restored<Vec<u8>> {
    let end: &[u8] = if path.first() == Some(&0) { &[] } else { &[0] };
    // A path may fill all of it; the kernel adds the NUL.
    let end = if path.len() == LONGEST { &[] } else { end };
    if path.len() + end.len() > LONGEST {
        return Err(Refusal::new(name(path), "its name is too long"));
    }
    Ok([&(libc::AF_UNIX as u16).to_ne_bytes()[..], path, end].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_seen_from_where_they_were_given() {
        let seen = |words: &str, path: &str| seen_from(words.as_bytes(), path.as_bytes());
        assert_eq!(seen("a.sock", "/srv/x/a.sock"), Some("/srv/x".into()));
        assert_eq!(seen("./run/a.sock", "/srv/run/a.sock"), Some("/srv".into()));
        // After chroot.
        assert_eq!(seen("/run/a.sock", "/srv/run/a.sock"), Some("/srv".into()));
        assert_eq!(seen("a.sock", "/a.sock"), Some("/".into()));
        // Renamed, and named in a way that cannot be followed.
        assert_eq!(seen("a.sock", "/srv/b.sock"), None);
        assert_eq!(seen("a.sock", "/srv/xa.sock"), None);
        assert_eq!(seen("../a.sock", "/srv/../a.sock"), None);
    }

    #[test]
    fn addresses_are_as_the_kernel_has_them() {
        assert_eq!(sockaddr(b"/a").unwrap(), [1, 0, b'/', b'a', 0]);
        assert_eq!(sockaddr(b"\0a").unwrap(), [1, 0, 0, b'a']);
        assert_eq!(sockaddr(&[b'a'; 108]).unwrap().len(), 110);
        assert!(sockaddr(&[b'a'; 109]).is_err());
    }
}
