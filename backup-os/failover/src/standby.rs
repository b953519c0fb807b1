//! The standby: whether it goes to sleep in time, whether what sleeps can be woken, and what a kernel that was woken
//! asks of power-management words that no chipset looks at.
//!
//! ```text
//! None ─► Starting ─► Asleep ─► Waking ─► Awake ─► PuttingBack (the other nursery) ─► Asleep …
//!             │          │         │                    │
//!             └──────────┴─────────┴─► Failed           └─► None, and why: the successor starts cold
//! ```

use alloc::vec::Vec;
use shared_region::layout;
use shared_region::standby::{StandbyState, IDLE_BLOCK, MAX_IDLE_BLOCKS};

/// How long a standby may take from its first instruction until it sleeps, in microseconds. An emulated machine on a
/// loaded host takes tens of seconds for a boot.
pub const SLEEP_US: u64 = 120_000_000;
/// How long a woken standby may take to report in, in microseconds. Its successor by a cold start waits for as long.
pub const WAKE_US: u64 = 30_000_000;

/// What was seen of a standby that is to go to sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The word that stands for its control register.
    pub control: Control,
    /// It has rung the doorbell: it panics.
    pub doorbell: bool,
    /// It has asked for a reset of the machine.
    pub reset: bool,
}

/// What that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is on its way.
    Going,
    /// It sleeps.
    Asleep,
    /// It will not: why.
    Failed(&'static str),
}

/// Judges a standby `us` microseconds after its first instruction.
pub fn judge(us: u64, seen: Seen) -> Verdict {
    if seen.doorbell {
        Verdict::Failed("it panicked")
    } else if seen.reset {
        Verdict::Failed("it asked for a reset")
    } else if seen.control.asks_for_sleep() {
        Verdict::Asleep
    } else if us > SLEEP_US {
        Verdict::Failed("it did not go to sleep in time")
    } else {
        Verdict::Going
    }
}

/// PM1 control (ACPI 6.5, 4.8.3.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control(pub u16);

impl Control {
    const SLEEP_ENABLE: u16 = 1 << 13;
    const TYPE: u16 = 7 << 10;

    /// SLP_EN: the kernel wants to leave the working state.
    pub const fn asks_for_sleep(self) -> bool {
        self.0 & Self::SLEEP_ENABLE != 0
    }

    /// SLP_TYP.
    pub const fn sleep_type(self) -> u8 {
        ((self.0 & Self::TYPE) >> 10) as u8
    }
}

/// What a kernel that was woken asks of its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing.
    Nothing,
    /// To write this to the machine's own control register.
    Pass(Control),
    /// To sleep, as it did when it was a standby: the machine cannot, because its firmware does not know the vector.
    Sleep,
    /// To reset the machine.
    Reset,
}

/// Reads the words. `asleep` is the control word with which it went to sleep as a standby.
pub fn request(control: Control, reset: bool, asleep: Control) -> Request {
    if reset {
        Request::Reset
    } else if !control.asks_for_sleep() {
        Request::Nothing
    } else if control.sleep_type() == asleep.sleep_type() {
        Request::Sleep
    } else {
        Request::Pass(control)
    }
}

/// Whether a waking vector is one: real-mode code in the low range of the kernel in this nursery.
pub fn vector_is_sound(vector: u32, nursery: usize) -> bool {
    let (start, end) = layout::low_range(nursery);
    (start..end).contains(&u64::from(vector))
}

/// What is left of a nursery (start and bytes) without the blocks that a kernel says it holds idle, in ascending order. A
/// block that is not one of this nursery is not believed.
pub fn kept(nursery: (u64, u64), blocks: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let (start, length) = nursery;
    let inside = |block: &u64| block.is_multiple_of(IDLE_BLOCK) && block.wrapping_sub(start) <= length - IDLE_BLOCK;
    let mut blocks: Vec<u64> = blocks.filter(inside).take(MAX_IDLE_BLOCKS).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let mut kept = Vec::new();
    let mut at = start;
    for block in blocks.into_iter().chain([start + length]) {
        if at < block {
            kept.push((at, block - at));
        }
        at = block + IDLE_BLOCK;
    }
    kept
}

/// Whether the next successor is to be woken: one sleeps in the reserved nursery.
pub fn can_wake(state: StandbyState, sleeps_in: usize, reserved_nursery: usize) -> bool {
    state == StandbyState::Asleep && sleeps_in == reserved_nursery
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASLEEP: Control = Control(0x2401);

    #[test]
    fn sleep_enable_is_what_counts() {
        let seen = |control| Seen {
            control: Control(control),
            ..Seen::default()
        };
        assert_eq!(judge(5, seen(1)), Verdict::Going);
        // ACPICA writes the type before it writes the enable bit.
        assert_eq!(judge(5, seen(0x0401)), Verdict::Going);
        assert_eq!(judge(5, seen(ASLEEP.0)), Verdict::Asleep);
        assert_eq!(judge(SLEEP_US + 1, seen(ASLEEP.0)), Verdict::Asleep);
    }

    #[test]
    fn a_standby_that_panics_resets_or_hangs_has_failed() {
        let failed = |us, seen| matches!(judge(us, seen), Verdict::Failed(_));
        let panicked = Seen {
            doorbell: true,
            control: ASLEEP,
            ..Seen::default()
        };
        let resets = Seen {
            reset: true,
            ..Seen::default()
        };
        assert!(failed(1, panicked) && failed(1, resets));
        assert!(!failed(SLEEP_US, Seen::default()) && failed(SLEEP_US + 1, Seen::default()));
    }

    #[test]
    fn power_off_is_passed_on_and_sleep_is_not() {
        assert_eq!(request(Control(1), false, ASLEEP), Request::Nothing);
        assert_eq!(request(Control(0x3401), false, ASLEEP), Request::Pass(Control(0x3401)));
        assert_eq!(request(Control(0x2001), false, ASLEEP), Request::Pass(Control(0x2001)));
        assert_eq!(request(ASLEEP, false, ASLEEP), Request::Sleep);
        assert_eq!(request(Control(1), true, ASLEEP), Request::Reset);
    }

    #[test]
    fn a_vector_lies_in_the_low_range_of_its_nursery() {
        for (vector, nursery, sound) in [
            (0x4_A1F0, 0, true),
            (0x4_A1F0, 1, false),
            (0x9_A1F0, 1, true),
            (0, 0, false),
            (0xFFFF_FFFF, 1, false),
        ] {
            assert_eq!(vector_is_sound(vector, nursery), sound, "{vector:#x} {nursery}");
        }
    }

    #[test]
    fn idle_blocks_are_cut_out_and_false_ones_are_not_believed() {
        let nursery = (0x4800_0000, layout::NURSERY_SIZE);
        let kept = |blocks: &[u64]| kept(nursery, blocks.iter().copied());
        assert_eq!(kept(&[]), [nursery]);
        let all: Vec<u64> = (0..128).map(|number| nursery.0 + number * IDLE_BLOCK).collect();
        assert_eq!(kept(&all), []);
        assert_eq!(
            kept(&[0x4820_0000, 0x4800_0000, 0x4820_0000, 0x57E0_0000]),
            [(0x4840_0000, 0xFA0_0000)]
        );
        assert_eq!(
            kept(&[0x4900_0000]),
            [(0x4800_0000, 0x100_0000), (0x4920_0000, 0xEE0_0000)]
        );
        let false_ones = [
            0,
            0x47E0_0000,
            0x5800_0000,
            0x4810_0000,
            0x4820_1000,
            u64::MAX,
            u64::MAX - IDLE_BLOCK + 1,
        ];
        assert_eq!(kept(&false_ones), [nursery]);
    }

    #[test]
    fn only_what_sleeps_in_the_reservation_is_woken() {
        assert!(can_wake(StandbyState::Asleep, 0, 0));
        assert!(!can_wake(StandbyState::Asleep, 0, 1));
        for state in [
            StandbyState::None,
            StandbyState::Starting,
            StandbyState::Waking,
            StandbyState::Failed,
            StandbyState::PuttingBack,
        ] {
            assert!(!can_wake(state, 0, 0));
        }
    }
}
