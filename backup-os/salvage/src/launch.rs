//! A program that a process was about to run when the kernel died: the process has lost its old memory and not got the new one.
//!
//! The next kernel gives it a page of memory with the strings and the call by which it started the program, and it makes the
//! call again. Everything else that starting a program does to a process may have been done or not; done twice it is the same.

use crate::addr::{Kva, Uva, PAGE_SIZE};
use crate::context::Context;
use crate::interrupted::stack::Words;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::mm::{self, Space};
use crate::paging::PageTables;
use crate::refusal::{Refusal, Result};
use crate::registers::UserRegs;
use crate::user_memory;
use alloc::vec::Vec;
use core::ops::Range;
use shared_region::context::{Backing, Mapping, Process, SigAction, Thread};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

crate::mirrors! {
    /// A program that is being started.
    #[allow(missing_docs)]
    pub struct LinuxBinprm = "linux_binprm" {
        vma: Field,
        mm: Field,
        p: Field,
        file: Field,
        argc: Field,
        envc: Field,
        filename: Field,
        interp: Field,
        exec: Field,
        fdpath: Field,
    }
}

/// Bytes of strings. Linux takes three quarters of 8 MiB (`bprm_stack_limits()`).
const MOST_BYTES: usize = 1 << 20;
/// Bytes behind the last character of the last string: its end, and a null pointer (`__bprm_mm_init()`).
const STACK_END: u64 = 1 + 8;
/// `PATH_MAX`.
const MOST_PATH: usize = 4096;
/// Where the call is made: the lowest address that an ordinary process may map (`mmap_min_addr`).
const BASE: u64 = 0x1_0000;
/// `syscall`, and `ud2` for a call that returns: the program could not be started, and nothing is left to return to.
const CODE: [u8; 4] = [0x0F, 0x05, 0x0F, 0x0B];
/// `execve` (arch/x86/entry/syscalls/syscall_64.tbl).
const EXECVE: u64 = 59;
const PROT_READ_EXEC: u32 = 5;
/// `SIG_IGN`: the only disposition that a program hands on.
const SIG_IGN: u64 = 1;

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Bytes from [`BASE`] on.
    content: Vec<u8>,
    /// Addresses of the arguments and of the environment, and the end of the memory.
    arguments: u64,
    environment: u64,
    end: u64,
}

impl Launch {
    /// Finds what the task's call was to start. `frames` is what the call has on the kernel's stack.
    ///
    /// # Errors
    /// It is not found, or is started in a way that cannot be repeated.
    pub fn find<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva, frames: Range<Kva>) -> Result<Self> {
        let refuse = |why| Refusal::new(reasons::EXEC, why);
        let layouts = &context.kernel.types.layouts;
        let layout = &layouts.linux_binprm;
        let mem = &context.kernel.mem;
        let mm = mem.ptr(task, layouts.task.mm)?;
        let program = binprm(context, mm, frames)?.ok_or_else(|| refuse("it is not known which"))?;
        if !mem.ptr(program, layout.fdpath)?.is_null() {
            return Err(refuse("by a descriptor"));
        }
        let tables = mm::tables(context, mm)?;
        let name = mem.cstr(mem.ptr(program, layout.filename)?, MOST_PATH)?;
        // Once the stack is where it stays, the structure knows less than the address space.
        let start = match mem.uint(mm, layouts.mm.arg_start)? {
            0 => mem.uint(program, layout.p)?,
            start => start,
        };
        // The addresses are changed before the stack is moved to them (`setup_arg_pages()`), but the last string, which is the
        // name, stays at its end.
        let end = mem.uint(mem.ptr(program, layout.vma)?, layouts.vma.vm_end)?;
        let last = end.wrapping_sub(STACK_END).wrapping_sub(name.len() as u64);
        let moves = last.wrapping_sub(mem.uint(program, layout.exec)?);
        let (argc, envc) = (mem.uint(program, layout.argc)?, mem.uint(program, layout.envc)?);
        let count = argc.checked_add(envc).and_then(|count| usize::try_from(count).ok());
        let count = count.filter(|&count| count < MOST_BYTES);
        let at = |start| strings(context.kernel.phys(), &tables, start, count?);
        let found = at(start).or_else(|| at(start.wrapping_add(moves)));
        let mut strings = found.ok_or_else(|| refuse("its arguments cannot be read"))?;
        let environment = strings.split_off(argc as usize);
        let is_script = mem.ptr(program, layout.interp)? != mem.ptr(program, layout.filename)?;
        let arguments = of_call(&name, strings, is_script).ok_or_else(|| refuse("by an interpreter of its own"))?;
        Ok(Self::new(&name, &arguments, &environment))
    }

    fn new(name: &[u8], arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> Self {
        let mut content = CODE.to_vec();
        let mut put = |string: &[u8]| {
            let at = BASE.wrapping_add(content.len() as u64);
            content.extend_from_slice(string);
            content.push(0);
            at
        };
        put(name);
        let arguments: Vec<u64> = arguments.iter().map(|string| put(string)).collect();
        let environment: Vec<u64> = environment.iter().map(|string| put(string)).collect();
        let mut list = |addresses: Vec<u64>| {
            content.resize(content.len().next_multiple_of(8), 0);
            let at = BASE.wrapping_add(content.len() as u64);
            for address in addresses.into_iter().chain([0]) {
                content.extend_from_slice(&address.to_le_bytes());
            }
            at
        };
        let (arguments, environment) = (list(arguments), list(environment));
        let end = BASE.wrapping_add(content.len() as u64).next_multiple_of(PAGE_SIZE);
        Self {
            content,
            arguments,
            environment,
            end,
        }
    }

    /// Registers with which the call is made.
    pub fn registers(&self, user: &UserRegs) -> UserRegs {
        UserRegs {
            ip: BASE,
            sp: self.end,
            ax: EXECVE,
            di: BASE.wrapping_add(CODE.len() as u64),
            si: self.arguments,
            dx: self.environment,
            orig_ax: u64::MAX,
            ..*user
        }
    }

    /// The memory instead of what the process has of its new one.
    pub fn space(&self, mut space: Space) -> Space {
        let (start, end) = (BASE, self.end);
        space.record.bounds = [start, end, start, end, end, end, end, start, start, start, start];
        space.record.auxv.clear();
        space.record.vdso = 0;
        space.record.vvar_size = 0;
        space.areas = [mm::Area {
            mapping: Mapping {
                start,
                end,
                prot: PROT_READ_EXEC,
                backing: Backing::Anonymous,
                ..Mapping::default()
            },
            flags: 0,
            file: Kva::NULL,
            inode: Kva::NULL,
        }]
        .into();
        space
    }

    /// Forgets what belonged to the old memory.
    pub fn forget(record: &mut Process) {
        for action in &mut record.sigactions {
            if action.handler != SIG_IGN {
                *action = SigAction::default();
            }
        }
    }

    /// The same for its thread.
    pub fn forget_of_thread(record: &mut Thread) {
        record.sigaltstack = Default::default();
        record.robust_list = 0;
        record.clear_child_tid = 0;
        record.rseq = Default::default();
    }

    /// Writes the address space that [`Launch::space`] made.
    ///
    /// # Errors
    /// There is no room.
    pub fn write(&self, writer: &mut Writer<'_>, id: u64, space: &Space) -> Result<()> {
        space.write(writer, id)?;
        let mut bytes = BASE.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.content);
        Ok(writer.push_bytes(Kind::Bytes, 1, flags::MUST_UNDERSTAND, id, &bytes)?)
    }
}

/// The structure by which the program with this address space is being started. It is on the kernel's heap; the functions that
/// start the program have its address on their stack.
fn binprm<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mm: Kva, frames: Range<Kva>) -> Result<Option<Kva>> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.linux_binprm;
    let mem = &context.kernel.mem;
    let file = mem.ptr(mm, layouts.mm.exe_file)?;
    let mut found = None;
    for candidate in Words::read(context, frames)?.all().map(Kva) {
        let is_it = || -> Result<bool> {
            // Set until the old memory has been given up.
            let given = mem.ptr(candidate, layout.mm)?;
            let vma = mem.ptr(candidate, layout.vma)?;
            Ok(mem.ptr(candidate, layout.file)? == file
                && (given.is_null() || given == mm)
                && mem.ptr(vma, layouts.vma.vm_mm)? == mm)
        };
        // Most words are no addresses at all.
        if file.is_null() || !is_it().unwrap_or(false) || found == Some(candidate) {
            continue;
        }
        if found.is_some() {
            return Ok(None);
        }
        found = Some(candidate);
    }
    Ok(found)
}

/// So many strings that lie one after the other.
fn strings<M: PhysMem + ?Sized>(memory: &M, tables: &PageTables, start: u64, count: usize) -> Option<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    let mut string = Vec::new();
    let (mut at, mut total) = (start, 0usize);
    while strings.len() < count {
        let mut page = [0; PAGE_SIZE as usize];
        let in_page = PAGE_SIZE.checked_sub(at & (PAGE_SIZE - 1))? as usize;
        let bytes = page.get_mut(..in_page)?;
        user_memory::read(memory, tables, Uva(at), bytes)?;
        for &byte in bytes.iter() {
            match byte {
                0 if strings.len() < count => strings.push(core::mem::take(&mut string)),
                _ => string.push(byte),
            }
        }
        at = at.checked_add(in_page as u64)?;
        total = total.checked_add(in_page)?;
        if total > MOST_BYTES {
            return None;
        }
    }
    Some(strings)
}

/// The arguments of the call. Those of a script have its interpreter, and what that is told, before them instead of the first
/// (`load_script()`); no interpreter sees the first.
fn of_call(name: &[u8], mut strings: Vec<Vec<u8>>, is_script: bool) -> Option<Vec<Vec<u8>>> {
    if !is_script {
        return Some(strings);
    }
    let at = strings.iter().take(3).skip(1).position(|string| string == name)?;
    strings.drain(..=at);
    Some(strings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn the_call_finds_its_strings() {
        let launch = Launch::new(b"/bin/sh", &texts(&["sh", "-c", "true"]), &texts(&["A=1"]));
        let at = |address: u64| &launch.content[(address - BASE) as usize..];
        let string = |address: u64| at(address).split(|&byte| byte == 0).next().unwrap().to_vec();
        let list = |address: u64| -> Vec<Vec<u8>> {
            (0..)
                .map(|index: u64| u64::from_le_bytes(at(address + 8 * index)[..8].try_into().unwrap()))
                .take_while(|&address| address != 0)
                .map(string)
                .collect()
        };
        let regs = launch.registers(&UserRegs::default());
        assert_eq!(at(regs.ip)[..4], CODE);
        assert_eq!(string(regs.di), b"/bin/sh");
        assert_eq!(list(regs.si), texts(&["sh", "-c", "true"]));
        assert_eq!(list(regs.dx), texts(&["A=1"]));
        assert_eq!(
            (regs.ax, regs.si % 8, regs.dx % 8, regs.sp % PAGE_SIZE),
            (EXECVE, 0, 0, 0)
        );
        assert!(BASE + launch.content.len() as u64 <= launch.end);
    }

    #[test]
    fn a_script_is_started_as_a_script() {
        let plain = texts(&["/bin/sh", "./run", "x"]);
        assert_eq!(of_call(b"./run", plain.clone(), true), Some(texts(&["./run", "x"])));
        let told = texts(&["/bin/sh", "-e", "./run", "x"]);
        assert_eq!(of_call(b"./run", told, true), Some(texts(&["./run", "x"])));
        assert_eq!(of_call(b"./other", plain.clone(), true), None);
        assert_eq!(of_call(b"./other", plain.clone(), false), Some(plain));
        assert_eq!(of_call(b"x", vec![], true), None);
    }
}
