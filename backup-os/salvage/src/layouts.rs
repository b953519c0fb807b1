//! Gathers the mirrors of the kernel's subsystems; each stands in its subsystem's file.

use crate::clock::{ClockSource, TimekeeperClocks, TkReadBase};
use crate::machine::{NewUtsname, PidNamespace, UtsNamespace};

crate::mirror_set! {
    /// Where the members of the structures lie that make up processes and files.
    pub struct Layouts {
        /// `struct tk_read_base`.
        tk_read_base: TkReadBase,
        /// `struct timekeeper`.
        timekeeper: TimekeeperClocks,
        /// `struct clocksource`.
        clocksource: ClockSource,
        /// `struct new_utsname`.
        new_utsname: NewUtsname,
        /// `struct uts_namespace`.
        uts_namespace: UtsNamespace,
        /// `struct pid_namespace`.
        pid_namespace: PidNamespace,
    }
}
