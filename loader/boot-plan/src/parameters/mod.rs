//! The kernel parameters Orthros adds to a command line, each with its reason.

mod line;
mod table;

pub use table::{Addition, Facts, Parameter, Rule, PARAMETERS};

use alloc::{string::String, vec::Vec};
use line::Line;
use shared_region::stage::CMDLINE_SIZE;
use table::parameters_for;

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
    /// Whether the kernel is to lie at a random place: the administrator has not said `nokaslr`.
    pub randomized: bool,
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
    Ok(CommandLine {
        bytes,
        randomized: !parsed.has(b"nokaslr"),
        warnings,
    })
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
    use super::{line::words, *};
    use alloc::format;
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
        let dentries = PARAMETERS.iter().find(|p| p.name == "dhash_entries").unwrap();
        assert_eq!(dentries.text(&large), "dhash_entries=8388608");
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
