//! The initramfs of one kernel: orthros-init, the modules it loads, and a busybox for the emergency shell.
//!
//! Its layout is what orthros-init relies on:
//!
//! - `/init` is orthros-init.
//! - `/lib/orthros/orthros.ko` is our module for this kernel.
//! - `/lib/orthros/modules` lists the stock modules to load, one absolute path a line, in an order that satisfies their
//!   dependencies.
//! - `/lib/modules/*.ko` are those modules, uncompressed.
//! - `/bin/busybox` and `/bin/sh`.
//!
//! | module | does |
//! |---|---|
//! | [`cpio`] | writes and reads the archive format |
//! | [`modules`] | which modules a kernel has, and what they need |
//! | [`build()`] | puts an initramfs together |
//! | [`inspect`] | says what is wrong with one |
//! | [`unpack`] | what others have compressed |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod build;
pub mod cpio;
pub mod inspect;
pub mod modules;
pub mod unpack;

use std::path::PathBuf;

/// Path of the list of modules in an initramfs.
pub const LIST: &str = "lib/orthros/modules";
/// Path of our module.
pub const ORTHROS: &str = "lib/orthros/orthros.ko";
/// Path of the first program.
pub const INIT: &str = "init";

/// Why an initramfs cannot be built, or is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tool failed, or is not there.
    #[error("{tool}: {why}")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// Why.
        why: String,
    },
    /// A wanted module is neither packaged nor built in.
    #[error("kernel {release} has no module {module}, neither packaged nor built in")]
    NoModule {
        /// The kernel.
        release: String,
        /// The module.
        module: String,
    },
    /// A module is built for another kernel.
    #[error("{what} is built for kernel {found}, not for {wanted}")]
    Vermagic {
        /// Which.
        what: String,
        /// What it says.
        found: String,
        /// The kernel's release.
        wanted: String,
    },
    /// The archive ends in the middle.
    #[error("it is cut short: {0}")]
    Short(String),
    /// The archive is none.
    #[error("it is no initramfs: {0}")]
    Malformed(String),
    /// Something is not in it.
    #[error("it has no {0}")]
    Lacks(String),
}

/// Reads a file whole.
///
/// # Errors
/// [`InitramfsError::Read`].
pub fn read(path: &std::path::Path) -> Result<Vec<u8>, InitramfsError> {
    std::fs::read(path).map_err(|source| InitramfsError::Read {
        path: path.to_path_buf(),
        source,
    })
}
