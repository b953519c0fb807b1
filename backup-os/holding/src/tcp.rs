//! Peers of connections: a window of zero, until somebody takes what they send (RFC 9293, 3.8.6.1).
//!
//! A peer that sends something, or asks whether the connection is there, hears that everything up to where the dead kernel
//! was has come, and that there is no room. It repeats what it has sent, for as long as it takes. A segment that asks for no
//! answer gets none: two sides that answer each other's acknowledgements would not stop.

use crate::known::Flow;
use crate::Known;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The number that is expected next of the peer: all before it was received.
    pub next: u32,
    /// The number behind the last byte that was sent.
    pub sent: u32,
    /// The time stamp at the instant of the records, if both sides use them.
    pub stamp: Option<u32>,
}

impl Connection {
    /// Whether a segment asks for an answer: it has something for this side, or repeats a number to see whether anybody is there.
    fn is_asked(&self, segment: &TcpRepr<'_>) -> bool {
        match segment.control {
            TcpControl::Rst | TcpControl::Syn => false,
            TcpControl::Fin => true,
            TcpControl::None | TcpControl::Psh => {
                !segment.payload.is_empty() || segment.seq_number.0 as u32 == self.next.wrapping_sub(1)
            }
        }
    }
}

/// The answer to a segment from `peer`, if it gets one. `elapsed` are milliseconds since the instant of the records.
pub fn answer(
    known: &Known,
    (local, peer): (IpAddress, IpAddress),
    packet: &[u8],
    elapsed: u32,
) -> Option<TcpRepr<'static>> {
    let packet = TcpPacket::new_checked(packet).ok()?;
    let segment = TcpRepr::parse(&packet, &peer, &local, &ChecksumCapabilities::default()).ok()?;
    let flow: Flow = (local, segment.dst_port, peer, segment.src_port);
    let connection = known
        .connections
        .get(&flow)
        .filter(|connection| connection.is_asked(&segment))?;
    let stamp = connection.stamp.zip(segment.timestamp);
    Some(TcpRepr {
        src_port: segment.dst_port,
        dst_port: segment.src_port,
        control: TcpControl::None,
        seq_number: TcpSeqNumber(connection.sent as i32),
        ack_number: Some(TcpSeqNumber(connection.next as i32)),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: stamp.map(|(own, peers)| TcpTimestampRepr::new(own.wrapping_add(elapsed), peers.tsval)),
        payload: &[],
    })
}
