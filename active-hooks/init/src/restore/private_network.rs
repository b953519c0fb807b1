//! What is in a network namespace: links, settings, addresses, routes.

use super::{OrRefuse, Refusal, Restored};
use crate::takeover::{
    links::{self, Links, LOOPBACK},
    netlink::Netlink,
    network, network_settings,
};
use shared_region::context::{NamespaceNetwork, NetworkAddress, NetworkNamespace};
use std::{io::ErrorKind, os::fd::BorrowedFd};

/// What the link has as soon as it is up: address, and bits of the network's part.
const BY_ITSELF: [(&[u8], u8); 2] = [
    (&[127, 0, 0, 1], 8),
    (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 128),
];

/// Sets up the network that the agent is in. `inside` is how to ask the first one, and this one's namespace.
pub fn set_up(
    record: &NetworkNamespace,
    more: Option<&NamespaceNetwork>,
    inside: (&Netlink, BorrowedFd<'_>),
) -> Restored<()> {
    let network = links::Network::own(Some(inside)).or_refuse(|| "network namespace")?;
    let links = more.map(|more| {
        let mut links = Links::of_namespace(more);
        links.make(&network);
        links
    });
    // Some are about links, and count from when these run.
    network_settings::set(&record.settings).map_err(|why| Refusal::new("a setting of the network", why))?;
    loopback(&network.netlink, record)?;
    if let (Some(more), Some(links)) = (more, links) {
        links.set_up(&network, &more.down);
        let mut numbers = links.numbers();
        numbers.insert(LOOPBACK, LOOPBACK);
        network::set(&network, &more.network, &more.network6, &numbers);
    }
    match network.failed().first() {
        Some(failed) => Err(Refusal::new("network namespace", failed)),
        None => Ok(()),
    }
}

fn loopback(netlink: &Netlink, record: &NetworkNamespace) -> Restored<()> {
    if record.up {
        links::run(netlink, LOOPBACK).or_refuse(|| "its loopback link")?;
    }
    for address in &record.addresses {
        let life = record.lives.iter().find(|life| life.address == address.local[..]);
        match network::add_address(netlink, address, life, LOOPBACK) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            added => added.or_refuse(|| "an address of its loopback link")?,
        }
    }
    for (address, prefix) in BY_ITSELF {
        let is_it = |known: &NetworkAddress| known.local == address && known.prefix == prefix;
        if record.up && !record.addresses.iter().any(is_it) {
            network::remove_address(netlink, address, prefix, LOOPBACK)
                .or_refuse(|| "an address that was taken away")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use std::{fs, net::TcpListener, os::fd::AsFd};

    /// Does something in a thread with a network of its own, if that is possible here.
    fn apart(act: fn()) {
        let inside = move || match sys::unshare(libc::CLONE_NEWNET) {
            Ok(()) => act(),
            Err(error) => eprintln!("skipped: {error}"),
        };
        std::thread::spawn(inside).join().expect("as it should be");
    }

    /// Of a namespace that no other belongs to.
    fn of_own(record: &NetworkNamespace) -> Restored<()> {
        let first = Netlink::open().expect("netlink");
        let namespace = fs::File::open("/proc/thread-self/ns/net").expect("namespace");
        set_up(record, None, (&first, namespace.as_fd()))
    }

    fn setting(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
        (name.into(), value.into())
    }

    #[test]
    fn a_network_is_set_up_as_it_was() {
        apart(|| {
            let address = |local: &[u8], prefix| NetworkAddress {
                link: LOOPBACK,
                local: local.to_vec(),
                address: local.to_vec(),
                prefix,
                ..NetworkAddress::default()
            };
            let record = NetworkNamespace {
                up: true,
                addresses: vec![address(BY_ITSELF[1].0, 128), address(&[10, 99, 0, 7], 32)],
                lives: Vec::new(),
                settings: vec![
                    setting("net/ipv4/ip_default_ttl", "77"),
                    // Not before the next one is set.
                    setting("net/ipv4/ip_local_port_range", "500\t600"),
                    setting("net/ipv4/ip_unprivileged_port_start", "400"),
                    setting("net/ipv4/of_another_kernel", "1"),
                ],
            };
            of_own(&record).expect("set up");
            for (path, value) in [("ip_default_ttl", "77"), ("ip_local_port_range", "500\t600")] {
                let now = fs::read_to_string(format!("/proc/sys/net/ipv4/{path}")).expect("setting");
                assert_eq!(now.trim(), value, "{path}");
            }
            let bound = ["127.0.0.1:0", "[::1]:0", "10.99.0.7:0"].map(|address| TcpListener::bind(address).is_ok());
            assert_eq!(bound, [false, true, true]);
        });
    }

    #[test]
    fn a_setting_that_cannot_be_set_is_named() {
        apart(|| {
            let record = NetworkNamespace {
                settings: vec![setting("net/ipv4/ip_default_ttl", "0")],
                ..NetworkNamespace::default()
            };
            let words = of_own(&record).expect_err("no packet would arrive").to_string();
            assert!(words.contains("/proc/sys/net/ipv4/ip_default_ttl: Invalid"), "{words}");
        });
    }
}
