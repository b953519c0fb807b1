//! Sockets, from the tables of `/proc/PID/net`.

use super::{state, unused_sockets, Finding, Process};
use shared_region::reasons;

/// States of TCP in those tables that are restored: ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN
/// and CLOSING (include/net/tcp_states.h).
const KEPT: [&str; 9] = ["01", "02", "04", "05", "07", "08", "09", "0A", "0B"];
/// Tables of sockets of TCP, and where the inode stands in them:
/// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode.
const TCP: [(&str, usize); 2] = [("tcp", 9), ("tcp6", 9)];
/// sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode, and Num RefCount Protocol Flags Type St Inode Path.
const OTHERS: [(&str, usize); 2] = [("netlink", 9), ("unix", 6)];
/// Tables of sockets of datagrams and packets, and where the inode stands in them.
const PACKETS: [(&str, usize); 9] = [
    ("udp", 9),
    ("udp6", 9),
    ("udplite", 9),
    ("udplite6", 9),
    ("raw", 9),
    ("raw6", 9),
    ("icmp", 9),
    ("icmp6", 9),
    ("packet", 8),
];
/// Protocols of netlink that are restored: NETLINK_ROUTE, _USERSOCK, _SOCK_DIAG, _KOBJECT_UEVENT (include/uapi/linux/netlink.h).
const KEPT_NETLINK: [&str; 4] = ["0", "2", "4", "15"];
/// A set of groups that is empty.
const NO_GROUPS: &str = "00000000";
/// The first process.
const FIRST: u32 = 1;
/// State of a socket of AF_UNIX that has a peer (`SS_CONNECTED`).
const CONNECTED: &str = "03";

/// What becomes of a socket. `target` is the link of its descriptor, whose number is `name`: `socket:[inode]`.
pub fn check(process: &Process<'_>, name: &str, target: &str) -> Option<Finding> {
    let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    let object = &format!("fd {name}");
    let refuse = |detail: &str| Some(Finding::refused(object, reasons::SOCKET_STATE, detail));
    let place = &place_of(process, inode).unwrap_or(Process {
        root: process.root,
        pid: process.pid,
    });
    if let Some(links) = state::other_links(place).filter(|_| ![process.pid, FIRST].contains(&place.pid)) {
        return Some(Finding::refused(object, reasons::NS_NET, links));
    }
    for (table, column) in TCP {
        if let Some(line) = find(place, table, column, inode) {
            let state = line[3].as_str();
            return match KEPT.contains(&state) {
                true => None,
                false => refuse(&format!("TCP in state {state}")),
            };
        }
    }
    let packets = PACKETS
        .iter()
        .find(|&&(table, column)| find(place, table, column, inode).is_some());
    if let Some((table, _)) = packets {
        return Some(Finding::note(
            object,
            table.trim_end_matches('6'),
            "what was not taken yet is lost",
        ));
    }
    let [netlink, unix] = OTHERS.map(|(table, column)| find(place, table, column, inode));
    if let Some(line) = netlink {
        return match line[1].as_str() {
            protocol if !KEPT_NETLINK.contains(&protocol) => refuse(&format!("netlink of protocol {protocol}")),
            _ if line[3] == NO_GROUPS => None,
            _ => Some(Finding::note(
                object,
                "netlink",
                "it is told that it has missed messages (ENOBUFS)",
            )),
        };
    }
    if let Some(line) = unix {
        return match line[5].as_str() {
            CONNECTED if is_journal(process, inode) => Some(Finding::note(
                object,
                "journal",
                "leads to the journal: it is connected to that of the new system",
            )),
            CONNECTED => Some(Finding::note(
                object,
                "unix",
                "a process at the other end that is not protected will be seen as closed",
            )),
            _ => None,
        };
    }
    let numbers = (name.parse(), inode.parse());
    if matches!(numbers, (Ok(fd), Ok(inode)) if unused_sockets::is_one(process.pid, fd, inode)) {
        return None;
    }
    Some(Finding::risk(
        object,
        reasons::SOCKET.name,
        "in no table: kept only if it is one of TCP or UDP that was never bound or connected",
    ))
}

/// Whether a socket is that of the journal, as systemd tells a service (`JOURNAL_STREAM`, systemd.exec(5)).
fn is_journal(process: &Process<'_>, inode: &str) -> bool {
    let environment = process.read("environ").unwrap_or_default();
    let stream = environment
        .split('\0')
        .find_map(|variable| variable.strip_prefix("JOURNAL_STREAM="));
    stream.and_then(|stream| stream.split_once(':')).map(|(_, inode)| inode) == Some(inode)
}

/// A process in whose network's tables a socket stands. Most are of their holder's own; a service manager gives some of the
/// first process's; and a connection of AF_UNIX that was accepted is of the network of who has asked for it.
fn place_of<'r>(process: &Process<'r>, inode: &str) -> Option<Process<'r>> {
    let at = |pid| Process {
        root: process.root,
        pid,
    };
    let others = || {
        let ids = process.root.names("/proc").unwrap_or_default();
        ids.into_iter().filter_map(|name| name.parse().ok())
    };
    let first = [process.pid, FIRST].into_iter();
    let mut seen = Vec::new();
    first
        .chain(std::iter::once_with(others).flatten())
        .map(at)
        .filter(|place| {
            let network = process.root.link(&place.path("ns/net")).ok();
            let is_new = network.is_none() || !seen.contains(&network);
            seen.push(network);
            is_new
        })
        .find(|place| {
            let mut tables = TCP.iter().chain(&PACKETS).chain(&OTHERS);
            tables.any(|&(table, column)| find(place, table, column, inode).is_some())
        })
}

/// The line of a table in which the inode stands in a column, taken apart.
fn find(process: &Process<'_>, table: &str, column: usize, inode: &str) -> Option<Vec<String>> {
    let text = process.read(&format!("net/{table}")).ok()?;
    text.lines().skip(1).find_map(|line| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        (words.get(column).map(String::as_str) == Some(inode)).then_some(words)
    })
}
