//! `/proc/PID/mountinfo` (proc(5)): `id parent major:minor root mountpoint options [tags] - type source options`.

/// A mount.
pub struct Line<'t> {
    pub id: u32,
    /// Device number, `major:minor`.
    pub device: &'t str,
    /// Where it is mounted.
    pub point: &'t str,
    /// Type of its file system.
    pub kind: &'t str,
    /// What it is of, for a disk a path.
    pub source: &'t str,
    /// Options of the file system, separated by commas.
    pub options: &'t str,
}

/// The mounts, as far as lines are such.
pub fn lines(text: &str) -> impl DoubleEndedIterator<Item = Line<'_>> {
    text.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let (mut front, mut back) = (front.split(' '), back.split(' '));
        Some(Line {
            id: front.next()?.parse().ok()?,
            device: front.nth(1)?,
            point: front.nth(1)?,
            kind: back.next()?,
            source: back.next()?,
            options: back.next().unwrap_or_default(),
        })
    })
}
