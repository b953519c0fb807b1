//! Memory mappings.

use super::{check, scalar_calls};
use anyhow::{bail, ensure, Context, Result};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a page.
pub const PAGE: usize = 4096;
/// Words in a page.
pub const PAGE_WORDS: usize = PAGE / 8;

scalar_calls! {
    /// Locks all memory, MCL_* flags.
    mlockall(flags) = SYS_mlockall;
    /// Unlocks all memory.
    munlockall() = SYS_munlockall;
}

/// The value word `index` of memory filled with `seed` has (SplitMix64 of both).
pub fn pattern(seed: u64, index: usize) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add((index as u64).wrapping_mul(0xD1B5_4A32_D192_ED03))
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A mapping, unmapped when dropped. Its words are atomics because another process may share them.
pub struct Region {
    start: usize,
    length: usize,
}

impl Region {
    fn map(hint: usize, length: usize, prot: i32, flags: i32, file: Option<(BorrowedFd<'_>, u64)>) -> Result<Self> {
        let (fd, offset) = file.map_or((-1, 0), |(fd, offset)| (fd.as_raw_fd(), offset));
        ensure!(flags & libc::MAP_FIXED == 0, "mmap: would replace a mapping");
        // SAFETY: (1) without MAP_FIXED the kernel picks free addresses only; (2) the descriptor is borrowed for the
        // whole call; (3) the result is checked before it is used.
        let start = unsafe { libc::mmap(hint as *mut _, length, prot, flags, fd, offset as i64) };
        check("mmap", if start == libc::MAP_FAILED { -1 } else { 0 })?;
        Ok(Self {
            start: start as usize,
            length,
        })
    }

    /// Private anonymous memory, readable and writable.
    pub fn private(pages: usize) -> Result<Self> {
        Self::anonymous(pages, libc::MAP_PRIVATE)
    }

    /// A segment of System V shared memory.
    pub fn attach(id: i64, flags: i32) -> Result<Self> {
        let bytes = super::sysv::segment(id)?[3] as usize;
        // SAFETY: (1) the kernel picks free addresses only; (2) the result is checked before it is used.
        let start = check("shmat", unsafe { libc::syscall(libc::SYS_shmat, id, 0, flags) })?;
        Ok(Self {
            start: start as usize,
            length: bytes.next_multiple_of(PAGE),
        })
    }

    /// Anonymous memory shared with children.
    pub fn shared(pages: usize) -> Result<Self> {
        Self::anonymous(pages, libc::MAP_SHARED)
    }

    /// Anonymous memory, readable and writable, with MAP_* flags.
    pub fn anonymous(pages: usize, flags: i32) -> Result<Self> {
        Self::map(
            0,
            pages * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | libc::MAP_ANONYMOUS,
            None,
        )
    }

    /// Private anonymous memory at exactly this free address.
    pub fn private_at(address: usize, pages: usize, flags: i32) -> Result<Self> {
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        Self::map(address, pages * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, None)
    }

    /// A file from byte `offset` on, MAP_PRIVATE or MAP_SHARED.
    pub fn file(file: BorrowedFd<'_>, offset: u64, pages: usize, prot: i32, flags: i32) -> Result<Self> {
        Self::map(0, pages * PAGE, prot, flags, Some((file, offset)))
    }

    /// Address of the first byte.
    pub fn address(&self) -> usize {
        self.start
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.length
    }

    /// Words of 8 bytes.
    pub fn words(&self) -> usize {
        self.length / 8
    }

    /// A word. Touching it is the caller's business where the page is protected: that is a signal, as for any program.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words(), "word {index} lies beyond the mapping");
        // SAFETY: (1) the index is within the mapping, which lives as long as `self`; (2) it is aligned to 8 bytes;
        // (3) every access to the mapping is atomic.
        unsafe { &*((self.start + index * 8) as *const AtomicU64) }
    }

    /// Reads a word.
    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Writes a word.
    pub fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Fills the pages in the range with the pattern of `seed`.
    pub fn fill(&self, seed: u64, pages: impl Iterator<Item = usize>) {
        for page in pages {
            for index in page * PAGE_WORDS..(page + 1) * PAGE_WORDS {
                self.set(index, pattern(seed, index));
            }
        }
    }

    /// Checks the pages in the range against the pattern of `seed`.
    pub fn verify(&self, what: &str, seed: u64, pages: impl Iterator<Item = usize>) -> Result<()> {
        for page in pages {
            for index in page * PAGE_WORDS..(page + 1) * PAGE_WORDS {
                let (found, expected) = (self.get(index), pattern(seed, index));
                ensure!(
                    found == expected,
                    "{what}: page {page}, word {}: {found:#018x}, was {expected:#018x}",
                    index % PAGE_WORDS
                );
            }
        }
        Ok(())
    }

    /// Checks that the pages in the range hold zeros.
    pub fn verify_zero(&self, what: &str, pages: impl Iterator<Item = usize>) -> Result<()> {
        for page in pages {
            for index in page * PAGE_WORDS..(page + 1) * PAGE_WORDS {
                let found = self.get(index);
                ensure!(found == 0, "{what}: page {page} is not zero: {found:#018x}");
            }
        }
        Ok(())
    }

    /// `madvise` on the whole mapping. Only advice that keeps contents where this process reads them.
    pub fn advise(&self, advice: i32) -> Result<()> {
        ensure!(
            !matches!(advice, libc::MADV_DONTNEED | libc::MADV_FREE | libc::MADV_REMOVE),
            "madvise: would drop contents"
        );
        // SAFETY: (1) the range is the mapping of `self`; (2) the advice keeps its contents.
        let ret = unsafe { libc::madvise(self.start as *mut _, self.length, advice) };
        check("madvise", ret.into()).map(drop)
    }

    /// `madvise` with advice that drops the contents of some pages.
    pub fn give_up(&self, pages: std::ops::Range<usize>, advice: i32) -> Result<()> {
        ensure!(pages.end * PAGE <= self.length, "madvise: beyond the mapping");
        let start = self.start + pages.start * PAGE;
        // SAFETY: the range lies within the mapping of `self`, whose words may change at any time.
        let ret = unsafe { libc::madvise(start as *mut _, pages.len() * PAGE, advice) };
        check("madvise", ret.into()).map(drop)
    }

    /// Asks for some pages to be pushed out (`madvise`).
    pub fn page_out(&self, pages: impl Iterator<Item = usize>) -> Result<()> {
        for page in pages {
            ensure!((page + 1) * PAGE <= self.length, "madvise: beyond the mapping");
            let start = self.start + page * PAGE;
            // SAFETY: (1) the page lies within the mapping of `self`; (2) the advice keeps its contents.
            let ret = unsafe { libc::madvise(start as *mut _, PAGE, libc::MADV_PAGEOUT) };
            check("madvise", ret.into())?;
        }
        Ok(())
    }

    /// Which pages are in memory, mapped or not (`mincore`).
    pub fn resident(&self) -> Result<Vec<bool>> {
        let mut told = vec![0u8; self.length.div_ceil(PAGE)];
        // SAFETY: there is a byte for each page of the mapping of `self`.
        let ret = unsafe { libc::mincore(self.start as *mut _, self.length, told.as_mut_ptr()) };
        check("mincore", ret.into())?;
        Ok(told.into_iter().map(|byte| byte & 1 != 0).collect())
    }

    /// The same memory at another address (`mremap`).
    pub fn moved(self) -> Result<Self> {
        let place = Self::private(self.length / PAGE)?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: (1) both ranges are mappings of ours without references into them; (2) the one that is moved belongs
        // to `place` from now on, and `self` is forgotten.
        let at = unsafe { libc::mremap(self.start as *mut _, self.length, self.length, flags, place.start) };
        check("mremap", if at == libc::MAP_FAILED { -1 } else { 0 })?;
        std::mem::forget(self);
        Ok(place)
    }

    /// Unmaps some pages and maps new ones there, which the result holds; those of `self` around them stay. What is
    /// dropped first takes the others' mapping along: that is for the end of the process.
    pub fn replace(&self, pages: std::ops::Range<usize>) -> Result<std::mem::ManuallyDrop<Self>> {
        ensure!(pages.end * PAGE <= self.length, "munmap: beyond the mapping");
        let start = self.start + pages.start * PAGE;
        // SAFETY: the range lies within the mapping of `self`, which holds no Rust object; nothing reads it before it is
        // mapped again.
        let ret = unsafe { libc::munmap(start as *mut _, pages.len() * PAGE) };
        check("munmap", ret.into())?;
        Self::private_at(start, pages.len(), 0).map(std::mem::ManuallyDrop::new)
    }

    /// Some pages as bytes for a system call to read.
    pub fn with_bytes<T>(&self, pages: std::ops::Range<usize>, call: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        ensure!(pages.end * PAGE <= self.length, "beyond the mapping");
        let start = (self.start + pages.start * PAGE) as *const u8;
        // SAFETY: (1) the range lies within the mapping of `self`; (2) nobody writes it meanwhile: the cells that use
        // this have no other thread that knows it.
        call(unsafe { std::slice::from_raw_parts(start, pages.len() * PAGE) })
    }

    /// Some pages as bytes for a system call to write.
    pub fn with_bytes_mut<T>(
        &self,
        pages: std::ops::Range<usize>,
        call: impl FnOnce(&mut [u8]) -> Result<T>,
    ) -> Result<T> {
        ensure!(pages.end * PAGE <= self.length, "beyond the mapping");
        let start = (self.start + pages.start * PAGE) as *mut u8;
        // SAFETY: as in `with_bytes`, and no other slice of the range is alive.
        call(unsafe { std::slice::from_raw_parts_mut(start, pages.len() * PAGE) })
    }

    /// Some pages as `process_vm_readv` sees them.
    pub fn copy_across(&self, pages: std::ops::Range<usize>) -> Result<Vec<u8>> {
        ensure!(pages.end * PAGE <= self.length, "beyond the mapping");
        let mut bytes = vec![0; pages.len() * PAGE];
        let vector = |base: usize| libc::iovec {
            iov_base: base as *mut _,
            iov_len: pages.len() * PAGE,
        };
        let (local, remote) = (
            vector(bytes.as_mut_ptr() as usize),
            vector(self.start + pages.start * PAGE),
        );
        // SAFETY: the local range is the live buffer; of the remote one the kernel checks every page.
        let copied = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
        let copied = check("process_vm_readv", copied as i64)?;
        ensure!(copied as usize == bytes.len(), "process_vm_readv: {copied} bytes");
        Ok(bytes)
    }

    /// `mprotect` on some pages. Later accesses that the protection forbids raise SIGSEGV.
    pub fn protect(&self, pages: std::ops::Range<usize>, prot: i32) -> Result<()> {
        ensure!(pages.end * PAGE <= self.length, "mprotect: beyond the mapping");
        let start = self.start + pages.start * PAGE;
        // SAFETY: the range lies within the mapping of `self`, which holds no Rust object.
        let ret = unsafe { libc::mprotect(start as *mut _, pages.len() * PAGE, prot) };
        check("mprotect", ret.into()).map(drop)
    }

    /// `mlock2` on the whole mapping; 1 is MLOCK_ONFAULT.
    pub fn lock(&self, flags: u32) -> Result<()> {
        // SAFETY: locking changes no contents.
        let ret = unsafe { libc::syscall(libc::SYS_mlock2, self.start, self.length, flags) };
        check("mlock2", ret).map(drop)
    }

    /// `munlock` on the whole mapping.
    pub fn unlock(&self) -> Result<()> {
        // SAFETY: unlocking changes no contents.
        let ret = unsafe { libc::munlock(self.start as *const _, self.length) };
        check("munlock", ret.into()).map(drop)
    }

    /// Names anonymous memory (`PR_SET_VMA_ANON_NAME`).
    pub fn name(&self, name: &std::ffi::CStr) -> Result<()> {
        const PR_SET_VMA: i32 = 0x5356_4D41;
        // SAFETY: the range is ours and the name is NUL-terminated; the kernel copies it.
        let ret = unsafe { libc::prctl(PR_SET_VMA, 0, self.start, self.length, name.as_ptr()) };
        check("prctl(PR_SET_VMA)", ret.into()).map(drop)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: (1) the range was mapped by `self` alone; (2) no reference into it outlives `self`.
        unsafe { libc::munmap(self.start as *mut _, self.length) };
    }
}

/// The program break.
pub fn program_break() -> usize {
    // SAFETY: `brk(0)` changes nothing.
    unsafe { libc::syscall(libc::SYS_brk, 0) as usize }
}

/// Grows the heap by so many bytes behind the allocator's back, which is allowed, and returns the old break.
pub fn grow_heap(bytes: usize) -> Result<usize> {
    // SAFETY: `sbrk` with a positive amount only adds memory; glibc's malloc copes with foreign growth.
    let old = unsafe { libc::sbrk(bytes as isize) };
    check("sbrk", if old as isize == -1 { -1 } else { 0 })?;
    Ok(old as usize)
}

/// Memory that was added by [`grow_heap`], as atomics.
pub fn heap_word(address: usize) -> &'static AtomicU64 {
    assert!(
        address.is_multiple_of(8) && address + 8 <= program_break(),
        "not in the heap"
    );
    // SAFETY: (1) aligned and below the break, which is never lowered by this program; (2) the cells access what they
    // added by `grow_heap` only, and always atomically.
    unsafe { &*(address as *const AtomicU64) }
}

/// The task's NUMA policy: mode and the first word of its node mask.
pub fn mempolicy() -> Result<(i32, u64)> {
    let (mut mode, mut nodes) = (0i32, [0u64; 16]);
    // SAFETY: mode and mask are valid for the whole call and the mask is as long as it says (in bits).
    let ret = unsafe { libc::syscall(libc::SYS_get_mempolicy, &mut mode, &mut nodes, 1024, 0, 0) };
    check("get_mempolicy", ret)?;
    Ok((mode, nodes[0]))
}

/// Sets the task's NUMA policy.
pub fn set_mempolicy(mode: i32, nodes: u64) -> Result<()> {
    let mask = if nodes == 0 { std::ptr::null() } else { &raw const nodes };
    // SAFETY: the mask is null or valid for the whole call, and 64 bits long.
    let ret = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, 64) };
    check("set_mempolicy", ret).map(drop)
}

/// One line of `/proc/self/smaps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vma {
    /// First address.
    pub start: usize,
    /// First address after it.
    pub end: usize,
    /// `rwxp`.
    pub perms: String,
    /// Offset in the file.
    pub offset: u64,
    /// Inode number, 0 for anonymous memory.
    pub inode: u64,
    /// Path or name.
    pub name: String,
    /// Two-letter flags of `VmFlags`.
    pub flags: Vec<String>,
}

/// The mappings of this process, with flags.
pub fn mappings() -> Result<Vec<Vma>> {
    let text = std::fs::read_to_string("/proc/self/smaps").context("/proc/self/smaps")?;
    let mut list: Vec<Vma> = Vec::new();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(vma) = list.last_mut() {
                vma.flags = flags.split_whitespace().map(str::to_owned).collect();
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let Some((start, end)) = words.next().and_then(|range| range.split_once('-')) else {
            continue;
        };
        let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)) else {
            continue;
        };
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (perms, offset, _device, inode) = (word(), word(), word(), word());
        list.push(Vma {
            start,
            end,
            perms,
            offset: u64::from_str_radix(&offset, 16).unwrap_or(0),
            inode: inode.parse().unwrap_or(0),
            name: words.collect::<Vec<_>>().join(" "),
            flags: Vec::new(),
        });
    }
    Ok(list)
}

/// The mapping that contains an address.
pub fn mapping_of(address: usize) -> Result<Vma> {
    match mappings()?
        .into_iter()
        .find(|vma| (vma.start..vma.end).contains(&address))
    {
        Some(vma) => Ok(vma),
        None => bail!("no mapping at {address:#x}"),
    }
}

/// Writes a word so many bytes below a MAP_GROWSDOWN mapping, as a growing stack does. Without room that is SIGSEGV.
pub fn touch_below(memory: &Region, distance: usize) {
    // SAFETY: (1) what lies below such a mapping is free or its own growth; (2) nothing of Rust's is there.
    unsafe { ((memory.address() - distance) as *mut u64).write_volatile(1) };
}
