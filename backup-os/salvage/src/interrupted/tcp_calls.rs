//! Calls that move data through a connection of TCP, where they give their CPU up on the way: for the lock, for what came
//! while they had it, and for memory. There what they have moved and the connection agree (net/ipv4/tcp.c), and the lock, if
//! they have it, is held over nothing unfinished: between two segments of the backlog, or before anything is copied. What is
//! received is taken out of the connection buffer by buffer, each when it has been copied. A copy that meets a page that is not
//! there says from where to where it copies, and with that how much was taken before it ([`Copying`]).

use super::chain::Chain;

/// The functions that move data, called with the lock and taking it.
const RECEIVE: [&str; 2] = ["tcp_recvmsg_locked", "tcp_recvmsg"];
const SEND: [&str; 2] = ["tcp_sendmsg_locked", "tcp_sendmsg"];
/// Takes the lock.
const LOCK: &str = "lock_sock_nested";
/// Gives it back: at the end, and while they wait.
const RELEASE: &str = "release_sock";
/// What deals with segments that have come meanwhile, one by one, and lets others run in between.
const BACKLOG: [&str; 3] = [RELEASE, "__release_sock", "__sk_flush_backlog"];
/// Wait, without the lock.
const WAITS: [&str; 2] = ["sk_wait_data", "sk_stream_wait_memory"];
/// Copies what was received.
pub(super) const COPY: &str = "skb_copy_datagram_iter";
/// Look for memory, with the lock, before they copy to it. The second until Linux 5.18 (f8dd3b8d7020).
const ROOM: [&str; 3] = ["tcp_stream_alloc_skb", "sk_stream_alloc_skb", "sk_page_frag_refill"];

/// Where such a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// It has the lock.
    pub locked: bool,
    /// It moves nothing any more.
    pub ends: bool,
    /// It copies: what was copied may be more than what was taken.
    pub copies: bool,
}

/// Where a call stands that has given its CPU up; `None` if that is no such place.
pub(super) fn pause(chain: &Chain, sends: bool) -> Option<Pause> {
    let at = chain.find(if sends { &SEND } else { &RECEIVE })?;
    let called = chain.called_by(at).filter(|_| chain.is_off())?.name.as_str();
    let at_work = chain.find(&[if sends { SEND[0] } else { RECEIVE[0] }]).is_some();
    let (ends, copies) = (called == RELEASE && !at_work, called == COPY);
    let locked = match called {
        LOCK => false,
        COPY if !sends => true,
        _ if BACKLOG.contains(&called) => true,
        _ if WAITS.contains(&called) => chain.is_below(at, &BACKLOG),
        _ if sends && ROOM.contains(&called) => true,
        _ => return None,
    };
    Some(Pause { locked, ends, copies })
}

/// A receive that has met a page that is not there while it copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copying {
    /// How far into the buffer of the call it copies.
    pub to: u64,
    /// The number of the byte that it copies there.
    pub from: u32,
    /// The number of the first byte that was not taken out of the connection (`copied_seq`): where this copy began.
    pub next: u32,
}

impl Copying {
    /// How much was taken out of the connection before this copy. `None` if it cannot have been so.
    pub fn taken(self) -> Option<u64> {
        let copied = self.from.wrapping_sub(self.next);
        self.to.checked_sub(u64::from(copied))
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::tests::chain;
    use super::*;

    const AWAY: [&str; 2] = ["__schedule", "preempt_schedule_common"];

    fn of(inner: &[&str], sends: bool) -> Option<(bool, bool)> {
        let outer = ["inet_recvmsg", "sock_recvmsg", "__sys_recvfrom", "do_syscall_64"];
        pause(&chain(&[inner, &outer].concat()), sends).map(|pause| (pause.locked, pause.ends))
    }

    #[test]
    fn the_lock_is_waited_for_or_held() {
        let waits = [
            "__schedule",
            "schedule",
            "__lock_sock",
            "lock_sock_nested",
            "tcp_recvmsg",
        ];
        assert_eq!(of(&waits, false), Some((false, false)));
        let woken = [
            "__schedule",
            "schedule",
            "__lock_sock",
            "lock_sock_nested",
            "sk_wait_data",
            "tcp_recvmsg_locked",
            "tcp_recvmsg",
        ];
        assert_eq!(of(&woken, false), Some((false, false)));
        let in_backlog = [
            &AWAY[..],
            &[
                "__cond_resched",
                "__release_sock",
                "release_sock",
                "sk_stream_wait_memory",
            ],
            &["tcp_sendmsg_locked", "tcp_sendmsg"],
        ]
        .concat();
        assert_eq!(of(&in_backlog, true), Some((true, false)));
        let ends = [
            &AWAY[..],
            &["__cond_resched", "__release_sock", "release_sock", "tcp_sendmsg"],
        ]
        .concat();
        assert_eq!(of(&ends, true), Some((true, true)));
        let memory = [
            &AWAY[..],
            &[
                "__cond_resched",
                "__alloc_pages",
                "sk_page_frag_refill",
                "tcp_sendmsg_locked",
            ],
        ];
        assert_eq!(of(&memory.concat(), true), Some((true, false)));
    }

    #[test]
    fn what_was_taken_before_a_copy_follows_from_where_it_copies_to() {
        let copying = |to, from, next| Copying { to, from, next }.taken();
        // The first copy of the call, at its beginning and further on.
        assert_eq!(copying(0, 700, 700), Some(0));
        assert_eq!(copying(512, 1212, 700), Some(0));
        // A later one; numbers begin anew.
        assert_eq!(copying(4096, 3, u32::MAX - 4), Some(4096 - 8));
        // Behind what it has copied to, or before the connection's place.
        assert_eq!(copying(511, 1212, 700), None);
        assert_eq!(copying(4096, 699, 700), None);
    }

    #[test]
    fn where_data_is_copied_is_one_before_anything_was_taken() {
        let copies = [
            &[
                "__schedule",
                "schedule",
                "io_schedule",
                "handle_mm_fault",
                "asm_exc_page_fault",
                "!copyout",
            ][..],
            &[
                "_copy_to_iter",
                "__skb_datagram_iter",
                "skb_copy_datagram_iter",
                "tcp_recvmsg_locked",
                "tcp_recvmsg",
            ],
        ];
        assert_eq!(of(&copies.concat(), false), Some((true, false)));
        let copies = pause(&chain(&copies.concat()), false).map(|pause| pause.copies);
        assert_eq!(copies, Some(true));
        // Stopped at any instruction.
        assert_eq!(of(&["!tcp_recvmsg_locked", "tcp_recvmsg"], false), None);
        assert_eq!(of(&["!__release_sock", "release_sock", "tcp_recvmsg"], false), None);
        assert_eq!(of(&["__schedule", "schedule", "udp_recvmsg"], false), None);
        // The other way round.
        assert_eq!(
            of(
                &[
                    "__schedule",
                    "schedule",
                    "__lock_sock",
                    "lock_sock_nested",
                    "tcp_recvmsg"
                ],
                true
            ),
            None
        );
    }
}
