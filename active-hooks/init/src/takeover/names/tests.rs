//! Names put back on the file system of the host, where that has handles as ext4 has them and they may be opened.

use super::*;
use rustix::fs::fgetxattr;
use shared_region::context::{Attribute, ChangedInode, Name};
use std::os::unix::fs::{symlink, PermissionsExt};

/// A folder in which names are put back.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("names-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        fs::write(folder.0.join("probe"), "").unwrap();
        let (number, generation) = folder.key("probe");
        let root = folder.open(".");
        let may = sys::open_by_handle(root.as_fd(), number, generation, OFlags::PATH.bits() as i32);
        fs::remove_file(folder.0.join("probe")).unwrap();
        may.is_ok().then_some(folder)
    }

    fn open(&self, name: &str) -> OwnedFd {
        open(self.0.join(name), OFlags::RDONLY, Mode::empty()).unwrap()
    }

    fn key(&self, name: &str) -> Key {
        let name = CString::new(name).unwrap();
        sys::handle_of(self.open(".").as_fd(), &name).unwrap()
    }

    fn tree<'w>(&self, nodes: &'w [Node]) -> Tree<'w> {
        fs::create_dir(self.0.join(ASIDE)).unwrap();
        Tree {
            number: fs::metadata(&self.0).unwrap().dev(),
            top: self.key(".").0,
            at: self.0.clone(),
            name: self.0.clone(),
            root: self.open("."),
            aside: self.open(ASIDE),
            directories: BTreeMap::new(),
            anew: BTreeMap::new(),
            made: BTreeMap::new(),
            nodes: nodes
                .iter()
                .map(|node| ((node.number, node.generation), node))
                .collect(),
            changed: None,
            free: None,
            failed: i64::MAX,
            is_complete: true,
            count: 0,
            next: 0,
            since: Since::Nothing,
            begun: i64::MAX,
            late: BTreeSet::new(),
            remarks: Vec::new(),
        }
    }

    fn names(&self, name: &str) -> Vec<String> {
        let all = fs::read_dir(self.0.join(name)).unwrap();
        let mut all: Vec<_> = all.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn names((number, generation): Key, entries: &[(&str, Key)]) -> Names {
    let entries = entries.iter().map(|(name, (number, generation))| Name {
        name: name.as_bytes().to_vec(),
        number: *number,
        generation: Some(*generation),
    });
    Names {
        number,
        generation,
        path: b"there".to_vec(),
        entries: entries.collect(),
        is_complete: true,
        ..Names::default()
    }
}

fn put_back(tree: &mut Tree<'_>, all: &[Names]) {
    let all: Vec<&Names> = all.iter().collect();
    tree.place(&World::default(), &all, &mut Reader::within_memory(Duration::ZERO));
}

/// Does the rest; what could not be done.
fn finish(tree: Tree<'_>) -> Vec<String> {
    let mut trees = Trees {
        failed: BTreeSet::new(),
        trees: vec![tree],
        remarks: Vec::new(),
    };
    trees.link();
    trees.finish();
    trees.remarks
}

/// Files that nobody has.
const NEW: [Key; 3] = [(1 << 30, 1), ((1 << 30) + 1, 2), ((1 << 30) + 2, 3)];

#[test]
fn names_are_those_that_are_recorded() {
    let Some(folder) = Folder::new("recorded") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    let at = |name: &str| folder.0.join(name);
    for directory in ["one", "one/inner", "two", "removed"] {
        fs::create_dir(at(directory)).unwrap();
    }
    for file in [
        "one/stays",
        "one/gone",
        "one/moved",
        "two/left",
        "two/right",
        "one/inner/deep",
    ] {
        fs::write(at(file), file).unwrap();
    }
    symlink("old", at("one/link")).unwrap();
    let key = |name: &str| folder.key(name);
    let (one, two, root) = (key("one"), key("two"), key("."));
    let [directory, link, file] = NEW;
    let node = |(number, generation): Key, mode: FileType, target: &[u8]| Node {
        number,
        generation,
        mode: mode.as_raw_mode() | 0o640,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        times: [1_000_000_001, 2_000_000_002],
        target: target.to_vec(),
        ..Node::default()
    };
    let nodes = [
        node(directory, FileType::Directory, b""),
        node(link, FileType::Symlink, b"new"),
        node(file, FileType::RegularFile, b""),
        Node {
            attributes: Some(vec![Attribute {
                name: b"user.churn".to_vec(),
                value: b"value".to_vec(),
            }]),
            ..node(key("one/stays"), FileType::RegularFile, b"")
        },
    ];
    let mut tree = folder.tree(&nodes);
    let all = [
        names(root, &[("one", one), ("two", two)]),
        names(one, &[("stays", key("one/stays")), ("also", key("two/left"))]),
        // Two names change places, a file has come from elsewhere, and so has a directory, which was in this one's neighbour.
        names(
            two,
            &[
                ("left", key("two/right")),
                ("right", key("two/left")),
                ("came", key("one/moved")),
                ("inner", key("one/inner")),
                ("old", key("one/link")),
                ("new", link),
                ("newer", link),
                ("made", directory),
            ],
        ),
        names(directory, &[("file", file), ("second", file)]),
    ];
    put_back(&mut tree, &all);
    // Whoever has its content makes the file.
    fs::write(at("two/made/second"), "content").unwrap();
    let remarks = finish(tree);
    assert_eq!(remarks, [""; 0]);
    assert_eq!(folder.names("."), ["one", "two"]);
    assert_eq!(folder.names("one"), ["also", "stays"]);
    let want = ["came", "inner", "left", "made", "new", "newer", "old", "right"];
    assert_eq!(folder.names("two"), want);
    assert_eq!(folder.names("two/made"), ["file", "second"]);
    let text = |name: &str| fs::read_to_string(at(name)).unwrap();
    assert_eq!([text("two/left"), text("two/right")], ["two/right", "two/left"]);
    assert_eq!(
        [text("two/came"), text("two/inner/deep")],
        ["one/moved", "one/inner/deep"]
    );
    assert_eq!(key("one/also"), key("two/right"));
    assert_eq!(
        [key("two/made/file"), key("two/new")],
        [key("two/made/second"), key("two/newer")]
    );
    let target = |name: &str| fs::read_link(at(name)).unwrap();
    assert_eq!(
        [target("two/old"), target("two/new")],
        [PathBuf::from("old"), PathBuf::from("new")]
    );
    for name in ["two/made", "two/made/file", "one/stays"] {
        let found = fs::metadata(at(name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o640, "{name}");
        assert_eq!((found.mtime(), found.mtime_nsec()), (2, 2), "{name}");
    }
    let mut value = [0; 8];
    let length = fgetxattr(folder.open("one/stays"), "user.churn", &mut value);
    assert_eq!(length.map(|length| value[..length].to_vec()), Ok(b"value".to_vec()));
}

#[test]
fn a_directory_that_cannot_be_read_keeps_its_names() {
    let Some(folder) = Folder::new("unread") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    fs::create_dir(folder.0.join("one")).unwrap();
    fs::write(folder.0.join("one/unread"), "").unwrap();
    let mut tree = folder.tree(&[]);
    let record = Names {
        rest: vec![shared_region::context::DiskRun {
            bytes: u64::MAX,
            ..Default::default()
        }],
        ..names(folder.key("one"), &[])
    };
    put_back(&mut tree, &[record]);
    tree.clear();
    assert_eq!(folder.names("one"), ["unread"]);
    assert!(tree.remarks.join("").contains("more than memory has room for"));
}

#[test]
fn files_of_generation_0_are_told_from_others() {
    let Some(folder) = Folder::new("generation") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    fs::write(folder.0.join("file"), "").unwrap();
    let tree = folder.tree(&[]);
    let (number, generation) = folder.key("file");
    let found = |generation| tree.by_handle((number, generation), OFlags::PATH).is_some();
    assert!(found(generation) && !found(0) && !found(generation ^ 1));
}

#[test]
fn nothing_is_deleted_where_not_all_is_known() {
    let Some(folder) = Folder::new("not-all") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    let at = |name: &str| folder.0.join(name);
    fs::create_dir(at("one")).unwrap();
    for file in ["one/known", "one/gone", "one/other"] {
        fs::write(at(file), file).unwrap();
    }
    let mut tree = folder.tree(&[]);
    let record = Names {
        is_complete: false,
        gone: vec![b"gone".to_vec()],
        ..names(
            folder.key("one"),
            &[("known", folder.key("one/known")), ("lost", NEW[0])],
        )
    };
    put_back(&mut tree, &[record]);
    let remarks = finish(tree);
    assert_eq!(folder.names("one"), ["known", "other"]);
    assert_eq!(folder.names("."), [".orthros-displaced-0", "one"]);
    assert_eq!(folder.names(".orthros-displaced-0").len(), 1);
    let said = remarks.join("\n");
    assert!(
        said.contains("there/lost") && said.contains(".orthros-displaced-0"),
        "{said}"
    );
}

#[test]
fn a_directory_that_was_being_made_keeps_nothing() {
    let Some(folder) = Folder::new("unborn") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    let at = |name: &str| folder.0.join(name);
    fs::create_dir(at("one")).unwrap();
    for file in ["one/known", "one/gone"] {
        fs::write(at(file), file).unwrap();
    }
    let records = [
        Names {
            path: Vec::new(),
            is_complete: false,
            ..names(NEW[0], &[])
        },
        names(folder.key("one"), &[("known", folder.key("one/known"))]),
    ];
    let mut tree = folder.tree(&[]);
    put_back(&mut tree, &records);
    let remarks = finish(tree);
    assert_eq!(remarks, [""; 0]);
    assert_eq!(folder.names("."), ["one"]);
    assert_eq!(folder.names("one"), ["known"]);
}

#[test]
fn a_name_that_nothing_is_known_of_is_gone_if_its_file_has_lost_it() {
    let Some(folder) = Folder::new("changed") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    let at = |name: &str| folder.0.join(name);
    fs::create_dir(at("one")).unwrap();
    let files = [
        "one/unchanged",
        "one/deleted",
        "one/another",
        "one/renamed",
        "one/known-in-part",
    ];
    for file in files {
        fs::write(at(file), file).unwrap();
    }
    let changed = |name: &str, nlink: u32, names_are_known: bool| {
        let (number, generation) = folder.key(name);
        ChangedInode {
            number,
            generation,
            nlink,
            names_are_known,
        }
    };
    let another = changed("one/another", 1, false);
    let mut inodes = vec![
        changed("one/deleted", 0, true),
        ChangedInode {
            generation: another.generation.wrapping_add(1),
            ..another
        },
        changed("one/renamed", 1, true),
        changed("one/known-in-part", 2, false),
    ];
    inodes.sort_by_key(|it| it.number);
    let all = ChangedInodes {
        device: 0,
        is_complete: true,
        inodes,
    };
    let renamed = folder.key("one/renamed");
    let of_one = Names {
        is_complete: false,
        ..names(folder.key("one"), &[("new-name", renamed)])
    };
    let mut tree = Tree {
        changed: Some(&all),
        ..folder.tree(&[])
    };
    put_back(&mut tree, &[of_one]);
    tree.link();
    tree.clear();
    assert_eq!(tree.remarks, Vec::<String>::new());
    assert_eq!(folder.names("one"), ["known-in-part", "new-name", "unchanged"]);
    assert_eq!(fs::read(at("one/new-name")).unwrap(), b"one/renamed");
    assert_eq!(folder.names("."), ["one"]);
    tree.tell_further_names();
    assert_eq!(tree.remarks, Vec::<String>::new());
    fs::hard_link(at("one/known-in-part"), at("one/second")).unwrap();
    fs::hard_link(at("one/known-in-part"), at("one/third")).unwrap();
    tree.tell_further_names();
    assert_eq!(tree.remarks.len(), 1, "{:?}", tree.remarks);
}

#[test]
fn what_a_directory_that_is_not_known_may_have_is_kept() {
    let Some(folder) = Folder::new("changed-in-part") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    fs::create_dir(folder.0.join("one")).unwrap();
    fs::write(folder.0.join("one/renamed"), "content").unwrap();
    let (number, generation) = folder.key("one/renamed");
    let all = ChangedInodes {
        inodes: vec![ChangedInode {
            number,
            generation,
            nlink: 1,
            names_are_known: true,
        }],
        ..ChangedInodes::default()
    };
    let of_one = Names {
        is_complete: false,
        ..names(folder.key("one"), &[])
    };
    let mut tree = Tree {
        changed: Some(&all),
        ..folder.tree(&[])
    };
    put_back(&mut tree, &[of_one]);
    tree.link();
    tree.clear();
    assert!(folder.names("one").is_empty());
    let kept = folder.0.join(format!("{KEPT}-0/1"));
    assert_eq!(fs::read(kept).unwrap(), b"content");
}

#[test]
fn a_name_that_leads_to_a_free_number_is_taken_away() {
    let Some(folder) = Folder::new("free-numbers") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    fs::create_dir(folder.0.join("one")).unwrap();
    for name in ["changed", "deleted", "unchanged"] {
        fs::write(folder.0.join("one").join(name), name).unwrap();
    }
    let key = |name: &str| folder.key(&format!("one/{name}"));
    let (changed, deleted) = (key("changed"), key("deleted"));
    let all = ChangedInodes {
        device: 0,
        is_complete: true,
        inodes: vec![ChangedInode {
            number: changed.0,
            generation: changed.1,
            nlink: 1,
            names_are_known: false,
        }],
    };
    let mut ranges = vec![(changed.0, changed.0), (deleted.0, deleted.0)];
    ranges.sort_unstable();
    let free = FreeNumbers { device: 0, ranges };
    let of_one = Names {
        is_complete: false,
        ..names(folder.key("one"), &[("changed", changed)])
    };
    let mut tree = Tree {
        changed: Some(&all),
        free: Some(&free),
        ..folder.tree(&[])
    };
    put_back(&mut tree, &[of_one]);
    tree.clear();
    assert_eq!(tree.remarks, Vec::<String>::new());
    assert_eq!(folder.names("one"), ["changed", "unchanged"]);
    assert_eq!(folder.names("."), ["one"]);
}

#[test]
fn what_was_made_since_the_failure_is_not_what_a_record_means() {
    let Some(folder) = Folder::new("made-since") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    for directory in ["one", "new"] {
        fs::create_dir(folder.0.join(directory)).unwrap();
    }
    let all = ChangedInodes {
        is_complete: true,
        ..ChangedInodes::default()
    };
    let mut tree = Tree {
        changed: Some(&all),
        ..folder.tree(&[])
    };
    let new = folder.key("new");
    assert!(tree.by_handle(new, OFlags::PATH).is_some());
    tree.failed = 0;
    assert!(tree.by_handle(new, OFlags::PATH).is_none());
    tree.changed = None;
    assert!(tree.by_handle(new, OFlags::PATH).is_some());
}

/// What was removed, is back after an ordinary boot, and was changed by somebody since is not deleted.
#[test]
fn what_somebody_has_changed_is_kept() {
    let Some(folder) = Folder::new("changed") else {
        return eprintln!("this file system has no handles that can be opened: nothing was tried");
    };
    let at = |name: &str| folder.0.join(name);
    let run = |since, failed| {
        fs::create_dir_all(at("one/inner")).unwrap();
        fs::write(at("one/inner/file"), "changed").unwrap();
        let tree = folder.tree(&[]);
        let mut tree = Tree { since, failed, ..tree };
        put_back(&mut tree, &[names(folder.key("one"), &[])]);
        let kept = at(&format!("{KEPT}-0"));
        let remarks = finish(tree);
        assert!(!at("one/inner").exists());
        assert_eq!(remarks.is_empty(), !kept.exists());
        let is_kept = kept.exists();
        let _ = fs::remove_dir_all(kept);
        is_kept
    };
    assert!(run(Since::Boot, 1), "it was made after the failure");
    assert!(!run(Since::Boot, i64::MAX), "nobody has changed it");
    assert!(!run(Since::Nothing, 1), "nobody was there to change it");
}
