//! Mount namespaces of processes, made again from the first process's, which has what they show.
//!
//! A helper enters a copy of the agent's namespace, builds the tree on top of its root, makes that the root and takes the rest
//! away. The agent keeps a descriptor of the result, by which processes enter it, and one of its root, by which files are
//! opened through its mounts. The helper ends. A `proc` shows the processes of the pid namespace of who mounts it, so one of another
//! than the agent's comes when these processes are there, with what lies on it, from a helper among them.

use super::{
    batch::Batch, build::Builder, helper::helped, high::High, namespaces::Namespaces, pid_namespaces, world::World,
    OrRefuse, Refusal, Restored,
};
use crate::sys::{self, Tid};
use rustix::{
    fs::{
        chmodat, chownat, fstat, mkdirat, mknodat, open, openat2, stat, symlinkat, AtFlags, FileType, Gid, Mode,
        OFlags, RawMode, ResolveFlags, Stat, Uid, CWD,
    },
    io::Errno,
    mount::{
        fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
        mount_change, move_mount, open_tree, unmount, FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags,
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    },
    process::{fchdir, pivot_root},
};
use shared_region::context::{FileNode, Id, MountNamespace, Mounted, NamespaceMount, OpenFile};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// How a directory is opened that others are found from.
const TO_DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// MS_* flags of mounts (include/uapi/linux/mount.h), and the attributes that stand for them.
const ATTRIBUTES: [(u64, MountAttrFlags); 7] = [
    (1, MountAttrFlags::MOUNT_ATTR_RDONLY),
    (2, MountAttrFlags::MOUNT_ATTR_NOSUID),
    (4, MountAttrFlags::MOUNT_ATTR_NODEV),
    (8, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    (256, MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
    (1024, MountAttrFlags::MOUNT_ATTR_NOATIME),
    (2048, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
];
const MS_NOATIME: u64 = 1024;
const MS_RELATIME: u64 = 1 << 21;
/// `MS_RDONLY`, of a file system.
const MS_RDONLY: u64 = 1;

/// A namespace that is there again.
#[derive(Debug)]
struct Made {
    /// By which processes enter it.
    entrance: High,
    /// Its root directory.
    root: High,
}

impl Made {
    fn complete(&self, builder: &Builder<'_>, record: &MountNamespace) -> Restored<()> {
        let late = late(record)?;
        let Some(processes) = late.processes else {
            return Ok(());
        };
        let first = builder.world.first_of(processes);
        let first = first.filter(|first| builder.built.contains_key(first));
        let first = first.ok_or_else(|| Refusal::new("proc", "the first of the processes it shows is not restored"))?;
        let namespaces = &builder.objects.namespaces;
        pid_namespaces::inside(namespaces, first, "mount namespace", || {
            rustix::process::umask(Mode::empty());
            sys::enter_namespace(&self.entrance, libc::CLONE_NEWNS).or_refuse(|| "entering it")?;
            let tree = Tree::go_on(record, namespaces, &late.mounts)?;
            tree.restrict(&|index| late.mounts.contains(&index))?;
            tree.lead(&|index| late.mounts.contains(&index))
        })
    }
}

/// What is mounted when processes are there.
#[derive(Debug, Default)]
struct Late {
    /// The pid namespace that it shows.
    processes: Option<Id>,
    /// Indices of these mounts, and of those that lie on them or are parts of them.
    mounts: BTreeSet<usize>,
}

/// Which mounts of a namespace those are.
fn late(record: &MountNamespace) -> Restored<Late> {
    let mut late = Late::default();
    for (index, mount) in record.mounts.iter().enumerate() {
        let on_late = index != 0 && late.mounts.contains(&(mount.parent as usize));
        let is_late = match mount.what {
            Mounted::Processes { namespace, .. } => {
                if late
                    .processes
                    .replace(namespace)
                    .is_some_and(|other| other != namespace)
                {
                    return Err(Refusal::new(
                        "proc",
                        "processes of more than one pid namespace are shown",
                    ));
                }
                true
            }
            Mounted::Part { of, .. } => index != 0 && late.mounts.contains(&(of as usize)),
            _ => false,
        };
        if on_late || is_late {
            late.mounts.insert(index);
        }
    }
    match late.mounts.contains(&0) {
        true => Err(Refusal::new("its root", "it shows processes")),
        false => Ok(late),
    }
}

/// All namespaces that processes need.
#[derive(Debug, Default)]
pub struct MountNamespaces {
    made: BTreeMap<Id, Restored<Made>>,
    /// The agent's own, which is the first process's.
    first: Option<High>,
}

impl MountNamespaces {
    /// Makes all of them. Who needs one that fails is refused later.
    pub fn make(world: &World<'_>, namespaces: &Namespaces, base: u32) -> Restored<Self> {
        let mut all = Self::default();
        if world.mount_namespaces.is_empty() {
            return Ok(all);
        }
        all.first = Some(entrance("self", base)?);
        let follows = |namespace: &MountNamespace| namespace.mounts.iter().any(|mount| mount.follows);
        if world.mount_namespaces.values().any(follows) {
            // As the service manager will do when it starts.
            let everywhere = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
            mount_change("/", everywhere).or_refuse(|| "mounts that others follow")?;
        }
        for (&id, record) in &world.mount_namespaces {
            all.made.insert(id, make(record, namespaces, base));
        }
        Ok(all)
    }

    /// Mounts what shows the processes of pid namespaces, now that those are there. Who is in one that fails is refused.
    pub fn complete(builder: &mut Builder<'_>) {
        let world = builder.world;
        for (&id, record) in &world.mount_namespaces {
            let made = builder.objects.mount_namespaces.get(id).ok();
            let Some(Err(refusal)) = made.map(|made| made.complete(builder, record)) else {
                continue;
            };
            let members = world.in_namespace.iter().filter(|&(_, &namespace)| namespace == id);
            for member in members.filter_map(|(&owner, _)| u32::try_from(owner).ok()) {
                if builder.built.contains_key(&member) {
                    builder.refuse(member, refusal.clone());
                }
            }
        }
    }

    fn get(&self, id: Id) -> Restored<&Made> {
        match self.made.get(&id) {
            Some(Ok(made)) => Ok(made),
            Some(Err(refusal)) => Err(refusal.clone()),
            None => Err(Refusal::new("mount namespace", "there is no record of it")),
        }
    }

    /// The path by which a file is opened through its own mounts; `None` if they are the first process's.
    pub fn path(&self, world: &World<'_>, id: Id, file: &OpenFile) -> Restored<Option<Vec<u8>>> {
        let Some(&namespace) = world.in_namespace.get(&id) else {
            return Ok(None);
        };
        let root = sys::magic_path(&self.get(namespace)?.root);
        Ok(Some([root.as_bytes(), &file.path].concat()))
    }

    /// Lets a process that has one thread enter the namespace it belongs to, if it was born in another.
    pub fn enter(&self, world: &World<'_>, batch: &mut Batch<'_>, id: u32, tid: Tid) -> Restored<()> {
        let Some(first) = &self.first else { return Ok(()) };
        let entrance = match world.in_namespace.get(&u64::from(id)) {
            Some(&namespace) => &self.get(namespace)?.entrance,
            None => first,
        };
        let what = || "mount namespace";
        let (wanted, is) = (
            fstat(entrance).or_refuse(what)?,
            stat(format!("/proc/{tid}/ns/mnt")).or_refuse(what)?,
        );
        if is_same(&wanted, &is) {
            return Ok(());
        }
        let arguments = [entrance.number().into(), libc::CLONE_NEWNS.into()];
        batch.call(what(), libc::SYS_setns, arguments)
    }
}

/// Whether two files are the same one.
pub fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn entrance(process: &str, base: u32) -> Restored<High> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = open(format!("/proc/{process}/ns/mnt"), flags, Mode::empty()).or_refuse(|| "mount namespace")?;
    High::raise(fd, base)
}

/// Makes one, with a helper.
fn make(record: &MountNamespace, namespaces: &Namespaces, base: u32) -> Restored<Made> {
    let take = |helper: Tid| {
        let root = format!("/proc/{helper}/root");
        let root = open(root, TO_DIRECTORY, Mode::empty()).or_refuse(|| "mount namespace")?;
        Ok(Made {
            entrance: entrance(&helper.to_string(), base)?,
            root: High::raise(root, base)?,
        })
    };
    helped("mount namespace", || build(record, namespaces), take)
}

/// Makes this process's namespace the one that was recorded.
fn build(record: &MountNamespace, namespaces: &Namespaces) -> Restored<()> {
    let what = || "its root";
    rustix::process::umask(Mode::empty());
    sys::unshare(libc::CLONE_NEWNS).or_refuse(|| "a new one")?;
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", downstream).or_refuse(what)?;
    let old_root = open("/", TO_DIRECTORY, Mode::empty()).or_refuse(what)?;
    let late = late(record)?;
    let now = |index: usize| !late.mounts.contains(&index);
    let tree = Tree::put_together(record, namespaces, &now)?;
    tree.restrict(&now)?;
    let root = tree.at(0)?;
    fchdir(root).or_refuse(what)?;
    // The old root comes to lie on the new one, and is taken away from there.
    pivot_root(".", ".").or_refuse(what)?;
    fchdir(&old_root).or_refuse(what)?;
    unmount(".", UnmountFlags::DETACH).or_refuse(what)?;
    fchdir(root).or_refuse(what)?;
    tree.lead(&now)
}

/// The mounts of a namespace under construction.
struct Tree<'r> {
    record: &'r MountNamespace,
    namespaces: &'r Namespaces,
    /// The root of each that is there.
    roots: Vec<Option<OwnedFd>>,
}

impl<'r> Tree<'r> {
    fn put_together(
        record: &'r MountNamespace,
        namespaces: &'r Namespaces,
        is_wanted: &dyn Fn(usize) -> bool,
    ) -> Restored<Self> {
        let mut tree = Self::new(record, namespaces);
        let first = record
            .mounts
            .first()
            .ok_or_else(|| Refusal::new("its root", "there is none"))?;
        let root = tree.source(first)?;
        attach(&root, CWD, "/").or_refuse(|| "its root")?;
        tree.roots[0] = Some(root);
        tree.add_all(is_wanted)?;
        Ok(tree)
    }

    /// Adds mounts to a tree that is this process's.
    fn go_on(record: &'r MountNamespace, namespaces: &'r Namespaces, wanted: &BTreeSet<usize>) -> Restored<Self> {
        let mut tree = Self::new(record, namespaces);
        let mut paths: Vec<Vec<u8>> = Vec::new();
        for (index, mount) in record.mounts.iter().enumerate() {
            let above = match index {
                0 => &b"/"[..],
                _ => paths.get(mount.parent as usize).map_or(&b"/"[..], Vec::as_slice),
            };
            let path = Path::new(OsStr::from_bytes(above)).join(relative(&mount.mountpoint));
            if !wanted.contains(&index) {
                // One that is covered is not needed.
                tree.roots[index] = open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok();
            }
            paths.push(path.into_os_string().into_encoded_bytes());
        }
        tree.add_all(&|index| wanted.contains(&index))?;
        Ok(tree)
    }

    fn new(record: &'r MountNamespace, namespaces: &'r Namespaces) -> Self {
        Self {
            record,
            namespaces,
            roots: record.mounts.iter().map(|_| None).collect(),
        }
    }

    /// Mounts those that are wanted but for the root, each behind the one that it lies on.
    fn add_all(&mut self, is_wanted: &dyn Fn(usize) -> bool) -> Restored<()> {
        let record = self.record;
        let mut order = vec![0];
        let mut at = 0;
        while let Some(&parent) = order.get(at) {
            let lies_on = |(_, mount): &(usize, &NamespaceMount)| mount.parent as usize == parent;
            let mut children: Vec<_> = record.mounts.iter().enumerate().skip(1).filter(lies_on).collect();
            // What lies deeper is covered by what lies above it.
            children.sort_by_key(|(_, mount)| std::cmp::Reverse(mount.mountpoint.len()));
            for (index, mount) in children {
                if is_wanted(index) {
                    self.add(index, mount).map_err(|refusal| {
                        Refusal::new(format!("mount {}", String::from_utf8_lossy(&mount.mountpoint)), refusal)
                    })?;
                }
                order.push(index);
            }
            at += 1;
        }
        match order.len() == record.mounts.len() {
            true => Ok(()),
            false => Err(Refusal::new("its mounts", "some lie on none")),
        }
    }

    fn at(&self, index: usize) -> Restored<BorrowedFd<'_>> {
        let root = self.roots.get(index).and_then(Option::as_ref);
        root.map(AsFd::as_fd)
            .ok_or_else(|| Refusal::new("a mount", "is needed before it is there"))
    }

    fn add(&mut self, index: usize, mount: &NamespaceMount) -> Restored<()> {
        let source = self.source(mount)?;
        let is_directory = FileType::from_raw_mode(fstat(&source).or_refuse(|| "type")?.st_mode) == FileType::Directory;
        let point = mountpoint(
            self.at(mount.parent as usize)?,
            relative(&mount.mountpoint),
            is_directory,
        )?;
        attach(&source, &point, "").or_refuse(|| "mounting")?;
        self.roots[index] = Some(source);
        Ok(())
    }

    /// What is to be mounted, on its own.
    fn source(&self, mount: &NamespaceMount) -> Restored<OwnedFd> {
        match &mount.what {
            Mounted::Shown { path, node, number } => shown(path, node, *number),
            Mounted::Part { of, path } => {
                let from = resolve(self.at(*of as usize)?, relative(path), OFlags::PATH).or_refuse(|| "its source")?;
                clone_of(&from, "").or_refuse(|| "its source")
            }
            Mounted::Own {
                fstype,
                source,
                flags,
                options,
                nodes,
            } => own(fstype, source, *flags, options, nodes),
            // Whose processes are shown is told by who mounts.
            Mounted::Processes {
                source, flags, options, ..
            } => own(b"proc", source, *flags, options, &[]),
            Mounted::Queues {
                namespace,
                source,
                root,
            } => {
                // Whose queues are mounted is told by who mounts. The helper goes nowhere else.
                self.namespaces.enter_ipc(*namespace)?;
                own(b"mqueue", source, 0, b"", &[(b"/".to_vec(), root.clone())])
            }
        }
    }

    /// Sets what each mount forbids, when nothing has to be made on it any more.
    fn restrict(&self, is_wanted: &dyn Fn(usize) -> bool) -> Restored<()> {
        let wanted = |(index, _): &(usize, _)| is_wanted(*index);
        for (index, mount) in self.record.mounts.iter().enumerate().filter(wanted) {
            let propagation = if mount.follows { 0 } else { libc::MS_PRIVATE };
            set_attributes(self.at(index)?, attributes(mount.flags), every_attribute(), propagation)
                .or_refuse(|| format!("flags of mount {}", String::from_utf8_lossy(&mount.mountpoint)))?;
        }
        Ok(())
    }

    fn lead(&self, is_wanted: &dyn Fn(usize) -> bool) -> Restored<()> {
        let leading = self.record.mounts.iter().enumerate().filter(|(_, mount)| mount.leads);
        for (index, _) in leading.filter(|(index, _)| is_wanted(*index)) {
            let nothing = MountAttrFlags::empty();
            set_attributes(self.at(index)?, nothing, nothing, libc::MS_SHARED).or_refuse(|| "mounts to be followed")?;
        }
        Ok(())
    }
}

fn relative(path: &[u8]) -> &Path {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }))
}

/// Finds something on one mount, and on no other.
fn resolve(from: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(
        from,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS,
    )
}

fn mountpoint(parent: BorrowedFd<'_>, path: &Path, is_directory: bool) -> Restored<OwnedFd> {
    let what = || "its mount point";
    match resolve(parent, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        found => return found.or_refuse(what),
    }
    make_directories(parent, path.parent()).or_refuse(what)?;
    let mode = Mode::from_raw_mode(0o755);
    match is_directory {
        true => mkdirat(parent, path, mode).or_refuse(what)?,
        false => mknodat(parent, path, FileType::RegularFile, Mode::empty(), 0).or_refuse(what)?,
    }
    resolve(parent, path, OFlags::PATH).or_refuse(what)
}

fn make_directories(from: impl AsFd, path: Option<&Path>) -> rustix::io::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut above: Vec<&Path> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    for directory in above {
        match mkdirat(&from, directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn attach(mount: &OwnedFd, to: impl AsFd, path: &str) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", to, path, flags)
}

fn clone_of(from: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_NO_AUTOMOUNT
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(from, path, flags)
}

/// A mount of something that the first process's namespace shows. What is in memory alone may have to be made first.
fn shown(path: &[u8], node: &FileNode, number: u64) -> Restored<OwnedFd> {
    let name = || String::from_utf8_lossy(path).into_owned();
    let at = Path::new(OsStr::from_bytes(path));
    if number == 0 && at.symlink_metadata().is_err() {
        make_directories(CWD, at.parent()).or_refuse(name)?;
        make_node(CWD, at, node).or_refuse(name)?;
    }
    let found = clone_of(CWD, at).or_refuse(name)?;
    let is = fstat(&found).or_refuse(name)?;
    if FileType::from_raw_mode(is.st_mode) != FileType::from_raw_mode(node.mode) {
        return Err(Refusal::new(name(), "it is of another type now"));
    }
    if number != 0 && is.st_ino != number {
        return Err(Refusal::new(name(), "another file has its name now"));
    }
    Ok(found)
}

fn make_node(from: impl AsFd, at: &Path, node: &FileNode) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(node.mode as RawMode & 0o7777);
    let kind = FileType::from_raw_mode(node.mode as RawMode);
    match kind {
        FileType::Directory => match mkdirat(&from, at, mode) {
            // The root of a file system is there.
            Err(Errno::EXIST) => {}
            made => made?,
        },
        FileType::Symlink => symlinkat(OsStr::from_bytes(&node.target), &from, at)?,
        _ => {
            let device = rustix::fs::makedev((node.rdev >> 20) as u32, (node.rdev & 0xF_FFFF) as u32);
            mknodat(&from, at, kind, mode, device)?;
        }
    }
    let owner = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    chownat(&from, at, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
    // A change of the owner takes some bits away.
    match kind {
        FileType::Symlink => Ok(()),
        _ => chmodat(&from, at, mode, AtFlags::empty()),
    }
}

/// A file system that is nowhere else.
fn own(fstype: &[u8], source: &[u8], flags: u64, options: &[u8], nodes: &[(Vec<u8>, FileNode)]) -> Restored<OwnedFd> {
    let name = || String::from_utf8_lossy(fstype).into_owned();
    let made = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen(OsStr::from_bytes(fstype), FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", OsStr::from_bytes(source))?;
        for option in options.split(|&byte| byte == b',').filter(|option| !option.is_empty()) {
            let end = option.iter().position(|&byte| byte == b'=');
            match end.map(|end| option.split_at(end)) {
                Some((key, value)) => {
                    fsconfig_set_string(&context, OsStr::from_bytes(key), OsStr::from_bytes(&value[1..]))?;
                }
                None => fsconfig_set_flag(&context, OsStr::from_bytes(option))?,
            }
        }
        fsconfig_create(&context)?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        for (path, node) in nodes {
            make_node(&mount, relative(path), node)?;
        }
        if flags & MS_RDONLY != 0 {
            let picked = fspick(&mount, "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
            fsconfig_set_flag(&picked, "ro")?;
            fsconfig_reconfigure(&picked)?;
        }
        Ok(mount)
    };
    made().or_refuse(name)
}

fn every_attribute() -> MountAttrFlags {
    let all = ATTRIBUTES
        .iter()
        .fold(MountAttrFlags::empty(), |all, (_, flag)| all | *flag);
    all | MountAttrFlags::MOUNT_ATTR__ATIME
}

fn attributes(flags: u64) -> MountAttrFlags {
    let set = ATTRIBUTES.iter().filter(|(flag, _)| flags & flag != 0);
    let set = set.fold(MountAttrFlags::empty(), |all, (_, flag)| all | *flag);
    match flags & (MS_NOATIME | MS_RELATIME) {
        0 => set | MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        _ => set,
    }
}

fn set_attributes(
    mount: BorrowedFd<'_>,
    set: MountAttrFlags,
    clear: MountAttrFlags,
    propagation: u64,
) -> std::io::Result<()> {
    sys::mount_setattr(mount, u64::from(set.bits()), u64::from(clear.bits()), propagation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_attributes() {
        let flags = |set: &[MountAttrFlags]| set.iter().fold(MountAttrFlags::empty(), |all, flag| all | *flag);
        let relative = attributes(MS_RELATIME | 1 | 2);
        assert_eq!(
            relative,
            flags(&[MountAttrFlags::MOUNT_ATTR_RDONLY, MountAttrFlags::MOUNT_ATTR_NOSUID])
        );
        assert_eq!(attributes(0), MountAttrFlags::MOUNT_ATTR_STRICTATIME);
        assert_eq!(attributes(MS_NOATIME), MountAttrFlags::MOUNT_ATTR_NOATIME);
    }
}
