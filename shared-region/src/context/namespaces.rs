//! Namespaces of processes, as a service manager makes them for its services.

use super::{AddressLife, Id, NetworkAddress};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A mount namespace other than that of the first process ([`crate::record::Kind::MountNamespace`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountNamespace {
    /// Its mounts that can be seen from its root, each behind the one it lies on; the first is the root.
    pub mounts: Vec<NamespaceMount>,
}

/// A mount of a [`MountNamespace`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceMount {
    /// The mount it lies on, as an index; that of the root is not looked at.
    pub parent: u32,
    /// Where on that one: a path from the root of that mount.
    pub mountpoint: Vec<u8>,
    /// MS_* flags of the mount, without those of its file system.
    pub flags: u64,
    /// What is mounted elsewhere comes here as well (a slave).
    pub follows: bool,
    /// What is mounted here goes to others as well (shared).
    pub leads: bool,
    /// What is mounted.
    pub what: Mounted,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mounted {
    /// A file or directory that the first process's namespace has as well.
    Shown {
        /// Its path there.
        path: Vec<u8>,
        /// What it is.
        node: FileNode,
        /// Inode number, if its file system keeps those; else 0.
        number: u64,
    },
    /// A file or directory of another mount of this namespace, before this one.
    Part {
        /// Index of that mount.
        of: u32,
        /// Path from the root of its file system.
        path: Vec<u8>,
    },
    /// A file system that is mounted nowhere else.
    Own {
        /// `tmpfs`, `proc`.
        fstype: Vec<u8>,
        /// `mnt_devname`.
        source: Vec<u8>,
        /// MS_* flags of the file system.
        flags: u64,
        /// Its options, as `mount` takes them.
        options: Vec<u8>,
        /// What is in it, directories before what is in them.
        nodes: Vec<(Vec<u8>, FileNode)>,
    },
    /// The POSIX message queues of an IPC namespace.
    Queues {
        /// Id of the namespace.
        namespace: Id,
        /// `mnt_devname`.
        source: Vec<u8>,
        /// The root directory.
        root: FileNode,
    },
    /// A `proc` that shows the processes of a pid namespace.
    Processes {
        /// Id of the namespace.
        namespace: Id,
        /// `mnt_devname`.
        source: Vec<u8>,
        /// MS_* flags of the file system.
        flags: u64,
        /// Its options, as `mount` takes them.
        options: Vec<u8>,
    },
}

impl Default for Mounted {
    fn default() -> Self {
        Self::Part {
            of: 0,
            path: Vec::new(),
        }
    }
}

/// A file of any kind, but for what a regular file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNode {
    /// File type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a device: major << 20 | minor.
    pub rdev: u64,
    /// Where a symbolic link leads.
    pub target: Vec<u8>,
}

/// The namespace that a process is in, or that an open file's path leads through
/// ([`crate::record::Kind::InMountNamespace`]), if that is not the first process's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InMountNamespace {
    /// Id of the namespace.
    pub namespace: Id,
}

/// A UTS, IPC, network, pid, cgroup or user namespace other than that of the first process ([`crate::record::Kind::Namespace`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// The user namespace in which one may change it, 0 if that is the first. Of a user namespace: its parent.
    pub owned_by: Id,
    /// What it is.
    pub what: NamespaceKind,
}

/// What a [`Namespace`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Names of the machine.
    Uts {
        /// As `sethostname` takes it.
        host: Vec<u8>,
        /// As `setdomainname` takes it.
        domain: Vec<u8>,
    },
    /// Ids and capabilities.
    User(UserNamespace),
    /// System V objects and POSIX message queues: those of [`crate::record::Kind::IpcObject`].
    Ipc {
        /// Limits: the name of each below `/proc/sys`, and what is written there.
        settings: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// A network of its own.
    Network(NetworkNamespace),
    /// Numbers of processes, threads, groups and sessions: those of [`crate::record::Kind::InnerIds`]. Children of a process that
    /// is in it ([`InNamespace`]) are born in it; the process has no number in it itself, unless its own [`InnerIds`] say so.
    Pid {
        /// The namespace it is in, 0 for the first.
        parent: Id,
        /// The number that was given last (`/proc/sys/kernel/ns_last_pid`).
        last: u32,
    },
    /// Control groups below one, which is the root there.
    Cgroup {
        /// Path of that one in the hierarchy of version 2.
        root: Vec<u8>,
    },
}

impl Default for NamespaceKind {
    fn default() -> Self {
        Self::Uts {
            host: Vec::new(),
            domain: Vec::new(),
        }
    }
}

/// Ids and capabilities of their own. All ids in it are those of the first user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User and group of who has made it.
    pub owner: (u32, u32),
    /// What `uid_map` says: first id inside, first id outside, how many.
    pub uids: Vec<(u32, u32, u32)>,
    /// `gid_map`.
    pub gids: Vec<(u32, u32, u32)>,
    /// `projid_map`.
    pub projects: Vec<(u32, u32, u32)>,
    /// Whether `setgroups` is allowed.
    pub setgroups: bool,
    /// What all processes in it together may have at most, as limited when it was made: RLIMIT_NPROC, RLIMIT_MSGQUEUE,
    /// RLIMIT_SIGPENDING, RLIMIT_MEMLOCK.
    pub limits: [u64; 4],
}

/// A network: settings, and its loopback link. What else it has is in [`super::NamespaceNetwork`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkNamespace {
    /// Whether the link is up.
    pub up: bool,
    /// All addresses of the link.
    pub addresses: Vec<NetworkAddress>,
    /// How long those of IPv6 are good.
    pub lives: Vec<AddressLife>,
    /// Settings: the name of each below `/proc/sys`, and what is written there.
    pub settings: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The numbers that a process, thread, process group or session has in pid namespaces other than the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerIds {
    /// Id of the innermost, which it is in.
    pub namespace: Id,
    /// Its number in that one, in the one around it, and so on, without that in the first.
    pub numbers: Vec<u32>,
}

/// A namespace that a process is in ([`crate::record::Kind::InNamespace`]), or a socket
/// ([`crate::record::Kind::SocketInNamespace`]); one record for each that is not the first process's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InNamespace {
    /// Id of the namespace.
    pub namespace: Id,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<T: Serialize>(record: &T) -> Vec<u8> {
        postcard::to_allocvec(record).unwrap()
    }

    /// The bytes are an interface between programs of different age.
    #[test]
    fn golden_bytes() {
        let uts = Namespace {
            owned_by: 3,
            what: NamespaceKind::Uts {
                host: b"a".to_vec(),
                domain: b"bc".to_vec(),
            },
        };
        assert_eq!(bytes(&uts), [3, 0, 1, b'a', 2, b'b', b'c']);
        let user = Namespace {
            owned_by: 0,
            what: NamespaceKind::User(UserNamespace {
                owner: (1, 2),
                uids: [(0, 200, 1)].into(),
                gids: [(0, 0, 1), (5, 6, 7)].into(),
                projects: Vec::new(),
                setgroups: true,
                limits: [1, 2, 3, 4],
            }),
        };
        let expected = [0, 1, 1, 2, 1, 0, 200, 1, 1, 2, 0, 0, 1, 5, 6, 7, 0, 1, 1, 2, 3, 4];
        assert_eq!(bytes(&user), expected);
        assert_eq!(bytes(&InNamespace { namespace: 9 }), [9]);
        let ipc = NamespaceKind::Ipc {
            settings: [(b"a".to_vec(), b"12".to_vec())].into(),
        };
        assert_eq!(bytes(&ipc), [2, 1, 1, b'a', 2, b'1', b'2']);
        let network = NamespaceKind::Network(NetworkNamespace {
            up: true,
            addresses: [NetworkAddress {
                link: 1,
                local: [127, 0, 0, 1].to_vec(),
                ..NetworkAddress::default()
            }]
            .into(),
            lives: Vec::new(),
            settings: [(b"a".to_vec(), b"1".to_vec())].into(),
        });
        let expected = [3, 1, 1, 1, 4, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, b'a', 1, b'1'];
        assert_eq!(bytes(&network), expected);
        let pid = NamespaceKind::Pid { parent: 7, last: 300 };
        assert_eq!(bytes(&pid), [4, 7, 0xAC, 2]);
        let cgroup = NamespaceKind::Cgroup { root: b"/a".to_vec() };
        assert_eq!(bytes(&cgroup), [5, 2, b'/', b'a']);
        let inner = InnerIds {
            namespace: 9,
            numbers: [1, 200].into(),
        };
        assert_eq!(bytes(&inner), [9, 2, 1, 200, 1]);
        let processes = Mounted::Processes {
            namespace: 9,
            source: b"p".to_vec(),
            flags: 1,
            options: b"gid=5".to_vec(),
        };
        assert_eq!(bytes(&processes), [4, 9, 1, b'p', 1, 5, b'g', b'i', b'd', b'=', b'5']);
        let queues = Mounted::Queues {
            namespace: 5,
            source: b"q".to_vec(),
            root: FileNode {
                mode: 7,
                uid: 8,
                ..FileNode::default()
            },
        };
        assert_eq!(bytes(&queues), [3, 5, 1, b'q', 7, 8, 0, 0, 0]);
    }
}
