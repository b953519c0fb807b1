//! The judgement: names, kinds, link counts, modes, attributes and every byte, as after the last acknowledged operation
//! or after the one that was under way.

use crate::model::{Content, Entry, Model};
use crate::op::{attribute, Op, Random};
use anyhow::{Context, Result};
use std::collections::hash_map::DefaultHasher;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Differences that are shown.
const SHOWN: usize = 12;
/// Bytes that are shown of the first difference in a file.
const SHOWN_BYTES: usize = 16;
/// Operations that are looked at after the one under way, to tell where wrong names are from.
const BEYOND: u64 = 50;

/// What was found.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Files that are as they must be.
    pub good: usize,
    /// How files and names differ from what they must be.
    pub wrong: Vec<String>,
    /// If names are wrong: the operation after which they are what they are, the last of several.
    pub names_of: Option<u64>,
    /// Whether the operation under way has taken effect.
    pub ahead: bool,
}

impl Judgement {
    /// Nothing is lost.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files good, {} differences", self.good, self.wrong.len())?;
        if self.ahead {
            write!(f, ", the operation under way has taken effect")?;
        }
        if let Some(number) = self.names_of {
            write!(f, "; names are those after operation {number}")?;
        }
        for line in self.wrong.iter().take(SHOWN) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// What a name leads to on the disk.
#[derive(Debug)]
enum Found {
    Directory,
    Link(String),
    File { inode: u64, links: usize, content: Content },
}

/// Compares a directory with what `number` operations of a seed must have made of it.
///
/// # Errors
/// It cannot be read.
pub fn check(dir: &Path, seed: u64, number: u64, plain: bool) -> Result<Judgement> {
    let mut found = BTreeMap::new();
    read(dir, "", &mut found)?;
    let names = shape(found.iter().map(|(name, found)| (name.as_str(), kind(found))));
    let mut before = Model::new(plain);
    let mut random = Random::new(seed);
    let mut names_of = None;
    for done in 0..number {
        if shape_of(&before) == names {
            names_of = Some(done);
        }
        let op = Op::draw(&before, &mut random);
        before.apply(done, &op);
    }
    let mut after = before.clone();
    let op = Op::draw(&after, &mut random);
    after.apply(number, &op);

    let mut judgement = Judgement::default();
    // Which of the two the names are; files may be of either, as the operation may have been cut short.
    let is_before = shape_of(&before) == names;
    judgement.ahead = !is_before && shape_of(&after) == names;
    let (is, other) = if judgement.ahead {
        (&after, &before)
    } else {
        (&before, &after)
    };
    if !is_before && !judgement.ahead {
        let mut later = after.clone();
        for done in number + 1..number + BEYOND {
            let op = Op::draw(&later, &mut random);
            later.apply(done, &op);
            if shape_of(&later) == names {
                names_of = Some(done + 1);
            }
        }
        judgement.names_of = names_of;
        name_differences(&before, &found, &mut judgement.wrong);
    }
    for (name, found) in &found {
        let (Some((id, file)), Found::File { links, content, .. }) = (is.file(name), found) else {
            continue;
        };
        let alternative = other.files.get(&id).unwrap_or(file);
        let mut wrong = differences(file, alternative, content);
        if *links != is.links(id) && *links != other.links(id) {
            wrong.push(format!("{links} links instead of {}", is.links(id)));
        }
        match wrong.is_empty() {
            true => judgement.good += 1,
            false => judgement.wrong.push(format!("{name}: {}", wrong.join(", "))),
        }
    }
    same_files(is, &found, &mut judgement.wrong);
    Ok(judgement)
}

/// Names of one file must lead to one inode, and those of two to two.
fn same_files(is: &Model, found: &BTreeMap<String, Found>, wrong: &mut Vec<String>) {
    let mut inodes: BTreeMap<u64, u64> = BTreeMap::new();
    for (name, one) in found {
        let (Some((id, _)), Found::File { inode, .. }) = (is.file(name), one) else {
            continue;
        };
        if *inodes.entry(*inode).or_insert(id) != id {
            wrong.push(format!("{name} is a name of another file"));
        }
    }
}

fn differences(file: &Content, other: &Content, found: &Content) -> Vec<String> {
    let mut wrong = Vec::new();
    if ![file.mode, other.mode].contains(&found.mode) {
        // Between the creation of a file and its permissions lies another call.
        if !(other.bytes.is_empty() && file.bytes.is_empty() && found.mode == 0o600) {
            wrong.push(format!("mode {:o} instead of {:o}", found.mode, file.mode));
        }
    }
    if found.attribute != file.attribute && found.attribute != other.attribute {
        wrong.push("another attribute".into());
    }
    let is_time = |of: &Content| of.modified.is_none() || of.modified == found.modified;
    if !is_time(file) && !is_time(other) {
        wrong.push(format!(
            "modified at {:?} instead of {:?}",
            found.modified, file.modified
        ));
    }
    let (short, long) = (
        file.bytes.len().min(other.bytes.len()),
        file.bytes.len().max(other.bytes.len()),
    );
    if !(short..=long).contains(&found.bytes.len()) {
        wrong.push(format!("{} bytes instead of {}", found.bytes.len(), file.bytes.len()));
    }
    let bad = |at: usize| {
        let byte = found.bytes.get(at).copied();
        let one = file.bytes.get(at).copied();
        let two = other.bytes.get(at).copied();
        // What a file has grown by reads as zeros until it is written.
        let grown = one.is_none() || two.is_none();
        !(byte == one || byte == two || (grown && byte == Some(0)))
    };
    let end = found.bytes.len().min(long);
    let mut count = 0;
    let mut first = None;
    for at in (0..end).filter(|&at| bad(at)) {
        first.get_or_insert(at);
        count += 1;
    }
    if let Some(first) = first {
        let some = &found.bytes[first..(first + SHOWN_BYTES).min(found.bytes.len())];
        wrong.push(format!(
            "{count} bytes differ, the first at {first} of {}: {some:02x?}",
            found.bytes.len()
        ));
    }
    wrong
}

fn name_differences(is: &Model, found: &BTreeMap<String, Found>, wrong: &mut Vec<String>) {
    for name in is.names.keys().filter(|name| !found.contains_key(*name)) {
        wrong.push(format!("{name} is missing"));
    }
    for (name, one) in found {
        match is.names.get(name) {
            None => wrong.push(format!("{name} should not be there")),
            Some(entry) if kind_of(entry) != kind(one) => wrong.push(format!("{name} is something else")),
            Some(_) => {}
        }
    }
}

fn kind(found: &Found) -> String {
    match found {
        Found::Directory => "d".into(),
        Found::Link(target) => format!("l{target}"),
        Found::File { .. } => "f".into(),
    }
}

fn kind_of(entry: &Entry) -> String {
    match entry {
        Entry::Directory => "d".into(),
        Entry::Link(target) => format!("l{target}"),
        Entry::File(_) => "f".into(),
    }
}

fn shape_of(model: &Model) -> u64 {
    shape(model.names.iter().map(|(name, entry)| (name.as_str(), kind_of(entry))))
}

fn shape<'a>(names: impl Iterator<Item = (&'a str, String)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for name in names {
        name.hash(&mut hasher);
    }
    hasher.finish()
}

fn read(dir: &Path, below: &str, found: &mut BTreeMap<String, Found>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        let name = format!("{below}{}", path.file_name().unwrap_or_default().to_string_lossy());
        let meta = fs::symlink_metadata(&path).with_context(|| name.clone())?;
        let one = if meta.is_dir() {
            read(&path, &format!("{name}/"), found)?;
            Found::Directory
        } else if meta.is_symlink() {
            Found::Link(fs::read_link(&path)?.to_string_lossy().into_owned())
        } else {
            Found::File {
                inode: meta.ino(),
                links: usize::try_from(meta.nlink())?,
                content: Content {
                    bytes: fs::read(&path).with_context(|| name.clone())?,
                    mode: meta.mode() & 0o7777,
                    attribute: attribute(&path).with_context(|| name.clone())?,
                    modified: Some(meta.mtime()),
                },
            }
        };
        found.insert(name, one);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worked(operations: u64, dir: &Path) {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).unwrap();
        let (mut model, mut random) = (Model::default(), Random::new(5));
        for number in 0..operations {
            let op = Op::draw(&model, &mut random);
            op.run(number, dir, false).unwrap();
            model.apply(number, &op);
        }
    }

    #[test]
    fn what_was_done_is_found_and_what_was_not_is_missed() {
        let dir = std::env::temp_dir().join(format!("churn-{}", std::process::id()));
        worked(400, &dir);
        let good = check(&dir, 5, 400, false).unwrap();
        assert!(good.is_good(), "{good}");
        // One operation may be under way, two may not.
        assert!(check(&dir, 5, 399, false).unwrap().is_good());
        let late = check(&dir, 5, 460, false).unwrap();
        assert!(!late.is_good(), "60 operations were not missed");
        fs::remove_dir_all(dir).unwrap();
    }
}
