//! Running commands in the guest over its third serial port.
//!
//! The other end is a small shell script (`guest/agent`) that every init of the guest
//! starts, the successor's too. A request is a line `NUMBER BASE64-OF-COMMAND`, the
//! answer a line `@done NUMBER STATUS BASE64-OF-OUTPUT`; at its start the agent says
//! `@ready RELEASE BOOT-ID`. Nothing is lost if kernel messages or a failover fall in
//! between: the harness then sees `@ready` with another boot id.

use crate::serial::Serial;
use anyhow::{bail, Context, Result};
use regex::Regex;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// A guest's answer to a command.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit status as a shell sees it.
    pub status: i32,
    /// Standard output and error together.
    pub output: String,
}

/// What the agent said when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// `uname -r` of the kernel below it.
    pub release: String,
    /// The kernel's boot id, different at each boot.
    pub boot_id: String,
    /// Since the machine's start.
    pub at: Duration,
}

/// The harness' end.
pub struct Agent {
    serial: Serial,
    number: u32,
    /// Position after the last `@ready` seen.
    position: usize,
}

impl Agent {
    /// Speaks over this line.
    #[must_use]
    pub const fn new(serial: Serial) -> Self {
        Self {
            serial,
            number: 0,
            position: 0,
        }
    }

    /// Waits until an agent starts that was not seen yet.
    ///
    /// # Errors
    /// When none does in time.
    pub fn wait_ready(&mut self, within: Duration) -> Result<Hello> {
        let pattern = Regex::new(r"^@ready (\S+) (\S+)$")?;
        let (line, next) = self
            .serial
            .wait_for(self.position, &pattern, within)
            .context("no agent answered from the guest")?;
        self.position = next;
        let words = pattern.captures(&line.text).context("the line has matched")?;
        Ok(Hello {
            release: words[1].to_owned(),
            boot_id: words[2].to_owned(),
            at: line.at,
        })
    }

    /// Gives a command without waiting for its end, for those that never answer.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn send(&mut self, command: &str) -> Result<()> {
        self.number += 1;
        self.serial
            .write(format!("{} {}\n", self.number, base64(command.as_bytes())).as_bytes())
    }

    /// Runs a command with `sh -c` as root and waits for its end.
    ///
    /// # Errors
    /// When the guest does not answer in time, or restarted meanwhile. A command that
    /// fails is not an error here.
    pub fn run(&mut self, command: &str, within: Duration) -> Result<Outcome> {
        let from = self.serial.position();
        let start = Instant::now();
        self.send(command)?;
        let pattern = Regex::new(&format!(r"^@(?:done {} (\d+) ?(\S*)|ready .*)$", self.number))?;
        let (line, _) = self
            .serial
            .wait_for(from, &pattern, within)
            .with_context(|| format!("`{command}` in the guest, for {:.1?}", start.elapsed()))?;
        let words = pattern.captures(&line.text).context("the line has matched")?;
        let (Some(status), Some(output)) = (words.get(1), words.get(2)) else {
            bail!("the guest's system was started anew while `{command}` ran");
        };
        let output = unbase64(output.as_str()).context("the agent answers in base64")?;
        Ok(Outcome {
            status: status.as_str().parse()?,
            output: String::from_utf8_lossy(&output).into_owned(),
        })
    }

    /// Runs a command that must succeed and returns what it printed.
    ///
    /// # Errors
    /// As [`Agent::run`], and when the command fails.
    pub fn check(&mut self, command: &str, within: Duration) -> Result<String> {
        let outcome = self.run(command, within)?;
        if outcome.status != 0 {
            bail!(
                "`{command}` failed in the guest with status {}:\n{}",
                outcome.status,
                outcome.output.trim()
            );
        }
        Ok(outcome.output)
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let symbol = ALPHABET[(word >> (18 - 6 * digit) & 63) as usize] as char;
            let _ = text.write_char(if digit <= chunk.len() { symbol } else { '=' });
        }
    }
    text
}

/// The reverse of [`base64`]; `None` for text that it cannot have made.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0u32, 0u32);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|known| *known == symbol)?;
        word = word << 6 | u32::try_from(value).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(unbase64(coded).unwrap(), plain.as_bytes());
        }
        assert!(unbase64("a b").is_none());
    }
}
