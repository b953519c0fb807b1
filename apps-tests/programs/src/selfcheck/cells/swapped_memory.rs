//! Memory on swap. It is pushed out before the failure, and no cell goes on before none of it is in memory any more.

use crate::cell::{same, write_all, Cell, Context};
use crate::sys::file;
use crate::sys::memory::{Region, PAGE, PAGE_WORDS};
use crate::sys::process::fork;
use anyhow::{bail, ensure, Context as _, Result};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const CELLS: &[Cell] = &[
    Cell {
        name: "swapped/private",
        what: "8 MB of private anonymous memory on swap, some pages of it zero, and it can be written afterwards",
        covers: &[
            "SwappedPages.area",
            "SwappedPages.runs",
            "SwapArea.device",
            "SwapArea.header",
            "SwapArea.pages",
            "SwapDevice.Block",
            "BlockDevice.path",
            "BlockDevice.start",
            "BlockDevice.sectors",
            "SwapDevice.FileSystem",
        ],
        caught: None,
        run: private,
    },
    Cell {
        name: "swapped/mixed",
        what: "16 MB, every third page on swap and the others in memory",
        covers: &["SwappedPages.runs", "frame_kind.OWN"],
        caught: None,
        run: mixed,
    },
    Cell {
        name: "swapped/forked",
        what: "parent and child share pages on swap; later writes stay private",
        covers: &["SwappedPages.runs"],
        caught: None,
        run: forked,
    },
    Cell {
        name: "swapped/file-private",
        what:
            "pages of a private file mapping on swap, some of them zero where the file is not, and the file as it was",
        covers: &["SwappedPages.runs", "SwappedPages.zeros", "Backing.FilePrivate"],
        caught: None,
        run: file_private,
    },
    Cell {
        name: "swapped/shared",
        what: "shared anonymous memory of two processes on swap: contents, and that it is still shared",
        covers: &["SwappedPages.runs", "Backing.SharedMemory"],
        caught: None,
        run: shared,
    },
    Cell {
        name: "swapped/memfd",
        what: "a memfd on swap: contents through descriptor and mapping, and its size, which ends within a page",
        covers: &["SwappedPages.runs", "SharedMemory.size"],
        caught: None,
        run: memfd,
    },
    Cell {
        name: "swapped/tmpfs",
        what: "a file on tmpfs that is on swap: contents through descriptor, mapping and path",
        covers: &["SwappedPages.runs", "Inode.path"],
        caught: None,
        run: tmpfs,
    },
];

const PAGES: usize = 2048;
const ROOT: &str = "/sys/fs/cgroup";
const PATIENCE: Duration = Duration::from_secs(120);
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// A control group to which this process's memory is charged, so that it can be pushed out without the rest of the machine's.
struct Apart(PathBuf);

impl Apart {
    /// Enters one. Only memory that comes afterwards belongs to it.
    fn enter(context: &Context) -> Result<Self> {
        let areas = fs::read_to_string("/proc/swaps")?;
        if areas.lines().count() < 2 {
            return context.skip("no swap area is in use");
        }
        context.need_root()?;
        fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+memory").context("memory controller")?;
        let group = Path::new(ROOT).join(format!("swapped-{}", std::process::id()));
        fs::create_dir_all(&group)?;
        fs::write(group.join("cgroup.procs"), "0").context("entering a control group")?;
        Ok(Self(group))
    }

    /// Pushes out some pages of a mapping until none of them is in memory, not even in the swap cache, and leaves the group.
    fn push_out(&self, memory: &Region, pages: impl Iterator<Item = usize> + Clone) -> Result<()> {
        fs::write(Path::new(ROOT).join("cgroup.procs"), "0").context("leaving the control group")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            memory.page_out(pages.clone())?;
            // It tells that there was less to be had: then there is nothing left.
            let _ = fs::write(self.0.join("memory.reclaim"), "64M");
            let resident = memory.resident()?;
            let left = pages.clone().filter(|&page| resident[page]).count();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{left} pages stay in memory");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn private(context: &mut Context) -> Result<()> {
    let apart = Apart::enter(context)?;
    let memory = Region::private(PAGES)?;
    // When a huge page is split, Linux 6.12 maps the zero page for those of its pages that are zero.
    memory.advise(libc::MADV_NOHUGEPAGE)?;
    let zeros = 500..600;
    let others = || (0..PAGES).filter(|page| !zeros.contains(page));
    memory.fill(90, others());
    zeros.clone().for_each(|page| memory.set(page * PAGE_WORDS, 0));
    apart.push_out(&memory, 0..PAGES)?;
    context.failover(|| {
        memory.set(777_777, 0);
        Ok(())
    })?;
    memory.verify("memory", 90, others())?;
    memory.verify_zero("page of zeros", zeros.clone())?;
    memory.fill(91, 0..PAGES);
    memory.verify("memory written afterwards", 91, 0..PAGES)
}

fn mixed(context: &mut Context) -> Result<()> {
    const PAGES: usize = 4096;
    let apart = Apart::enter(context)?;
    let memory = Region::private(PAGES)?;
    // Else the first page would bring its neighbours along.
    memory.advise(libc::MADV_NOHUGEPAGE)?;
    let out = || (0..PAGES).step_by(3);
    let others = || (0..PAGES).filter(|page| page % 3 != 0);
    memory.fill(92, out());
    apart.push_out(&memory, out())?;
    memory.fill(93, others());
    let resident = memory.resident()?;
    ensure!(out().all(|page| !resident[page]), "pages have come back into memory");
    context.failover(|| {
        memory.set(3 * 512, 0);
        Ok(())
    })?;
    memory.verify("page on swap", 92, out())?;
    memory.verify("page in memory", 93, others())
}

fn forked(context: &mut Context) -> Result<()> {
    let apart = Apart::enter(context)?;
    let memory = Region::private(PAGES)?;
    memory.fill(94, 0..PAGES);
    let child = fork(|| {
        context.wait()?;
        memory.verify("the child's page", 94, 0..PAGES)?;
        memory.fill(95, 0..PAGES);
        memory.verify("the child's page written afterwards", 95, 0..PAGES)
    })?;
    apart.push_out(&memory, 0..PAGES)?;
    context.failover(|| {
        memory.set(0, 0);
        Ok(())
    })?;
    child.join("child")?;
    memory.verify("the parent's page", 94, 0..PAGES)
}

fn file_private(context: &mut Context) -> Result<()> {
    const PAGES: usize = 300;
    let apart = Apart::enter(context)?;
    let file = file::open(&context.path("file"), true, 0)?;
    write_all(&file, &[0x5A; PAGES * PAGE])?;
    file.sync_all()?;
    let memory = Region::file(file.as_fd(), 0, PAGES, READ_WRITE, libc::MAP_PRIVATE)?;
    memory.fill(96, 0..100);
    for word in 100 * PAGE_WORDS..200 * PAGE_WORDS {
        memory.set(word, 0);
    }
    apart.push_out(&memory, 0..200)?;
    context.failover(|| {
        memory.set(150 * PAGE_WORDS, 1);
        Ok(())
    })?;
    memory.verify("written page", 96, 0..100)?;
    memory.verify_zero("page of zeros", 100..200)?;
    for word in 200 * PAGE_WORDS..PAGES * PAGE_WORDS {
        same("word of the file", memory.get(word), 0x5A5A_5A5A_5A5A_5A5A)?;
    }
    let mut bytes = vec![0; PAGES * PAGE];
    file.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes.iter().all(|&byte| byte == 0x5A), "the file has changed");
    Ok(())
}

fn shared(context: &mut Context) -> Result<()> {
    let apart = Apart::enter(context)?;
    let memory = Region::shared(PAGES)?;
    let talk = Region::shared(1)?;
    memory.fill(97, 0..PAGES - 100);
    let child = fork(|| {
        context.wait()?;
        memory.verify("page in the child", 97, 0..PAGES - 100)?;
        talk.set(0, 4711);
        Ok(())
    })?;
    apart.push_out(&memory, 0..PAGES - 100)?;
    context.failover(|| {
        memory.set(60 * PAGE_WORDS, 0);
        Ok(())
    })?;
    child.join("child")?;
    same("the child's word", talk.get(0), 4711)?;
    memory.verify("page", 97, 0..PAGES - 100)?;
    memory.verify_zero("untouched page", PAGES - 100..PAGES)
}

fn memfd(context: &mut Context) -> Result<()> {
    let apart = Apart::enter(context)?;
    let file = file::memfd("selfcheck", libc::MFD_CLOEXEC)?;
    let size = 400 * PAGE as u64 + 100;
    file.set_len(size)?;
    let memory = Region::file(file.as_fd(), 0, 401, READ_WRITE, libc::MAP_SHARED)?;
    memory.fill(98, 0..400);
    file.write_all_at(b"the tail of it", 400 * PAGE as u64)?;
    apart.push_out(&memory, 0..401)?;
    context.failover(|| {
        memory.set(9999, 0);
        Ok(())
    })?;
    memory.verify("mapped page", 98, 0..400)?;
    same("size", file.metadata()?.len(), size)?;
    let mut tail = [0; 14];
    file.read_exact_at(&mut tail, 400 * PAGE as u64)?;
    same("tail", &tail[..], b"the tail of it")?;
    memory.set(0, 77);
    let mut word = [0; 8];
    file.read_exact_at(&mut word, 0)?;
    same("word written through the mapping", u64::from_ne_bytes(word), 77)
}

fn tmpfs(context: &mut Context) -> Result<()> {
    let apart = Apart::enter(context)?;
    let path = Path::new("/dev/shm").join(format!("selfcheck-swapped-{}", std::process::id()));
    let file = file::open(&path, true, 0)?;
    write_all(&file, &[0x5A; 300 * PAGE])?;
    let memory = Region::file(file.as_fd(), 0, 300, READ_WRITE, libc::MAP_SHARED)?;
    memory.fill(99, 100..200);
    apart.push_out(&memory, 0..300)?;
    context.failover(|| {
        memory.set(0, 0);
        Ok(())
    })?;
    let bytes = fs::read(&path);
    let removed = fs::remove_file(&path);
    let bytes = bytes?;
    removed?;
    same("size", bytes.len(), 300 * PAGE)?;
    memory.verify("mapped page", 99, 100..200)?;
    ensure!(
        bytes[..100 * PAGE]
            .iter()
            .chain(&bytes[200 * PAGE..])
            .all(|&byte| byte == 0x5A),
        "bytes by path differ"
    );
    let mut head = [0; 8];
    file.read_exact_at(&mut head, 0)?;
    same("bytes by descriptor", head, [0x5A; 8])
}
