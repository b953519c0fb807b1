//! A tracked connection, as a request to make it (include/uapi/linux/netfilter/nfnetlink_conntrack.h).

use crate::takeover::netlink::Payload;
use shared_region::context::{Flow, TrackedConnection};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_NEW`.
pub const NEW: u16 = 1 << 8;
/// Attributes: `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, ...
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_STATE: u16 = 4;
const NAT_SOURCE: u16 = 6;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const NAT_DESTINATION: u16 = 13;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `IPS_*`: an answer was seen, it is not to be given up early, it is in the table; translation of either end.
const SEEN: u32 = 1 << 1 | 1 << 2;
const CONFIRMED: u32 = 1 << 3;
const SOURCE_TRANSLATED: u32 = 1 << 4;
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`: numbers outside of the window are no reason to call a packet invalid.
const LIBERAL: u8 = 8;
const TCP: u8 = libc::IPPROTO_TCP as u8;

/// The request.
///
/// The kernel works the translation out itself: it is told what the answers would be without, and to which address and
/// port it goes.
pub fn request(connection: &TrackedConnection) -> Payload {
    let TrackedConnection {
        protocol,
        original,
        reply,
        status,
        ..
    } = connection;
    let plain = Flow {
        source: original.destination.clone(),
        destination: original.source.clone(),
        source_port: original.destination_port,
        destination_port: original.source_port,
    };
    let six = original.source.len() == 16;
    let family = if six { libc::AF_INET6 } else { libc::AF_INET } as u8;
    let number = |value: u32| value.to_be_bytes();
    // struct nfgenmsg: family, version, resource.
    let mut payload = Payload::new(&[family, 0, 0, 0])
        .with(ORIGINAL | NESTED, &flow(*protocol, original))
        .with(REPLY | NESTED, &flow(*protocol, &plain))
        .with(STATUS, &number(status & SEEN | CONFIRMED))
        .with(TIMEOUT, &number(connection.timeout))
        .with(MARK, &number(connection.mark));
    if status & SOURCE_TRANSLATED != 0 {
        payload = payload.with(NAT_SOURCE | NESTED, &target(&reply.destination, reply.destination_port));
    }
    if status & DESTINATION_TRANSLATED != 0 {
        payload = payload.with(NAT_DESTINATION | NESTED, &target(&reply.source, reply.source_port));
    }
    if *protocol == TCP {
        payload = payload.with(PROTOCOL_STATE | NESTED, &tcp(connection));
    }
    payload
}

/// `CTA_TUPLE_IP` with both addresses, `CTA_TUPLE_PROTO` with the ports.
fn flow(protocol: u8, flow: &Flow) -> Vec<u8> {
    // CTA_IP_V4_SRC and _DST, CTA_IP_V6_SRC and _DST.
    let first = if flow.source.len() == 16 { 3 } else { 1 };
    let addresses = Payload::default()
        .with(first, &flow.source)
        .with(first + 1, &flow.destination);
    // CTA_PROTO_NUM, _SRC_PORT, _DST_PORT.
    let ports = Payload::default()
        .with(1, &[protocol])
        .with(2, &flow.source_port.to_be_bytes())
        .with(3, &flow.destination_port.to_be_bytes());
    Payload::default()
        .with(1 | NESTED, addresses.bytes())
        .with(2 | NESTED, ports.bytes())
        .bytes()
        .to_vec()
}

/// `CTA_NAT_V4_MINIP` and `_MAXIP` or those of IPv6, `CTA_NAT_PROTO` with `CTA_PROTONAT_PORT_MIN` and `_MAX`.
fn target(address: &[u8], port: u16) -> Vec<u8> {
    let first = if address.len() == 16 { 4 } else { 1 };
    let ports = Payload::default()
        .with(1, &port.to_be_bytes())
        .with(2, &port.to_be_bytes());
    Payload::default()
        .with(first, address)
        .with(first + 1, address)
        .with(3 | NESTED, ports.bytes())
        .bytes()
        .to_vec()
}

/// `CTA_PROTOINFO_TCP`: state, window scales, and flags with the mask of those that are set.
///
/// Windows cannot be given. Learnt from what a peer repeats first they would end before what this side has acknowledged, and its
/// next packet would be invalid: it never spoke again.
fn tcp(connection: &TrackedConnection) -> Vec<u8> {
    let [ours, theirs] = connection.scales;
    let [of_one, of_other] = connection.flags.map(|flags| flags | LIBERAL);
    let inner = Payload::default()
        .with(1, &[connection.state])
        .with(2, &[ours])
        .with(3, &[theirs])
        .with(4, &[of_one, 0xFF])
        .with(5, &[of_other, 0xFF]);
    Payload::default().with(1 | NESTED, inner.bytes()).bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked for at port 7001 of 10.0.2.15, and led to 7000.
    fn led_to_another_port() -> TrackedConnection {
        let flow = |source: [u8; 4], source_port, destination: [u8; 4], destination_port| Flow {
            source: source.to_vec(),
            destination: destination.to_vec(),
            source_port,
            destination_port,
        };
        let (here, there) = ([10, 0, 2, 15], [10, 0, 2, 2]);
        TrackedConnection {
            protocol: TCP,
            original: flow(there, 40000, here, 7001),
            reply: flow(here, 7000, there, 40000),
            status: SEEN | CONFIRMED | DESTINATION_TRANSLATED,
            mark: 5,
            timeout: 1000,
            state: 3,
            scales: [7, 8],
            flags: [3, 3],
        }
    }

    fn holds(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn a_translated_end_is_told_by_where_answers_come_from() {
        let connection = led_to_another_port();
        let request = request(&connection);
        assert!(holds(request.bytes(), &target(&[10, 0, 2, 15], 7000)), "{request:?}");
        // Without it answers would come from the port that was asked.
        let mut plain = connection.reply.clone();
        plain.source_port = 7001;
        assert!(holds(request.bytes(), &flow(TCP, &plain)), "{request:?}");
        // CTA_PROTOINFO_TCP_FLAGS_REPLY.
        assert!(holds(request.bytes(), &[6, 0, 5, 0, 3 | LIBERAL, 0xFF]), "{request:?}");
    }

    /// In a network namespace of its own: `unshare -n cargo test -p orthros-init --lib -- --ignored tracked`.
    #[test]
    #[ignore = "needs a network namespace of its own"]
    fn a_connection_is_tracked_again() {
        use crate::restore::sockets::raw;
        use crate::takeover::netlink::{message, Netlink, CREATE, NETFILTER};
        let connection = led_to_another_port();
        let netlink = Netlink::open_to(NETFILTER).expect("netlink");
        netlink.ask(NEW, CREATE, request(&connection)).expect("taken");
        let socket = raw::socket(libc::AF_NETLINK as u32, libc::SOCK_RAW as u32, NETFILTER).expect("netlink");
        rustix::fs::fcntl_setfl(&socket, rustix::fs::OFlags::empty()).expect("blocking");
        // IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP.
        let list = message(NEW + 1, 0x301, 0, &Payload::new(&[0; 4]));
        raw::send(&socket, &list).expect("asked");
        let mut listed = vec![0; 1 << 14];
        let length = raw::receive(&socket, &mut listed).expect("a list");
        let listed = &listed[..length];
        assert!(holds(listed, &flow(TCP, &connection.original)), "{listed:?}");
        assert!(holds(listed, &flow(TCP, &connection.reply)), "{listed:?}");
        let status = SEEN | CONFIRMED | DESTINATION_TRANSLATED;
        let at = listed
            .windows(4)
            .position(|head| head == [8, 0, STATUS as u8, 0])
            .expect("a status");
        let found = u32::from_be_bytes(listed[at + 4..at + 8].try_into().expect("a number"));
        assert_eq!(found & status, status, "{found:#x}");
    }
}
