//! What can go wrong with the device.

use shared_region::{device::PATH, ABI_VERSION};
use std::io;

/// Why something with `/dev/orthros` did not work.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The node cannot be opened.
    #[error("cannot open {PATH}: {0}; is the orthros module loaded?")]
    Open(#[source] io::Error),
    /// The module has another ABI version.
    #[error("the orthros module has ABI version {0}, this program speaks version {ABI_VERSION}; install the matching package")]
    Version(u64),
    /// The region cannot be mapped.
    #[error("cannot map the region: {0}")]
    Map(#[source] io::Error),
    /// An ioctl failed.
    #[error("{name} of {PATH}: {source}")]
    Ioctl {
        /// Its name.
        name: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Frames were not adopted.
    #[error("ADOPT of {PATH} at address {address:#x}: {source}")]
    Adopt {
        /// First address of the run that was not adopted.
        address: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A frame cannot be read.
    #[error("page frame {frame:#x} cannot be read: {source}")]
    Frame {
        /// Frame number.
        frame: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The Essential Context was asked for while it is not complete.
    #[error("the salvage gate is not open (word {0})")]
    Gate(u64),
}

impl DeviceError {
    /// Turns the error of an ADOPT into one that names the address.
    pub(crate) fn at_address(self, address: u64) -> Self {
        match self {
            Self::Ioctl { source, .. } => Self::Adopt { address, source },
            other => other,
        }
    }

    /// The kernel's answer, if there was one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source)
            | Self::Map(source)
            | Self::Ioctl { source, .. }
            | Self::Adopt { source, .. }
            | Self::Frame { source, .. } => source.raw_os_error(),
            Self::Version(_) | Self::Gate(_) => None,
        }
    }
}
