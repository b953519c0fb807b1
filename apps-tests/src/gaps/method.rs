//! The ways of replacing a kernel that are compared.

use std::fmt;

/// A way of replacing a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Method {
    /// Stop the service, reboot through firmware and GRUB; init starts the service again.
    Reboot,
    /// Stop the service, kexec; init starts it again.
    Kexec,
    /// Dump the service with CRIU, kexec, restore it with CRIU.
    Criu,
    /// The kernel panics; a capture kernel writes the dump and reboots; init starts the service again.
    Kdump,
    /// The kernel panics; Orthros starts its successor cold.
    PanicCold,
    /// The kernel panics; Orthros wakes its standby.
    PanicStandby,
    /// `orthros-ctl update` with a successor that starts cold.
    UpdateCold,
    /// `orthros-ctl update` to the standby.
    UpdateStandby,
}

impl Method {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Kdump,
        Self::PanicCold,
        Self::PanicStandby,
        Self::Reboot,
        Self::Kexec,
        Self::Criu,
        Self::UpdateCold,
        Self::UpdateStandby,
    ];

    /// One word, for file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::Kexec => "kexec",
            Self::Criu => "criu",
            Self::Kdump => "kdump",
            Self::PanicCold => "panic-cold",
            Self::PanicStandby => "panic-standby",
            Self::UpdateCold => "update-cold",
            Self::UpdateStandby => "update-standby",
        }
    }

    /// Whether the kernel dies of a panic; else the change is planned.
    #[must_use]
    pub const fn panics(self) -> bool {
        matches!(self, Self::Kdump | Self::PanicCold | Self::PanicStandby)
    }

    /// Whether it is done without Orthros.
    #[must_use]
    pub const fn stock(self) -> bool {
        matches!(self, Self::Reboot | Self::Kexec | Self::Criu | Self::Kdump)
    }

    /// Whether the successor sleeps beforehand.
    #[must_use]
    pub const fn standby(self) -> bool {
        matches!(self, Self::PanicStandby | Self::UpdateStandby)
    }

    /// Words for the kernel's command line. Where the loader is not there to pass it, the check whether the timer ticks is
    /// left out as well: a kernel that the host has no time for finds that it does not, and dies.
    #[must_use]
    pub const fn kernel_parameters(self) -> &'static str {
        match self {
            Self::Kdump => "no_timer_check crashkernel=256M",
            _ if self.stock() => "no_timer_check",
            _ => "",
        }
    }

    /// Commands in the guest before each event, outside of the gap.
    #[must_use]
    pub const fn beforehand(self) -> &'static [&'static str] {
        match self {
            Self::Kexec | Self::Criu => &["/etc/orthros-tests/service load-kexec"],
            Self::Kdump => &["/etc/orthros-tests/service load-kdump"],
            _ => &[],
        }
    }

    /// The command in the guest that brings the event about.
    #[must_use]
    pub const fn command(self) -> &'static str {
        match self {
            Self::Reboot => "/etc/orthros-tests/service stop; /usr/lib/orthros-tests/busybox reboot -f",
            Self::Kexec => "/etc/orthros-tests/service stop; kexec --exec",
            Self::Criu => "/etc/orthros-tests/service dump && kexec --exec",
            Self::Kdump | Self::PanicCold | Self::PanicStandby => "echo c >/proc/sysrq-trigger",
            Self::UpdateCold | Self::UpdateStandby => "orthros-ctl update --yes",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reboot => "reboot through GRUB, service started again",
            Self::Kexec => "kexec, service started again",
            Self::Criu => "CRIU dump, kexec, CRIU restore",
            Self::Kdump => "kdump, reboot, service started again",
            Self::PanicCold => "Orthros, panic, cold successor",
            Self::PanicStandby => "Orthros, panic, standby",
            Self::UpdateCold => "Orthros, update, cold successor",
            Self::UpdateStandby => "Orthros, update, standby",
        })
    }
}
