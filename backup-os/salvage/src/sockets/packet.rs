//! Sockets of packets of links (`net/packet/internal.h`). Packets that nobody has taken yet are lost, as when a queue is full.

use super::{refuse, Reading};
use crate::addr::Kva;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::{SocketOption, SocketState};
use shared_region::reasons;

/// `SOL_PACKET` and its options (`include/uapi/linux/if_packet.h`).
const SOL_PACKET: i32 = 263;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_AUXDATA: i32 = 8;
const PACKET_ORIGDEV: i32 = 9;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// `SOCK_PACKET`, the kind that binds to a name.
const SOCK_PACKET: u64 = 10;
/// `struct packet_mreq`: link, type and length of the address, and 8 bytes of it.
const ADDRESS: usize = 8;
/// More memberships than a program asks for.
const MAX_MEMBERSHIPS: usize = 1 << 16;

crate::mirrors! {
    /// A socket of packets.
    #[allow(missing_docs)]
    pub struct PacketSock = "packet_sock" {
        fanout: Field,
        rx_ring: Field = "rx_ring.pg_vec",
        tx_ring: Field = "tx_ring.pg_vec",
        copy_thresh: Field,
        flags: Field,
        ifindex: Field,
        num: Field,
        rollover: Field,
        mclist: Field,
        mapped: Field,
        // A bit of the flags before Linux 6.5 (dfc39d4026fb).
        vnet_hdr_sz: Option<Field> = "vnet_hdr_sz",
        tp_version: Field,
        tp_reserve: Field,
        tp_tstamp: Field,
        ignore_outgoing: Field = "prot_hook.ignore_outgoing",
        // How packets are sent: a bit of the flags from Linux 6.4 on (105a201ebf33).
        xmit: Option<Field> = "xmit",
    }

    /// What a socket wants from a link beside its own packets.
    #[allow(missing_docs)]
    pub struct PacketMclist = "packet_mclist" {
        next: Field,
        ifindex: Field,
        count: Field,
        kind: Field = "type",
        alen: Field,
        addr: Field,
    }
}

crate::constants! {
    /// Bits of `packet_sock.flags`.
    pub struct PacketFlags {
        /// The link that a packet came by at first is told.
        origdev: u32 = "PACKET_SOCK_ORIGDEV",
        /// More is told with each packet.
        auxdata: u32 = "PACKET_SOCK_AUXDATA",
        /// Packets are taken: the kernel's own.
        running: u32 = "PACKET_SOCK_RUNNING",
        /// The queue was full: the kernel's own.
        pressure: u32 = "PACKET_SOCK_PRESSURE",
        /// Packets are sent past traffic control.
        qdisc_bypass: Option<u32> = "PACKET_SOCK_QDISC_BYPASS",
    }
}

/// Reads a socket of packets.
///
/// # Errors
/// It is in a state that is not restored, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>) -> Result<SocketState> {
    let layouts = &reading.context.kernel.types.layouts;
    let (Some(layout), Some(known)) = (&layouts.packet_sock, &layouts.packet_flags) else {
        return Err(refuse("of packets, which this kernel does not describe"));
    };
    reading.none_of(&[
        (Some(layout.fanout), "of packets, in a fan-out"),
        (Some(layout.rollover), "of packets, in a fan-out"),
        (Some(layout.rx_ring), "of packets, with a ring"),
        (Some(layout.tx_ring), "of packets, with a ring"),
        (Some(layout.mapped), "of packets, with a ring"),
        (layout.vnet_hdr_sz, "of packets, with PACKET_VNET_HDR"),
        (Some(layout.copy_thresh), "of packets, with PACKET_COPY_THRESH"),
        (Some(layout.tp_version), "of packets, with PACKET_VERSION"),
        (Some(layout.tp_reserve), "of packets, with PACKET_RESERVE"),
        (Some(layout.tp_tstamp), "of packets, with PACKET_TIMESTAMP"),
        (Some(layouts.sock.sk_shutdown), "of packets, shut down"),
    ])?;
    if reading.field(layouts.sock.sk_type)? == SOCK_PACKET {
        return Err(refuse("of packets, of the kind SOCK_PACKET"));
    }
    let mut rest = reading.field(layout.flags)?;
    for (bit, name) in [
        (Some(known.origdev), Some(PACKET_ORIGDEV)),
        (Some(known.auxdata), Some(PACKET_AUXDATA)),
        (known.qdisc_bypass, Some(PACKET_QDISC_BYPASS)),
        (Some(known.running), None),
        (Some(known.pressure), None),
    ] {
        let bit = bit.map_or(0, |bit| 1u64 << (bit & 63));
        if let (true, Some(name)) = (rest & bit != 0, name) {
            reading.option(SOL_PACKET, name, 1);
        }
        rest &= !bit;
    }
    if rest != 0 {
        return Err(refuse(&alloc::format!("of packets, with options {rest:#x}")));
    }
    if let Some(xmit) = layout.xmit {
        let function = reading.context.symbol(Kva(reading.field(xmit)?));
        let direct = function.as_deref() == Some("packet_direct_xmit");
        reading.option_if(SOL_PACKET, PACKET_QDISC_BYPASS, direct.into());
    }
    let quiet = reading.field(layout.ignore_outgoing)?;
    reading.option_if(SOL_PACKET, PACKET_IGNORE_OUTGOING, quiet);
    memberships(reading, layout.mclist)?;
    let link = reading.context.kernel.mem.int(reading.sk, layout.ifindex)?;
    Ok(SocketState::Packet {
        protocol: (reading.field(layout.num)? as u16).swap_bytes(),
        link: u32::try_from(link).map_err(|_| refuse("of packets, of a link that is gone"))?,
    })
}

fn memberships<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, list: Field) -> Result<()> {
    let kernel = reading.context.kernel;
    let Some(layout) = &kernel.types.layouts.packet_mclist else {
        return Err(refuse("of packets, which this kernel does not describe"));
    };
    let mem = &kernel.mem;
    let mut at = mem.ptr(reading.sk, list)?;
    let mut found = Vec::new();
    while !at.is_null() {
        let (link, kind) = (mem.uint(at, layout.ifindex)? as u32, mem.uint(at, layout.kind)? as u16);
        let (length, count) = (mem.uint(at, layout.alen)? as u16, mem.uint(at, layout.count)?);
        if usize::from(length) > ADDRESS {
            return Err(refuse("of packets, with a long address"));
        }
        let address = mem.bytes(at.offset(u64::from(layout.addr.offset)), ADDRESS)?;
        let mut value = Vec::from(link.to_le_bytes());
        value.extend(kind.to_le_bytes());
        value.extend(length.to_le_bytes());
        value.extend(address);
        for _ in 0..count {
            if found.len() >= MAX_MEMBERSHIPS {
                return Err(Refusal::new(reasons::UNREADABLE, "memberships of packets without end"));
            }
            let (level, name) = (SOL_PACKET, PACKET_ADD_MEMBERSHIP);
            found.push(SocketOption {
                level,
                name,
                value: value.clone(),
            });
        }
        at = mem.ptr(at, layout.next)?;
    }
    reading.options.extend(found.into_iter().rev());
    Ok(())
}
