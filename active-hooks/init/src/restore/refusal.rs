//! Why a process is not restored.

use std::fmt;

/// What could not be restored, and why. It costs the process it is found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The object: `fd 5`, `mapping 7f00…`, `thread 2001`.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// The result of a step of restoring.
pub type Restored<T> = Result<T, Refusal>;

impl Refusal {
    /// A refusal of `what` because of `why`.
    pub fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Refusal {}

/// Turns errors into refusals that name an object.
pub trait OrRefuse<T> {
    /// Names the object; it is only put together if there was an error.
    fn or_refuse<N: Into<String>>(self, what: impl FnOnce() -> N) -> Restored<T>;
}

impl<T, E: fmt::Display> OrRefuse<T> for Result<T, E> {
    fn or_refuse<N: Into<String>>(self, what: impl FnOnce() -> N) -> Restored<T> {
        self.map_err(|error| Refusal::new(what(), error))
    }
}
