//! The loader's own command line.

use alloc::{string::String, vec::Vec};
use shared_region::control::{warm_cache_word, HangLimit, WARM_CACHE};
use shared_region::status_page::{LogTarget, StatusAddress};

/// What to do when the backup OS does not start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// Say so and stop: the administrator asked for protection.
    #[default]
    Halt,
    /// Say so and boot Linux on all CPUs, unprotected, with its own command line only.
    Boot,
}

/// The options, with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `fallback=boot|halt`.
    pub fallback: Fallback,
    /// `backup-console=on|off`: whether the backup OS writes to the second serial port.
    pub backup_console: bool,
    /// `standby=on|off`: whether a successor is booted ahead of the first kernel and put to sleep.
    pub standby: bool,
    /// `inject=N`: fault injection for tests, bits of `shared_region::control::inject`.
    pub inject: u64,
    /// `hang-cpu=`, `hang-thread=`, `hang-livelock=`, `hang-stalled=`, `hang-successor=`, each `off`, `default` or seconds: words
    /// of `shared_region::control::ControlWords::hang_limits`.
    pub hang_limits: [u64; HangLimit::ALL.len()],
    /// `warm-cache=`, `off`, `default` or megabytes: the word `shared_region::control::ControlWords::warm_cache`.
    pub warm_cache: u64,
    /// `status-address=`, `off` or an address with the length of its prefix: the word
    /// `shared_region::control::ControlWords::status_address`.
    pub status_address: u64,
    /// `log-target=`, `off` or an address, with a port or without: the word `shared_region::control::ControlWords::log_target`.
    pub log_target: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fallback: Fallback::Halt,
            backup_console: true,
            standby: false,
            inject: 0,
            hang_limits: [0; HangLimit::ALL.len()],
            warm_cache: 0,
            status_address: 0,
            log_target: 0,
        }
    }
}

/// A number in decimal, or in hexadecimal after `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl Options {
    /// Reads a command line. What is not understood is returned and otherwise ignored: a machine must not fail to boot
    /// for a slip of the pen.
    pub fn parse(line: &[u8]) -> (Self, Vec<String>) {
        let mut options = Self::default();
        let mut unknown = Vec::new();
        for word in line.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty()) {
            let text = String::from_utf8_lossy(word);
            match text.split_once('=') {
                Some(("fallback", "halt")) => options.fallback = Fallback::Halt,
                Some(("fallback", "boot")) => options.fallback = Fallback::Boot,
                Some(("backup-console", "on")) => options.backup_console = true,
                Some(("backup-console", "off")) => options.backup_console = false,
                Some(("standby", "on")) => options.standby = true,
                Some(("standby", "off")) => options.standby = false,
                Some(("inject", value)) if number(value).is_some() => {
                    options.inject = number(value).unwrap_or_default();
                }
                Some((WARM_CACHE, value)) if warm_cache_word(value).is_some() => {
                    options.warm_cache = warm_cache_word(value).unwrap_or_default();
                }
                Some((StatusAddress::NAME, value)) if StatusAddress::word(value).is_ok() => {
                    options.status_address = StatusAddress::word(value).unwrap_or_default();
                }
                Some((LogTarget::NAME, value)) if LogTarget::word(value).is_ok() => {
                    options.log_target = LogTarget::word(value).unwrap_or_default();
                }
                Some((name, value)) => {
                    let limit = HangLimit::ALL
                        .iter()
                        .zip(&mut options.hang_limits)
                        .find(|((_, known, _), _)| *known == name);
                    match limit.zip(HangLimit::word(value)) {
                        Some(((_, place), word)) => *place = word,
                        None => unknown.push(text.into_owned()),
                    }
                }
                None => unknown.push(text.into_owned()),
            }
        }
        (options, unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_slips_are_reported() {
        let (options, unknown) =
            Options::parse(b"fallback=boot  inject=0x30 backup-console=off standby=on colour=red inject=x");
        assert_eq!(
            options,
            Options {
                fallback: Fallback::Boot,
                backup_console: false,
                standby: true,
                inject: 0x30,
                ..Options::default()
            }
        );
        assert_eq!(unknown, ["colour=red", "inject=x"]);
    }

    #[test]
    fn deadlines_for_hangs_are_seconds_or_off() {
        let (options, unknown) =
            Options::parse(b"hang-cpu=20 hang-thread=off hang-livelock=default hang-stalled=0 hang-successor=5");
        assert_eq!(options.hang_limits, [20_000, HangLimit::OFF, 0, 0, 5_000]);
        assert_eq!(unknown, ["hang-stalled=0"]);
    }

    #[test]
    fn the_warm_cache_is_megabytes_or_off() {
        for (text, word) in [("off", u64::MAX), ("default", 0), ("2048", 2048)] {
            let (options, unknown) = Options::parse(alloc::format!("warm-cache={text}").as_bytes());
            assert_eq!((options.warm_cache, unknown.len()), (word, 0));
        }
        assert_eq!(Options::parse(b"warm-cache=much").1, ["warm-cache=much"]);
    }

    #[test]
    fn addresses_of_the_status_page_are_read() {
        let (options, unknown) = Options::parse(b"status-address=10.0.2.16/24 log-target=10.0.2.2:5514");
        assert_eq!(options.status_address, 24 << 32 | 0x0A00_0210);
        assert_eq!((options.log_target, unknown.len()), (5514 << 32 | 0x0A00_0202, 0));
        let wrong = ["status-address=10.0.2.16", "log-target=10.0.2.2:0"];
        let (options, unknown) = Options::parse(wrong.join(" ").as_bytes());
        assert_eq!(
            (options, unknown.as_slice()),
            (Options::default(), &wrong.map(String::from)[..])
        );
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        assert_eq!(Options::parse(b""), (Options::default(), Vec::new()));
    }
}
