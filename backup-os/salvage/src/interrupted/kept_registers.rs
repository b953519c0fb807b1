//! What a function had in its registers when it called another one, within which its thread sleeps.
//!
//! Whoever uses a callee-saved register pushes it first (System V ABI), so that the values lie on the stack: on top what
//! `__switch_to_asm` has pushed (`struct inactive_task_frame`), below it the pushes at the beginning of each function of the
//! chain. The ORC tables have an entry behind each of them, because it moves the stack pointer by a word.

use crate::addr::Kva;
use crate::context::Context;
use crate::error::{About, WalkError};
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::orc::{self, Frame, Unwind};
use alloc::vec::Vec;
use core::ops::Range;

/// Numbers of the callee-saved registers: rbx, rbp, r12 to r15.
const KEPT: [u8; 6] = [3, 5, 12, 13, 14, 15];
/// `push` of a register, plus its number; the prefix of r8 to r15.
const PUSH: u8 = 0x50;
const REX_B: u8 = 0x41;

crate::mirrors! {
    /// What a task that is not running has on top of its stack.
    #[allow(missing_docs)]
    pub struct SwitchFrame = "inactive_task_frame" {
        bx: Field,
        bp: Field,
        r12: Field,
        r13: Field,
        r14: Field,
        r15: Field,
    }
}

/// A function that waits within another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The callee-saved registers that it uses: that it has pushed itself.
    pub registers: Vec<u64>,
    /// Its variables on the stack: its frame without what it has pushed.
    pub variables: Range<Kva>,
}

/// The innermost function of this name, if the thread sleeps within it and everything below it is understood.
///
/// # Errors
/// Memory cannot be read.
pub fn of<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    task: Kva,
    name: &str,
) -> Result<Option<Caller>, WalkError> {
    let kernel = context.kernel;
    let Some((frames, _)) = Unwind::sleeping(kernel, task)?.to_user_mode() else {
        return Ok(None);
    };
    let Some(mut registers) = on_top(kernel, &frames)? else {
        return Ok(None);
    };
    for frame in &frames {
        let text = frame.text();
        // Functions of modules are not in the table of symbols.
        let known = !frame.interrupted && kernel.prepared.space.image.contains(&text);
        let Some(function) = kernel.kallsyms.symbolize(text).filter(|_| known) else {
            return Ok(None);
        };
        let pushed = pushed(kernel, text.back(function.offset), text)?;
        let of_register = |index: usize| frame.end.back((index as u64).saturating_add(2).saturating_mul(8));
        if function.name.split('.').next() == Some(name) {
            let end = frame
                .end
                .back((pushed.len() as u64).saturating_add(1).saturating_mul(8));
            let used = KEPT.iter().zip(registers).filter(|(number, _)| pushed.contains(number));
            return Ok(Some(Caller {
                registers: used.map(|(_, value)| value).collect(),
                variables: frame.sp..end,
            }));
        }
        for (index, number) in pushed.iter().enumerate() {
            let kept = KEPT.iter().position(|kept| kept == number);
            if let Some(register) = kept.and_then(|kept| registers.get_mut(kept)) {
                *register = kernel.mem.u64(of_register(index)).about("stack")?;
            }
        }
    }
    Ok(None)
}

/// The registers as the innermost function has them.
fn on_top<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, frames: &[Frame]) -> Result<Option<[u64; 6]>, WalkError> {
    let layout = &kernel.types.layouts.switch_frame;
    let Some(top) = frames.first() else { return Ok(None) };
    let at = top.sp.back(u64::from(layout.struct_size));
    let word = |field: Field| kernel.mem.u64(at.offset(u64::from(field.offset))).about("stack");
    Ok(Some([
        word(layout.bx)?,
        word(layout.bp)?,
        word(layout.r12)?,
        word(layout.r13)?,
        word(layout.r14)?,
        word(layout.r15)?,
    ]))
}

/// Numbers of the registers that a function has pushed, in order, when it is at `text`.
fn pushed<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, start: Kva, text: Kva) -> Result<Vec<u8>, WalkError> {
    let mut pushed = Vec::new();
    for (place, distance) in orc::distances(kernel, start, text)? {
        // A return address is there already.
        if distance == Some(8) && pushed.is_empty() {
            continue;
        }
        let Some(distance) = distance else {
            // With a frame pointer, the others are pushed one right after the other.
            push_all(kernel, place, &mut pushed)?;
            break;
        };
        let expected = (pushed.len() as u64).saturating_add(2).saturating_mul(8);
        // Anything else makes room for a variable.
        let register = match kernel.mem.u8(place.back(2)).about("text")? {
            REX_B => push(kernel, place.back(2))?,
            _ => push(kernel, place.back(1))?,
        };
        match register.filter(|_| distance == expected) {
            Some((number, _)) => pushed.push(number),
            None => break,
        }
    }
    Ok(pushed)
}

/// Adds the registers that are pushed from `place` on.
fn push_all<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, place: Kva, pushed: &mut Vec<u8>) -> Result<(), WalkError> {
    let mut at = place;
    while let Some((number, length)) = push(kernel, at)?.filter(|_| pushed.len() < KEPT.len()) {
        pushed.push(number);
        at = at.offset(length);
    }
    Ok(())
}

/// The callee-saved register that the instruction at a place pushes, and the length of that.
fn push<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, place: Kva) -> Result<Option<(u8, u64)>, WalkError> {
    let byte = |after| kernel.mem.u8(place.offset(after)).about("text");
    let (opcode, high, length) = match byte(0)? {
        REX_B => (byte(1)?, 8, 2),
        opcode => (opcode, 0, 1),
    };
    let number = opcode.checked_sub(PUSH).filter(|&number| number < 8);
    let number = number.map(|number| number | high);
    Ok(number
        .filter(|number| KEPT.contains(number))
        .map(|number| (number, length)))
}
