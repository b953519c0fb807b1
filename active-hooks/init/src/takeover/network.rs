//! The machine's network as it was: links, addresses, routes. While sockets are being restored nothing is taken from the
//! wire: a segment for a connection that does not stand yet would be answered with a reset.

use super::{
    links::{self, Links},
    netlink::{Netlink, Payload, CREATE, EXCL},
    network_settings,
};
use crate::{
    boot::{log, modules},
    restore::{
        meter::{self, Part},
        world::World,
    },
};
use orthros_device::{Device, DeviceError, Region};
use shared_region::{
    context::{AddressLife, Network as NetworkSettings, Network6, NetworkAddress, NetworkRoute, NetworkRoute6},
    control::{ControlWords, NetworkHold},
    timeline::Event,
};
use std::{
    collections::BTreeMap,
    io,
    mem::offset_of,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

/// Requests (include/uapi/linux/rtnetlink.h).
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
/// Attributes: of addresses, of routes, of rules.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_PREF: u16 = 20;
const RTA_EXPIRES: u16 = 23;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_PROTOCOL: u16 = 21;
/// `RTPROT_KERNEL`.
const BY_KERNEL: u8 = 2;
/// `IFA_F_NODAD`: the address was this machine's all the time.
const NO_DAD: u8 = 2;
/// `IFA_F_HOMEADDRESS`, `_MANAGETEMPADDR`, `_NOPREFIXROUTE`, `_MCAUTOJOIN`: those that can be given.
const LASTING: u32 = 0x10 | 0x100 | 0x200 | 0x400;
/// Tables `RT_TABLE_MAIN` and `RT_TABLE_LOCAL`; actions `FR_ACT_TO_TBL` and `FR_ACT_BLACKHOLE`.
const MAIN: u8 = 254;
const LOCAL: u8 = 255;
const TO_TABLE: u8 = 1;
const BLACKHOLE: u8 = 6;
/// Types of routes that refuse packets and have no link, or loopback for form's sake: `RTN_BLACKHOLE` to `RTN_THROW`.
const REFUSES: RangeInclusive<u8> = 6..=9;
/// How long the backup OS may take to let go of the network, and between two looks.
const LETTING_GO: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_micros(200);

/// Whether the backup OS holds the network.
pub fn is_held(region: &Region) -> bool {
    region.control(offset_of!(ControlWords, network_hold)) == NetworkHold::Holding as u64
}

/// Loads the drivers of the network that were put off: the backup OS, which holds it, is asked to let go first.
pub fn let_in() {
    if !modules::are_put_off() {
        return;
    }
    meter::at(Part::Devices, || {
        match released() {
            Ok(true) => {}
            Ok(false) => log::error(format_args!("network: the backup OS has not let go of it")),
            Err(error) => log::warning(format_args!("network: {error}; the backup OS is not asked for it")),
        }
        modules::load_later();
    });
}

/// Whether the backup OS has let go, or did not hold it.
fn released() -> Result<bool, DeviceError> {
    let device = Device::open()?;
    let region = device.region()?;
    device.stamp(Event::NetworkWanted)?;
    let since = Instant::now();
    while is_held(&region) {
        if since.elapsed() > LETTING_GO {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
    Ok(true)
}

/// The wire is cut until this is let go.
#[derive(Debug)]
pub struct Held<'w> {
    network: links::Network<'static>,
    links: Links<'w>,
}

/// Brings the network back, cut off from the wire. What does not work is told; whoever needs it is refused by it.
pub fn bring_back<'w>(world: &'w World<'_>) -> Option<Held<'w>> {
    for left_out in &world.network.left_out {
        log::warning(format_args!("network: {}", String::from_utf8_lossy(left_out)));
    }
    // Without sockets and namespaces nobody needs it before the new system brings it.
    if world.sockets.is_empty() && world.inside.is_empty() {
        return None;
    }
    let network = match links::Network::own(None) {
        Ok(network) => network,
        Err(error) => {
            log::error(format_args!("network: {error}; it is not brought back"));
            return None;
        }
    };
    tell(&network, "loopback", links::run(&network.netlink, links::LOOPBACK));
    let mut links = Links::find(world);
    links.make(&network);
    let held = Held { network, links };
    tell(&held.network, "holding the wire", held.cut());
    if let Err(why) = network_settings::set(&world.network_settings) {
        held.network.tell(format_args!("{why}"));
    }
    held.links.set_up(&held.network, &held.links.ports_of_pairs());
    let numbers = held.links.numbers();
    set(&held.network, &world.network, &world.network6, &numbers);
    Some(held)
}

fn tell(network: &links::Network<'_>, what: &str, done: io::Result<()>) {
    if let Err(error) = done {
        network.tell(format_args!("{what}: {error}"));
    }
}

/// Sets addresses and routes of links that run; `numbers` are those that they have, by those that they had.
pub fn set(network: &links::Network<'_>, four: &NetworkSettings, six: &Network6, numbers: &BTreeMap<u32, u32>) {
    let netlink = &network.netlink;
    for address in &four.addresses {
        if let Some(&index) = numbers.get(&address.link) {
            let is_its = |life: &&AddressLife| life.link == address.link && life.address == address.local[..];
            let life = six.lives.iter().find(is_its);
            tell(network, "address", add_address(netlink, address, life, index));
        }
    }
    // Those to a link come before those to a neighbour on it: the wider the scope, the smaller its number.
    let mut routes: Vec<&NetworkRoute> = four.routes.iter().collect();
    routes.sort_by_key(|route| std::cmp::Reverse(route.scope));
    for route in routes {
        if let Some(index) = way_out(numbers, route.link, route.kind) {
            tell(network, "route", add_route(netlink, route, index));
        }
    }
    // Here too, those that lead to neighbours come last.
    let mut routes: Vec<&NetworkRoute6> = six.routes.iter().collect();
    routes.sort_by_key(|route| route.gateway.is_some());
    for route in routes {
        if let Some(index) = way_out(numbers, route.link, route.kind) {
            tell(network, "route of IPv6", add_route6(netlink, route, index));
        }
    }
}

impl Held<'_> {
    /// Lets the wire in.
    pub fn let_go(self) {
        if let Err(error) = self.mend() {
            log::error(format_args!("network: nothing comes in from the wire: {error}"));
        }
        self.links.forget_waiting(&self.network.netlink);
        self.links.let_ports_run(&self.network);
    }

    /// Packets from outside are looked up in a rule that drops them without an answer. It has to come before the one that
    /// finds the own addresses, which is the first: that one gives way for the time.
    fn cut(&self) -> io::Result<()> {
        for family in FAMILIES {
            rule(&self.network.netlink, NEW_RULE, family, 1, LOCAL, None)?;
            rule(&self.network.netlink, DELETE_RULE, family, 0, LOCAL, None)?;
            for link in &self.links.names() {
                rule(&self.network.netlink, NEW_RULE, family, 0, 0, Some(link))?;
            }
        }
        Ok(())
    }

    /// Goes through with all of it whatever fails: [`Self::cut`] may have got half way. Returns the first error.
    fn mend(&self) -> io::Result<()> {
        let mut result = Ok(());
        let mut step = |done: io::Result<()>| match done {
            // As it should be already.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOENT)) => {}
            done => result = std::mem::replace(&mut result, Ok(())).and(done),
        };
        for family in FAMILIES {
            step(rule(&self.network.netlink, NEW_RULE, family, 0, LOCAL, None));
            step(rule(&self.network.netlink, DELETE_RULE, family, 1, LOCAL, None));
            for link in &self.links.names() {
                step(rule(&self.network.netlink, DELETE_RULE, family, 0, 0, Some(link)));
            }
        }
        result
    }
}

const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// A rule that leads to a table, or drops what comes from a link. It counts as the kernel's own: network managers remove whatever
/// else they have not made, and without the rule that finds the own addresses nothing would arrive any more.
fn rule(netlink: &Netlink, kind: u16, family: u8, priority: u32, table: u8, from: Option<&str>) -> io::Result<()> {
    let action = if from.is_some() { BLACKHOLE } else { TO_TABLE };
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, reserved twice, action, flags.
    let head = [family, 0, 0, 0, table, 0, 0, action, 0, 0, 0, 0];
    let mut payload = Payload::new(&head)
        .with(FRA_PRIORITY, &priority.to_ne_bytes())
        .with(FRA_PROTOCOL, &[BY_KERNEL]);
    if let Some(link) = from {
        payload = payload.with(FRA_IIFNAME, &[link.as_bytes(), &[0]].concat());
    }
    let flags = if kind == NEW_RULE { CREATE | EXCL } else { 0 };
    match netlink.ask(kind, flags, payload) {
        // A kernel without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && family != FAMILIES[0] => Ok(()),
        other => other,
    }
}

/// Gives an address to a link.
///
/// # Errors
/// What the kernel answers.
pub fn add_address(
    netlink: &Netlink,
    address: &NetworkAddress,
    life: Option<&AddressLife>,
    index: u32,
) -> io::Result<()> {
    let six = address.local.len() == 16;
    let family = FAMILIES[usize::from(six)];
    let flags = if six { NO_DAD } else { 0 };
    // One that has run out is not there any more.
    if life.is_some_and(|life| life.valid == 0) {
        return Ok(());
    }
    // struct ifaddrmsg: family, prefix length, flags, scope, link.
    let head = [
        &[family, address.prefix, flags, address.scope][..],
        &index.to_ne_bytes(),
    ]
    .concat();
    let mut payload = Payload::new(&head)
        .with(IFA_LOCAL, &address.local)
        .with(IFA_ADDRESS, &address.address);
    if address.broadcast != 0 {
        payload = payload.with(IFA_BROADCAST, &address.broadcast.to_ne_bytes());
    }
    if !address.label.is_empty() {
        payload = payload.with(IFA_LABEL, &[&address.label[..], &[0]].concat());
    }
    if let Some(life) = life {
        // struct ifa_cacheinfo: preferred, valid, and two that are the kernel's.
        let lives = [life.preferred, life.valid, 0, 0].map(u32::to_ne_bytes).concat();
        let flags = u32::from(NO_DAD) | life.flags & LASTING;
        payload = payload
            .with(IFA_CACHEINFO, &lives)
            .with(IFA_FLAGS, &flags.to_ne_bytes());
    }
    netlink.ask(NEW_ADDRESS, CREATE, payload)
}

/// Takes an address from a link.
///
/// # Errors
/// What the kernel answers; an address that is not there is none.
pub fn remove_address(netlink: &Netlink, address: &[u8], prefix: u8, index: u32) -> io::Result<()> {
    let family = FAMILIES[usize::from(address.len() == 16)];
    // struct ifaddrmsg, as above.
    let head = [&[family, prefix, 0, 0][..], &index.to_ne_bytes()].concat();
    match netlink.ask(DELETE_ADDRESS, 0, Payload::new(&head).with(IFA_LOCAL, address)) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        removed => removed,
    }
}

/// The link by which packets leave, none for a route that refuses them; `None` if that link is not there any more.
fn way_out(numbers: &BTreeMap<u32, u32>, link: u32, kind: u8) -> Option<Option<u32>> {
    if REFUSES.contains(&kind) {
        return Some(None);
    }
    numbers.get(&link).copied().map(Some)
}

/// What routes of both kinds have.
struct Route<'r> {
    family: u8,
    destination: &'r [u8],
    prefix: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    link: Option<u32>,
    gateway: Option<&'r [u8]>,
    /// All zeros for any.
    source: &'r [u8],
}

impl Route<'_> {
    fn payload(&self) -> Payload {
        // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
        let Self {
            family,
            prefix,
            protocol,
            scope,
            kind,
            ..
        } = *self;
        let head = [family, prefix, 0, 0, MAIN, protocol, scope, kind, 0, 0, 0, 0];
        let mut payload = Payload::new(&head).with(RTA_DST, self.destination);
        if let Some(link) = self.link {
            payload = payload.with(RTA_OIF, &link.to_ne_bytes());
        }
        if let Some(gateway) = self.gateway {
            payload = payload.with(RTA_GATEWAY, gateway);
        }
        if self.source.iter().any(|&byte| byte != 0) {
            payload = payload.with(RTA_PREFSRC, self.source);
        }
        payload
    }
}

fn add_route(netlink: &Netlink, route: &NetworkRoute, link: Option<u32>) -> io::Result<()> {
    let common = Route {
        family: FAMILIES[0],
        destination: &route.destination,
        prefix: route.prefix,
        protocol: route.protocol,
        scope: route.scope,
        kind: route.kind,
        link,
        gateway: route.gateway.as_ref().map(|gateway| &gateway[..]),
        source: &route.source,
    };
    let mut payload = common.payload();
    if route.priority != 0 {
        payload = payload.with(RTA_PRIORITY, &route.priority.to_ne_bytes());
    }
    netlink.ask(NEW_ROUTE, CREATE, payload)
}

fn add_route6(netlink: &Netlink, route: &NetworkRoute6, link: Option<u32>) -> io::Result<()> {
    let common = Route {
        family: FAMILIES[1],
        destination: &route.destination,
        prefix: route.prefix,
        protocol: route.protocol,
        // IPv6 knows none.
        scope: 0,
        kind: route.kind,
        link,
        gateway: route.gateway.as_ref().map(|gateway| &gateway[..]),
        source: &route.source,
    };
    let mut payload = common
        .payload()
        .with(RTA_PRIORITY, &route.priority.to_ne_bytes())
        .with(RTA_PREF, &[route.preference]);
    if let Some(seconds) = route.expires {
        payload = payload.with(RTA_EXPIRES, &seconds.to_ne_bytes());
    }
    netlink.ask(NEW_ROUTE, CREATE, payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::sockets::SocketContent;
    use shared_region::context::{Network, NetworkLink};
    use std::{
        net::{TcpStream, UdpSocket},
        process::Command,
    };

    fn ip(words: &str) -> String {
        let output = Command::new("ip").args(words.split(' ')).output().expect("ip");
        assert!(output.status.success(), "ip {words}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// In a network namespace of its own, with a sysfs that shows it:
    /// `unshare -nm sh -c 'mount -t sysfs sysfs /sys && cargo test -p orthros-init --lib -- --ignored network'`.
    #[test]
    #[ignore = "needs a network namespace of its own"]
    fn the_network_comes_back_cut_off_from_the_wire() {
        ip("link add v0 address 02:00:00:00:00:01 type veth peer name v1");
        let world = World {
            network: Network {
                links: vec![NetworkLink {
                    index: 77,
                    name: b"eth7".to_vec(),
                    hardware: vec![2, 0, 0, 0, 0, 1],
                    mtu: 1400,
                }],
                addresses: vec![NetworkAddress {
                    link: 77,
                    local: vec![10, 7, 0, 2],
                    address: vec![10, 7, 0, 2],
                    prefix: 24,
                    broadcast: u32::from_ne_bytes([10, 7, 0, 255]),
                    ..NetworkAddress::default()
                }],
                routes: vec![
                    NetworkRoute {
                        gateway: Some([10, 7, 0, 1]),
                        link: 77,
                        protocol: 3,
                        kind: 1,
                        ..NetworkRoute::default()
                    },
                    NetworkRoute {
                        destination: [10, 8, 0, 0],
                        prefix: 16,
                        protocol: 3,
                        kind: *REFUSES.start(),
                        ..NetworkRoute::default()
                    },
                ],
                left_out: Vec::new(),
            },
            sockets: [(1, SocketContent::default())].into(),
            ..World::default()
        };
        // With who has made them.
        let rules = || ip("-details rule show") + &ip("-6 -details rule show");
        let first = rules();
        let held = bring_back(&world).expect("held");
        ip("link set v1 up");
        let shown = ip("-4 addr show v0");
        assert!(
            shown.contains("mtu 1400") && shown.contains("10.7.0.2/24 brd 10.7.0.255"),
            "{shown}"
        );
        let routes = ip("-4 route show");
        assert!(routes.contains("default via 10.7.0.1 dev v0"), "{routes}");
        assert!(routes.contains("blackhole 10.8.0.0/16"), "{routes}");
        let cut = ip("rule show");
        assert!(cut.starts_with("0:\tfrom all iif v0 blackhole"), "{cut}");
        // What does not come from the wire still arrives.
        let socket = UdpSocket::bind("10.7.0.2:0").expect("own address");
        socket
            .send_to(b"x", socket.local_addr().expect("address"))
            .expect("sent");
        let timeout = Some(Duration::from_secs(5));
        socket.set_read_timeout(timeout).expect("time-out");
        assert_eq!(socket.recv(&mut [0; 4]).expect("received"), 1);
        held.let_go();
        assert_eq!(rules(), first);
        drop(TcpStream::connect("10.7.0.2:1").expect_err("nobody listens"));
    }
}
