//! Whether the kernel that takes over is still making its way.
//!
//! Until it reports its first phase only the clock can tell. After that orthros-init moves a counter while it works,
//! and each phase has a deadline of its own as well, so that a loop that only moves the counter is found too.

use shared_region::control::SuccessorPhase;

/// Deadlines, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the jump to [`SuccessorPhase::Module`].
    pub boot: u64,
    /// Between two signs of life after that.
    pub heartbeat: u64,
    /// In any one phase after that.
    pub phase: u64,
}

impl Default for Limits {
    /// For an emulated machine on a loaded host, where a boot takes tens of seconds; hardware is far inside them.
    fn default() -> Self {
        Self {
            boot: 120_000_000,
            heartbeat: 60_000_000,
            phase: 600_000_000,
        }
    }
}

impl Limits {
    /// With this deadline for signs of life, in microseconds; without one, only the phases have theirs.
    pub fn with_heartbeat(heartbeat: Option<u64>) -> Self {
        Self {
            heartbeat: heartbeat.unwrap_or(u64::MAX),
            ..Self::default()
        }
    }
}

/// What a look at the words says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing new, and in time.
    Going,
    /// It has come to this phase.
    Reached(SuccessorPhase),
    /// It has not booted in time.
    BootTimeout,
    /// It has not moved its counter in time, in this phase.
    HeartbeatTimeout(SuccessorPhase),
    /// It has been in this phase for too long.
    PhaseTimeout(SuccessorPhase),
}

/// Watches one successor.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    limits: Limits,
    phase: SuccessorPhase,
    phase_since: u64,
    heartbeat: u64,
    heartbeat_since: u64,
}

impl Watch {
    /// Starts at the jump, at `now` microseconds.
    pub fn new(limits: Limits, now: u64, heartbeat: u64) -> Self {
        Self {
            limits,
            phase: SuccessorPhase::None,
            phase_since: now,
            heartbeat,
            heartbeat_since: now,
        }
    }

    /// The furthest phase it has reported.
    pub fn phase(&self) -> SuccessorPhase {
        self.phase
    }

    /// Judges the words at `now`. A phase lower than one already seen is a stale or torn word and changes nothing.
    pub fn look(&mut self, now: u64, phase: u64, heartbeat: u64) -> Verdict {
        if heartbeat != self.heartbeat {
            self.heartbeat = heartbeat;
            self.heartbeat_since = now;
        }
        if let Some(phase) = SuccessorPhase::from_word(phase).filter(|&p| p > self.phase) {
            self.phase = phase;
            self.phase_since = now;
            self.heartbeat_since = now;
            return Verdict::Reached(phase);
        }
        let in_phase = now.saturating_sub(self.phase_since);
        match self.phase {
            SuccessorPhase::Complete => Verdict::Going,
            SuccessorPhase::None if in_phase > self.limits.boot => Verdict::BootTimeout,
            SuccessorPhase::None => Verdict::Going,
            phase if now.saturating_sub(self.heartbeat_since) > self.limits.heartbeat => {
                Verdict::HeartbeatTimeout(phase)
            }
            phase if in_phase > self.limits.phase => Verdict::PhaseTimeout(phase),
            _ => Verdict::Going,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Verdict, Watch};
    use shared_region::control::SuccessorPhase;

    const LIMITS: Limits = Limits {
        boot: 100,
        heartbeat: 10,
        phase: 50,
    };

    #[test]
    fn a_successor_that_never_reports_is_given_up_after_the_boot_deadline() {
        let mut watch = Watch::new(LIMITS, 1000, 0);
        assert_eq!(watch.look(1100, 0, 0), Verdict::Going);
        assert_eq!(watch.look(1101, 0, 0), Verdict::BootTimeout);
    }

    #[test]
    fn phases_are_reported_once_and_in_order() {
        let mut watch = Watch::new(LIMITS, 0, 0);
        assert_eq!(watch.look(5, 1, 0), Verdict::Reached(SuccessorPhase::Module));
        assert_eq!(watch.look(6, 1, 0), Verdict::Going);
        assert_eq!(watch.look(7, 3, 0), Verdict::Reached(SuccessorPhase::Files));
        assert_eq!(watch.look(8, 2, 0), Verdict::Going);
        assert_eq!(watch.look(9, 77, 0), Verdict::Going);
        assert_eq!(watch.look(10, 5, 0), Verdict::Reached(SuccessorPhase::Complete));
        assert_eq!(watch.look(1_000_000, 5, 0), Verdict::Going);
    }

    #[test]
    fn a_stopped_counter_is_found() {
        let mut watch = Watch::new(LIMITS, 0, 0);
        watch.look(5, 1, 0);
        assert_eq!(watch.look(15, 1, 0), Verdict::Going);
        assert_eq!(watch.look(16, 1, 0), Verdict::HeartbeatTimeout(SuccessorPhase::Module));
    }

    #[test]
    fn a_counter_that_moves_for_ever_is_found() {
        let mut watch = Watch::new(LIMITS, 0, 0);
        watch.look(0, 2, 0);
        for now in 1..=50 {
            assert_eq!(watch.look(now, 2, now), Verdict::Going);
        }
        assert_eq!(
            watch.look(51, 2, 51),
            Verdict::PhaseTimeout(SuccessorPhase::MemoryAdded)
        );
    }
}
