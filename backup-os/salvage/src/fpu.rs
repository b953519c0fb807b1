//! The extended state of a thread (x87, SSE, AVX …), as `PTRACE_SETREGSET` with `NT_X86_XSTATE` takes it: the standard
//! format of the XSAVE area (Intel SDM vol. 1, 13.4).
//!
//! The kernel keeps it in `fpstate.regs`, compacted where the processor has XSAVES, except while the thread is current
//! on a CPU and `TIF_NEED_FPU_LOAD` is clear: then it is in the CPU alone. The protection keys are kept aside, in
//! `thread.pkru` (Linux 5.14, 954436989cc5).

use crate::addr::Kva;
use crate::cpus::{Cpu, SLOT_XSAVE};
use crate::failover::{Input, Stopped};
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::vec::Vec;
use shared_region::facts::XstateComponent;
use shared_region::reasons;

crate::mirrors! {
    /// Extended state in memory.
    pub struct FpState = "fpstate" {
        /// Bytes of `regs` in use.
        size: Field,
        /// Bytes of the area in the standard format.
        user_size: Field,
        /// The XSAVE area.
        regs: Field,
    }
}

/// `TIF_NEED_FPU_LOAD` (`arch/x86/include/asm/thread_info.h`).
const TIF_NEED_FPU_LOAD: u64 = 1 << 14;
/// Bytes of the legacy region (FXSAVE).
const LEGACY: usize = 512;
/// Bytes of the legacy region and the header.
const HEADER_END: usize = 576;
/// Bit 63 of XCOMP_BV: the compacted format.
const COMPACTED: u64 = 1 << 63;
/// More than any processor's area (AMX needs 11 KB).
const MAX_AREA: usize = 64 << 10;
/// Component of the protection keys.
const PKRU: usize = 9;
/// Initial x87 control word (Intel SDM vol. 1, 13.6).
const INITIAL_FCW: u16 = 0x37F;
/// Initial MXCSR.
const INITIAL_MXCSR: u32 = 0x1F80;
/// Offset of MXCSR, and after it its mask, in the legacy region.
const MXCSR: usize = 24;

/// Where components lie in the standard format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XstateTable {
    /// By number.
    pub components: [XstateComponent; 32],
    /// Bytes of a standard-format area.
    pub size: usize,
    /// User components that exist (XCR0).
    pub features: u64,
}

impl XstateTable {
    /// From the module's facts; without them, from the kernel's own variables (`arch/x86/kernel/fpu/xstate.c`).
    pub fn new<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, input: &Input<'_>) -> Self {
        if let Some(facts) = input.facts {
            return Self {
                components: facts.xstate,
                size: (facts.xsave_size as usize).clamp(HEADER_END, MAX_AREA),
                features: facts.xcr0,
            };
        }
        let globals = &kernel.prepared.globals;
        let read = |base: Option<Kva>, i: usize| {
            let at = base?.offset((i as u64).wrapping_mul(4));
            kernel.mem.u32(at).ok().filter(|&value| value != u32::MAX)
        };
        let mut components = [XstateComponent::default(); 32];
        let mut features = 3;
        let mut size = HEADER_END;
        // The kernel's tables have as many entries as it knows components; it has known PKRU (9) since 4.5.
        for (i, component) in components.iter_mut().enumerate().take(10).skip(2) {
            component.offset = read(globals.xstate_offsets, i).unwrap_or(0);
            component.size = read(globals.xstate_sizes, i).unwrap_or(0);
            component.flags = read(globals.xstate_flags, i).unwrap_or(0);
            if component.size != 0 && component.offset != 0 && component.flags & 1 == 0 {
                features |= 1 << i;
                size = size.max((component.offset as usize).saturating_add(component.size as usize));
            }
        }
        Self {
            components,
            size: size.min(MAX_AREA),
            features,
        }
    }

    /// Brings an area as XSAVE, XSAVEC or XSAVES wrote it into the standard format. Components that are in their initial
    /// configuration are left out of XSTATE_BV.
    ///
    /// # Errors
    /// The area is too short for what its header says.
    pub fn to_standard(&self, area: &[u8]) -> Result<Vec<u8>> {
        let bad = |what| Refusal::new(reasons::UNREADABLE, alloc::format!("extended state: {what}"));
        let legacy = area
            .get(..LEGACY)
            .ok_or_else(|| bad("shorter than the legacy region"))?;
        let mut out = alloc::vec![0; self.size];
        let word = |at: usize| area.get(at..)?.first_chunk().map(|&bytes| u64::from_le_bytes(bytes));
        // Without XSAVE, the area is the legacy region alone.
        let (present, layout) = match (word(LEGACY), word(LEGACY.wrapping_add(8))) {
            (Some(present), Some(layout)) if self.features != 0 => (present & (self.features | 3), layout),
            _ => (3, 0),
        };
        put(&mut out, 0, legacy);
        if present & 1 == 0 {
            put(&mut out, 0, &[0; MXCSR]);
            put(&mut out, 0, &INITIAL_FCW.to_le_bytes());
            put(&mut out, 32, &[0; 128]);
        }
        if present & 2 == 0 {
            put(&mut out, 160, &[0; 256]);
        }
        // MXCSR belongs to SSE and AVX alike.
        if present & 6 == 0 {
            put(&mut out, MXCSR, &INITIAL_MXCSR.to_le_bytes());
        }
        // Bytes 464…511 are for software.
        put(&mut out, 416, &[0; 96]);
        put(&mut out, LEGACY, &present.to_le_bytes());

        let mut at = HEADER_END;
        for (i, component) in self.components.iter().enumerate().skip(2) {
            let bit = 1u64 << i;
            let size = component.size as usize;
            let from = if layout & COMPACTED != 0 {
                if layout & bit == 0 {
                    continue;
                }
                // Bit 1 of ECX: aligned to 64 bytes in the compacted format (Intel SDM vol. 1, 13.4.3).
                let start = if component.flags & 2 != 0 {
                    at.saturating_add(63) & !63
                } else {
                    at
                };
                at = start.saturating_add(size);
                start
            } else {
                component.offset as usize
            };
            if present & bit == 0 || size == 0 {
                continue;
            }
            let bytes = area
                .get(from..)
                .and_then(|tail| tail.get(..size))
                .ok_or_else(|| bad("cut off"))?;
            if !put(&mut out, component.offset as usize, bytes) {
                return Err(bad("a component lies outside the standard format"));
            }
        }
        Ok(out)
    }

    /// Sets the protection-key register in a standard-format area.
    fn set_pkru(&self, area: &mut [u8], pkru: u32) {
        let bit = 1u64 << PKRU;
        let Some(component) = self.components.get(PKRU).filter(|_| self.features & bit != 0) else {
            return;
        };
        let mut present = [0; 8];
        if let Some(bytes) = area.get(LEGACY..).and_then(<[u8]>::first_chunk) {
            present = *bytes;
        }
        if put(area, component.offset as usize, &pkru.to_le_bytes()) {
            put(area, LEGACY, &(u64::from_le_bytes(present) | bit).to_le_bytes());
        }
    }
}

/// Copies bytes to an offset; `false` if they do not fit.
fn put(out: &mut [u8], at: usize, bytes: &[u8]) -> bool {
    let room = out.get_mut(at..).and_then(|tail| tail.get_mut(..bytes.len()));
    room.map(|room| room.copy_from_slice(bytes)).is_some()
}

/// A thread's extended state in the standard format, and whether it is only what the kernel had saved last.
///
/// # Errors
/// It was only in a CPU that did not leave it, or it cannot be read.
pub fn read<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    input: &Input<'_>,
    table: &XstateTable,
    task: Kva,
    cpu: Option<&Cpu>,
) -> Result<(Vec<u8>, bool)> {
    let types = &kernel.types.layouts;
    let in_memory = kernel.mem.uint(task, types.task.thread_info_flags)? & TIF_NEED_FPU_LOAD != 0;
    let mut stale = false;
    if let Some(cpu) = cpu.filter(|_| !in_memory) {
        match (cpu.left.as_ref().and_then(|left| left.xsave), input.stopped) {
            (Some(at), _) => {
                let mut area = alloc::vec![0; SLOT_XSAVE];
                let lost = |_| Refusal::new(reasons::FPU_LOST, alloc::format!("parking slot of CPU {}", cpu.number));
                kernel.phys().read(at, &mut area).map_err(lost)?;
                return Ok((table.to_standard(&area)?, false));
            }
            (None, Stopped::Slots { .. }) => {
                return Err(Refusal::new(reasons::FPU_LOST, alloc::format!("CPU {}", cpu.number)));
            }
            (None, Stopped::Image) => stale = true,
        }
    }
    let state = kernel.mem.ptr(task, types.task.fpstate)?;
    let size = kernel.mem.uint(state, types.fpstate.size)? as usize;
    if !(LEGACY..=MAX_AREA).contains(&size) {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("extended state of {size} bytes"),
        ));
    }
    let area = kernel
        .mem
        .bytes(state.offset(u64::from(types.fpstate.regs.offset)), size)?;
    let mut standard = table.to_standard(&area)?;
    if let Some(field) = types.task.pkru {
        table.set_pkru(&mut standard, kernel.mem.uint(task, field)? as u32);
    }
    Ok((standard, stale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn table() -> XstateTable {
        let mut components = [XstateComponent::default(); 32];
        components[2] = XstateComponent {
            offset: 576,
            size: 256,
            flags: 0,
            reserved: 0,
        };
        components[5] = XstateComponent {
            offset: 1088,
            size: 64,
            flags: 0,
            reserved: 0,
        };
        components[6] = XstateComponent {
            offset: 1152,
            size: 512,
            flags: 2,
            reserved: 0,
        };
        components[9] = XstateComponent {
            offset: 2688,
            size: 8,
            flags: 0,
            reserved: 0,
        };
        components[11] = XstateComponent {
            offset: 0,
            size: 16,
            flags: 1,
            reserved: 0,
        };
        XstateTable {
            components,
            size: 2696,
            features: 0x267,
        }
    }

    fn area(size: usize, present: u64, layout: u64) -> Vec<u8> {
        let mut area = vec![0xEE; size];
        area[512..520].copy_from_slice(&present.to_le_bytes());
        area[520..528].copy_from_slice(&layout.to_le_bytes());
        area
    }

    #[test]
    fn compacted_components_go_to_their_standard_place() {
        // AVX at 576, a supervisor component at 832, ZMM_Hi256 aligned to 896.
        let mut source = area(1408, 1 << 2 | 1 << 6 | 3, COMPACTED | 3 | 1 << 2 | 1 << 11 | 1 << 6);
        source[576..832].fill(2);
        source[832..1344].fill(6);
        let out = table().to_standard(&source).unwrap();
        assert_eq!(out.len(), 2696);
        assert_eq!(out[576..832], [2; 256]);
        assert_eq!(out[1152..1664], [6; 512]);
        assert_eq!(out[1088..1152], [0; 64]);
        assert_eq!(out[512..528], [0x47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_in_its_initial_configuration_does_not_leak_stale_bytes() {
        let out = table().to_standard(&area(2696, 0, 0)).unwrap();
        assert_eq!(out[0..2], [0x7F, 3]);
        assert_eq!(out[24..28], [0x80, 0x1F, 0, 0]);
        assert!(out[32..512].iter().all(|&b| b == 0) && out[528..].iter().all(|&b| b == 0));
    }

    #[test]
    fn a_header_that_promises_more_than_there_is_is_an_error() {
        assert!(table().to_standard(&area(600, 1 << 6, COMPACTED | 1 << 6)).is_err());
        assert!(table().to_standard(&[0; 100]).is_err());
    }

    #[test]
    fn protection_keys_are_put_in() {
        let mut out = table().to_standard(&area(2696, 0, 0)).unwrap();
        table().set_pkru(&mut out, 0x5555_5554);
        assert_eq!(out[2688..2692], [0x54, 0x55, 0x55, 0x55]);
        assert_eq!(out[513], 2);
    }
}
