//! Options of every socket (`SOL_SOCKET`, `net/core/sock.c`).

use super::{refuse, skb, Reading, AF_UNIX, SOCK_STREAM};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::Result;
use crate::seccomp;
use shared_region::context::SocketOption;

/// `SOL_SOCKET` and its options (`include/uapi/asm-generic/socket.h`).
const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const SO_DONTROUTE: i32 = 5;
const SO_BROADCAST: i32 = 6;
const SO_KEEPALIVE: i32 = 9;
const SO_OOBINLINE: i32 = 10;
const SO_NO_CHECK: i32 = 11;
const SO_PRIORITY: i32 = 12;
const SO_LINGER: i32 = 13;
const SO_REUSEPORT: i32 = 15;
const SO_PASSCRED: i32 = 16;
const SO_RCVLOWAT: i32 = 18;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
const SO_ATTACH_FILTER: i32 = 26;
const SO_TIMESTAMP: i32 = 29;
const SO_PASSSEC: i32 = 34;
const SO_TIMESTAMPNS: i32 = 35;
const SO_MARK: i32 = 36;
const SO_TIMESTAMPING: i32 = 37;
const SO_RXQ_OVFL: i32 = 40;
const SO_LOCK_FILTER: i32 = 44;
const SO_SELECT_ERR_QUEUE: i32 = 45;
const SO_MAX_PACING_RATE: i32 = 47;
const SO_ZEROCOPY: i32 = 60;
const SO_BINDTOIFINDEX: i32 = 62;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_TIMESTAMPING_NEW: i32 = 65;
const SO_RCVMARK: i32 = 75;
/// `SOF_TIMESTAMPING_TX_HARDWARE`, `_TX_SOFTWARE`, `_TX_SCHED` and `_TX_ACK`.
const TIMESTAMPING_SENT: u64 = 1 << 0 | 1 << 1 | 1 << 8 | 1 << 9;
/// `SOF_TIMESTAMPING_OPT_ID` and `SOF_TIMESTAMPING_BIND_PHC` (`include/uapi/linux/net_tstamp.h`).
const TIMESTAMPING_OPT_ID: u64 = 1 << 7;
const TIMESTAMPING_BIND_PHC: u64 = 1 << 15;
/// `MAX_SCHEDULE_TIMEOUT`.
const FOREVER: u64 = i64::MAX as u64;
/// `SOCK_PASSCRED` and `SOCK_PASSSEC` (`include/linux/net.h`).
const PASSCRED: u64 = 1 << 3;
const PASSSEC: u64 = 1 << 4;
/// `SOCK_PASSPIDFD` asks for what is not restored. `SOCK_CUSTOM_SOCKOPT` is a matter of the protocol: in newer
/// kernels every socket of UDP has it (`udp_lib_init_sock`, include/net/udp.h).
const UNUSUAL: u64 = 1 << 7;

crate::mirrors! {
    /// A filter of a socket.
    #[allow(missing_docs)]
    pub struct SkFilter = "sk_filter" {
        prog: Field,
    }

    /// Sockets that share an address.
    #[allow(missing_docs)]
    pub struct SockReuseport = "sock_reuseport" {
        prog: Field,
    }
}

crate::constants! {
    /// Bits of `sock.sk_flags`.
    pub struct SockFlags {
        /// Urgent data stays in line.
        urginline: u32 = "SOCK_URGINLINE",
        /// Idle peers are asked.
        keepopen: u32 = "SOCK_KEEPOPEN",
        /// `close` waits.
        linger: u32 = "SOCK_LINGER",
        /// May send to all.
        broadcast: u32 = "SOCK_BROADCAST",
        /// `poll` looks at the write queue: the kernel's own.
        use_write_queue: u32 = "SOCK_USE_WRITE_QUEUE",
        /// Freed after a grace period: the kernel's own.
        rcu_free: u32 = "SOCK_RCU_FREE",
        /// Reset: nothing is connected.
        zapped: u32 = "SOCK_ZAPPED",
        /// Both directions are closed.
        done: u32 = "SOCK_DONE",
        /// No process has it any more.
        dead: u32 = "SOCK_DEAD",
        /// Signals are asked for, which the open file says as well.
        fasync: u32 = "SOCK_FASYNC",
        /// The kernel notes when packets come, for somebody.
        timestamp: u32 = "SOCK_TIMESTAMP",
        /// Times come with what is received.
        rcvtstamp: u32 = "SOCK_RCVTSTAMP",
        /// In nanoseconds.
        rcvtstampns: u32 = "SOCK_RCVTSTAMPNS",
        /// As 64-bit numbers on every machine.
        tstamp_new: u32 = "SOCK_TSTAMP_NEW",
        /// The kernel notes when packets come, for `SO_TIMESTAMPING`.
        timestamping: u32 = "SOCK_TIMESTAMPING_RX_SOFTWARE",
        /// Nothing is sent through a router.
        localroute: u32 = "SOCK_LOCALROUTE",
        /// What was dropped is counted with what is received.
        rxq_ovfl: u32 = "SOCK_RXQ_OVFL",
        /// Errors in the queue for them wake only who waits for those.
        select_err_queue: u32 = "SOCK_SELECT_ERR_QUEUE",
        /// The filter cannot be changed.
        filter_locked: u32 = "SOCK_FILTER_LOCKED",
        /// Memory of the process may be sent from.
        zerocopy: u32 = "SOCK_ZEROCOPY",
        /// Marks come with what is received.
        rcvmark: u32 = "SOCK_RCVMARK",
    }
}

/// Reads them.
///
/// # Errors
/// There is one that is not restored, or they cannot be read.
pub fn read<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>) -> Result<()> {
    let kernel = reading.context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.sock;
    reading.none_of(&[
        (Some(layout.sk_user_data), "used by a part of the kernel"),
        (Some(layout.sk_ll_usec), "with SO_BUSY_POLL"),
        (Some(layout.sk_reserved_mem), "with SO_RESERVE_MEM"),
        (Some(layout.sk_zckey), "which has sent with MSG_ZEROCOPY"),
    ])?;
    if kernel.mem.int(reading.sk, layout.sk_peek_off)? >= 0 {
        return Err(refuse("with an offset for MSG_PEEK"));
    }
    if !skb::queue(reading.context, reading.sk, layout.sk_error_queue)?.is_empty() {
        return Err(refuse("with errors in its queue"));
    }
    // One that nobody has accepted yet has none.
    let socket = kernel.mem.ptr(reading.sk, layout.sk_socket)?;
    let of_socket = match socket.is_null() {
        true => 0,
        false => kernel.mem.uint(socket, layouts.socket.flags)?,
    };
    if of_socket & UNUSUAL != 0 {
        return Err(refuse("with SO_PASSPIDFD"));
    }
    let bits = reading.field(layout.sk_flags)?;
    let known = &layouts.sock_flags;
    let has = |bit: u32| bits >> (bit & 63) & 1;
    let kept = [
        known.urginline,
        known.keepopen,
        known.linger,
        known.broadcast,
        known.use_write_queue,
        known.rcu_free,
        known.zapped,
        known.done,
        known.fasync,
        known.dead,
        known.timestamp,
        known.rcvtstamp,
        known.rcvtstampns,
        known.tstamp_new,
        known.timestamping,
        known.localroute,
        known.rxq_ovfl,
        known.select_err_queue,
        known.filter_locked,
        known.zerocopy,
        known.rcvmark,
    ];
    let rest = kept.iter().fold(bits, |bits, &bit| bits & !(1 << (bit & 63)));
    if rest != 0 {
        return Err(refuse(&alloc::format!("with flags {rest:#x}")));
    }
    let reuse = reading.field(layout.reuse)?;
    let reuseport = reading.field(layout.reuseport)?;
    let (priority, mark) = (reading.field(layout.sk_priority)?, reading.field(layout.sk_mark)?);
    let lowest = reading.field(layout.sk_rcvlowat)?;
    reading.option_if(SOL_SOCKET, SO_REUSEADDR, u64::from(reuse == 1));
    reading.option_if(SOL_SOCKET, SO_REUSEPORT, reuseport);
    reading.option_if(SOL_SOCKET, SO_BROADCAST, has(known.broadcast));
    reading.option_if(SOL_SOCKET, SO_KEEPALIVE, has(known.keepopen));
    reading.option_if(SOL_SOCKET, SO_OOBINLINE, has(known.urginline));
    reading.option_if(SOL_SOCKET, SO_PASSCRED, of_socket & PASSCRED);
    reading.option_if(SOL_SOCKET, SO_PASSSEC, of_socket & PASSSEC);
    for (bit, name) in [
        (known.localroute, SO_DONTROUTE),
        (known.rxq_ovfl, SO_RXQ_OVFL),
        (known.select_err_queue, SO_SELECT_ERR_QUEUE),
        (known.zerocopy, SO_ZEROCOPY),
        (known.rcvmark, SO_RCVMARK),
    ] {
        reading.option_if(SOL_SOCKET, name, has(bit));
    }
    let (link, unchecked) = (
        reading.field(layout.bound_dev_if)?,
        reading.field(layout.sk_no_check_tx)?,
    );
    reading.option_if(SOL_SOCKET, SO_BINDTOIFINDEX, link);
    reading.option_if(SOL_SOCKET, SO_NO_CHECK, unchecked);
    let pace = reading.field(layout.sk_max_pacing_rate)?;
    if pace != u64::MAX {
        let (level, name, value) = (SOL_SOCKET, SO_MAX_PACING_RATE, pace.to_le_bytes().to_vec());
        reading.options.push(SocketOption { level, name, value });
    }
    stamps(reading, bits)?;
    filter(reading, has(known.filter_locked))?;
    reading.option_if(SOL_SOCKET, SO_PRIORITY, priority);
    reading.option_if(SOL_SOCKET, SO_MARK, mark);
    if lowest != 1 {
        reading.option(SOL_SOCKET, SO_RCVLOWAT, lowest);
    }
    if has(known.linger) != 0 {
        let seconds = reading.ticks(reading.field(layout.sk_lingertime)?)? / 1_000_000_000;
        let value = [1u32.to_le_bytes(), (seconds as u32).to_le_bytes()].concat();
        let (level, name) = (SOL_SOCKET, SO_LINGER);
        reading.options.push(SocketOption { level, name, value });
    }
    for (field, name) in [(layout.sk_rcvtimeo, SO_RCVTIMEO), (layout.sk_sndtimeo, SO_SNDTIMEO)] {
        let ticks = reading.field(field)?;
        if ticks != FOREVER {
            let time = reading.ticks(ticks)?;
            let (seconds, rest) = (time / 1_000_000_000, time % 1_000_000_000 / 1000);
            let value = [seconds.to_le_bytes(), rest.to_le_bytes()].concat();
            let level = SOL_SOCKET;
            reading.options.push(SocketOption { level, name, value });
        }
    }
    Ok(())
}

/// The times that come with what is received.
fn stamps<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, bits: u64) -> Result<()> {
    let layouts = &reading.context.kernel.types.layouts;
    let (layout, known) = (&layouts.sock, &layouts.sock_flags);
    let has = |bit: u32| bits >> (bit & 63) & 1 != 0;
    let (asked, detailed) = (has(known.rcvtstamp), reading.field(layout.sk_tsflags)?);
    if !asked && detailed == 0 {
        // Only somebody who asks for the time of the last packet (`SIOCGSTAMP`) has them noted then, and that one is gone.
        return match has(known.timestamp) {
            true => Err(refuse("with the time of its last packet")),
            false => Ok(()),
        };
    }
    if detailed & (TIMESTAMPING_OPT_ID | TIMESTAMPING_BIND_PHC) != 0 {
        return Err(refuse(
            "with time stamps that are numbered or of a clock of the network",
        ));
    }
    let stream = reading.field(layout.sk_type)? == SOCK_STREAM;
    if stream && detailed & TIMESTAMPING_SENT != 0 {
        return Err(refuse("with time stamps of what it sends"));
    }
    // Datagrams that nobody has taken are lost with their times; what is kept would get others.
    let kept = reading.field(layout.family)? == AF_UNIX || stream;
    if kept && !skb::queue(reading.context, reading.sk, layout.sk_receive_queue)?.is_empty() {
        return Err(refuse("with time stamps of what nobody has read"));
    }
    let new = has(known.tstamp_new);
    if asked {
        let name = match (has(known.rcvtstampns), new) {
            (false, false) => SO_TIMESTAMP,
            (true, false) => SO_TIMESTAMPNS,
            (false, true) => SO_TIMESTAMP_NEW,
            (true, true) => SO_TIMESTAMPNS_NEW,
        };
        reading.option(SOL_SOCKET, name, 1);
    }
    let name = if new { SO_TIMESTAMPING_NEW } else { SO_TIMESTAMPING };
    reading.option_if(SOL_SOCKET, name, detailed);
    Ok(())
}

/// The filter, as it was given, and whether it is there for good.
fn filter<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>, locked: u64) -> Result<()> {
    let kernel = reading.context.kernel;
    let layouts = &kernel.types.layouts;
    let filter = kernel.mem.ptr(reading.sk, layouts.sock.sk_filter)?;
    if !filter.is_null() {
        // They are sent once more, and what came before the filter need not pass it.
        let sent_again = reading.field(layouts.sock.family)? == AF_UNIX;
        if sent_again && !skb::queue(reading.context, reading.sk, layouts.sock.sk_receive_queue)?.is_empty() {
            return Err(refuse("AF_UNIX, with a filter and with messages that nobody has read"));
        }
        let program = kernel.mem.ptr(filter, layouts.sk_filter.prog)?;
        let program = seccomp::program(kernel, program)?.ok_or_else(|| refuse("with a filter of eBPF"))?;
        let (level, name) = (SOL_SOCKET, SO_ATTACH_FILTER);
        let value = program.iter().flat_map(|word| word.to_le_bytes()).collect();
        reading.options.push(SocketOption { level, name, value });
    }
    reading.option_if(SOL_SOCKET, SO_LOCK_FILTER, locked);
    let group = kernel.mem.ptr(reading.sk, layouts.sock.sk_reuseport_cb)?;
    if !group.is_null() && kernel.mem.uint(group, layouts.sock_reuseport.prog)? != 0 {
        return Err(refuse("with a program that chooses among those of an address"));
    }
    Ok(())
}
