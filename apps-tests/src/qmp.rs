//! The QEMU Machine Protocol: commands and events as lines of JSON over a socket.

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// A connection on which commands can be given.
pub struct Qmp {
    stream: UnixStream,
    answers: Receiver<Value>,
    events: Vec<Value>,
}

impl Qmp {
    /// Takes over a fresh connection and negotiates.
    ///
    /// # Errors
    /// When the other side does not speak QMP within ten seconds.
    pub fn start(stream: UnixStream) -> Result<Self> {
        let lines = BufReader::new(stream.try_clone().context("QMP socket")?);
        let (send, answers) = mpsc::channel();
        std::thread::Builder::new().name("qmp".into()).spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let Ok(value) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                if send.send(value).is_err() {
                    break;
                }
            }
        })?;
        let mut qmp = Self {
            stream,
            answers,
            events: Vec::new(),
        };
        let greeting = qmp.next(Instant::now() + Duration::from_secs(10))?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU sent no QMP greeting but {greeting}");
        }
        qmp.command("qmp_capabilities", json!({}), Duration::from_secs(10))?;
        Ok(qmp)
    }

    /// Gives a command and waits for its result.
    ///
    /// # Errors
    /// When QEMU refuses the command, goes away, or does not answer in time.
    pub fn command(&mut self, name: &str, arguments: Value, within: Duration) -> Result<Value> {
        let deadline = Instant::now() + within;
        let line = json!({ "execute": name, "arguments": arguments }).to_string();
        writeln!(self.stream, "{line}").with_context(|| format!("QMP {name}: QEMU has gone"))?;
        loop {
            let answer = self.next(deadline).with_context(|| format!("QMP {name}"))?;
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QMP {name}: {}", error["desc"].as_str().unwrap_or("no reason given"));
            }
            self.events.push(answer);
        }
    }

    /// Gives a command of the human monitor, for what QMP itself has no command for.
    ///
    /// # Errors
    /// As [`Qmp::command`]; also when the monitor answers with text starting `Error`.
    pub fn monitor(&mut self, line: &str, within: Duration) -> Result<String> {
        let answer = self.command("human-monitor-command", json!({ "command-line": line }), within)?;
        let text = answer.as_str().unwrap_or_default().to_owned();
        if text.starts_with("Error") || text.contains("could not") {
            bail!("QEMU monitor, `{line}`: {}", text.trim());
        }
        Ok(text)
    }

    /// Why the machine ended, as QEMU's `SHUTDOWN` event says (`guest-reset`,
    /// `guest-shutdown`, ...); `None` if it said nothing.
    pub fn end_reason(&mut self) -> Option<String> {
        while let Ok(value) = self.answers.try_recv() {
            self.events.push(value);
        }
        let event = self.events.iter().rev().find(|event| event["event"] == "SHUTDOWN")?;
        Some(event["data"]["reason"].as_str()?.to_owned())
    }

    fn next(&self, deadline: Instant) -> Result<Value> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.answers.recv_timeout(left).context("no answer from QEMU in time")
    }
}
