//! Calls of System V IPC.

use super::check;
use std::{io, ptr};

/// `struct ipc64_perm` in `semid64_ds` and `msqid64_ds` (include/uapi/asm-generic/ipcbuf.h): what `IPC_SET` reads.
fn permissions(perm: &mut libc::ipc_perm, uid: u32, gid: u32, mode: u32) {
    perm.uid = uid;
    perm.gid = gid;
    perm.mode = mode as _;
}

/// Makes a set of semaphores, which must not be there yet.
///
/// # Errors
/// As `semget`.
pub fn make_semaphores(key: i32, count: usize, mode: u32) -> io::Result<i32> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | mode as i32;
    // SAFETY: takes integers.
    check(unsafe { libc::semget(key, count as i32, flags) }.into()).map(|id| id as i32)
}

/// Sets the value of every semaphore of a set.
///
/// # Errors
/// As `semctl`.
pub fn set_semaphores(id: i32, values: &[u16]) -> io::Result<()> {
    // SAFETY: SETALL reads as many values as the set has semaphores; the caller made it with so many.
    check(unsafe { libc::semctl(id, 0, libc::SETALL, values.as_ptr()) }.into()).map(drop)
}

/// Gives a set to its owner.
///
/// # Errors
/// As `semctl`.
pub fn own_semaphores(id: i32, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    // SAFETY: (1) all zeros are a valid `semid_ds`; (2) IPC_SET reads one.
    unsafe {
        let mut description: libc::semid_ds = std::mem::zeroed();
        permissions(&mut description.sem_perm, uid, gid, mode);
        check(libc::semctl(id, 0, libc::IPC_SET, &raw mut description).into()).map(drop)
    }
}

/// Makes a message queue, which must not be there yet.
///
/// # Errors
/// As `msgget`.
pub fn make_queue(key: i32, mode: u32) -> io::Result<i32> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | mode as i32;
    // SAFETY: takes integers.
    check(unsafe { libc::msgget(key, flags) }.into()).map(|id| id as i32)
}

/// Gives a queue to its owner, and sets the most bytes it may hold.
///
/// # Errors
/// As `msgctl`.
pub fn own_queue(id: i32, uid: u32, gid: u32, mode: u32, limit: u64) -> io::Result<()> {
    // SAFETY: (1) all zeros are a valid `msqid_ds`; (2) IPC_SET reads one.
    unsafe {
        let mut description: libc::msqid_ds = std::mem::zeroed();
        permissions(&mut description.msg_perm, uid, gid, mode);
        description.msg_qbytes = limit;
        check(libc::msgctl(id, libc::IPC_SET, &raw mut description).into()).map(drop)
    }
}

/// Puts a message into a queue, without waiting.
///
/// # Errors
/// As `msgsnd`.
pub fn send(id: i32, kind: i64, text: &[u8]) -> io::Result<()> {
    let message = [&kind.to_le_bytes(), text].concat();
    // SAFETY: a message is its type and the text, whose length is given.
    let sent = unsafe { libc::msgsnd(id, message.as_ptr().cast(), text.len(), libc::IPC_NOWAIT) };
    check(sent.into()).map(drop)
}

/// Takes away what [`make_semaphores`] made.
pub fn remove_semaphores(id: i32) {
    // SAFETY: IPC_RMID reads nothing.
    unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
}

/// Takes away what [`make_queue`] made.
pub fn remove_queue(id: i32) {
    // SAFETY: IPC_RMID reads nothing.
    unsafe { libc::msgctl(id, libc::IPC_RMID, ptr::null_mut()) };
}

/// Effective user and group of this thread.
///
/// # Errors
/// As `setresuid` and `setresgid`.
pub fn act_as(uid: u32, gid: u32) -> io::Result<()> {
    const SAME: u32 = u32::MAX;
    // SAFETY: takes integers. The real and the saved id stay root's, who alone may change the group.
    unsafe {
        check(libc::syscall(libc::SYS_setresuid, SAME, 0, SAME))?;
        check(libc::syscall(libc::SYS_setresgid, SAME, gid, SAME))?;
        check(libc::syscall(libc::SYS_setresuid, SAME, uid, SAME)).map(drop)
    }
}
