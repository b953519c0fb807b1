//! Sockets of netlink (`net/netlink/af_netlink.h`).
//!
//! Kept are those whose whole state is in the socket. What others have asked for lies in tables of their protocol: queues of
//! netfilter, who audits, numbers of families that the next kernel gives anew.

use super::{refuse, skb, Queues, Reading};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::{NetlinkMessage, NetlinkSocket};
use shared_region::reasons;

/// Protocols (`include/uapi/linux/netlink.h`): NETLINK_ROUTE, _USERSOCK, _SOCK_DIAG, _KOBJECT_UEVENT.
const KEPT: [u64; 4] = [0, 2, 4, 15];
/// `SOL_NETLINK` and its options.
const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;
/// Bits of `netlink_sock.flags` (`NETLINK_F_*`), which were numbers before Linux 6.3 (8fe08d70a2b6), and their options: PKTINFO,
/// BROADCAST_ERROR, NO_ENOBUFS, CAP_ACK, EXT_ACK, GET_STRICT_CHK.
const FLAGS: [(u64, i32); 6] = [
    (1 << 1, 3),
    (1 << 2, 4),
    (1 << 3, 5),
    (1 << 5, 10),
    (1 << 6, 11),
    (1 << 7, 12),
];
/// `NETLINK_F_RECV_NO_ENOBUFS`: it does not want to know what it has missed.
const NO_ENOBUFS: u64 = 1 << 3;
/// `NETLINK_S_CONGESTED` of `netlink_sock.state`: messages were dropped.
const CONGESTED: u64 = 1 << 0;
/// `NETLINK_CONNECTED` of `sock.sk_state`.
const CONNECTED: u64 = 1;
/// More groups than a protocol has.
const MAX_GROUPS: u64 = 4096;

crate::mirrors! {
    /// A socket of netlink.
    #[allow(missing_docs)]
    pub struct NetlinkSock = "netlink_sock" {
        flags: Field,
        portid: Field,
        dst_portid: Field,
        dst_group: Field,
        ngroups: Field,
        groups: Field,
        state: Field,
        bound: Field,
        cb_running: Field,
    }

    /// What a buffer of netlink says about where it comes from.
    #[allow(missing_docs)]
    pub struct NetlinkSkbParms = "netlink_skb_parms" {
        pid: Field = "creds.pid",
        uid: Field = "creds.uid.val",
        gid: Field = "creds.gid.val",
        portid: Field,
        dst_group: Field,
    }
}

/// Reads a socket of netlink.
///
/// # Errors
/// It is in a state that is not restored, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, queues: &mut Queues) -> Result<NetlinkSocket> {
    let layouts = &reading.context.kernel.types.layouts;
    let layout = &layouts.netlink_sock;
    let protocol = reading.field(layouts.sock.sk_protocol)?;
    if !KEPT.contains(&protocol) {
        return Err(refuse(&alloc::format!("netlink of protocol {protocol}")));
    }
    reading.none_of(&[(
        Some(layout.cb_running),
        "netlink, with an answer of which a part is to come",
    )])?;
    let flags = reading.field(layout.flags)?;
    let known = FLAGS.iter().fold(0, |known, (bit, _)| known | bit);
    if flags & !known != 0 {
        return Err(refuse(&alloc::format!("netlink, with options {flags:#x}")));
    }
    for (bit, name) in FLAGS {
        reading.option_if(SOL_NETLINK, name, u64::from(flags & bit != 0));
    }
    let groups = groups(reading)?;
    for &group in &groups {
        reading.option(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group.into());
    }
    let lost = reading.field(layouts.sock.sk_err)? != 0 || reading.field(layout.state)? & CONGESTED != 0;
    let connected = reading.field(layouts.sock.state)? == CONNECTED;
    let to = (
        reading.field(layout.dst_portid)? as u32,
        reading.field(layout.dst_group)? as u32,
    );
    Ok(NetlinkSocket {
        port: match reading.field(layout.bound)? {
            0 => None,
            _ => Some(reading.field(layout.portid)? as u32),
        },
        peer: connected.then_some(to),
        // What happens while no kernel runs, and to the next one, is not told by any message.
        missed: lost || (!groups.is_empty() && flags & NO_ENOBUFS == 0),
        messages: messages(reading, queues)?,
    })
}

/// The groups whose messages it gets.
fn groups<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>) -> Result<Vec<u32>> {
    let mem = &reading.context.kernel.mem;
    let layout = &reading.context.kernel.types.layouts.netlink_sock;
    let (count, bits) = (reading.field(layout.ngroups)?, mem.ptr(reading.sk, layout.groups)?);
    if bits.is_null() {
        return Ok(Vec::new());
    }
    if count > MAX_GROUPS {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("netlink with {count} groups"),
        ));
    }
    let bytes = mem.bytes(bits, count.div_ceil(64).saturating_mul(8) as usize)?;
    Ok(members(&bytes, count as u32))
}

/// The numbers of groups, from 1 on, whose bits are set.
fn members(bits: &[u8], count: u32) -> Vec<u32> {
    let is_set = |group: &u32| {
        let bit = group.wrapping_sub(1);
        bits.get((bit / 8) as usize)
            .is_some_and(|byte| byte >> (bit % 8) & 1 != 0)
    };
    (1..=count).filter(is_set).collect()
}

fn messages<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, queues: &mut Queues) -> Result<Vec<NetlinkMessage>> {
    let context = reading.context;
    let layouts = &context.kernel.types.layouts;
    let (mem, layout) = (&context.kernel.mem, &layouts.netlink_skb_parms);
    let mut messages = Vec::new();
    for skb in skb::queue(context, reading.sk, layouts.sock.sk_receive_queue)? {
        let bytes = skb::bytes(context, skb, 0)?;
        if queues.received.len().saturating_add(bytes.len()) > skb::MAX_QUEUE {
            return Err(refuse("netlink, with too much in its queue"));
        }
        queues.received.extend_from_slice(&bytes);
        let from = skb.offset(u64::from(layouts.sk_buff.cb.offset));
        let number = |field: Field| Ok::<_, Refusal>(mem.uint(from, field)? as u32);
        messages.push(NetlinkMessage {
            length: bytes.len() as u32,
            port: number(layout.portid)?,
            group: number(layout.dst_group)?,
            credentials: (number(layout.pid)? as i32, number(layout.uid)?, number(layout.gid)?),
        });
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted_from_one() {
        assert_eq!(members(&[0b1000_0001, 0b10], 32), [1, 8, 10]);
        assert_eq!(members(&[0xFF; 8], 3), [1, 2, 3]);
        assert_eq!(members(&[], 5), [0; 0]);
    }
}
