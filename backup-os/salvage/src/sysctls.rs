//! Settings below `/proc/sys` that a namespace has for itself (`fs/proc/proc_sysctl.c`): those that are numbers.
//!
//! A setting is read as the function that shows it would: which function that is tells how wide its numbers are, and in what
//! unit. Settings shown by other functions are left out.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use shared_region::reasons;

/// `S_IFDIR`, and permissions to read and to write.
const S_IFMT: u64 = 0o170_000;
const S_IFDIR: u64 = 0o040_000;
const READ_AND_WRITE: u64 = 0o600;
/// Settings of a namespace, directories one in another, bytes of a name, and of a value.
const MAX_SETTINGS: u64 = 1 << 12;
const MAX_DEPTH: usize = 8;
const MAX_NAME: usize = 64;
const MAX_VALUE: u64 = 64;
/// Of a second.
const MILLISECOND: u64 = 1_000_000;
const USER_TICK: u64 = 10 * MILLISECOND;
const SECOND: u64 = 1_000 * MILLISECOND;

crate::mirrors! {
    /// A setting.
    #[allow(missing_docs)]
    pub struct CtlTable = "ctl_table" {
        procname: Field,
        data: Field,
        maxlen: Field,
        mode: Field,
        proc_handler: Field,
    }

    /// A row of settings of the same directory.
    #[allow(missing_docs)]
    pub struct CtlTableHeader = "ctl_table_header" {
        ctl_table: Field,
        set: Field,
        node: Field,
    }

    /// A directory, which is the row of one that it is itself as a setting of the directory above.
    #[allow(missing_docs)]
    pub struct CtlDir = "ctl_dir" {
        header: Field,
        root: Field,
    }

    /// The place of a setting in its directory.
    #[allow(missing_docs)]
    pub struct CtlNode = "ctl_node" {
        node: Field,
        header: Field,
    }

    /// All settings of a namespace.
    #[allow(missing_docs)]
    pub struct CtlTableSet = "ctl_table_set" {
        dir: Field,
    }
}

crate::mirror_set! {
    /// All of it.
    pub struct Layouts {
        /// `struct ctl_table`.
        table: CtlTable,
        /// `struct ctl_table_header`.
        header: CtlTableHeader,
        /// `struct ctl_dir`.
        directory: CtlDir,
        /// `struct ctl_node`.
        node: CtlNode,
        /// `struct ctl_table_set`.
        set: CtlTableSet,
    }
}

/// How the numbers of a setting are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// With a sign; of so many bytes.
    Signed(usize),
    /// Without one.
    Unsigned(usize),
    /// Ticks of the kernel in units of so many nanoseconds.
    Ticks(u64),
}

/// How numbers are shown by a function.
fn shown(function: &str) -> Option<Shown> {
    match function {
        "proc_dointvec"
        | "proc_dointvec_minmax"
        | "devinet_conf_proc"
        | "devinet_sysctl_forward"
        | "ipv4_doint_and_flush"
        | "ipv4_privileged_ports"
        | "addrconf_sysctl_forward"
        | "addrconf_sysctl_proxy_ndp"
        | "addrconf_sysctl_disable"
        | "addrconf_sysctl_disable_policy"
        | "addrconf_sysctl_addr_gen_mode"
        | "addrconf_sysctl_ignore_routes_with_linkdown" => Some(Shown::Signed(4)),
        "proc_douintvec" | "proc_douintvec_minmax" | "proc_fib_multipath_hash_fields" => Some(Shown::Unsigned(4)),
        "proc_dou8vec_minmax" | "ipv4_fwd_update_priority" | "proc_fib_multipath_hash_policy" => {
            Some(Shown::Unsigned(1))
        }
        "proc_doulongvec_minmax" => Some(Shown::Unsigned(8)),
        "proc_dointvec_jiffies" => Some(Shown::Ticks(SECOND)),
        "proc_dointvec_userhz_jiffies" => Some(Shown::Ticks(USER_TICK)),
        "proc_dointvec_ms_jiffies" => Some(Shown::Ticks(MILLISECOND)),
        _ => None,
    }
}

impl Shown {
    fn width(self) -> usize {
        match self {
            Self::Signed(width) | Self::Unsigned(width) => width,
            Self::Ticks(_) => 4,
        }
    }

    /// The text of a number of little-endian bytes; `tick` are nanoseconds.
    fn text(self, bytes: &[u8], tick: u64) -> String {
        let number = bytes.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        match self {
            Self::Unsigned(_) => number.to_string(),
            Self::Signed(_) => (number as u32 as i32).to_string(),
            Self::Ticks(unit) => {
                let ticks = number as u32 as i32;
                let nanoseconds = u64::from(ticks.unsigned_abs()).saturating_mul(tick);
                let units = nanoseconds.checked_div(unit).unwrap_or(0);
                format!("{}{units}", if ticks < 0 { "-" } else { "" })
            }
        }
    }
}

fn layouts<'c, M: PhysMem + ?Sized>(context: &'c Context<'_, '_, M>) -> Result<&'c Layouts> {
    let layouts = context.kernel.types.layouts.sysctls.as_ref();
    layouts.ok_or_else(|| Refusal::new(reasons::UNREADABLE, "settings of this kernel"))
}

/// Reads those of a `struct ctl_table_set`: the name of each below `/proc/sys`, and its value.
///
/// # Errors
/// Something cannot be read, or there is no end of them.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, set: Kva) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let layouts = layouts(context)?;
    let mut found = Vec::new();
    let root = set.offset(u64::from(layouts.set.dir.offset));
    let mut directories = alloc::vec![(Vec::new(), root, 0usize)];
    let mut seen = 0u64;
    while let Some((path, directory, depth)) = directories.pop() {
        for (header, entry) in entries(context, directory)? {
            seen = seen.saturating_add(1);
            if seen > MAX_SETTINGS || depth > MAX_DEPTH {
                return Err(Refusal::new(reasons::UNREADABLE, "settings without end"));
            }
            let name = context.kernel.mem.ptr(entry, layouts.table.procname)?;
            let name = [&path[..], &context.kernel.mem.cstr(name, MAX_NAME)?].concat();
            if context.kernel.mem.uint(entry, layouts.table.mode)? & S_IFMT == S_IFDIR {
                let directory = header.back(u64::from(layouts.directory.header.offset));
                directories.push(([&name[..], b"/"].concat(), directory, depth.saturating_add(1)));
            } else if let Some(value) = value(context, entry)? {
                found.push((name, value));
            }
        }
    }
    Ok(found)
}

/// The settings of a directory, each with its row.
fn entries<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, directory: Kva) -> Result<Vec<(Kva, Kva)>> {
    let layouts = layouts(context)?;
    let (node, header) = (&layouts.node, &layouts.header);
    let mem = &context.kernel.mem;
    let root = directory.offset(u64::from(layouts.directory.root.offset));
    let mut entries = Vec::new();
    for at in context.kernel.rbtree(root, node.node)?.bounded(MAX_SETTINGS) {
        let at = at?;
        let row = mem.ptr(at, node.header)?;
        let first = mem.ptr(row, header.node)?;
        let bytes = at.0.wrapping_sub(first.0);
        let (size, width) = (u64::from(node.struct_size), u64::from(layouts.table.struct_size));
        let index = bytes.checked_div(size).filter(|index| *index < MAX_SETTINGS);
        let Some(index) = index.filter(|_| bytes.checked_rem(size) == Some(0)) else {
            return Err(Refusal::new(reasons::UNREADABLE, "a setting that is not in its row"));
        };
        let table = mem.ptr(row, header.ctl_table)?;
        entries.push((row, table.offset(index.wrapping_mul(width))));
    }
    Ok(entries)
}

/// What is written to have a setting again; `None` if it cannot be written, or is no number.
fn value<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, entry: Kva) -> Result<Option<Vec<u8>>> {
    let layout = &layouts(context)?.table;
    let mem = &context.kernel.mem;
    let function = context.symbol(mem.ptr(entry, layout.proc_handler)?);
    let Some(shown) = function.as_deref().and_then(shown) else {
        return Ok(None);
    };
    let (mode, length) = (mem.uint(entry, layout.mode)?, mem.uint(entry, layout.maxlen)?);
    let data = mem.ptr(entry, layout.data)?;
    if mode & READ_AND_WRITE != READ_AND_WRITE || data.is_null() || length > MAX_VALUE {
        return Ok(None);
    }
    let tick = context
        .tick()
        .ok_or_else(|| Refusal::new(reasons::UNREADABLE, "a time in unknown units"))?;
    let bytes = mem.bytes(data, length as usize)?;
    let numbers: Vec<String> = bytes
        .chunks_exact(shown.width())
        .map(|bytes| shown.text(bytes, tick))
        .collect();
    Ok(Some(numbers.join("\t").into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 4_000_000;

    #[test]
    fn numbers_are_shown_as_by_the_kernel() {
        let text = |function: &str, bytes: &[u8]| shown(function).unwrap().text(bytes, TICK);
        assert_eq!(text("proc_dointvec", &[0xFF; 4]), "-1");
        assert_eq!(text("proc_douintvec_minmax", &[0xFF; 4]), "4294967295");
        assert_eq!(text("proc_dou8vec_minmax", &[200]), "200");
        assert_eq!(text("proc_doulongvec_minmax", &[0, 0, 0, 0, 1, 0, 0, 0]), "4294967296");
        // 15000 ticks of a 250th of a second.
        assert_eq!(text("proc_dointvec_jiffies", &15_000u32.to_le_bytes()), "60");
        assert_eq!(text("proc_dointvec_ms_jiffies", &250u32.to_le_bytes()), "1000");
        assert_eq!(text("proc_dointvec_userhz_jiffies", &250u32.to_le_bytes()), "100");
        assert_eq!(text("proc_dointvec_jiffies", &(-250i32).to_le_bytes()), "-1");
        assert_eq!(shown("proc_dostring"), None);
    }
}
