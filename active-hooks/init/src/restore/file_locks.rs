//! Locks on files, taken again by a process that holds them. After every descriptor has its place: a table loses its locks
//! on a file when it closes any descriptor of it.

use super::{
    batch::{Arg, Batch},
    descriptors::Done,
    world::World,
    Restored,
};
use shared_region::context::{FileLock, FileLockKind, FileTable, Id};
use std::collections::BTreeSet;

/// `F_OFD_SETLK` (include/uapi/asm-generic/fcntl.h).
const F_OFD_SETLK: i32 = 37;

/// Takes the locks of a table, `id`, and those of its open files that nobody has taken yet.
pub fn lock(batch: &mut Batch<'_>, id: Id, table: &FileTable, world: &World, done: &mut Done) -> Restored<()> {
    let mut seen = BTreeSet::new();
    for &(fd, file, _) in &table.descriptors {
        let Some(held) = world.locks.get(&file).filter(|_| seen.insert(file)) else {
            continue;
        };
        let first = done.locks.insert(file);
        for locks in held {
            if locks.table == id || locks.table == 0 && first {
                locks.locks.iter().try_for_each(|lock| take(batch, fd, lock))?;
            }
        }
    }
    Ok(())
}

/// One lock, without waiting: whoever had it is not there any more.
fn take(batch: &mut Batch<'_>, fd: u32, lock: &FileLock) -> Restored<()> {
    let what = format!("lock on fd {fd}");
    let command = match lock.kind {
        FileLockKind::Flock => {
            let operation = if lock.exclusive { libc::LOCK_EX } else { libc::LOCK_SH };
            return batch.call(what, libc::SYS_flock, [fd.into(), (operation | libc::LOCK_NB).into()]);
        }
        FileLockKind::Lease => {
            let kind = if lock.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
            return batch.call(what, libc::SYS_fcntl, [fd.into(), libc::F_SETLEASE.into(), kind.into()]);
        }
        FileLockKind::Posix => libc::F_SETLK,
        FileLockKind::OpenFile => F_OFD_SETLK,
    };
    batch.call(
        what,
        libc::SYS_fcntl,
        [fd.into(), command.into(), Arg::Bytes(&description(lock))],
    )
}

/// `struct flock` (include/uapi/asm-generic/fcntl.h).
fn description(lock: &FileLock) -> [u8; 32] {
    let kind = if lock.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&(kind as i16).to_le_bytes());
    bytes[2..4].copy_from_slice(&(libc::SEEK_SET as i16).to_le_bytes());
    bytes[8..16].copy_from_slice(&lock.start.to_le_bytes());
    bytes[16..24].copy_from_slice(&lock.length.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_described_as_the_kernel_reads_it() {
        let lock = FileLock {
            kind: FileLockKind::Posix,
            exclusive: true,
            start: 0x1122,
            length: 7,
        };
        let bytes = description(&lock);
        assert_eq!(bytes.len(), size_of::<libc::flock>());
        assert_eq!(bytes[..4], [1, 0, 0, 0]);
        assert_eq!((bytes[8], bytes[9], bytes[16], bytes[24]), (0x22, 0x11, 7, 0));
    }
}
