//! Calls of System V IPC, and of POSIX message queues.

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

/// Makes a segment of shared memory, which must not be there yet.
///
/// # Errors
/// As `shmget`.
pub fn make_segment(key: i32, size: u64, mode: u32) -> io::Result<i32> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | mode as i32;
    // SAFETY: takes integers.
    check(unsafe { libc::shmget(key, size as usize, flags) }.into()).map(|id| id as i32)
}

/// Gives a segment to its owner.
///
/// # Errors
/// As `shmctl`.
pub fn own_segment(id: i32, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    // SAFETY: (1) all zeros are a valid `shmid_ds`; (2) IPC_SET reads one.
    unsafe {
        let mut description: libc::shmid_ds = std::mem::zeroed();
        permissions(&mut description.shm_perm, uid, gid, mode);
        check(libc::shmctl(id, libc::IPC_SET, &raw mut description).into()).map(drop)
    }
}

/// Keeps a segment in memory.
///
/// # Errors
/// As `shmctl`.
pub fn lock_segment(id: i32) -> io::Result<()> {
    // SAFETY: SHM_LOCK reads nothing.
    check(unsafe { libc::shmctl(id, libc::SHM_LOCK, ptr::null_mut()) }.into()).map(drop)
}

/// Opens a segment as the file that it is.
///
/// # Errors
/// As `shmat` and `open`.
pub fn open_segment(id: i32, size: u64) -> io::Result<std::os::fd::OwnedFd> {
    const PAGE: usize = 4096;
    let length = (size as usize).next_multiple_of(PAGE);
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory of this process.
    let at = unsafe { libc::shmat(id, ptr::null(), 0) };
    if at as isize == -1 {
        return Err(io::Error::last_os_error());
    }
    let opened = super::open_mapped(at as usize, at as usize + length);
    // SAFETY: attached above, and nothing refers to it.
    check(unsafe { libc::shmdt(at) }.into())?;
    opened
}

/// Takes away what [`make_segment`] made, once nobody has it attached.
pub fn remove_segment(id: i32) {
    // SAFETY: IPC_RMID reads nothing.
    unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
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

/// Makes a POSIX message queue, which must not be there yet. `limits`: most messages, most bytes of one.
///
/// # Errors
/// As `mq_open`.
pub fn make_posix_queue(name: &std::ffi::CStr, mode: u32, limits: (u64, u64)) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // `struct mq_attr`: flags, limits, number of messages, and what is reserved.
    let attributes = [0, limits.0, limits.1, 0, 0, 0, 0, 0];
    // SAFETY: (1) name and attributes are valid for the whole call; (2) a descriptor that it returns belongs to nobody else.
    unsafe {
        let result = libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, mode, attributes.as_ptr());
        check(result).map(|fd| std::os::fd::OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Opens a POSIX message queue. The kernel keeps `O_CLOEXEC` among the flags of the open file.
///
/// # Errors
/// As `mq_open`.
pub fn open_posix_queue(name: &std::ffi::CStr, flags: i32) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    let flags = flags & (libc::O_ACCMODE | libc::O_NONBLOCK | libc::O_CLOEXEC);
    // SAFETY: (1) the name is valid for the whole call; (2) a descriptor that it returns belongs to nobody else.
    unsafe {
        let result = libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0, ptr::null::<libc::mq_attr>());
        check(result).map(|fd| std::os::fd::OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Puts a message into a POSIX message queue, without waiting.
///
/// # Errors
/// As `mq_send`.
pub fn send_posix(fd: &std::os::fd::OwnedFd, priority: u32, text: &[u8]) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let no_timeout = 0usize;
    // SAFETY: the text is valid for the whole call, and its length is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mq_timedsend,
            fd.as_raw_fd(),
            text.as_ptr(),
            text.len(),
            priority,
            no_timeout,
        )
    };
    check(result).map(drop)
}

/// Takes the name of a POSIX message queue away.
///
/// # Errors
/// As `mq_unlink`.
pub fn remove_posix_queue(name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: the name is valid for the whole call.
    check(unsafe { libc::syscall(libc::SYS_mq_unlink, name.as_ptr()) }).map(drop)
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
