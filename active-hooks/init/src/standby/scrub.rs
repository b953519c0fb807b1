//! Free memory that is not held idle made empty before the sleep, so that the image holds what the kernel has and not what it once had: the
//! packed kernel, the initramfs, and what booting left.
//!
//! The kernel clears every page that it gives to a program. So all that is free is taken once, and given back.

/// Bytes that are left free: below that the kernel would look for memory to reclaim.
const LEFT: u64 = 8 << 20;
/// Bytes that are taken at a time.
const STEP: usize = 1 << 20;
const PAGE: usize = 4096;

/// Takes all free memory and gives it back. Returns the bytes.
pub fn free_memory() -> u64 {
    let mut taken = Vec::new();
    while free() > LEFT + STEP as u64 {
        let mut step = vec![0u8; STEP];
        // A page is there when it is written to.
        step.iter_mut().step_by(PAGE).for_each(|byte| *byte = 0);
        taken.push(std::hint::black_box(step));
    }
    (taken.len() * STEP) as u64
}

/// Bytes of memory that nobody uses.
fn free() -> u64 {
    let known = rustix::system::sysinfo();
    known.freeram.saturating_mul(u64::from(known.mem_unit.max(1)))
}
