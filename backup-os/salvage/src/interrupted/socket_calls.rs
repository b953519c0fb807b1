//! Calls about sockets. One that waits for something to receive has received nothing, unless it wants a certain amount; one
//! that waits for room to send has sent what its `struct iov_iter` says. Those of TCP may have given their CPU up elsewhere.

use super::transfer::USER_COPY;
use super::{calls, files, tcp_calls, Call, Decision, Way, EINTR};
use crate::addr::{Kva, Uva};
use crate::memory::PhysMem;
use crate::refusal::Result;
use crate::sockets::skb;
use crate::user_memory;
use alloc::vec::Vec;

/// `MSG_WAITALL`.
const MSG_WAITALL: u64 = 0x100;
/// What does not change how much is moved, and where: `MSG_DONTWAIT`, `MSG_EOR`, `MSG_WAITALL`, `MSG_NOSIGNAL`, `MSG_MORE`,
/// `MSG_CMSG_CLOEXEC`.
const PLAIN: u64 = 0x40 | 0x80 | MSG_WAITALL | 0x4000 | 0x8000 | 0x4000_0000;
/// `MAX_SCHEDULE_TIMEOUT`.
const FOREVER: u64 = i64::MAX as u64;
/// Offsets of the buffers and their number in `struct user_msghdr`.
const MSG_IOV: u64 = 16;
const MSG_IOVLEN: u64 = 24;
/// `UIO_MAXIOV`.
const MAX_VECTOR: u64 = 1024;
/// Places of `si`, from where is copied, and `di`, where to, in `struct pt_regs`, in words.
const SI: u64 = 13;
const DI: u64 = 14;
/// Where calls wait for something to receive.
const RECEIVES: [&str; 5] = [
    "sk_wait_data",
    "__skb_wait_for_more_packets",
    "unix_stream_data_wait",
    "unix_stream_read_generic",
    "inet_csk_wait_for_connect",
];
/// Where calls wait for room to send.
const SENDS: [&str; 3] = ["sk_stream_wait_memory", "sock_alloc_send_pskb", "sock_wait_for_wmem"];
/// Where calls wait for room at a peer of AF_UNIX.
const WAITS_FOR_PEER: &str = "unix_wait_for_peer";
/// Where `connect` waits for the peer's answer; the first is part of the second where it is inlined.
const CONNECTS: [&str; 2] = ["inet_wait_for_connect", "__inet_stream_connect"];
/// Functions that have the `struct msghdr` of a call, whose iterator moves with what is received.
const RECEIVERS: [&str; 5] = [
    "sock_read_iter",
    "__sys_recvfrom",
    "__sys_recvmsg",
    "___sys_recvmsg",
    "____sys_recvmsg",
];
/// The same of what is sent.
const OWNERS: [&str; 5] = [
    "sock_write_iter",
    "__sys_sendto",
    "__sys_sendmsg",
    "___sys_sendmsg",
    "____sys_sendmsg",
];

impl<M: PhysMem + ?Sized> Call<'_, '_, '_, '_, M> {
    /// A call that receives; `flags` is the argument with MSG_*, `vector` tells where its buffers are.
    pub(super) fn receive(&mut self, flags: Option<usize>, vector: Buffers) -> Result<Decision> {
        let Some(sk) = self.socket()? else {
            return self.restart();
        };
        let waits = self.waits_in(&RECEIVES)?;
        let layout = &self.context.kernel.types.layouts.sock;
        let mem = &self.context.kernel.mem;
        let all = flags.is_some_and(|flags| self.argument(flags) & MSG_WAITALL != 0);
        let pause = match waits {
            true => None,
            false => Some(self.pause(false, flags.map_or(0, |flags| self.argument(flags)))?),
        };
        let limited = mem.uint(sk, layout.sk_rcvtimeo)? != FOREVER;
        // Anything else that waits does so while there is nothing, and for nothing more.
        let done = match pause.is_some() || all || mem.uint(sk, layout.sk_rcvlowat)? > 1 {
            true => self.received(vector)?,
            false => 0,
        };
        if pause.is_some_and(|pause| pause.ends) && !self.is_sound_end(done, false, vector != Buffers::One) {
            return Err(self.refuse("with a result of its own"));
        }
        let done = match done != 0 && pause.is_some_and(|pause| pause.copies) {
            true => self.taken(sk, done, vector)?,
            false => done,
        };
        let decision = match done {
            0 => self.answered(limited),
            // The call would also say from whom it was, and what came with it.
            _ if vector == Buffers::Message || flags.is_some() && self.argument(4) != 0 => {
                Err(self.refuse("which has received something"))
            }
            done => Ok(self.result(done)),
        };
        let locks = pause.filter(|pause| pause.locked).map(|_| sk);
        decision.map(|decision| Decision { locks, ..decision })
    }

    /// Where a call of TCP stands that has given its CPU up; `flags` are its MSG_*.
    fn pause(&mut self, sends: bool, flags: u64) -> Result<tcp_calls::Pause> {
        let chain = self.chain()?.filter(|_| flags & !PLAIN == 0);
        let pause = chain.and_then(|chain| tcp_calls::pause(&chain, sends));
        pause.ok_or_else(|| {
            self.refuse(if sends {
                "which may have sent something"
            } else {
                "which may have received something"
            })
        })
    }

    /// How much a call has received.
    fn received(&mut self, vector: Buffers) -> Result<u64> {
        let (buffers, chain) = (self.buffers_of(vector), self.chain()?);
        let mut found = Vec::new();
        if let (Some(buffers), Some(chain)) = (&buffers, &chain) {
            for link in chain.all(&RECEIVERS) {
                found.extend(self.words(link)?.vector_progress(self.context, buffers));
            }
        }
        super::stack::agreed(&found).ok_or_else(|| self.refuse("which may have received something"))
    }

    /// How much a call of TCP has taken that copies: no more than the `copied` that were moved.
    fn taken(&mut self, sk: Kva, copied: u64, vector: Buffers) -> Result<u64> {
        let copying = match vector {
            Buffers::One => self.copying(sk)?,
            _ => None,
        };
        let taken = copying.filter(|copying| copying.to >= copied && copying.to < self.argument(2));
        let taken = taken
            .and_then(tcp_calls::Copying::taken)
            .filter(|&taken| taken <= copied);
        taken.ok_or_else(|| self.refuse("while it moved data"))
    }

    /// From where to where a call of TCP with one buffer copies what was received, if a page that is not there says so.
    fn copying(&mut self, sk: Kva) -> Result<Option<tcp_calls::Copying>> {
        let Some(chain) = self.chain()? else { return Ok(None) };
        let registers = (chain.find(&[tcp_calls::COPY]))
            .and_then(|at| chain.faulting(at, &USER_COPY))
            .and_then(|link| link.registers);
        let Some(registers) = registers else { return Ok(None) };
        let (kernel, layouts) = (self.context.kernel, &self.context.kernel.types.layouts);
        let word = |index: u64| kernel.mem.u64(registers.offset(index.saturating_mul(8)));
        let (from, to) = (Kva(word(SI)?), word(DI)?);
        let Some(to) = to.checked_sub(self.argument(1)) else {
            return Ok(None);
        };
        let next = kernel.mem.uint(sk, layouts.tcp_sock.copied_seq)? as u32;
        for skb in skb::queue(self.context, sk, layouts.sock.sk_receive_queue)? {
            let control = skb.offset(u64::from(layouts.sk_buff.cb.offset));
            let first = kernel.mem.uint(control, layouts.tcp_skb_cb.seq)? as u32;
            let within = u64::from(next.wrapping_sub(first));
            // The copy is of the buffer that the next byte is in.
            if within < kernel.mem.uint(skb, layouts.sk_buff.len)? {
                let place = skb::place(self.context, skb, from)?.filter(|&place| place >= within);
                return Ok(place.map(|place| tcp_calls::Copying {
                    to,
                    from: first.wrapping_add(place as u32),
                    next,
                }));
            }
        }
        Ok(None)
    }

    /// `connect`. One that waits for room in the queue of a socket of AF_UNIX has done nothing yet; one of TCP that waits for the
    /// peer's answer goes on with that when it is made again.
    pub(super) fn connect(&mut self) -> Result<Decision> {
        let Some(sk) = self.socket()? else {
            return self.restart();
        };
        if !self.waits_for_peer()? && !self.waits_in(&CONNECTS)? {
            return Err(self.refuse(""));
        }
        self.answered(self.is_send_limited(sk)?)
    }

    /// Whether a call waits for room at a peer of AF_UNIX: what it has prepared is given up then.
    fn waits_for_peer(&mut self) -> Result<bool> {
        self.waits_in(&[WAITS_FOR_PEER])
    }

    /// Whether a call waits in one of these functions.
    fn waits_in(&mut self, names: &[&str]) -> Result<bool> {
        let chain = self.chain()?;
        Ok(chain.is_some_and(|chain| {
            let waits = |name: &&str| chain.find(&[name]).is_some_and(|at| chain.waits(at));
            names.iter().any(waits)
        }))
    }

    fn is_send_limited(&self, sk: Kva) -> Result<bool> {
        let layout = &self.context.kernel.types.layouts.sock;
        Ok(self.context.kernel.mem.uint(sk, layout.sk_sndtimeo)? != FOREVER)
    }

    /// A call that sends: `vector` tells where its buffers are.
    pub(super) fn send(&mut self, vector: Buffers) -> Result<Decision> {
        let Some(sk) = self.socket()? else {
            return self.restart();
        };
        if self.waits_for_peer()? {
            return self.answered(self.is_send_limited(sk)?);
        }
        let buffers = self.buffers_of(vector);
        let Some(chain) = self.chain()? else {
            return Err(self.refuse("whose frames cannot be found"));
        };
        let waits = SENDS
            .iter()
            .any(|name| chain.find(&[name]).is_some_and(|at| chain.waits(at)));
        let pause = match waits {
            true => None,
            false => Some(self.pause(true, self.sending_flags())?),
        };
        let mut found = Vec::new();
        if let Some(buffers) = &buffers {
            for link in chain.all(&OWNERS) {
                found.extend(self.words(link)?.vector_progress(self.context, buffers));
            }
        }
        let Some(done) = super::stack::agreed(&found) else {
            return Err(self.refuse("which may have sent something"));
        };
        if pause.is_some_and(|pause| pause.ends) && !self.is_sound_end(done, true, vector != Buffers::One) {
            return Err(self.refuse("with a result of its own"));
        }
        let decision = match done {
            0 => self.answered(self.is_send_limited(sk)?)?,
            done => self.result(done),
        };
        let locks = pause.filter(|pause| pause.locked).map(|_| sk);
        Ok(Decision { locks, ..decision })
    }

    /// MSG_* of a call that sends.
    fn sending_flags(&self) -> u64 {
        match calls::way(self.number) {
            Way::Send => self.argument(3),
            Way::SendMessage => self.argument(2),
            _ => 0,
        }
    }

    /// A call that did nothing: again, unless the socket limits how long it may take, when it ends as after a signal.
    fn answered(&self, limited: bool) -> Result<Decision> {
        if limited {
            Ok(self.result(EINTR as u64))
        } else {
            self.restart()
        }
    }

    /// The socket that the first argument names.
    fn socket(&self) -> Result<Option<Kva>> {
        let Some(file) = self.descriptor(0) else {
            return Ok(None);
        };
        crate::sockets::behind(self.context, file)
    }

    fn buffers_of(&self, vector: Buffers) -> Option<Vec<(u64, u64)>> {
        let phys = self.context.kernel.phys();
        let word = |at| user_memory::word(phys, &self.thread.tables, at);
        let (first, count) = match vector {
            Buffers::One => return Some(alloc::vec![(self.argument(1), self.argument(2))]),
            Buffers::Vector => (self.argument(1), self.argument(2)),
            Buffers::Message => {
                let message = Uva(self.argument(1));
                (word(message.offset(MSG_IOV))?, word(message.offset(MSG_IOVLEN))?)
            }
        };
        (0..count.min(MAX_VECTOR))
            .map(|i| {
                let at = Uva(first).offset(i.wrapping_mul(16));
                Some((word(at)?, word(at.offset(8))?))
            })
            .collect()
    }

    /// Whether a descriptor is a socket.
    pub(super) fn is_socket(&self, file: Kva) -> Result<bool> {
        Ok(self.kind_of(file)?.0 == files::SOCKETS)
    }
}

/// Where the buffers of a call are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buffers {
    /// One, in the second and third argument.
    One,
    /// As `writev` has them.
    Vector,
    /// As `sendmsg` has them.
    Message,
}
