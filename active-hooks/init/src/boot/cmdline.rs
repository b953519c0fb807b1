//! The kernel's command line.

use std::{fs, io};

/// Words of a command line, `name` or `name=value`; the last of a name counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    words: Vec<(String, Option<String>)>,
}

impl Cmdline {
    /// The running kernel's.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn of_this_kernel() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/cmdline")?))
    }

    /// Splits at blanks outside double quotes, as `next_arg` (lib/cmdline.c) does.
    pub fn parse(text: &str) -> Self {
        let mut words = Vec::new();
        let mut word = String::new();
        let mut quoted = false;
        for character in text.trim().chars().chain([' ']) {
            match character {
                '"' => quoted = !quoted,
                blank if blank.is_whitespace() && !quoted => {
                    if !word.is_empty() {
                        words.push(match word.split_once('=') {
                            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                            None => (word.clone(), None),
                        });
                        word.clear();
                    }
                }
                other => word.push(other),
            }
        }
        Self { words }
    }

    /// The value of a name.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut found = self.words.iter().rev().filter(|(word, _)| word == name);
        found.find_map(|(_, value)| value.as_deref())
    }

    /// Whether the backup OS has started this kernel to take over from another.
    pub fn is_successor(&self) -> bool {
        self.last_of(&["orthros.successor"]).is_some()
    }

    /// Whether the last of these words is `name`; of `ro` and `rw`, say.
    pub fn last_of(&self, names: &[&str]) -> Option<&str> {
        let mut found = self.words.iter().rev().map(|(word, _)| word.as_str());
        found.find(|word| names.contains(word))
    }

    /// `name=value` of every word that starts with `prefix`, without it.
    pub fn with_prefix<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = (&'s str, Option<&'s str>)> + 's {
        self.words
            .iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_deref())))
    }
}

#[cfg(test)]
mod tests {
    use super::Cmdline;

    #[test]
    fn the_last_word_of_a_name_counts() {
        let cmdline = Cmdline::parse("root=/dev/vda ro quiet root=LABEL=x rw\n");
        assert_eq!(cmdline.value("root"), Some("LABEL=x"));
        assert_eq!(cmdline.last_of(&["ro", "rw"]), Some("rw"));
        assert_eq!(cmdline.value("quiet"), None);
        assert_eq!(cmdline.value("init"), None);
        assert!(!cmdline.is_successor());
        assert!(Cmdline::parse("quiet orthros.successor").is_successor());
    }

    #[test]
    fn blanks_in_quotes_do_not_split() {
        let cmdline = Cmdline::parse(r#"rootflags="a b" dyndbg="file x +p" z"#);
        assert_eq!(cmdline.value("rootflags"), Some("a b"));
        assert_eq!(cmdline.value("dyndbg"), Some("file x +p"));
    }

    #[test]
    fn parameters_of_the_module_are_those_with_its_prefix() {
        let cmdline = Cmdline::parse("orthros.region=0x30000000 orthros.allow_test=1 region=2");
        let found: Vec<_> = cmdline.with_prefix("orthros.").collect();
        assert_eq!(found, [("region", Some("0x30000000")), ("allow_test", Some("1"))]);
    }
}
