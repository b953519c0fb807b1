//! The programs under test. Each tells over its standard output what it has seen; a question comes as a byte on its
//! standard input.

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Runs a program; it never returns.
pub fn run(name: &str, arguments: &[String]) -> ! {
    match name {
        "counter" => counter(),
        "threads" => threads(),
        "family" => family(),
        "forked" => forked(),
        "clock" => clock(),
        "file" => file(&arguments[0]),
        "confined" => confined(arguments[0] == "allow"),
        name if name.starts_with("library-") => crate::library::program(name),
        other => panic!("no program {other}"),
    }
    std::process::exit(0);
}

/// Says something.
pub fn answer(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}

/// Waits for a question; ends the program when nobody is left to ask.
pub fn question() -> u8 {
    let mut byte = [0];
    match std::io::stdin().lock().read(&mut byte) {
        Ok(1) => byte[0],
        _ => std::process::exit(0),
    }
}

/// Memory, a signal handler, an interval timer, the clock.
fn counter() {
    static TICKS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn tick(_: i32) {
        TICKS.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only moves an atomic counter; the structures live for the calls.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = tick as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        let every = libc::timeval {
            tv_sec: 0,
            tv_usec: 5000,
        };
        let timer = libc::itimerval {
            it_interval: every,
            it_value: every,
        };
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
    }
    let pages: Vec<u64> = (0..1_000_000).map(|i| i * 0x9E37_79B9).collect();
    let started = Instant::now();
    let mut count = 0;
    answer("ready");
    loop {
        question();
        let before = TICKS.load(Ordering::Relaxed);
        while TICKS.load(Ordering::Relaxed) < before + 3 {
            std::thread::yield_now();
        }
        let good = pages.iter().zip(0..).all(|(page, i)| *page == i * 0x9E37_79B9);
        count += 1;
        assert!(started.elapsed() < Duration::from_secs(600));
        answer(&format!("{count} {good} {}", std::process::id()));
    }
}

/// Threads that compute in vector registers and sleep on futexes.
fn threads() {
    static GO: AtomicU64 = AtomicU64::new(0);
    let workers: Vec<_> = (0..6u32)
        .map(|worker| {
            std::thread::spawn(move || {
                let mut lanes = [f64::from(worker); 8];
                let mut rounds = 0u64;
                while GO.load(Ordering::Acquire) == 0 {
                    for lane in &mut lanes {
                        *lane = *lane * 1.000_000_1 + 1.0;
                    }
                    rounds += 1;
                    if worker % 2 == 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                let mut expected = f64::from(worker);
                for _ in 0..rounds {
                    expected = expected * 1.000_000_1 + 1.0;
                }
                lanes.iter().all(|lane| lane.to_bits() == expected.to_bits())
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    answer("ready");
    question();
    GO.store(1, Ordering::Release);
    let good = workers.into_iter().all(|worker| worker.join().unwrap());
    answer(&format!("{good}"));
    question();
}

/// A child behind a pipe, with data on the way.
fn family() {
    let mut pipe = [0; 2];
    // SAFETY: the array has room for two descriptors; after the fork both sides call only functions that are safe
    // in a process with one thread.
    let child = unsafe {
        libc::pipe(pipe.as_mut_ptr());
        libc::fork()
    };
    let [read, write] = pipe;
    if child == 0 {
        // SAFETY: closes a descriptor that nobody else in this process uses.
        unsafe { libc::close(read) };
        let mut next = 0u64;
        loop {
            let bytes = next.to_le_bytes();
            // SAFETY: writes eight live bytes.
            if unsafe { libc::write(write, bytes.as_ptr().cast(), 8) } != 8 {
                std::process::exit(7);
            }
            next += 1;
        }
    }
    // SAFETY: as above.
    unsafe { libc::close(write) };
    std::thread::sleep(Duration::from_millis(100));
    answer("ready");
    question();
    let mut good = true;
    for expected in 0..50_000u64 {
        let mut bytes = [0; 8];
        // SAFETY: reads into eight live bytes.
        good &= unsafe { libc::read(read, bytes.as_mut_ptr().cast(), 8) } == 8;
        good &= u64::from_le_bytes(bytes) == expected;
    }
    let mut status = 0;
    // SAFETY: closes our end, which ends the child; `status` is live.
    let waited = unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::close(read);
        libc::waitpid(child, &mut status, 0)
    };
    answer(&format!("{good} {} {status}", waited == child));
    question();
}

/// A file that is half written, shared memory, an eventfd.
fn file(path: &str) {
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
        .unwrap();
    let twin = file.try_clone().unwrap();
    file.write_all(b"before ").unwrap();
    answer("ready");
    question();
    file.write_all(b"after ").unwrap();
    let mut twin = twin;
    twin.write_all(b"shared").unwrap();
    answer(&std::fs::read_to_string(path).unwrap());
    question();
}

/// A user namespace with threads in it, which has other names for the machine that it may change.
fn confined(setgroups: bool) {
    let pid = std::process::id();
    // SAFETY: the process has one thread; the child ends without returning.
    unsafe {
        let mapper = libc::fork();
        if mapper == 0 {
            let own = std::fs::read_link("/proc/self/ns/user").unwrap();
            while std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap() == own {
                std::thread::sleep(Duration::from_millis(1));
            }
            let set = |file: &str, text: &str| std::fs::write(format!("/proc/{pid}/{file}"), text).unwrap();
            if !setgroups {
                set("setgroups", "deny");
            }
            set("uid_map", "0 0 1\n100 5000 10\n");
            set("gid_map", "0 0 1\n100 6000 10\n");
            libc::_exit(0);
        }
        assert_eq!(libc::unshare(libc::CLONE_NEWUSER), 0);
        assert_eq!(libc::waitpid(mapper, std::ptr::null_mut(), 0), mapper);
        assert_eq!(libc::unshare(libc::CLONE_NEWUTS), 0);
        assert_eq!(libc::sethostname(c"inside".as_ptr(), 6), 0);
        assert_eq!(libc::setdomainname(c"inside.example".as_ptr(), 14), 0);
        assert_eq!(libc::setresgid(0, 101, 102), 0);
        assert_eq!(libc::setresuid(103, 103, 104), 0);
    }
    let state = || {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let status = read("/proc/thread-self/status");
        let kept = ["Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:", "CapBnd:"];
        let status = status
            .lines()
            .filter(|line| kept.iter().any(|name| line.starts_with(name)));
        let names = read("/proc/sys/kernel/hostname") + &read("/proc/sys/kernel/domainname");
        (status.collect::<Vec<_>>().join(" ") + &names).replace(['\n', '\t'], " ")
    };
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let (tell, told) = std::sync::mpsc::channel();
    for _ in 0..3 {
        let tell = tell.clone();
        std::thread::spawn(move || {
            let mut answered = 0;
            loop {
                std::thread::sleep(Duration::from_millis(1));
                if ASKED.load(Ordering::Acquire) > answered {
                    answered += 1;
                    tell.send(state()).unwrap();
                }
            }
        });
    }
    answer("ready");
    loop {
        question();
        ASKED.fetch_add(1, Ordering::Release);
        let of_threads: Vec<String> = told.iter().take(3).collect();
        answer(&format!("{} {}", state(), of_threads.join(" ")));
    }
}

/// Threads that read the clock through the vDSO all the time.
fn clock() {
    static STOP: AtomicU64 = AtomicU64::new(0);
    let readers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(|| {
                let mut last = Instant::now();
                let mut reads = 0u64;
                while STOP.load(Ordering::Acquire) == 0 {
                    let now = Instant::now();
                    if now < last {
                        return 0;
                    }
                    last = now;
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    answer("ready");
    question();
    let before = Instant::now();
    std::thread::sleep(Duration::from_millis(50));
    let waited = before.elapsed();
    STOP.store(1, Ordering::Release);
    let good = readers.into_iter().all(|reader| reader.join().unwrap() > 0);
    answer(&format!(
        "{}",
        good && waited >= Duration::from_millis(50) && waited < Duration::from_secs(20)
    ));
    question();
}

/// Memory that parent and child share copy-on-write, and of which each has written to a part.
fn forked() {
    let mut words: Vec<u64> = (0..200_000).collect();
    let mut pipe = [0; 2];
    // SAFETY: the array has room for two descriptors; the process has one thread.
    let child = unsafe {
        libc::pipe(pipe.as_mut_ptr());
        libc::fork()
    };
    let [read, write] = pipe;
    let start = if child == 0 { 1 } else { 2 };
    for index in (start * 1024..words.len()).step_by(4096) {
        words[index] = u64::MAX - index as u64;
    }
    let good = |words: &[u64]| {
        let changed = |index: usize| index >= start * 1024 && (index - start * 1024).is_multiple_of(4096);
        (0..words.len()).all(|index| {
            words[index]
                == if changed(index) {
                    u64::MAX - index as u64
                } else {
                    index as u64
                }
        })
    };
    if child == 0 {
        let mut byte = [0u8];
        // SAFETY: reads into a live byte; the parent keeps the other end open until it asks.
        unsafe {
            libc::close(write);
            libc::read(read, byte.as_mut_ptr().cast(), 1);
        }
        let fine = good(&words);
        words.fill(7);
        std::process::exit(if fine { 3 } else { 4 });
    }
    std::thread::sleep(Duration::from_millis(50));
    answer("ready");
    question();
    let before = good(&words);
    let mut status = 0;
    // SAFETY: closes our descriptors; `status` is live.
    unsafe {
        libc::close(write);
        libc::waitpid(child, &mut status, 0);
    }
    answer(&format!("{before} {} {}", status >> 8, good(&words)));
    question();
}
