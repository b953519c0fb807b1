//! What can be wrong with memory that is read, and with an object that is walked.

use crate::addr::{Kva, PhysAddr};
use core::fmt;

/// Physical memory that was asked for is not RAM, or not in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemError {
    /// First byte asked for.
    pub address: PhysAddr,
    /// Bytes asked for.
    pub len: usize,
}

/// Why something at an address is not what it is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The null pointer where there has to be an object.
    Null,
    /// The address is not canonical.
    NotCanonical,
    /// The page tables do not map the address.
    NotMapped,
    /// A page table or a page is said to lie where there is no RAM.
    NotRam(PhysAddr),
    /// The address is not aligned as the object has to be.
    Misaligned,
    /// A link back does not return to where the walk came from; it holds this instead.
    BackLink(Kva),
    /// There are more objects than the bound allows, or the walk runs in a circle.
    Bound(u64),
    /// A tree is deeper than any of its kind.
    TooDeep,
    /// A node has a type, level or count it cannot have.
    BadNode(&'static str),
    /// A value that cannot be.
    BadValue(&'static str, u64),
    /// A string has no NUL within so many bytes.
    NotTerminated(usize),
    /// A bounded table, list or text is longer than this reader takes.
    TooLarge(u64),
}

/// A read of kernel memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// Where.
    pub address: Kva,
    /// Why.
    pub reason: Reason,
}

/// An object could not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkError {
    /// What was walked, by the kernel's name: `"list_head"`, `"task_struct"`.
    pub object: &'static str,
    /// Where.
    pub address: Kva,
    /// Why.
    pub reason: Reason,
}

impl WalkError {
    /// An error about the object at `address`.
    pub const fn new(object: &'static str, address: Kva, reason: Reason) -> Self {
        Self {
            object,
            address,
            reason,
        }
    }
}

impl From<ReadError> for WalkError {
    fn from(error: ReadError) -> Self {
        Self {
            object: "memory",
            address: error.address,
            reason: error.reason,
        }
    }
}

/// Says which object a failed read was about.
pub trait About<T> {
    /// Turns a failed read into an error about `object`.
    ///
    /// # Errors
    /// The failed read, if it failed.
    fn about(self, object: &'static str) -> Result<T, WalkError>;
}

impl<T> About<T> for Result<T, ReadError> {
    fn about(self, object: &'static str) -> Result<T, WalkError> {
        self.map_err(|error| WalkError {
            object,
            address: error.address,
            reason: error.reason,
        })
    }
}

impl fmt::Display for MemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "physical memory {}, {} bytes: not RAM", self.address, self.len)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => write!(f, "null pointer"),
            Self::NotCanonical => write!(f, "not a canonical address"),
            Self::NotMapped => write!(f, "not mapped"),
            Self::NotRam(phys) => write!(f, "mapped to {phys}, which is not RAM"),
            Self::Misaligned => write!(f, "misaligned"),
            Self::BackLink(other) => write!(f, "its link back leads to {other}"),
            Self::Bound(bound) => write!(f, "more than {bound} elements, or a cycle"),
            Self::TooDeep => write!(f, "tree too deep"),
            Self::BadNode(what) => write!(f, "bad node: {what}"),
            Self::BadValue(what, value) => write!(f, "{what} cannot be {value:#x}"),
            Self::NotTerminated(len) => write!(f, "no end of string within {len} bytes"),
            Self::TooLarge(size) => write!(f, "size {size} is out of bounds"),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.reason)
    }
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.object, self.address, self.reason)
    }
}

impl core::error::Error for MemError {}
impl core::error::Error for ReadError {}
impl core::error::Error for WalkError {}
