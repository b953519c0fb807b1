//! Every rung, succeeding and failing, against simulated CPUs.

use super::{Action, Cpu, Ladder, Limits, Rung, Seen, Skip, Step};
use std::vec::Vec;

extern crate std;

/// What a simulated CPU reacts to.
#[derive(Clone, Copy, Default)]
struct Obeys {
    module_nmi: bool,
    /// Begins to save at the NMI and needs this many microseconds.
    saving_for: u64,
    init: bool,
    nmi_text: bool,
    loop_text: bool,
    warm_reset: bool,
}

const HEALTHY: Obeys = Obeys {
    module_nmi: true,
    saving_for: 0,
    init: true,
    nmi_text: true,
    loop_text: true,
    warm_reset: true,
};
const DEAF: Obeys = Obeys {
    module_nmi: false,
    saving_for: 0,
    init: false,
    nmi_text: false,
    loop_text: false,
    warm_reset: false,
};

struct Run {
    cpus: Vec<Cpu>,
    actions: Vec<Action>,
    took: u64,
}

/// CPU 0 is the bootstrap processor. Time moves by 100 µs at each wait.
fn run(obeys: &[Obeys], skip: Skip) -> Run {
    let mut ladder = Ladder::new((0..obeys.len()).map(|i| (i as u8 * 2, i == 0)), Limits::default(), skip);
    let mut seen: Vec<(Seen, u64)> = obeys.iter().map(|_| (Seen::Running, 0)).collect();
    let (mut now, mut actions) = (5_000, Vec::new());
    let (mut nmi_text, mut loop_text, mut vector) = (false, false, false);
    let mut inits: Vec<bool> = obeys.iter().map(|_| false).collect();
    for _ in 0..100_000 {
        for (cpu, obey) in seen.iter_mut().zip(obeys) {
            if cpu.0 == Seen::Saving && now >= cpu.1 + obey.saving_for {
                cpu.0 = Seen::Parked;
            }
        }
        let step = ladder.step(now, |i| seen[i].0);
        let action = match step {
            Step::Wait => {
                now += 100;
                continue;
            }
            Step::Done => {
                assert!(!nmi_text && !loop_text && !vector, "text or vector not put back");
                return Run {
                    cpus: ladder.cpus().to_vec(),
                    actions,
                    took: now - 5_000,
                };
            }
            Step::Do(action) => action,
        };
        actions.push(action);
        match action {
            Action::Nmi(i) if nmi_text && obeys[i].nmi_text => seen[i].0 = Seen::Parked,
            Action::Nmi(i) if !nmi_text && obeys[i].module_nmi && seen[i].0 == Seen::Running => {
                seen[i] = (Seen::Saving, now);
            }
            Action::Nmi(_) => {}
            Action::Init(0) if vector && obeys[0].warm_reset => seen[0].0 = Seen::Parked,
            Action::Init(0) => assert!(
                vector,
                "INIT of the bootstrap processor without a vector resets the machine"
            ),
            Action::Init(i) => inits[i] = true,
            Action::StartUp(i) if inits[i] && obeys[i].init => seen[i].0 = Seen::Parked,
            Action::StartUp(_) | Action::MarkWaiting(_) => {}
            Action::PatchNmiText => nmi_text = true,
            Action::RestoreNmiText => nmi_text = false,
            Action::PatchLoopText => {
                loop_text = true;
                if obeys[0].loop_text {
                    seen[0].0 = Seen::Parked;
                }
            }
            Action::RestoreLoopText => loop_text = false,
            Action::SetWarmReset => vector = true,
            Action::ClearWarmReset => vector = false,
        }
    }
    panic!("the ladder does not end");
}

#[test]
fn healthy_cpus_park_by_nmi_and_application_processors_wait_for_sipi() {
    let run = run(&[HEALTHY; 4], Skip::default());
    assert!(run.cpus.iter().all(|cpu| cpu.stopped_by == Some(Rung::ModuleNmi)));
    assert_eq!(
        run.cpus.iter().map(|cpu| cpu.waiting).collect::<Vec<_>>(),
        [false, true, true, true]
    );
    assert!(!run.actions.contains(&Action::Init(0)));
    assert!(run.took < 1_000);
}

#[test]
fn a_cpu_that_saves_slowly_is_not_torn_away() {
    let slow = Obeys {
        saving_for: 300_000,
        ..HEALTHY
    };
    let run = run(&[HEALTHY, slow], Skip::default());
    assert_eq!(run.cpus[1].stopped_by, Some(Rung::ModuleNmi));
    assert_eq!(run.actions.iter().filter(|&&a| a == Action::Nmi(1)).count(), 1);
}

#[test]
fn a_cpu_that_saves_for_ever_is_stopped_by_init() {
    let stuck = Obeys {
        saving_for: u64::MAX / 2,
        ..HEALTHY
    };
    let run = run(&[HEALTHY, stuck], Skip::default());
    assert_eq!(run.cpus[1].stopped_by, Some(Rung::Init));
    assert_eq!(run.cpus[1].seen, Seen::Parked);
}

#[test]
fn a_watcher_that_was_kept_from_looking_does_not_jump_to_the_next_rung() {
    let mut ladder = Ladder::new([(0, true), (1, false)], Limits::default(), Skip::default());
    for _ in 0..2 {
        assert!(matches!(ladder.step(0, |_| Seen::Running), Step::Do(Action::Nmi(_))));
    }
    assert_eq!(ladder.step(0, |_| Seen::Running), Step::Wait);
    // Five seconds later nothing has been seen, but nothing was looked at either.
    assert_eq!(ladder.step(5_000_000, |_| Seen::Running), Step::Wait);
    assert_eq!(ladder.step(5_000_100, |_| Seen::Parked), Step::Do(Action::Init(1)));
    assert!(ladder.cpus().iter().all(|cpu| cpu.stopped_by == Some(Rung::ModuleNmi)));
    assert_eq!(ladder.cpus()[0].stopped_after, 5_000_100);
}

#[test]
fn a_silent_cpu_gets_a_second_nmi() {
    let run = run(&[HEALTHY, DEAF], Skip::default());
    assert_eq!(run.actions.iter().filter(|&&a| a == Action::Nmi(1)).count(), 2);
}

#[test]
fn an_application_processor_deaf_to_nmi_is_stopped_by_init() {
    let deaf = Obeys {
        module_nmi: false,
        ..HEALTHY
    };
    let run = run(&[HEALTHY, deaf, HEALTHY], Skip::default());
    assert_eq!(run.cpus[1].stopped_by, Some(Rung::Init));
    assert_eq!(run.cpus[2].stopped_by, Some(Rung::ModuleNmi));
    assert!(run.cpus[1].stopped_after > run.cpus[2].stopped_after);
}

#[test]
fn the_bootstrap_processor_climbs_every_rung() {
    let rungs = [Rung::NmiText, Rung::LoopText, Rung::WarmReset];
    for (works, rung) in rungs.into_iter().enumerate() {
        let bsp = Obeys {
            module_nmi: false,
            init: true,
            nmi_text: works == 0,
            loop_text: works == 1,
            warm_reset: works == 2,
            saving_for: 0,
        };
        let run = run(&[bsp, HEALTHY], Skip::default());
        assert_eq!(run.cpus[0].stopped_by, Some(rung));
        assert!(!run.cpus[0].waiting);
    }
}

#[test]
fn skipped_rungs_are_not_tried() {
    let skip = Skip {
        module_nmi: true,
        nmi_text: true,
        ..Skip::default()
    };
    let run = run(&[HEALTHY, HEALTHY], skip);
    assert_eq!(run.cpus[0].stopped_by, Some(Rung::LoopText));
    assert_eq!(run.cpus[1].stopped_by, Some(Rung::Init));
    assert!(!run
        .actions
        .iter()
        .any(|a| matches!(a, Action::Nmi(_) | Action::PatchNmiText)));
}

#[test]
fn a_bootstrap_processor_that_nothing_stops_is_named() {
    let run = run(&[DEAF, HEALTHY], Skip::default());
    assert_eq!(run.cpus[0].stopped_by, None);
    assert_eq!(run.cpus[1].stopped_by, Some(Rung::ModuleNmi));
    assert!(run.took < 10_000_000, "the ladder itself must stay bounded");
}

#[test]
fn an_application_processor_that_nothing_stops_is_named_and_not_marked() {
    let run = run(&[HEALTHY, DEAF], Skip::default());
    assert_eq!(run.cpus[1].stopped_by, None);
    assert!(!run.cpus[1].waiting);
}

#[test]
fn with_every_rung_skipped_nothing_is_sent() {
    let skip = Skip {
        module_nmi: true,
        init: true,
        nmi_text: true,
        loop_text: true,
        warm_reset: true,
    };
    let run = run(&[HEALTHY; 3], skip);
    assert!(run.actions.is_empty());
    assert!(run.cpus.iter().all(|cpu| cpu.stopped_by.is_none()));
}

#[test]
fn a_machine_without_cpus_is_done_at_once() {
    assert!(run(&[], Skip::default()).actions.is_empty());
}
