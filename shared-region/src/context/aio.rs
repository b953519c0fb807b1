//! Asynchronous input and output.

use serde::{Deserialize, Serialize};

/// A context of asynchronous input and output (`io_setup`) with nothing under way ([`crate::record::Kind::AioContext`]). What
/// lies in its ring, behind the number of the context, follows as [`crate::record::Kind::Bytes`] of the address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AioContext {
    /// Address of its ring, by which its process knows it.
    pub address: u64,
    /// Bytes that are mapped there.
    pub bytes: u64,
    /// Requests that were asked for.
    pub requests: u32,
    /// Places in the ring.
    pub places: u32,
    /// The place of the first event that nobody has taken.
    pub head: u32,
    /// The place of the next event.
    pub tail: u32,
}
