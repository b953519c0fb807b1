//! The firewall of the machine, and the connections that it tracks.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The firewall ([`crate::record::Kind::Netfilter`]). Its rules follow as [`crate::record::Kind::NetfilterRules`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netfilter {
    /// What is known of the rules.
    pub rules: Rules,
    /// Connections and exchanges of datagrams with their translation of addresses.
    pub connections: Vec<TrackedConnection>,
    /// What was left out, for the report.
    pub left_out: Vec<String>,
}

/// What is known of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rules {
    /// There were none.
    #[default]
    None,
    /// They are those of the record that follows.
    Kept,
    /// There may have been some that are not known, and why. Nothing may come in before the new system has brought its own.
    Unknown(String),
}

/// A connection as its packets look from one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// From where, 4 or 16 bytes.
    pub source: Vec<u8>,
    /// Where to.
    pub destination: Vec<u8>,
    /// Ports.
    pub source_port: u16,
    /// See `source_port`.
    pub destination_port: u16,
}

/// A tracked connection of TCP or UDP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedConnection {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// Packets of the side that began.
    pub original: Flow,
    /// Answers as they come in, before addresses are translated back.
    pub reply: Flow,
    /// `IPS_*`.
    pub status: u32,
    /// Mark.
    pub mark: u32,
    /// Seconds until it is forgotten.
    pub timeout: u32,
    /// State of TCP (`TCP_CONNTRACK_*`).
    pub state: u8,
    /// Window scales of both sides.
    pub scales: [u8; 2],
    /// `IP_CT_TCP_FLAG_*` of both sides.
    pub flags: [u8; 2],
}
