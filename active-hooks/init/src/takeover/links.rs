//! Links as they were: those of hardware are found, and others made again, with what they lie on and belong to.

use super::netlink::{Netlink, Payload, CREATE, EXCL};
use crate::{boot::log, restore::world::World};
use shared_region::context::{LinkAttribute, LinkSetup, NetworkLink};
use std::{
    collections::BTreeMap,
    fs, io,
    time::{Duration, Instant},
};

/// The number of loopback, in every kernel (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;
/// `RTM_NEWLINK` and its attributes (include/uapi/linux/rtnetlink.h, if_link.h).
const NEW_LINK: u16 = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
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

    fn tell(&self, what: &str, done: io::Result<()>) {
        if let Err(error) = done {
            log::warning(format_args!("network: link {}: {what}: {error}", self.name()));
        }
    }
}

/// All links that ran. Those of hardware come first, and what lies on another comes behind it.
#[derive(Debug)]
pub struct Links<'w>(Vec<Link<'w>>);

impl<'w> Links<'w> {
    /// Finds those of hardware.
    pub fn find(world: &'w World<'_>) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let links = world.network.links.iter().map(|was| {
            let mut link = Link {
                was,
                setup: setup_of(world, was),
                now: None,
            };
            if link.made().is_none() {
                link.now = wait_for(link.permanent(), deadline);
                if link.now.is_none() {
                    log::warning(format_args!("network: link {} is not there any more", link.name()));
                }
            }
            link
        });
        let mut links: Vec<Link<'_>> = links.collect();
        links.sort_by_key(|link| link.made().is_some());
        Self(links)
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
    pub fn make(&mut self, netlink: &Netlink) {
        let mut order: Vec<Link<'w>> = Vec::new();
        let mut left = std::mem::take(&mut self.0);
        loop {
            let known = Self(order);
            let numbers = known.numbers();
            order = known.0;
            let ready = |link: &Link<'_>| {
                let lower = link.made().map_or(0, |setup| setup.lower);
                lower == 0 || numbers.contains_key(&lower)
            };
            let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(ready);
            left = later;
            if now.is_empty() {
                break;
            }
            order.extend(now.into_iter().map(|mut link| {
                if let Some(setup) = link.made() {
                    link.now = made(netlink, &link, setup, numbers.get(&setup.lower).copied());
                }
                link
            }));
        }
        for link in &left {
            log::warning(format_args!(
                "network: link {}: what it lies on is not there",
                link.name()
            ));
        }
        self.0 = order;
        let numbers = self.numbers();
        for link in &self.0 {
            let master = link.setup.and_then(|setup| numbers.get(&setup.master));
            if let (Some((_, index)), Some(master)) = (&link.now, master) {
                let payload = of(*index).with(IFLA_MASTER, &master.to_ne_bytes());
                link.tell("as a port", netlink.ask(NEW_LINK, 0, payload));
            }
        }
    }

    /// Lets them run.
    pub fn set_up(&self, netlink: &Netlink) {
        for link in &self.0 {
            let Some((_, index)) = &link.now else { continue };
            if link.made().is_none() && link.permanent() != link.was.hardware {
                let payload = of(*index).with(IFLA_ADDRESS, &link.was.hardware);
                link.tell("its address", netlink.ask(NEW_LINK, 0, payload));
            }
            let payload = up(*index).with(IFLA_MTU, &link.was.mtu.to_ne_bytes());
            link.tell("running", netlink.ask(NEW_LINK, 0, payload));
        }
        for link in &self.0 {
            let later = link.made().filter(|setup| !setup.later.is_empty());
            if let (Some((_, index)), Some(setup)) = (&link.now, later) {
                let payload = of(*index).with(IFLA_LINKINFO, information(setup, &setup.later).bytes());
                link.tell("as it was set", netlink.ask(NEW_LINK, 0, payload));
            }
        }
    }
}

/// What numbers links have once they run as they did, by those that they had.
pub fn numbers_now(world: &World<'_>) -> BTreeMap<u32, u32> {
    let links = || world.network.links.iter().map(|was| (was, setup_of(world, was)));
    let is_made = |setup: Option<&LinkSetup>| setup.is_some_and(|setup| !setup.kind.is_empty());
    let name = |was: &NetworkLink| String::from_utf8_lossy(&was.name).into_owned();
    // A port and what it belongs to may have one address.
    let made: Vec<String> = links()
        .filter(|(_, setup)| is_made(*setup))
        .map(|(was, _)| name(was))
        .collect();
    let now = |(was, setup): (&NetworkLink, _)| {
        let index = match is_made(setup) {
            true => attribute_of(&name(was), "ifindex")?.parse().ok()?,
            false => find(&was.hardware, &made)?.1,
        };
        Some((was.index, index))
    };
    links().filter_map(now).collect()
}

fn setup_of<'w>(world: &'w World<'_>, link: &NetworkLink) -> Option<&'w LinkSetup> {
    world.link_setups.iter().find(|setup| setup.index == link.index)
}

/// Makes a link; returns its name and number. One of that name that is there already was made as its module was loaded.
fn made(netlink: &Netlink, link: &Link<'_>, setup: &LinkSetup, lower: Option<u32>) -> Option<(String, u32)> {
    let name = link.name();
    if !setup.not_made.is_empty() {
        let why = String::from_utf8_lossy(&setup.not_made);
        log::warning(format_args!("network: link {name} is not made again: {why}"));
        return None;
    }
    let mut payload = of(0)
        .with(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())
        .with(IFLA_ADDRESS, &link.was.hardware)
        .with(IFLA_LINKINFO, information(setup, &setup.first).bytes());
    if let Some(lower) = lower {
        payload = payload.with(IFLA_LINK, &lower.to_ne_bytes());
    }
    link.tell("making it", netlink.ask(NEW_LINK, CREATE | EXCL, payload));
    let index = attribute_of(&name, "ifindex")?.parse().ok()?;
    Some((name, index))
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

/// The name and number that a link of a hardware address has now, other than some.
fn find(hardware: &[u8], others: &[String]) -> Option<(String, u32)> {
    let hardware: Vec<String> = hardware.iter().map(|byte| format!("{byte:02x}")).collect();
    let hardware = hardware.join(":");
    fs::read_dir("/sys/class/net").ok()?.find_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let same = !others.contains(&name) && attribute_of(&name, "address")? == hardware;
        let index = attribute_of(&name, "ifindex")?.parse().ok()?;
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
