//! The table in this process's memory ([`shared_region::library`]).
//!
//! The kernel can die between any two instructions here, and the table is then read as it stands. So each word is
//! written whole and in an order in which every instant makes sense.

use crate::{dispatch, Error};
use core::ffi::c_int;
use shared_region::library::{turn, Hook, Table, HOOKS, MAGIC, MEMFD, SIZE, STACK, STACK_SIZE, VERSION};
use std::{
    mem::offset_of,
    ptr::NonNull,
    sync::{
        atomic::{AtomicPtr, AtomicU64, Ordering},
        Mutex, PoisonError,
    },
};

/// The table of this process, or one inherited from its parent; null before anything was registered.
static TABLE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
/// Held while the table is changed.
static CHANGE: Mutex<()> = Mutex::new(());

/// A mapped table.
#[derive(Clone, Copy)]
pub struct Mapped(NonNull<u8>);

/// Changes the table of this process, made if there is none.
pub fn with(change: impl FnOnce(Mapped) -> Result<(), Error>) -> Result<(), Error> {
    // Before the lock: another thread may hold it, which does not run now.
    if current().is_some_and(|table| table.is_own() && table.word(offset_of!(Table, turn)) != turn::NONE) {
        return Err(Error::Running);
    }
    let _change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    let table = match current() {
        Some(table) => table,
        None => {
            let table = map()?;
            TABLE.store(table.0.as_ptr(), Ordering::Release);
            table
        }
    };
    if !table.is_own() {
        table.begin();
    }
    change(table)
}

/// The table, whosever it is.
pub fn current() -> Option<Mapped> {
    NonNull::new(TABLE.load(Ordering::Acquire)).map(Mapped)
}

fn own_id() -> u64 {
    u64::from(std::process::id())
}

impl Mapped {
    /// A word of the table, by its offset in [`Table`].
    fn at(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset < size_of::<Table>());
        // SAFETY: (1) the offset is that of a 64-bit word of the table; (2) the table was mapped by `map`, aligned to a
        // page, and is never unmapped; (3) all access to its words is atomic, but for structures that only the agent
        // writes, while this process does not run.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(offset).cast()) }
    }

    /// Reads a word.
    pub fn word(&self, offset: usize) -> u64 {
        self.at(offset).load(Ordering::Acquire)
    }

    /// Writes a word.
    pub fn set(&self, offset: usize, value: u64) {
        self.at(offset).store(value, Ordering::Release);
    }

    /// The address of a structure in the table.
    pub fn address<T>(&self, offset: usize) -> *mut T {
        self.0.as_ptr().wrapping_add(offset).cast()
    }

    /// Whether it is this process's and not a parent's.
    fn is_own(&self) -> bool {
        self.word(offset_of!(Table, magic)) == MAGIC && self.word(offset_of!(Table, pid)) == own_id()
    }

    /// Makes it an empty table of this process.
    fn begin(&self) {
        self.set(offset_of!(Table, magic), 0);
        for offset in (8..size_of::<Table>()).step_by(8) {
            self.set(offset, 0);
        }
        let stack = self.0.as_ptr() as u64 + STACK;
        let version_and_size = u64::from(VERSION) | (size_of::<Table>() as u64) << 32;
        self.set(offset_of!(Table, version), version_and_size);
        self.set(offset_of!(Table, stack_start), stack);
        self.set(offset_of!(Table, stack_end), stack + STACK_SIZE);
        self.set(offset_of!(Table, dispatcher), dispatch::dispatcher());
        self.set(offset_of!(Table, restorer), dispatch::restorer());
        self.set(offset_of!(Table, pid), own_id());
        self.set(offset_of!(Table, magic), MAGIC);
    }

    /// Sets function and argument that belong together: there is none while they do not.
    fn set_pair(&self, function: (usize, u64), argument: (usize, u64)) {
        self.set(function.0, 0);
        self.set(argument.0, argument.1);
        self.set(function.0, function.1);
    }

    /// Sets the handler, 0 for none.
    pub fn set_handler(&self, function: u64, argument: u64) {
        self.set_pair(
            (offset_of!(Table, handler), function),
            (offset_of!(Table, handler_argument), argument),
        );
    }

    /// Sets the deadline in milliseconds.
    pub fn set_deadline(&self, milliseconds: u64) {
        self.set(offset_of!(Table, deadline_ms), milliseconds);
    }

    /// Sets the hook for a call, 0 for none.
    pub fn set_hook(&self, number: u32, function: u64, argument: u64) -> Result<(), Error> {
        let place = |slot: usize| offset_of!(Table, hooks) + slot * size_of::<Hook>();
        let number_of = |slot| self.word(place(slot) + offset_of!(Hook, number));
        let is_free = |slot: &usize| self.word(place(*slot) + offset_of!(Hook, function)) == 0;
        let taken = (0..HOOKS).find(|slot| !is_free(slot) && number_of(*slot) == u64::from(number));
        let slot = match taken {
            Some(slot) => slot,
            None if function == 0 => return Ok(()),
            None => (0..HOOKS).find(is_free).ok_or(Error::Full)?,
        };
        let at = place(slot);
        self.set(at + offset_of!(Hook, function), 0);
        self.set(at + offset_of!(Hook, number), u64::from(number));
        self.set_pair(
            (at + offset_of!(Hook, function), function),
            (at + offset_of!(Hook, argument), argument),
        );
        Ok(())
    }
}

/// `MFD_EXEC` (include/uapi/linux/memfd.h, since Linux 6.3): says what was meant all along, without a seal.
const MFD_EXEC: u32 = 0x10;
/// `MFD_NOEXEC_SEAL`: what a strict `vm.memfd_noexec` asks for.
const MFD_NOEXEC_SEAL: u32 = 0x8;

fn system_error() -> Error {
    Error::System(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn memfd() -> Result<c_int, Error> {
    let name = std::ffi::CString::new(MEMFD).map_err(|_| Error::Invalid)?;
    for flags in [MFD_EXEC, MFD_NOEXEC_SEAL, 0] {
        // SAFETY: the name is NUL-terminated and lives for the call.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd >= 0 {
            return Ok(fd);
        }
    }
    Err(system_error())
}

/// Maps memory for a table, a page that nobody may touch, and the stack.
fn map() -> Result<Mapped, Error> {
    let fd = memfd()?;
    // SAFETY: the descriptor is ours; a new mapping at an address of the kernel's choice disturbs no memory.
    let mapped = unsafe {
        if libc::ftruncate(fd, SIZE as libc::off_t) != 0 {
            Err(system_error())
        } else {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let base = libc::mmap(std::ptr::null_mut(), SIZE as usize, prot, libc::MAP_PRIVATE, fd, 0);
            if base == libc::MAP_FAILED {
                Err(system_error())
            } else {
                Ok(base)
            }
        }
    };
    // SAFETY: the descriptor is ours, and nobody else knows it.
    unsafe { libc::close(fd) };
    let base = mapped?;
    let guard = base.cast::<u8>().wrapping_add(0x1000);
    // SAFETY: (1) the page lies in the mapping made above; (2) nothing refers to it.
    if unsafe { libc::mprotect(guard.cast(), 0x1000, libc::PROT_NONE) } != 0 {
        let error = system_error();
        // SAFETY: the mapping was made above and nothing refers to it.
        unsafe { libc::munmap(base, SIZE as usize) };
        return Err(error);
    }
    NonNull::new(base.cast()).map(Mapped).ok_or(Error::System(libc::ENOMEM))
}
