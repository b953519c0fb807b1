//! Which of the machine's links a card is, or carries: a bridge and a bond have the hardware address of a port, and their
//! addresses are reached by it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use shared_region::context::{LinkSetup, Network};
use shared_region::record::{Kind, Stream};

/// The kind of a link whose packets are marked on the wire.
const MARKED: &[u8] = b"vlan";

/// What the records know of the network, without the links whose packets look different on the wire.
pub fn unmarked(stream: &Stream<'_>) -> Option<Network> {
    let (mut network, mut marked) = (None::<Network>, BTreeSet::new());
    for record in stream.records().map_while(Result::ok) {
        match record.kind {
            Kind::Network => network = record.decode().ok(),
            Kind::LinkSetups => {
                let setups = record.decode::<Vec<LinkSetup>>().unwrap_or_default();
                let of_vlans = setups.iter().filter(|setup| setup.kind == MARKED);
                marked.extend(of_vlans.map(|setup| setup.index));
            }
            _ => {}
        }
    }
    let mut network = network?;
    network.links.retain(|link| !marked.contains(&link.index));
    Some(network)
}

/// The numbers of the links with a hardware address.
pub fn of_card<'n>(network: &'n Network, hardware: &'n [u8; 6]) -> impl Iterator<Item = u32> + 'n {
    let same = network.links.iter().filter(move |link| link.hardware == *hardware);
    same.map(|link| link.index)
}
