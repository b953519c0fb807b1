//! Links as they were: those of hardware are found, and others made again, with what they lie on and belong to.
//!
//! Of a pair (`veth`) with an end in a network namespace both ends are made in the first one, and the other waits there until its
//! namespace is made.

use super::netlink::{Netlink, Payload, CREATE, EXCL};
use crate::{boot::log, restore::world::World};
use shared_region::context::{waiting_end, LinkAttribute, LinkSetup, NamespaceNetwork, NetworkLink};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt, fs, io,
    os::fd::{AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

/// The number of loopback, in every kernel (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;
/// `RTM_NEWLINK` and its attributes (include/uapi/linux/rtnetlink.h, if_link.h).
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NEW_IFINDEX: u16 = 49;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// How long hardware may take to be there.
const PATIENCE: Duration = Duration::from_secs(3);

/// A link of the dead kernel, and what it is now.
#[derive(Debug)]
struct Link<'w> {
    was: &'w NetworkLink,
    /// Beside what [`NetworkLink`] says.
    setup: Option<&'w LinkSetup>,
    /// Name and number.
    now: Option<(String, u32)>,
}

impl Link<'_> {
    fn name(&self) -> String {
        String::from_utf8_lossy(&self.was.name).into_owned()
    }

    /// Name and number of the one that has its name now.
    fn by_name(&self) -> Option<(String, u32)> {
        let name = self.name();
        let index = index_of(&name)?;
        Some((name, index))
    }

    /// What it is made as, if it is no hardware.
    fn made(&self) -> Option<&LinkSetup> {
        self.setup.filter(|setup| !setup.kind.is_empty())
    }

    /// The address that hardware has before anybody gives it another.
    fn permanent(&self) -> &[u8] {
        let permanent = self.setup.map(|setup| setup.permanent.as_slice()).unwrap_or_default();
        if permanent.is_empty() {
            &self.was.hardware
        } else {
            permanent
        }
    }

    /// Whether it is an end of a pair.
    fn is_of_pair(&self) -> bool {
        self.setup.is_some_and(|setup| setup.kind == VETH)
    }

    /// Says what could not be done.
    fn tell(&self, network: &Network<'_>, what: &str, done: io::Result<()>) {
        if let Err(error) = done {
            network.tell(format_args!("link {}: {what}: {error}", self.name()));
        }
    }
}

/// A kind of link: both ends of a pair.
const VETH: &[u8] = b"veth";

/// The network in which links are made.
#[derive(Debug)]
pub struct Network<'n> {
    /// To ask it.
    pub netlink: Netlink,
    /// Of a namespace: where the ends of pairs wait, and the namespace.
    pub inside: Option<(&'n Netlink, BorrowedFd<'n>)>,
    /// What could not be done there; in the first one it is told at once.
    failed: RefCell<Vec<String>>,
}

impl<'n> Network<'n> {
    /// The one that this process is in.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn own(inside: Option<(&'n Netlink, BorrowedFd<'n>)>) -> io::Result<Self> {
        let netlink = Netlink::open()?;
        let failed = RefCell::default();
        Ok(Self {
            netlink,
            inside,
            failed,
        })
    }

    /// Says what could not be done.
    pub fn tell(&self, what: fmt::Arguments<'_>) {
        match self.inside {
            None => log::warning(format_args!("network: {what}")),
            Some(_) => self.failed.borrow_mut().push(what.to_string()),
        }
    }

    /// What could not be done.
    pub fn failed(&self) -> Vec<String> {
        self.failed.take()
    }
}

/// All links that ran. Those of hardware come first, and what lies on another comes behind it.
#[derive(Debug)]
pub struct Links<'w>(Vec<Link<'w>>);

impl<'w> Links<'w> {
    fn of(links: &'w [NetworkLink], setups: &'w [LinkSetup]) -> Self {
        let links = links.iter().map(|was| Link {
            was,
            setup: setups.iter().find(|setup| setup.index == was.index),
            now: None,
        });
        let mut links: Vec<Link<'_>> = links.collect();
        links.sort_by_key(|link| link.made().is_some());
        Self(links)
    }

    /// Those of the first namespace, but for ends of pairs whose other end nobody needs.
    fn of_first(world: &'w World<'_>) -> Self {
        let mut links = Self::of(&world.network.links, &world.link_setups);
        let ends = world.inside.values().flat_map(|inside| &inside.setups);
        let needed: Vec<u32> = ends.filter(|it| it.kind == VETH).map(|it| it.lower).collect();
        links
            .0
            .retain(|link| !link.is_of_pair() || needed.contains(&link.was.index));
        links
    }

    /// Those of a namespace.
    pub fn of_namespace(inside: &'w NamespaceNetwork) -> Self {
        Self::of(&inside.network.links, &inside.setups)
    }

    /// Finds those of hardware.
    pub fn find(world: &'w World<'_>) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let mut links = Self::of_first(world);
        for link in links.0.iter_mut().filter(|link| link.made().is_none()) {
            link.now = wait_for(link.permanent(), deadline);
            if link.now.is_none() {
                log::warning(format_args!("network: link {} is not there any more", link.name()));
            }
        }
        links
    }

    /// All that are there, once they run as they did.
    pub fn there(world: &'w World<'_>) -> Self {
        let mut links = Self::of_first(world);
        // A port and what it belongs to may have one address.
        let made = links.0.iter().filter(|link| link.made().is_some());
        let made: Vec<String> = made.map(Link::name).collect();
        for link in &mut links.0 {
            link.now = match link.made() {
                Some(_) => link.by_name(),
                None => find(&link.was.hardware, &made),
            };
        }
        links
    }

    /// What numbers they have now, by those that they had.
    pub fn numbers(&self) -> BTreeMap<u32, u32> {
        let now = |link: &Link<'_>| Some((link.was.index, link.now.as_ref()?.1));
        self.0.iter().filter_map(now).collect()
    }

    /// The names of those that are there.
    pub fn names(&self) -> Vec<String> {
        let names = self.0.iter().filter_map(|link| link.now.as_ref());
        names.map(|(name, _)| name.clone()).collect()
    }

    /// Makes those that are no hardware, as far as what they lie on is there, and lets ports belong to them.
    pub fn make(&mut self, network: &Network<'_>) {
        let mut order: Vec<Link<'w>> = Vec::new();
        let mut left = std::mem::take(&mut self.0);
        loop {
            let known = Self(order);
            let numbers = known.numbers();
            order = known.0;
            let ready = |link: &Link<'_>| {
                let lower = link.made().map_or(0, |setup| setup.lower);
                lower == 0 || link.is_of_pair() || numbers.contains_key(&lower)
            };
            let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(ready);
            left = later;
            if now.is_empty() {
                break;
            }
            order.extend(now.into_iter().map(|mut link| {
                if let Some(setup) = link.made() {
                    link.now = match (&network.inside, link.is_of_pair()) {
                        (Some(inside), true) => came(network, inside, &link, setup),
                        _ => made(network, &link, setup, numbers.get(&setup.lower).copied()),
                    };
                }
                link
            }));
        }
        for link in &left {
            network.tell(format_args!("link {}: what it lies on is not there", link.name()));
        }
        self.0 = order;
        let numbers = self.numbers();
        for link in &self.0 {
            let master = link.setup.and_then(|setup| numbers.get(&setup.master));
            if let (Some((_, index)), Some(master)) = (&link.now, master) {
                let payload = of(*index).with(IFLA_MASTER, &master.to_ne_bytes());
                link.tell(network, "as a port", network.netlink.ask(NEW_LINK, 0, payload));
            }
        }
    }

    /// Lets them run, but for some of the numbers that they had.
    pub fn set_up(&self, network: &Network<'_>, but: &[u32]) {
        let netlink = &network.netlink;
        for link in &self.0 {
            let Some((_, index)) = &link.now else { continue };
            let has_other = link.made().is_none() && link.permanent() != link.was.hardware;
            if has_other || network.inside.is_some() && link.is_of_pair() {
                let payload = of(*index).with(IFLA_ADDRESS, &link.was.hardware);
                link.tell(network, "its address", netlink.ask(NEW_LINK, 0, payload));
            }
            let head = match but.contains(&link.was.index) {
                true => of(*index),
                false => up(*index),
            };
            let payload = head.with(IFLA_MTU, &link.was.mtu.to_ne_bytes());
            link.tell(network, "running", netlink.ask(NEW_LINK, 0, payload));
        }
        for link in &self.0 {
            let later = link.made().filter(|setup| !setup.later.is_empty());
            if let (Some((_, index)), Some(setup)) = (&link.now, later) {
                let payload = of(*index).with(IFLA_LINKINFO, information(setup, &setup.later).bytes());
                link.tell(network, "as it was set", netlink.ask(NEW_LINK, 0, payload));
            }
        }
    }

    /// Lets those run that [`Self::ports_of_pairs`] has.
    pub fn let_ports_run(&self, network: &Network<'_>) {
        let ports = self.ports_of_pairs();
        for link in self.0.iter().filter(|link| ports.contains(&link.was.index)) {
            // One whose other end is gone is not there either.
            if let Some((_, index)) = link.by_name() {
                link.tell(network, "running", run(&network.netlink, index));
            }
        }
    }

    /// Ends of pairs that are ports, by the numbers that they had: what comes to the bridge from the wire goes on through them, past
    /// the rules of this machine.
    pub fn ports_of_pairs(&self) -> Vec<u32> {
        let is_port = |link: &&Link<'_>| link.is_of_pair() && link.setup.is_some_and(|setup| setup.master != 0);
        self.0.iter().filter(is_port).map(|link| link.was.index).collect()
    }

    /// Takes away what waits for a namespace that could not be made, with the end that stays.
    pub fn forget_waiting(&self, netlink: &Netlink) {
        for link in self.0.iter().filter(|link| link.is_of_pair()) {
            if let Some(index) = index_of(&waiting_end(link.was.index)) {
                let gone = netlink.ask(DELETE_LINK, 0, of(index));
                log::info(format_args!(
                    "network: link {} has no other end any more: {gone:?}",
                    link.name()
                ));
            }
        }
    }
}

/// Makes a link; returns its name and number. One of that name that is there already was made as its module was loaded.
fn made(network: &Network<'_>, link: &Link<'_>, setup: &LinkSetup, lower: Option<u32>) -> Option<(String, u32)> {
    let name = link.name();
    if !setup.not_made.is_empty() {
        let why = String::from_utf8_lossy(&setup.not_made);
        network.tell(format_args!("link {name} is not made again: {why}"));
        return None;
    }
    // Where nobody else makes any, it has the number that it had.
    let number = network.inside.map_or(0, |_| link.was.index);
    let mut payload = of(number)
        .with(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())
        .with(IFLA_ADDRESS, &link.was.hardware)
        .with(IFLA_LINKINFO, information(setup, &setup.first).bytes());
    if let Some(lower) = lower {
        payload = payload.with(IFLA_LINK, &lower.to_ne_bytes());
    }
    let asked = network.netlink.ask(NEW_LINK, CREATE | EXCL, payload);
    let is_made = asked.is_ok();
    link.tell(network, "making it", asked);
    match network.inside {
        Some(_) => is_made.then_some((name, number)),
        None => link.by_name(),
    }
}

/// Lets the end of a pair that waits in the first namespace come; returns its name and number.
fn came(
    network: &Network<'_>,
    (first, namespace): &(&Netlink, BorrowedFd<'_>),
    link: &Link<'_>,
    setup: &LinkSetup,
) -> Option<(String, u32)> {
    let (name, number) = (link.name(), link.was.index);
    let Some(waiting) = index_of(&waiting_end(setup.lower)) else {
        network.tell(format_args!("link {name}: its other end could not be made"));
        return None;
    };
    let payload = of(waiting)
        .with(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
        .with(IFLA_NEW_IFINDEX, &number.to_ne_bytes())
        .with(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
    let asked = first.ask(NEW_LINK, 0, payload);
    let has_come = asked.is_ok();
    link.tell(network, "coming into its namespace", asked);
    has_come.then_some((name, number))
}

/// `IFLA_LINKINFO`: a kind with attributes of its own.
fn information(setup: &LinkSetup, attributes: &[LinkAttribute]) -> Payload {
    let mut data = Payload::default();
    for LinkAttribute { kind, value } in attributes {
        data = data.with(*kind, value);
    }
    Payload::default()
        .with(IFLA_INFO_KIND, &setup.kind)
        .with(IFLA_INFO_DATA, data.bytes())
}

/// `struct ifinfomsg` of a link.
fn of(index: u32) -> Payload {
    Payload::new(&[&[0; 4][..], &index.to_ne_bytes(), &[0; 8]].concat())
}

/// The same that lets it run.
fn up(index: u32) -> Payload {
    let running = (libc::IFF_UP as u32).to_ne_bytes();
    Payload::new(&[&[0; 4][..], &index.to_ne_bytes(), &running, &running].concat())
}

/// Lets a link run.
///
/// # Errors
/// What the kernel answers.
pub fn run(netlink: &Netlink, index: u32) -> io::Result<()> {
    netlink.ask(NEW_LINK, 0, up(index))
}

fn attribute_of(link: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/class/net/{link}/{name}")).ok()?;
    Some(text.trim().to_owned())
}

/// The number of a link of the first namespace.
fn index_of(link: &str) -> Option<u32> {
    attribute_of(link, "ifindex")?.parse().ok()
}

/// The name and number that a link of a hardware address has now, other than some.
fn find(hardware: &[u8], others: &[String]) -> Option<(String, u32)> {
    let hardware: Vec<String> = hardware.iter().map(|byte| format!("{byte:02x}")).collect();
    let hardware = hardware.join(":");
    fs::read_dir("/sys/class/net").ok()?.find_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let same = !others.contains(&name) && attribute_of(&name, "address")? == hardware;
        let index = index_of(&name)?;
        same.then_some((name, index))
    })
}

fn wait_for(hardware: &[u8], deadline: Instant) -> Option<(String, u32)> {
    loop {
        let found = find(hardware, &[]);
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
