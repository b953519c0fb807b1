//! The kernel's containers. Each walk is an iterator of `Result`s that checks every link it follows and stops at a bound.
//!
//! An error does not always end the walk: what lies on the far side of a broken link is still visited where a
//! container allows it, so that one bad object does not take others with it.

pub mod hlist;
pub mod list;
pub mod maple;
pub mod rbtree;
pub mod xarray;

#[cfg(test)]
mod tests;

/// Elements a walk yields at most, unless it is told otherwise. Checked links make cycles impossible in most containers;
/// this bounds the rest.
pub const DEFAULT_BOUND: u64 = 1 << 24;
