//! The records of a stream, put in order: who owns what.
//!
//! Nothing is judged here beyond what the framing says: a record that cannot be read costs the process it belongs to.

use super::{inodes::Piece, sockets::SocketContent, Refusal, Restored};
use shared_region::{
    context::{
        AddressSpace, AioContext, CachedFile, ChangedInodes, Checkpoint, DirtyFile, DiskContent, DiskRun, FatFile,
        FatFileSystem, FileLocks, FileTable, FrameRun, FreeNumbers, Id, IdleJournal, InMountNamespace, InNamespace,
        InnerIds, Inode, InotifyEvent, IoUring, IpcObject, Journal, Keyring, LeftAt, LinkSetup, LoggedFileSystem, Lost,
        Machine, MappedDevice, Mapping, MessageQueue, Mount, MountNamespace, NameGone, Names, Namespace,
        NamespaceNetwork, Netfilter, Network, Network6, Node, OpenFile, Pipe, PosixQueue, Process, PseudoTerminal,
        SavedBy, SemaphoreSet, SharedMemory, SharedSegment, Subvolume, Summary, SwapArea, SwappedPages, Thread,
    },
    record::{flags, Kind, Record, RecordError, Stream},
};
use std::collections::BTreeMap;

/// The version of every record kind this agent reads.
const RECORD_VERSION: u16 = 1;

/// An address space with what lies in it.
#[derive(Debug, Default)]
pub struct Space<'a> {
    /// Its record.
    pub record: AddressSpace,
    /// Its mappings in ascending order.
    pub mappings: Vec<Mapping>,
    /// Payloads of its `Frames` records.
    pub frames: Vec<&'a [u8]>,
    /// Contexts of asynchronous input and output.
    pub rings: Vec<AioContext>,
    /// What lies at addresses without being in frames.
    pub bytes: Vec<(u64, &'a [u8])>,
}

impl Space<'_> {
    /// Every run of its frames.
    pub fn runs(&self) -> impl Iterator<Item = FrameRun> + '_ {
        self.frames.iter().flat_map(|payload| FrameRun::iter(payload))
    }
}

/// A process with its threads, the leader first.
#[derive(Debug, Default)]
pub struct Member {
    /// Its record.
    pub record: Process,
    /// Its threads.
    pub threads: Vec<Thread>,
}

impl Member {
    /// Name of its leader, for messages.
    pub fn comm(&self) -> String {
        self.threads
            .first()
            .map_or_else(String::new, |leader| String::from_utf8_lossy(&leader.comm).into_owned())
    }
}

/// A file or shared-memory object with its cached pages.
#[derive(Debug, Default)]
pub struct Content<'a, R> {
    /// Its record.
    pub record: R,
    /// Payloads of its `Frames` records; `va` in them is the offset in bytes.
    pub frames: Vec<&'a [u8]>,
}

impl<R> Content<'_, R> {
    /// Every run of its frames.
    pub fn runs(&self) -> impl Iterator<Item = FrameRun> + '_ {
        self.frames.iter().flat_map(|payload| FrameRun::iter(payload))
    }
}

/// A pipe with its unread data.
#[derive(Debug, Default)]
pub struct PipeContent<'a> {
    /// Its record.
    pub record: Pipe,
    /// Unread bytes.
    pub data: Vec<&'a [u8]>,
}

/// A ring of io_uring with what lies in its memory.
#[derive(Debug, Default)]
pub struct RingContent<'a> {
    /// Its record.
    pub record: IoUring,
    /// Offsets for `mmap`, and what lies there.
    pub bytes: Vec<(u64, &'a [u8])>,
}

/// What of an address space or of shared memory was on swap.
#[derive(Debug)]
pub struct OnSwap {
    /// Where.
    pub records: Vec<SwappedPages>,
    /// What was read from there, by ascending address or offset, or why it was not.
    pub content: Result<Vec<Piece>, String>,
}

impl Default for OnSwap {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            content: Err("it was not read".to_owned()),
        }
    }
}

impl OnSwap {
    /// Every run, with the area it lies on.
    pub fn runs(&self) -> impl Iterator<Item = (Id, &DiskRun)> {
        let records = self.records.iter();
        records.flat_map(|record| record.runs.iter().map(|run| (record.area, run)))
    }
}

/// The System V objects of an IPC namespace.
#[derive(Debug, Default)]
pub struct SystemV {
    /// Sets of semaphores.
    pub semaphores: Vec<SemaphoreSet>,
    /// Segments of shared memory.
    pub segments: Vec<SharedSegment>,
    /// Message queues.
    pub message_queues: Vec<MessageQueue>,
}

/// Everything a stream holds.
#[derive(Debug, Default)]
pub struct World<'a> {
    /// The dead kernel.
    pub machine: Machine,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// Devices of the device mapper below file systems, lower ones first.
    pub mapped_devices: Vec<(Id, MappedDevice)>,
    /// Mount namespaces beside the first process's.
    pub mount_namespaces: BTreeMap<Id, MountNamespace>,
    /// Which of them processes are in, and open files' paths lead through, by their ids.
    pub in_namespace: BTreeMap<Id, Id>,
    /// UTS, IPC, network, pid and user namespaces beside the first process's.
    pub namespaces: BTreeMap<Id, Namespace>,
    /// Which of them processes are in.
    pub in_namespaces: BTreeMap<u32, Vec<Id>>,
    /// What processes, threads, groups and sessions have for numbers in pid namespaces, by their ids in the first.
    pub inner_ids: BTreeMap<u32, InnerIds>,
    /// Processes by id.
    pub processes: BTreeMap<u32, Member>,
    /// Address spaces.
    pub spaces: BTreeMap<Id, Space<'a>>,
    /// File tables.
    pub tables: BTreeMap<Id, FileTable>,
    /// Open files.
    pub files: BTreeMap<Id, OpenFile>,
    /// Events of inotify that nobody has read, by open file.
    pub inotify_events: BTreeMap<Id, Vec<InotifyEvent>>,
    /// Rings of io_uring, by open file.
    pub rings: BTreeMap<Id, RingContent<'a>>,
    /// Inodes.
    pub inodes: BTreeMap<Id, Content<'a, Inode>>,
    /// Where on their disks inodes have their content, for those that need it.
    pub disk: BTreeMap<Id, DiskContent>,
    /// What of it only the dead kernel's file had, and not in memory, with places on the device.
    pub uncached: BTreeMap<Id, DiskContent>,
    /// Names that deleted inodes had and nobody has now.
    pub names_gone: BTreeMap<Id, NameGone>,
    /// What journals of file systems had not committed.
    pub journals: Vec<Journal>,
    /// Journals that had committed everything.
    pub idle_journals: Vec<IdleJournal>,
    /// XFS.
    pub logged: Vec<LoggedFileSystem>,
    /// The kernel that has saved this, if it runs and this is what a rescue area holds.
    pub saved_by: Option<SavedBy>,
    /// How that kernel has left files that it could not put back whole.
    pub left: BTreeMap<Id, LeftAt>,
    /// Of those whose data goes through the journal, what is committed and not in its place.
    pub checkpoints: Vec<Checkpoint>,
    /// Files that nobody here holds, with data that their disks do not have.
    pub dirty_files: BTreeMap<Id, Content<'a, DirtyFile>>,
    /// What the disks of vfat do not have, but for data of files.
    pub fat: Vec<FatFileSystem>,
    /// Data of files of vfat that their disks do not have, by inode.
    pub fat_files: BTreeMap<Id, Content<'a, FatFile>>,
    /// Directories of file systems whose journals cannot be completed, in which names have changed.
    pub names: Vec<Names>,
    /// What their inodes are.
    pub nodes: Vec<Node>,
    /// Everything that has changed, for file systems that tell it in this way.
    pub changed: Vec<ChangedInodes>,
    /// Subvolumes of btrfs of which something was in memory.
    pub subvolumes: Vec<Subvolume>,
    /// Numbers that no inode has, for file systems of which that is known.
    pub free: Vec<FreeNumbers>,
    /// Files with pages that their disks have as well, the most wanted first.
    pub cached: Vec<(Id, Content<'a, CachedFile>)>,
    /// Shared-memory objects.
    pub shared: BTreeMap<Id, Content<'a, SharedMemory>>,
    /// Areas of swap.
    pub swap_areas: BTreeMap<Id, SwapArea>,
    /// What lies on them, by address space, shared-memory object and inode.
    pub on_swap: BTreeMap<Id, OnSwap>,
    /// Pipes.
    pub pipes: BTreeMap<Id, PipeContent<'a>>,
    /// The machine's network.
    pub network: Network,
    /// Its part of IPv6.
    pub network6: Network6,
    /// What there is to its links beside.
    pub link_setups: Vec<LinkSetup>,
    /// Settings of the machine's network, by their names below `/proc/sys`.
    pub network_settings: Vec<(Vec<u8>, Vec<u8>)>,
    /// What network namespaces have beside loopback, by their ids.
    pub inside: BTreeMap<Id, NamespaceNetwork>,
    /// Its firewall.
    pub netfilter: Netfilter,
    /// The firewall's rules.
    pub rules: &'a [u8],
    /// Sockets.
    pub sockets: BTreeMap<Id, SocketContent<'a>>,
    /// The networks of those that are not of the first process's.
    pub network_of: BTreeMap<Id, Id>,
    /// Pseudo terminals.
    pub terminals: BTreeMap<Id, PseudoTerminal>,
    /// Session keyrings.
    pub keyrings: BTreeMap<Id, Keyring>,
    /// System V objects of the first process's IPC namespace.
    pub ipc: SystemV,
    /// Those of others, by namespace.
    pub ipc_of: BTreeMap<Id, SystemV>,
    /// POSIX message queues.
    pub queues: BTreeMap<Id, PosixQueue>,
    /// IPC namespaces of those that are not the first process's.
    pub namespace_of_queue: BTreeMap<Id, Id>,
    /// Locks on files, by the open files through which they are held.
    pub locks: BTreeMap<Id, Vec<FileLocks>>,
    /// What the salvager could not save, with the process it costs.
    pub lost: Vec<(u32, Lost)>,
    /// The salvager's count.
    pub summary: Summary,
    /// Owners of records that could not be understood and must be, with the reason.
    pub unreadable: Vec<(Id, String)>,
}

impl<'a> World<'a> {
    /// File systems on disks of which all that their disks have not is recorded: device number, UUID and name.
    pub fn file_systems(&self) -> impl Iterator<Item = (u64, [u8; 16], &str)> {
        let journals = self.journals.iter().map(|it| (it.device, it.uuid, &*it.name));
        let idle = self.idle_journals.iter().map(|it| (it.device, it.uuid, &*it.name));
        let logged = self.logged.iter().map(|it| (it.device, it.uuid, &*it.name));
        journals.chain(idle).chain(logged)
    }

    /// Reads a stream. A torn or unknown record is remembered with its owner; it never ends the reading of others.
    pub fn read(stream: &Stream<'a>) -> Self {
        let mut world = Self::default();
        for record in stream.records() {
            match record {
                Ok(record) => {
                    if let Err(why) = world.take(&record) {
                        world.unreadable.push((record.owner, why));
                    }
                }
                Err(error) => world.unreadable.push((0, error.to_string())),
            }
        }
        for member in world.processes.values_mut() {
            let tgid = member.record.tgid;
            member.threads.sort_by_key(|thread| (thread.tid != tgid, thread.tid));
        }
        for space in world.spaces.values_mut() {
            space.mappings.sort_by_key(|mapping| mapping.start);
        }
        world
    }

    /// What was on swap of an object, if anything was.
    ///
    /// # Errors
    /// It could not be read.
    pub fn read_from_swap(&self, id: Id) -> Restored<&[Piece]> {
        match self.on_swap.get(&id).map(|on_swap| &on_swap.content) {
            None => Ok(&[]),
            Some(Ok(pieces)) => Ok(pieces),
            Some(Err(why)) => Err(Refusal::new("memory on swap", why)),
        }
    }

    /// The processes that have an open file of which `is_it` says so.
    pub fn holders<'w>(
        &'w self,
        is_it: impl Fn(Id, &OpenFile) -> bool + 'w,
    ) -> impl Iterator<Item = (u32, &'w Member)> {
        self.processes
            .iter()
            .map(|(&id, member)| (id, member))
            .filter(move |(_, member)| {
                let table = self.tables.get(&member.record.files);
                let mut files = table.into_iter().flat_map(|table| &table.descriptors);
                files.any(|&(_, id, _)| self.files.get(&id).is_some_and(|file| is_it(id, file)))
            })
    }

    /// The namespace of a kind that a process is in, if that is not the first process's.
    pub fn namespace_of(&self, process: u32, is_of_kind: impl Fn(&Namespace) -> bool) -> Restored<Option<Id>> {
        for id in self.in_namespaces.get(&process).into_iter().flatten() {
            match self.namespaces.get(id) {
                Some(namespace) if is_of_kind(namespace) => return Ok(Some(*id)),
                Some(_) => {}
                None => return Err(Refusal::new("namespace", "there is no record of it")),
            }
        }
        Ok(None)
    }

    fn take_ipc(&mut self, namespace: Id, object: IpcObject) {
        let all = self.ipc_of.entry(namespace).or_default();
        match object {
            IpcObject::Semaphores(set) => all.semaphores.push(set),
            IpcObject::Messages(queue) => all.message_queues.push(queue),
            IpcObject::Segment(segment) => all.segments.push(segment),
            IpcObject::PosixQueue(queue) => {
                self.namespace_of_queue.insert(queue, namespace);
            }
        }
    }

    fn take(&mut self, record: &Record<'a>) -> Result<(), String> {
        let owner = record.owner;
        if record.version != RECORD_VERSION {
            return Err(format!(
                "record of kind {} has version {}, expected {RECORD_VERSION}",
                record.kind.0, record.version
            ));
        }
        let text = |error: RecordError| error.to_string();
        match record.kind {
            Kind::Machine => self.machine = record.decode().map_err(text)?,
            Kind::Mount => self.mounts.push(record.decode().map_err(text)?),
            Kind::MappedDevice => self.mapped_devices.push((owner, record.decode().map_err(text)?)),
            Kind::MountNamespace => {
                self.mount_namespaces.insert(owner, record.decode().map_err(text)?);
            }
            Kind::InMountNamespace => {
                let InMountNamespace { namespace } = record.decode().map_err(text)?;
                self.in_namespace.insert(owner, namespace);
            }
            Kind::Namespace => {
                self.namespaces.insert(owner, record.decode().map_err(text)?);
            }
            Kind::InNamespace => {
                let InNamespace { namespace } = record.decode().map_err(text)?;
                let of_process = self.in_namespaces.entry(process_id(owner)).or_default();
                of_process.push(namespace);
            }
            Kind::InnerIds => {
                self.inner_ids.insert(process_id(owner), record.decode().map_err(text)?);
            }
            Kind::Process => self.member(owner).record = record.decode().map_err(text)?,
            Kind::Thread => {
                let thread = record.decode().map_err(text)?;
                self.member(owner).threads.push(thread);
            }
            Kind::AddressSpace => self.spaces.entry(owner).or_default().record = record.decode().map_err(text)?,
            Kind::Mapping => {
                let mapping = record.decode().map_err(text)?;
                self.spaces.entry(owner).or_default().mappings.push(mapping);
            }
            Kind::AioContext => {
                let ring = record.decode().map_err(text)?;
                self.spaces.entry(owner).or_default().rings.push(ring);
            }
            Kind::Frames => self.take_frames(owner, record.payload)?,
            Kind::FileTable => {
                self.tables.insert(owner, record.decode().map_err(text)?);
            }
            Kind::OpenFile => {
                self.files.insert(owner, record.decode().map_err(text)?);
            }
            Kind::InotifyEvents => {
                self.inotify_events.insert(owner, record.decode().map_err(text)?);
            }
            Kind::IoUring => self.rings.entry(owner).or_default().record = record.decode().map_err(text)?,
            Kind::IoUringBytes => {
                let ring = self.rings.get_mut(&owner).ok_or("bytes that belong to no ring")?;
                ring.bytes.push(addressed(record.payload)?);
            }
            Kind::Inode => self.inodes.entry(owner).or_default().record = record.decode().map_err(text)?,
            Kind::DiskContent => {
                self.disk.insert(owner, record.decode().map_err(text)?);
            }
            Kind::UncachedBlocks => {
                self.uncached.insert(owner, record.decode().map_err(text)?);
            }
            Kind::NameGone => {
                self.names_gone.insert(owner, record.decode().map_err(text)?);
            }
            Kind::Journal => self.journals.push(record.decode().map_err(text)?),
            Kind::IdleJournal => self.idle_journals.push(record.decode().map_err(text)?),
            Kind::LoggedFileSystem => self.logged.push(record.decode().map_err(text)?),
            Kind::LeftAt => {
                self.left.insert(owner, record.decode().map_err(text)?);
            }
            Kind::SavedBy => self.saved_by = Some(record.decode().map_err(text)?),
            Kind::Checkpoint => self.checkpoints.push(record.decode().map_err(text)?),
            Kind::DirtyFile => self.dirty_files.entry(owner).or_default().record = record.decode().map_err(text)?,
            Kind::FatFileSystem => self.fat.push(record.decode().map_err(text)?),
            Kind::FatFile => self.fat_files.entry(owner).or_default().record = record.decode().map_err(text)?,
            Kind::CachedFile => {
                let (record, frames) = (record.decode().map_err(text)?, Vec::new());
                self.cached.push((owner, Content { record, frames }));
            }
            Kind::CachedFrames => match self.cached.last_mut() {
                Some((id, file)) if *id == owner => file.frames.push(record.payload),
                _ => return Err("cached frames that belong to nothing".into()),
            },
            Kind::Names => self.names.push(record.decode().map_err(text)?),
            Kind::Node => self.nodes.push(record.decode().map_err(text)?),
            Kind::ChangedInodes => self.changed.push(record.decode().map_err(text)?),
            Kind::FreeNumbers => self.free.push(record.decode().map_err(text)?),
            Kind::Subvolume => self.subvolumes.push(record.decode().map_err(text)?),
            Kind::SharedMemory => self.shared.entry(owner).or_default().record = record.decode().map_err(text)?,
            Kind::SwapArea => {
                self.swap_areas.insert(owner, record.decode().map_err(text)?);
            }
            Kind::SwappedPages => {
                let pages = record.decode().map_err(text)?;
                self.on_swap.entry(owner).or_default().records.push(pages);
            }
            Kind::Pipe => self.pipes.entry(owner).or_default().record = record.decode().map_err(text)?,
            Kind::Bytes => self.take_bytes(owner, record.payload)?,
            Kind::Keyring => {
                self.keyrings.insert(owner, record.decode().map_err(text)?);
            }
            Kind::PseudoTerminal => {
                self.terminals.insert(owner, record.decode().map_err(text)?);
            }
            Kind::SemaphoreSet => self.ipc.semaphores.push(record.decode().map_err(text)?),
            Kind::PosixQueue => {
                self.queues.insert(owner, record.decode().map_err(text)?);
            }
            Kind::SharedSegment => self.ipc.segments.push(record.decode().map_err(text)?),
            Kind::MessageQueue => self.ipc.message_queues.push(record.decode().map_err(text)?),
            Kind::SocketInNamespace => {
                let InNamespace { namespace } = record.decode().map_err(text)?;
                self.network_of.insert(owner, namespace);
            }
            Kind::IpcObject => self.take_ipc(owner, record.decode().map_err(text)?),
            Kind::NamespaceNetwork => {
                self.inside.insert(owner, record.decode().map_err(text)?);
            }
            Kind::NetworkSettings => self.network_settings = record.decode().map_err(text)?,
            Kind::Network => self.network = record.decode().map_err(text)?,
            Kind::Network6 => self.network6 = record.decode().map_err(text)?,
            Kind::LinkSetups => self.link_setups = record.decode().map_err(text)?,
            Kind::Netfilter => self.netfilter = record.decode().map_err(text)?,
            Kind::NetfilterRules => self.rules = record.payload,
            Kind::Socket => self.sockets.entry(owner).or_default().record = record.decode().map_err(text)?,
            Kind::ReceiveQueue => self.socket(owner)?.received.push(record.payload),
            Kind::SendQueue => self.socket(owner)?.to_send.push(record.payload),
            Kind::FileLocks => {
                let locks = record.decode().map_err(text)?;
                self.locks.entry(owner).or_default().push(locks);
            }
            Kind::Lost => self
                .lost
                .push((u32::try_from(owner).unwrap_or(0), record.decode().map_err(text)?)),
            Kind::Summary => self.summary = record.decode().map_err(text)?,
            Kind::Evidence | Kind::Outcome | Kind::Costs | Kind::FileCache => {}
            other if record.flags & flags::MUST_UNDERSTAND != 0 => {
                return Err(format!("record of unknown kind {} that must be understood", other.0));
            }
            _ => {}
        }
        Ok(())
    }

    fn take_bytes(&mut self, owner: Id, payload: &'a [u8]) -> Result<(), String> {
        if let Some(pipe) = self.pipes.get_mut(&owner) {
            pipe.data.push(payload);
            return Ok(());
        }
        let space = self.spaces.get_mut(&owner).ok_or("bytes that belong to nothing")?;
        space.bytes.push(addressed(payload)?);
        Ok(())
    }

    fn take_frames(&mut self, owner: Id, payload: &'a [u8]) -> Result<(), String> {
        let frames = if let Some(space) = self.spaces.get_mut(&owner) {
            &mut space.frames
        } else if let Some(inode) = self.inodes.get_mut(&owner) {
            &mut inode.frames
        } else if let Some(shared) = self.shared.get_mut(&owner) {
            &mut shared.frames
        } else if let Some(file) = self.dirty_files.get_mut(&owner) {
            &mut file.frames
        } else if let Some(file) = self.fat_files.get_mut(&owner) {
            &mut file.frames
        } else {
            return Err("frames that belong to nothing".into());
        };
        frames.push(payload);
        Ok(())
    }

    fn socket(&mut self, owner: Id) -> Result<&mut SocketContent<'a>, String> {
        self.sockets
            .get_mut(&owner)
            .ok_or_else(|| "a queue that belongs to no socket".into())
    }

    fn member(&mut self, owner: Id) -> &mut Member {
        self.processes.entry(process_id(owner)).or_default()
    }
}

/// The process that a record belongs to; one that is not there if it cannot be.
fn process_id(owner: Id) -> u32 {
    u32::try_from(owner).unwrap_or(u32::MAX)
}

/// Bytes with their address before them.
fn addressed(payload: &[u8]) -> Result<(u64, &[u8]), String> {
    let (address, bytes) = payload.split_first_chunk().ok_or("bytes without an address")?;
    Ok((u64::from_le_bytes(*address), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::record::Writer;

    #[test]
    fn what_was_on_swap_and_not_read_is_nobodys() {
        let mut area = vec![0; 4096];
        let mut writer = Writer::new(&mut area, 1).unwrap();
        let run = DiskRun {
            offset: 0x1000,
            at: 0x2000,
            bytes: 0x1000,
        };
        let pages = SwappedPages {
            area: 1,
            runs: vec![run],
            zeros: Vec::new(),
        };
        writer.push(Kind::SwapArea, 1, 0, 1, &SwapArea::default()).unwrap();
        for _ in 0..2 {
            let must = flags::MUST_UNDERSTAND;
            writer.push(Kind::SwappedPages, 1, must, 7, &pages).unwrap();
        }
        writer.finish();
        let mut world = World::read(&Stream::open(&area).unwrap());
        assert!(world.unreadable.is_empty() && world.swap_areas.contains_key(&1));
        assert_eq!(world.on_swap[&7].runs().collect::<Vec<_>>(), [(1, &run), (1, &run)]);
        assert_eq!(world.read_from_swap(8).unwrap(), []);
        assert!(world.read_from_swap(7).unwrap_err().to_string().contains("not read"));
        let piece = Piece {
            offset: 0x1000,
            bytes: vec![1],
        };
        world.on_swap.get_mut(&7).unwrap().content = Ok(vec![piece.clone()]);
        assert_eq!(world.read_from_swap(7).unwrap(), [piece]);
    }
}
