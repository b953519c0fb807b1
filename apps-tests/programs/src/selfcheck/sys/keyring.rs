//! Keys and keyrings (`keyctl`), by number: the C library has no functions for them.

use super::{check, scalar_calls};
use anyhow::Result;
use std::ffi::CString;

/// Operations (include/uapi/linux/keyctl.h).
const JOIN_SESSION_KEYRING: i64 = 1;
const SETPERM: i64 = 5;
const DESCRIBE: i64 = 6;
const LINK: i64 = 8;
const SEARCH: i64 = 10;
const READ: i64 = 11;
/// The session keyring of the caller.
pub const SESSION: i64 = -3;
/// The keyring of its user.
const USER: i64 = -4;

scalar_calls! {
    /// Any operation that takes no pointer.
    keyctl(operation, first, second) = SYS_keyctl;
}

/// Makes a new session keyring.
pub fn join_new() -> Result<i64> {
    keyctl(JOIN_SESSION_KEYRING, 0, 0)
}

/// Sets permissions of a key.
pub fn set_permissions(key: i64, permissions: i64) -> Result<()> {
    keyctl(SETPERM, key, permissions).map(drop)
}

/// Links the user's keyring into the session keyring.
pub fn link_user() -> Result<()> {
    keyctl(LINK, USER, SESSION).map(drop)
}

/// Adds a key of type `user` to the session keyring; returns its serial number.
pub fn add_user(name: &str, payload: &[u8]) -> Result<i64> {
    let name = CString::new(name)?;
    // SAFETY: the names end with NUL, the payload has the length given; the kernel reads them only.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            SESSION,
        )
    };
    check("add_key", key)
}

/// The serial number of a key that is found from the session keyring on.
pub fn search(kind: &str, name: &str) -> Result<i64> {
    let (kind, name) = (CString::new(kind)?, CString::new(name)?);
    // SAFETY: the names end with NUL; the kernel reads them only.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, SEARCH, SESSION, kind.as_ptr(), name.as_ptr(), 0) };
    check("keyctl(SEARCH)", key)
}

/// What a key is: type, owner, group, permissions, name.
pub fn describe(key: i64) -> Result<String> {
    let text = fill(DESCRIBE, key)?;
    Ok(String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(&text)).into_owned())
}

/// What a key holds; of a keyring, the serial numbers in it.
pub fn read(key: i64) -> Result<Vec<u8>> {
    fill(READ, key)
}

fn fill(operation: i64, key: i64) -> Result<Vec<u8>> {
    let mut buffer = vec![0u8; 4096];
    // SAFETY: the kernel writes no more than the length given, which is the buffer's.
    let length = unsafe { libc::syscall(libc::SYS_keyctl, operation, key, buffer.as_mut_ptr(), buffer.len()) };
    buffer.truncate(check("keyctl", length)?.clamp(0, 4096) as usize);
    Ok(buffer)
}
