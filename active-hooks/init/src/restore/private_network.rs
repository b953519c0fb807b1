//! What is in a network with the loopback link alone: settings, the link, its addresses.

use super::{OrRefuse, Refusal, Restored};
use crate::takeover::{
    links::{self, LOOPBACK},
    netlink::Netlink,
    network,
};
use shared_region::context::{NetworkAddress, NetworkNamespace};
use std::{fs, io::ErrorKind, path::Path};

/// One setting may allow another: so often are all gone through.
const ROUNDS: usize = 3;
/// What the link has as soon as it is up: address, and bits of the network's part.
const BY_ITSELF: [(&[u8], u8); 2] = [
    (&[127, 0, 0, 1], 8),
    (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 128),
];

/// Sets up the network that the agent is in.
pub fn set_up(record: &NetworkNamespace) -> Restored<()> {
    let what = || "network namespace";
    settings(&record.settings)?;
    let netlink = Netlink::open().or_refuse(what)?;
    if record.up {
        links::run(&netlink, LOOPBACK).or_refuse(|| "its loopback link")?;
    }
    for address in &record.addresses {
        let life = record.lives.iter().find(|life| life.address == address.local[..]);
        match network::add_address(&netlink, address, life, LOOPBACK) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            added => added.or_refuse(|| "an address of its loopback link")?,
        }
    }
    for (address, prefix) in BY_ITSELF {
        let is_it = |known: &NetworkAddress| known.local == address && known.prefix == prefix;
        if record.up && !record.addresses.iter().any(is_it) {
            network::remove_address(&netlink, address, prefix, LOOPBACK)
                .or_refuse(|| "an address that was taken away")?;
        }
    }
    Ok(())
}

/// Sets everything that is otherwise. A setting that this kernel does not have is left out.
fn settings(settings: &[(Vec<u8>, Vec<u8>)]) -> Restored<()> {
    let mut left: Vec<(String, &[u8])> = settings
        .iter()
        .map(|(name, value)| (format!("/proc/sys/{}", String::from_utf8_lossy(name)), &value[..]))
        .filter(|(path, _)| Path::new(path).exists())
        .collect();
    let mut why = String::new();
    for _ in 0..=ROUNDS {
        // Setting one may set another: all are looked at again.
        let different = left.iter().filter(|(path, value)| !is_set(path, value));
        let different: Vec<_> = different.cloned().collect();
        if different.is_empty() {
            return Ok(());
        }
        for (path, value) in different {
            if let Err(error) = fs::write(&path, value) {
                why = format!("{path}: {error}");
            }
        }
        left.sort();
    }
    Err(Refusal::new("a setting of the network", why))
}

fn is_set(path: &str, value: &[u8]) -> bool {
    fs::read(path).is_ok_and(|now| now.trim_ascii() == value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use std::net::TcpListener;

    /// Does something in a thread with a network of its own, if that is possible here.
    fn apart(act: fn()) {
        let inside = move || match sys::unshare(libc::CLONE_NEWNET) {
            Ok(()) => act(),
            Err(error) => eprintln!("skipped: {error}"),
        };
        std::thread::spawn(inside).join().expect("as it should be");
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
            set_up(&record).expect("set up");
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
            let words = set_up(&record).expect_err("no packet would arrive").to_string();
            assert!(words.contains("/proc/sys/net/ipv4/ip_default_ttl: Invalid"), "{words}");
        });
    }
}
