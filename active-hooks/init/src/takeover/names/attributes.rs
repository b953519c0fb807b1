//! What a file has besides names and content.

use crate::{restore::inodes::times, sys::magic_path};
use rustix::{
    fs::{
        chmodat, chownat, fchmod, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, ioctl_getflags, utimensat,
        AtFlags, FileType, Gid, IFlags, Mode, Uid, XattrFlags, CWD,
    },
    io::Errno,
};
use shared_region::context::{Attribute, Node};
use std::os::fd::OwnedFd;

/// Sets owner, permissions, extended attributes and times. `readable` says that the descriptor is more than a path.
pub fn set(fd: &OwnedFd, node: &Node, readable: bool) -> Result<(), String> {
    let text = |what: &'static str| move |error: Errno| format!("{what}: {error}");
    // Of an immutable file nobody can have changed any.
    if readable && ioctl_getflags(fd).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE)) {
        return Ok(());
    }
    let there = fstat(fd).map_err(text("status"))?;
    // A change of the owner takes file capabilities away.
    if (there.st_uid, there.st_gid) != (node.uid, node.gid) {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(text("owner"))?;
    }
    if readable {
        if let Some(wanted) = &node.attributes {
            attributes(fd, wanted).map_err(text("extended attributes"))?;
        }
        // An access list changes it.
        fchmod(fd, Mode::from_raw_mode(node.mode & 0o7777)).map_err(text("permissions"))?;
    } else if FileType::from_raw_mode(node.mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(node.mode & 0o7777);
        chmodat(CWD, magic_path(fd), mode, AtFlags::empty()).map_err(text("permissions"))?;
    }
    utimensat(fd, c"", &times(node.times), AtFlags::EMPTY_PATH).map_err(text("times"))
}

/// Sets extended attributes, and takes those away that there are not to be.
fn attributes(fd: &OwnedFd, wanted: &[Attribute]) -> rustix::io::Result<()> {
    let mut room = vec![0; 64 << 10];
    let length = match flistxattr(fd, &mut room) {
        Err(Errno::OPNOTSUPP) if wanted.is_empty() => return Ok(()),
        other => other?,
    };
    let there = room[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    // XFS shows access lists by its own names as well.
    let there = there.filter(|name| !name.starts_with(b"trusted.SGI_ACL_"));
    for name in there {
        if !wanted.iter().any(|one| one.name == name) {
            fremovexattr(fd, name)?;
        }
    }
    for one in wanted {
        let mut value = vec![0; one.value.len() + 1];
        let is_there = fgetxattr(fd, one.name.as_slice(), &mut value).is_ok_and(|length| value[..length] == one.value);
        if !is_there {
            fsetxattr(fd, one.name.as_slice(), &one.value, XattrFlags::empty())?;
        }
    }
    Ok(())
}
