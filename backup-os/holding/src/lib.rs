//! What is said on the wire from the death of one kernel until the next one drives the network: that the machine is there,
//! and that its connections are.
//!
//! Everything that comes is hostile until shown otherwise. A frame is answered by one frame at most, which is no longer than
//! itself or than what names a neighbour or acknowledges; nothing is kept of it. Nothing is acknowledged but what the dead
//! kernel had received, so that whoever takes over has it; no connection is refused or reset; what is not known is not
//! answered.
//!
//! | module | answers |
//! |---|---|
//! | [`known`] | (who the machine is: from the Essential Context) |
//! | [`answer`] | ARP, neighbour discovery, pings |
//! | [`tcp`] | peers of connections |
//! | [`own`] | whoever asks at an address of this program's own, if it has one |
//! | [`place`] | (on which card that is) |
//! | [`page`], [`syslog`] | (what is shown and sent there) |
//! | [`state`], [`news`] | (what there is to show, and what of it is new) |
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

pub mod answer;
pub mod known;
pub mod links;
pub mod news;
pub mod own;
pub mod page;
pub mod place;
pub mod state;
pub mod syslog;
pub mod tcp;

pub use known::Known;

/// Bytes of the longest frame that is taken or sent, without its check sequence.
pub const FRAME: usize = 1514;
