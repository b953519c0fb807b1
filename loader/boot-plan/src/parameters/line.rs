//! A kernel command line, split as the kernel splits it.

use alloc::vec::Vec;

/// A command line as the kernel sees it.
pub(super) struct Line<'a> {
    line: &'a [u8],
    /// The kernel's words.
    words: Vec<core::ops::Range<usize>>,
    /// Where init's part begins, at its `--`.
    pub(super) split: usize,
}

impl<'a> Line<'a> {
    pub(super) fn parse(line: &'a [u8]) -> Self {
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
    pub(super) fn last(&self, name: &str) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        self.words
            .iter()
            .filter_map(|range| {
                let word = self.line.get(range.clone())?;
                Some((word, given(word, name)?))
            })
            .next_back()
    }

    /// Whether this exact word stands in it.
    pub(super) fn has(&self, word: &[u8]) -> bool {
        self.words
            .iter()
            .any(|range| self.line.get(range.clone()) == Some(word))
    }
}

/// The words of a command line as the kernel splits them (`next_arg`, lib/cmdline.c): at white space outside of double
/// quotes; as ranges of the line.
pub(super) fn words(line: &[u8]) -> Vec<core::ops::Range<usize>> {
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

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}
