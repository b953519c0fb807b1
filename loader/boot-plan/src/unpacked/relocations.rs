//! The table of relocations behind an unpacked kernel (`arch/x86/tools/relocs.c`).
//!
//! Three lists of 32-bit numbers, read from the end, each up to a zero: 32-bit words to be raised, 32-bit words to be
//! lowered (distances from per-CPU data, which does not move), 64-bit words to be raised. A number is the virtual address
//! of the word, sign-extended. Nothing in the file says so; that the lists are what they are taken for is told by what
//! the words hold.

use super::vmlinux::{KERNEL_IMAGE_SIZE, START_KERNEL_MAP};
use crate::bytes::{array_at, put, u64_at};

/// How many of a hundred words of a list must be addresses of the kernel for it to be a list of addresses. A few hold
/// physical addresses (the first page tables) or differences.
const MOSTLY: usize = 90;
/// How many may be in a list of distances.
const HARDLY: usize = 10;

/// Numbers after which a step ends.
const NUMBERS: usize = 1 << 14;

/// Where the lists are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// First byte of the 64-bit list, and of its zero.
    words64: (usize, usize),
    inverse: (usize, usize),
    words32: (usize, usize),
}

impl Table {
    /// Finds the lists at the end of a file.
    pub(super) fn find(file: &[u8]) -> Result<Self, &'static str> {
        let words32 = list(file, file.len())?;
        let inverse = list(file, words32.0.saturating_sub(4))?;
        let words64 = list(file, inverse.0.saturating_sub(4))?;
        Ok(Self {
            words64,
            inverse,
            words32,
        })
    }

    /// The first byte that belongs to the table.
    pub(super) const fn start(&self) -> usize {
        self.words64.0.saturating_sub(4)
    }

    /// Number `index` of a list: the virtual address of a word.
    fn number(memory: &[u8], list: (usize, usize), index: usize) -> Option<u64> {
        let at = list.0.saturating_add(index.saturating_mul(4));
        let number = array_at(memory, at).filter(|_| at < list.1)?;
        Some(i64::from(i32::from_le_bytes(number)) as u64)
    }
}

/// What is done with the lists, one after the other: nothing is changed before all have been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Check(Words),
    Move(Words),
}

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Raised32,
    Lowered32,
    Raised64,
}

const TASKS: [Task; 6] = [
    Task::Check(Words::Raised32),
    Task::Check(Words::Lowered32),
    Task::Check(Words::Raised64),
    Task::Move(Words::Raised32),
    Task::Move(Words::Lowered32),
    Task::Move(Words::Raised64),
];

/// A kernel being moved.
pub(super) struct Relocating {
    table: Table,
    /// Virtual address of the kernel's first byte.
    base: u64,
    shift: u64,
    /// Of [`TASKS`].
    task: usize,
    /// Numbers of its list that are done, and how many of them named addresses.
    done: usize,
    addresses: usize,
}

impl Relocating {
    /// Begins to move up by `shift` a kernel that was linked for the physical address `linked_at`.
    pub(super) const fn new(table: Table, linked_at: u64, shift: u64) -> Self {
        Self {
            table,
            base: START_KERNEL_MAP.wrapping_add(linked_at),
            shift,
            task: 0,
            done: 0,
            addresses: 0,
        }
    }

    /// Goes on with the kernel in `memory[..filled]`, whose table stands where it was unpacked. Returns whether that was all.
    pub(super) fn step(&mut self, memory: &mut [u8], filled: usize) -> Result<bool, &'static str> {
        if filled > self.table.start() {
            return Err("the table lies in the kernel");
        }
        let Some(&task) = TASKS.get(self.task) else {
            return Ok(true);
        };
        let words = match task {
            Task::Check(words) | Task::Move(words) => words,
        };
        let list = match words {
            Words::Raised32 => self.table.words32,
            Words::Lowered32 => self.table.inverse,
            Words::Raised64 => self.table.words64,
        };
        for _ in 0..NUMBERS {
            let Some(number) = Table::number(memory, list, self.done) else {
                if matches!(task, Task::Check(_)) {
                    self.judge(words)?;
                }
                (self.task, self.done, self.addresses) = (self.task.saturating_add(1), 0, 0);
                return Ok(self.task == TASKS.len());
            };
            let at = number.wrapping_sub(self.base) as usize;
            let kernel = memory.get_mut(..filled).ok_or("no kernel")?;
            match task {
                Task::Check(words) => {
                    let is_one = is_address(words.value(kernel, at).ok_or("one is outside of the kernel")?);
                    self.addresses = self.addresses.saturating_add(usize::from(is_one));
                }
                Task::Move(words) => words.move_by(kernel, at, self.shift),
            }
            self.done = self.done.saturating_add(1);
        }
        Ok(false)
    }

    /// Whether a list holds what it is taken for.
    fn judge(&self, words: Words) -> Result<(), &'static str> {
        let addresses = self.addresses.saturating_mul(100);
        let mostly = addresses >= self.done.saturating_mul(MOSTLY) && self.done != 0;
        match words {
            Words::Raised32 if !mostly => Err("32-bit words that are no addresses"),
            Words::Lowered32 if addresses > self.done.saturating_mul(HARDLY) => Err("distances that are addresses"),
            Words::Raised64 if !mostly => Err("64-bit words that are no addresses"),
            _ => Ok(()),
        }
    }
}

impl Words {
    /// What would be an address, were the list one of addresses.
    fn value(self, kernel: &[u8], at: usize) -> Option<u64> {
        match self {
            Self::Raised32 => array_at(kernel, at).map(|word| i64::from(i32::from_le_bytes(word)) as u64),
            Self::Lowered32 | Self::Raised64 => u64_at(kernel, at),
        }
    }

    fn move_by(self, kernel: &mut [u8], at: usize, shift: u64) {
        let half = match self {
            Self::Raised64 => {
                let word = u64_at(kernel, at).unwrap_or(0);
                put(kernel, at, &word.wrapping_add(shift).to_le_bytes());
                return;
            }
            Self::Raised32 => shift as u32,
            Self::Lowered32 => (shift as u32).wrapping_neg(),
        };
        let word = array_at(kernel, at).map_or(0, u32::from_le_bytes);
        put(kernel, at, &word.wrapping_add(half).to_le_bytes());
    }
}

/// Whether a value is a virtual address in a kernel's image.
fn is_address(value: u64) -> bool {
    value.wrapping_sub(START_KERNEL_MAP) < KERNEL_IMAGE_SIZE
}

/// The list that ends at `end`: its first byte and its end. A zero stands before it.
fn list(file: &[u8], end: usize) -> Result<(usize, usize), &'static str> {
    let bytes = file.get(..end).unwrap_or_default();
    let numbers = bytes.as_rchunks::<4>().1;
    let count = numbers.iter().rev().take_while(|number| **number != [0; 4]).count();
    if count == numbers.len() {
        return Err("the table has no beginning");
    }
    Ok((end.saturating_sub(count.saturating_mul(4)), end))
}
