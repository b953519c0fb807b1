//! What the kernel puts on a stack for the handler of a signal, `struct rt_sigframe` (arch/x86/include/asm/sigframe.h):
//! return address, `ucontext_t`, `siginfo_t`, and above them the extended registers in the standard XSAVE format.
//!
//! `rt_sigreturn` finds it 8 bytes below the stack pointer and puts everything back.

use super::{Refusal, Restored};
use crate::{
    restore::tracee::{self, USER_CS, USER_DS},
    sys::Registers,
};

/// Offsets in the frame.
const CONTEXT: usize = 8;
const INFO: usize = CONTEXT + 304;
const SIZE: usize = INFO + 128;
/// Offsets in `ucontext_t` (include/uapi/asm-generic/ucontext.h) and `struct sigcontext_64`.
const STACK: usize = CONTEXT + 16;
const REGISTERS: usize = CONTEXT + 40;
const SELECTORS: usize = REGISTERS + 18 * 8;
const FPSTATE: usize = REGISTERS + 23 * 8;
const MASK: usize = CONTEXT + 296;
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS` (arch/x86/include/uapi/asm/ucontext.h).
const FLAGS: u64 = 7;
/// General registers in the order of `struct sigcontext_64`, as indices into [`Registers`]: r8 … r15, di, si, bp, bx, dx,
/// ax, cx, sp, ip, flags.
const ORDER: [usize; 18] = [9, 8, 7, 6, 3, 2, 1, 0, 14, 13, 4, 5, 12, 10, 11, 19, 16, 18];

/// `FP_XSTATE_MAGIC1`, `FP_XSTATE_MAGIC2` (arch/x86/include/uapi/asm/sigcontext.h).
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// Offset of `struct _fpx_sw_bytes` in the FXSAVE area, of the XSAVE header, and of what follows it.
const SOFTWARE: usize = 464;
const HEADER: usize = 512;
const COMPONENTS: usize = 576;
/// x87 and SSE in XSTATE_BV.
const LEGACY: u64 = 3;

/// Room that handlers must have below the frame.
const LEAST_ROOM: u64 = 0x1000;

/// Where a thread goes on after the handler.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// General registers.
    pub registers: &'a Registers,
    /// Extended registers, as ptrace gives them.
    pub xstate: &'a [u8],
    /// Blocked signals.
    pub blocked: u64,
    /// `sigaltstack`: address, size, flags.
    pub sigaltstack: (u64, u64, u32),
}

/// A frame, and how to enter the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its address.
    pub at: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Registers at the handler's first instruction.
    pub entry: Registers,
}

impl Frame {
    /// The stack pointer of the `rt_sigreturn` that takes the frame.
    pub fn return_pointer(at: u64) -> u64 {
        at.wrapping_add(8)
    }
}

/// Bytes of an XSAVE area up to the end of its last component in use. A thread may have fewer components than its kernel:
/// a size that includes others would be taken for damage.
fn used(xstate: &[u8], places: &impl Fn(u32) -> (usize, usize)) -> usize {
    let header = xstate.get(HEADER..HEADER + 8).and_then(|bytes| bytes.try_into().ok());
    let in_use = header.map_or(0, u64::from_le_bytes);
    let ends = (2..63).filter(|bit| in_use >> bit & 1 != 0).map(|bit| {
        let (offset, size) = places(bit);
        offset + size
    });
    ends.max().unwrap_or(0).max(COMPONENTS).min(xstate.len())
}

/// Offset and size of a component in the standard format (Intel SDM vol. 1, 13.5.6).
fn component(bit: u32) -> (usize, usize) {
    let leaf = core::arch::x86_64::__cpuid_count(0xD, bit);
    (leaf.ebx as usize, leaf.eax as usize)
}

/// The extended registers as they lie in a frame.
fn extended(xstate: &[u8], places: impl Fn(u32) -> (usize, usize)) -> Restored<Vec<u8>> {
    if xstate.len() < COMPONENTS {
        return Err(Refusal::new("extended registers", "there are too few of them"));
    }
    let size = used(xstate, &places);
    let mut bytes = xstate[..size].to_vec();
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let mut components = [0; 8];
    components.copy_from_slice(&xstate[HEADER..HEADER + 8]);
    let components = u64::from_le_bytes(components) | LEGACY;
    put(SOFTWARE, &[0; 48]);
    put(SOFTWARE, &MAGIC1.to_le_bytes());
    put(SOFTWARE + 4, &(size as u32 + 4).to_le_bytes());
    put(SOFTWARE + 8, &components.to_le_bytes());
    put(SOFTWARE + 16, &(size as u32).to_le_bytes());
    bytes.extend(MAGIC2.to_le_bytes());
    Ok(bytes)
}

/// Builds a frame at the top of a stack, for a handler that returns through `restorer`.
pub fn build((bottom, top): (u64, u64), handler: u64, restorer: u64, state: &State<'_>) -> Restored<Frame> {
    let fpstate = extended(state.xstate, component)?;
    let too_small = || Refusal::new("stack of its failover handlers", "it is too small");
    let fp_at = top.checked_sub(fpstate.len() as u64).ok_or_else(too_small)? & !63;
    let at = (fp_at.checked_sub(SIZE as u64).ok_or_else(too_small)? & !15)
        .checked_sub(8)
        .ok_or_else(too_small)?;
    if at.checked_sub(LEAST_ROOM).is_none_or(|lowest| lowest < bottom) {
        return Err(too_small());
    }
    let mut bytes = vec![0; (fp_at - at) as usize];
    let mut put = |offset: usize, value: u64| bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    put(0, restorer);
    put(CONTEXT, FLAGS);
    let (address, size, flags) = state.sigaltstack;
    put(STACK, address);
    put(
        STACK + 8,
        u64::from(if size == 0 { libc::SS_DISABLE as u32 } else { flags }),
    );
    put(STACK + 16, size);
    for (slot, register) in ORDER.into_iter().enumerate() {
        put(REGISTERS + 8 * slot, state.registers[register]);
    }
    // cs, gs, fs, ss: 16 bits each. The bases of fs and gs stay as they are.
    put(
        SELECTORS,
        state.registers[tracee::CS] & 0xFFFF | (state.registers[tracee::SS] & 0xFFFF) << 48,
    );
    put(FPSTATE, fp_at);
    put(MASK, state.blocked);
    bytes.extend(fpstate);

    let mut entry = *state.registers;
    entry[tracee::RIP] = handler;
    entry[tracee::RSP] = at;
    entry[tracee::RBP] = 0;
    entry[tracee::RAX] = 0;
    let [signal, info, context, ..] = tracee::ARGUMENTS;
    entry[signal] = 0;
    entry[info] = at + INFO as u64;
    entry[context] = at + CONTEXT as u64;
    entry[tracee::ORIG_RAX] = u64::MAX;
    entry[tracee::EFLAGS] = 0x202;
    entry[tracee::CS] = USER_CS;
    entry[tracee::SS] = USER_DS;
    Ok(Frame { at, bytes, entry })
}

/// The extended registers with which a handler starts (`fpu__clear_user_states`), as long as those of the thread.
pub fn fresh(length: usize) -> Vec<u8> {
    let mut area = vec![0; length.max(COMPONENTS)];
    // FCW and MXCSR as at the start of a program (System V psABI 3.4.1).
    area[..2].copy_from_slice(&0x37Fu16.to_le_bytes());
    area[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
    area[HEADER..HEADER + 8].copy_from_slice(&LEGACY.to_le_bytes());
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        let mut registers = Registers::default();
        for (index, register) in registers.iter_mut().enumerate() {
            *register = 0x100 + index as u64;
        }
        registers
    }

    fn frame(xstate: &[u8]) -> Restored<Frame> {
        let registers = registers();
        let state = State {
            registers: &registers,
            xstate,
            blocked: 0x55,
            sigaltstack: (0x9000, 0x4000, 0),
        };
        build((0x10_0000, 0x11_0000), 0x4000, 0x5000, &state)
    }

    fn word(frame: &Frame, offset: usize) -> u64 {
        u64::from_le_bytes(frame.bytes[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn a_handler_is_entered_as_the_abi_says() {
        let frame = frame(&fresh(COMPONENTS)).unwrap();
        assert_eq!(frame.at % 16, 8);
        assert_eq!(frame.entry[tracee::RSP], frame.at);
        assert_eq!(word(&frame, 0), 0x5000);
        assert_eq!(
            (frame.at + frame.bytes.len() as u64) & !63,
            word(&frame, FPSTATE) + COMPONENTS as u64
        );
        assert_eq!(word(&frame, FPSTATE) % 64, 0);
        assert!(frame.at + frame.bytes.len() as u64 <= 0x11_0000);
    }

    #[test]
    fn registers_lie_where_the_kernel_looks() {
        // Offsets as `libc` has them.
        let frame = frame(&fresh(COMPONENTS)).unwrap();
        let gregs = CONTEXT + std::mem::offset_of!(libc::ucontext_t, uc_mcontext);
        assert_eq!(gregs, REGISTERS);
        let at = |register: i32| word(&frame, gregs + 8 * register as usize);
        assert_eq!(at(libc::REG_RIP), 0x100 + tracee::RIP as u64);
        assert_eq!(at(libc::REG_RSP), 0x100 + tracee::RSP as u64);
        assert_eq!(at(libc::REG_RAX), 0x100 + tracee::RAX as u64);
        assert_eq!(at(libc::REG_R15), 0x100);
        assert_eq!(at(libc::REG_RDI), 0x100 + 14);
        assert_eq!(at(libc::REG_EFL), 0x100 + tracee::EFLAGS as u64);
        assert_eq!(
            word(&frame, CONTEXT + std::mem::offset_of!(libc::ucontext_t, uc_sigmask)),
            0x55
        );
    }

    #[test]
    fn extended_registers_end_with_the_last_in_use() {
        let places = |bit: u32| (576 + 0x100 * (bit as usize - 2), 0x100);
        let mut area = fresh(8192);
        assert_eq!(used(&area, &places), COMPONENTS);
        area[HEADER] |= 1 << 2;
        assert_eq!(used(&area, &places), 576 + 0x100);
        let bytes = extended(&area, places).unwrap();
        assert_eq!(bytes.len(), 576 + 0x100 + 4);
        assert_eq!(bytes[SOFTWARE..SOFTWARE + 4], MAGIC1.to_le_bytes());
        assert_eq!(bytes[bytes.len() - 4..], MAGIC2.to_le_bytes());
        area[HEADER + 7] |= 0x40;
        assert_eq!(used(&area, &places), 8192, "never more than there is");
    }

    #[test]
    fn a_stack_that_is_too_small_is_refused() {
        assert!(frame(&[0; 100]).is_err());
        assert!(frame(&vec![0; 1 << 20]).is_ok(), "the rest of the area is not in use");
        let mut area = fresh(0x1_0000);
        area[HEADER + 7] |= 0x40;
        assert!(frame(&fresh(0x1_0000)).is_ok());
        let registers = registers();
        let state = State {
            registers: &registers,
            xstate: &area,
            blocked: 0,
            sigaltstack: (0, 0, 0),
        };
        assert!(build((0x1000, 0x2000), 0, 0, &state).is_err());
        assert!(build((0, 64), 0, 0, &state).is_err());
    }
}
