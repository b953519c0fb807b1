//! TCP (`include/linux/tcp.h`, `include/net/tcp.h`): connections with everything that TCP_REPAIR can put back.

use super::{inet, refuse, skb, Queues, Reading, Related, AF_UNIX};
use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::context::{InetAddress, PeerFin, SocketOption, SocketState, TcpConnection};
use shared_region::reasons;

/// States (`include/net/tcp_states.h`), by number.
const STATES: [&str; 13] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];
/// Options of `IPPROTO_TCP` (`include/uapi/linux/tcp.h`).
const IPPROTO_TCP: i32 = 6;
const TCP_NODELAY: i32 = 1;
const TCP_MAXSEG: i32 = 2;
const TCP_CORK: i32 = 3;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
const TCP_SYNCNT: i32 = 7;
const TCP_LINGER2: i32 = 8;
const TCP_DEFER_ACCEPT: i32 = 9;
const TCP_CONGESTION: i32 = 13;
const TCP_THIN_LINEAR_TIMEOUTS: i32 = 16;
const TCP_USER_TIMEOUT: i32 = 18;
const TCP_FASTOPEN: i32 = 23;
const TCP_NOTSENT_LOWAT: i32 = 25;
const TCP_INQ: i32 = 36;
/// `TCP_NAGLE_OFF` and `TCP_NAGLE_CORK`.
const NAGLE_OFF: u64 = 1;
const NAGLE_CORK: u64 = 2;
/// `TCP_RTO_MAX` and `TCP_TIMEOUT_INIT` in seconds.
const RTO_MAX: u64 = 120;
const RTO_FIRST: u64 = 1;
/// Sequence numbers that are further apart make no sense: no window is as wide.
const MAX_DISTANCE: u32 = 1 << 30;
/// `TCPHDR_SYN` and `TCPHDR_FIN`: numbers in a queue that are no bytes.
const SYN: u64 = 2;
const FIN: u64 = 1;
/// Bits of `sock.sk_shutdown`: receiving and sending.
const RECEIVING: u64 = 1;
const SENDING: u64 = 2;
/// `SOCK_BINDPORT_LOCK`.
const BOUND_PORT: u64 = 8;
/// `TCP_FIN_WAIT1`, `TCP_TIME_WAIT`, `TCP_LAST_ACK` and `TCP_CLOSING`.
const FIN_WAIT1: u64 = 4;
const TIME_WAIT: u64 = 6;
const LAST_ACK: u64 = 9;
const CLOSING: u64 = 11;
/// `TCP_CLOSE` and `TCP_LISTEN`.
const CLOSE: u64 = 7;
const LISTEN: u64 = 10;
/// More connections than wait to be accepted anywhere.
const MAX_WAITING: usize = 1 << 16;
/// Length of a name of congestion control (`TCP_CA_NAME_MAX`).
const MAX_NAME: usize = 16;

crate::mirrors! {
    /// A socket with connections.
    #[allow(missing_docs)]
    pub struct InetConnectionSock = "inet_connection_sock" {
        defer_accept: Field = "icsk_accept_queue.rskq_defer_accept",
        accept_head: Field = "icsk_accept_queue.rskq_accept_head",
        fastopen: Field = "icsk_accept_queue.fastopenq.max_qlen",
        icsk_ca_ops: Field,
        icsk_ca_setsockopt: Field,
        icsk_ulp_ops: Field,
        icsk_syn_retries: Field,
        icsk_user_timeout: Field,
    }

    /// A request for a connection.
    #[allow(missing_docs)]
    pub struct RequestSock = "request_sock" {
        dl_next: Field,
        sk: Field,
    }

    /// A way of controlling congestion.
    #[allow(missing_docs)]
    pub struct TcpCongestionOps = "tcp_congestion_ops" {
        name: Field,
    }

    /// A socket of TCP.
    #[allow(missing_docs)]
    pub struct TcpSock = "tcp_sock" {
        copied_seq: Field,
        rcv_nxt: Field,
        rcv_wup: Field,
        rcv_wnd: Field,
        snd_una: Field,
        snd_nxt: Field,
        snd_wl1: Field,
        snd_wnd: Field,
        max_window: Field,
        write_seq: Field,
        nonagle: Field,
        notsent_lowat: Field,
        tsoffset: Field,
        // Time stamps in microseconds on request, from Linux 6.7 on (614e8316aa4c).
        tcp_usec_ts: Option<Field> = "tcp_usec_ts",
        repair: Field,
        recvmsg_inq: Field,
        urg_data: Field,
        urg_seq: Field,
        snd_up: Field,
        keepalive_time: Field,
        keepalive_intvl: Field,
        keepalive_probes: Field,
        linger2: Field,
        thin_lto: Field,
        save_syn: Field,
        saved_syn: Field,
        tcp_tx_delay: Field,
        fastopen_req: Field,
        fastopen_rsk: Field,
        md5sig_info: Option<Field> = "md5sig_info",
        ao_info: Option<Field> = "ao_info",
        is_mptcp: Option<Field> = "is_mptcp",
        bpf_flags: Option<Field> = "bpf_sock_ops_cb_flags",
        tstamp_ok: Field = "rx_opt.tstamp_ok",
        wscale_ok: Field = "rx_opt.wscale_ok",
        sack_ok: Field = "rx_opt.sack_ok",
        snd_wscale: Field = "rx_opt.snd_wscale",
        rcv_wscale: Field = "rx_opt.rcv_wscale",
        user_mss: Field = "rx_opt.user_mss",
        mss_clamp: Field = "rx_opt.mss_clamp",
    }

    /// What a buffer of TCP says about its place.
    #[allow(missing_docs)]
    pub struct TcpSkbCb = "tcp_skb_cb" {
        seq: Field,
        end_seq: Field,
        tcp_flags: Field,
    }
}

/// Reads a socket of TCP.
///
/// # Errors
/// It is in a state that is not restored, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(
    reading: &mut Reading<'_, '_, '_, M>,
    queues: &mut Queues,
    related: &mut Related,
    six: bool,
) -> Result<SocketState> {
    let layouts = &reading.context.kernel.types.layouts;
    let state = reading.field(layouts.sock.state)?;
    let name = usize::try_from(state).ok().and_then(|state| STATES.get(state));
    options(reading)?;
    let local = inet::local(reading, six)?;
    match (name.copied().unwrap_or_default(), local) {
        ("CLOSE", local) => {
            if has_ended(reading)? {
                return ended(reading, queues, six);
            }
            reading.none_of(&[(Some(layouts.sock.sk_shutdown), "TCP, shut down before it was connected")])?;
            Ok(SocketState::Plain { local, peer: None })
        }
        ("SYN_SENT", Some(local)) => {
            reading.none_of(&[(
                Some(layouts.sock.sk_shutdown),
                "TCP, shut down while it was being connected",
            )])?;
            if !skb::queue(reading.context, reading.sk, layouts.sock.sk_write_queue)?.is_empty() {
                return Err(refuse("TCP, with data for a connection that does not stand yet"));
            }
            Ok(SocketState::Connecting {
                local,
                peer: inet::peer(reading, six)?,
                send_seq: reading.field(layouts.tcp_sock.snd_una)? as u32,
            })
        }
        ("LISTEN", Some(local)) => {
            let waiting = waiting(reading.context, reading.sk)?;
            related.sockets.extend(&waiting);
            let backlog = reading.field(layouts.sock.sk_max_ack_backlog)? as u32;
            let waiting = waiting.iter().map(|sk| sk.0).collect();
            Ok(SocketState::Listening {
                local,
                backlog,
                waiting,
            })
        }
        (name, Some(local)) if ends(name).is_some() => {
            let ends = ends(name).unwrap_or_default();
            let shutdown = reading.field(layouts.sock.sk_shutdown)?;
            let agree =
                (shutdown & SENDING != 0) == ends.sent && (ends.fin == PeerFin::None || shutdown & RECEIVING != 0);
            if !agree {
                return Err(refuse("TCP, closed in another way than its state says"));
            }
            let peer = inet::peer(reading, six)?;
            let connection = connection(reading, queues, ends)?;
            Ok(SocketState::Connected(TcpConnection {
                shutdown: shutdown as u32,
                fin: ends.fin,
                local,
                peer,
                ..connection
            }))
        }
        (name, _) => Err(refuse(&alloc::format!("TCP in state {name}"))),
    }
}

/// How far a connection has got that its process has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphan {
    /// The peer has not got everything.
    Unfinished,
    /// Both sides have ended, and only repetitions are waited for.
    Over,
}

/// Whether a socket, perhaps a small one that stands for another, is a connection that its process has closed.
///
/// # Errors
/// It cannot be read.
pub fn orphan<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, sk: Kva) -> Result<Option<Orphan>> {
    let layout = &context.kernel.types.layouts.sock;
    let mem = &context.kernel.mem;
    let orphan = match mem.uint(sk, layout.state)? {
        TIME_WAIT => Orphan::Over,
        FIN_WAIT1 | LAST_ACK | CLOSING => Orphan::Unfinished,
        _ => return Ok(None),
    };
    let is_kept = super::is_kept(context, super::net_of(context, sk)?);
    // One in TIME_WAIT is so small that it has no place for a socket.
    let is_orphan = is_kept && (orphan == Orphan::Over || mem.ptr(sk, layout.sk_socket)?.is_null());
    Ok(is_orphan.then_some(orphan))
}

/// Whether it had a connection, or asked for one, which is over: `tcp_done` closes both directions.
///
/// # Errors
/// It cannot be read.
pub fn has_ended<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>) -> Result<bool> {
    let layout = &reading.context.kernel.types.layouts.sock;
    let is_tcp = reading.field(layout.sk_protocol)? == IPPROTO_TCP as u64 && reading.field(layout.family)? != AF_UNIX;
    let both = reading.field(layout.sk_shutdown)? == RECEIVING | SENDING;
    Ok(is_tcp && both && reading.field(layout.state)? == CLOSE)
}

fn ended<M: PhysMem + ?Sized>(reading: &Reading<'_, '_, '_, M>, queues: &mut Queues, six: bool) -> Result<SocketState> {
    let context = reading.context;
    let layouts = &context.kernel.types.layouts;
    let (layout, known) = (&layouts.sock, &layouts.sock_flags);
    let done = reading.field(layout.sk_flags)? >> (known.done & 63) & 1 != 0;
    // The peer's end lies in the queue like data, but has no bytes.
    let received = skb::queue(context, reading.sk, layout.sk_receive_queue)?;
    let is_data = |&skb: &Kva| Ok(context.kernel.mem.uint(skb, layouts.sk_buff.len)? != 0);
    if received
        .iter()
        .map(is_data)
        .collect::<Result<Vec<_>>>()?
        .contains(&true)
    {
        let tcp = &layouts.tcp_sock;
        reading.none_of(&[(Some(tcp.urg_data), "TCP, whose connection has ended, with urgent data")])?;
        let next = (reading.field(tcp.rcv_nxt)? as u32).wrapping_sub(done.into());
        queues.received = stretch(reading, &received, reading.field(tcp.copied_seq)? as u32, next, done)?;
    }
    let socket = context.kernel.mem.ptr(reading.sk, layout.sk_socket)?;
    let bound = reading.field(layout.num)? != 0;
    if bound && reading.field(layout.sk_userlocks)? & BOUND_PORT == 0 {
        return Err(refuse(
            "TCP, whose connection has ended, with a port that it should not have",
        ));
    }
    let address = if six { layout.v6_rcv_saddr } else { layout.rcv_saddr };
    let sport = reading.field(layouts.inet_sock.inet_sport)?;
    Ok(SocketState::Ended {
        local: InetAddress {
            address: reading.bytes(address, 16)?,
            port: inet::port(sport),
        },
        bound,
        peer: inet::peer(reading, six)?,
        error: reading.field(layout.sk_err)? as u32,
        done,
        state: context.kernel.mem.uint(socket, layouts.socket.state)? as u32,
    })
}

/// What a state says about the ends of both directions.
#[derive(Clone, Copy, Default)]
struct Ends {
    /// The own end was put into the queue.
    sent: bool,
    /// The peer's.
    fin: PeerFin,
}

/// The same of a state in which there is a connection.
fn ends(state: &str) -> Option<Ends> {
    let (sent, fin) = match state {
        "ESTABLISHED" => (false, PeerFin::None),
        "FIN_WAIT1" | "FIN_WAIT2" => (true, PeerFin::None),
        "CLOSE_WAIT" => (false, PeerFin::First),
        "LAST_ACK" => (true, PeerFin::First),
        "CLOSING" => (true, PeerFin::Crossed),
        _ => return None,
    };
    Some(Ends { sent, fin })
}

/// The connections that wait to be accepted from a socket that listens. One that has ended already is left out, as if it had
/// never come.
///
/// # Errors
/// Its queue makes no sense.
pub fn waiting<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, sk: Kva) -> Result<Vec<Kva>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let (protocol, state) = (
        mem.uint(sk, layouts.sock.sk_protocol)?,
        mem.uint(sk, layouts.sock.state)?,
    );
    if protocol != IPPROTO_TCP as u64 || state != LISTEN {
        return Ok(Vec::new());
    }
    let count = mem.uint(sk, layouts.sock.sk_ack_backlog)?;
    let mut at = mem.ptr(sk, layouts.inet_connection_sock.accept_head)?;
    let (mut found, mut seen) = (Vec::new(), 0u64);
    while !at.is_null() {
        seen = seen.saturating_add(1);
        let child = mem.ptr(at, layouts.request_sock.sk)?;
        if seen > count || found.len() >= MAX_WAITING || child.is_null() {
            return Err(Refusal::new(reasons::UNREADABLE, "TCP, a queue of connections"));
        }
        let ended = mem.uint(child, layouts.sock.state)? == CLOSE || mem.uint(child, layouts.sock.sk_err)? != 0;
        if !ended {
            found.push(child);
        }
        at = mem.ptr(at, layouts.request_sock.dl_next)?;
    }
    if seen != count {
        return Err(Refusal::new(reasons::UNREADABLE, "TCP, a queue of connections"));
    }
    Ok(found)
}

fn options<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>) -> Result<()> {
    let kernel = reading.context.kernel;
    let layouts = &kernel.types.layouts;
    let (tcp, icsk) = (&layouts.tcp_sock, &layouts.inet_connection_sock);
    reading.none_of(&[
        (Some(icsk.icsk_ulp_ops), "TCP, with a protocol above it in the kernel"),
        (Some(tcp.repair), "TCP, being repaired"),
        (Some(tcp.save_syn), "TCP, with TCP_SAVE_SYN"),
        (Some(tcp.saved_syn), "TCP, with TCP_SAVE_SYN"),
        (Some(tcp.tcp_tx_delay), "TCP, with TCP_TX_DELAY"),
        (Some(tcp.fastopen_req), "TCP, in a fast open"),
        (Some(tcp.fastopen_rsk), "TCP, in a fast open"),
        (tcp.md5sig_info, "TCP, with signatures"),
        (tcp.ao_info, "TCP, with authentication"),
        (tcp.is_mptcp, "TCP, part of MPTCP"),
        (tcp.bpf_flags, "TCP, watched by BPF"),
        (tcp.tcp_usec_ts, "TCP, with time stamps in microseconds"),
    ])?;
    let nagle = reading.field(tcp.nonagle)?;
    reading.option_if(IPPROTO_TCP, TCP_NODELAY, nagle & NAGLE_OFF);
    reading.option_if(IPPROTO_TCP, TCP_CORK, u64::from(nagle & NAGLE_CORK != 0));
    for (field, name) in [
        (tcp.user_mss, TCP_MAXSEG),
        (tcp.keepalive_probes, TCP_KEEPCNT),
        (icsk.icsk_syn_retries, TCP_SYNCNT),
        (icsk.icsk_user_timeout, TCP_USER_TIMEOUT),
        (tcp.thin_lto, TCP_THIN_LINEAR_TIMEOUTS),
        (tcp.notsent_lowat, TCP_NOTSENT_LOWAT),
        (tcp.recvmsg_inq, TCP_INQ),
        (icsk.fastopen, TCP_FASTOPEN),
    ] {
        let value = reading.field(field)?;
        reading.option_if(IPPROTO_TCP, name, value);
    }
    for (field, name) in [(tcp.keepalive_time, TCP_KEEPIDLE), (tcp.keepalive_intvl, TCP_KEEPINTVL)] {
        let ticks = reading.field(field)?;
        if ticks != 0 {
            let seconds = reading.ticks(ticks)? / 1_000_000_000;
            reading.option(IPPROTO_TCP, name, seconds);
        }
    }
    match kernel.mem.int(reading.sk, tcp.linger2)? {
        0 => {}
        ticks if ticks < 0 => reading.option(IPPROTO_TCP, TCP_LINGER2, u64::MAX),
        ticks => {
            let seconds = reading.ticks(ticks as u64)? / 1_000_000_000;
            reading.option(IPPROTO_TCP, TCP_LINGER2, seconds);
        }
    }
    let defer = reading.field(icsk.defer_accept)?;
    reading.option_if(IPPROTO_TCP, TCP_DEFER_ACCEPT, seconds_of_retries(defer));
    congestion(reading)
}

/// How long so many repetitions of a SYN take (`retrans_to_secs`, net/ipv4/tcp.c).
fn seconds_of_retries(retries: u64) -> u64 {
    let mut timeout = RTO_FIRST;
    (0..retries.min(255)).fold(0, |seconds: u64, _| {
        let seconds = seconds.saturating_add(timeout);
        timeout = timeout.saturating_mul(2).min(RTO_MAX);
        seconds
    })
}

/// The way of controlling congestion, if the program has chosen it.
fn congestion<M: PhysMem + ?Sized>(reading: &mut Reading<'_, '_, '_, M>) -> Result<()> {
    let kernel = reading.context.kernel;
    let layouts = &kernel.types.layouts;
    if reading.field(layouts.inet_connection_sock.icsk_ca_setsockopt)? == 0 {
        return Ok(());
    }
    let operations = Kva(reading.field(layouts.inet_connection_sock.icsk_ca_ops)?);
    let value = kernel.mem.text(operations, layouts.tcp_congestion_ops.name)?;
    if value.len() > MAX_NAME {
        return Err(refuse("TCP, with a congestion control without a name"));
    }
    let (level, name) = (IPPROTO_TCP, TCP_CONGESTION);
    reading.options.push(SocketOption { level, name, value });
    Ok(())
}

fn connection<M: PhysMem + ?Sized>(
    reading: &Reading<'_, '_, '_, M>,
    queues: &mut Queues,
    ends: Ends,
) -> Result<TcpConnection> {
    let context = reading.context;
    let layouts = &context.kernel.types.layouts;
    let tcp = &layouts.tcp_sock;
    let number = |field: Field| reading.field(field).map(|value| value as u32);
    // An end takes a number behind the last byte, which may be acknowledged, or read, as well.
    let next = number(tcp.rcv_nxt)?.wrapping_sub(u32::from(ends.fin != PeerFin::None));
    let written = number(tcp.write_seq)?.wrapping_sub(u32::from(ends.sent));
    let copied = not_behind(number(tcp.copied_seq)?, next);
    let una = not_behind(number(tcp.snd_una)?, written);
    let received = skb::queue(context, reading.sk, layouts.sock.sk_receive_queue)?;
    queues.received = stretch(reading, &received, copied, next, ends.fin != PeerFin::None)?;
    let root = reading.sk.offset(u64::from(layouts.sock.tcp_rtx_queue.offset));
    let sent = context.kernel.rbtree(root, layouts.sk_buff.rbnode)?;
    let mut unacknowledged: Vec<Kva> = sent.bounded(skb::MAX_BUFFERS).collect::<core::result::Result<_, _>>()?;
    unacknowledged.extend(skb::queue(context, reading.sk, layouts.sock.sk_write_queue)?);
    queues.to_send = stretch(reading, &unacknowledged, una, written, ends.sent)?;
    let unsent = written.wrapping_sub(not_behind(number(tcp.snd_nxt)?, written));
    if unsent as usize > queues.to_send.len() {
        return Err(Refusal::new(reasons::UNREADABLE, "TCP, with more sent than there was"));
    }

    let scales = reading.field(tcp.wscale_ok)? != 0;
    let stamps = reading.field(tcp.tstamp_ok)? != 0;
    let urg_data = number(tcp.urg_data)? as u16;
    let milliseconds = context.now.on(crate::timers::clocks::MONOTONIC) / 1_000_000;
    let stamp = (milliseconds as u32).wrapping_add(number(tcp.tsoffset)?);
    Ok(TcpConnection {
        receive_seq: copied,
        send_seq: una,
        mss: number(tcp.mss_clamp)?,
        window_scale: scales.then_some((number(tcp.snd_wscale)? as u8, number(tcp.rcv_wscale)? as u8)),
        sack: reading.field(tcp.sack_ok)? != 0,
        timestamp: stamps.then_some(stamp),
        unsent,
        window: [
            number(tcp.snd_wl1)?,
            number(tcp.snd_wnd)?,
            number(tcp.max_window)?,
            number(tcp.rcv_wnd)?,
            number(tcp.rcv_wup)?,
        ],
        urgent_received: match urg_data {
            0 => None,
            data => Some((data, number(tcp.urg_seq)?)),
        },
        urgent_to_send: urgent(number(tcp.snd_una)?, number(tcp.snd_up)?, written)?,
        ..TcpConnection::default()
    })
}

/// The end of what is urgent among what was written, if the peer has not acknowledged it: `tcp_urg_mode`
/// (net/ipv4/tcp_output.c).
fn urgent(una: u32, up: u32, written: u32) -> Result<Option<u32>> {
    match up.wrapping_sub(una) {
        0 => Ok(None),
        distance if distance <= written.wrapping_sub(una) => Ok(Some(up)),
        _ => Err(Refusal::new(
            reasons::UNREADABLE,
            "TCP, with urgent data that was not written",
        )),
    }
}

/// A sequence number, which may be the one after the last byte's.
fn not_behind(seq: u32, end: u32) -> u32 {
    if seq == end.wrapping_add(1) {
        end
    } else {
        seq
    }
}

/// The bytes of a queue from one sequence number to another, behind which there may be an end.
fn stretch<M: PhysMem + ?Sized>(
    reading: &Reading<'_, '_, '_, M>,
    buffers: &[Kva],
    first: u32,
    end: u32,
    closed: bool,
) -> Result<Vec<u8>> {
    let layouts = &reading.context.kernel.types.layouts;
    let (cb, layout) = (layouts.sk_buff.cb, &layouts.tcp_skb_cb);
    let mem = &reading.context.kernel.mem;
    let broken = || {
        Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("TCP, a queue that does not hold {first} to {end}"),
        )
    };
    let wanted = end.wrapping_sub(first);
    if wanted > MAX_DISTANCE {
        return Err(broken());
    }
    if wanted as usize > skb::MAX_QUEUE {
        return Err(refuse("TCP, with more in a queue than can be kept"));
    }
    let mut bytes = Vec::with_capacity(wanted as usize);
    for &skb in buffers {
        let control = skb.offset(u64::from(cb.offset));
        let seq = mem.uint(control, layout.seq)? as u32;
        let flags = mem.uint(control, layout.tcp_flags)?;
        if flags & SYN != 0 || flags & FIN != 0 && !closed {
            return Err(broken());
        }
        let at = first.wrapping_add(bytes.len() as u32);
        // What comes before is acknowledged, or taken by the process.
        let skip = at.wrapping_sub(seq);
        let part = skb::bytes(reading.context, skb, 0)?;
        let part = part.get(skip as usize..).unwrap_or(&[]);
        if skip > MAX_DISTANCE || bytes.len().saturating_add(part.len()) > wanted as usize {
            return Err(broken());
        }
        bytes.extend_from_slice(part);
    }
    if bytes.len() as u64 != u64::from(wanted) {
        return Err(broken());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{ends, not_behind, seconds_of_retries, urgent};
    use shared_region::context::PeerFin;

    #[test]
    fn a_state_says_who_has_ended() {
        let of = |state| ends(state).map(|ends| (ends.sent, ends.fin));
        assert_eq!(of("ESTABLISHED"), Some((false, PeerFin::None)));
        assert_eq!(of("FIN_WAIT2"), Some((true, PeerFin::None)));
        assert_eq!(of("CLOSE_WAIT"), Some((false, PeerFin::First)));
        assert_eq!(of("CLOSING"), Some((true, PeerFin::Crossed)));
        assert_eq!([of("SYN_SENT"), of("TIME_WAIT"), of("CLOSE"), of("")], [None; 4]);
    }

    #[test]
    fn an_end_that_was_acknowledged_is_no_byte() {
        assert_eq!([10, 11, 12].map(|seq| not_behind(seq, 11)), [10, 11, 11]);
        assert_eq!(not_behind(0, u32::MAX), u32::MAX);
    }

    #[test]
    fn what_is_urgent_was_written_and_is_not_acknowledged() {
        let of = |una, up, written| urgent(una, up, written).ok();
        assert_eq!(of(10, 10, 20), Some(None));
        assert_eq!(of(10, 20, 20), Some(Some(20)));
        assert_eq!(of(u32::MAX, 1, 2), Some(Some(1)));
        // Behind everything, and before everything.
        assert_eq!([of(10, 21, 20), of(10, 9, 20)], [None; 2]);
        // The own end, behind what was written, is acknowledged too.
        assert_eq!(of(21, 21, 20), Some(None));
    }

    #[test]
    fn repetitions_double_their_distance() {
        assert_eq!([0, 1, 2, 3, 5].map(seconds_of_retries), [0, 1, 3, 7, 31]);
    }
}
