//! The running kernel's parameters against those Orthros asks for.

use boot_plan::parameters::{Addition, Facts, Parameter, Rule, PARAMETERS};
use shared_region::header::Header;

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

/// Splits a command line into words; double quotes keep blanks together, as in the kernel's parser.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn deviation(parameter: &Parameter, facts: &Facts, line: &[String]) -> Option<Deviation> {
    let wanted = parameter.text(facts);
    let same_name = |word: &&String| {
        let name = word.split('=').next().unwrap_or_default();
        name.replace('-', "_") == parameter.name
    };
    let found: Vec<&String> = line.iter().filter(same_name).collect();
    let fine = match parameter.rule {
        // The last one counts.
        Rule::Ours => found.last().is_some_and(|word| **word == wanted),
        Rule::Both => found.iter().any(|word| **word == wanted),
        Rule::Theirs => true,
        Rule::Smaller => {
            let number = |word: &str| word.split('=').nth(1).and_then(|value| value.parse::<u64>().ok());
            found
                .last()
                .and_then(|word| number(word))
                .zip(number(&wanted))
                .is_some_and(|(found, wanted)| found <= wanted)
        }
    };
    (!fine).then(|| Deviation {
        wanted,
        found: found.last().map(|word| (*word).clone()),
        reason: parameter.reason,
    })
}

/// What differs on a command line, for the machine the header describes.
pub fn deviations(header: &Header, line: &str) -> Vec<Deviation> {
    let facts = Facts::of(header);
    let line = words(line);
    PARAMETERS
        .iter()
        .filter(|parameter| parameter.addition == Addition::First)
        .filter_map(|parameter| deviation(parameter, &facts, &line))
        .collect()
}

/// A command line as the loader makes it.
#[cfg(test)]
pub fn good_line(header: &Header) -> String {
    let facts = Facts::of(header);
    let words: Vec<_> = PARAMETERS.iter().map(|parameter| parameter.text(&facts)).collect();
    format!("root=/dev/vda1 dyndbg=\"file a b\" {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{fake::Fake, Snapshot};

    fn header() -> Header {
        Snapshot::take(&Fake::armed()).header.expect("a good header")
    }

    #[test]
    fn the_loaders_line_has_no_deviation() {
        assert_eq!(deviations(&header(), &good_line(&header())), []);
    }

    #[test]
    fn a_missing_a_changed_and_an_overridden_parameter_are_named() {
        let first = PARAMETERS[0].text(&Facts::of(&header()));
        let line = good_line(&header())
            .replace(&format!(" {first} "), " ")
            .replace("nr_cpus=3", "nr_cpus=4")
            + " panic=5";
        let found = deviations(&header(), &line);
        let short: Vec<_> = found.iter().map(|d| (d.wanted.as_str(), d.found.as_deref())).collect();
        assert_eq!(
            short,
            [
                (first.as_str(), None),
                ("panic=0", Some("panic=5")),
                ("nr_cpus=3", Some("nr_cpus=4")),
            ]
        );
        assert!(found.iter().all(|d| !d.reason.is_empty()));
    }

    #[test]
    fn fewer_cpus_than_there_are_is_no_deviation() {
        assert_eq!(
            deviations(&header(), &good_line(&header()).replace("nr_cpus=3", "nr_cpus=2")),
            []
        );
    }
}
