//! The instants of a failover in nanoseconds.

use crate::snapshot::Snapshot;
use serde_json::{Map, Value};
use shared_region::timeline::{Event, EVENTS};

/// Nanoseconds from the first instant to each that has happened, in the order in which they happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline(pub Vec<(Event, &'static str, u64)>);

impl Timeline {
    /// Reads it. Empty without a time-stamp counter frequency, or if nothing has happened.
    pub fn read(snapshot: &Snapshot) -> Self {
        let hz = snapshot.header.as_ref().map_or(0, |header| header.tsc_hz);
        let mut events: Vec<_> = EVENTS
            .iter()
            .map(|&(event, name)| (event, name, snapshot.event(event)))
            .filter(|&(_, _, tsc)| tsc != 0)
            .collect();
        events.sort_by_key(|&(event, _, tsc)| (tsc, event));
        let Some(start) = events.first().map(|&(_, _, tsc)| tsc).filter(|_| hz != 0) else {
            return Self::default();
        };
        let nanoseconds = |tsc: u64| {
            let scaled = u128::from(tsc - start) * 1_000_000_000 / u128::from(hz);
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        Self(
            events
                .into_iter()
                .map(|(event, name, tsc)| (event, name, nanoseconds(tsc)))
                .collect(),
        )
    }

    /// Nanoseconds at an event.
    pub fn at(&self, event: Event) -> Option<u64> {
        self.0.iter().find(|entry| entry.0 == event).map(|entry| entry.2)
    }

    /// Every event by name; null for what has not happened.
    pub fn json(&self) -> Value {
        let all = EVENTS
            .iter()
            .map(|&(event, name)| (name.to_owned(), self.at(event).into()));
        Value::Object(all.collect::<Map<_, _>>())
    }
}
