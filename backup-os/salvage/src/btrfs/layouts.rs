//! The structures of btrfs, by its own BTF.

use crate::mirror::Field;

crate::mirrors! {
    /// A mounted btrfs.
    #[allow(missing_docs)]
    pub struct FsInfo = "btrfs_fs_info" {
        fs_roots_radix: Field,
        last_trans_committed: Field,
        buffer_radix: Field,
        nodesize: Field,
        sectorsize_bits: Field,
        fs_devices: Field,
        // A tree of its own kind up to Linux 6.8 (7dc66abb5a47), around a plain one.
        mapping_tree: Field = "mapping_tree.map" | "mapping_tree",
    }

    /// The devices of a file system.
    #[allow(missing_docs)]
    pub struct FsDevices = "btrfs_fs_devices" {
        latest_dev: Field,
        num_devices: Field,
    }

    /// One of them.
    #[allow(missing_docs)]
    pub struct Device = "btrfs_device" {
        name: Field,
    }

    /// A chunk: what the file system counts on its own, and where it lies.
    #[allow(missing_docs)]
    pub struct ChunkMap = "btrfs_chunk_map" {
        rb_node: Field,
        start: Field,
        bytes: Field = "chunk_len",
        kind: Field = "type",
        num_stripes: Field,
        stripes: Field,
    }

    /// The first half of the same up to Linux 6.8.
    #[allow(missing_docs)]
    pub struct ExtentMap = "extent_map" {
        rb_node: Field,
        start: Field,
        bytes: Option<Field> = "len",
        map_lookup: Option<Field>,
    }

    /// The second half.
    #[allow(missing_docs)]
    pub struct MapLookup = "map_lookup" {
        kind: Field = "type",
        num_stripes: Field,
        stripes: Field,
    }

    /// A piece of a chunk on one device.
    #[allow(missing_docs)]
    pub struct Stripe = "btrfs_io_stripe" {
        dev: Field,
        physical: Field,
    }

    /// A string that is freed later.
    #[allow(missing_docs)]
    pub struct RcuString = "rcu_string" {
        text: Field = "str",
    }

    /// A tree: of a subvolume, or another.
    #[allow(missing_docs)]
    pub struct Root = "btrfs_root" {
        node: Field,
        objectid: Field = "root_key.objectid",
        anon_dev: Field,
        last_trans: Field,
        refs: Field = "root_item.refs",
        // A radix tree up to Linux 6.7 (6140ba8a0a14), then an array; both are read alike.
        delayed_nodes: Field = "delayed_nodes" | "delayed_nodes_tree",
    }

    /// A block of a tree.
    #[allow(missing_docs)]
    pub struct ExtentBuffer = "extent_buffer" {
        start: Field,
        bflags: Field,
        lock: Field = "lock.count.counter",
        // Pages in 6.1, in 6.12 folios of one page.
        pages: Field = "folios" | "pages",
    }

    /// An inode.
    #[allow(missing_docs)]
    pub struct BtrfsInode = "btrfs_inode" {
        vfs_inode: Field,
        root: Field,
        last_trans: Field,
        disk_i_size: Field,
        // In a structure of its own in 6.1, not in 6.12.
        ordered_tree: Field = "ordered_tree.tree" | "ordered_tree",
    }

    /// Data on its way to the disk, until the tree has its extent.
    #[allow(missing_docs)]
    pub struct OrderedExtent = "btrfs_ordered_extent" {
        file_offset: Field,
        num_bytes: Field,
        disk_bytenr: Field,
        offset: Field,
        truncated_len: Field,
        flags: Field,
        rb_node: Field,
    }

    /// What is to be done to an inode's items.
    #[allow(missing_docs)]
    pub struct DelayedNode = "btrfs_delayed_node" {
        inode_item: Field,
        flags: Field,
    }
}

crate::constants! {
    /// Bits of `extent_buffer.bflags`.
    pub struct BufferBits {
        /// Contents are valid.
        uptodate: u32 = "EXTENT_BUFFER_UPTODATE",
    }

    /// Bits of `btrfs_ordered_extent.flags`.
    pub struct OrderedBits {
        /// Written in place, and nothing about it changes.
        nocow: u32 = "BTRFS_ORDERED_NOCOW",
        /// Compressed.
        compressed: u32 = "BTRFS_ORDERED_COMPRESSED",
        /// Without the page cache.
        direct: u32 = "BTRFS_ORDERED_DIRECT",
        /// All of it is on the disk.
        io_done: u32 = "BTRFS_ORDERED_IO_DONE",
        /// It could not be written.
        ioerr: u32 = "BTRFS_ORDERED_IOERR",
        /// The file was made shorter meanwhile.
        truncated: u32 = "BTRFS_ORDERED_TRUNCATED",
        /// Given by its writer as it is to be on the disk.
        encoded: u32 = "BTRFS_ORDERED_ENCODED",
    }
}

crate::mirror_set! {
    /// The mirrors of btrfs.
    pub struct Layouts {
        /// `struct btrfs_fs_info`.
        info: FsInfo,
        /// `struct btrfs_fs_devices`.
        devices: FsDevices,
        /// `struct btrfs_device`.
        device: Device,
        /// `struct btrfs_chunk_map`.
        chunk_map: Option<ChunkMap>,
        /// `struct extent_map`.
        extent_map: ExtentMap,
        /// `struct map_lookup`.
        map_lookup: Option<MapLookup>,
        /// `struct btrfs_io_stripe`.
        stripe: Stripe,
        /// `struct rcu_string`.
        string: RcuString,
        /// `struct btrfs_root`.
        root: Root,
        /// `struct extent_buffer`.
        buffer: ExtentBuffer,
        /// Its state.
        buffer_bits: BufferBits,
        /// `struct btrfs_inode`.
        inode: BtrfsInode,
        /// `struct btrfs_ordered_extent`.
        ordered: OrderedExtent,
        /// Its state.
        ordered_bits: OrderedBits,
        /// `struct btrfs_delayed_node`.
        delayed: DelayedNode,
    }
}
