//! The structures of XFS, by its own BTF.

use crate::mirror::Field;

crate::mirrors! {
    /// A mounted XFS.
    #[allow(missing_docs)]
    pub struct XfsMount = "xfs_mount" {
        // A radix tree up to Linux 6.11, then an array (32fa4059fe67); both are read alike.
        groups: Field = "m_perags" | "m_perag_tree",
        sb_rootino: Field = "m_sb.sb_rootino",
        sb_agblocks: Field = "m_sb.sb_agblocks",
        sb_agblklog: Field = "m_sb.sb_agblklog",
        sb_blocklog: Field = "m_sb.sb_blocklog",
    }

    /// An allocation group.
    #[allow(missing_docs)]
    pub struct XfsGroup = "xfs_perag" {
        pag_ici_root: Field,
        // In a structure of its own from Linux 6.9 on (e7b58f7c1be2).
        buffers: Field = "pag_bcache.bc_hash.tbl" | "pag_buf_hash.tbl",
    }

    /// Blocks of the file system.
    #[allow(missing_docs)]
    pub struct XfsBuffer = "xfs_buf" {
        b_rhash_head: Field = "b_rhash_head.next",
        b_rhash_key: Field,
        b_length: Field,
        b_addr: Field,
    }

    /// A hash table.
    #[allow(missing_docs)]
    pub struct BucketTable = "bucket_table" {
        size: Field,
        nest: Field,
        future_tbl: Field,
        buckets: Field,
    }

    /// An inode.
    #[allow(missing_docs)]
    pub struct XfsInode = "xfs_inode" {
        i_vnode: Field,
        i_pincount: Field = "i_pincount.counter",
        // A semaphore of XFS's own around it up to Linux 6.8 (3fed24fffc76).
        i_lock: Field = "i_lock.count.counter" | "i_lock.mr_lock.count.counter",
        i_disk_size: Field,
        i_diflags: Field,
        i_forkoff: Field,
        // A union with a name up to Linux 6.8 (6e145f943bd8).
        df_data: Field = "i_df.if_data" | "i_df.if_u1.if_data",
        df_bytes: Field = "i_df.if_bytes",
        df_height: Field = "i_df.if_height",
        df_format: Field = "i_df.if_format",
        af_data: Field = "i_af.if_data" | "i_af.if_u1.if_data",
        af_bytes: Field = "i_af.if_bytes",
        af_height: Field = "i_af.if_height",
        af_format: Field = "i_af.if_format",
    }
}

crate::mirror_set! {
    /// The mirrors of XFS.
    pub struct Layouts {
        /// `struct xfs_mount`.
        mount: XfsMount,
        /// `struct xfs_perag`.
        group: XfsGroup,
        /// `struct xfs_inode`.
        inode: XfsInode,
        /// `struct xfs_buf`.
        buffer: XfsBuffer,
        /// `struct bucket_table`.
        table: BucketTable,
    }
}

/// Where an inode says what one of its parts holds.
pub(super) struct Fork {
    pub data: Field,
    pub bytes: Field,
    pub height: Field,
    pub format: Field,
}

impl XfsInode {
    /// The content.
    pub(super) const fn data(&self) -> Fork {
        Fork {
            data: self.df_data,
            bytes: self.df_bytes,
            height: self.df_height,
            format: self.df_format,
        }
    }

    /// Extended attributes.
    pub(super) const fn attributes(&self) -> Fork {
        Fork {
            data: self.af_data,
            bytes: self.af_bytes,
            height: self.af_height,
            format: self.af_format,
        }
    }
}
