//! Every rung, succeeding and failing, against simulated CPUs.

use super::{Action, Cpu, Ladder, Limits, Rung, Seen, Skip, Step};
use std::vec::Vec;

extern crate std;

/// What a simulated CPU reacts to.
#[derive(Clone, Copy, Default)]
struct Obeys {
    module_nmi: bool,
    /// Parks at the NMI with this number only, unless insisted on.
    ends_call_at: u64,
    /// Begins to save at the NMI and needs this many microseconds.
    saving_for: u64,
    init: bool,
    nmi_text: bool,
    loop_text: bool,
    warm_reset: bool,
}

const HEALTHY: Obeys = Obeys {
    module_nmi: true,
    ends_call_at: 0,
    saving_for: 0,
    init: true,
    nmi_text: true,
    loop_text: true,
    warm_reset: true,
};
const DEAF: Obeys = Obeys {
    module_nmi: false,
    ends_call_at: 0,
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
    let mut insisted = false;
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
            Action::Nmi(i) if !nmi_text && obeys[i].module_nmi && seen[i].0 < Seen::Saving => {
                let answers = match seen[i].0 {
                    Seen::GoingOn(answers) => answers + 1,
                    _ => 1,
                };
                seen[i] = if insisted || answers > obeys[i].ends_call_at {
                    (Seen::Saving, now)
                } else {
                    (Seen::GoingOn(answers), now)
                };
            }
            Action::Insist => {
                assert!(!insisted, "insisted twice");
                insisted = true;
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
            ends_call_at: 0,
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

fn nmis(run: &Run, cpu: usize) -> usize {
    run.actions.iter().filter(|&&a| a == Action::Nmi(cpu)).count()
}

#[test]
fn a_cpu_may_end_its_call_while_the_others_park() {
    let busy = Obeys {
        ends_call_at: 3,
        ..HEALTHY
    };
    let run = run(&[HEALTHY, busy, HEALTHY], Skip::default());
    assert!(run.cpus.iter().all(|cpu| cpu.stopped_by == Some(Rung::ModuleNmi)));
    assert_eq!((nmis(&run, 0), nmis(&run, 1), nmis(&run, 2)), (1, 4, 1));
    assert!(!run.actions.contains(&Action::Insist));
    assert!(run.cpus[1].stopped_after > run.cpus[2].stopped_after);
    assert!(run.took <= 1_000, "{}", run.took);
}

#[test]
fn a_call_that_does_not_end_is_cut_short_by_the_same_rung() {
    let limits = Limits::default();
    let endless = Obeys {
        ends_call_at: u64::MAX,
        ..HEALTHY
    };
    for cpus in [[HEALTHY, endless], [endless, HEALTHY], [endless, endless]] {
        let run = run(&cpus, Skip::default());
        assert!(run.cpus.iter().all(|cpu| cpu.stopped_by == Some(Rung::ModuleNmi)));
        assert!(run.actions.contains(&Action::Insist));
        // The first answer needs no wait.
        let often = limits.ask_often - 1;
        let slowly =
            (limits.ask_often..limits.go_on_answers).map(|answers| answers / limits.ask_often * limits.ask_slowly);
        let patience = often * limits.ask + slowly.sum::<u64>();
        assert!((patience..=patience * 3 / 2).contains(&run.took), "{}", run.took);
    }
}

#[test]
fn a_cpu_that_answers_rarely_gets_its_tries_but_no_more_than_the_limit() {
    let limits = Limits::default();
    let mut ladder = Ladder::new([(0, true)], limits, Skip::default());
    // It runs for 20 ms between two answers, and never comes out of its call.
    let (mut now, mut answers, mut due, mut insisted) = (0, 0, None, None);
    while insisted.is_none() {
        if due.is_some_and(|at| now >= at) {
            answers += 1;
            due = None;
        }
        let seen = if answers == 0 {
            Seen::Running
        } else {
            Seen::GoingOn(answers)
        };
        match ladder.step(now, |_| seen) {
            Step::Do(Action::Nmi(0)) => due = due.or(Some(now + 20_000)),
            Step::Do(Action::Insist) => insisted = Some(now),
            Step::Wait => now += 100,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(insisted, Some(limits.go_on_most));
    let most = limits.go_on_most / 20_000;
    assert!((most - 2..=most).contains(&answers), "{answers}");
}

#[test]
fn an_answer_that_got_lost_is_asked_for_again() {
    let limits = Limits::default();
    let mut ladder = Ladder::new([(0, true)], limits, Skip::default());
    let (mut now, mut sent) = (0, Vec::new());
    // It answered once and then went silent.
    while now < limits.go_on_most {
        match ladder.step(now, |_| if now < 50 { Seen::Running } else { Seen::GoingOn(1) }) {
            Step::Do(Action::Nmi(0)) => sent.push(now),
            Step::Wait => now += 50,
            other => panic!("{other:?}"),
        }
    }
    let again = (0..limits.go_on_most / limits.nmi_again).map(|number| limits.ask + number * limits.nmi_again);
    assert_eq!(sent, [0].into_iter().chain(again).collect::<Vec<_>>());
}

#[test]
fn a_cpu_that_ends_a_call_does_not_delay_the_rungs_of_a_deaf_one() {
    let busy = Obeys {
        ends_call_at: u64::MAX,
        ..HEALTHY
    };
    let deaf = Obeys {
        module_nmi: false,
        ..HEALTHY
    };
    let alone = run(&[HEALTHY, deaf], Skip::default());
    let beside = run(&[busy, deaf], Skip::default());
    assert_eq!(beside.cpus[1].stopped_by, Some(Rung::Init));
    let after = |run: &Run| run.cpus[1].stopped_after;
    assert!(after(&beside).abs_diff(after(&alone)) < 2 * Limits::default().ask_slowly);
}

#[test]
fn virtual_cpus_that_stand_still_are_waited_for() {
    let patience = |is_virtual| {
        let mut ladder = Ladder::new([(0, true), (1, false)], Limits::of_machine(is_virtual), Skip::default());
        let mut now = 0;
        while ladder.step(now, |_| Seen::Running) != Step::Do(Action::Init(1)) {
            now += 50;
        }
        now
    };
    assert_eq!((patience(false), patience(true)), (200_000, 1_000_000));
}
