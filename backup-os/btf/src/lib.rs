//! BTF, the type information a Linux kernel carries about itself, read in place.
//!
//! What we know on entry: a slice that claims to be the contents of a `.BTF` section
//! (`__start_BTF..__stop_BTF`, `/sys/kernel/btf/vmlinux`, or the data of a module). What we owe: answers about layout,
//! or an error that names the type and what is wrong with it; no panic and no endless walk, whatever the bytes are.
//!
//! The format is `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h` of the kernel.
//!
//! | module | what it holds |
//! |---|---|
//! | [`error`] | everything that can be wrong with a blob or a question |
//! | [`raw`] | reading integers and names out of the blob |
//! | [`kind`] | the kinds of types and the size of their records |
//! | [`types`] | one type record and what follows it: members, enumerators, parameters |
//! | [`index`] | [`Btf`]: types by number and by name |
//! | [`layout`] | sizes, arrays and member paths |
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

pub mod error;
pub mod index;
pub mod kind;
pub mod layout;
pub mod raw;
pub mod types;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use error::BtfError;
pub use index::Btf;
pub use kind::Kind;
pub use layout::Member;
pub use types::{Type, TypeId};
