//! The Essential Context: what a process is, in terms of system-call ABI, hardware and protocols.
//!
//! Nothing here follows one kernel's structures. Ids of address spaces, file tables, open files and inodes are opaque
//! numbers, unique within one failover (two records that name the same id share the object). Paths are bytes without
//! a trailing NUL, as seen from the root of the mount namespace. Times are nanoseconds. All enums and structures are
//! append-only within a record version.

mod aio;
mod block_device;
mod device_mapper;
mod fat;
mod files;
mod io_uring;
mod journal;
mod keyring;
mod machine;
mod memory;
mod mqueue;
mod names;
mod namespaces;
mod netfilter;
mod network;
mod outcome;
mod process;
mod sockets;
mod swap;
mod sysv_ipc;
mod terminals;
mod thread;

pub use aio::*;
pub use block_device::*;
pub use device_mapper::*;
pub use fat::*;
pub use files::*;
pub use io_uring::*;
pub use journal::*;
pub use keyring::*;
pub use machine::*;
pub use memory::*;
pub use mqueue::*;
pub use names::*;
pub use namespaces::*;
pub use netfilter::*;
pub use network::*;
pub use outcome::*;
pub use process::*;
pub use sockets::*;
pub use swap::*;
pub use sysv_ipc::*;
pub use terminals::*;
pub use thread::*;

/// An opaque object id.
pub type Id = u64;
