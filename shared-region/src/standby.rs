//! The standby: a successor that was booted ahead of the first kernel and sleeps (ACPI S3) until it is needed.
//!
//! Its ACPI tables ([`crate::layout::SLEEP_TABLES`]) put the power-management control register and the FACS into a page
//! of the region ([`crate::layout::SLEEP_PAGE`]), so that going to sleep is a word that the backup OS sees, and waking
//! a jump to a vector that it reads.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicU8};

/// The page of words.
#[derive(Debug)]
#[repr(C)]
pub struct SleepPage {
    /// PM1a_CNT (ACPI 6.5, 4.8.3.2.1). Writer: the kernel, and the backup OS while that sleeps.
    pub pm1_control: AtomicU16,
    unused: [AtomicU8; 14],
    /// The reset register: the kernel writes [`RESET_VALUE`] when it wants the machine reset.
    pub reset: AtomicU8,
    unused2: [AtomicU8; 47],
    /// The first fields of the FACS (ACPI 6.5, 5.2.10). Writer: whoever places the kernel.
    pub facs_head: [AtomicU32; 3],
    /// Its waking vector, a real-mode address. Writer: the kernel.
    pub waking_vector: AtomicU32,
    /// The rest of the FACS.
    pub facs_tail: [AtomicU32; 12],
}

/// Offset of [`SleepPage::pm1_control`], as the FADT names it.
pub const PM1_CONTROL: u64 = core::mem::offset_of!(SleepPage, pm1_control) as u64;
/// Offset of [`SleepPage::reset`].
pub const RESET: u64 = core::mem::offset_of!(SleepPage, reset) as u64;
/// What is written to it.
pub const RESET_VALUE: u8 = 0x5A;
/// Offset of the FACS.
pub const FACS: u64 = core::mem::offset_of!(SleepPage, facs_head) as u64;
/// Bytes of the FACS.
pub const FACS_SIZE: u64 = 64;

/// What has become of the standby; [`StandbyWords::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum StandbyState {
    /// There is none; [`StandbyWords::missing`] says why.
    None = 0,
    /// It boots, and is to go to sleep before anything is mounted or added.
    Starting = 1,
    /// It sleeps.
    Asleep = 2,
    /// It has been woken: it is to take over.
    Waking = 3,
    /// It has reported in after its sleep, and is the kernel that runs.
    Awake = 4,
    /// It did not go to sleep, did not wake, or was written to; the log says which.
    Failed = 5,
    /// Its packed image is being put back into the reserved nursery; [`StandbyWords::put_back`] says how far.
    PuttingBack = 6,
}

impl StandbyState {
    /// The state for a stored word, if it is one of ours.
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            0 => Self::None,
            1 => Self::Starting,
            2 => Self::Asleep,
            3 => Self::Waking,
            4 => Self::Awake,
            5 => Self::Failed,
            6 => Self::PuttingBack,
            _ => return None,
        })
    }
}

/// Why there is no standby; [`StandbyWords::missing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Missing {
    /// There is one, or none was asked for.
    Nothing = 0,
    /// The reserved nursery has no packed image: none was made, or it was not packed in time.
    NoImage = 1,
    /// Its image did not fit into its room.
    TooLarge = 2,
    /// Its image is damaged.
    Damaged = 3,
    /// Another kernel is staged than the one that slept.
    OtherKernel = 4,
}

impl Missing {
    /// The reason for a stored word, if it is one of ours.
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            0 => Self::Nothing,
            1 => Self::NoImage,
            2 => Self::TooLarge,
            3 => Self::Damaged,
            4 => Self::OtherKernel,
            _ => return None,
        })
    }
}

/// The words, at [`crate::layout::STANDBY_WORDS`].
#[derive(Debug)]
#[repr(C)]
pub struct StandbyWords {
    /// [`StandbyState`]. Writer: the backup OS. Release.
    pub state: AtomicU64,
    /// Where the first kernel is entered, once the standby sleeps or has failed; 0 while it is not in its place. Writer:
    /// the loader, last. Release.
    pub first_entry: AtomicU64,
    /// Physical address of the first kernel's `boot_params`. Writer: the loader.
    pub first_boot_params: AtomicU64,
    /// [`Missing`]. Writer: the backup OS, as of all that follow.
    pub missing: AtomicU64,
    /// How much of the image has been put back, in thousandths.
    pub put_back: AtomicU64,
    /// Bytes of the packed image for each nursery, 0 while there is none that is whole.
    pub image_bytes: [AtomicU64; 2],
    /// Entries of `idle_blocks` in use. Writer: the module of a kernel that is about to sleep. Release.
    pub idle_count: AtomicU64,
    /// Physical addresses of the blocks of memory, [`IDLE_BLOCK`] bytes each, that this kernel holds while it sleeps and
    /// gives away unread afterwards. What is in them need not outlive its sleep.
    pub idle_blocks: [AtomicU64; MAX_IDLE_BLOCKS],
}

/// Bytes of a block in [`StandbyWords::idle_blocks`], to which it is aligned.
pub const IDLE_BLOCK: u64 = 2 << 20;
/// The most there are: a whole nursery.
pub const MAX_IDLE_BLOCKS: usize = (crate::layout::NURSERY_SIZE / IDLE_BLOCK) as usize;

const _: () = assert!(core::mem::size_of::<StandbyWords>() <= crate::layout::STANDBY_WORDS.size as usize);
const _: () = {
    // The FACS is aligned to 64 bytes, its vector at 12.
    assert!(FACS == 64 && core::mem::offset_of!(SleepPage, waking_vector) as u64 == FACS + 12);
    assert!(core::mem::size_of::<SleepPage>() as u64 == FACS + FACS_SIZE);
};
