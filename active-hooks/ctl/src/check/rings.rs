//! Rings of io_uring, from their `fdinfo` (io_uring/fdinfo.c).

use super::{Finding, Process};
use shared_region::reasons;

/// How a ring's descriptor and mapping are named.
pub const RING: &str = "anon_inode:[io_uring]";
/// Lines, what they say if all is well, and what else they mean.
const LINES: [(&str, &str, &str); 4] = [
    ("SqThread", "-1", "IORING_SETUP_SQPOLL"),
    ("UserFiles", "0", "registered files"),
    ("UserBufs", "0", "registered buffers"),
    ("Personalities", "none", "registered personalities"),
];
/// The version that has put heads and tails closer together.
const NEW_LAYOUT: (u32, u32) = (6, 6);

/// What is said of a ring; `next` is `uname -r` of the kernel that takes over next. Whether requests are under way shows only when
/// the kernel stands still.
pub fn check(process: &Process<'_>, object: &str, info: &str, next: Option<&str>) -> Finding {
    let unusual = |line: &str| {
        let (key, value) = line.split_once(':')?;
        let found = LINES
            .iter()
            .find(|(name, usual, _)| *name == key && *usual != value.trim());
        found.map(|(.., what)| *what)
    };
    if let Some(what) = info.lines().find_map(unusual) {
        return Finding::refused(object, reasons::IO_URING, what);
    }
    let own = process.root.line("/proc/sys/kernel/osrelease").unwrap_or_default();
    let is_new = |release: &str| version(release).map(|version| version >= NEW_LAYOUT);
    let note = |further| {
        let text = format!("its ring of io_uring is kept if no request is under way at the failure{further}");
        Finding::note(object, reasons::IO_URING.name, text)
    };
    match (is_new(&own), next.and_then(is_new)) {
        (Some(own), Some(next)) if own == next => note(""),
        (Some(_), Some(_)) => {
            let detail = format!("{} lays out a ring in another way", next.unwrap_or_default());
            Finding::refused(object, reasons::IO_URING, detail)
        }
        _ => note(", and if the next kernel lays it out as this one does (Linux 6.6 has changed that)"),
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_are_compared_by_their_first_numbers() {
        assert_eq!(version("6.1.0-56-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("6.12.117+deb12-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("7.0-rc1"), Some((7, 0)));
        assert_eq!(version(""), None);
    }
}
