//! The table by which a process tells what is to run in it first after a failover (liborthros, `active-hooks/lib`).
//!
//! It is no part of the region: it lies in the process's own memory, at the start of a private mapping of a memfd whose
//! name is [`MEMFD`], and survives with that memory. The library writes it, the restore agent reads it while the process
//! does not run, and answers in it. A private mapping is the process's own after a fork; a memfd has its name on every
//! kernel, where names of anonymous memory are a matter of configuration.
//!
//! To the agent the table is an allegation of the process: [`Table::parse`] checks what it will use.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the memfd.
pub const MEMFD: &str = "orthros";
/// The same as `/proc/PID/maps` shows it.
pub const MAPPING: &str = "/memfd:orthros";
/// First word of a table.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ORTHLIB\0");
/// Version of everything here. A reader accepts this one only.
pub const VERSION: u32 = 1;
/// Hooks in a table.
pub const HOOKS: usize = 64;
/// Bytes of the memory that belongs to a table: the table's page, a page that nobody may touch, the stack.
pub const SIZE: u64 = STACK + STACK_SIZE;
/// Offset of the stack.
pub const STACK: u64 = 0x2000;
/// Bytes of the stack.
pub const STACK_SIZE: u64 = 0x2_0000;
/// The least stack the agent accepts: the largest frame of a signal on x86_64 is some 11 KB (with AMX).
pub const LEAST_STACK: u64 = 0x4000;
/// How long handler and hooks of a process may take together, in milliseconds, unless it says otherwise.
pub const DEADLINE_MS: u64 = 5_000;
/// The longest that a process may ask for.
pub const LONGEST_DEADLINE_MS: u64 = 30_000;
/// Bytes of the name of a kernel's release, the NUL at its end included.
pub const RELEASE_SIZE: usize = 72;

/// Whose turn it is; [`Table::turn`].
pub mod turn {
    /// Nobody's: nothing runs on the table's stack.
    pub const NONE: u64 = 0;
    /// The handler.
    pub const HANDLER: u64 = 1;
    /// The hook in [`super::Table::hook`].
    pub const HOOK: u64 = 2;
}

/// How a call goes on, unless a hook says otherwise; [`Call::planned`].
pub mod planned {
    /// It is made again from the start. That is exact.
    pub const RETRY: u32 = 0;
    /// It goes on with the time that is left. That is exact.
    pub const CONTINUE: u32 = 1;
    /// It ends with [`super::Call::result`].
    pub const RESULT: u32 = 2;
    /// It cannot be told whether it has had its effect. Unless the hook decides, the process is lost.
    pub const UNKNOWN: u32 = 3;
}

/// What a hook says; [`Table::answer`].
pub mod answer {
    /// As planned.
    pub const PLANNED: u64 = 0;
    /// Make the call again.
    pub const RETRY: u64 = 1;
    /// End it with a result.
    pub const RESULT: u64 = 2;
}

/// A failover, as the handler sees it. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Failover {
    /// Bytes of this structure.
    pub size: u32,
    /// Why it took place: [`crate::control::Cause`].
    pub cause: u32,
    /// Failovers since the machine was started, this one included.
    pub count: u64,
    /// CLOCK_MONOTONIC at the last instant of the old kernel.
    pub monotonic_before: u64,
    /// CLOCK_MONOTONIC when this was written.
    pub monotonic_after: u64,
    /// CLOCK_REALTIME at the last instant of the old kernel.
    pub realtime_before: i64,
    /// CLOCK_REALTIME when this was written.
    pub realtime_after: i64,
    /// Release of the old kernel (`uname -r`), NUL-terminated.
    pub release_before: [u8; RELEASE_SIZE],
    /// Release of the new kernel, NUL-terminated.
    pub release_after: [u8; RELEASE_SIZE],
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            size: size_of::<Self>() as u32,
            cause: 0,
            count: 0,
            monotonic_before: 0,
            monotonic_after: 0,
            realtime_before: 0,
            realtime_after: 0,
            release_before: [0; RELEASE_SIZE],
            release_after: [0; RELEASE_SIZE],
        }
    }
}

impl Failover {
    /// A release for this structure, cut where it is too long.
    pub fn release(text: &str) -> [u8; RELEASE_SIZE] {
        let mut bytes = [0; RELEASE_SIZE];
        let room = bytes.split_last_mut().map_or(&mut [][..], |(_, room)| room);
        for (slot, byte) in room.iter_mut().zip(text.bytes()) {
            *slot = byte;
        }
        bytes
    }
}

/// An interrupted system call, as a hook sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Call {
    /// Bytes of this structure.
    pub size: u32,
    /// Number of the call.
    pub number: u32,
    /// Its thread.
    pub tid: u32,
    /// How it goes on otherwise: one of [`planned`].
    pub planned: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// The result that is planned, an error as the kernel returns it (−EINTR), else 0.
    pub result: i64,
    /// Nanoseconds left of its time-out, `u64::MAX` if it has none or nothing is known of it.
    pub left: u64,
    /// Address of its `syscall` instruction.
    pub at: u64,
}

/// A hook. A slot is free while its function is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hook {
    /// Number of the system call.
    pub number: u64,
    /// Address of the function.
    pub function: u64,
    /// What it is given.
    pub argument: u64,
}

/// The table. The library writes each word whole, in an order in which every instant makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Table {
    // Written by the library.
    /// [`MAGIC`], written last.
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Bytes of this structure.
    pub size: u32,
    /// Process that registered. A child has its parent's table without knowing of it: for it nothing is registered.
    pub pid: u64,
    /// First address of the stack on which handler and hooks run.
    pub stack_start: u64,
    /// First address after it, a multiple of 64.
    pub stack_end: u64,
    /// Entered like the handler of a signal, on that stack.
    pub dispatcher: u64,
    /// Where it returns to: `rt_sigreturn`.
    pub restorer: u64,
    /// Milliseconds that handler and hooks may take together, 0 for [`DEADLINE_MS`].
    pub deadline_ms: u64,
    /// Address of the handler, 0 if there is none.
    pub handler: u64,
    /// What it is given.
    pub handler_argument: u64,

    // Written by the agent.
    /// One of [`turn`]; the dispatcher makes it [`turn::NONE`] at its end.
    pub turn: u64,
    /// Address of the frame that the dispatcher returns through.
    pub frame: u64,
    /// The hook whose turn it is: its function and its argument.
    pub hook: [u64; 2],
    /// What it said, one of [`answer`]; written by the dispatcher.
    pub answer: u64,
    /// The call that it is asked about.
    pub call: Call,
    /// The failover.
    pub failover: Failover,

    // Written by the library.
    /// The hooks.
    pub hooks: [Hook; HOOKS],
}

const _: () = assert!(size_of::<Table>() <= crate::PAGE_SIZE as usize);

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Too short, or not one.
    NotATable,
    /// Another version.
    Version(u32),
    /// Its stack is too small, not aligned, or not memory of the process alone that can be written.
    Stack(u64, u64),
    /// Something to be run is not at an address with code.
    NotCode(&'static str, u64),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATable => write!(f, "its table is damaged"),
            Self::Version(version) => write!(f, "its table has version {version}, expected {VERSION}"),
            Self::Stack(start, end) => write!(f, "its stack {start:#x}-{end:#x} is not one"),
            Self::NotCode(what, at) => write!(f, "its {what} at {at:#x} is not code"),
        }
    }
}

/// What a table is compared with.
pub trait Memory {
    /// Whether there is code at an address.
    fn is_code(&self, at: u64) -> bool;

    /// Whether all of a range can be read and written and belongs to the process alone.
    fn is_own(&self, start: u64, end: u64) -> bool;
}

impl Table {
    /// The table in `bytes`, if it is one of process `pid` and says that something is to be run. Everything that its
    /// reader will jump to, or write to, is checked.
    ///
    /// # Errors
    /// [`Flaw`].
    pub fn parse(bytes: &[u8], pid: u32, memory: &impl Memory) -> Result<Option<Self>, Flaw> {
        let (table, _) = Self::read_from_prefix(bytes).map_err(|_| Flaw::NotATable)?;
        // Memory that was only just mapped.
        if table.magic == 0 {
            return Ok(None);
        }
        if table.magic != MAGIC {
            return Err(Flaw::NotATable);
        }
        if table.version != VERSION {
            return Err(Flaw::Version(table.version));
        }
        if table.size as usize != size_of::<Self>() {
            return Err(Flaw::NotATable);
        }
        if table.pid != u64::from(pid) || !table.asks_for_something() {
            return Ok(None);
        }
        let (start, end) = (table.stack_start, table.stack_end);
        let sound = end.is_multiple_of(64) && end.checked_sub(start).is_some_and(|size| size >= LEAST_STACK);
        if !sound || !memory.is_own(start, end) {
            return Err(Flaw::Stack(start, end));
        }
        let hooks = table.registered().map(|hook| ("hook", hook.function));
        let fixed = [("dispatcher", table.dispatcher), ("restorer", table.restorer)];
        let handler = (table.handler != 0).then_some(("handler", table.handler));
        let wrong = fixed
            .into_iter()
            .chain(handler)
            .chain(hooks)
            .find(|&(_, at)| !memory.is_code(at));
        match wrong {
            Some((what, at)) => Err(Flaw::NotCode(what, at)),
            None => Ok(Some(table)),
        }
    }

    fn asks_for_something(&self) -> bool {
        self.handler != 0 || self.registered().next().is_some()
    }

    /// The slots in use.
    pub fn registered(&self) -> impl Iterator<Item = Hook> + '_ {
        self.hooks.iter().copied().filter(|hook| hook.function != 0)
    }

    /// The hook for a call.
    pub fn hook_for(&self, number: u32) -> Option<Hook> {
        self.registered().find(|hook| hook.number == u64::from(number))
    }

    /// How long handler and hooks may take together, in milliseconds.
    pub fn deadline(&self) -> u64 {
        match self.deadline_ms {
            0 => DEADLINE_MS,
            ms => ms.min(LONGEST_DEADLINE_MS),
        }
    }

    /// Whether an address is on the stack; the address after it is, because that is where an empty one begins.
    pub fn on_stack(&self, at: u64) -> bool {
        (self.stack_start..=self.stack_end).contains(&at)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            size: size_of::<Self>() as u32,
            pid: 0,
            stack_start: 0,
            stack_end: 0,
            dispatcher: 0,
            restorer: 0,
            deadline_ms: 0,
            handler: 0,
            handler_argument: 0,
            turn: turn::NONE,
            frame: 0,
            hook: [0; 2],
            answer: answer::PLANNED,
            call: Call::default(),
            failover: Failover::default(),
            hooks: [Hook::default(); HOOKS],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Code below 64 KB, own memory above it up to 1 MB.
    struct Small;

    impl Memory for Small {
        fn is_code(&self, at: u64) -> bool {
            (0x1000..0x1_0000).contains(&at)
        }

        fn is_own(&self, start: u64, end: u64) -> bool {
            start >= 0x1_0000 && end <= 0x10_0000
        }
    }

    fn sound() -> Table {
        let mut table = Table {
            pid: 7,
            stack_start: 0x2_0000,
            stack_end: 0x3_0000,
            dispatcher: 0x1000,
            restorer: 0x2000,
            handler: 0x3000,
            ..Table::default()
        };
        table.hooks[5] = Hook {
            number: 35,
            function: 0x4000,
            argument: 1,
        };
        table
    }

    fn parse(table: &Table, pid: u32) -> Result<Option<Table>, Flaw> {
        Table::parse(table.as_bytes(), pid, &Small)
    }

    #[test]
    fn a_sound_table_is_taken_whole() {
        let table = parse(&sound(), 7).unwrap().unwrap();
        assert_eq!(table, sound());
        assert_eq!(table.hook_for(35).unwrap().function, 0x4000);
        assert_eq!(table.hook_for(0), None, "a free slot has number 0");
        assert_eq!(table.deadline(), DEADLINE_MS);
    }

    #[test]
    fn a_child_has_nothing_registered() {
        assert_eq!(parse(&sound(), 8), Ok(None));
    }

    #[test]
    fn a_table_without_handler_and_hooks_is_none() {
        let mut table = sound();
        table.handler = 0;
        assert!(parse(&table, 7).unwrap().is_some());
        table.hooks[5].function = 0;
        assert_eq!(parse(&table, 7), Ok(None));
        assert_eq!(Table::parse(&[0; 4096], 7, &Small), Ok(None));
    }

    #[test]
    fn hostile_tables_are_refused_by_name() {
        let wrong = |change: &dyn Fn(&mut Table)| {
            let mut table = sound();
            change(&mut table);
            parse(&table, 7).unwrap_err()
        };
        assert_eq!(wrong(&|table| table.magic ^= 1), Flaw::NotATable);
        assert_eq!(wrong(&|table| table.version = 2), Flaw::Version(2));
        assert_eq!(wrong(&|table| table.size -= 8), Flaw::NotATable);
        assert_eq!(wrong(&|table| table.dispatcher = 0), Flaw::NotCode("dispatcher", 0));
        assert_eq!(
            wrong(&|table| table.restorer = 0x2_0000),
            Flaw::NotCode("restorer", 0x2_0000)
        );
        assert_eq!(
            wrong(&|table| table.handler = u64::MAX),
            Flaw::NotCode("handler", u64::MAX)
        );
        assert_eq!(wrong(&|table| table.hooks[5].function = 1), Flaw::NotCode("hook", 1));
        for (start, end) in [
            (0x2_0000, 0x2_0000 + LEAST_STACK - 64),
            (0x2_0000, 0x3_0008),
            (0x3_0000, 0x2_0000),
            (0, 0x3_0000),
            (0x2_0000, u64::MAX - 63),
            (u64::MAX - 63, 0),
        ] {
            let flaw = wrong(&|table| (table.stack_start, table.stack_end) = (start, end));
            assert_eq!(flaw, Flaw::Stack(start, end));
        }
        let whole = sound();
        let short = &whole.as_bytes()[..size_of::<Table>() - 1];
        assert_eq!(Table::parse(short, 7, &Small), Err(Flaw::NotATable));
    }

    #[test]
    fn a_deadline_has_a_bound() {
        let mut table = sound();
        table.deadline_ms = u64::MAX;
        assert_eq!(table.deadline(), LONGEST_DEADLINE_MS);
    }

    #[test]
    fn a_release_that_is_too_long_is_cut() {
        let long = "6".repeat(100);
        let release = Failover::release(&long);
        assert_eq!(release[RELEASE_SIZE - 2..], *b"6\0");
        assert_eq!(Failover::release("6.1")[..4], *b"6.1\0");
    }

    proptest! {
        /// Whatever is accepted is safe to use.
        #[test]
        fn words_at_random_never_pass_what_is_not_checked(
            changes in proptest::collection::vec((0..size_of::<Table>() / 8, any::<u64>()), 1..8),
            small in proptest::collection::vec((2..12usize, 0..0x20_0000u64), 0..4),
        ) {
            let mut bytes = sound().as_bytes().to_vec();
            for (word, value) in changes.into_iter().chain(small) {
                bytes[8 * word..8 * word + 8].copy_from_slice(&value.to_le_bytes());
            }
            if let Ok(Some(table)) = Table::parse(&bytes, 7, &Small) {
                prop_assert!(Small.is_code(table.dispatcher) && Small.is_code(table.restorer));
                prop_assert!(table.handler == 0 || Small.is_code(table.handler));
                prop_assert!(table.registered().all(|hook| Small.is_code(hook.function)));
                prop_assert!(Small.is_own(table.stack_start, table.stack_end));
                prop_assert!(table.stack_end - table.stack_start >= LEAST_STACK);
                prop_assert!(table.deadline() <= LONGEST_DEADLINE_MS);
            }
        }

        #[test]
        fn bytes_at_random_are_never_a_table(bytes in proptest::collection::vec(any::<u8>(), 0..8192)) {
            prop_assert!(!matches!(Table::parse(&bytes, 7, &Small), Ok(Some(_))));
        }
    }
}
