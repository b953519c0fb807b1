//! The memory through which system calls are injected: a page of code and an array of calls, shared by the agent and
//! every process it builds.
//!
//! The arena is a memfd that the agent maps at an address that no process to be restored uses. Processes are forked
//! from the agent and from each other, so all of them have it at the same address, and what the agent writes they
//! read. One tracee runs in it at a time.

use super::{OrRefuse, Refusal, Restored};
use rustix::{
    fs::{ftruncate, memfd_create, MemfdFlags},
    mm::{mmap, munmap, MapFlags, ProtFlags},
};
use std::os::fd::OwnedFd;

/// A call as the code reads and answers it: number, six arguments, result.
pub type Call = [u64; 8];

/// Bytes of code.
const CODE_SIZE: usize = 0x1000;
/// Bytes of calls and of what they point to.
const DATA_SIZE: usize = 0x10_0000;
/// Bytes in all.
pub const SIZE: usize = CODE_SIZE + DATA_SIZE;

/// Calls go up from the start of the data, what they point to goes down from its end.
pub struct Arena {
    base: u64,
    calls: usize,
    top: usize,
}

// On entry RDI is the address of the first call and RSI their number, at least 1. The code uses no stack and touches
// nothing but the results; it ends in a breakpoint that the agent waits for.
std::arch::global_asm!(
    ".pushsection .rodata.orthros_inject, \"a\"",
    ".globl orthros_inject_start",
    "orthros_inject_start:",
    "mov r12, rdi",
    "mov r13, rsi",
    "2:",
    "mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "mov [r12 + 56], rax",
    "add r12, 64",
    "dec r13",
    "jnz 2b",
    "int3",
    ".globl orthros_inject_single",
    "orthros_inject_single:",
    "syscall",
    "int3",
    ".globl orthros_inject_end",
    "orthros_inject_end:",
    ".popsection",
);

extern "C" {
    static orthros_inject_start: u8;
    static orthros_inject_single: u8;
    static orthros_inject_end: u8;
}

fn code() -> (&'static [u8], u64) {
    // SAFETY: (1) the three symbols are labels of one read-only section, in this order; (2) the bytes between them
    // are initialised and live for the whole program.
    unsafe {
        let start = &raw const orthros_inject_start;
        let length = (&raw const orthros_inject_end).offset_from(start);
        let single = (&raw const orthros_inject_single).offset_from(start);
        (std::slice::from_raw_parts(start, length as usize), single as u64)
    }
}

impl Arena {
    /// Maps an arena at `base`, which must be free in this process.
    pub fn new(base: u64) -> Restored<Self> {
        let fd = memfd_create("orthros-arena", MemfdFlags::CLOEXEC).or_refuse(|| "arena")?;
        ftruncate(&fd, SIZE as u64).or_refuse(|| "arena")?;
        let (code, _) = code();
        rustix::io::pwrite(&fd, code, 0).or_refuse(|| "arena")?;
        Self::map(&fd, base, CODE_SIZE, ProtFlags::READ | ProtFlags::EXEC, 0)?;
        let data = base + CODE_SIZE as u64;
        if let Err(error) = Self::map(
            &fd,
            data,
            DATA_SIZE,
            ProtFlags::READ | ProtFlags::WRITE,
            CODE_SIZE as u64,
        ) {
            // SAFETY: the code was mapped by the call above and nothing refers to it.
            let _ = unsafe { munmap(base as *mut _, CODE_SIZE) };
            return Err(error);
        }
        Ok(Self {
            base,
            calls: 0,
            top: DATA_SIZE,
        })
    }

    fn map(fd: &OwnedFd, address: u64, length: usize, prot: ProtFlags, offset: u64) -> Restored<()> {
        let flags = MapFlags::SHARED | MapFlags::FIXED_NOREPLACE;
        // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping, so no memory in use changes.
        let mapped = unsafe { mmap(address as *mut _, length, prot, flags, fd, offset) }.or_refuse(|| "arena")?;
        if mapped as u64 == address {
            return Ok(());
        }
        // SAFETY: just mapped elsewhere, by a kernel that takes the address as a hint; nothing refers to it.
        let _ = unsafe { munmap(mapped, length) };
        Err(Refusal::new("arena", "the kernel does not map at a fixed address"))
    }

    /// First address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// First address after it.
    pub fn end(&self) -> u64 {
        self.base + SIZE as u64
    }

    /// Address of the code that runs the calls.
    pub fn entry(&self) -> u64 {
        self.base
    }

    /// Address of a lone `syscall` instruction.
    pub fn single(&self) -> u64 {
        self.base + code().1
    }

    /// Address of the first call.
    pub fn first_call(&self) -> u64 {
        self.base + CODE_SIZE as u64
    }

    /// Calls put in since [`Self::clear`].
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Forgets all calls and data.
    pub fn clear(&mut self) {
        self.calls = 0;
        self.top = DATA_SIZE;
    }

    /// Whether another call with `bytes` of data fits. `pieces` of data lose up to 15 bytes each to alignment.
    pub fn has_room(&self, bytes: usize, pieces: usize) -> bool {
        let calls = (self.calls + 1) * size_of::<Call>();
        calls + bytes + 16 * pieces <= self.top
    }

    /// Puts in data, 16-byte aligned, and returns its address. There must be room.
    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        self.top = (self.top - bytes.len()) & !15;
        let at = self.top;
        self.data()[at..at + bytes.len()].copy_from_slice(bytes);
        self.first_call() + at as u64
    }

    /// Appends a call whose result is to be filled in. There must be room.
    pub fn push(&mut self, call: Call) {
        let at = self.calls * size_of::<Call>();
        for (word, bytes) in call.iter().zip(self.data()[at..].chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.calls += 1;
    }

    /// The result of call `index`.
    pub fn result(&mut self, index: usize) -> i64 {
        let at = index * size_of::<Call>() + 56;
        let mut word = [0; 8];
        word.copy_from_slice(&self.data()[at..at + 8]);
        i64::from_le_bytes(word)
    }

    /// Reads back data at an address that [`Self::put`] returned.
    pub fn read(&mut self, address: u64, length: usize) -> Vec<u8> {
        let at = (address - self.first_call()) as usize;
        self.data()[at..at + length].to_vec()
    }

    fn data(&mut self) -> &mut [u8] {
        // SAFETY: (1) the data was mapped readable and writable in `new` and stays so until `drop`; (2) the tracees
        // that share it are stopped whenever the agent runs, so nobody else writes while the slice lives; (3) the
        // borrow is tied to `self`, which is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.first_call() as *mut u8, DATA_SIZE) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`; slices into it have ended with the borrows of `self`.
        let _ = unsafe { munmap(self.base as *mut _, SIZE) };
    }
}
