//! System calls put together and run in a tracee, one stop for many.

use super::{arena::Arena, tracee::Tracee, Refusal, Restored};
use std::io;

/// An argument of an injected call.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A number or an address in the tracee.
    Value(u64),
    /// Bytes that the call finds by their address.
    Bytes(&'a [u8]),
    /// Bytes with the address of further bytes in them.
    Linked {
        /// The bytes.
        outer: &'a [u8],
        /// Offset in `outer` of the 64-bit address to fill in.
        at: usize,
        /// What it is the address of.
        inner: &'a [u8],
    },
}

impl Arg<'_> {
    fn size(&self) -> usize {
        match self {
            Self::Value(_) => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Linked { outer, inner, .. } => outer.len() + inner.len() + 16,
        }
    }

    fn place(&self, arena: &mut Arena) -> u64 {
        match self {
            Self::Value(value) => *value,
            Self::Bytes(bytes) => arena.put(bytes),
            Self::Linked { outer, at, inner } => {
                let address = arena.put(inner);
                let mut outer = outer.to_vec();
                outer[*at..at + 8].copy_from_slice(&address.to_le_bytes());
                arena.put(&outer)
            }
        }
    }
}

impl From<u64> for Arg<'_> {
    fn from(value: u64) -> Self {
        Self::Value(value)
    }
}

impl From<u32> for Arg<'_> {
    fn from(value: u32) -> Self {
        Self::Value(value.into())
    }
}

impl From<i32> for Arg<'_> {
    fn from(value: i32) -> Self {
        Self::Value(i64::from(value) as u64)
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

/// What a call must return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No error.
    Success,
    /// Exactly this.
    Value(u64),
    /// Anything.
    Any,
}

/// Calls on their way into a tracee. They run when the arena is full, and at [`Batch::finish`].
pub struct Batch<'a> {
    arena: &'a mut Arena,
    tracee: &'a Tracee,
    pending: Vec<(String, Expect)>,
}

impl<'a> Batch<'a> {
    /// An empty batch for a tracee.
    pub fn new(arena: &'a mut Arena, tracee: &'a Tracee) -> Self {
        arena.clear();
        Self {
            arena,
            tracee,
            pending: Vec::new(),
        }
    }

    /// Appends a call that must succeed. `what` names the object for a refusal.
    pub fn call<const N: usize>(
        &mut self,
        what: impl Into<String>,
        number: libc::c_long,
        arguments: [Arg<'_>; N],
    ) -> Restored<()> {
        self.expect(what, number, arguments, Expect::Success)
    }

    /// Appends a call.
    pub fn expect<const N: usize>(
        &mut self,
        what: impl Into<String>,
        number: libc::c_long,
        arguments: [Arg<'_>; N],
        expect: Expect,
    ) -> Restored<()> {
        let what = what.into();
        let bytes: usize = arguments.iter().map(Arg::size).sum();
        if !self.arena.has_room(bytes, N) {
            self.flush()?;
            if !self.arena.has_room(bytes, N) {
                return Err(Refusal::new(what, format!("{bytes} bytes of arguments are too many")));
            }
        }
        let mut call = [0; 8];
        call[0] = number as u64;
        for (slot, argument) in call[1..7].iter_mut().zip(arguments) {
            *slot = argument.place(self.arena);
        }
        self.arena.push(call);
        self.pending.push((what, expect));
        Ok(())
    }

    fn flush(&mut self) -> Restored<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.tracee.run(self.arena)?;
        for (index, (what, expect)) in self.pending.drain(..).enumerate() {
            let result = self.arena.result(index);
            match expect {
                Expect::Any => {}
                _ if (-4095..0).contains(&result) => {
                    return Err(Refusal::new(what, io::Error::from_raw_os_error(-result as i32)));
                }
                Expect::Value(wanted) if result as u64 != wanted => {
                    return Err(Refusal::new(
                        what,
                        format!("the kernel gave {result:#x}, not {wanted:#x}"),
                    ));
                }
                _ => {}
            }
        }
        self.arena.clear();
        Ok(())
    }

    /// Runs what is left.
    pub fn finish(mut self) -> Restored<()> {
        self.flush()
    }
}

/// Runs one call with one block of data that it fills in, and returns its result and the data.
pub fn query(
    arena: &mut Arena,
    tracee: &Tracee,
    number: libc::c_long,
    arguments: impl FnOnce(u64) -> [u64; 6],
    data: &[u8],
) -> Restored<(i64, Vec<u8>)> {
    arena.clear();
    let address = arena.put(data);
    let mut call = [0; 8];
    call[0] = number as u64;
    call[1..7].copy_from_slice(&arguments(address));
    arena.push(call);
    tracee.run(arena)?;
    Ok((arena.result(0), arena.read(address, data.len())))
}
