//! The region: the fixed 256 MB of physical memory that every kernel on the machine is told to leave alone, and
//! through which the loader, the backup OS, the kernel module and the user-land tools speak to each other.
//!
//! This crate is the only definition of that memory. It holds no pointers and touches no hardware: whoever maps the
//! region casts one of the `repr(C)` structures over the right part, in its own unsafe code.
//!
//! | module | what it defines |
//! |---|---|
//! | [`layout`] | where each part lies |
//! | [`header`] | the first page: identity, windows, the machine's RAM, digest |
//! | [`control`] | words that are written by one side and watched by another |
//! | [`timeline`] | the instants of a failover |
//! | [`facts`] | what the module tells about the active kernel |
//! | [`protect`] | which processes the administrator asked to keep |
//! | [`parking`] | one slot for each CPU that was stopped |
//! | [`standby`] | a successor that sleeps until it is needed |
//! | [`stage`] | kernels and initial RAM disks held ready |
//! | [`attempts`] | successors that were tried in a failover |
//! | [`fail_at`] | steps of a hand-over at which a test lets a successor fail |
//! | [`log_ring`] | the backup OS's log |
//! | [`netfilter`] | where a kernel has the rules of its firewall, in its own memory |
//! | [`retained`] | the bitmap of page frames that must outlive the old kernel |
//! | [`status_page`] | where the backup OS shows what it does while it holds the network |
//! | [`record`] | the framing of Essential Context records |
//! | [`reasons`] | why a process cannot be kept |
//! | [`context`] | the Essential Context itself |
//! | [`crc32c`], [`ext4_dir`] | what both sides know of ext4 |
//! | [`rescue_area`] | a partition for the file cache of a dead kernel when no other can be booted |
//! | [`device`] | the ioctl interface of the module's device node |
//! | [`library`] | what a process registers through liborthros, in its own memory |
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod attempts;
pub mod context;
pub mod control;
pub mod crc32c;
pub mod device;
pub mod ext4_dir;
pub mod facts;
pub mod fail_at;
pub mod header;
pub mod layout;
pub mod library;
pub mod log_ring;
pub mod netfilter;
pub mod parking;
pub mod protect;
pub mod reasons;
pub mod record;
pub mod rescue_area;
pub mod retained;
pub mod stage;
pub mod standby;
pub mod status_page;
pub mod timeline;

/// Version of everything in this crate that is laid out in memory. A reader accepts this one only, except for
/// [`record`]s, which carry a version of their own.
pub const ABI_VERSION: u32 = 1;

/// Bytes in a page frame of x86_64 (Intel SDM vol. 3A, 4.5).
pub const PAGE_SIZE: u64 = 4096;
