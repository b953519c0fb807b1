//! Files put back on the file system of the host.

use super::*;
use orthros_device::Adopted;
use shared_region::{
    context::{frame_kind, FrameRun, Id},
    device::{ResumeCall, TaskState},
    PAGE_SIZE,
};
use std::os::unix::fs::PermissionsExt;

/// Frame n is full of bytes n.
struct Frames;

impl Host for Frames {
    fn adopt(&self, _: u32, _: &[u8]) -> Restored<Adopted> {
        Err(Refusal::new("memory", "there is none"))
    }
    fn read_frames(&self, pfn: u64, bytes: &mut [u8]) -> Restored<()> {
        for (page, bytes) in bytes.chunks_mut(PAGE_SIZE as usize).enumerate() {
            bytes.fill(pfn as u8 + page as u8);
        }
        Ok(())
    }
    fn resume_call(&self, _: ResumeCall) -> Restored<()> {
        Ok(())
    }
    fn set_times(&self, _: TaskState) -> Restored<()> {
        Ok(())
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("put-back-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn record(&self, name: &str, mode: u32, fstype: &[u8]) -> Inode {
        let path = self.0.join(name).as_os_str().as_bytes().to_vec();
        Inode {
            last_path: path.clone(),
            path,
            mode,
            fstype: fstype.to_vec(),
            number: u64::MAX,
            generation: 7,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            nlink: 1,
            times: [1_000_000_001, 2_000_000_002, 3_000_000_003],
            dirty: true,
            ..Inode::default()
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn world<'a>(inodes: Vec<(Id, Inode, &'a [u8])>) -> World<'a> {
    let mut world = World::default();
    for (id, record, frames) in inodes {
        let frames = vec![frames];
        world.inodes.insert(id, Content { record, frames });
    }
    world
}

fn frames(page: u64, pfn: u64, pages: u64) -> [u8; FrameRun::SIZE] {
    FrameRun::new(page * PAGE_SIZE, pfn, pages, frame_kind::FILE_DIRTY).to_bytes()
}

#[test]
fn directories_come_before_what_is_in_them_and_keep_their_modes_and_times() {
    let folder = Folder::new("directories");
    let file = Inode {
        size: PAGE_SIZE + 5,
        fully_cached: true,
        ..folder.record("outer/inner/file", 0o100_640, b"tmpfs")
    };
    let fifo = folder.record("outer/fifo", 0o010_600, b"tmpfs");
    let run = frames(0, 1, 2);
    let world = world(vec![
        (1, file, &run),
        (2, fifo, &[]),
        (3, folder.record("outer/inner", 0o040_705, b"tmpfs"), &[]),
        (4, folder.record("outer", 0o041_731, b"tmpfs"), &[]),
    ]);
    let done = put_back(&world, &FromDisk::new(), Since::Nothing, &Frames);
    assert_eq!(done.remarks, [""; 0]);
    assert_eq!(done.rewritten, BTreeSet::from([1, 2]));
    for (name, mode) in [
        ("outer", 0o041_731),
        ("outer/inner", 0o040_705),
        ("outer/inner/file", 0o100_640),
        ("outer/fifo", 0o010_600),
    ] {
        let found = fs::symlink_metadata(folder.0.join(name)).unwrap();
        assert_eq!(found.permissions().mode(), mode, "{name}");
        assert_eq!((found.mtime(), found.mtime_nsec()), (2, 2), "{name}");
    }
    let bytes = fs::read(folder.0.join("outer/inner/file")).unwrap();
    assert_eq!(bytes, [[1; PAGE_SIZE as usize].as_slice(), &[2; 5]].concat());
}

#[test]
fn a_deleted_file_is_made_of_pages_and_of_what_was_read_from_its_disk() {
    let folder = Folder::new("deleted");
    let deleted = Inode {
        path: Vec::new(),
        nlink: 0,
        size: 4 * PAGE_SIZE,
        ..folder.record("gone/file", 0o100_755, b"ext4")
    };
    let run = frames(1, 9, 1);
    let world = world(vec![(1, deleted, &run)]);
    let none = put_back(&world, &FromDisk::new(), Since::Nothing, &Frames);
    assert!(none.held.is_empty() && none.remarks[0].contains("not all of it was in memory"));

    let piece = Piece {
        offset: 3 * PAGE_SIZE,
        bytes: vec![5; 10],
    };
    let done = put_back(&world, &FromDisk::from([(1, Ok(vec![piece]))]), Since::Nothing, &Frames);
    assert_eq!(done.remarks, [""; 0]);
    let held = &done.held[&1];
    let mut wanted = vec![0; 4 * PAGE_SIZE as usize];
    wanted[PAGE_SIZE as usize..2 * PAGE_SIZE as usize].fill(9);
    wanted[3 * PAGE_SIZE as usize..][..10].fill(5);
    assert_eq!(fs::read(magic_path(held)).unwrap(), wanted);
    assert_eq!(rustix::fs::fstat(held).unwrap().st_nlink, 0);

    let why = FromDisk::from([(1, Err("the disk is broken".to_owned()))]);
    let failed = put_back(&world, &why, Since::Nothing, &Frames);
    assert!(failed.held.is_empty() && failed.remarks[0].contains("the disk is broken"));
}

#[test]
fn a_file_of_which_nothing_is_known_keeps_a_name() {
    let folder = Folder::new("displaced");
    fs::write(folder.0.join("file"), "stranger").unwrap();
    let new = Inode {
        size: 3,
        fully_cached: true,
        ..folder.record("file", 0o100_600, b"ext4")
    };
    let run = frames(0, 4, 1);
    let mut world = world(vec![(1, new, &run)]);
    let done = put_back(&world, &FromDisk::new(), Since::Nothing, &Frames);
    let displaced = folder.0.join("file.orthros-displaced");
    assert!(done.remarks[0].contains("orthros-displaced"), "{:?}", done.remarks);
    assert_eq!(fs::read(folder.0.join("file")).unwrap(), [4; 3]);
    assert_eq!(fs::read_to_string(&displaced).unwrap(), "stranger");

    // One that is known to have been deleted does not.
    fs::remove_file(displaced).unwrap();
    let number = fs::metadata(folder.0.join("file")).unwrap().ino();
    let deleted = Inode {
        path: Vec::new(),
        nlink: 0,
        number,
        fully_cached: true,
        ..folder.record("file", 0o100_600, b"ext4")
    };
    let content = Content {
        record: deleted,
        frames: Vec::new(),
    };
    world.inodes.insert(2, content);
    let done = put_back(&world, &FromDisk::new(), Since::Nothing, &Frames);
    assert_eq!(done.remarks, [""; 0]);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[test]
fn what_an_earlier_successor_has_made_is_made_again() {
    let folder = Folder::new("again");
    fs::write(folder.0.join("file"), "stranger").unwrap();
    let record = Inode {
        size: 3,
        fully_cached: true,
        ..folder.record("file", 0o100_600, b"ext4")
    };
    let run = frames(0, 4, 1);
    let mut world = world(vec![(1, record, &run)]);
    // Stamps of files are of the last tick.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    world.machine.clock.realtime = now.as_nanos() as i64;
    std::thread::sleep(std::time::Duration::from_millis(30));
    put_back(&world, &FromDisk::new(), Since::Nothing, &Frames);

    // It has died in the middle of putting it back once more, with another name for a file of somebody else's.
    let beside = folder.0.join("file.orthros-restored");
    fs::write(folder.0.join("other"), "other").unwrap();
    fs::hard_link(folder.0.join("other"), &beside).unwrap();
    let done = put_back(&world, &FromDisk::new(), Since::Attempt, &Frames);
    assert_eq!(done.rewritten, BTreeSet::from([1]));
    assert_eq!(fs::read(folder.0.join("file")).unwrap(), [4; 3]);
    assert_eq!(fs::read_to_string(folder.0.join("other")).unwrap(), "other");
    assert!(!beside.exists());
    // The stranger was displaced the first time, and that is told again.
    assert!(done.remarks[0].contains("orthros-displaced"), "{:?}", done.remarks);
    assert_eq!(
        fs::read_to_string(folder.0.join("file.orthros-displaced")).unwrap(),
        "stranger"
    );
}

#[test]
fn blocks_prove_nothing_when_disks_have_been_written_to() {
    let folder = Folder::new("blocks");
    let record = Inode {
        size: 3 * PAGE_SIZE,
        fully_cached: true,
        ..folder.record("file", 0o100_600, b"ext4")
    };
    let run = frames(1, 4, 1);
    let mut world = world(vec![(1, record, &run)]);
    let lost = |page: u64| DiskContent {
        uuid: [1; 16],
        runs: vec![shared_region::context::DiskRun {
            offset: page * PAGE_SIZE,
            at: 1 << 20,
            bytes: PAGE_SIZE,
        }],
    };
    world.disk.insert(1, lost(2));
    let done = put_back(&world, &FromDisk::new(), Since::Attempt, &Frames);
    assert!(
        done.remarks[0].contains("a successor that failed"),
        "{:?}",
        done.remarks
    );
    assert!(!folder.0.join("file").exists());
    // All that has blocks is in memory.
    world.disk.insert(1, lost(1));
    let done = put_back(&world, &FromDisk::new(), Since::Attempt, &Frames);
    assert_eq!(done.remarks, [""; 0]);
    let found = fs::read(folder.0.join("file")).unwrap();
    assert_eq!(found[PAGE_SIZE as usize], 4);
    assert!(found[..PAGE_SIZE as usize].iter().all(|&byte| byte == 0));

    let plan = Plan::again(&world.inodes[&1], &lost(1)).unwrap();
    assert_eq!(plan.holes, [(0, PAGE_SIZE), (2 * PAGE_SIZE, 3 * PAGE_SIZE)]);
    assert_eq!(plan.frames.len(), 1);
    assert!(Plan::again(&world.inodes[&1], &lost(0)).is_err());
}
