//! What the backup OS is doing, from one failover to the next.
//!
//! ```text
//! Off ─► Unarmed ─► Armed ─► Stopping ─► Salvaging ─► HandingOver ─► Unarmed (the other nursery) …
//!                     │          │            │             │            │
//!                     └─►Unarmed └────────────┴─────────────┴────────────┴─► Dead
//! ```
//!
//! A successor that fails before processes run in it is replaced; the state stays.
//!
//! A successor is either started cold or, when one was put to sleep in the reserved nursery, woken; the states are
//! the same, only [`Start`] differs.

use shared_region::control::{WatchReason, WatchState};

/// How the next successor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From its image, placed in the nursery.
    Cold,
    /// From its sleep.
    Standby,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The backup OS runs.
    Started,
    /// Something needed for arming is missing or wrong.
    NotReady(WatchReason),
    /// Facts, salvage and successor are ready.
    Ready(Start),
    /// The active is dead.
    ActiveDied,
    /// Every CPU is parked.
    Stopped,
    /// A CPU could not be parked.
    NotStopped,
    /// Salvage has ended, with or without something to restore.
    Salvaged,
    /// The successor has said that it needs nothing more.
    HandedOver,
    /// Another successor takes the place of the one that was held ready, or of one that has failed before processes ran.
    Replaced(Start),
    /// The successor did not make it, and nobody can take over from it.
    SuccessorDied,
}

/// The state, with what has to be remembered beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// What is published.
    pub state: WatchState,
    /// Why it is not armed.
    pub reason: WatchReason,
    /// How the successor starts, or started.
    pub start: Start,
    /// Which nursery is the reservation (0 or 1).
    pub reserved_nursery: usize,
    /// Failovers completed or under way since the machine was started.
    pub failovers: u64,
}

impl Life {
    /// Before anything is known.
    pub fn new(reserved_nursery: usize) -> Self {
        Self {
            state: WatchState::Off,
            reason: WatchReason::NoFacts,
            start: Start::Cold,
            reserved_nursery,
            failovers: 0,
        }
    }

    /// The state after `input`, or `None` if it cannot happen in this one (and changes nothing).
    pub fn after(&self, input: Input) -> Option<Self> {
        let mut next = *self;
        match (self.state, input) {
            (WatchState::Off, Input::Started) => next.state = WatchState::Unarmed,
            (WatchState::Unarmed | WatchState::Armed, Input::NotReady(reason)) => {
                next.state = WatchState::Unarmed;
                next.reason = reason;
            }
            (WatchState::Unarmed, Input::Ready(start)) => {
                next.state = WatchState::Armed;
                next.reason = WatchReason::None;
                next.start = start;
            }
            // A standby has come back, or cannot be woken any more.
            (WatchState::Armed, Input::Ready(start)) => next.start = start,
            (WatchState::Armed, Input::ActiveDied) => {
                next.state = WatchState::Stopping;
                next.failovers += 1;
            }
            (WatchState::Stopping, Input::Stopped) => next.state = WatchState::Salvaging,
            (WatchState::Salvaging, Input::Salvaged) => next.state = WatchState::HandingOver,
            (WatchState::HandingOver, Input::HandedOver) => {
                next.state = WatchState::Unarmed;
                next.reason = WatchReason::NoFacts;
                next.reserved_nursery = 1 - self.reserved_nursery.min(1);
                next.start = Start::Cold;
            }
            (WatchState::Armed | WatchState::Salvaging | WatchState::HandingOver, Input::Replaced(start)) => {
                next.start = start;
            }
            (WatchState::Stopping, Input::NotStopped)
            | (WatchState::Salvaging | WatchState::HandingOver | WatchState::Unarmed, Input::SuccessorDied) => {
                next.state = WatchState::Dead;
            }
            _ => return None,
        }
        Some(next)
    }
}

/// What to do after a failure of the backup OS itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The active is alive: stop watching, and let it run.
    LeaveActive,
    /// The successor has been entered: let it run, with what has been salvaged, and only see that it makes it.
    LeaveSuccessor,
    /// No kernel runs that could go on: reset the machine.
    Reset,
}

/// The way out in a state. `jumped` says whether the successor has been entered, `starting` whether the first kernel is
/// still to be.
pub fn after_own_failure(state: Option<WatchState>, jumped: bool, starting: bool) -> Way {
    match state {
        _ if starting => Way::Reset,
        Some(WatchState::Off | WatchState::Unarmed | WatchState::Armed) => Way::LeaveActive,
        Some(WatchState::Salvaging) if jumped => Way::LeaveSuccessor,
        Some(WatchState::HandingOver) => Way::LeaveSuccessor,
        Some(WatchState::Stopping | WatchState::Salvaging | WatchState::Dead) | None => Way::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::{after_own_failure, Input, Life, Start, Way};
    use alloc::vec;
    use shared_region::control::{WatchReason, WatchState};

    fn run(inputs: &[Input]) -> Option<Life> {
        inputs.iter().try_fold(Life::new(0), |life, &input| life.after(input))
    }

    const UNTIL_ARMED: [Input; 2] = [Input::Started, Input::Ready(Start::Cold)];

    #[test]
    fn a_whole_failover_swaps_the_nurseries_and_ends_unarmed() {
        let mut inputs = UNTIL_ARMED.to_vec();
        inputs.extend([Input::ActiveDied, Input::Stopped, Input::Salvaged, Input::HandedOver]);
        let life = run(&inputs).unwrap();
        assert_eq!(life.state, WatchState::Unarmed);
        assert_eq!(life.reason, WatchReason::NoFacts);
        assert_eq!((life.reserved_nursery, life.failovers), (1, 1));
        let again = life.after(Input::Ready(Start::Standby)).unwrap();
        assert_eq!((again.state, again.start), (WatchState::Armed, Start::Standby));
    }

    #[test]
    fn a_standby_may_come_back_while_armed() {
        let mut inputs = UNTIL_ARMED.to_vec();
        inputs.push(Input::Ready(Start::Standby));
        let life = run(&inputs).unwrap();
        assert_eq!((life.state, life.start), (WatchState::Armed, Start::Standby));
    }

    #[test]
    fn an_unparked_cpu_is_the_end() {
        let mut inputs = UNTIL_ARMED.to_vec();
        inputs.extend([Input::ActiveDied, Input::NotStopped]);
        assert_eq!(run(&inputs).unwrap().state, WatchState::Dead);
    }

    #[test]
    fn the_successor_may_die_before_and_after_the_salvage() {
        for middle in [&[][..], &[Input::Salvaged]] {
            let mut inputs = UNTIL_ARMED.to_vec();
            inputs.extend([Input::ActiveDied, Input::Stopped]);
            inputs.extend(middle);
            inputs.push(Input::SuccessorDied);
            assert_eq!(run(&inputs).unwrap().state, WatchState::Dead);
        }
    }

    #[test]
    fn a_successor_may_die_before_it_is_watched() {
        let mut inputs = UNTIL_ARMED.to_vec();
        inputs.extend([Input::ActiveDied, Input::Stopped, Input::Salvaged, Input::HandedOver]);
        let again = run(&inputs).unwrap().after(Input::Ready(Start::Cold)).unwrap();
        assert_eq!(again.after(Input::ActiveDied).unwrap().failovers, 2);
        inputs.push(Input::SuccessorDied);
        assert_eq!(run(&inputs).unwrap().state, WatchState::Dead);
    }

    #[test]
    fn another_successor_may_take_the_place_of_one_that_failed() {
        for middle in [&[][..], &[Input::Salvaged]] {
            let mut inputs = vec![
                Input::Started,
                Input::Ready(Start::Standby),
                Input::ActiveDied,
                Input::Stopped,
            ];
            inputs.extend(middle);
            let before = run(&inputs).unwrap();
            let after = before.after(Input::Replaced(Start::Cold)).unwrap();
            assert_eq!((after.state, after.failovers), (before.state, before.failovers));
            assert_eq!(after.start, Start::Cold);
        }
        assert!(run(&[Input::Started, Input::Replaced(Start::Cold)]).is_none());
        let armed = run(&[
            Input::Started,
            Input::Ready(Start::Standby),
            Input::Replaced(Start::Cold),
        ])
        .unwrap();
        assert_eq!((armed.state, armed.start), (WatchState::Armed, Start::Cold));
    }

    #[test]
    fn facts_that_go_away_disarm() {
        let mut inputs = UNTIL_ARMED.to_vec();
        inputs.push(Input::NotReady(WatchReason::NoFacts));
        let life = run(&inputs).unwrap();
        assert_eq!((life.state, life.reason), (WatchState::Unarmed, WatchReason::NoFacts));
    }

    #[test]
    fn a_death_while_not_armed_starts_nothing() {
        assert!(run(&[Input::Started, Input::ActiveDied]).is_none());
    }

    #[test]
    fn a_failure_of_the_backup_os_costs_no_healthy_kernel() {
        for state in [WatchState::Off, WatchState::Unarmed, WatchState::Armed] {
            assert_eq!(after_own_failure(Some(state), false, false), Way::LeaveActive);
            assert_eq!(after_own_failure(Some(state), false, true), Way::Reset);
        }
        assert_eq!(after_own_failure(Some(WatchState::Stopping), false, false), Way::Reset);
        assert_eq!(after_own_failure(Some(WatchState::Salvaging), false, false), Way::Reset);
        assert_eq!(
            after_own_failure(Some(WatchState::Salvaging), true, false),
            Way::LeaveSuccessor
        );
        assert_eq!(
            after_own_failure(Some(WatchState::HandingOver), true, false),
            Way::LeaveSuccessor
        );
        assert_eq!(after_own_failure(None, false, false), Way::Reset);
    }
}
