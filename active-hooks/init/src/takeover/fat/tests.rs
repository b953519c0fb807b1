use super::*;
use crate::restore::host::Memory;
use shared_region::context::{frame_kind, BlockDevice, FatBlock, FatDirectory, FrameRun, PagePart};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Bytes of the file that a kernel has made and not written.
const MADE: usize = 30_000;
const DIRECTORY_NAME: &str = "a directory with a long name";

fn tool(name: &str, arguments: &[&str]) -> (bool, String) {
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
    let command = Command::new(name).args(arguments).env("PATH", path).output();
    let done = command.unwrap_or_else(|error| panic!("{name} (apt install dosfstools mtools): {error}"));
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), text)
}

fn content_of_made() -> Vec<u8> {
    (0..MADE).map(|at| (at % 251) as u8 + 1).collect()
}

/// A volume as it is on the disk, and what a kernel has in memory since a directory and a file in it were made.
struct Case {
    folder: PathBuf,
    record: FatFileSystem,
    memory: Memory,
    /// The frame, with zeros before, of the first page of the file.
    pfn: u64,
    entry: u64,
}

impl Case {
    fn new(name: &str, options: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("orthros-fat-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let text = |file: &str| folder.join(file).to_str().unwrap().to_owned();
        let (disk, after, made) = (text("disk"), text("after"), text("made"));
        std::fs::write(&made, content_of_made()).unwrap();
        // Large sectors take a larger volume to have as many clusters as FAT32 must have.
        let size: u64 = if options.contains(&"4096") { 280 << 20 } else { 40 << 20 };
        File::create(&disk).unwrap().set_len(size).unwrap();
        let run = |name: &str, arguments: &[&str]| {
            let (done, said) = tool(name, arguments);
            assert!(done, "{name} {arguments:?}: {said}");
        };
        run("mkfs.vfat", &[options, &[disk.as_str()]].concat());
        run("mcopy", &["-i", &disk, &made, "::there"]);
        std::fs::copy(&disk, &after).unwrap();
        let target = format!("::{DIRECTORY_NAME}");
        run("mmd", &["-i", &after, &target]);
        run("mcopy", &["-i", &after, &made, &format!("{target}/Made.Fil")]);
        let (before, now) = (std::fs::read(&disk).unwrap(), std::fs::read(&after).unwrap());
        let boot: [u8; 512] = before[..512].try_into().unwrap();
        let geometry = volume::layout(&boot, size / 512).unwrap();
        let after_file = File::open(&after).unwrap();
        let mut volume = Volume::open(&after_file, geometry, size / 512).unwrap();
        let tree = Tree::walk(&mut volume, &BTreeSet::new(), Instant::now() + WALK).unwrap();
        let is_made = |&place: &u64| {
            let raw = volume.entry(place).unwrap();
            raw[..8] == *b"MADE    "
        };
        let entry = tree.places.iter().copied().find(is_made).unwrap();
        let raw = volume.entry(entry).unwrap();
        let sector = geometry.sector as usize;
        let is_own = |number: u64| match volume.area(number) {
            Some(Area::Fat { .. } | Area::Root) => true,
            Some(Area::Cluster(cluster)) => tree.owner(cluster) == Owner::Directory,
            _ => false,
        };
        let mut memory = Vec::new();
        let mut blocks = Vec::new();
        for (number, content) in now.chunks(sector).enumerate() {
            if content != &before[number * sector..][..sector] && is_own(number as u64) {
                blocks.push(FatBlock {
                    sector: number as u64,
                    at: memory.len() as u64,
                });
                memory.extend_from_slice(content);
            }
        }
        memory.resize(memory.len().next_multiple_of(PAGE_SIZE as usize), 0);
        let pfn = memory.len() as u64 / PAGE_SIZE;
        memory.extend(content_of_made());
        memory.resize(memory.len().next_multiple_of(PAGE_SIZE as usize), 0xEE);
        let record = FatFileSystem {
            name: "vdz".into(),
            disk: BlockDevice {
                sectors: size / 512,
                ..BlockDevice::default()
            },
            geometry,
            is_behind: true,
            last_allocated: 2,
            blocks,
            inodes: vec![FatInode {
                id: 7,
                position: entry,
                start: entry::start(&raw, geometry.bits),
                size: MADE as u32,
                attributes: 32,
                times: [951_782_400_000_000_000; 3],
            }],
            ..FatFileSystem::default()
        };
        Self {
            folder,
            record,
            memory: Memory(memory),
            pfn,
            entry,
        }
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// The block of the record with a sector.
    fn block(&mut self, sector: u64) -> &mut [u8] {
        let bytes = self.record.geometry.sector as usize;
        let block = self.record.blocks.iter().find(|block| block.sector == sector);
        let at = block.map(|block| block.at).unwrap() as usize;
        &mut self.memory.0[at..at + bytes]
    }

    /// Entry of the FAT in memory.
    fn set_next(&mut self, cluster: u32, next: u32) {
        let (geometry, at) = (self.record.geometry, cluster as usize * 4);
        let sector = geometry.fat_start + at as u64 / u64::from(geometry.sector);
        let within = at % geometry.sector as usize;
        self.block(sector)[within..within + 4].copy_from_slice(&next.to_le_bytes());
    }

    fn complete(&self) -> Result<String, String> {
        let device = OpenOptions::new().read(true).write(true).open(self.disk()).unwrap();
        let pages = (MADE as u64).div_ceil(PAGE_SIZE);
        // All but the last page as frames, and that as a part.
        let frames = FrameRun::new(0, self.pfn, pages - 1, frame_kind::FILE_DIRTY).to_bytes();
        let last = (pages - 1) * PAGE_SIZE;
        let part = |at: u64, bytes: u32| PagePart {
            offset: last + at,
            at: self.pfn * PAGE_SIZE + last + at,
            bytes,
        };
        let file = Content {
            record: FatFile {
                parts: vec![part(0, 2048), part(2048, 2048)],
            },
            frames: vec![&frames[..]],
        };
        complete(&device, &self.record, &BTreeMap::from([(7, file)]), &self.memory)
    }

    fn is_sound(&self) {
        let (done, said) = tool("fsck.vfat", &["-n", self.disk().to_str().unwrap()]);
        assert!(done, "{said}");
    }

    fn has_all(&self) {
        self.is_sound();
        let out = self.folder.join("out");
        let source = format!("::{DIRECTORY_NAME}/Made.Fil");
        let disk = self.disk();
        let arguments = ["-n", "-i", disk.to_str().unwrap(), &source, out.to_str().unwrap()];
        let _ = std::fs::remove_file(&out);
        let (done, said) = tool("mcopy", &arguments);
        assert!(done, "{said}");
        assert!(std::fs::read(&out).unwrap() == content_of_made());
    }

    /// It is refused, and nothing is written.
    fn is_refused(&self, why: &str) {
        let before = std::fs::read(self.disk()).unwrap();
        let error = self.complete().unwrap_err();
        assert!(error.contains(why), "{error}");
        assert!(std::fs::read(self.disk()).unwrap() == before, "{error}");
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const KINDS: [(&str, &[&str]); 4] = [
    ("12", &["-F", "12", "-s", "32"]),
    ("16", &["-F", "16", "-S", "1024", "-s", "4"]),
    ("32", &["-F", "32", "-s", "1"]),
    ("32-large", &["-F", "32", "-S", "4096", "-s", "1"]),
];

#[test]
fn what_only_memory_has_comes_to_the_disk() {
    for (name, options) in KINDS {
        let case = Case::new(name, options);
        let done = case.complete().unwrap();
        assert!(done.contains("30000 bytes of 1 files"), "{done}");
        case.has_all();
        // The next successor does the same once more.
        case.complete().unwrap();
        case.has_all();
    }
}

#[test]
fn size_and_start_come_from_the_inode_and_surplus_clusters_go() {
    let mut case = Case::new("inode", KINDS[2].1);
    let sector = case.entry / 16;
    let at = (case.entry % 16) as usize * 32;
    // As a file is whose entry has not been written since it was made.
    let entry = &mut case.block(sector)[at..at + 32];
    entry[20..22].fill(0);
    entry[26..32].fill(0);
    case.complete().unwrap();
    case.has_all();
    case.record.inodes[0].size = 1000;
    let done = case.complete().unwrap();
    assert!(done.contains("57 clusters freed"), "{done}");
    case.is_sound();
    (case.record.inodes[0].size, case.record.inodes[0].attributes) = (0, 33);
    case.complete().unwrap();
    case.is_sound();
}

#[test]
fn copies_of_the_fat_follow_the_first_and_lost_clusters_are_freed() {
    let mut case = Case::new("lost", KINDS[2].1);
    let geometry = case.record.geometry;
    let second = geometry.fat_start + geometry.fat_sectors;
    case.record
        .blocks
        .retain(|block| !(second..geometry.root_start).contains(&block.sector));
    let start = case.record.inodes[0].start;
    // One that was being given to somebody.
    case.set_next(start + 64, 0x0FFF_FFFF);
    let done = case.complete().unwrap();
    assert!(done.contains("1 clusters freed"), "{done}");
    case.has_all();
    // On a volume that was not whole before, it may be anything.
    let mut case = Case::new("lost-before", KINDS[2].1);
    case.set_next(start + 64, 0x0FFF_FFFF);
    case.record.was_dirty = true;
    let done = case.complete().unwrap();
    assert!(
        done.contains("0 clusters freed") && done.contains("1 clusters are nobody's"),
        "{done}"
    );
}

#[test]
fn names_half_made_are_completed_or_taken_back() {
    let mut case = Case::new("names", KINDS[2].1);
    let geometry = case.record.geometry;
    let start = (case.entry / 16 - geometry.data_start) as u32 / geometry.cluster + 2;
    // The name that the file had before it was renamed, as the directory has it beside the new one.
    let sector = case.entry / 16;
    let at = (case.entry % 16) as usize * 32;
    let old = at + 64;
    let block = case.block(sector);
    block.copy_within(at..at + 32, old);
    block[old..old + 8].copy_from_slice(b"OLD     ");
    // Part of a name whose entry was not made yet.
    block.copy_within(at - 32..at, old + 32);
    case.record.changing = vec![FatDirectory {
        start,
        names: vec![(b"old.fil".to_vec(), Some(7)), (b"Made.Fil".to_vec(), Some(7))],
    }];
    case.complete().unwrap();
    case.has_all();
    // Without what is known of the name both stay, and the volume is not touched.
    let mut case = Case::new("names-unknown", KINDS[2].1);
    let block = case.block(sector);
    block.copy_within(at..at + 32, old);
    block[old..old + 8].copy_from_slice(b"OLD     ");
    case.is_refused("belongs to two files");
    // A name that leads nowhere has not been given yet; its inode makes it one all the same.
    let mut case = Case::new("names-new", KINDS[2].1);
    case.record.changing = vec![FatDirectory {
        start,
        names: vec![(b"made.fil".to_vec(), None)],
    }];
    let done = case.complete().unwrap();
    assert!(!done.contains("under way"), "{done}");
    case.record.inodes.clear();
    let done = case.complete().unwrap();
    assert!(done.contains("under way: 2 entries"), "{done}");
    case.is_sound();
}

#[test]
fn a_file_whose_name_was_being_changed_gets_its_entry_back() {
    let mut case = Case::new("detached", KINDS[2].1);
    let geometry = case.record.geometry;
    let start = (case.entry / 16 - geometry.data_start) as u32 / geometry.cluster + 2;
    // The entry has not been written since the file was made, and its inode has let go of it.
    let (sector, at) = (case.entry / 16, (case.entry % 16) as usize * 32);
    let entry = &mut case.block(sector)[at..at + 32];
    entry[20..22].fill(0);
    entry[26..32].fill(0);
    case.record.inodes[0].position = 0;
    case.record.changing = vec![FatDirectory {
        start,
        names: vec![(b"Made.Fil".to_vec(), Some(7))],
    }];
    case.complete().unwrap();
    case.has_all();
}

#[test]
fn what_contradicts_the_disk_is_refused_and_nothing_is_written() {
    let broken = |why: &str, breaks: &dyn Fn(&mut Case)| {
        let mut case = Case::new("refused", KINDS[2].1);
        breaks(&mut case);
        case.is_refused(why);
    };
    broken("not what the dead kernel says", &|case| case.record.geometry.fats = 1);
    broken("not what the dead kernel says", &|case| {
        case.record.geometry.volume ^= 1
    });
    broken("none of vfat", &|case| case.record.disk.sectors /= 2);
    broken("beyond its end", &|case| case.record.blocks[0].sector = 1 << 40);
    broken("is in no directory", &|case| case.record.inodes[0].position = 1 << 40);
    broken("is in no directory", &|case| case.record.inodes[0].position = 5);
    broken("is not that of its file", &|case| case.record.inodes[0].position -= 1);
    broken("is not that of its file", &|case| {
        case.record.inodes[0].attributes |= 16
    });
    broken("is none", &|case| case.record.inodes[0].start = 1 << 30);
    broken("has no end", &|case| case.record.inodes[0].start += 500);
    broken("belongs to two files", &|case| case.record.inodes[0].start = 3);
    broken("too few clusters", &|case| case.record.inodes[0].size += 4096);
    broken("is none", &|case| {
        let start = case.record.inodes[0].start;
        case.set_next(start + 5, start);
    });
    broken("has no end", &|case| {
        let start = case.record.inodes[0].start;
        case.set_next(start + 5, 0);
    });
    // An entry in the middle of a file's data, which looks like one.
    broken("is in no directory", &|case| {
        // The root directory has the first cluster, a file the next ones.
        let first = (case.record.geometry.data_start + 1) * 16;
        let is_like_a_file = |index: &usize| content_of_made()[index * 32 + 11] & 24 == 0;
        let index = (0..100).find(is_like_a_file).unwrap();
        case.record.inodes[0].position = first + index as u64;
    });
    broken("same entry", &|case| case.record.inodes.push(case.record.inodes[0]));
}

#[test]
fn a_volume_that_lacks_nothing_is_told_to_be_whole() {
    let mut case = Case::new("idle", KINDS[2].1);
    let state = |path: &Path| std::fs::read(path).unwrap()[65];
    let mut image = std::fs::read(case.disk()).unwrap();
    image[65] |= 1;
    std::fs::write(case.disk(), &image).unwrap();
    case.record.is_behind = false;
    case.record.was_dirty = true;
    case.complete().unwrap();
    assert_eq!(state(&case.disk()), 1);
    case.record.was_dirty = false;
    case.complete().unwrap();
    assert_eq!(state(&case.disk()), 0);
    case.is_sound();
}
