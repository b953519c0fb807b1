//! What went over the guest's wire, as QEMU's filter-dump writes it (the pcap format, link type Ethernet).

use anyhow::{bail, Context, Result};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;

/// Name of the file in a run's folder.
pub const FILE: &str = "net.pcap";
/// Bytes that are kept of each frame: all headers.
pub const KEPT: usize = 128;
/// First word of a file with times in microseconds, written by a machine of this order of bytes.
const MAGIC: u32 = 0xA1B2_C3D4;
/// Bytes before the first record, and before each frame.
const FILE_HEAD: usize = 24;
const FRAME_HEAD: usize = 16;
/// Bytes of an Ethernet head, and the type of IPv4 in it; the protocol TCP.
const ETHERNET: usize = 14;
const IPV4: [u8; 2] = [8, 0];
const TCP: u8 = 6;
/// Microseconds within which segments may overtake each other on their way out of a machine with several CPUs.
const OVERTAKEN: u64 = 1_000_000;
/// Flags of a segment.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// One direction's address and port, then the other's.
type Flow = ([u8; 4], u16, [u8; 4], u16);

/// A segment of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    /// Microseconds.
    at: u64,
    flow: Flow,
    seq: u32,
    ack: u32,
    flags: u8,
    length: u32,
}

/// What one end of a connection has shown.
#[derive(Default)]
struct End {
    /// The number behind the last that it has sent.
    sent: Option<u32>,
    /// What it has acknowledged in the last moments, with the instants.
    acknowledged: VecDeque<(u64, u32)>,
    /// The last number that it had acknowledged before.
    settled: Option<u32>,
}

/// What a capture shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections.
    pub connections: usize,
    /// Segments.
    pub segments: usize,
    /// What must not be.
    pub wrong: Vec<String>,
}

/// Reads the segments that went to or from ports of the guest, and judges what the guest has sent: no reset, nothing
/// acknowledged that was not sent to it, and no acknowledgement taken back.
///
/// # Errors
/// When the file is none.
pub fn judge(path: &Path, ports: &[u16]) -> Result<Seen> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let mut ends: BTreeMap<Flow, End> = BTreeMap::new();
    let mut seen = Seen::default();
    for segment in segments(&bytes)? {
        let (_, from, _, to) = segment.flow;
        if ports.contains(&from) || ports.contains(&to) {
            seen.segments += 1;
            look(&mut ends, &segment, ports.contains(&from), &mut seen.wrong);
        }
    }
    seen.connections = ends.keys().filter(|flow| ports.contains(&flow.1)).count();
    Ok(seen)
}

fn look(ends: &mut BTreeMap<Flow, End>, segment: &Segment, by_guest: bool, wrong: &mut Vec<String>) {
    let Segment {
        at,
        flow,
        seq,
        ack,
        flags,
        length,
    } = *segment;
    let (one, port, other, peer) = flow;
    let other_way = (other, peer, one, port);
    if by_guest && flags & RST != 0 {
        wrong.push(format!("a reset of port {port} to {peer}"));
    }
    if flags & SYN != 0 && flags & ACK == 0 {
        // A new connection with old ports.
        ends.remove(&flow);
        ends.remove(&other_way);
    }
    if by_guest && flags & ACK != 0 && flags & RST == 0 {
        let sent = ends.get(&other_way).and_then(|end| end.sent);
        if sent.is_some_and(|sent| is_behind(ack, sent)) {
            wrong.push(format!("port {port} acknowledges to {peer} what was not sent"));
        }
        let end = ends.entry(flow).or_default();
        while let Some((_, before)) = end.acknowledged.pop_front_if(|(then, _)| *then + OVERTAKEN <= at) {
            if end.settled.is_none_or(|settled| is_behind(before, settled)) {
                end.settled = Some(before);
            }
        }
        if end.settled.is_some_and(|before| is_behind(before, ack)) {
            wrong.push(format!("port {port} takes back an acknowledgement to {peer}"));
        }
        end.acknowledged.push_back((at, ack));
    }
    let behind = seq
        .wrapping_add(length)
        .wrapping_add(u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0));
    let end = ends.entry(flow).or_default();
    if end.sent.is_none_or(|sent| is_behind(behind, sent)) {
        end.sent = Some(behind);
    }
}

/// Whether a sequence number comes after another one.
fn is_behind(number: u32, other: u32) -> bool {
    number != other && number.wrapping_sub(other) < 1 << 31
}

fn segments(bytes: &[u8]) -> Result<Vec<Segment>> {
    let word = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    if word(0) != Some(MAGIC) {
        bail!("this is no capture");
    }
    let (mut at, mut found) = (FILE_HEAD, Vec::new());
    // The last one may be incomplete.
    while let Some(kept) = word(at + 8) {
        let first = at + FRAME_HEAD;
        let Some(frame) = bytes.get(first..first + kept as usize) else {
            break;
        };
        let time = word(at).zip(word(at + 4));
        let time = time.map_or(0, |(seconds, us)| u64::from(seconds) * 1_000_000 + u64::from(us));
        found.extend(segment(time, frame));
        at = first + kept as usize;
    }
    Ok(found)
}

/// The segment in a frame, if it is one.
fn segment(time: u64, frame: &[u8]) -> Option<Segment> {
    let packet = frame.get(ETHERNET..)?;
    if frame.get(12..ETHERNET)? != IPV4 || *packet.get(9)? != TCP {
        return None;
    }
    let short =
        |bytes: &[u8], at: usize| -> Option<u16> { Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)) };
    let long =
        |bytes: &[u8], at: usize| -> Option<u32> { Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    let address = |at: usize| -> Option<[u8; 4]> { packet.get(at..at + 4)?.try_into().ok() };
    let head = usize::from(packet.first()? & 15) * 4;
    let tcp = packet.get(head..)?;
    let length = usize::from(short(packet, 2)?)
        .checked_sub(head)?
        .checked_sub(usize::from(tcp.get(12)? >> 4) * 4)?;
    Some(Segment {
        at: time,
        flow: (address(12)?, short(tcp, 0)?, address(16)?, short(tcp, 2)?),
        seq: long(tcp, 4)?,
        ack: long(tcp, 8)?,
        flags: *tcp.get(13)?,
        length: length as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: u16 = 80;
    /// Sequence number, acknowledgement, flags and bytes.
    type Sent = (u32, u32, u8, u16);

    fn put(out: &mut Vec<u8>, second: u32, from_guest: bool, (seq, ack, flags, length): Sent) {
        let (from, to) = if from_guest { (GUEST, 5000) } else { (5000, GUEST) };
        let mut packet = vec![0x45, 0];
        packet.extend((40 + length).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, TCP, 0, 0]);
        packet.extend(if from_guest {
            [1, 1, 1, 1, 2, 2, 2, 2]
        } else {
            [2, 2, 2, 2, 1, 1, 1, 1]
        });
        packet.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
        packet.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
        packet.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        let frame = [&[0; 12][..], &IPV4, &packet].concat();
        out.extend([second.to_le_bytes(), [0; 4]].concat());
        out.extend((frame.len() as u32).to_le_bytes());
        out.extend((frame.len() as u32 + u32::from(length)).to_le_bytes());
        out.extend(frame);
    }

    /// What comes of a connection that goes on with `more` every so many seconds.
    fn judged(name: &str, every: u32, more: &[(bool, Sent)]) -> Seen {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.resize(FILE_HEAD, 0);
        // The numbers go round.
        let begin = u32::MAX - 2;
        put(&mut bytes, 0, false, (begin, 0, SYN, 0));
        put(&mut bytes, 0, true, (7, begin + 1, SYN | ACK, 0));
        put(&mut bytes, 0, false, (begin + 1, 8, ACK, 10));
        put(&mut bytes, 0, true, (8, 8, ACK, 5));
        for (&(from_guest, segment), number) in more.iter().zip(1..) {
            put(&mut bytes, every * number, from_guest, segment);
        }
        let path = std::env::temp_dir().join(format!("orthros-capture-{name}-{}", std::process::id()));
        fs::write(&path, bytes).expect("file");
        let seen = judge(&path, &[GUEST]).expect("a capture");
        fs::remove_file(path).expect("file");
        seen
    }

    #[test]
    fn a_sound_connection_is_sound() {
        let seen = judged(
            "sound",
            0,
            &[
                (true, (8, 8, ACK, 5)),
                (false, (8, 13, ACK | FIN, 0)),
                (true, (13, 9, ACK, 0)),
            ],
        );
        assert_eq!((seen.connections, seen.segments), (1, 7));
        assert_eq!(seen.wrong, Vec::<String>::new());
    }

    #[test]
    fn what_must_not_be_is_seen() {
        for (name, segment, words) in [
            ("reset", (13, 8, RST, 0), "a reset"),
            ("ahead", (13, 9, ACK, 0), "what was not sent"),
            ("back", (13, 7, ACK, 0), "takes back"),
        ] {
            let wrong = judged(name, 2, &[(true, segment)]).wrong;
            assert!(wrong.len() == 1 && wrong[0].contains(words), "{wrong:?}");
        }
        // What the other side does is its own affair.
        let other = judged("other", 2, &[(false, (8, 13, RST, 0))]).wrong;
        assert_eq!(other, Vec::<String>::new());
        // One segment has overtaken another.
        let overtaken = judged("overtaken", 0, &[(true, (13, 7, ACK, 0))]).wrong;
        assert_eq!(overtaken, Vec::<String>::new());
    }
}
