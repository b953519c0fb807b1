//! Machines that hang, and machines that only look like it.

use super::{Action, Answer, Hang, Kind, Level, Limits, Sign, Watch};
use alloc::vec::Vec;
use proptest::prelude::*;

/// Microseconds between two looks.
const LOOK: u64 = 100_000;

/// What a CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Ticks, switches, runs user mode.
    Works,
    /// Sleeps, without a tick.
    Idles,
    /// One thread in user mode, with a tick.
    Computes,
    /// One thread in the kernel that lets others go first when they want to.
    Copies,
    /// Interrupts off.
    Hung,
    /// In an NMI that does not end.
    HungInNmi,
    /// Takes interrupts, lets no thread on.
    Locked,
    /// Switches between threads of the highest priority.
    LiveLocked,
    /// Not run by its host.
    Late,
    /// Taken out.
    Offline,
}

/// A machine with a clock.
struct Machine {
    does: Vec<Does>,
    signs: Vec<Sign>,
    answers: Vec<Answer>,
    asked: Vec<u32>,
    watch: Watch,
    now: u64,
}

impl Machine {
    fn new(does: &[Does]) -> Self {
        let count = does.len();
        Self {
            does: does.to_vec(),
            signs: alloc::vec![Sign::default(); count],
            answers: alloc::vec![Answer::default(); count],
            asked: alloc::vec![0; count],
            watch: Watch::new(Limits::default(), count),
            now: 17,
        }
    }

    /// Everybody goes on until the next look, which comes after `elapsed` microseconds.
    fn look_after(&mut self, elapsed: u64, paused: bool) -> Option<Hang> {
        self.now = self.now.wrapping_add(elapsed);
        for (sign, &does) in self.signs.iter_mut().zip(&self.does) {
            sign.online = does != Does::Offline;
            sign.idle = does == Does::Idles;
            let moves = !matches!(does, Does::Hung | Does::HungInNmi | Does::Late | Does::Idles);
            sign.interrupts += u64::from(moves);
            sign.switches += u64::from(matches!(does, Does::Works | Does::LiveLocked));
            sign.user += u64::from(matches!(does, Does::Works | Does::Computes));
        }
        // An NMI waits for a CPU that does not take it yet.
        (0..self.does.len()).for_each(|cpu| self.answer(cpu));
        let actions = self.watch.look(self.now, paused, &self.signs, &self.answers);
        let mut hang = None;
        for action in actions {
            match action {
                Action::Ask(cpu) => {
                    self.asked[cpu] += 1;
                    self.answers[cpu] = Answer::default();
                    self.answer(cpu);
                }
                Action::Cleared(..) => {}
                Action::Hung(found) => hang = Some(found),
            }
        }
        hang
    }

    /// The CPU takes the question that was put to it last, if there is one, as far as it can.
    fn answer(&mut self, cpu: usize) {
        let does = self.does[cpu];
        if self.asked[cpu] == 0 {
            return;
        }
        let answer = &mut self.answers[cpu];
        answer.nmi |= !matches!(does, Does::HungInNmi | Does::Late);
        answer.interrupt |= answer.nmi && !matches!(does, Does::Hung | Does::HungInNmi | Does::Late);
        let thread = answer.interrupt
            && !matches!(
                does,
                Does::Hung | Does::HungInNmi | Does::Late | Does::Locked | Does::LiveLocked
            );
        // The thread that answers had to be switched to.
        self.signs[cpu].switches += u64::from(thread && !answer.thread);
        answer.thread |= thread;
    }

    fn run(&mut self, seconds: u64) -> Option<Hang> {
        (0..seconds * 1_000_000 / LOOK).find_map(|_| self.look_after(LOOK, false))
    }
}

fn found(does: &[Does]) -> Option<(Kind, usize)> {
    let mut machine = Machine::new(does);
    machine.run(200).map(|hang| (hang.kind, hang.cpu))
}

use Does::{Computes, Copies, Hung, HungInNmi, Idles, Late, LiveLocked, Locked, Offline, Works};

#[test]
fn every_kind_is_found_and_names_its_cpu() {
    assert_eq!(found(&[Hung, Hung, Hung]), Some((Kind::AllCpus, 0)));
    assert_eq!(
        found(&[Hung, HungInNmi, Hung]).map(|(kind, _)| kind),
        Some(Kind::AllCpus)
    );
    assert_eq!(found(&[Works, Hung, Idles]), Some((Kind::Cpu, 1)));
    assert_eq!(found(&[Works, Idles, HungInNmi]), Some((Kind::Cpu, 2)));
    assert_eq!(found(&[Works, Locked, Idles]), Some((Kind::SoftLockup, 1)));
    assert_eq!(found(&[Works, Idles, LiveLocked]), Some((Kind::LiveLock, 2)));
    assert_eq!(found(&[Hung]), Some((Kind::AllCpus, 0)));
    assert_eq!(found(&[Hung, Offline]), Some((Kind::AllCpus, 0)));
}

#[test]
fn a_healthy_machine_is_left_alone() {
    assert_eq!(found(&[Works, Idles, Computes, Copies, Offline]), None);
}

#[test]
fn work_that_moves_the_words_is_never_asked() {
    let mut machine = Machine::new(&[Works, Computes]);
    assert_eq!(machine.run(200), None);
    assert_eq!(machine.asked, [0, 0]);
}

#[test]
fn a_sleeper_without_a_tick_is_asked_once_per_deadline() {
    let mut machine = Machine::new(&[Idles]);
    assert_eq!(machine.run(200), None);
    assert!((15..=20).contains(&machine.asked[0]), "{:?}", machine.asked);
}

#[test]
fn deadlines_hold() {
    let mut machine = Machine::new(&[Works, Hung]);
    assert_eq!(machine.run(12), None);
    let hang = machine.run(3).expect("found");
    assert_eq!((hang.kind, hang.cpu), (Kind::Cpu, 1));
    assert!(hang.quiet >= 13_000_000);
}

#[test]
fn a_hang_that_ends_before_the_last_answer_is_due_is_none() {
    let mut machine = Machine::new(&[Works, Hung]);
    assert_eq!(machine.run(12), None);
    machine.does[1] = Works;
    assert_eq!(machine.run(60), None);
}

#[test]
fn a_paused_machine_loses_a_blink_per_pause() {
    let mut machine = Machine::new(&[Late, Late]);
    for _ in 0..40 {
        assert_eq!(machine.look_after(3_600_000_000, false), None);
    }
    assert_eq!(machine.asked, [0, 0]);
}

#[test]
fn a_debugger_may_take_its_time() {
    let mut machine = Machine::new(&[Hung, Hung]);
    for _ in 0..10_000 {
        assert_eq!(machine.look_after(LOOK, true), None);
    }
    assert_eq!(machine.asked, [0, 0]);
}

#[test]
fn a_cpu_that_does_not_take_the_nmi_gets_more_time() {
    let mut machine = Machine::new(&[Works, Late]);
    assert_eq!(machine.run(24), None);
    machine.does[1] = Works;
    assert_eq!(machine.run(60), None);
}

#[test]
fn what_is_off_is_not_watched() {
    let mut machine = Machine::new(&[Hung, Locked]);
    machine.watch.set_limits(Limits {
        quiet: [None; 3],
        ..Limits::default()
    });
    assert_eq!(machine.run(200), None);
    assert!(!machine.watch.suspects());
}

#[test]
fn all_cpus_are_waited_for_before_one_is_blamed() {
    let mut machine = Machine::new(&[Hung, Works]);
    assert_eq!(machine.run(2), None);
    machine.does[1] = Hung;
    let hang = machine.run(60).expect("found");
    assert_eq!(hang.kind, Kind::AllCpus);
}

proptest! {
    /// Whatever the clock and the host do: a CPU that shows a sign of life, or answers, at least every nine seconds of
    /// looked-at time is never taken to hang.
    #[test]
    fn no_false_alarm(
        gaps in prop::collection::vec((0u64..10_000_000_000, 1u32..80, prop::sample::select(alloc::vec![Works, Idles, Computes, Copies])), 1..60)
    ) {
        let mut machine = Machine::new(&[Works, Works]);
        for (jump, looks, does) in gaps {
            // It is late for a while, but never for as long as the deadline ...
            machine.does[1] = Late;
            for _ in 0..looks.min(70) {
                prop_assert_eq!(machine.look_after(LOOK, false), None);
            }
            // ... and the machine is paused, or its clock jumps, either way.
            prop_assert_eq!(machine.look_after(jump.wrapping_sub(5_000_000_000), false), None);
            machine.does[1] = does;
            for _ in 0..2 {
                prop_assert_eq!(machine.look_after(LOOK, false), None);
            }
            // An idle CPU shows no sign by itself; it is asked in the end.
            if does == Idles {
                for _ in 0..110 {
                    prop_assert_eq!(machine.look_after(LOOK, false), None);
                }
            }
        }
    }

    /// A hang is found whatever went before, on any CPU, however slowly looks come.
    #[test]
    fn no_hang_is_missed(
        before in prop::collection::vec(prop::sample::select(alloc::vec![Works, Idles, Computes, Copies, Late]), 3),
        seconds in 0u64..9,
        cpu in 0usize..3,
        how in prop::sample::select(alloc::vec![Hung, HungInNmi, Locked, LiveLocked]),
        pace in 1u64..50_000_000,
    ) {
        let mut machine = Machine::new(&before);
        prop_assert_eq!(machine.run(seconds), None);
        machine.does = alloc::vec![Works; 3];
        machine.does[cpu] = how;
        let pace = pace.max(LOOK);
        let hang = (0..2_000).find_map(|_| machine.look_after(pace, false)).expect("found");
        prop_assert_eq!(hang.cpu, cpu);
        let kind = match how {
            Locked => Kind::SoftLockup,
            LiveLocked => Kind::LiveLock,
            _ => Kind::Cpu,
        };
        prop_assert_eq!(hang.kind, kind);
    }
}

#[test]
fn the_worst_level_counts() {
    assert!(Level::Interrupt < Level::Thread && Level::Thread < Level::Turn);
    assert_eq!(found(&[Works, Locked, Hung]), Some((Kind::Cpu, 2)));
}
