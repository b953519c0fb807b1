//! What the files should be: a tree in memory that every operation changes as the file system has to.

use crate::op::{content, Op};
use std::collections::BTreeMap;

/// A name, below the directory that is worked in.
pub type Name = String;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A file, by its number in [`Model::files`]. Several names may have it.
    File(u64),
    /// A symbolic link.
    Link(String),
}

/// A file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// The extended attribute `user.churn`.
    pub attribute: Option<Vec<u8>>,
    /// Time of modification in seconds since 1970, if it was set and nothing has been written since.
    pub modified: Option<i64>,
}

/// See the module's comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The file system has no links, no holes, no attributes, and of permissions that to write alone, as vfat.
    pub plain: bool,
    /// Every name.
    pub names: BTreeMap<Name, Entry>,
    /// Every file that has a name.
    pub files: BTreeMap<u64, Content>,
}

impl Model {
    /// Nothing, on a plain file system or on another.
    pub fn new(plain: bool) -> Self {
        Self {
            plain,
            ..Self::default()
        }
    }

    /// The file a name leads to.
    pub fn file(&self, name: &str) -> Option<(u64, &Content)> {
        match self.names.get(name) {
            Some(Entry::File(id)) => self.files.get(id).map(|file| (*id, file)),
            _ => None,
        }
    }

    /// Names of a file.
    pub fn links(&self, id: u64) -> usize {
        self.names.values().filter(|entry| **entry == Entry::File(id)).count()
    }

    /// Carries out operation `number`, which must be possible.
    pub fn apply(&mut self, number: u64, op: &Op) {
        match op {
            Op::Create { name, mode } => {
                self.names.insert(name.clone(), Entry::File(number));
                self.files.insert(
                    number,
                    Content {
                        mode: *mode,
                        ..Content::default()
                    },
                );
            }
            Op::Write { name, offset, length } | Op::Store { name, offset, length } => {
                let bytes = content(number, *length);
                let file = self.writable(name);
                file.modified = None;
                let end = offset + length;
                if file.bytes.len() < end {
                    file.bytes.resize(end, 0);
                }
                file.bytes[*offset..end].copy_from_slice(&bytes);
            }
            Op::Punch { name, offset, length } => {
                let file = self.writable(name);
                let end = (offset + length).min(file.bytes.len());
                if let Some(hole) = file.bytes.get_mut(*offset..end) {
                    hole.fill(0);
                }
            }
            Op::Truncate { name, size } => {
                let file = self.writable(name);
                file.modified = None;
                file.bytes.resize(*size, 0);
            }
            Op::SetTime { name, seconds } => self.writable(name).modified = Some(*seconds),
            Op::Chmod { name, mode } => self.writable(name).mode = *mode,
            Op::SetAttribute { name, length } => self.writable(name).attribute = Some(content(number, *length)),
            Op::RemoveAttribute { name } => self.writable(name).attribute = None,
            Op::Sync { .. } | Op::Reserve { .. } => {}
            Op::Unlink { name } => self.remove(name),
            Op::MakeDirectory { name } => {
                self.names.insert(name.clone(), Entry::Directory);
            }
            Op::RemoveDirectory { name } => {
                self.names.remove(name);
            }
            Op::Link { from, to } => {
                if let Some(entry) = self.names.get(from).cloned() {
                    self.names.insert(to.clone(), entry);
                }
            }
            Op::Symlink { name, target } => {
                self.names.insert(name.clone(), Entry::Link(target.clone()));
            }
            Op::Rename { from, to } => self.rename(from, to),
        }
    }

    fn writable(&mut self, name: &str) -> &mut Content {
        let id = match self.names.get(name) {
            Some(Entry::File(id)) => *id,
            _ => u64::MAX,
        };
        self.files.entry(id).or_default()
    }

    fn remove(&mut self, name: &str) {
        if let Some(Entry::File(id)) = self.names.remove(name) {
            if self.links(id) == 0 {
                self.files.remove(&id);
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        if self.names.get(from) == self.names.get(to) {
            // Two names of one file: nothing happens (rename(2)).
            if matches!(self.names.get(from), Some(Entry::File(_))) {
                return;
            }
        }
        let below = format!("{from}/");
        let moved: Vec<Name> = self
            .names
            .keys()
            .filter(|name| name.starts_with(&below))
            .cloned()
            .collect();
        for name in moved {
            if let Some(entry) = self.names.remove(&name) {
                self.names.insert(format!("{to}/{}", &name[below.len()..]), entry);
            }
        }
        if let Some(entry) = self.names.remove(from) {
            self.remove(to);
            self.names.insert(to.to_owned(), entry);
        }
    }
}
