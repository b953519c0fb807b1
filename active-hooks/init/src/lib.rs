//! First program of the initramfs of every kernel on the machine, and the restore agent.
//!
//! | module | what it does |
//! |---|---|
//! | [`boot`] | what any first program does: mounts, modules, the root file system, the distribution's init |
//! | [`standby`] | sleeps, in a successor that is booted ahead of time |
//! | [`takeover`] | what a successor does besides: memory, clocks, files, processes, the report |
//! | [`restore`] | rebuilds processes from the Essential Context through stable system calls |
//! | [`rescue`] | puts back, for `orthros-ctl`, what a rescue area holds |
//! | [`mountinfo`] | what is mounted |
//! | [`sys`] | ptrace, clone3 and waiting |
#![warn(missing_docs)]

pub mod boot;
pub mod mountinfo;
pub mod rescue;
pub mod restore;
pub mod standby;
pub mod sys;
pub mod takeover;
