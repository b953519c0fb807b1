//! System V semaphores, message queues and shared memory.

use super::{check, errno};
use anyhow::Result;

/// Makes a private set of semaphores.
pub fn semget(key: i32, count: i32) -> Result<i64> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o640;
    // SAFETY: takes integers.
    check("semget", unsafe { libc::syscall(libc::SYS_semget, key, count, flags) })
}

/// `semctl` with a command that takes and gives integers.
pub fn semctl(id: i64, index: i32, command: i32, value: i64) -> Result<i64> {
    // SAFETY: the callers' commands take no pointer.
    check("semctl", unsafe {
        libc::syscall(libc::SYS_semctl, id, index, command, value)
    })
}

/// One operation on one semaphore, not restarted: errno, 0 for success.
pub fn semop(id: i64, index: u16, operation: i16, flags: i16) -> i32 {
    let mut one = libc::sembuf {
        sem_num: index,
        sem_op: operation,
        sem_flg: flags,
    };
    // SAFETY: one operation, valid for the whole call.
    errno(unsafe { libc::syscall(libc::SYS_semop, id, &raw mut one, 1) })
}

/// Owner, creator, permissions and key of a set, or of a queue.
pub fn permissions(id: i64, queue: bool) -> Result<[u32; 6]> {
    // SAFETY: (1) all zeros are valid for both; (2) IPC_STAT fills one.
    let perm = unsafe {
        if queue {
            let mut description: libc::msqid_ds = std::mem::zeroed();
            let ret = libc::syscall(libc::SYS_msgctl, id, libc::IPC_STAT, &raw mut description);
            check("msgctl", ret)?;
            description.msg_perm
        } else {
            let mut description: libc::semid_ds = std::mem::zeroed();
            let ret = libc::syscall(libc::SYS_semctl, id, 0, libc::IPC_STAT, &raw mut description);
            check("semctl", ret)?;
            description.sem_perm
        }
    };
    Ok([
        perm.uid,
        perm.gid,
        perm.cuid,
        perm.cgid,
        u32::from(perm.mode),
        perm.__key as u32,
    ])
}

/// Makes a message queue.
pub fn msgget(key: i32) -> Result<i64> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o620;
    // SAFETY: takes integers.
    check("msgget", unsafe { libc::syscall(libc::SYS_msgget, key, flags) })
}

/// Sends a message.
pub fn msgsnd(id: i64, kind: i64, text: &[u8]) -> Result<()> {
    let message = [&kind.to_le_bytes(), text].concat();
    // SAFETY: a message is its type and the text, whose length is given.
    let ret = unsafe { libc::syscall(libc::SYS_msgsnd, id, message.as_ptr(), text.len(), 0) };
    check("msgsnd", ret).map(drop)
}

/// Takes the first message of a type, or any for 0: its type and text. Errors carry the errno.
pub fn msgrcv(id: i64, kind: i64, flags: i32) -> Result<(i64, Vec<u8>), i32> {
    let mut message = vec![0; 16 << 10];
    // SAFETY: room for the type and the length that is given.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_msgrcv,
            id,
            message.as_mut_ptr(),
            message.len() - 8,
            kind,
            flags,
        )
    };
    match errno(ret) {
        0 => {
            let (head, text) = message.split_at(8);
            let kind = head.iter().rev().fold(0, |kind, &byte| kind << 8 | i64::from(byte));
            Ok((kind, text[..ret as usize].to_vec()))
        }
        errno => Err(errno),
    }
}

/// Takes a set or a queue away.
pub fn remove(id: i64, queue: bool) {
    // SAFETY: IPC_RMID reads nothing.
    unsafe {
        if queue {
            libc::syscall(libc::SYS_msgctl, id, libc::IPC_RMID, 0);
        } else {
            libc::syscall(libc::SYS_semctl, id, 0, libc::IPC_RMID);
        }
    }
}

/// Makes a segment of shared memory.
pub fn shmget(key: i32, bytes: usize) -> Result<i64> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o660;
    // SAFETY: takes integers.
    check("shmget", unsafe { libc::syscall(libc::SYS_shmget, key, bytes, flags) })
}

/// The segment with a key.
pub fn find_segment(key: i32) -> Result<i64> {
    // SAFETY: takes integers.
    check("shmget", unsafe { libc::syscall(libc::SYS_shmget, key, 0, 0) })
}

/// Owner, group, permissions (with SHM_DEST), bytes, and how many have it attached.
pub fn segment(id: i64) -> Result<[u64; 5]> {
    // SAFETY: (1) all zeros are valid; (2) IPC_STAT fills one.
    let description = unsafe {
        let mut description: libc::shmid_ds = std::mem::zeroed();
        let ret = libc::syscall(libc::SYS_shmctl, id, libc::IPC_STAT, &raw mut description);
        check("shmctl", ret)?;
        description
    };
    let perm = description.shm_perm;
    Ok([
        perm.uid.into(),
        perm.gid.into(),
        perm.mode.into(),
        description.shm_segsz as u64,
        description.shm_nattch,
    ])
}

/// Removes a segment once nobody has it attached.
pub fn remove_segment(id: i64) -> Result<()> {
    // SAFETY: IPC_RMID reads nothing.
    check("shmctl", unsafe {
        libc::syscall(libc::SYS_shmctl, id, libc::IPC_RMID, 0)
    })
    .map(drop)
}
