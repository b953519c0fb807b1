//! Messages of syslog (RFC 5424), one a datagram (RFC 5426), and the queue in which they wait for the wire.

use crate::state::Messages;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt::{self, Write};
use core::net::Ipv4Addr;

/// Messages that wait: more are dropped.
pub const MOST: usize = 64;
/// Bytes that every receiver takes (RFC 5426, 3.2).
pub const LENGTH: usize = 480;
/// Daemons (RFC 5424, 6.2.1).
const FACILITY: u8 = 3;
const APPLICATION: &str = "orthros";
const MS_PER_DAY: i64 = 86_400_000;

/// How bad it is (RFC 5424, 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Severity {
    /// Something has failed.
    Error = 3,
    /// Something was lost.
    Warning = 4,
    /// What happens once a failover.
    Notice = 5,
    /// A step.
    Info = 6,
}

/// The queue.
#[derive(Clone, Debug)]
pub struct Queue {
    sender: Ipv4Addr,
    waiting: VecDeque<String>,
    /// What has become of messages.
    pub messages: Messages,
    /// Of the dropped, so many were told of.
    told: u64,
}

impl Queue {
    /// An empty queue of a machine with this address.
    pub fn new(sender: Ipv4Addr) -> Self {
        Self {
            sender,
            waiting: VecDeque::with_capacity(MOST),
            messages: Messages::default(),
            told: 0,
        }
    }

    /// Puts a message at the end, or drops it if there is no room. `at`: milliseconds since 1970, if they are known.
    pub fn push(&mut self, severity: Severity, at: Option<i64>, text: fmt::Arguments<'_>) {
        if self.waiting.len() < MOST {
            self.waiting.push_back(message(self.sender, severity, at, text));
        } else {
            self.messages.dropped = self.messages.dropped.saturating_add(1);
        }
    }

    /// The message that is next.
    pub fn next(&self) -> Option<&str> {
        self.waiting.front().map(String::as_str)
    }

    /// It was sent.
    pub fn sent(&mut self) {
        if self.waiting.pop_front().is_some() {
            self.messages.sent = self.messages.sent.saturating_add(1);
        }
        // Told at the end of those that wait, where the dropped ones would have been.
        let dropped = self.messages.dropped;
        if dropped > self.told {
            self.told = dropped;
            self.push(
                Severity::Warning,
                None,
                format_args!("{dropped} messages were dropped so far"),
            );
        }
    }
}

/// A message as it goes over the wire: all of it is printable ASCII, what is too long is cut.
fn message(sender: Ipv4Addr, severity: Severity, at: Option<i64>, text: fmt::Arguments<'_>) -> String {
    let mut out = String::with_capacity(LENGTH);
    let priority = FACILITY.saturating_mul(8).saturating_add(severity as u8);
    // Writing to a string does not fail. An address stands for the host (6.2.4); no process, kind, or structured data.
    let _ = match at {
        Some(at) => write!(out, "<{priority}>1 {} {sender} {APPLICATION} - - - {text}", Instant(at)),
        None => write!(out, "<{priority}>1 - {sender} {APPLICATION} - - - {text}"),
    };
    let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
    out.chars()
        .map(|c| if is_plain(c) { c } else { '?' })
        .take(LENGTH)
        .collect()
}

/// Milliseconds since 1970, written as a time of UTC (RFC 3339).
struct Instant(i64);

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0.div_euclid(MS_PER_DAY));
        let ms = self.0.rem_euclid(MS_PER_DAY);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            ms / 3_600_000,
            ms / 60_000 % 60,
            ms / 1000 % 60,
            ms % 1000
        )
    }
}

/// Year, month and day of a day since 1970, of years 1970 to 9999, which is all that a time stamp can say.
fn date(days: i64) -> (i64, u8, i64) {
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut rest = days.max(0);
    let mut year = 1970;
    while year < 9999 {
        let length = if is_leap(year) { 366 } else { 365 };
        if rest < length {
            break;
        }
        rest = rest.saturating_sub(length);
        year = year.saturating_add(1);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month: u8 = 1;
    for length in lengths {
        if rest < length || month == 12 {
            break;
        }
        rest = rest.saturating_sub(length);
        month = month.saturating_add(1);
    }
    (year, month, rest.min(30).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const SENDER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 16);

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_868_799_000, "2000-02-29T23:59:59.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (1_795_805_646_123, "2026-11-27T18:54:06.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Instant(ms).to_string(), text);
        }
        for ms in [i64::MIN, -1, i64::MAX] {
            assert_eq!(Instant(ms).to_string().len(), 24, "{ms}");
        }
    }

    #[test]
    fn a_message_is_one_of_rfc_5424() {
        let at = Some(1_795_805_646_123);
        assert_eq!(
            message(SENDER, Severity::Notice, at, format_args!("a kernel failed")),
            "<29>1 2026-11-27T18:54:06.123Z 10.0.2.16 orthros - - - a kernel failed"
        );
        assert_eq!(
            message(SENDER, Severity::Error, None, format_args!("a\nb\u{e9}")),
            "<27>1 - 10.0.2.16 orthros - - - a?b?"
        );
        let long = message(SENDER, Severity::Info, None, format_args!("{}", "x".repeat(1000)));
        assert_eq!(long.len(), LENGTH);
    }

    #[test]
    fn what_has_no_room_is_counted_and_told() {
        let mut queue = Queue::new(SENDER);
        for number in 0..MOST + 3 {
            queue.push(Severity::Info, None, format_args!("{number}"));
        }
        assert_eq!(queue.messages, Messages { sent: 0, dropped: 3 });
        let mut said = alloc::vec::Vec::new();
        while let Some(next) = queue.next() {
            said.push(next.to_string());
            queue.sent();
        }
        assert!(said[0].ends_with("- 0") && said[MOST - 1].ends_with("- 63"));
        assert!(said[MOST].ends_with("- 3 messages were dropped so far"));
        assert_eq!((said.len(), queue.messages.sent), (MOST + 1, MOST as u64 + 1));
    }
}
