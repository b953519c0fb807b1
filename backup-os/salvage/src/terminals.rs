//! Terminals (`drivers/tty/tty_io.c`), and pseudo terminals with what nobody has read yet (`drivers/tty/pty.c`,
//! `drivers/tty/n_tty.c`, `drivers/tty/tty_buffer.c`).

use crate::addr::Kva;
use crate::context::Context;
use crate::interrupted::kept_registers;
use crate::interrupted::stack::Words;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use crate::tasks;
use alloc::format;
use alloc::vec::Vec;
use shared_region::context::{OpenFileKind, PseudoTerminal, SlaveState, Termios};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// `TTY_DRIVER_TYPE_PTY` and its two sides (`include/linux/tty_driver.h`).
const TYPE_PTY: u64 = 4;
const MASTER: u64 = 1;
/// `UNIX98_PTY_MASTER_MAJOR` and `UNIX98_PTY_SLAVE_MAJOR` (`include/uapi/linux/major.h`), the first of eight each.
const MAJORS: [core::ops::Range<u64>; 2] = [128..136, 136..144];
/// Bits of `tty_struct.flags` (`include/linux/tty.h`): `TTY_OTHER_CLOSED`, `TTY_EXCLUSIVE`, `TTY_PTY_LOCK`, `TTY_HUPPED`.
const OTHER_CLOSED: u64 = 1 << 2;
const EXCLUSIVE: u64 = 1 << 3;
const PTY_LOCK: u64 = 1 << 16;
const HUPPED: u64 = 1 << 18;
/// `N_TTY`.
const N_TTY: u64 = 0;
/// `ICANON` and `EXTPROC` in the local flags (`include/uapi/asm-generic/termbits.h`).
const ICANON: u32 = 2;
const EXTPROC: u32 = 0o200_000;
/// `VMIN`, a place among the control characters.
const VMIN: usize = 6;
/// `N_TTY_BUF_SIZE`.
const BUFFER: u64 = 4096;
/// Reads for the usual line discipline, into a buffer of its caller (`iterate_tty_read`) of so many bytes.
const READER: &str = "n_tty_read";
const READER_BUFFER: u64 = 64;
/// More buffers between two sides than fit (8 KB in pieces of at least 256 bytes).
const MAX_BUFFERS: u32 = 1024;
/// More bytes than one of them has.
const MAX_PIECE: u64 = 1 << 16;

crate::mirrors! {
    /// What a terminal's file knows.
    #[allow(missing_docs)]
    pub struct TtyFilePrivate = "tty_file_private" {
        tty: Field,
    }

    /// A terminal.
    #[allow(missing_docs)]
    pub struct TtyStruct = "tty_struct" {
        driver: Field,
        name: Field,
        index: Field,
        ldisc: Field,
        flags: Field,
        count: Field,
        iflag: Field = "termios.c_iflag",
        oflag: Field = "termios.c_oflag",
        cflag: Field = "termios.c_cflag",
        lflag: Field = "termios.c_lflag",
        line: Field = "termios.c_line",
        cc: Field = "termios.c_cc",
        ispeed: Field = "termios.c_ispeed",
        ospeed: Field = "termios.c_ospeed",
        locked: Field = "termios_locked",
        winsize: Field,
        stopped: Field = "flow.stopped",
        tco_stopped: Field = "flow.tco_stopped",
        pgrp: Field = "ctrl.pgrp",
        pktstatus: Field = "ctrl.pktstatus",
        packet: Field = "ctrl.packet",
        link: Field,
        disc_data: Field,
        driver_data: Field,
        port: Field,
        write_buf: Field,
    }

    /// A driver of terminals.
    #[allow(missing_docs)]
    pub struct TtyDriver = "tty_driver" {
        kind: Field = "type",
        subtype: Field,
        major: Field,
    }

    /// A line discipline in use.
    #[allow(missing_docs)]
    pub struct TtyLdisc = "tty_ldisc" {
        ops: Field,
    }

    /// A line discipline.
    #[allow(missing_docs)]
    pub struct TtyLdiscOps = "tty_ldisc_ops" {
        num: Field,
    }

    /// What the usual line discipline knows.
    #[allow(missing_docs)]
    pub struct NTtyData = "n_tty_data" {
        read_head: Field,
        read_tail: Field,
        echo_head: Field,
        echo_tail: Field,
        lnext: Field,
        erasing: Field,
        read_buf: Field,
        read_flags: Field,
        column: Field,
        atomic_read_lock: Field = "atomic_read_lock.owner.counter",
        output_lock: Field = "output_lock.owner.counter",
    }

    /// What a side has been sent.
    #[allow(missing_docs)]
    pub struct TtyPort = "tty_port" {
        head: Field = "buf.head",
        lock: Field = "buf.lock.owner.counter",
    }

    /// A piece of it.
    #[allow(missing_docs)]
    pub struct TtyBuffer = "tty_buffer" {
        next: Field,
        commit: Field,
        read: Field,
        data: Field,
    }
}

fn refuse(what: &str) -> Refusal {
    Refusal::new(reasons::PSEUDO_TERMINAL, what)
}

/// The terminal behind an open file's `private_data`.
///
/// # Errors
/// It cannot be read.
pub fn of_file<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, data: Kva) -> Result<Kva> {
    let field = context.kernel.types.layouts.tty_file_private.tty;
    Ok(context.kernel.mem.ptr(data, field)?)
}

/// Which side of a pseudo terminal a terminal is; `None` if it is none of one.
fn side<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, tty: Kva) -> Result<Option<u64>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let driver = mem.ptr(tty, layouts.tty_struct.driver)?;
    if mem.uint(driver, layouts.tty_driver.kind)? != TYPE_PTY {
        return Ok(None);
    }
    let major = mem.uint(driver, layouts.tty_driver.major)?;
    if !MAJORS.iter().any(|majors| majors.contains(&major)) {
        return Err(refuse("of the BSD kind"));
    }
    Ok(Some(mem.uint(driver, layouts.tty_driver.subtype)?))
}

/// The slave of a pseudo terminal's side; its address is the pseudo terminal's id.
fn slave<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, tty: Kva, side: u64) -> Result<Kva> {
    match side {
        MASTER => Ok(context
            .kernel
            .mem
            .ptr(tty, context.kernel.types.layouts.tty_struct.link)?),
        _ => Ok(tty),
    }
}

/// What a terminal's file is. `rdev` is the device that it was opened by.
///
/// # Errors
/// It cannot be read.
pub fn kind<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, data: Kva, rdev: u64) -> Result<OpenFileKind> {
    let tty = of_file(context, data)?;
    let Some(side) = side(context, tty)? else {
        return Ok(OpenFileKind::Console { rdev });
    };
    let terminal = slave(context, tty, side)?.0;
    Ok(match side {
        MASTER => OpenFileKind::PtyMaster { terminal },
        _ => OpenFileKind::PtySlave { terminal, rdev },
    })
}

/// Path and foreground group of a process's controlling terminal.
///
/// # Errors
/// It cannot be read.
pub fn controlling<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, signal: Kva) -> Result<(Vec<u8>, u32)> {
    let kernel = context.kernel;
    let layout = &kernel.types.layouts.tty_struct;
    let tty = kernel.mem.ptr(signal, kernel.types.layouts.signal.tty)?;
    if tty.is_null() {
        return Ok((Vec::new(), 0));
    }
    let path = match side(context, tty)? {
        Some(_) => format!("/dev/pts/{}", kernel.mem.uint(tty, layout.index)?).into_bytes(),
        None => [b"/dev/".as_slice(), &kernel.mem.text(tty, layout.name)?].concat(),
    };
    let group = kernel.mem.ptr(tty, layout.pgrp)?;
    Ok((path, tasks::pid_number(kernel, group)?))
}

/// Writes the pseudo terminal, if it is one, that is a process's controlling terminal.
///
/// # Errors
/// As [`write`].
pub fn write_controlling<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    signal: Kva,
) -> Result<()> {
    let tty = context
        .kernel
        .mem
        .ptr(signal, context.kernel.types.layouts.signal.tty)?;
    if tty.is_null() || side(context, tty)?.is_none() {
        return Ok(());
    }
    write(context, writer, tty.0).map_err(|refusal| refusal.of(|| "controlling terminal".into()))
}

/// Writes a pseudo terminal.
///
/// # Errors
/// It is in a state that is not restored, or cannot be read, or there is no room.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    terminal: u64,
) -> Result<()> {
    if !context.first(Kind::PseudoTerminal, terminal) {
        return Ok(());
    }
    let record = read(context, Kva(terminal))?;
    Ok(writer.push(Kind::PseudoTerminal, 1, flags::MUST_UNDERSTAND, terminal, &record)?)
}

fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, slave: Kva) -> Result<PseudoTerminal> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.tty_struct;
    let mem = &context.kernel.mem;
    let master = mem.ptr(slave, layout.link)?;
    let index = mem.uint(slave, layout.index)? as u32;
    let (of_slave, of_master) = (mem.uint(slave, layout.flags)?, mem.uint(master, layout.flags)?);
    if mem.ptr(master, layout.link)? != slave {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            "a terminal whose sides are not each other's",
        ));
    }
    if of_slave & HUPPED != 0 {
        // All that is left of it is an end.
        let slave = SlaveState::Open;
        return Ok(PseudoTerminal {
            index,
            slave,
            ..PseudoTerminal::default()
        });
    }
    for side in [slave, master] {
        if mem.uint(mem.ptr(side, layout.port)?, layouts.tty_port.lock)? != 0
            || mem.uint(mem.ptr(side, layout.disc_data)?, layouts.n_tty_data.output_lock)? != 0
        {
            return Err(refuse("in use at the instant the kernel died"));
        }
        let ldisc = mem.ptr(side, layout.ldisc)?;
        if mem.uint(mem.ptr(ldisc, layouts.tty_ldisc.ops)?, layouts.tty_ldisc_ops.num)? != N_TTY {
            return Err(refuse("with a line discipline of another kind"));
        }
        let locked = mem.bytes(
            side.offset(u64::from(layout.locked.offset)),
            layout.locked.size as usize,
        )?;
        if locked.iter().any(|&byte| byte != 0) {
            return Err(refuse("with settings that are locked"));
        }
        if mem.uint(side, layout.pktstatus)? != 0 {
            return Err(refuse("with a change that its master has not seen"));
        }
    }
    if mem.uint(master, layout.stopped)? != 0 {
        return Err(refuse("whose master is stopped"));
    }
    let termios = termios(context, slave)?;
    let mut line = Line::read(context, slave)?;
    let taken = taken_by_reader(context, slave, &termios)?;
    line.unread.splice(..0, taken);
    if line.unread.len() as u64 >= BUFFER {
        return Err(refuse("with more input than it has room for"));
    }
    let lines = termios.flags[3] & (ICANON | EXTPROC) == ICANON;
    let state = match mem.uint(slave, layout.count)? {
        2.. => SlaveState::Open,
        _ if of_master & OTHER_CLOSED != 0 => SlaveState::Closed,
        _ => SlaveState::New,
    };
    let stopped = mem.uint(slave, layout.stopped)? != 0;
    let by_call = mem.uint(slave, layout.tco_stopped)? != 0;
    let mut output = Line::read(context, master)?.unread;
    output.extend(sent(context, master)?);
    Ok(PseudoTerminal {
        index,
        slave: state,
        owner: owner(context, slave)?,
        termios,
        window: window(context, slave)?,
        locked: of_master & PTY_LOCK != 0,
        exclusive: (of_master & EXCLUSIVE != 0, of_slave & EXCLUSIVE != 0),
        packets: mem.uint(master, layout.packet)? != 0,
        stopped: (stopped && !by_call, by_call),
        column: line.column,
        ends: if lines { line.ends } else { Vec::new() },
        input: line.unread,
        literal: line.literal,
        typed: sent(context, slave)?,
        output,
    })
}

/// Where the kernel puts the part of a write to a terminal's file that its line discipline is working on.
///
/// # Errors
/// It cannot be read.
pub fn write_buffer<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, file: Kva) -> Result<Kva> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let tty = of_file(context, mem.ptr(file, layouts.file.private_data)?)?;
    Ok(mem.ptr(tty, layouts.tty_struct.write_buf)?)
}

fn termios<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, tty: Kva) -> Result<Termios> {
    let layout = &context.kernel.types.layouts.tty_struct;
    let mem = &context.kernel.mem;
    let word = |field| Ok::<u32, Refusal>(mem.uint(tty, field)? as u32);
    Ok(Termios {
        flags: [
            word(layout.iflag)?,
            word(layout.oflag)?,
            word(layout.cflag)?,
            word(layout.lflag)?,
        ],
        line: word(layout.line)? as u8,
        characters: mem.bytes(tty.offset(u64::from(layout.cc.offset)), layout.cc.size as usize)?,
        speeds: [word(layout.ispeed)?, word(layout.ospeed)?],
    })
}

/// Characters that a reader has taken who waits for more of them (VMIN): they are in a buffer of its own, and no call has
/// given them to anybody. Put back, they are what its call begins with when it is made again.
fn taken_by_reader<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, tty: Kva, termios: &Termios) -> Result<Vec<u8>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let minimum = termios.characters.get(VMIN).copied().unwrap_or(0);
    let data = mem.ptr(tty, layouts.tty_struct.disc_data)?;
    // Low bits of the owner are flags (`MUTEX_FLAGS`).
    let reader = Kva(mem.uint(data, layouts.n_tty_data.atomic_read_lock)? & !7);
    if termios.flags[3] & ICANON != 0 || minimum <= 1 || reader.is_null() {
        return Ok(Vec::new());
    }
    let Some(frame) = kept_registers::of(context, reader, READER)? else {
        return Err(refuse("with a reader who may have some of the characters it waits for"));
    };
    let variables = Words::read(context, frame.variables.clone())?;
    let words: Vec<u64> = frame.registers.iter().copied().chain(variables.all()).collect();
    let tail = mem.uint(data, layouts.n_tty_data.read_tail)?;
    let buffer = mem.bytes(
        data.offset(u64::from(layouts.n_tty_data.read_buf.offset)),
        BUFFER as usize,
    )?;
    let mut found = Vec::new();
    for count in 1..u64::from(minimum).min(READER_BUFFER) {
        let first = tail.wrapping_sub(count);
        let at = |place: u64| (first.wrapping_add(place) & BUFFER.wrapping_sub(1)) as usize;
        let bytes: Vec<u8> = (0..count).filter_map(|place| buffer.get(at(place)).copied()).collect();
        // Its buffer is a variable of its caller.
        let has_them = |&&own: &&u64| {
            own >= frame.variables.end.0
                && words.contains(&own.wrapping_add(count))
                && mem.bytes(Kva(own), count as usize).is_ok_and(|held| held == bytes)
        };
        if words.contains(&first) && words.iter().any(|own| has_them(&own)) {
            found.push(bytes);
        }
    }
    match found.pop() {
        Some(bytes) if found.is_empty() => Ok(bytes),
        None if words.contains(&tail) => Ok(Vec::new()),
        _ => Err(refuse("with a reader who may have some of the characters it waits for")),
    }
}

fn window<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, tty: Kva) -> Result<[u16; 4]> {
    let at = tty.offset(u64::from(context.kernel.types.layouts.tty_struct.winsize.offset));
    let number = |index: u64| Ok::<u16, Refusal>(context.kernel.mem.u16(at.offset(index.wrapping_mul(2)))?);
    Ok([number(0)?, number(1)?, number(2)?, number(3)?])
}

/// Owner, group and permissions of the name in `/dev/pts`.
fn owner<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, slave: Kva) -> Result<(u32, u32, u32)> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let dentry = mem.ptr(slave, layouts.tty_struct.driver_data)?;
    let inode = mem.ptr(dentry, layouts.dentry.d_inode)?;
    let number = |field| Ok::<u32, Refusal>(mem.uint(inode, field)? as u32);
    let mode = number(layouts.inode.i_mode)? & 0o7777;
    Ok((number(layouts.inode.i_uid)?, number(layouts.inode.i_gid)?, mode))
}

/// What a line discipline holds.
struct Line {
    unread: Vec<u8>,
    ends: Vec<u32>,
    literal: bool,
    column: u32,
}

impl Line {
    fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, tty: Kva) -> Result<Self> {
        let layouts = &context.kernel.types.layouts;
        let layout = &layouts.n_tty_data;
        let mem = &context.kernel.mem;
        let data = mem.ptr(tty, layouts.tty_struct.disc_data)?;
        let (head, tail) = (mem.uint(data, layout.read_head)?, mem.uint(data, layout.read_tail)?);
        let count = head.wrapping_sub(tail);
        if count > BUFFER || u64::from(layout.read_buf.size) != BUFFER {
            return Err(Refusal::new(
                reasons::UNREADABLE,
                format!("{count} characters of input"),
            ));
        }
        if mem.uint(data, layout.erasing)? != 0 {
            return Err(refuse("in the middle of erasing (ECHOPRT)"));
        }
        if mem.uint(data, layout.echo_head)? != mem.uint(data, layout.echo_tail)? {
            return Err(refuse("with characters that are not shown yet"));
        }
        let buffer = mem.bytes(data.offset(u64::from(layout.read_buf.offset)), BUFFER as usize)?;
        let marks = mem.bytes(data.offset(u64::from(layout.read_flags.offset)), (BUFFER >> 3) as usize)?;
        let (mut unread, mut ends) = (Vec::new(), Vec::new());
        for place in 0..count {
            let at = (tail.wrapping_add(place) & BUFFER.wrapping_sub(1)) as usize;
            unread.push(buffer.get(at).copied().unwrap_or(0));
            if marks.get(at >> 3).is_some_and(|byte| byte & (1 << (at & 7)) != 0) {
                ends.push(place as u32);
            }
        }
        Ok(Self {
            unread,
            ends,
            literal: mem.uint(data, layout.lnext)? != 0,
            column: mem.uint(data, layout.column)? as u32,
        })
    }
}

/// What a side was sent and its line discipline has not looked at.
fn sent<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, tty: Kva) -> Result<Vec<u8>> {
    let layouts = &context.kernel.types.layouts;
    let layout = &layouts.tty_buffer;
    let mem = &context.kernel.mem;
    let port = mem.ptr(tty, layouts.tty_struct.port)?;
    let mut piece = mem.ptr(port, layouts.tty_port.head)?;
    let mut bytes = Vec::new();
    for _ in 0..MAX_BUFFERS {
        if piece.is_null() {
            return Ok(bytes);
        }
        let (from, to) = (mem.uint(piece, layout.read)?, mem.uint(piece, layout.commit)?);
        if from > to || to > MAX_PIECE {
            return Err(Refusal::new(
                reasons::UNREADABLE,
                format!("bytes {from} to {to} of a terminal"),
            ));
        }
        let first = piece.offset(u64::from(layout.data.offset)).offset(from);
        bytes.extend(mem.bytes(first, to.saturating_sub(from) as usize)?);
        piece = mem.ptr(piece, layout.next)?;
    }
    Err(Refusal::new(reasons::UNREADABLE, "a terminal with too many buffers"))
}
