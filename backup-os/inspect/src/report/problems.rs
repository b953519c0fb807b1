//! What in the image makes no sense.

use salvage::error::WalkError;
use serde::Serialize;
use std::io::{self, Write};

/// The list, in the order it was found.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

#[derive(Debug, Serialize)]
struct Problem {
    /// The section that was being read.
    section: &'static str,
    /// What was read, by the kernel's name.
    object: String,
    /// Where, if it is at one place.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// Why it was given up.
    reason: String,
}

impl Problems {
    /// Notes an object that could not be read.
    pub fn note(&mut self, section: &'static str, error: WalkError) {
        self.0.push(Problem {
            section,
            object: error.object.to_string(),
            address: Some(error.address.to_string()),
            reason: error.reason.to_string(),
        });
    }

    /// Notes something that has no address.
    pub fn note_text(&mut self, section: &'static str, object: &str, reason: String) {
        self.0.push(Problem {
            section,
            object: object.to_string(),
            address: None,
            reason,
        });
    }

    /// Takes a result's value, or notes why there is none.
    pub fn take<T>(&mut self, section: &'static str, result: Result<T, WalkError>) -> Option<T> {
        result.map_err(|error| self.note(section, error)).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nPROBLEMS ({})", self.0.len())?;
        for problem in &self.0 {
            let Problem {
                section,
                object,
                address,
                reason,
            } = problem;
            match address {
                Some(address) => writeln!(out, "  {section}: {object} at {address}: {reason}")?,
                None => writeln!(out, "  {section}: {object}: {reason}")?,
            }
        }
        Ok(())
    }
}
