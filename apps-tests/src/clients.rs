//! Programs on the host that use the guest while it fails and recovers.

use crate::qemu::Qemu;
use crate::report::ClientResult;
use crate::scenario::Scenario;
use anyhow::{bail, Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The running clients of a scenario. Dropping them kills what still runs.
pub struct Clients {
    running: Vec<(String, Child)>,
    done: PathBuf,
    /// Files that appear when a client is under way, and how long that may take.
    ready: Vec<(PathBuf, Duration)>,
}

impl Clients {
    /// Starts all of them, each with its output in `client-<n>.log`.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(scenario: &Scenario, qemu: &Qemu, logs: &Path) -> Result<Self> {
        let done = logs.join("steps-done");
        // An earlier run's would end the clients at once.
        let _ = fs::remove_file(&done);
        let mut clients = Self {
            running: Vec::new(),
            done: done.clone(),
            ready: Vec::new(),
        };
        for (number, client) in scenario.clients.iter().enumerate() {
            let log = File::create(logs.join(format!("client-{}.log", number + 1)))?;
            let ready = logs.join(format!("client-{}-ready", number + 1));
            let _ = fs::remove_file(&ready);
            let mut command = Command::new("setpriv");
            command
                .args(["--pdeathsig", "KILL", "sh", "-c", &client.command])
                .current_dir(&scenario.dir)
                .env("STEPS_DONE", &done)
                .env("READY", &ready)
                .envs(
                    qemu.ports
                        .iter()
                        .map(|(guest, host)| (format!("PORT_{guest}"), host.to_string())),
                )
                .envs(
                    (1..)
                        .zip(&qemu.forwards)
                        .map(|(number, host)| (format!("FORWARD_{number}"), host.to_string())),
                )
                .envs(qemu.wire.map(|(to, from)| ("WIRE", format!("{to} {from}"))))
                .stdin(Stdio::null())
                .stderr(log.try_clone()?)
                .stdout(log);
            let child = command
                .spawn()
                .with_context(|| format!("cannot start the client `{}`", client.command))?;
            clients.running.push((client.command.clone(), child));
            let patience = client.ready.map(Duration::from_secs);
            clients.ready.extend(patience.map(|patience| (ready, patience)));
        }
        Ok(clients)
    }

    /// Waits until those are under way that say so.
    ///
    /// # Errors
    /// When one does not get there in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        let since = Instant::now();
        for (file, patience) in std::mem::take(&mut self.ready) {
            while !file.exists() {
                self.check()?;
                if since.elapsed() > patience {
                    bail!(
                        "a client is not under way after {patience:.0?}: {} is missing",
                        file.display()
                    );
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Fails if a client has given up already.
    ///
    /// # Errors
    /// When one has ended with a status other than 0.
    pub fn check(&mut self) -> Result<()> {
        for (command, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                if !status.success() {
                    bail!("the client `{command}` ended with {status}");
                }
            }
        }
        Ok(())
    }

    /// Tells the clients that the last step is over and waits for their ends.
    ///
    /// # Errors
    /// When the file that tells them cannot be written.
    pub fn finish(&mut self, within: Duration) -> Result<Vec<ClientResult>> {
        fs::write(&self.done, "")?;
        let deadline = Instant::now() + within;
        let mut results = Vec::new();
        for (command, child) in &mut self.running {
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status.code();
                }
                if Instant::now() > deadline {
                    break None;
                }
                std::thread::sleep(Duration::from_millis(100));
            };
            results.push(ClientResult {
                command: command.clone(),
                status,
            });
        }
        Ok(results)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
