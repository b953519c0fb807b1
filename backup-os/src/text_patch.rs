//! Text of the dead kernel replaced for as long as it takes to catch a CPU in it, and put back.
//!
//! The patch loads the page-table root of the parking code, in which the last entry is the dead kernel's own, so that
//! the instruction stream goes on under the same virtual address, and jumps into the parking code. It is reached
//! - at the start of the NMI entry, by an NMI; or
//! - at the end of `panic()`, of which everything before is overwritten with NOPs: wherever the CPU comes back into
//!   the loop from the delay it calls, it slides into the jump.

use alloc::vec::Vec;
use failover::ram::ActiveRam;

/// `endbr64`; an indirect-branch-tracking kernel expects it where the IDT points.
const ENDBR64: [u8; 4] = [0xF3, 0x0F, 0x1E, 0xFA];
const NOP: u8 = 0x90;
/// Bytes of [`jump`].
const JUMP_SIZE: usize = 16;
/// No function of a kernel that we overwrite is longer.
const MAX_TEXT: u64 = 0x4000;

/// cli; mov eax, root; mov cr3, rax; mov eax, entry; jmp rax
fn jump(root: u32, entry: u32) -> [u8; JUMP_SIZE] {
    let [r0, r1, r2, r3] = root.to_le_bytes();
    let [e0, e1, e2, e3] = entry.to_le_bytes();
    [
        0xFA, 0xB8, r0, r1, r2, r3, 0x0F, 0x22, 0xD8, 0xB8, e0, e1, e2, e3, 0xFF, 0xE0,
    ]
}

/// Overwritten text. Put it back with [`TextPatch::restore`].
#[derive(Debug)]
pub struct TextPatch {
    address: u64,
    original: Vec<u8>,
}

impl TextPatch {
    /// Replaces the NMI entry at physical address `text`.
    ///
    /// Returns `None` if that is not in the active's RAM.
    ///
    /// # Safety
    /// 1. The active is dead. 2. `root` maps the entry's virtual address as the active does, and `entry` at its own.
    pub unsafe fn nmi_entry(ram: &ActiveRam, text: u64, root: u32, entry: u32) -> Option<Self> {
        if text == 0 || !ram.holds(text, ENDBR64.len() + JUMP_SIZE) {
            return None;
        }
        // SAFETY: RAM and mapped (checked above); no reference into it exists.
        let first = unsafe { (text as *const [u8; 4]).read_volatile() };
        let at = if first == ENDBR64 { text + 4 } else { text };
        // SAFETY: the caller's promises.
        Some(unsafe { Self::apply(at, &jump(root, entry)) })
    }

    /// Replaces the function of `size` bytes at physical address `text`, in whose loop a CPU spins.
    ///
    /// Returns `None` if that is not in the active's RAM or no plausible function.
    ///
    /// # Safety
    /// As [`TextPatch::nmi_entry`].
    pub unsafe fn whole_function(ram: &ActiveRam, text: u64, size: u64, root: u32, entry: u32) -> Option<Self> {
        if text == 0 || size < 2 * JUMP_SIZE as u64 || size > MAX_TEXT || !ram.holds(text, size as usize) {
            return None;
        }
        let mut code = alloc::vec![NOP; size as usize];
        let jump_at = code.len() - JUMP_SIZE;
        code[jump_at..].copy_from_slice(&jump(root, entry));
        // SAFETY: the caller's promises.
        Some(unsafe { Self::apply(text, &code) })
    }

    /// # Safety
    /// The range is RAM of the dead active.
    unsafe fn apply(address: u64, code: &[u8]) -> Self {
        let byte = |at: usize| (address as usize + at) as *mut u8;
        // SAFETY: RAM and mapped (the caller's promise); no reference into it exists.
        let original = (0..code.len()).map(|at| unsafe { byte(at).read_volatile() }).collect();
        // From the end, so that the slide never leads into what is not written yet.
        for (at, &value) in code.iter().enumerate().rev() {
            // SAFETY: as above.
            unsafe { byte(at).write_volatile(value) };
        }
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        Self { address, original }
    }

    /// Puts the text back as it was.
    pub fn restore(self) {
        for (at, &value) in self.original.iter().enumerate() {
            // SAFETY: the place from which the byte was read.
            unsafe { ((self.address as usize + at) as *mut u8).write_volatile(value) };
        }
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}
