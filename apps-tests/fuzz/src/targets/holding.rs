//! Frames on the wire of a machine whose kernel is dead. What is answered is a frame of ours, resets nothing, and acknowledges
//! what was received and nothing else.

use holding::answer::Answered;
use holding::known::Known;
use holding::tcp::Connection;
use holding::FRAME;

const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const NEXT: u32 = 0xFFFF_FFFE;

fn known() -> Known {
    use smoltcp::wire::{EthernetAddress, Ipv4Address, Ipv6Address};
    let (own4, peer4) = (Ipv4Address::new(10, 0, 2, 15), Ipv4Address::new(10, 0, 2, 2));
    let (own6, peer6) = (Ipv6Address::from([1; 16]), Ipv6Address::from([2; 16]));
    let connection = Connection {
        next: NEXT,
        sent: 7,
        stamp: Some(1),
    };
    let flows = [
        (own4.into(), 80, peer4.into(), 4000),
        (own6.into(), 80, peer6.into(), 4000),
    ];
    Known {
        hardware: EthernetAddress(OWN),
        addresses: vec![own4.into(), own6.into()],
        connections: flows.map(|flow| (flow, connection)).into(),
        pings: true,
    }
}

/// The segment of TCP in a frame that this side has made.
fn segment(frame: &[u8]) -> Option<&[u8]> {
    match (frame[12], frame[13]) {
        (8, 0) => (frame[23] == 6).then(|| &frame[34..]),
        (0x86, 0xDD) => (frame[20] == 6).then(|| &frame[54..]),
        _ => None,
    }
}

/// Frames, each with its length before it.
pub fn holding(data: &[u8]) {
    let (known, mut answered, mut out) = (known(), Answered::default(), [0; FRAME]);
    let mut rest = data;
    while let Some((&[high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (frame, after) = after.split_at(length);
        rest = after;
        let Some(length) = known.answer(frame, 9, &mut out, &mut answered) else {
            continue;
        };
        let said = &out[..length];
        assert_eq!(said[6..12], OWN);
        if let Some(segment) = segment(said) {
            // Acknowledgement, flags (ACK alone) and window.
            assert_eq!(segment[8..12], NEXT.to_be_bytes());
            assert_eq!((segment[13], &segment[14..16]), (0x10, &[0, 0][..]));
        }
    }
}
