//! The test harness: builds Orthros and a guest from Debian packages, runs both in
//! QEMU, breaks the kernel on purpose and judges from outside what survived.
//!
//! Everything here runs on the host, unprivileged but for the making of the guest's
//! file system. The layers, lowest first: [`exec`], [`paths`] and [`cache`] (host),
//! [`kernels`], [`artefacts`], [`initramfs`], [`rootfs`] and [`disc`] (what a guest is
//! made of), [`qemu`], [`qmp`], [`serial`] and [`agent`] (a running guest),
//! [`scenario`], [`run`], [`report`] and [`suite`] (what is asked of it).
#![forbid(unsafe_code)]

pub mod accelerator;
pub mod agent;
pub mod artefacts;
pub mod bench;
pub mod cache;
pub mod capture;
pub mod checks;
pub mod clients;
pub mod cost;
pub mod disc;
pub mod exec;
pub mod gaps;
pub mod images;
pub mod initramfs;
pub mod kernels;

pub mod machine;
pub mod paths;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod refusals;
pub mod report;
pub mod results;
pub mod rootfs;
pub mod run;
pub mod scenario;
pub mod serial;
pub mod suite;
mod turns;
