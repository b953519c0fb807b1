//! What the loader says: on the first serial port (115200 baud) and on the VGA text screen.

use core::fmt::{self, Write};
use machine::{
    uart::{Uart, COM1},
    Ring0,
};
use spin::Mutex;

const COLUMNS: usize = 80;
const ROWS: usize = 25;
const SCREEN: *mut u16 = 0xB8000 as *mut u16;
/// Light grey on black.
const ATTRIBUTE: u16 = 0x0700;

/// The text screen. It is never read: what scrolled is kept here.
struct Screen {
    cells: [[u8; COLUMNS]; ROWS],
    column: usize,
}

impl Screen {
    const fn new() -> Self {
        Self {
            cells: [[b' '; COLUMNS]; ROWS],
            column: 0,
        }
    }

    fn put(&mut self, byte: u8) {
        if byte == b'\n' || self.column == COLUMNS {
            self.cells.rotate_left(1);
            self.cells[ROWS - 1] = [b' '; COLUMNS];
            self.column = 0;
        }
        if byte != b'\n' {
            self.cells[ROWS - 1][self.column] = if byte.is_ascii_graphic() { byte } else { b' ' };
            self.column += 1;
        }
    }

    fn show(&self) {
        for (at, &cell) in self.cells.as_flattened().iter().enumerate() {
            // SAFETY: 1. the text buffer of a VGA (0xB8000, 4000 bytes) is mapped at its own address, and where there is
            // no VGA the writes go nowhere. 2. No reference points there.
            unsafe { SCREEN.add(at).write_volatile(ATTRIBUTE | u16::from(cell)) };
        }
    }
}

struct Console {
    uart: Option<Uart>,
    screen: Option<Screen>,
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(uart) = &mut self.uart {
            uart.write_str(text)?;
        }
        if let Some(screen) = &mut self.screen {
            text.bytes().for_each(|byte| screen.put(byte));
        }
        Ok(())
    }
}

static CONSOLE: Mutex<Option<Console>> = Mutex::new(None);

/// Sets the devices up.
pub fn open(ring0: Ring0) {
    *CONSOLE.lock() = Some(Console {
        uart: Uart::new(ring0, COM1),
        screen: Some(Screen::new()),
    });
}

/// Gives the text screen up: it shows pixels.
pub fn close_screen() {
    if let Some(console) = CONSOLE.lock().as_mut() {
        console.screen = None;
    }
}

/// Writes a line.
pub fn line(text: fmt::Arguments) {
    // A panic while a line is being written must not wait for itself.
    let Some(mut guard) = CONSOLE.try_lock() else { return };
    if let Some(console) = guard.as_mut() {
        // Neither device reports errors: what cannot be shown is lost.
        let _ = console.write_fmt(text);
        let _ = console.write_str("\n");
        if let Some(screen) = &console.screen {
            screen.show();
        }
    }
}

/// Writes a formatted line to the console.
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::line(format_args!($($argument)*)) };
}
pub(crate) use say;
