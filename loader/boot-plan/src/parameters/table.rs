//! The parameters themselves.

use super::line::decimal;
use alloc::{format, string::String};
use shared_region::{header::Header, layout};

/// Which kernels get a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// Those of the first kernel.
    First,
    /// Those, and the ones a kernel needs that boots in a nursery and grows later.
    Successor,
}

/// What happens when the administrator gives the parameter too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Ours is added as well and, coming later, wins; the other is reported.
    Ours,
    /// Theirs stays, ours is not added.
    Theirs,
    /// Both stand: the parameter adds up.
    Both,
    /// The smaller number wins.
    Smaller,
}

/// The value of a parameter.
#[derive(Clone, Copy)]
enum Value {
    /// None: the name alone.
    Flag,
    Text(&'static str),
    Decimal(fn(&Facts) -> u64),
    Hex(fn(&Facts) -> u64),
}

/// A parameter.
#[derive(Clone, Copy)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    value: Value,
    /// Why it is given.
    pub reason: &'static str,
    /// Who gets it: every kernel, or only successors.
    pub addition: Addition,
    /// What the administrator can do about it.
    pub rule: Rule,
}

/// What the values depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// CPUs given to Linux.
    pub cpus: u64,
    /// Address of the region.
    pub region: u64,
    /// RAM that Linux has once all of it is added, in bytes.
    pub ram: u64,
}

impl Facts {
    /// The facts of a machine.
    pub fn of(header: &Header) -> Self {
        Self {
            cpus: header.cpu_count,
            region: header.base,
            ram: crate::memory_map::ram_bytes(header.ram()).saturating_sub(layout::REGION_SIZE + layout::NURSERY_SIZE),
        }
    }

    /// Buckets of a hash table as `alloc_large_system_hash` (mm/mm_init.c) sizes it: one for each 2^`scale` bytes, and
    /// for large machines one for each 4 times as many whenever RAM beyond 64 GB quadruples.
    fn buckets(&self, scale: u32, adaptive: bool) -> u64 {
        const ADAPT_BASE: u64 = 64 << 30;
        // The page structures themselves, 64 bytes a page, do not count.
        let memory = (self.ram - self.ram / 64).next_multiple_of(1 << 20);
        let mut scale = scale;
        let mut adapt = ADAPT_BASE;
        while adaptive && adapt < memory {
            scale += 1;
            adapt <<= 2;
        }
        (memory >> scale).max(512).next_power_of_two()
    }
}

/// Every parameter, in the order in which they are appended.
pub const PARAMETERS: [Parameter; 16] = [
    Parameter {
        name: "oops",
        value: Value::Text("panic"),
        reason: "an oops in a kernel thread would otherwise only kill the thread, and leave its locks held for ever",
        addition: Addition::First,
        rule: Rule::Ours,
    },
    Parameter {
        name: "panic",
        value: Value::Text("0"),
        reason: "a panicking kernel must not reset the machine: its memory is what is to be saved",
        addition: Addition::First,
        rule: Rule::Ours,
    },
    Parameter {
        name: "nr_cpus",
        value: Value::Decimal(|facts| facts.cpus),
        reason: "the reserved core is missing from the MADT, but some kernels would find it again in the DSDT and hot-add it",
        addition: Addition::First,
        rule: Rule::Smaller,
    },
    Parameter {
        name: "no_ipi_broadcast",
        value: Value::Text("1"),
        reason: "\"all but self\" interrupts would wake the reserved core hundreds of times a second",
        addition: Addition::First,
        rule: Rule::Ours,
    },
    Parameter {
        name: "reserve",
        value: Value::Text("0x2f8,8"),
        reason: "the second serial port is the backup OS's console",
        addition: Addition::First,
        rule: Rule::Both,
    },
    Parameter {
        name: "no_timer_check",
        value: Value::Flag,
        reason: "the check that timer interrupts arrive can fail on a machine that was not reset, and is a panic",
        addition: Addition::First,
        rule: Rule::Both,
    },
    Parameter {
        name: "memhp_default_state",
        value: Value::Text("online"),
        reason: "RAM added at a failover has to be usable at once",
        addition: Addition::First,
        rule: Rule::Ours,
    },
    Parameter {
        name: "orthros.region",
        value: Value::Hex(|facts| facts.region),
        reason: "tells the module and the tools where the region is",
        addition: Addition::First,
        rule: Rule::Ours,
    },
    Parameter {
        name: "orthros.successor",
        value: Value::Flag,
        reason: "tells orthros-init that this kernel takes over, also when the module that would say so cannot be loaded",
        addition: Addition::Successor,
        rule: Rule::Ours,
    },
    Parameter {
        name: "acpi_sleep",
        value: Value::Text("nonvs"),
        reason: "firmware memory was in use while the standby slept: its old contents must not be put back",
        addition: Addition::Successor,
        rule: Rule::Both,
    },
    Parameter {
        name: "dhash_entries",
        value: Value::Decimal(|facts| facts.buckets(13, true)),
        reason: "dentry cache: sized for the machine's RAM, not for the nursery's",
        addition: Addition::Successor,
        rule: Rule::Theirs,
    },
    Parameter {
        name: "ihash_entries",
        value: Value::Decimal(|facts| facts.buckets(14, true)),
        reason: "inode cache: as above",
        addition: Addition::Successor,
        rule: Rule::Theirs,
    },
    Parameter {
        name: "mhash_entries",
        value: Value::Decimal(|facts| facts.buckets(19, true)),
        reason: "mounts: as above",
        addition: Addition::Successor,
        rule: Rule::Theirs,
    },
    Parameter {
        name: "mphash_entries",
        value: Value::Decimal(|facts| facts.buckets(19, true)),
        reason: "mount points: as above",
        addition: Addition::Successor,
        rule: Rule::Theirs,
    },
    Parameter {
        name: "thash_entries",
        value: Value::Decimal(|facts| facts.buckets(17, true).min(512 << 10)),
        reason: "TCP connections: as above",
        addition: Addition::Successor,
        rule: Rule::Theirs,
    },
    Parameter {
        name: "uhash_entries",
        value: Value::Decimal(|facts| facts.buckets(21, false).clamp(256, 64 << 10)),
        reason: "UDP sockets: as above",
        addition: Addition::Successor,
        rule: Rule::Theirs,
    },
];

impl Parameter {
    /// The value for a machine, if it takes one.
    fn value(&self, facts: &Facts) -> Option<String> {
        match self.value {
            Value::Flag => None,
            Value::Text(text) => Some(text.into()),
            Value::Decimal(of) => Some(format!("{}", of(facts))),
            Value::Hex(of) => Some(format!("{:#x}", of(facts))),
        }
    }

    /// As it stands on a command line.
    pub fn text(&self, facts: &Facts) -> String {
        match self.value(facts) {
            None => self.name.into(),
            Some(value) => format!("{}={value}", self.name),
        }
    }
}

impl Parameter {
    /// Whether what the administrator gave does what ours would, or may stand in its place.
    pub(super) fn satisfied_by(&self, value: Option<&[u8]>, facts: &Facts) -> bool {
        let ours = self.value(facts);
        let ours = ours.as_deref().map(str::as_bytes);
        value == ours
            || match self.rule {
                Rule::Theirs => true,
                Rule::Smaller => value
                    .and_then(decimal)
                    .zip(ours.and_then(decimal))
                    .is_some_and(|(theirs, ours)| (1..ours).contains(&theirs)),
                Rule::Ours | Rule::Both => false,
            }
    }
}

/// Every parameter a kernel of this kind gets.
pub(super) fn parameters_for(addition: Addition) -> impl Iterator<Item = &'static Parameter> {
    PARAMETERS
        .iter()
        .filter(move |parameter| parameter.addition == Addition::First || addition == Addition::Successor)
}
