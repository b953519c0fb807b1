//! What the salvager would save of every process, taken apart.
//!
//! The image is salvaged as the backup OS would do it, with every process but init protected, and the records it writes
//! are read back. What is shown is therefore what would be restored, and what is named as lost would be.

use salvage::failover::{run, Input, Protected, Stopped};
use salvage::kernel::Kernel;
use salvage::memory::{Image, PhysMem};
use shared_region::context::{
    DirtyFile, FileTable, FrameRun, Inode, Journal, Lost, Mapping, OpenFile, Pipe, Process, SharedMemory, Summary,
    Thread,
};
use shared_region::record::{Kind, Record, RecordError, Stream};
use std::collections::BTreeMap;

/// Bytes for the records, beside a share of the image's size.
const AREA_MIN: usize = 16 << 20;
/// A 16-byte record for each page is the most the frames of one address space can take.
const AREA_SHARE: usize = 4096 / 16;

/// The records of one salvage, by what they belong to.
#[derive(Default)]
pub struct Context {
    /// Processes, in the order they were recorded.
    pub processes: Vec<Process>,
    /// Threads by process id.
    pub threads: BTreeMap<u64, Vec<Thread>>,
    /// Mappings by id of the address space.
    pub mappings: BTreeMap<u64, Vec<Mapping>>,
    /// Frames by id of the address space or the file.
    pub frames: BTreeMap<u64, Vec<FrameRun>>,
    /// Descriptors by id of the table.
    pub tables: BTreeMap<u64, FileTable>,
    /// Open files by id.
    pub files: BTreeMap<u64, OpenFile>,
    /// Files of file systems by id.
    pub inodes: BTreeMap<u64, Inode>,
    /// Journals of file systems.
    pub journals: Vec<Journal>,
    /// Files of processes that are not restored, with data that their disks do not have, by id.
    pub dirty_files: BTreeMap<u64, DirtyFile>,
    /// Pipes by id.
    pub pipes: BTreeMap<u64, Pipe>,
    /// Bytes of unread data by id of the pipe.
    pub unread: BTreeMap<u64, usize>,
    /// Shared memory by id.
    pub shared_memory: BTreeMap<u64, SharedMemory>,
    /// What is not saved, with the process it belongs to (0 if none).
    pub lost: Vec<(u64, Lost)>,
    /// The sums.
    pub summary: Summary,
}

impl Context {
    /// Salvages an image.
    ///
    /// # Errors
    /// The records find no room, or are not what they should be.
    pub fn salvage(kernel: &Kernel<'_, Image<'_>>) -> Result<Self, RecordError> {
        let image = kernel.phys();
        let mut area = vec![0; AREA_MIN + image.bytes().len() / AREA_SHARE];
        let mut retained = vec![0; (image.end().pfn().0 / 8 + 1) as usize];
        let input = Input {
            facts: None,
            protected: Protected::All,
            stopped: Stopped::Image,
            readings: None,
            failover: 0,
            suspect: None,
            warm_pages: 0,
            by_file: false,
        };
        run(kernel, &input, &mut area, &mut retained)?;
        let mut context = Self::default();
        for record in Stream::open(&area)?.records() {
            context.take(record?)?;
        }
        Ok(context)
    }

    /// Puts one record where it belongs. Kinds that nothing here shows are passed over.
    fn take(&mut self, record: Record<'_>) -> Result<(), RecordError> {
        let owner = record.owner;
        match record.kind {
            Kind::Process => self.processes.push(record.decode()?),
            Kind::Thread => self.threads.entry(owner).or_default().push(record.decode()?),
            Kind::Mapping => self.mappings.entry(owner).or_default().push(record.decode()?),
            Kind::Frames => self
                .frames
                .entry(owner)
                .or_default()
                .extend(FrameRun::iter(record.payload)),
            Kind::FileTable => drop(self.tables.insert(owner, record.decode()?)),
            Kind::OpenFile => drop(self.files.insert(owner, record.decode()?)),
            Kind::Inode => drop(self.inodes.insert(owner, record.decode()?)),
            Kind::Journal => self.journals.push(record.decode()?),
            Kind::DirtyFile => drop(self.dirty_files.insert(owner, record.decode()?)),
            Kind::Pipe => drop(self.pipes.insert(owner, record.decode()?)),
            Kind::Bytes => *self.unread.entry(owner).or_default() += record.payload.len(),
            Kind::SharedMemory => drop(self.shared_memory.insert(owner, record.decode()?)),
            Kind::Lost => self.lost.push((owner, record.decode()?)),
            Kind::Summary => self.summary = record.decode()?,
            _ => {}
        }
        Ok(())
    }

    /// Name of a process: that of its first thread.
    pub fn comm(&self, process: &Process) -> &[u8] {
        let threads = self
            .threads
            .get(&u64::from(process.tgid))
            .map_or(&[][..], Vec::as_slice);
        threads
            .iter()
            .find(|thread| thread.tid == process.tgid)
            .map_or(&[], |thread| &thread.comm)
    }
}
