//! What is done differently while everybody waits for this kernel.

use super::grace::Expedited;
use crate::boot::quiet::Quiet;

/// Grace periods are short and the console is quiet.
#[derive(Debug)]
pub struct Haste {
    quiet: Option<Quiet>,
    expedited: Option<Expedited>,
}

impl Haste {
    /// From now on.
    pub fn begin() -> Self {
        Self {
            quiet: Some(Quiet::begin()),
            expedited: Expedited::begin(),
        }
    }

    /// Lets the console speak again.
    pub fn speak(&mut self) {
        self.quiet = None;
    }

    /// Everything is as it was.
    pub fn end(&mut self) {
        self.speak();
        if let Some(expedited) = self.expedited.take() {
            expedited.end();
        }
    }
}
