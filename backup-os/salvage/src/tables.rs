//! Constants of the kernel's layout that are not in BTF: macros and numbers of its headers, with their source. What
//! differs between kernels is told apart by BTF where it is used, never by a version number.

use crate::addr::Kva;

/// Where the kernel image's mapping begins (`__START_KERNEL_map`, `arch/x86/include/asm/page_64_types.h`).
pub const START_KERNEL_MAP: Kva = Kva(0xFFFF_FFFF_8000_0000);

/// Low bits of an xarray entry that is no pointer to an object: `xa_is_internal` (`include/linux/xarray.h`).
pub const XA_INTERNAL: u64 = 2;
/// Highest value of an internal entry that is not a node (`xa_is_node`: `entry > 4096`).
pub const XA_NODE_MIN: u64 = 4096;
/// Sibling entries are internal entries below this number (`xa_is_sibling`: `XA_CHUNK_SIZE - 1`).
pub const XA_SIBLING_END: u64 = 63;
/// log2 of the slots of a node (`XA_CHUNK_SHIFT`, 6 unless `CONFIG_BASE_SMALL`); BTF's array length is checked against it.
pub const XA_CHUNK_SHIFT: u32 = 6;
/// `__GFP_BITS_SHIFT` of kernels in which it is a macro (`include/linux/gfp_types.h`; 28 with `CONFIG_LOCKDEP`).
pub const GFP_BITS_SHIFT: u32 = 27;
/// Marks of the page cache (`include/linux/fs.h`): dirty.
pub const PAGECACHE_TAG_DIRTY: u8 = 0;
/// Marks of the page cache: under writeback.
pub const PAGECACHE_TAG_WRITEBACK: u8 = 1;
/// Marks of the page cache: to be written by the sync under way.
pub const PAGECACHE_TAG_TOWRITE: u8 = 2;

/// Maple tree: bits of an encoded node pointer that are no address (`MAPLE_NODE_MASK`, `include/linux/maple_tree.h`).
pub const MAPLE_NODE_MASK: u64 = 0xFF;
/// Where the node type stands in an encoded pointer (`MAPLE_ENODE_TYPE_SHIFT`).
pub const MAPLE_TYPE_SHIFT: u32 = 3;
/// Bits of the node type (`MAPLE_ENODE_TYPE_MASK`).
pub const MAPLE_TYPE_MASK: u64 = 0xF;
/// Bit of `maple_node.parent` that marks the root (`MA_ROOT_PARENT`).
pub const MAPLE_ROOT_PARENT: u64 = 1;

/// Colour bits of `rb_node.__rb_parent_color` (`include/linux/rbtree.h`).
pub const RB_COLOR_MASK: u64 = 3;

/// CPUs no kernel has more of (`NR_CPUS_RANGE_END` is 8192, `arch/x86/Kconfig`).
pub const MAX_CPUS: u32 = 8192;
/// Where `struct timekeeper` stands in the unnamed structure `tk_core`, behind its sequence counter and aligned to 8
/// bytes (`kernel/time/timekeeping.c`).
pub const TK_CORE_TIMEKEEPER: u64 = 8;
/// Bytes of a kernel stack (`arch/x86/include/asm/page_64_types.h`, without KASAN).
pub const THREAD_SIZE: u64 = 16 << 10;
