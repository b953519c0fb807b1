//! Address spaces and their mappings (`include/linux/mm_types.h`, `mm/mmap.c`).

use crate::addr::Kva;
use crate::aio::{self, Ring};
use crate::context::Context;
use crate::dentry;
use crate::io_uring;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::paging::PageTables;
use crate::refusal::{Refusal, Result};
use crate::vma_flags as vm;
use alloc::vec::Vec;
use shared_region::context::{AddressSpace, Backing, Mapping};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// More mappings than `vm.max_map_count` is ever set to.
const MAX_MAPPINGS: u64 = 4 << 20;
/// Longest name of a mapping (`ANON_VMA_NAME_MAX_LEN` is 80).
const MAX_NAME: usize = 128;
/// `MMF_DUMPABLE_MASK`, and the dump filter behind it (`include/linux/sched/coredump.h`).
const DUMPABLE_MASK: u64 = 3;
const DUMP_FILTER_SHIFT: u32 = 2;
const DUMP_FILTER_MASK: u64 = 0x1FF;
/// `MMF_DISABLE_THP`.
const DISABLE_THP: u64 = 1 << 24;
/// `MMF_HAS_MDWE` (Linux 6.3, b507808ebce2); the bits above 27 were free before.
const HAS_MDWE: u64 = 1 << 28;
/// `MMF_HAS_UPROBES`.
const HAS_UPROBES: u64 = 1 << 19;
/// `AT_NULL`.
const AT_NULL: u64 = 0;
/// `PROT_READ` and `PROT_WRITE`.
const READ_AND_WRITE: u32 = 3;

crate::mirrors! {
    /// An address space.
    #[allow(missing_docs)]
    pub struct MmStruct = "mm_struct" {
        mm_mt: Field,
        pgd: Field,
        mm_users: Field = "mm_users.counter",
        def_flags: Field,
        start_code: Field,
        end_code: Field,
        start_data: Field,
        end_data: Field,
        start_brk: Field,
        brk: Field,
        start_stack: Field,
        arg_start: Field,
        arg_end: Field,
        env_start: Field,
        env_end: Field,
        saved_auxv: Field,
        flags: Field,
        ioctx_table: Option<Field> = "ioctx_table",
        exe_file: Field,
        notifier_subscriptions: Option<Field> = "notifier_subscriptions",
        hugetlb_usage: Option<Field> = "hugetlb_usage.counter",
        membarrier_state: Option<Field> = "membarrier_state.counter",
        ldt: Option<Field> = "context.ldt",
        vdso: Field = "context.vdso",
        vdso_image: Field = "context.vdso_image",
    }

    /// A mapping.
    #[allow(missing_docs)]
    pub struct VmArea = "vm_area_struct" {
        vm_start: Field,
        vm_end: Field,
        vm_mm: Field,
        vm_flags: Field,
        vm_ops: Field,
        vm_pgoff: Field,
        vm_file: Field,
        vm_private_data: Field,
        vm_policy: Option<Field> = "vm_policy",
        anon_name: Option<Field> = "anon_name",
        userfaultfd: Option<Field> = "vm_userfaultfd_ctx.ctx",
    }

    /// The name of a mapping.
    #[allow(missing_docs)]
    pub struct AnonVmaName = "anon_vma_name" {
        name: Field,
    }

    /// A mapping that the kernel makes by itself.
    #[allow(missing_docs)]
    pub struct VmSpecialMapping = "vm_special_mapping" {
        name: Field,
    }

    /// The vDSO.
    #[allow(missing_docs)]
    pub struct VdsoImage = "vdso_image" {
        data: Field,
        size: Field,
        sym_vvar_start: Option<Field> = "sym_vvar_start",
    }

    /// Who is told of changes to an address space. Declared in `mm/mmu_notifier.c`.
    #[allow(missing_docs)]
    pub struct MmuNotifiers = "mmu_notifier_subscriptions" {
        first: Field = "list.first",
    }
}

/// A mapping and what only this kernel knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// The record.
    pub mapping: Mapping,
    /// `vm_flags`.
    pub flags: u64,
    /// The open file it was made from, if any.
    pub file: Kva,
    /// The file's inode; null if it is a ring of io_uring.
    pub inode: Kva,
}

/// Everything about an address space but its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// The record.
    pub record: AddressSpace,
    /// Its page tables.
    pub tables: PageTables,
    /// Its mappings.
    pub areas: Vec<Area>,
    /// Contexts of asynchronous input and output, whose rings are not among the mappings.
    pub rings: Vec<Ring>,
    /// The executable's inode.
    pub exe_inode: Kva,
    /// The vDSO's code in the kernel; null if the process has none.
    pub vdso_code: Kva,
    /// `/proc/PID/coredump_filter`.
    pub coredump_filter: u32,
}

impl Space {
    /// Writes it and its mappings, without what lies in them.
    ///
    /// # Errors
    /// There is no room.
    pub fn write(&self, writer: &mut Writer<'_>, id: u64) -> Result<()> {
        writer.push(Kind::AddressSpace, 1, flags::MUST_UNDERSTAND, id, &self.record)?;
        for area in &self.areas {
            writer.push(Kind::Mapping, 1, flags::MUST_UNDERSTAND, id, &area.mapping)?;
        }
        self.rings.iter().try_for_each(|ring| ring.write(writer, id))
    }
}

/// The page tables of an address space.
///
/// # Errors
/// They cannot be found.
pub fn tables<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mm: Kva) -> Result<PageTables> {
    let kernel = context.kernel;
    let pgd = kernel.mem.ptr(mm, kernel.types.layouts.mm.pgd)?;
    Ok(PageTables {
        root: kernel.mem.translate(pgd)?,
        levels: kernel.prepared.space.tables.levels,
    })
}

/// Translates an address space.
///
/// # Errors
/// It uses what cannot be restored, or cannot be read.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mm: Kva) -> Result<Space> {
    let rings = aio::read(context, mm)?;
    Ok(Space {
        areas: areas(context, mm, &rings)?,
        rings,
        ..read_but_areas(context, mm)?
    })
}

/// As [`read`], without the mappings.
///
/// # Errors
/// As there.
pub fn read_but_areas<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mm: Kva) -> Result<Space> {
    let kernel = context.kernel;
    let layout = &kernel.types.layouts.mm;
    let mem = &kernel.mem;
    let flags = mem.uint(mm, layout.flags)?;
    check(context, mm, flags)?;

    let mut bounds = [0; 11];
    let fields = [
        layout.start_code,
        layout.end_code,
        layout.start_data,
        layout.end_data,
        layout.start_brk,
        layout.brk,
        layout.start_stack,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end,
    ];
    for (bound, field) in bounds.iter_mut().zip(fields) {
        *bound = mem.uint(mm, field)?;
    }

    let exe = mem.ptr(mm, layout.exe_file)?;
    let (exe_path, exe_inode) = if exe.is_null() {
        (dentry::Path::default(), Kva::NULL)
    } else {
        (
            dentry::of_file(context, exe)?,
            mem.ptr(exe, kernel.types.layouts.file.f_inode)?,
        )
    };
    let image = mem.ptr(mm, layout.vdso_image)?;
    let vvar_size = match kernel
        .types
        .layouts
        .vdso_image
        .sym_vvar_start
        .filter(|_| !image.is_null())
    {
        Some(field) => mem.int(image, field)?.unsigned_abs().min(1 << 20),
        None => 0,
    };
    let vdso_code = if image.is_null() {
        Kva::NULL
    } else {
        mem.ptr(image, kernel.types.layouts.vdso_image.data)?
    };
    Ok(Space {
        record: AddressSpace {
            bounds,
            auxv: auxv(context, mm)?,
            exe_inode: if exe_path.deleted { exe_inode.0 } else { 0 },
            exe: exe_path.bytes,
            vdso: mem.uint(mm, layout.vdso)?,
            vvar_size,
            dumpable: (flags & DUMPABLE_MASK) as u32,
            def_flags: vm::mlockall(mem.uint(mm, layout.def_flags)?),
            membarrier: membarrier(layout.membarrier_state.map_or(Ok(0), |field| mem.uint(mm, field))?),
            thp_disable: flags & DISABLE_THP != 0,
        },
        tables: tables(context, mm)?,
        areas: Vec::new(),
        rings: Vec::new(),
        exe_inode,
        vdso_code,
        coredump_filter: ((flags >> DUMP_FILTER_SHIFT) & DUMP_FILTER_MASK) as u32,
    })
}

/// Refuses what hangs on an address space and cannot be restored.
fn check<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mm: Kva, flags: u64) -> Result<()> {
    let kernel = context.kernel;
    let layout = &kernel.types.layouts.mm;
    let mem = &kernel.mem;
    let set = |field: Option<Field>| field.map_or(Ok(0), |field| mem.uint(mm, field));
    if flags & HAS_UPROBES != 0 {
        return Err(Refusal::new(reasons::UPROBES, ""));
    }
    if flags & HAS_MDWE != 0 {
        return Err(Refusal::new(reasons::UNKNOWN, "PR_SET_MDWE"));
    }
    if set(layout.hugetlb_usage)? != 0 {
        return Err(Refusal::new(reasons::HUGETLB, ""));
    }
    if set(layout.ldt)? != 0 {
        return Err(Refusal::new(reasons::LDT, ""));
    }
    // The module is one until the last page that a failover has brought is in (`active-hooks/kmod/lazy.c`).
    let notifiers = Kva(set(layout.notifier_subscriptions)?);
    if !notifiers.is_null() {
        let first = kernel.types.layouts.mmu_notifiers.as_ref().map(|layout| layout.first);
        if first.map_or(Ok(true), |first| {
            mem.ptr(notifiers, first).map(|first| !first.is_null())
        })? {
            return Err(Refusal::new(reasons::MEMORY_WATCHED, ""));
        }
    }
    Ok(())
}

/// `MEMBARRIER_CMD_REGISTER_*` for the bits of `membarrier_state` (`include/linux/sched/mm.h`).
fn membarrier(state: u64) -> u32 {
    const COMMANDS: [(u64, u32); 4] = [(1 << 1, 1 << 4), (1 << 3, 1 << 2), (1 << 5, 1 << 6), (1 << 7, 1 << 8)];
    COMMANDS
        .iter()
        .filter(|(bit, _)| state & bit != 0)
        .fold(0, |mask, (_, command)| mask | command)
}

/// The auxiliary vector up to and with AT_NULL.
fn auxv<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mm: Kva) -> Result<Vec<u64>> {
    let field = context.kernel.types.layouts.mm.saved_auxv;
    let bytes = context
        .kernel
        .mem
        .bytes(mm.offset(u64::from(field.offset)), field.size as usize)?;
    let (pairs, _) = bytes.as_chunks::<16>();
    let mut auxv = Vec::new();
    for pair in pairs {
        let (words, _) = pair.as_chunks::<8>();
        auxv.extend(words.iter().map(|&word| u64::from_le_bytes(word)));
        if words.first().is_some_and(|&kind| u64::from_le_bytes(kind) == AT_NULL) {
            break;
        }
    }
    Ok(auxv)
}

/// The mappings, ascending.
fn areas<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, mm: Kva, rings: &[Ring]) -> Result<Vec<Area>> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let tree = mm.offset(u64::from(layouts.mm.mm_mt.offset));
    let mut areas = Vec::new();
    for entry in kernel.maple(tree)?.bounded(MAX_MAPPINGS) {
        let entry = entry?;
        let at = Kva(entry.value);
        let start = kernel.mem.uint(at, layouts.vma.vm_start)?;
        let end = kernel.mem.uint(at, layouts.vma.vm_end)?;
        // Both hold unless the kernel died between the two updates of a split or merge.
        if start != entry.first || end != entry.last.wrapping_add(1) {
            return Err(Refusal::new(
                reasons::MAPPINGS_CHANGING,
                alloc::format!("{start:#x}-{end:#x}"),
            ));
        }
        if is_ring(context, at, (start, end), rings)? {
            continue;
        }
        let area = area(context, at, start, end)
            .map_err(|refusal| refusal.of(|| alloc::format!("mapping {start:#x}-{end:#x}")))?;
        areas.push(area);
    }
    Ok(areas)
}

/// Whether a mapping is the ring of a context of asynchronous input and output.
fn is_ring<M: PhysMem + ?Sized>(
    context: &Context<'_, '_, M>,
    at: Kva,
    (start, end): (u64, u64),
    rings: &[Ring],
) -> Result<bool> {
    let layout = &context.kernel.types.layouts.vma;
    let mem = &context.kernel.mem;
    if context.symbol(mem.ptr(at, layout.vm_ops)?).as_deref() != Some(aio::RING) {
        return Ok(false);
    }
    let whole =
        |ring: &Ring| (ring.record.address, ring.record.address.wrapping_add(ring.record.bytes)) == (start, end);
    let usual = vm::prot(mem.uint(at, layout.vm_flags)?) == READ_AND_WRITE;
    match rings.iter().any(whole) && usual {
        true => Ok(true),
        // A part of one, or that of the parent.
        false => Err(Refusal::new(
            reasons::AIO,
            alloc::format!("a ring at {start:#x} without its context"),
        )),
    }
}

/// One mapping.
fn area<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, at: Kva, start: u64, end: u64) -> Result<Area> {
    let kernel = context.kernel;
    let layouts = &kernel.types.layouts;
    let layout = &layouts.vma;
    let mem = &kernel.mem;
    let flags = mem.uint(at, layout.vm_flags)?;
    let file = mem.ptr(at, layout.vm_file)?;
    let ops = mem.ptr(at, layout.vm_ops)?;
    let userfaultfd = layout.userfaultfd.map(|field| mem.ptr(at, field)).transpose()?;
    if userfaultfd.is_some_and(|ctx| !ctx.is_null()) || flags & vm::UFFD != 0 {
        return Err(Refusal::new(reasons::USERFAULTFD, ""));
    }
    if flags & vm::HUGETLB != 0 {
        return Err(Refusal::new(reasons::HUGETLB, ""));
    }
    if layout
        .vm_policy
        .map(|field| mem.ptr(at, field))
        .transpose()?
        .is_some_and(|policy| !policy.is_null())
    {
        return Err(Refusal::new(reasons::MAPPING_POLICY, ""));
    }

    let ops_name = context.symbol(ops);
    let inode = if file.is_null() {
        Kva::NULL
    } else {
        mem.ptr(file, layouts.file.f_inode)?
    };
    let shared = flags & vm::SHARED != 0;
    let is_ring =
        !file.is_null() && context.symbol(mem.ptr(file, layouts.file.f_op)?).as_deref() == Some(io_uring::RING);
    let offset = mem.uint(at, layout.vm_pgoff)?.wrapping_shl(crate::addr::PAGE_SHIFT);
    let backing = match ops_name.as_deref() {
        _ if is_ring && !shared => return Err(Refusal::new(reasons::IO_URING, "a private mapping of a ring")),
        _ if is_ring => {
            io_uring::check_mapping(context, file, offset, end.wrapping_sub(start))?;
            Backing::IoUring
        }
        Some("special_mapping_vmops") => special(context, at)?,
        None if ops.is_null() => Backing::Anonymous,
        // One that is only read does not count as shared (VM_SHARED).
        Some("shm_vm_ops") if crate::inodes::is_anonymous_shmem(context, inode)? => Backing::SharedMemory,
        Some("shm_vm_ops") => return Err(Refusal::new(reasons::SYSV_SHM, "")),
        Some(name) if file.is_null() => return Err(Refusal::new(reasons::SPECIAL_MAPPING, name)),
        // File systems in modules have tables that are no symbols; the file decides.
        _ if !shared => Backing::FilePrivate,
        _ if crate::inodes::is_anonymous_shmem(context, inode)? => Backing::SharedMemory,
        _ => Backing::FileShared,
    };
    let kernels_own = matches!(backing, Backing::Vdso | Backing::Vvar);
    if flags & (vm::PFNMAP | vm::IO | vm::MIXEDMAP) != 0 && !kernels_own && !is_ring {
        return Err(Refusal::new(
            reasons::DEVICE_MEMORY,
            ops_name.as_deref().unwrap_or_default(),
        ));
    }
    if matches!(
        backing,
        Backing::FilePrivate | Backing::FileShared | Backing::SharedMemory
    ) {
        crate::inodes::check_mappable(context, inode)?;
    }
    let unusual = flags & !vm::KNOWN;
    if unusual != 0 {
        return Err(Refusal::new(
            reasons::SPECIAL_MAPPING,
            alloc::format!("flags {unusual:#x}"),
        ));
    }

    let writable_file = !file.is_null() && mem.uint(file, layouts.file.f_mode)? & crate::files::FMODE_WRITE != 0;
    let anonymous = backing == Backing::Anonymous;
    let named = layout.anon_name.filter(|_| anonymous && file.is_null());
    let name = match named
        .map(|field| mem.ptr(at, field))
        .transpose()?
        .filter(|name| !name.is_null())
    {
        Some(name) => {
            let offset = layouts.anon_vma_name.as_ref().map_or(0, |layout| layout.name.offset);
            mem.cstr(name.offset(u64::from(offset)), MAX_NAME)?
        }
        None => Vec::new(),
    };
    let in_file = !matches!(backing, Backing::Anonymous | Backing::Vdso | Backing::Vvar);
    let mapping = Mapping {
        start,
        end,
        prot: vm::prot(flags),
        backing,
        offset: if in_file { offset } else { 0 },
        inode: match backing {
            Backing::IoUring => file.0,
            _ if in_file => inode.0,
            _ => 0,
        },
        writable_file,
        map_flags: vm::map_flags(flags),
        advice: if kernels_own { Vec::new() } else { vm::advice(flags) },
        name,
        lock_on_fault: flags & vm::LOCKONFAULT != 0,
        pkey: vm::pkey(flags),
        unusual,
    };
    Ok(Area {
        mapping,
        flags,
        file: if in_file { file } else { Kva::NULL },
        inode: if in_file && !is_ring { inode } else { Kva::NULL },
    })
}

/// What a special mapping is, by its name.
fn special<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, at: Kva) -> Result<Backing> {
    let kernel = context.kernel;
    let data = kernel.mem.ptr(at, kernel.types.layouts.vma.vm_private_data)?;
    let name = kernel.mem.cstr(
        kernel.mem.ptr(data, kernel.types.layouts.vm_special_mapping.name)?,
        MAX_NAME,
    )?;
    match name.as_slice() {
        b"[vdso]" => Ok(Backing::Vdso),
        // The clock pages of hypervisors have been a mapping of their own since Linux 6.13 (e93d2521b27f).
        b"[vvar]" | b"[vvar_vclock]" => Ok(Backing::Vvar),
        b"[uprobes]" => Err(Refusal::new(reasons::UPROBES, "")),
        other => Err(Refusal::new(
            reasons::SPECIAL_MAPPING,
            alloc::string::String::from_utf8_lossy(other),
        )),
    }
}
