//! Where a kernel keeps the rules of its firewall and the connections that it tracks.
//!
//! The words lie in the module's own memory ([`crate::facts::Facts::netfilter`]). Writer: the module, while its kernel lives.
//! Reader: the salvager, when that kernel is dead. Addresses are virtual ones of that kernel.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetfilterWords {
    /// Odd while the next three are being written.
    pub seq: u64,
    /// A copy of the rules: messages of netlink as the kernel lists them. 0 if there is none.
    pub rules: u64,
    /// Its bytes.
    pub length: u64,
    /// The generation that it is of.
    pub generation: u64,
    /// Where the kernel counts the generations of its rules, a word of 32 bits that begins at [`FIRST_GENERATION`]; 0 while
    /// nf_tables is not loaded.
    pub generation_at: u64,
    /// Variable `nf_conntrack_hash`; 0 while nf_conntrack is not loaded.
    pub connections: u64,
    /// Variable `nf_conntrack_htable_size`.
    pub connections_count: u64,
}

/// Generation of a kernel that never had a rule.
pub const FIRST_GENERATION: u32 = 1;
/// The longest copy, in bytes.
pub const MOST: u64 = 16 << 20;
