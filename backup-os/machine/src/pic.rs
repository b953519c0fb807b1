//! The two 8259 interrupt controllers.

use crate::{port, Ring0};

/// Masks every line of both controllers.
pub fn mask_all(ring0: Ring0) {
    port::write(ring0, 0x21, 0xFFu8);
    port::write(ring0, 0xA1, 0xFFu8);
}
