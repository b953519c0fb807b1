//! A QEMU process: its devices, its serial lines, and its certain end.

use crate::capture;
use crate::exec;
use crate::qmp::Qmp;
use crate::serial::Serial;
use crate::turns;
use anyhow::{bail, Context, Result};
use serde_json::json;
use std::fs;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// First I/O port of [`Qemu::acknowledged`]: no driver looks at them. Programs of the guest know them as well.
const ACKNOWLEDGED: u16 = 0x2F0;
/// Names of the ports' logs, one for each program: bytes of several at one port would mix.
const ACKNOWLEDGERS: [&str; 8] = ["acks0", "acks1", "acks2", "acks3", "acks4", "acks5", "acks6", "acks7"];
/// Name of the socket of [`turns`].
const TURNS: &str = "turns";

/// How instructions of the guest are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Translated by QEMU, all CPUs in turn; works everywhere.
    Tcg,
    /// Translated by QEMU, each CPU in a thread of its own.
    TcgThreads,
    /// One thread and one instruction a nanosecond of guest time: figures repeat.
    InstructionCount,
    /// The host's virtualisation.
    Kvm,
}

/// What the firmware starts.
#[derive(Debug, Clone)]
pub enum Boot {
    /// A disc with a boot loader.
    Disc(PathBuf),
    /// A kernel straight from the host, without Orthros: for comparison runs.
    Kernel {
        /// The bzImage.
        image: PathBuf,
        /// Its initramfs.
        initramfs: PathBuf,
        /// Its command line.
        command_line: String,
    },
}

/// The machine to make.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to execute.
    pub accelerator: Accelerator,
    /// `q35` or `pc`.
    pub machine: String,
    /// Number of CPUs, the reserved one included.
    pub cpus: u32,
    /// Features of the CPU to switch on or off, as after the model in QEMU's `-cpu`: `la57=off`.
    pub cpu_features: String,
    /// RAM in MiB.
    pub ram: u32,
    /// What to start.
    pub boot: Boot,
    /// qcow2 images, attached in this order as virtio disks.
    pub disks: Vec<PathBuf>,
    /// Numbers of those for which [`Qemu::refuse_writes`] is to work.
    pub refusing: Vec<usize>,
    /// TCP ports of the guest to reach from the host.
    pub ports: Vec<u16>,
    /// TCP ports of further addresses on its wire to reach from the host.
    pub forwards: Vec<SocketAddrV4>,
    /// Whether a reset restarts the guest (else it ends the machine).
    pub reboot: bool,
    /// Whether QEMU stays when the machine has ended, so that it can still be asked.
    pub stay: bool,
    /// A file to hold the guest's RAM, to be read from outside.
    pub memory: Option<PathBuf>,
    /// Go on from this state saved in the first disk instead of starting the firmware.
    pub state: Option<String>,
    /// Whether to keep what goes over the wire, in [`capture::FILE`] among the logs.
    pub capture: bool,
    /// Whether a program of the host is on the wire as well ([`Qemu::wire`]).
    pub wire: bool,
    /// More arguments for QEMU.
    pub extra: Vec<String>,
}

impl Config {
    /// A machine of four CPUs and 2 GB without disks or ports, which ends with a reset.
    #[must_use]
    pub fn new(accelerator: Accelerator, boot: Boot) -> Self {
        Self {
            accelerator,
            machine: "q35".into(),
            cpus: 4,
            cpu_features: String::new(),
            ram: 2048,
            boot,
            disks: Vec::new(),
            refusing: Vec::new(),
            ports: Vec::new(),
            forwards: Vec::new(),
            reboot: false,
            stay: false,
            memory: None,
            state: None,
            capture: false,
            wire: false,
            extra: Vec::new(),
        }
    }
}

/// A running machine. Dropping it kills the process; so does the death of this one.
pub struct Qemu {
    child: Child,
    /// The control connection.
    pub qmp: Qmp,
    /// COM1: the loader's and Linux's console.
    pub console: Serial,
    /// COM2: the backup OS.
    pub backup: Serial,
    /// COM3: the harness' agent in the guest.
    pub agent: Serial,
    /// Ports that have a byte as soon as it is written: what programs say that the kernel has acknowledged.
    pub acknowledged: Vec<Serial>,
    /// Forwarded ports: the guest's and the one of 127.0.0.1 that leads there.
    pub ports: Vec<(u16, u16)>,
    /// For each of the further addresses, the port of 127.0.0.1 that leads there.
    pub forwards: Vec<u16>,
    /// UDP ports of 127.0.0.1 through which a program is on the guest's wire: where frames go to, and where they come.
    pub wire: Option<(u16, u16)>,
    /// When the process was started; all times on serial lines count from here.
    pub start: Instant,
}

impl Qemu {
    /// Starts the machine, writing `com1.log`, `com2.log`, `com3.log`, `acks0.log` to `acks7.log`, `qemu.log` and
    /// the command line to `logs`.
    ///
    /// # Errors
    /// When QEMU cannot be started or refuses the configuration.
    pub fn start(config: &Config, logs: &Path) -> Result<Self> {
        fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let sockets = Sockets::new()?;
        let listeners = ["qmp", "com1", "com2", "com3"].map(|name| UnixListener::bind(sockets.path(name)));
        let counts = config.accelerator == Accelerator::InstructionCount;
        let turns = counts.then(|| UnixListener::bind(sockets.path(TURNS)));
        let ports_of_programs = ACKNOWLEDGERS.map(|name| UnixListener::bind(sockets.path(name)));
        let guest = config.ports.iter().map(|port| format!(":{port}"));
        let further = config.forwards.iter().map(SocketAddrV4::to_string);
        let targets: Vec<String> = guest.chain(further).collect();
        let hosts = free_ports(targets.len())?;
        let wire = config.wire.then(free_wire).transpose()?;
        // QEMU must not outlive the harness, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(arguments(config, &sockets))
            .args(network(targets.iter().zip(&hosts), wire));
        if config.capture {
            command.args(["-object", &captured(logs)]);
        }
        fs::write(logs.join("qemu.command"), exec::shown(&command) + "\n")?;
        let errors = logs.join("qemu.log");
        let start = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors)?)
            .spawn()
            .context("cannot start qemu-system-x86_64 (apt install qemu-system-x86)")?;
        let mut child = KillOnDrop(Some(child));
        let mut streams = Vec::new();
        for listener in listeners {
            streams.push(accept(
                &listener.context("cannot listen for QEMU")?,
                &mut child,
                &errors,
            )?);
        }
        let mut acknowledged = Vec::new();
        for (name, listener) in ACKNOWLEDGERS.into_iter().zip(ports_of_programs) {
            let stream = accept(&listener.context("cannot listen for QEMU")?, &mut child, &errors)?;
            acknowledged.push(Serial::start(name, stream, start, &logs.join(format!("{name}.log")))?);
        }
        if let Some(listener) = turns {
            let stream = accept(&listener.context("cannot listen for QEMU")?, &mut child, &errors)?;
            turns::end_now_and_then(stream)?;
        }
        let [qmp, com1, com2, com3]: [UnixStream; 4] = streams
            .try_into()
            .map_err(|_| anyhow::anyhow!("four sockets were opened"))?;
        let qemu = Self {
            qmp: Qmp::start(qmp)?,
            console: Serial::start("COM1", com1, start, &logs.join("com1.log"))?,
            backup: Serial::start("COM2", com2, start, &logs.join("com2.log"))?,
            agent: Serial::start("COM3", com3, start, &logs.join("com3.log"))?,
            acknowledged,
            child: child.0.take().context("QEMU is running")?,
            ports: config.ports.iter().copied().zip(hosts.iter().copied()).collect(),
            forwards: hosts.iter().skip(config.ports.len()).copied().collect(),
            wire,
            start,
        };
        Ok(qemu)
    }

    /// The process id, for whoever wants to look at it from outside.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the process for a while, and with it the whole machine.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pause(&mut self, time: Duration) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).context("cannot stop QEMU")?;
        std::thread::sleep(time);
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).context("cannot let QEMU go on")
    }

    /// Whether the process has ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for the machine to end by itself (power off, or a reset when those end it).
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub fn wait_end(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while !self.ended()? {
            if Instant::now() > deadline {
                bail!("the machine still runs after {within:.0?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until the machine has stopped for good, and returns why, in QEMU's words (`guest-reset`, ...). Needs
    /// [`Config::stay`].
    ///
    /// # Errors
    /// When it still runs at the deadline, or QEMU has gone.
    pub fn wait_stopped(&mut self, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(reason) = self.qmp.end_reason() {
                return Ok(reason);
            }
            if self.ended()? {
                bail!("QEMU has ended");
            }
            if Instant::now() > deadline {
                bail!("the machine was not reset within {within:.0?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes that have reached the disks since the machine was started.
    ///
    /// # Errors
    /// When QEMU does not say.
    pub fn disk_writes(&mut self) -> Result<u64> {
        let stats = self
            .qmp
            .command("query-blockstats", json!({}), Duration::from_secs(30))?;
        let devices = stats.as_array().context("query-blockstats gives a list")?;
        Ok(devices
            .iter()
            .filter_map(|device| device["stats"]["wr_operations"].as_u64())
            .sum())
    }

    /// Lets a disk answer every request with an error from now on, as one that has gone.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn fail_disk(&mut self, number: usize) -> Result<()> {
        self.qmp
            .monitor(&format!("drive_del disk{number}"), Duration::from_secs(30))
            .map(drop)
    }

    /// Lets a disk of [`Config::refusing`] answer every write with an error, or do them again.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn refuse_writes(&mut self, number: usize, refuse: bool) -> Result<()> {
        let (image, layer) = (format!("image{number}"), format!("refusing{number}"));
        let mut command = |name, arguments| self.qmp.command(name, arguments, Duration::from_secs(30)).map(drop);
        if refuse {
            let each_write = json!([{ "event": "none", "iotype": "write" }]);
            let layer = json!({ "driver": "blkdebug", "node-name": layer, "image": image, "inject-error": each_write });
            command("blockdev-add", layer)?;
        }
        let top = json!({
            "driver": "raw",
            "node-name": format!("top{number}"),
            "file": if refuse { &layer } else { &image },
            "cache": { "direct": false, "no-flush": true },
        });
        command("blockdev-reopen", json!({ "options": [top] }))?;
        if refuse {
            return Ok(());
        }
        command("blockdev-del", json!({ "node-name": layer }))
    }

    /// Writes `size` bytes of physical memory from address 0 on to a file.
    ///
    /// # Errors
    /// When QEMU cannot write it.
    pub fn save_memory(&mut self, file: &Path, size: u64) -> Result<()> {
        let name = file.to_str().context("the image's path is text")?;
        self.qmp
            .command(
                "pmemsave",
                json!({ "val": 0, "size": size, "filename": name }),
                Duration::from_secs(300),
            )
            .map(drop)
    }

    /// Saves the whole machine inside its first disk. Another process can go on from
    /// there; this one cannot go back, because QEMU lets the time-stamp counter of one
    /// process only grow.
    ///
    /// # Errors
    /// When QEMU cannot.
    pub fn save_state(&mut self, name: &str) -> Result<()> {
        self.qmp
            .monitor(&format!("savevm {name}"), Duration::from_secs(600))
            .map(drop)
    }
}

impl Qemu {
    /// Kills the process, so that its disks are free for another.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.end();
    }
}

/// Two free UDP ports of 127.0.0.1.
fn free_wire() -> Result<(u16, u16)> {
    let socket = || UdpSocket::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1");
    let (one, other) = (socket()?, socket()?);
    Ok((one.local_addr()?.port(), other.local_addr()?.port()))
}

/// The guest's network card, and the user network that it is on. With a wire both are on a hub, as are the frames that come
/// to the first port of it; all that are on the hub go to the second.
fn network<'a>(forwards: impl Iterator<Item = (&'a String, &'a u16)>, wire: Option<(u16, u16)>) -> Vec<String> {
    let forwards: String = forwards
        .map(|(target, host)| format!(",hostfwd=tcp:127.0.0.1:{host}-{target}"))
        .collect();
    let mut list = vec!["-netdev".to_owned(), format!("user,id=net{forwards}")];
    let mut card = "net";
    if let Some((to, from)) = wire {
        card = "hub0";
        for netdev in [
            format!("socket,id=wire,udp=127.0.0.1:{from},localaddr=127.0.0.1:{to}"),
            "hubport,id=hub0,hubid=0".into(),
            "hubport,id=hub1,hubid=0,netdev=net".into(),
            "hubport,id=hub2,hubid=0,netdev=wire".into(),
        ] {
            list.extend(["-netdev".to_owned(), netdev]);
        }
    }
    list.extend(["-device".to_owned(), format!("virtio-net-pci,netdev={card},romfile=")]);
    list
}

/// The object that keeps what goes over the wire.
fn captured(logs: &Path) -> String {
    let file = logs.join(capture::FILE);
    format!(
        "filter-dump,id=capture,netdev=net,maxlen={},file={}",
        capture::KEPT,
        file.display()
    )
}

/// Kills a child that has no other owner yet.
struct KillOnDrop(Option<Child>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A folder of sockets with a path short enough for `sun_path`.
struct Sockets(PathBuf);

impl Sockets {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/orthros-{}-{number}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn accept(listener: &UnixListener, child: &mut KillOnDrop, errors: &Path) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("waiting for QEMU"),
        }
        let ended = child
            .0
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
        if ended || Instant::now() > deadline {
            bail!(
                "QEMU did not start: {}",
                fs::read_to_string(errors).unwrap_or_default().trim()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Finds so many free ports of the host.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All are held until the last is found, so that none is given twice.
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpListener::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1")?);
    }
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// The CPU that is emulated: all that QEMU knows, except that strings of bytes are moved fast, and `cmpxchg16b`.
///
/// QEMU 7.2 takes the flags that this leaves from where an earlier instruction may have left anything (`gen_helper_cmpxchg16b`
/// without `gen_update_cc_op`). Kernels allocate memory with it; one that is interrupted right behind it traps after each
/// further instruction, and falls.
///
/// A CPU with that feature clears a page with `rep stosb`. QEMU stores byte by byte, and looks for each of them through
/// all translations that there are of code in its page (`tb_invalidate_phys_page_range__locked`): 5 to 120 ms for a page
/// of a shared library. A successor clears such pages by the hundred, being what the dead kernel's page cache was.
const EMULATED: &str = "max,-erms,-fsrm,-cx16";

fn arguments(config: &Config, sockets: &Sockets) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| list.extend([option.to_owned(), value]);
    match config.accelerator {
        Accelerator::Tcg => add("-accel", "tcg,thread=single".into()),
        Accelerator::TcgThreads => add("-accel", "tcg,thread=multi".into()),
        Accelerator::InstructionCount => {
            add("-accel", "tcg,thread=single".into());
            add("-icount", "shift=0,sleep=off".into());
        }
        Accelerator::Kvm => add("-accel", "kvm".into()),
    }
    let model = if config.accelerator == Accelerator::Kvm {
        "host"
    } else {
        EMULATED
    };
    let comma = if config.cpu_features.is_empty() { "" } else { "," };
    add("-cpu", format!("{model}{comma}{}", config.cpu_features));
    add("-m", config.ram.to_string());
    match &config.memory {
        None => add("-machine", config.machine.clone()),
        Some(file) => {
            add("-machine", format!("{},memory-backend=ram", config.machine));
            add(
                "-object",
                format!(
                    "memory-backend-file,id=ram,share=on,size={}M,mem-path={}",
                    config.ram,
                    file.display()
                ),
            );
        }
    }
    add("-smp", config.cpus.to_string());
    add("-display", "none".into());
    add(
        "-action",
        format!(
            "reboot={},shutdown={}",
            if config.reboot { "reset" } else { "shutdown" },
            if config.stay { "pause" } else { "poweroff" }
        ),
    );
    add("-qmp", format!("unix:{}", sockets.path("qmp").display()));
    if config.accelerator == Accelerator::InstructionCount {
        add("-qmp", format!("unix:{}", sockets.path(TURNS).display()));
    }
    // The third port gets an interrupt of its own: ISA lines cannot be shared with COM1.
    for (name, place) in [("com1", "index=0"), ("com2", "index=1"), ("com3", "index=2,irq=5")] {
        add(
            "-chardev",
            format!("socket,id={name},path={}", sockets.path(name).display()),
        );
        add("-device", format!("isa-serial,chardev={name},{place}"));
    }
    for (name, port) in ACKNOWLEDGERS.into_iter().zip(ACKNOWLEDGED..) {
        add(
            "-chardev",
            format!("socket,id={name},path={}", sockets.path(name).display()),
        );
        add("-device", format!("isa-debugcon,chardev={name},iobase={port:#x}"));
    }
    match &config.boot {
        Boot::Disc(iso) => {
            add(
                "-drive",
                format!(
                    "if=none,id=cd,media=cdrom,readonly=on,format=raw,file={}",
                    iso.display()
                ),
            );
            add("-device", "ide-cd,drive=cd,bootindex=0".into());
        }
        Boot::Kernel {
            image,
            initramfs,
            command_line,
        } => {
            add("-kernel", image.display().to_string());
            add("-initrd", initramfs.display().to_string());
            add("-append", command_line.clone());
        }
    }
    for (index, disk) in config.disks.iter().enumerate() {
        let disk = disk.display();
        let image = if config.refusing.contains(&index) {
            // A layer without a state of its own, below which another can be put: see `refuse_writes`.
            format!(
                "format=raw,node-name=top{index},file.driver=qcow2,file.node-name=image{index},\
                 file.file.driver=file,file.file.filename={disk}"
            )
        } else {
            format!("format=qcow2,file={disk}")
        };
        // Images are thrown away after the run: the host need not flush them.
        add("-drive", format!("if=none,id=disk{index},cache=unsafe,{image}"));
        add("-device", format!("virtio-blk-pci,drive=disk{index}"));
    }
    if let Some(state) = &config.state {
        add("-loadvm", state.clone());
    }
    list.push("-nodefaults".into());
    list.extend(config.extra.iter().cloned());
    list
}
