//! The firewall of the machine: the rules of nf_tables, as the dead kernel listed them, and the connections that it tracked. Both
//! are there before a link is up. The rules are put back all together or not at all, and if they are not, nothing is let in before
//! the new system has brought its own.

mod rules;
mod tracked;

use super::netlink::{Netlink, CREATE, NETFILTER};
use crate::{boot::log, restore::world::World};
use shared_region::context::Rules;

/// Puts the firewall back. Returns whether the wire may be let in.
pub fn put_back(world: &World<'_>) -> bool {
    let netfilter = &world.netfilter;
    for left_out in &netfilter.left_out {
        log::warning(format_args!("firewall: left out: {left_out}"));
    }
    let why = match &netfilter.rules {
        Rules::None => return true,
        Rules::Unknown(why) => Some(why.clone()),
        Rules::Kept => restore(world).err(),
    };
    let Some(why) = why else { return true };
    log::error(format_args!(
        "firewall: {why}; the network is left to the new system, and connections are lost"
    ));
    false
}

fn restore(world: &World<'_>) -> Result<(), String> {
    let netlink = Netlink::open_to(NETFILTER).map_err(|error| format!("netlink: {error}"))?;
    let messages = rules::requests(world.rules)?;
    netlink
        .ask_together(rules::BEGIN, rules::END, &messages)
        .map_err(|error| format!("its rules are not taken: {error}"))?;
    let mut lost = 0;
    for connection in &world.netfilter.connections {
        let request = tracked::request(connection);
        if let Err(error) = netlink.ask(tracked::NEW, CREATE, request) {
            lost += 1;
            if lost == 1 {
                log::warning(format_args!("firewall: a tracked connection is not taken: {error}"));
            }
        }
    }
    log::info(format_args!(
        "firewall: {} rules and what belongs to them are back, with {} tracked connections",
        rules::count(&messages),
        world.netfilter.connections.len() - lost
    ));
    Ok(())
}
