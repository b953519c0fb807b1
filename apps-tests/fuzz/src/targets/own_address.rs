//! Frames on the wire of a machine whose kernel is dead, for the address of the backup OS itself: its page and its messages.
//! What is said is a frame of that address, and there is an end to it.

use holding::own::{Own, PROBE};
use holding::place::Place;
use holding::FRAME;
use shared_region::status_page::{LogTarget, StatusAddress};

const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const ADDRESS: [u8; 4] = [10, 0, 2, 16];
/// Frames that are sent after one that has come: each connection's and the messages'.
const MOST: usize = 100;

fn own() -> Own {
    let address = StatusAddress::new(ADDRESS.into(), 24).expect("an address");
    let place = Place {
        address,
        card: 0,
        routes: Vec::new(),
    };
    let target = LogTarget::new([10, 0, 2, 2].into(), 514).ok();
    Own::new(&place, OWN, target, 1)
}

fn check(said: &[u8]) {
    assert_eq!(said[6..12], OWN);
    match (said[12], said[13]) {
        // The address of the sender; of the question whether somebody has it, none.
        (8, 6) => assert!([ADDRESS, [0; 4]].iter().any(|sender| said[28..32] == *sender)),
        (8, 0) => assert_eq!(said[26..30], ADDRESS),
        other => panic!("{other:?}"),
    }
}

/// Frames, each with its length and with a sixteenth of the milliseconds that pass before it.
pub fn own_address(data: &[u8]) {
    pages_shown(data);
}

/// The same. Returns how many pages were shown.
pub fn pages_shown(data: &[u8]) -> u64 {
    let (mut own, mut out, mut now, mut rest) = (own(), [0; FRAME], 0, data);
    own.next(now, &mut out);
    now += PROBE;
    while let Some((&[high, low, later], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (frame, after) = after.split_at(length);
        (rest, now) = (after, now + 16 * u64::from(later));
        if own.takes(frame, now) {
            if let Some(length) = own.answer(frame, now, &mut out) {
                check(&out[..length]);
            }
        }
        let mut sent = 0;
        while let Some(length) = own.next(now, &mut out) {
            check(&out[..length]);
            sent += 1;
            assert!(sent < MOST);
        }
    }
    own.pages
}
