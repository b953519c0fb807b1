//! Makes short system calls all the time and notices if a single one happened twice, or not at all.
//!
//! Two processes send a stream of bytes through a pipe in pieces of all sizes, and each byte is known beforehand. Threads
//! of a third add to an eventfd and count what comes out, open and close descriptors and know their numbers, wake each
//! other, and sleep. Each part writes a line when it runs and another when it was told to end; `judge` reads them.

use anyhow::{bail, ensure, Context, Result};
use clap::{Parser, Subcommand};
use std::fs::{self, File};
use std::io::{pipe, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longest piece of the stream: more than a page, less than a pipe holds.
const LONGEST: u64 = 9000;
/// What ends all parts when it is there.
const STOP: &str = "stop";

#[derive(Parser)]
struct Options {
    /// Folder for what the parts say
    #[arg(long)]
    dir: PathBuf,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Starts all parts and waits for them
    All {
        /// Pipes
        #[arg(long, default_value_t = 3)]
        pipes: usize,
    },
    /// Writes the stream to standard output
    Send { name: String },
    /// Reads the stream from standard input
    Receive { name: String },
    /// Makes calls of other kinds, in threads
    Calls,
    /// Ends the parts and judges them
    Judge {
        /// Seconds to wait for their ends
        #[arg(long, default_value_t = 60)]
        patience: u64,
    },
}

/// A generator of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The byte at a place of the stream: neighbours differ, and so do pages.
fn byte_at(place: u64) -> u8 {
    (place ^ (place >> 8) ^ (place >> 16)) as u8
}

/// A part's folder and name.
#[derive(Clone)]
struct Place {
    dir: PathBuf,
    name: String,
}

impl Place {
    fn say(&self, what: &str) -> Result<()> {
        let path = self.dir.join(&self.name);
        fs::write(&path, what).with_context(|| path.display().to_string())
    }

    fn is_over(&self) -> bool {
        self.dir.join(STOP).exists()
    }

    /// Runs a part that says how much it has done.
    fn run(&self, part: impl FnOnce(&Self) -> Result<u64>) -> Result<()> {
        self.say("runs")?;
        match part(self) {
            Ok(count) => self.say(&format!("ok {count}")),
            Err(error) => self.say(&format!("wrong: {error:#}")),
        }
    }
}

/// A standard stream without the buffer that Rust puts before it.
fn unbuffered(stream: impl AsFd) -> Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}

fn send(place: &Place, mut to: impl Write) -> Result<u64> {
    let mut random = Random(1);
    let mut sent = 0;
    for round in 0u64.. {
        if round % 64 == 0 && place.is_over() {
            break;
        }
        let piece: Vec<u8> = (sent..sent + random.next() % LONGEST + 1).map(byte_at).collect();
        let written = to.write(&piece).with_context(|| format!("write at {sent}"))?;
        ensure!(written > 0, "nothing was written at {sent}");
        sent += written as u64;
    }
    Ok(sent)
}

fn receive(mut from: impl Read) -> Result<u64> {
    let mut random = Random(2);
    let mut buffer = vec![0; LONGEST as usize];
    let mut received = 0;
    loop {
        let wanted = (random.next() % LONGEST + 1) as usize;
        let got = from
            .read(&mut buffer[..wanted])
            .with_context(|| format!("read at {received}"))?;
        if got == 0 {
            return Ok(received);
        }
        for (&byte, at) in buffer[..got].iter().zip(received..) {
            ensure!(
                byte == byte_at(at),
                "byte {at} is {byte:#x} instead of {:#x}",
                byte_at(at)
            );
        }
        received += got as u64;
    }
}

/// One thread adds ones, the other takes what there is; in the end both must have the same.
fn event(place: &Place) -> Result<u64> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    ensure!(fd >= 0, "eventfd: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut taker = file.try_clone()?;
    let last = 1 << 40;
    let takes = thread::spawn(move || -> Result<u64> {
        let (mut sum, mut word) = (0, [0; 8]);
        while sum < last {
            ensure!(taker.read(&mut word)? == 8, "a short read of the eventfd");
            sum += u64::from_ne_bytes(word);
        }
        Ok(sum - last)
    });
    let (mut given, mut file) = (0, file);
    while given % 64 != 0 || !place.is_over() {
        ensure!(file.write(&1u64.to_ne_bytes())? == 8, "a short write to the eventfd");
        given += 1;
    }
    file.write_all(&u64::to_ne_bytes(last))?;
    let taken = takes.join().expect("the thread does not panic")?;
    ensure!(given == taken, "{given} were added to the eventfd, {taken} came out");
    Ok(given)
}

/// Descriptors get the lowest free number: one that was made twice shifts the next. This thread is the only one of its
/// process that makes any.
fn open(place: &Place) -> Result<u64> {
    let (mut count, mut expected) = (0, None);
    while count % 64 != 0 || !place.is_over() {
        let file = File::open("/dev/null")?;
        let (reader, writer) = pipe()?;
        let copy = file.try_clone()?;
        let numbers = [
            file.as_raw_fd(),
            reader.as_raw_fd(),
            writer.as_raw_fd(),
            copy.as_raw_fd(),
        ];
        ensure!(
            *expected.get_or_insert(numbers) == numbers,
            "descriptors {numbers:?} instead of {expected:?}"
        );
        count += 1;
    }
    Ok(count)
}

/// Two threads in turn: a wake-up that gets lost is the end of it.
fn wake(place: &Place) -> Result<u64> {
    let turn = Arc::new((Mutex::new(0u64), Condvar::new()));
    let other = Arc::clone(&turn);
    let mine = move |turn: &(Mutex<u64>, Condvar), rest: u64, over: &dyn Fn() -> bool| {
        let (lock, changed) = turn;
        let mut count = lock.lock().expect("nobody panics");
        while *count != u64::MAX && !over() {
            if *count % 2 == rest {
                *count += 1;
                changed.notify_one();
            } else {
                count = changed.wait(count).expect("nobody panics");
            }
        }
        let reached = *count;
        *count = u64::MAX;
        changed.notify_one();
        reached
    };
    let thread = thread::spawn(move || mine(&other, 1, &|| false));
    let place = place.clone();
    let reached = mine(&turn, 0, &move || place.is_over());
    thread.join().expect("the thread does not panic");
    Ok(reached)
}

fn sleep(place: &Place) -> Result<u64> {
    let mut count = 0;
    while !place.is_over() {
        let length = Duration::from_micros(count % 7 * 300);
        let start = Instant::now();
        thread::sleep(length);
        let slept = start.elapsed();
        ensure!(slept >= length, "slept {slept:?} instead of {length:?}");
        count += 1;
    }
    Ok(count)
}

fn calls(dir: &Path) -> Result<()> {
    let part = |name: &str, part: fn(&Place) -> Result<u64>| {
        let place = Place {
            dir: dir.into(),
            name: name.into(),
        };
        thread::spawn(move || place.run(part))
    };
    for thread in [part("event", event), part("wake", wake), part("sleep", sleep)] {
        thread.join().expect("the thread does not panic")?;
    }
    Ok(())
}

fn all(dir: &Path, pipes: usize) -> Result<()> {
    let program = std::env::current_exe()?;
    let command = |part: &str, name: Option<String>| {
        let mut command = Command::new(&program);
        command.arg("--dir").arg(dir).arg(part).args(name);
        command
    };
    let mut children = vec![command("calls", None).spawn()?];
    for i in 0..pipes {
        let mut sender = command("send", Some(format!("send-{i}")));
        let mut sender = sender.stdout(Stdio::piped()).spawn()?;
        let stream = sender.stdout.take().context("the sender's standard output")?;
        let mut receiver = command("receive", Some(format!("receive-{i}")));
        children.push(receiver.stdin(stream).spawn()?);
        children.push(sender);
    }
    let place = Place {
        dir: dir.into(),
        name: "open".into(),
    };
    place.run(open)?;
    for mut child in children {
        child.wait()?;
    }
    Ok(())
}

/// Waits until a part has ended, and returns how much it did.
fn judged(path: &Path, deadline: Instant) -> Result<u64> {
    loop {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        if let Some(count) = text.strip_prefix("ok ") {
            return count.parse().with_context(|| path.display().to_string());
        }
        if text.starts_with("wrong") {
            bail!("{}: {text}", path.display());
        }
        ensure!(
            Instant::now() < deadline,
            "{}: {text}, and does not end",
            path.display()
        );
        thread::sleep(Duration::from_millis(100));
    }
}

fn judge(dir: &Path, patience: u64) -> Result<()> {
    // So that something is done after whatever happened.
    thread::sleep(Duration::from_secs(2));
    fs::write(dir.join(STOP), "")?;
    let deadline = Instant::now() + Duration::from_secs(patience);
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.retain(|name| name != STOP);
    names.sort();
    let mut wrong = 0;
    for name in &names {
        match judged(&dir.join(name), deadline) {
            Ok(count) => {
                let sent = name
                    .strip_prefix("receive-")
                    .map(|i| judged(&dir.join(format!("send-{i}")), deadline));
                let differs = sent.transpose()?.is_some_and(|sent| sent != count);
                wrong += usize::from(differs);
                println!(
                    "{name}: {count}{}",
                    if differs { ", WRONG: not what was sent" } else { "" }
                );
            }
            Err(error) => {
                wrong += 1;
                println!("{error:#}");
            }
        }
    }
    ensure!(
        wrong == 0 && !names.is_empty(),
        "{wrong} of {} parts went wrong",
        names.len()
    );
    Ok(())
}

fn main() -> Result<()> {
    let Options { dir, part } = Options::parse();
    let place = |name| Place { dir: dir.clone(), name };
    match part {
        Part::All { pipes } => match fs::create_dir(&dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error).context(dir.display().to_string()),
            _ => all(&dir, pipes),
        },
        Part::Send { name } => place(name).run(|place| send(place, unbuffered(std::io::stdout())?)),
        Part::Receive { name } => place(name).run(|_| receive(unbuffered(std::io::stdin())?)),
        Part::Calls => calls(&dir),
        Part::Judge { patience } => judge(&dir, patience),
    }
}
