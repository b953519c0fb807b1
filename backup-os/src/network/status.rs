//! The address of this program's own on one of the cards that are held: where it is, and what is shown there.

use crate::region::Region;
use crate::stage;
use crate::watch::Backup;
use core::sync::atomic::{AtomicU64, Ordering};
use holding::own::Own;
use holding::place::{Place, Silent};
use holding::state::{Attempt, State, Word};
use machine::clock::{self, Clock};
use shared_region::attempts::{End, MAX};
use shared_region::control::{Cause, ControlWords, SuccessorPhase};
use shared_region::record::Stream;
use shared_region::status_page::{LogTarget, StatusAddress};
use shared_region::timeline::{Event, EVENTS};

fn word(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

impl Backup {
    /// Finds a place for the address, if one is set: which card, and who is there. `stream` is what is known of the machine.
    pub(super) fn place_own(&self, stream: Option<&Stream<'_>>, cards: &[[u8; 6]]) -> Option<(usize, Own)> {
        let control = self.region.control();
        let target = LogTarget::from_word(word(&control.log_target));
        let Some(address) = StatusAddress::from_word(word(&control.status_address)) else {
            if let Some(target) = target {
                log::warn!("network: nothing is sent to {target}: there is no address to send from");
            }
            return None;
        };
        let place = match stream {
            Some(stream) => Place::find(stream, address, target, cards),
            None => Err(Silent::Unknown),
        };
        let place = match place {
            Ok(place) => place,
            Err(why) => {
                log::warn!("network: {address} {}", why.text());
                return None;
            }
        };
        if let Some(target) = target.filter(|target| !place.reaches(target.address)) {
            log::warn!("network: nothing is sent to {target}: no route of the machine leads there from {address}");
        }
        let hardware = cards.get(place.card)?;
        // Whoever wants to guess sequence numbers would have to know this instant to the nanosecond.
        let mut own = Own::new(&place, *hardware, target, clock::tsc());
        let stopped = word(&self.region.timeline().tsc[Event::Stopped as usize]);
        own.state = state(self.region);
        own.state.failover = self.life.failovers;
        if let Some(stream) = stream {
            own.state.learn(stream, stopped);
        }
        Some((place.card, own))
    }
}

/// What does not change within a failover.
fn state(region: Region) -> State {
    let control = region.control();
    State {
        cause: Cause::from_word(word(&control.failure_cause)).unwrap_or_default(),
        cpu: word(&control.failure_cpu).checked_sub(1),
        place: failure_place(control),
        kernels: [0, 1].map(|slot| Word::new(stage::release(region, slot).unwrap_or("unknown"))),
        ..State::default()
    }
}

fn failure_place(control: &ControlWords) -> Word {
    let bytes: alloc::vec::Vec<u8> = control
        .failure_where
        .iter()
        .flat_map(|part| word(part).to_le_bytes())
        .take_while(|&byte| byte != 0)
        .collect();
    Word::new(&alloc::string::String::from_utf8_lossy(&bytes))
}

/// What does: reads it anew.
pub(super) fn refresh(region: Region, clock: &Clock, state: &mut State) {
    let words = &region.timeline().tsc;
    let stopped = word(&words[Event::Stopped as usize]);
    for (step, (event, _)) in state.steps.iter_mut().zip(EVENTS) {
        let at = word(&words[event as usize]);
        let ms = |from: u64, to: u64| (clock.nanoseconds(to - from) / 1_000_000) as i64;
        *step = match at {
            0 => None,
            at if at < stopped => Some(-ms(at, stopped)),
            at => Some(ms(stopped, at)),
        };
    }
    state.phase = SuccessorPhase::from_word(word(&region.control().successor_phase));
    let words = region.attempts();
    let count = (word(&words.count) as usize).min(MAX);
    let inherited = word(&words.inherited) as usize;
    state.attempts.clear();
    let attempts = words.list.iter().take(count).skip(inherited);
    state.attempts.extend(attempts.map(|attempt| Attempt {
        slot: word(&attempt.slot) as usize,
        woken: word(&attempt.woken) == 1,
        end: End::from_word(word(&attempt.end)).unwrap_or(End::Going),
    }));
}
