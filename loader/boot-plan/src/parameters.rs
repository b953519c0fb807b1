//! The kernel parameters Orthros adds to a command line, each with its reason.

use alloc::{format, string::String, vec::Vec};
use shared_region::{header::Header, layout, stage::CMDLINE_SIZE};

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
pub const PARAMETERS: [Parameter; 14] = [
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

/// A parameter of the administrator that contradicts one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// As given.
    pub given: String,
    /// What was added after it.
    pub added: String,
    /// Why.
    pub reason: &'static str,
}

impl core::fmt::Display for Warning {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "kernel parameter `{}` is overridden by `{}`: {}",
            self.given, self.added, self.reason
        )
    }
}

/// A finished command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Without a NUL.
    pub bytes: Vec<u8>,
    /// What the administrator ought to know.
    pub warnings: Vec<Warning>,
}

/// Why a command line cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandLineError {
    /// It is too long with our parameters.
    TooLong {
        /// Bytes.
        length: usize,
        /// At most.
        room: usize,
    },
}

impl core::fmt::Display for CommandLineError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong { length, room } => write!(
                f,
                "kernel command line: {length} bytes with the parameters Orthros adds, {room} are allowed"
            ),
        }
    }
}

impl core::error::Error for CommandLineError {}

/// The words of a command line as the kernel splits them (`next_arg`, lib/cmdline.c): at white space outside of double
/// quotes; as ranges of the line.
fn words(line: &[u8]) -> Vec<core::ops::Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quoted = false;
    for (at, &byte) in line.iter().enumerate() {
        quoted ^= byte == b'"';
        match start {
            Some(from) if byte.is_ascii_whitespace() && !quoted => {
                words.push(from..at);
                start = None;
            }
            None if !byte.is_ascii_whitespace() => start = Some(at),
            _ => {}
        }
    }
    words.extend(start.map(|from| from..line.len()));
    words
}

/// Whether two names mean the same parameter: dashes and underscores are one (`parameq`, kernel/params.c).
fn same_name(a: &[u8], b: &[u8]) -> bool {
    let fold = |&byte: &u8| if byte == b'-' { b'_' } else { byte };
    a.iter().map(fold).eq(b.iter().map(fold))
}

/// The value a word gives to `name`: `None` if it is about something else, `Some(None)` without a value.
fn given<'a>(word: &'a [u8], name: &str) -> Option<Option<&'a [u8]>> {
    match word.iter().position(|&b| b == b'=') {
        Some(at) => {
            let (key, value) = word.split_at(at);
            same_name(key, name.as_bytes()).then(|| value.get(1..))
        }
        None => same_name(word, name.as_bytes()).then_some(None),
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// A command line as the kernel sees it.
struct Line<'a> {
    line: &'a [u8],
    /// The kernel's words.
    words: Vec<core::ops::Range<usize>>,
    /// Where init's part begins, at its `--`.
    split: usize,
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Self {
        let mut words = words(line);
        let dashes = words.iter().position(|range| line.get(range.clone()) == Some(b"--"));
        let split = match dashes {
            Some(at) => {
                let start = words.get(at).map_or(line.len(), |range| range.start);
                words.truncate(at);
                start
            }
            None => line.len(),
        };
        Self { line, words, split }
    }

    /// The last word about a parameter, which is the one that counts, with its value.
    fn last(&self, name: &str) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        self.words
            .iter()
            .filter_map(|range| {
                let word = self.line.get(range.clone())?;
                Some((word, given(word, name)?))
            })
            .next_back()
    }

    /// Whether this exact word stands in it.
    fn has(&self, word: &[u8]) -> bool {
        self.words
            .iter()
            .any(|range| self.line.get(range.clone()) == Some(word))
    }
}

impl Parameter {
    /// Whether what the administrator gave does what ours would, or may stand in its place.
    fn satisfied_by(&self, value: Option<&[u8]>, facts: &Facts) -> bool {
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
fn parameters_for(addition: Addition) -> impl Iterator<Item = &'static Parameter> {
    PARAMETERS
        .iter()
        .filter(move |parameter| parameter.addition == Addition::First || addition == Addition::Successor)
}

/// Adds our parameters to the administrator's, before `--` if there is one (what follows belongs to init).
///
/// # Errors
/// [`CommandLineError::TooLong`].
pub fn append(line: &[u8], facts: &Facts, addition: Addition) -> Result<CommandLine, CommandLineError> {
    let parsed = Line::parse(line);
    let (kernel_part, init_part) = line.split_at(parsed.split);
    let mut bytes = kernel_part.trim_ascii().to_vec();
    let mut warnings = Vec::new();
    for parameter in parameters_for(addition) {
        let ours = parameter.text(facts);
        match parsed.last(parameter.name) {
            Some((_, value)) if parameter.satisfied_by(value, facts) => continue,
            Some((word, _)) if parameter.rule != Rule::Both => warnings.push(Warning {
                given: String::from_utf8_lossy(word).into_owned(),
                added: ours.clone(),
                reason: parameter.reason,
            }),
            _ => {}
        }
        if !bytes.is_empty() {
            bytes.push(b' ');
        }
        bytes.extend_from_slice(ours.as_bytes());
    }
    if !init_part.is_empty() {
        bytes.push(b' ');
        bytes.extend_from_slice(init_part.trim_ascii());
    }
    let room = CMDLINE_SIZE - 1;
    if bytes.len() > room {
        return Err(CommandLineError::TooLong {
            length: bytes.len(),
            room,
        });
    }
    Ok(CommandLine { bytes, warnings })
}

/// A parameter that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// As it should stand on the command line.
    pub wanted: String,
    /// As it stands there; `None` if it does not.
    pub found: Option<String>,
    /// Why it matters.
    pub reason: &'static str,
}

/// The parameters that a running kernel lacks or has with another value, by its `/proc/cmdline`.
pub fn deviations(line: &[u8], facts: &Facts, addition: Addition) -> Vec<Deviation> {
    let parsed = Line::parse(line);
    parameters_for(addition)
        .filter_map(|parameter| {
            let wanted = parameter.text(facts);
            let last = parsed.last(parameter.name);
            let fine = match last {
                None => false,
                Some(_) if parameter.rule == Rule::Both => parsed.has(wanted.as_bytes()),
                Some((_, value)) => parameter.satisfied_by(value, facts),
            };
            (!fine).then(|| Deviation {
                wanted,
                found: last.map(|(word, _)| String::from_utf8_lossy(word).into_owned()),
                reason: parameter.reason,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FACTS: Facts = Facts {
        cpus: 3,
        region: 0x6800_0000,
        ram: 1536 << 20,
    };
    const OURS: &str = "oops=panic panic=0 nr_cpus=3 no_ipi_broadcast=1 reserve=0x2f8,8 no_timer_check \
                        memhp_default_state=online orthros.region=0x68000000";

    fn line(user: &str, addition: Addition) -> (String, Vec<Warning>) {
        let line = append(user.as_bytes(), &FACTS, addition).unwrap();
        (String::from_utf8(line.bytes).unwrap(), line.warnings)
    }

    #[test]
    fn ours_follow_the_administrators() {
        assert_eq!(line("", Addition::First).0, OURS);
        assert_eq!(
            line("console=ttyS0 quiet", Addition::First).0,
            format!("console=ttyS0 quiet {OURS}")
        );
    }

    #[test]
    fn what_the_administrator_gave_alike_is_not_repeated() {
        let (text, warnings) = line(OURS, Addition::First);
        assert_eq!((text.as_str(), warnings.len()), (OURS, 0));
        assert!(!line("no-ipi-broadcast=1", Addition::First)
            .0
            .contains("no_ipi_broadcast"));
    }

    #[test]
    fn contradictions_are_overridden_and_reported() {
        let (text, warnings) = line("panic=10", Addition::First);
        assert!(text.starts_with("panic=10 ") && text.contains(" panic=0 "));
        assert_eq!(
            (warnings[0].given.as_str(), warnings[0].added.as_str()),
            ("panic=10", "panic=0")
        );
        assert_eq!(
            line("nr_cpus=2", Addition::First),
            (format!("nr_cpus=2 {}", OURS.replace("nr_cpus=3 ", "")), Vec::new())
        );
        assert_eq!(line("nr_cpus=8", Addition::First).1.len(), 1);
        assert_eq!(line("reserve=0x300,4", Addition::First).1.len(), 0);
    }

    #[test]
    fn a_running_kernel_that_deviates_is_found_out() {
        let found = |line: &str| -> Vec<(String, Option<String>)> {
            deviations(line.as_bytes(), &FACTS, Addition::First)
                .into_iter()
                .map(|d| (d.wanted, d.found))
                .collect()
        };
        assert!(found(OURS).is_empty());
        assert!(found(&line("panic=10 quiet -- single", Addition::First).0).is_empty());
        assert_eq!(
            found(&format!("{OURS} panic=10 nr_cpus=2")),
            [("panic=0".into(), Some("panic=10".into()))]
        );
        assert_eq!(
            found(&OURS.replace("0x2f8,8", "0x300,8")),
            [("reserve=0x2f8,8".into(), Some("reserve=0x300,8".into()))]
        );
        assert_eq!(found("").len(), 8);
    }

    #[test]
    fn arguments_of_init_stay_behind() {
        assert_eq!(
            line("quiet x=\"a -- b\" -- panic=3 single", Addition::First).0,
            format!("quiet x=\"a -- b\" {OURS} -- panic=3 single")
        );
    }

    /// Against what Debian's 6.1 printed on a machine with 1.5 GB of RAM for Linux.
    #[test]
    fn successors_get_tables_for_the_whole_machine() {
        let (text, _) = line("thash_entries=4096", Addition::Successor);
        assert!(text.ends_with(
            "dhash_entries=262144 ihash_entries=131072 mhash_entries=4096 mphash_entries=4096 uhash_entries=1024"
        ));
        let large = Facts { ram: 96 << 30, ..FACTS };
        assert_eq!(large.buckets(13, true), 8 << 20);
    }

    #[test]
    fn a_line_that_does_not_fit_is_refused_with_numbers() {
        let user = "x".repeat(2000);
        let length = 2000 + 1 + OURS.len();
        assert_eq!(
            append(user.as_bytes(), &FACTS, Addition::First),
            Err(CommandLineError::TooLong { length, room: 2047 })
        );
    }

    proptest! {
        #[test]
        fn any_line_keeps_the_administrators_words(user in "[a-z=\" -]{0,200}") {
            let done = append(user.as_bytes(), &FACTS, Addition::Successor).unwrap();
            let given: Vec<Vec<u8>> = words(user.as_bytes()).into_iter().map(|r| user.as_bytes()[r].to_vec()).collect();
            // An unbalanced quote swallows what follows it, in the kernel as here.
            prop_assume!(user.bytes().filter(|&b| b == b'"').count() % 2 == 0);
            let now: Vec<Vec<u8>> = words(&done.bytes).into_iter().map(|r| done.bytes[r].to_vec()).collect();
            prop_assert!(given.iter().all(|word| now.contains(word)));
        }
    }
}
