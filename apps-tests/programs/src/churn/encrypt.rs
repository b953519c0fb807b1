//! Encryption of a directory (`Documentation/filesystems/fscrypt.rst`), with a key that nobody keeps.

use anyhow::{ensure, Context, Result};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `FS_IOC_ADD_ENCRYPTION_KEY` and `FS_IOC_SET_ENCRYPTION_POLICY` (`include/uapi/linux/fscrypt.h`).
const ADD_KEY: libc::c_ulong = 0xC050_6617;
const SET_POLICY: libc::c_ulong = 0x800C_6613;
/// `FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER`.
const BY_IDENTIFIER: u32 = 2;
const KEY_BYTES: usize = 64;

/// `struct fscrypt_add_key_arg`, with a key.
#[repr(C)]
struct AddKey {
    kind: u32,
    reserved: u32,
    /// Filled in by the kernel, the first 16 bytes.
    identifier: [u8; 32],
    raw_size: u32,
    key_id: u32,
    more_reserved: [u32; 8],
    raw: [u8; KEY_BYTES],
}

/// Lets everything that will be made in an empty directory be encrypted.
///
/// # Errors
/// The file system or the kernel cannot do it.
pub fn encrypt(dir: &Path) -> Result<()> {
    let dir = File::open(dir).with_context(|| format!("{}", dir.display()))?;
    let mut key = AddKey {
        kind: BY_IDENTIFIER,
        reserved: 0,
        identifier: [0; 32],
        raw_size: KEY_BYTES as u32,
        key_id: 0,
        more_reserved: [0; 8],
        raw: std::array::from_fn(|index| index as u8 ^ 0x5A),
    };
    // SAFETY: (1) the descriptor is open; (2) the structure is the kernel's, followed by as many bytes as it says.
    let done = unsafe { libc::ioctl(dir.as_raw_fd(), ADD_KEY, &mut key) };
    ensure!(
        done == 0,
        "FS_IOC_ADD_ENCRYPTION_KEY: {}",
        std::io::Error::last_os_error()
    );
    // `struct fscrypt_policy_v2`: version, AES-256-XTS for contents, AES-256-CTS for names padded to 32 bytes.
    let mut policy = [0u8; 24];
    policy[..4].copy_from_slice(&[2, 1, 4, 3]);
    policy[8..].copy_from_slice(&key.identifier[..16]);
    // SAFETY: (1) the descriptor is open; (2) of a policy of this version the kernel reads 24 bytes.
    let done = unsafe { libc::ioctl(dir.as_raw_fd(), SET_POLICY, &policy) };
    ensure!(
        done == 0,
        "FS_IOC_SET_ENCRYPTION_POLICY: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
