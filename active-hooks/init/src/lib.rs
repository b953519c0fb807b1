//! First program of the initramfs of every kernel on the machine, and the restore agent.
//!
//! | module | what it does |
//! |---|---|
//! | [`restore`] | rebuilds processes from the Essential Context through stable system calls |
//! | [`sys`] | the system-call edge: the only unsafe code outside it is the arena's mapping |
#![warn(missing_docs)]

pub mod restore;
pub mod sys;
