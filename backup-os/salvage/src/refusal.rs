//! Why an object, and with it a process, is not saved.

use crate::error::{ReadError, WalkError};
use alloc::string::{String, ToString};
use core::fmt;
use shared_region::context::Lost;
use shared_region::reasons::{self, Reason};
use shared_region::record::RecordError;

/// A refusal: an entry of the table of reasons, the object it is about, and what exactly was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of thing is in the way.
    pub reason: Reason,
    /// The object, `fd 5` or `mapping 0x7f00…`; empty for the process as a whole.
    pub object: String,
    /// Detail for the administrator; may be empty.
    pub detail: String,
}

/// What collectors return.
pub type Result<T> = core::result::Result<T, Refusal>;

impl Refusal {
    /// A refusal without an object.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            object: String::new(),
            detail: detail.into(),
        }
    }

    /// Names the object, unless one is named already.
    #[must_use]
    pub fn of(self, object: impl FnOnce() -> String) -> Self {
        if self.object.is_empty() {
            Self {
                object: object(),
                ..self
            }
        } else {
            self
        }
    }

    /// The record of something of the machine that it costs, and no process: the object is part of it.
    pub fn lost_of(&self, whole: String) -> Lost {
        let object = match self.object.as_str() {
            "" => whole,
            object => alloc::format!("{whole}, {object}"),
        };
        Lost {
            object,
            reason: self.to_string(),
            ..Lost::default()
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.text)?;
        if self.detail.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.detail)
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        Self::new(reasons::UNREADABLE, error.to_string())
    }
}

impl From<WalkError> for Refusal {
    fn from(error: WalkError) -> Self {
        Self::new(reasons::UNREADABLE, error.to_string())
    }
}

impl From<RecordError> for Refusal {
    fn from(_: RecordError) -> Self {
        Self::new(reasons::NO_ROOM, String::new())
    }
}
