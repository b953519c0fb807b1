//! Everything that has to be worked out before a kernel is started, as pure functions: bytes and addresses in, a
//! [`plan::Plan`] of copies and writes out. Whoever owns the memory carries the plan out.
//!
//! Two callers: the loader starts the first kernel ([`first`]), the backup OS every one after it ([`successor`]).
//!
//! | module | question |
//! |---|---|
//! | [`multiboot`] | what did GRUB hand over? |
//! | [`options`] | what does the administrator want of the loader? |
//! | [`modules`] | which module is what, and is it what it says? |
//! | [`memory_map`], [`windows`] | what RAM is there, and where do the region and the nurseries go? |
//! | [`bzimage`] | how does this kernel want to be loaded? |
//! | [`unpacked`] | how is it unpacked and relocated ahead of time? |
//! | [`elf`] | what does the backup OS's file look like in memory? |
//! | [`acpi`] | which CPUs, timers and reset register; tables without the reserved core |
//! | [`parameters`] | what is added to the kernel's command line, and why |
//! | [`boot_params`] | the zero page |
//! | [`first`], [`successor`] | all of it together |
//!
//! Every address in this crate is a physical one, in bytes. All input is hostile until checked: nothing here panics,
//! and no loop runs longer than the input is long.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic))]

extern crate alloc;

pub mod acpi;
pub mod boot_params;
mod bytes;
pub mod bzimage;
pub mod elf;
pub mod first;
pub mod memory_map;
pub mod modules;
pub mod multiboot;
pub mod options;
pub mod parameters;
pub mod plan;
pub mod span;
pub mod successor;
#[cfg(test)]
mod testing;
pub mod unpacked;
pub mod windows;
