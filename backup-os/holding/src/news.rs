//! What is new since the last look at a failover: a message for each step, each attempt and its end.

use crate::state::State;
use crate::syslog::{Queue, Severity};
use shared_region::attempts::{End, MAX};
use shared_region::timeline::{Event, EVENTS};

/// What was told.
#[derive(Clone, Debug, Default)]
pub struct News {
    failed: bool,
    salvaged: bool,
    steps: [bool; EVENTS.len()],
    begun: [bool; MAX],
    ended: [bool; MAX],
}

impl News {
    /// Queues a message for each thing that was not told yet.
    pub fn tell(&mut self, state: &State, queue: &mut Queue) {
        let failover = state.failover;
        // Milliseconds since 1970 of milliseconds after the stop.
        let when = |ms: i64| state.stopped_at.and_then(|stop| stop.checked_add(ms));
        let now = when(i64::try_from(state.now).unwrap_or(i64::MAX));
        let at = |event: Event| state.steps.get(event as usize).copied().flatten();
        if !core::mem::replace(&mut self.failed, true) {
            let (kernel, cause) = (&state.failed, state.cause());
            queue.push(
                Severity::Notice,
                at(Event::Detected).map_or(now, when),
                format_args!("failover {failover}: the kernel {kernel} failed: {cause}"),
            );
        }
        for ((at, (_, name)), told) in state.steps.iter().zip(EVENTS).zip(&mut self.steps) {
            // A successor that failed takes its steps with it: the next one's are news again.
            let was_told = core::mem::replace(told, at.is_some());
            if let Some(ms) = at.filter(|_| !was_told) {
                let text = format_args!("failover {failover}: step {name}, {ms} ms after the stop");
                queue.push(Severity::Info, when(ms), text);
            }
        }
        if let Some(summary) = state.summary.filter(|_| !core::mem::replace(&mut self.salvaged, true)) {
            let (saved, refused) = (summary.processes, summary.refused);
            let severity = if refused == 0 {
                Severity::Info
            } else {
                Severity::Warning
            };
            queue.push(
                severity,
                at(Event::Salvaged).map_or(now, when),
                format_args!("failover {failover}: processes: {saved} salvaged, {refused} refused"),
            );
        }
        let told = self.begun.iter_mut().zip(&mut self.ended);
        for ((number, attempt), (begun, ended)) in (1..).zip(&state.attempts).zip(told) {
            if !core::mem::replace(begun, true) {
                let (kernel, how) = (state.kernel(attempt), if attempt.woken { "woken" } else { "booted" });
                let text = format_args!("failover {failover}: attempt {number}: the kernel {kernel} is {how}");
                queue.push(Severity::Notice, now, text);
            }
            if attempt.end != End::Going && !core::mem::replace(ended, true) {
                let end = attempt.end.text();
                let severity = if attempt.end == End::TookOver {
                    Severity::Notice
                } else {
                    Severity::Error
                };
                let text = format_args!("failover {failover}: attempt {number}: the successor {end}");
                queue.push(severity, now, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Attempt, Word};
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;
    use shared_region::context::Summary;
    use shared_region::control::Cause;

    fn said(queue: &mut Queue) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(next) = queue.next() {
            said.push(next.split(" - - - ").nth(1).unwrap().to_string());
            queue.sent();
        }
        said
    }

    #[test]
    fn everything_is_told_once() {
        let (mut news, mut queue) = (News::default(), Queue::new([10, 0, 2, 16].into()));
        let first = Attempt {
            slot: 0,
            woken: false,
            end: End::Going,
        };
        let mut state = State {
            failover: 2,
            cause: Cause::Panic,
            cpu: Some(1),
            place: Word::new("sysrq_handle_crash+0x16"),
            failed: Word::new("6.1.0"),
            kernels: [Word::new("6.12.1"), Word::new("6.1.0")],
            attempts: alloc::vec![first],
            summary: Some(Summary::default()),
            ..State::default()
        };
        state.steps[Event::Detected as usize] = Some(-9);
        state.steps[Event::Jumped as usize] = Some(4);
        news.tell(&state, &mut queue);
        let all = [
            "failover 2: the kernel 6.1.0 failed: panic on CPU 1 in sysrq_handle_crash+0x16",
            "failover 2: step detected, -9 ms after the stop",
            "failover 2: step jumped, 4 ms after the stop",
            "failover 2: processes: 0 salvaged, 0 refused",
            "failover 2: attempt 1: the kernel 6.12.1 is booted",
        ];
        assert_eq!(said(&mut queue), all);
        news.tell(&state, &mut queue);
        assert_eq!(said(&mut queue), [""; 0]);

        // It fails, and the next one has steps of its own.
        state.attempts[0].end = End::Panicked;
        state.attempts.push(Attempt { slot: 1, ..first });
        state.steps[Event::Jumped as usize] = None;
        news.tell(&state, &mut queue);
        state.steps[Event::Jumped as usize] = Some(700);
        news.tell(&state, &mut queue);
        let all = [
            "failover 2: attempt 1: the successor panicked",
            "failover 2: attempt 2: the kernel 6.1.0 is booted",
            "failover 2: step jumped, 700 ms after the stop",
        ];
        assert_eq!(said(&mut queue), all);
    }
}
