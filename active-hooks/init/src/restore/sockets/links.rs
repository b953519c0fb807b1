//! Links in options of sockets: known by the numbers of the dead kernel, which the next one may have given otherwise.

use crate::restore::{world::World, Refusal, Restored};
use crate::takeover::links;
use shared_region::context::{Id, Socket, SocketOption, SocketState};
use std::collections::{BTreeMap, BTreeSet};

/// The number of the loopback link, in every kernel (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// Options with a link (include/uapi/asm-generic/socket.h, linux/in.h, in6.h, if_packet.h): level, name, where it stands in the value, and
/// whether in network byte order.
const WITH_LINK: [(i32, i32, usize, bool); 8] = [
    (libc::SOL_SOCKET, SO_BINDTOIFINDEX, 0, false),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_IF, 8, false),
    (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, 8, false),
    (libc::IPPROTO_IP, IP_UNICAST_IF, 0, true),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, 0, false),
    (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, 16, false),
    (libc::IPPROTO_IPV6, IPV6_UNICAST_IF, 0, true),
    (libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, 0, false),
];
/// `SO_BINDTOIFINDEX` (include/uapi/asm-generic/socket.h).
pub const SO_BINDTOIFINDEX: i32 = 62;
const IP_UNICAST_IF: i32 = 50;
const IPV6_UNICAST_IF: i32 = 76;

/// What numbers links have now, by those that they had.
#[derive(Debug, Default)]
pub struct Links {
    numbers: BTreeMap<u32, u32>,
    /// Sockets of other network namespaces, whose links are made with the numbers that they had.
    others: BTreeSet<Id>,
}

impl Links {
    /// Looks for all links of the records.
    pub fn of(world: &World<'_>) -> Self {
        Self {
            numbers: links::Links::there(world).numbers(),
            others: world.network_of.keys().copied().collect(),
        }
    }

    fn now(&self, link: u32) -> Restored<u32> {
        match link {
            0 | LOOPBACK => Ok(link),
            _ => (self.numbers.get(&link).copied())
                .ok_or_else(|| Refusal::new("socket", format!("its link, number {link} before, is not there"))),
        }
    }

    /// A record with the numbers that links have now.
    pub fn renumbered(&self, id: Id, record: &Socket) -> Restored<Socket> {
        let mut record = record.clone();
        if self.others.contains(&id) {
            return Ok(record);
        }
        for option in &mut record.options {
            self.renumber(option)?;
        }
        if let SocketState::Packet { link, .. } = &mut record.state {
            *link = self.now(*link)?;
        }
        Ok(record)
    }

    fn renumber(&self, option: &mut SocketOption) -> Restored<()> {
        let known = WITH_LINK
            .iter()
            .find(|(level, name, ..)| (*level, *name) == (option.level, option.name));
        let Some(&(.., at, big_endian)) = known else {
            return Ok(());
        };
        let cut_short = || Refusal::new("socket", format!("option {} is cut short", option.name));
        let bytes = option.value.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
        let bytes: &mut [u8; 4] = bytes.ok_or_else(cut_short)?;
        *bytes = match big_endian {
            true => self.now(u32::from_be_bytes(*bytes))?.to_be_bytes(),
            false => self.now(u32::from_ne_bytes(*bytes))?.to_ne_bytes(),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(level: i32, name: i32, value: &[u8]) -> SocketOption {
        let value = value.to_vec();
        SocketOption { level, name, value }
    }

    #[test]
    fn links_get_the_numbers_that_they_have_now() {
        let links = Links {
            numbers: BTreeMap::from([(2, 3), (3, 2)]),
            others: BTreeSet::from([9]),
        };
        let record = Socket {
            options: vec![
                option(libc::SOL_SOCKET, SO_BINDTOIFINDEX, &2u32.to_ne_bytes()),
                option(libc::IPPROTO_IP, IP_UNICAST_IF, &3u32.to_be_bytes()),
                option(
                    libc::IPPROTO_IP,
                    libc::IP_ADD_MEMBERSHIP,
                    &[224, 0, 0, 9, 10, 0, 0, 2, 2, 0, 0, 0],
                ),
                option(libc::SOL_SOCKET, libc::SO_REUSEADDR, &2u32.to_ne_bytes()),
            ],
            state: SocketState::Packet { protocol: 3, link: 1 },
            ..Socket::default()
        };
        assert_eq!(links.renumbered(9, &record).expect("as it was"), record);
        let now = links.renumbered(8, &record).expect("all are there");
        let values: Vec<&[u8]> = now.options.iter().map(|option| &option.value[..]).collect();
        assert_eq!(values[0], 3u32.to_ne_bytes());
        assert_eq!(values[1], 2u32.to_be_bytes());
        assert_eq!(values[2], [224, 0, 0, 9, 10, 0, 0, 2, 3, 0, 0, 0]);
        assert_eq!(values[3], 2u32.to_ne_bytes());
        assert_eq!(now.state, record.state);
        assert!(Links::default().renumbered(8, &record).is_err());
        let short = Socket {
            options: vec![option(libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &[0; 8])],
            ..Socket::default()
        };
        assert!(links.renumbered(8, &short).is_err());
    }
}
