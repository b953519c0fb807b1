//! What the backup OS decides, without the hands that do it.
//!
//! Each module is a state machine: the bare-metal program tells it what it sees and what time it is, and it answers
//! with what to do next. Nothing here touches hardware or waits, so that every path, those that never happen on a
//! healthy machine included, runs in a host test.
//!
//! | module | decides |
//! |---|---|
//! | [`stop`] | how the active's CPUs are stopped, and when to give up on one |
//! | [`hang`] | whether the active hangs |
//! | [`life`] | what the backup OS is doing, from start to start |
//! | [`standby`] | whether a successor sleeps, and what one that was woken asks for |
//! | [`attempts`] | which successor is tried, and which one after it has failed |
//! | [`successor`] | whether the kernel that takes over is still making its way |
//! | [`ram`] | which memory is the active's |
//! | [`fingerprint`] | the same for much memory that is mostly empty |
//! | [`packed`] | how such memory is kept, and whether what was kept is whole |
//! | [`digest`] | whether memory was written to |
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod attempts;
pub mod digest;
pub mod fingerprint;
pub mod hang;
pub mod life;
pub mod packed;
pub mod ram;
pub mod standby;
pub mod stop;
pub mod successor;
