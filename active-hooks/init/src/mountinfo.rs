//! `/proc/PID/mountinfo` (proc(5)): `id parent major:minor root mountpoint options [tags] - type source options`.

/// The mounts of this process.
pub const OWN: &str = "/proc/self/mountinfo";

/// A mount. Blanks and the like stand as `\040` in its paths.
#[derive(Debug)]
pub struct Line<'t> {
    /// Its number.
    pub id: u32,
    /// Device number, `major:minor`.
    pub device: &'t str,
    /// What is mounted of the file system.
    pub root: &'t str,
    /// Where it is mounted.
    pub point: &'t str,
    /// Options of the mount, separated by commas.
    pub own_options: &'t str,
    /// Type of its file system.
    pub kind: &'t str,
    /// What it is of, for a disk a path.
    pub source: &'t str,
    /// Options of the file system, separated by commas.
    pub options: &'t str,
}

impl Line<'_> {
    /// Whether the mount and its file system can be written to.
    pub fn is_writable(&self) -> bool {
        let writable = |options: &str| options.split(',').any(|option| option == "rw");
        writable(self.own_options) && writable(self.options)
    }
}

/// The mounts, as far as lines are such.
pub fn lines(text: &str) -> impl DoubleEndedIterator<Item = Line<'_>> {
    text.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let (mut front, mut back) = (front.split(' '), back.split(' '));
        Some(Line {
            id: front.next()?.parse().ok()?,
            device: front.nth(1)?,
            root: front.next()?,
            point: front.next()?,
            own_options: front.next()?,
            kind: back.next()?,
            source: back.next()?,
            options: back.next().unwrap_or_default(),
        })
    })
}
