//! Where an address of this program's own is: on which card, and by which ways others are reached from there. And whether it may
//! be anywhere.

use crate::links;
use alloc::vec::Vec;
use core::cmp::Reverse;
use shared_region::context::{Network, NetworkRoute};
use shared_region::record::Stream;
use shared_region::status_page::{LogTarget, StatusAddress};
use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

/// `RTN_UNICAST` (include/uapi/linux/rtnetlink.h).
const UNICAST: u8 = 1;

/// Where the address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: StatusAddress,
    /// Which of the cards.
    pub card: usize,
    /// Routes to what is not in its network, one to everybody and one to the target, if there are.
    pub routes: Vec<(Ipv4Cidr, Ipv4Address)>,
}

/// Why the address is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silent {
    /// What addresses the machine has is not known.
    Unknown,
    /// The machine has the address itself.
    TheMachines,
    /// No card is held that had a link.
    NoCard,
}

impl Silent {
    /// In words, behind the address.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => "is silent: it is not known whether the machine has it itself",
            Self::TheMachines => "is silent: the machine has it itself",
            Self::NoCard => "is silent: no card is held that had a link",
        }
    }
}

impl Place {
    /// Finds a place by what the records know of the network: the card in whose network the address is, else the first that
    /// was in use.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(
        stream: &Stream<'_>,
        address: StatusAddress,
        target: Option<LogTarget>,
        cards: &[[u8; 6]],
    ) -> Result<Self, Silent> {
        Self::within(&links::unmarked(stream).ok_or(Silent::Unknown)?, address, target, cards)
    }

    fn within(
        network: &Network,
        address: StatusAddress,
        target: Option<LogTarget>,
        cards: &[[u8; 6]],
    ) -> Result<Self, Silent> {
        // What salvage says when it could not read all links: there may be more addresses.
        if network.left_out.iter().any(|what| what.starts_with(b"links")) {
            return Err(Silent::Unknown);
        }
        let own = address.address.octets();
        if network.addresses.iter().any(|known| ends_in(&known.local, own)) {
            return Err(Silent::TheMachines);
        }
        let linked = || {
            let cards = cards.iter().enumerate();
            cards.flat_map(|(at, card)| links::of_card(network, card).map(move |link| (at, link)))
        };
        let is_near = |&(_, link): &(usize, u32)| {
            let mut addresses = network.addresses.iter().filter(|known| known.link == link);
            addresses.any(|known| <[u8; 4]>::try_from(&*known.local).is_ok_and(|four| address.is_near(four.into())))
        };
        let (card, link) = linked()
            .find(is_near)
            .or_else(|| linked().next())
            .ok_or(Silent::NoCard)?;
        let gateway = |to: Ipv4Address| gateway(&network.routes, link, to).filter(|via| address.is_near(*via));
        let mut routes: Vec<_> = gateway(Ipv4Address::UNSPECIFIED)
            .map(|via| (Ipv4Cidr::new(Ipv4Address::UNSPECIFIED, 0), via))
            .into_iter()
            .collect();
        if let Some(target) = target.filter(|target| !address.is_near(target.address)) {
            let via = gateway(target.address);
            routes.extend(via.map(|via| (Ipv4Cidr::new(target.address, 32), via)));
        }
        Ok(Self { address, card, routes })
    }

    /// Whether there is a way to an address.
    pub fn reaches(&self, to: Ipv4Address) -> bool {
        self.address.is_near(to) || self.routes.iter().any(|(network, _)| network.contains_addr(&to))
    }
}

/// Whether an address of IPv4 or IPv6 is this one of IPv4.
fn ends_in(bytes: &[u8], own: [u8; 4]) -> bool {
    bytes == own || bytes.strip_prefix(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]) == Some(&own[..])
}

/// The neighbour on the way to an address, by the narrowest route of a link; to 0.0.0.0: on the way to everybody.
fn gateway(routes: &[NetworkRoute], link: u32, to: Ipv4Address) -> Option<Ipv4Address> {
    let leads = |route: &&NetworkRoute| {
        let network = (route.prefix <= 32).then(|| Ipv4Cidr::new(route.destination.into(), route.prefix));
        route.link == link && route.kind == UNICAST && network.is_some_and(|network| network.contains_addr(&to))
    };
    let leading = routes.iter().filter(leads);
    let narrowest = leading.max_by_key(|route| (route.prefix, Reverse(route.priority)))?;
    narrowest.gateway.map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use shared_region::context::{NetworkAddress, NetworkLink};

    const FIRST: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const SECOND: [u8; 6] = [2, 0, 0, 0, 0, 8];

    fn network() -> Network {
        let link = |index, hardware: [u8; 6]| NetworkLink {
            index,
            hardware: hardware.to_vec(),
            ..NetworkLink::default()
        };
        let local = |link, local: &[u8]| NetworkAddress {
            link,
            local: local.to_vec(),
            ..NetworkAddress::default()
        };
        let route = |destination, prefix, gateway: [u8; 4], priority| NetworkRoute {
            destination,
            prefix,
            gateway: Some(gateway),
            link: 3,
            priority,
            kind: UNICAST,
            ..NetworkRoute::default()
        };
        let mut mapped = vec![0; 16];
        mapped[10..].copy_from_slice(&[0xFF, 0xFF, 10, 1, 0, 7]);
        Network {
            links: vec![link(2, FIRST), link(3, SECOND)],
            addresses: vec![local(2, &[10, 0, 0, 2]), local(3, &[10, 1, 0, 2]), local(3, &mapped)],
            routes: vec![
                route([0; 4], 0, [10, 1, 0, 254], 100),
                route([0; 4], 0, [10, 1, 0, 1], 5),
                route([10, 9, 0, 0], 16, [10, 1, 0, 9], 0),
                route([10, 9, 9, 0], 24, [10, 2, 0, 9], 0),
            ],
            left_out: Vec::new(),
        }
    }

    fn find(address: &str, target: Option<&str>, cards: &[[u8; 6]]) -> Result<Place, Silent> {
        let target = target.map(|target| LogTarget::parse(target).unwrap());
        Place::within(&network(), StatusAddress::parse(address).unwrap(), target, cards)
    }

    #[test]
    fn an_address_of_the_machine_is_never_answered_for() {
        for address in ["10.0.0.2/24", "10.1.0.2/8", "10.1.0.7/24"] {
            assert_eq!(find(address, None, &[FIRST, SECOND]), Err(Silent::TheMachines));
        }
        let mut area = vec![0; 4096];
        let writer = shared_region::record::Writer::new(&mut area, 1).unwrap();
        writer.finish();
        let stream = Stream::open(&area).unwrap();
        let address = StatusAddress::parse("10.0.0.3/24").unwrap();
        assert_eq!(Place::find(&stream, address, None, &[FIRST]), Err(Silent::Unknown));
        let incomplete = Network {
            left_out: vec![b"links: unreadable".to_vec()],
            ..network()
        };
        assert_eq!(
            Place::within(&incomplete, address, None, &[FIRST]),
            Err(Silent::Unknown)
        );
    }

    #[test]
    fn the_place_is_on_the_card_of_its_network() {
        let card = |address, cards: &[[u8; 6]]| find(address, None, cards).map(|place| place.card);
        assert_eq!(card("10.1.0.3/24", &[FIRST, SECOND]), Ok(1));
        assert_eq!(card("10.0.0.3/24", &[FIRST, SECOND]), Ok(0));
        assert_eq!(
            card("192.168.0.3/24", &[[1; 6], SECOND, FIRST]),
            Ok(1),
            "the first with a link"
        );
        assert_eq!(card("10.0.0.3/24", &[[1; 6]]), Err(Silent::NoCard));
    }

    #[test]
    fn who_is_not_near_is_reached_by_the_machines_routes() {
        let everybody = (
            Ipv4Cidr::new(Ipv4Address::UNSPECIFIED, 0),
            Ipv4Address::new(10, 1, 0, 1),
        );
        let near = find("10.1.0.3/24", Some("10.1.0.2:514"), &[SECOND]).unwrap();
        assert_eq!(near.routes, [everybody]);
        assert!(near.reaches(Ipv4Address::new(192, 0, 2, 1)));
        let far = find("10.1.0.3/24", Some("10.9.1.1"), &[SECOND]).unwrap();
        let to_target = Ipv4Cidr::new(Ipv4Address::new(10, 9, 1, 1), 32);
        assert_eq!(far.routes, [everybody, (to_target, Ipv4Address::new(10, 1, 0, 9))]);
        // A neighbour who is not on this wire is none.
        let none = find("10.1.0.3/24", Some("10.9.9.1"), &[SECOND]).unwrap();
        assert_eq!(none.routes, [everybody]);
        let other = find("10.0.0.3/24", Some("10.9.9.1"), &[FIRST]).unwrap();
        assert!(other.routes.is_empty() && !other.reaches(Ipv4Address::new(10, 9, 9, 1)));
    }
}
