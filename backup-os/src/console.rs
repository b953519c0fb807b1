//! The log: every line goes into the ring in the region at once, and to the second serial port when there is time.
//!
//! A serial port at 115200 baud takes five milliseconds for a line, which the way of a failover cannot afford. So the
//! ring is the log, and the port follows it as fast as it can, but for the time in which every millisecond counts
//! ([`hurry`]).

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};
use machine::clock::{self, Clock};
use machine::uart::{Uart, COM2};
use machine::Ring0;
use shared_region::log_ring::{LogRing, HEADER_SIZE};
use spin::Mutex;

use crate::region::Region;
use shared_region::layout::{self, Part};

/// How long a line may hold its writer up, in microseconds; the rest goes out at later looks.
const LINE_US: u64 = 2_000;
/// How long everything may take at the very end.
const ALL_US: u64 = 3_000_000;

/// A ring in the region that this program writes.
pub struct Ring {
    region: Region,
    part: Part,
}

impl Ring {
    /// Takes over a ring, emptying it.
    ///
    /// # Safety
    /// Nobody else writes the part.
    pub unsafe fn create(region: Region, part: Part) -> Self {
        let ring = Self { region, part };
        ring.head().capacity.store(ring.capacity() as u64, Ordering::Relaxed);
        ring.head().written.store(0, Ordering::Release);
        ring
    }

    fn head(&self) -> &'static LogRing {
        // SAFETY: 1. inside the region, aligned. 2. Only atomics.
        unsafe { &*(self.region.address(self.part) as *const LogRing) }
    }

    fn capacity(&self) -> usize {
        self.part.size as usize - HEADER_SIZE
    }

    fn byte(&self, position: u64) -> *mut u8 {
        let at = (position % self.capacity() as u64) + HEADER_SIZE as u64;
        (self.region.address(self.part) + at) as *mut u8
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.head().written.load(Ordering::Relaxed)
    }

    /// The byte at a position below [`Ring::written`].
    pub fn read(&self, position: u64) -> u8 {
        // SAFETY: inside the part (`byte` reduces the position); only this program writes it.
        unsafe { self.byte(position).read_volatile() }
    }
}

impl Write for Ring {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let mut position = self.written();
        for byte in text.bytes() {
            // SAFETY: inside the part; only this program writes it (`create`).
            unsafe { self.byte(position).write_volatile(byte) };
            position += 1;
        }
        self.head().written.store(position, Ordering::Release);
        Ok(())
    }
}

struct Console {
    ring: Ring,
    uart: Option<Uart>,
    /// Bytes of the ring that have been sent.
    sent: u64,
    /// Whether the carriage return before the next byte, a line feed, has been sent.
    returned: bool,
    clock: Clock,
}

impl Console {
    /// Sends what the port takes until everything is sent or `us` microseconds have passed.
    fn drain(&mut self, us: u64) {
        let deadline = self.clock.deadline(us);
        while self.sent < self.ring.written() {
            if !self.advance() && deadline.passed() {
                return;
            }
        }
    }

    /// Sends one byte. Returns whether the port took it.
    fn advance(&mut self) -> bool {
        // What has been overwritten since is lost to the port, not to the ring.
        let oldest = self.ring.written().saturating_sub(self.ring.capacity() as u64);
        self.sent = self.sent.max(oldest);
        let byte = self.ring.read(self.sent);
        if let Some(uart) = &mut self.uart {
            if byte == b'\n' && !self.returned {
                self.returned = uart.try_send(b'\r');
                return self.returned;
            }
            if !uart.try_send(byte) {
                return false;
            }
        }
        self.returned = false;
        self.sent += 1;
        true
    }
}

static CONSOLE: Mutex<Option<Console>> = Mutex::new(None);
static HURRY: AtomicBool = AtomicBool::new(false);

struct Logger;

static LOGGER: Logger = Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // Which features a network card has.
        if record.target().starts_with("virtio_drivers") && record.level() > log::Level::Warn {
            return;
        }
        // An exception may come while a line is being written: that line is then lost, not the machine.
        let Some(mut guard) = CONSOLE.try_lock() else { return };
        let Some(console) = guard.as_mut() else { return };
        let us = console.clock.nanoseconds(clock::tsc()) / 1000;
        let level = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            _ => "",
        };
        let _ = writeln!(
            console.ring,
            "[{:5}.{:06}] {level}{}",
            us / 1_000_000,
            us % 1_000_000,
            record.args()
        );
        if !HURRY.load(Ordering::Relaxed) {
            console.drain(LINE_US);
        }
    }

    /// Sends everything, if the port does not refuse.
    fn flush(&self) {
        drain(ALL_US);
    }
}

/// Opens the log.
///
/// # Safety
/// The ring's part and the second serial port are this program's alone.
pub unsafe fn init(region: Region, ring0: Ring0, clock: Clock) {
    // SAFETY: the caller's promise.
    let ring = unsafe { Ring::create(region, layout::LOG) };
    *CONSOLE.lock() = Some(Console {
        ring,
        uart: Uart::new(ring0, COM2),
        sent: 0,
        returned: false,
        clock,
    });
    // Fails only if there is a logger already.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(log::LevelFilter::Info);
}

/// Whether lines go to the ring only, until this is called with `false` or [`log::Log::flush`] is.
pub fn hurry(on: bool) {
    HURRY.store(on, Ordering::Relaxed);
    if !on {
        drain(LINE_US);
    }
}

/// Goes on with what the port has not taken yet. To be called now and then; does not wait.
pub fn catch_up() {
    if !HURRY.load(Ordering::Relaxed) {
        drain(0);
    }
}

fn drain(us: u64) {
    if let Some(console) = CONSOLE.try_lock().as_mut().and_then(|guard| guard.as_mut()) {
        console.drain(us);
    }
}

/// Takes the console from whoever held it when the program failed.
///
/// # Safety
/// What held it will not go on.
pub unsafe fn seize() {
    // SAFETY: the holder does not go on: the caller's promise.
    unsafe { CONSOLE.force_unlock() };
    HURRY.store(false, Ordering::Relaxed);
}
