//! Holding the network: from the stop until the successor's driver is let in, this program drives the network cards and says
//! what [`holding`] knows to say.
//!
//! The successor's virtio_pci resets every virtio device that it finds, and its scan of the bus turns their registers off
//! for moments. So a card is looked at before it is touched: while it does not answer nothing is done; when it was reset it is
//! the successor's, and taken back only when orthros-init has loaded its drivers but for this one, for which it asks first
//! ([`Event::NetworkWanted`]) and waits until this program has let go. A driver that is built in has the card before that, and
//! gives it back to orthros-init.
//!
//! A successor that is woken is there at once: for it nothing is held.
//!
//! If an address of this program's own is set, it is on one of the cards, for as long as that is held ([`status`]).

mod card;
mod status;

use crate::rescue;
use crate::virtio::Registers;
use crate::watch::Backup;
use alloc::vec::Vec;
use card::{Card, DRIVEN};
use core::sync::atomic::Ordering;
use holding::answer::Answered;
use holding::known::Known;
use holding::own::Own;
use holding::state::Messages;
use machine::clock;
use machine::pci::Function;
use machine::virtio::{self, Found};
use shared_region::control::NetworkHold;
use shared_region::layout;
use shared_region::record::Stream;
use shared_region::timeline::Event;

/// Cards that are held.
const MAX_CARDS: usize = 4;
/// The status of a card that a system has seen, and no driver has taken.
const SEEN: u8 = 1;
/// The status of a card that does not answer: on hardware, and where QEMU has nothing. The second is also that of one that is being
/// reset, which is somebody else's then.
const AWAY: [u8; 2] = [0xFF, 0];
/// How long the successor must have left a card alone, in microseconds.
const LEFT_ALONE_US: u64 = 200_000;
/// Time between two looks after which somebody else could have taken a card and be done, in microseconds.
const GAP_US: u64 = 10_000;

/// What becomes of a card.
enum State {
    /// It is driven by this program.
    Held(Card),
    /// The successor has it. Its status, and since when it is that (TSC).
    Theirs(u8, u64),
    /// It is left alone.
    Left,
}

/// A card.
struct Link {
    function: Function,
    registers: Registers,
    hardware: [u8; 6],
    state: State,
    /// It did not answer at the last look.
    away: bool,
    /// What its status is to be when it is let go.
    leave: u8,
    known: Option<Known>,
}

/// The cards of the machine, while they are held.
#[derive(Default)]
pub struct Network {
    links: Vec<Link>,
    answered: Answered,
    /// This program's own address, and on which link.
    own: Option<(usize, Own)>,
    /// The records have been read.
    learned: bool,
    /// TSC of the last look.
    looked: u64,
}

impl Backup {
    /// Takes the cards. Only while no kernel runs.
    pub fn take_network(&mut self) {
        let mut links = Vec::new();
        virtio::network_cards(self.ring0, |found| match found {
            Found::Other(function, why) => log::info!("network: {function} {why}: it is not held"),
            Found::Usable(place) if links.len() < MAX_CARDS => {
                // SAFETY: it was found there just now; from here on its status is looked at before anything else.
                let registers = unsafe { Registers::new(self.ring0, place) };
                let function = place.function;
                function.enable_memory(self.ring0);
                // What it did for the dead kernel must be over before it may master the bus.
                let taken = registers.reset(&self.clock).map_err(|_| "is not reset in time");
                let taken = taken.and_then(|()| {
                    function.enable_bus_master(self.ring0);
                    Card::take(registers, &self.clock)
                });
                match taken {
                    Ok(card) => links.push(Link {
                        function,
                        registers,
                        hardware: registers.hardware(),
                        state: State::Held(card),
                        away: false,
                        leave: 0,
                        known: None,
                    }),
                    Err(why) => {
                        function.disable_bus_master(self.ring0);
                        log::warn!("network: {function} {why}: it is not held");
                    }
                }
            }
            Found::Usable(place) => log::info!("network: {} is one too many: it is not held", place.function),
        });
        let hold = if links.is_empty() {
            NetworkHold::None
        } else {
            NetworkHold::Holding
        };
        self.region.control().network_hold.store(hold as u64, Ordering::Release);
        self.network = Network {
            links,
            looked: clock::tsc(),
            ..Network::default()
        };
    }

    /// Learns from the records who the machine is. Nobody is answered before.
    pub fn learn_network(&mut self) {
        if self.network.learned || self.network.links.is_empty() {
            return;
        }
        self.network.learned = true;
        let part = layout::CONTEXT;
        // SAFETY: the gate is open: from here on nobody writes there before the next failure.
        let area = unsafe { self.region.bytes(self.region.address(part), part.size) };
        // After a salvage that failed those of the failover before may still be there.
        let is_of_now = |stream: &Stream<'_>| stream.header.failover == self.life.failovers;
        let stream = area.and_then(|area| Stream::open(area).ok()).filter(is_of_now);
        let cards: Vec<[u8; 6]> = self.network.links.iter().map(|link| link.hardware).collect();
        self.network.own = self.place_own(stream.as_ref(), &cards);
        let Some(stream) = stream else { return };
        for link in &mut self.network.links {
            link.known = Known::read(&stream, link.hardware);
            match &link.known {
                Some(known) => log::info!(
                    "network: {} is held: {} addresses, {} connections",
                    link.function,
                    known.addresses.len(),
                    known.connections.len()
                ),
                None => log::info!("network: {} had no address: nobody is answered there", link.function),
            }
        }
    }

    /// Answers what has come, or lets go if the successor asks for it.
    pub fn serve_network(&mut self) {
        if self.network.links.is_empty() {
            return;
        }
        let words = &self.region.timeline().tsc;
        if words[Event::NetworkWanted as usize].load(Ordering::Acquire) != 0 {
            return self.leave_network();
        }
        // By then orthros-init has loaded what it loads without asking.
        let loaded = words[Event::InitStarted as usize].load(Ordering::Acquire) != 0;
        let stopped = words[Event::Stopped as usize].load(Ordering::Relaxed);
        let elapsed = rescue::since(&self.clock, stopped) / 1000;
        let now = clock::tsc();
        let gap = rescue::since(&self.clock, self.network.looked) > GAP_US;
        self.network.looked = now;
        let left_alone = |since| rescue::since(&self.clock, since) > LEFT_ALONE_US;
        if let Some((_, own)) = &mut self.network.own {
            status::refresh(self.region, &self.clock, &mut own.state);
            if own.is_taken() {
                log::warn!("network: somebody else has {}: it is silent", own.address());
                self.network.own = None;
            }
        }
        let Network {
            links, answered, own, ..
        } = &mut self.network;
        for (number, link) in links.iter_mut().enumerate() {
            let status = link.registers.status();
            if AWAY.contains(&status) {
                link.away = true;
                continue;
            }
            let back = core::mem::take(&mut link.away);
            link.state = match core::mem::replace(&mut link.state, State::Left) {
                State::Held(mut card) if status == DRIVEN && (!(gap || back) || card.is_ours()) => {
                    if back {
                        card.notify();
                    }
                    let own = own.as_mut().filter(|(place, _)| *place == number).map(|(_, own)| own);
                    match card.serve(link.known.as_ref(), own, elapsed, answered) {
                        Ok(()) => State::Held(card),
                        Err(why) => {
                            let _ = link.registers.reset(&self.clock);
                            log::warn!("network: {} {why}: it is not held any more", link.function);
                            State::Left
                        }
                    }
                }
                State::Held(card) if status & DRIVEN == DRIVEN && card.is_ours() => {
                    let _ = link.registers.reset(&self.clock);
                    log::warn!("network: {} has failed: it is not held any more", link.function);
                    State::Left
                }
                // Its memory is given back: a card that was reset does not use it.
                State::Held(_) => {
                    log::info!("network: {} was taken by the successor", link.function);
                    State::Theirs(status, now)
                }
                State::Theirs(before, _) if before != status => State::Theirs(status, now),
                State::Theirs(_, since)
                    if status == SEEN && loaded && left_alone(since) && link.registers.hardware() == link.hardware =>
                {
                    link.leave = status;
                    match Card::take(link.registers, &self.clock) {
                        Ok(card) => {
                            log::info!("network: {} is held again", link.function);
                            State::Held(card)
                        }
                        Err(why) => {
                            log::warn!("network: {} {why}: it is not held any more", link.function);
                            State::Left
                        }
                    }
                }
                state => state,
            };
        }
    }

    /// Lets go of the cards: each is as the successor, or the reset, has left it.
    pub fn leave_network(&mut self) {
        if self.network.links.is_empty() {
            return;
        }
        let Network {
            links, answered, own, ..
        } = core::mem::take(&mut self.network);
        for link in links {
            let State::Held(card) = link.state else { continue };
            let status = link.registers.status();
            let ours = status == DRIVEN && card.is_ours();
            if AWAY.contains(&status) || ours && link.registers.reset(&self.clock).is_err() {
                log::warn!("network: {} does not answer", link.function);
                // It may still write to its buffers.
                core::mem::forget(card);
            } else if ours {
                link.registers.put_status(link.leave);
            }
        }
        self.region
            .control()
            .network_hold
            .store(NetworkHold::LetGo as u64, Ordering::Release);
        let Answered {
            neighbours,
            pings,
            segments,
            ignored,
        } = answered;
        log::info!(
            "network: let go; {neighbours} questions for an address, {pings} pings and {segments} segments answered, {ignored} frames not"
        );
        if let Some((_, own)) = own {
            let Messages { sent, dropped } = own.state.messages.unwrap_or_default();
            log::info!(
                "network: {}: {} pages shown, {sent} messages sent, {dropped} dropped",
                own.address(),
                own.pages
            );
        }
    }
}
