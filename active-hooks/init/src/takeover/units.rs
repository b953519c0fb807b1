//! Services of systemd whose processes go on: the new system's systemd is told of them as one that switches from an
//! initramfs to the root file system would tell it, by the state that it serialises (`systemd --switched-root
//! --deserialize`, src/core/manager-serialize.c and service.c of systemd 252). It then knows their main process, does not
//! start them, and can stop them.

use crate::{
    boot::log,
    restore::{
        sockets::peers::{service_of, JOURNAL},
        world::World,
    },
};
use rustix::fs::{memfd_create, MemfdFlags};
use shared_region::context::{LinkedKey, Outcome, Process};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Seek, Write},
    os::fd::{AsRawFd, IntoRawFd, OwnedFd},
    path::Path,
};

/// The name of a run of a service in its session keyring.
const INVOCATION: &[u8] = b"invocation_id";

/// What the real init is to be told.
#[derive(Debug, Default)]
pub struct HandOver {
    /// The state, for a systemd.
    state: String,
    /// Services in it.
    services: Vec<String>,
    /// Descriptors that it names.
    kept: Vec<OwnedFd>,
}

/// A service with processes that go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its control group.
    pub group: String,
    /// Its main process, and when that started: CLOCK_BOOTTIME in nanoseconds.
    pub main: (u32, u64),
    /// Which run of it this is, as 32 digits; empty if that is not known.
    pub invocation: String,
}

/// The services of the processes that go on. The main process is the one that the service manager has started; of several,
/// the first.
pub fn services(world: &World<'_>, outcomes: &BTreeMap<u32, Outcome>) -> Vec<Service> {
    let mut found: BTreeMap<String, Service> = BTreeMap::new();
    let goes_on = |process: &Process| outcomes.get(&process.tgid).is_some_and(|outcome| outcome.resumed);
    let mut processes: Vec<&Process> = world.processes.values().map(|member| &member.record).collect();
    processes.retain(|process| !process.zombie && goes_on(process));
    // What was restored before started at a time below zero.
    processes.sort_by_key(|process| (process.ppid > 1, process.start_time as i64, process.tgid));
    for process in processes {
        if let Some((name, group)) = service_of(&process.cgroup) {
            found.entry(name.clone()).or_insert_with(|| Service {
                name,
                group,
                main: (process.tgid, process.start_time),
                invocation: invocation(world, process),
            });
        }
    }
    found.into_values().collect()
}

fn invocation(world: &World<'_>, process: &Process) -> String {
    let keys = world
        .keyrings
        .get(&process.session_keyring)
        .map(|ring| ring.keys.as_slice());
    let id = keys.unwrap_or_default().iter().find_map(|key| match key {
        LinkedKey::User {
            description, payload, ..
        } if description == INVOCATION => Some(payload),
        _ => None,
    });
    id.map_or_else(String::new, |id| id.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl HandOver {
    /// Puts together what systemd is to know. `offsets` are what is added to CLOCK_MONOTONIC and CLOCK_BOOTTIME here.
    pub fn new(services: &[Service], world: &World<'_>, listening: BTreeMap<&'static str, OwnedFd>) -> Self {
        let mut hand_over = Self::default();
        if services.is_empty() && listening.is_empty() {
            return hand_over;
        }
        // Devices are found by udev, which has not run yet.
        hand_over.state.push_str("honor-device-enumeration=no\n\n");
        for service in services {
            hand_over.service(service, world);
        }
        hand_over.sockets(listening);
        hand_over
    }

    fn service(&mut self, service: &Service, world: &World<'_>) {
        self.services.push(service.name.clone());
        let (pid, started) = service.main;
        let clock = &world.machine.clock;
        let monotonic = started.saturating_sub(clock.boottime - clock.monotonic.min(clock.boottime)) / 1000;
        let realtime = (clock.realtime - (clock.boottime as i64 - started as i64)).max(0) / 1000;
        // Writing to a String cannot fail.
        let _ = write!(
            self.state,
            "{}\nstate=running\nresult=success\nreload-result=success\nmain-pid={pid}\nmain-pid-known=yes\n\
             main-exec-status-pid={pid}\nmain-exec-status-start={realtime} {monotonic}\n",
            service.name
        );
        for name in ["state-change", "inactive-exit", "active-enter"] {
            let _ = writeln!(self.state, "{name}-timestamp={realtime} {monotonic}");
        }
        if !service.invocation.is_empty() {
            let _ = writeln!(self.state, "invocation-id={}", service.invocation);
        }
        let _ = write!(self.state, "cgroup={}\n\n", service.group);
    }

    fn sockets(&mut self, mut listening: BTreeMap<&'static str, OwnedFd>) {
        let mut units: Vec<&str> = JOURNAL.iter().map(|listener| listener.unit).collect();
        units.dedup();
        for unit in units {
            let own: Vec<_> = JOURNAL
                .iter()
                .filter(|listener| listener.unit == unit)
                .filter_map(|listener| Some((listener, listening.remove(listener.path)?)))
                .collect();
            if own.is_empty() {
                continue;
            }
            let _ = write!(self.state, "{unit}\nstate=listening\nresult=success\n");
            for (listener, fd) in own {
                let _ = writeln!(
                    self.state,
                    "socket={} {} {}",
                    fd.as_raw_fd(),
                    listener.kind,
                    listener.path
                );
                self.kept.push(fd);
            }
            self.state.push('\n');
        }
    }

    /// The arguments that tell the real init, if it is a systemd and there is something to tell. The descriptors stay open
    /// over its start.
    pub fn arguments(self, init: &str) -> Vec<String> {
        if self.state.is_empty() || !is_systemd(init) {
            return Vec::new();
        }
        for service in &self.services {
            if let Err(error) = keep(Path::new(OVERRIDES), service) {
                log::error(format_args!("service {service} is stopped: {OVERRIDES}: {error}"));
            }
        }
        if let Err(error) = keep_temporary_files(Path::new(OVERRIDES)) {
            log::error(format_args!("temporary files are lost: {OVERRIDES}: {error}"));
        }
        match self.pass() {
            Ok(number) => ["--switched-root", "--system", "--deserialize"]
                .map(str::to_owned)
                .into_iter()
                .chain([number.to_string()])
                .collect(),
            Err(error) => {
                log::error(format_args!("services are not handed over: {error}"));
                Vec::new()
            }
        }
    }

    fn pass(self) -> std::io::Result<i32> {
        let mut file = fs::File::from(memfd_create("orthros-services", MemfdFlags::empty())?);
        file.write_all(self.state.as_bytes())?;
        file.rewind()?;
        for fd in self.kept {
            // Left open on purpose: it goes over to the next program of this process.
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
            let _ = fd.into_raw_fd();
        }
        Ok(file.into_raw_fd())
    }
}

/// Where settings of units are that last until the next start of the machine.
const OVERRIDES: &str = "/run/systemd/system";

/// A systemd that comes from another root goes to its default target alone: what is not part of that is stopped, but for
/// units that say otherwise.
fn keep(overrides: &Path, service: &str) -> std::io::Result<()> {
    let folder = overrides.join(format!("{service}.d"));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("orthros.conf"), "[Unit]\nIgnoreOnIsolate=yes\n")
}

/// What a start of the machine takes away (`systemd-tmpfiles --remove`, tmpfiles.d(5)) may be in use by processes for which it
/// has not been started anew: `/tmp`, and what stands for it in services with `PrivateTmp=`.
fn keep_temporary_files(overrides: &Path) -> std::io::Result<()> {
    let folder = overrides.join("systemd-tmpfiles-setup.service.d");
    fs::create_dir_all(&folder)?;
    let setting = "[Service]\nExecStart=\nExecStart=systemd-tmpfiles --create --boot --exclude-prefix=/dev\n";
    fs::write(folder.join("orthros.conf"), setting)
}

/// Whether a program is systemd, behind whatever link.
fn is_systemd(init: &str) -> bool {
    fs::canonicalize(init).is_ok_and(|path| path.file_name() == Path::new("systemd").file_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_process_is_the_managers_child() {
        let mut world = World::default();
        let mut outcomes = BTreeMap::new();
        for (tgid, ppid, start_time) in [(20, 10, 5), (10, 1, 7), (30, 1, 9)] {
            let record = Process {
                tgid,
                ppid,
                start_time,
                cgroup: b"/system.slice/a.service".to_vec(),
                ..Process::default()
            };
            world.processes.entry(tgid).or_default().record = record;
            let resumed = tgid != 30;
            outcomes.insert(
                tgid,
                Outcome {
                    resumed,
                    ..Outcome::default()
                },
            );
        }
        let services = services(&world, &outcomes);
        assert_eq!((services.len(), services[0].main), (1, (10, 7)));
        let state = HandOver::new(&services, &world, BTreeMap::new()).state;
        assert!(
            state.starts_with("honor-device-enumeration=no\n\na.service\nstate=running\n"),
            "{state}"
        );
        assert!(
            state.contains("\nmain-pid=10\n") && state.ends_with("\ncgroup=/system.slice/a.service\n\n"),
            "{state}"
        );
    }
}
